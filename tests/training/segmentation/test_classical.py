"""The object of a photo: found where it stands out, and with doubts where it does not."""

import csv

import numpy as np
import PIL.Image
import pytest
import torch

from tests.places import CLOTHING
from training.objects import SURE, WIDE, box_of, margin_of, otsu, propose_box, segment_foreground
from training.pictures import Box


def drawn(thing: tuple[int, int, int], *, light: int = 0, noise: int = 6, seed: int = 0) -> PIL.Image.Image:
    """Return an ellipse in the box 60..140 x 40..110 before a grey ground that gets lighter to the right."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(200), np.arange(150))
    pixels = np.full((150, 200, 3), 150.0) + (light * x / 200)[..., None]
    pixels[((x - 99.5) / 40) ** 2 + ((y - 74.5) / 35) ** 2 < 1] = thing
    pixels += rng.integers(-noise, noise + 1, pixels.shape)
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def overlap(a: Box, b: Box) -> float:
    wide, high = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / (sum(areas) - wide * high)


@pytest.mark.parametrize(("thing", "light"), [((200, 40, 30), 0), ((20, 20, 20), 60), ((235, 235, 250), 40)])
def test_one_thing_on_a_quiet_ground_is_found_for_sure(thing, light):
    found = segment_foreground(drawn(thing, light=light))
    assert found is not None
    assert found.box == pytest.approx((0.3, 40 / 150, 0.7, 110 / 150), abs=0.03)
    assert SURE < found.confidence <= 1


def test_where_nothing_stands_out_it_says_so():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)
    checks = np.kron(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8), np.ones((10, 10, 1), np.uint8))
    for pixels in (noise, checks):
        found = segment_foreground(PIL.Image.fromarray(pixels))
        assert found is None or found.confidence < SURE
    flat = PIL.Image.new("RGB", (90, 60), (3, 200, 100))
    assert segment_foreground(flat) is None
    assert propose_box(flat) == WIDE
    assert segment_foreground(PIL.Image.new("RGB", (300, 4))) is None


def test_boxes_of_the_clothing_examples():
    """Against the boxes that come with the photos, themselves found by GrabCut."""
    with (CLOTHING / "index.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if 0.05 <= float(line["mask_fraction"]) <= 0.9][::2]
    sure, right = 0, []
    for line in lines:
        with PIL.Image.open(CLOTHING / "images" / line["file"]) as picture:
            found, (width, height) = segment_foreground(picture), picture.size
        if found is not None and found.confidence >= SURE:
            x0, y0, x1, y1 = (float(line[name]) for name in ("x0", "y0", "x1", "y1"))
            sure += 1
            right.append(overlap(found.box, (x0 / width, y0 / height, x1 / width, y1 / height)))
    assert sure >= 0.7 * len(lines)
    assert np.median(right) > 0.9
    assert np.mean(np.array(right) > 0.7) > 0.9


def test_box_of_a_mask_by_hand():
    mask = np.zeros((4, 10), bool)
    mask[1:3, 2:7] = True
    assert box_of(mask) == (0.2, 0.25, 0.7, 0.75)


def test_otsu_parts_two_groups():
    values = torch.cat([torch.full((50,), 1.0), torch.full((30,), 9.0)]).reshape(8, 10).double().numpy()
    assert 1 < otsu(values) < 9


@pytest.mark.parametrize(
    ("data", "margin"),
    [({"object_margin": 1.5}, 1.5), ({"object_margin": 1.5, "jitter": 0.25}, 1.2), ({"object_margin": None}, None)],
)
def test_margin_is_that_of_the_training_pictures(data, margin):
    assert margin_of({"config": {"data": data}}) == margin


def test_margin_of_imported_models_is_the_published_one():
    assert margin_of({}) == 1.5
