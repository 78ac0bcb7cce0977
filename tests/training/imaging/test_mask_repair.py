"""Repair of masks by the colours of their photos."""

import numpy as np
import pytest

from training.imaging.mask_repair import repaired

FLOOR, CLOTH = (200, 140, 80), (40, 60, 140)


def trousers(colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a photo of trousers on a floor, both with grain, and where the trousers are."""
    rng, true = np.random.default_rng(0), np.zeros((128, 128), bool)
    true[20:50, 30:98] = true[50:110, 30:58] = true[50:110, 70:98] = True
    photo = np.where(true[..., None], colour, FLOOR) + rng.normal(0, 12, (128, 128, 3))
    return photo.clip(0, 255).astype(np.uint8), true


def iou(mask: np.ndarray, true: np.ndarray) -> float:
    return float(((mask > 127) & true).sum() / ((mask > 127) | true).sum())


@pytest.fixture
def rough() -> np.ndarray:
    """A mask with the floor between the legs, and without the end of one leg."""
    mask = trousers(CLOTH)[1]
    mask[50:110, 58:70], mask[95:110, 70:98] = True, False
    return mask.astype(np.uint8) * 255


def test_floor_goes_and_what_lacks_is_added(rough: np.ndarray) -> None:
    photo, true = trousers(CLOTH)
    assert iou(rough, true) < 0.82
    assert iou(repaired(photo, rough), true) > 0.97


def test_a_right_mask_stays(rough: np.ndarray) -> None:
    photo, true = trousers(CLOTH)
    assert iou(repaired(photo, true.astype(np.uint8) * 255), true) > 0.98


def test_an_object_in_the_colours_of_its_floor_keeps_its_mask(rough: np.ndarray) -> None:
    photo, _ = trousers(FLOOR)
    assert iou(repaired(photo, rough), rough > 127) > 0.97


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_of_nothing_or_everything_stays(value: int) -> None:
    mask = np.full((128, 128), value, np.uint8)
    assert np.array_equal(repaired(trousers(CLOTH)[0], mask), mask)
