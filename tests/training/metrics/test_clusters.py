"""Codes against labels and chance, mixes against their givers, and which samples are free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from mixnmatch.fast.generator import Generator as FastGenerator
from mixnmatch.paper.generator import Generator as PaperGenerator
from tests.toys import Patches
from training.data.folder import PictureSet
from training.metrics import swaps
from training.metrics.clusters import codes_used
from training.metrics.features import Features
from training.metrics.regression import rotation_fit
from training.metrics.swaps import tied_by_default
from training.types import Batch


@dataclass
class Shares:
    c: torch.Tensor


class Labelled(PictureSet):
    """200 pictures, each of one of 20 labels."""

    def __init__(self) -> None:
        self.labels = torch.arange(200) % 20
        self.label_names = tuple(f"kind {k}" for k in range(20))

    def __len__(self) -> int:
        return len(self.labels)

    def get(self, indices: Sequence[int]) -> Batch:
        image = self.labels[list(indices)].float()
        return Batch(image=image[:, None, None, None].expand(-1, 3, 1, 1), index=tuple(indices))


def test_codes_that_read_nothing_agree_with_labels_as_by_chance():
    rng = torch.Generator().manual_seed(0)

    def blind(image: torch.Tensor) -> Shares:
        return Shares(torch.eye(20)[torch.randint(20, (len(image),), generator=rng)])

    found = codes_used(blind, Labelled())["c"]
    assert (found["pictures"], found["values"]) == (200, 20)
    assert found["accuracy"] > 0.1  # twice 1 / 20, of so few pictures
    assert found["accuracy"] == pytest.approx(found["accuracy_by_chance"], abs=0.05)
    assert found["nmi"] == pytest.approx(found["nmi_by_chance"], abs=0.05)


def test_codes_that_read_labels_are_above_chance():
    found = codes_used(lambda image: Shares(torch.eye(20)[19 - image[:, 0, 0, 0].long()]), Labelled())["c"]
    assert found["accuracy"] == 1 and found["nmi"] == pytest.approx(1)
    assert found["accuracy_by_chance"] < 0.25
    assert found["perplexity_of_choices"] == pytest.approx(20)


def test_mixes_must_face_as_their_photos_do():
    angle = torch.arange(0.0, 360, 10)
    right, turned, reversed_ = (rotation_fit(angle, read) for read in (angle + 4, angle + 180, -angle))
    assert (right.error, right.flips, right.within_15) == (pytest.approx(4.0, abs=1e-3), 0.0, 1.0)
    assert (turned.error, turned.flips) == (pytest.approx(180.0), 1.0)
    assert turned.error_unflipped == pytest.approx(0.0, abs=1e-3)
    assert reversed_.error > 45 and reversed_.flips == pytest.approx(0.5, abs=0.1)


def test_free_samples_are_not_tied():
    assert tied_by_default(PaperGenerator.__new__(PaperGenerator)) is True
    assert tied_by_default(FastGenerator.__new__(FastGenerator)) is False
    assert tied_by_default(Patches()) is None


def test_distances_of_free_samples_are_of_untied_codes(monkeypatch):
    asked = []

    class Recorded(Patches):
        def sample(self, n: int, rng: torch.Generator, tied: bool = True) -> Any:
            asked.append(tied)
            return super().sample(n, rng)

    def counted(images: Iterable[torch.Tensor], n: int, *_: Any, **how: Any) -> int:
        assert sum(len(image) for image in images) == n
        return n

    monkeypatch.setattr(swaps, "statistics", counted)
    monkeypatch.setattr(swaps, "real_statistics", lambda *_, **how: 0)
    monkeypatch.setattr(swaps, "distances", lambda *_, **how: {"KD-x": 1.0})
    monkeypatch.setattr(swaps, "photo_mixes", lambda *_, **how: iter([torch.zeros(8, 3, 4, 4)]))
    features = Features(network=None, device=torch.device("cpu"), inception=False, digest="", stem="x")
    monkeypatch.setattr(Features, "dim", 100, raising=False)
    found = swaps._distances(Recorded(), Labelled(), Labelled(), features, 8, 0)
    assert found.keys() == {"free", "tied", "photos"}
    assert asked == [False, True]
