"""Reports say what the maps say, and what is missing says why."""

import time
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from hertzmap.core import kpi, layers
from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.seeds import generator
from hertzmap.core.sequences import (
    BELOW_DETECTION,
    DROPPED,
    NOT_CONFIGURED,
    NOT_SIMULATED,
    PRESENT,
    QUANTITIES,
)
from hertzmap.core.types import AntennaPattern, RadioMap, Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S
from hertzmap.measurement.readings import read_channels, with_beams
from hertzmap.measurement.sequences import EXACT, SequenceConfig, due, serving_cell, simulate
from hertzmap.measurement.trajectories import Trajectory
from hertzmap.propagation.arrays import port_gains
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.scatter import ScatterConfig, ScatterWorld
from hertzmap.scenes.raster import rasterize
from hertzmap.scenes.synthetic import city

CARRIER = 3.5e9
GRID = Grid(60, 60, 4.0, (-120.0, -120.0))
SITES = tuple(
    Transmitter((100 * np.cos(a), 100 * np.sin(a), 20.0), CARRIER, yaw_rad=a + np.pi)
    for a in np.linspace(0.0, 5.0, 6)
)
BUDGET = PowerBudget(total_dbm=20.0, load=0.3)
STEPS = 6


def world(loss_db=0.0):
    """Free space with a wall across; behind it 30 dB more loss for half of the cells."""
    places = np.concatenate([GRID.centres_m(), np.full((*GRID.shape, 1), 1.5)], axis=-1)
    length = np.stack([np.linalg.norm(places - one.place_m, axis=-1) for one in SITES])
    los = np.ones(length.shape, bool)
    los[::2, :, 32:] = False
    valid = np.ones(length.shape, bool)
    valid[:, 10:50, 30:32] = False
    valid[5, :20] = False
    gain = -43.3 - 20.0 * np.log10(length) - np.where(los, 0.0, 30.0) - loss_db
    nan = np.where(valid, 0.0, np.nan)
    return RadioMap(GRID, gain + nan, valid, SITES, length / SPEED_OF_LIGHT_M_S + nan, los & valid)


MAPS = world()
OUTDOORS = np.asarray(MAPS.valid.any(axis=0))


def at(places_m, period_s=0.2):
    """A UE at given places, one a step."""
    time_s = period_s * np.arange(len(places_m))
    velocity = np.gradient(places_m, period_s, axis=0) if len(places_m) > 1 else 0.0 * places_m
    return Trajectory(time_s, places_m, velocity)


def walks(count, period_s=0.2):
    """Straight walks clear of the wall."""
    found = []
    for k in range(count):
        draw = generator(9, k)
        start = np.array([draw.uniform(15.0, 100.0), draw.uniform(-110.0, 110.0)])
        start[0] *= draw.choice([-1.0, 1.0])
        heading = draw.uniform(0.0, 2.0 * np.pi)
        step = 0.4 * np.array([np.cos(heading), np.sin(heading)])
        found.append(at(start + step * np.arange(STEPS)[:, None], period_s))
    return found


WALKS = walks(40)


def test_a_report_at_a_pixel_s_centre_is_the_map():
    names = ("rsrp", "rsrq", "sinr", "throughput", "toa", "los", "cqi")
    found = layers.cell_layers(MAPS, BUDGET, names=names)
    centres = GRID.centres_m()
    free = np.argwhere(OUTDOORS)[::7]
    sim = simulate(MAPS, [at(centres[r, c][None]) for r, c in free], BUDGET, EXACT, seed=0)
    own, (row, col) = sim.sequences, free.T
    for key, name in (("ss_rsrp", "rsrp"), ("ss_rsrq", "rsrq"), ("ss_sinr", "sinr")):
        want = found.layer(name)[:, row, col].T
        np.testing.assert_allclose(own.value[key][:, 0], want, atol=0.01, err_msg=key)
    np.testing.assert_allclose(own.value["toa"][:, 0], found.layer("toa")[:, row, col].T, atol=0.01)
    np.testing.assert_array_equal(own.value["nlos"][:, 0], 1.0 - found.layer("los")[:, row, col].T)
    serving = own.serving[:, 0]
    assert (serving == found.association[row, col]).all()
    each = np.arange(len(free))
    rate = found.layer("throughput")[serving, row, col]
    np.testing.assert_allclose(own.value["dl_throughput"][each, 0, serving], rate, rtol=1e-5)
    index = np.floor(found.layer("cqi")[serving, row, col] + 1e-5)
    np.testing.assert_array_equal(own.index["cqi"][each, 0, serving], index)


def test_maps_of_the_engine_agree_with_its_reports_too():
    scene = city(3, size_m=96.0, buildings=6)
    grid = Grid(48, 48, 2.0, (-48.0, -48.0))
    free = rasterize(scene, grid).free
    row, col = np.argwhere(free)[[40, 900]].T
    places = grid.centres_m()[row, col]
    sites = tuple(
        Transmitter((east, north, 8.0), CARRIER, AntennaPattern("sector"), pitch_rad=0.17)
        for east, north in places.tolist()
    )
    maps = DominantPath(Environment.prepare(scene, grid)).trace(sites)
    found = layers.cell_layers(maps, BUDGET, names=("rsrp", "sinr", "rsrq", "toa"), free=free)
    chosen = np.argwhere(maps.valid.all(axis=0))[::11]
    walks = [at(grid.centres_m()[r, c][None]) for r, c in chosen]
    own = simulate(maps, walks, BUDGET, EXACT, seed=0, free=free).sequences
    for key, name in (("ss_rsrp", "rsrp"), ("ss_sinr", "sinr"), ("ss_rsrq", "rsrq")):
        want = found.layer(name)[:, chosen[:, 0], chosen[:, 1]].T
        np.testing.assert_allclose(own.value[key][:, 0], want, atol=0.01, err_msg=key)
    assert (own.reason["ss_rsrp"] == PRESENT).all()


def test_a_tile_s_reports_take_a_moment():
    grid = Grid(256, 256, 2.0, (-256.0, -256.0))
    place = np.concatenate([grid.centres_m(), np.full((*grid.shape, 1), 1.5)], axis=-1)
    sites = (
        *SITES,
        Transmitter((0.0, 90.0, 9.0), CARRIER),
        Transmitter((9.0, -90.0, 9.0), CARRIER),
    )
    length = np.stack([np.linalg.norm(place - one.place_m, axis=-1) for one in sites])
    maps = RadioMap(
        grid, -43.3 - 25.0 * np.log10(length), np.ones(length.shape, bool), sites, length / 3e8
    )
    walks = [at(np.array([[k - 100.0, 0.5 * step] for step in range(11)])) for k in range(200)]
    start = time.process_time()
    own = simulate(maps, walks, BUDGET, seed=1).sequences
    spent = time.process_time() - start
    assert own.shape == (200, 11, 8)
    assert spent < 2.0  # 0.03 CPU-s for us


def test_between_centres_a_report_is_interpolated_in_decibels_and_never_over_a_wall():
    centre = GRID.place(np.array([[5.5, 8.0], [20.0, 29.4], [20.0, 32.0]]))
    found = simulate(MAPS, [at(place[None]) for place in centre], BUDGET, EXACT, seed=0)
    rsrp = MAPS.path_gain_db[0] + BUDGET.reference_dbm
    value = found.sequences.value["ss_rsrp"][:, 0, 0]
    assert value[0] == pytest.approx(0.5 * (rsrp[5, 8] + rsrp[6, 8]), abs=1e-4)
    assert value[1] == pytest.approx(rsrp[20, 29], abs=1e-4)


def test_twenty_decibels_more_loss_is_exactly_twenty_less_rsrp():
    for loss in (20.0, 40.0, 60.0):
        near, far = (simulate(world(d), WALKS, BUDGET, EXACT, seed=0) for d in (0.0, loss))
        rsrp = [one.sequences.value["ss_rsrp"] for one in (near, far)]
        np.testing.assert_allclose(rsrp[0] - loss, rsrp[1], atol=2e-5)
    assert np.nanmin(rsrp[1]) < -150.0
    quantised = replace(EXACT, quantised=True)
    floor = simulate(world(110.0), WALKS, BUDGET, quantised, seed=0).sequences
    low = floor.present("ss_rsrp")
    assert (floor.index["ss_rsrp"][low] == 0).any()
    assert (floor.value["ss_rsrp"][low] >= -156.5).all()


def test_quantised_values_are_those_of_their_indices():
    fine = simulate(MAPS, WALKS, BUDGET, EXACT, seed=0).sequences
    coarse = simulate(MAPS, WALKS, BUDGET, replace(EXACT, quantised=True), seed=0).sequences
    for key, step in (("ss_rsrp", 1.0), ("ss_rsrq", 0.5), ("ss_sinr", 0.5)):
        np.testing.assert_array_equal(fine.index[key], coarse.index[key])
        inside = (coarse.index[key] > 0) & (coarse.index[key] < 127)
        gap = np.abs(fine.value[key] - coarse.value[key])[inside]
        assert gap.max() <= 0.5 * step + 1e-5


def test_timing_advance_follows_the_first_path():
    own = simulate(MAPS, WALKS, BUDGET, replace(EXACT, quantised=True), seed=0).sequences
    where = own.present("timing_advance")
    want = kpi.timing_advance(own.value["toa"][where] * 1e-9, BUDGET)
    np.testing.assert_array_equal(own.index["timing_advance"][where], want)
    assert MAPS.toa_s is not None
    late = replace(MAPS, toa_s=MAPS.toa_s + 3e-6)
    other = simulate(late, WALKS, BUDGET, replace(EXACT, quantised=True), seed=0).sequences
    gap = other.index["timing_advance"][where] - own.index["timing_advance"][where]
    assert np.abs(gap - 2 * 3e-6 / BUDGET.timing_step_s).max() <= 1.0


def test_headroom_falls_with_path_loss():
    own = simulate(MAPS, WALKS, BUDGET, EXACT, seed=0).sequences
    where = own.present("phr")
    slope = np.polyfit(own.value["ss_rsrp"][where], own.value["phr"][where], 1)[0]
    assert slope == pytest.approx(0.8, abs=1e-3)


CLEAN = replace(SequenceConfig(), report_loss=0.0, drop_rsrp=0.0, drop_neighbours=0.0)


def test_noise_has_its_size_after_the_filter_from_the_first_report_on():
    still = [at(np.tile([[60.0, 20.0 + 0.1 * k]], (8, 1))) for k in range(300)]
    config = replace(EXACT, rsrp_noise_db=2.0, offset_std_db=3.0, filter_coefficient=4.0)
    own = simulate(MAPS, still, BUDGET, config, seed=1).sequences.value["ss_rsrp"]
    clean = simulate(MAPS, still, BUDGET, EXACT, seed=1).sequences.value["ss_rsrp"]
    error = own - clean
    shared = error.mean(axis=2, keepdims=True)
    for step in (0, 1, 7):
        spread = np.sqrt(((error - shared)[:, step] ** 2).sum() / (300 * (len(SITES) - 1)))
        assert spread == pytest.approx(2.0, rel=0.06)
    assert error.mean(axis=(1, 2)).std() == pytest.approx(3.0, rel=0.15)
    turn = np.corrcoef((error - shared)[:, 3].ravel(), (error - shared)[:, 4].ravel())[0, 1]
    assert turn == pytest.approx(0.5, abs=0.06)


def test_the_same_seed_gives_the_same_bytes_in_any_batch():
    whole = simulate(MAPS, WALKS, BUDGET, seed=3, address=(1, 2)).sequences
    again = simulate(MAPS, WALKS, BUDGET, seed=3, address=(1, 2)).sequences
    parts = [
        simulate(MAPS, WALKS[a:b], BUDGET, seed=3, address=(1, 2), first=a).sequences
        for a, b in ((0, 1), (1, 17), (17, 40))
    ]
    other = simulate(MAPS, WALKS, BUDGET, seed=4, address=(1, 2)).sequences
    assert whole.ue_id == sum((part.ue_id for part in parts), ())
    for key in whole.keys:
        assert whole.value[key].tobytes() == again.value[key].tobytes()
        for name in ("value", "reason"):
            joined = np.concatenate([getattr(part, name)[key] for part in parts])
            assert joined.tobytes() == getattr(whole, name)[key].tobytes()
    assert other.value["ss_rsrp"].tobytes() != whole.value["ss_rsrp"].tobytes()


def test_reasons_agree_with_each_other():
    own = simulate(MAPS, WALKS, BUDGET, seed=3, free=OUTDOORS).sequences
    assert own.keys == tuple(QUANTITIES)
    lost = (own.reason["serving_cell"] == DROPPED).all(axis=2)
    assert lost.mean() == pytest.approx(0.1, abs=0.06)
    for key, quantity in QUANTITIES.items():
        reason = own.reason[key]
        nothing = (reason == NOT_SIMULATED).all()
        assert nothing == (key in ("rms_ds", "rms_as", "n_paths", "doppler_spread", "ri", "pmi",
                                   "l1_rsrp", "beam_id"))  # fmt: skip
        assert nothing or (reason[lost] == DROPPED).all()
        if quantity.serving and not nothing:
            served = own.value["serving_cell"] == 1.0
            assert not own.present(key)[~served].any()
    below = own.reason["ss_rsrp"] == BELOW_DETECTION
    for key in ("ss_rsrq", "ss_sinr"):
        np.testing.assert_array_equal(own.reason[key] == BELOW_DETECTION, below)
    assert not own.present("neighbours")[below].any()
    kept = own.present("ss_rsrp")
    assert (own.value["ss_rsrp"][kept] >= kpi.DETECTION_RSRP_DBM - 0.5).all()
    assert (own.value["ss_sinr"][own.present("ss_sinr")] >= kpi.DETECTION_SINR_DB - 0.5).all()


def test_values_are_dropped_at_their_rates():
    config = replace(EXACT, drop_rsrp=0.05, drop_sinr=0.3, drop_cqi=0.5, drop_neighbours=0.3)
    own = simulate(MAPS, walks(120), BUDGET, config, seed=5).sequences
    for key, rate in (("ss_rsrp", 0.05), ("ss_rsrq", 0.0), ("ss_sinr", 0.3)):
        there = own.reason[key] != BELOW_DETECTION
        assert (own.reason[key] == DROPPED)[there].mean() == pytest.approx(rate, abs=0.02)
    served = own.value["serving_cell"] == 1.0
    assert (own.reason["cqi"] == DROPPED)[served].mean() == pytest.approx(0.5, abs=0.06)
    gone = own.reason["neighbours"] == DROPPED
    whole = gone.any(axis=2)
    assert whole.mean() == pytest.approx(0.3, abs=0.06)
    assert (gone.sum(axis=2)[whole] == len(SITES) - 1).all()
    assert not own.present("neighbours")[whole].any()


def test_layers_report_at_their_periods():
    config = replace(EXACT, rrc_period_s=0.4, csi_period_s=0.2)
    own = simulate(MAPS, WALKS, BUDGET, config, seed=0).sequences
    instants = (own.reason["ss_rsrp"] != NOT_CONFIGURED).any(axis=2)
    assert (instants == [True, False] * (STEPS // 2)).all()
    assert (own.reason["cqi"] == PRESENT).any(axis=2).all()
    assert (own.reason["timing_advance"] == PRESENT).any(axis=2).all()
    found = due(np.array([[5.0, 5.1, 5.33, 5.5, 6.2]]), 0.32)
    assert found.tolist() == [[True, False, True, False, True]]


def test_the_strongest_cells_are_reported_the_serving_one_first():
    config = replace(EXACT, most_cells=3)
    own = simulate(MAPS, WALKS, BUDGET, config, seed=0).sequences
    full = simulate(MAPS, WALKS, BUDGET, EXACT, seed=0).sequences
    assert (own.present("ss_rsrp").sum(axis=2) == 3).all()
    listed = np.where(own.present("ss_rsrp"), full.value["ss_rsrp"], np.nan)
    others = np.where(own.present("ss_rsrp"), np.nan, full.value["ss_rsrp"])
    served = full.value["serving_cell"] == 1.0
    weakest = np.nanmin(np.where(served, np.nan, listed), axis=2)
    assert (weakest >= np.nanmax(others, axis=2) - 1e-4).all()
    first = own.neighbour_list[:, :, :2]
    level = np.take_along_axis(full.value["ss_rsrp"], first, axis=2)
    assert (level[..., 0] >= level[..., 1]).all()
    assert (own.neighbour_list[:, :, 2:] == -1).all()


def test_a_serving_cell_stays_within_the_hysteresis():
    rsrp = np.array([[[-80.0, -85.0], [-82.0, -80.0], [-84.0, -80.0], [-80.0, -82.0]]])
    sure = np.ones(rsrp.shape, bool)
    clear = np.ones(rsrp.shape[:2], bool)
    assert serving_cell(rsrp, sure, clear, 3.0).tolist() == [[0, 0, 1, 1]]
    assert serving_cell(rsrp, sure, clear, 0.0).tolist() == [[0, 1, 1, 0]]
    gone = sure.copy()
    gone[0, 1, 0] = False
    assert serving_cell(rsrp, gone, clear, 3.0).tolist() == [[0, 1, 1, 1]]
    gone[0, 1] = False
    assert serving_cell(rsrp, gone, clear, 3.0).tolist() == [[0, -1, 1, 1]]
    blind = np.array([[True, False, True, True]])
    assert serving_cell(rsrp, gone, blind, 3.0)[0, 1] == -1


def test_a_place_without_data_is_not_simulated_and_one_without_a_path_not_detected():
    wall, shadow = GRID.place(np.array([[20.0, 31.0], [5.0, 5.0]]))
    own = simulate(MAPS, [at(wall[None]), at(shadow[None])], BUDGET, EXACT, seed=0).sequences
    assert (own.reason["ss_rsrp"][0] == NOT_SIMULATED).all()
    assert (own.reason["serving_cell"][0] == NOT_SIMULATED).all()
    assert own.reason["ss_rsrp"][1, 0].tolist() == [0, 0, 0, 0, 0, BELOW_DETECTION]
    assert own.reason["toa"][1, 0, 5] == BELOW_DETECTION


def test_a_mask_of_free_ground_tells_silence_from_walls():
    silent = replace(MAPS, valid=np.zeros_like(MAPS.valid))
    place = [at(GRID.place(np.array([[5.0, 5.0]])))]
    unknown = simulate(silent, place, BUDGET, EXACT, seed=0).sequences
    assert (unknown.reason["ss_rsrp"] == NOT_SIMULATED).all()
    known = simulate(silent, place, BUDGET, EXACT, seed=0, free=OUTDOORS).sequences
    for key in ("ss_rsrp", "serving_cell", "neighbours", "timing_advance", "cqi"):
        assert (known.reason[key] == BELOW_DETECTION).all(), key


def scattered(trajectories, budget=BUDGET, beams=True):
    """Paths of a world of scatterers for the same sites and places."""
    ue = np.concatenate([one.place_m for one in trajectories])
    speed = np.concatenate([one.velocity_m_s for one in trajectories])
    ue = np.column_stack([ue, np.full(len(ue), 1.5)])
    speed = np.column_stack([speed, np.zeros(len(speed))])
    config = ScatterConfig(scatterers=10, radius_m=150.0)
    channels = ScatterWorld(config, seed=2).channels(SITES, ue, speed)
    paths = read_channels(channels, len(trajectories), STEPS, most_paths=8)
    if beams:
        paths = with_beams(paths, channels, port_gains(channels), budget)
    return channels, paths


def test_paths_fill_every_key_and_every_feature_varies():
    few = WALKS[:12]
    weak = replace(BUDGET, total_dbm=0.0)  # with much power every rank is full
    _, paths = scattered(few, weak)
    own = simulate(MAPS, few, weak, seed=1, paths=paths).sequences
    for key in QUANTITIES:
        values = own.value[key]
        seen = values[np.isfinite(values)]
        assert len(seen) > 20, key
        if key != "nlos":  # this world has no walls
            assert np.std(seen) > 0, key
    assert own.paths is not None
    flat = [np.std(column) > 0 for column in own.paths.columns.values()]
    assert all(flat)
    without = simulate(MAPS, few, weak, seed=1).sequences
    for key in ("ss_rsrp", "ss_sinr", "cqi", "serving_cell"):
        assert without.value[key].tobytes() == own.value[key].tobytes()
    assert own.index["ri"].max() <= 4
    some = without.value["nlos"]
    assert 0 < np.nanmean(some) < 1


def test_timing_advance_takes_the_paths_delay_where_there_are_paths():
    few = WALKS[:4]
    channels, paths = scattered(few, beams=False)
    own = simulate(MAPS, few, BUDGET, replace(EXACT, quantised=True), seed=1, paths=paths).sequences
    where = own.present("timing_advance")
    first = channels.first_delay_s.reshape(own.shape)[where]
    np.testing.assert_array_equal(
        own.index["timing_advance"][where], kpi.timing_advance(first, BUDGET)
    )
    assert (own.value["n_paths"] >= 1).all()
    assert (own.reason["ri"] == NOT_SIMULATED).all()


def test_beams_come_best_first_and_change_along_a_way_round_the_site():
    ring = np.linspace(0.0, 2.0 * np.pi, STEPS, endpoint=False)
    way = [at(np.stack([100 + 15 * np.cos(ring), 15 * np.sin(ring)], axis=1))]
    _, paths = scattered(way)
    own = simulate(MAPS, way, BUDGET, EXACT, seed=1, paths=paths).sequences
    level, beam = own.value["l1_rsrp"][0, :, 0], own.value["beam_id"][0, :, 0]
    assert (np.diff(level, axis=1) <= 0).all()
    assert (np.ptp(level, axis=1) > 0).all()
    assert len(np.unique(beam[:, 0])) > 1
    assert own.index["l1_rsrp"][0, 0, 0, 0] >= 16


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(ReportsError, match=r"off the map.*sample 0, step 1"):
        simulate(MAPS, [at(np.array([[0.0, 100.0], [0.0, 130.0]]))], BUDGET, seed=0)
    with pytest.raises(ReportsError, match="equally many positions"):
        simulate(MAPS, [WALKS[0], at(np.array([[60.0, 0.0]]))], BUDGET, seed=0)
    with pytest.raises(ReportsError, match="equally many positions"):
        simulate(MAPS, [], BUDGET, seed=0)
    _, paths = scattered(WALKS[:2], beams=False)
    with pytest.raises(ReportsError, match="paths are of"):
        simulate(MAPS, WALKS[:3], BUDGET, seed=0, paths=paths)
    with pytest.raises(ConfigError, match="report_loss"):
        SequenceConfig(report_loss=2.0)
    with pytest.raises(ConfigError, match="drop_pmi"):
        SequenceConfig(drop_pmi=-0.1)
    with pytest.raises(ConfigError, match="most_cells"):
        SequenceConfig(most_cells=10)
    with pytest.raises(ConfigError, match="rrc_period_s"):
        SequenceConfig(rrc_period_s=0.0)
    with pytest.raises(ConfigError, match="sinr_noise_db"):
        SequenceConfig(sinr_noise_db=np.nan)


def test_the_configuration_comes_back_from_json():
    adapter = TypeAdapter(SequenceConfig)
    assert adapter.validate_json(adapter.dump_json(EXACT)) == EXACT
