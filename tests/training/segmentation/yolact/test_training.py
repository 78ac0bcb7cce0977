"""Training from COCO folders: what pictures become, schedules, and whole runs at tiny size."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from demo.models import bundled
from tests.places import CHECKPOINTS
from training.__main__ import main
from training.checkpoint import CheckpointError, load_generator, load_model, makes_pictures, read_card
from training.data.coco import CocoWriter
from training.loop.step import train_step
from training.loop.train import train
from training.nn.backbone import MobileNetV2
from training.nn.gan import learning
from training.publish import Publish
from training.registry import preset, presets
from training.segmentation.load import load_segmenter
from training.segmentation.yolact.augment import AugmentConfig, choose_region, still, vary_colours
from training.segmentation.yolact.backbone import build_trunk
from training.segmentation.yolact.data import InstanceDataConfig, InstanceSet, _View
from training.segmentation.yolact.network import Yolact
from training.segmentation.yolact.presets import BASE, FAST_320, RateConfig, TrainConfig
from training.segmentation.yolact.recipe import Recipe, rate_factor
from training.segmentation.yolact.trunks import load_trunk
from training.types import Step

BUNDLED = CHECKPOINTS / "giraffe-hd-cars-64.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a COCO folder of eight pictures: coloured squares and discs on grey; the last shows nothing."""
    path = tmp_path_factory.mktemp("coco")
    (path / "images").mkdir()
    writer, rng = CocoWriter(["square", "disc"]), np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    for i in range(8):
        pixels = np.full((48, 64, 3), 100, np.uint8)
        number = writer.add_image(f"{i}.png", 64, 48)
        cx, cy, r = rng.integers(16, 48), rng.integers(14, 34), rng.integers(8, 13)
        masks = [np.maximum(abs(x - cx), abs(y - cy)) < r, (x - cx) ** 2 + (y - cy) ** 2 < r * r]
        if i < 7:
            pixels[masks[i % 2]] = (220, 40, 40) if i % 2 else (30, 60, 230)
            writer.add(number, ("square", "disc")[i % 2], masks[i % 2])
        PIL.Image.fromarray(pixels).save(path / "images" / f"{i}.png")
    writer.write(path / "train.json")
    return path


def tiny(folder: Path, **loop: int) -> TrainConfig:
    config = FAST_320.for_folder(folder)
    network = replace(
        config.network, size=64, scales=(16.0, 24.0, 32.0), pyramid_dim=16, protonet_dim=16, n_prototypes=8
    )
    data = replace(config.data, size=64)
    settings = replace(
        config.loop, **({"batch": 4, "images": 12, "log_every": 1, "save_every": 8, "grid_every": 8} | loop)
    )
    return replace(config, network=network, data=data, loop=settings, pretrained=False)


def test_all_presets_resolve_and_name_the_family():
    names = [name for name in presets() if name.startswith("yolact")]
    assert len(names) == 17
    for name in names:
        assert preset(name).family.startswith("yolact")


def test_classes_are_those_of_the_folder(folder):
    config = preset("yolact-base", folder)
    assert config.network.classes == config.data.classes == ("square", "disc")


def test_pictures_as_they_are(folder):
    config = InstanceDataConfig(size=32, letterbox=True, fill=(127.5, 127.5, 127.5))
    batch = InstanceSet(folder, config).get([0, 7])
    assert batch.image.shape == (2, 3, 32, 32) and (batch.image[:, :, 24:] == 0).all()
    assert batch.instances is not None
    first, last = batch.instances
    assert first.label.tolist() == [0] and len(last.box) == 0 and last.mask.shape == (0, 32, 32)
    rows, columns = (torch.where(first.mask[0].any(axis))[0] for axis in (1, 0))
    edges = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 32
    torch.testing.assert_close(first.box[0], edges, atol=1.01 / 32, rtol=0)
    blue = batch.image[0, 2] - batch.image[0, 0] > 0.5
    assert (blue & first.mask[0]).sum() > 0.9 * (blue | first.mask[0]).sum()


@pytest.mark.parametrize("letterbox", [False, True])
def test_varied_pictures_keep_masks_boxes_and_colours_together(folder, letterbox, rng):
    augment = AugmentConfig(colours=False, negatives=True)
    data = InstanceSet(folder, InstanceDataConfig(size=64, letterbox=letterbox, augment=augment))
    again = torch.Generator().manual_seed(3)
    batch, same = data.batch(list(range(7)) * 4, again), data.batch(list(range(7)) * 4, again.manual_seed(3))
    assert torch.equal(batch.image, same.image) and batch.instances is not None
    seen = 0
    for image, objects in zip(batch.image, batch.instances, strict=True):
        for box, mask in zip(objects.box, objects.mask, strict=True):
            coloured = (image[2] - image[0]).abs() > 0.5
            assert (coloured & mask).sum() >= 0.8 * (coloured | mask).sum()
            rows, columns = (torch.where(mask.any(axis))[0] for axis in (1, 0))
            edges = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 64
            torch.testing.assert_close(box, edges, atol=4.1 / 64, rtol=0)
            seen += 1
    assert seen > 14


def test_pictures_without_objects_give_way_to_others(folder, rng):
    data = InstanceSet(folder, InstanceDataConfig(size=32, augment=still(AugmentConfig())))
    batch = data.batch([7, 7], rng)
    assert batch.instances is not None and all(len(objects.box) for objects in batch.instances)
    kept = InstanceSet(folder, InstanceDataConfig(size=32, augment=still(AugmentConfig(negatives=True))))
    batch = kept.batch([7], rng)
    assert batch.instances is not None and len(batch.instances[0].box) == 0


def test_cuts_beside_the_picture_show_the_fill(folder):
    data = InstanceSet(folder, InstanceDataConfig(size=32, fill=(127.5, 127.5, 127.5)))
    view = _View((64, 0, 90, 20), (48, 64), data.config)
    colours = torch.from_numpy(view.seen(np.zeros((3, 48, 64), np.uint8))).float()
    assert torch.equal(view.shown(colours[None], torch.full((3, 1, 1), 5.0)), torch.full((1, 3, 32, 32), 5.0))


def test_unknown_classes_are_refused(folder):
    with pytest.raises(ValueError, match="zebra"):
        InstanceSet(folder, InstanceDataConfig(classes=("zebra",)))


def test_cuts_hold_an_objects_centre():
    rng = np.random.default_rng(0)
    boxes = np.array([[10.0, 10, 20, 20]])
    for _ in range(200):
        x0, y0, x1, y1 = choose_region(100, 60, boxes, AugmentConfig(expand=1), rng)
        assert 0 <= x0 < 15 < x1 <= 100 and 0 <= y0 < 15 < y1 <= 60
    wide = [choose_region(100, 60, boxes, AugmentConfig(cut=False), rng) for _ in range(200)]
    assert sum(region == (0, 0, 100, 60) for region in wide) in range(70, 130)
    assert all(x0 <= 0 and y0 <= 0 and x1 >= 100 and y1 >= 60 and x1 - x0 <= 400 for x0, y0, x1, y1 in wide)


def test_colours_are_varied_as_in_hsv():
    import colorsys

    class Fixed(np.random.Generator):
        """Draws in order: no brightness; no contrast; saturation x .7; hue +9 degrees; contrast first."""

        def __init__(self):
            super().__init__(np.random.PCG64(0))
            self.draws = iter([0.9, 0.9, 0.1, 0.1, 0.1])
            self.values = iter([0.7, 9.0])

        def random(self) -> float:  # type: ignore[override]
            return next(self.draws)

        def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
            return next(self.values)

    picture = torch.tensor([[200.0, 30.0, 90.0], [40.0, 160.0, 90.0], [90.0, 200.0, 90.0]])[:, None]
    ours = vary_colours(picture, Fixed())
    for i in range(3):
        h, s, v = colorsys.rgb_to_hsv(*(picture[:, 0, i] / 255).tolist())
        wanted = colorsys.hsv_to_rgb((h + 9 / 360) % 1, 0.7 * s, v)
        torch.testing.assert_close(ours[:, 0, i] / 255, torch.tensor(wanted), atol=1e-4, rtol=0)


def test_learning_rate_follows_the_published_schedule():
    rate = BASE.rate
    for step, factor in ((0, 0.1), (250, 0.55), (500, 1.0), (279_999, 1), (280_000, 0.1), (700_000, 1e-3)):
        assert rate_factor(rate, step * 8, BASE.loop.images) == pytest.approx(factor)
    cosine = RateConfig(cosine=True, warm_up=0)
    assert [rate_factor(cosine, n, 100) for n in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


def test_a_run_trains_at_the_rates_of_its_schedule(folder, tmp_path, monkeypatch):
    used: list[list[float]] = []
    config = tiny(folder, images=16)
    config = replace(config, rate=replace(config.rate, cosine=True, warm_up=0))
    update = torch.optim.SGD.step

    def note(self: torch.optim.SGD, *arguments: Any) -> Any:
        used.append([group["lr"] for group in self.param_groups])
        return update(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    train(config, folder, tmp_path / "run")
    first = used[0]
    assert len(used) == 4
    for rates, images in zip(used, (0, 4, 8, 12), strict=True):
        factor = rate_factor(config.rate, images, 16)
        assert rates == pytest.approx([factor * rate for rate in first])


def test_norm_stands_still_in_small_batches(folder):
    config = tiny(folder)
    config = replace(config, network=replace(config.network, backbone="mobilenetv2"))
    recipe = Recipe(config, torch.device("cpu"))
    batch = InstanceSet(folder, config.data).get([0, 1])
    step = Step(index=0, images=0, rng=torch.Generator())
    before = {name: tensor.clone() for name, tensor in recipe.generator.backbone.state_dict().items()}
    recipe.begin(batch, step)
    train_step(recipe.phases(), batch, step)
    after = recipe.generator.backbone.state_dict()
    norms = [name for name, m in recipe.generator.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(torch.equal(before[key], after[key]) for key in before if key.rpartition(".")[0] in norms)
    assert not torch.equal(before["layers.0.0.weight"], after["layers.0.0.weight"])
    recipe.config = replace(config, norm_from=2)
    recipe.begin(batch, step)
    assert recipe.generator.backbone.layers[0][1].training  # type: ignore[index]


def test_a_run_learns_resumes_and_is_read_again(folder, tmp_path):
    config, out = tiny(folder), tmp_path / "run"
    path = train(config, folder, out)
    model = load_model(path)
    assert isinstance(model, Yolact) and model.config.classes == ("square", "disc")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and {"network/B", "network/C", "network/M", "network/S"} <= lines[0].keys()
    assert {p.name.split("-")[1] for p in (out / "grids").iterdir()} == {"truth.png", "found.png"}
    train(replace(config, loop=replace(config.loop, images=16)), folder, out)
    assert (out / "log.jsonl").read_text().count("\n") == 4
    with pytest.raises(CheckpointError, match="makes no pictures"):
        load_generator(path)


def test_a_published_finder_is_no_generator_on_the_page(folder, tmp_path):
    """`publish` takes it, with the figures of its report; lists of generators pass over it, whoever makes them."""
    run, shelf = tmp_path / "run", tmp_path / "shelf"
    train(tiny(folder, images=4), folder, run)
    arguments = ["classical", str(run / "generator.safetensors"), "--data", str(folder), "--split", "train"]
    options = ["--one-class", "--bootstrap", "0", "--worst", "0"]
    assert main(["segment", "evaluate", *arguments, "--out", str(tmp_path / "report"), *options]) == 0
    shelf.mkdir()
    Publish(
        run_dir=run, out=shelf / "finder.safetensors", title="Finder", data=folder, command="train",
        report=tmp_path / "report" / "report.json",
    ).run()  # fmt: skip
    card = read_card(shelf / "finder.safetensors")
    assert card["family"] == "yolact" and card["resolution"] == 64 and "mask" in card["figures"]
    assert load_segmenter(shelf / "finder.safetensors").labels == ("square", "disc")
    with pytest.raises(ValueError, match="holds a giraffe_hd; expected a reader"):
        Publish(
            run_dir=run, out=shelf / "other.safetensors", title="Finder", data=folder, command="train", reader=BUNDLED
        ).run()
    assert not (shelf / "other.safetensors").exists() and not (shelf / "readers").exists()
    shutil.copy(BUNDLED, shelf)
    (shelf / "damaged.safetensors").write_bytes(b"no model")
    assert [path.stem for path in bundled(shelf)] == ["damaged", BUNDLED.stem]  # loading says what is wrong
    assert not makes_pictures(shelf / "finder.safetensors")


def test_frozen_modules_do_not_learn(folder, rng):
    config = tiny(folder)
    recipe = Recipe(config, torch.device("cpu"))
    batch, step = config.data.open(folder).batch(list(range(4)), rng), Step(index=0, images=0, rng=rng)
    recipe.networks.requires_grad_(False)
    [phase] = recipe.phases()
    recipe.begin(batch, step)
    with learning(phase.parameters()):
        torch.stack(list(recipe.losses(batch, step).values())).sum().backward()
    still = tuple(f"{module}." for module in config.frozen)
    learnt = {id(p) for group in recipe.optimizer.param_groups for p in group["params"]}
    for name, parameter in recipe.generator.named_parameters():
        assert (parameter.grad is None) == (id(parameter) not in learnt) == name.startswith(still), name
    assert any(name.startswith(still) for name, _ in recipe.generator.named_parameters())


def test_a_run_begins_from_another_of_other_classes(folder, tmp_path):
    config = tiny(folder, images=4)
    before = train(config, folder, tmp_path / "one")
    data = replace(config.data, classes=("disc",))
    other = replace(config, data=data, network=replace(config.network, classes=("disc",)))
    assert load_model(train(other, folder, tmp_path / "two", start_from=before)).config.classes == ("disc",)
    wider = replace(config, network=replace(config.network, protonet_dim=24))
    with pytest.raises(ValueError, match="proto_net"):
        train(wider, folder, tmp_path / "three", start_from=before)


def test_a_few_steps_lower_the_losses(folder):
    torch.manual_seed(0)
    config = tiny(folder)
    config = replace(config, rate=replace(config.rate, learning_rate=0.01, warm_up=0, trunk=1.0))
    recipe = Recipe(config, torch.device("cpu"))
    batch = InstanceSet(folder, config.data).get([0, 1, 2, 3])
    phases, sums = recipe.phases(), []
    for index in range(15):
        step = Step(index=index, images=0, rng=torch.Generator())
        recipe.begin(batch, step)
        sums.append(sum(float(term) for term in train_step(phases, batch, step).values()))
    assert sums[-1] < 0.8 * sums[0]


def test_pretrained_trunks_of_files(tmp_path):
    torch.manual_seed(0)
    import torchvision

    theirs = torchvision.models.mobilenet_v2()
    torch.save(theirs.state_dict(), tmp_path / "mobilenet.pth")
    trunk = build_trunk("mobilenetv2")
    load_trunk(trunk, "mobilenetv2", tmp_path / "mobilenet.pth")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(trunk.eval()(x)[1], theirs.eval().features[:11](x))
    resnet = torchvision.models.resnet50()
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    ours = build_trunk("resnet50", deformable_every=1)
    load_trunk(ours, "resnet50", tmp_path / "resnet.pth")
    assert torch.equal(ours.state_dict()["layers.1.0.conv2.weight"], resnet.state_dict()["layer2.0.conv2.weight"])
    with pytest.raises(ValueError, match="lacks"):
        load_trunk(build_trunk("resnet101"), "resnet101", tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="darknet53"):
        load_trunk(build_trunk("darknet53"), "darknet53")


def test_folded_trunk_of_a_file_decides_the_padding(folder, tmp_path):
    torch.manual_seed(0)
    import torchvision

    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "mobilenet.pth")
    config = replace(tiny(folder), pretrained=True, trunk=tmp_path / "mobilenet.pth")
    generator = Recipe(config, torch.device("cpu")).generator
    assert generator.config.backbone == "mobilenetv2-folded"
    assert isinstance(generator.backbone.network, MobileNetV2) and not generator.backbone.network.same


def test_weights_of_a_trunk_that_pads_otherwise_are_refused(folder, tmp_path):
    config = tiny(folder, images=4)
    folded = replace(config, network=replace(config.network, backbone="mobilenetv2-folded"))
    before = train(config, folder, tmp_path / "one")
    for source in (before, tmp_path / "one"):
        with pytest.raises(ValueError, match=r"trunk mobilenetv2-same.*give --no-pretrained --network.backbone mobile"):
            train(folded, folder, tmp_path / "two", start_from=source)
    assert not (tmp_path / "two" / "config.json").exists()
    with pytest.raises(ValueError, match="shifted"):
        train(replace(folded, loop=replace(folded.loop, images=8)), folder, tmp_path / "one")


def test_norm_stands_still_where_few_pictures_are_seen_at_a_time(folder):
    config = tiny(folder, batch=8, accumulate=4)
    network = replace(config.network, backbone="mobilenetv2")
    for accumulate, learns in ((4, False), (1, True)):
        loop = replace(config.loop, accumulate=accumulate)
        recipe = Recipe(replace(config, network=network, loop=loop, norm_from=6), torch.device("cpu"))
        assert recipe._norm_learns() == learns


def test_figures_of_generators_are_refused_before_a_run_begins(folder, tmp_path):
    with pytest.raises(ValueError, match="leave out --loop"):
        train(tiny(folder, figures_every=8), folder, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
