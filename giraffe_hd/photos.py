"""Commands about photos: invert them, and read the poses in them."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.prior import pose_values
from giraffe_hd.fast.reader import PoseRead, load_reader
from giraffe_hd.invert import reader_of
from training.checkpoint import load_generator, read_card
from training.data.folder import PictureSet, evaluation_data
from training.files import write_whole
from training.inversion import PhotoOptions, read_photo
from training.objects import margin_of
from training.types import Image

PHOTOS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, kw_only=True)
class Invert(PhotoOptions):
    """Find the codes of a photo, or of several photos of one object: its pose, shape, look and background."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Photos of one object, of which each gives a recipe."""
    checkpoint: Path
    """A file of a fast GIRAFFE HD, its pose reader beside it."""
    reader: Path | None = None
    """The pose reader; by default the one beside the checkpoint."""

    def run(self) -> dict[str, Any]:
        """Write the recipes; return where the knobs stand."""
        return self.write(self.checkpoint, self.photos, reader=self.reader and load_reader(self.reader))


@dataclass(frozen=True, kw_only=True)
class ReadPoses:
    """Read the pose of every picture of a folder or a prepared set, and write them as a table."""

    data: Path
    """A folder of pictures, or a prepared set."""
    checkpoint: Path
    """A file of a fast GIRAFFE HD, its pose reader beside it."""
    out: Path
    """The table, a .csv: file, rotation and elevation in degrees, scale, x and y as the knobs have them, certainty."""

    def run(self) -> dict[str, Any]:
        """Write the table; return how many pictures were read."""
        generator = load_generator(self.checkpoint)
        if not isinstance(generator, Generator):
            raise ValueError(
                f"{self.checkpoint.name} is a {generator.family}; poses are read for fast GIRAFFE HD models"
            )
        reader = reader_of(generator)
        columns = ["rotation", "elevation", "scale", "x", "y", "certainty"]
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["file", *columns])
        count = 0
        for name, image in self._pictures(generator):
            read = reader.read(image)
            count += 1
            knobs = knobs_read(generator, read) | {"certainty": read.certainty}
            writer.writerow([name, *(f"{float(knobs[name]):.5g}" for name in columns)])
        write_whole(self.out, table.getvalue().encode("utf-8", "surrogateescape"))
        return {"out": str(self.out), "pictures": count}

    def _pictures(self, generator: Generator) -> Iterator[tuple[str, Image]]:
        """Yield names and pictures, cut around their objects as those that the generator learned from."""
        if (self.data / "index.csv").is_file():
            config = replace(evaluation_data(self.checkpoint, generator), jitter=0.0, jitter_size=False)
            pictures = PictureSet(self.data, config, None, memory=0)
            for i, name in enumerate(pictures.files):
                yield name, pictures.get([i]).image
            return
        margin = margin_of(read_card(self.checkpoint))
        for path in sorted(self.data.iterdir()):
            if path.suffix.lower() in PHOTOS:
                yield path.name, read_photo(path, generator, margin)


def knobs_read(generator: Generator, read: PoseRead) -> dict[str, torch.Tensor]:
    """Return where the knobs stand for poses that were read."""
    n, device = len(read.rotation), read.rotation.device
    pose = replace(
        generator.sample(n, torch.Generator().manual_seed(0)),
        rotation=read.rotation,
        elevation=read.elevation,
        scale=read.scale[:, None] * torch.tensor(generator.config.pose.proportions, device=device),
        translation=torch.stack([torch.zeros(n, device=device), read.y, read.z], 1),
    )
    return pose_values(pose, generator.config.pose)
