"""Losses, phases and presets of the published GIRAFFE HD."""

from dataclasses import replace

import pytest
import torch

from giraffe_hd.giraffe2021.config import TrainConfig as GiraffeTrainConfig
from giraffe_hd.giraffe2021.presets import CHAIRS_64
from giraffe_hd.giraffe2021.recipe import Recipe as GiraffeRecipe
from giraffe_hd.paper.config import TrainConfig, VolumeConfig
from giraffe_hd.paper.losses import bbox_containment, coverage
from giraffe_hd.paper.presets import CELEBA_256, COMPCAR_256, SETS, SIZES, train_config
from giraffe_hd.paper.recipe import Recipe
from tests.giraffe_hd.paper.tiny import TINY, TINY_GIRAFFE
from training.config import DataConfig, LoopConfig
from training.loop.step import train_step
from training.registry import preset, presets
from training.types import Batch, Step

# -- losses and learning -----------------------------------------------------------------------------------------------


def test_losses_by_hand():
    mask = torch.tensor([[[[0.0, 0.5], [1.0, 0.1]]]])
    box = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    assert float(bbox_containment(mask, box)) == pytest.approx((0 + 0.25 + 1 + 0.1) / 4)
    assert float(coverage(mask, 0.3)) == 0
    assert float(coverage(mask, 0.5)) == pytest.approx(0.1)
    both = torch.cat([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)])
    assert float(coverage(both, 0.5)) == 0  # over the batch: one full picture makes up for an empty one


TRAIN = TrainConfig(
    generator=replace(TINY, resolution=8, volume=VolumeConfig(resolution=4, n_samples=32)),
    data=DataConfig(size=8),
    loop=LoopConfig(batch=4, bf16=False),
    bbox=2.0,
    cvg=3.0,
    min_ratio=0.9,
    bin=5.0,
)


def a_step(index: int = 0, images: int = 0) -> Step:
    return Step(index=index, images=images, rng=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch(image=torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)


@pytest.mark.parametrize("images", [0, 80_000, 500_000])
def test_one_step_gives_the_published_losses(batch, images):
    """Each term on fixed inputs and weights, from the formulas of the paper."""
    torch.manual_seed(0)
    recipe = Recipe(TRAIN, torch.device("cpu"))
    generator, discriminator = recipe.generator, recipe.discriminator
    terms = recipe.generator_losses(batch, a_step(images=images))
    step = a_step(images=images)
    codes = generator.sample(4, step.rng)
    layers = generator(codes, rng=step.rng)
    m = layers.mask
    B = generator.box_silhouette(codes, pad=0.1 * min(1.0, images / 160_000))
    wanted = {
        "adversarial": torch.log1p(torch.exp(-discriminator(layers.image))).mean(),
        "bbox": 2 * ((1 - B) * m).mean(),
        "cvg": 3 * (0.9 - m.mean()).clamp_min(0),
        "bin": 5 * torch.minimum(m, 1 - m).mean(),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value)

    terms = recipe.discriminator_losses(batch, a_step(images=images))
    real, fake = discriminator(batch.image), discriminator(layers.image)
    torch.testing.assert_close(
        terms["adversarial"], torch.log1p(torch.exp(-real)).mean() + torch.log1p(torch.exp(fake)).mean()
    )
    image = batch.image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(image).sum(), image)
    penalty = gradient.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(recipe.r1_losses(batch, a_step())["r1"], 10 / 2 * penalty)


def test_phases_are_the_published_schedule():
    recipe = Recipe(TRAIN, torch.device("cpu"))
    d, r1, g = recipe.phases()
    assert (d.name, r1.name, g.name, r1.every) == ("D", "R1", "G", 16)
    assert r1.optimizer is d.optimizer
    assert r1.due(a_step(0)) and not r1.due(a_step(1)) and r1.due(a_step(16))
    for phase in (d, g):
        group = phase.optimizer.param_groups[0]
        assert (group["lr"], group["betas"]) == (5e-4, (0.0, 0.99))


def test_training_moves_both_networks(batch):
    torch.manual_seed(0)
    recipe = Recipe(TRAIN, torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    phases = recipe.phases()
    before = {name: p.clone() for name, p in recipe.networks.named_parameters()}
    logged = train_step(phases, batch, a_step())
    assert set(logged) == {"D/adversarial", "R1/r1", "G/adversarial", "G/bbox", "G/cvg", "G/bin"}
    assert all(bool(torch.isfinite(value)) for value in logged.values())
    still = {name for name, p in recipe.networks.named_parameters() if torch.equal(before[name], p)}
    unused = {f"generator.{f}_field.fc_view.{p}" for f in ("object", "background") for p in ("weight", "bias")}
    assert unused <= still  # view directions are off
    assert len(still) < 0.2 * len(before), still
    shown = recipe.grids(recipe.generator.eval(), batch)
    assert {name: len(pictures) % 8 for name, pictures in shown.items()} == {"samples": 0, "turn": 0, "layers": 0}


def test_the_discriminator_learns_four_pictures(batch):
    torch.manual_seed(0)
    recipe = Recipe(TRAIN, torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    d = recipe.phases()[:1]
    losses = [float(train_step(d, batch, a_step(i + 1))["D/adversarial"]) for i in range(6)]
    assert losses[-1] < 0.6 * losses[0]


def test_bfloat16_stays_near_float32(batch):
    torch.manual_seed(0)
    recipe = Recipe(TRAIN, torch.device("cpu"))
    exact = {name: value.detach() for name, value in recipe.generator_losses(batch, a_step()).items()}
    recipe.config = replace(TRAIN, loop=LoopConfig(batch=4, bf16=True))
    recipe.generator.precision = torch.bfloat16
    for name, value in recipe.generator_losses(batch, a_step()).items():
        assert value.dtype == torch.float32
        assert float(value.detach()) == pytest.approx(float(exact[name]), rel=0.05, abs=0.02)


def test_giraffe_learns_by_its_own_rules():
    torch.manual_seed(0)
    config = GiraffeTrainConfig(
        generator=replace(TINY_GIRAFFE, resolution=32),
        data=DataConfig(size=32),
        loop=LoopConfig(batch=3, bf16=False),
    )
    batch = Batch(image=torch.rand(3, 3, 32, 32) * 2 - 1)
    recipe = GiraffeRecipe(config, torch.device("cpu"))
    terms = recipe.discriminator_losses(batch, a_step())
    unit = ((batch.image + 1) / 2).requires_grad_()  # the authors' pictures lie in [0, 1]
    (gradient,) = torch.autograd.grad(recipe.discriminator(2 * unit - 1).sum(), unit)
    torch.testing.assert_close(terms["r1"], 10 * gradient.square().sum((1, 2, 3)).mean())
    recipe.networks.requires_grad_(False)
    logged = train_step(recipe.phases(), batch, a_step())
    assert list(logged) == ["G/adversarial", "D/adversarial", "D/r1"]
    assert all(bool(torch.isfinite(value)) for value in logged.values())
    assert len(recipe.grids(recipe.generator.eval(), batch)["samples"]) == 32


# -- presets -----------------------------------------------------------------------------------------------------------


def test_sets_are_the_published_ones():
    weights = {name: (c.cvg, c.bbox, c.bin, c.min_ratio) for name, c in SETS.items()}
    assert weights == {name: (14, 12 if name == "afhq" else 14, 4, 0.3) for name in SETS}
    mixing = {name: c.generator.mix_prob for name, c in SETS.items()}
    assert mixing == {"compcar": 0.5, "ffhq": 0.8, "afhq": 0.2, "cats": 0.2, "celeba": 0.8}
    assert [c.generator.pos_share for c in SETS.values()] == [True, False, False, False, False]
    assert [c.generator.fg_gen_mask for c in SETS.values()] == [True, False, False, False, False]
    assert CELEBA_256.generator.prior.rotation == (0.375, 0.625)
    assert not any(c.generator.use_viewdirs or c.generator.grf_use_z_app for c in SETS.values())
    latents = {size: train_config("ffhq", size).generator.n_latent for size in SIZES}
    assert latents == {64: 6, 128: 8, 256: 10, 512: 12, 1024: 14}
    inject = {size: train_config("ffhq", size).generator.default_inject_index for size in SIZES}
    assert inject == {64: 2, 128: 2, 256: 2, 512: 4, 1024: 4}
    with pytest.raises(ValueError, match="unknown set 'dogs'; known: compcar"):
        train_config("dogs", 256)
    with pytest.raises(ValueError, match="no GIRAFFE HD of 300 px"):
        train_config("ffhq", 300)


def test_the_average_decays_as_the_authors():
    """0.5^(32 / 10000) a step of 16 pictures; 0.999 a step of GIRAFFE's 32."""
    for config, decay in ((COMPCAR_256, 0.5 ** (32 / 10_000)), (CHAIRS_64, 0.999)):
        loop = config.loop
        half_life = min(loop.half_life, loop.batch * loop.ema_warm_up)
        assert 0.5 ** (loop.batch / half_life) == pytest.approx(decay, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith(("giraffe-hd-paper", "giraffe-2021"))])
def test_presets_resolve(name):
    config = preset(name)
    assert config.family in ("giraffe_hd_paper", "giraffe")
    assert name.endswith(str(config.generator.resolution))


def test_every_set_has_presets():
    names = {f"giraffe-hd-paper-{name}-{size}" for name in SETS for size in SIZES}
    names |= {
        f"giraffe-2021-{name}" for name in ("chairs-64", "church-64", "church-256", "clevr2-256", "clevr2345-256")
    }
    assert names <= set(presets())
