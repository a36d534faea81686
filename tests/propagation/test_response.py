"""The linear response says what the engine says, and nothing moves where no route is."""

from dataclasses import replace

import numpy as np
import pytest

from hertzmap.core.grid import Grid
from hertzmap.core.types import AntennaPattern, Transmitter
from hertzmap.propagation.dominant_path import DominantPath, Environment, one_metre_loss_db
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.response import (
    TERMS,
    Response,
    fill_gaps,
    joint_belief,
    summed_gain,
    term_belief,
)
from hertzmap.scenes.synthetic import city

GRID = Grid(80, 80, 1.0, (-40.0, -40.0))
LOW = Transmitter((-20.5, -10.5, 4.0))
HIGH = Transmitter((-20.5, -10.5, 30.0))
NUMBERS = PropagationParameters(
    n_los=1.9,
    n_nlos=3.3,
    n_bend=1.6,
    offset_los_db=1.5,
    offset_nlos_db=-3.0,
    offset_roof_db=2.0,
    waveguide_db=4.0,
)
FLOOR_DB = -300.0


@pytest.fixture(scope="module")
def town() -> Environment:
    return Environment.prepare(city(9, size_m=80.0, buildings=16), GRID, margin_m=0.0)


def values(numbers, carrier_hz):
    """The terms' values that mean the same as the engine's numbers."""
    head = numbers.n_los - numbers.length_exponent if numbers.exponent == "split" else 0.0
    known = {
        "level": -one_metre_loss_db(carrier_hz),
        "sight": -numbers.offset_los_db,
        "bent": -numbers.offset_nlos_db,
        "sight_exponent": -numbers.n_los,
        "bent_exponent": -numbers.length_exponent,
        "bend_exponent": -numbers.bend_exponent,
        "waveguide": numbers.waveguide_db,
        "roof": -numbers.offset_roof_db,
        "head_exponent": -head,
    }
    return np.array([known.get(name, 0.0) for name in TERMS])


@pytest.mark.parametrize("transmitter", [LOW, HIGH], ids=["low", "high"])
@pytest.mark.parametrize("exponent", ["whole", "single"])
def test_at_the_engines_own_numbers_it_is_the_engine(town, transmitter, exponent):
    numbers = replace(NUMBERS, exponent=exponent)
    engine = DominantPath(town, numbers)
    radio_map = engine.trace((transmitter,))
    response = Response.of(engine.layers_of(transmitter))
    gain, _ = response.gain(values(numbers, transmitter.carrier_hz), FLOOR_DB)
    valid = radio_map.valid[0]
    np.testing.assert_allclose(gain[valid], radio_map.path_gain_db[0][valid], atol=2e-3)
    assert np.array_equal(response.without, ~valid)


def test_the_slope_is_the_derivative(town):
    response = Response.of(DominantPath(town, NUMBERS).layers_of(HIGH))
    start = values(NUMBERS, 2e9)
    gain, slope = response.gain(start, FLOOR_DB)
    draw = np.random.default_rng(0)
    step = 1e-4 * draw.standard_normal(len(TERMS))
    after, _ = response.gain(start + step, FLOOR_DB)
    before, _ = response.gain(start - step, FLOOR_DB)
    expected = np.tensordot(2.0 * step, slope, 1)
    np.testing.assert_allclose(after - before, expected, atol=1e-6)
    assert (slope[:, gain <= FLOOR_DB] == 0.0).all()


def test_layers_at_some_cells_are_those_of_the_map(town):
    layers = DominantPath(town, NUMBERS).layers_of(LOW)
    cell = np.array([0, 17, 4000])
    few = Response.of(layers.at(cell))
    whole = Response.of(layers)
    np.testing.assert_array_equal(few.street, whole.street.reshape(len(TERMS), -1)[:, cell])
    np.testing.assert_array_equal(few.roof_db, whole.roof_db.reshape(-1)[cell])


def test_a_closed_yard_copies_its_nearest_neighbour(town):
    layers = DominantPath(town, NUMBERS).layers_of(LOW)
    reached = layers.street | layers.roof
    row, col = np.argwhere(reached[:, 1:] & reached[:, :-1])[0]
    holed = replace(layers, street=layers.street.copy(), roof=layers.roof.copy())
    holed.street[row, col], holed.roof[row, col] = False, False
    filled = fill_gaps(holed)
    assert (filled.street | filled.roof).all()
    near = [
        layers.length_db[r, c]
        for r in range(max(row - 1, 0), row + 2)
        for c in range(max(col - 1, 0), col + 2)
        if (r, c) != (row, col)
    ]
    assert filled.length_db[row, col] in near


def test_sectors_and_round_antennas_differ_in_their_harmonics_only():
    alike, sector = (term_belief(directional=d) for d in (False, True))
    first = TERMS.index("cosine1")
    for belief in (alike, sector):
        assert np.linalg.eigvalsh(belief.covariance).min() > 0.0
    spread = [np.sqrt(np.diag(belief.covariance)[first:]) for belief in (alike, sector)]
    assert (spread[0] < 1.0).all()
    assert spread[1][0] > 5.0
    assert sector.mean[0] < 0.0


def test_a_raster_alone_gives_nearly_the_same_map(town):
    numbers = PropagationParameters()
    traced = Environment.of_raster(town.site, margin_m=20.0)
    assert traced.site.free.sum() == town.site.free.sum()
    first, second = (DominantPath(e, numbers).trace((LOW,)) for e in (town, traced))
    both = first.valid[0] & second.valid[0]
    gap = np.abs(first.path_gain_db[0] - second.path_gain_db[0])[both]
    assert both.mean() > 0.95 * first.valid.mean()
    assert np.median(gap) < 0.5
    assert np.quantile(gap, 0.9) < 4.0


def test_over_a_traced_footprint_stands_a_roof_antenna(town):
    traced = Environment.of_raster(town.site)
    inside = np.argwhere(~town.site.free)[len(np.argwhere(~town.site.free)) // 2]
    east, north = GRID.place(inside.astype(float))
    up = float(town.site.height_m[tuple(inside)]) + 2.0
    layers = DominantPath(traced).layers_of(Transmitter((float(east), float(north), up)))
    assert not layers.street.any()
    assert layers.roof.any()


def test_patterns_do_not_enter_the_layers(town):
    sector = replace(LOW, pattern=AntennaPattern("sector"), yaw_rad=1.0)
    plain, aimed = (DominantPath(town).layers_of(one) for one in (LOW, sector))
    np.testing.assert_array_equal(plain.bend_db, aimed.bend_db)


def test_powers_of_two_transmitters_add_and_the_slope_is_the_derivative(town):
    engine = DominantPath(town, NUMBERS)
    other = Transmitter((15.5, 12.5, 6.0))
    cell = np.flatnonzero(town.site.free)[::37]
    both = [Response.of(fill_gaps(engine.layers_of(t)).at(cell)) for t in (LOW, other)]
    value = np.stack([values(NUMBERS, LOW.carrier_hz)] * 2)
    gain, slope = summed_gain(both, value, FLOOR_DB)
    each = [one.gain(own, FLOOR_DB)[0] for one, own in zip(both, value, strict=True)]
    power = sum(10.0 ** (0.1 * one) for one in each)
    np.testing.assert_allclose(gain, 10.0 * np.log10(power), atol=1e-9)
    assert slope.shape == (2 * len(TERMS), len(cell))
    for k in (0, 3, len(TERMS), len(TERMS) + 4):
        step = np.zeros(value.size)
        step[k] = 1e-4
        high, low = (
            summed_gain(both, value + sign * step.reshape(value.shape), FLOOR_DB)[0]
            for sign in (1, -1)
        )
        np.testing.assert_allclose((high - low) / 2e-4, slope[k], atol=1e-5)


def test_one_transmitter_alone_is_as_before(town):
    response = Response.of(fill_gaps(DominantPath(town, NUMBERS).layers_of(LOW)))
    value = values(NUMBERS, LOW.carrier_hz)
    alone = summed_gain([response], value[None], FLOOR_DB)
    np.testing.assert_array_equal(alone[0], response.gain(value, FLOOR_DB)[0])


def test_a_joint_belief_keeps_both_apart():
    one = term_belief(directional=False)
    both = joint_belief([one, one])
    count = len(TERMS)
    np.testing.assert_array_equal(both.covariance[:count, :count], one.covariance)
    assert not both.covariance[:count, count:].any()
