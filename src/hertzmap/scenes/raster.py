"""Heights and the outdoor mask of a scene on a grid, and windows cut out of a scene."""

from dataclasses import replace

import numpy as np
import shapely

from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene, SceneRaster


def _meeting(geometries: np.ndarray, bounds_m: tuple[float, float, float, float]) -> np.ndarray:
    """Indices of the geometries that meet a rectangle (west, south, east, north), edges count."""
    if not len(geometries):
        return np.empty(0, dtype=np.int64)
    west, south, east, north = shapely.bounds(geometries).T
    near = (west <= bounds_m[2]) & (east >= bounds_m[0])
    near &= (south <= bounds_m[3]) & (north >= bounds_m[1])
    index = np.flatnonzero(near)
    return index[shapely.intersects(geometries[index], shapely.box(*bounds_m))]


def _as_array(geometries: tuple) -> np.ndarray:
    array = np.empty(len(geometries), dtype=object)
    array[:] = geometries
    return array


def rasterize(scene: Scene, grid: Grid) -> SceneRaster:
    """Heights and outdoor mask of a scene on a grid; ground outside the scene counts as outdoor.

    A cell is indoors exactly when its centre lies in a footprint or on its outline; where
    footprints overlap, the highest building gives the height.
    """
    height = np.zeros(grid.shape, dtype=np.float64)
    footprints = _as_array(scene.footprints)
    index = _meeting(footprints, grid.bounds_m)
    south_west = grid.cell(shapely.bounds(footprints[index])[:, :2])
    north_east = grid.cell(shapely.bounds(footprints[index])[:, 2:])
    first = np.clip(south_west, 0, np.array(grid.shape))
    last = np.clip(north_east + 1, 0, np.array(grid.shape))
    rows, cols = np.arange(grid.rows, dtype=np.float64), np.arange(grid.cols, dtype=np.float64)
    east = grid.origin_m[0] + (cols + 0.5) * grid.spacing_m
    north = grid.origin_m[1] + (rows + 0.5) * grid.spacing_m
    shapely.prepare(footprints[index])
    for footprint, level, (r0, c0), (r1, c1) in zip(
        footprints[index], scene.height_m[index], first, last, strict=True
    ):
        inside = shapely.intersects_xy(footprint, east[None, c0:c1], north[r0:r1, None])
        block = height[r0:r1, c0:c1]
        np.maximum(block, np.where(inside, level, 0.0), out=block)
    return SceneRaster(grid, height, height == 0.0)


def window(scene: Scene, grid: Grid, margin_m: float = 100.0) -> Scene:
    """The scene around a grid: whole polygons and roads that meet the grid plus a margin.

    Polygons are never clipped, since a cut would grow false corners at the window's edge.
    `skipped` stays with the whole scene, because what was skipped has no place.

    Args:
        scene: the scene to cut from.
        grid: the raster in the middle of the window.
        margin_m: width of the belt around the grid [m], at least 0.
    """
    west, south, east, north = grid.bounds_m
    bounds = (west - margin_m, south - margin_m, east + margin_m, north + margin_m)
    keep = _meeting(_as_array(scene.footprints), bounds)
    roads = _meeting(_as_array(tuple(road.line for road in scene.roads)), bounds)
    return replace(
        scene,
        footprints=tuple(scene.footprints[i] for i in keep),
        height_m=scene.height_m[keep],
        height_rule=tuple(scene.height_rule[i] for i in keep),
        source_id=tuple(scene.source_id[i] for i in keep),
        materials=tuple(scene.materials[i] for i in keep) if scene.materials else (),
        bounds_m=bounds,
        roads=tuple(scene.roads[i] for i in roads),
        skipped=(),
    )
