"""Outlines of masks: traced along pixel edges, holes joined to them, optionally simplified."""

import numpy as np
from jaxtyping import Bool, Float

Outline = Float[np.ndarray, "_ 2"]
"""Corners x, y of a closed line; pixel edges are integers."""


def trace(mask: Bool[np.ndarray, "h w"], tolerance: float = 0.0) -> list[Outline]:
    """Return the outlines of a mask's 4-connected parts, the largest first.

    A hole is joined to its outline by a cut of zero width, which does not change the even-odd fill. `tolerance`: pixels
    by which an outline may deviate from the mask's edge; outlines that vanish are left out.
    """
    loops = [simplified(loop, tolerance) for loop in _loops(mask)]
    sized = [(area(loop), loop) for loop in loops if len(loop) >= 3]
    outlines = sorted((pair for pair in sized if pair[0] > 0), key=lambda pair: -pair[0])
    joined = [outline for _, outline in outlines]
    for size, hole in sized:
        if size >= 0:
            continue
        inside = hole[0] + np.sign(hole[1] - hole[0]) * 0.5
        for k in range(len(outlines) - 1, -1, -1):  # the smallest outline around it
            if outlines[k][0] > -size and _holds(outlines[k][1], inside):
                joined[k] = _joined(joined[k], hole)
                break
    return joined


def area(loop: Outline) -> float:
    """Return the area of a closed line: positive if it runs clockwise as seen (y down)."""
    x, y = loop.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def simplified(loop: Outline, tolerance: float) -> Outline:
    """Return a closed line without the points that lie within `tolerance` of it (Douglas and Peucker 1973)."""
    if tolerance <= 0 or len(loop) < 5:
        return loop
    far = int(np.square(loop - loop[0]).sum(1).argmax())
    closed = np.concatenate([loop, loop[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far, -1]] = True
    spans = [(0, far), (far, len(closed) - 1)]
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        chord, between = closed[end] - closed[start], closed[start + 1 : end] - closed[start]
        length = float(np.hypot(*chord))
        apart = np.abs(chord[0] * between[:, 1] - chord[1] * between[:, 0]) / length if length else np.hypot(*between.T)
        k = int(apart.argmax())
        if apart[k] > tolerance:
            keep[start + 1 + k] = True
            spans += [(start, start + 1 + k), (start + 1 + k, end)]
    return closed[:-1][keep[:-1]]


def _loops(mask: Bool[np.ndarray, "h w"]) -> list[Outline]:
    """Return closed lines around a mask's parts, clockwise, and around its holes, the other way; corners only."""
    following = _edges(mask)
    loops = []
    while following:
        start = next(iter(following))
        loop, here, came = [], start, (0, 0)
        while here in following:
            ends = following[here]
            # where two pixels touch by a corner only, turn right: stay with the pixel
            right = (here[0] - came[1], here[1] + came[0])
            there = right if len(ends) > 1 and right in ends else ends[0]
            ends.remove(there)
            if not ends:
                del following[here]
            step = (there[0] - here[0], there[1] - here[1])
            if step != came:
                loop.append(here)
            here, came = there, step
            if here == start:
                break
        if len(loop) > 1 and (loop[0][0] - loop[-1][0], loop[0][1] - loop[-1][1]) != (0, 0):
            first = (loop[1][0] - loop[0][0], loop[1][1] - loop[0][1])
            if (np.sign(first[0]), np.sign(first[1])) == came:  # the start lies on a straight line
                loop = loop[1:]
        loops.append(np.array(loop, np.float64))
    return loops


def _edges(mask: Bool[np.ndarray, "h w"]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the edges of pixels between inside and outside, start -> ends, with the inside on the right."""
    padded = np.pad(mask, 1)
    inside, left, above = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for edge, start, end in (
        (inside & ~above, (0, 0), (1, 0)),
        (~inside & above, (1, 0), (0, 0)),
        (inside & ~left, (0, 1), (0, 0)),
        (~inside & left, (0, 0), (0, 1)),
    ):
        ys, xs = np.nonzero(edge)
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    return following


def _holds(loop: Outline, point: Float[np.ndarray, "2"]) -> bool:
    """Return whether a point lies in a closed line, by the even-odd rule."""
    x0, y0 = loop.T
    x1, y1 = np.roll(loop, -1, 0).T
    crosses = (y0 <= point[1]) != (y1 <= point[1])
    x = x0[crosses] + (point[1] - y0[crosses]) * (x1 - x0)[crosses] / (y1 - y0)[crosses]
    return bool((x > point[0]).sum() % 2)


def _joined(outline: Outline, hole: Outline) -> Outline:
    """Return one closed line that runs along an outline, over to a hole, around it, and back."""
    k = int(np.square(outline - hole[0]).sum(1).argmin())
    return np.concatenate([outline[: k + 1], hole, hole[:1], outline[k:]])
