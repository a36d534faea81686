"""Offsets of devices are told from the field, and only where they are there."""

from dataclasses import replace

import numpy as np

from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports
from hertzmap.estimation._devices import without_offsets
from hertzmap.measurement.operator import DriftOperator

GRID = Grid(40, 40, 2.0)
FREE = np.ones(GRID.shape, bool)


def campaign(offset_db, *, count=400, noise_db=1.0):
    draw = np.random.default_rng(0)
    place = draw.uniform(0.0, 80.0, (count, 2))
    field = -90.0 + 12.0 * np.sin(place[:, 0] / 25.0) + 0.1 * place[:, 1]
    device = draw.integers(len(offset_db), size=count) + 100
    heard = field + noise_db * draw.standard_normal(count) + np.asarray(offset_db)[device - 100]
    reports = Reports(
        place, heard, np.full(count, noise_db), np.zeros((count, 2, 2)), 0.0, device_id=device
    )
    return reports, field


def cleaned(reports):
    operator = DriftOperator.build(GRID, FREE, reports.reported_m, reports.drift_cov_m2)
    return without_offsets(reports, operator, np.random.default_rng(1))[0]


def test_offsets_are_removed_and_their_doubt_is_stated():
    offset = np.array([-8.0, -3.0, 0.0, 4.0, 7.0])
    reports, field = campaign(offset - offset.mean())
    mended = cleaned(reports)
    before, after = (np.sqrt(np.mean((one.power_dbm - field) ** 2)) for one in (reports, mended))
    assert before > 4.0 and after < 1.6
    assert (mended.noise_db > reports.noise_db).all()


def test_equal_devices_stay_as_they_are():
    reports, _ = campaign(np.zeros(5))
    mended = cleaned(reports)
    assert np.abs(mended.power_dbm - reports.power_dbm).max() < 0.5


def test_unnamed_or_single_devices_stay_untouched():
    reports, _ = campaign(np.zeros(1))
    assert cleaned(reports) is reports
    unnamed = replace(reports, device_id=None)
    assert cleaned(unnamed) is unnamed


def test_the_common_level_is_as_doubtful_as_the_mean_of_the_offsets():
    offset = 6.0 * np.random.default_rng(2).standard_normal(16)
    for values, low, high in ((offset, 1.0, 2.0), (np.zeros(16), 0.0, 0.4)):
        reports, _ = campaign(values)
        operator = DriftOperator.build(GRID, FREE, reports.reported_m, reports.drift_cov_m2)
        level_db = without_offsets(reports, operator, np.random.default_rng(1))[1]
        assert low <= level_db <= high
