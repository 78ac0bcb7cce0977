"""A further model costs one entry in the table of families, a further tab one line; both are trained or shown here."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from demo import app
from demo.models import Models, load_model
from tests.benchmarks.kills import squares
from tests.serving import result_of
from tests.third_model import FAMILY
from training.loop.train import train
from training.registry import FAMILIES, preset


class Means(nn.Module):
    """Features of a picture: its mean colour."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.float().mean((2, 3))


def test_a_third_model_trains_is_measured_and_joins_the_page(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "third", FAMILY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but networks to compare with are of it
        torch.jit.save(torch.jit.script(Means()), tmp_path / "means.pt")
    config = preset("third")
    measured = {"figures_every": 8, "figures_n": 32, "figures_distance": 6, "figures_features": tmp_path / "means.pt"}
    config = replace(config, loop=replace(config.loop, **measured))
    file = train(config, squares(tmp_path / "set"), tmp_path / "run", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    distances = [line["figures/fd"] for line in lines if "figures/fd" in line]
    assert len(distances) == 2
    model = load_model(file, "cpu")
    with torch.no_grad():
        codes = model.generator.sample(1, torch.Generator())
        first, second = (model.generator(model.generator.set(codes, "look", seed)).image for seed in (1, 2))
    assert not torch.equal(first, second)
    models = Models([model])
    assert [each.name for each in models] == [model.name]
    monkeypatch.setattr(app, "TABS", [*app.TABS, app.Tab("third", "A third tab", "third-studio")])

    async def laid_out() -> list[dict]:  # Gradio leaves event loops open where none runs
        return [part["props"] for part in app.page(models).config["components"]]

    shown = result_of(laid_out())
    assert [part["label"] for part in shown if part.get("id") in ("knobs", "mix", "cutouts", "third")] == [
        "Turn the knobs",
        "Cut out objects",
        "A third tab",
    ]
    assert any(part.get("value") == "<third-studio></third-studio>" for part in shown)
    models.close()
