"""Losses, layers, routes and refusals of the dominant-path model."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from shapely.geometry import Polygon, box

from hertzmap.core.errors import PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.types import AntennaPattern, Scene, Transmitter
from hertzmap.propagation.antennas import gain_dbi
from hertzmap.propagation.dominant_path import (
    DominantPath,
    Environment,
    PropagationParameters,
    one_metre_loss_db,
)
from hertzmap.scenes.synthetic import city

GRID = Grid(80, 80, 1.0, (-40.0, -40.0))
CORNER = Transmitter((-20.5, -10.5, 1.5))


def scene_of(*footprints: Polygon, height_m: float = 10.0) -> Scene:
    count = len(footprints)
    ids = tuple(str(k) for k in range(count))
    heights = np.full(count, height_m)
    return Scene(footprints, heights, ("height",) * count, ids, (-60.0, -60.0, 60.0, 60.0))


@pytest.fixture(scope="module")
def house() -> Environment:
    return Environment.prepare(scene_of(box(-10.0, -10.0, 10.0, 10.0)), GRID, margin_m=0.0)


@pytest.fixture(scope="module")
def town() -> Environment:
    return Environment.prepare(city(9, size_m=80.0, buildings=16), GRID, margin_m=0.0)


def trace(environment, transmitter, roof=False, **numbers) -> Any:
    backend = DominantPath(environment, PropagationParameters(**numbers), roof=roof)
    return backend.trace((transmitter,))


@pytest.mark.parametrize(
    ("turn_deg", "loss_db"),
    [(10, 1.5), (30, 5.3), (60, 11.0), (90, 15.6), (120, 18.7), (180, 21.2)],
)
def test_bend_loss_has_its_tabled_values(turn_deg, loss_db):
    s = np.sin(np.radians(turn_deg) / 2.0)
    numbers = PropagationParameters()
    factor = 1.0 + numbers.k1 * s + numbers.k2 * s * s
    assert 10.0 * numbers.bend_exponent * np.log10(factor) == pytest.approx(loss_db, abs=0.05)


def test_one_bend_by_hand(house):
    radio_map = trace(house, CORNER)
    cell = np.array([15.5, -3.5])
    row, col = house.grid.cell(cell)
    corner = np.array([10.0, -10.0])
    legs = corner - np.array([-20.5, -10.5]), cell - corner
    lengths = [float(np.linalg.norm(leg)) for leg in legs]
    cosine = legs[0] @ legs[1] / (lengths[0] * lengths[1])
    s = np.sqrt(0.5 - 0.5 * cosine)
    factor = 1.0 + 1.2 * s + 3.5 * s * s
    loss = one_metre_loss_db(3.5e9) + 28.0 * np.log10(sum(lengths)) + 28.0 * np.log10(factor)
    assert not radio_map.los[0, row, col]
    assert radio_map.path_gain_db[0, row, col] == pytest.approx(-loss, abs=0.1)
    assert radio_map.interaction_loss_db[0, row, col] == pytest.approx(
        28.0 * np.log10(factor), abs=0.1
    )
    assert radio_map.aoa_rad[0, row, col] == pytest.approx(np.arctan2(*-legs[1][::-1]), abs=0.01)
    assert radio_map.aod_rad[0, row, col] == pytest.approx(np.arctan2(*legs[0][::-1]), abs=0.01)


def test_routes_explain_the_map(town):
    numbers = {"labels": 2, "n_bend": 1.9, "waveguide_db": 6.0, "offset_nlos_db": 2.0}
    transmitter = Transmitter((0.5, 0.5, 6.5))
    radio_map = trace(town, transmitter, **numbers)
    routes = DominantPath(town, PropagationParameters(**numbers), roof=False).routes(transmitter)
    sines = np.sin(routes.bend_rad / 2.0)
    factors = np.where(np.isnan(sines), 1.0, 1.0 + 1.2 * sines + 3.5 * sines**2)
    length = np.maximum(np.hypot(routes.length_m, 5.0), 0.5)
    exponent = np.where(routes.los, 2.0, 2.8)
    bends = 19.0 * np.log10(factors).sum(axis=-1)
    loss = one_metre_loss_db(3.5e9) + 10.0 * exponent * np.log10(length) + bends
    loss += np.where(routes.los, 0.0, 2.0) - 6.0 * routes.closeness
    valid = routes.valid
    assert np.array_equal(valid, radio_map.valid[0])
    assert np.allclose(-loss[valid], radio_map.path_gain_db[0][valid], atol=0.01)
    assert np.allclose(bends[valid], radio_map.interaction_loss_db[0][valid], atol=0.01)
    assert np.all((routes.closeness[valid] >= 0) & (routes.closeness[valid] <= 1))


def test_polylines_have_the_routes_length(town):
    transmitter = Transmitter((0.5, 0.5, 1.5))
    routes = DominantPath(town, roof=False).routes(transmitter)
    for row, col in np.argwhere(routes.valid)[::97]:
        line = routes.polyline_m(int(row), int(col))
        legs = np.linalg.norm(np.diff(line, axis=0), axis=1)
        assert legs.sum() == pytest.approx(routes.length_m[row, col], abs=1e-2)
        assert legs[0] == pytest.approx(routes.first_leg_m[row, col], abs=1e-2)
    row, col = np.argwhere(~routes.valid)[0]
    with pytest.raises(ValueError, match="no street route"):
        routes.polyline_m(int(row), int(col))


def test_more_labels_never_cost_more(town):
    transmitter = Transmitter((0.5, 0.5, 1.5))
    gains = [trace(town, transmitter, labels=labels).path_gain_db[0] for labels in (1, 2, 4, 8)]
    for fewer, more in pairwise(gains):
        assert np.nanmin(more - fewer) > -0.05


def _step_at_shadow(environment, **numbers):
    """Median absolute change of gain between neighbours, one in sight and one not."""
    radio_map = trace(environment, CORNER, **numbers)
    gain, los = radio_map.path_gain_db[0], radio_map.los[0]
    edge = los[:, 1:] != los[:, :-1]
    return np.nanmedian(np.abs(gain[:, 1:] - gain[:, :-1])[edge])


def test_only_the_whole_exponent_jumps_at_the_shadow(house):
    whole, single, split = (
        _step_at_shadow(house, exponent=mode) for mode in ("whole", "single", "split")
    )
    assert whole > 10.0
    assert single < 4.0
    assert split < 4.0


def test_split_charges_the_far_exponent_after_the_first_bend_only(house):
    radio_map = trace(house, CORNER, exponent="split", k1=0.0, k2=0.0)
    routes = DominantPath(
        house, PropagationParameters(exponent="split", k1=0.0, k2=0.0), roof=False
    ).routes(CORNER)
    bent = routes.valid & ~routes.los
    first, length = routes.first_leg_m[bent], routes.length_m[bent]
    loss = one_metre_loss_db(3.5e9) + 20.0 * np.log10(first) + 28.0 * np.log10(length / first)
    assert np.allclose(radio_map.path_gain_db[0][bent], -loss, atol=0.01)
    assert np.allclose(radio_map.interaction_loss_db[0][bent], 0.0, atol=0.01)


def test_waveguide_gain_stays_within_its_bounds(town):
    transmitter = Transmitter((0.5, 0.5, 1.5))
    gain = trace(town, transmitter).path_gain_db[0]
    guided = trace(town, transmitter, waveguide_db=10.0).path_gain_db[0]
    rise = (guided - gain)[np.isfinite(gain)]
    assert rise.min() >= 0
    assert rise.max() <= 10.0
    assert rise.max() > 5.0


def test_patterns_weigh_the_departure(town):
    plain = Transmitter((0.5, 0.5, 8.0))
    sector = replace(plain, pattern=AntennaPattern("sector"), yaw_rad=0.7, pitch_rad=0.1)
    isotropic, aimed = trace(town, plain), trace(town, sector)
    valid = isotropic.valid[0]
    length = isotropic.toa_s[0] * 299_792_458.0
    zenith = np.arccos(np.clip(-6.5 / length, -1.0, 1.0))
    expected = gain_dbi(sector, isotropic.aod_rad[0], zenith.astype(np.float32))
    assert np.allclose(
        (aimed.path_gain_db - isotropic.path_gain_db)[0][valid], expected[valid], atol=0.05
    )
    short = DominantPath(town, roof=False, layers="street").trace((sector,))
    assert short.aoa_rad is None
    assert np.array_equal(short.path_gain_db, aimed.path_gain_db, equal_nan=True)


def test_the_roof_adds_power_and_never_delays(town):
    transmitter = Transmitter((0.5, 0.5, 20.0))
    street, both = trace(town, transmitter), trace(town, transmitter, roof=True)
    valid = street.valid[0]
    assert np.all(both.valid[0][valid])
    assert np.all((both.path_gain_db - street.path_gain_db)[0][valid] >= -1e-3)
    assert np.all((both.toa_s - street.toa_s)[0][valid] <= 1e-12)
    same = street.los[0]
    assert np.array_equal(both.path_gain_db[0][same], street.path_gain_db[0][same])


def test_above_a_roof_only_the_roof_route_leaves(house):
    mast = Transmitter((0.0, 0.0, 25.0))
    with pytest.raises(PropagationError, match="roof=True"):
        trace(house, mast)
    radio_map = trace(house, mast, roof=True)
    assert radio_map.transmitters[0] == mast
    assert np.array_equal(radio_map.valid[0], house.site.free)
    far = Transmitter((500.0, 0.0, 25.0))
    with pytest.raises(PropagationError, match="margin"):
        trace(house, far)
    assert np.array_equal(trace(house, far, roof=True).valid[0], house.site.free)
    with pytest.raises(PropagationError, match="no street route"):
        DominantPath(house).routes(mast)


def test_a_transmitter_inside_a_building_is_refused(house):
    with pytest.raises(PropagationError, match="inside a building"):
        trace(house, Transmitter((0.0, 0.0, 9.0)), roof=True)


def test_no_room_between_walls_is_refused():
    slit = Environment.prepare(
        scene_of(box(-20.0, -10.0, -0.06, 10.0), box(0.06, -10.0, 20.0, 10.0)), GRID, margin_m=0.0
    )
    with pytest.raises(PropagationError, match="clear of walls"):
        trace(slit, Transmitter((0.0, 0.0, 1.5)))


def test_a_transmitter_in_the_margin_lights_the_window():
    scene = scene_of(box(-10.0, -10.0, 10.0, 10.0))
    environment = Environment.prepare(scene, GRID, margin_m=20.0)
    radio_map = trace(environment, Transmitter((-50.0, 3.0, 1.5)))
    assert np.array_equal(radio_map.valid[0], environment.site.free)


def test_closed_courtyards_are_masked():
    outer, inner = (box(-half, -half, half, half).exterior for half in (10.0, 5.0))
    ring = Polygon(outer, [inner])
    environment = Environment.prepare(scene_of(ring), GRID, margin_m=0.0)
    outside, inside = trace(environment, CORNER), trace(environment, Transmitter((0.0, 0.0, 1.5)))
    yard = np.zeros(GRID.shape, bool)
    yard[35:45, 35:45] = True
    assert np.array_equal(outside.valid[0], environment.site.free & ~yard)
    assert np.array_equal(inside.valid[0], yard)
    assert np.isnan(outside.path_gain_db[0][yard]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_los": 0.0}, {"k1": -1.0}, {"waveguide_db": 20.0}, {"exponent": "both"}, {"labels": 0},
        {"n_bend": np.nan},
    ],
)  # fmt: skip
def test_senseless_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        PropagationParameters(**wrong)


def test_unknown_layers_are_refused(house):
    with pytest.raises(ValueError, match="layers"):
        DominantPath(house, layers="gain")
