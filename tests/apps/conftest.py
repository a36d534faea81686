import pytest

from hertzmap.scenes.frame import to_lonlat
from hertzmap.scenes.osm import read_osm

CENTRE = (8.6, 49.4)
METRES_PER_DEGREE = (72_600.0, 111_200.0)  # at 49.4 degrees north


@pytest.fixture(scope="session")
def tiny_osm(tmp_path_factory):
    """Nine houses of 8 m in a world of 48 m, as an OpenStreetMap file."""
    nodes, ways = [], []
    for house in range(9):
        west, south = 3.0 + 17.0 * (house % 3), 3.0 + 17.0 * (house // 3)
        corners = [(west, south), (west + 8, south), (west + 8, south + 8), (west, south + 8)]
        for index, (east, north) in enumerate(corners):
            lon = CENTRE[0] + (east - 24.0) / METRES_PER_DEGREE[0]
            lat = CENTRE[1] + (north - 24.0) / METRES_PER_DEGREE[1]
            nodes.append(f'<node id="{10 * house + index + 1}" lon="{lon:.9f}" lat="{lat:.9f}"/>')
        refs = "".join(f'<nd ref="{10 * house + k + 1}"/>' for k in (0, 1, 2, 3, 0))
        tags = '<tag k="building" v="yes"/><tag k="building:levels" v="3"/>'
        ways.append(f'<way id="{house + 1}">{refs}{tags}</way>')
    path = tmp_path_factory.mktemp("world") / "hamlet.osm"
    path.write_text(f'<osm version="0.6">{"".join(nodes)}{"".join(ways)}</osm>')
    return path


@pytest.fixture(scope="session")
def hamlet(tiny_osm):
    """The scene of `tiny_osm`."""
    return read_osm(tiny_osm)


@pytest.fixture(scope="session")
def lonlat_of(hamlet):
    """Local metres to degrees."""
    return lambda places_m: to_lonlat(hamlet, places_m)
