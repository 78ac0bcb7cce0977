"""YolactEdge on video: the full network on key frames, features carried along a flow between them (Sec. III-B)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.segmentation.yolact.backbone import Map
from training.segmentation.yolact.flow import Flow, warp
from training.segmentation.yolact.network import Predictions, Yolact, resize
from training.types import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFrame:
    """What frames after a key frame need of it."""

    sums: tuple[Map, Map, Map]
    """x3, x4, x5 of the pyramid's first phase."""
    lateral: Map
    """What C3 alone gave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """A frame between key frames, before the pyramid's second phase."""

    flows: tuple[Flow, ...]
    """For P4 and P5; in training for P3 before them, which carries nothing."""
    lateral: Map
    """l: what this frame's C3 gave."""
    warped: tuple[Map, Map]
    """x4 and x5 as fetched from the key frame."""
    sums: tuple[Map, Map, Map]
    """x3, x4, x5, the last two repaired."""


def key_frame(network: Yolact, image: Image) -> tuple[Predictions, KeyFrame]:
    """Return the predictions for a frame seen in full, and what the frames after it need."""
    _check(network)
    features = network.backbone(network.backbone.normalise(image))
    sums = network.laterals.sums(features)
    key = KeyFrame(sums=(sums[0], sums[1], sums[2]), lateral=network.laterals.lateral(features[0]))
    return network.predict(network.outputs.levels(sums)), key


def between(network: Yolact, image: Image, key: KeyFrame) -> Predictions:
    """Return the predictions for a frame whose C4 and C5 are not computed but carried from the key frame."""
    return network.predict(network.outputs.levels(carry(network, image, key).sums))


def carry(network: Yolact, image: Image, key: KeyFrame, *, finest: bool = False) -> Carried:
    """Return a frame's pyramid sums, carried from the key frame; with `finest` the flow for P3 too."""
    _check(network)
    [c3] = network.backbone(network.backbone.normalise(image), 1)
    lateral = network.laterals.lateral(c3)
    reduce = network.flow_net_pre_convs
    flows = network.flow_net(reduce(lateral), reduce(key.lateral), finest=finest)
    x4, x5 = (warp(x, flow) for x, flow in zip(key.sums[1:], flows[-2:], strict=True))
    x3 = lateral + resize(x4, lateral.shape[2:])
    refined = network.spa(lateral, [x4, x5])
    return Carried(flows=tuple(flows), lateral=lateral, warped=(x4, x5), sums=(x3, refined[0], refined[1]))


def _check(network: Yolact) -> None:
    if not network.config.video:
        raise ValueError("this network finds objects in single pictures only; give one whose config has video=True")


def flow_loss(flows: Sequence[Flow], truth: Float[Tensor, "n 2 h w"]) -> Float[Tensor, ""]:
    """Return F: the mean distance to the true flow, summed over the levels. Both are in the network's unit.

    A shift of d pixels is d * 2 / (width or height) * 8.
    """
    terms = []
    for flow in flows:
        target = resize(truth, flow.shift.shape[2:])
        terms.append((flow.shift - target).norm(dim=1).mean())
    return torch.stack(terms).sum()


def feature_loss(
    network: Yolact, carried: Sequence[Map], true: Sequence[Map], *, published: bool = True
) -> Float[Tensor, ""]:
    """Return W: 1 - cosine over channels between carried and true x4 and x5, raw and after the pyramid's 3x3.

    The published program takes P3's convolution for x5, a slip; otherwise P5's is taken.
    """
    convolutions = network.outputs.pred_layers  # P5's first
    terms = []
    for x, y, place in zip(carried, true, (1, 2 if published else 0), strict=True):
        conv = convolutions[place]
        for a, b in ((x, y), (F.relu(conv(x)), F.relu(conv(y)))):
            terms.append((1 - F.cosine_similarity(a, b, dim=1)).mean())
    return torch.stack(terms).mean()
