import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from hertzmap.scenes.synthetic import city


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_buildings_are_valid_apart_inside_and_off_the_streets(seed, buildings):
    scene = city(seed, buildings=buildings)
    shapes = np.array(scene.footprints, dtype=object)
    assert len(shapes) == buildings
    assert shapely.is_valid(shapes).all() and (shapely.area(shapes) > 4.0).all()
    assert shapely.box(*scene.bounds_m).covers(shapely.union_all(shapes))
    pairs = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    assert (pairs[0] == pairs[1]).all()
    streets = shapely.union_all([road.line.buffer(5.0) for road in scene.roads])
    assert not shapely.intersects(shapes, streets).any()


def test_the_same_seed_builds_the_same_city_and_another_another():
    same, again, other = city(1), city(1), city(2)
    assert same.footprints == again.footprints and np.array_equal(same.height_m, again.height_m)
    assert same.footprints != other.footprints


def test_there_are_rectangles_and_l_shapes():
    corners = {len(footprint.exterior.coords) - 1 for footprint in city(3).footprints}
    assert corners == {4, 6}


@pytest.mark.parametrize("buildings", [0, 100_000])
def test_a_city_that_does_not_fit_is_refused(buildings):
    with pytest.raises(ValueError, match="do not fit"):
        city(1, buildings=buildings)
