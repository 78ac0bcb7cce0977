"""The four published trunks, with the authors' names of weights, and the trunk of our fast network.

Each returns the maps at strides 8, 16 and 32 that the pyramid reads (C3, C4, C5), or the first few of them.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import Bottleneck
from torchvision.ops import deform_conv2d
from torchvision.ops.misc import Conv2dNormActivation

from training.nn import backbone as folded
from training.segmentation.yolact.config import BackboneName
from training.types import Image

Map = Float[Tensor, "n _ _ _"]
"""Feature maps: pictures, channels, height, width."""


class Trunk(nn.Module):
    """Layers one after the other, some of whose outputs are kept; what lies beyond the last of them is not computed."""

    layers: nn.ModuleList
    taps: tuple[int, int, int]
    """Places in `layers` of C3, C4 and C5."""
    channels: tuple[int, int, int]
    """Channels of C3, C4 and C5."""
    mean: tuple[float, float, float] = (123.68, 116.78, 103.94)
    deviation: tuple[float, float, float] = (58.40, 57.12, 57.38)
    """Of RGB in 0 to 255: the trunk sees (x - mean) / deviation."""

    def stem(self, x: Map) -> Map:
        """Return what the first of `layers` reads."""
        return x

    def normalise(self, image: Image) -> Image:
        """Return pictures as the trunk was trained to see them."""
        mean = torch.tensor(self.mean, device=image.device)[:, None, None]
        deviation = torch.tensor(self.deviation, device=image.device)[:, None, None]
        return (image + 1) * (127.5 / deviation) - mean / deviation

    def forward(self, x: Map, n: int = 3) -> list[Map]:
        """Return the first `n` of C3, C4 and C5 for normalised pictures."""
        kept: list[Tensor] = []
        x = self.stem(x)
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place in self.taps:
                kept.append(x)
                if len(kept) == n:
                    break
        return kept


class DeformableConv(nn.Module):
    """A 3x3 convolution that reads at places and with weights of its own choosing (DCNv2; YOLACT++ Sec. 6.2)."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = (stride, stride)
        plain = nn.Conv2d(dim, dim, 3)
        self.weight, self.bias = plain.weight, plain.bias
        self.conv_offset_mask = nn.Conv2d(dim, 27, 3, stride, 1)
        nn.init.zeros_(self.conv_offset_mask.weight)
        assert self.conv_offset_mask.bias is not None
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Map) -> Map:
        """Return the convolution: 18 of 27 channels are offsets (vertical, horizontal a tap), 9 the taps' weights."""
        offset_mask = self.conv_offset_mask(x)
        return deform_conv2d(
            x, offset_mask[:, :18], self.weight, self.bias, self.stride, (1, 1), mask=offset_mask[:, 18:].sigmoid()
        )


class ResNet(Trunk):
    """torchvision's ResNet without its classifier; from C3 on 3x3 convolutions may be deformable."""

    taps = (1, 2, 3)
    channels = (512, 1024, 2048)

    def __init__(self, blocks: tuple[int, int, int, int], deformable_every: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for stage, count in enumerate(blocks):
            dim, stride = 64 * 2**stage, 1 if stage == 0 else 2
            before = 64 if stage == 0 else 2 * dim
            shortcut = nn.Sequential(nn.Conv2d(before, 4 * dim, 1, stride, bias=False), nn.BatchNorm2d(4 * dim))
            row = [Bottleneck(before, dim, stride, shortcut)]
            row += [Bottleneck(4 * dim, dim) for _ in range(1, count)]
            for block in row[::deformable_every] if deformable_every and stage > 0 else []:
                block.conv2 = DeformableConv(dim, block.stride)  # type: ignore[assignment]
            self.layers.append(nn.Sequential(*row))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)

    def stem(self, x: Map) -> Map:
        """Return the maps at stride 4."""
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)


def _darknet_unit(before: int, dim: int, side: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, dim, side, stride, side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(dim), nn.LeakyReLU(0.1))


class DarkNetBlock(nn.Module):
    """A 1x1 unit that halves the channels and a 3x3 unit that doubles them again, plus the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = _darknet_unit(dim, dim // 2, 1)
        self.conv2 = _darknet_unit(dim // 2, dim, 3)

    def forward(self, x: Map) -> Map:
        """Return the sum, without a nonlinearity after it."""
        return self.conv2(self.conv1(x)) + x


class DarkNet(Trunk):
    """DarkNet-53 (YOLOv3) without its classifier."""

    taps = (2, 3, 4)
    channels = (256, 512, 1024)
    mean = (0.0, 0.0, 0.0)
    deviation = (255.0, 255.0, 255.0)

    def __init__(self, blocks: tuple[int, ...] = (1, 2, 8, 8, 4)) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for stage, count in enumerate(blocks):
            dim = 64 * 2**stage
            row = [DarkNetBlock(dim) for _ in range(count)]
            self.layers.append(nn.Sequential(_darknet_unit(dim // 2, dim, 3, 2), *row))
        self._preconv = _darknet_unit(3, 32, 3)

    def stem(self, x: Map) -> Map:
        """Return the first unit's maps, at the picture's own size."""
        return self._preconv(x)


GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""MobileNetV2's groups of blocks: expansion, channels, blocks, stride of the first (Sandler et al. Table 2)."""


class MobileNetV2(Trunk):
    """torchvision's MobileNetV2 without its classifier. The last two layers feed nothing; files hold them."""

    taps = (3, 4, 6)
    channels = (32, 64, 160)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Conv2dNormActivation(3, 32, 3, 2, activation_layer=nn.ReLU6)])
        before = 32
        for expansion, dim, count, stride in GROUPS:
            row = [InvertedResidual(before, dim, stride, expansion)]
            row += [InvertedResidual(dim, dim, 1, expansion) for _ in range(1, count)]
            self.layers.append(nn.Sequential(*row))
            before = dim
        self.layers.append(Conv2dNormActivation(320, 1280, 1, activation_layer=nn.ReLU6))


def build_trunk(name: BackboneName, deformable_every: int = 0) -> Trunk:
    """Return the trunk of that name, with random weights."""
    if name == "resnet50":
        return ResNet((3, 4, 6, 3), deformable_every)
    if name == "resnet101":
        return ResNet((3, 4, 23, 3), deformable_every)
    if name == "darknet53":
        return DarkNet()
    if name == "mobilenetv2":
        return MobileNetV2()
    return FoldedMobileNetV2(same=name == "mobilenetv2-same")


class FoldedMobileNetV2(Trunk):
    """The toolkit's MobileNetV2 without BatchNorm, as far as stride 32; it normalises pictures itself."""

    taps = (2, 4, 6)
    channels = (32, 96, 320)

    def __init__(self, *, same: bool) -> None:
        super().__init__()
        self.network = folded.MobileNetV2(same=same)
        del self.network.last  # 1280 channels for ImageNet's classifier

    def normalise(self, image: Image) -> Image:
        """Return the pictures as they are."""
        return image

    def forward(self, x: Map, n: int = 3) -> list[Map]:
        """Return the first `n` of C3, C4 and C5 for pictures in [-1, 1]."""
        maps = self.network.maps(x, self.taps[n - 1] + 1)
        return [maps[place] for place in self.taps[:n]]

    @torch.no_grad()
    def load(self, pretrained: folded.MobileNetV2) -> None:
        """Take the weights of a pretrained network. Raises: ValueError for one that pads otherwise."""
        if pretrained.same != self.network.same:
            raise ValueError("the pretrained MobileNetV2 pads otherwise than the config's; name the other backbone")
        state = pretrained.state_dict()
        self.network.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("last.")})
