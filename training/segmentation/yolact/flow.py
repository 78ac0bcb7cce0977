"""YolactEdge's networks for video: flow from a key frame, and the repair of what was carried along it (Sec. III-B)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Map = Float[Tensor, "n _ _ _"]
"""Feature maps: pictures, channels, height, width."""


def _resize(x: Map, like: Map) -> Map:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _unit(before: int, dim: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, dim, 3, stride, 1), nn.LeakyReLU(0.1))


class ReduceChannels(nn.Module):
    """Makes the flow network's input of a frame's lateral map."""

    def __init__(self, before: int, dim: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(_unit(before, dim))

    def forward(self, x: Map) -> Map:
        """Return fewer channels of the same size."""
        return self.convs(x)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """How to fetch one level's maps from the key frame."""

    shift: Float[Tensor, "n 2 h w"]
    """x, y; an eighth of it is added to coordinates in [-1, 1]."""
    scale: Float[Tensor, "n c h w"]
    bias: Float[Tensor, "n c h w"]


class FlowHead(nn.Module):
    """Reads a flow, and what the maps fetched along it are multiplied with and what is added."""

    def __init__(self, before: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, 2, 3, padding=1, bias=False)
        self.scale = nn.Conv2d(before, dim, 1)
        self.bias = nn.Conv2d(before, dim, 1)
        assert self.scale.bias is not None
        nn.init.ones_(self.scale.bias)

    def forward(self, x: Map) -> Flow:
        """Return the flow for maps of the size of `x`."""
        return Flow(shift=self.conv(x), scale=self.scale(x), bias=self.bias(x))


class FlowNet(nn.Module):
    """A small FlowNetS with outputs for the sizes of P3, P4 and P5."""

    def __init__(self, before: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_unit(2 * before, 64), _unit(64, 64))
        self.conv2 = nn.Sequential(_unit(64, 128, 2), _unit(128, 128))
        self.conv3 = nn.Sequential(_unit(128, 256, 2), _unit(256, 256))
        self.pred3 = FlowHead(256, dim)
        self.pred2 = FlowHead(128 + 128 + 2, dim)
        self.pred1 = FlowHead(64 + 64 + 2, dim)
        self.upfeat3 = nn.Conv2d(256, 128, 3, padding=1, bias=False)
        self.upflow3 = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.upfeat2 = nn.Conv2d(258, 64, 3, padding=1, bias=False)
        self.upflow2 = nn.Conv2d(2, 2, 3, padding=1, bias=False)

    def forward(self, now: Map, key: Map, *, finest: bool = True) -> list[Flow]:
        """Return the flows for P3, P4, P5 from the reduced laterals of this frame and of the key frame.

        Without `finest` the first, which only training needs, is left out: the rest comes back.
        """
        one = self.conv1(torch.cat([now, key], 1))
        two = self.conv2(one)
        three = self.conv3(two)
        flow5 = self.pred3(three)
        rest = torch.cat([two, self.upfeat3(_resize(three, two)), self.upflow3(_resize(flow5.shift, two))], 1)
        flow4 = self.pred2(rest)
        if not finest:
            return [flow4, flow5]
        last = torch.cat([one, self.upfeat2(_resize(rest, one)), self.upflow2(_resize(flow4.shift, one))], 1)
        return [self.pred1(last), flow4, flow5]


class RefineWarped(nn.Module):
    """Repairs carried maps with this frame's own lateral map ("spa" in files)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.refine_convs = nn.ModuleList(_unit(2 * dim, dim) for _ in range(2))

    def forward(self, lateral: Map, warped: list[Map]) -> list[Map]:
        """Return x4 and x5 with what was read from them beside the lateral added."""
        context, refined = lateral, []
        for conv, x in zip(self.refine_convs, warped, strict=True):
            context = _resize(context, x)
            refined.append(x + conv(torch.cat([x, context], 1)))
        return refined


def warp(x: Map, flow: Flow) -> Map:
    """Return the key frame's maps as they are now: fetched along the flow, scaled and shifted."""
    height, width = x.shape[2:]
    rows = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    columns = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    y, x_grid = torch.meshgrid(rows, columns, indexing="ij")
    grid = torch.stack([x_grid, y], -1) + flow.shift.permute(0, 2, 3, 1) / 8
    fetched = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return fetched * flow.scale + flow.bias
