"""The link budget and every KPI formula, shared by maps and measurements.

Source: 3GPP TS 38.215 (RSRP per resource element); thermal noise k T at 290 K.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

THERMAL_NOISE_DBM_HZ = -173.975
"""Thermal noise density k T at 290 K [dBm/Hz]; k = 1.380649e-23 J/K (SI)."""


@final
@dataclass(frozen=True)
class PowerBudget:
    """Power of a radio cell and noise of a receiver; defaults: 100 MHz NR carrier at 30 kHz."""

    total_dbm: float = 43.0
    """Total transmit power over the carrier [dBm]."""
    resource_blocks: int = 273
    """Number of resource blocks N_RB of 12 subcarriers each."""
    subcarrier_spacing_hz: float = 30e3
    """Subcarrier spacing [Hz]."""
    noise_figure_db: float = 9.0
    """Receiver noise figure [dB]."""
    load: float = 1.0
    """Share of resource elements in use, 0 to 1."""

    def __post_init__(self) -> None:
        if self.resource_blocks < 1 or self.subcarrier_spacing_hz <= 0:
            msg = "PowerBudget needs resource_blocks >= 1 and subcarrier_spacing_hz > 0"
            raise ValueError(msg)
        if not 0.0 <= self.load <= 1.0:
            msg = f"PowerBudget.load must lie between 0 and 1, got {self.load}"
            raise ValueError(msg)

    @property
    def reference_dbm(self) -> float:
        """Power per resource element [dBm]: what turns a path gain [dB] into an RSRP [dBm]."""
        return self.total_dbm - 10.0 * float(np.log10(12 * self.resource_blocks))

    @property
    def noise_dbm(self) -> float:
        """Noise per resource element [dBm]."""
        width_db = 10.0 * float(np.log10(self.subcarrier_spacing_hz))
        return THERMAL_NOISE_DBM_HZ + width_db + self.noise_figure_db

    @classmethod
    def for_reference(cls, reference_dbm: float) -> "PowerBudget":
        """The budget whose power per resource element is `reference_dbm` [dBm], else default."""
        blocks = cls().resource_blocks
        return cls(total_dbm=reference_dbm + 10.0 * float(np.log10(12 * blocks)))


def rsrp_dbm(path_gain_db: np.ndarray, budget: PowerBudget) -> np.ndarray:
    """RSRP [dBm] of a path gain [dB], any shape: gain plus power per resource element."""
    return path_gain_db + budget.reference_dbm


def snr_db(path_gain_db: np.ndarray, budget: PowerBudget) -> np.ndarray:
    """Signal-to-noise ratio per resource element [dB], any shape."""
    return rsrp_dbm(path_gain_db, budget) - budget.noise_dbm
