"""Import of the authors' checkpoints: python -m training import-official FILE... --out OUT.safetensors.

The files are pickles. Only tensors and plain values are read from them; code in them is never run.
"""

import argparse
import codecs
import contextlib
import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
import tyro

from training.checkpoint import save_generator
from training.files import check_folder
from training.foreign import check_archive, check_content, python_numbers, tables
from training.registry import officials, preset, resolve
from training.types import Model


def _numpy_types() -> list[Any]:
    """Return NumPy's constructors of scalars and numeric arrays, under their names in versions 1 and 2."""
    made = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
    named = [(made[n], f"numpy.{core}.multiarray.{n}") for n in made for core in ("core", "_core")]
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSU"}
    return [*named, np.ndarray, np.dtype, *kinds, (codecs.encode, "_codecs.encode")]


PLAIN: list[Any] = [
    argparse.Namespace,
    *_numpy_types(),
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
]
"""Types, besides tensors, numbers, strings and containers, that a file's training settings may contain."""

PACKED = {
    b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive", b"BZh": "a bzip2 archive", b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}  # fmt: skip
"""First bytes of archives, and their names."""


def read_plain(path: Path) -> Any:
    """Return the content of a `torch.save` file, on the CPU; formats from PyTorch 0.4 on are read.

    Raises: ValueError for a file that is missing, truncated, of another format, or that contains anything but tensors
    and plain values.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the authors' checkpoint")
    _check_kind(path)
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):  # files from before PyTorch 1.6 are no archives
            check_archive(path, size)
        with torch.serialization.safe_globals(PLAIN):
            content = torch.load(path, map_location="cpu", weights_only=True)
        check_content(content, size)
        return python_numbers(content)
    except Exception as error:  # a damaged or hostile file may raise anything
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is not None:
            raise ValueError(
                f"{path.name} is refused: besides tensors and plain values it holds {foreign[1]}, which is not run"
            ) from error
        raise ValueError(
            f"{path.name} is not a whole PyTorch checkpoint ({type(error).__name__}); download it again"
        ) from error


def _check_kind(path: Path) -> None:
    """Raise ValueError for files that downloads often give instead of a checkpoint, such as web pages."""
    with path.open("rb") as file:
        start = file.read(512)
    kind = next((kind for mark, kind in PACKED.items() if start.startswith(mark)), None)
    if kind is None and start[257:262] == b"ustar":
        kind = "a tar archive"
    if kind == "a zip archive" and zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if any(name.endswith("/data.pkl") for name in archive.namelist()):
                return  # what torch.save writes
    elif kind is None or kind in ("a zip archive", "a tar archive"):
        text = start.lstrip().lower()
        if text.startswith((b"<!doctype html", b"<html")):
            raise ValueError(f"{path.name} is a web page, not a checkpoint; follow the download on that page")
        if text.startswith(b"version https://git-lfs"):
            raise ValueError(f"{path.name} is a pointer of Git LFS, not the checkpoint; fetch it with `git lfs pull`")
        if kind != "a tar archive" or _old_torch(path):
            return
    raise ValueError(f"{path.name} is {kind}; unpack it and give the checkpoint files that are in it")


def _old_torch(path: Path) -> bool:
    """Return whether a tar archive is a checkpoint of PyTorch before 0.1.10."""
    with contextlib.suppress(tarfile.TarError), tarfile.open(path) as archive:
        return "storages" in archive.getnames()
    return False


def family_of(path: Path) -> str:
    """Return the family of an official checkpoint, by its keys. Raises: ValueError if it is not one."""
    content = read_plain(path)
    for family, official in officials().items():
        for _, table in tables(content):
            if any(isinstance(key, str) and re.fullmatch(official.marks, key) for key in table):
                return family
    keys = [str(key)[:40] for key in content] if isinstance(content, Mapping) else []
    shown = f"its entries are {', '.join(keys[:6])}{', ...' if len(keys) > 6 else ''}" if keys else "it is no table"
    raise ValueError(
        f"{path.name} is no official checkpoint: {shown}; GIRAFFE HD's has g_ema (the averaged generator, not "
        f"`g`) and args, MixNMatch's G.pth, E.pth and EX.pth have its networks' weights, YOLACT's backbone.* and fpn.*"
    )


def read_official(files: Sequence[Path]) -> Model:
    """Return the model in the authors' `files`, in evaluation mode on the CPU.

    Raises: ValueError for files that are damaged, hostile, unknown, of several models or incomplete.
    """
    families = {family_of(path): path for path in files}
    if len(families) != 1:
        raise ValueError(f"the files are of {len(families)} families; give the files of one model at a time")
    [family] = families
    official = officials()[family]
    if len(files) > official.most:
        raise ValueError(f"got {len(files)} files, a {family} checkpoint has at most {official.most}; give those alone")
    return resolve(official.reader)(*files)


@dataclass(frozen=True, kw_only=True)
class ImportOfficial:
    """Convert the authors' checkpoint to a generator file: one .pt of GIRAFFE HD, G.pth E.pth EX.pth of MixNMatch, or
    one .pth of YOLACT."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """The authors' files, unchanged."""
    out: Path
    """Where to write the generator, ending in .safetensors."""

    def run(self) -> None:
        """Write the generator file atomically; print its family and sizes as one JSON line.

        Raises: ValueError for files that cannot be imported.
        """
        if not self.files:
            raise ValueError("got no file to import; give the authors' checkpoint")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"{self.out} is no name for a generator file; end it in .safetensors")
        check_folder(self.out.parent)
        generator = read_official(self.files)
        sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files}
        cut = asdict(preset(officials()[generator.family].preset).data) | {"size": generator.resolution}
        card = {"source": "the authors' own checkpoint; their terms apply", "files": sources, "config": {"data": cut}}
        save_generator(self.out, generator, card=card)
        parameters = sum(parameter.numel() for parameter in generator.parameters())
        print(json.dumps({"out": str(self.out), "family": generator.family, "parameters": parameters}))
