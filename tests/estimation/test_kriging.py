import numpy as np
import pytest

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.estimation import kriging
from hertzmap.estimation._gaussian_process import Observations
from hertzmap.estimation.kriging import Kriging


def world(count=60, *, noise_db=2.0, drift_m=0.8, reference_dbm=0.0, seed=3):
    draw = np.random.default_rng(seed)
    free = np.ones((32, 32), bool)
    free[10:18, 12:20] = False
    grid = Grid(32, 32)
    site = SceneRaster(grid, np.where(free, 0.0, 12.0), free)
    gap = grid.centres_m() - np.array([4.0, 6.0])
    truth = -60.0 - 25.0 * np.log10(np.hypot(gap[..., 0], gap[..., 1]) + 2.0)
    cell = draw.choice(np.flatnonzero(free), count, replace=False)
    power = truth.ravel()[cell] + noise_db * draw.standard_normal(count)
    drift = np.tile(drift_m**2 * np.eye(2), (count, 1, 1))
    place = grid.centres_m().reshape(-1, 2)[cell]
    reports = Reports(place, power, np.full(count, noise_db), drift, reference_dbm)
    return reports, site, truth


def test_the_tuned_map_is_closer_than_its_noise():
    reports, site, truth = world(noise_db=4.0)
    posterior = Kriging.from_preset("tuned").estimate(reports, site, seed=0)
    error = (posterior.mean_dbm() - truth)[site.free]
    assert np.sqrt(np.mean(error**2)) < 2.5
    inside = np.abs(error) < 1.645 * posterior.std_db()[site.free]
    assert inside.mean() > 0.75


def test_tuned_beats_as_published_in_noise():
    reports, site, truth = world(noise_db=8.0)

    def error(preset):
        map_dbm = Kriging.from_preset(preset).estimate(reports, site, seed=0).mean_dbm()
        return np.sqrt(np.mean((map_dbm - truth)[site.free] ** 2))

    assert error("tuned") < 0.7 * error("as_published")


def test_as_published_passes_through_noisy_reports_and_walls():
    reports, site, _ = world(noise_db=8.0)
    posterior = Kriging.from_preset("as_published").estimate(reports, site, seed=0)
    cell = site.grid.cell(reports.reported_m)
    at_reports = posterior.mean_dbm()[cell[:, 0], cell[:, 1]]
    np.testing.assert_allclose(at_reports, reports.power_dbm, atol=0.2)
    assert posterior.mean_dbm()[~site.free].std() > 0


def test_tuned_puts_walls_on_the_floor_and_stays_on_the_scale():
    reports, site, _ = world(reference_dbm=10.0)
    loud = Reports(
        reports.reported_m,
        reports.power_dbm + 70.0,
        reports.noise_db,
        reports.drift_cov_m2,
        10.0,
    )
    map_dbm = Kriging.from_preset("tuned").estimate(loud, site, seed=0).mean_dbm()
    scale = GreyScale()
    assert np.all(map_dbm[~site.free] == scale.min_db + 10.0)
    assert map_dbm.max() <= scale.max_db + 10.0
    assert (map_dbm[site.free] == scale.max_db + 10.0).any()


def test_an_unknown_reference_is_not_clipped():
    reports, site, _ = world()
    loud = Reports(
        reports.reported_m, reports.power_dbm + 70.0, reports.noise_db, reports.drift_cov_m2
    )
    map_dbm = Kriging.from_preset("tuned").estimate(loud, site, seed=0).mean_dbm()
    assert map_dbm.max() > GreyScale().max_db


@pytest.mark.parametrize("preset", list(kriging.PRESETS))
def test_it_works_from_three_reports_and_refuses_two(preset):
    reports, site, _ = world(count=3)
    posterior = Kriging.from_preset(preset).estimate(reports, site, seed=0)
    assert np.isfinite(posterior.maps_dbm).all()
    with pytest.raises(ReportsError, match="at least 3"):
        Kriging.from_preset(preset).estimate(reports.select(np.arange(2)), site, seed=0)


@pytest.mark.parametrize("preset", ["tuned", "as_published"])
def test_equal_reports_give_a_flat_map(preset):
    reports, site, _ = world(count=10)
    flat = Reports(
        reports.reported_m, np.full(10, -90.0), reports.noise_db, reports.drift_cov_m2, 0.0
    )
    map_dbm = Kriging.from_preset(preset).estimate(flat, site, seed=0).mean_dbm()
    np.testing.assert_allclose(map_dbm[site.free], -90.0, atol=0.05)


def test_the_variogram_finds_a_known_length():
    draw = np.random.default_rng(6)
    place = draw.uniform(0.0, 200.0, (600, 2))
    gap = np.linalg.norm(place[:, None] - place, axis=-1)
    root = np.linalg.cholesky(np.exp(-gap / 15.0) + 1e-9 * np.eye(600))
    nothing = np.zeros(600)
    value = 5.0 * root @ draw.standard_normal(600)
    seen = Observations.with_constant_mean(place, nothing, value, nothing)
    found = kriging.fit_variogram(seen, draw)
    assert 7.0 < found.length_m < 30.0
    assert 12.0 < found.variance_db2 < 50.0


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match="tuned"):
        Kriging.from_preset("fast")


def test_about_an_inferred_site_it_returns_a_candidate_for_each():
    reports, site, truth = world(count=12, noise_db=1.0)
    method = Kriging.from_preset("path_loss")
    posterior = method.estimate(reports, site, seed=0)
    assert 1 <= len(posterior.weight) <= method.config.path_loss.most_sites
    error = (posterior.mean_dbm() - truth)[site.free]
    assert np.sqrt(np.mean(error**2)) < 6.0
