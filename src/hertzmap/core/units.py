"""Units and the words for axes.

Axis words used in shape annotations (singular data keep the plural word):
batch, tx, rows, cols, points, candidates, samples, antennas, subcarriers, steps, layers, cells,
taps, paths, ports, buildings.
"""

from dataclasses import dataclass
from typing import final

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


@final
@dataclass(frozen=True)
class GreyScale:
    """The fixed linear scale between path gain [dB] and grey in [0, 1].

    Source: RadioMapSeer's span of 99.16 dB from -147 dB (see the spec of its decoding).
    """

    min_db: float = -147.0
    """Path gain of grey 0 [dB]: the floor."""
    max_db: float = -47.84
    """Path gain of grey 1 [dB]."""

    @property
    def span_db(self) -> float:
        """Width of the scale [dB]."""
        return self.max_db - self.min_db

    def to_grey(self, gain_db: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Path gain [dB] to grey, clipped to [0, 1]."""
        return np.clip((gain_db - self.min_db) / self.span_db, 0.0, 1.0)

    def to_db(self, grey: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Grey to path gain [dB]; not clipped."""
        return self.min_db + grey * self.span_db
