"""Laws of channels, arrays and taps, on a world of scatterers whose paths are known exactly."""

import numpy as np
import pytest

from hertzmap.core.channels import Channels, gathered
from hertzmap.core.errors import ConfigError
from hertzmap.core.seeds import generator
from hertzmap.core.types import AntennaPattern, Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S
from hertzmap.measurement import csi
from hertzmap.measurement.csi import Impairments, Sounding
from hertzmap.propagation.arrays import PanelArray, port_gains
from hertzmap.propagation.scatter import ScatterConfig, ScatterWorld

CARRIER = 3.6e9
STATIONS = tuple(
    Transmitter((165 * np.cos(a), 165 * np.sin(a), 25.0), CARRIER, yaw_rad=a + np.pi)
    for a in (0.0, 2.0, 4.0)
)
UES = np.array([[10.0, -20.0, 1.5], [-35.0, 40.0, 1.5]])
CITY = ScatterWorld(ScatterConfig(), seed=1).channels(STATIONS, UES)
SIGHT = ScatterWorld(ScatterConfig(scatterers=0), seed=1).channels(STATIONS, UES)
SINGLE = PanelArray(1, 1, (0.0,))


def test_line_of_sight_follows_friis_in_gain_and_delay():
    gap = np.linalg.norm(UES[:, None] - [one.place_m for one in STATIONS], axis=-1)
    np.testing.assert_allclose(SIGHT.first_delay_s, gap / SPEED_OF_LIGHT_M_S, rtol=1e-12)
    friis = -20 * np.log10(4 * np.pi * CARRIER * gap / SPEED_OF_LIGHT_M_S)
    np.testing.assert_allclose(SIGHT.path_gain_db, friis, atol=1e-9)
    assert SIGHT.los.all()


def test_paths_lie_in_order_of_delay_and_channels_check_themselves():
    assert CITY.links == 6
    assert CITY.snapshots == 2
    assert all((np.diff(CITY.delay_s[CITY.paths(k)]) >= 0).all() for k in range(6))
    fields = (CITY.gain, CITY.delay_s, CITY.departure_rad, CITY.arrival_rad)
    more = (CITY.doppler_hz, CITY.kind, CITY.depth)
    with pytest.raises(ValueError, match="rise within each link"):
        Channels(STATIONS, CITY.offset, fields[0], CITY.delay_s[::-1], *fields[2:], *more)
    with pytest.raises(ValueError, match="offset"):
        Channels(STATIONS, CITY.offset[:-1], *fields, *more)


def test_snapshots_gathered_in_parts_are_those_of_the_whole():
    world = ScatterWorld(ScatterConfig(), seed=1)
    parts = gathered([world.channels(STATIONS, UES[k : k + 1]) for k in range(2)])
    for name in ("offset", "gain", "delay_s", "doppler_hz"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(CITY, name))
    with pytest.raises(ValueError, match="same stations"):
        gathered([CITY, world.channels(STATIONS[:1], UES)])


@pytest.mark.parametrize("active", [4096, 3276])
@pytest.mark.parametrize("guard", [0, 8])
def test_taps_from_paths_are_those_of_the_response(active, guard):
    sounding = Sounding(active=active, guard=guard)
    gains = port_gains(CITY)
    taps = csi.synthesize_taps(CITY, gains, sounding)
    assert taps.shape == (6, 32, 4, 150)
    for link in (0, 4):
        response = csi.frequency_response(CITY, gains, link, sounding)
        want = csi.taps_of_response(response, sounding)
        assert np.abs(taps[link] - want).max() < 1e-4 * np.abs(want).max()


def test_the_phase_slope_gives_back_the_delay():
    gains = port_gains(SIGHT, SINGLE, SINGLE)
    for link in range(SIGHT.links):
        response = csi.frequency_response(SIGHT, gains, link)[0, 0]
        turn = np.angle(np.vdot(response[:-1], response[1:]))
        delay = -turn / (2 * np.pi * 30e3)
        assert abs(delay - SIGHT.delay_s[link]) < 1e-11


def test_the_power_of_the_taps_is_that_of_the_response():
    sounding = Sounding(guard=8)
    gains = port_gains(SIGHT)
    taps = csi.synthesize_taps(SIGHT, gains, sounding)
    power = (np.abs(taps) ** 2).sum(axis=-1) / sounding.subcarriers
    assert power == pytest.approx(np.abs(gains) ** 2, rel=0.03)


def test_a_guard_keeps_what_a_path_of_half_a_tap_would_lose():
    near = np.array([[165.0 - 1.2214, 0.0, 25.0]])  # half a tap at 122.88 MHz
    one = ScatterWorld(ScatterConfig(scatterers=0), seed=1).channels(STATIONS[:1], near)
    gains = port_gains(one, SINGLE, SINGLE)
    kept = [
        float((np.abs(csi.synthesize_taps(one, gains, Sounding(guard=g))) ** 2).sum())
        / (4096 * float((np.abs(gains) ** 2).sum()))
        for g in (0, 8)
    ]
    assert kept == pytest.approx([0.905, 0.988], abs=0.002)


def test_a_wave_turns_the_panel_s_elements_by_its_direction():
    gains = port_gains(SIGHT, PanelArray(4, 4, (0.0,)), SINGLE)[0, :, 0]
    azimuth, zenith = SIGHT.departure_rad[0]
    panel = gains.reshape(4, 4)
    left = np.sin(zenith) * np.sin(azimuth - STATIONS[0].yaw_rad)
    assert np.angle(panel[0, 1] / panel[0, 0]) == pytest.approx(np.pi * left)
    assert np.angle(panel[1, 0] / panel[0, 0]) == pytest.approx(np.pi * np.cos(zenith))
    assert np.ptp(np.abs(panel)) < 1e-12


def test_a_sector_s_pattern_weighs_its_paths():
    towards = Transmitter((0.0, 0.0, 1.5), CARRIER, AntennaPattern("sector"))
    ahead, behind = np.array([[50.0, 0.0, 1.5]]), np.array([[-50.0, 0.0, 1.5]])
    world = ScatterWorld(ScatterConfig(scatterers=0), seed=1)
    seen = [world.channels((towards,), ue) for ue in (ahead, behind)]
    power = [20 * np.log10(np.abs(port_gains(one, SINGLE, SINGLE)[0, 0, 0])) for one in seen]
    assert power[0] - power[1] == pytest.approx(30.0)


def test_crossed_slants_share_the_power_of_a_vertical_wave():
    flat = Transmitter((0.0, 0.0, 1.5), CARRIER)
    one = ScatterWorld(ScatterConfig(scatterers=0), seed=1)
    found = one.channels((flat,), np.array([[50.0, 0.0, 1.5]]))
    crossed = np.abs(port_gains(found, PanelArray(1, 1), SINGLE)[0, :, 0]) ** 2
    single = np.abs(port_gains(found, SINGLE, SINGLE)[0, 0, 0]) ** 2
    assert crossed == pytest.approx([0.5 * single, 0.5 * single])


def test_doppler_turns_a_path_by_the_way_gone():
    world = ScatterWorld(ScatterConfig(scatterers=0), seed=1)
    speed = np.array([[2.0, 1.0, 0.0]])
    here = world.channels(STATIONS[:1], UES[:1], speed)
    later = world.channels(STATIONS[:1], UES[:1] + 1e-3 * speed)
    turned = port_gains(here, SINGLE, SINGLE, time_s=1e-3)[0, 0, 0]
    moved = port_gains(later, SINGLE, SINGLE)[0, 0, 0]
    assert abs(np.angle(turned / moved)) < 1e-3


def test_noise_has_the_stated_ratio_on_every_tap():
    gains = port_gains(SIGHT)
    clean = csi.synthesize_taps(SIGHT, gains)
    noisy = csi.impaired_taps(SIGHT, gains, Impairments(snr_db=10.0), generator(1))
    noise = (np.abs(noisy - clean) ** 2).mean(axis=(1, 2, 3))
    signal = (np.abs(gains) ** 2).mean(axis=(1, 2))
    assert signal / noise == pytest.approx(np.full(6, 10.0), rel=0.02)


def test_without_impairments_taps_are_clean_and_timing_moves_all_stations_alike():
    gains = port_gains(SIGHT)
    clean = csi.synthesize_taps(SIGHT, gains)
    same = csi.impaired_taps(SIGHT, gains, Impairments(), generator(1))
    np.testing.assert_array_equal(same, clean)
    late = csi.delayed(SIGHT, Impairments(timing_s=130e-9), generator(2)).reshape(2, 3)
    assert np.ptp(late, axis=1).max() == 0.0
    assert np.abs(late).max() <= 130e-9
    assert np.ptp(late[:, 0]) > 0
    clocks = csi.delayed(SIGHT, Impairments(clock_std_s=1e-9), generator(2)).reshape(2, 3)
    assert np.ptp(clocks, axis=0).max() == 0.0


def test_what_survives_a_common_phase_and_gain():
    gains = port_gains(CITY)
    clean = csi.synthesize_taps(CITY, gains)
    spoilt = csi.impaired_taps(
        CITY, gains, Impairments(random_phase=True, gain_std_db=6.0), generator(3)
    )
    features, other = csi.angle_delay_power(clean), csi.angle_delay_power(spoilt)
    assert features.shape == (6, 2401)
    assert np.abs(features[:, :-1] - other[:, :-1]).max() < 1e-3
    assert np.abs(features[:, -1] - other[:, -1]).max() > 1.0
    raw, wrong = csi.fingerprint(clean), csi.fingerprint(spoilt)
    assert raw.shape == (6, 38400)
    assert np.abs(raw[:, 19200:]).max() <= np.pi + 1e-6
    assert np.abs(raw - wrong).max() > 1.0


def test_alignment_forgets_timing():
    moved = csi.synthesize_taps(SIGHT, port_gains(SIGHT), late_s=np.full(6, 3 / 122.88e6))
    still = csi.synthesize_taps(SIGHT, port_gains(SIGHT))
    near, far = (csi.angle_delay_power(taps, align="first") for taps in (still, moved))
    strong = near[:, :-1] > -20.0
    assert np.abs(near[:, :-1] - far[:, :-1])[strong].max() < 0.1


def test_a_link_without_paths_is_silent_and_said_to_be():
    empty = Channels(
        STATIONS[:1],
        np.array([0, 0]),
        np.zeros((0, 2, 2), complex),
        np.zeros(0),
        np.zeros((0, 2)),
        np.zeros((0, 2)),
        np.zeros(0),
        np.zeros(0, np.uint8),
        np.zeros(0, np.uint8),
    )
    assert np.isnan(empty.path_gain_db).all()
    assert not empty.los.any()
    taps = csi.synthesize_taps(empty, port_gains(empty))
    assert not taps.any()
    assert np.isnan(csi.angle_delay_power(taps)[0, -1])


def test_bad_settings_are_refused_in_words():
    with pytest.raises(ConfigError, match="PanelArray"):
        PanelArray(rows=0)
    with pytest.raises(ConfigError, match="active"):
        Sounding(active=5000)
    with pytest.raises(ConfigError, match="guard"):
        Sounding(guard=-1)
    with pytest.raises(ConfigError, match="clock_std_s"):
        Impairments(clock_std_s=-1.0)
    with pytest.raises(ConfigError, match="scatterers"):
        ScatterConfig(scatterers=-1)
