"""Disentanglement of mixes, measured on real photos (MixNMatch Sec. 4).

One factor of a photo at a time is exchanged for another photo's; each change in the picture is divided by the change
when all factors are exchanged. The ideal table is the identity matrix.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.batched import rows, stack
from training.data.folder import PictureSet
from training.metrics.car_evaluator import CarEvaluator, targets
from training.metrics.clusters import codes_used
from training.metrics.features import Features
from training.metrics.fid import BLOCK, Statistics, at_once, distances, drawn, real_statistics, statistics
from training.metrics.masks import CLEAR, iou
from training.metrics.regression import Fit, rotation_fit, wrap
from training.metrics.silhouette import changes
from training.types import Generator, Image, Mask, reads_outlines

FACTORS = ("background", "pose", "shape", "texture")
MEASURES = ("background", "place", "outline", "colours")
"""What should follow each of `FACTORS`, on any photos."""
CODED = 60
"""Pictures whose codes are compared with labels, for each that is mixed; 12,000 by default."""
CAR_MEASURES = ("background", "rotation", "model", "paint")
"""The same on rendered cars, read by the evaluator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows: factor exchanged. Columns: quantity measured. Entries: change, relative to that when all are exchanged."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    entries: tuple[tuple[float, ...], ...]
    units: tuple[float, ...] = ()
    """The absolute change that 1 stands for in each column."""

    @property
    def diagonal(self) -> float:
        """Mean of the diagonal: the wanted change (ideal: 1)."""
        n = min(len(self.rows), len(self.columns))
        return sum(self.entries[i][i] for i in range(n)) / n

    @property
    def leakage(self) -> float:
        """Mean of the other entries: the unwanted change (ideal: 0)."""
        return sum(self.off_diagonal) / len(self.off_diagonal)

    @property
    def over_leak(self) -> float:
        """Mean of the diagonal over the largest other entry, which counts as at least 0.01."""
        return self.diagonal / max(0.01, *self.off_diagonal)

    @property
    def off_diagonal(self) -> list[float]:
        """All entries but those of the diagonal."""
        return [e for i, row in enumerate(self.entries) for j, e in enumerate(row) if i != j]


@dataclass(frozen=True, kw_only=True, slots=True)
class SwapReport:
    """Measurements of one generator's mixes."""

    n: int
    seed: int
    swaps: Table
    """Change of what each factor should govern."""
    every_measure: Table
    recoded: Table
    """Exchange one factor, encode the result: how far each code went from the photo's own (0) to the donor's (1)."""
    truths: Table | None
    """Rendered cars, each factor from another picture: how close each factor of the mix is to each donor's."""
    rotation: Fit | None
    """Rendered cars: the rotation read from mixes against the true one of the picture that gave the pose."""
    mask_iou: dict[str, float]
    """Mode -> IoU of the masks of reconstructions with the given ones."""
    reconstruction: dict[str, float]
    """Mode -> mean absolute error of reconstructions, of 255; with LPIPS where its weights are."""
    codes_used: dict[str, dict[str, float]]
    """Code -> its number of values, how many of them are in use (perplexity), accuracy and NMI against labels."""
    distances: dict[str, dict[str, float]]
    """Kind of sample (tied, free, photos) -> distance to real pictures."""
    pictures: dict[str, Tensor] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)


@torch.inference_mode()
def measure_swaps(
    generator: Generator,
    pictures: PictureSet,
    *,
    evaluator: CarEvaluator | None = None,
    features: Features | None = None,
    n_features: int = 0,
    compared: PictureSet | None = None,
    perceptual: Callable[[Image, Image], Tensor] | None = None,
    n: int = 256,
    seed: int = 0,
) -> SwapReport:
    """Return measurements of the generator's mixes on `n` photos of a set.

    `evaluator` reads rendered cars, `features` compares `n_features` mixes with as many pictures of
    `compared` (the same set if not given), `perceptual` is LPIPS.

    Raises: ValueError if the generator does not read photos.
    """
    factors = tuple(knob.name for knob in generator.knobs if knob.kind == "picture")
    if not hasattr(generator, "encode") or not factors:
        raise ValueError(f"{type(generator).__name__} reads no codes from photos, so it has no mixes to measure")
    n = min(n, len(pictures))
    chosen = [i * len(pictures) // n for i in range(n)]
    rng = torch.Generator().manual_seed(seed)
    givers = {name: _derangement(n, rng) for name in factors}
    photos, masks = _photos(pictures, chosen)
    own = _encode(generator, photos)
    swaps, every, recoded, shown = _exchange(generator, photos, own, factors, givers[factors[0]], evaluator)
    reconstruction, overlap, worst = _reconstruct(generator, photos, own, masks, perceptual)
    truths, rotation = _ground_truth(generator, photos, own, factors, givers, evaluator, pictures, chosen)
    return SwapReport(
        n=n,
        seed=seed,
        swaps=swaps,
        every_measure=every,
        recoded=recoded,
        truths=truths,
        rotation=rotation,
        mask_iou=overlap,
        reconstruction=reconstruction,
        codes_used=codes_used(lambda image: _encode(generator, image.to(generator.device)), pictures, CODED * n),
        distances=_distances(generator, pictures, compared or pictures, features, n_features, seed)
        if features and n_features
        else {},
        pictures=shown | worst,
        captions={
            "mixes": f"From the left: photo, reconstruction, {', '.join(factors)} exchanged, all exchanged, giver",
            **{name: f"{name.capitalize()}: photos, reconstructions, their masks" for name in worst},
        },
    )


def _photos(pictures: PictureSet, chosen: Sequence[int]) -> tuple[Image, Mask | None]:
    """Return pictures, and their given masks where the set has them."""
    batches = [pictures.get(chosen[i : i + BLOCK]) for i in range(0, len(chosen), BLOCK)]
    masks = [batch.mask for batch in batches if batch.mask is not None]
    image = torch.cat([batch.image for batch in batches])
    return image, torch.cat(masks) if len(masks) == len(batches) else None


def _derangement(n: int, rng: torch.Generator) -> Tensor:
    """Return a random permutation of `n` without fixed points."""
    order = torch.randperm(n, generator=rng)
    giver = torch.empty_like(order)
    giver[order] = order.roll(1)
    return giver


def _encode(generator: Any, photos: Image) -> Any:
    """Return the codes of photos."""
    return stack([generator.encode(part.to(generator.device)) for part in photos.split(BLOCK)])


def _render(generator: Generator, codes: Any, n: int, **how: Any) -> tuple[Image, Mask]:
    """Return pictures and masks, on the CPU."""
    image, mask = [], []
    batch = at_once(generator)
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        layers = generator(rows(codes, part), **{k: v[part] for k, v in how.items()})
        image.append(layers.image.cpu())
        mask.append(layers.mask.cpu())
    return torch.cat(image), torch.cat(mask)


def _mix(generator: Generator, codes: Any, factor: str, photos: Image) -> Any:
    """Return `codes` with one factor from the photos of the same rows."""
    parts = [slice(start, start + BLOCK) for start in range(0, len(photos), BLOCK)]
    return stack([generator.set(rows(codes, part), factor, photos[part].to(generator.device)) for part in parts])


def _exchange(
    generator: Generator, photos: Image, own: Any, factors: Sequence[str], giver: Tensor, evaluator: CarEvaluator | None
) -> tuple[Table, Table, Table, dict[str, Tensor]]:
    """Exchange one factor at a time, then all; return what changed in pictures and codes, and some of the mixes."""
    n = len(photos)
    mixes = {name: _mix(generator, own, name, photos[giver]) for name in factors}
    everything = own
    for name in factors:
        everything = _mix(generator, everything, name, photos[giver])
    before, mask = _render(generator, own, n)
    start = _encode(generator, before)
    rendered = {name: _render(generator, codes, n) for name, codes in (mixes | {"all": everything}).items()}
    seen = {
        name: changes(before, mask, *after) | _evaluated(evaluator, before, after[0])
        for name, after in rendered.items()
    }
    means = {name: {key: float(value.nanmean()) for key, value in change.items()} for name, change in seen.items()}
    every = _table(means, factors, tuple(means["all"]))
    swaps = _table(means, factors, MEASURES if evaluator is None else CAR_MEASURES)
    moved = {name: _encode(generator, after[0]) for name, after in rendered.items()}
    fields = tuple(k for k in start.__dataclass_fields__ if getattr(start, k) is not None)
    progress = tuple(tuple(_progress(start, moved[name], moved["all"], key) for key in fields) for name in factors)
    shown = torch.stack([photos, before, *(rendered[name][0] for name in (*factors, "all")), photos[giver]], 1)
    return (
        swaps,
        every,
        Table(rows=tuple(factors), columns=fields, entries=progress),
        {"mixes": shown[:8].flatten(0, 1)},
    )


def _evaluated(evaluator: CarEvaluator | None, before: Image, after: Image) -> dict[str, Tensor]:
    """Return what the evaluator of rendered cars sees to differ: degrees, share of belief, colour."""
    if evaluator is None:
        return {}
    a, b = evaluator.read(before), evaluator.read(after)
    return {
        "rotation": wrap(b.rotation - a.rotation).abs(),
        "model": (b.mesh - a.mesh).abs().sum(1) / 2,
        "paint": (b.paint - a.paint).abs().mean(1),
    }


def _table(means: dict[str, dict[str, float]], factors: Sequence[str], columns: Sequence[str]) -> Table:
    """Return changes as shares of those when all factors are exchanged."""
    whole = means["all"]
    entries = tuple(tuple(means[name][key] / max(whole[key], 1e-9) for key in columns) for name in factors)
    return Table(
        rows=tuple(factors), columns=tuple(columns), entries=entries, units=tuple(whole[key] for key in columns)
    )


def _progress(start: Any, moved: Any, goal: Any, key: str) -> float:
    """Return a code's change, relative to its change when all factors are exchanged."""
    a, b, c = (getattr(codes, key).flatten(1).double() for codes in (start, moved, goal))
    return float(((b - a) * (c - a)).sum() / (c - a).square().sum().clamp_min(1e-12))


def _reconstruct(
    generator: Any, photos: Image, own: Any, masks: Mask | None, perceptual: Callable[[Image, Image], Tensor] | None
) -> tuple[dict[str, float], dict[str, float], dict[str, Tensor]]:
    """Return errors and mask overlaps of photos drawn again from their codes, and from shape features if there are."""
    n = len(photos)
    modes = {"code": _render(generator, own, n)}
    if reads_outlines(generator):
        feature = torch.cat([generator.shape_feature(part.to(generator.device)) for part in photos.split(BLOCK)])
        modes["feature"] = _render(generator, own, n, feature=feature)
    errors, overlaps, worst = {}, {}, {}
    for name, (image, mask) in modes.items():
        off = (image - photos).abs().mean((1, 2, 3)) * 127.5
        errors[name] = float(off.mean())
        if perceptual is not None:
            pairs = zip(image.split(BLOCK), photos.split(BLOCK), strict=True)
            far = torch.cat([perceptual(a, b).cpu() for a, b in pairs])
            errors[f"{name}_lpips"] = float(far.mean())
        if masks is not None:
            overlap = iou(mask, masks)
            overlaps[name] = float(overlap.mean())
            last = overlap.argsort()[:8]
            shown = torch.stack([photos[last], image[last], mask[last].expand(-1, 3, -1, -1) * 2 - 1])
            worst[f"worst masks, {name} mode"] = shown.flatten(0, 1)
    return errors, overlaps, worst


def _ground_truth(
    generator: Generator,
    photos: Image,
    own: Any,
    factors: Sequence[str],
    givers: dict[str, Tensor],
    evaluator: CarEvaluator | None,
    pictures: PictureSet,
    chosen: Sequence[int],
) -> tuple[Table | None, Fit | None]:
    """Mix four rendered cars of known factors; return how close each factor of the mix is to each donor's.

    Entry (donor of r, factor q): 1 - mean distance to that donor's factor / mean distance to random factors. Models are
    compared by the evaluator's probabilities, paint by colour.
    """
    if evaluator is None or not {"rotation", "hue"} <= pictures.factors.keys():
        return None, None
    if unknown := sorted(set(pictures.label_names) - set(evaluator.meshes)):
        raise ValueError(
            f"the evaluator of rendered cars does not know the model {unknown[0]}; train one on such a set"
        )
    number = torch.tensor([evaluator.meshes.index(name) for name in pictures.label_names])
    labels = {key: value[list(chosen)] for key, value in targets(pictures).items()}
    angle = torch.atan2(labels["pose"][:, 0], labels["pose"][:, 1]).rad2deg()
    for name in factors:
        own = _mix(generator, own, name, photos[givers[name]])
    image, mask = _render(generator, own, len(photos))
    read = evaluator.read(image)
    given = torch.cat([pictures.get(chosen[i : i + BLOCK]).mask for i in range(0, len(chosen), BLOCK)])  # type: ignore[arg-type]

    def far(giver: Tensor) -> tuple[float, ...]:
        outside = ((mask < CLEAR) & (given[giver] < CLEAR)).float()
        behind = ((image - photos[giver]).abs().mean(1, keepdim=True) * outside).sum((1, 2, 3))
        return (
            float((behind / outside.sum((1, 2, 3)).clamp_min(1)).mean()),
            float(wrap(read.rotation - angle[giver]).abs().mean()),
            float(1 - read.mesh.gather(1, number[labels["mesh"][giver]][:, None]).mean()),
            float((read.paint - labels["paint"][giver]).abs().mean()),
        )

    n = len(photos)
    anyone = torch.tensor([far(torch.arange(n).roll(k)) for k in range(1, 17)]).mean(0).tolist()
    entries = tuple(
        tuple(1 - d / max(a, 1e-9) for d, a in zip(far(givers[name]), anyone, strict=True)) for name in factors
    )
    table = Table(rows=tuple(factors), columns=CAR_MEASURES, entries=entries, units=tuple(anyone))
    return table, rotation_fit(angle[givers["pose"]], read.rotation) if "pose" in givers else None


def _distances(
    generator: Any, pictures: PictureSet, compared: PictureSet, features: Features, n: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return how far tied samples, free samples and mixes of `pictures` are from those of `compared`."""
    kinds = {"frechet": n > features.dim, "kernel": True}
    real = real_statistics(compared, n, features, **kinds)

    def score(images: Iterator[Image], what: str) -> dict[str, float]:
        ours: Statistics = statistics(images, n, features, **kinds, what=what)
        return distances(real, ours, features, **kinds)

    ties = tied_by_default(generator) is not None
    free = drawn(generator, n, seed=seed, tied=False) if ties else drawn(generator, n, seed=seed)
    result = {"free": score(free, "free samples")}
    if ties:
        result["tied"] = score(drawn(generator, n, seed=seed, tied=True), "tied samples")
    result["photos"] = score(photo_mixes(generator, pictures, n, seed=seed), "mixes of photos")
    return result


def tied_by_default(generator: Generator) -> bool | None:
    """Return whether `sample` ties the codes of shape and background to the texture's; None where it never does."""
    tied = inspect.signature(generator.sample).parameters.get("tied")
    return None if tied is None else bool(tied.default)


def photo_mixes(generator: Generator, pictures: PictureSet, n: int, *, seed: int = 0) -> Iterator[Image]:
    """Yield `n` mixes, each factor from another photo of the set."""
    rng = torch.Generator().manual_seed(seed)
    factors = [knob.name for knob in generator.knobs if knob.kind == "picture"]
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        codes = generator.sample(size, rng)
        for name in factors:
            picks = torch.randint(len(pictures), (size,), generator=rng).tolist()
            codes = generator.set(codes, name, pictures.get(picks).image.to(generator.device))
        for first in range(0, size, at_once(generator)):
            yield generator(rows(codes, slice(first, first + at_once(generator)))).image
