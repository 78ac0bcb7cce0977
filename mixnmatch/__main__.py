"""Commands: python -m mixnmatch mix | vary | grid | video.

Photos are cut to their middle square and resized; cut them beforehand as the model's training photos were.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import imageio.v2 as imageio
import PIL.Image
import torch
import tyro

from mixnmatch.codes import Codes
from training.checkpoint import load_generator
from training.pictures import from_pil, open_picture, tile, whole_file, write_animation
from training.types import Generator, Image, repeat

Factor = Literal["background", "pose", "shape", "texture"]
FACTORS: tuple[Factor, ...] = ("background", "pose", "shape", "texture")
Mode = Literal["code", "feature"]
"""`code`: pose and shape from two photos. `feature`: both, aligned with the pixels, from the photo of the shape."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Paint the background of one photo, the pose of another, the shape of a third, the texture of a fourth."""

    checkpoint: Path
    """A MixNMatch generator file."""
    out: Path
    """The picture to write; its layers go beside it where `layers` is on."""
    background: Path | None = None
    pose: Path | None = None
    shape: Path | None = None
    texture: Path | None = None
    """Photos; a factor without one is drawn from `seed`."""
    mode: Mode = "code"
    layers: bool = False
    """Write background, shape and masks too, as OUT-background.png and so on."""
    seed: int = 0

    def run(self) -> dict[str, Any]:
        """Write the mix; return what was written."""
        generator = reader(self.checkpoint)
        codes = generator.sample(1, torch.Generator().manual_seed(self.seed))
        photos = {name: path for name in FACTORS if (path := getattr(self, name)) is not None}
        for name, path in photos.items():
            codes = generator.set(codes, name, photo(path, generator))
        feature = None
        if self.mode == "feature":
            if self.shape is None:
                raise ValueError("feature mode takes pose and shape from the photo given as --shape; none came")
            feature = generator.shape_feature(photo(self.shape, generator))  # type: ignore[operator]
        layers = generator(codes, feature=feature)
        written = [save(layers.image, self.out, 1)]
        if self.layers:
            for name in layers.__dataclass_fields__:
                if name != "image":
                    beside = self.out.with_name(f"{self.out.stem}-{name.replace('_', '-')}.png")
                    written.append(save(as_picture(getattr(layers, name)), beside, 1))
        return {"out": str(self.out), "files": written, "photos": {k: str(v) for k, v in photos.items()}}


@dataclass(frozen=True, kw_only=True)
class Vary:
    """Hold three factors of each photo and draw the fourth anew: a row a photo, the photo itself first."""

    checkpoint: Path
    photos: tuple[Path, ...]
    out: Path
    """The picture to write."""
    factor: Factor = "texture"
    n: int = 7
    """Draws a photo."""
    seed: int = 0

    def run(self) -> dict[str, Any]:
        """Write the rows; return what was written."""
        if self.n < 1:
            raise ValueError(f"--n is {self.n}; ask for at least 1 draw a photo")
        generator = reader(self.checkpoint)
        sheet = []
        for picture in photos(self.photos, generator).split(1):
            codes = repeat(generator.encode(picture), self.n)  # type: ignore[operator]
            seeds = self.seed + torch.arange(self.n)
            sheet += [picture, generator(generator.set(codes, f"{self.factor}_seed", seeds)).image]
        save(torch.cat(sheet), self.out, self.n + 1)
        return {"out": str(self.out), "factor": self.factor, "rows": len(self.photos), "columns": self.n + 1}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Cross photos: each row keeps its photo, but takes one factor from the photo of the column."""

    checkpoint: Path
    rows: tuple[Path, ...]
    columns: tuple[Path, ...]
    out: Path
    """The picture to write: column photos on top, row photos at the left."""
    take: tuple[Factor, ...] = ("texture",)
    """What comes from the column's photo."""

    def run(self) -> dict[str, Any]:
        """Write the grid; return what was written."""
        generator = reader(self.checkpoint)
        down, across = photos(self.rows, generator), photos(self.columns, generator)
        givers: Codes = generator.encode(across)  # type: ignore[operator]
        white = torch.ones_like(across[:1])
        sheet = [white, across]
        for picture in down.split(1):
            codes = repeat(generator.encode(picture), len(across))  # type: ignore[operator]
            for factor in self.take:
                codes = taken(codes, givers, factor)
            sheet += [picture, generator(codes).image]
        save(torch.cat(sheet), self.out, len(across) + 1)
        return {"out": str(self.out), "take": list(self.take), "rows": len(down), "columns": len(across)}


@dataclass(frozen=True, kw_only=True)
class Video:
    """Paint a film: pose and shape from each frame of a reference film, background and texture from photos."""

    checkpoint: Path
    reference: Path
    """A film, or an animated picture, of the object that moves."""
    out: Path
    """The film to write: .mp4, .webp or .gif."""
    background: Path | None = None
    texture: Path | None = None
    """Photos; a factor without one is read from the first frame."""
    mode: Mode = "feature"
    """In `code` mode the shape stays that of the first frame."""
    fps: int = 12
    most: int = 240
    """Frames to read at most."""

    def run(self) -> dict[str, Any]:
        """Write the film; return what was written."""
        generator = reader(self.checkpoint)
        frames = torch.cat(list(film(self.reference, generator.resolution, self.most)))
        still: Codes = generator.encode(frames[:1])  # type: ignore[operator]
        for name in ("background", "texture"):
            if (path := getattr(self, name)) is not None:
                still = generator.set(still, name, photo(path, generator))
        painted = []
        for part in frames.split(32):
            codes = repeat(still, len(part))
            if self.mode == "feature":
                layers = generator(codes, feature=generator.shape_feature(part))  # type: ignore[operator]
            else:
                layers = generator(replace(codes, z=generator.encode(part, factors=("pose",)).z))  # type: ignore[operator]
            painted.append(layers.image)
        write_animation(self.out, torch.cat(painted), fps=self.fps)
        return {"out": str(self.out), "frames": len(frames), "mode": self.mode}


FIELDS: dict[str, tuple[str, ...]] = {
    "background": ("b", "z_background"),
    "pose": ("z",),
    "shape": ("p",),
    "texture": ("c",),
}
"""Factor -> the codes that hold it."""


def taken(codes: Codes, givers: Codes, factor: str) -> Codes:
    """Return `codes` with one factor of `givers`, row by row."""
    return replace(codes, **{name: getattr(givers, name) for name in FIELDS[factor]})


def reader(checkpoint: Path) -> Generator:
    """Return the generator of a file, which must be able to read photos. Raises: ValueError if it isn't."""
    generator = load_generator(checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    if not hasattr(generator, "encode"):
        raise ValueError(f"{checkpoint.name} is of the family {generator.family}, which reads no photos")
    return generator


def photo(path: Path, generator: Generator) -> Image:
    """Return a photo at the generator's size. Raises: PictureError if it cannot be read."""
    return from_pil(open_picture(path), generator.resolution).to(generator.device)


def photos(paths: Sequence[Path], generator: Generator) -> Image:
    """Return photos at the generator's size. Raises: ValueError if there are none."""
    if not paths:
        raise ValueError("no photos came; give at least one path")
    return torch.cat([photo(path, generator) for path in paths])


def film(path: Path, size: int, most: int) -> Iterator[Image]:
    """Return the frames of a film, at most `most`. Raises: ValueError if it cannot be read or has none."""
    if not path.is_file():
        raise ValueError(f"there is no film at {path}; give the path of a video or of an animated picture")
    n = 0
    try:
        with imageio.get_reader(path) as frames:
            for frame in frames:  # type: ignore[attr-defined]
                if n == most:
                    break
                n += 1
                yield from_pil(PIL.Image.fromarray(frame), size)
    except (OSError, RuntimeError, SyntaxError) as error:
        raise ValueError(f"{path.name} cannot be read as a film ({error}); give an .mp4, .webm or .gif") from error
    if n == 0:
        raise ValueError(f"{path.name} has no frames; give another film")


def as_picture(layer: torch.Tensor) -> Image:
    """Return a layer of one or three channels as a picture; masks run from black to white."""
    return layer if layer.shape[1] == 3 else layer.expand(-1, 3, -1, -1) * 2 - 1


def save(image: Image, path: Path, columns: int) -> str:
    """Write pictures as one sheet; return its path. Raises: ValueError for an ending that no picture has."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"cannot write {path.name}: wanted a name that ends in .png, .jpg or .webp")
    sheet = tile(image, columns)
    with whole_file(path) as temporary:
        sheet.save(temporary)
    return str(path)


@torch.no_grad()
def main(arguments: list[str]) -> int:
    """Run one command, printing one line of JSON; return 0, or 2 after a caller's mistake, said in one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    command = tyro.extras.subcommand_cli_from_dict(
        {"mix": Mix, "vary": Vary, "grid": Grid, "video": Video}, args=arguments, prog="python -m mixnmatch"
    )
    try:
        print(json.dumps(command.run()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
