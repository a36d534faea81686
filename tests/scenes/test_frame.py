import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from hertzmap.core.errors import SceneError
from hertzmap.core.types import Scene
from hertzmap.scenes.frame import frame_for, project, to_local, to_lonlat
from hertzmap.scenes.synthetic import city


def scene_at(lon, lat):
    crs = frame_for(lon, lat)
    origin = np.round(project(np.array([[lon, lat]]), crs)[0])
    return Scene(
        footprints=(shapely.box(0.0, 0.0, 1.0, 1.0),),
        height_m=np.array([3.0]),
        height_rule=("height",),
        source_id=("way/1",),
        bounds_m=(-9.0, -9.0, 9.0, 9.0),
        crs=crs,
        origin_m=(float(origin[0]), float(origin[1])),
    )


@given(
    st.floats(-179.9, 179.9),
    st.floats(-79.0, 83.0),
    st.floats(-20_000.0, 20_000.0),
    st.floats(-20_000.0, 20_000.0),
)
def test_the_frame_is_reversible_to_a_millimetre(lon, lat, east, north):
    scene = scene_at(lon, lat)
    place = np.array([[east, north]])
    assert np.abs(to_local(scene, to_lonlat(scene, place)) - place).max() < 1e-3


@given(st.floats(-179.9, 179.9), st.floats(-70.0, 70.0))
def test_east_is_east_and_metres_are_metres(lon, lat):
    scene = scene_at(lon, lat)
    here, east, north = to_lonlat(scene, np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]))
    assert (east - here)[0] > 0 and (north - here)[1] > 0
    degree_m = 111_300.0 * np.array([np.cos(np.radians(lat)), 1.0])
    assert np.linalg.norm((north - here) * degree_m) == pytest.approx(100.0, rel=0.01)
    assert np.linalg.norm((east - here) * degree_m) == pytest.approx(100.0, rel=0.01)


@pytest.mark.parametrize(
    ("lon", "lat", "crs"),
    [(8.69, 49.4, "EPSG:32632"), (-97.7, 30.3, "EPSG:32614"), (180.0, 0.0, "EPSG:32660")],
)
def test_the_zone_holds_the_place(lon, lat, crs):
    assert frame_for(lon, lat) == crs


def test_swapped_degrees_are_refused():
    with pytest.raises(SceneError, match="outside UTM"):
        frame_for(49.41, 98.69)


def test_a_synthetic_scene_lies_nowhere_on_earth():
    scene = city(1, size_m=64.0, buildings=4)
    for turn in (to_local, to_lonlat):
        with pytest.raises(SceneError, match="nowhere on Earth"):
            turn(scene, np.zeros((1, 2)))
