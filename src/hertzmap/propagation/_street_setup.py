"""What a street engine needs to know of the buildings: walls, convex corners, spans, graph."""

from dataclasses import dataclass
from typing import final

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int
from shapely.geometry import Polygon
from shapely.geometry.polygon import orient

from hertzmap.propagation._street_kernels import scan_corners

CLOSING_M = 0.05
"""Half the width of the slits between buildings that we close, so that touching walls merge [m]."""
SIMPLIFY_M = 0.3
"""Tolerance of the outline's simplification [m]; engine design figure."""
CORNER_TURN_RAD = np.deg2rad(10.0)
"""Least turn of an outline at a corner that bends routes [rad]; engine design figure."""
CORNER_OFFSET_M = 0.05
"""How far a corner stands off its vertex, so that its own walls do not hide it [m]."""


@final
@dataclass(frozen=True)
class Outline:
    """Walls and convex corners of all buildings, in metres from the grid's south-west corner."""

    walls: Float[np.ndarray, "edges 4"]
    """East, north of each wall's start and end [m]; the building lies on the left."""
    vertex: Float[np.ndarray, "corners 2"]
    """Convex corners [m]."""
    corner: Float[np.ndarray, "corners 2"]
    """The same moved `CORNER_OFFSET_M` outwards along the bisector [m]."""
    before: Float[np.ndarray, "corners 2"]
    """Unit vectors from each corner to the previous vertex."""
    after: Float[np.ndarray, "corners 2"]
    """Unit vectors from each corner to the next vertex."""


@final
@dataclass(frozen=True)
class StreetGraph:
    """Which cells and which other corners each corner serves (compressed sparse rows)."""

    span_start: Int[np.ndarray, " corners_and_one"]
    """First span of each corner."""
    span: Int[np.ndarray, "spans 3"]
    """Row, first column, last column + 1 of a run of cells the corner sees as tangent point."""
    graph_start: Int[np.ndarray, " corners_and_one"]
    """First neighbour of each corner."""
    graph_corner: Int[np.ndarray, " links"]
    """Neighbour corners: both see each other and the line is tangent at both."""


def outline(
    footprints: list[Polygon],
    origin_m: tuple[float, float],
    bounds_m: tuple[float, float, float, float],
) -> Outline:
    """Merge footprints and find their walls and convex corners.

    Args:
        footprints: building outlines [m]; touching ones merge.
        origin_m: point that becomes (0, 0) [m].
        bounds_m: (west, south, east, north) [m]; corners beyond it are left out, walls are not.
    """
    shifted = shapely.transform(np.array(footprints, dtype=object), lambda xy: xy - origin_m)
    grown = shapely.buffer(shifted, CLOSING_M, join_style="mitre")
    merged = shapely.buffer(shapely.union_all(grown), -CLOSING_M, join_style="mitre")
    merged = shapely.simplify(merged, SIMPLIFY_M, preserve_topology=True)
    polygons = [part for part in shapely.get_parts(merged) if isinstance(part, Polygon)]
    walls, vertex, before, after = [], [], [], []
    for polygon in polygons:
        ordered = orient(polygon)
        for ring in (ordered.exterior, *ordered.interiors):
            place = shapely.get_coordinates(ring)[:-1]
            following = np.roll(place, -1, axis=0)
            forward = following - place
            forward /= np.linalg.norm(forward, axis=1, keepdims=True)
            backward = -np.roll(forward, 1, axis=0)
            cross = forward[:, 1] * -backward[:, 0] + forward[:, 0] * backward[:, 1]
            dot = -np.sum(forward * backward, axis=1)
            convex = np.arctan2(cross, dot) > CORNER_TURN_RAD
            walls.append(np.hstack([place, following]))
            vertex.append(place[convex])
            before.append(backward[convex])
            after.append(forward[convex])
    if not walls:
        nothing = np.empty((0, 2))
        return Outline(np.empty((0, 4)), nothing, nothing, nothing, nothing)
    place, previous, following = (np.concatenate(parts) for parts in (vertex, before, after))
    west, south, east, north = np.array(bounds_m) - np.tile(origin_m, 2)
    inside = (place >= [west, south]).all(axis=1) & (place <= [east, north]).all(axis=1)
    place, previous, following = place[inside], previous[inside], following[inside]
    bisector = previous + following
    bisector /= np.linalg.norm(bisector, axis=1, keepdims=True)
    return Outline(
        np.concatenate(walls), place, place - CORNER_OFFSET_M * bisector, previous, following
    )


def street_graph(
    sides: Outline, free: Bool[np.ndarray, "rows cols"], spacing_m: float
) -> StreetGraph:
    """Join tangent corners that see each other and list the cells each corner serves."""
    start, span, joined = scan_corners(
        sides.corner, sides.vertex, sides.before, sides.after, sides.walls,
        free.view(np.uint8), spacing_m,
    )  # fmt: skip
    first, second = np.nonzero(joined | joined.T)
    graph_start = np.searchsorted(first, np.arange(len(sides.corner) + 1))
    return StreetGraph(start, span, graph_start.astype(np.int64), second.astype(np.int32))


def clear_of_walls(
    sides: Outline, place_m: Float[np.ndarray, " 2"], clearance_m: float
) -> Float[np.ndarray, " 2"] | None:
    """Move a place outdoors until it is clear of every wall; None where no room is found.

    Each step pushes the place away from its nearest wall, towards the wall's free side.
    """
    if not len(sides.walls):
        return place_m
    start, stop = sides.walls[:, :2], sides.walls[:, 2:]
    for _ in range(30):
        foot, distance = _feet(sides, place_m)
        inside = _inside(start, stop, place_m)
        k = int(np.argmin(distance))
        if distance[k] >= clearance_m and not inside:
            return place_m
        direction = (place_m - foot[k]) / max(distance[k], 1e-12)
        if inside or distance[k] < 1e-6:
            along = stop[k] - start[k]
            direction = np.array([along[1], -along[0]]) / np.hypot(*along)
        place_m = foot[k] + 1.001 * clearance_m * direction
    return None


def distance_to_walls(sides: Outline, place_m: Float[np.ndarray, " 2"]) -> float:
    """Distance of a place to the nearest wall [m]; infinite without walls."""
    return float(np.min(_feet(sides, place_m)[1], initial=np.inf))


def _feet(sides: Outline, place_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest point of each wall to a place, and its distance [m]."""
    start, along = sides.walls[:, :2], sides.walls[:, 2:] - sides.walls[:, :2]
    share = np.sum((place_m - start) * along, axis=1) / np.sum(along * along, axis=1)
    foot = start + np.clip(share, 0.0, 1.0)[:, None] * along
    return foot, np.hypot(*(place_m - foot).T)


def _inside(start: np.ndarray, stop: np.ndarray, place_m: np.ndarray) -> bool:
    """Whether a place is inside the outlines: an odd number of walls lie east of it."""
    crosses = (start[:, 1] > place_m[1]) != (stop[:, 1] > place_m[1])
    rise = stop[crosses] - start[crosses]
    at = start[crosses, 0] + rise[:, 0] * (place_m[1] - start[crosses, 1]) / rise[:, 1]
    return bool(np.count_nonzero(at > place_m[0]) % 2)
