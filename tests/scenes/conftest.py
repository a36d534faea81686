"""A small writer of OpenStreetMap XML, so that tests can say what is on the map."""

import math
from dataclasses import dataclass, field

import pytest

LON, LAT = 8.69, 49.41
_METRE_NORTH = 1.0 / 111_230.0
_METRE_EAST = 1.0 / (111_320.0 * math.cos(math.radians(LAT)))


@dataclass
class MapDraft:
    """Collects nodes, ways and relations; places are metres from (LON, LAT), about."""

    nodes: dict[tuple[float, float], int] = field(default_factory=dict)
    elements: list[str] = field(default_factory=list)
    first_id: int = 1

    def node(self, place):
        return self.nodes.setdefault(place, self.first_id * (len(self.nodes) + 1))

    def way(self, number, places, missing=0, **tags):
        refs = [self.node(place) for place in places] + [10**9 + k for k in range(missing)]
        body = "".join(f'<nd ref="{ref}"/>' for ref in refs)
        self.elements.append(f'<way id="{number}">{body}{_tags(tags)}</way>')
        return self

    def box(self, number, west, south, east, north, **tags):
        return self.way(number, ring(west, south, east, north), **tags)

    def relation(self, number, members, **tags):
        body = "".join(f'<member type="{t}" ref="{r}" role="{role}"/>' for t, r, role in members)
        self.elements.append(f'<relation id="{number}">{body}{_tags(tags)}</relation>')
        return self

    def write(self, path, nodes_last=False):
        nodes = [
            f'<node id="{number}" lon="{LON + e * _METRE_EAST:.9f}" '
            f'lat="{LAT + n * _METRE_NORTH:.9f}"/>'
            for (e, n), number in self.nodes.items()
        ]
        parts = self.elements + nodes if nodes_last else nodes + self.elements
        path.write_text(f'<osm version="0.6">{"".join(parts)}</osm>')
        return path


def ring(west, south, east, north):
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]


def _tags(tags):
    return "".join(f'<tag k="{k.replace("__", ":")}" v="{v}"/>' for k, v in tags.items())


@pytest.fixture
def draft():
    return MapDraft()
