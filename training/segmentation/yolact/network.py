"""The network (YOLACT Sec. 3): trunk, pyramid, prototypes and a head shared by all levels, with the authors' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.segmentation.yolact.anchors import make_anchors
from training.segmentation.yolact.backbone import Map, build_trunk
from training.segmentation.yolact.config import NetworkConfig
from training.segmentation.yolact.flow import FlowNet, ReduceChannels, RefineWarped
from training.types import Image, Model


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What the network says of pictures, before any of it is chosen."""

    box_code: Float[Tensor, "n anchors 4"]
    logits: Float[Tensor, "n anchors classes_and_background"]
    """Background first."""
    coefficients: Float[Tensor, "n anchors k"]
    """In [-1, 1]."""
    prototypes: Float[Tensor, "n mask_h mask_w k"]
    """At least 0."""
    anchors: Float[Tensor, "anchors 4"]
    """Centre x, centre y, width, height."""


def resize(x: Map, size: Sequence[int]) -> Map:
    """Return maps brought to `size` (height, width), bilinear, half-pixel centres."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class Laterals(nn.Module):
    """The pyramid's way down (YolactEdge's first phase): 1x1 convolutions of the trunk's maps, added from the top."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.lat_layers = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in reversed(channels))  # C5 first

    def lateral(self, c3: Map) -> Map:
        """Return what C3 alone gives."""
        return self.lat_layers[-1](c3)

    def sums(self, features: Sequence[Map]) -> list[Map]:
        """Return the sums x3, x4, x5 of C3, C4, C5."""
        sides = [layer(feature) for layer, feature in zip(self.lat_layers, reversed(features), strict=True)]
        kept = sides[:1]
        for side in sides[1:]:
            kept.append(side + resize(kept[-1], side.shape[2:]))
        return kept[::-1]


class Levels(nn.Module):
    """The pyramid's outputs (YolactEdge's second phase): 3x3 convolutions of the sums, and levels beyond P5."""

    def __init__(self, dim: int, n_levels: int) -> None:
        super().__init__()
        self.pred_layers = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(3))  # P5 first
        self.downsample_layers = nn.ModuleList(nn.Conv2d(dim, dim, 3, 2, 1) for _ in range(n_levels - 3))

    def levels(self, sums: Sequence[Map]) -> list[Map]:
        """Return P3, P4, P5 after ReLU, then P6, ... without it."""
        maps = [F.relu(layer(x)) for layer, x in zip(reversed(self.pred_layers), sums, strict=True)]
        for layer in self.downsample_layers:
            maps.append(layer(maps[-1]))
        return maps


class Pyramid(Laterals, Levels):
    """Both phases under one name, as in YOLACT."""

    def __init__(self, channels: Sequence[int], dim: int, n_levels: int) -> None:
        Levels.__init__(self, dim, n_levels)
        lateral = Laterals(channels, dim).lat_layers
        self._modules = {"lat_layers": lateral, **self._modules}  # files list it first


class Head(nn.Module):
    """One prediction per anchor: a shared 3x3 convolution and one each for boxes, classes and coefficients."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, n = config.pyramid_dim, config.n_anchors
        self.k, self.n_logits = config.n_prototypes, len(config.classes) + 1
        self.upfeature = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU())
        self.bbox_layer = nn.Conv2d(dim, 4 * n, 3, padding=1)
        self.conf_layer = nn.Conv2d(dim, self.n_logits * n, 3, padding=1)
        self.mask_layer = nn.Conv2d(dim, self.k * n, 3, padding=1)

    def forward(self, level: Map) -> tuple[Tensor, Tensor, Tensor]:
        """Return box codes, logits and coefficients of one level, `(n, anchors, ...)` each."""
        x = self.upfeature(level)
        code, logits, mask = self.bbox_layer(x), self.conf_layer(x), self.mask_layer(x).tanh()
        return _by_anchor(code, 4), _by_anchor(logits, self.n_logits), _by_anchor(mask, self.k)


def _by_anchor(x: Map, width: int) -> Float[Tensor, "n anchors width"]:
    """Return maps of anchors * width channels as rows: place by place, anchor by anchor."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, width)


class MaskIoU(nn.Module):
    """How well a mask covers its object, guessed from the mask alone (YOLACT++ Sec. 6.1)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        widths = (1, 8, 16, 32, 64, 128)
        layers: list[nn.Module] = []
        for before, dim in pairwise(widths):
            layers += [nn.Conv2d(before, dim, 3, 2), nn.ReLU()]
        self.maskiou_net = nn.Sequential(*layers, nn.Conv2d(widths[-1], n_classes, 1), nn.ReLU())

    def forward(self, mask: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n classes"]:
        """Return the IoU expected of each cropped soft mask, were it of each class."""
        return self.maskiou_net(mask).amax((2, 3))


def _protonet(config: NetworkConfig) -> nn.Sequential:
    dim = config.protonet_dim
    layers: list[nn.Module] = []
    for i in range(config.protonet_depth):
        layers += [nn.Conv2d(dim if i else config.pyramid_dim, dim, 3, padding=1), nn.ReLU()]
    enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    # Files count a ReLU after the enlargement, where nothing is negative.
    layers += [enlarge, nn.Identity(), nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(dim, config.n_prototypes, 1))


class Yolact(Model):
    """Pictures in, predictions out. Its state dict has the authors' keys."""

    family: ClassVar[str] = "yolact"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim, n_levels = config.pyramid_dim, len(config.scales)
        self.backbone = build_trunk(config.backbone, config.deformable_every)
        channels = self.backbone.channels
        self.proto_net = _protonet(config)
        if config.mask_rescoring:
            self.maskiou_net = MaskIoU(len(config.classes))
        if config.split_pyramid:
            self.fpn_phase_1, self.fpn_phase_2 = Laterals(channels, dim), Levels(dim, n_levels)
        else:
            self.fpn = Pyramid(channels, dim, n_levels)
        if config.video:
            self.spa = RefineWarped(dim)
            self.flow_net_pre_convs = ReduceChannels(dim, 64)
            self.flow_net = FlowNet(64, dim)
        self.prediction_layers = nn.ModuleList([Head(config)])
        self.semantic_seg_conv = nn.Conv2d(dim, len(config.classes), 1)
        self._anchors: dict[tuple[tuple[int, int], ...], Tensor] = {}

    @property
    def laterals(self) -> Laterals:
        """The pyramid's first phase."""
        return self.fpn_phase_1 if self.config.split_pyramid else self.fpn

    @property
    def outputs(self) -> Levels:
        """The pyramid's second phase."""
        return self.fpn_phase_2 if self.config.split_pyramid else self.fpn

    @property
    def resolution(self) -> int:
        """Side of the square input in pixels."""
        return self.config.size

    def forward(self, image: Image) -> Predictions:
        """Return the predictions for pictures of the config's size."""
        return self.predict(self.pyramid(image))

    def pyramid(self, image: Image) -> list[Map]:
        """Return P3, P4, ... of pictures."""
        return self.outputs.levels(self.laterals.sums(self.backbone(self.backbone.normalise(image))))

    def predict(self, levels: Sequence[Map]) -> Predictions:
        """Return the predictions that pyramid levels give."""
        code, logits, coefficients, prototypes = self.raw(levels)
        return Predictions(
            box_code=code,
            logits=logits,
            coefficients=coefficients,
            prototypes=prototypes,
            anchors=self.anchors(levels).to(code.device),
        )

    def raw(self, levels: Sequence[Map]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return box codes, logits, coefficients and prototypes, shaped as in `Predictions`."""
        rows = [self.prediction_layers[0](level) for level in levels]
        code, logits, coefficients = (torch.cat(column, 1) for column in zip(*rows, strict=True))
        return code, logits, coefficients, F.relu(self.proto_net(levels[0])).permute(0, 2, 3, 1)

    def anchors(self, levels: Sequence[Map]) -> Float[Tensor, "anchors 4"]:
        """Return the anchors of levels, made once for their sizes."""
        sides = tuple((int(level.shape[2]), int(level.shape[3])) for level in levels)
        if sides not in self._anchors:
            self._anchors = {sides: make_anchors(self.config, sides)}
        return self._anchors[sides]
