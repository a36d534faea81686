"""From OpenStreetMap elements to outlines: rings, courtyards, building parts, and what is wrong.

Sources: OpenStreetMap wiki, Relation:multipolygon and Simple 3D Buildings.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import shapely
from jaxtyping import Float
from shapely.geometry import LineString, MultiLineString, Polygon
from shapely.geometry.base import BaseGeometry

from hertzmap.core.types import Road
from hertzmap.scenes._osm_file import Extract, Relation, is_building
from hertzmap.scenes._osm_heights import base_m, height_of

_NO_BUILDING = frozenset({"no", "demolished", "razed", "proposed", "planned", "collapsed"})
_BARE_TAGS = frozenset({"type", "source", "created_by", "note"})
_LEAST_AREA_M2 = 0.01
"""A smaller polygon is a slip of drawing, not a building; assumption."""
_HANGING_M = 2.5
"""A building whose underside is at least this high [m] leaves the ground free; assumption: head
room of a passage."""
_FILLED_SHARE = 0.95
"""A shape is filled by others that cover this share of it; assumption."""


@final
@dataclass(frozen=True)
class Candidate:
    """One element that may become footprints."""

    source_id: str
    """E.g. ``way/123``."""
    tags: dict[str, str]
    """What heights are read from."""
    polygons: tuple[Polygon, ...]
    """Its valid outlines, local metres; at least one."""


@final
@dataclass(frozen=True)
class Outlines:
    """Makes geometry from an extract whose nodes have local places."""

    extract: Extract
    """The elements."""
    local_m: Float[np.ndarray, "points 2"]
    """Place of each node of the extract [m]."""

    def line(self, way: int) -> Float[np.ndarray, "points 2"] | None:
        """Places [m] of a way's nodes, NaN where a node is missing; None if the way is missing."""
        found = self.extract.ways.get(way)
        if found is None:
            return None
        refs = np.array(found.refs, dtype=np.int64)
        index = np.searchsorted(self.extract.node_id, refs)
        index = np.minimum(index, len(self.extract.node_id) - 1)
        known = self.extract.node_id[index] == refs
        return np.where(known[:, None], self.local_m[index], np.nan)

    def touches(self, source_id: str, bounds_m: tuple[float, float, float, float]) -> bool:
        """Whether a known node of a way or relation lies within (west, south, east, north)."""
        kind, number = source_id.split("/")
        ways = (int(number),)
        if kind == "relation":
            relation = self.extract.relations[int(number)]
            ways = (*relation.outer, *relation.inner)
        lines = [line for line in map(self.line, ways) if line is not None]
        places = np.concatenate([np.empty((0, 2)), *lines])
        inside = (places >= np.array(bounds_m[:2])) & (places <= np.array(bounds_m[2:]))
        return bool(inside.all(axis=1).any())

    def buildings(self) -> tuple[list[Candidate], dict[str, str]]:
        """Candidates of all building relations and ways, and why elements were left out."""
        candidates: list[Candidate] = []
        skipped: dict[str, str] = {}
        outline_of: dict[int, str] = {}
        for number, relation in self.extract.relations.items():
            if not is_building(relation.tags):
                continue
            source_id = f"relation/{number}"
            polygons, why = self._relation(relation)
            if why:
                skipped[source_id] = why
            if polygons:
                candidates.append(Candidate(source_id, self._merged_tags(relation), polygons))
                outline_of |= dict.fromkeys(relation.outer, source_id)
        courtyards = self._courtyards()
        for number, way in self.extract.ways.items():
            if not is_building(way.tags):
                continue
            source_id = f"way/{number}"
            if number in outline_of:
                skipped[source_id] = f"outline of {outline_of[number]}, which stands for it"
                continue
            polygons, why = self._way(number, courtyards.get(number, ()))
            if why:
                skipped[source_id] = why
            if polygons:
                candidates.append(Candidate(source_id, way.tags, polygons))
        return candidates, skipped

    def roads(self) -> list[Road]:
        """Centre lines of all highways but areas; a line with gaps gives its known stretches."""
        roads = []
        for number, way in self.extract.ways.items():
            line = self.line(number)
            if line is None or "highway" not in way.tags or way.tags.get("area") == "yes":
                continue
            known = np.concatenate([[False], ~np.isnan(line[:, 0]), [False]])
            edges = np.flatnonzero(known[1:] != known[:-1])
            for first, last in zip(edges[::2], edges[1::2], strict=True):
                if last - first >= 2:
                    roads.append(Road(LineString(line[first:last]), way.tags["highway"]))
        return roads

    def _courtyards(self) -> dict[int, tuple[int, ...]]:
        """Inner ways by outer way, for multipolygons whose tags sit on their one outer way."""
        return {
            relation.outer[0]: relation.inner
            for relation in self.extract.relations.values()
            if len(relation.outer) == 1 and set(relation.tags) <= _BARE_TAGS
        }

    def _merged_tags(self, relation: Relation) -> dict[str, str]:
        """The relation's tags; a single outer way fills in what they lack."""
        single = self.extract.ways.get(relation.outer[0]) if len(relation.outer) == 1 else None
        return {**(single.tags if single is not None else {}), **relation.tags}

    def _way(self, number: int, holes: tuple[int, ...]) -> tuple[tuple[Polygon, ...], str]:
        """Polygons of a building way without its holes, and what is wrong with it."""
        way = self.extract.ways[number]
        line = self.line(number)
        assert line is not None
        why = _exclusion(way.tags)
        missing = int(np.isnan(line[:, 0]).sum())
        if why:
            return (), why
        if missing:
            return (), f"{missing} of its {len(line)} nodes lie outside the extract"
        if not way.closed:
            return (), f"its outline of {len(line)} nodes is no closed ring"
        shape = Polygon(line)
        if holes:
            rings, _ = self._rings(holes)
            shape = _mended(shape).difference(shapely.union_all(rings))
        parts = _polygonal_parts(shape)
        return parts, "" if parts else "its outline encloses no area"

    def _relation(self, relation: Relation) -> tuple[tuple[Polygon, ...], str]:
        """Polygons of a building relation, and what is wrong with it.

        Complete rings combine by the even-odd rule, so an outer ring within a courtyard is a
        building again; if outer ways are missing, the rings that close are kept.
        """
        why = _exclusion(relation.tags) or self._grouping(relation)
        if why:
            return (), why
        outer, outer_faults = self._rings(relation.outer)
        inner, inner_faults = self._rings(relation.inner)
        faults = outer_faults + inner_faults
        faults += [f"{group} is no way" for group in relation.groups]
        if not outer:
            return (), f"its outline is not closed: {', '.join(faults)}"
        if outer_faults:
            shape = shapely.union_all(outer).difference(shapely.union_all(inner))
        else:
            shape = outer[0]
            for ring in (*outer[1:], *inner):
                shape = shape.symmetric_difference(ring)
        parts = _polygonal_parts(shape)
        if not parts:
            return (), "its outline encloses no area"
        return parts, f"kept in part: {', '.join(faults)}" if faults else ""

    def _grouping(self, relation: Relation) -> str:
        """Why a relation only groups buildings, or nothing if it has an outline."""
        kind = relation.tags.get("type")
        if kind == "site":
            return "a site groups buildings and has no outline of its own"
        if not relation.outer:
            return f"it has no outer way; its members are {', '.join(relation.groups) or 'others'}"
        tagged = [w for w in relation.outer if w in self.extract.ways]
        tagged = [w for w in tagged if is_building(self.extract.ways[w].tags)]
        if kind == "building" and tagged:
            return f"a group whose outline way/{tagged[0]} is the building"
        return ""

    def _rings(self, ways: tuple[int, ...]) -> tuple[list[BaseGeometry], list[str]]:
        """Filled rings that the ways close, alone or joined, and what is wrong with the rest."""
        rings: list[BaseGeometry] = []
        lines: list[LineString] = []
        faults: list[str] = []
        for number in ways:
            line = self.line(number)
            if line is None:
                faults.append(f"way/{number} lies outside the extract")
            elif np.isnan(line).any() or len(line) < 2:
                faults.append(f"way/{number} is cut at the edge of the extract")
            elif self.extract.ways[number].closed:
                rings.append(_mended(Polygon(line)))
            elif self.extract.ways[number].refs[0] == self.extract.ways[number].refs[-1]:
                faults.append(f"way/{number} is a ring without corners")
            else:
                lines.append(LineString(line))
        for line in shapely.get_parts(shapely.line_merge(MultiLineString(lines))):
            if line.is_closed and len(line.coords) > 3:
                rings.append(_mended(Polygon(line)))
            else:
                faults.append(f"a line of {line.length:.0f} m is not closed")
        return rings, faults


def resolve_parts(candidates: list[Candidate]) -> tuple[list[Candidate], dict[str, str]]:
    """Let building parts stand for the outline they fill, and drop what hangs above free ground.

    Parts of known height that fill an outline only here and there stay beside it, and the highest
    wins where they meet. A part of unknown height yields to the outline it lies in. A part that
    starts high above ground stays if a building stands below it.
    """
    shapes = np.array([shapely.union_all(c.polygons) for c in candidates], dtype=object)
    tree = shapely.STRtree(shapes)
    hanging = np.array([base_m(c.tags) >= _HANGING_M for c in candidates], dtype=bool)
    part = np.array(["building" not in c.tags for c in candidates], dtype=bool)
    known = np.array([not height_of(c.tags)[1].startswith("default") for c in candidates], bool)
    skipped: dict[str, str] = {}
    kept = np.ones(len(candidates), dtype=bool)

    def filled(index: int, others: np.ndarray) -> bool:
        """Whether other shapes fill one nearly whole."""
        near = tree.query(shapes[index])
        union = shapely.union_all(shapes[near[others[near] & kept[near] & (near != index)]])
        return union.intersection(shapes[index]).area >= _FILLED_SHARE * shapes[index].area

    def drop(index: int, why: str) -> None:
        kept[index] = False
        skipped[candidates[index].source_id] = why

    pieces = np.flatnonzero(part & known & ~hanging)
    touched = np.unique(tree.query(shapes[pieces], predicate="intersects")[1])
    for index in touched[~part[touched] & ~hanging[touched]].tolist():
        if filled(index, part & known & ~hanging):
            drop(index, "replaced by the building parts that fill it")
    for index in np.flatnonzero(part & ~known & ~hanging).tolist():
        if filled(index, ~part & ~hanging):
            drop(index, "a part of unknown height; the building it lies in stands for it")
    for index in np.flatnonzero(hanging).tolist():
        if not filled(index, ~hanging):
            drop(index, f"hangs {base_m(candidates[index].tags):g} m above free ground")
    return [c for c, keep in zip(candidates, kept, strict=True) if keep], skipped


def _exclusion(tags: dict[str, str]) -> str:
    """Why an element is no building above ground, or nothing if it is one."""
    building, part = tags.get("building", "no"), tags.get("building:part", "no")
    if building in _NO_BUILDING and part in _NO_BUILDING:
        return f"tagged building={building}"
    if tags.get("location") == "underground":
        return "tagged location=underground"
    return ""


def _mended(shape: BaseGeometry) -> BaseGeometry:
    """A valid shape of the same area, as GEOS rebuilds it from rings."""
    if shape.is_valid:
        return shape
    return shapely.make_valid(shape, method="structure", keep_collapsed=False)


def _polygonal_parts(shape: BaseGeometry) -> tuple[Polygon, ...]:
    """The polygons of a shape after mending, largest first, slivers left out."""
    shape = _mended(shape)
    found = shapely.get_parts(shapely.get_parts(shape)) if shape.geom_type != "Polygon" else [shape]
    parts = [part for part in found if isinstance(part, Polygon) and part.area >= _LEAST_AREA_M2]
    return tuple(sorted(parts, key=lambda part: -part.area))
