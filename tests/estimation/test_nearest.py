import numpy as np
import pytest

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.estimation.nearest import Nearest


def reports_at(place, power):
    count = len(power)
    return Reports(
        np.array(place, float), np.array(power, float), np.ones(count), np.zeros((count, 2, 2))
    )


SITE = SceneRaster(Grid(6, 8), np.zeros((6, 8)), np.ones((6, 8), bool))


def test_each_cell_takes_the_mean_of_its_nearest_place():
    reports = reports_at([[0.5, 0.5], [0.5, 0.5], [7.5, 5.5]], [-80.0, -90.0, -100.0])
    map_dbm = Nearest.from_preset("default").estimate(reports, SITE, seed=0).mean_dbm()
    assert map_dbm[0, 0] == -85.0
    assert map_dbm[5, 7] == -100.0
    assert set(np.unique(map_dbm)) == {-85.0, -100.0}


def test_the_spread_is_the_left_out_error():
    reports = reports_at([[0.5, 0.5], [2.5, 0.5], [7.5, 0.5]], [-80.0, -84.0, -90.0])
    spread = Nearest().estimate(reports, SITE, seed=0).std_db()
    np.testing.assert_allclose(spread, np.sqrt((16.0 + 16.0 + 36.0) / 3.0))


def test_no_report_is_refused():
    with pytest.raises(ReportsError, match="no report"):
        Nearest().estimate(reports_at(np.empty((0, 2)), []), SITE, seed=0)


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match="default"):
        Nearest.from_preset("tuned")
