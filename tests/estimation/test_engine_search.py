"""The engine's transmitter is found from reports of its own map."""

import numpy as np
import pytest

from hertzmap.core.grid import Grid
from hertzmap.core.types import Transmitter
from hertzmap.estimation import _engine_search as engine
from hertzmap.estimation._supposed import Source, Supposed, apart
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.scenes.synthetic import city

GRID = Grid(96, 96, 1.0, (-48.0, -48.0))
TRUE = Transmitter((-20.5, -10.5, 5.0), 2.6e9)


@pytest.fixture(scope="module")
def town() -> Environment:
    return Environment.prepare(city(9, size_m=96.0, buildings=16), GRID, margin_m=0.0)


def a_search(town, *, noise_db=3.0, shift_db=0.0, level_std_db=0.0, count=250):
    numbers = PropagationParameters(n_los=2.1, n_nlos=3.0, n_bend=1.5, waveguide_db=2.0)
    truth = DominantPath(town, numbers).trace((TRUE,))
    draw = np.random.default_rng(0)
    seen = truth.valid[0] & town.site.free
    cell = draw.choice(np.flatnonzero(seen), count, replace=False)
    heard = truth.path_gain_db[0].ravel()[cell] + noise_db * draw.standard_normal(count)
    place = GRID.centres_m().reshape(-1, 2)[cell]
    return (
        engine.EngineSearch(
            town.site,
            place,
            heard + shift_db,
            np.full(count, noise_db),
            level_std_db=level_std_db,
            floor_db=-147.0,
            config=engine.SearchConfig(),
        ),
        truth.path_gain_db[0],
        seen,
    )


@pytest.mark.parametrize(("shift_db", "level_std_db"), [(0.0, 0.0), (20.0, 25.0)])
def test_the_transmitter_is_found(town, shift_db, level_std_db):
    search, truth, seen = a_search(town, shift_db=shift_db, level_std_db=level_std_db)
    start = np.array([[-30.0, 0.0], [20.0, 20.0]])
    pool = search.find(start, np.random.default_rng(1)).pool
    best = pool[0]
    assert best.log_evidence == max(one.log_evidence for one in pool)
    assert np.hypot(*(best.ground_m[0] - [-20.5, -10.5])) < 3.0
    base, terms = search.map_about(best)
    belief = search.beliefs[int(best.sources[0].directional)]
    white = np.linalg.solve(np.linalg.cholesky(belief.covariance), best.value[0] - belief.mean)
    found = base + np.tensordot(white, terms, 1)
    assert np.median(np.abs(found - truth - shift_db)[seen]) < 2.0


def test_places_are_tempered_more_where_noise_hides_less_of_the_engines_error(town):
    noisy, quiet, exact = (
        a_search(town, noise_db=noise_db)[0].place_temperature for noise_db in (30.0, 5.0, 0.0)
    )
    assert engine.PLACE_TEMPERATURE < noisy < quiet < exact
    alike = engine.PATCH_M2 * 250 / town.site.free.sum()
    assert exact == pytest.approx(engine.PLACE_TEMPERATURE + alike)


def test_the_same_draws_find_the_same(town):
    search, _, _ = a_search(town, count=60)
    start = np.array([[-30.0, 0.0]])
    first, second = (search.find(start, np.random.default_rng(2)) for _ in range(2))
    assert [one.sources for one in first.pool] == [one.sources for one in second.pool]
    np.testing.assert_array_equal(first.weight, second.weight)


def test_a_supposed_place_in_a_building_is_lifted_onto_its_roof(town):
    search, _, _ = a_search(town, count=60)
    row, col = np.argwhere(~town.site.free)[40]
    east, north = GRID.place(np.array([row, col], float))
    judged = search.judge(np.array([[east, north, np.log(1.5), 0.0, 2.0]]))
    least = town.site.height_m[row, col] + engine.ABOVE_ROOF_M
    assert judged[0].sources[0].place_m[2] == pytest.approx(least)


def test_weights_stand_for_what_the_reports_leave_open(town):
    search, _, _ = a_search(town, count=60, noise_db=8.0)
    found = search.find(np.array([[-30.0, 0.0]]), np.random.default_rng(2))
    assert found.weight.sum() == pytest.approx(1.0)
    place = np.array([one.ground_m[0] for one in found.pool])
    mean = found.weight @ place
    spread = np.sqrt(found.weight @ ((place - mean) ** 2).sum(axis=1))
    assert 0.3 < spread < 40.0
    assert np.hypot(*(mean - [-20.5, -10.5])) < 3.0 * spread


def test_members_are_different_and_share_the_weight(town):
    search, _, _ = a_search(town, count=60)
    found = search.find(np.array([[-30.0, 0.0]]), np.random.default_rng(2))
    members, log_weight = found.members(8, np.random.default_rng(0))
    assert len(members) == len(log_weight) == len({id(one) for one in members}) <= 8
    assert np.exp(log_weight).sum() == pytest.approx(1.0)


def test_those_apart_are_apart():
    def one(east):
        source = Source((east, 0.0, 5.0), (1.0, 1.0), directional=False)
        return Supposed((source,), -east, np.zeros((1, 1)))

    chosen = apart([one(east) for east in (0.0, 1.0, 7.0, 8.0, 20.0)], 3, 5.0)
    assert [item.ground_m[0, 0] for item in chosen] == [0.0, 7.0, 20.0]


def two_heard(town, *, count=400, noise_db=2.0):
    """Reports of two transmitters of one cell."""
    numbers = PropagationParameters(n_los=2.1, n_nlos=3.0, n_bend=1.5)
    both = (TRUE, Transmitter((25.5, 22.5, 6.0), 2.6e9))
    truth = DominantPath(town, numbers).trace(both)
    power = np.where(truth.valid, 10.0 ** (0.1 * np.nan_to_num(truth.path_gain_db)), 0.0).sum(0)
    draw = np.random.default_rng(0)
    seen = (power > 0.0) & town.site.free
    cell = draw.choice(np.flatnonzero(seen), count, replace=False)
    heard = 10.0 * np.log10(power.ravel()[cell]) + noise_db * draw.standard_normal(count)
    place = GRID.centres_m().reshape(-1, 2)[cell]
    return engine.EngineSearch(
        town.site,
        place,
        heard,
        np.full(count, noise_db),
        level_std_db=0.0,
        floor_db=-147.0,
        config=engine.SearchConfig(),
    )


def test_two_transmitters_are_found_where_one_does_not_explain(town):
    search = two_heard(town)
    found = search.find(np.array([[-30.0, 0.0], [20.0, 20.0]]), np.random.default_rng(1))
    assert len(found.pool[0].sources) == 2 and len(found.places()) == 2
    true = np.array([[-20.5, -10.5], [25.5, 22.5]])
    gap = np.hypot(*np.moveaxis(true[:, None] - found.pool[0].ground_m, -1, 0))
    assert min(np.trace(gap), np.trace(gap[::-1])) < 16.0
    base, terms = search.map_about(found.pool[0])
    assert base.shape == GRID.shape and len(terms) == 2 * len(found.pool[0].value[0])
    members, _ = found.members(8, np.random.default_rng(0))
    near = [np.hypot(*(one.ground_m - found.pool[0].ground_m).T).max() for one in members]
    assert np.median(near) < 20.0  # sources keep their order


def test_one_transmitter_stays_one(town):
    search, _, _ = a_search(town)
    found = search.find(np.array([[-30.0, 0.0]]), np.random.default_rng(1))
    assert len(found.pool[0].sources) == 1 and len(found.places()) == 1
