"""Square windows of a scene that hold enough buildings to be worth simulating."""

import math

import numpy as np
import shapely

from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene
from hertzmap.scenes.raster import rasterize

_PHASES = 8
"""The lattice of windows may start at this many places per window side, in each direction."""


def _cover_cell_m(size_m: int) -> int:
    """Cell side [m] for cover: the largest whole divisor of the window giving 32 cells or more."""
    return max(side for side in range(1, max(size_m // 32, 1) + 1) if size_m % side == 0)


def cover(scene: Scene, grid: Grid) -> float:
    """Share of a square window that buildings cover, 0 to 1; 8 m cells for a 256 m window."""
    west, _, east, _ = grid.bounds_m
    side = _cover_cell_m(round(east - west))
    cells = round((east - west) / side)
    coarse = Grid(cells, cells, float(side), grid.origin_m)
    return 1.0 - float(rasterize(scene, coarse).free.mean())


def spread(grids: tuple[Grid, ...], limit: int) -> tuple[Grid, ...]:
    """At most `limit` of the grids, far from each other, in a deterministic order.

    Starts nearest to the middle of all grids and takes the farthest from those taken, again and
    again (greedy k-centre); ties go to the earlier grid. Source: Gonzalez, Clustering to minimize
    the maximum intercluster distance, 1985.
    """
    if not grids or limit < 1:
        return ()
    corners = np.array([grid.bounds_m for grid in grids])
    centre = 0.5 * (corners[:, :2] + corners[:, 2:])
    taken = [int(np.argmin(np.linalg.norm(centre - centre.mean(axis=0), axis=1)))]
    gap = np.linalg.norm(centre - centre[taken[0]], axis=1)
    while len(taken) < min(limit, len(grids)):
        gap[taken] = -1.0
        taken.append(int(np.argmax(gap)))
        gap = np.minimum(gap, np.linalg.norm(centre - centre[taken[-1]], axis=1))
    return tuple(grids[i] for i in taken)


def _window_sums(values: np.ndarray, cells: int, stride: int) -> np.ndarray:
    """Sums over all windows of `cells` x `cells` that start at multiples of `stride`."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    table[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    sums = table[cells:, cells:] - table[:-cells, cells:] - table[cells:, :-cells]
    return (sums + table[:-cells, :-cells])[::stride, ::stride]


def _lattice(score: np.ndarray) -> list[tuple[int, int]]:
    """Non-overlapping windows with the greatest total score, in bands of equal rows.

    `score` (rows, cols) belongs to windows at steps of 1 / `_PHASES` of their side. The bands
    share one start; within its band, windows share another.
    """

    def pack(start: int) -> tuple[float, list[tuple[int, int]]]:
        total, places = 0.0, []
        for row in range(start, score.shape[0], _PHASES):
            sums = [score[row, phase::_PHASES].sum() for phase in range(_PHASES)]
            best = int(np.argmax(sums))
            total += float(sums[best])
            cols = np.flatnonzero(score[row, best::_PHASES]) * _PHASES + best
            places += [(row, int(col)) for col in cols]
        return total, places

    return max((pack(start) for start in range(_PHASES)), key=lambda packed: packed[0])[1]


def tiles(
    scene: Scene,
    *,
    size_m: float = 256.0,
    spacing_m: float = 1.0,
    min_buildings: int = 8,
    min_cover: float = 0.10,
    limit: int | None = None,
) -> tuple[Grid, ...]:
    """Non-overlapping square windows inside a scene, with corners on whole metres.

    The windows are laid so that as many as possible count.

    Args:
        scene: the scene.
        size_m: side of a window [m], whole metres and a multiple of `spacing_m`.
        spacing_m: side of a cell [m].
        min_buildings: least number of buildings whose centroid lies in the window.
        min_cover: least share of the window's area under buildings (see `cover`), 0 to 1.
        limit: greatest number of windows; None for all. All come row by row from the south-west;
            a limited choice comes spread over the scene (see `spread`).

    Raises:
        ValueError: if the window is no whole number of metres or cells.
    """
    side, cells = round(size_m), round(size_m / spacing_m)
    whole = side == size_m and side >= 1 and math.isclose(cells * spacing_m, size_m)
    if not whole:
        msg = f"a window of {size_m} m must be whole metres and whole cells of {spacing_m} m"
        raise ValueError(msg)
    west, south, east, north = scene.bounds_m
    cell_m = _cover_cell_m(side)
    window = side // cell_m
    origin = (float(math.ceil(west)), float(math.ceil(south)))
    rows = int((north - origin[1]) // cell_m)
    cols = int((east - origin[0]) // cell_m)
    if min(rows, cols) < window or not scene.footprints:
        return ()
    coarse = Grid(rows, cols, float(cell_m), origin)
    stride = max(window // _PHASES, 1)
    covered = _window_sums(~rasterize(scene, coarse).free, window, stride) / window**2
    count = _window_sums(_centroid_count(scene, coarse), window, stride)
    good = (covered >= min_cover) & (count >= min_buildings)
    found = tuple(
        Grid(
            cells,
            cells,
            spacing_m,
            (origin[0] + c * stride * cell_m, origin[1] + r * stride * cell_m),
        )
        for r, c in _lattice(np.where(good, 1.0 + 1e-6 * covered, 0.0))
    )
    return found if limit is None else spread(found, limit)


def _centroid_count(scene: Scene, grid: Grid) -> np.ndarray:
    """Number of building centroids in each cell."""
    centroid = shapely.get_coordinates(shapely.centroid(np.array(scene.footprints, dtype=object)))
    cell = grid.cell(centroid)[grid.contains(centroid)]
    count = np.zeros(grid.shape)
    np.add.at(count, (cell[:, 0], cell[:, 1]), 1.0)
    return count
