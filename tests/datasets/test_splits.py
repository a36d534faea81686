import itertools
from collections import Counter

import numpy as np
import pytest
import shapely

from hertzmap.core.errors import DataError
from hertzmap.datasets import remote, splits
from hertzmap.scenes.frame import to_local, to_lonlat
from hertzmap.scenes.raster import rasterize

full_folder = pytest.mark.skipif(
    not splits.training_extracts(), reason="needs the full data folder (HERTZMAP_DATA)"
)
NEIGHBOURS = (
    "nyc_lower_manhattan_3",
    "tokyo_5",
    "berlin_prenzlauer",
    "london_stgeorges",
    "tokyo_6",
)


def corners(grid):
    return np.array(shapely.box(*grid.bounds_m).exterior.coords)[:4]


def distance_m(city, site):
    """From a site to the nearest building of a city, in the city's frame."""
    places = to_local(city, to_lonlat(splits.load_extract(site.extract), corners(site.grid)))
    buildings = shapely.STRtree(np.array(city.footprints, dtype=object))
    _, gap = buildings.query_nearest(shapely.Polygon(places), return_distance=True)
    return float(gap.min())


def assert_apart(sites, first_scene):
    """No two windows of near extracts share area, in the frame of one of them."""
    outlines = [
        shapely.Polygon(
            to_local(first_scene, to_lonlat(splits.load_extract(s.extract), corners(s.grid)))
        ).buffer(-2.0)
        for s in sites
    ]
    shapes = np.array(outlines, dtype=object)
    pairs = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    assert (pairs[0] == pairs[1]).all()


def test_no_city_is_in_two_splits():
    assert len(set(splits.HELD_OUT)) == len(splits.TEST) + len(splits.VALIDATION) == 10
    assert not set(splits.training_extracts()) & set(splits.HELD_OUT)


def test_held_out_cities_never_train():
    with pytest.raises(DataError, match="heidelberg are held out"):
        next(splits.training_sites(("heidelberg",)))


def test_the_bundled_copy_alone_says_it_cannot_train(tmp_path, monkeypatch):
    monkeypatch.setenv(remote.ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match="no training extract is at hand"):
        next(splits.training_sites())


@pytest.mark.parametrize("city", ["paris_9e", "austin_ut", "mumbai_worli"])
def test_evaluation_tiles_are_well_built_and_always_the_same(city):
    sites = splits.evaluation_tiles(city)
    assert len(sites) == 4 and len({site.grid for site in sites}) == 4
    assert splits.evaluation_tiles(city, 2) == sites[:2]
    for site in sites:
        indoors = ~rasterize(splits.load_extract(city), site.grid).free
        assert site.extract == city and site.grid.shape == (256, 256)
        assert 0.13 <= indoors.mean() <= 0.62
        halves = [np.split(half, 2, axis=1) for half in np.split(indoors, 2)]
        assert min(quarter.mean() for half in halves for quarter in half) > 0.03


def test_a_training_city_has_no_evaluation_tiles():
    with pytest.raises(DataError, match="no test or validation city"):
        splits.evaluation_tiles("geneva")


def test_too_many_evaluation_tiles_are_refused_with_their_number():
    with pytest.raises(DataError, match=r"austin_ut has \d+ well-built tiles"):
        splits.evaluation_tiles("austin_ut", 99)


@full_folder
def test_an_extract_beside_a_held_out_city_gives_no_training_tile(monkeypatch):
    held_out = (splits.load_extract("nyc_eastvillage"),)
    monkeypatch.setattr(splits, "_held_out_scenes", lambda: held_out)
    assert list(splits.training_sites(("nyc_lower_manhattan_4",))) == []


@pytest.mark.slow
@full_folder
def test_training_tiles_keep_away_from_held_out_cities_and_from_each_other():
    sites = list(splits.training_sites(NEIGHBOURS))
    count = Counter(site.extract for site in sites)
    assert "nyc_lower_manhattan_4" not in count
    assert count["berlin_prenzlauer"] and count["tokyo_5"] and count["tokyo_6"]
    mitte = splits.load_extract("berlin_mitte")
    near = [site for site in sites if site.extract == "berlin_prenzlauer"]
    assert min(distance_m(mitte, site) for site in near) >= splits.BUFFER_M
    assert_apart([s for s in sites if s.extract[:5] == "tokyo"], splits.load_extract("tokyo_5"))


@pytest.mark.slow
@full_folder
def test_at_least_700_distinct_training_tiles_are_at_hand():
    sites = list(splits.training_sites())
    count = Counter(site.extract for site in sites)
    assert len(sites) >= 700 and max(count.values()) <= splits.TILES_PER_EXTRACT
    monaco = [site for site in sites if site.extract.startswith("monaco")]
    assert len({site.extract for site in monaco}) == 2
    assert_apart(monaco, splits.load_extract("monaco_2021"))
    for city, site in itertools.product(("berlin_mitte", "nyc_eastvillage"), sites):
        if site.extract[:4] == city[:4]:
            assert distance_m(splits.load_extract(city), site) >= splits.BUFFER_M
