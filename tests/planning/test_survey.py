"""Places to measure next: where doubt is, and apart from each other."""

import numpy as np
import pytest
import shapely

from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Road, Scene
from hertzmap.planning.survey import next_places

GRID = Grid(40, 40, 2.0)


def doubtful(spread_db):
    maps = np.full((1, *GRID.shape), -90.0)
    return MapPosterior(GRID, maps, np.zeros(1), np.asarray(spread_db, float)[None])


def test_the_first_place_is_in_the_midst_of_the_doubt():
    spread = np.ones(GRID.shape)
    spread[24:36, 4:16] = 9.0  # north-west
    found = next_places(doubtful(spread), np.ones(GRID.shape, bool), count=3)
    east, north = found.place_m[0]
    assert 8.0 < east < 32.0 and 48.0 < north < 72.0
    assert found.std_db[0] == pytest.approx(9.0)
    assert (np.diff(found.left) < 0).all() and 0.0 < found.left[-1] < found.left[0] < 1.0


def test_places_keep_apart():
    found = next_places(doubtful(np.full(GRID.shape, 6.0)), np.ones(GRID.shape, bool), count=4)
    gap = np.hypot(*np.moveaxis(found.place_m[:, None] - found.place_m, -1, 0))
    assert gap[~np.eye(4, dtype=bool)].min() > 20.0


def test_candidates_that_differ_in_one_corner_send_us_there():
    one, two = np.full(GRID.shape, -90.0), np.full(GRID.shape, -90.0)
    two[:10, :10] = -70.0
    posterior = MapPosterior(GRID, np.stack([one, two]), np.zeros(2), np.ones((2, *GRID.shape)))
    found = next_places(posterior, np.ones(GRID.shape, bool), count=1)
    assert (found.place_m[0] < 20.0).all()
    assert found.left[0] < 0.35


def test_places_lie_on_roads_and_outdoors():
    line = shapely.LineString([(0.0, 41.0), (80.0, 41.0)])
    scene = Scene((), np.empty(0), (), (), GRID.bounds_m, roads=(Road(line, "residential"),))
    counted = np.ones(GRID.shape, bool)
    counted[:, :20] = False
    found = next_places(doubtful(np.full(GRID.shape, 6.0)), counted, scene=scene, count=3)
    assert (np.abs(found.place_m[:, 1] - 41.0) <= 1.0).all() and (found.place_m[:, 0] > 40.0).all()


def test_nothing_to_count_is_an_error():
    with pytest.raises(ValueError, match="cells that count"):
        next_places(doubtful(np.ones(GRID.shape)), np.zeros(GRID.shape, bool))
