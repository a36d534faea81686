"""Laws 1, 2, 3, 7 and 25: what every measurement operator obeys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hertzmap.core.grid import Grid
from hertzmap.measurement.operator import DriftOperator

SIDE = 20
GRID = Grid(SIDE, SIDE, 1.5, (30.0, -12.0))
COVARIANCES = {
    "none": np.zeros((2, 2)),
    "isotropic": 1.4 * np.eye(2),
    "wide": 9.0 * np.eye(2),
    "axes": np.diag([4.0, 0.3]),
    "line": np.diag([4.0, 0.0]),
    "full": np.array([[3.0, 1.2], [1.2, 1.0]]),
    "slanted line": np.array([[2.0, 1.0], [1.0, 0.5]]),
}
KINDS = [*COVARIANCES, "mixed", "drawn", "drawn together"]
seeds = st.integers(0, 2**32 - 1)


def world(kind, seed, points=25):
    """Random walls; reports on cell centres, anywhere, in walls and off the map."""
    draw = np.random.default_rng(seed)
    free = draw.random(GRID.shape) < 0.7
    centres = GRID.centres_m().reshape(-1, 2)[draw.integers(0, SIDE * SIDE, points)]
    anywhere = np.array(GRID.origin_m) + 1.5 * draw.uniform(-2.0, SIDE + 2.0, (points, 2))
    reported = np.where(draw.random((points, 1)) < 0.5, centres, anywhere)
    choices = np.array(list(COVARIANCES.values()))
    if kind in COVARIANCES:
        cov = np.tile(COVARIANCES[kind], (points, 1, 1))
    else:
        cov = choices[draw.integers(0, len(choices), points)]
    return draw, free, reported, cov


def build(kind, free, reported, cov, seed=0):
    if kind.startswith("drawn"):
        generator = np.random.default_rng(seed)
        return DriftOperator.draw(
            GRID, free, reported, cov, draws=7, generator=generator, shared="together" in kind
        )
    return DriftOperator.build(GRID, free, reported, cov)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_reading_and_adjoint_are_transposes(kind, seed):
    draw, free, reported, cov = world(kind, seed)
    operator = build(kind, free, reported, cov)
    x, w = draw.standard_normal(GRID.shape), draw.standard_normal(len(operator.omega))
    left, right = operator.read(x) @ w, np.sum(x * operator.adjoint(w))
    np.testing.assert_allclose(left, right, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_weights_are_probabilities_on_free_cells(kind, seed):
    _, free, reported, cov = world(kind, seed)
    operator = build(kind, free, reported, cov)
    total = np.bincount(operator.report, operator.omega, minlength=operator.count)
    np.testing.assert_allclose(total, 1.0, atol=1e-12)
    np.testing.assert_allclose(operator.tap.sum(axis=1), 1.0, atol=1e-12)
    assert (operator.omega > 0).all() and (operator.tap >= 0).all()
    assert free.ravel()[operator.cell[operator.tap > 0]].all()
    assert (np.diff(operator.report) >= 0).all()
    assert operator.kept.sum() == operator.count == len(np.unique(operator.report))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, level=st.floats(-2.0, 2.0))
def test_a_constant_map_reads_as_the_constant_whatever_the_walls_hold(kind, seed, level):
    _, free, reported, cov = world(kind, seed)
    mean, variance = build(kind, free, reported, cov).moments(np.where(free, level, np.nan))
    np.testing.assert_allclose(mean, level, atol=1e-12)
    np.testing.assert_allclose(variance, 0.0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_values_in_buildings_never_matter(kind, seed):
    draw, free, reported, cov = world(kind, seed)
    operator = build(kind, free, reported, cov)
    x = draw.random(GRID.shape)
    changed = np.where(free, x, draw.standard_normal(GRID.shape) * 1e6)
    assert np.array_equal(operator.read(x), operator.read(changed))


def mirror(map_, places, cov):
    """East becomes west."""
    west, _, east, _ = GRID.bounds_m
    sign = np.diag([-1.0, 1.0])
    return map_[:, ::-1], places * [-1.0, 1.0] + [west + east, 0.0], sign @ cov @ sign


def transpose(map_, places, cov):
    """East and north change places (about the grid's south-west corner)."""
    corner = np.array(GRID.origin_m)
    return map_.T, (places - corner)[:, ::-1] + corner, cov[:, ::-1, ::-1]


def rotate(map_, places, cov):
    return mirror(*transpose(map_, places, cov))


@pytest.mark.parametrize("symmetry", [mirror, transpose, rotate])
@pytest.mark.parametrize("kind", [*COVARIANCES, "mixed"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_square_symmetries_change_nothing(symmetry, kind, seed):
    draw, free, reported, cov = world(kind, seed)
    x = draw.random(GRID.shape)
    before = build(kind, free, reported, cov)
    turned_free, turned_reported, turned_cov = symmetry(free, reported, cov)
    turned_x, _, _ = symmetry(x, reported, cov)
    after = build(kind, turned_free, turned_reported, turned_cov)
    assert np.array_equal(before.kept, after.kept)
    for old, new in zip(before.moments(x), after.moments(turned_x), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-12)
    _, turned_mean, turned_place_cov = symmetry(x, before.mean_place_m, before.place_cov_m2)
    np.testing.assert_allclose(after.mean_place_m, turned_mean, atol=1e-11)
    np.testing.assert_allclose(after.place_cov_m2, turned_place_cov, atol=1e-11)
