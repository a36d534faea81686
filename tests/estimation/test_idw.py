import numpy as np
import pytest

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.estimation.idw import Idw, IdwConfig

SITE = SceneRaster(Grid(6, 8), np.zeros((6, 8)), np.ones((6, 8), bool))


def reports_at(place, power, noise_db=1.0):
    count = len(power)
    return Reports(
        np.array(place, float),
        np.array(power, float),
        np.full(count, noise_db),
        np.zeros((count, 2, 2)),
    )


def test_weights_follow_the_inverse_square_of_the_distance():
    reports = reports_at([[0.5, 0.5], [6.5, 0.5]], [-80.0, -100.0])
    map_dbm = Idw.from_preset("as_published").estimate(reports, SITE, seed=0).mean_dbm()
    near, far = 1.0 / 2.0**2, 1.0 / 4.0**2
    assert map_dbm[0, 2] == pytest.approx((-80.0 * near - 100.0 * far) / (near + far))


def test_noise_makes_the_tuned_one_average_more_than_the_published_one():
    draw = np.random.default_rng(0)
    grid = Grid(40, 40)
    site = SceneRaster(grid, np.zeros(grid.shape), np.ones(grid.shape, bool))
    place = draw.uniform(0.0, 40.0, (300, 2))
    reports = reports_at(place, -90.0 + 10.0 * draw.standard_normal(300), 10.0)
    error = {
        preset: np.abs(Idw.from_preset(preset).estimate(reports, site, seed=0).mean_dbm() + 90.0)
        for preset in ("tuned", "as_published")
    }
    assert error["tuned"].mean() < 0.5 * error["as_published"].mean()


def test_the_spread_leaves_out_the_stated_noise():
    draw = np.random.default_rng(0)
    place = draw.uniform(0.0, 6.0, (60, 2))
    heard = -90.0 + 3.0 * draw.standard_normal(60)
    told = Idw().estimate(reports_at(place, heard, 3.0), SITE, seed=0).std_db().max()
    untold = Idw().estimate(reports_at(place, heard, 0.0), SITE, seed=0).std_db().max()
    assert told < 0.7 * untold


def test_one_report_is_enough_and_none_is_refused():
    one = Idw().estimate(reports_at([[1.0, 1.0]], [-77.0]), SITE, seed=0)
    assert (one.mean_dbm() == -77.0).all()
    with pytest.raises(ReportsError, match="no report"):
        Idw().estimate(reports_at(np.empty((0, 2)), []), SITE, seed=0)


@pytest.mark.parametrize("wrong", [{"exponents": ()}, {"neighbours": (0,)}, {"least_m": 0.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="IdwConfig"):
        IdwConfig(**wrong)
