# ruff: noqa: ANN001, ANN202 - numba kernels are not type checked
"""How a place sees each cell, read off the building mask alone: distance, detour, wall.

The paper marks the transmitter by one hot cell. A convolutional network then has to carry that one
pixel across the whole map before it can use it. We hand it three planes that follow from the
same cell and the same mask: distance, how much longer the way round the buildings is, and how
much wall the straight line crosses. No propagation parameter enters.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit

from hertzmap.core.grid import Grid

TRANSMITTER_PLANES = 4
"""Distance, detour, line of sight, wall."""


@njit(cache=True, nogil=True)
@no_type_check
def _sweep(time, free, rounds):
    """Fast sweeping for |grad T| = 1 on free cells, in cells; returns when nothing moves."""
    rows, cols = time.shape
    for _ in range(rounds):
        moved = 0.0
        for order in range(4):
            for i in range(rows):
                r = i if order < 2 else rows - 1 - i
                for j in range(cols):
                    c = j if order % 2 == 0 else cols - 1 - j
                    if not free[r, c]:
                        continue
                    a = np.inf
                    if r > 0:
                        a = time[r - 1, c]
                    if r + 1 < rows and time[r + 1, c] < a:
                        a = time[r + 1, c]
                    b = np.inf
                    if c > 0:
                        b = time[r, c - 1]
                    if c + 1 < cols and time[r, c + 1] < b:
                        b = time[r, c + 1]
                    if a > b:
                        a, b = b, a
                    if a == np.inf:
                        continue
                    across = 0.5 * (a + b + np.sqrt(max(2.0 - (a - b) ** 2, 0.0)))
                    new = a + 1.0 if b - a >= 1.0 else across
                    old = time[r, c]
                    if new < old:
                        time[r, c] = new
                        gain = old - new
                        moved = max(moved, gain)
        if moved < 0.05:
            break


@njit(cache=True, nogil=True)
@no_type_check
def _walls(free, row0, col0):
    """Cells of wall on the straight line to each cell, by one ray to each border cell."""
    rows, cols = free.shape
    wall = np.full((rows, cols), np.float32(-1.0))
    best = np.full((rows, cols), np.float32(9.0))
    border = 2 * (rows + cols)
    for k in range(border):
        if k < cols:
            r1, c1 = 0.0, float(k)
        elif k < 2 * cols:
            r1, c1 = float(rows - 1), float(k - cols)
        elif k < 2 * cols + rows:
            r1, c1 = float(k - 2 * cols), 0.0
        else:
            r1, c1 = float(k - 2 * cols - rows), float(cols - 1)
        dr, dc = r1 - row0, c1 - col0
        steps = int(np.ceil(max(abs(dr), abs(dc))))
        if steps == 0:
            continue
        ur, uc = dr / steps, dc / steps
        length = np.sqrt(ur * ur + uc * uc)
        total = 0.0
        for step in range(steps + 1):
            fr, fc = row0 + ur * step, col0 + uc * step
            r, c = int(np.floor(fr + 0.5)), int(np.floor(fc + 0.5))
            if r < 0 or c < 0 or r >= rows or c >= cols:
                continue
            if not free[r, c]:
                total += length
            off = abs(fr - r) + abs(fc - c)
            if off < best[r, c]:
                best[r, c] = off
                wall[r, c] = total
    for r in range(rows):
        for c in range(cols):
            if wall[r, c] < 0.0:
                wall[r, c] = wall[max(r - 1, 0), c]
    return wall


@njit(cache=True, nogil=True)
@no_type_check
def _detour(free, row0, col0):
    """Length of the shortest way through free cells, in cells; at least the straight distance."""
    rows, cols = free.shape
    time = np.full((rows, cols), np.inf)
    inside = -1.0 <= row0 <= rows and -1.0 <= col0 <= cols  # a cell off the map is as good as in
    near = 2.5
    if inside:
        nearest = np.inf
        for r in range(rows):
            for c in range(cols):
                if free[r, c]:
                    nearest = min(nearest, np.sqrt((r - row0) ** 2 + (c - col0) ** 2))
        near = nearest + 2.5
    for r in range(rows):
        for c in range(cols):
            edge = r == 0 or c == 0 or r == rows - 1 or c == cols - 1
            straight = np.sqrt((r - row0) ** 2 + (c - col0) ** 2)
            if free[r, c] and ((inside and straight <= near) or (not inside and edge)):
                time[r, c] = straight
    _sweep(time, free, 8)
    return time


def transmitter_planes(
    free: Bool[np.ndarray, "rows cols"], grid: Grid, place_m: tuple[float, float]
) -> Float[np.ndarray, "4 rows cols"]:
    """Four condition planes of a supposed transmitter at `place_m` (east, north) [m].

    1. log10 of the straight distance [m] over 3, at least one metre;
    2. log2 of (shortest way round the buildings / straight distance), at most 2, halved;
    3. exp(-wall / 3 m) of the wall that the straight line crosses: 1 in line of sight;
    4. log2(1 + wall / 1 m) over 8.

    The transmitter may stand off the grid: what lies outside counts as free. In a building it is
    taken for a rooftop site whose ways start at the building's edge. First-order fast sweeping
    finds the way (Zhao 2005), so lengths are 1-2 % long.
    """
    pixel = grid.to_pixel(np.asarray(place_m, dtype=np.float64))
    row, col = float(pixel[0]), float(pixel[1])
    r, c = np.ogrid[: grid.rows, : grid.cols]
    straight = np.maximum(np.hypot(r - row, c - col), 0.5)
    way = np.maximum(_detour(free, row, col), straight)
    way = np.where(np.isfinite(way), way, 4.0 * straight)
    wall_m = _walls(free, row, col) * grid.spacing_m
    metres = np.maximum(straight * grid.spacing_m, 1.0)
    planes = np.empty((TRANSMITTER_PLANES, *grid.shape), dtype=np.float32)
    planes[0] = np.log10(metres) / 3.0
    planes[1] = np.minimum(np.log2(way / straight), 2.0) / 2.0
    planes[2] = np.exp(-wall_m / 3.0)
    planes[3] = np.log2(1.0 + wall_m) / 8.0
    return planes
