import math
from typing import Literal

import numpy as np
import pytest

from hertzmap.core.errors import PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.units import wavelength_m
from hertzmap.propagation.rooftop import (
    edge_loss_db,
    rooftop_bends,
    rooftop_loss,
    rooftop_turns,
)

CARRIER_HZ = 3.5e9
WINDOW = Grid(64, 64)
RASTER = Grid(84, 84, origin_m=(-10.0, -10.0))


def nu_of(above_m, d1_m, d2_m):
    return above_m * math.sqrt(2 * (d1_m + d2_m) / (wavelength_m(CARRIER_HZ) * d1_m * d2_m))


def a_wall(height_m, col=30):
    """One cell wide, from south to north, at a column of the window."""
    raster = np.zeros(RASTER.shape, np.float32)
    raster[:, col + 10] = height_m
    return raster


def over(raster, place_m, receiver_m=1.5, edges: Literal["deygout", "bullington"] = "deygout"):
    return rooftop_loss(raster, RASTER, WINDOW, place_m, CARRIER_HZ, receiver_m, edges)


@pytest.mark.parametrize("edges", ["deygout", "bullington"])
@pytest.mark.parametrize("above_m", [-0.2, -0.05, 0.0, 0.3, 5.0, 20.0])
def test_one_wall_is_one_knife_edge(above_m, edges):
    antenna = (10.5, 20.5, 10.0)
    loss, distance, _, clear = over(a_wall(10.0 + above_m), antenna, 10.0, edges)
    expected = float(edge_loss_db(np.array(nu_of(above_m, 20.0, 25.0))))
    assert loss[20, 55] == pytest.approx(expected, abs=0.05)
    assert clear[20, 55] == (above_m <= 0)
    assert distance[20, 55] == pytest.approx(45.0, abs=1e-4)


def test_grazing_costs_six_decibels_and_a_clear_line_nothing():
    at_the_wall, free = nu_of(0.0, 20.0, 25.0), -0.781
    assert float(edge_loss_db(np.array(at_the_wall))) == pytest.approx(6.0, abs=0.05)
    assert float(edge_loss_db(np.array(free))) == 0.0
    loss, _, _, clear = over(a_wall(3.0), (10.5, 20.5, 10.0), 10.0)
    assert np.all(loss == 0) and np.all(clear)


def test_the_line_of_sight_is_three_dimensional():
    _, _, _, clear = over(a_wall(10.3), (10.5, 20.5, 20.0))
    shadow_ends = 10.5 + 20.0 * (20.0 - 1.5) / (20.0 - 10.3)
    columns = np.arange(31, 64) + 0.5
    assert 32 < shadow_ends < 60
    assert np.array_equal(clear[20, 31:], columns > shadow_ends)
    assert clear[20, :30].all()


def test_the_loss_never_jumps_by_six_decibels_at_the_shadow_boundary():
    antenna = (10.5, 20.5, 6.0)
    loss = np.array([over(a_wall(h), antenna)[0][20, 50] for h in np.arange(2.0, 6.0, 0.02)])
    assert np.abs(np.diff(loss)).max() < 0.6
    assert np.all(np.diff(loss) > -1e-5)


def test_three_edges_add_up_by_deygout():
    raster = np.zeros(RASTER.shape, np.float32)
    for col, height in ((20, 12.0), (30, 20.0), (45, 9.0)):
        raster[:, col + 10] = height
    loss, *_ = over(raster, (10.5, 20.5, 5.0))
    d_rx = 60 - 10
    main = nu_of(20 - (5 + (1.5 - 5) * 20 / d_rx), 20.0, d_rx - 20.0)
    left = nu_of(12 - (5 + 15 * 10 / 20), 10.0, 10.0)
    right = nu_of(9 - (20 - 18.5 * 15 / 30), 15.0, 15.0)
    expected = edge_loss_db(np.array([main, left, right])).sum()
    assert loss[20, 60] == pytest.approx(expected, abs=0.01)


def test_a_site_far_off_the_raster_sees_the_same_edges():
    place = (-200.5, 20.5, 25.0)
    loss, distance, zenith, _ = over(a_wall(15.0), place)
    d1, d2 = 30.5 + 200.5, 20.0
    expected = edge_loss_db(np.array(nu_of(15 - (25 + (1.5 - 25) * d1 / (d1 + d2)), d1, d2)))
    assert loss[20, 50] == pytest.approx(float(expected), abs=0.05)
    assert distance[20, 50] == pytest.approx(math.hypot(251.0, 23.5), rel=1e-6)
    assert zenith[20, 50] == pytest.approx(math.atan2(251.0, -23.5), abs=1e-6)


def test_an_antenna_on_a_roof_is_blocked_only_by_its_rim():
    raster = np.zeros(RASTER.shape, np.float32)
    raster[20:50, 20:50] = 20.0  # window cells 10 to 39
    loss, _, _, clear = over(raster, (25.5, 25.5, 22.0))
    rim_m = 39 - 25
    first_clear = rim_m * (22.0 - 1.5) / 2.0  # where the line over the rim meets the receivers
    assert first_clear > 38
    assert not clear[25, 41]
    below = nu_of(20 - (22 - 20.5 * rim_m / 25), rim_m, 25 - rim_m)
    assert loss[25, 50] == pytest.approx(float(edge_loss_db(np.array(below))), abs=0.05)
    tall, _, _, free = over(raster, (25.5, 25.5, 80.0))
    assert tall[25, 60] == 0 and free[25, 60]


def test_every_cell_is_visited_from_anywhere():
    raster = np.zeros(RASTER.shape, np.float32)
    raster[10:74, 10:74] = 3.0  # every cell of the window is higher than the receivers
    for place in ((31.7, 20.2, 1.5), (0.0, 0.0, 1.5), (63.9, 5.01, 1.5), (-70.0, 90.0, 10.0)):
        loss, *_ = over(raster, place)
        blocked = ~np.isfinite(loss)
        row, col = WINDOW.cell(np.array(place[:2]))
        if 0 <= row < 64 and 0 <= col < 64:
            blocked[row, col] = True
        assert blocked.all()


def test_rotating_the_scene_rotates_the_map():
    generator = np.random.default_rng(5)
    raster = np.zeros(RASTER.shape, np.float32)
    for _ in range(12):
        row, col = generator.integers(0, 74, 2)
        raster[row : row + 9, col : col + 7] = generator.uniform(4, 20)
    place = np.array([21.3, 40.9])
    raster[RASTER.cell(place)[0], RASTER.cell(place)[1]] = 0
    loss, *_ = over(raster, (*place, 8.0))
    turned = np.ascontiguousarray(np.rot90(raster, -1))  # east becomes north, row 0 is south
    seen, *_ = over(turned, (64 - place[1], place[0], 8.0))
    back = np.rot90(seen, 1)
    finite = np.isfinite(loss)
    assert np.array_equal(finite, np.isfinite(back))
    assert np.mean(np.abs(loss[finite] - back[finite]) < 0.2) > 0.99


def test_same_input_same_bytes():
    first, second = (over(a_wall(12.0), (10.3, 22.8, 9.0)) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_a_raster_that_does_not_hold_the_grid_is_refused():
    with pytest.raises(PropagationError, match="whole number of cells"):
        rooftop_loss(
            a_wall(5.0),
            RASTER,
            Grid(64, 64, origin_m=(0.4, 0.0)),
            (1.0, 1.0, 2.0),
            CARRIER_HZ,
            1.5,
        )


CURVE = (0.2, 1.0, 2.0, 5.0)


def bend_factor(turn_rad):
    half = math.sin(turn_rad / 2)
    return min(1 + CURVE[0] + half * (CURVE[1] + CURVE[2] * half), CURVE[3])


def string_over(raster, place_m, receiver_m=1.5):
    return rooftop_bends(raster, RASTER, WINDOW, place_m, receiver_m, CURVE)


def test_the_string_over_one_wall_has_its_length_and_bend():
    factor, length, zenith, clear = string_over(a_wall(15.0), (10.5, 20.5, 5.0))
    up, down = math.atan2(10.0, 20.0), math.atan2(13.5, 25.0)
    assert length[20, 55] == pytest.approx(math.hypot(20, 10) + math.hypot(25, 13.5), rel=1e-6)
    assert factor[20, 55] == pytest.approx(bend_factor(up + down), rel=1e-5)
    assert zenith[20, 55] == pytest.approx(math.pi / 2 - up, abs=1e-6)
    assert not clear[20, 55]
    assert clear[20, 25] and factor[20, 25] == 1
    assert length[20, 25] == pytest.approx(math.hypot(15.0, 3.5), rel=1e-6)


def test_roofs_of_one_height_bend_the_string_only_at_their_ends():
    raster = np.zeros(RASTER.shape, np.float32)
    for first in (20, 30, 45):
        raster[:, first + 10 : first + 15] = 12.0
    turn, length, _, _ = rooftop_turns(raster, RASTER, WINDOW, (10.5, 20.5, 2.0), 2.0)
    up, down = math.atan2(10.0, 10.0), math.atan2(10.0, 6.0)
    bends = turn[20, 55][np.isfinite(turn[20, 55])]
    assert bends == pytest.approx([up, down], abs=1e-3)
    flat = 49.5 - 20.5
    expected = math.hypot(10, 10) + flat + math.hypot(6, 10)
    assert length[20, 55] == pytest.approx(expected, rel=1e-6)
    assert np.isinf(length[20, 22])  # indoors


def test_the_string_is_the_shortest_way_over():
    generator = np.random.default_rng(2)
    raster = np.zeros(RASTER.shape, np.float32)
    raster[:, 24:60:9] = generator.uniform(3, 20, 4).astype(np.float32)
    factor, length, _, clear = string_over(raster, (5.5, 20.5, 3.0))
    _, straight, _, same = over(raster, (5.5, 20.5, 3.0))
    indoors = np.isinf(factor)
    assert np.all(length[~indoors] >= straight[~indoors] - 0.75)  # a ray passes half a cell away
    assert np.array_equal(clear[~indoors], same[~indoors])
    assert np.all(factor[clear] == 1) and np.all(factor[~clear] > 1 + CURVE[0])
