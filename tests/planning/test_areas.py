"""Tiles join without seams, resume, and leave no hole where nobody reported."""

import numpy as np
import pytest

from hertzmap.core.errors import ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.estimation.idw import Idw
from hertzmap.planning.areas import Tiling, estimate_area, needs_tiles

GRID = Grid(110, 170, 2.0, (10.0, -20.0))
SITE = SceneRaster(GRID, np.zeros(GRID.shape), np.ones(GRID.shape, bool))
TILING = Tiling(tile=64, overlap=16)


class Slope(AbstractEstimator):
    """Says a slope of power over east, plus a level that differs from tile to tile."""

    def __init__(self, jump_db=0.0):
        self.jump_db, self.calls = jump_db, 0

    @classmethod
    def from_preset(cls, preset):
        return cls(float(preset))

    def estimate(self, reports, site, *, seed):
        assert len(reports) and seed == 0
        self.calls += 1
        mean = -0.1 * site.grid.centres_m()[..., 0] + self.jump_db * (self.calls % 2)
        return MapPosterior(site.grid, mean[None], np.zeros(1), np.full((1, *mean.shape), 3.0))


def some_reports(count=4000, keep=None):
    draw = np.random.default_rng(0)
    west, south, east, north = GRID.bounds_m
    place = draw.uniform((west, south), (east, north), (count, 2))
    place = place if keep is None else place[keep(place)]
    power = -0.1 * place[:, 0] + draw.standard_normal(len(place))
    return Reports(place, power, np.ones(len(place)), np.tile(np.eye(2), (len(place), 1, 1)))


def test_tiles_that_agree_join_exactly():
    found = estimate_area(Slope(), some_reports(), SITE, seed=0, tiling=TILING)
    np.testing.assert_allclose(found.mean_dbm(), -0.1 * GRID.centres_m()[..., 0], atol=1e-9)
    np.testing.assert_allclose(found.std_db(), 3.0, atol=1e-6)


def test_tiles_that_differ_pass_over_without_a_step_and_with_more_doubt():
    found = estimate_area(Slope(6.0), some_reports(), SITE, seed=0, tiling=TILING)
    left = found.mean_dbm() + 0.1 * GRID.centres_m()[..., 0]
    assert left.min() >= -1e-9 and left.max() <= 6.0 + 1e-9
    for axis in (0, 1):
        assert np.abs(np.diff(left, axis=axis)).max() < 6.0 * 0.5 * np.pi / TILING.overlap * 1.6
    assert found.std_db().min() > 2.99 and found.std_db().max() > 4.0


def test_a_small_area_is_estimated_as_it_is():
    assert not needs_tiles(GRID)
    found = estimate_area(Slope(), some_reports(), SITE, seed=0)
    assert found.grid == GRID


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    first, again, other = Slope(), Slope(), Slope()
    done = estimate_area(first, some_reports(), SITE, seed=0, tiling=TILING, folder=tmp_path)
    next(iter(tmp_path.glob("*.npz"))).unlink()
    same = estimate_area(again, some_reports(), SITE, seed=0, tiling=TILING, folder=tmp_path)
    assert first.calls > 4 and again.calls == 1
    np.testing.assert_array_equal(done.maps_dbm, same.maps_dbm)
    estimate_area(other, some_reports(), SITE, seed=0, tiling=TILING, folder=tmp_path, name="b")
    assert other.calls == first.calls


def test_where_nobody_reported_the_whole_area_speaks():
    reports = some_reports(keep=lambda place: place[:, 0] < 190.0)
    estimator = Idw.from_preset("tuned")
    found = estimate_area(estimator, reports, SITE, seed=0, tiling=TILING)
    far = GRID.centres_m()[..., 0] > 280.0
    assert np.isfinite(found.maps_dbm).all()
    assert np.abs(found.mean_dbm() + 0.1 * GRID.centres_m()[..., 0])[~far].max() < 12.0
    assert found.std_db()[far].min() > 1.5 * np.median(found.std_db()[~far])


def test_no_reports_at_all_is_an_error():
    with pytest.raises(ReportsError):
        estimate_area(Slope(), some_reports().select(np.arange(2)), SITE, seed=0, tiling=TILING)


def test_a_tiling_that_cannot_blend_is_refused():
    with pytest.raises(ValueError, match="2 overlap < tile"):
        Tiling(tile=64, overlap=32)
    assert Tiling(tile=64, overlap=16).starts(64) == [0]
    starts = Tiling(tile=64, overlap=16).starts(170)
    assert starts[-1] == 106 and max(np.diff(starts)) <= 48
