"""OpenStreetMap extracts become scenes, offline: buildings, heights by rule, roads.

Every way tagged ``building`` or ``building:part`` and every relation tagged so ends as a footprint
or in ``Scene.skipped`` with its reason; a relation kept in part stands in both.
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import shapely
from shapely.geometry import LineString, MultiPolygon, Polygon

from hertzmap.core.errors import SceneError
from hertzmap.core.types import Road, Scene, SkippedBuilding
from hertzmap.scenes._osm_heights import base_m, height_of
from hertzmap.scenes.frame import frame_for, project

ATTRIBUTION = "© OpenStreetMap contributors, ODbL 1.0"
"""Credit that the Open Database License asks for."""

_SUFFIXES = (".osm", ".osm.gz", ".osm.bz2", ".osm.pbf", ".pbf")
_NO_BUILDING = frozenset({"no", "demolished", "razed", "proposed", "planned", "collapsed"})
_BARE_TAGS = frozenset({"type", "source", "created_by", "note"})
_LEAST_AREA_M2 = 0.01
"""A smaller polygon is a slip of drawing, not a building."""
_HANGING_M = 2.5
"""A part whose underside is at least this high [m] leaves the ground below it free."""
_REPLACED_SHARE = 0.95
"""Parts that cover this share of a building's outline stand for the building."""

Box = tuple[float, float, float, float]


@final
@dataclass(frozen=True)
class _Way:
    tags: dict[str, str]
    refs: tuple[int, ...]


@final
@dataclass(frozen=True)
class _Relation:
    tags: dict[str, str]
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    groups: tuple[str, ...]
    """Ids of members that are relations."""


@final
@dataclass(frozen=True)
class _Extract:
    """What a file holds, before any geometry is made."""

    node_id: np.ndarray
    """Ids of all nodes, ascending."""
    lonlat: np.ndarray
    """Their longitude and latitude [degrees], (nodes, 2)."""
    ways: dict[int, _Way]
    """Ways that are buildings, roads or members of a relation."""
    relations: dict[int, _Relation]
    """Relations that are buildings or multipolygons."""


@final
@dataclass(frozen=True)
class _Candidate:
    """One element that may become footprints."""

    source_id: str
    tags: dict[str, str]
    polygons: tuple[Polygon, ...]


def read_osm(
    path: Path,
    *,
    box_lonlat: tuple[float, float, float, float] | None = None,
    centre_lonlat: tuple[float, float] | None = None,
    radius_m: float | None = None,
    name: str | None = None,
) -> Scene:
    """Read a map extract (.osm, .osm.gz, .osm.bz2, .osm.pbf) as a scene; needs no network.

    The local frame is the UTM zone of the centre of the chosen area, shifted so that the centre,
    rounded to the metre, is (0, 0). The area is the whole extract (the extent of its buildings),
    a box, or the square of half side `radius_m` around a centre. Buildings and roads that meet the
    area stay whole. Polygons that cross themselves are mended; each of their parts becomes a
    footprint with the same id. Heights follow `height_of`, never chance.

    Args:
        path: the extract.
        box_lonlat: (west, south, east, north) of the area [degrees].
        centre_lonlat: (lon, lat) of the area's centre [degrees]; needs `radius_m`.
        radius_m: half side of the square around the centre [m], above 0.
        name: the scene's name; the file's name without its suffix if None.

    Raises:
        SceneError: if the file is missing, empty, broken or no OSM file, or if the area is not
            valid, lies outside the extract or holds no building.
    """
    _check_area(box_lonlat, centre_lonlat, radius_m)
    extract = _read_file(path)
    extent = _building_extent(extract, path)
    centre = _centre(box_lonlat or extent) if centre_lonlat is None else centre_lonlat
    crs = frame_for(*centre)
    origin = np.round(project(np.array([centre]), crs)[0])
    local = project(extract.lonlat, crs) - origin
    chosen = box_lonlat is not None or centre_lonlat is not None
    if chosen:
        bounds = _area_bounds(box_lonlat, centre, radius_m, crs, origin)
        _require_overlap(bounds, extent, crs, origin, path)
    geometry = _Geometry(extract, local)
    candidates, skipped = _buildings(extract, geometry)
    kept, replaced = _resolve_parts(candidates)
    skipped |= replaced
    footprints = [(c, polygon) for c in kept for polygon in c.polygons]
    if not chosen:
        bounds = _bounds_of([polygon for _, polygon in footprints])
    area = shapely.box(*bounds)
    footprints = [(c, polygon) for c, polygon in footprints if polygon.intersects(area)]
    if chosen:
        skipped = {key: why for key, why in skipped.items() if geometry.touches(_key(key), bounds)}
    _require_footprints(footprints, skipped, path, extent)
    heights = [height_of(candidate.tags) for candidate, _ in footprints]
    return Scene(
        footprints=tuple(polygon for _, polygon in footprints),
        height_m=np.array([height for height, _ in heights], dtype=np.float64),
        height_rule=tuple(rule for _, rule in heights),
        source_id=tuple(candidate.source_id for candidate, _ in footprints),
        bounds_m=bounds,
        crs=crs,
        origin_m=(float(origin[0]), float(origin[1])),
        roads=tuple(road for road in _roads(extract, geometry) if road.line.intersects(area)),
        skipped=tuple(SkippedBuilding(key, why) for key, why in sorted(skipped.items())),
        name=name or path.name.split(".")[0],
        attribution=ATTRIBUTION,
    )


def _check_area(
    box: Box | None, centre: tuple[float, float] | None, radius_m: float | None
) -> None:
    if box is not None and centre is not None:
        msg = "give either box_lonlat or centre_lonlat with radius_m, not both"
        raise SceneError(msg)
    if (centre is None) != (radius_m is None):
        msg = "centre_lonlat and radius_m belong together: give both or none"
        raise SceneError(msg)
    if radius_m is not None and not (math.isfinite(radius_m) and radius_m > 0):
        msg = f"radius_m must be above 0 m, got {radius_m}"
        raise SceneError(msg)
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        msg = f"box_lonlat must be (west, south, east, north) with west < east, got {box}"
        raise SceneError(msg)


def _read_file(path: Path) -> _Extract:
    """Read the nodes, ways and relations a scene needs; the order within the file is free."""
    import osmium

    if not path.is_file():
        msg = f"map extract {path} does not exist; check the path"
        raise SceneError(msg)
    if not path.name.lower().endswith(_SUFFIXES):
        msg = f"{path} is no OpenStreetMap file: its name must end in one of {', '.join(_SUFFIXES)}"
        raise SceneError(msg)
    if path.stat().st_size == 0:
        msg = f"map extract {path} is empty (0 bytes); fetch it again"
        raise SceneError(msg)
    try:
        relations = _read_relations(osmium.FileProcessor(path, osmium.osm.RELATION))
        members = {way for r in relations.values() for way in (*r.outer, *r.inner)}
        return _read_ways(
            osmium.FileProcessor(path, osmium.osm.NODE | osmium.osm.WAY), members, relations
        )
    except (RuntimeError, OSError) as error:
        msg = f"map extract {path} cannot be read as OpenStreetMap data: {error}; fetch it again"
        raise SceneError(msg) from error


def _is_building(tags: dict[str, str]) -> bool:
    return "building" in tags or "building:part" in tags


def _read_relations(elements: Iterable) -> dict[int, _Relation]:
    relations: dict[int, _Relation] = {}
    for element in elements:
        tags = {tag.k: tag.v for tag in element.tags}
        if not (_is_building(tags) or tags.get("type") == "multipolygon"):
            continue
        members = [(member.type, member.ref, member.role) for member in element.members]
        relations[element.id] = _Relation(
            tags,
            tuple(ref for kind, ref, role in members if kind == "w" and role in _OUTER_ROLES),
            tuple(ref for kind, ref, role in members if kind == "w" and role == "inner"),
            tuple(f"relation/{ref}" for kind, ref, _ in members if kind == "r"),
        )
    return relations


_OUTER_ROLES = ("outer", "outline", "")


def _read_ways(elements: Iterable, members: set[int], relations: dict[int, _Relation]) -> _Extract:
    ids, lons, lats = array("q"), array("d"), array("d")
    ways: dict[int, _Way] = {}
    for element in elements:
        if element.is_node():
            location = element.location
            if location.valid():
                ids.append(element.id)
                lons.append(location.lon)
                lats.append(location.lat)
            continue
        found = element.tags
        if (
            "building" in found
            or "building:part" in found
            or "highway" in found
            or (element.id in members)
        ):
            tags = {tag.k: tag.v for tag in found}
            ways[element.id] = _Way(tags, tuple(node.ref for node in element.nodes))
    node_id = np.array(ids, dtype=np.int64)
    order = np.argsort(node_id, kind="stable")
    lonlat = np.column_stack([np.array(lons, dtype=float), np.array(lats, dtype=float)])
    return _Extract(node_id[order], lonlat[order], ways, relations)


def _building_extent(extract: _Extract, path: Path) -> Box:
    """(west, south, east, north) [degrees] of all building nodes, of relations' members too."""
    if not len(extract.node_id):
        msg = f"map extract {path} holds no map data (no node with a place); fetch it again"
        raise SceneError(msg)
    refs = [way.refs for way in extract.ways.values() if _is_building(way.tags)]
    refs += [
        extract.ways[member].refs
        for relation in extract.relations.values()
        if _is_building(relation.tags)
        for member in relation.outer
        if member in extract.ways
    ]
    flat = np.fromiter((ref for line in refs for ref in line), dtype=np.int64)
    places = extract.lonlat[np.isin(extract.node_id, flat)]
    if not len(places):
        msg = f"map extract {path} holds no buildings; choose an extract with building outlines"
        raise SceneError(msg)
    west, south = places.min(axis=0)
    east, north = places.max(axis=0)
    return (float(west), float(south), float(east), float(north))


def _centre(box: Box) -> tuple[float, float]:
    return (0.5 * (box[0] + box[2]), 0.5 * (box[1] + box[3]))


def _box_corners(box: Box) -> np.ndarray:
    west, south, east, north = box
    return np.array([[west, south], [east, south], [east, north], [west, north]])


def _area_bounds(
    box: Box | None,
    centre: tuple[float, float],
    radius_m: float | None,
    crs: str,
    origin: np.ndarray,
) -> Box:
    """Local bounds [m] of a box (the rectangle around its projection) or of a square."""
    if box is None:
        assert radius_m is not None
        east, north = project(np.array([centre]), crs)[0] - origin
        return (east - radius_m, north - radius_m, east + radius_m, north + radius_m)
    corners = project(_box_corners(box), crs) - origin
    west, south = corners.min(axis=0)
    east, north = corners.max(axis=0)
    return (float(west), float(south), float(east), float(north))


def _describe(extent: Box) -> str:
    west, south, east, north = extent
    return f"lon {west:.5f} to {east:.5f}, lat {south:.5f} to {north:.5f}"


def _require_overlap(bounds: Box, extent: Box, crs: str, origin: np.ndarray, path: Path) -> None:
    corners = project(_box_corners(extent), crs) - origin
    west, south = corners.min(axis=0)
    east, north = corners.max(axis=0)
    if bounds[2] < west or bounds[0] > east or bounds[3] < south or bounds[1] > north:
        msg = (
            f"the chosen area lies outside the map extract {path}, whose buildings span "
            f"{_describe(extent)}; choose an area inside"
        )
        raise SceneError(msg)


def _require_footprints(footprints: list, skipped: dict[str, str], path: Path, extent: Box) -> None:
    if footprints:
        return
    why = "; ".join(f"{key}: {reason}" for key, reason in list(skipped.items())[:3])
    msg = (
        f"no buildings in the chosen area of {path}"
        + (f" ({len(skipped)} skipped, e.g. {why})" if skipped else "")
        + f"; the extract's buildings span {_describe(extent)}"
    )
    raise SceneError(msg)


def _bounds_of(polygons: list[Polygon]) -> Box:
    if not polygons:
        return (-1.0, -1.0, 1.0, 1.0)
    west, south, east, north = shapely.total_bounds(np.array(polygons, dtype=object))
    return (float(west), float(south), float(east), float(north))


def _key(source_id: str) -> tuple[str, int]:
    kind, number = source_id.split("/")
    return kind, int(number)


@final
class _Geometry:
    """Looks up the local places of ways."""

    def __init__(self, extract: _Extract, local_m: np.ndarray) -> None:
        self._extract = extract
        self._local_m = local_m

    def line(self, way: int) -> np.ndarray | None:
        """Places (nodes, 2) [m] of a way, NaN where a node is missing; None without the way."""
        found = self._extract.ways.get(way)
        if found is None:
            return None
        refs = np.array(found.refs, dtype=np.int64)
        index = np.searchsorted(self._extract.node_id, refs)
        index = np.minimum(index, len(self._extract.node_id) - 1)
        known = self._extract.node_id[index] == refs
        return np.where(known[:, None], self._local_m[index], np.nan)

    def closed(self, way: int) -> bool:
        refs = self._extract.ways[way].refs
        return len(refs) > 3 and refs[0] == refs[-1]

    def touches(self, key: tuple[str, int], bounds: Box) -> bool:
        """Whether any known node of a way or relation lies within bounds."""
        kind, number = key
        ways = (number,)
        if kind == "relation":
            relation = self._extract.relations[number]
            ways = (*relation.outer, *relation.inner)
        lines = [line for line in map(self.line, ways) if line is not None]
        if not lines:
            return False
        east, north = np.concatenate(lines).T
        inside = (east >= bounds[0]) & (east <= bounds[2])
        inside &= (north >= bounds[1]) & (north <= bounds[3])
        return bool(inside.any())


def _polygonal_parts(shape: shapely.Geometry) -> tuple[Polygon, ...]:
    """The polygons of a shape after mending, largest first, slivers left out."""
    if not shape.is_valid:
        shape = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    parts = [part for part in shapely.get_parts(shape) if isinstance(part, Polygon)]
    parts += [
        part
        for group in shapely.get_parts(shape)
        if isinstance(group, MultiPolygon)
        for part in group.geoms
    ]
    parts = [part for part in parts if part.area >= _LEAST_AREA_M2]
    return tuple(sorted(parts, key=lambda part: -part.area))


def _exclusion(tags: dict[str, str]) -> str | None:
    """Why an element is no building above ground, or None if it is one."""
    building = tags.get("building", "no")
    part = tags.get("building:part", "no")
    if building in _NO_BUILDING and part in _NO_BUILDING:
        return f"tagged building={building}"
    if tags.get("location") == "underground":
        return "tagged location=underground"
    return None


def _buildings(extract: _Extract, geometry: _Geometry) -> tuple[list[_Candidate], dict[str, str]]:
    """Candidates of all building relations and ways, and why the others were left out."""
    candidates: list[_Candidate] = []
    skipped: dict[str, str] = {}
    outline_of: dict[int, str] = {}
    holes_of: dict[int, tuple[int, ...]] = {}
    for number, relation in extract.relations.items():
        source_id = f"relation/{number}"
        if not _is_building(relation.tags):
            single = relation.outer[0] if len(relation.outer) == 1 else None
            if single is not None and set(relation.tags) <= _BARE_TAGS:
                holes_of[single] = relation.inner
            continue
        polygons, why = _relation_polygons(relation, extract, geometry)
        if why is not None:
            skipped[source_id] = why
        if polygons:
            candidates.append(_Candidate(source_id, _merged_tags(relation, extract), polygons))
            outline_of |= {way: source_id for way in relation.outer}
    for number, way in extract.ways.items():
        if not _is_building(way.tags):
            continue
        source_id = f"way/{number}"
        if number in outline_of:
            skipped[source_id] = f"outline of {outline_of[number]}, which stands for it"
            continue
        polygons, why = _way_polygons(number, holes_of.get(number, ()), extract, geometry)
        if why is not None:
            skipped[source_id] = why
        if polygons:
            candidates.append(_Candidate(source_id, way.tags, polygons))
    return candidates, skipped


def _merged_tags(relation: _Relation, extract: _Extract) -> dict[str, str]:
    """The relation's tags; a single outer way fills in what they lack."""
    single = extract.ways.get(relation.outer[0]) if len(relation.outer) == 1 else None
    return {**(single.tags if single is not None else {}), **relation.tags}


def _way_polygons(
    number: int, holes: tuple[int, ...], extract: _Extract, geometry: _Geometry
) -> tuple[tuple[Polygon, ...], str | None]:
    way = extract.ways[number]
    why = _exclusion(way.tags)
    if why is not None:
        return (), why
    line = geometry.line(number)
    assert line is not None
    missing = int(np.isnan(line[:, 0]).sum())
    if missing:
        return (), f"{missing} of its {len(line)} nodes lie outside the extract"
    if not geometry.closed(number):
        return (), "its outline is not closed"
    rings = [hole for hole in holes if hole in extract.ways and geometry.closed(hole)]
    inner = [geometry.line(hole) for hole in rings]
    shape = Polygon(line)
    for ring in inner:
        if ring is not None and not np.isnan(ring).any():
            shape = _filled(shape).difference(_filled(Polygon(ring)))
    parts = _polygonal_parts(shape)
    return parts, None if parts else "its outline encloses no area"


def _filled(shape: shapely.Geometry) -> shapely.Geometry:
    return shape if shape.is_valid else shapely.make_valid(shape, method="structure")


def _rings(ways: tuple[int, ...], geometry: _Geometry) -> tuple[list[shapely.Geometry], int, int]:
    """Filled rings that the ways close; the number of missing ways and of unclosed lines."""
    rings: list[shapely.Geometry] = []
    open_lines: list[LineString] = []
    missing = 0
    for way in ways:
        line = geometry.line(way)
        if line is None or np.isnan(line).any() or len(line) < 2:
            missing += 1
        elif geometry.closed(way):
            rings.append(_filled(Polygon(line)))
        else:
            open_lines.append(LineString(line))
    merged = shapely.get_parts(shapely.line_merge(shapely.MultiLineString(open_lines)))
    joined = [line for line in merged if line.is_closed and len(line.coords) > 3]
    rings += [_filled(Polygon(line)) for line in joined]
    return rings, missing, len(merged) - len(joined)


def _relation_polygons(
    relation: _Relation, extract: _Extract, geometry: _Geometry
) -> tuple[tuple[Polygon, ...], str | None]:
    """Polygons of a building relation, and what is wrong with it (None if nothing).

    Rings are combined by the even-odd rule, so an outer ring within a courtyard is a building
    again. Source: OpenStreetMap wiki, Relation:multipolygon.
    """
    why = _exclusion(relation.tags)
    if why is not None:
        return (), why
    if relation.tags.get("type") == "site":
        return (), "a site groups buildings and has no outline of its own"
    if relation.tags.get("type") == "building":
        tagged = [
            w for w in relation.outer if w in extract.ways and _is_building(extract.ways[w].tags)
        ]
        if tagged:
            return (), f"a group whose outline way/{tagged[0]} is the building"
    if not relation.outer:
        groups = f"; its members are {', '.join(relation.groups)}" if relation.groups else ""
        return (), f"it has no outer way{groups}"
    outer, missing, unclosed = _rings(relation.outer, geometry)
    inner, inner_missing, inner_unclosed = _rings(relation.inner, geometry)
    faults = missing + unclosed + inner_missing + inner_unclosed + len(relation.groups)
    detail = (
        f"{missing + inner_missing} of its {len(relation.outer) + len(relation.inner)} ways are "
        f"missing or cut at the edge of the extract, {unclosed + inner_unclosed} lines are not "
        f"closed, {len(relation.groups)} members are relations"
    )
    if not outer:
        return (), f"its outline is not closed: {detail}"
    if missing + unclosed:
        shape = shapely.difference(shapely.union_all(outer), shapely.union_all(inner))
    else:
        shape = outer[0]
        for ring in (*outer[1:], *inner):
            shape = shape.symmetric_difference(ring)
    parts = _polygonal_parts(shape)
    if not parts:
        return (), "its outline encloses no area"
    return parts, f"kept in part: {detail}" if faults else None


def _resolve_parts(candidates: list[_Candidate]) -> tuple[list[_Candidate], dict[str, str]]:
    """Let building parts stand for the outline they fill, and drop what hangs in the air.

    Source: OpenStreetMap wiki, Simple 3D Buildings (parts replace the outline they lie in).
    """
    skipped: dict[str, str] = {}
    shapes = np.array([shapely.union_all(c.polygons) for c in candidates], dtype=object)
    tree = shapely.STRtree(shapes)
    hanging = np.array([base_m(c.tags) >= _HANGING_M for c in candidates], dtype=bool)
    part = np.array(["building" not in c.tags for c in candidates], dtype=bool)
    kept = np.ones(len(candidates), dtype=bool)
    for i in np.flatnonzero(part & ~hanging):
        for j in tree.query(shapes[i], predicate="intersects"):
            if part[j] or not kept[j] or hanging[j]:
                continue
            inside = [k for k in tree.query(shapes[j]) if part[k] and not hanging[k]]
            filled = shapely.union_all(shapes[inside]).intersection(shapes[j]).area
            if filled >= _REPLACED_SHARE * shapes[j].area:
                kept[j] = False
                skipped[candidates[j].source_id] = (
                    f"replaced by the {len(inside)} building parts that fill it"
                )
    for i in np.flatnonzero(hanging):
        below = [k for k in tree.query(shapes[i]) if kept[k] and not hanging[k]]
        if shapely.union_all(shapes[below]).intersection(shapes[i]).area < 0.9 * shapes[i].area:
            kept[i] = False
            skipped[candidates[i].source_id] = (
                f"hangs {base_m(candidates[i].tags):g} m above free ground"
            )
    return [c for c, keep in zip(candidates, kept, strict=True) if keep], skipped


def _roads(extract: _Extract, geometry: _Geometry) -> list[Road]:
    """Centre lines of all highways but areas; a line with missing nodes keeps its known stretch."""
    roads = []
    for number, way in extract.ways.items():
        if "highway" not in way.tags or way.tags.get("area") == "yes":
            continue
        line = geometry.line(number)
        assert line is not None
        known = ~np.isnan(line[:, 0])
        edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            if last - first >= 2:
                roads.append(Road(LineString(line[first:last]), way.tags["highway"]))
    return roads
