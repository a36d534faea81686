import numpy as np
import pytest

from hertzmap.benchmarks import propagation, results
from hertzmap.benchmarks.propagation import PropagationBenchConfig
from hertzmap.propagation.calibration import CalibrationConfig, read_calibration


def test_the_fit_says_that_all_maps_are_one_environment(tmp_path):
    settings = PropagationBenchConfig(rungs=("defaults",))
    (path,) = propagation.run(tmp_path, parts=("fit",), config=settings)
    found = results.read(path)
    assert found.header["same_environment"] is True
    error = found.row("defaults", "rmse_db")
    assert error is not None and 4.0 < error.mean < 8.0


@pytest.mark.slow
def test_a_common_set_of_numbers_fits_a_map_it_has_not_seen(tmp_path):
    settings = PropagationBenchConfig(
        rungs=("roofs as bends",),
        fit=CalibrationConfig(places=150, rounds=1, equal_classes=False),
    )
    fit, numbers = propagation.run(tmp_path, parts=("fit",), config=settings)
    error = results.read(fit).row("roofs as bends", "rmse_db")
    assert error is not None and error.mean < 2.6
    assert 2.3 < read_calibration(numbers).n_los < 2.7


@pytest.mark.slow
def test_speed_coverage_and_lengths(tmp_path):
    settings = PropagationBenchConfig(repeats=1, transmitters=2, buildings=40, oracle_cities=1)
    (path,) = propagation.run(tmp_path, parts=("speed",), config=settings)
    found = results.read(path)
    for place in ("synthetic", "heidelberg"):
        speed = found.row(f"street route ({place})", "maps_per_s_core")
        empty = found.row(f"street route ({place})", "uncovered_percent")
        assert speed is not None and speed.mean > 5
        assert empty is not None and empty.mean < 0.5
    length = found.row("length against fast marching", "median_percent")
    assert length is not None and -2.5 < length.mean < 0.5
    assert np.isfinite(length.mean)
