"""Rendered cars: the rasteriser by hand, the conventions of `training.nn.camera`, the same pictures every time."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import PIL.Image
import pytest
import torch

from training.data.cars.factors import (
    ELEVATION,
    FOV,
    MESHES,
    PROPORTIONS,
    RADIUS,
    SCALE,
    TRANSLATION_Y,
    TRANSLATION_Z,
    Factors,
    sample_factors,
)
from training.data.cars.gltf import read_gltf
from training.data.cars.raster import rasterise
from training.data.cars.render import render, render_bytes
from training.nn.camera import project, world_points


def posed(n: int = 1, *, index: int = 0, **chosen) -> Factors:
    """`n` copies of one picture's factors, some of them chosen: a number for all, or one each."""
    one = sample_factors(1, seed=0, start=index)
    middle = {"elevation": 0.3, "scale": 0.3, "ty": 0.0, "tz": 0.0, "rotation": 0.0, "hue": 0.6, "saturation": 0.8}
    values = {field.name: np.repeat(getattr(one, field.name), n) for field in fields(Factors)}
    for name, value in (middle | {"value": 0.7} | chosen).items():
        values[name] = np.broadcast_to(np.asarray(value, values[name].dtype), (n,)).copy()
    return Factors(**values)


# The rasteriser


def test_a_triangle_covers_the_centres_inside_it():
    screen = np.array([[0.0, 0.0], [0.0, 4.0], [4.0, 0.0]])  # counter-clockwise with y down
    pixel, triangle, weights = rasterise(screen, np.ones(3), np.array([[0, 1, 2]]), 4)
    assert sorted(pixel) == [0, 1, 2, 4, 5, 8]  # centres with x + y < 4; those on the long edge belong to its neighbour
    assert set(triangle) == {0}
    assert weights.sum(1) == pytest.approx(1)
    y, x = np.divmod(pixel, 4)
    assert weights @ screen == pytest.approx(np.stack([x, y], 1) + 0.5)


def test_neighbours_share_no_pixel_and_leave_none_out():
    """A fan of triangles fills a square exactly, wherever its middle lies."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        middle = rng.uniform(1, 15, 2)
        screen = np.array([[0, 0], [0, 16], [16, 16], [16, 0], middle], float)
        triangles = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
        alone = [rasterise(screen, np.ones(5), triangles[[k]], 16)[0] for k in range(4)]
        assert sorted(np.concatenate(alone)) == list(range(256))


def test_the_nearest_triangle_wins_and_those_from_behind_are_skipped():
    screen = np.array([[0, 0], [0, 8], [8, 0], [0, 0], [0, 8], [8, 0]], float)
    near = np.array([0.5, 0.5, 0.5, 1.0, 1.0, 1.0])
    _, triangle, _ = rasterise(screen, near, np.array([[0, 1, 2], [3, 4, 5]]), 8)
    assert set(triangle) == {1}
    _, triangle, _ = rasterise(screen, near, np.array([[0, 1, 2], [3, 5, 4]]), 8)
    assert set(triangle) == {0}


def test_weights_are_right_in_perspective():
    """Half way across the picture of an edge from depth 1 to depth 3 lies a quarter of the way along it."""
    screen = np.array([[0.0, -9.0], [0.0, 9.0], [11.0, 0.0]])
    pixel, _, weights = rasterise(screen, 1 / np.array([1.0, 1.0, 3.0]), np.array([[0, 1, 2]]), 11)
    at = dict(zip(pixel.tolist(), weights, strict=True))
    assert at[5][2] == pytest.approx(0.25)  # first row, centre x = 5.5 of 11


def test_triangles_outside_the_picture_are_cut():
    screen = np.array([[-20.0, -20.0], [-20.0, 60.0], [60.0, -20.0]])
    pixel, _, _ = rasterise(screen, np.ones(3), np.array([[0, 1, 2]]), 8)
    assert sorted(pixel) == list(range(64))
    pixel, _, _ = rasterise(screen + 100, np.ones(3), np.array([[0, 1, 2]]), 8)
    assert len(pixel) == 0


# The scene's conventions


def test_the_mask_fills_the_projected_box():
    """The car touches its box where it is longest; nothing of it lies outside the box's projection."""
    factors = sample_factors(12, seed=1)
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)], dtype=torch.float64)
    scale = torch.from_numpy(factors.scale)[:, None] * torch.tensor(PROPORTIONS, dtype=torch.float64)
    translation = torch.from_numpy(np.stack([factors.tx, factors.ty, factors.tz], 1))
    world = world_points(corners.expand(12, 8, 3), scale, translation, torch.from_numpy(factors.rotation))
    azimuth, elevation = torch.from_numpy(factors.azimuth), torch.from_numpy(factors.elevation)
    plane, _ = project(world, azimuth, elevation, torch.full((12,), RADIUS, dtype=torch.float64), FOV)
    x, y = (plane[..., 0] + 1) / 2, (1 - plane[..., 1]) / 2
    hull = torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], 1)
    box = render(factors, 64).box
    assert (box[:, :2] >= hull[:, :2] - 1 / 256).all()
    assert (box[:, 2:] <= hull[:, 2:] + 1 / 256).all()
    width = (box[:, 2] - box[:, 0]) / (hull[:, 2] - hull[:, 0])
    assert width.min() > 0.55


def test_boxes_hold_their_masks_tightly():
    _, mask, box = render(sample_factors(6, seed=2), 64)
    for picture, (x0, y0, x1, y1) in zip(mask[:, 0], box.tolist(), strict=True):
        y, x = torch.nonzero(picture, as_tuple=True)
        found = [x.min() / 64, y.min() / 64, (x.max() + 1) / 64, (y.max() + 1) / 64]
        assert [x0, y0, x1, y1] == pytest.approx([v.item() for v in found], abs=1 / 64)


def test_positions_move_the_car_where_the_camera_says():
    x0, y0, x1, y1 = render(posed(3, ty=[0, 0.1, 0], tz=[0, 0, 0.06]), 64).box.T
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    assert x[0] == pytest.approx(0.5, abs=0.02)
    assert x[1] - x[0] == pytest.approx(0.1 / 0.4817 / 2, rel=0.1)  # +y is to the right; 0.4817 is half the width
    assert y[2] < y[0]  # +z is up


def red_and_white(picture: torch.Tensor) -> tuple[int, int]:
    """Count the pixels of tail lights and of head lights."""
    r, g, b = picture
    return int(((r > 0.5) & (g < -0.4) & (b < -0.4)).sum()), int((picture > 0.75).all(0).sum())


@pytest.mark.parametrize("mesh", range(len(MESHES)))
def test_fronts_have_bright_lights_and_rears_red_ones(mesh):
    factors = posed(2, mesh=mesh, rotation=[0, math.pi], scale=0.35, elevation=0.2, ground_r=0.4, horizon_r=0.5)
    sky = {
        name: np.full(2, 0.5) for name in ("horizon_g", "horizon_b", "sky_r", "sky_g", "sky_b", "ground_g", "ground_b")
    }
    front, rear = render(replace(factors, **sky), 128).image
    assert red_and_white(front)[1] > red_and_white(rear)[1] + 8
    assert red_and_white(rear)[0] > red_and_white(front)[0] + 8


def test_a_quarter_turn_shows_the_side():
    """p_box = Rz(rotation) (p - t): turned by a quarter, the front points to -y, which is left."""
    x0, _, x1, _ = render(posed(3, mesh=2, rotation=[0, math.pi / 2, 3 * math.pi / 2]), 64).box.T
    assert (x1 - x0)[1] > 1.6 * (x1 - x0)[0]
    image = render(posed(2, mesh=2, rotation=[math.pi / 2, 3 * math.pi / 2], elevation=0.2), 128).image
    for picture, front_is_left in zip(image, (True, False), strict=True):
        red = torch.nonzero((picture[0] > 0.5) & (picture[1] < -0.4) & (picture[2] < -0.4))[:, 1].float().mean()
        assert (red > 64) == front_is_left  # the tail lights are at the other end


def test_paint_changes_the_car_and_nothing_else():
    image, mask, _ = render(posed(2, mesh=0, hue=[0.0, 0.6]), 64)
    change = (image[0] - image[1]).abs().amax(0)
    assert change[mask[0, 0] == 0].max() == 0
    assert change[mask[0, 0] == 1].mean() > 0.2


def test_the_shadow_is_on_the_ground_only():
    factors = posed(1)
    plain, mask, _ = render(factors, 64)
    shaded = render(factors, 64, shadow=True).image
    change = (plain - shaded).amax(1)[0]
    assert change.min() >= 0
    assert change[mask[0, 0] == 1].max() == 0
    assert change.max() > 0.2
    assert change[:8].max() < 0.02  # the sky


def test_the_horizon_rises_as_the_camera_does():
    """A camera that looks down more shows more ground."""
    factors = posed(2, elevation=[0.18, 0.5], distance=1.0, hills=0.0, ground_r=1.0, horizon_r=0.0, sky_r=0.0)
    column = render(factors, 64).image[:, 0, :, 1]
    ground = (column > 0).sum(1)
    assert 32 < ground[0] < ground[1]


# The same pictures every time


def test_a_picture_depends_on_seed_stream_and_index_only():
    many, one = sample_factors(5, seed=7, start=10), sample_factors(1, seed=7, start=13)
    assert many.row(3) == one.row(0)
    again = render_bytes(many, 3, 64)[0]
    assert np.array_equal(again, render_bytes(one, 0, 64)[0])
    for other in (sample_factors(1, seed=8, start=13), sample_factors(1, seed=7, start=13, stream=1)):
        assert other.row(0) != one.row(0)
        assert not np.array_equal(again, render_bytes(other, 0, 64)[0])


def test_the_first_picture_is_the_one_it_was():
    """Published sets can be made again: a change of these numbers changes every picture."""
    row = sample_factors(1, seed=0).row(0)
    assert (row["mesh"], row["rotation"], row["texture"]) == (6, pytest.approx(5.3872299529679575), 5880884)
    picture, mask, box = render_bytes(sample_factors(1, seed=0), 0, 64)
    assert np.array(box) * 64 == pytest.approx([7.0, 18.0, 49.5, 41.75])
    assert (picture.mean(), mask.mean()) == (pytest.approx(PICTURE_MEAN, abs=0.01), pytest.approx(MASK_MEAN, abs=0.01))


PICTURE_MEAN, MASK_MEAN = 118.693, 40.709


def test_the_prior_is_the_published_one():
    factors = sample_factors(3000, seed=3)
    ranges = {
        "rotation": (0, 2 * math.pi),
        "elevation": ELEVATION,
        "scale": SCALE,
        "ty": TRANSLATION_Y,
        "tz": TRANSLATION_Z,
    }
    for name, (low, high) in ranges.items():
        values = getattr(factors, name)
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert set(factors.tx) == set(factors.azimuth) == {0.0}
    assert np.bincount(factors.mesh).min() > 3000 / 9 * 0.75


def test_every_mesh_renders_at_both_sizes():
    factors = posed(len(MESHES), mesh=np.arange(len(MESHES)))
    small, large = render(factors, 64), render(factors, 128)
    assert large.image.shape == (9, 3, 128, 128)
    half = torch.nn.functional.avg_pool2d(large.mask, 2)
    assert (half - small.mask).abs().mean() < 0.01
    assert (small.mask.mean((1, 2, 3)) > 0.05).all()


# The meshes' format


def test_read_gltf_places_nodes_by_their_parents(tmp_path):
    """A triangle in a node that is scaled by 2, turned a quarter about z, and moved by its parent."""
    positions = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    normals, uv = np.array([[1, 0, 0]] * 3, np.float32), np.array([[0, 0], [1, 0], [0.5, 1]], np.float32)
    data = b"".join(a.tobytes() for a in (positions, normals, uv, np.array([0, 1, 2], np.uint8)))
    PIL.Image.new("RGB", (2, 2), (9, 8, 7)).save(tmp_path / "paint.png")
    (tmp_path / "mesh.bin").write_bytes(data)
    views = [(0, 36), (36, 36), (72, 24), (96, 3)]
    kinds = [(5126, "VEC3"), (5126, "VEC3"), (5126, "VEC2"), (5121, "SCALAR")]
    quarter = math.sqrt(0.5)
    document = {
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"translation": [10, 0, 0], "children": [1]},
            {"name": "wheel", "mesh": 0, "rotation": [0, 0, quarter, quarter], "scale": [2, 2, 2]},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}, "indices": 3}]}],
        "accessors": [{"bufferView": i, "componentType": c, "type": t, "count": 3} for i, (c, t) in enumerate(kinds)],
        "bufferViews": [{"buffer": 0, "byteOffset": o, "byteLength": n} for o, n in views],
        "buffers": [{"uri": "mesh.bin", "byteLength": len(data)}],
        "images": [{"uri": "paint.png"}],
    }
    path = tmp_path / "mesh.gltf"
    path.write_text(json.dumps(document))
    mesh = read_gltf(path)
    assert mesh.positions == pytest.approx(np.array([[10, 2, 0], [8, 0, 0], [10, 0, 2]]))
    assert mesh.normals == pytest.approx(np.array([[0, 1, 0]] * 3))
    assert mesh.triangles.tolist() == [[0, 1, 2]]
    assert mesh.parts == ("wheel",)
    assert mesh.texture[0, 0].tolist() == [9, 8, 7]
    document["meshes"][0]["primitives"][0]["mode"] = 1
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"mesh\.gltf: expected indexed triangles"):
        read_gltf(path)
    path.write_text("solid stl")
    with pytest.raises(ValueError, match=r"mesh\.gltf is no glTF file"):
        read_gltf(path)
