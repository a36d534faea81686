import numpy as np
import pytest

from hertzmap.core.errors import PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.seeds import generator
from hertzmap.core.types import SceneRaster
from hertzmap.propagation.draws import (
    ParameterRanges,
    TransmitterRanges,
    draw_parameters,
    draw_transmitter,
)

GRID = Grid(48, 64)


def a_site():
    height = np.zeros(GRID.shape, np.float32)
    height[5:15, 5:25] = 8.0
    height[20:40, 30:50] = 18.0
    height[30:44, 4:14] = 60.0
    return SceneRaster(GRID, height, height == 0)


def many_transmitters(count=400, **choices):
    return [draw_transmitter(generator(1, k), a_site(), **choices) for k in range(count)]


def test_the_same_generator_draws_the_same():
    assert draw_parameters(generator(3)) == draw_parameters(generator(3))
    assert draw_parameters(generator(3)) != draw_parameters(generator(4))
    first, second = (draw_transmitter(generator(3), a_site()) for _ in range(2))
    assert first == second


def test_parameters_stay_in_their_ranges_and_fill_them():
    drawn = [draw_parameters(generator(2, k)) for k in range(600)]
    ranges = ParameterRanges()
    for name in ("n_los", "n_bend", "k1", "k2", "waveguide_db"):
        low, high = getattr(ranges, name)
        values = np.array([getattr(parameters, name) for parameters in drawn])
        assert low <= values.min() and values.max() <= high
        assert values.max() - values.min() > 0.9 * (high - low)
    assert all(p.n_nlos >= p.n_los for p in drawn)
    shares = [np.mean([p.exponent == mode for p in drawn]) for mode in ranges.exponents]
    assert shares == pytest.approx(ranges.exponent_shares, abs=0.08)


def test_the_ranges_hold_what_radiomapseer_needs():
    ranges, friis_5g9_db = ParameterRanges(), 47.86
    assert ranges.n_los[0] < 2.56 < ranges.n_los[1]
    assert ranges.n_nlos[0] < 3.55 < ranges.n_nlos[1]
    assert ranges.n_bend[0] < 1.8 < ranges.n_bend[1]
    assert abs(46.8 - friis_5g9_db) < 2 * ranges.offset_los_sd_db
    offsets = [p.offset_nlos_db for p in (draw_parameters(generator(9, k)) for k in range(600))]
    assert np.quantile(offsets, 0.05) < 37.0 - friis_5g9_db < np.quantile(offsets, 0.95)


def test_antennas_stand_where_they_can():
    site, ranges = a_site(), TransmitterRanges()
    roofs = 0
    for transmitter in many_transmitters():
        east, north, up = transmitter.place_m
        row, col = GRID.cell(np.array([east, north]))
        assert GRID.contains(np.array([[east, north]])).all()
        assert 1.5 <= up <= 35.0
        if site.free[row, col]:
            around = site.free[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
            assert around.all()
        else:
            roofs += 1
            assert up >= max(12.0, site.height_m[row, col] + ranges.roof_clearance_m)
        assert 0.7e9 <= transmitter.carrier_hz <= 6e9
    assert roofs > 80


def test_the_mixture_has_its_shares():
    drawn = many_transmitters(600)
    assert np.mean([t.place_m[2] < 12 for t in drawn]) == pytest.approx(0.5, abs=0.07)
    kinds = [np.mean([t.pattern.kind == k for t in drawn]) for k in TransmitterRanges().patterns]
    assert kinds == pytest.approx([0.6, 0.1, 0.3], abs=0.07)
    tilts = np.array([t.pitch_rad for t in drawn if t.pattern.kind == "sector"])
    assert tilts.min() >= 0 and tilts.max() <= np.deg2rad(12)
    assert all(t.pitch_rad == 0 for t in drawn if t.pattern.kind != "sector")


def test_outside_transmitters_stand_off_the_window_but_within_reach():
    wide = Grid(88, 104, origin_m=(-20.0, -20.0))
    height = np.zeros(wide.shape, np.float32)
    height[:, :18] = 50.0
    surroundings = SceneRaster(wide, height, height == 0)
    beyond = []
    for k in range(200):
        place = draw_transmitter(
            generator(4, k), a_site(), outside_share=1.0, surroundings=surroundings
        ).place_m
        west, south, east, north = GRID.bounds_m
        gap = np.array(place[:2]) - np.clip(place[:2], (west, south), (east, north))
        beyond.append(np.hypot(*gap))
        assert not (-20 <= place[0] < -1 and -20 <= place[1] < 68)
    assert min(beyond) > 0 and 100 < max(beyond) <= 150


def test_a_site_without_outdoors_is_refused():
    height = np.full(GRID.shape, 50.0, np.float32)
    with pytest.raises(PropagationError, match="no outdoor cell"):
        draw_transmitter(generator(1), SceneRaster(GRID, height, height == 0))
