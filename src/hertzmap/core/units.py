"""Units and the words for axes.

Axis words used in shape annotations (singular data keep the plural word):
batch, tx, rows, cols, points, candidates, samples, antennas, subcarriers, steps, layers, cells,
taps, paths, ports, buildings.
"""

import numpy as np
from jaxtyping import Float

SPEED_OF_LIGHT_M_S = 299_792_458.0
"""Exact by the definition of the metre (SI)."""


def to_linear(value_db: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Turn decibels [dB] into a power ratio: ``10 ** (dB / 10)``."""
    return np.power(10.0, value_db / 10.0)


def to_db(ratio: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Turn a positive power ratio into decibels [dB]; a ratio of 0 becomes -inf.

    Raises:
        ValueError: if a ratio is negative.
    """
    if np.any(ratio < 0):
        msg = "a power ratio is negative; give linear power, not decibels"
        raise ValueError(msg)
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(ratio)


def wavelength_m(carrier_hz: float) -> float:
    """Wavelength [m] of a carrier [Hz] in vacuum."""
    return SPEED_OF_LIGHT_M_S / carrier_hz
