"""Square windows of a scene that hold enough buildings to be worth simulating."""

import math

import numpy as np
import shapely

from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene
from hertzmap.scenes.raster import rasterize

_COVER_SPACING_M = 4.0
"""Cell side [m] on which a tile's cover is measured; finer cells change it by under 1 %."""


def cover(scene: Scene, grid: Grid) -> float:
    """Share of a grid's area that buildings cover, 0 to 1, on cells of about 4 m."""
    west, south, east, north = grid.bounds_m
    rows = max(round((north - south) / _COVER_SPACING_M), 1)
    cols = max(round((east - west) / _COVER_SPACING_M), 1)
    coarse = Grid(rows, cols, (north - south) / rows, grid.origin_m)
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

    Args:
        scene: the scene.
        size_m: side of a window [m], a multiple of `spacing_m`.
        spacing_m: side of a cell [m].
        min_buildings: least number of buildings whose centroid lies in the window.
        min_cover: least share of the window's area under buildings, 0 to 1.
        limit: greatest number of windows; None for all. All come row by row from the south-west;
            a limited choice comes spread over the scene (see `spread`).

    Raises:
        ValueError: if the window is no whole number of cells.
    """
    cells = round(size_m / spacing_m)
    if cells < 1 or not math.isclose(cells * spacing_m, size_m):
        msg = f"a window of {size_m} m is no whole number of cells of {spacing_m} m"
        raise ValueError(msg)
    if not scene.footprints:
        return ()
    west, south, east, north = scene.bounds_m
    origin = np.array([math.ceil(west), math.ceil(south)], dtype=np.float64)
    step = float(math.ceil(size_m))
    count = np.floor((np.array([east, north]) - origin - size_m) / step).astype(int) + 1
    centroid = shapely.centroid(np.array(scene.footprints, dtype=object))
    column, row = np.floor((shapely.get_coordinates(centroid) - origin) / step).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < count[0]) & (row < count[1])
    places, buildings = np.unique(
        np.column_stack([row, column])[inside], axis=0, return_counts=True
    )
    found = []
    for r, c in places[buildings >= min_buildings]:
        corner = (float(origin[0] + c * step), float(origin[1] + r * step))
        grid = Grid(cells, cells, spacing_m, corner)
        if cover(scene, grid) >= min_cover:
            found.append(grid)
    return tuple(found) if limit is None else spread(tuple(found), limit)
