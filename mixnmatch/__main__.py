"""Commands: python -m mixnmatch mix | vary | grid | interpolate | video | split.

Photos are cropped as the model's training photos were. Models of objects take the square around the object, which is
given (`--box`) or found (`--crop`); models of whole pictures take the centre square. The aspect ratio and the colours
are kept.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import PIL.Image
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from mixnmatch.codes import FACTOR_TABLE, FACTORS, Codes, with_factor
from mixnmatch.fast.split_shape import Split
from mixnmatch.photos import Crop, Cutter, boxes_for
from training.batched import repeat
from training.checkpoint import load_generator, read_card
from training.command import exit_code
from training.films import there_and_back
from training.imaging.video import probe, read_film
from training.interpolation import interpolate
from training.invertible import InvertsPhotos
from training.objects import margin_of
from training.pictures import FILMS, PixelBox, is_film, side_by_side, write_animation, write_sheet
from training.resize import resized
from training.types import Generator, Image

log = logging.getLogger(__name__)

Factor = Literal["background", "pose", "shape", "texture"]
Mode = Literal["code", "feature"]
"""`code`: pose and shape from two photos. `feature`: both, aligned with the pixels, from the photo of the shape."""


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Options of every command: the model, its photos, and the output."""

    checkpoint: Path
    """A MixNMatch generator file."""
    out: Path
    """The file to write; its ending decides the format."""
    crop: Crop = "auto"
    """How to find the object in a photo without a box: `finder` (the bundled network), `backdrop` (by colour, before a
    plain background), `mask` (the model's own mask) or `centre`. `auto`, for models trained on objects, takes a
    confident result of the finder or the backdrop, else the model's own mask."""
    box: Annotated[tuple[PixelBox, ...], tyro.conf.arg(metavar="X Y W H")] = ()
    """Boxes of the objects in pixels, one for each photo, in the order of the command's options."""
    boxes: Path | None = None
    """Boxes as JSON: {"photo.jpg": [x, y, w, h], ...}; other photos are cropped by `crop`."""
    refine: int = 0
    """Steps that optimise each photo's codes after it was read, for models of the continuous design: 60 bring its own
    colours and outline back."""
    size: int | None = None
    """Side of the output pictures in pixels; by default the model's own."""

    def draws(self, generator: Generator) -> Any:
        """Return the generator at the output size."""
        return generator if self.size is None else generator.at(self.size)

    def cutter(self, paths: Sequence[Path]) -> Cutter:
        """Return the reader of this command's photos. Raises: ValueError for a model without encoders, or unusable
        boxes."""
        generator = load_generator(self.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
        if not hasattr(generator, "encode"):
            raise ValueError(f"{self.checkpoint.name} is of the family {generator.family}, which reads no photos")
        if self.refine:
            if not isinstance(generator, InvertsPhotos):
                raise ValueError(f"--refine is for models of the continuous design; got one of {generator.family}")
            generator = generator.with_steps(self.refine)  # type: ignore[attr-defined]
        known = boxes_for(paths, self.box, self.boxes)
        return Cutter(generator, margin_of(read_card(self.checkpoint)), self.crop, known)


@dataclass(frozen=True, kw_only=True)
class Mix(Photos):
    """Mix up to four photos: the background of one, the pose of another, the shape of a third, the texture of a fourth.

    Sketches and cartoons also work: `--mode feature --shape SKETCH` keeps their outline.
    """

    background: Path | None = None
    """Photo whose background is taken."""
    pose: Path | None = None
    """Photo whose pose is taken."""
    shape: Path | None = None
    """Photo whose shape is taken."""
    texture: Path | None = None
    """Photo whose texture is taken. Factors without a photo are sampled with `seed`."""
    mode: Mode = "code"
    """`code` reads pose and shape as codes; `feature` keeps the outline of the photo given as --shape."""
    layers: bool = False
    """Also write the layers, as OUT-background.png, OUT-parent.png, OUT-mask.png and so on."""
    seed: int = 0
    """Random seed of the factors without a photo."""

    def run(self) -> dict[str, Any]:
        """Write the mix; return the files, photos and boxes."""
        photos = {name: path for name in FACTORS if (path := getattr(self, name)) is not None}
        if self.mode == "feature" and self.shape is None:
            raise ValueError("feature mode takes pose and shape from the photo given as --shape; got none")
        if self.mode == "feature" and photos.pop("pose", None) is not None:
            log.warning("feature mode takes the pose from the photo given as --shape: --pose is left out")
        cut = self.cutter(list(photos.values()))
        generator = cut.generator
        codes = generator.sample(1, torch.Generator().manual_seed(self.seed))
        for name, path in photos.items():
            codes = generator.set(codes, name, cut(path))
        feature = None
        if self.mode == "feature" and self.shape is not None:
            feature = generator.shape_feature(cut(self.shape))  # type: ignore[operator]
        layers = self.draws(generator)(codes, feature=feature)
        write_sheet(self.out, layers.image, 1)
        written = [str(self.out)]
        if self.layers:
            for name in layers.__dataclass_fields__:
                if name != "image":
                    beside = self.out.with_name(f"{self.out.stem}-{name.replace('_', '-')}.png")
                    write_sheet(beside, as_picture(getattr(layers, name)), 1)
                    written.append(str(beside))
        named = {name: str(path) for name, path in photos.items()}
        return {"out": str(self.out), "files": written, "photos": named, "boxes": cut.boxes}


@dataclass(frozen=True, kw_only=True)
class Vary(Photos):
    """Keep three factors of each photo and sample the fourth: one row a photo, the photo itself first."""

    photos: tuple[Path, ...]
    """Photos whose codes are varied."""
    factor: Factor = "texture"
    """The factor that is sampled; the others are kept."""
    n: int = 7
    """Samples for each photo."""
    seed: int = 0
    """Random seed of the samples."""

    def run(self) -> dict[str, Any]:
        """Write the rows; return the file, its layout and the boxes."""
        if self.n < 1:
            raise ValueError(f"--n is {self.n}; ask for at least 1 draw a photo")
        cut = self.cutter(self.photos)
        generator, sheet = cut.generator, []
        draws = self.draws(generator)
        for picture in cut.all(self.photos).split(1):
            codes = repeat(generator.encode(picture), self.n)  # type: ignore[operator]
            seeds = self.seed + torch.arange(self.n)
            drawn = draws(generator.set(codes, f"{self.factor}_seed", seeds)).image
            sheet += [resized(picture, draws.resolution), drawn]
        write_sheet(self.out, torch.cat(sheet), self.n + 1)
        size = {"rows": len(self.photos), "columns": self.n + 1}
        return {"out": str(self.out), "factor": self.factor, **size, "boxes": cut.boxes}


@dataclass(frozen=True, kw_only=True)
class Grid(Photos):
    """Combine every row photo with every column photo, which gives one or more factors.

    Column photos are shown on top, row photos at the left.
    """

    rows: tuple[Path, ...]
    """Photos of the rows."""
    columns: tuple[Path, ...]
    """Photos of the columns."""
    take: tuple[Factor, ...] = ("texture",)
    """Factors taken from the column's photo."""

    def run(self) -> dict[str, Any]:
        """Write the grid; return the file, its layout and the boxes."""
        cut = self.cutter([*self.rows, *self.columns])
        generator = cut.generator
        draws = self.draws(generator)
        down, across = cut.all(self.rows), cut.all(self.columns)
        givers: Codes = generator.encode(across)  # type: ignore[operator]
        shown = resized(across, draws.resolution)
        sheet = [torch.ones_like(shown[:1]), shown]
        for picture in down.split(1):
            codes = repeat(generator.encode(picture), len(across))  # type: ignore[operator]
            for factor in self.take:
                codes = with_factor(codes, factor, givers)
            sheet += [resized(picture, draws.resolution), draws(codes).image]
        write_sheet(self.out, torch.cat(sheet), len(across) + 1)
        size = {"rows": len(down), "columns": len(across)}
        return {"out": str(self.out), "take": list(self.take), **size, "boxes": cut.boxes}


@dataclass(frozen=True, kw_only=True)
class Interpolate(Photos):
    """Interpolate between two photos: one row for each factor, then one for all of them together.

    On a sheet a row shows the first photo, `steps` pictures and the second photo; a film plays all rows at once,
    forward and back.
    """

    photos: Annotated[tuple[Path, Path], tyro.conf.Positional]
    """The first and the second photo."""
    factor: tuple[Factor, ...] = ()
    """Factors to interpolate, the others staying the first photo's; by default all."""
    steps: int = 8
    """Pictures of a row, both ends included."""
    mode: Mode = "code"
    """In `feature` mode pose and shape are one factor, called shape."""
    fps: int = 12
    """Frames a second."""
    still: bool = False
    """Write a sheet where the ending allows a film too (.webp)."""

    def run(self) -> dict[str, Any]:
        """Write the rows; return the file, its layout and the boxes."""
        if self.steps < 2:
            raise ValueError(f"--steps is {self.steps}; an interpolation needs at least 2")
        if self.mode == "feature" and "pose" in self.factor:
            raise ValueError("in feature mode pose and shape are one; ask for --factor shape, or for --mode code")
        factors = self.factor or tuple(name for name in FACTORS if self.mode == "code" or name != "pose")
        ways = [(name,) for name in factors] + ([factors] if len(factors) > 1 else [])
        cut = self.cutter(self.photos)
        start, end = cut.all(self.photos).split(1)
        film = is_film(self.out, fps=self.fps, still=self.still)
        places = [i / (self.steps - 1) for i in range(self.steps)]
        rows = torch.stack([self._interpolated(cut.generator, start, end, which, places) for which in ways])
        start, end = (resized(photo, rows.shape[-1]) for photo in (start, end))
        if film:
            ends = [photo[None].expand(*rows.shape[:2], -1, -1, -1) for photo in (start, end)]
            there = torch.stack([ends[0], rows, ends[1]], 2).transpose(0, 1).flatten(1, 2)  # (steps, rows * 3, ...)
            frames = torch.stack(there_and_back(list(there)))
            write_animation(self.out, side_by_side(frames, 3), fps=self.fps)
        else:
            sheet = torch.cat([torch.cat([start, row, end]) for row in rows])
            write_sheet(self.out, sheet, self.steps + 2)
        named = ["+".join(which) for which in ways]
        frames_of = {"frames": 2 * self.steps - 2 if film else self.steps}
        return {"out": str(self.out), "rows": named, **frames_of, "mode": self.mode, "boxes": cut.boxes}

    def _interpolated(
        self, generator: Any, start: Image, end: Image, factors: Sequence[str], places: Sequence[float]
    ) -> Float[Tensor, "places 3 side side"]:
        """Return the pictures at `places`, from 0 (start) to 1 (end), of an interpolation of `factors`."""
        draws = self.draws(generator)
        a, b = generator.encode(start), generator.encode(end)
        a, b = (replace(c, z_background=c.z if c.z_background is None else c.z_background) for c in (a, b))
        names = [name for factor in factors for name in FACTOR_TABLE[factor].fields]
        here, there = ({name: getattr(codes, name) for name in names} for codes in (a, b))
        pictures = []
        for at in places:
            feature = None
            if self.mode == "feature":
                feature = generator.shape_feature(start)
                if "shape" in factors:
                    feature = torch.lerp(feature, generator.shape_feature(end), at)
            pictures.append(draws(replace(a, **interpolate(here, there, at)), feature=feature).image)
        return torch.cat(pictures)


@dataclass(frozen=True, kw_only=True)
class Video(Photos):
    """Generate a film: pose and shape from each frame of a reference film, background and texture from photos.

    All frames are cropped to the same box: the one given for the film, or the object's in the first frame.
    """

    reference: Path
    """A film of the moving object, in any format that ffmpeg reads, or an animated picture."""
    background: Path | None = None
    """Photo whose background is taken."""
    texture: Path | None = None
    """Photo whose texture is taken. Factors without a photo are read from the first frame."""
    mode: Mode = "feature"
    """`feature` follows the outline of every frame; `code` keeps the shape of the first frame."""
    fps: float | None = None
    """Frames a second; by default the reference's."""
    most: int = 240
    """Largest number of frames to read; a longer film is cut there, with a warning."""

    def run(self) -> dict[str, Any]:
        """Write the film; return the file, its frames and the boxes."""
        if self.out.suffix.lower() not in FILMS or not is_film(self.out, fps=1 if self.fps is None else self.fps):
            raise ValueError(f"cannot write {self.out.name}: expected a name that ends in {', '.join(FILMS)}")
        given = [path for path in (self.background, self.texture) if path is not None]
        cut = self.cutter([self.reference, *given])
        generator: Any = cut.generator
        frames = cut.film(self.reference, film(self.reference, self.most))
        still: Codes = generator.encode(frames[:1])
        for name in ("background", "texture"):
            if (path := getattr(self, name)) is not None:
                still = generator.set(still, name, cut(path))
        pictures, draws = [], self.draws(generator)
        for part in frames.split(32):
            codes = repeat(still, len(part))
            if self.mode == "feature":
                layers = draws(codes, feature=generator.shape_feature(part))
            else:
                layers = draws(replace(codes, z=generator.encode(part, factors=("pose",)).z))
            pictures.append(layers.image)
        write_animation(self.out, torch.cat(pictures), fps=probe(self.reference).fps if self.fps is None else self.fps)
        return {"out": str(self.out), "frames": len(frames), "mode": self.mode, "boxes": cut.boxes}


def film(path: Path, most: int) -> Iterator[PIL.Image.Image]:
    """Yield the frames of a film, at most `most`. Raises: ValueError if it cannot be read or has none."""
    for n, frame in enumerate(read_film(path)):
        if n == most:
            log.warning("%s has more than %d frames; only those were read", path.name, most)
            return
        yield PIL.Image.fromarray(frame)


def as_picture(layer: torch.Tensor) -> Image:
    """Return a layer of one or three channels as a picture; masks become grey, 0 black and 1 white."""
    return layer if layer.shape[1] == 3 else layer.expand(-1, 3, -1, -1) * 2 - 1


@torch.no_grad()
def main(arguments: list[str]) -> int:
    """Run one command and print its result as a line of JSON; return 0, or 2 after an error, which is logged in one
    sentence."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    command = tyro.extras.subcommand_cli_from_dict(
        {"mix": Mix, "vary": Vary, "grid": Grid, "interpolate": Interpolate, "video": Video, "split": Split},
        args=arguments,
        prog="python -m mixnmatch",
    )
    return exit_code(lambda: print(json.dumps(command.run())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
