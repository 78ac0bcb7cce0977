"""Identities over the frames of a film: kept through crossings, and through being hidden."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize

from training.segmentation.contract import Instance
from training.segmentation.tracking import Tracker, TrackingConfig

H, W = 90, 160
COLOURS = {1: (220, 40, 40), 2: (40, 200, 60), 3: (50, 60, 230)}


def disc(x: float, y: float, r: float) -> np.ndarray:
    rows, columns = np.mgrid[:H, :W]
    return np.hypot(columns - x, rows - y) < r


def frame_of(places: dict[int, tuple[float, float, float]]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Return a frame with discs painted in order, the last in front, and what is seen of each."""
    frame = np.full((H, W, 3), 120, np.uint8)
    seen: dict[int, np.ndarray] = {}
    for who, (x, y, r) in places.items():
        mask = disc(x, y, r)
        frame[mask] = COLOURS[who]
        seen = {k: m & ~mask for k, m in seen.items()} | {who: mask}
    return frame, seen


def instance(mask: np.ndarray, score: float = 0.9, label: str = "ball") -> Instance:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Instance(mask.astype(np.float32), box, label, score)


def crossing(n: int = 60):
    """Yield frames of three discs: two that cross, one behind the other, and one that crosses both ways from above."""
    for t in range(n):
        s = t / (n - 1)
        yield frame_of({1: (15 + 130 * s, 45, 12), 2: (145 - 130 * s, 50, 14), 3: (80, 5 + 80 * s, 10)})


def idf1(matches: list[list[tuple[int, int]]], truths: int, found: int) -> float:
    """Return IDF1 (Ristani et al. 2016): true who, given identity, frame by frame, under the best one-to-one naming."""
    who = sorted({a for frame in matches for a, _ in frame})
    given = sorted({b for frame in matches for _, b in frame})
    counts = np.zeros((len(who), len(given)))
    for frame in matches:
        for a, b in frame:
            counts[who.index(a), given.index(b)] += 1
    rows, columns = scipy.optimize.linear_sum_assignment(-counts)
    return float(2 * counts[rows, columns].sum() / (truths + found))


def run(frames, tracker: Tracker, *, miss: float = 0.0, noise: int = 0, seed: int = 0) -> float:
    """Return the IDF1 of a tracker on frames whose instances are missed or moved at times."""
    rng = np.random.default_rng(seed)
    matches, truths, found = [], 0, 0
    for frame, seen in frames:
        instances, who = [], []
        for k, mask in seen.items():
            if mask.sum() < 20:
                continue
            truths += 1
            if rng.random() < miss:
                continue
            dy, dx = rng.integers(-noise, noise + 1, 2)
            moved = np.roll(mask, (int(dy), int(dx)), (0, 1))
            instances.append(instance(moved, float(rng.uniform(0.5, 1))))
            who.append(k)
        order = rng.permutation(len(instances))
        tracked = tracker(frame, [instances[i] for i in order])
        found += len(tracked)
        named = {id(item.instance): item.identity for item in tracked}
        matches.append([(k, named[id(i)]) for k, i in zip(who, instances, strict=True) if id(i) in named])
    return idf1(matches, truths, found)


def test_identities_stay_through_crossings():
    assert run(crossing(), Tracker()) >= 0.97
    assert run(crossing(), Tracker(TrackingConfig(confirm=1))) >= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_identities_stay_where_objects_are_missed_and_shaky(seed):
    assert run(crossing(), Tracker(), miss=0.1, noise=2, seed=seed) >= 0.85  # a tenth of the frames is lost anyway


def test_a_hidden_object_comes_back_as_itself():
    tracker = Tracker(TrackingConfig(confirm=1))
    before = [
        tracker(f, [instance(m) for m in s.values()])
        for f, s in [frame_of({1: (20 + 2 * t, 40, 9)}) for t in range(12)]
    ]
    for _ in range(8):
        assert tracker(np.zeros((H, W, 3), np.uint8), []) == []
    frame, seen = frame_of({1: (20 + 2 * 20, 40, 9)})
    after = tracker(frame, [instance(seen[1])])
    assert after[0].identity == before[-1][0].identity == 1


def test_identities_follow_their_colours_where_two_objects_were_confused():
    """A finder that takes both for one and then finds them again in the other's place."""
    tracker = Tracker(TrackingConfig(confirm=1))
    frame, seen = frame_of({1: (60, 45, 12), 2: (88, 45, 12)})
    [red, green] = [item.identity for item in tracker(frame, [instance(seen[1]), instance(seen[2])])]
    for _ in range(19):
        tracker(frame, [instance(seen[1]), instance(seen[2])])
    frame, seen = frame_of({2: (60, 45, 12), 1: (88, 45, 12)})  # as if they had jumped over each other
    for _ in range(2):
        tracker(frame, [instance(seen[1]), instance(seen[2])])
    after = {item.identity: item.instance for item in tracker(frame, [instance(seen[1]), instance(seen[2])])}
    assert (after[red].box, after[green].box) == (instance(seen[1]).box, instance(seen[2]).box)


def test_no_identity_is_given_twice_in_a_frame():
    """A new instance like a known object that is found later in the same frame's list is another object."""
    tracker = Tracker(TrackingConfig(confirm=1))
    for t in range(14):
        frame, seen = frame_of({1: (40 + t, 45, 12)})
        tracker(frame, [instance(seen[1])])
    twin, twins = frame_of({1: (110, 45, 12)})
    frame, seen = frame_of({1: (54, 45, 12)})
    frame = np.where(twins[1][..., None], twin, frame)
    for _ in range(4):
        found = tracker(frame, [instance(twins[1]), instance(seen[1])])
        assert len({item.identity for item in found}) == len(found) == 2


def test_an_object_that_two_merge_into_keeps_its_size():
    """Speed and size are learned from frames in which nothing touches an object."""
    tracker = Tracker(TrackingConfig(confirm=1))
    boxes: list[dict[int, float]] = []
    for t in range(60):
        left, right = 15.0 + 2 * t, 133.0 - 2 * t
        frame, seen = frame_of({1: (left, 45, 12), 2: (right, 45, 12)})
        masks = list(seen.values()) if abs(left - right) > 30 else [seen[1] | seen[2]]  # found as one
        found = tracker(frame, [instance(mask) for mask in masks])
        boxes.append({item.identity: item.instance.box[0] for item in found})
    red, green = sorted(boxes[0], key=lambda identity: boxes[0][identity])
    assert boxes[-1][red] > boxes[-1][green]


def test_after_its_patience_an_object_is_another():
    tracker = Tracker(TrackingConfig(confirm=1, patience=3))
    frame, seen = frame_of({1: (40, 40, 9)})
    first = tracker(frame, [instance(seen[1])])
    for _ in range(5):
        tracker(frame, [])
    assert tracker(frame, [instance(seen[1])])[0].identity != first[0].identity


def test_faint_and_fleeting_instances_begin_nothing():
    tracker = Tracker(TrackingConfig(confirm=2, sure=0.5))
    frame, seen = frame_of({1: (40, 40, 9)})
    assert tracker(frame, [instance(seen[1], 0.4)]) == []
    assert tracker(frame, [instance(seen[1], 0.9)]) == []
    assert [item.identity for item in tracker(frame, [instance(seen[1], 0.4)])] == [1]
    frame, seen = frame_of({2: (120, 40, 9)})
    assert tracker(frame, [instance(seen[2])]) == []  # seen once only


def test_objects_of_the_first_frame_are_shown_at_once():
    tracker = Tracker(TrackingConfig(confirm=2, sure=0.5))
    frame, seen = frame_of({1: (40, 40, 9)})
    assert [item.identity for item in tracker(frame, [instance(seen[1], 0.9)])] == [1]
    assert [item.identity for item in tracker(frame, [instance(seen[1], 0.9)])] == [1]


def test_the_label_is_what_most_frames_say():
    tracker = Tracker(TrackingConfig(confirm=1))
    frame, seen = frame_of({1: (40, 40, 9)})
    labels = [tracker(frame, [instance(seen[1], 0.9, name)])[0].label for name in ("cat", "dog", "cat", "dog", "cat")]
    assert labels == ["cat", "cat", "cat", "cat", "cat"]


def test_tracking_needs_sensible_numbers():
    for field, value in (("least", 2.0), ("patience", -1), ("confirm", 0), ("sure", -0.1)):
        with pytest.raises(ValueError, match="expected"):
            replace(TrackingConfig(), **{field: value})
