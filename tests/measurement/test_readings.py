"""What paths say of a link, checked where it is known exactly."""

import numpy as np
import pytest

from hertzmap.core.channels import Channels
from hertzmap.core.errors import ReportsError
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.types import Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S
from hertzmap.measurement.readings import read_channels, with_beams
from hertzmap.propagation.arrays import PanelArray, port_gains
from hertzmap.propagation.scatter import ScatterConfig, ScatterWorld

SITE = (Transmitter((0.0, 0.0, 20.0), 3.5e9),)


def two_paths(gap_db=0.0, gap_s=2e-7):
    """One link of two paths, the second later, and one link without any."""
    amplitude = 1e-4 * np.array([1.0, 10 ** (-gap_db / 20)])
    direction = np.array([[0.1, 1.5], [-0.1, 1.5]])
    return Channels(
        SITE,
        np.array([0, 2, 2]),
        amplitude[:, None, None] * np.eye(2).astype(complex),
        np.array([1e-6, 1e-6 + gap_s]),
        direction,
        direction,
        np.array([10.0, -10.0]),
        np.array([1, 1], np.uint8),
        np.array([1, 2], np.uint8),
    )


def test_spreads_of_two_equal_paths_are_half_their_gap():
    found = read_channels(two_paths(), 2, 1)
    assert found.delay_spread_s[0, 0, 0] == pytest.approx(1e-7)
    assert found.doppler_spread_hz[0, 0, 0] == pytest.approx(10.0)
    assert found.angle_spread_rad[0, 0, 0] == pytest.approx(0.1, rel=0.01)
    assert found.count[0, 0, 0] == 2
    assert found.nlos[0, 0, 0] == 1
    for values in (found.toa_s, found.delay_spread_s, found.count, found.nlos):
        assert np.isnan(values[1, 0, 0])


def test_weak_paths_do_not_arrive_first_and_are_not_counted():
    late = two_paths(gap_db=-26.0)  # the second one is stronger by 26 dB
    found = read_channels(late, 2, 1)
    assert found.toa_s[0, 0, 0] == pytest.approx(1.2e-6)
    assert found.count[0, 0, 0] == 2
    found = read_channels(two_paths(gap_db=-31.0), 2, 1)
    assert found.count[0, 0, 0] == 1
    assert read_channels(two_paths(gap_db=-24.0), 2, 1).toa_s[0, 0, 0] == pytest.approx(1e-6)


def test_the_strongest_paths_are_listed_in_order_of_delay():
    ue = np.array([[60.0, 20.0, 1.5], [-30.0, 50.0, 1.5]])
    channels = ScatterWorld(ScatterConfig(scatterers=12), seed=1).channels(SITE, ue)
    whole = read_channels(channels, 1, 2).paths
    few = read_channels(channels, 1, 2, most_paths=5).paths
    assert np.diff(whole.offset).tolist() == [13, 13]
    assert np.diff(few.offset).tolist() == [5, 5]
    for link in range(2):
        own, all_of = slice(*few.offset[link : link + 2]), slice(*whole.offset[link : link + 2])
        assert (np.diff(few.path_delay[own]) >= 0).all()
        best = np.sort(whole.path_gain[all_of])[-5:]
        np.testing.assert_array_equal(np.sort(few.path_gain[own]), best)
    assert whole.path_delay[0] == pytest.approx(
        1e9 * np.linalg.norm(ue[0] - SITE[0].place_m) / SPEED_OF_LIGHT_M_S
    )


def test_other_numbers_of_snapshots_are_refused():
    with pytest.raises(ReportsError, match="trace every step"):
        read_channels(two_paths(), 3, 1)
    with pytest.raises(ReportsError, match="do not fit"):
        with_beams(read_channels(two_paths(), 2, 1), two_paths(), np.zeros((2, 4, 1)) + 0j,
                   PowerBudget())  # fmt: skip


def sight(ue_m, panel=(2, 4, 4)):
    """Beams of a line of sight at an array that looks east."""
    channels = ScatterWorld(ScatterConfig(scatterers=0), seed=1).channels(
        (Transmitter((0.0, 0.0, 1.5), 3.5e9),), np.array(ue_m)
    )
    slants = (45.0, -45.0)[: panel[0]]
    gains = port_gains(channels, PanelArray(panel[1], panel[2], slants))
    found = read_channels(channels, len(ue_m), 1)
    beams = with_beams(found, channels, gains, PowerBudget(), panel=panel).beams
    assert beams is not None
    return channels, beams


def test_a_beam_towards_the_ue_gains_what_the_panel_has_elements():
    channels, beams = sight([[80.0, 0.0, 1.5]])
    assert beams.gain_db[0, 0, 0, 0] - channels.path_gain_db[0, 0] == pytest.approx(
        10 * np.log10(16 / 2), abs=1e-6
    )  # one wave shares its power among two slants
    assert beams.beam[0, 0, 0, 0] == 0


def test_beams_together_hold_the_power_of_all_elements():
    channels, beams = sight([[80.0, 33.0, 1.5]], panel=(2, 1, 4))
    total = (10 ** (beams.gain_db[0, 0, 0] / 10)).sum()
    assert 10 * np.log10(total) - channels.path_gain_db[0, 0] == pytest.approx(
        10 * np.log10(4 / 2), abs=1e-6
    )


def test_a_line_of_sight_has_at_most_the_rank_of_two_polarisations():
    _, beams = sight([[30.0, 10.0, 1.5], [40.0, -25.0, 1.5]])
    assert (beams.rank == 2).all()
    _, single = sight([[30.0, 10.0, 1.5]], panel=(1, 4, 4))
    assert single.rank[0, 0, 0] == 1
    assert len(np.unique(beams.precoder)) == 2
