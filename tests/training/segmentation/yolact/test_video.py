"""Networks for video: features carried along a flow, key frames, and how both are learnt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from training.data.coco import CocoWriter
from training.data.mask_codes import to_rle
from training.loop.step import train_step
from training.loop.train import train
from training.registry import preset
from training.runtime.sharded_random import sharded_generator
from training.segmentation.yolact.data_video import FLO_MARK, FlowDataConfig, VideoDataConfig, read_flow
from training.segmentation.yolact.flow import Flow, warp
from training.segmentation.yolact.network import Yolact
from training.segmentation.yolact.presets import EDGE_TRAINFLOW_RESNET50, EDGE_VID_RESNET50
from training.segmentation.yolact.published import NETWORKS
from training.segmentation.yolact.recipe_video import FlowRecipe, VideoRecipe
from training.segmentation.yolact.segmenter import YolactSegmenter
from training.segmentation.yolact.video import FilmFinder, flow_loss
from training.types import Step

SMALL = replace(
    NETWORKS["yolact_edge_vid_resnet50"],
    classes=("square", "disc"), size=64, scales=(12.0, 20.0, 32.0),
    pyramid_dim=8, protonet_dim=8, n_prototypes=4, protonet_depth=1,
)  # fmt: skip


def flow_of(x: float, y: float, side: int = 8) -> Flow:
    shift = torch.tensor([x, y])[None, :, None, None].expand(1, 2, side, side)
    return Flow(shift=shift, scale=torch.ones(1, 1, side, side), bias=torch.zeros(1, 1, side, side))


def test_warp_fetches_from_where_the_flow_points(rng):
    maps = torch.randn(1, 3, 8, 8, generator=rng)
    pixel = 8 * 2 / 7  # one of 8 columns
    moved = warp(maps, flow_of(pixel, 0.0))
    torch.testing.assert_close(moved[..., :-1], maps[..., 1:], atol=1e-5, rtol=0)
    assert moved[..., -1].abs().max() < 1e-5
    torch.testing.assert_close(warp(maps, flow_of(0.0, pixel))[..., :-1, :], maps[..., 1:, :], atol=1e-5, rtol=0)
    scaled = replace(flow_of(0.0, 0.0), scale=torch.full((1, 3, 8, 8), 2.0), bias=torch.ones(1, 3, 8, 8))
    torch.testing.assert_close(warp(maps, scaled), 2 * maps + 1)


def test_flow_loss_is_the_mean_distance_over_levels():
    truth = torch.tensor([3.0, 4.0])[None, :, None, None].expand(1, 2, 32, 32)
    assert float(flow_loss([flow_of(0.0, 0.0), flow_of(3.0, 0.0, 4)], truth)) == pytest.approx(5 + 4)


def test_key_frames_come_in_time_and_with_a_new_scene():
    torch.manual_seed(0)
    segmenter = YolactSegmenter(Yolact(SMALL))
    first, other = (np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8) for i in (0, 1))
    still = FilmFinder(segmenter, every=3)
    for _ in range(7):
        still(first)
    assert still.key_frames == 3
    shy = FilmFinder(segmenter, every=100, change=0.0)
    assert [(shy(frame), shy.key_frames)[1] for frame in (first, other, first)] == [1, 2, 3]
    calm = FilmFinder(segmenter, every=100, change=2.0)
    assert [(calm(frame), calm.key_frames)[1] for frame in (first, other, first)] == [1, 1, 1]


def test_films_need_a_network_for_video():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="single pictures only"):
        FilmFinder(YolactSegmenter(Yolact(replace(SMALL, video=False))))
    with pytest.raises(ValueError, match="every"):
        FilmFinder(YolactSegmenter(Yolact(SMALL)), every=0)


@pytest.fixture(scope="module")
def chairs(tmp_path_factory) -> Path:
    """Return two pairs of frames in FlyingChairs' form, the second of each moved by (6, -2) pixels."""
    path = tmp_path_factory.mktemp("chairs")
    rng = np.random.default_rng(0)
    for i in range(2):
        picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        for name, pixels in (("img1", picture), ("img2", np.roll(picture, (-2, 6), (0, 1)))):
            PIL.Image.fromarray(pixels).save(path / f"0000{i}_{name}.ppm")
        flow = np.broadcast_to(np.array([6, -2], np.float32), (48, 64, 2))
        head = np.float32(FLO_MARK).tobytes() + np.array([64, 48], np.int32).tobytes()
        (path / f"0000{i}_flow.flo").write_bytes(head + flow.tobytes())
    return path


def test_flow_is_read_in_the_networks_unit(chairs, rng, tmp_path):
    assert read_flow(chairs / "00000_flow.flo").shape == (2, 48, 64)
    batch = FlowDataConfig(size=32).open(chairs).batch([0, 1], rng)
    assert batch.flow is not None and batch.previous is not None
    torch.testing.assert_close(batch.flow[0, :, 5, 5], torch.tensor([6 * 2 / 64 * 8, -2 * 2 / 48 * 8]))
    (tmp_path / "0_flow.flo").write_bytes((chairs / "00000_flow.flo").read_bytes()[:100])
    with pytest.raises(ValueError, match="cut short"):
        read_flow(tmp_path / "0_flow.flo")
    with pytest.raises(ValueError, match="FlyingChairs"):
        FlowDataConfig().open(tmp_path / "nothing")


def test_only_the_flow_learns_in_its_stage(chairs):
    config = replace(EDGE_TRAINFLOW_RESNET50, network=SMALL, data=FlowDataConfig(size=64))
    recipe = FlowRecipe(config, torch.device("cpu"))
    before = {key: tensor.clone() for key, tensor in recipe.generator.state_dict().items()}
    step = Step(index=0, images=100_000, rng=torch.Generator().manual_seed(0))
    batch = config.data.open(chairs).batch([0, 1], step.rng)
    recipe.begin(batch, step)
    assert float(train_step(recipe.phases(), batch, step)["flow/F"]) > 0
    changed = {k.split(".")[0] for k, t in recipe.generator.state_dict().items() if not torch.equal(t, before[k])}
    assert changed == {"flow_net", "flow_net_pre_convs"}
    assert {"frames", "fetched"} == recipe.grids(recipe.generator, batch).keys()


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Return a film of five frames in which a square moves, in YouTube-VIS's form."""
    path = tmp_path_factory.mktemp("films")
    (path / "JPEGImages" / "one").mkdir(parents=True)
    names, masks, y, x = [], [], *np.mgrid[:48, :64]
    for t in range(5):
        mask = np.maximum(abs(x - 20 - 4 * t), abs(y - 24)) < 10
        pixels = np.where(mask[..., None], np.array([30, 60, 230], np.uint8), np.uint8(100))
        names.append(f"one/{t:05d}.jpg")
        PIL.Image.fromarray(pixels).save(path / "JPEGImages" / names[-1], quality=95)
        masks.append(to_rle(mask) if t != 3 else None)
    film = {"id": 1, "file_names": names, "width": 64, "height": 48, "length": 5}
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
    entry = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks, "iscrowd": 0}
    (path / "train.json").write_text(json.dumps({"videos": [film], "categories": categories, "annotations": [entry]}))
    return path


def test_frames_come_with_earlier_ones(films, rng):
    data = VideoDataConfig(size=64, colours=False, mirror=False).open(films)
    assert len(data) == 2  # frames 2 and 4; nothing is known of frame 3
    batch = data.batch([0, 1], rng)
    assert batch.instances is not None and batch.previous is not None
    boxes = torch.cat([objects.box for objects in batch.instances])
    torch.testing.assert_close(
        boxes, torch.tensor([[19 / 64, 15 / 48, 38 / 64, 34 / 48], [27 / 64, 15 / 48, 46 / 64, 34 / 48]])
    )
    for image, objects in zip(batch.image, batch.instances, strict=True):
        blue = image[2] - image[0] > 0.7
        assert (blue & objects.mask[0]).sum() > 0.9 * (blue | objects.mask[0]).sum()
    assert not torch.equal(batch.image, batch.previous)


def test_the_trunk_stands_still_in_the_stage_of_films(films, tmp_path):
    (tmp_path / "images").mkdir()
    writer = CocoWriter(["disc"])
    PIL.Image.new("RGB", (64, 48), (9, 9, 200)).save(tmp_path / "images" / "0.png")
    writer.add(writer.add_image("0.png", 64, 48), "disc", np.tri(48, 64, dtype=bool))
    writer.write(tmp_path / "train.json")
    config = replace(EDGE_VID_RESNET50, network=SMALL, data=VideoDataConfig(size=64), pictures=tmp_path)
    recipe = VideoRecipe(config, torch.device("cpu"))
    before = {key: tensor.clone() for key, tensor in recipe.generator.state_dict().items()}
    step = Step(index=0, images=100_000, rng=torch.Generator().manual_seed(0))
    batch = config.data.open(films).batch([0, 1], step.rng)
    recipe.begin(batch, step)
    terms = train_step(recipe.phases(), batch, step)
    assert {"pictures/C", "frame/C", "carried/C", "carried/W"} <= terms.keys()
    changed = {k.split(".")[0] for k, t in recipe.generator.state_dict().items() if not torch.equal(t, before[k])}
    assert changed == set(dict(recipe.generator.named_children())) - {"backbone", "fpn_phase_1"}


def test_films_go_on_from_a_network_for_pictures(films, tmp_path):
    torch.manual_seed(0)
    config = replace(
        EDGE_VID_RESNET50, network=SMALL, data=VideoDataConfig(size=64),
        loop=replace(EDGE_VID_RESNET50.loop, images=2, batch=2),
    )  # fmt: skip
    recipe = VideoRecipe(config, torch.device("cpu"))
    theirs = Yolact(replace(SMALL, video=False, split_pyramid=False)).state_dict()
    kept = recipe.adapt_weights({f"generator.{key}": tensor for key, tensor in theirs.items()})
    ours = recipe.networks.state_dict()
    assert {key.split(".")[1] for key in ours.keys() - kept.keys()} == {"flow_net", "flow_net_pre_convs", "spa"}
    train(config, films, tmp_path / "run")
    assert (tmp_path / "run" / "generator.safetensors").is_file()


def test_classes_are_those_of_the_films(films):
    assert preset("yolact-edge-vid-resnet50", films).network.classes == ("square", "disc")


def test_padded_frames_keep_their_shape_and_their_objects(films, rng):
    for mirror in (False, True):
        config = VideoDataConfig(size=64, colours=False, mirror=mirror, letterbox=True)
        shown = [config.open(films).batch([0, 1], rng) for _ in range(4)]
        for image, objects in (
            pair for batch in shown for pair in zip(batch.image, batch.instances or (), strict=True)
        ):
            assert (image[:, 48:] == 0).all()  # grey below, as `prepare` pads
            blue = image[2] - image[0] > 0.7
            assert (blue & objects.mask[0]).sum() > 0.9 * (blue | objects.mask[0]).sum()
            rows, columns = torch.where(objects.mask[0])
            edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 64
            torch.testing.assert_close(objects.box[0], edges, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", ["flow", "films"])
def test_both_stages_heed_frozen_modules_and_the_bound_on_gradients(stage):
    flow = stage == "flow"
    config: Any = EDGE_TRAINFLOW_RESNET50 if flow else EDGE_VID_RESNET50
    data = FlowDataConfig(size=64) if flow else VideoDataConfig(size=64)
    still = "flow_net_pre_convs" if flow else "proto_net"
    config = replace(config, network=SMALL, data=data, frozen=(still,), rate=replace(config.rate, max_norm=0.5))
    recipe = (FlowRecipe if flow else VideoRecipe)(config, torch.device("cpu"))
    learning = {id(p) for group in recipe.optimizer.param_groups for p in group["params"]}
    assert learning
    assert not any(id(p) in learning for p in recipe.generator.get_submodule(still).parameters())
    assert {phase.max_norm for phase in recipe.phases()} == {0.5}


def test_processes_see_other_pictures_beside_their_films(films, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    writer = CocoWriter(["disc"])
    for i in range(50):
        PIL.Image.new("RGB", (64, 48), (9, 9, 200)).save(tmp_path / "images" / f"{i}.png")
        writer.add(writer.add_image(f"{i}.png", 64, 48), "disc", np.tri(48, 64, dtype=bool))
    writer.write(tmp_path / "train.json")
    config = replace(EDGE_VID_RESNET50, network=SMALL, data=VideoDataConfig(size=64), pictures=tmp_path)
    recipe = VideoRecipe(config, torch.device("cpu"))
    assert recipe.pictures is not None
    seen: list[list[int]] = []
    real = recipe.pictures.batch
    monkeypatch.setattr(recipe.pictures, "batch", lambda chosen, rng: seen.append(list(chosen)) or real(chosen, rng))
    monkeypatch.setattr(recipe, "losses", lambda batch, step: {})
    films_of = config.data.open(films)
    for part, parts, n in ((0, 1, 4), (0, 2, 2), (1, 2, 2)):
        rng = sharded_generator(3, part, parts)
        batch = films_of.batch([0, 1] * (n // 2), torch.Generator())
        recipe.picture_losses(batch, Step(index=0, images=0, rng=rng))
    whole, first, second = seen
    assert [first[0], second[0], first[1], second[1]] == whole


def test_a_damaged_list_of_films_is_an_error_in_one_sentence(films, tmp_path):
    content = json.loads((films / "train.json").read_text())
    for key, value in (("file_names", None), ("height", "tall")):
        damaged = {**content, "videos": [{**content["videos"][0], key: value}]}
        (tmp_path / "train.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match="is no list in YouTube-VIS's format"):
            VideoDataConfig().open(tmp_path)
    del content["videos"][0]["file_names"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="file_names"):
        VideoDataConfig().open(tmp_path)
