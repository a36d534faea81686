"""Noise that is stated wrong is found; noise that is stated right stays as it is."""

import numpy as np
import pytest

from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports
from hertzmap.estimation._noise import noise_factor, with_fitted_noise
from hertzmap.measurement.operator import DriftOperator

GRID = Grid(60, 60, 2.0)
FREE = np.ones(GRID.shape, bool)


def campaign(*, stated, noise_db=8.0, count=600):
    draw = np.random.default_rng(0)
    place = draw.uniform(0.0, 120.0, (count, 2))
    field = -90.0 + 15.0 * np.sin(place[:, 0] / 30.0) + 0.15 * place[:, 1]
    heard = field + noise_db * draw.standard_normal(count)
    told = np.full(count, stated * noise_db)
    reports = Reports(place, heard, told, np.tile(0.3 * np.eye(2), (count, 1, 1)), 0.0)
    return reports, DriftOperator.build(GRID, FREE, place, reports.drift_cov_m2)


def test_noise_that_is_stated_right_stays():
    reports, operator = campaign(stated=1.0)
    assert with_fitted_noise(reports, operator, np.random.default_rng(0)) is reports


@pytest.mark.parametrize("stated", [1.6, 2.5])
def test_overstated_noise_is_scaled_down(stated):
    reports, operator = campaign(stated=stated)
    factor = noise_factor(reports, operator, np.random.default_rng(0))
    assert factor * stated == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("stated", [0.3, 0.5])
def test_understated_noise_is_scaled_up_beyond_what_fading_explains(stated):
    reports, operator = campaign(stated=stated, noise_db=12.0)
    factor = noise_factor(reports, operator, np.random.default_rng(0))
    assert 0.75 < factor * stated < 1.1


def test_a_small_excess_is_left_to_the_field():
    reports, operator = campaign(stated=0.5, noise_db=4.0)
    assert noise_factor(reports, operator, np.random.default_rng(0)) == 1.0


def test_few_reports_are_believed():
    reports, operator = campaign(stated=3.0, count=20)
    assert noise_factor(reports, operator, np.random.default_rng(0)) == 1.0
