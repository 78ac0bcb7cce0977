"""Identities of objects over the frames of a film: instances are matched by the overlap of their masks.

An object that is hidden for a while keeps its identity if it comes back near where its way would have led it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
import scipy.optimize
from jaxtyping import Bool, Float

from .contract import Instance, PixelBox

SIDE = 96
"""Side of the squares that masks are compared at, so that the work does not depend on the film's size."""
KEPT = 24
"""Frames from which an object's size and speed are read."""
RECENT = 5
"""Frames without an object after which it is looked for by colour and size rather than by overlap."""
UNSURE = 2
"""The same after which something not yet confirmed is forgotten."""
YOUNG = 12
"""Frames in which something new may turn out to be an object that was hidden."""
PARTLY = 0.9
"""Share of an object's area below which it is taken to be partly hidden, where another object is at it."""
KNOWN = 12
"""Frames after which an object's size and colours are taken to be known."""
ADAPT = 0.05
"""Weight of a frame in an object's colours."""
EXCHANGED = 0.2
"""Share of colours that two objects must fit better with each other's identity to exchange them."""
SLACK = 0.15
"""Share of its sides by which a part may reach out of the whole's expected box."""
SOON = 40
"""Frames in a row of such a smaller area after which it is taken to be the object's size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """When two instances of different frames are one object."""

    least: float = 0.25
    """Likeness, 0 to 1, below which instances of frames that follow each other are not."""
    alike: float = 0.6
    """Likeness, 0 to 1, from which an instance is an object that was hidden."""
    patience: int = 90
    """Frames that an object may be hidden for."""
    sure: float = 0.5
    """Score from which an instance begins a new identity; fainter ones only go on with one."""
    confirm: int = 2
    """Frames in which a new object must be seen before it is shown; 1 shows it at once, as are those of the film's
    first frame."""

    def __post_init__(self) -> None:
        shares = (self.least, self.alike, self.sure)
        if not all(0 <= share <= 1 for share in shares) or self.patience < 0 or self.confirm < 1:
            raise ValueError(
                f"got {self}; expected least, alike and sure from 0 to 1, patience from 0 and confirm from 1"
            )


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
    colour: Float[np.ndarray, " bins"]
    areas: list[float]
    """Of the small masks of the last frames in which nothing hid the object."""
    centres: list[tuple[int, Float[np.ndarray, "2"]]]
    """Frame and middle of the box in those frames."""
    votes: dict[str, float] = field(default_factory=dict)
    hidden: int = 0
    seen: int = 1
    partly: int = 0
    """Frames in a row in which a part of it was seen."""
    area: float = 0.0
    """Of the whole object on the small mask."""
    ahead: Float[np.ndarray, "4"] = field(default_factory=lambda: np.zeros(4))
    """Box where the object is expected in this frame."""
    expected: Bool[np.ndarray, "s s"] = field(default_factory=lambda: np.zeros((SIDE, SIDE), bool))
    """Small mask of the same."""

    def look_ahead(self, size: tuple[int, int]) -> None:
        """Expect the object in a frame of width, height `size`."""
        self.area = float(np.median(self.areas))
        moved = self._speed() * (self.hidden + 1)
        self.ahead = self.box + np.concatenate([moved, moved])
        self.expected = _shifted(self.mask, np.round(moved * SIDE / np.array(size)).astype(int).tolist())

    def _speed(self) -> Float[np.ndarray, "2"]:
        """Return pixels a frame, x and y: the slope through the last middles."""
        times = np.array([time for time, _ in self.centres], float)
        if len(times) < 3:
            return np.zeros(2)
        times -= times.mean()
        centres = np.stack([centre for _, centre in self.centres])
        return times @ (centres - centres.mean(0)) / (times @ times)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What is compared of an instance."""

    instance: Instance
    mask: Bool[np.ndarray, "s s"]
    box: Float[np.ndarray, "4"]
    colour: Float[np.ndarray, " bins"]
    area: float


class Tracker:
    """Gives instances of one film, frame after frame, identities that stay."""

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self.config = config or TrackingConfig()
        self._tracks: list[_Track] = []
        self._next = 1
        self._frame = 0

    def __call__(self, frame: np.ndarray, instances: Sequence[Instance]) -> list[Tracked]:
        """Return the frame's instances with their identities; those not sure enough to begin one are left out.

        `frame` is the picture (h, w, 3), uint8, that the instances were found in; its colours tell objects apart.
        """
        c, size = self.config, (frame.shape[1], frame.shape[0])
        self._frame += 1
        seen = [_looked_at(frame, instance) for instance in instances]
        for track in self._tracks:
            track.look_ahead(size)
        recent = [track for track in self._tracks if track.hidden <= RECENT]
        pairs = _assigned(recent, seen, _overlapping, c.least)
        taken = {id(track) for track, _ in pairs} | {id(what) for _, what in pairs}
        lost = [track for track in self._tracks if id(track) not in taken]
        pairs += _assigned(lost, [what for what in seen if id(what) not in taken], _returned, c.alike)
        matched = {id(what): track for track, what in pairs}
        for track in self._tracks:
            track.hidden += 1
        shown: list[tuple[_Track, _Seen]] = []
        for what in seen:
            track = matched.get(id(what))
            if track is not None:
                track.hidden -= 1
                self._go_on(track, what, size, any(other is not what and _touch(other.box, what.box) for other in seen))
            elif what.instance.score >= c.sure:
                centres = [(self._frame, _middle(what.box))]
                track = _Track(self._next, what.mask, what.box, what.colour, [what.area], centres)
                self._next += 1
                self._tracks.append(track)
            else:
                continue
            label = what.instance.label
            track.votes[label] = track.votes.get(label, 0.0) + what.instance.score
            shown.append((track, what))
        for track, what in shown:  # not before it is known which ones are lost
            if track.seen <= YOUNG:
                self._recognise(track, what)
        self._exchange(shown)
        found = [
            Tracked(track.identity, max(track.votes, key=track.votes.__getitem__), what.instance)
            for track, what in shown
            if track.seen >= c.confirm or self._frame == 1
        ]
        self._tracks = [
            track for track in self._tracks if track.hidden <= (c.patience if track.seen >= c.confirm else UNSURE)
        ]
        return found

    def _exchange(self, shown: list[tuple[_Track, _Seen]]) -> None:
        """Give two tracks each other's identity where what they follow since they met has the other's colours."""
        now = {id(track): what for track, what in shown}
        for track, what in shown:
            for other in self._tracks:
                if other is track or min(track.seen, other.seen) < KNOWN:
                    continue
                theirs = now.get(id(other))
                gain = _same(other, what) - _same(track, what)
                if theirs is not None:
                    gain += _same(track, theirs) - _same(other, theirs)
                if gain > EXCHANGED:
                    track.identity, other.identity = other.identity, track.identity
                    track.colour, other.colour = other.colour, track.colour
                    track.votes, other.votes = other.votes, track.votes
                    track.seen, other.seen = other.seen, track.seen

    def _recognise(self, track: _Track, what: _Seen) -> None:
        """Give a new track the identity of a lost one that it turns out to be, once enough of it shows."""
        lost = [old for old in self._tracks if old.hidden > 0 and old.seen > track.seen and old is not track]
        best = max(lost, key=lambda old: _returned(old, what), default=None)
        if best is not None and _returned(best, what) >= self.config.alike:
            track.identity, track.seen = best.identity, track.seen + best.seen
            track.votes = {
                label: track.votes.get(label, 0) + best.votes.get(label, 0) for label in track.votes | best.votes
            }
            self._tracks.remove(best)

    def _go_on(self, track: _Track, what: _Seen, size: tuple[int, int], touched: bool) -> None:
        """Move a track to where its object is now; while a thing that it touches hides a part of it, along its way."""
        track.seen += 1
        expected, ahead = track.expected, track.ahead
        track.hidden = 0
        part = what.area < PARTLY * track.area
        merged = len(track.areas) >= KNOWN and what.area > track.area / PARTLY
        if touched and (part or merged) and track.partly < SOON:
            track.partly += 1
            shift = _within(what.box, ahead) if part else np.zeros(2)
            track.mask = _shifted(expected, np.round(shift * SIDE / np.array(size)).astype(int).tolist())
            track.box = ahead + np.concatenate([shift, shift])
            return
        if track.partly >= SOON or np.abs(_middle(what.box) - _middle(ahead)).max() > np.sqrt(_area(ahead)):
            track.centres = []  # a new size, or a jump: what was learned of its way no longer holds
        track.partly = 0
        track.mask, track.box = what.mask, what.box
        track.areas = [*track.areas[1 - KEPT :], what.area]
        track.centres = [*track.centres[1 - KEPT :], (self._frame, _middle(what.box))]
        track.colour = (1 - ADAPT) * track.colour + ADAPT * what.colour


def _assigned(
    tracks: Sequence[_Track], seen: Sequence[_Seen], likeness: Callable[[_Track, _Seen], float], least: float
) -> list[tuple[_Track, _Seen]]:
    """Return the pairs of tracks and instances whose likenesses have the largest sum, each at least `least`."""
    table = np.array([[likeness(track, what) for what in seen] for track in tracks]).reshape(len(tracks), len(seen))
    rows, columns = scipy.optimize.linear_sum_assignment(-table)
    return [(tracks[t], seen[k]) for t, k in zip(rows, columns, strict=True) if table[t, k] >= least]


def _overlapping(track: _Track, what: _Seen) -> float:
    """Return in [0, 1] how likely an instance is a track: by overlap where the track is expected, and colour."""
    ahead, expected = track.ahead, track.expected
    shared = float((expected & what.mask).sum())
    overlap = max(shared / max(1.0, float((expected | what.mask).sum())), _iou(ahead, what.box))
    if what.area < PARTLY * track.area:  # what is seen may be a part: it need only lie where the whole is expected
        overlap = max(overlap, 0.8 * shared / max(1.0, what.area))
    same, near = _same(track, what), _near(track, what, 0.8)
    return 0.4 * float(overlap) + 0.4 * same * near + 0.2 * near


def _returned(track: _Track, what: _Seen) -> float:
    """Return in [0, 1] how likely an instance is a track that was hidden: by colour, size and place."""
    sizes = min(track.area, what.area) / max(track.area, what.area, 1.0)
    return 0.6 * _same(track, what) + 0.2 * sizes + 0.2 * _near(track, what, 1.5)


def _same(track: _Track, what: _Seen) -> float:
    """Return the share of colours in common."""
    return float(np.minimum(track.colour, what.colour).sum())


def _near(track: _Track, what: _Seen, radius: float) -> float:
    """Return 1 where an instance lies where the track is expected, less the further away, in units of their size."""
    ahead = track.ahead
    gap = np.hypot(*(_middle(ahead) - _middle(what.box)))
    extent = float(np.sqrt(max(_area(ahead), _area(what.box), 1.0)))
    return float(np.exp(-((gap / (extent * (radius + 0.1 * track.hidden))) ** 2)))


def _within(part: Float[np.ndarray, "4"], whole: Float[np.ndarray, "4"]) -> Float[np.ndarray, "2"]:
    """Return the smallest shift of the box of a whole that makes it hold the box of its part, x and y."""
    slack = SLACK * (whole[2:] - whole[:2])
    low, high = part[:2] - whole[:2] + slack, part[2:] - whole[2:] - slack
    return np.where(low < 0, low, np.where(high > 0, high, 0.0))


def _touch(a: Float[np.ndarray, "4"], b: Float[np.ndarray, "4"]) -> bool:
    """Return whether two boxes share a point."""
    return bool((a[:2] <= b[2:]).all() and (b[:2] <= a[2:]).all())


def _middle(box: Float[np.ndarray, "4"]) -> Float[np.ndarray, "2"]:
    return (box[:2] + box[2:]) / 2


def _looked_at(frame: np.ndarray, instance: Instance) -> _Seen:
    """Return what is compared of an instance."""
    mask = _small(instance.mask)
    return _Seen(instance, mask, np.array(instance.box), _colours(frame, instance), float(mask.sum()))


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
