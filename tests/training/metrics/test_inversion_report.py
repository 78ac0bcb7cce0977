"""What is measured of photos' codes: values worked by hand, and a whole report on a few rendered cars."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from giraffe_hd.fast.config import GeneratorConfig
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.reader import PoseReader, ReaderConfig
from training.checkpoint import load_generator, save_generator
from training.config import DataConfig
from training.data.cars.factors import sample_factors
from training.data.cars.render import render, render_place
from training.data.folder import PictureSet
from training.data.prepare_cars import PrepareCars
from training.metrics.figures import figure, figures, plain
from training.metrics.inversion import colour_error, measure_inversion, psnr
from training.metrics.report import Report
from training.metrics.report_html import write_page

SMALL = GeneratorConfig(
    resolution=16, rays=16, object_channels=(6, 6), background_channels=(6, 6, 4), field_dim=16, features=6,
    w_dim=12, z_dim=8, mask_channels=4, samples=4,
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Invert in two steps."""
    whole = Generator.invert
    monkeypatch.setattr(
        Generator, "invert", lambda self, photo, **options: whole(self, photo, coarse=1, fine=1, **options)
    )


def test_psnr_is_that_of_numbers_from_0_to_1():
    a = torch.zeros(1, 3, 2, 2)
    b = a.clone()
    b[..., 0] = 0.2  # a tenth of the range, in half of the picture
    assert float(psnr(a, b)) == pytest.approx(10 * np.log10(1 / 0.005), abs=1e-3)
    left = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    assert float(psnr(a, b, left)) == pytest.approx(20, abs=1e-3)


def test_colour_error_compares_means_within_each_mask():
    a, b = torch.full((1, 3, 2, 2), -1.0), torch.full((1, 3, 2, 2), 1.0)
    b[:, 0, :, 0] = -1.0
    left = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    assert colour_error(a, left, b, left) == pytest.approx(2 / 3 * 255)
    assert colour_error(a, left, b, 1 - left) == pytest.approx(255)


def test_places_are_the_renders_without_their_cars():
    factors = sample_factors(2, seed=0)
    place, drawn = render_place(factors, 32), render(factors, 32)
    outside = (drawn.mask == 0).expand_as(place)
    assert torch.equal(place[outside], drawn.image[outside])
    assert not torch.equal(place[~outside], drawn.image[~outside])


@pytest.mark.usefixtures("quick")
def test_a_report_has_figures_and_both_baselines(tmp_path):
    torch.manual_seed(0)
    save_generator(tmp_path / "car.safetensors", Generator(SMALL))
    save_generator(tmp_path / "reader.safetensors", PoseReader(ReaderConfig(resolution=16, channels=(8, 10))))
    PrepareCars(out=tmp_path / "cars", size=16, count=1, test=3, workers=1).run()
    pictures = PictureSet(tmp_path / "cars", DataConfig(size=16), "test")
    generator = load_generator(tmp_path / "car.safetensors")
    found = measure_inversion(generator, pictures, n=3)
    assert found is not None and found.n == 3
    names = {f"novel_{turn}_{what}" for turn in (60, 120, 180) for what in ("object_psnr", "mask_iou")}
    assert names <= found.figures.keys() and all(names <= beside.keys() for beside in found.baselines.values())
    assert {"inversion_rotation_error", "hidden_place_psnr", "repaint_colour_error"} <= found.figures.keys()
    assert len(found.baselines) == 2 and all(np.isfinite(v) for v in found.figures.values())
    truth = render(replace(sample_factors(3, seed=0, stream=1)), 16)
    torch.testing.assert_close(found.pictures["turned"][0::8], truth.image)

    report = Report(
        name="car", family="giraffe_hd", images_seen=1, sha256="", data="cars", split="test", n=3, seed=0, versions={},
        inversion=found,
    )  # fmt: skip
    flat = figures(report)
    assert flat["novel_60_object_psnr (photo left as it is)"] > 0
    assert figure("novel_120_object_psnr", 17.0).better == "more"
    assert json.loads(json.dumps(plain(report)))["inversion"]["n"] == 3
    write_page(tmp_path / "report.html", report, flat)
    page = (tmp_path / "report.html").read_text()
    assert "Photos as codes" in page and "another car in the true pose" in page


@pytest.mark.usefixtures("quick")
def test_photo_sets_are_rebuilt_and_turned_there_and_back(tmp_path):
    torch.manual_seed(0)
    save_generator(tmp_path / "car.safetensors", Generator(SMALL))
    save_generator(tmp_path / "reader.safetensors", PoseReader(ReaderConfig(resolution=16, channels=(8, 10))))
    PrepareCars(out=tmp_path / "cars", size=16, count=2, test=0, workers=1).run()
    pictures = PictureSet(tmp_path / "cars", DataConfig(size=16))
    pictures.factors.clear()
    generator = load_generator(tmp_path / "car.safetensors")
    found = measure_inversion(generator, pictures, n=2)
    assert found is not None and np.isfinite(found.figures["closed_loop_120_object_psnr"])
    assert "novel_60_object_psnr" not in found.figures
