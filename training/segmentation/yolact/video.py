"""YolactEdge on video: the full network on key frames, features carried along a flow between them (Sec. III-B)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.segmentation.contract import Pixels
from training.segmentation.yolact.backbone import Map
from training.segmentation.yolact.flow import Flow, warp
from training.segmentation.yolact.network import Predictions, Yolact, resize
from training.segmentation.yolact.photos import prepare
from training.segmentation.yolact.segmenter import Found, YolactSegmenter
from training.types import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFrame:
    """The features of a key frame that later frames use."""

    sums: tuple[Map, Map, Map]
    """x3, x4, x5 of the pyramid's first phase."""
    lateral: Map
    """Lateral map of C3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """A frame between key frames, before the pyramid's second phase."""

    flows: tuple[Flow, ...]
    """For P4 and P5; in training also for P3, first, which warps nothing."""
    lateral: Map
    """l: lateral map of this frame's own C3."""
    warped: tuple[Map, Map]
    """x4 and x5 of the key frame, warped along the flow."""
    sums: tuple[Map, Map, Map]
    """x3, x4, x5, the last two after the refinement `spa`."""


def key_frame(network: Yolact, image: Image) -> tuple[Predictions, KeyFrame]:
    """Return the predictions of the full network for a frame, and what later frames need of it."""
    _require_video(network)
    features = network.backbone(network.backbone.normalise(image))
    sums = network.laterals.sums(features)
    key = KeyFrame(sums=(sums[0], sums[1], sums[2]), lateral=network.laterals.lateral(features[0]))
    return network.predict(network.outputs.levels(sums)), key


def carry(network: Yolact, image: Image, key: KeyFrame, *, finest: bool = False) -> Carried:
    """Return a frame's pyramid sums, carried from the key frame; with `finest` the flow for P3 too."""
    _require_video(network)
    [c3] = network.backbone(network.backbone.normalise(image), 1)
    lateral = network.laterals.lateral(c3)
    reduce = network.flow_net_pre_convs
    flows = network.flow_net(reduce(lateral), reduce(key.lateral), finest=finest)
    x4, x5 = (warp(x, flow) for x, flow in zip(key.sums[1:], flows[-2:], strict=True))
    x3 = lateral + resize(x4, lateral.shape[2:])
    refined = network.spa(lateral, [x4, x5])
    return Carried(flows=tuple(flows), lateral=lateral, warped=(x4, x5), sums=(x3, refined[0], refined[1]))


class FilmFinder:
    """Segments the frames of one film in order, with a network for video."""

    def __init__(self, segmenter: YolactSegmenter, *, every: int = 5, change: float | None = None) -> None:
        """Start a film.

        Args:
            every: frames from one key frame to the next, at most.
            change: mean 1 - cosine between a frame's own lateral map and the key frame's carried to it above which the
                frame becomes a key frame itself, as at a change of scene; None never looks, as published.
        """
        if every < 1 or (change is not None and not 0 <= change <= 2):
            raise ValueError(f"every is {every} and change {change}; expected at least 1, and 0 to 2 or none")
        if not isinstance(segmenter.network, Yolact):
            raise ValueError("films need the torch network: an exported one is for single pictures")
        _require_video(segmenter.network)
        self.segmenter, self.network = segmenter, segmenter.network
        self.every, self.change = every, change
        self._key: KeyFrame | None = None
        self._since = 0
        self.key_frames = 0
        """Seen so far."""

    @torch.inference_mode()
    def __call__(self, frame: Pixels) -> list[Found]:
        """Return the objects of the next frame."""
        settings = self.network.config
        photo = torch.from_numpy(np.ascontiguousarray(frame))
        image, placement = prepare(photo, settings.size, letterbox=settings.letterbox)
        image = image.to(self.network.device)
        predictions = self._carried(image)
        if predictions is None:
            predictions, self._key = key_frame(self.network, image)
            self._since, self.key_frames = 0, self.key_frames + 1
        self._since += 1
        return self.segmenter.choose(predictions, placement)

    def _carried(self, image: Image) -> Predictions | None:
        """Return the predictions that the key frame's features give; None where a new key frame is due."""
        if self._key is None or self._since >= self.every:
            return None
        carried = carry(self.network, image, self._key)
        if self.change is not None and lateral_change(carried, self._key) > self.change:
            return None
        return self.network.predict(self.network.outputs.levels(carried.sums))


def lateral_change(carried: Carried, key: KeyFrame) -> float:
    """Return the mean 1 - cosine between a frame's lateral map and the key frame's, fetched along the flow for P4."""
    flow = carried.flows[-2]
    shift = resize(flow.shift, carried.lateral.shape[2:])
    one = torch.ones_like(shift[:, :1])
    fetched = warp(key.lateral, Flow(shift=shift, scale=one, bias=0 * one))
    return float((1 - F.cosine_similarity(carried.lateral, fetched, dim=1)).mean())


def _require_video(network: Yolact) -> None:
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

    The 3x3 gets no gradient from it. The published program uses P3's for x5, a mistake; otherwise P5's is used.
    """
    convolutions = network.outputs.pred_layers  # P5's first
    terms = []
    for x, y, place in zip(carried, true, (1, 2 if published else 0), strict=True):
        conv = convolutions[place]
        weight, bias = (parameter.detach() for parameter in conv.parameters())
        seen = [F.relu(F.conv2d(maps, weight, bias, padding=1)) for maps in (x, y)]
        for a, b in ((x, y), seen):
            terms.append((1 - F.cosine_similarity(a, b, dim=1)).mean())
    return torch.stack(terms).mean()
