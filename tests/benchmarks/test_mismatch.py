"""Each case changes what it says, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from hertzmap.benchmarks import maps, mismatch, worlds
from hertzmap.benchmarks.tables import CASES, load_cell
from hertzmap.benchmarks.worlds import WorldKey
from hertzmap.core.grid import Grid
from hertzmap.measurement.sampling import SamplingConfig

SAMPLING = SamplingConfig(rate_kp=0.2, snr_db=5.0, drift_m=0.8)


def draw(world, case, sampling=SAMPLING):
    return mismatch.draw(world.truth, sampling, case, np.random.default_rng(3))


@pytest.mark.parametrize("case", [case for case in CASES if case != "ray-traced"])
def test_every_case_has_its_settings_and_both_splits(case):
    config = load_cell(case)
    assert config.mismatch is not None and config.headline == "combined:default"
    assert maps.world_keys(config, "test", 1)[0].variant == config.mismatch.truth
    assert maps.reports_hash(config) != maps.reports_hash(replace(config, mismatch=None))


def test_misstated_reports_differ_in_what_they_state_alone(world):
    usual, wrong = (
        draw(world, mismatch.MismatchConfig()),
        draw(world, mismatch.MismatchConfig(stated=0.5)),
    )
    np.testing.assert_array_equal(usual.power_dbm, wrong.power_dbm)
    np.testing.assert_allclose(wrong.noise_db, 0.5 * usual.noise_db)
    np.testing.assert_allclose(wrong.drift_cov_m2, 0.25 * usual.drift_cov_m2)


def test_devices_add_one_offset_each(world):
    usual = draw(world, mismatch.MismatchConfig())
    shifted = draw(world, mismatch.MismatchConfig(devices=4, offset_std_db=6.0))
    gap = shifted.power_dbm - usual.power_dbm
    for device in range(4):
        assert np.ptp(gap[shifted.device_id == device]) < 1e-9
    assert len(np.unique(np.round(gap, 6))) == 4


def test_clustered_reports_keep_count_and_noise_and_stand_near_buildings(world):
    usual = draw(world, mismatch.MismatchConfig())
    clustered = draw(world, mismatch.MismatchConfig(clusters=2))
    assert len(clustered) == len(usual)
    np.testing.assert_allclose(clustered.noise_db, usual.noise_db)
    cell = world.site.grid.cell(clustered.reported_m)
    assert world.site.free[cell[:, 0], cell[:, 1]].all()


def test_variants_of_a_truth_share_the_tile_but_not_the_field(scene, world):
    for variant in worlds.VARIANTS[1:]:
        key = WorldKey("cities", "heidelberg", 0, variant)
        other = worlds.world_of(key, scene, Grid(32, 32))
        np.testing.assert_array_equal(other.site.free, world.site.free)
        assert not np.array_equal(other.scored_db, world.scored_db)


def test_propagation_outside_the_beliefs_is_outside(scene):
    key = WorldKey("cities", "heidelberg", 0, "exponents")
    numbers = worlds.world_of(key, scene, Grid(32, 32)).truth.parameters
    assert numbers["n_los"] > 2.7 and numbers["k2"] > 6.0
