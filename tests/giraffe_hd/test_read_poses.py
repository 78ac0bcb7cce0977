"""`giraffe_hd read-poses` on prepared sets."""

import csv

import numpy as np
import PIL.Image
import pytest
import torch

from giraffe_hd import __main__ as giraffe
from giraffe_hd.fast.config import GeneratorConfig, PoseConfig
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.reader import PoseReader, ReaderConfig
from giraffe_hd.photos import knobs_read
from training.checkpoint import save_generator
from training.config import DataConfig
from training.data.folder import PictureSet

POSE = PoseConfig(azimuth=(0.0, 0.0), y=(-0.1, 0.06))
SMALL = GeneratorConfig(
    resolution=16, rays=16, object_channels=(6, 6), background_channels=(6, 6, 4), field_dim=16, features=6,
    w_dim=12, z_dim=8, mask_channels=4, samples=4, pose=POSE,
)  # fmt: skip


def test_poses_of_a_prepared_set_are_read_within_its_boxes(tmp_path):
    torch.manual_seed(0)
    generator = Generator(SMALL).eval().requires_grad_(False)
    reader = PoseReader(ReaderConfig(resolution=16, channels=(8, 10), pose=POSE)).eval().requires_grad_(False)
    card = {"config": {"data": {"size": 16, "object_margin": 1.5, "jitter": 0.3, "jitter_size": True}}}
    save_generator(tmp_path / "car.safetensors", generator, card=card)
    (tmp_path / "readers").mkdir()
    save_generator(tmp_path / "readers" / "car.safetensors", reader)
    (tmp_path / "set" / "images").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "set" / "images" / "0.png")
    (tmp_path / "set" / "index.csv").write_text(
        "file,split,label,width,height,x0,y0,x1,y1\n0.png,train,car,90,60,50,10,80,40\n"
    )
    arguments = ["--data", str(tmp_path / "set"), "--checkpoint", str(tmp_path / "car.safetensors")]
    assert giraffe.main(["read-poses", *arguments, "--out", str(tmp_path / "poses.csv")]) == 0
    with (tmp_path / "poses.csv").open(newline="") as file:
        [line] = csv.DictReader(file)
    seen, whole = (
        PictureSet(tmp_path / "set", DataConfig(size=16, object_margin=margin)).get([0]).image for margin in (1.5, None)
    )
    wanted, other = (knobs_read(generator, reader.read(image)) for image in (seen, whole))
    for name in ("rotation", "elevation", "x", "y"):
        assert float(line[name]) == pytest.approx(float(wanted[name]), rel=1e-3, abs=1e-3)
    assert float(line["rotation"]) != pytest.approx(float(other["rotation"]), abs=0.1)
