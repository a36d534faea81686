"""Buildings as polygons from a raster of free cells, so that a bare mask can be simulated.

Following the edges of cells gives staircases, and every stair would be a false corner that bends
routes. A straight wall, however, passes within half a cell of the midpoints of all its cell
edges. So each outline is split at the midpoints that a chain of straight lines needs
(Douglas-Peucker), a line is fitted to the midpoints of each piece, and neighbouring lines meet in
the corners.
"""

from itertools import pairwise

import numpy as np
import shapely
from jaxtyping import Bool, Float
from shapely.geometry import LineString, Polygon

from hertzmap.core.errors import SceneError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene

TOLERANCE_CELLS = 1.0
"""Two midpoints of one straight wall may lie half a cell on either side of it."""
CORNER_REACH_CELLS = 1.5
"""A meeting point of lines farther than this from where the outline was split is no corner."""
PARALLEL = 1e-3
"""Below this sine of their angle two lines do not meet."""


def scene_from_mask(
    free: Bool[np.ndarray, "rows cols"], grid: Grid, *, height_m: float = 25.0
) -> Scene:
    """A scene whose footprints, rasterised on the grid, give the mask back almost exactly.

    Cells that share an edge become one building, so touching buildings merge.

    Args:
        free: True outdoors; row 0 is south.
        grid: where the cells are.
        height_m: height of all buildings [m], above 0.

    Raises:
        SceneError: if mask and grid differ in shape.
    """
    if free.shape != grid.shape:
        msg = f"the mask has {free.shape} cells, the grid {grid.shape}; give the mask's own grid"
        raise SceneError(msg)
    parts = shapely.get_parts(_cells_union(~free))
    footprints = tuple(_to_metres(_straighten(part), grid) for part in parts)
    count = len(footprints)
    return Scene(
        footprints=footprints,
        height_m=np.full(count, float(height_m)),
        height_rule=("default:mask",) * count,
        source_id=tuple(f"mask/{k}" for k in range(count)),
        bounds_m=grid.bounds_m,
        name="mask",
    )


def _cells_union(indoors: np.ndarray) -> shapely.Geometry:
    """Union of the marked cells, in units of cells (col, row)."""
    edge = np.diff(np.pad(indoors, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, first = np.nonzero(edge == 1)
    stop = np.nonzero(edge == -1)[1]
    return shapely.union_all(shapely.box(first, row, stop, row + 1))


def _to_metres(polygon: Polygon, grid: Grid) -> Polygon:
    origin = np.array(grid.origin_m)
    return shapely.transform(polygon, lambda cells: origin + grid.spacing_m * cells)


def _straighten(polygon: Polygon) -> Polygon:
    """A polygon of cell edges with its staircases made straight."""
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    outer, *holes = (_straighten_ring(ring) for ring in rings)
    straight = Polygon(outer, holes)
    return straight if straight.is_valid else polygon


def _straighten_ring(
    ring: Float[np.ndarray, "points 2"],
) -> Float[np.ndarray, "corners 2"]:
    middle = _edge_midpoints(ring)
    split = _split(middle)
    lines = [_fit_line(middle[first : last + 1]) for first, last in pairwise(split)]
    corners = [_meet(lines[k - 1], lines[k], middle[split[k]]) for k in range(len(lines))]
    return np.array(corners) if len(corners) >= 3 else ring


def _edge_midpoints(ring: np.ndarray) -> np.ndarray:
    """Midpoints of the unit edges of a closed ring, from the farthest one round and back to it."""
    step = np.diff(ring, axis=0)
    count = np.rint(np.abs(step).sum(axis=1)).astype(int)
    which = np.repeat(np.arange(len(count)), count)
    along = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + 0.5
    middle = ring[which] + np.sign(step[which]) * along[:, None]
    start = np.argmax(np.linalg.norm(middle - middle.mean(axis=0), axis=1))
    middle = np.roll(middle, -start, axis=0)
    return np.vstack([middle, middle[:1]])


def _split(middle: np.ndarray) -> list[int]:
    """Indices of the midpoints that a chain of lines within the tolerance must pass."""
    half = int(np.argmax(np.linalg.norm(middle - middle[0], axis=1)))
    split = [0]
    for first, last in ((0, half), (half, len(middle) - 1)):
        piece = middle[first : last + 1]
        kept = shapely.get_coordinates(shapely.simplify(LineString(piece), TOLERANCE_CELLS))
        index = {tuple(place): first + k for k, place in enumerate(piece[:-1].tolist())}
        split += [index[tuple(place)] for place in kept[1:-1].tolist()] + [last]
    return split


def _fit_line(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and direction of the least-squares line; the end points belong to corners."""
    inner = points[1:-1] if len(points) > 3 else points
    centre = inner.mean(axis=0)
    return centre, np.linalg.svd(inner - centre)[2][0]


def _meet(
    before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray], split: np.ndarray
) -> np.ndarray:
    """Where two lines meet, or the point the outline was split at if that is far off."""
    (start, way), (other, other_way) = before, after
    sine = way[0] * other_way[1] - way[1] * other_way[0]
    if abs(sine) < PARALLEL:
        return split
    gap = other - start
    corner = start + (gap[0] * other_way[1] - gap[1] * other_way[0]) / sine * way
    return corner if np.linalg.norm(corner - split) < CORNER_REACH_CELLS else split
