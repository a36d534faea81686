"""Footprints with heights become closed surfaces: shared vertices, normals that point outwards."""

from dataclasses import dataclass
from typing import final

import numpy as np
import shapely
from jaxtyping import Float, Int
from mapbox_earcut import triangulate_float64
from shapely.geometry import Polygon
from shapely.geometry.polygon import orient


@final
@dataclass(frozen=True)
class Surface:
    """A triangle mesh; normals point to the side from which a triangle runs anticlockwise."""

    points_m: Float[np.ndarray, "points 3"]
    """Vertices (east, north, up) [m], local frame."""
    triangles: Int[np.ndarray, "triangles 3"]
    """Vertices of each triangle."""


def merged(surfaces: list[Surface]) -> Surface:
    """All surfaces as one; vertices stay apart."""
    starts = np.cumsum([0, *(len(surface.points_m) for surface in surfaces)])
    return Surface(
        np.concatenate([np.empty((0, 3)), *(surface.points_m for surface in surfaces)]),
        np.concatenate(
            [
                np.empty((0, 3), np.int64),
                *(
                    surface.triangles + start
                    for surface, start in zip(surfaces, starts[:-1], strict=True)
                ),
            ]
        ),
    )


def disjoint(
    footprints: list[Polygon], top_m: Float[np.ndarray, " buildings"]
) -> list[tuple[Polygon, float]]:
    """Outlines without overlap: equal tops are united, the higher is cut out of the lower."""
    levels = np.unique(top_m)[::-1]
    shapes = np.empty(len(footprints), dtype=object)
    shapes[:] = footprints
    pieces: list[tuple[Polygon, float]] = []
    taken: list[Polygon] = []
    for level in levels.tolist():
        union = shapely.union_all(shapes[top_m == level])
        if taken:
            tree = shapely.STRtree(taken)
            near = tree.query(union, predicate="intersects")
            if len(near):
                union = union.difference(shapely.union_all(tree.geometries[near]))
        parts = [part for part in shapely.get_parts(union) if isinstance(part, Polygon)]
        pieces += [(part, level) for part in parts if part.area > 1e-4]
        taken += parts
    return pieces


def prism(footprint: Polygon, bottom_m: float, top_m: float) -> Surface:
    """The closed surface over an outline with holes, from `bottom_m` to `top_m` [m]."""
    turned = orient(footprint)  # outer ring anticlockwise, holes clockwise: walls face outwards
    rings = [np.asarray(ring.coords)[:-1, :2] for ring in (turned.exterior, *turned.interiors)]
    ends = np.cumsum([len(ring) for ring in rings]).astype(np.uint32)
    flat = np.concatenate(rings)
    count = len(flat)
    roof = upwards(flat, triangulate_float64(flat, ends).reshape(-1, 3).astype(np.int64))
    here = np.arange(count)
    nxt = here + 1
    nxt[ends.astype(np.int64) - 1] = np.concatenate([[0], ends[:-1]])
    low, high = here, here + count
    walls = np.concatenate(
        [
            np.column_stack([low, low[nxt], high[nxt]]),
            np.column_stack([low, high[nxt], high]),
        ]
    )
    points = np.concatenate(
        [
            np.column_stack([flat, np.full(count, bottom_m)]),
            np.column_stack([flat, np.full(count, top_m)]),
        ]
    )
    return Surface(points, np.concatenate([roof[:, ::-1], roof + count, walls]))


def upwards(
    flat_m: Float[np.ndarray, "points 2"], triangles: Int[np.ndarray, "triangles 3"]
) -> Int[np.ndarray, "triangles 3"]:
    """Triangles of a plane, each turned so that it runs anticlockwise."""
    a, b, c = (flat_m[triangles[:, k]] for k in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    return np.where((area < 0)[:, None], triangles[:, ::-1], triangles)
