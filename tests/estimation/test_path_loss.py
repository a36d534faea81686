import numpy as np
import pytest
from scipy.special import logsumexp

from hertzmap.core.grid import Grid
from hertzmap.core.types import SceneRaster
from hertzmap.estimation import _path_loss as pl
from hertzmap.estimation._gaussian_process import (
    FitConfig,
    Hyperparameters,
    Observations,
    condition,
    thin_out,
)

CONFIG = pl.PathLossConfig(spacing_m=20.0, outside_m=40.0)


def campus():
    """A 160 m square with one long building across its middle."""
    free = np.ones((80, 80), bool)
    free[38:44, 15:65] = False
    return SceneRaster(Grid(80, 80, 2.0), np.where(free, 0.0, 15.0), free)


def reports_about(source, site, count=25, *, seed=0, noise_db=2.0):
    draw = np.random.default_rng(seed)
    cell = draw.choice(np.flatnonzero(site.free), count, replace=False)
    place = site.grid.centres_m().reshape(-1, 2)[cell]
    terms = pl.trend_terms(place, np.array(source), site, CONFIG)
    value = terms @ np.array([-95.0, -32.0, -18.0]) + noise_db * draw.standard_normal(count)
    var = np.full(count, 1.0)
    return Observations.with_constant_mean(place, var, value, np.full(count, noise_db**2))


def test_walls_are_measured_along_the_line():
    site = campus()
    places = np.array([[80.0, 150.0], [10.0, 20.0], [80.0, 82.0]])
    terms = pl.trend_terms(places, np.array([80.0, 10.0]), site, CONFIG)
    assert terms[0, 2] == pytest.approx(1.0 - np.exp(-12.0 / 15.0), abs=0.06)
    assert terms[1, 2] == 0.0
    assert 0.0 < terms[2, 2] < terms[0, 2]
    distance = np.hypot(140.0, CONFIG.height_m)
    assert terms[0, 1] == pytest.approx(np.log10(distance / 100.0))


def test_supposed_sites_stand_on_free_ground_or_off_the_map():
    site = campus()
    sites = pl.supposed_sites(site, CONFIG)
    on_map = site.grid.contains(sites)
    cell = site.grid.cell(sites[on_map])
    assert site.free[cell[:, 0], cell[:, 1]].all()
    assert (~on_map).any()
    assert sites.min() >= -40.0
    assert sites.max() <= 200.0


def test_the_evidence_of_all_sites_is_each_one_alone():
    site, hyper = campus(), Hyperparameters(30.0, 25.0)
    seen = reports_about((30.0, 30.0), site)
    supposed = pl.supposed_sites(site, CONFIG)[:7]
    together = pl._evidence_of_sites(seen, supposed, site, CONFIG)(hyper)
    alone = [
        condition(pl._with_trend(seen, at, site, CONFIG), hyper).log_evidence for at in supposed
    ]
    np.testing.assert_allclose(together - together[0], np.array(alone) - alone[0], atol=1e-6)


@pytest.mark.parametrize("source", [(30.0, 30.0), (120.0, 140.0), (-20.0, 60.0)])
def test_it_finds_the_side_the_site_is_on(source):
    site = campus()
    seen = reports_about(source, site, 40)
    belief = pl.infer_site(
        seen, thin_out(seen, 300, np.random.default_rng(0)), site, CONFIG, FitConfig()
    )
    weight = np.exp(belief.log_weight - logsumexp(belief.log_weight))
    error = np.linalg.norm(weight @ belief.site_m - np.array(source))
    assert error < 35.0


def test_it_beats_a_constant_mean_where_reports_are_few():
    site = campus()
    truth = pl.trend_terms(
        site.grid.centres_m().reshape(-1, 2), np.array([30.0, 30.0]), site, CONFIG
    ) @ np.array([-95.0, -32.0, -18.0])
    errors = []
    for seed in range(3):
        seen = reports_about((30.0, 30.0), site, 12, seed=seed)
        belief = pl.infer_site(
            seen, thin_out(seen, 300, np.random.default_rng(0)), site, CONFIG, FitConfig()
        )
        maps, spreads = belief.maps_db(site, CONFIG)
        weight = np.exp(belief.log_weight - logsumexp(belief.log_weight))
        mean = np.einsum("k,krc->rc", weight, maps).ravel()
        plain = condition(seen, Hyperparameters(100.0, 60.0)).mean_db(site.grid).ravel()
        free = site.free.ravel()
        errors.append([np.std((mean - truth)[free]), np.std((plain - truth)[free])])
        assert (spreads > 0).all()
    ours, theirs = np.mean(errors, axis=0)
    assert ours < 0.7 * theirs


def test_without_walls_the_mean_knows_distance_only():
    site, config = campus(), pl.PathLossConfig(blocked_std_db=0.0)
    terms = pl.trend_terms(np.array([[80.0, 150.0]]), np.array([80.0, 10.0]), site, config)
    assert terms.shape == (1, 2)
