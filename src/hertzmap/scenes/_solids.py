"""Footprints with heights become one closed surface: no inner walls, normals that point outwards.

Outlines are cut where they meet, so that every place has one owner, the highest building there.
Where two heights meet, a wall stands from the lower roof to the higher one and nowhere else. So
each edge belongs to exactly two triangles, and an edge that sticks out is one where walls do.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import final

import numpy as np
import shapely
from jaxtyping import Float, Int
from mapbox_earcut import triangulate_float64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry import Polygon
from shapely.geometry.polygon import orient

STEP_M = 2.0**-12
"""Vertices lie on multiples of this [m], a quarter of a millimetre, which float32 holds exactly up
to 4 km from the origin: so no two vertices fall together in a file."""
SLIT_M = 0.01
"""An enclosed gap between buildings narrower than this is a slip of drawing; assumption."""
_FLAT_STEPS = 2.0
"""A corner this near to the line between its neighbours [steps] is left out."""


@final
@dataclass(frozen=True)
class Surface:
    """A triangle mesh; a triangle's normal points to where its corners run anticlockwise from."""

    points_m: Float[np.ndarray, "points 3"]
    """Vertices (east, north, up) [m], local frame."""
    triangles: Int[np.ndarray, "triangles 3"]
    """Vertices of each triangle."""
    owner: Int[np.ndarray, " triangles"]
    """Building that each triangle belongs to; 0 for a surface without buildings."""

    def part(self, keep: np.ndarray) -> "Surface":
        """The triangles that a mask names, with the vertices that they use."""
        used, triangles = np.unique(self.triangles[keep], return_inverse=True)
        return Surface(self.points_m[used], triangles.reshape(-1, 3), self.owner[keep])


@final
@dataclass(frozen=True)
class _Regions:
    """Plan of all roofs: disjoint regions whose borders have common corners."""

    corner: Int[np.ndarray, "corners 2"]
    """Corners (east, north) [steps]."""
    rings: list[list[np.ndarray]]
    """Corners of each region's rings: the outer anticlockwise, then holes clockwise."""
    owner: Int[np.ndarray, " regions"]
    """Building on top of each region."""


def extrude(
    footprints: tuple[Polygon, ...],
    base_m: Float[np.ndarray, " buildings"],
    top_m: Float[np.ndarray, " buildings"],
    kind: Int[np.ndarray, " buildings"],
) -> Surface:
    """The surface of all buildings together; the higher one wins where footprints overlap.

    Buildings that touch become one solid, which stands on the lowest of their bases. Its inner
    walls vanish. Coordinates are rounded to `STEP_M`.

    Args:
        footprints: outlines with holes [m].
        base_m: underside of each building [m].
        top_m: roof of each building [m], above its base.
        kind: number of each building's material; roofs of one kind and top are united.
    """
    top = np.rint(top_m / STEP_M).astype(np.int64)
    base = np.rint(base_m / STEP_M).astype(np.int64)
    regions = _without_flat_corners(_regions(footprints, np.column_stack([top, base, kind])))
    if not regions.rings:
        return Surface(np.empty((0, 3)), np.empty((0, 3), np.int64), np.empty(0, np.int64))
    return _raise(regions, base, top)


def triangulate(
    corner: Int[np.ndarray, "corners 2"], rings: list[np.ndarray]
) -> Int[np.ndarray, "triangles 3"]:
    """Triangles of a region, anticlockwise, that use every corner of its rings.

    Args:
        corner: places of all corners [steps].
        rings: corners of the outer ring and of the holes.

    Source: ear clipping by mapbox_earcut, which may leave out a corner on a straight border or
    turn a triangle round; both are mended here.
    """
    index = np.concatenate(rings)
    flat = corner[index].astype(np.float64)
    ends = np.cumsum([len(ring) for ring in rings]).astype(np.uint32)
    found = triangulate_float64(flat - flat[0], ends).reshape(-1, 3).astype(np.int64)
    triangles = index[found]
    a, b, c = (corner[triangles[:, k]] for k in range(3))
    triangles[_cross(b - a, c - a) < 0] = triangles[_cross(b - a, c - a) < 0][:, ::-1]
    if len(triangles) == len(index) + 2 * len(rings) - 4:
        return triangles
    return _with_corners_on_edges(corner, index, triangles)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _with_corners_on_edges(
    corner: np.ndarray, index: np.ndarray, triangles: np.ndarray
) -> np.ndarray:
    """Split triangles at corners that lie on their edges, until none does."""
    todo, done = triangles.tolist(), []
    unique = np.unique(index)
    place = corner[unique]
    while todo:
        a, b, c = todo.pop()
        if not _cross(corner[[b]] - corner[a], corner[[c]] - corner[a])[0]:
            continue  # a line; its middle corner splits the neighbours
        for u, v, w in ((a, b, c), (b, c, a), (c, a, b)):
            along = place - corner[u]
            edge = corner[[v]] - corner[u]
            reach = np.sum(along * edge, axis=1)
            on = (_cross(along, edge) == 0) & (reach > 0) & (reach < np.sum(edge**2))
            if on.any():
                middle = int(unique[on.argmax()])
                todo += [[u, middle, w], [middle, v, w]]
                break
        else:
            done.append([a, b, c])
    return np.array(done, dtype=np.int64).reshape(-1, 3)


# --- the plan -----------------------------------------------------------------------------------


def _regions(footprints: tuple[Polygon, ...], sort: np.ndarray) -> _Regions:
    """Cut all outlines where they meet and unite what is of one sort (top, base, kind)."""
    shapes = np.empty(len(footprints), dtype=object)
    shapes[:] = footprints
    shapes = shapely.set_precision(shapes, STEP_M)
    lines = shapely.union_all(shapely.boundary(shapes), grid_size=STEP_M)
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(lines)))
    owner = _owners(faces, shapes, sort[:, 0])
    faces, owner = faces[owner >= 0], owner[owner >= 0]
    rings: list[list[np.ndarray]] = []
    owners: list[int] = []
    _, first, group = np.unique(sort[owner], axis=0, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    for number, chosen in enumerate(np.split(order, np.cumsum(np.bincount(group))[:-1])):
        for polygon in shapely.get_parts(shapely.coverage_union_all(faces[chosen])):
            turned = orient(polygon)
            rings.append(
                [shapely.get_coordinates(r)[:-1] for r in (turned.exterior, *turned.interiors)]
            )
            owners.append(int(owner[first[number]]))
    places = np.concatenate([np.empty((0, 2)), *(ring for region in rings for ring in region)])
    corner, index = np.unique(
        np.rint(places / STEP_M).astype(np.int64), axis=0, return_inverse=True
    )
    ends = np.cumsum([len(ring) for region in rings for ring in region])
    numbered = iter(np.split(index.ravel(), ends[:-1]))
    return _Regions(
        corner, [[next(numbered) for _ in region] for region in rings], np.array(owners, np.int64)
    )


def _owners(faces: np.ndarray, shapes: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Highest building over each face, the first among equals; -1 outdoors."""
    tree = shapely.STRtree(shapes)
    face, shape = tree.query(shapely.point_on_surface(faces), predicate="intersects")
    order = np.lexsort((shape, -top[shape], face))
    found, first = np.unique(face[order], return_index=True)
    owner = np.full(len(faces), -1)
    owner[found] = shape[order][first]
    slit = (owner < 0) & (2.0 * shapely.area(faces) < SLIT_M * shapely.length(faces))
    if slit.any():
        owner[slit] = tree.nearest(shapely.point_on_surface(faces[slit]))
    return owner


def _without_flat_corners(regions: _Regions) -> _Regions:
    """Leave out corners on a straight border that no third region needs."""
    rings = [ring for region in regions.rings for ring in region]
    if not rings:
        return regions
    here, after = np.concatenate(rings), np.concatenate([np.roll(r, -1) for r in rings])
    before = np.concatenate([np.roll(r, 1) for r in rings])
    count = len(regions.corner)
    sides = np.unique(np.sort(np.column_stack([here, after]), axis=1), axis=0)
    degree = np.bincount(sides.ravel(), minlength=count)
    back = regions.corner[before] - regions.corner[here]
    ahead = regions.corner[after] - regions.corner[here]
    off = np.abs(_cross(back, ahead)) / np.maximum(np.linalg.norm(ahead - back, axis=1), 1.0)
    between = (np.sum(back * ahead, axis=1) < 0) & (degree[here] == 2)
    exact, near = np.zeros(count, bool), np.zeros(count, bool)
    exact[here[between & (off == 0)]] = True
    near[here[between & (off <= _FLAT_STEPS)]] = True
    drop = exact.copy()
    alone = ~near[before] & ~near[after]
    drop[here[near[here] & alone]] = True
    for ring in rings:
        if (~drop[ring]).sum() < 3:
            drop[ring] = False
    kept = [[ring[~drop[ring]] for ring in region] for region in regions.rings]
    return _Regions(regions.corner, kept, regions.owner)


# --- from the plan to the surface ---------------------------------------------------------------


def _raise(regions: _Regions, base: np.ndarray, top: np.ndarray) -> Surface:
    """Roofs, undersides and walls over a plan; heights in steps."""
    rings = [ring for region in regions.rings for ring in region]
    a, b = np.concatenate(rings), np.concatenate([np.roll(ring, -1) for ring in rings])
    sizes = [sum(len(ring) for ring in region) for region in regions.rings]
    left = np.repeat(np.arange(len(sizes)), sizes)
    right = _across(a, b, left, len(regions.corner))
    inner = right >= 0
    links = coo_array(
        (np.ones(inner.sum()), (left[inner], right[inner])), shape=(len(sizes), len(sizes))
    )
    solid = connected_components(links, directed=False)[1]
    lowest = np.full(solid.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(lowest, solid, base[regions.owner])
    bottom, roof = lowest[solid], top[regions.owner]

    high, low = roof[left], np.where(inner, roof[right], bottom[left])
    wall = high > low
    levels, code = np.unique(np.concatenate([high, low, bottom[left]]), return_inverse=True)
    high, low, ground = np.split(code, 3)
    node = np.unique(
        np.concatenate([v * len(levels) + z for v in (a, b) for z in (high, low, ground)])
    )

    def at(vertex: np.ndarray, level: np.ndarray) -> np.ndarray:
        return np.searchsorted(node, vertex * len(levels) + level)

    walls, of_wall = _strips(
        at(a[wall], low[wall]),
        at(a[wall], high[wall]),
        at(b[wall], low[wall]),
        at(b[wall], high[wall]),
    )
    flats = [triangulate(regions.corner, region) for region in regions.rings]
    flat = np.concatenate(flats)
    region = np.repeat(np.arange(len(flats)), [len(part) for part in flats])
    over = np.searchsorted(levels, roof[region])[:, None]
    under = np.searchsorted(levels, bottom[region])[:, None]
    triangles = np.concatenate([at(flat, over), at(flat, under)[:, ::-1], walls])
    owner = regions.owner[np.concatenate([region, region, left[wall][of_wall]])]
    place = np.column_stack([regions.corner[node // len(levels)], levels[node % len(levels)]])
    place, triangles = _part_solids_that_touch(place, triangles)
    return Surface(place * STEP_M, triangles, owner)


def _across(a: np.ndarray, b: np.ndarray, left: np.ndarray, count: int) -> np.ndarray:
    """Region on the other side of each border piece a-b; -1 outdoors."""
    code, twin = a * count + b, b * count + a
    order = np.argsort(code)
    where = np.minimum(np.searchsorted(code[order], twin), len(code) - 1)
    return np.where(code[order][where] == twin, left[order[where]], -1)


def _strips(
    a_low: np.ndarray, a_high: np.ndarray, b_low: np.ndarray, b_high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of walls whose two upright sides are runs of vertices, and the wall of each."""

    def runs(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        length = last - first
        which = np.repeat(np.arange(len(first)), length)
        step = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        return which, first[which] + step

    by_b, rung_b = runs(b_low, b_high)
    by_a, rung_a = runs(a_low, a_high)
    fan_b = np.column_stack([a_low[by_b], rung_b, rung_b + 1])
    fan_a = np.column_stack([rung_a, b_high[by_a], rung_a + 1])
    return np.concatenate([fan_b, fan_a]), np.concatenate([by_b, by_a])


def _part_solids_that_touch(
    place: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Double the vertices along upright edges where two solids touch, so that each has its own."""
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    code = sides[:, 0] * len(place) + sides[:, 1]
    found, counts = np.unique(code, return_counts=True)
    shared = found[counts > 1]
    if not len(shared):
        return place, triangles
    triangles, extra = triangles.copy(), [place]
    crowded = np.unique(np.concatenate([shared // len(place), shared % len(place)]))
    touching = np.flatnonzero(np.isin(triangles, crowded).any(axis=1))
    around = defaultdict(list)
    for number in touching.tolist():
        for vertex in triangles[number].tolist():
            around[vertex].append(number)
    original, size = triangles.copy(), len(place)
    for vertex in crowded.tolist():
        for fan in _fans(place, original, vertex, around[vertex])[1:]:
            block = triangles[fan]
            block[original[fan] == vertex] = size
            triangles[fan] = block
            extra.append(place[vertex : vertex + 1])
            size += 1
    return np.concatenate(extra), triangles


def _fans(
    place: np.ndarray, triangles: np.ndarray, vertex: int, members: list[int]
) -> list[list[int]]:
    """Triangles round a vertex, in groups that hang together through the solid's own edges."""
    ends = defaultdict(list)  # other end of an edge at the vertex: (azimuth, leaves, triangle)
    for number in members:
        corners = triangles[number].tolist()
        while corners[0] != vertex:
            corners = corners[1:] + corners[:1]
        _, ahead, behind = corners
        for other, third, up in ((ahead, behind, 1), (behind, ahead, -1)):
            gap = place[third, :2] - place[vertex, :2]
            leaves = up * (place[other, 2] - place[vertex, 2]) < 0
            ends[other].append((float(np.arctan2(gap[1], gap[0])), bool(leaves), number))
    group = {number: number for number in members}

    def root(number: int) -> int:
        while group[number] != number:
            number = group[number]
        return number

    for pieces in ends.values():
        turned = sorted(pieces)
        for position, (_, leaves, number) in enumerate(turned):
            if leaves or len(turned) == 2:
                partner = turned[(position + 1) % len(turned)][2]
                group[root(number)] = root(partner)
    fans = defaultdict(list)
    for number in members:
        fans[root(number)].append(number)
    return list(fans.values())
