import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior

GRID = Grid(3, 4)


def posterior(seed, candidates=3, spread=None):
    draw = np.random.default_rng(seed)
    shape = (candidates, *GRID.shape)
    spreads = draw.uniform(0.5, 6.0, shape) if spread is None else np.full(shape, spread)
    return MapPosterior(
        GRID, draw.normal(-90.0, 15.0, shape), draw.normal(0, 2, candidates), spreads
    )


seeds = st.integers(0, 10_000)


@given(seeds, st.floats(-50.0, 50.0))
def test_weights_sum_to_1_and_forget_a_common_constant(seed, constant):
    belief = posterior(seed)
    moved = MapPosterior(GRID, belief.maps_dbm, belief.log_weight + constant, belief.spread_db)
    assert belief.weight.sum() == pytest.approx(1.0)
    assert np.allclose(belief.weight, moved.weight)


@settings(deadline=None)
@given(seeds, st.floats(0.02, 0.98))
def test_a_quantile_has_its_probability_below(seed, level):
    belief = posterior(seed)
    below = belief.probability_below(belief.quantile_dbm(level))
    assert np.abs(below - level).max() < 0.01


@given(seeds, st.floats(-150.0, -30.0), st.floats(0.0, 30.0))
def test_coverage_falls_with_the_threshold_and_complements_the_rest(seed, threshold, more):
    belief = posterior(seed)
    low, high = (
        belief.coverage_probability(threshold),
        belief.coverage_probability(threshold + more),
    )
    assert (high <= low + 1e-12).all() and ((low >= 0) & (low <= 1)).all()
    assert np.allclose(low + belief.probability_below(threshold), 1.0)


def test_one_candidate_is_a_gaussian():
    belief = posterior(1, candidates=1, spread=3.0)
    assert np.allclose(belief.mean_dbm(), belief.maps_dbm[0])
    assert np.allclose(belief.std_db(), 3.0)
    expected = belief.maps_dbm[0] + 3.0 * norm.ppf(0.9)
    assert np.abs(belief.quantile_dbm(0.9) - expected).max() < 0.01


def test_members_have_the_mean_and_spread_of_the_belief():
    belief = posterior(2)
    members = belief.members(20_000, seed=3)
    assert members.shape == (20_000, *GRID.shape)
    assert np.abs(members.mean(axis=0) - belief.mean_dbm()).max() < 0.8
    assert np.abs(members.std(axis=0) / belief.std_db() - 1.0).max() < 0.05
    assert np.array_equal(members, belief.members(20_000, seed=3))


def test_a_bare_sample_is_a_step():
    belief = posterior(4, candidates=1, spread=0.0)
    assert (belief.probability_below(belief.maps_dbm[0] - 0.1) == 0.0).all()
    assert (belief.probability_below(belief.maps_dbm[0] + 0.1) == 1.0).all()


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5])
def test_a_level_outside_0_to_1_is_refused(level):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        posterior(1).quantile_dbm(level)


@pytest.mark.parametrize(
    ("maps", "spread", "message"),
    [
        (np.zeros((2, 3, 4)), np.zeros((1, 3, 4)), "candidates"),
        (np.full((1, 3, 4), np.nan), np.zeros((1, 3, 4)), "finite"),
        (np.zeros((1, 3, 4)), -np.ones((1, 3, 4)), "at least 0"),
    ],
)
def test_a_belief_that_is_none_is_refused(maps, spread, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MapPosterior(GRID, maps, np.zeros(1), spread)


def test_the_covered_share_and_its_interval_follow_the_threshold():
    east = np.broadcast_to(np.linspace(-100.0, -60.0, 41), (5, 41))
    free = np.ones((5, 41), bool)
    sure = MapPosterior(Grid(5, 41), east[None], np.zeros(1), np.zeros((1, 5, 41)))
    assert sure.covered_share(-80.5, free) == pytest.approx((21 / 41, 21 / 41, 21 / 41))
    doubt = MapPosterior(Grid(5, 41), east[None], np.zeros(1), np.full((1, 5, 41), 4.0))
    mean, low, high = doubt.covered_share(-80.5, free)
    assert mean == pytest.approx(21 / 41, abs=0.02)
    assert low == pytest.approx((21 - 6.6) / 41, abs=0.03)
    assert high == pytest.approx((21 + 6.6) / 41, abs=0.03)


def test_a_share_of_no_cells_is_refused():
    none = MapPosterior(Grid(2, 2), np.zeros((1, 2, 2)), np.zeros(1), np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="covered_share"):
        none.covered_share(-90.0, np.zeros((2, 2), bool))
