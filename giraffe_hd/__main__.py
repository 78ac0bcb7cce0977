"""Commands: python -m giraffe_hd render | vary | turntable | mesh, for every family of this package; and for the fast
one invert, fit-prior, train-reader and read-poses."""

import json
import logging
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from giraffe_hd.codes import Codes
from giraffe_hd.fast.fit_prior import FitPrior
from giraffe_hd.fast.generator import Generator as FastGenerator
from giraffe_hd.fast.train_reader import TrainReader
from giraffe_hd.invert import with_own_weights
from giraffe_hd.mesh import MESHES, object_mesh, write_mesh
from giraffe_hd.mesh_colour import vertex_colours
from giraffe_hd.photos import Invert, ReadPoses
from training.batched import rows, stack
from training.checkpoint import load_generator
from training.codes_file import read_codes, read_weights
from training.command import exit_code
from training.films import codes_between, knob_values, there_and_back, turn_offsets, write_frames
from training.pictures import is_film, write_sheet
from training.types import Generator, Image, Knob

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Which scenes a command starts from."""

    checkpoint: Path
    """A generator file, trained here or imported."""
    out: Path
    """What to write; the ending says how."""
    n: int = 4
    """Scenes, drawn at random."""
    seed: int = 0
    """Of the codes that are drawn."""
    codes: tuple[Path, ...] = ()
    """Recipes of inverted photos (`invert`, or the page) to start from instead of `n` draws, a scene each."""
    set: tuple[str, ...] = ()
    """Knobs to set first, as in --set rotation=30 look=7; a part can also come from a recipe, as in look=car.json."""
    inject_index: int | None = None
    """First renderer layer that the look styles; the checkpoint's own if not given."""
    size: int | None = None
    """Side of the pictures in pixels; the model's own if not given. Models of the fast design draw larger ones with
    more rays, all others are enlarged."""

    def load(self) -> tuple[Generator, Codes]:
        """Return the generator and its scenes. Raises: ValueError for knobs that are none, or no scenes."""
        if self.n < 1:
            raise ValueError(f"--n is {self.n}; ask for at least 1 scene")
        generator = load_generator(self.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
        if not hasattr(generator, "density"):
            raise ValueError(f"{self.checkpoint.name} is of the family {generator.family}, which has no scene in 3D")
        if self.inject_index is not None and generator.family == "giraffe":
            raise ValueError(
                f"{self.checkpoint.name} is of the family giraffe, whose one code draws: no --inject-index"
            )
        if self.codes:
            codes = stack([read_codes(path, generator, self.checkpoint) for path in self.codes])
            generator = self._sharpened(generator)
        else:
            codes = generator.sample(self.n, torch.Generator().manual_seed(self.seed))
        for setting in self.set:
            codes = self._set(generator, codes, setting)
        return generator if self.size is None else generator.at(self.size), codes

    def _sharpened(self, generator: Generator) -> Generator:
        """Return the generator with the weights that lie beside the one recipe, if there are any."""
        weights = read_weights(self.codes[0])
        if not weights:
            return generator
        if len(self.codes) > 1:
            log.warning("sharpened weights are of one photo alone; of several recipes none are used")
            return generator
        assert isinstance(generator, FastGenerator)
        return with_own_weights(generator, weights)

    def _set(self, generator: Generator, codes: Codes, setting: str) -> Codes:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes KNOB=VALUE, such as rotation=30; got {setting!r}")
        try:
            if value.endswith(".json") and isinstance(generator, FastGenerator):
                return generator.take(codes, name, read_codes(Path(value), generator, self.checkpoint))
            return generator.set(codes, name, float(value))
        except ValueError as error:
            raise ValueError(f"--set {setting}: {error}") from error

    def draw(self, generator: Generator, codes: Codes) -> Any:
        """Return the layers of one scene: each is drawn alone, so that none depends on those beside it."""
        options = {} if self.inject_index is None else {"inject_index": self.inject_index}
        return generator(codes, **options)

    def pictures(self, generator: Generator, scenes: Iterable[Codes]) -> Image:
        """Return the picture of every row of `scenes`."""
        singles = (rows(codes, i) for codes in scenes for i in range(codes.azimuth.shape[0]))
        return torch.cat([self.draw(generator, codes).image.cpu() for codes in singles])


@dataclass(frozen=True, kw_only=True)
class Render(Scenes):
    """Draw scenes side by side, and their layers beneath."""

    n: int = 8
    """Scenes, drawn at random."""
    layers: bool = False
    """Add rows for foreground, background, mask, opacity and depth, as far as the model has them."""

    def run(self) -> dict[str, Any]:
        """Write the sheet; return what was written."""
        generator, codes = self.load()
        n = len(codes.azimuth)
        drawn = [self.draw(generator, rows(codes, i)) for i in range(n)]
        names = list(drawn[0].__dataclass_fields__) if self.layers else ["image"]
        sheet = torch.cat([as_picture(name, getattr(d, name), generator.resolution) for name in names for d in drawn])
        write_sheet(self.out, sheet, n)
        return {"out": str(self.out), "rows": names, "columns": n}


@dataclass(frozen=True, kw_only=True)
class Vary(Scenes):
    """Turn one knob through a range, or interpolate between two codes: a row a scene on a sheet, or a film of all."""

    knob: str
    """Its name; a wrong one answers with all names."""
    low: float | None = None
    """Where the knob begins; by default the lower end of its trained range."""
    high: float | None = None
    """Where it ends; by default the upper end of that range."""
    steps: int = 8
    """Columns of a sheet or frames of a film, one way."""
    mode: Literal["interpolate", "resample"] = "resample"
    """For codes: interpolate between two draws, or draw anew for each picture."""
    fps: int = 12
    """Frames a second."""
    still: bool = False
    """Write a sheet even where the ending could be a film's."""

    def run(self) -> dict[str, Any]:
        """Write the sheet or the film; return what was written."""
        if self.steps < 2:
            raise ValueError(f"--steps is {self.steps}; a film or a row needs at least 2")
        generator, codes = self.load()
        film = is_film(self.out, fps=self.fps, still=self.still)
        knob = generator.knob(self.knob)
        if knob.kind == "seed":
            if self.low is not None or self.high is not None:
                raise ValueError(f"{self.knob} is a code and has no --low and --high; leave them out")
            scenes = self._codes(generator, codes, loop=film)
            span: dict[str, Any] = {"mode": self.mode}
        else:
            low, high = self._range(knob)
            values = knob_values(knob, self.steps, low=low, high=high)
            if film and not (knob.kind == "angle" and high - low == 360):
                values = there_and_back(values)
            scenes = [generator.set(codes, self.knob, value) for value in values]
            span = {"low": low, "high": high}
        write_frames(self.out, self.pictures(generator, scenes), len(scenes), fps=self.fps, film=film)
        return {"out": str(self.out), "knob": self.knob, **span, "scenes": len(codes.azimuth), "frames": len(scenes)}

    def _range(self, knob: Knob) -> tuple[float, float]:
        if knob.low == knob.high:
            if self.low is None or self.high is None:
                raise ValueError(f"training held {self.knob} still, so it has no range; give --low and --high")
            return self.low, self.high
        return (knob.low if self.low is None else self.low), (knob.high if self.high is None else self.high)

    def _codes(self, generator: Generator, codes: Codes, *, loop: bool) -> list[Codes]:
        first, last = (generator.set(codes, self.knob, self.seed + 1 + i) for i in (0, self.steps - 1))
        if self.mode == "resample":
            return [generator.set(codes, self.knob, self.seed + 1 + i) for i in range(self.steps)]
        scenes = [codes_between(first, last, i / (self.steps - 1)) for i in range(self.steps)]
        return there_and_back(scenes) if loop else scenes


@dataclass(frozen=True, kw_only=True)
class Turntable(Scenes):
    """Turn the object, or carry the camera around it, once around; or swing through fewer degrees."""

    turn: Literal["rotation", "azimuth"] = "rotation"
    """What turns: the object or the camera."""
    degrees: float = 360.0
    """Below 360 it swings about the scene's own angle, there and back."""
    frames: int = 48
    """Frames of a whole turn."""
    fps: int = 24
    """Frames a second."""
    still: bool = False
    """Write a sheet even where the ending could be a film's."""

    def run(self) -> dict[str, Any]:
        """Write the film or the sheet; return what was written."""
        if self.frames < 2:
            raise ValueError(f"--frames is {self.frames}; a turn needs at least 2")
        if not math.isfinite(self.degrees):
            raise ValueError(f"--degrees is {self.degrees}; expected a number")
        generator, codes = self.load()
        start = getattr(codes, self.turn)
        offsets = map(math.radians, turn_offsets(self.frames, self.degrees))
        scenes = [replace(codes, **{self.turn: start + offset}) for offset in offsets]
        film = is_film(self.out, fps=self.fps, still=self.still)
        write_frames(self.out, self.pictures(generator, scenes), self.frames, fps=self.fps, film=film)
        return {"out": str(self.out), "turn": self.turn, "degrees": self.degrees, "frames": self.frames}


@dataclass(frozen=True, kw_only=True)
class Mesh(Scenes):
    """Write the surface of an object's density field as .obj, .ply or, in its colours, .glb."""

    n: int = 1
    """Scenes to draw; the mesh is the last one's object."""
    index: int = 1
    """Which object, in scenes of several."""
    resolution: int = 96
    """Grid points along each side of the box."""
    level: float | None = None
    """Density of the surface per world unit; if not given, a tenth of the box at it lets half of the light through."""

    def run(self) -> dict[str, Any]:
        """Write the mesh; return its size."""
        if self.out.suffix.lower() not in MESHES:
            raise ValueError(f"cannot write {self.out.name}: expected a name that ends in {', '.join(MESHES)}")
        if not 8 <= self.resolution <= 512:
            raise ValueError(f"--resolution is {self.resolution}; expected 8 to 512")
        generator, codes = self.load()
        objects = codes.scale.shape[1] if codes.scale.ndim == 3 else 1
        if not 1 <= self.index <= objects:
            raise ValueError(f"--index is {self.index}; these scenes have {objects} object(s), counted from 1")
        which = {"index": self.index - 1} if objects > 1 else {}
        scene = rows(codes, -1)
        mesh = object_mesh(generator, scene, resolution=self.resolution, level=self.level, **which)
        coloured = self.out.suffix.lower() == ".glb" and objects == 1
        coloured = coloured and hasattr(generator(scene), "foreground")  # the published GIRAFFE draws no object alone
        write_mesh(self.out, mesh, vertex_colours(generator, scene, mesh) if coloured else None)
        return {"out": str(self.out), "vertices": len(mesh.vertices), "faces": len(mesh.faces)}


def as_picture(name: str, layer: Tensor, size: int) -> Image:
    """Return a layer as a picture of `size` pixels: shares from black to white, depth from near (white) to far."""
    layer = layer.float().cpu()
    if layer.shape[1] == 3 and name in ("image", "foreground", "background"):
        return layer
    if name == "depth":
        seen = layer > 0
        near, far = (layer[seen].min(), layer[seen].max()) if bool(seen.any()) else (layer.min(), layer.max())
        layer = torch.where(seen, 1 - 0.8 * (layer - near) / (far - near).clamp_min(1e-6), 0)
    layer = layer.sum(1, keepdim=True).clamp(0, 1)
    return torch.nn.functional.interpolate(layer, size=(size, size)).expand(-1, 3, -1, -1) * 2 - 1


@torch.no_grad()
def main(arguments: list[str]) -> int:
    """Run one command, printing one line of JSON; return 0, or 2 after a user error; see `exit_code`."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if arguments[:1] == ["sweep"]:
        log.warning("`sweep` is now called `vary`; the old name goes with the next release")
        arguments = ["vary", *arguments[1:]]
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "render": Render,
            "vary": Vary,
            "turntable": Turntable,
            "mesh": Mesh,
            "invert": Invert,
            "read-poses": ReadPoses,
            "fit-prior": FitPrior,
            "train-reader": TrainReader,
        },
        args=arguments,
        prog="python -m giraffe_hd",
    )
    return exit_code(lambda: print(json.dumps(command.run())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
