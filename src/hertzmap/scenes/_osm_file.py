"""Reading OpenStreetMap files: nodes, ways and relations, before any geometry is made."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int

from hertzmap.core.errors import SceneError

SUFFIXES = (".osm", ".osm.gz", ".osm.bz2", ".osm.pbf", ".pbf")
"""Endings of the files that can be read."""
_OUTER_ROLES = ("outer", "outline", "")


@final
@dataclass(frozen=True)
class Way:
    """A line or ring of nodes."""

    tags: dict[str, str]
    """Its tags."""
    refs: tuple[int, ...]
    """Ids of its nodes, in order."""

    @property
    def closed(self) -> bool:
        """Whether it is a ring of at least three corners."""
        return len(self.refs) > 3 and self.refs[0] == self.refs[-1]


@final
@dataclass(frozen=True)
class Relation:
    """A group of ways, by role."""

    tags: dict[str, str]
    """Its tags."""
    outer: tuple[int, ...]
    """Ids of outer ways (roles outer, outline or none)."""
    inner: tuple[int, ...]
    """Ids of inner ways."""
    groups: tuple[str, ...]
    """Source ids of members that are relations."""


@final
@dataclass(frozen=True)
class Extract:
    """What a file holds of use for a scene."""

    node_id: Int[np.ndarray, " points"]
    """Ids of all nodes, ascending."""
    lonlat: Float[np.ndarray, "points 2"]
    """Their longitude and latitude [degrees]."""
    ways: dict[int, Way]
    """Ways that are buildings, roads or members of a relation below."""
    relations: dict[int, Relation]
    """Relations that are buildings or multipolygons."""

    def building_extent(self) -> tuple[float, float, float, float] | None:
        """(west, south, east, north) [degrees] of all building nodes; None without any."""
        numbers = {number for number, way in self.ways.items() if is_building(way.tags)}
        for relation in self.relations.values():
            if is_building(relation.tags):
                numbers.update(way for way in relation.outer if way in self.ways)
        refs = (ref for number in numbers for ref in self.ways[number].refs)
        places = self.lonlat[np.isin(self.node_id, np.fromiter(refs, dtype=np.int64))]
        if not len(places):
            return None
        west, south = places.min(axis=0).tolist()
        east, north = places.max(axis=0).tolist()
        return (west, south, east, north)


def is_building(tags: dict[str, str]) -> bool:
    """Whether tags speak of a building or a part of one, existing or not."""
    return "building" in tags or "building:part" in tags


def read_file(path: Path) -> Extract:
    """Read what a scene needs from an extract; the order within the file is free.

    Raises:
        SceneError: if the file is missing, empty, damaged, or no OpenStreetMap file.
    """
    from osmium import FileProcessor
    from osmium.osm import NODE, RELATION, WAY

    if not path.is_file():
        msg = f"map extract {path} does not exist; check the path"
        raise SceneError(msg)
    if not path.name.lower().endswith(SUFFIXES):
        msg = f"{path} is no OpenStreetMap file: its name must end in one of {', '.join(SUFFIXES)}"
        raise SceneError(msg)
    if path.stat().st_size == 0:
        msg = f"map extract {path} is empty (0 bytes); fetch it again"
        raise SceneError(msg)
    try:
        relations = _read_relations(FileProcessor(path, RELATION))
        members = {way for r in relations.values() for way in (*r.outer, *r.inner)}
        elements = FileProcessor(path, NODE | WAY)
        extract = _read_nodes_and_ways(elements, members, relations)
    except (RuntimeError, OSError) as error:
        msg = f"map extract {path} is damaged or no OpenStreetMap file ({error}); fetch it again"
        raise SceneError(msg) from error
    if not len(extract.node_id):
        msg = f"map extract {path} holds no map data (not one node with a place); fetch it again"
        raise SceneError(msg)
    return extract


def _read_relations(elements: Iterable[Any]) -> dict[int, Relation]:
    relations: dict[int, Relation] = {}
    for element in elements:
        tags = dict(element.tags)
        if not (is_building(tags) or tags.get("type") == "multipolygon"):
            continue
        members = [(member.type, member.ref, member.role) for member in element.members]
        relations[element.id] = Relation(
            tags,
            tuple(ref for kind, ref, role in members if kind == "w" and role in _OUTER_ROLES),
            tuple(ref for kind, ref, role in members if kind == "w" and role == "inner"),
            tuple(f"relation/{ref}" for kind, ref, _ in members if kind == "r"),
        )
    return relations


def _read_nodes_and_ways(
    elements: Iterable[Any], members: set[int], relations: dict[int, Relation]
) -> Extract:
    ids, lons, lats = array("q"), array("d"), array("d")
    ways: dict[int, Way] = {}
    for element in elements:
        if element.is_node():
            location = element.location
            if location.valid():
                ids.append(element.id)
                lons.append(location.lon)
                lats.append(location.lat)
            continue
        tags = dict(element.tags)
        if is_building(tags) or "highway" in tags or element.id in members:
            ways[element.id] = Way(tags, tuple(node.ref for node in element.nodes))
    node_id = np.array(ids, dtype=np.int64)
    order = np.argsort(node_id, kind="stable")
    lonlat = np.column_stack([np.array(lons, dtype=float), np.array(lats, dtype=float)])
    return Extract(node_id[order], lonlat[order], ways, relations)
