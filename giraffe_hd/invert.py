"""A photo becomes codes: the pose is read, then pose and styles are optimised until the generator draws the photo.

Styles are optimised layer by layer (W+, Abdal et al. 2019) in whitened coordinates: each part's style is its mean plus
its covariance's root times a code, and codes are kept short, so that styles stay likely (PULSE, Menon et al. 2020).
Pivotal tuning (Roich et al. 2021) of the 2D renderers sharpens on demand.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from giraffe_hd.codes import Codes
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.prior import uncentred
from giraffe_hd.fast.reader import PoseReader, load_reader, reader_path
from training.batched import rows
from training.devices import autocast
from training.invertible import Inverted, OnProgress, Progress
from training.nn.layers import double
from training.nn.volume import box_rays, render_object
from training.resize import resized
from training.types import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class InvertOptions:
    """How long and how freely codes are optimised."""

    coarse: int = 30
    """Steps with one style for all layers of a part."""
    fine: int = 50
    """Steps with a style for each layer."""
    prior: float = 0.02
    """Weight of the codes' mean square; larger keeps objects more usual, and the sides that are not seen with them."""
    layer_prior: float = 0.02
    """The same of what layers differ by."""
    learning_rate: float = 0.08
    """Adam's, of the codes."""
    pose_rate: float = 0.03
    """Adam's, of the pose: radians, and shares of half its prior's range."""
    reach: float = 30.0
    """Degrees by which the rotation may leave what was read: pixels alone do not tell front from back."""
    object_weight: float = 3.0
    """Further weight of pixels within the object's own mask."""
    features: float | None = None
    """Weight of the distance in the pose reader's feature maps: pixels alone give a cat no eyes, features do. By
    default 1 for generators of photos, which have fitted codes; rendered objects do without, a quarter faster."""
    sharpen: int = 0
    """Steps of pivotal tuning; 30 sharpen a photo."""
    sharpen_rate: float = 2e-3
    """Adam's, of the weights that pivotal tuning changes."""


REACH = 1.6
"""How far elevation, size and place may go, in half widths of the prior."""


class Whitening(NamedTuple):
    """A part's styles under the prior: w = mean + code @ root, codes of unit variance."""

    mean: Float[Tensor, " w"]
    root: Float[Tensor, "w w"]


@torch.no_grad()
def whitening(w: Float[Tensor, "n w"]) -> Whitening:
    """Return mean and root of the covariance of styles."""
    w = w.double()
    mean = w.mean(0)
    values, vectors = torch.linalg.eigh((w - mean).T @ (w - mean) / len(w))
    root = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return Whitening(mean.float(), root.float())


@torch.no_grad()
def prior_styles(generator: Generator, n: int = 4096) -> dict[str, Whitening]:
    """Return the whitening of each part's styles, from `n` draws that are always the same."""
    drawn = generator.sample(n, torch.Generator().manual_seed(0))
    styles = {
        "shape": generator.map_shape(drawn.z_s_fg),
        "look": generator.map_look(drawn.z_a_fg),
        "background": generator.map_background(drawn.z_s_bg),
        "back_look": generator.map_background(drawn.z_a_bg),
    }
    return {part: whitening(w) for part, w in styles.items()}


class Problem:
    """Pose and styles of photos, as what is optimised; photo i shows object `which[i]`."""

    def __init__(
        self, generator: Generator, read: Float[Tensor, "n 6"], which: Int[Tensor, " n"], options: InvertOptions
    ) -> None:
        c = generator.config
        self.generator, self.which, self.options, self.config = generator, which, options, c.pose
        objects = int(which.max()) + 1
        self.rotation_read = torch.atan2(read[:, 0], read[:, 1])
        self.front = min(1.0, float(read[:, :2].norm(dim=1).min()))
        rest = REACH * torch.atanh(read[:, 2:].clamp(-1.4, 1.4) / REACH)  # `codes` begins at what was read
        self.pose = torch.cat([torch.zeros_like(read[:, :1]), rest], 1).requires_grad_()
        counts = {"shape": objects, "look": objects, "background": len(read), "back_look": len(read)}
        self.white = prior_styles(generator)
        zeros: dict[str, Any] = {"device": read.device, "requires_grad": True}
        self.code = {k: torch.zeros(n, c.w_dim, **zeros) for k, n in counts.items()}
        """Of each part, for all its layers."""
        self.layer = {
            k: torch.zeros(counts[k], s.stop - s.start, c.w_dim, **zeros) for k, s in generator.style_layers.items()
        }
        """What layers differ by."""
        start = generator.sample(1, torch.Generator().manual_seed(0))
        self.start = rows(start, torch.zeros(len(read), dtype=torch.long, device=read.device))

    def codes(self) -> Codes:
        """Return the codes of the photos, a row each."""
        s, p = self.start, self.config
        limit = math.radians(self.options.reach)
        turn = limit * torch.tanh(self.pose[:, 0] / limit)
        rest = REACH * torch.tanh(self.pose[:, 1:] / REACH)
        scale = uncentred(rest[:, 1], (math.log(p.scale[0]), math.log(p.scale[1]))).exp()
        place = torch.stack([s.translation[:, 0], uncentred(rest[:, 2], p.y), uncentred(rest[:, 3], p.z)], 1)
        return replace(
            s,
            rotation=self.rotation_read + turn - s.azimuth,
            elevation=uncentred(rest[:, 0], p.elevation).deg2rad(),
            scale=scale[:, None] * s.scale.new_tensor(p.proportions),
            translation=place,
            styles=self.styles(),
        )

    def styles(self) -> Float[Tensor, "n layers w"]:
        """Return what the styles differ by from those of the latent codes that stand in for them."""
        g, s, w = self.generator, self.start, self.which

        def part(name: str, layer: str, index: Tensor, z: Tensor, mapping: nn.Module, layers: slice) -> Tensor:
            code = self.code[name][:, None] + self.layer[layer][:, layers]
            white = self.white[name]
            return (white.mean + code @ white.root)[index] - mapping(z)[:, None]

        every = torch.arange(len(w), device=w.device)
        n_shape, all_ = g.config.background_shape_layers, slice(None)
        return torch.cat(
            [
                part("shape", "shape", w, s.z_s_fg, g.map_shape, all_),
                part("look", "look", w, s.z_a_fg, g.map_look, all_),
                part("background", "background", every, s.z_s_bg, g.map_background, slice(0, n_shape)),
                part("back_look", "background", every, s.z_a_bg, g.map_background, slice(n_shape, None)),
            ],
            1,
        )

    def draw(self) -> tuple[Image, Float[Tensor, "n 1 h w"]]:
        """Return pictures and masks."""
        layers = self.generator(self.codes())
        return layers.image, layers.mask

    def prior(self) -> Float[Tensor, ""]:
        """Return how unlikely the codes are, as a weighted mean square, summed over the photos."""
        o = self.options
        codes = torch.stack([code.square().mean(1).sum() for code in self.code.values()]).sum()
        layers = torch.stack([layer.square().mean((1, 2)).sum() for layer in self.layer.values()]).sum()
        return o.prior / 4 * codes + o.layer_prior / 4 * layers


def difference(image: Image, mask: Float[Tensor, "n 1 h w"], photo: Image, object_weight: float) -> Float[Tensor, " n"]:
    """Return Charbonnier's distance of pictures and photos at three scales, objects weighted more."""
    weight = 1 + object_weight * mask.detach().float()
    image, total = image.float(), torch.zeros(len(photo), device=photo.device)
    for _ in range(3):
        error = ((image - photo).square().mean(1, keepdim=True) + 1e-4).sqrt()
        total = total + (weight * error).mean((1, 2, 3)) / weight.mean((1, 2, 3))
        image, photo, weight = (F.avg_pool2d(x, 2) for x in (image, photo, weight))
    return total


class FeatureDistance:
    """The distance of pictures from photos in the maps of a pose reader's trunk, scaled to unit deviation.

    The trunk was the discriminator's, so it knows what the generator's objects are made of.
    """

    def __init__(self, reader: PoseReader, photos: Image) -> None:
        self.reader = reader
        with torch.no_grad():
            maps = self.maps(photos)
            self.scales = [1 / x.float().std((1, 2, 3), keepdim=True).clamp_min(1e-6) for x in maps]
            self.wanted = [x * scale for x, scale in zip(maps, self.scales, strict=True)]

    def maps(self, image: Image) -> list[Tensor]:
        """Return the feature maps of pictures, finest first."""
        return self.reader.trunk.maps(resized(image, self.reader.resolution))

    def __call__(self, image: Image) -> Float[Tensor, " n"]:
        """Return the distance of each picture from its photo."""
        maps = zip(self.maps(image), self.wanted, self.scales, strict=True)
        apart = [(x * scale - wanted).float().abs().mean((1, 2, 3)) for x, wanted, scale in maps]
        return torch.stack(apart).sum(0)


def reader_of(generator: Generator) -> PoseReader:
    """Return the pose reader beside the file of a generator, read once.

    Raises: ValueError where there is none.
    """
    path = None if generator.source is None else reader_path(generator.source)
    if path is None:
        name = "this generator" if generator.source is None else generator.source.name
        raise ValueError(f"{name} has no pose reader beside it; make one by `python -m giraffe_hd train-reader`")
    return _reader(path, path.stat().st_mtime_ns, str(generator.device))


@lru_cache(maxsize=4)
def _reader(path: Path, written: int, device: str) -> PoseReader:
    return load_reader(path, device)


@torch.enable_grad()
def invert(
    generator: Generator,
    reader: PoseReader,
    photos: Image,
    *,
    which: Int[Tensor, " k"] | None = None,
    turned: bool = False,
    options: InvertOptions | None = None,
    progress: OnProgress | None = None,
) -> Inverted:
    """Return the codes whose pictures are `photos`, a row each.

    Photo i shows object `which[i]`, counted from 0; by default all show one object, whose shape and look they share.
    `turned` starts from the other end of the objects, where the reader takes front for back. `progress` is called after
    the pose has been read and after every step; if it returns False, the best so far comes back.

    Raises: ValueError for photos that are no square pictures, or `which` of another length.
    """
    options = InvertOptions() if options is None else options
    if photos.shape[2] != photos.shape[3]:
        raise ValueError(f"got photos of {photos.shape[3]} x {photos.shape[2]} pixels; cut them square first")
    if which is not None and len(which) != len(photos):
        raise ValueError(f"got {len(photos)} photos and the objects of {len(which)}; give one number a photo")
    with torch.inference_mode(False):
        drawing = generator.at(generator.config.resolution)
        assert isinstance(drawing, Generator)
        photos = resized(photos.to(generator.device, torch.float32).clone(), drawing.resolution)
        read = reader(photos).detach()
        if turned:
            read = torch.cat([-read[:, :2], read[:, 2:]], 1)
        objects = torch.zeros(len(photos), dtype=torch.long) if which is None else which
        if options.features is None:
            options = replace(options, features=1.0 if generator.config.fitted_codes else 0.0)
        problem = Problem(drawing, read, objects.to(photos.device), options)
        features = FeatureDistance(reader, photos) if options.features else None
        return _run(problem, photos, features, progress)


def _run(problem: Problem, photos: Image, features: FeatureDistance | None, progress: OnProgress | None) -> Inverted:
    """Go through all stages, as far as `progress` wants."""
    options = problem.options
    steps = options.coarse + options.fine + options.sharpen
    done, loss, finished = 0, math.nan, True
    tuned: dict[str, Tensor] = {}
    stages = (_optimised(problem, photos, features), _sharpened(problem, photos, options, tuned))
    with torch.no_grad():
        read = Progress("pose", 0.0, problem.codes(), loss, problem.front)
        finished = progress is None or progress(read) is not False
    for stage in stages:
        if not finished:
            break
        for name, loss in stage:
            done += 1
            if progress is None:
                continue
            with torch.no_grad():
                finished = progress(Progress(name, done / steps, problem.codes(), loss)) is not False
            if not finished:
                break
    with torch.no_grad():
        return Inverted(problem.codes(), loss, finished, tuned)


def _optimised(problem: Problem, photos: Image, features: FeatureDistance | None) -> Iterator[tuple[str, float]]:
    """Optimise pose and styles; give stage and loss after each step."""
    options = problem.options
    codes, layers = list(problem.code.values()), list(problem.layer.values())
    for name, steps, parameters in (("coarse", options.coarse, codes), ("fine", options.fine, codes + layers)):
        groups = [
            {"params": parameters, "lr": options.learning_rate},
            {"params": [problem.pose], "lr": options.pose_rate},
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        for step in range(steps):
            falling = 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)) if name == "fine" else 1.0
            _set_rates(optimizer, options, min((step + 1) / 5, falling))
            with autocast(photos.device):
                drawn = draw_coarse(problem.generator, problem.codes()) if name == "coarse" else problem.draw()
                error = difference(*drawn, photos, options.object_weight).sum()
                if features is not None and options.features is not None:
                    error = error + options.features * features(drawn[0]).sum()
                loss = error + problem.prior()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield name, float(error.detach()) / len(photos)


def _set_rates(optimizer: torch.optim.Optimizer, options: InvertOptions, share: float) -> None:
    for group, rate in zip(optimizer.param_groups, (options.learning_rate, options.pose_rate), strict=True):
        group["lr"] = rate * share


def draw_coarse(generator: Generator, codes: Codes) -> tuple[Image, Float[Tensor, "n 1 h w"]]:
    """Return picture and mask from half as many rays a side, enlarged before the 2D renderers."""
    c = generator.config
    if generator.rays % 2:
        layers = generator(codes)
        return layers.image, layers.mask
    rays = box_rays(codes.object_pose, generator.rays // 2, c.pose.fov)
    field, *styles = generator.layer_styles(codes)
    maps = render_object(generator.field, generator.head, rays, codes.scale[:, :1], field, c.samples)
    features, alpha, hit = (double(x) for x in (maps.features, maps.alpha, maps.hit))
    mask = generator.mask(features, alpha, hit)
    foreground = generator.object(features, *styles, c.inject_index)
    return mask * foreground + (1 - mask) * generator.draw_background(codes), mask


def _sharpened(
    problem: Problem, photos: Image, options: InvertOptions, tuned: dict[str, Tensor]
) -> Iterator[tuple[str, float]]:
    """Tune the 2D renderers to the photos, codes staying; give stage and loss after each step, and fill in `tuned`."""
    if not options.sharpen:
        return
    with torch.no_grad():
        codes = problem.codes()
    generator = with_own_weights(problem.generator, {})
    weights = {name: w for name, w in generator.named_parameters() if name.split(".")[0] in TUNED}
    optimizer = torch.optim.Adam([w.requires_grad_(True) for w in weights.values()], lr=options.sharpen_rate)
    for _ in range(options.sharpen):
        with autocast(photos.device):
            layers = generator(codes)
            loss = difference(layers.image, layers.mask, photos, options.object_weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tuned |= {name: w.detach() for name, w in weights.items()}
        yield "sharpen", float(loss.detach())


TUNED = ("object", "background")
"""Networks that pivotal tuning changes: those that make pictures of features, so that no view gets another shape."""


def with_own_weights(generator: Generator, weights: Mapping[str, Tensor]) -> Generator:
    """Return a copy of the generator whose 2D renderers have weights of their own, some of them those of an
    inversion that sharpened. Raises: ValueError for weights that do not fit."""
    other = generator.copied(results=8)
    assert isinstance(other, Generator)
    other._modules = dict(other._modules)
    for name in TUNED:
        setattr(other, name, copy.deepcopy(getattr(generator, name)))
    known = dict(other.named_parameters())
    for name, weight in weights.items():
        if name.split(".")[0] not in TUNED or name not in known or known[name].shape != weight.shape:
            raise ValueError(f"the weights of a sharpened photo are of another generator: {name[:80]} does not fit")
        known[name].data.copy_(weight)
    return other
