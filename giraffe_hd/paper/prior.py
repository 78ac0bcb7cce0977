"""Where scenes come from: the authors' priors of pose and codes, and the knobs that turn one thing of a scene."""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from giraffe_hd.codes import Codes
from giraffe_hd.paper.config import PriorConfig, Span, Triple
from training import types
from training.nn.camera import half_width
from training.runtime.sharded_random import rand, shard_of, sharded_generator
from training.types import Knob, knob_numbers, knob_seeds

TURN = 2 * math.pi


def source(rng: torch.Generator | None, device: torch.device) -> torch.Generator:
    """Return a random source on `device`, seeded by `rng`: noise is drawn where it is used."""
    return sharded_generator(int(torch.randint(2**62, (), generator=rng)), *shard_of(rng), device=device)


def elevation_of(v: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the elevation in radians that the authors' v stands for: the polar angle is arccos(1 - 2v)."""
    return math.pi / 2 - torch.arccos(1 - 2 * v)


def between(low: Any, high: Any, share: Tensor) -> Tensor:
    """Return the values at `share` in [0, 1] of the way from `low` to `high`."""
    start = torch.tensor(low, dtype=share.dtype, device=share.device)
    return start + share * (torch.tensor(high, dtype=share.dtype, device=share.device) - start)


def sample(prior: PriorConfig, z_dim: int, z_dim_bg: int, n: int, rng: torch.Generator, device: torch.device) -> Codes:
    """Draw `n` scenes; codes are standard normal, poses uniform."""

    def uniform(low: float | Triple, high: float | Triple, *shape: int) -> Tensor:
        return between(low, high, torch.rand(*shape, generator=rng))

    objects = () if prior.n_objects == 1 else (prior.n_objects,)
    scale = uniform(prior.scale_min, prior.scale_max, n, *objects, 1)  # one number for all axes
    codes = Codes(
        z_s_fg=torch.randn(n, *objects, z_dim, generator=rng),
        z_a_fg=torch.randn(n, *objects, z_dim, generator=rng),
        z_s_bg=torch.randn(n, z_dim_bg, generator=rng),
        z_a_bg=torch.randn(n, z_dim_bg, generator=rng),
        azimuth=TURN * uniform(*prior.u, n),
        elevation=elevation_of(uniform(*prior.v, n)),
        radius=uniform(*prior.radius, n),
        scale=scale,
        translation=_places(prior, scale, rng),
        rotation=TURN * uniform(*prior.rotation, n, *objects),
        presence=_presence(prior, n, rng) if prior.n_present else None,
    )
    return replace(
        codes, **{k: v.to(device) for k in codes.__dataclass_fields__ if (v := getattr(codes, k)) is not None}
    )


def _places(prior: PriorConfig, scale: Float[Tensor, "n *objects 3"], rng: torch.Generator) -> Tensor:
    """Return translations, uniform; with a gap, uniform among the places that keep it."""
    low, high = prior.translation_min, prior.translation_max
    places = between(low, high, torch.rand(scale.shape, generator=rng))
    if prior.gap is None or prior.n_objects == 1:
        return places
    # paper: CLEVR's positions are read from the data's own scene files; here they follow the law those were drawn from,
    # uniform on the table without overlaps, so that training needs the pictures alone
    for _ in range(2_000):
        crowded = ~_apart(places, scale, prior.gap)
        if not crowded.any():
            return places
        places[crowded] = between(low, high, torch.rand(places[crowded].shape, generator=rng))
    raise ValueError(
        f"{prior.n_objects} boxes with a gap of {prior.gap} do not fit between {low} and {high}; widen the range"
    )


def _apart(places: Float[Tensor, "n objects 3"], scale: Float[Tensor, "n objects 3"], gap: float) -> Bool[Tensor, " n"]:
    """Return which scenes have no two boxes closer than `gap` along both x and y."""
    distance = (places[:, :, None] - places[:, None])[..., :2].abs()
    needed = (scale[:, :, None] + scale[:, None])[..., :2] + gap
    itself = torch.eye(places.shape[1], dtype=torch.bool)
    return ((distance >= needed).any(-1) | itself).all((1, 2))


def _presence(prior: PriorConfig, n: int, rng: torch.Generator) -> Float[Tensor, "n objects"]:
    """Return 1 for the objects that are there: how many, from the prior; which, at random."""
    counts = 1 + torch.multinomial(torch.tensor(prior.n_present), n, replacement=True, generator=rng)
    order = torch.rand(n, prior.n_objects, generator=rng).argsort(1).argsort(1)
    return (order < counts[:, None]).float()


def background_pose(
    prior: PriorConfig, n: int, device: torch.device, rng: torch.Generator | None
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Return shift and turn of the background's field: none, or with `rng` at random, as in training."""
    if rng is None:
        return torch.zeros(n, 3, device=device), torch.zeros(n, device=device)
    shift = rand(n, 3, rng=rng)
    # authors' program: one turn for the whole batch; here one a picture, as for every other draw
    turn = rand(n, rng=rng)
    return (
        between(prior.background_translation_min, prior.background_translation_max, shift),
        TURN * between(*prior.background_rotation, turn),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Handle:
    """A knob, and how to put its value into codes."""

    knob: Knob
    turn: Callable[[Codes, Tensor], Codes]
    """Codes and values (n,), or for a seed one whole number, to codes."""


@cache
def handles(prior: PriorConfig) -> Mapping[str, Handle]:
    """Return every handle of a scene by name, also those that the prior holds still."""
    found: list[Handle] = []
    for i in range(prior.n_objects):
        found += _object_handles(prior, i if prior.n_objects > 1 else None)
    found += _camera_handles(prior)
    found += [
        _seed("background_shape", "Background shape", "z_s_bg", None),
        _seed("background_look", "Background look", "z_a_bg", None),
    ]
    return MappingProxyType({handle.knob.name: handle for handle in found})


def knobs(prior: PriorConfig) -> tuple[Knob, ...]:
    """Return the knobs that training varied: seeds, and poses whose range is not a single value."""
    return tuple(h.knob for h in handles(prior).values() if h.knob.kind == "seed" or h.knob.low < h.knob.high)


def fixed_knobs(prior: PriorConfig) -> tuple[Knob, ...]:
    """Return the poses that the prior holds still, with how far they can be turned all the same."""
    held = [h.knob for h in handles(prior).values() if h.knob.kind != "seed" and h.knob.low == h.knob.high]
    return tuple(replace(knob, extended_range=_extended_range(knob)) for knob in held)


def _extended_range(knob: Knob) -> Span:
    """Return a full circle, 30 degrees of elevation, 20 percent of half the width, or shares of size and distance."""
    at = knob.low
    if knob.name == "elevation":
        return at - 30, at + 30
    if knob.kind == "angle":
        return at - 180, at + 180
    return (at - 20, at + 20) if knob.unit == "%" else (0.7 * at, 1.6 * at)


def set_knob(prior: PriorConfig, codes: Codes, name: str, value: Any) -> Codes:
    """Return `codes` with the knob `name` at `value`; see `training.types.Generator.set`."""
    known = handles(prior)
    if name not in known:
        raise ValueError(f"no knob {name!r}; this generator has {', '.join(known)}")
    handle = known[name]
    if handle.knob.kind == "seed":
        [seed] = knob_seeds(name, value, 1)
        return handle.turn(codes, torch.tensor(seed))
    return handle.turn(codes, knob_numbers(name, value, codes.azimuth))


def _object_handles(prior: PriorConfig, i: int | None) -> list[Handle]:
    """Return the handles of object `i`, named with its number; None is the only one.

    Positions are percent of half the picture's width at the origin; size is relative to the middle of its range.
    """
    name, label = ("", "") if i is None else (f"_{i + 1}", f" {i + 1}")
    percent = half_width(sum(prior.radius) / 2, prior.fov) / 100
    middle = (prior.scale_min[0] + prior.scale_max[0]) / 2

    def place(axis: int) -> Span:
        return prior.translation_min[axis] / percent, prior.translation_max[axis] / percent

    return [
        _pose("rotation" + name, "Rotation" + label, "°", _turns(prior.rotation), _rotate(i), "Turns it on the spot."),
        _pose(
            "scale" + name,
            "Size" + label,
            "×",
            (prior.scale_min[0] / middle, prior.scale_max[0] / middle),
            _resize(i, middle),
        ),
        _pose("x" + name, "Left – right" + label, "%", place(1), _move(i, 1, percent)),
        _pose("y" + name, "Down – up" + label, "%", place(2), _move(i, 2, percent)),
        _pose("depth" + name, "Far – near" + label, "%", place(0), _move(i, 0, percent), "Moves it to the camera."),
        _seed("shape" + name, "Shape" + label, "z_s_fg", i),
        _seed("look" + name, "Look" + label, "z_a_fg", i),
    ]


def _camera_handles(prior: PriorConfig) -> list[Handle]:
    overhead, horizon = (math.degrees(float(elevation_of(torch.tensor(v, dtype=torch.float64)))) for v in prior.v)

    def camera(field: str, unit: float = 1.0) -> Callable[[Codes, Tensor], Codes]:
        return lambda codes, value: replace(codes, **{field: value * unit})

    degree = math.pi / 180
    return [
        _pose("elevation", "Camera elevation", "°", (horizon, overhead), camera("elevation", degree)),
        _pose(
            "azimuth", "Camera azimuth", "°", _turns(prior.u), camera("azimuth", degree), "Turns the background too."
        ),
        _pose("radius", "Camera distance", "", prior.radius, camera("radius")),
    ]


def _turns(span: Span) -> Span:
    return 360 * span[0], 360 * span[1]


def _pose(
    name: str, label: str, unit: str, span: Span, turn: Callable[[Codes, Tensor], Codes], help: str = ""
) -> Handle:
    low, high = (round(bound, 4) for bound in span)
    middle = round((low + high) / 2, 4)
    kind, step = ("angle", 1.0) if unit == "°" else ("range", 0.5 if unit == "%" else 0.01)
    knob = Knob(name=name, label=label, kind=kind, unit=unit, low=low, high=high, default=middle, step=step, help=help)
    return Handle(knob=knob, turn=turn)


def _seed(name: str, label: str, field: str, i: int | None) -> Handle:
    def redraw(codes: Codes, seed: Tensor) -> Codes:
        z = getattr(codes, field)
        # the name takes part, so that one number for two knobs does not give both the same code
        rng = torch.Generator().manual_seed(zlib.crc32(f"{name} {int(seed)}".encode()))
        drawn = torch.randn(z.shape[-1], generator=rng).to(z).expand(z.shape[0], -1)
        return replace(codes, **{field: _put(z, i, drawn)})

    return Handle(knob=Knob(name=name, label=label, kind="seed", high=2**31 - 1, step=1), turn=redraw)


def _put(column: Tensor, i: int | None, value: Tensor) -> Tensor:
    """Return `column` with `value` as that of object `i`."""
    if i is None:
        return value
    return torch.cat([column[:, :i], value[:, None], column[:, i + 1 :]], 1)


def _of(column: Tensor, i: int | None) -> Tensor:
    return column if i is None else column[:, i]


def _rotate(i: int | None) -> Callable[[Codes, Tensor], Codes]:
    return lambda codes, value: replace(codes, rotation=_put(codes.rotation, i, value * (math.pi / 180)))


def _resize(i: int | None, middle: float) -> Callable[[Codes, Tensor], Codes]:
    def resize(codes: Codes, value: Tensor) -> Codes:
        if not (value > 0).all():
            raise ValueError(f"size {float(value.min()):g} cannot be drawn; expected a number above 0")
        now = _of(codes.scale, i)
        return replace(
            codes, scale=_put(codes.scale, i, now / now[:, :1] * (middle * value[:, None]))
        )  # keeps the proportions

    return resize


def _move(i: int | None, axis: int, percent: float) -> Callable[[Codes, Tensor], Codes]:
    def move(codes: Codes, value: Tensor) -> Codes:
        moved = _of(codes.translation, i).clone()
        moved[:, axis] = value * percent
        return replace(codes, translation=_put(codes.translation, i, moved))

    return move


class PriorGenerator(types.Generator):
    """A generator whose codes and knobs are those of the authors' prior, `config.prior`."""

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """What the prior varies: poses and codes, of several objects by number."""
        return knobs(self.config.prior)

    @property
    def fixed_knobs(self) -> tuple[Knob, ...]:
        """Poses that the prior holds still, such as the camera's azimuth."""
        return fixed_knobs(self.config.prior)

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels."""
        return self.config.resolution

    def sample(self, n: int, rng: torch.Generator) -> Codes:
        """Draw `n` codes from the authors' prior, on this generator's device."""
        return sample(self.config.prior, self.config.z_dim, self.config.z_dim_bg, n, rng, self.device)

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        """Return `codes` with one knob at `value` in every row; also knobs that the prior holds still, such as azimuth.

        Raises: ValueError for an unknown name (with the known ones) or a value of the wrong kind.
        """
        return set_knob(self.config.prior, codes, name, value)
