"""KPI formulas: laws and the figures that the standards print."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hertzmap.core import kpi
from hertzmap.core.kpi import PowerBudget

BUDGET = PowerBudget()
POWERS = st.lists(st.floats(-150.0, -40.0), min_size=1, max_size=5).map(np.array)


def test_the_default_carrier_has_the_power_and_noise_of_one_resource_element():
    assert BUDGET.reference_dbm == pytest.approx(7.85, abs=0.01)
    assert BUDGET.noise_dbm == pytest.approx(-120.2, abs=0.01)


@given(st.floats(-150.0, -40.0))
def test_a_lone_cell_has_no_interference(rsrp):
    found = kpi.sinr_db(np.array([rsrp]), loads=np.ones(1), noise_dbm=-120.2)
    assert found[0] == pytest.approx(rsrp + 120.2, abs=1e-9)


@given(POWERS, st.floats(0.0, 1.0))
def test_sinr_falls_with_load_and_never_exceeds_snr(rsrp, load):
    count = len(rsrp)
    idle = kpi.sinr_db(rsrp, loads=np.zeros(count), noise_dbm=-120.0)
    busy = kpi.sinr_db(rsrp, loads=np.full(count, load), noise_dbm=-120.0)
    np.testing.assert_allclose(idle, rsrp + 120.0, atol=1e-9)
    assert (busy <= idle + 1e-9).all()


def test_a_cell_without_a_path_neither_interferes_nor_serves():
    rsrp = np.array([[-80.0], [np.nan]])
    found = kpi.sinr_db(rsrp, loads=np.ones(2), noise_dbm=-120.0)
    assert found[0, 0] == pytest.approx(40.0)
    assert np.isnan(found[1, 0])
    assert kpi.best_server(rsrp).tolist() == [0]
    assert kpi.best_server(np.full((2, 1), np.nan)).tolist() == [-1]
    assert not kpi.is_detected(rsrp, found)[1, 0]


@given(POWERS)
def test_rsrq_is_at_most_a_twelfth_at_full_load(rsrp):
    found = kpi.rsrq_db(rsrp, loads=np.ones(len(rsrp)), noise_dbm=-120.0)
    assert (found <= -10.79).all()


def test_thresholds_of_both_tables_are_those_of_attenuated_shannon():
    assert kpi.cqi_thresholds_db("64QAM").round(1).tolist() == [
        *(-8.2, -6.2, -3.8, -1.3, 1.0, 2.9, 4.6, 6.9, 9.2, 10.6, 13.1, 15.5, 18.1, 20.5, 22.3),
    ]
    assert kpi.cqi_thresholds_db().round(1).tolist() == [
        *(-8.2, -3.8, 1.0, 4.6, 6.9, 9.2, 10.6, 13.1, 15.5, 18.1, 20.5, 22.3, 25.0, 27.7, 29.7),
    ]
    with pytest.raises(ValueError, match="64QAM, 256QAM"):
        kpi.cqi(np.zeros(1), "16QAM")


@given(st.floats(-30.0, 50.0), st.sampled_from(["64QAM", "256QAM"]))
def test_the_reported_cqi_is_the_smooth_one_rounded_down(sinr, table):
    value = np.array([sinr])
    assert kpi.cqi(value, table)[0] == np.floor(kpi.smooth_cqi(value, table)[0])


@pytest.mark.parametrize("index", [1, 7, 15])
def test_a_tenth_of_the_blocks_is_lost_at_a_threshold(index):
    at = kpi.cqi_thresholds_db()[index - 1]
    assert kpi.block_error_rate(np.array([at]), np.array([index]))[0] == pytest.approx(0.1)


def test_throughput_rises_with_sinr_to_the_carrier_s_peak():
    sinr = np.linspace(-20.0, 60.0, 400)
    found = kpi.throughput_mbps(sinr, BUDGET)
    assert found[0] == 0.0
    # 12 * 273 * 28,000 * 0.86 * 7.4063 bit/s
    assert found[-1] == pytest.approx(584.3, abs=0.2)
    steps = np.flatnonzero(np.diff(kpi.cqi(sinr)))
    assert (np.delete(np.diff(found), steps) >= 0).all()
    assert kpi.throughput_mbps(sinr, BUDGET, layers=4, share=0.25) == pytest.approx(found)
    assert np.isnan(kpi.throughput_mbps(np.array([np.nan]), BUDGET))[0]


@pytest.mark.parametrize(
    ("spacing_hz", "step_ns", "way_m"),
    [(15e3, 520.8, 78.07), (30e3, 260.4, 39.04), (60e3, 130.2, 19.52), (120e3, 65.1, 9.76)],
)
def test_a_step_of_the_timing_advance_is_the_standard_s(spacing_hz, step_ns, way_m):
    budget = PowerBudget(subcarrier_spacing_hz=spacing_hz)
    assert budget.timing_step_s * 1e9 == pytest.approx(step_ns, abs=0.05)
    one = kpi.delay_of_timing_advance_s(np.ones(1), budget)[0]
    assert one * 299_792_458.0 == pytest.approx(way_m, abs=0.02)


@given(st.floats(0.0, 4e-4))
def test_timing_advance_is_within_half_a_step(toa_s):
    index = kpi.timing_advance(np.array([toa_s]), BUDGET)
    back = kpi.delay_of_timing_advance_s(index, BUDGET)[0]
    assert abs(back - toa_s) <= BUDGET.timing_step_s / 4 + 1e-12


def test_timing_advance_ends_at_its_largest_index():
    assert kpi.timing_advance(np.array([1.0, np.nan]), BUDGET)[0] == 3846


@pytest.mark.parametrize(
    ("mapping", "value", "index"),
    [
        (kpi.RSRP, -157.0, 0),
        (kpi.RSRP, -156.0, 1),
        (kpi.RSRP, -80.3, 76),
        (kpi.RSRP, -31.0, 126),
        (kpi.RSRP, -20.0, 127),
        (kpi.RSRP_L1, -150.0, 16),
        (kpi.RSRP_L1, -44.0, 113),
        (kpi.RSRQ, -43.5, 0),
        (kpi.RSRQ, -10.8, 65),
        (kpi.SINR, -23.0, 1),
        (kpi.SINR, 0.0, 47),
        (kpi.SINR, 40.0, 127),
    ],
)
def test_report_indices_are_those_of_the_tables(mapping, value, index):
    assert mapping.index(np.array([value]))[0] == index


@given(st.floats(-155.9, -31.1), st.sampled_from([kpi.RSRP, kpi.RSRQ, kpi.SINR]))
def test_decoding_returns_the_middle_of_the_bin(value, mapping):
    inside = mapping.low + (value + 156.0) % (mapping.step * (mapping.most - 2))
    index = mapping.index(np.array([inside]))
    assert abs(mapping.decoded(index)[0] - inside) <= 0.5 * mapping.step + 1e-9
    assert mapping.index(mapping.decoded(index))[0] == index[0]
    assert not mapping.censored(index)[0]


def test_the_ends_of_a_mapping_are_open():
    assert kpi.RSRP.censored(np.array([0.0, 1.0, 126.0, 127.0])).tolist() == [1, 0, 0, 1]
    assert np.isnan(kpi.RSRP.index(np.array([np.nan])))[0]


@given(st.integers(0, 63))
def test_headroom_indices_round_trip(index):
    value = kpi.headroom_of_index_db(np.array([index]))
    assert kpi.headroom_index(value)[0] == index


def test_headroom_steps_double_at_22_db():
    found = kpi.headroom_index(np.array([-40.0, -32.0, 21.5, 22.0, 23.9, 24.0, 60.0]))
    assert found.tolist() == [0, 1, 54, 55, 55, 56, 63]


def test_headroom_falls_with_path_loss():
    near, far = kpi.power_headroom_db(np.array([100.0, 120.0]), BUDGET)
    assert near - far == pytest.approx(16.0)


def test_the_filter_keeps_a_constant_and_halves_a_step_by_default():
    assert (kpi.l3_filtered(np.full((5, 2), -80.0)) == -80.0).all()
    rising = kpi.l3_filtered(np.array([0.0, 10.0, 10.0]))
    assert rising.tolist() == [0.0, 5.0, 7.5]
    assert kpi.l3_filtered(np.array([0.0, 10.0]), 0.0).tolist() == [0.0, 10.0]


def test_a_missing_measurement_stays_missing_and_leaves_the_filter_alone():
    found = kpi.l3_filtered(np.array([np.nan, 0.0, np.nan, 10.0]))
    assert np.isnan(found[[0, 2]]).all()
    assert found[[1, 3]].tolist() == [0.0, 5.0]


def test_spreads_of_two_equal_paths_are_half_their_gap():
    gain = np.array([[-90.0, -90.0, np.nan]])
    assert kpi.delay_spread_s(gain, np.array([[0.0, 2e-7, np.nan]]))[0] == pytest.approx(1e-7)
    angle = kpi.angle_spread_rad(gain, np.array([[-0.1, 0.1, np.nan]]))[0]
    assert angle == pytest.approx(0.1, rel=0.01)


def test_a_link_without_paths_has_no_spread():
    nothing = np.full((1, 3), np.nan)
    assert np.isnan(kpi.delay_spread_s(nothing, nothing))[0]
    assert np.isnan(kpi.angle_spread_rad(nothing, nothing))[0]


@pytest.mark.parametrize("coefficient", [0.0, 4.0, 8.0])
def test_filtered_noise_has_the_share_that_is_stated(coefficient):
    noise = np.random.default_rng(1).standard_normal((400, 2000))
    settled = kpi.l3_filtered(noise, coefficient)[100:]
    assert settled.std() == pytest.approx(kpi.l3_noise_share(coefficient), rel=0.01)


def test_rank_grows_with_power_up_to_what_the_channel_has():
    even, lone = np.ones((1, 4)), np.array([[1.0, 1e-6, 0.0, 0.0]])
    assert kpi.rank_indicator(even, np.array([1e-3])).tolist() == [4]
    assert kpi.rank_indicator(lone, np.array([1e3])).tolist() == [1]
    uneven = np.array([[1.0, 0.3, 0.1, 0.03]])
    ranks = [int(kpi.rank_indicator(uneven, np.array([10.0**k]))[0]) for k in range(-1, 9)]
    assert ranks == sorted(ranks)
    assert (ranks[0], ranks[-1]) == (1, 4)


@given(st.lists(st.floats(-139.0, -45.0), min_size=2, max_size=4))
def test_beams_are_told_within_half_their_steps(levels):
    level = np.sort(np.array(levels))[::-1]
    index = kpi.beam_indices(level)
    found = kpi.beams_of_indices_dbm(index)
    assert abs(found[0] - level[0]) <= 0.5 + 1e-9
    near = index[1:] < 15
    assert (np.abs(found[1:] - level[1:])[near] <= 1.5 + 1e-9).all()


def test_blocks_of_another_format_arrive_by_its_own_threshold():
    sinr = np.array([12.0])
    own = kpi.throughput_mbps(sinr, BUDGET, index=kpi.cqi(sinr))
    assert own == pytest.approx(kpi.throughput_mbps(sinr, BUDGET))
    bold = kpi.throughput_mbps(sinr, BUDGET, index=kpi.cqi(sinr) + 2)
    shy = kpi.throughput_mbps(sinr, BUDGET, index=kpi.cqi(sinr) - 2)
    assert bold < shy < own
    assert kpi.throughput_mbps(sinr, BUDGET, index=np.array([0])) == [0.0]


@given(st.floats(1e8, 99e9))
def test_carriers_stand_on_the_raster_in_order(carrier):
    step = 5e3 if carrier < 3e9 else 15e3 if carrier < 24.25008e9 else 60e3
    assert kpi.nr_arfcn(carrier + 2 * step) > kpi.nr_arfcn(carrier)
