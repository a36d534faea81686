"""Law 27 and what reports must say about themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Transmitter
from hertzmap.core.units import GreyScale
from hertzmap.measurement.operator import DriftOperator
from hertzmap.measurement.sampling import SamplingConfig, read_truth, sample_reports
from hertzmap.measurement.truth import truth_from_fine, truth_from_grid

TRANSMITTER = Transmitter((10.2, 7.9, 10.0))
SCALE = GreyScale()


def world(side=30, seed=0):
    """A truth of `side` x `side` 1 m cells with a building, an unheard strip, and 0.5 m detail."""
    fine = Grid(2 * side, 2 * side, 0.5, (100.0, 200.0))
    east, north = np.moveaxis(fine.centres_m() - [100.0, 200.0], -1, 0)
    draw = np.random.default_rng(seed)
    distance = np.maximum(np.hypot(east - 10.2, north - 7.9), 1.0)
    gain = -50.0 - 25.0 * np.log10(distance) + draw.normal(0.0, 2.0, fine.shape)
    free = ~((np.abs(east - 0.6 * side) < 3.2) & (np.abs(north - 0.6 * side) < 4.7))
    valid = free & (east < side - 4)
    layers = np.where(valid, gain, np.nan)[None]
    return truth_from_fine(RadioMap(fine, layers, valid[None], (TRANSMITTER,)), free)


def cells_of(grid, place_m):
    assert grid.contains(place_m).all()
    return tuple(grid.cell(place_m).T)


@pytest.mark.parametrize("reading", ["berkson", "classical"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), drift=st.floats(0.0, 4.0))
def test_reports_are_taken_on_free_ground_at_distinct_cells(reading, seed, drift):
    truth = world()
    config = SamplingConfig(rate_kp=0.2, drift_m=drift, reading=reading)
    simulated = sample_reports(truth, config, np.random.default_rng(seed))
    reports = simulated.reports
    assert len(reports) == round(0.2 * truth.free.sum())
    assert truth.free[cells_of(truth.grid, simulated.true_m)].all()
    drawn = reports.reported_m if reading == "berkson" else simulated.true_m
    cells = truth.grid.cell(drawn)
    assert len(np.unique(cells, axis=0)) == len(reports)
    assert (truth.path_gain_db[tuple(cells.T)] > SCALE.min_db).all()
    np.testing.assert_allclose(
        reports.drift_cov_m2, np.tile(drift**2 * np.eye(2), (len(cells), 1, 1))
    )
    if reading == "berkson":
        np.testing.assert_allclose(truth.grid.place(cells.astype(float)), reports.reported_m)


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 10.0])
def test_the_noise_has_the_requested_level(snr_db):
    truth = world(side=130)
    config = SamplingConfig(rate_kp=0.9, snr_db=snr_db)
    simulated = sample_reports(truth, config, np.random.default_rng(1))
    assert len(simulated.reports) > 10_000
    noise = simulated.reports.power_dbm - read_truth(truth, simulated.true_m)
    grey = np.where(truth.free, SCALE.to_grey(truth.path_gain_db), 0.0)
    found = np.mean(grey**2) / np.mean((noise / SCALE.span_db) ** 2)
    assert found == pytest.approx(10 ** (snr_db / 10), rel=0.03)
    assert np.ptp(simulated.reports.noise_db) == 0
    assert noise.std() == pytest.approx(simulated.reports.noise_db[0], rel=0.02)


def test_a_stated_deviation_wins_over_the_ratio_and_none_is_silence():
    truth, draw = world(), np.random.default_rng
    stated = sample_reports(truth, SamplingConfig(sigma_db=4.0), draw(2)).reports
    assert stated.noise_db[0] == pytest.approx(4.0)
    clean = sample_reports(truth, SamplingConfig(snr_db=None, reference_dbm=30.0), draw(2))
    assert not clean.reports.noise_db.any() and clean.reports.reference_dbm == 30.0
    expected = read_truth(truth, clean.true_m) + 30.0
    np.testing.assert_allclose(clean.reports.power_dbm, expected, atol=1e-9)


def test_noise_levels_share_places_and_standard_draws():
    truth = world()
    loud, quiet = (
        sample_reports(truth, SamplingConfig(sigma_db=level), np.random.default_rng(3))
        for level in (8.0, 2.0)
    )
    assert np.array_equal(loud.true_m, quiet.true_m)
    clean = read_truth(truth, loud.true_m)
    np.testing.assert_allclose(
        loud.reports.power_dbm - clean, 4.0 * (quiet.reports.power_dbm - clean), atol=1e-9
    )


def test_values_are_read_off_the_fine_map_at_the_true_place():
    truth = world()
    config = SamplingConfig(rate_kp=0.3, snr_db=None)
    simulated = sample_reports(truth, config, np.random.default_rng(4))
    zero = np.zeros((len(simulated.true_m), 2, 2))
    fine = DriftOperator.build(truth.fine_grid, truth.fine_free, simulated.true_m, zero)
    expected = fine.read(truth.fine_gain_db)
    got = simulated.reports.power_dbm[fine.kept]
    assert fine.kept.mean() > 0.95
    np.testing.assert_allclose(got, expected, atol=1e-9)
    coarse = DriftOperator.build(truth.grid, truth.free, simulated.true_m, zero)
    assert np.abs(coarse.read(truth.path_gain_db)[: len(got)] - got[: coarse.count]).max() > 0.5


@pytest.mark.parametrize("reading", ["berkson", "classical"])
def test_the_drift_has_the_stated_covariance(reading):
    grid = Grid(120, 120)
    truth = truth_from_grid(grid, np.full(grid.shape, -90.0), np.ones(grid.shape, bool))
    cov = ((2.0, 0.9), (0.9, 1.0))
    config = SamplingConfig(rate_kp=1.0, drift_cov_m2=cov, reading=reading)
    simulated = sample_reports(truth, config, np.random.default_rng(5))
    drift = simulated.true_m - simulated.reports.reported_m
    inner = (np.abs(simulated.reports.reported_m - 60) < 54).all(axis=1)
    np.testing.assert_allclose(drift[inner].mean(axis=0), 0.0, atol=0.05)
    np.testing.assert_allclose(np.cov(drift[inner].T), cov, atol=0.08)


def test_variance_and_deviation_are_told_apart():
    std = SamplingConfig(drift_m=1.6).covariance_m2
    variance = SamplingConfig(drift_m=1.6, drift_is="variance").covariance_m2
    assert std[0, 0] == pytest.approx(2.56) and variance[0, 0] == pytest.approx(1.6)


def test_both_readings_leave_the_same_cloud_given_the_reported_place():
    tile = np.ones((8, 8), bool)
    tile[2:6, 5:8] = False
    grid = Grid(640, 640)
    free = np.tile(tile, (80, 80))
    truth = truth_from_grid(grid, np.full(grid.shape, -90.0), free)
    config = SamplingConfig(rate_kp=1.0, snr_db=None, drift_m=1.0, reading="classical")
    simulated = sample_reports(truth, config, np.random.default_rng(6))
    reported = simulated.reports.reported_m
    place = np.array([4.5, 3.5])  # beside the wall, in every tile
    near = (np.abs(reported % 8 - place) < 0.25).all(axis=1)
    near &= (np.abs(reported - 320) < 310).all(axis=1)
    classical = (simulated.true_m - reported)[near]
    cov = np.eye(2)[None]
    cloud = DriftOperator.build(
        Grid(24, 24), np.tile(tile, (3, 3)), place[None] + 8, cov, q=8, deviations=5.0
    )
    error = 4 / np.sqrt(near.sum())
    mean = cloud.mean_place_m[0] - place - 8
    np.testing.assert_allclose(classical.mean(axis=0), mean, atol=error + 0.02)
    np.testing.assert_allclose(np.cov(classical.T), cloud.place_cov_m2[0], atol=2 * error)


def test_no_more_cells_than_can_be_heard_and_none_is_an_error():
    truth = world()
    heard = truth.free & (truth.path_gain_db > SCALE.min_db)
    all_of_them = sample_reports(
        truth, SamplingConfig(rate_kp=1.0, kp_over="all"), np.random.default_rng(7)
    )
    assert len(all_of_them.reports) == heard.sum() < truth.free.sum()
    grid = Grid(8, 8)
    silent = truth_from_grid(grid, np.full(grid.shape, -200.0), np.ones(grid.shape, bool))
    with pytest.raises(ReportsError, match="no cell can report"):
        sample_reports(silent, SamplingConfig(), np.random.default_rng(7))


def test_same_generator_same_reports():
    truth = world()
    one, two = (sample_reports(truth, SamplingConfig(), np.random.default_rng(8)) for _ in range(2))
    assert np.array_equal(one.true_m, two.true_m)
    assert np.array_equal(one.reports.power_dbm, two.reports.power_dbm)


@pytest.mark.parametrize(
    "wrong",
    [{"rate_kp": 0.0}, {"rate_kp": 1.5}, {"drift_m": -1.0}, {"sigma_db": -2.0},
     {"drift_cov_m2": ((1.0, 2.0), (2.0, 1.0))}],
)  # fmt: skip
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ConfigError, match="SamplingConfig"):
        SamplingConfig(**wrong)
