"""Two small generators with the contract's knobs and no training: what the page's tests render and turn.

`Blocks` draws a shaded box that turns, moves and grows before a gradient, as GIRAFFE HD's generator would;
`Patches` reads colours and sizes from four photos, as MixNMatch's would.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from giraffe_hd.giraffe2021 import generator as giraffe
from giraffe_hd.giraffe2021.config import GeneratorConfig as GiraffeConfig
from giraffe_hd.giraffe2021.presets import CLEVR2_256
from giraffe_hd.paper.config import VolumeConfig
from training.nn.camera import box_points, look_at, pixel_plane
from training.types import Generator, Image, Knob, Mask

DIM = 8


def scenes() -> giraffe.Generator:
    """Return a small generator of scenes with two objects, untrained."""
    torch.manual_seed(0)
    sizes = {
        "resolution": 16,
        "volume": VolumeConfig(resolution=8),
        "z_dim": 8,
        "z_dim_bg": 6,
        "width": 16,
        "width_bg": 8,
    }
    made = giraffe.Generator(GiraffeConfig(**sizes, feat_dim=32, prior=CLEVR2_256.generator.prior))
    with torch.no_grad():
        made.object_field.sigma_out.weight *= 100
    return made.eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlocksConfig:
    """Settings of `Blocks`."""

    size: int = 64
    fov: float = 20.0
    steps: int = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class BlocksCodes:
    """Names and shapes of GIRAFFE HD's codes with one object."""

    z_s_fg: Float[Tensor, "n z"]
    z_a_fg: Float[Tensor, "n z"]
    z_s_bg: Float[Tensor, "n z"]
    z_a_bg: Float[Tensor, "n z"]
    azimuth: Float[Tensor, " n"]
    elevation: Float[Tensor, " n"]
    radius: Float[Tensor, " n"]
    scale: Float[Tensor, "n 3"]
    translation: Float[Tensor, "n 3"]
    rotation: Float[Tensor, " n"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlocksLayers:
    """Names of GIRAFFE HD's layers."""

    image: Image
    foreground: Image
    background: Image
    mask: Mask
    alpha: Mask
    depth: Float[Tensor, "n 1 h w"]


class Blocks(Generator):
    """A box in a room without walls, found by marching along rays."""

    family: ClassVar[str] = "toy_blocks"

    def __init__(self, config: BlocksConfig | None = None) -> None:
        super().__init__()
        self.config = config or BlocksConfig()
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def resolution(self) -> int:
        return self.config.size

    @property
    def knobs(self) -> tuple[Knob, ...]:
        def numbers(name: str, label: str, low: float, high: float, default: float, unit: str = "") -> Knob:
            return Knob(name=name, label=label, kind="range", low=low, high=high, default=default, unit=unit)

        return (
            Knob(name="rotation", label="Rotation", kind="angle", unit="°", low=0, high=360, default=30, step=1),
            numbers("scale", "Size", 0.2, 0.3, 0.25),
            numbers("translation_y", "Left to right", -0.1, 0.1, 0.0),
            numbers("translation_z", "Down to up", -0.06, 0.06, 0.0),
            Knob(name="elevation", label="Elevation", kind="angle", unit="°", low=10, high=35, default=20, step=1),
            Knob(name="azimuth", label="Azimuth", kind="angle", unit="°", low=0, high=360, default=0, step=1),
            numbers("radius", "Distance", 2.5, 3.0, 2.732),
            Knob(name="shape", label="Object's shape", kind="seed", low=0, high=9999, step=1),
            Knob(name="look", label="Object's look", kind="seed", low=0, high=9999, default=3, step=1),
            Knob(name="background", label="Background", kind="seed", low=0, high=9999, default=5, step=1),
        )

    def sample(self, n: int, rng: torch.Generator) -> BlocksCodes:
        def z() -> Tensor:
            return torch.randn(n, DIM, generator=rng).to(self.device)

        def u(low: float, high: float) -> Tensor:
            return (low + (high - low) * torch.rand(n, generator=rng)).to(self.device)

        half = torch.tensor([1.0, 0.5, 0.5], device=self.device)
        return BlocksCodes(
            z_s_fg=z(),
            z_a_fg=z(),
            z_s_bg=z(),
            z_a_bg=z(),
            azimuth=u(0, 0),
            elevation=u(math.radians(10), math.radians(35)),
            radius=u(2.732, 2.732),
            scale=u(0.2, 0.3)[:, None] * half,
            translation=torch.stack([u(0, 0), u(-0.1, 0.1), u(-0.06, 0.06)], 1),
            rotation=u(0, 2 * math.pi),
        )

    def set(self, codes: BlocksCodes, name: str, value: Any) -> BlocksCodes:
        knob = self.knob(name)
        n = len(codes.rotation)
        if knob.kind == "seed":
            rng = torch.Generator().manual_seed(int(value))
            z = torch.randn(1, DIM, generator=rng).to(self.device).expand(n, DIM)
            if name == "background":
                return replace(codes, z_s_bg=z, z_a_bg=-z)
            return replace(codes, **{{"shape": "z_s_fg", "look": "z_a_fg"}[name]: z})
        number = torch.as_tensor(value, dtype=torch.float32, device=self.device).expand(n)
        if knob.kind == "angle":
            return replace(codes, **{name: torch.deg2rad(number)})
        if name == "scale":
            return replace(codes, scale=number[:, None] * torch.tensor([1.0, 0.5, 0.5], device=self.device))
        if name == "radius":
            return replace(codes, radius=number)
        axis = "xyz".index(name[-1])
        return replace(codes, translation=codes.translation.index_copy(1, torch.tensor([axis]), number[:, None]))

    def forward(self, codes: BlocksCodes) -> BlocksLayers:
        config, n = self.config, len(codes.rotation)
        size = config.size
        x, y = pixel_plane(size)
        focal = 1 / math.tan(math.radians(config.fov) / 2)
        rays = torch.stack([x / focal, y / focal, -torch.ones_like(x)], -1).reshape(-1, 3)
        camera = look_at(codes.azimuth, codes.elevation)
        start = camera[:, :, 2] * codes.radius[:, None]
        depths = codes.radius[:, None] + torch.linspace(-0.4, 0.4, config.steps)
        ways = (camera @ rays.T).transpose(1, 2)  # n pixels 3
        points = start[:, None, None] + depths[:, :, None, None] * ways[:, None]  # n steps pixels 3
        local = box_points(points.reshape(n, -1, 3), codes.scale, codes.translation, codes.rotation)
        half = 0.6 + 0.3 * torch.sigmoid(codes.z_s_fg[:, None, :3])
        inside = ((local.abs() - half).amax(-1) < 0).reshape(n, config.steps, -1)
        hit = inside.any(1)
        first = inside.float().argmax(1)
        depth = torch.where(hit, depths.gather(1, first), 0.0)
        side = local.reshape(n, config.steps, -1, 3).gather(1, first[:, None, :, None].expand(-1, -1, -1, 3))[:, 0]
        light = (0.75 + 0.25 * (side / half).clamp(-1, 1)).prod(-1)
        paint = torch.sigmoid(2 * codes.z_a_fg[:, :3])[:, :, None]
        foreground = (2 * paint * light[:, None] - 1).reshape(n, 3, size, size)
        mask = hit.float().reshape(n, 1, size, size)
        top, bottom = (torch.tanh(z[:, :3])[:, :, None, None] for z in (codes.z_s_bg, codes.z_a_bg))
        ramp = ((y + 1) / 2)[None, None]
        background = (ramp * top + (1 - ramp) * bottom).expand(n, 3, size, size)
        return BlocksLayers(
            image=mask * foreground + (1 - mask) * background,
            foreground=foreground,
            background=background,
            mask=mask,
            alpha=mask,
            depth=depth.reshape(n, 1, size, size),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchesConfig:
    """Settings of `Patches`."""

    size: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchesCodes:
    """Names of MixNMatch's codes; `b`, `p` and `c` are shares that sum to 1."""

    z: Float[Tensor, "n 2"]
    b: Float[Tensor, "n 3"]
    p: Float[Tensor, "n 2"]
    c: Float[Tensor, "n 3"]
    z_background: Float[Tensor, "n 2"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchesLayers:
    """Names of MixNMatch's layers."""

    image: Image
    background: Image
    parent: Image
    mask: Mask
    parent_mask: Mask
    child_mask: Mask


class Patches(Generator):
    """An ellipse whose place, outline, colour and backdrop are read from four photos."""

    family: ClassVar[str] = "toy_patches"

    def __init__(self, config: PatchesConfig | None = None) -> None:
        super().__init__()
        self.config = config or PatchesConfig()
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def resolution(self) -> int:
        return self.config.size

    @property
    def knobs(self) -> tuple[Knob, ...]:
        names = ("background", "pose", "shape", "texture")
        photos = (Knob(name=name, label=f"{name.title()} from", kind="picture") for name in names)
        return (*photos, *(Knob(name=f"{name}_seed", label=f"Another {name}", kind="seed") for name in names))

    def sample(self, n: int, rng: torch.Generator) -> PatchesCodes:
        def shares(k: int) -> Tensor:
            return torch.softmax(3 * torch.randn(n, k, generator=rng), 1).to(self.device)

        return PatchesCodes(z=torch.randn(n, 2, generator=rng).to(self.device), b=shares(3), p=shares(2), c=shares(3))

    def encode(self, image: Image) -> PatchesCodes:
        rim = torch.cat([image[:, :, :4].flatten(2), image[:, :, -4:].flatten(2)], 2).mean(2)
        middle = image[:, :, 24:40, 24:40].mean((2, 3))
        spread = image.flatten(2).std(2)[:, :2]
        z = torch.stack([image[:, 0].mean((1, 2)), image[:, 1, :32].mean((1, 2))], 1)
        return PatchesCodes(
            z=z,
            b=torch.softmax(4 * rim, 1),
            p=torch.softmax(4 * spread, 1),
            c=torch.softmax(4 * middle, 1),
            z_background=z,
        )

    def set(self, codes: PatchesCodes, name: str, value: Any) -> PatchesCodes:
        if self.knob(name).kind == "seed":
            read = self.sample(1, torch.Generator().manual_seed(int(value)))
        else:
            read = self.encode(value)
        fields = {"background": ("b", "z_background"), "pose": ("z",), "shape": ("p",), "texture": ("c",)}
        return replace(codes, **{field: getattr(read, field) for field in fields[name.removesuffix("_seed")]})

    def shape_feature(self, image: Image) -> Float[Tensor, "n 1 h w"]:
        return (image.mean(1, keepdim=True) < 0.6).float()

    def forward(self, codes: PatchesCodes, feature: Float[Tensor, "n 1 h w"] | None = None) -> PatchesLayers:
        size, n = self.config.size, len(codes.z)
        x, y = pixel_plane(size)
        if feature is None:
            centre = 0.3 * torch.tanh(codes.z)[:, :, None, None]
            width, height = (0.3 + 0.4 * codes.p[:, i, None, None] for i in (0, 1))
            mask = (((x - centre[:, 0]) / width) ** 2 + ((y - centre[:, 1]) / height) ** 2 < 1).float()[:, None]
        else:
            mask = nn.functional.interpolate(feature, size=(size, size))
        ramp = (0.8 + 0.2 * y)[None, None]
        background = ((2 * codes.b[:, :, None, None] - 1) * ramp).expand(n, 3, size, size)
        paint = (2 * codes.c[:, :, None, None] - 1) * (0.9 + 0.1 * torch.sin(12 * x))[None, None]
        parent = mask * 0.2 + (1 - mask) * background
        return PatchesLayers(
            image=mask * paint + (1 - mask) * parent,
            background=background,
            parent=parent,
            mask=mask,
            parent_mask=mask,
            child_mask=mask,
        )
