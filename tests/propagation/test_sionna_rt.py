"""Laws of the ray tracer: free space, flat ground, delays, order, and what it refuses."""

import numpy as np
import pytest

from hertzmap.core.errors import MissingExtraError
from hertzmap.core.types import Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S, wavelength_m
from hertzmap.propagation import sionna_rt
from hertzmap.propagation.sionna_rt import SionnaScene

try:
    sionna_rt.sionna()
except MissingExtraError as error:  # raised at import: the machine has no ray tracer
    pytest.skip(str(error), allow_module_level=True)


def test_free_space_is_friis_and_the_delay_is_length_over_c():
    scene = SionnaScene.load(None)
    distance = np.geomspace(1.0, 1000.0, 13)
    ue_m = np.stack([distance, np.zeros(13), np.full(13, 10.0)], axis=1)
    for carrier_hz in (0.9e9, 3.5e9, 28e9):
        found = scene.channels((Transmitter((0.0, 0.0, 10.0), carrier_hz),), ue_m)
        friis = 20 * np.log10(wavelength_m(carrier_hz) / (4 * np.pi * distance))
        np.testing.assert_allclose(found.path_gain_db[:, 0], friis, atol=0.01)
        np.testing.assert_allclose(found.delay_s, distance / SPEED_OF_LIGHT_M_S, rtol=1e-6)
        assert not found.depth.any()
        assert not found.kind.any()
