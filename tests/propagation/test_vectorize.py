"""Masks become polygons with true corners and go back to the same mask."""

import numpy as np
import pytest
import shapely
from shapely.geometry import Polygon

from hertzmap.core.errors import SceneError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene, Transmitter
from hertzmap.datasets.radiomapseer import read_maps
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.vectorize import scene_from_mask
from hertzmap.scenes.raster import rasterize
from hertzmap.scenes.synthetic import city


def overlap(free: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of the indoor cells."""
    return float((~free & ~other).sum() / (~free | ~other).sum())


def test_public_benchmark_mask_goes_there_and_back():
    site = read_maps(antennas=(0,)).site
    scene = scene_from_mask(site.free, site.grid)
    assert overlap(site.free, rasterize(scene, site.grid).free) > 0.99
    assert shapely.get_num_coordinates(np.array(scene.footprints, dtype=object)).sum() < 400


@pytest.mark.parametrize("seed", range(3))
def test_toy_cities_go_there_and_back(seed):
    grid = Grid(128, 128, 2.0, (-128.0, -128.0))
    free = rasterize(city(seed), grid).free
    scene = scene_from_mask(free, grid, height_m=7.0)
    assert overlap(free, rasterize(scene, grid).free) > 0.97
    assert set(scene.height_m) == {7.0}


@pytest.mark.parametrize("turn_deg", [0.0, 7.0, 20.0, 45.0, 63.0])
def test_a_slanted_house_keeps_its_four_corners(turn_deg):
    turn = np.radians(turn_deg)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners = np.array([[-20.2, -12.3], [20.2, -12.3], [20.2, 12.3], [-20.2, 12.3]]) @ matrix
    grid = Grid(80, 80, 1.0, (-40.0, -40.0))
    house = Scene(
        (Polygon(corners),), np.array([10.0]), ("height",), ("a",), (-40.0, -40.0, 40.0, 40.0)
    )
    found = scene_from_mask(rasterize(house, grid).free, grid).footprints[0]
    vertices = shapely.get_coordinates(found)[:-1]
    gap = np.linalg.norm(vertices[:, None] - corners, axis=-1)
    assert len(vertices) <= 6
    assert gap.min(axis=0).max() < 1.5


def test_routes_in_a_vectorised_city_match_those_of_the_original():
    grid = Grid(96, 96, 1.0, (-48.0, -48.0))
    original = city(3, size_m=96.0, buildings=9)
    copy = scene_from_mask(rasterize(original, grid).free, grid)
    site = Transmitter((-16.0, -16.0, 1.5))
    first, second = (
        DominantPath(Environment.prepare(scene, grid, margin_m=0.0), roof=False).trace((site,))
        for scene in (original, copy)
    )
    difference = np.abs(first.path_gain_db - second.path_gain_db)
    assert np.nanmedian(difference) < 0.5


def test_tiny_specks_and_holes_survive():
    free = np.ones((12, 12), bool)
    free[2, 2] = False
    free[5:10, 5:10] = False
    free[7, 7] = True
    free[3, 3] = False
    grid = Grid(12, 12)
    assert np.array_equal(rasterize(scene_from_mask(free, grid), grid).free, free)


def test_a_mask_of_only_free_cells_has_no_buildings():
    scene = scene_from_mask(np.ones((4, 5), bool), Grid(4, 5))
    assert scene.footprints == ()


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(SceneError, match="own grid"):
        scene_from_mask(np.ones((4, 5), bool), Grid(5, 4))
