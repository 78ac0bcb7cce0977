"""The authors' own checkpoints as generator files: python -m training import-official FILE... --out OUT.safetensors.

They are pickles. Only tensors and plain values are taken from them; code in them is never run.
"""

import argparse
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from training.checkpoint import save_generator
from training.registry import OFFICIAL, preset, resolve
from training.types import Model

PLAIN: list[Any] = [argparse.Namespace]
"""Types beyond tensors, numbers, strings and containers of them that may occur in a file: settings of its training."""


def read_plain(path: Path) -> Any:
    """Return what a file of `torch.save` holds, on the CPU; formats from PyTorch 0.4 on are read.

    Raises: ValueError for a file that is missing, cut short, no such file at all, or that holds anything but tensors
    and plain values.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the authors' checkpoint")
    try:
        _check_archive(path)
        with torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes can fail in any way; whichever, the file is not one we read
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is not None:
            raise ValueError(
                f"{path.name} is refused: besides tensors and plain values it holds {foreign[1]}, which is not run"
            ) from error
        raise ValueError(
            f"{path.name} is not a whole PyTorch checkpoint ({type(error).__name__}); download it again"
        ) from error


def _check_archive(path: Path) -> None:
    """Raise ValueError for an archive that would unpack to more than it is, or whose checksums do not hold.

    Checkpoints are stored uncompressed; PyTorch itself does not look at the checksums. Files from before PyTorch 1.6
    are no archives.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")
            if archive.testzip() is not None:
                raise ValueError("its checksums do not hold")


def family_of(path: Path) -> str:
    """Return the family whose official checkpoint a file is, by the keys in it; ValueError if it is none."""
    content = read_plain(path)
    keys = [key for key in content if isinstance(key, str)] if isinstance(content, Mapping) else []
    for family, official in OFFICIAL.items():
        if any(re.fullmatch(official.marks, key) for key in keys):
            return family
    raise ValueError(
        f"{path.name} is no official checkpoint of {' or '.join(OFFICIAL)}: none of their networks is in it"
    )


def read_official(files: Sequence[Path]) -> Model:
    """Return the generator that the authors' `files` hold, in evaluation mode on the CPU.

    Raises: ValueError, in one sentence, for files that are damaged, hostile, unknown, mixed or incomplete.
    """
    families = {family_of(path): path for path in files}
    if len(families) != 1:
        raise ValueError(f"the files are of {len(families)} families; give the files of one model at a time")
    [family] = families
    official = OFFICIAL[family]
    if len(files) > official.most:
        raise ValueError(
            f"{len(files)} files came, a {family} checkpoint has at most {official.most}; give those alone"
        )
    return resolve(official.reader)(*files)


@dataclass(frozen=True, kw_only=True)
class ImportOfficial:
    """Turn the authors' checkpoint into a generator file: one .pt of GIRAFFE HD, or G.pth E.pth EX.pth of MixNMatch."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """The authors' files, as they come."""
    out: Path
    """Where to write the generator, ending in .safetensors."""

    def run(self) -> None:
        """Write the generator file, whole or not at all; print its family and sizes as one JSON line.

        Raises: ValueError for files that cannot be imported; nothing is written then.
        """
        if not self.files:
            raise ValueError("no file to import was named; give the authors' checkpoint")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"{self.out} is no name for a generator file; end it in .safetensors")
        generator = read_official(self.files)
        sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files}
        cut = asdict(preset(OFFICIAL[generator.family].preset).data) | {"size": generator.resolution}
        card = {"source": "the authors' own checkpoint; their terms apply", "files": sources, "config": {"data": cut}}
        save_generator(self.out, generator, card=card)
        parameters = sum(parameter.numel() for parameter in generator.parameters())
        print(json.dumps({"out": str(self.out), "family": generator.family, "parameters": parameters}))
