"""Layers follow from path gain and budget alone, and masks stay masks."""

import numpy as np
import pytest

from hertzmap.core import kpi, layers
from hertzmap.core.errors import ConfigError
from hertzmap.core.grid import Grid
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.types import RadioMap, Transmitter

GRID = Grid(6, 8, 2.0)
SITES = (Transmitter((2.0, 2.0, 10.0)), Transmitter((14.0, 8.0, 10.0)))
BUDGET = PowerBudget()


def radio_map(loss_db=0.0, sites=SITES):
    """Free space about two sites, a wall in column 3, and no path from the second in row 0."""
    places = np.concatenate([GRID.centres_m(), np.full((*GRID.shape, 1), 1.5)], axis=-1)
    length = np.stack([np.linalg.norm(places - one.place_m, axis=-1) for one in sites])
    valid = np.ones(length.shape, bool)
    valid[:, :, 3] = False
    valid[1, 0] = False
    gain = np.where(valid, -43.3 - 20.0 * np.log10(length) - loss_db, np.nan)
    toa = np.where(valid, length / 299792458.0, np.nan)
    angle = np.where(valid, 0.3, np.nan)
    return RadioMap(GRID, gain, valid, sites, toa, valid.copy(), angle, angle + np.pi)


def test_every_layer_is_its_formula():
    found = layers.cell_layers(radio_map(), BUDGET, names=tuple(layers.UNITS))
    own = radio_map()
    assert own.toa_s is not None
    gain = own.path_gain_db
    rsrp = gain + BUDGET.reference_dbm
    sinr = kpi.sinr_db(rsrp, loads=np.ones(2), noise_dbm=BUDGET.noise_dbm)
    want = {
        "path_gain": gain,
        "rsrp": rsrp,
        "snr": rsrp - BUDGET.noise_dbm,
        "sinr": sinr,
        "rsrq": kpi.rsrq_db(rsrp, loads=np.ones(2), noise_dbm=BUDGET.noise_dbm),
        "throughput": kpi.throughput_mbps(sinr, BUDGET),
        "cqi": kpi.smooth_cqi(sinr),
        "toa": 1e9 * own.toa_s,
        "aoa_cos": np.where(np.isnan(gain), np.nan, np.cos(0.3)),
        "aod_sin": np.where(np.isnan(gain), np.nan, -np.sin(0.3)),
    }
    for name, values in want.items():
        np.testing.assert_allclose(found.layer(name), values, rtol=1e-5, err_msg=name)
    assert np.isnan(found.layer("delay_spread")).all()
    assert found.value.dtype == np.float32


def test_what_is_masked_holds_nothing_and_does_not_interfere():
    found = layers.cell_layers(radio_map(), BUDGET, names=("sinr", "snr"))
    assert not found.valid[:, :, :, 3].any()
    assert (found.value[~found.valid] == 0.0).all()
    lone = found.layer("sinr")[0, 0]
    np.testing.assert_allclose(lone, found.layer("snr")[0, 0], rtol=1e-6)
    assert (found.summed_cells[0, :3] == 1).all()
    assert (found.summed_cells[1:, 4:] == 2).all()
    assert (found.association[:, 3] == -1).all()
    assert (found.association[0, :3] == 0).all()
    assert found.association[5, 7] == 1


def test_twenty_decibels_more_loss_is_twenty_less_rsrp():
    near, far = (layers.cell_layers(radio_map(loss), BUDGET, names=("rsrp",)) for loss in (0, 60))
    np.testing.assert_allclose(near.layer("rsrp") - 60.0, far.layer("rsrp"), atol=1e-4)


def test_load_lowers_sinr_and_budgets_may_differ_in_power():
    names = ("sinr", "rsrp")
    busy = layers.cell_layers(radio_map(), BUDGET, names=names)
    idle = layers.cell_layers(radio_map(), BUDGET, names=names, loads=np.array([1.0, 0.2]))
    both = busy.valid[:, 0].all(axis=0)
    assert (idle.layer("sinr")[0][both] > busy.layer("sinr")[0][both]).all()
    np.testing.assert_allclose(idle.layer("sinr")[1], busy.layer("sinr")[1])
    budgets = (BUDGET, PowerBudget(total_dbm=46.0))
    strong = layers.cell_layers(radio_map(), budgets, names=names)
    np.testing.assert_allclose(strong.layer("rsrp")[1], busy.layer("rsrp")[1] + 3.0, atol=1e-4)
    np.testing.assert_allclose(strong.layer("rsrp")[0], busy.layer("rsrp")[0])


def test_coverage_is_zero_outdoors_where_no_path_leads():
    free = np.ones(GRID.shape, bool)
    free[:, 3] = False
    found = layers.cell_layers(radio_map(), BUDGET, names=("coverage",), free=free)
    assert (found.layer("coverage")[1, 0, :3] == 0.0).all()
    assert np.isnan(found.layer("coverage")[:, :, 3]).all()


def test_layers_that_the_engine_lacks_are_masked():
    bare = radio_map()
    bare = RadioMap(GRID, bare.path_gain_db, bare.valid, SITES)
    found = layers.cell_layers(bare, BUDGET, names=("toa", "los", "aoa_cos", "snr"))
    assert not found.valid[:, :3].any()
    assert found.valid[:, 3].any()


def test_what_has_no_common_band_is_refused():
    with pytest.raises(ConfigError, match="one PowerBudget, or one each"):
        layers.cell_layers(radio_map(), (BUDGET,) * 3)
    with pytest.raises(ConfigError, match="share carrier"):
        layers.cell_layers(radio_map(), (BUDGET, PowerBudget(noise_figure_db=5.0)))
    other = (SITES[0], Transmitter((14.0, 8.0, 10.0), 2.6e9))
    with pytest.raises(ConfigError, match="share carrier"):
        layers.cell_layers(radio_map(sites=other), BUDGET)
    with pytest.raises(ConfigError, match="loads between 0 and 1"):
        layers.cell_layers(radio_map(), BUDGET, loads=np.array([0.5, 2.0]))
    with pytest.raises(ConfigError, match="no layer power"):
        layers.cell_layers(radio_map(), BUDGET, names=("power",))
