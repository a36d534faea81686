import numpy as np
import pytest
from scipy.spatial.distance import cdist

from hertzmap.core.errors import ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.estimation import _gaussian_process as gp

KERNELS = ("exponential", "matern32", "squared_exponential")


def correlation(kernel, ratio):
    if kernel == "exponential":
        return np.exp(-ratio)
    if kernel == "matern32":
        return (1.0 + np.sqrt(3.0) * ratio) * np.exp(-np.sqrt(3.0) * ratio)
    return np.exp(-0.5 * ratio**2)


def observations(count, *, seed=0, drift_m=0.0, noise_db=2.0, side_m=40.0):
    draw = np.random.default_rng(seed)
    place = draw.uniform(0.0, side_m, (count, 2))
    value = 4.0 * np.sin(place[:, 0] / 9.0) - 100.0 + noise_db * draw.standard_normal(count)
    return gp.Observations.with_constant_mean(
        place, np.full(count, drift_m**2), value, np.full(count, noise_db**2)
    )


def by_hand(seen, hyper, cells):
    """Universal Kriging in plain numpy, without drift."""
    rho = correlation(hyper.kernel, cdist(seen.place_m, seen.place_m) / hyper.length_m)
    noise = np.diag(seen.noise_var_db2 + hyper.nugget_db2)
    inverse = np.linalg.inv(hyper.variance_db2 * rho + noise)
    cross = cdist(cells, seen.place_m) / hyper.length_m
    cross = hyper.variance_db2 * correlation(hyper.kernel, cross)
    ones = np.ones(len(seen.value_db))
    total = ones @ inverse @ ones
    mean = ones @ inverse @ seen.value_db / total
    answer = mean + cross @ inverse @ (seen.value_db - mean)
    known = np.einsum("cp,pq,cq->c", cross, inverse, cross)
    rest = 1.0 - cross @ inverse @ ones
    return answer, hyper.variance_db2 - known + rest**2 / total + hyper.nugget_db2


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_drift_the_kernel_is_the_textbook_one(kernel):
    distance = np.linspace(0.0, 60.0, 40)
    found = gp.drifted_correlation(kernel, 10.0, distance, np.zeros(1))[0]
    np.testing.assert_allclose(found, correlation(kernel, distance / 10.0), atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("deviation_m", [0.8, 5.0])
def test_the_drifted_kernel_is_its_monte_carlo_limit(kernel, deviation_m):
    offset = deviation_m * np.random.default_rng(1).standard_normal((200_000, 2))
    for distance_m in (0.0, 3.0, 20.0):
        moved = np.hypot(distance_m + offset[:, 0], offset[:, 1])
        drawn = correlation(kernel, moved / 8.0)
        found = gp.drifted_correlation(
            kernel, 8.0, np.array([distance_m]), np.array([deviation_m])
        )[0, 0]
        assert abs(found - drawn.mean()) < 4.0 * drawn.std() / np.sqrt(200_000) + 1e-5


def test_squared_exponential_has_its_closed_form():
    distance = np.array([0.0, 4.0, 9.0])
    found = gp.drifted_correlation("squared_exponential", 6.0, distance, np.array([2.0]))[0]
    wide = 6.0**2 + 2.0**2
    np.testing.assert_allclose(found, 36.0 / wide * np.exp(-0.5 * distance**2 / wide))


@pytest.mark.parametrize("kernel", KERNELS)
def test_mean_and_variance_equal_plain_kriging(kernel):
    grid = Grid(12, 10, 4.0)
    seen = observations(60)
    hyper = gp.Hyperparameters(9.0, 12.0, 0.5, kernel)
    process = gp.condition(seen, hyper)
    mean, variance = by_hand(seen, hyper, grid.centres_m().reshape(-1, 2))
    np.testing.assert_allclose(process.mean_db(grid).ravel(), mean, atol=2e-3)
    np.testing.assert_allclose(process.variance_db2(grid).ravel(), variance, atol=5e-3)


def test_a_left_out_block_is_predicted_as_if_it_had_never_been_seen():
    seen, hyper = observations(40), gp.Hyperparameters(9.0, 12.0, 0.5)
    block = np.repeat(np.arange(14), 3)[:40]
    process = gp.condition(seen, hyper)
    error, variance = gp.left_out([process, process], block)
    np.testing.assert_array_equal(error[0], error[1])
    for number in (0, 7, 13):
        hidden = block == number
        answer, spread = by_hand(seen.select(~hidden), hyper, seen.place_m[hidden])
        gap = seen.value_db[hidden] - answer
        np.testing.assert_allclose(error[0, hidden], gap, atol=5e-3)
        noisy = spread + seen.noise_var_db2[hidden]
        np.testing.assert_allclose(variance[0, hidden], noisy, atol=5e-3)


@pytest.mark.parametrize("drift_m", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_covariance_is_positive_definite(kernel, drift_m):
    seen = observations(150, drift_m=drift_m)
    lower = gp._covariance(seen, gp.Hyperparameters(9.0, 10.0, 0.0, kernel), 1e-6)
    full = np.tril(lower) + np.tril(lower, -1).T
    assert np.linalg.eigvalsh(full).min() > 0


def test_without_noise_and_drift_it_passes_through_the_reports():
    grid = Grid(8, 8, 5.0)
    cells = grid.centres_m().reshape(-1, 2)[::5]
    value = np.random.default_rng(2).normal(-90.0, 6.0, len(cells))
    nothing = np.zeros(len(cells))
    seen = gp.Observations.with_constant_mean(cells, nothing, value, nothing)
    process = gp.condition(seen, gp.Hyperparameters(36.0, 20.0))
    np.testing.assert_allclose(process.mean_db(grid).ravel()[::5], value, atol=0.01)
    assert process.variance_db2(grid).ravel()[::5].max() < 0.01


def test_repeated_places_do_not_break_it():
    seen = observations(20, noise_db=0.0)
    twice = seen.select(np.repeat(np.arange(20), 2))
    mean = gp.condition(twice, gp.Hyperparameters(9.0, 12.0)).mean_db(Grid(5, 5, 8.0))
    once = gp.condition(seen, gp.Hyperparameters(9.0, 12.0)).mean_db(Grid(5, 5, 8.0))
    np.testing.assert_allclose(mean, once, atol=0.02)


def test_a_report_taken_anywhere_says_nothing_about_a_place():
    sharp, vague = observations(30), observations(30, drift_m=25.0)
    hyper = gp.Hyperparameters(9.0, 10.0)
    grid = Grid(10, 10, 4.0)
    known = gp.condition(sharp, hyper).variance_db2(grid).mean()
    unknown = gp.condition(vague, hyper).variance_db2(grid).mean()
    assert known < unknown


def test_noise_levels_may_differ():
    seen = observations(40)
    noise = np.where(np.arange(40) < 20, 0.01, 1e6)
    mixed = gp.Observations.with_constant_mean(
        seen.place_m, seen.place_var_m2, seen.value_db, noise
    )
    hyper, grid = gp.Hyperparameters(16.0, 15.0), Grid(6, 6, 6.0)
    kept = gp.condition(mixed.select(np.arange(20)), hyper).mean_db(grid)
    np.testing.assert_allclose(gp.condition(mixed, hyper).mean_db(grid), kept, atol=0.01)


def test_the_variance_between_computed_cells_is_close():
    seen = observations(80, side_m=64.0)
    process = gp.condition(seen, gp.Hyperparameters(9.0, 15.0))
    grid = Grid(64, 61)
    exact, coarse = process.variance_db2(grid, stride=1), process.variance_db2(grid, stride=4)
    assert coarse.shape == grid.shape
    assert np.abs(np.sqrt(exact) - np.sqrt(coarse)).mean() < 0.05


def test_a_firm_prior_on_a_coefficient_holds():
    seen = observations(30)
    east = seen.place_m[:, :1]
    basis = np.concatenate([np.ones((30, 1)), east], axis=1)
    firm = gp.Observations(
        seen.place_m,
        seen.place_var_m2,
        seen.value_db,
        seen.noise_var_db2,
        basis,
        np.array([0.0, 0.7]),
        np.array([0.0, 1e10]),
    )
    process = gp.condition(firm, gp.Hyperparameters(9.0, 12.0))
    assert process.coefficient[1] == pytest.approx(0.7, abs=1e-6)


def test_the_evidence_is_the_restricted_likelihood():
    seen = observations(12)
    hyper = gp.Hyperparameters(9.0, 12.0, 0.3, "matern32")
    rho = correlation("matern32", cdist(seen.place_m, seen.place_m) / 12.0)
    covariance = 9.0 * rho + np.diag(seen.noise_var_db2 + 0.3)
    contrast = np.linalg.svd(np.ones((12, 1)))[0][:, 1:]
    left = contrast.T @ seen.value_db
    inner = contrast.T @ covariance @ contrast
    expected = -0.5 * left @ np.linalg.solve(inner, left) - 0.5 * np.linalg.slogdet(inner)[1]
    expected -= 0.5 * 11 * np.log(2.0 * np.pi) + 0.5 * np.log(12.0)
    assert gp.condition(seen, hyper).log_evidence == pytest.approx(expected, abs=1e-3)


def test_fit_recovers_a_field_of_known_length():
    draw = np.random.default_rng(4)
    place = draw.uniform(0.0, 300.0, (250, 2))
    covariance = 64.0 * correlation("exponential", cdist(place, place) / 30.0)
    field = np.linalg.cholesky(covariance + 1e-9 * np.eye(250)) @ draw.standard_normal(250)
    value = field + 2.0 * draw.standard_normal(250) - 90.0
    seen = gp.Observations.with_constant_mean(place, np.zeros(250), value, np.full(250, 4.0))
    config = gp.FitConfig(kernels=("exponential",), nugget=False)
    found = gp.fit(seen, config, np.random.default_rng(0))
    assert 15.0 < found.length_m < 60.0
    assert 30.0 < found.variance_db2 < 130.0


def test_a_known_mean_leaves_its_residual():
    free = np.ones((20, 20), bool)
    free[:, 8:12] = False
    grid = Grid(20, 20)
    site = SceneRaster(grid, np.where(free, 0.0, 9.0), free)
    place = np.array([[7.2, 5.0], [3.0, 3.0], [15.0, 15.0]])
    drift = np.tile(np.eye(2), (3, 1, 1))
    reports = Reports(place, np.full(3, -80.0), np.ones(3), drift)
    slope = grid.centres_m()[..., 0] - 90.0
    seen = gp.observe(reports, site, known_mean_dbm=slope)
    assert seen.place_m[0, 0] < 7.0  # pushed off the wall
    assert seen.place_var_m2[0] < seen.place_var_m2[1]
    assert seen.value_db[1] == pytest.approx(-80.0 - (3.0 - 90.0), abs=0.05)
    assert seen.noise_var_db2[1] == pytest.approx(2.0, rel=0.1)


def test_too_few_reports_are_refused():
    with pytest.raises(ReportsError, match="at least 3"):
        gp.condition(observations(2), gp.Hyperparameters(1.0, 1.0))
    with pytest.raises(ReportsError, match="at least 3"):
        gp.fit(observations(2), gp.FitConfig(), np.random.default_rng(0))


def test_several_processes_at_once_are_each_one_alone():
    hyper = gp.Hyperparameters(30.0, 8.0, 1.0)
    seen = observations(30, drift_m=1.5)
    louder = gp.Observations.with_constant_mean(
        seen.place_m, seen.place_var_m2, 2.0 * seen.value_db + 7.0, seen.noise_var_db2
    )
    grid = Grid(40, 37, 1.0, (0.0, 0.0))
    factor = gp.factorise(seen, hyper)
    both = [gp.condition(one, hyper, factor) for one in (seen, louder)]
    together = gp.means_db(both, grid, [None, None])
    for process, found in zip(both, together, strict=True):
        np.testing.assert_allclose(found, process.mean_db(grid), rtol=1e-6)
    np.testing.assert_allclose(together[1], 2.0 * together[0] + 7.0, rtol=1e-4)
