"""A pretrained MobileNetV2 as a feature network (Sandler et al., CVPR 2018): projected discriminator, perceptual loss,
trunk of the object finder.

Batch norm is folded into the convolutions. Weights are torchvision's published ones, or those of a file.
"""

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.nn import tflite
from training.runtime.distributed import same_mean, size
from training.types import Image

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of the first block of each stage (MobileNetV2 Table 2)."""
STRIDES = (2, 4, 8, 16, 16, 32, 32)
"""Stride of each stage's map in pixels."""
REMEDY = (
    "give a file (--projected.backbone FILE): torchvision's mobilenet_v2 state dict, or a MobileNetV2 as TorchScript "
    "or .tflite"
)


class Conv(nn.Conv2d):
    """A convolution with a bias, padded to keep the size; at stride 2 on all sides (torchvision) or, `same`, on the
    right and below alone (TensorFlow's SAME on an even side)."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, *, stride: int = 1, groups: int = 1, same: bool) -> None:
        padding = 0 if stride == 2 and same else kernel // 2
        super().__init__(in_dim, out_dim, kernel, stride=stride, padding=padding, groups=groups)
        self.shifted = stride == 2 and same

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the convolved map."""
        dtype = input.dtype
        x = F.pad(input, (0, 1, 0, 1)) if self.shifted else input
        if self.groups > 1 and self.stride[0] == 2 and dtype == torch.bfloat16:
            # oneDNN's backward pass of these takes twice as long in bfloat16 as in float32
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
                return F.conv2d(x.float(), weight, bias, 2, self.padding, groups=self.groups).to(dtype)
        return self._conv_forward(x, self.weight, self.bias)


class Block(nn.Module):
    """Inverted residual: widen by 1 x 1, filter each channel by 3 x 3, narrow by 1 x 1 (MobileNetV2 Fig. 3d)."""

    def __init__(self, in_dim: int, out_dim: int, *, expansion: int, stride: int, same: bool) -> None:
        super().__init__()
        wide = in_dim * expansion
        self.expand = Conv(in_dim, wide, 1, same=same) if expansion > 1 else None
        self.filter = Conv(wide, wide, 3, stride=stride, groups=wide, same=same)
        self.project = Conv(wide, out_dim, 1, same=same)
        self.residual = stride == 1 and in_dim == out_dim

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the block's map."""
        wide = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.filter(wide)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Feature maps of seven stages, strides 2 to 32, 16 to 320 channels.

    `mean` and `std` standardise RGB in [-1, 1] as the weights expect it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, same: bool = True) -> None:
        super().__init__()
        self.same = same
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.stem = Conv(3, 32, 3, stride=2, same=same)
        dim, stages = 32, []
        for expansion, out, blocks, stride in STAGES:
            stage = []
            for i in range(blocks):
                stage.append(Block(dim, out, expansion=expansion, stride=stride if i == 0 else 1, same=same))
                dim = out
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.last = Conv(dim, 1280, 1, same=same)

    def maps(self, image: Image, until: int = 7) -> list[Float[Tensor, "n _ _ _"]]:
        """Return the maps of the first `until` stages."""
        dtype = self.stem.weight.dtype
        x = (image - self.mean.view(3, 1, 1).to(image)) / self.std.view(3, 1, 1).to(image)
        x = F.relu6(self.stem(x.to(dtype).contiguous(memory_format=torch.channels_last)))
        found = []
        for stage in self.stages[:until]:  # pyright: ignore[reportIndexIssue]
            x = stage(x)
            found.append(x)
        return found

    def forward(self, image: Image) -> Float[Tensor, "n 1280"]:
        """Return the pooled features, those before ImageNet's classifier."""
        return F.relu6(self.last(self.maps(image)[-1])).mean((2, 3))

    def convolutions(self) -> Iterator[Conv]:
        """Yield the 52 convolutions in the order of computation."""
        return (module for module in self.modules() if isinstance(module, Conv))


def load_backbone(path: Path | None = None) -> MobileNetV2:
    """Return MobileNetV2 with the weights of a file, or torchvision's published ones, downloaded once.

    A file is a TorchScript MobileNetV2 whose batch norm is folded into its constants (TensorFlow's padding, input in
    [-1, 1]), the same network as TensorFlow Lite, or a state dict of torchvision's `mobilenet_v2`. No code of the file
    is run.

    Raises: ValueError for a missing or other file, or weights that cannot be downloaded.
    """
    if path is None:
        from torchvision.models import MobileNet_V2_Weights

        try:
            return _of_state(MobileNet_V2_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ValueError(f"torchvision's MobileNetV2 weights cannot be downloaded ({reason}); {REMEDY}") from None
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            kept = Path(torch.hub.get_dir()) / "checkpoints"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"torchvision's MobileNetV2 weights in {kept} are damaged ({reason}); remove the file there, or "
                f"{REMEDY}"
            ) from None
    if not path.is_file():
        raise ValueError(f"no file {path}; {REMEDY}")
    try:
        if path.suffix == ".tflite":
            return _of_tflite(path)
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        return _of_script(path) if scripted else _of_state(torch.load(path, map_location="cpu", weights_only=True))
    except (
        zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, AttributeError, TypeError, KeyError
    ) as error:  # fmt: skip
        raise ValueError(f"{path} holds no MobileNetV2 ({str(error).splitlines()[0]}); {REMEDY}") from None


def _of_script(path: Path) -> MobileNetV2:
    """Return the network whose folded weights are the constants of a TorchScript graph, weight and bias of each layer
    in the order of computation or in reverse; weights (out, kernel, kernel, in), or (1, kernel, kernel, channels)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.load.* is deprecated")
        graph = torch.jit.load(path, map_location="cpu").inlined_graph
    nodes = [n for n in graph.nodes() if n.kind() == "prim::Constant" and n.output().type().kind() == "TensorType"]
    constants = [tensor for node in nodes if (tensor := node.t("value")).ndim in (1, 4)]
    if constants and constants[0].ndim == 1:  # the last layer's bias comes first
        constants.reverse()
    return _filled(
        MobileNetV2(same=True), [(_ours(w), b) for w, b in zip(constants[::2], constants[1::2], strict=True)]
    )


def _of_tflite(path: Path) -> MobileNetV2:
    """Return the network of a TensorFlow Lite classifier, which sees pixels as (byte - 128) / 128."""
    network = MobileNetV2(same=True)
    n = sum(1 for _ in network.convolutions())  # the one after them is the classifier's
    network = _filled(network, [(_ours(w), b) for w, b in islice(tflite.convolutions(path), n)])
    network.mean.fill_(1 / 255)
    network.std.fill_(256 / 255)
    return network


def _ours(weight: Float[Tensor, "_ _ _ _"]) -> Float[Tensor, "_ _ _ _"]:
    """Return (out, in, kernel, kernel) of TensorFlow's (out, kernel, kernel, in) or (1, kernel, kernel, channels)."""
    return weight.permute(3, 0, 1, 2) if weight.shape[0] == 1 else weight.permute(0, 3, 1, 2)


def _of_state(state: dict[str, Any]) -> MobileNetV2:
    """Return the network with torchvision's weights, batch norm folded into them: weight g / sqrt(var + eps), bias
    b - mean g / sqrt(var + eps)."""
    names = [name for name, value in state.items() if name.endswith("weight") and value.ndim == 4]
    pairs = []
    for name in names:
        stem, _, number = name.removesuffix(".weight").rpartition(".")
        norm = f"{stem}.{int(number) + 1}"
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        pairs.append(
            (state[name] * gain[:, None, None, None], state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain)
        )
    network = _filled(MobileNetV2(same=False), pairs)
    network.mean.copy_(torch.tensor([0.485, 0.456, 0.406]) * 2 - 1)
    network.std.copy_(torch.tensor([0.229, 0.224, 0.225]) * 2)
    return network


@torch.no_grad()
def _filled(network: MobileNetV2, pairs: Sequence[tuple[Tensor, Tensor]]) -> MobileNetV2:
    convolutions = list(network.convolutions())
    if len(convolutions) != len(pairs):
        raise ValueError(f"got {len(pairs)} convolutions, expected {len(convolutions)}")
    for conv, (weight, bias) in zip(convolutions, pairs, strict=True):
        if conv.weight.shape != weight.shape:
            raise ValueError(f"got a convolution of shape {tuple(weight.shape)}, expected {tuple(conv.weight.shape)}")
        conv.weight.copy_(weight)
        assert conv.bias is not None
        conv.bias.copy_(bias)
    return network.eval()


class FrozenFeatures(nn.Module):
    """Standardised maps of a frozen backbone, for losses: the gradient flows to the picture, never to the weights.

    Four maps, 24 to 320 channels at 4 to 32 pixels a cell. Each channel is brought to mean 0, deviation 1 over real
    pictures: `observe` takes in the first `PICTURES` of them. State dicts hold these statistics, not the backbone.
    """

    TAPS = (1, 2, 4, 6)
    CHANNELS = (24, 32, 96, 320)
    PICTURES = 384

    seen: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, backbone: MobileNetV2, *, side: int = 96, bf16: bool = True) -> None:
        super().__init__()
        if side < 32 or side % 32:
            raise ValueError(f"pictures of {side} pixels do not suit the feature network; expected a multiple of 32")
        backbone = backbone.requires_grad_(False).to(torch.bfloat16 if bf16 else torch.float32)
        self._backbone = (backbone.to(memory_format=torch.channels_last),)  # type: ignore[call-overload] # in a tuple: not in the state dict
        self.side = side
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("total", torch.zeros(sum(self.CHANNELS)))
        self.register_buffer("squares", torch.ones(sum(self.CHANNELS)))

    def _apply(self, fn: Any, recurse: bool = True) -> "FrozenFeatures":
        """Move the backbone with this module, which does not own it."""
        self._backbone[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def raw(self, image: Image) -> list[Float[Tensor, "n _ _ _"]]:
        """Return the four maps as the backbone gives them."""
        if image.shape[-1] != self.side:
            image = F.interpolate(image, size=(self.side, self.side), mode="bilinear", align_corners=False)
        with torch.autocast(image.device.type, enabled=False):
            maps = self._backbone[0].maps(image)
        return [maps[i] for i in self.TAPS]

    @torch.no_grad()
    def observe(self, maps: Sequence[Tensor]) -> None:
        """Update the statistics by maps of real pictures, those of all processes, until `PICTURES` have been seen."""
        if self.seen >= self.PICTURES:
            return
        n = len(maps[0]) * size()
        share = n / (self.seen + n)
        means = torch.cat([x.float().mean((0, 2, 3)) for x in maps])
        squares = torch.cat([x.float().square().mean((0, 2, 3)) for x in maps])
        mean, square = same_mean(torch.stack([means, squares]))
        self.total.lerp_(mean, share)
        self.squares.lerp_(square, share)
        self.seen += n

    def standardised(self, maps: Sequence[Tensor]) -> list[Float[Tensor, "n _ _ _"]]:
        """Return maps with each channel less its mean, over its deviation."""
        deviation = (self.squares - self.total.square()).clamp(min=1e-4).sqrt()
        means, scales = self.total.split(self.CHANNELS), deviation.reciprocal().split(self.CHANNELS)
        return [
            (x - mean.view(1, -1, 1, 1).to(x.dtype)) * scale.view(1, -1, 1, 1).to(x.dtype)
            for x, mean, scale in zip(maps, means, scales, strict=True)
        ]

    def forward(self, image: Image) -> list[Float[Tensor, "n _ _ _"]]:
        """Return the standardised maps of pictures."""
        return self.standardised(self.raw(image))


def perceptual_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """Return the distance of each picture's feature maps: mean |a - b|, every position scaled to a mean square of 1 (as
    LPIPS, Zhang et al. 2018 Eq. 1), mean over maps."""

    def scaled(x: Tensor) -> Tensor:
        return x.float() * (x.float().square().mean(1, keepdim=True) + 1e-6).rsqrt()

    pairs = zip(ours, theirs, strict=True)
    return torch.stack([(scaled(a) - scaled(b)).abs().mean((1, 2, 3)) for a, b in pairs]).mean(0)
