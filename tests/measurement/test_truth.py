"""Truth is the power average of a finer map, on the scale, with its floor where nothing arrives."""

import numpy as np
import pytest

from hertzmap.core.errors import DataError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Reports, Transmitter
from hertzmap.core.units import GreyScale
from hertzmap.measurement.truth import SimulatedReports, truth_from_fine, truth_from_grid

TRANSMITTER = Transmitter((1.0, 1.0, 10.0))
FLOOR = GreyScale().min_db


def fine_map(gain, valid=None, spacing_m=0.5):
    gain = np.asarray(gain, float)
    valid = np.ones(gain.shape, bool) if valid is None else np.asarray(valid)
    grid = Grid(len(gain), gain.shape[1], spacing_m, (5.0, -3.0))
    return RadioMap(grid, np.where(valid, gain, np.nan)[None], valid[None], (TRANSMITTER,))


def test_gains_average_as_powers_over_the_free_parts():
    gain = [[-80.0, -90.0, -100.0, -100.0], [-80.0, -90.0, -100.0, -100.0]]
    free = np.array([[True, True, True, False], [True, True, False, False]])
    truth = truth_from_fine(fine_map(gain, free), free)
    expected = 10 * np.log10((1e-8 + 1e-9) / 2)
    np.testing.assert_allclose(truth.path_gain_db, [[expected, FLOOR]])
    assert truth.free.tolist() == [[True, False]]
    assert truth.grid == Grid(1, 2, 1.0, (5.0, -3.0)) and not truth.same_operator
    told = truth_from_fine(fine_map(gain, free), free, free=np.array([[True, True]]))
    np.testing.assert_allclose(told.path_gain_db, [[expected, -100.0]])


def test_unheard_parts_count_with_the_floor_and_gains_stay_on_the_scale():
    valid = np.array([[True, True, False, False], [False, False, False, False]])
    free = np.ones((2, 4), bool)
    truth = truth_from_fine(
        fine_map(np.full((2, 4), -20.0), valid), free, scale=GreyScale(-140.0, -60.0)
    )
    expected = 10 * np.log10(0.5 * (1e-6 + 1e-14))
    np.testing.assert_allclose(truth.path_gain_db, [[expected, -140.0]])
    assert truth.fine_gain_db.max() == -60.0 and truth.fine_gain_db.min() == -140.0


def test_averaging_keeps_the_mean_power():
    gain = np.random.default_rng(0).uniform(-120.0, -60.0, (12, 18))
    truth = truth_from_fine(fine_map(gain), np.ones((12, 18), bool), factor=3)
    power = [10 ** (layer / 10) for layer in (truth.path_gain_db, gain)]
    assert power[0].mean() == pytest.approx(power[1].mean(), rel=1e-12)


def test_one_grid_only_is_flagged():
    grid, free = Grid(3, 4), np.ones((3, 4), bool)
    gain = np.full(grid.shape, -80.0)
    gain[0, 0] = np.nan
    truth = truth_from_grid(grid, gain, free, parameters={"source": "a PNG"})
    assert truth.same_operator and truth.fine_grid == grid and truth.transmitter is None
    assert truth.path_gain_db[0, 0] == FLOOR and truth.parameters["source"] == "a PNG"
    assert truth_from_fine(fine_map(gain, ~np.isnan(gain)), free, factor=1).same_operator


def test_shapes_that_do_not_fit_are_refused():
    gain = np.full((4, 6), -80.0)
    with pytest.raises(DataError, match="factor 4"):
        truth_from_fine(fine_map(gain), np.ones((4, 6), bool), factor=4)
    with pytest.raises(DataError, match="fine mask"):
        truth_from_fine(fine_map(gain), np.ones((4, 4), bool))
    with pytest.raises(DataError, match="coarse grid"):
        truth_from_fine(fine_map(gain), np.ones((4, 6), bool), free=np.ones((4, 6), bool))
    reports = Reports(np.zeros((2, 2)), np.zeros(2), np.ones(2), np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="2 reports"):
        SimulatedReports(reports, np.zeros((3, 2)))
