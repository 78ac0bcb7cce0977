"""Generator files and resume states that are damaged, hostile or of earlier versions."""

import hashlib
import io
import json
import logging
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from giraffe_hd.fast.generator import Generator
from tests.benchmarks.kills import TINY
from tests.places import CHECKPOINTS
from training.checkpoint import (
    CheckpointError,
    checksum,
    load_generator,
    load_model,
    newest_state,
    read_card,
    save_generator,
    save_state,
    tensor_hash,
)
from training.loop.run import Run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_generator(path, Generator(TINY.generator).eval(), card={"title": "tiny"})
    return path


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return Run(TINY, Path("none"), torch.device("cpu")).state()


def content_of(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def forged(model: Path, out: Path, *, config: Any = None, tensors: Any = None) -> Path:
    """Write `model` with other config fields or tensors, its sums as its author would have them."""
    metadata, state = content_of(model)
    metadata["config"] = json.dumps(json.loads(metadata["config"]) | (config or {}))
    state |= tensors or {}
    metadata["sha256"] = tensor_hash(state)
    metadata["checksum"] = checksum(metadata)
    out.write_bytes(save(state, metadata))
    return out


def test_seventy_flipped_bits_in_the_config_are_all_found(model, tmp_path):
    content = model.read_bytes()
    config = content_of(model)[0]["config"].replace('"', '\\"').encode()
    start, rng = content.index(config), random.Random(0)
    for _ in range(70):
        flipped = bytearray(content)
        flipped[start + rng.randrange(len(config))] ^= 1 << rng.randrange(8)
        (tmp_path / "g.safetensors").write_bytes(flipped)
        with pytest.raises(CheckpointError):
            load_generator(tmp_path / "g.safetensors")


def test_another_family_config_or_card_under_the_same_sum_is_damage(model, tmp_path):
    for name, value in (("family", "giraffe"), ("config", "{}"), ("card", '{"title": "better"}')):
        metadata, state = content_of(model)
        (tmp_path / "g.safetensors").write_bytes(save(state, metadata | {name: value}))
        with pytest.raises(CheckpointError, match="damaged: its family, config or card"):
            load_generator(tmp_path / "g.safetensors")


def test_a_file_of_an_earlier_version_loads_with_a_warning(model, tmp_path, caplog):
    metadata, state = content_of(model)
    del metadata["checksum"]
    (tmp_path / "old.safetensors").write_bytes(save(state, metadata))
    load_generator(tmp_path / "old.safetensors")
    assert "old.safetensors was written by an earlier version" in caplog.text
    old = json.loads(metadata["config"])
    del old["octaves"]  # a field that came later takes its default
    metadata["config"] = json.dumps(old)
    (tmp_path / "old.safetensors").write_bytes(save(state, metadata))
    assert load_generator(tmp_path / "old.safetensors").config == TINY.generator


def test_bundled_files_are_covered_by_their_sums(caplog):
    for path in CHECKPOINTS.glob("*.safetensors"):
        load_model(path)
        assert read_card(path)["bytes"] == path.stat().st_size
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_unknown_fields_are_named(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"unknown field 'colour'; a newer version may know it"):
        load_generator(forged(model, tmp_path / "g.safetensors", config={"colour": 3}))
    pose = json.loads(content_of(model)[0]["config"])["pose"] | {"tilt": 1.0}
    with pytest.raises(CheckpointError, match=r"unknown field 'pose\.tilt'"):
        load_generator(forged(model, tmp_path / "g.safetensors", config={"pose": pose}))


def test_a_field_that_is_gone_may_have_the_value_that_is_built_now(tmp_path):
    model = CHECKPOINTS / "mixnmatch-cars-64.safetensors"
    load_generator(forged(model, tmp_path / "g.safetensors", config={"extent": [1.0, 1.0, 1.0]}))
    with pytest.raises(CheckpointError, match="unknown field 'extent'"):
        load_generator(forged(model, tmp_path / "g.safetensors", config={"extent": [0.5, 1.0, 1.0]}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mapping_layers": 10_000_000}, "far more layers or numbers than the file has"),
        ({"w_dim": 1_000_000}, "more layers or numbers than"),
        ({"mapping_layers": 10_000}, "far more layers or numbers than the file has"),
        ({"samples": 2**40}, "far more layers or numbers than the file has"),
        ({"z_dim": 9}, "of the shape of .* asks for .* and the file has"),
        ({"z_dim": "nine"}, "z_dim: .*integer"),
        ({"density": float("nan")}, "NaN, which is no number"),
    ],
)
def test_a_config_that_its_weights_do_not_fit_takes_no_memory(model, tmp_path, config, message):
    path, start = forged(model, tmp_path / "g.safetensors", config=config), time.monotonic()
    before = peak()
    with pytest.raises(CheckpointError, match=message) as error:
        load_generator(path)
    assert "\n" not in str(error.value)
    assert peak() - before < 50_000
    assert time.monotonic() - start < 5


def peak() -> int:
    """Return the most memory that this process has had, in kB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(model, tmp_path, value):
    name, weight = next((n, t) for n, t in content_of(model)[1].items() if t.numel() > 4)
    weight = weight.clone()
    weight.view(-1)[3] = value
    with pytest.raises(CheckpointError, match=f"not finite numbers, first in {name}; copy or train it again"):
        load_generator(forged(model, tmp_path / "g.safetensors", tensors={name: weight}))


CARDS = (
    "[]", "3", "null", '"card"', '[["title", "x"]]', "{", '{"config": 3}', '{"config": {"data": []}}',
    '{"figures": "good"}', '{"start": [1]}', "[" * 100_000, "\udc80",
)  # fmt: skip


@pytest.mark.parametrize("text", CARDS, ids=range(len(CARDS)))
def test_cards_that_are_none_are_named_in_one_sentence(model, tmp_path, text):
    path = Path(shutil.copy(model, tmp_path / "g.safetensors"))
    path.with_suffix(".json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"g\.json is not the card of g\.safetensors") as error:
        read_card(path)
    assert "\n" not in str(error.value)
    metadata, state = content_of(model)
    metadata["card"] = text.encode(errors="replace").decode()
    metadata["checksum"] = checksum(metadata)
    path.write_bytes(save(state, metadata))
    with pytest.raises(CheckpointError, match=r"the card inside g\.safetensors is not the card"):
        read_card(path, beside=False)


def test_what_is_no_file_is_not_waited_for(model, tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        load_generator(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="is a folder; give the path of"):
        load_generator(tmp_path)
    path = Path(shutil.copy(model, tmp_path / "g.safetensors"))
    os.mkfifo(path.with_suffix(".json"))
    assert read_card(path)["title"] == "tiny"  # a pipe is no card
    path.with_suffix(".json").unlink()
    path.with_suffix(".json").symlink_to("/dev/zero")
    assert read_card(path)["title"] == "tiny"


def put(folder: Path, images: int, content: bytes) -> Path:
    """Write `content` as a state whose name holds its checksum."""
    path = folder / f"state-{images:010d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


def saved(state: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def deflated(state: dict[str, Any]) -> bytes:
    """Return a state whose zeros are packed: a few kB that unpack to 80 MB."""
    big, buffer = saved(state | {"average": {"x": torch.zeros(20_000_000)}}), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(big)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return buffer.getvalue()


def nested(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state of few bytes that unfolds to a billion values."""
    value: list[Any] = [0]
    for _ in range(30):
        value = [value, value]
    return state | {"optimizers": {"G": value}}


BROKEN: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "compressed": deflated,
    "one number repeated": lambda s: saved(s | {"average": {"x": torch.zeros(1).half().expand(10**9)}}),
    "unfolding": lambda s: saved(nested(s)),
    "before 1.6": lambda s: saved(s, _use_new_zipfile_serialization=False),
    "no archive": lambda s: b"state",
    "cut": lambda s: saved(s)[:-3000],
    "no table": lambda s: saved([s]),
    "nothing": lambda s: saved({}),
    "other pictures": lambda s: saved(s | {"images": "many"}),
    "before the start": lambda s: saved(s | {"images": -4, "index": -1}),
    "rate": lambda s: saved(s | {"lr_factor": float("nan")}),
    "no tensors": lambda s: saved(s | {"networks": {"x": 3}}),
    "sparse": lambda s: saved(s | {"average": {"x": torch.zeros(10**6, 10**6, layout=torch.sparse_coo)}}),
    "not finite": lambda s: saved(s | {"average": {"x": torch.tensor([1.0, float("nan")])}}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_state_that_cannot_be_read_gives_way_to_the_one_before(state, tmp_path, caplog, kind):
    save_state(tmp_path, 0, state)
    bad = put(tmp_path, 900, BROKEN[kind](state))
    before = peak()
    found = newest_state(tmp_path)
    assert found is not None
    assert (found[0]["images"], found[1]) == (0, [bad.name])
    assert "Type-check" not in caplog.text  # a fault of ours
    assert f"{bad.name} cannot be used and was skipped: " in caplog.text
    assert kind == "compressed" or peak() - before < 50_000
    save_state(tmp_path, 8, state | {"images": 8}, keep=1)
    assert [path.name[:16] for path in tmp_path.iterdir()] == ["state-0000000008"]


def test_links_and_pipes_among_states_are_passed_over(state, tmp_path, caplog):
    elsewhere = put(tmp_path, 900, saved(state))
    folder = tmp_path / "run"
    save_state(folder, 0, state)
    (folder / elsewhere.name).symlink_to(elsewhere)
    os.mkfifo(folder / "state-0000000950-0123456789abcdef.pt")
    (folder / "state-0000000960-0123456789abcdef.pt").symlink_to("/dev/zero")
    (folder / "state-0000000970-0123456789abcdef.pt").mkdir()
    found = newest_state(folder)
    assert found is not None
    assert (found[0]["images"], len(found[1])) == (0, 4)
    save_state(folder, 8, state | {"images": 8})
    assert elsewhere.is_file()
