"""The compiled street engine agrees with its plain NumPy twin."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from hertzmap.core.grid import Grid
from hertzmap.core.types import Transmitter
from hertzmap.propagation.dominant_path import DominantPath, Environment, PropagationParameters
from hertzmap.scenes.synthetic import city

REFERENCE = runpy.run_path(str(Path(__file__).with_name("reference_street.py")))
GRID = Grid(64, 56, 1.5, (-50.0, -40.0))


@pytest.mark.parametrize(
    "parameters",
    [
        PropagationParameters(),
        PropagationParameters(labels=4, exponent="single", n_bend=1.7, k1=0.4, k2=5.0),
        PropagationParameters(labels=2, exponent="split", offset_los_db=1.0, offset_nlos_db=-2.0),
        PropagationParameters(max_bends=2, k1=0.0, k2=0.0),
        PropagationParameters(labels=2, k0=0.3, w_max=2.2),
    ],
    ids=["default", "single", "split", "short", "capped"],
)
def test_agrees_with_the_plain_reference(parameters):
    environment = Environment.prepare(city(5, size_m=140.0, buildings=14), GRID, margin_m=10.0)
    transmitter = Transmitter((3.0, -2.0, 4.0), 5.9e9)
    radio_map = DominantPath(environment, parameters, roof=False).trace((transmitter,))
    gain, toa, los = REFERENCE["trace"](
        environment.sides,
        GRID,
        environment.site.free,
        radio_map.transmitters[0].place_m,
        5.9e9,
        parameters,
    )
    valid = radio_map.valid[0]
    assert radio_map.los is not None and radio_map.toa_s is not None
    assert np.mean(valid != np.isfinite(gain)) <= 1e-3
    assert np.mean(radio_map.los[0] != los) <= 1e-3
    both = valid & np.isfinite(gain)
    assert np.mean(np.abs(radio_map.path_gain_db[0] - gain)[both] > 0.01) <= 1e-3
    assert np.mean(np.abs(radio_map.toa_s[0] - toa)[both] > 1e-11) <= 1e-3
