"""Publishing of a run as a bundled model: weights in half precision, and a card with their origin and figures."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from training.checkpoint import (
    MOST_CARD,
    CheckpointError,
    generator_file,
    load_model,
    newest_state,
    read_card,
    read_card_beside,
    save_state,
    tensors_sha256,
)
from training.files import check_folder, write_whole
from training.types import Generator

log = logging.getLogger(__name__)

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST_BYTES = 20_000_000
LISTS = ("left_out", "said")
"""Values of a set.json that name single photos, of which there can be thousands; its counts tell how many."""


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Write OUT (.safetensors) and its card (same stem, .json) from the averaged generator of a run.

    An existing OUT is replaced; the initial knobs of the page, `start` in its card, are kept.
    """

    run_dir: Path
    """The run folder of `train`."""
    out: Path
    """The file to write, such as checkpoints/giraffe-hd-cars-64.safetensors."""
    generator: str = "generator.safetensors"
    """Which file of the run: its last averaged generator, or best.safetensors."""
    title: str
    """Title in the page's menu of models."""
    data: Path
    """The prepared set it was trained on; its set.json goes into the card."""
    command: str
    """The training command, for the card."""
    report: Path | None = None
    """report.json of `python -m training evaluate`, or `... segment evaluate`, on that file; its figures
    go into the card."""
    notes: str = ""
    """Notes for users: what works, what does not."""
    licence: str = "CC0-1.0"
    """The licence that the card names."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """How weights are stored; bfloat16 halves the file."""
    reader: Path | None = None
    """The generator's pose reader, which goes into the folder `readers` beside OUT under OUT's name."""
    state: Path | None = None
    """Folder for the run's newest resume state in bfloat16, one for each model: a copy of it is a run that can be
    resumed elsewhere, though not bit for bit. An existing state is replaced."""

    def run(self) -> None:
        """Write both files atomically; print the card. Raises: ValueError for an unusable run, report or name."""
        if self.out.suffix != ".safetensors":
            raise ValueError(f"{self.out} is no name for a generator file; end it in .safetensors")
        if self.out.is_dir():
            raise ValueError(f"{self.out} is a folder; give the name of a file, such as {self.out / 'car.safetensors'}")
        check_folder(self.out.parent)
        source = self.run_dir / self.generator
        generator, seen = load_model(source), read_card(source)
        report = _report_of(self.report) if self.report else {}
        if report and seen["sha256"] not in (report.get("sha256"), *report.get("sha256_of", {}).values()):
            raise ValueError(f"{self.report} is of other weights than {source}; evaluate that file, then publish it")
        if self.state and (self.state / "config.json").exists():
            raise ValueError(f"--state {self.state} is a run's own folder; give one for the published state alone")
        card = {
            "title": self.title,
            "family": seen["family"],
            "data": _set_of(self.data),
            "licence": self.licence,
            "images_seen": seen.get("images_seen"),
            "command": self.command,
            "trained": datetime.now(UTC).date().isoformat(),
            "parameters": sum(p.numel() for p in generator.parameters()),
            "resolution": generator.resolution if isinstance(generator, Generator) else generator.config.size,
            "stored_as": self.dtype,
            "notes": self.notes,
            "figures": _figures_of(report, str(seen["sha256"])),
            "measured_on": _measured_on(report),
            "config": seen.get("config", {}),
        }
        reader = None
        if self.reader:
            reader, card["reader"] = _reader_of(self.reader, seen["family"])
        if start := _start_of(self.out):
            card["start"] = start
        found = newest_state(self.run_dir) if self.state else None
        if self.state and found is None:
            raise CheckpointError(f"{self.run_dir} has no resume state; leave out --state")
        if self.state:
            check_folder(self.state, "--state")
        # the card is inside too, in case the process is killed before the one beside it is written
        content = generator_file(generator, card=card, dtype=DTYPES[self.dtype])
        if len(content) > MOST_BYTES:
            raise CheckpointError(
                f"{self.out.name} would be {len(content) / 1e6:.1f} MB; a bundled model has under 20 MB"
            )
        card |= {"bytes": len(content), "sha256": tensors_sha256(content)}
        beside = self._text_of(card)
        if self.state and found is not None:
            save_state(self.state, found[0]["images"], _halved(found[0]), keep=1)
        if reader is not None:
            write_whole(self.out.parent / "readers" / self.out.name, reader)
        write_whole(self.out, content)
        write_whole(self.out.with_suffix(".json"), beside)
        print(json.dumps({k: card[k] for k in ("title", "images_seen", "parameters", "bytes", "sha256")}))

    def _text_of(self, card: Mapping[str, Any]) -> bytes:
        """Return the content of the card's file. Raises: CheckpointError if it would be too large to be read."""
        text = (json.dumps(card, indent=1) + "\n").encode()
        if len(text) > MOST_CARD:
            raise CheckpointError(
                f"the card of {self.out.name} would have {len(text) / 1e6:.1f} MB, and 1 MB at most is read; "
                f"shorten --notes, --command or the set.json of {self.data}"
            )
        return text


def _reader_of(path: Path, family: str) -> tuple[bytes, dict[str, Any]]:
    """Return the file of a pose reader, and what the generator's card says of it. Raises: ValueError for another
    model."""
    network, card = load_model(path), read_card(path)
    if network.family != f"{family}_reader":
        raise ValueError(f"--reader {path} holds a {network.family}; expected a reader of `giraffe_hd train-reader`")
    content = generator_file(network, card=_plain_card(path), dtype=torch.bfloat16)
    figures = card.get("error_on_recombined_samples", {}) | card.get("knobs", {})
    return content, {"bytes": len(content), "sha256": tensors_sha256(content), **figures}


def _report_of(path: Path) -> dict[str, Any]:
    """Return the content of a report. Raises: ValueError for a missing or another file."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(report, dict) and all(isinstance(report.get(k, {}), dict) for k in ("figures", "sha256_of")):
            return report
        reason = "its figures are no object"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise ValueError(f"{path} is no report ({reason}); give the report.json that `python -m training evaluate` wrote")


def _measured_on(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report says of how its figures were found."""
    if not report:
        return {}
    from training.metrics.report import MEASURED_ON  # with its plots, which take seconds to load

    return {name: report[name] for name in MEASURED_ON if name in report}


def _plain_card(path: Path) -> dict[str, Any]:
    """Return the card inside a file, without what its metadata says beside it."""
    return {k: v for k, v in read_card(path, beside=False).items() if k not in ("family", "sha256")}


def _figures_of(report: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """Return the figures of a generator's report, or those of the model with this checksum in a finder's report."""
    named = [name for name, checksum in report.get("sha256_of", {}).items() if checksum == sha256]
    return report["models"][named[0]] if named else report.get("figures", {})


def _start_of(out: Path) -> dict[str, Any]:
    """Return a published model's initial knobs: those of the card beside it, else of the card inside.

    The card beside it may be of other weights, as an earlier `publish` may have been killed between the two files.
    """
    inside = partial(read_card, beside=False)
    for read, path in ((read_card_beside, out.with_suffix(".json")), (inside, out)):
        if path.is_file():
            try:
                if start := read(out).get("start"):
                    return start
            except CheckpointError as error:
                log.warning("%s is replaced: %s", path.name, error)
    return {}


def _halved(state: Any) -> Any:
    """Return nested plain values with every float32 tensor in bfloat16."""
    if isinstance(state, dict):
        return {key: _halved(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_halved(value) for value in state]
    return state.bfloat16() if isinstance(state, torch.Tensor) and state.dtype == torch.float32 else state


def _set_of(data: Path) -> dict[str, Any]:
    """Return the content of `set.json`, without paths of the machine on which it was made and names of photos."""
    path, coco = data / "set.json", data / "train.json"
    if not path.is_file() and not coco.is_file():
        raise ValueError(f"{data} has no set.json; give the prepared set that the run was trained on")
    found = json.loads((path if path.is_file() else coco).read_text(encoding="utf-8"))
    made = found if path.is_file() else found.get("info", {}) | {"pictures": len(found["images"])}
    return {k: v for k, v in made.items() if k not in LISTS and not (isinstance(v, str) and v.startswith("/"))}
