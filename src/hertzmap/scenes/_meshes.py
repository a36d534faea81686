"""The meshes of a scene: buildings by material, ground, roads; what every export starts from."""

import hashlib
import json
from itertools import pairwise

import numpy as np
import shapely
from jaxtyping import Float
from shapely.geometry import LineString

from hertzmap.core.errors import SceneError
from hertzmap.core.types import Scene, Terrain
from hertzmap.scenes._solids import STEP_M, Surface, extrude
from hertzmap.scenes.roads import width_m

GROUND = "medium_dry_ground"
"""Material of the ground."""
WALLS = "concrete"
"""Material of a building that states none."""
THICKNESS_M = {
    "brick": 0.2,
    "concrete": 0.2,
    "glass": 0.02,
    "metal": 0.01,
    "wood": 0.05,
    "very_dry_ground": 10.0,
    "medium_dry_ground": 10.0,
    "wet_ground": 10.0,
}
"""Materials of Recommendation ITU-R P.2040 that a scene may name, and the thickness of their slab
[m]: usual walls, and ground so deep that nothing comes back from below; assumptions."""
MARGIN_M = 50.0
"""Ground beyond the buildings and the scene's bounds [m], so that it reflects at the edge too."""
_ROAD_ABOVE_M = 0.1
"""Roads lie this high above the ground [m], so that viewers do not mix both."""
_MITRE = 2.0
"""A ribbon's corner reaches out at most so many half widths."""


def scene_digest(scene: Scene, terrain: Terrain | None = None) -> str:
    """SHA-256 over all that meshes depend on: outlines, heights, materials, frame and terrain."""
    digest = hashlib.sha256()
    for footprint in scene.footprints:
        digest.update(shapely.to_wkb(footprint, byte_order=1, output_dimension=2))
    digest.update(scene.height_m.astype("<f8").tobytes())
    digest.update(json.dumps([scene.materials, scene.bounds_m, scene.crs, scene.origin_m]).encode())
    for road in scene.roads:
        digest.update(road.kind.encode() + shapely.to_wkb(road.line, byte_order=1))
    if terrain is not None:
        grid = terrain.grid
        digest.update(json.dumps([grid.shape, grid.spacing_m, grid.origin_m]).encode())
        digest.update(terrain.up_m.astype("<f8").tobytes())
    return digest.hexdigest()


def building_meshes(scene: Scene, terrain: Terrain | None) -> dict[str, Surface]:
    """The surface of all buildings, by material; `Surface.owner` counts the scene's footprints.

    Together they are closed. If buildings of different materials touch, the seam between them
    is open in each.

    Raises:
        SceneError: if a material is not known or the terrain does not reach below all buildings.
    """
    if not scene.footprints:
        return {}
    names = np.array([name or WALLS for name in scene.materials] or [WALLS] * len(scene.footprints))
    known, kind = np.unique(names, return_inverse=True)
    unknown = sorted(set(known.tolist()) - set(THICKNESS_M))
    if unknown:
        msg = (
            f"scene {scene.name!r} has walls of {', '.join(unknown)}; "
            f"choose materials from {', '.join(THICKNESS_M)}"
        )
        raise SceneError(msg)
    base = base_m(scene, terrain)
    surface = extrude(scene.footprints, base, base + scene.height_m, kind.astype(np.int64))
    if len(known) == 1:
        return {str(known[0]): surface}
    of_triangle = kind[surface.owner]
    parts = {str(name): surface.part(of_triangle == k) for k, name in enumerate(known.tolist())}
    return {name: part for name, part in parts.items() if len(part.triangles)}


def base_m(scene: Scene, terrain: Terrain | None) -> Float[np.ndarray, " buildings"]:
    """Underside of each building [m]: the lowest terrain below it, 0 without terrain.

    Raises:
        SceneError: if the terrain does not reach below all buildings.
    """
    if terrain is None:
        return np.zeros(len(scene.footprints))
    west, south, east, north = terrain.bounds_m
    edges = np.array([footprint.bounds for footprint in scene.footprints]).reshape(-1, 4)
    out = (
        (edges[:, 0] < west) | (edges[:, 1] < south) | (edges[:, 2] > east) | (edges[:, 3] > north)
    )
    if out.any():
        msg = (
            f"the terrain ends before {int(out.sum())} of {len(out)} buildings of scene "
            f"{scene.name!r}, e.g. {scene.source_id[int(out.argmax())]}; give terrain all round it"
        )
        raise SceneError(msg)
    shapes = np.empty(len(scene.footprints), dtype=object)
    shapes[:] = scene.footprints
    step = min(1.0, 0.25 * terrain.grid.spacing_m)
    rims = shapely.segmentize(shapely.boundary(shapes), step)
    place, rim = shapely.get_coordinates(rims, return_index=True)
    lowest = np.full(len(shapes), np.inf)
    np.minimum.at(lowest, rim, terrain.up_at(place))
    centres = np.asarray(shapely.points(terrain.grid.centres_m().reshape(-1, 2)))
    shape, centre = shapely.STRtree(centres).query(shapes, predicate="intersects")
    np.minimum.at(lowest, shape, terrain.up_m.ravel()[centre])
    return lowest


def ground_mesh(scene: Scene, terrain: Terrain | None, margin_m: float = MARGIN_M) -> Surface:
    """The terrain as it is, or a rectangle at up = 0 that reaches `margin_m` [m] beyond all."""
    if terrain is not None:
        return _height_field(terrain)
    edges = np.array([scene.bounds_m, *(footprint.bounds for footprint in scene.footprints)])
    west, south = np.floor((edges[:, :2].min(axis=0) - margin_m) / STEP_M) * STEP_M
    east, north = np.ceil((edges[:, 2:].max(axis=0) + margin_m) / STEP_M) * STEP_M
    corners = np.array(
        [[west, south, 0.0], [east, south, 0.0], [east, north, 0.0], [west, north, 0.0]]
    )
    return _bare(corners, np.array([[0, 1, 2], [0, 2, 3]]))


def _height_field(terrain: Terrain) -> Surface:
    rows, cols = terrain.grid.shape
    places = np.concatenate([terrain.grid.centres_m(), terrain.up_m[:, :, None]], axis=-1)
    node = np.arange(rows * cols).reshape(rows, cols)
    sw, se, nw, ne = node[:-1, :-1], node[:-1, 1:], node[1:, :-1], node[1:, 1:]
    south_east = np.stack([sw, se, ne], axis=-1).reshape(-1, 3)
    north_west = np.stack([sw, ne, nw], axis=-1).reshape(-1, 3)
    return _bare(places.reshape(-1, 3), np.concatenate([south_east, north_west]))


def road_mesh(scene: Scene, terrain: Terrain | None) -> Surface:
    """Roads as flat ribbons a little above the ground, as far as that reaches; for pictures."""
    ground = ground_mesh(scene, terrain).points_m
    reach = shapely.box(*ground[:, :2].min(axis=0), *ground[:, :2].max(axis=0))
    lines = np.array([road.line for road in scene.roads], dtype=object)
    parts, road = shapely.get_parts(shapely.intersection(lines, reach), return_index=True)
    ribbons = [
        _ribbon(line, scene.roads[number].kind, terrain)
        for line, number in zip(parts, road.tolist(), strict=True)
        if line.length > 0
    ]
    starts = np.cumsum([0, *(len(ribbon) for ribbon in ribbons)])
    triangles = [np.empty((0, 3), np.int64)]
    for first, last in pairwise(starts.tolist()):
        left = np.arange(first, last - 2, 2)
        triangles += [
            np.column_stack([left, left + 1, left + 3]),
            np.column_stack([left, left + 3, left + 2]),
        ]
    return _bare(np.concatenate([np.empty((0, 3)), *ribbons]), np.concatenate(triangles))


def _ribbon(line: LineString, kind: str, terrain: Terrain | None) -> Float[np.ndarray, "points 3"]:
    """Left and right edge of a road, taking turns."""
    line = shapely.remove_repeated_points(line, 1e-3)
    if terrain is not None:
        line = shapely.segmentize(line, terrain.grid.spacing_m)
    place = shapely.get_coordinates(line)
    along = np.diff(place, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    left = np.column_stack([-along[:, 1], along[:, 0]])
    before, after = np.vstack([left[:1], left]), np.vstack([left, left[-1:]])
    middle = before + after
    middle /= np.maximum(np.linalg.norm(middle, axis=1, keepdims=True), 1e-12)
    reach = 1.0 / np.maximum(np.sum(middle * after, axis=1, keepdims=True), 1.0 / _MITRE)
    half = 0.5 * width_m(kind)
    edges = np.stack([place + half * reach * middle, place - half * reach * middle], axis=1)
    edges = edges.reshape(-1, 2)
    up = np.zeros(len(edges)) if terrain is None else terrain.up_at(edges)
    return np.column_stack([edges, up + _ROAD_ABOVE_M])


def _bare(points_m: np.ndarray, triangles: np.ndarray) -> Surface:
    return Surface(points_m, triangles, np.zeros(len(triangles), np.int64))
