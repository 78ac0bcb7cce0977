"""`segment image`: limits that reach the network, and lists that fit turned and large photos."""

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from training.__main__ import main
from training.checkpoint import save_generator
from training.data.coco import CocoSet
from training.segmentation.command import Photos
from training.segmentation.load import StagedYolact
from training.segmentation.yolact.config import NetworkConfig
from training.segmentation.yolact.network import Yolact


def picture(x: int, y: int, size: tuple[int, int] = (150, 100)) -> np.ndarray:
    """Return a red disc on grey."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels = np.full((size[1], size[0], 3), 130, np.uint8)
    pixels[np.hypot(columns - x, rows - y) < size[1] / 4] = (200, 40, 30)
    return pixels


def test_the_limits_of_a_command_are_those_of_its_network(tmp_path):
    network = Yolact(
        NetworkConfig(
            classes=("ball",), backbone="mobilenetv2-same", size=64, scales=(16.0, 24.0, 32.0, 48.0),
            pyramid_dim=16, protonet_dim=16, n_prototypes=8,
        )
    )  # fmt: skip
    save_generator(tmp_path / "finder.safetensors", network)
    usual = Photos(photos=(), out=tmp_path, model=str(tmp_path / "finder.safetensors"))
    cases: tuple[tuple[dict[str, Any], tuple[float, float, int]], ...] = (
        ({}, (0.4, 0.3, 20)),
        ({"least": 0.05, "most": 150}, (0.05, 0.05, 150)),
        ({"labels": ("ball",)}, (0.4, 0.3, 100)),  # the best 20 of all labels may hold none of this one
    )
    for options, wanted in cases:
        segmenter = replace(usual, **options).segmenter()
        assert isinstance(segmenter, StagedYolact)
        config = segmenter.finder.config
        assert (config.least, config.detection.threshold, config.most) == wanted
        assert config.detection.most >= config.most


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_masks_fit_the_photo_that_the_list_names(orientation, tmp_path, capsys):
    back = {1: 0, 3: 2, 6: 1}[orientation]  # quarter turns from upright to what the camera stored
    stored = PIL.Image.fromarray(np.rot90(picture(40, 60), back).copy())
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    out = tmp_path / "out"
    assert main(["segment", "image", str(tmp_path / "photo.jpg"), "--out", str(out), "--model", "classical"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert ("photo" in line["files"]) == (orientation != 1)
    (out / "photo.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes())
    again = CocoSet(out / "photo-coco.json").load(0)
    red = (again.image[..., 0].astype(int) - again.image[..., 1]) > 80
    assert (red & again.masks[0]).sum() > 0.9 * (red | again.masks[0]).sum()


def test_a_large_photo_is_cut_smaller_and_said_so(tmp_path, caplog):
    PIL.Image.fromarray(picture(2000, 2000, (4200, 4000))).save(tmp_path / "large.jpg")
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        assert main(["segment", "image", str(tmp_path / "large.jpg"), "--out", str(out), "--model", "classical"]) == 0
    assert "large.jpg has 4200 x 4000 pixels and is cut at 2100 x 2000" in caplog.text
    listed = CocoSet(out / "large-coco.json")
    assert listed.load(0).image.shape == (2000, 2100, 3)
