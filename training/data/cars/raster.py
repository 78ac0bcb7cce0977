"""A rasteriser: the nearest triangle of each pixel and the barycentric coordinates on it."""

import numpy as np
from jaxtyping import Float, Int


def rasterise(
    screen: Float[np.ndarray, "vertices 2"],
    nearness: Float[np.ndarray, " vertices"],
    triangles: Int[np.ndarray, "triangles 3"],
    size: int,
) -> tuple[Int[np.ndarray, " visible"], Int[np.ndarray, " visible"], Float[np.ndarray, "visible 3"]]:
    """Return the pixels that triangles cover, the nearest triangle in each and its vertices' weights there.

    `screen` is in pixels, x right and y down, pixel centres at one half; `nearness` is 1 / depth. Triangles seen from
    behind (clockwise) are culled. Pixels are numbered row by row; weights are perspective-correct and sum to 1.
    """
    corner = screen[triangles]  # (triangles, 3 corners, 2)
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    keep = np.flatnonzero(area < -1e-9)  # y is down, so counter-clockwise is negative
    corner, area = corner[keep], area[keep]
    near = nearness[triangles[keep]]
    # every row of pixel centres that a triangle crosses
    first = np.ceil(corner[:, :, 1].min(1) - 0.5).clip(0, size).astype(int)
    end = np.ceil(corner[:, :, 1].max(1) - 0.5).clip(0, size).astype(int)
    owner, row = _ranges(first, end)
    # the span of pixel centres inside it, between the two edges that cross the row
    y = row + 0.5
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        (xi, yi), (xj, yj) = corner[owner, i].T, corner[owner, j].T
        crosses = (yi <= y) != (yj <= y)
        x = xi + (y - yi) * (xj - xi) / np.where(crosses, yj - yi, 1)
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    start = np.ceil(left.clip(-1, size + 1) - 0.5).clip(0, size).astype(int)
    stop = np.ceil(right.clip(-1, size + 1) - 0.5).clip(0, size).astype(int)
    span, column = _ranges(start, stop)
    owner, row = owner[span], row[span]
    # nearness is linear on the screen: its value at a corner plus its slopes
    (ax, ay), (bx, by), (cx, cy) = corner[:, 0].T, corner[:, 1].T, corner[:, 2].T
    slope_x = ((near[:, 1] - near[:, 0]) * (cy - ay) - (near[:, 2] - near[:, 0]) * (by - ay)) / area
    slope_y = ((near[:, 2] - near[:, 0]) * (bx - ax) - (near[:, 1] - near[:, 0]) * (cx - ax)) / area
    base = near[:, 0] + slope_x * (0.5 - ax) + slope_y * (0.5 - ay)
    value = base[owner] + slope_x[owner] * column + slope_y[owner] * row
    pixel = row * size + column
    nearest = np.zeros(size * size)
    np.maximum.at(nearest, pixel, value)
    seen = np.flatnonzero(value == nearest[pixel])
    winner = np.full(size * size, -1)
    winner[pixel[seen]] = seen  # where two triangles tie, one of them
    seen = winner[winner >= 0]
    owner, pixel, value = owner[seen], pixel[seen], value[seen]
    dx, dy = column[seen] + 0.5 - ax[owner], row[seen] + 0.5 - ay[owner]
    w1 = (dx * (cy - ay)[owner] - dy * (cx - ax)[owner]) / area[owner]
    w2 = (dy * (bx - ax)[owner] - dx * (by - ay)[owner]) / area[owner]
    weights = np.stack([1 - w1 - w2, w1, w2], 1) * near[owner] / value[:, None]
    return pixel, keep[owner], weights


def _ranges(
    start: Int[np.ndarray, " n"], stop: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
    """Return the numbers start ... stop - 1 of every range, one after the other, and the range that each is from."""
    count = np.maximum(stop - start, 0)
    owner = np.repeat(np.arange(len(start)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return owner, start[owner] + within
