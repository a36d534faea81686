"""Places and scales are recovered from reports of a known map; the laws of the responsibilities."""

from dataclasses import replace

import numpy as np
import pytest

from hertzmap.core.errors import ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.measurement.explain import explain_reports

GRID = Grid(64, 64)
SITE = SceneRaster(GRID, np.zeros(GRID.shape), np.ones(GRID.shape, bool))


def power_at(place_m):
    return -100.0 + 15.0 * np.sin(place_m[..., 0] / 6.0) + 6.0 * np.sin(place_m[..., 1] / 3.0)


def a_map():
    return power_at(GRID.centres_m())


def believed(maps, spread_db=0.0):
    maps = np.asarray(maps)
    return MapPosterior(GRID, maps, np.zeros(len(maps)), np.full(maps.shape, spread_db))


def some_reports(count=400, *, drift_m=1.5, noise_db=0.5, seed=0, on_cells=False):
    draw = np.random.default_rng(seed)
    true = draw.uniform(8.0, 56.0, (count, 2))
    true = np.floor(true) + 0.5 if on_cells else true
    stated = true - drift_m * draw.standard_normal((count, 2))
    value = power_at(true) + noise_db * draw.standard_normal(count)
    cov = np.tile(drift_m**2 * np.eye(2), (count, 1, 1))
    return Reports(stated, value, np.full(count, noise_db), cov), true


def test_a_flat_map_says_nothing():
    reports, _ = some_reports(40)
    told = explain_reports(believed([np.full(GRID.shape, -90.0)]), reports, SITE)
    np.testing.assert_allclose(told.place_m, reports.reported_m, atol=1e-9)
    np.testing.assert_allclose(told.information_nats, 0.0, atol=1e-9)


def test_places_come_nearer_to_the_truth():
    reports, true = some_reports()
    told = explain_reports(believed([a_map()]), reports, SITE)
    before = np.hypot(*(reports.reported_m - true).T)
    after = np.hypot(*(told.place_m - true).T)
    assert told.used.all()
    assert np.sqrt((after**2).mean()) < 0.85 * np.sqrt((before**2).mean())
    assert (told.information_nats > 0.5).mean() > 0.5
    white = np.linalg.solve(
        np.linalg.cholesky(told.covariance_m2), (told.place_m - true)[..., None]
    )
    assert 0.7 < (white**2).mean() < 1.4  # so its uncertainty is right


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_misstated_scales_are_found(factor):
    reports, _ = some_reports(1500, noise_db=1.5)
    stated = replace(
        reports,
        noise_db=reports.noise_db / factor,
        drift_cov_m2=reports.drift_cov_m2 / factor**2,
    )
    told = explain_reports(believed([a_map()]), stated, SITE, fit_noise=True, fit_drift=True)
    assert told.noise_factor == pytest.approx(factor, rel=0.25)
    assert told.drift_factor == pytest.approx(factor, rel=0.25)


def test_doubt_about_the_map_is_no_noise():
    reports, _ = some_reports(2000, noise_db=2.0, drift_m=0.0, on_cells=True)
    off = 5.0 * np.random.default_rng(1).standard_normal((1, *GRID.shape))
    told = explain_reports(believed(a_map() + off, 5.0), reports, SITE, fit_noise=True)
    assert told.noise_factor == pytest.approx(1.0, rel=0.3)
    alone = explain_reports(believed(a_map() + off, 0.0), reports, SITE, fit_noise=True)
    assert alone.noise_factor > 2.0


def test_reports_off_the_map_are_named():
    reports, _ = some_reports(5)
    with pytest.raises(ReportsError, match="free ground"):
        explain_reports(
            believed([a_map()]), replace(reports, reported_m=reports.reported_m + 1e4), SITE
        )
