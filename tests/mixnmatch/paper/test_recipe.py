"""The published recipe of MixNMatch: one step, both stages, presets, a whole run."""

import copy
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from mixnmatch.paper import discriminators as critics_module
from mixnmatch.paper.config import TrainConfig
from mixnmatch.paper.encoders import CODES
from mixnmatch.paper.losses import (
    background_cells,
)
from mixnmatch.paper.presets import CARS, CUB, DOGS
from mixnmatch.paper.recipe import Recipe
from tests.mixnmatch.paper.tiny import TINY, photos, seeded
from training.checkpoint import load_generator
from training.loop.step import train_step
from training.loop.train import train
from training.pictures import to_pil
from training.types import Batch, Phase, Step

TINY_RUN = replace(
    CUB,
    generator=TINY,
    discriminator_width=2,
    pair_width=1,
    feature_discriminator_width=2,
    first_stage=8,
    loop=replace(CUB.loop, batch=4, images=16, grid_every=16, save_every=8, log_every=1),
)


def step_at(images: int, seed: int = 0) -> Step:
    return Step(index=images // 4, images=images, rng=seeded(seed))


@pytest.fixture
def recipe() -> Recipe:
    torch.manual_seed(0)
    return Recipe(TINY_RUN, torch.device("cpu"))


@pytest.fixture
def batch() -> Batch:
    box = torch.tensor([[0.2, 0.3, 0.6, 0.7], [0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 1.0, 1.0], [0.4, 0.1, 0.5, 0.3]])
    return Batch(image=photos(seed=1), scene=photos(seed=2), box=box, scene_box=box)


# One step of the published recipe


def bce(probability: Tensor, target: float) -> Tensor:
    return nn.BCELoss()(probability, torch.full_like(probability, target))


def published_losses(recipe: Recipe, name: str, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """The published sums, written out with sigmoids and binary cross entropies as the paper has them."""
    first, weights = recipe.first, recipe.config.losses
    y, x, G = first.codes, batch.image, recipe.generator
    layers = first.fake.layers
    D_b, D_c = recipe.background_discriminator, recipe.child_discriminator
    free = G.sample(len(x), rng, tied=False)  # used by the generator's losses only
    critics = recipe.pair_critics
    of_read = torch.stack([critics[k](x, first.read[k], rng).mean() for k in CODES]).sum()
    of_painted = torch.stack([critics[k](layers.image, getattr(y, k), rng).mean() for k in CODES]).sum()
    if name == "background_discriminator":
        assert batch.scene is not None and batch.scene_box is not None
        w = background_cells(batch.scene_box)
        rf, background = (logits.sigmoid() for logits in D_b(batch.scene))
        fake = D_b(layers.background)[0].sigmoid()
        real = (nn.BCELoss(reduction="none")(rf, torch.ones_like(rf)) * w).mean() * w.numel() / w.sum()
        return {"real": 10 * (real + bce(fake, 0)), "background": nn.BCELoss()(background, w)}
    if name == "child_discriminator":
        return {
            "real": bce(D_c.realness(x).sigmoid(), 1),
            "fake": bce(D_c.realness(layers.image).sigmoid(), 0),
        }
    if name == "pair_critics":
        return {"read": -of_read, "fake": of_painted}
    rf, background = (logits.sigmoid() for logits in D_b(layers.background))
    read = {k: G.encoders(G(free).image, k) for k in CODES}
    masked = first.fake.parent_foreground * layers.parent_mask, first.fake.child_foreground * layers.child_mask
    entropy = nn.CrossEntropyLoss()
    assert (weights.z, weights.b, weights.p, weights.c) == (5, 5, 10, 10)
    return {
        "shape": entropy(recipe.parent_discriminator(masked[0]), y.p.argmax(1)),
        "texture": entropy(D_c(masked[1]), y.c.argmax(1)),
        "background_real": 10 * bce(rf, 1),
        "background_class": bce(background, 1),
        "image_real": bce(D_c.realness(layers.image).sigmoid(), 1),
        "pairs_read": of_read,
        "pairs_fake": -of_painted,
        "code_z": 5 * nn.L1Loss()(read["z"], free.z),
        "code_b": 5 * entropy(read["b"], free.b.argmax(1)),
        "code_p": 10 * entropy(read["p"], free.p.argmax(1)),
        "code_c": 10 * entropy(read["c"], free.c.argmax(1)),
    }


LEARNING = {
    "background_discriminator": ("background_discriminator.",),
    "child_discriminator": ("child_discriminator.trunk", "child_discriminator.real"),
    "pair_critics": ("pair_critics.",),
    "generator": (
        *(f"generator.{part}" for part in ("background", "parent", "child", "encoders")),
        "parent_discriminator.",
        "child_discriminator.code",
    ),
    "feature_discriminator": ("feature_discriminator.",),
    "extractor": ("generator.extractor",),
}


def weights_of(recipe: Recipe) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in recipe.networks.named_parameters()}


def assert_only_its_network_learned(recipe: Recipe, phase: Phase, before: dict[str, Tensor]) -> None:
    after = weights_of(recipe)
    for name in before:
        if phase.name == "pair_critics" and name.endswith("joint.2.bias"):
            continue  # adds the same to both sides of a Wasserstein loss
        learns = name.startswith(LEARNING[phase.name])
        assert torch.equal(before[name], after[name]) != learns, f"{phase.name} and {name}"


def test_one_step_has_the_published_losses_and_each_phase_its_network(
    recipe: Recipe, batch: Batch, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(critics_module.PairCritic, "NOISE", (0.0, 0.0, 0.0))
    step = step_at(0)
    recipe.begin(batch, step)
    assert torch.equal(recipe.first.codes.b, recipe.first.codes.c)
    names = []
    for phase in recipe.phases():
        if not phase.due(step):
            continue
        names.append(phase.name)
        same = seeded()
        same.set_state(step.rng.get_state())
        with torch.no_grad():
            wanted = published_losses(recipe, phase.name, batch, same)
        before = weights_of(recipe)
        logged = train_step([phase], batch, step)
        for name, value in wanted.items():
            torch.testing.assert_close(logged[f"{phase.name}/{name}"], value, rtol=1e-4, atol=1e-5)
        assert set(logged) == {f"{phase.name}/{name}" for name in wanted} | (
            {"pair_critics/penalty"} if phase.name == "pair_critics" else set()
        )
        assert_only_its_network_learned(recipe, phase, before)
    assert names == ["background_discriminator", "child_discriminator", "pair_critics", "generator"]


def run_step(recipe: Recipe, batch: Batch, step: Step) -> dict[str, Tensor]:
    recipe.begin(batch, step)
    return train_step(recipe.phases(), batch, step)


def test_a_set_without_boxes_trains(recipe: Recipe):
    logged = run_step(recipe, Batch(image=photos()), step_at(0))
    assert all(bool(value.isfinite()) for value in logged.values())
    assert not any(name.endswith("skipped") for name in logged)
    assert "background_discriminator/real" in logged


def test_free_codes_take_part_after_the_warm_up_only(batch: Batch):
    config = replace(TINY_RUN, free_share=1.0, free_start=100, free_full=200, first_stage=1000)
    recipe = Recipe(config, torch.device("cpu"))
    published = Recipe(replace(config, free_share=0.0), torch.device("cpu"))

    def tied(recipe: Recipe, images: int) -> int:
        rows = 0
        for seed in range(16):
            codes = recipe._first_codes(4, step_at(images, seed))
            rows += int((codes.b == codes.c).all(1).sum())
        return rows

    assert tied(recipe, 100) == 64
    assert 20 < tied(recipe, 150) < 55  # half of the rows, and a sixth of the others by chance
    assert tied(recipe, 200) < 30
    assert tied(published, 500) == 64


def test_the_second_stage_learns_features_and_nothing_else(recipe: Recipe, batch: Batch):
    for seed in range(3):  # so that the norms have seen pictures
        run_step(recipe, batch, step_at(0, seed))
    step = step_at(8)
    names = []
    for phase in recipe.phases():
        if not phase.due(step):
            continue
        recipe.begin(batch, step)
        frozen = {name: tensor.clone() for name, tensor in recipe.generator.state_dict().items()}
        before = weights_of(recipe)
        second = recipe.second
        if phase.name == "feature_discriminator":
            wanted = {
                "fake": bce(recipe.feature_discriminator(second.feature).sigmoid(), 1),
                "read": bce(recipe.feature_discriminator(second.read).sigmoid(), 0),
            }
        else:
            assert recipe.generator.extractor is not None
            twin = copy.deepcopy(recipe.generator.extractor)
            wanted = {
                "real": bce(recipe.feature_discriminator(second.read).sigmoid(), 1),
                "feature": (twin(second.image) - second.feature).abs().mean(),
            }
        logged = train_step([phase], batch, step)
        names.append(phase.name)
        for name, value in wanted.items():
            torch.testing.assert_close(logged[f"{phase.name}/{name}"], value.detach(), rtol=1e-4, atol=1e-6)
        assert_only_its_network_learned(recipe, phase, before)
        for name, tensor in recipe.generator.state_dict().items():
            assert name.startswith("extractor.") or torch.equal(tensor, frozen[name]), name  # norms stand still too
    assert names == ["feature_discriminator", "extractor"]


def test_some_batches_of_the_second_stage_have_soft_shapes(recipe: Recipe):
    soft = [bool((recipe._second_codes(4, step_at(8, seed)).p.max(1).values < 1).all()) for seed in range(200)]
    assert 20 <= sum(soft) <= 60  # a fifth
    codes = recipe._second_codes(64, step_at(8, soft.index(True)))
    torch.testing.assert_close(codes.p.sum(1), torch.ones(64))
    assert not torch.equal(codes.b, codes.c)


def test_the_second_stage_goes_on_from_the_average(recipe: Recipe, batch: Batch):
    run_step(recipe, batch, step_at(0))
    recipe.average = copy.deepcopy(recipe.generator)
    for parameter in recipe.average.parameters():
        parameter.data.mul_(0.5)
    recipe.begin(batch, step_at(8))
    for ours, theirs in zip(recipe.generator.parameters(), recipe.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for parameter in recipe.average.parameters():
        parameter.data.mul_(0.5)
    recipe.begin(batch, step_at(12))  # only at its first step
    name = "encoders.model_z.4.weight"
    assert not torch.equal(recipe.generator.get_parameter(name), recipe.average.get_parameter(name))


def test_the_optimisers_are_the_published_ones(recipe: Recipe):
    for phase in recipe.phases():
        assert isinstance(phase.optimizer, torch.optim.Adam)
        assert phase.optimizer.defaults["betas"] == (0.5, 0.999)
        assert phase.optimizer.defaults["lr"] == (2e-5 if phase.name == "feature_discriminator" else 2e-4)
        learned = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
        assert learned == {id(p) for p in phase.network.parameters()}


def test_first_weights_are_orthogonal_but_for_the_pair_critics(recipe: Recipe):
    weight = recipe.generator.get_parameter("encoders.model_p.1.0.weight").flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), rtol=1e-4, atol=1e-5)
    norms = torch.cat([m.weight for m in recipe.generator.modules() if isinstance(m, nn.BatchNorm1d)])
    assert 0.015 < norms.std().item() < 0.025
    weight = recipe.pair_critics.get_parameter("z.code.1.weight")
    assert (weight @ weight.T - torch.eye(len(weight))).abs().max() > 0.1


def test_the_extractor_learns_to_read_features(batch: Batch):
    torch.manual_seed(0)
    config = replace(TINY_RUN, generator=replace(TINY, extractor_width=4), learning_rate=5e-3)
    recipe = Recipe(config, torch.device("cpu"))
    losses = []
    for _ in range(6):
        losses.append(run_step(recipe, batch, step_at(8))["extractor/feature"].item())
    assert losses[-1] < 0.85 * losses[0]


def test_grids_are_rows_of_eight(recipe: Recipe, batch: Batch):
    for name, pictures in recipe.grids(recipe.generator.eval(), batch).items():
        assert pictures.shape[0] % 8 == 0, name
        assert pictures.shape[1:] == (3, 128, 128)


# Presets and the run as a whole


def test_presets_have_the_published_schedule():
    assert CUB.loop.batch == 12
    assert CUB.first_stage == 600 * 982 * 12
    assert CUB.loop.images == 1000 * 982 * 12
    assert 0.5 ** (12 / CUB.loop.half_life) == pytest.approx(0.999, abs=1e-6)
    assert (DOGS.generator.n_shapes, DOGS.generator.n_textures, DOGS.generator.n_backgrounds) == (12, 120, 120)
    assert (CARS.generator.n_shapes, CARS.generator.n_textures, CARS.generator.n_backgrounds) == (20, 196, 196)
    for preset in (CUB, DOGS, CARS):
        adapter = TypeAdapter(TrainConfig)
        assert adapter.validate_json(adapter.dump_json(preset)) == preset
        assert preset.free_share == 0


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="free_share is 2"):
        replace(CUB, free_share=2)
    with pytest.raises(ValueError, match=r"data\.size is 64"):
        replace(CUB, data=replace(CUB.data, size=64))
    with pytest.raises(ValueError, match="box_where_unknown"):
        replace(CUB, box_where_unknown=(0.5, 0.5, 0.4, 0.6))


def prepared(folder, n: int = 5):
    (folder / "images").mkdir(parents=True)
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    for i, picture in enumerate(to_pil(photos(n))):
        picture.save(folder / "images" / f"{i}.png")
        lines.append(f"{i}.png,train,a,128,128,30,40,90,100")
    (folder / "index.csv").write_text("\n".join(lines))
    return folder


def test_a_run_over_both_stages_resumes_to_the_same_weights(tmp_path):
    data = prepared(tmp_path / "data")
    whole = load_generator(train(TINY_RUN, data, tmp_path / "whole", device="cpu"))
    for images in (8, 16):  # stops where the second stage begins
        part = replace(TINY_RUN, loop=replace(TINY_RUN.loop, images=images))
        path = train(part, data, tmp_path / "parts", device="cpu")
    resumed = load_generator(path)
    for (name, ours), theirs in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    codes = resumed.sample(1, seeded())
    with torch.no_grad():
        assert torch.equal(whole(codes).image, resumed(codes).image)
