import itertools

import numpy as np
import pytest
import shapely

from hertzmap.scenes.raster import rasterize
from hertzmap.scenes.synthetic import city
from hertzmap.scenes.tiles import cover, spread, tiles

TOWN = city(5, size_m=700.0, buildings=100)


def overlap(first, second):
    return shapely.box(*first.bounds_m).intersection(shapely.box(*second.bounds_m)).area


def test_tiles_lie_inside_apart_and_on_whole_metres():
    found = tiles(TOWN, size_m=128.0, min_buildings=2)
    assert len(found) >= 9
    for grid in found:
        assert grid.shape == (128, 128)
        assert all(float(corner).is_integer() for corner in grid.origin_m)
        assert shapely.box(*TOWN.bounds_m).covers(shapely.box(*grid.bounds_m))
    assert max(overlap(a, b) for a, b in itertools.combinations(found, 2)) == 0.0


@pytest.mark.parametrize(("min_buildings", "min_cover"), [(1, 0.3), (4, 0.0), (3, 0.25)])
def test_every_tile_is_built_enough(min_buildings, min_cover):
    centroids = shapely.get_coordinates(shapely.centroid(np.array(TOWN.footprints, dtype=object)))
    for grid in tiles(TOWN, size_m=128.0, min_buildings=min_buildings, min_cover=min_cover):
        assert grid.contains(centroids).sum() >= min_buildings
        assert cover(TOWN, grid) >= min_cover


def test_cover_is_the_share_of_indoor_cells():
    (grid, *_) = tiles(TOWN, size_m=256.0, min_buildings=1)
    assert cover(TOWN, grid) == pytest.approx(1.0 - rasterize(TOWN, grid).free.mean(), abs=0.02)


def test_a_finer_grid_covers_the_same_windows():
    coarse = tiles(TOWN, size_m=128.0, spacing_m=2.0, min_buildings=2)
    fine = tiles(TOWN, size_m=128.0, spacing_m=0.5, min_buildings=2)
    assert [g.bounds_m for g in coarse] == [g.bounds_m for g in fine]


def test_a_limited_choice_is_the_start_of_a_longer_one_and_spread():
    every = tiles(TOWN, size_m=64.0, min_buildings=1)
    few, more = (tiles(TOWN, size_m=64.0, min_buildings=1, limit=n) for n in (4, 8))
    assert more[:4] == few and set(more) <= set(every)
    centres = np.array([grid.bounds_m[:2] for grid in few])
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1)[np.triu_indices(4, 1)]
    assert gaps.min() > 200.0


@pytest.mark.parametrize("limit", [0, 3, 10_000])
def test_spread_returns_each_tile_at_most_once(limit):
    every = tiles(TOWN, size_m=64.0, min_buildings=1)
    chosen = spread(every, limit)
    assert len(set(chosen)) == len(chosen) == min(limit, len(every))


def test_a_scene_smaller_than_a_tile_has_none():
    assert tiles(TOWN, size_m=701.0) == ()


@pytest.mark.parametrize(("size", "spacing"), [(100.5, 0.5), (100.0, 3.0), (0.0, 1.0)])
def test_a_window_of_broken_cells_is_refused(size, spacing):
    with pytest.raises(ValueError, match="whole"):
        tiles(TOWN, size_m=size, spacing_m=spacing)
