"""Identities of objects over the frames of a film: instances are matched by the overlap of their masks.

An object that is hidden for a while keeps its identity if it comes back near where its way would have led it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
import scipy.optimize
from jaxtyping import Bool, Float

from .contract import Instance, PixelBox

SIDE = 96
"""Side of the squares that masks are compared at, so that the work does not depend on the film's size."""
PARTLY = 0.8
"""Share of an object's area below which it is taken to be partly hidden."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """When two instances of different frames are one object."""

    least: float = 0.25
    """Likeness, 0 to 1, below which they are not."""
    patience: int = 20
    """Frames that an object may be hidden for."""
    sure: float = 0.3
    """Score from which an instance begins a new identity; fainter ones only go on with one."""
    confirm: int = 2
    """Frames in which a new object must be seen before it is shown; 1 shows it at once."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1 or not 0 <= self.sure <= 1 or self.patience < 0 or self.confirm < 1:
            raise ValueError(f"got {self}; expected least and sure from 0 to 1, patience from 0 and confirm from 1")


@dataclass(frozen=True, slots=True, eq=False)
class Tracked:
    """An instance and who it is."""

    identity: int
    """From 1; never given twice."""
    label: str
    """What most of its frames so far say, weighted by their scores."""
    instance: Instance


@dataclass(slots=True, eq=False)
class _Track:
    identity: int
    mask: Bool[np.ndarray, "s s"]
    box: Float[np.ndarray, "4"]
    speed: Float[np.ndarray, "2"]
    colour: Float[np.ndarray, " bins"]
    area: float
    """Of the small mask where nothing hides the object."""
    votes: dict[str, float] = field(default_factory=dict)
    hidden: int = 0
    seen: int = 1

    def ahead(self) -> Float[np.ndarray, "4"]:
        """Return the box where the object is expected now."""
        moved = self.speed * (self.hidden + 1)
        return self.box + np.concatenate([moved, moved])

    def expected(self, size: tuple[int, int]) -> Bool[np.ndarray, "s s"]:
        """Return the small mask where the object is expected now, in a frame of width, height `size`."""
        moved = self.speed * (self.hidden + 1) * SIDE / np.array(size)
        return _shifted(self.mask, np.round(moved).astype(int).tolist())


class Tracker:
    """Gives instances of one film, frame after frame, identities that stay."""

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self.config = config or TrackingConfig()
        self._tracks: list[_Track] = []
        self._next = 1

    def __call__(self, frame: np.ndarray, instances: Sequence[Instance]) -> list[Tracked]:
        """Return the frame's instances with their identities; those not sure enough to begin one are left out.

        `frame` is the picture (h, w, 3), uint8, that the instances were found in; its colours tell objects apart.
        """
        size = (frame.shape[1], frame.shape[0])
        seen = [_small(instance.mask) for instance in instances]
        colours = [_colours(frame, instance) for instance in instances]
        boxes = [np.array(instance.box) for instance in instances]
        likeness = np.zeros((len(self._tracks), len(instances)))
        for t, track in enumerate(self._tracks):
            for k in range(len(instances)):
                likeness[t, k] = self._likeness(track, seen[k], boxes[k], colours[k], size)
        rows, columns = scipy.optimize.linear_sum_assignment(-likeness)
        matched = {int(k): int(t) for t, k in zip(rows, columns, strict=True) if likeness[t, k] >= self.config.least}
        tracks = dict(enumerate(self._tracks))
        found = []
        for k, instance in enumerate(instances):
            if k in matched:
                track = tracks[matched[k]]
                self._go_on(track, seen[k], boxes[k], colours[k], size)
            elif instance.score >= self.config.sure:
                track = _Track(self._next, seen[k], boxes[k], np.zeros(2), colours[k], float(seen[k].sum()))
                self._next += 1
                self._tracks.append(track)
            else:
                continue
            track.votes[instance.label] = track.votes.get(instance.label, 0.0) + instance.score
            if track.seen >= self.config.confirm:
                found.append(Tracked(track.identity, max(track.votes, key=track.votes.__getitem__), instance))
        current = {matched[k] for k in matched}
        for t, track in tracks.items():
            track.hidden = 0 if t in current else track.hidden + 1
        self._tracks = [track for track in self._tracks if track.hidden <= self.config.patience]
        return found

    def _likeness(
        self,
        track: _Track,
        mask: Bool[np.ndarray, "s s"],
        box: Float[np.ndarray, "4"],
        colours: Float[np.ndarray, " bins"],
        size: tuple[int, int],
    ) -> float:
        """Return in [0, 1] how likely an instance is a track: by overlap where the track is expected, and colour."""
        ahead, expected = track.ahead(), track.expected(size)
        shared, area = float((expected & mask).sum()), float(mask.sum())
        overlap = max(shared / max(1.0, float((expected | mask).sum())), _iou(ahead, box))
        if area < PARTLY * track.area:  # what is seen may be a part: it need only lie where the whole is expected
            overlap = max(overlap, 0.8 * shared / max(1.0, area))
        same = float(np.minimum(track.colour, colours).sum())
        gap = np.hypot(*((ahead[:2] + ahead[2:]) - (box[:2] + box[2:]))) / 2
        extent = float(np.sqrt(max(_area(ahead), _area(box), 1.0)))
        near = float(np.exp(-((gap / (extent * (0.8 + 0.1 * track.hidden))) ** 2)))
        return 0.4 * float(overlap) + 0.4 * same * near + 0.2 * near

    def _go_on(
        self,
        track: _Track,
        mask: Bool[np.ndarray, "s s"],
        box: Float[np.ndarray, "4"],
        colours: Float[np.ndarray, " bins"],
        size: tuple[int, int],
    ) -> None:
        """Move a track to where its object is now; while something hides a part of it, along its way."""
        area = float(mask.sum())
        track.seen += 1
        if area < PARTLY * track.area:
            track.mask, track.box, track.area = track.expected(size), track.ahead(), 0.99 * track.area
            return
        track.speed = track.speed + max(0.2, 1 / track.seen) * (_moved(track, box) - track.speed)
        track.mask, track.box, track.area = mask, box, max(area, 0.9 * track.area + 0.1 * area)
        track.colour = 0.8 * track.colour + 0.2 * colours


def _moved(track: _Track, box: Float[np.ndarray, "4"]) -> Float[np.ndarray, "2"]:
    """Return how far an object moved a frame, x and y.

    Of the box's two edges and its middle, what moved most as before counts: what begins to hide an object, or ceases
    to, stops one edge or makes it jump.
    """
    steps = (box - track.box).reshape(2, 2) / (track.hidden + 1)  # (low, high) x (x, y)
    middle = steps.mean(0)
    if track.seen <= 5:
        return middle
    choices = np.stack([middle, *steps])
    nearest = np.abs(choices - track.speed).argmin(0)
    return choices[nearest, [0, 1]]


def _small(mask: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "s s"]:
    """Return a mask at the size that masks are compared at."""
    return np.asarray(PIL.Image.fromarray(mask).resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)) > 0.5


def _colours(frame: np.ndarray, instance: Instance) -> Float[np.ndarray, " bins"]:
    """Return shares of an object's pixels in 4 x 4 x 4 bins of colour; at most a few thousand pixels are looked at."""
    x0, y0, x1, y1 = (round(edge) for edge in instance.box)
    step = max(1, round(np.sqrt((x1 - x0) * (y1 - y0) / 2000))) if x1 > x0 and y1 > y0 else 1
    window = slice(max(0, y0), y1, step), slice(max(0, x0), x1, step)
    pixels = frame[window][instance.mask[window] > 0.5].astype(np.int64) // 64
    counts = np.bincount(pixels @ np.array([16, 4, 1]), minlength=64).astype(np.float64)
    return counts / max(1.0, counts.sum())


def _shifted(mask: Bool[np.ndarray, "s s"], by: Sequence[int]) -> Bool[np.ndarray, "s s"]:
    """Return a mask moved by x and y pixels; what leaves is lost."""
    dx, dy = (int(np.clip(step, -SIDE, SIDE)) for step in by)
    moved = np.zeros_like(mask)
    moved[max(0, dy) : SIDE + min(0, dy), max(0, dx) : SIDE + min(0, dx)] = mask[
        max(0, -dy) : SIDE - max(0, dy), max(0, -dx) : SIDE - max(0, dx)
    ]
    return moved


def _iou(a: Float[np.ndarray, "4"] | PixelBox, b: Float[np.ndarray, "4"] | PixelBox) -> float:
    """Return the overlap of two boxes over their union."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return float(wide * high / (_area(a) + _area(b) - wide * high))


def _area(box: Float[np.ndarray, "4"] | PixelBox) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
