"""The combined estimate, without a network unless said: engine and path loss from reports alone."""

from dataclasses import replace

import numpy as np
import pytest

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, Transmitter
from hertzmap.estimation._engine_search import SearchConfig
from hertzmap.estimation.combined import PRESETS, Combined, CombinedConfig
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.scenes.synthetic import city

GRID = Grid(64, 64, 1.5, (-48.0, -48.0))
TRUE = Transmitter((-20.5, -10.5, 5.0), 2.6e9)
SHORT = SearchConfig(rounds=3)


@pytest.fixture(scope="module")
def town():
    return Environment.prepare(city(9, size_m=96.0, buildings=16), GRID, margin_m=0.0)


def world(town, *, count=150, noise_db=4.0, reference_dbm=0.0):
    numbers = PropagationParameters(n_los=2.1, n_nlos=3.0, n_bend=1.5, waveguide_db=2.0)
    radio_map = DominantPath(town, numbers).trace((TRUE,))
    truth, seen = radio_map.path_gain_db[0], radio_map.valid[0] & town.site.free
    draw = np.random.default_rng(0)
    cell = draw.choice(np.flatnonzero(seen), count, replace=False)
    power = truth.ravel()[cell] + noise_db * draw.standard_normal(count)
    place = GRID.centres_m().reshape(-1, 2)[cell]
    drift = np.tile(0.6**2 * np.eye(2), (count, 1, 1))
    return Reports(place, power, np.full(count, noise_db), drift, reference_dbm), truth, seen


def rms(posterior, truth, seen):
    return float(np.sqrt(np.mean((posterior.mean_dbm() - truth)[seen] ** 2)))


def without_network(**options):
    return Combined(replace(PRESETS["without_network"], search=SHORT, **options))


def test_the_engine_makes_it_better_where_the_engine_is_right(town):
    reports, truth, seen = world(town)
    both = without_network().estimate(reports, town.site, seed=0)
    alone = without_network(engine=False).estimate(reports, town.site, seed=0)
    assert rms(both, truth, seen) < 0.8 * rms(alone, truth, seen)


def test_where_the_engine_is_wrong_it_does_little_harm(town):
    reports, _, seen = world(town, noise_db=1.0, count=400)
    east = town.site.grid.centres_m()[..., 0]
    wavy = -90.0 + 12.0 * np.sin(east / 6.0)
    cell = town.site.grid.cell(reports.reported_m)
    heard = replace(reports, power_dbm=wavy[cell[:, 0], cell[:, 1]])
    both = without_network().estimate(heard, town.site, seed=0)
    alone = without_network(engine=False).estimate(heard, town.site, seed=0)
    assert rms(both, wavy, seen) < rms(alone, wavy, seen) + 0.5


def test_an_unknown_link_budget_is_found(town):
    reports, truth, seen = world(town)
    louder = replace(reports, power_dbm=reports.power_dbm + 30.0, reference_dbm=None)
    posterior = without_network().estimate(louder, town.site, seed=0)
    error = (posterior.mean_dbm() - truth - 30.0)[seen]
    assert abs(error.mean()) < 2.0


def test_the_same_seed_gives_the_same_bytes(town):
    reports, _, _ = world(town, count=40)
    first, second = (without_network().estimate(reports, town.site, seed=3) for _ in range(2))
    assert first.maps_dbm.tobytes() == second.maps_dbm.tobytes()
    assert first.spread_db.tobytes() == second.spread_db.tobytes()


def test_it_says_what_it_lacks(town):
    reports, _, _ = world(town, count=40)
    with pytest.raises(ConfigError, match="load_estimator"):
        Combined().estimate(reports, town.site, seed=0)
    with pytest.raises(ConfigError, match="path_loss"):
        CombinedConfig(prior=False, path_loss=False)
    with pytest.raises(ConfigError, match="engines"):
        CombinedConfig(engines=0)
    with pytest.raises(ConfigError, match="no preset"):
        Combined.from_preset("best")
    far = replace(reports, reported_m=reports.reported_m + 1e4)
    with pytest.raises(ReportsError, match="frame"):
        without_network().estimate(far, town.site, seed=0)
