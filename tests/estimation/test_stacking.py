import dataclasses

import numpy as np
import pytest

from hertzmap.core.grid import Grid
from hertzmap.estimation import _families as families_of
from hertzmap.estimation import _gaussian_process as gp
from hertzmap.estimation import _stacking as stacking

GRID = Grid(8, 8, 5.0)


def a_field(count=80, seed=0):
    """Places, and values that rise to the east with 1 dB of noise."""
    draw = np.random.default_rng(seed)
    place = draw.uniform(0.0, 40.0, (count, 2))
    return place, 0.8 * place[:, 0] + draw.standard_normal(count)


def a_family(place, value, term, *, members=1, noise_db=1.0):
    """Processes whose mean is one unknown multiple of a term, besides a constant."""
    basis = np.column_stack([np.ones(len(place)), term(place)])
    nothing, noise = np.zeros(len(place)), np.full(len(place), noise_db**2)
    seen = gp.Observations(place, nothing, value, noise, basis, np.zeros(2), np.zeros(2))
    process = gp.condition(seen, gp.Hyperparameters(4.0, 3.0))
    cells = GRID.centres_m()
    terms = np.stack([np.ones(GRID.shape), term(cells)], axis=-1)
    return stacking.Family(
        [process] * members,
        np.full(members, -np.log(members)),
        np.zeros((members, *GRID.shape)),
        [terms] * members,
    )


def east(place):
    return place[..., 0]


def north(place):
    return place[..., 1]


def test_the_family_that_fills_gaps_takes_nearly_all():
    place, value = a_field()
    block = stacking.square_blocks(place, 10.0)
    families = [a_family(place, value, term) for term in (north, east)]
    weight = np.exp(stacking.GapErrors.of(families, block).log_shares())
    assert weight.sum() == pytest.approx(1.0)
    assert weight[1] > 0.9
    assert weight[0] >= stacking.PSEUDO_BLOCKS / (block.max() + 1 + 2 * stacking.PSEUDO_BLOCKS)


def test_twins_share_alike_however_many_members_one_has():
    place, value = a_field()
    families = [a_family(place, value, east), a_family(place, value, east, members=3)]
    shares = stacking.GapErrors.of(families, stacking.square_blocks(place, 10.0)).log_shares()
    np.testing.assert_allclose(shares, -np.log(2.0), atol=1e-6)


def test_with_one_block_nothing_is_judged():
    place, value = a_field(10)
    families = [a_family(place, value, term) for term in (north, east)]
    shares = stacking.GapErrors.of(families, np.zeros(10, int)).log_shares()
    np.testing.assert_allclose(shares, -np.log(2.0))


def test_repeated_reports_of_one_place_count_once():
    """A hundred more reports at one place do not outvote the other places."""
    place, value = a_field(60)
    draw = np.random.default_rng(3)
    again = np.concatenate([place, np.repeat(place[:1], 100, axis=0)])
    heard = np.concatenate([value, value[0] + draw.standard_normal(100)])
    few, many = (
        stacking.GapErrors.of(
            [a_family(p, v, term) for term in (north, east)], stacking.square_blocks(p, 10.0)
        ).log_shares()
        for p, v in ((place, value), (again, heard))
    )
    assert np.exp(many)[1] == pytest.approx(np.exp(few)[1], abs=0.05)


def test_weights_are_those_of_highest_score():
    score = np.random.default_rng(1).normal(0.0, 1.0, (2, 30))
    weight = stacking._mixture_weights(score)
    share = np.linspace(0.001, 0.999, 999)
    mixed = np.log(share[:, None] * np.exp(score[0]) + (1 - share[:, None]) * np.exp(score[1]))
    prior = stacking.PSEUDO_BLOCKS * (np.log(share) + np.log(1.0 - share))
    assert weight[0] == pytest.approx(share[np.argmax(mixed.sum(axis=1) + prior)], abs=2e-3)


def test_blocks_are_squares_numbered_from_zero():
    place = np.array([[0.0, 0.0], [9.0, 9.0], [11.0, 0.0], [35.0, 0.0], [11.5, 9.9]])
    block = stacking.square_blocks(place, 10.0)
    assert block[0] == block[1] and block[2] == block[4]
    assert sorted(set(block)) == [0, 1, 2]


def test_the_gap_is_how_far_free_ground_lies_from_reports():
    grid = Grid(1, 101, 2.0)
    free = np.ones(grid.shape, bool)
    middle = grid.centres_m()[0, 50:51]
    assert stacking.typical_gap_m(grid, free, middle) == pytest.approx(50.0)
    free[:, 52:] = False
    free[:, :49] = False
    assert stacking.typical_gap_m(grid, free, middle) == pytest.approx(2.0)
    everywhere = grid.centres_m().reshape(-1, 2)
    assert stacking.typical_gap_m(grid, free, everywhere) == pytest.approx(2.0)


def test_errors_beyond_the_stated_spread_widen_it_and_smaller_ones_narrow_it():
    place, value = a_field()
    draw = np.random.default_rng(4)
    rough = value + 6.0 * np.sin(place[:, 1]) + draw.standard_normal(len(value))
    factors = []
    for heard in (value, rough):
        families = [a_family(place, heard, east)]
        gaps = stacking.GapErrors.of(families, stacking.square_blocks(place, 10.0))
        factors.append(gaps.spread_factor(np.ones(1), 0.8))
    assert factors[0] < 0.8 < factors[1]


def test_without_gaps_the_factor_is_the_usual_one():
    place, value = a_field(10)
    gaps = stacking.GapErrors.of([a_family(place, value, east)], np.zeros(10, int))
    assert gaps.spread_factor(np.ones(1), 0.7) == 0.7


def test_the_median_takes_the_middle_family_and_no_outlier():
    value = np.array([0.0, 1.0, 30.0])[:, None, None] * np.ones((3, 2, 2))
    assert (families_of.weighted_median(value, np.array([0.3, 0.3, 0.4])) == 1.0).all()
    assert (families_of.weighted_median(value, np.array([0.2, 0.2, 0.6])) == 30.0).all()


@pytest.mark.parametrize(("noise_db", "drowned"), [(0.5, 0.0), (50.0, 1.0)])
def test_noise_drowns_the_field_where_it_outweighs_what_the_kernel_leaves_open(noise_db, drowned):
    place, value = a_field()
    families = [a_family(place, value, east, noise_db=noise_db)]
    gaps = stacking.GapErrors.of(families, stacking.square_blocks(place, 10.0))
    assert gaps.drowned(np.ones(1)) == drowned


def test_a_nugget_taken_for_noise_leaves_means_and_predictions_and_narrows_the_field():
    place, value = a_field()
    family = a_family(place, value, east)
    hyper = gp.Hyperparameters(4.0, 3.0, 2.0)
    first = gp.condition(family.processes[0].observations, hyper)
    family = dataclasses.replace(family, processes=[first])
    other = family.with_nugget_as_noise()
    chosen = np.zeros(1, int)
    np.testing.assert_allclose(other.maps_dbm(GRID, chosen), family.maps_dbm(GRID, chosen))
    np.testing.assert_allclose(
        family.deviation_db(GRID) ** 2 - other.deviation_db(GRID) ** 2, 2.0, atol=1e-4
    )
    again = gp.condition(other.processes[0].observations, other.processes[0].hyper)
    np.testing.assert_allclose(again.weight, first.weight, rtol=1e-6)
