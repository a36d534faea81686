"""Laws 4-6, 13 and 14, the quadrature's accuracy, and reports in hopeless places."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.signal import convolve2d
from scipy.special import erf, ndtr

from hertzmap.core.errors import ReportsError
from hertzmap.core.grid import Grid
from hertzmap.measurement.operator import DriftOperator, bilinear, nearest_free

GRID = Grid(30, 30)
ALL_FREE = np.ones(GRID.shape, bool)
MIDDLE = np.array([[15.5, 14.5]])


def same(cov, points=1):
    return np.tile(np.asarray(cov, float), (points, 1, 1))


def walls(seed=0, share=0.3, shape=GRID.shape):
    return np.random.default_rng(seed).random(shape) > share


@pytest.mark.parametrize("cov", [[[1.5, 0.0], [0.0, 0.5]], [[1.5, 0.6], [0.6, 0.7]]])
def test_a_linear_map_reads_exactly_without_walls(cov):
    slope = np.array([0.03, -0.02])
    x = GRID.centres_m() @ slope
    reported = np.random.default_rng(1).uniform(12.0, 18.0, (20, 2))
    operator = DriftOperator.build(GRID, ALL_FREE, reported, same(cov, 20), q=4)
    mean, variance = operator.moments(x)
    np.testing.assert_allclose(mean, reported @ slope, atol=1e-12)
    np.testing.assert_allclose(variance, slope @ np.array(cov) @ slope, rtol=0.03)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_free_nearest_cell_leaves_a_quarter_of_the_weight(seed):
    free = walls(seed, 0.5)
    place = np.random.default_rng(seed).uniform(-1.0, 31.0, (200, 2))
    _, _, weight = bilinear(GRID, free, place)
    assert (weight[nearest_free(GRID, free, place)] >= 0.25 - 1e-12).all()


def test_reading_a_shifted_map_is_reading_elsewhere():
    free, draw = walls(2), np.random.default_rng(3)
    x = draw.random(GRID.shape)
    for shift in draw.normal(0.0, 1.5, (10, 2)):  # (east, north)
        place = GRID.centres_m() + shift
        pixel = np.moveaxis(GRID.to_pixel(place), -1, 0)
        above = map_coordinates(np.where(free, x, 0.0), pixel, order=1, mode="grid-constant")
        below = map_coordinates(free.astype(float), pixel, order=1, mode="grid-constant")
        cell, tap, weight = bilinear(GRID, free, place.reshape(-1, 2))
        usable = weight >= 0.25
        direct = (x.ravel()[cell] * tap).sum(axis=1)[usable]
        shifted = above.ravel()[usable] / below.ravel()[usable]
        np.testing.assert_allclose(direct, shifted, atol=1e-12)


def hat_kernel(deviation, reach):
    """Exact bilinear average of a Gaussian, per axis [cells]."""
    j = np.arange(-reach - 1, reach + 2, dtype=float)
    ramp = j * erf(j / (deviation * np.sqrt(2))) + deviation * np.sqrt(2 / np.pi) * np.exp(
        -(j**2) / (2 * deviation**2)
    )
    return 0.5 * (ramp[:-2] - 2 * ramp[1:-1] + ramp[2:])


@pytest.mark.parametrize(("q", "extra"), [(16, 1 / 6), (1, 1 / 12)])
@pytest.mark.parametrize("deviation", [0.8, 1.7])
def test_kernels_have_the_variance_of_their_shape(q, extra, deviation):
    cov = same(np.eye(2) * deviation**2)
    operator = DriftOperator.build(GRID, ALL_FREE, MIDDLE, cov, q=q, deviations=6.0)
    kernel = operator.adjoint(operator.omega).sum(axis=0)
    centre = np.arange(30) - 15
    assert kernel.sum() == pytest.approx(1.0, abs=1e-9)
    assert kernel @ centre**2 == pytest.approx(deviation**2 + extra, abs=1e-3)
    if q == 16:
        np.testing.assert_allclose(kernel[2:29], hat_kernel(deviation, 13), atol=1e-3)


def test_gathering_equals_masked_convolution_on_cell_centres():
    free, x, deviation = walls(4), np.random.default_rng(5).random(GRID.shape), 1.3
    places = GRID.centres_m()[free]
    cov = same(np.eye(2) * deviation**2, len(places))
    operator = DriftOperator.build(GRID, free, places, cov, q=1)
    mean, variance = operator.moments(x)
    j = np.arange(-4, 5)
    axis = ndtr((j + 0.5) / deviation) - ndtr((j - 0.5) / deviation)
    kernel = np.outer(axis, axis)
    below = convolve2d(free.astype(float), kernel, mode="same")
    first = convolve2d(np.where(free, x, 0.0), kernel, mode="same") / below
    second = convolve2d(np.where(free, x**2, 0.0), kernel, mode="same") / below
    np.testing.assert_allclose(mean, first[free], atol=1e-10)
    np.testing.assert_allclose(variance, (second - first**2)[free], atol=1e-10)


def test_the_lattice_converges_by_four_per_doubling():
    wave = np.sin(0.7 * np.arange(30)) * np.cos(0.5 * np.arange(30))[:, None]
    x = 0.5 + 0.3 * wave + 0.2 * np.arange(30)[:, None] / 30
    free = np.kron(walls(6, 0.2, (10, 10)), np.ones((3, 3), bool))
    places = GRID.centres_m()[free]
    cov = same(np.eye(2) * 0.64, len(places))
    exact = DriftOperator.build(GRID, free, places, cov, q=12, deviations=4.0).moments(x)
    mean_error, variance_error = [], []
    for q in (1, 2, 4):
        mean, variance = DriftOperator.build(GRID, free, places, cov, q=q, deviations=4.0).moments(
            x
        )
        mean_error.append(np.sqrt(np.mean((mean - exact[0]) ** 2)))
        variance_error.append(np.mean(np.abs(variance - exact[1])) / np.mean(exact[1]))
    assert mean_error[1] < 1e-3 and variance_error[1] < 0.07
    for error in (mean_error, variance_error):
        assert error[0] > 3 * error[1] > 9 * error[2]


def test_the_default_lattice_is_fine_for_small_drift_only():
    def count(deviation):
        cov = same(np.eye(2) * deviation**2)
        return len(DriftOperator.build(GRID, ALL_FREE, MIDDLE, cov).omega)

    assert [count(0.0), count(0.8), count(1.6), count(3.2)] == [1, 13**2, 11**2, 21**2]


def test_vanishing_drift_is_no_drift():
    x = np.random.default_rng(7).random(GRID.shape)
    place = np.array([[15.2, 14.9]])
    exact = DriftOperator.build(GRID, ALL_FREE, place, same(np.zeros((2, 2)))).read(x)
    for cov in (1e-8 * np.eye(2), np.array([[1e-8, 9e-9], [9e-9, 1e-8]])):
        operator = DriftOperator.build(GRID, ALL_FREE, place, same(cov), q=200)
        mean, _ = operator.moments(x)
        np.testing.assert_allclose(mean, exact, atol=5e-3)


def test_correlated_weights_tend_to_the_independent_ones():
    x = np.random.default_rng(8).random(GRID.shape)
    cov, turned = np.diag([1.44, 0.81]), np.array([[1.44, 1e-9], [1e-9, 0.81]])
    plain = DriftOperator.build(GRID, ALL_FREE, MIDDLE, same(cov))
    full = DriftOperator.build(GRID, ALL_FREE, MIDDLE, same(turned))
    np.testing.assert_allclose(full.omega, plain.omega, atol=1e-5)
    np.testing.assert_allclose(full.moments(x), plain.moments(x), atol=1e-4)


def test_a_report_in_a_building_widens_and_one_too_deep_is_dropped():
    free = ALL_FREE.copy()
    free[5:25, 5:25] = False
    reported = np.array([[7.5, 15.5], [15.5, 15.5], [-200.0, 0.0], [2.5, 2.5]])
    operator = DriftOperator.build(GRID, free, reported, same(0.49 * np.eye(2), 4))
    assert operator.kept.tolist() == [True, False, False, True]
    assert operator.offset_m[operator.report == 0, 0].min() == pytest.approx(-3.0, abs=1.01)
    assert operator.mean_place_m[0, 0] < 5.0
    np.testing.assert_allclose(operator.mean_place_m[1], reported[3], atol=0.05)


def test_a_wall_pushes_the_cloud_away_and_makes_it_smaller():
    free = ALL_FREE.copy()
    free[:, 16:] = False
    operator = DriftOperator.build(GRID, free, MIDDLE, same(np.eye(2)))
    assert operator.mean_place_m[0, 0] < 15.3
    assert operator.mean_place_m[0, 1] == pytest.approx(14.5)
    assert operator.place_cov_m2[0, 0, 0] < 0.7 < operator.place_cov_m2[0, 1, 1]


def test_drawn_nodes_have_the_moments_of_the_lattice():
    free = walls(9)
    places = GRID.centres_m()[free][100:103]
    cov = same([[2.0, 0.8], [0.8, 1.0]], 3)
    lattice = DriftOperator.build(GRID, free, places, cov, q=6, deviations=5.0)
    for shared in (False, True):
        drawn = DriftOperator.draw(
            GRID, free, places, cov, draws=40_000, generator=np.random.default_rng(1), shared=shared
        )
        np.testing.assert_allclose(drawn.mean_place_m, lattice.mean_place_m, atol=0.04)
        np.testing.assert_allclose(drawn.place_cov_m2, lattice.place_cov_m2, atol=0.06)


def test_no_report_is_no_node():
    operator = DriftOperator.build(GRID, ALL_FREE, np.zeros((0, 2)), np.zeros((0, 2, 2)))
    assert operator.count == 0 and operator.read(np.zeros(GRID.shape)).shape == (0,)
    assert not operator.adjoint(np.zeros(0)).any()


def test_wrong_masks_and_lattices_are_refused(monkeypatch):
    with pytest.raises(ReportsError, match="does not fit"):
        DriftOperator.build(GRID, ALL_FREE[1:], MIDDLE, same(np.eye(2)))
    with pytest.raises(ReportsError, match="at least one node"):
        DriftOperator.build(GRID, ALL_FREE, MIDDLE, same(np.eye(2)), q=0)
    monkeypatch.setattr("hertzmap.measurement.operator.NODE_LIMIT", 100)
    with pytest.raises(ReportsError, match="coarser grid"):
        DriftOperator.build(GRID, ALL_FREE, MIDDLE, same(4.0 * np.eye(2)))
