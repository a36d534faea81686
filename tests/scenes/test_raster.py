from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from hertzmap.core.grid import Grid
from hertzmap.core.types import Road, Scene
from hertzmap.scenes.raster import rasterize, window
from hertzmap.scenes.synthetic import city


def scene_of(*boxes, heights=None, roads=()):
    return Scene(
        footprints=tuple(shapely.box(*box) for box in boxes),
        height_m=np.array(heights or [5.0] * len(boxes), dtype=np.float64),
        height_rule=("height",) * len(boxes),
        source_id=tuple(f"way/{k}" for k in range(len(boxes))),
        bounds_m=(-100.0, -100.0, 100.0, 100.0),
        roads=tuple(roads),
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(-40.0, 10.0),
    st.floats(-40.0, 10.0),
    st.sampled_from([0.5, 1.0, 2.0, 3.7]),
)
def test_a_cell_is_indoors_exactly_when_its_centre_lies_in_a_footprint(seed, west, south, spacing):
    scene = city(seed, size_m=80.0, buildings=5)
    grid = Grid(12, 17, spacing, (west, south))
    raster = rasterize(scene, grid)
    union = shapely.union_all(np.array(scene.footprints, dtype=object))
    centres = grid.centres_m()
    assert np.array_equal(
        ~raster.free, shapely.intersects_xy(union, centres[..., 0], centres[..., 1])
    )
    assert np.array_equal(raster.free, raster.height_m == 0.0)


def test_a_building_in_the_north_east_is_in_high_rows_and_cols():
    raster = rasterize(scene_of((6.0, 8.0, 7.0, 9.0)), Grid(10, 8))
    assert np.argwhere(~raster.free).tolist() == [[8, 6]]


def test_the_highest_building_wins_whatever_the_order():
    boxes, heights = [(0.0, 0.0, 4.0, 4.0), (2.0, 0.0, 6.0, 4.0)], [9.0, 5.0]
    first = rasterize(scene_of(*boxes, heights=heights), Grid(4, 6))
    second = rasterize(scene_of(*boxes[::-1], heights=heights[::-1]), Grid(4, 6))
    assert np.array_equal(first.height_m, second.height_m)
    assert first.height_m[0].tolist() == [9.0, 9.0, 9.0, 9.0, 5.0, 5.0]


def test_a_wall_through_cell_centres_leaves_no_slit():
    raster = rasterize(scene_of((0.0, 0.0, 2.5, 4.0), (2.5, 0.0, 6.0, 4.0)), Grid(4, 6))
    assert not raster.free.any()


def test_courtyards_are_free():
    courtyard = shapely.box(3.0, 3.0, 6.0, 6.0).exterior.coords
    holed = shapely.Polygon(shapely.box(0.0, 0.0, 9.0, 9.0).exterior.coords, [courtyard])
    scene = replace(scene_of((0.0, 0.0, 9.0, 9.0)), footprints=(holed,))
    assert rasterize(scene, Grid(9, 9)).free.sum() == 9


def test_ground_without_buildings_is_free():
    raster = rasterize(scene_of((0.0, 0.0, 9.0, 9.0)), Grid(5, 5, 1.0, (50.0, 50.0)))
    assert raster.free.all() and not raster.height_m.any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-60.0, 60.0), st.floats(0.0, 40.0))
def test_a_window_shows_the_same_and_keeps_polygons_whole(seed, west, margin):
    scene = city(seed, size_m=160.0, buildings=16)
    grid = Grid(20, 20, 2.0, (west, -20.0))
    part = window(scene, grid, margin)
    assert np.array_equal(rasterize(part, grid).height_m, rasterize(scene, grid).height_m)
    assert set(part.source_id) <= set(scene.source_id)
    assert all(footprint in scene.footprints for footprint in part.footprints)
    area = shapely.box(*part.bounds_m)
    meeting = [
        i for f, i in zip(scene.footprints, scene.source_id, strict=True) if f.intersects(area)
    ]
    assert list(part.source_id) == meeting


def test_a_window_has_the_margin_around_the_grid_and_the_roads_in_it():
    near = Road(shapely.LineString([(-20.0, 0.0), (90.0, 0.0)]), "primary")
    far = Road(shapely.LineString([(80.0, 80.0), (90.0, 90.0)]), "primary")
    part = window(scene_of((1.0, 1.0, 2.0, 2.0), roads=(near, far)), Grid(4, 8), 10.0)
    assert part.bounds_m == pytest.approx((-10.0, -10.0, 18.0, 14.0))
    assert part.roads == (near,)


def test_a_window_without_buildings_is_a_scene_too():
    part = window(scene_of((1.0, 1.0, 2.0, 2.0)), Grid(4, 4, 1.0, (500.0, 500.0)))
    assert part.footprints == () and rasterize(part, Grid(4, 4)).free.all()
