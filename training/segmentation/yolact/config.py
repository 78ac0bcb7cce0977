"""Sizes of the published YOLACT, YOLACT++ and YolactEdge, and of our fast network: every difference is one field."""

from dataclasses import dataclass
from typing import Literal

BackboneName = Literal["resnet50", "resnet101", "darknet53", "mobilenetv2", "mobilenetv2-folded", "mobilenetv2-same"]
"""`mobilenetv2` is YolactEdge's, torchvision's with BatchNorm; `-folded` is that without BatchNorm, and `-same` pads as
TensorFlow does besides: which of the two pretrained weights need is known when they are read."""
FOLDED: tuple[BackboneName, BackboneName] = ("mobilenetv2-folded", "mobilenetv2-same")
"""Trunks of the same weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Architecture and input of the network. The defaults are `yolact_base`, without its classes."""

    classes: tuple[str, ...]
    """Names of the classes in the order of the logits; the background comes before them."""
    backbone: BackboneName = "resnet101"
    """The trunk; of the folded MobileNetV2, `-folded` pads as torchvision's and `-same` as TensorFlow's."""
    deformable_every: int = 0
    """Interval of blocks with a deformable 3x3 convolution in the ResNet's last three stages (YOLACT++ Sec. 6.2); 0 for
    none."""
    size: int = 550
    """Side of the square input in pixels."""
    scales: tuple[float, ...] = (24, 48, 96, 192, 384)
    """Side of the anchors in pixels of the input, one a pyramid level from P3 on."""
    octaves: tuple[float, ...] = (1.0,)
    """Factors by which each scale is multiplied (YOLACT++ Sec. 6.3: 1, 2^(1/3), 2^(2/3))."""
    ratios: tuple[float, ...] = (1.0, 0.5, 2.0)
    """Width over height of the anchors."""
    square_anchors: bool = True
    """Make anchors square, using their width as height: an error of the first release, on which its weights depend."""
    pyramid_dim: int = 256
    """Channels of the pyramid and of the head."""
    protonet_dim: int = 256
    """Channels of the prototype network."""
    protonet_depth: int = 3
    """Its 3x3 convolutions before the enlargement by 2; one more follows it."""
    n_prototypes: int = 32
    """k: prototype masks, and coefficients of each anchor."""
    mask_rescoring: bool = False
    """Predict each mask's IoU as well (YOLACT++ Sec. 6.1)."""
    split_pyramid: bool = False
    """Name the pyramid's weights as YolactEdge does, in two phases."""
    video: bool = False
    """Propagate features from key frames to the frames between (YolactEdge Sec. III-B)."""
    letterbox: bool = False
    """Keep the aspect ratio of photos and pad the rest of the input; otherwise they are stretched to a square."""

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes are {self.classes}; give at least one name, each once")
        if self.deformable_every < 0 or (self.deformable_every and not self.backbone.startswith("resnet")):
            raise ValueError(
                f"deformable_every is {self.deformable_every} for {self.backbone}; only a ResNet has deformable "
                f"convolutions, every block's with 1, none with 0"
            )
        if not 64 <= self.size <= 2048:
            raise ValueError(f"size is {self.size}; the input has a side of 64 to 2048 pixels")
        if self.size % 32 and self.backbone in ("mobilenetv2-folded", "mobilenetv2-same"):
            raise ValueError(f"size is {self.size}; {self.backbone} takes multiples of 32 pixels")
        if not 3 <= len(self.scales) <= 7 or min((*self.scales, *self.octaves, *self.ratios), default=0) <= 0:
            raise ValueError(
                f"scales {self.scales}, octaves {self.octaves} and ratios {self.ratios} give no anchors; expected "
                f"positive numbers, and 3 to 7 scales, one a pyramid level"
            )
        if not (self.octaves and self.ratios):
            raise ValueError("octaves and ratios must hold at least one number each")
        for name in ("pyramid_dim", "protonet_dim", "protonet_depth", "n_prototypes"):
            if not 1 <= getattr(self, name) <= 2048:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 1 to 2048")
        if self.video and not (self.split_pyramid and self.backbone.startswith("resnet")):
            raise ValueError("video needs a ResNet and split_pyramid: there is no other network for it")

    @property
    def n_anchors(self) -> int:
        """Anchors at each place of a pyramid level."""
        return len(self.octaves) * len(self.ratios)

    @property
    def map_sides(self) -> tuple[int, ...]:
        """Sides of the pyramid levels P3, P4, ...: the input's is halved three times for P3, rounded up each time."""
        return tuple(-(-self.size // 2**level) for level in range(3, 3 + len(self.scales)))
