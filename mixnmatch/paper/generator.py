"""Generator of the published MixNMatch (Sec. 3), with the encoders and the feature extractor that read its codes.

Three stages, back to front (FineGAN Sec. 3). Symbol -> where it is computed; `Generator.generate` has one line for
each:

    B = G_b(z, b), the background: `BackgroundStage`, then `Generator.background_image`
    f = G_p(z, p), the parent feature: `ParentStage`; P_f, P_m, its foreground and mask: `parent_image`, `parent_mask`
    C_f, C_m, the child's foreground and mask, from G_c(f, c): `ChildStage`, then `child_image`, `child_mask`
    P = P_m P_f + (1 - P_m) B, the parent image, and G(y) = C_m C_f + (1 - C_m) P: `over`
    tied codes, p = floor(c N_p / N_c) and b likewise: `tie`, `Generator.sample`
    E_z, E_b, E_p, E_c: x -> z, b, p, c (Sec. 3.2): `encoders.Encoders`, `Generator.encode`
    S: x -> f, in place of z and p (Sec. 3.4): `feature_extractor.FeatureExtractor`, `Generator.shape_feature`

Attributes carry the names of the authors' checkpoints: those of `G.pth` as they are, those of `E.pth` under `encoders`,
those of `EX.pth` under `extractor`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mixnmatch.codes import FACTOR_TABLE, FACTORS, Codes, Layers, with_factor
from mixnmatch.paper.config import GeneratorConfig
from mixnmatch.paper.encoders import CODES, Encoders
from mixnmatch.paper.feature_extractor import FeatureExtractor
from mixnmatch.paper.layers import JointBlock, ResBlock, conv3, same_block, up_block
from training import types
from training.batched import stack
from training.types import Image, Knob, Mask, knob_seeds

SIZE = 128
"""Side of the pictures in pixels: 4 doubled five times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """A picture's layers, and the intermediate results that the losses need."""

    layers: Layers
    feature: Float[Tensor, "n feature h w"]
    """f, the parent feature: what the parent stage passes to the child stage."""
    parent_foreground: Image
    """P_f."""
    child_foreground: Image
    """C_f."""


class Generator(types.Generator):
    """Background, then shape, then texture (MixNMatch Sec. 3; stages of FineGAN Sec. 3)."""

    family: ClassVar[str] = "mixnmatch_paper"

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        w, feature = config.width, config.feature_dim
        self.background_stage = BackgroundStage(config)
        self.background_image = Head(w // 2, 3, nn.Tanh())
        self.parent_stage = ParentStage(config)
        self.parent_image = Head(feature, 3, nn.Tanh())
        self.parent_mask = Head(feature, 1, nn.Sigmoid())
        self.child_stage = ChildStage(config)
        self.child_image = Head(feature, 3, nn.Tanh())
        self.child_mask = Head(feature, 1, nn.Sigmoid())
        self.encoders = Encoders(config)
        self.extractor = FeatureExtractor(config) if config.feature_mode else None

    def forward(self, codes: Codes, feature: Float[Tensor, "n feature h w"] | None = None) -> Layers:
        """Return the layers of `codes`; a `feature` from `shape_feature` replaces G_p(z, p) (feature mode, Sec. 3.4).

        Raises: ValueError for codes of other lengths than this generator's.
        """
        return self.generate(codes, feature).layers

    def generate(self, codes: Codes, feature: Float[Tensor, "n feature h w"] | None = None) -> Generated:
        """Return the layers, as `forward` does, with f, P_f and C_f. Raises: ValueError as `forward`."""
        self._check(codes)
        z_background = codes.z if codes.z_background is None else codes.z_background
        background = self.background_image(self.background_stage(z_background, codes.b))
        f = self.parent_stage(codes.z, codes.p) if feature is None else feature
        P_f, P_m = self.parent_image(f), self.parent_mask(f)
        child = self.child_stage(f, codes.c)
        C_f, C_m = self.child_image(child), self.child_mask(child)
        parent = over(P_f, P_m, background)
        layers = Layers(
            image=over(C_f, C_m, parent),
            background=background,
            parent=parent,
            mask=1 - (1 - P_m) * (1 - C_m),
            parent_mask=P_m,
            child_mask=C_m,
        )
        return Generated(layers=layers, feature=f, parent_foreground=P_f, child_foreground=C_f)

    def stages(self) -> nn.ModuleList:
        """Return the networks of G alone, without the encoders and the feature extractor."""
        read = {"encoders", "extractor"}
        return nn.ModuleList([network for name, network in self.named_children() if name not in read])

    @property
    def resolution(self) -> int:
        """Side of the square picture in pixels."""
        return SIZE

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """A photo for each factor, and a seed for each."""
        return KNOBS

    def sample(self, n: int, rng: torch.Generator, tied: bool = True) -> Codes:
        """Draw `n` codes: z standard normal, the rest one-hot.

        With `tied`, c determines p and b (`tie`), as in the paper's training of G; otherwise all are independent, as in
        the paper's training of E (Sec. 3.3).
        """
        config = self.config
        z = torch.randn(n, config.z_dim, generator=rng).to(self.device)
        c = torch.randint(config.n_textures, (n,), generator=rng)
        if tied:
            p, b = tie(c, config.n_textures, config.n_shapes), tie(c, config.n_textures, config.n_backgrounds)
        else:
            p = torch.randint(config.n_shapes, (n,), generator=rng)
            b = torch.randint(config.n_backgrounds, (n,), generator=rng)
        return Codes(
            z=z,
            b=one_hot(b, config.n_backgrounds).to(self.device),
            p=one_hot(p, config.n_shapes).to(self.device),
            c=one_hot(c, config.n_textures).to(self.device),
            z_background=z,  # equal to z, as in the paper; a field of its own, so that either can be replaced
        )

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        """Return `codes` with one factor read from a photo or drawn from a seed; see `training.types.Generator`.

        `background` sets b and z_background, `pose` z alone, so that a new pose leaves the background unchanged.
        """
        n, knob = len(codes.z), self.knob(name)
        factor = name.removesuffix("_seed")
        if knob.kind == "picture":
            new = self.encode(_picture(name, value, n).to(self.device), factors=(factor,))
        else:
            seeds = knob_seeds(name, value, n)
            new = stack(self.sample(1, torch.Generator().manual_seed(seed), tied=False) for seed in seeds)
        if codes.z_background is None:
            codes = replace(codes, z_background=codes.z)
        return with_factor(codes, factor, new)

    def encode(self, image: Image, factors: Sequence[str] = FACTORS) -> Codes:
        """Return E(x) of photos x: z in [-4, 4], and b, p and c as probabilities (Sec. 3.2).

        Only `factors` are read, each by its own network; the other codes are zero. A factor is a knob (background,
        pose, shape, texture) or a code (z, b, p, c, z_background; E_z reads both z and z_background).
        Raises: ValueError for pictures that are not 128 x 128, or an unknown factor.
        """
        _check_photo(image)
        known = (*FACTORS, *CODES, "z_background")
        unknown = [factor for factor in factors if factor not in known]
        if unknown:
            raise ValueError(f"unknown factor {unknown[0]!r}; expected some of {', '.join(known)}")
        wanted = {
            k for factor in factors for k in (FACTOR_TABLE[factor].fields if factor in FACTOR_TABLE else (factor,))
        }
        if "z_background" in wanted:
            wanted.add("z")
        config = self.config
        dims = {"z": config.z_dim, "b": config.n_backgrounds, "p": config.n_shapes, "c": config.n_textures}
        codes = {
            k: self.encoders.code(image, k) if k in wanted else image.new_zeros(len(image), dim)
            for k, dim in dims.items()
        }
        return Codes(**codes, z_background=codes["z"])

    def shape_feature(self, image: Image) -> Float[Tensor, "n feature h w"]:
        """Return S(x) of photos x, the parent feature for `forward(codes, feature)` (Sec. 3.4).

        Raises: ValueError for pictures that are not 128 x 128, or if this model has no feature extractor.
        """
        if self.extractor is None:
            raise ValueError("this model has no feature extractor; train its second stage, or import EX.pth too")
        _check_photo(image)
        return self.extractor(image)

    def _check(self, codes: Codes) -> None:
        config = self.config
        wanted = (config.z_dim, config.n_backgrounds, config.n_shapes, config.n_textures)
        came = tuple(getattr(codes, k).shape[1] for k in CODES)
        if came != wanted:
            raise ValueError(
                f"got codes z, b, p, c of lengths {came}, expected {wanted}; sample codes from this generator"
            )


class Pyramid(nn.Module):
    """A code to a map: 4 x 4, then doubled five times to 128 x 128; `dims` are the channels at each size."""

    def __init__(self, code_dim: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = tuple(dims)
        n = 2 * dims[0] * 4 * 4
        self.fc = nn.Sequential(nn.Linear(code_dim, n, bias=False), nn.BatchNorm1d(n), nn.GLU(dim=1))
        self.ups = [f"upsample{i}" for i in range(1, len(dims))]
        for name, (before, after) in zip(self.ups, pairwise(dims), strict=True):
            self.add_module(name, up_block(before, after))

    def grow(self, code: Float[Tensor, "n code"]) -> Float[Tensor, "n dim h w"]:
        """Return the map at full size."""
        x = self.fc(code).unflatten(1, (self.dims[0], 4, 4))
        for name in self.ups:
            x = self.get_submodule(name)(x)
        return x


class BackgroundStage(Pyramid):
    """G_b without its head: (z, b) -> the map that B is computed from."""

    def __init__(self, config: GeneratorConfig) -> None:
        w = config.width
        super().__init__(config.z_dim + config.n_backgrounds, (8 * w, 4 * w, 2 * w, w, w, w // 2))

    def forward(self, z: Float[Tensor, "n z_dim"], b: Float[Tensor, "n n_backgrounds"]) -> Float[Tensor, "n dim h w"]:
        """Return a map of half as many channels as the config's width."""
        return self.grow(torch.cat([z, b], 1))


class ParentStage(Pyramid):
    """G_p: (z, p) -> f, the parent feature. p enters at 4 x 4 and again at full size."""

    def __init__(self, config: GeneratorConfig) -> None:
        w, dim = config.width, config.feature_dim
        super().__init__(config.z_dim + config.n_shapes, (8 * w, 4 * w, 2 * w, w, dim, dim))
        self.jointConv = JointBlock(dim, config.n_shapes, dim, code_first=False)
        self.residual = nn.Sequential(*(ResBlock(dim) for _ in range(3)))

    def forward(self, z: Float[Tensor, "n z_dim"], p: Float[Tensor, "n n_shapes"]) -> Float[Tensor, "n feature h w"]:
        """Return f, the input of the heads P_f and P_m and of the child stage."""
        return self.residual(self.jointConv(self.grow(torch.cat([z, p], 1)), p))


class ChildStage(nn.Module):
    """G_c: (f, c) -> the input of the heads C_f and C_m. c enters after the shape, so that it cannot change it much."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        dim = config.feature_dim
        self.jointConv = JointBlock(dim, config.n_textures, 2 * dim, code_first=True)
        self.residual = nn.Sequential(*(ResBlock(2 * dim) for _ in range(2)))
        self.samesample = same_block(2 * dim, dim)

    def forward(
        self, feature: Float[Tensor, "n feature h w"], c: Float[Tensor, "n n_textures"]
    ) -> Float[Tensor, "n feature h w"]:
        """Return a map of the size of `feature`."""
        return self.samesample(self.residual(self.jointConv(feature, c)))


class Head(nn.Module):
    """A picture (tanh) or a mask (sigmoid) from a map."""

    def __init__(self, in_dim: int, out_dim: int, squash: nn.Module) -> None:
        super().__init__()
        self.img = nn.Sequential(conv3(in_dim, out_dim), squash)

    def forward(self, x: Float[Tensor, "n dim h w"]) -> Float[Tensor, "n out h w"]:
        """Return the generated layer."""
        return self.img(x)


def over(foreground: Image, mask: Mask, behind: Image) -> Image:
    """Return P = P_m P_f + (1 - P_m) B, or the same of the child over P (FineGAN Sec. 3)."""
    return mask * foreground + (1 - mask) * behind


def tie(c: Int[Tensor, " n"], n_textures: int, n_groups: int) -> Int[Tensor, " n"]:
    """Return each texture's group, floor(c n_groups / n_textures): neighbouring textures share one (FineGAN Sec. 3)."""
    return c * n_groups // n_textures


def one_hot(index: Int[Tensor, " n"], n_codes: int) -> Float[Tensor, "n n_codes"]:
    """Return one-hot rows."""
    return F.one_hot(index, n_codes).float()


KNOBS = tuple(
    Knob(name=name, label=factor.label, kind="picture", help=f"A photo that gives {factor.gives}.")
    for name, factor in FACTOR_TABLE.items()
) + tuple(
    Knob(
        name=f"{name}_seed",
        label=f"{factor.label} seed",
        kind="seed",
        low=0,
        high=2**31 - 1,
        step=1,
        help=f"Samples {factor.gives}.",
    )
    for name, factor in FACTOR_TABLE.items()
)
"""Four photo knobs, then four seed knobs, in the order in which the page shows them."""


def _picture(name: str, value: Any, n: int) -> Image:
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[0] not in (1, n):
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"knob {name!r} takes a picture (1 or {n}, 3, {SIZE}, {SIZE}) in [-1, 1]; got {came}")
    return value


def _check_photo(image: Image) -> None:
    if image.shape[1:] != (3, SIZE, SIZE):
        came = " x ".join(str(k) for k in image.shape[1:])
        raise ValueError(
            f"got a picture of {came}, expected 3 x {SIZE} x {SIZE}; crop and resize it first (training.pictures)"
        )
