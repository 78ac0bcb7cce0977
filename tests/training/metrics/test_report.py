"""The evaluation command from a generator to files that a person and a program can read."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from tests.places import CHECKPOINTS
from tests.toys import Blocks, BlocksConfig, Patches
from training.config import DataConfig
from training.metrics import report as report_module
from training.metrics import turn_evaluator
from training.metrics.figures import OTHER, better, figure, kind_of, plain
from training.metrics.report import Evaluate, Report, held_out, quick_figures
from training.metrics.turn_evaluator import TurnEvaluator
from training.pictures import to_pil
from training.types import Generator


class Reader(HTMLParser):
    """Collects a page's headings, text and addresses, and that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [v for k in ("src", "href") if (v := values.get(k))]
        assert tag != "img" or values.get("alt"), "a picture without a description"
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert not reader.open
    assert reader.addresses
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)  # nothing from elsewhere
    assert not re.search(r"\bnan\b|None", reader.text)
    return reader


def small_blocks() -> Blocks:
    return Blocks(BlocksConfig(size=24, steps=8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A prepared set of the toy's pictures with masks."""
    folder = tmp_path / "pictures"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    toy = Patches()
    layers = toy(toy.sample(40, torch.Generator().manual_seed(0)))
    masks = to_pil(layers.mask.expand(-1, 3, -1, -1) * 2 - 1)
    for i, (picture, mask) in enumerate(zip(to_pil(layers.image), masks, strict=True)):
        picture.save(folder / "images" / f"{i}.png")
        mask.convert("L").save(folder / "masks" / f"{i}.png")
        lines.append(f"{i}.png,{'train' if i < 4 else 'test'},kind {i % 3},64,64,,,,")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder


def use(generator: Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the command find `generator` where it looks for a checkpoint, and no weights of others' networks."""

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    monkeypatch.setattr(report_module, "load_generator", lambda path, device: generator.eval())
    card = {"images_seen": 1234, "sha256": "ab" * 32, "config": {"data": {"size": 64}}}
    monkeypatch.setattr(report_module, "read_card", lambda path: card)
    monkeypatch.setattr("training.data.folder.read_card", lambda path: card)
    return tmp_path / "<toy> & co.safetensors"


def test_knobs_become_a_page_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = use(small_blocks(), monkeypatch, tmp_path)
    films = tmp_path / "films.safetensors"
    save_file(TurnEvaluator().state_dict(), films)
    monkeypatch.setattr(turn_evaluator, "VISIBLE", 1000)
    Evaluate(checkpoint=checkpoint, out=tmp_path / "out", n=32, card=True, turn_evaluator=films).run()
    page = read_page(tmp_path / "out" / "report.html")
    assert "<toy> & co" in page.text
    assert "read by a network that learned from films" in page.text
    assert "1,234 pictures seen" in page.text
    assert "--lpips-weights FILE" in page.text  # says what it could not measure, and why
    found: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["figures"]["scale_slope"] == pytest.approx(found["knobs"]["following"][0]["fit"]["slope"], rel=1e-4)
    assert found["figures"]["turn_seen"] == 1
    assert found["figures"]["turn_slope"] == pytest.approx(found["turns"]["seen"]["slope"], rel=1e-4)
    assert found["figures"]["background_foreground_changed"] == 0
    assert found["figures"]["shape_background_changed"] == 0
    assert found["figures"]["mutual_background_own masks"] == 0
    assert (
        found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"] == torch.__version__
    )
    assert json.loads(checkpoint.with_suffix(".json").read_text())["figures"] == found["figures"]
    assert json.loads(capsys.readouterr().out)["scale_slope"] == found["figures"]["scale_slope"]


def test_swaps_become_a_page_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = use(Patches(), monkeypatch, tmp_path)
    Evaluate(checkpoint=checkpoint, data=data, out=tmp_path / "out", n=32, n_distance=0).run()
    page = read_page(tmp_path / "out" / "report.html")
    assert "Does a mix take from each photo what it should?" in page.text
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["split"] == "test"
    assert found["swaps"]["swaps"]["rows"] == ["background", "pose", "shape", "texture"]
    assert set(found["figures"]) >= {
        "swap_diagonal", "swap_leakage", "swap_diagonal_over_leak", "pose_follows", "pose_leaks", "given_mask_iou_code",
        "given_mask_iou_feature",
    }  # fmt: skip
    assert found["swaps"]["codes_used"]["c"]["values"] == 3
    assert json.loads(capsys.readouterr().out)["swap_diagonal"] == found["figures"]["swap_diagonal"]


def test_distances_are_measured_with_any_network_beside_their_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    from tests.training.metrics.small_networks import SmallNetwork, scripted

    torch.manual_seed(0)
    checkpoint = use(Patches(), monkeypatch, tmp_path)
    network = scripted(SmallNetwork(6), tmp_path / "small.pt")
    command = Evaluate(checkpoint=checkpoint, data=data, out=tmp_path / "out", n=32, n_distance=4, features=network)
    command.run()
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "KD-small" in found["distances"]
    assert "real against real KD-small" in found["distances"]
    assert any("needs 7 pictures" in note for note in found["notes"])
    command = Evaluate(checkpoint=checkpoint, data=data, out=tmp_path / "out", n=32, n_distance=30, features=network)
    command.run()
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(found["swaps"]["distances"]) == {"free", "photos"}
    assert found["distances"]["FD-small"] > 0
    assert "FD-small" in read_page(tmp_path / "out" / "report.html").text


def test_the_pages_pictures_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import base64
    import io

    Evaluate(checkpoint=use(small_blocks(), monkeypatch, tmp_path), out=tmp_path / "out", n=32).run()
    for address in read_page(tmp_path / "out" / "report.html").addresses:
        with PIL.Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))) as picture:
            picture.load()
            low, high = picture.convert("L").getextrema()
            assert isinstance(low, (int, float))
            assert isinstance(high, (int, float))
            assert picture.width > 100
            assert high > low  # something is drawn


def test_pictures_held_out_are_found_by_any_name_and_distances_go_where_there_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    from tests.training.metrics.small_networks import SmallNetwork, scripted

    index = data / "index.csv"
    lines = index.read_text().replace(",test,", ",train,").splitlines()
    index.write_text("\n".join([*lines[:-5], *(line.replace(",train,", ",validation,") for line in lines[-5:])]))
    torch.manual_seed(0)
    network = scripted(SmallNetwork(6), tmp_path / "small.pt")
    checkpoint = use(Patches(), monkeypatch, tmp_path)
    command = Evaluate(checkpoint=checkpoint, data=data, out=tmp_path / "out", n=32, n_distance=30, features=network)
    command.run()
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (found["split"], found["swaps"]["n"]) == ("validation", 5)  # photos never trained on are mixed
    assert (found["compared"], found["n_distance"]) == ("train", 30)  # five are too few for six dimensions
    assert found["distances"]["FD-small"] > 0
    with pytest.raises(ValueError, match="dev"):
        replace(command, split="dev").run()
    index.write_text(index.read_text().replace(",train,", ",validation,"))  # a set for measuring alone
    command.run()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["split"] == "validation"


def test_better_knows_which_way_a_figure_goes() -> None:
    assert better("rotation_error", 3.0, 5.0)
    assert better("y_r2", 0.9, 0.8)
    assert better("p_perplexity", 9.0, 2.0)
    assert better("p_perplexity_of_choices", 9.0, 2.0)
    assert better("rotation_slope", 1.1, 0.8)
    assert better("rotation_slope", -1.0, 0.3)  # which way round is the run's own choice
    assert not better("scale_slope", -1.0, 0.3)
    assert better("look_mask_iou", 0.99, 0.9)
    assert better("shape_mask_iou", 0.84, 0.99)
    assert better("given_mask_iou_code", 0.9, 0.8)
    assert better("rotation_error", 3.0, math.nan)
    assert not better("rotation_error", math.nan, 3.0)
    assert not better("y_r2", math.nan, math.nan)


def test_a_damaged_picture_held_out_is_said_and_not_passed_over(data: Path) -> None:
    config = DataConfig(size=64)
    found = held_out(data, config)
    assert found is not None
    assert found[1] == "test"
    victim = data / "images" / found[0].files[0]
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(ValueError, match=victim.name):
        held_out(data, config)


def test_an_unknown_segmenter_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--segmenter is 'cars'; DeepLab finds aeroplane"):
        Evaluate(checkpoint=tmp_path / "a.safetensors", out=tmp_path, segmenter="cars").run()


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least 32"):
        Evaluate(checkpoint=tmp_path / "a.safetensors", out=tmp_path, n=5).run()


def test_quick_figures_are_flat_numbers() -> None:
    found = quick_figures(small_blocks().eval(), n=32)
    assert found["scale_slope"] > 0
    assert all(isinstance(value, float) for value in found.values())


def test_every_figure_of_the_cards_is_in_the_table() -> None:
    cards = [json.loads(path.read_text()) for path in CHECKPOINTS.glob("*.json")]
    names = {name for card in cards if card["family"] != "yolact" for name in card["figures"]}
    assert [name for name in sorted(names) if kind_of(name) is OTHER] == []
    assert kind_of("rotation_mask_iou").better == "neither"
    assert kind_of("look_mask_iou").better == "more"
    assert kind_of("novel_60_mask_iou (photo left as it is)") == kind_of("novel_60_mask_iou")._replace(better="neither")
    assert kind_of("real against real FD-inception").better == "neither"
    assert figure("shape_leaks", 0.2).unit == "share"
    assert not better("mask_mean", 0.1, 0.9)


@pytest.mark.parametrize("wrong", [{"n_distance": 1}, {"n_distance": -1}, {"inversion": -2}])
def test_counts_that_measure_nothing_are_refused_at_once(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 0, which leaves the part out"):
        Evaluate(checkpoint=tmp_path / "a.safetensors", out=tmp_path, **wrong).run()  # type: ignore[arg-type]
    assert plain({"KD": math.nan, "FD": 1.0}) == {"KD": None, "FD": 1.0}


def test_a_part_that_cannot_be_measured_loses_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*args: object, **kwargs: object) -> None:
        raise ValueError("there is no pose reader")

    monkeypatch.setattr(report_module, "measure_inversion", lacks)
    for given, says in ((data, "inversion: left out (there is no pose reader)"), (None, "no photos were given")):
        out, checkpoint = tmp_path / str(given is None), use(small_blocks(), monkeypatch, tmp_path)
        out.mkdir()
        Evaluate(checkpoint=checkpoint, data=given, out=out, n=32, inversion=4, n_distance=0).run()
        written = json.loads((out / "report.json").read_text())
        assert any(says in note for note in written["notes"])
        assert written["figures"]["scale_slope"] > 0


@pytest.mark.parametrize("before", ["these", "others", "unknown"])
def test_a_card_keeps_figures_of_the_same_weights_only(tmp_path: Path, before: str) -> None:
    report = Report(
        name="a", family="x", images_seen=1, sha256="ab" * 32, data="d", split="test", n=32, seed=0, versions={}
    )
    card = {"title": "A", "figures": {"FD-x": 250.0}, "sha256": {"these": "ab" * 32, "others": "cd" * 32}.get(before)}
    if before == "unknown":
        del card["sha256"]
    (tmp_path / "a.json").write_text(json.dumps(card))
    Evaluate(checkpoint=tmp_path / "a.safetensors", out=tmp_path, card=True).write(report)
    after = json.loads((tmp_path / "a.json").read_text())
    assert after["sha256"] == "ab" * 32
    assert after["figures"].get("FD-x") == (250.0 if before == "these" else None)
    assert after.get("title") == (None if before == "others" else "A")
