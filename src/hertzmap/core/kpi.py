"""The link budget and every KPI formula, shared by maps and measurements.

A KPI is a chain: continuous value, noise, L3 filter, report index, decoded value. Maps store the
first step, reports the last two. All functions take arrays of any shape unless they say otherwise;
what is missing is NaN or masked, never a small number.

Sources: 3GPP TS 38.133 (report mappings), 38.211 (T_c), 38.213 (power headroom, timing advance),
38.214 (CQI), 38.215 (definitions), 38.331 (L3 filter); thermal noise k T at 290 K. Where a standard
leaves a quantity to the receiver (the SINR that a CQI needs) the choice is ours and said so.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int

from hertzmap.core.units import to_db, to_linear

KPI_VERSION = 1
"""Raise it when a formula gives other values; datasets carry it."""
THERMAL_NOISE_DBM_HZ = -173.975
"""Thermal noise density k T at 290 K [dBm/Hz]; k = 1.380649e-23 J/K (SI)."""
BASIC_TIME_S = 1.0 / (480e3 * 4096)
"""T_c of TS 38.211, section 4.1 [s]."""
MOST_TIMING_ADVANCE = 3846
"""Largest index of the absolute timing advance command, TS 38.213, section 4.2."""
ATTENUATION = 0.75
"""Share of Shannon's rate that a link reaches; ours, as TS 38.214 names no SINR for a CQI."""
FILTER_COEFFICIENT = 4.0
"""Default k of the L3 filter, TS 38.331, ``FilterCoefficient``."""
DETECTION_RSRP_DBM = -120.0
"""RSRP below which a radio cell is not detected [dBm]; ours."""
DETECTION_SINR_DB = -6.0
"""SINR below which a radio cell is not detected [dB]: side condition of TS 38.133."""

EFFICIENCY: dict[str, tuple[float, ...]] = {
    "64QAM": (
        *(0.1523, 0.2344, 0.3770, 0.6016, 0.8770, 1.1758, 1.4766, 1.9141),
        *(2.4063, 2.7305, 3.3223, 3.9023, 4.5234, 5.1152, 5.5547),
    ),
    "256QAM": (
        *(0.1523, 0.3770, 0.8770, 1.4766, 1.9141, 2.4063, 2.7305, 3.3223),
        *(3.9023, 4.5234, 5.1152, 5.5547, 6.2266, 6.9141, 7.4063),
    ),
}
"""Bits per resource element of CQI 1 to 15: TS 38.214, tables 5.2.2.1-2 and 5.2.2.1-3."""


@final
@dataclass(frozen=True)
class PowerBudget:
    """Power of a radio cell and noise of a receiver; defaults: 100 MHz NR carrier at 30 kHz."""

    total_dbm: float = 43.0
    """Total transmit power over the carrier [dBm]."""
    resource_blocks: int = 273
    """Number of resource blocks N_RB of 12 subcarriers each."""
    subcarrier_spacing_hz: float = 30e3
    """Subcarrier spacing [Hz]: 15 kHz times a power of two."""
    noise_figure_db: float = 9.0
    """Receiver noise figure [dB]."""
    load: float = 1.0
    """Share of resource elements in use, 0 to 1."""
    overhead: float = 0.14
    """Share of resource elements that carry no data, 0 to 1: TS 38.306, downlink below 6 GHz."""

    def __post_init__(self) -> None:
        if self.resource_blocks < 1 or self.subcarrier_spacing_hz <= 0:
            msg = "PowerBudget needs resource_blocks >= 1 and subcarrier_spacing_hz > 0"
            raise ValueError(msg)
        for name in ("load", "overhead"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                msg = f"PowerBudget.{name} must lie between 0 and 1, got {getattr(self, name)}"
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

    @property
    def timing_step_s(self) -> float:
        """Step of the timing advance, there and back [s]: 16 * 64 * T_c / 2^mu."""
        return 16.0 * 64.0 * BASIC_TIME_S * 15e3 / self.subcarrier_spacing_hz

    @property
    def element_rate_hz(self) -> float:
        """Resource elements for data per second, on the whole carrier."""
        symbols_hz = 14e3 * self.subcarrier_spacing_hz / 15e3
        return 12 * self.resource_blocks * symbols_hz * (1.0 - self.overhead)

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


def sinr_db(
    rsrp: Float[np.ndarray, "cells *places"],
    *,
    loads: Float[np.ndarray, " cells"],
    noise_dbm: float,
) -> Float[np.ndarray, "cells *places"]:
    """Signal to interference and noise [dB] of each radio cell, the others interfering.

    Args:
        rsrp: RSRP [dBm]; NaN where a radio cell has no path, and so does not interfere.
        loads: share of resource elements in use in each radio cell, 0 to 1.
        noise_dbm: noise per resource element [dBm].
    """
    used = _used_mw(rsrp, loads)
    others = np.maximum(used.sum(axis=0) - used, 0.0)
    return rsrp - to_db(others + 10.0 ** (noise_dbm / 10.0))


def rsrq_db(
    rsrp: Float[np.ndarray, "cells *places"],
    *,
    loads: Float[np.ndarray, " cells"],
    noise_dbm: float,
) -> Float[np.ndarray, "cells *places"]:
    """RSRQ [dB] = N_RB RSRP / RSSI, TS 38.215, 5.1.3; at most -10.8 dB at full load.

    Args: as for `sinr_db`.
    """
    total = _used_mw(rsrp, loads).sum(axis=0, keepdims=True) + 10.0 ** (noise_dbm / 10.0)
    return rsrp - to_db(12.0 * total)


def _used_mw(rsrp: np.ndarray, loads: np.ndarray) -> np.ndarray:
    """Mean power on a resource element [mW]; none where there is no path."""
    return np.nan_to_num(to_linear(rsrp)) * loads.reshape((-1, *(1,) * (rsrp.ndim - 1)))


def best_server(rsrp: Float[np.ndarray, "cells *places"]) -> Int[np.ndarray, "*places"]:
    """Row of the strongest radio cell (ties: the first), -1 where none has a path."""
    seen = np.isfinite(rsrp)
    strongest = np.argmax(np.where(seen, rsrp, -np.inf), axis=0)
    return np.where(seen.any(axis=0), strongest, -1)


def is_detected(
    rsrp: np.ndarray,
    sinr: np.ndarray,
    *,
    least_rsrp_dbm: float = DETECTION_RSRP_DBM,
    least_sinr_db: float = DETECTION_SINR_DB,
) -> Bool[np.ndarray, "*places"]:
    """Whether a UE hears a radio cell: both RSRP [dBm] and SINR [dB] reach their limits."""
    return (rsrp >= least_rsrp_dbm) & (sinr >= least_sinr_db)


def cqi_thresholds_db(table: str = "256QAM") -> Float[np.ndarray, "15"]:
    """SINR [dB] from which CQI 1 to 15 are reported: attenuated Shannon, ours, see `ATTENUATION`.

    >>> cqi_thresholds_db("64QAM").round(1)[:3].tolist()
    [-8.2, -6.2, -3.8]
    """
    return to_db(2.0 ** (_efficiency(table) / ATTENUATION) - 1.0)


def cqi(sinr: np.ndarray, table: str = "256QAM") -> Int[np.ndarray, "*places"]:
    """CQI index 0 (out of range) to 15 of an SINR [dB]; 0 where it is NaN."""
    steps = cqi_thresholds_db(table)
    return np.where(np.isnan(sinr), 0, np.searchsorted(steps, sinr, side="right"))


def smooth_cqi(sinr: np.ndarray, table: str = "256QAM") -> Float[np.ndarray, "*places"]:
    """CQI without its steps, for maps: linear between thresholds; rounded down it is `cqi`."""
    steps = cqi_thresholds_db(table)
    low = steps[0] - (steps[1] - steps[0])
    return np.interp(sinr, np.append(low, steps), np.arange(16.0))


def block_error_rate(sinr: np.ndarray, index: np.ndarray, table: str = "256QAM") -> np.ndarray:
    """Share of blocks lost with the format of a CQI index: 0.1 at its threshold, ours.

    Args:
        sinr: SINR [dB].
        index: CQI, 1 to 15; index 0 sends nothing and gives NaN.
        table: ``64QAM`` or ``256QAM``.
    """
    steps = np.append(np.nan, cqi_thresholds_db(table))
    beyond = np.clip(2.0 * (sinr - steps[index]), -50.0, 50.0)
    return 1.0 / (1.0 + 9.0 * np.exp(beyond))


def throughput_mbps(
    sinr: np.ndarray,
    budget: PowerBudget,
    *,
    layers: int = 1,
    share: float = 1.0,
    table: str = "256QAM",
    index: np.ndarray | None = None,
) -> Float[np.ndarray, "*places"]:
    """Downlink throughput [Mbit/s]: the rate of the CQI's format times what arrives.

    Args:
        sinr: SINR [dB]; NaN stays NaN.
        budget: of the radio cell.
        layers: spatial layers, 1 to 8.
        share: of the radio cell's resources that one UE gets, 0 to 1.
        table: ``64QAM`` or ``256QAM``.
        index: CQI whose format is sent; by default that of the SINR.
    """
    index = cqi(sinr, table) if index is None else index
    efficiency = np.append(0.0, _efficiency(table))[index]
    arrives = np.where(index > 0, 1.0 - np.nan_to_num(block_error_rate(sinr, index, table)), 0.0)
    rate = budget.element_rate_hz * efficiency * layers * share * arrives * 1e-6
    return np.where(np.isnan(sinr), np.nan, rate)


def _efficiency(table: str) -> np.ndarray:
    if table not in EFFICIENCY:
        msg = f"no CQI table {table!r}; choose one of {', '.join(EFFICIENCY)}"
        raise ValueError(msg)
    return np.array(EFFICIENCY[table])


def timing_advance(toa_s: np.ndarray, budget: PowerBudget) -> Float[np.ndarray, "*places"]:
    """Index of the absolute timing advance: the first path there and back; NaN stays NaN.

    Args:
        toa_s: delay of the first path [s], not the straight distance over c.
        budget: of the radio cell, for the step.
    """
    return np.clip(np.round(2.0 * toa_s / budget.timing_step_s), 0.0, MOST_TIMING_ADVANCE)


def delay_of_timing_advance_s(index: np.ndarray, budget: PowerBudget) -> np.ndarray:
    """One-way delay that a timing advance stands for [s]: the middle of its bin."""
    return 0.5 * index * budget.timing_step_s


def power_headroom_db(
    path_loss_db: np.ndarray,
    budget: PowerBudget,
    *,
    most_dbm: float = 23.0,
    target_dbm: float = -90.0,
    compensation: float = 0.8,
    blocks: int = 10,
) -> Float[np.ndarray, "*places"]:
    """Power headroom [dB], type 1 without closed loop: TS 38.213, 7.7.1.

    Args:
        path_loss_db: reference power minus RSRP [dB].
        budget: of the radio cell, for the subcarrier spacing.
        most_dbm: P_CMAX [dBm]; class 3 by default.
        target_dbm: P_0 [dBm]; ours.
        compensation: alpha, 0 to 1; ours.
        blocks: resource blocks M_RB of the grant; ours.
    """
    width_db = 10.0 * np.log10(budget.subcarrier_spacing_hz / 15e3 * blocks)
    return most_dbm - (target_dbm + width_db + compensation * path_loss_db)


def l3_filtered(
    values: Float[np.ndarray, "steps *cells"], coefficient: float = FILTER_COEFFICIENT
) -> Float[np.ndarray, "steps *cells"]:
    """Filtered over time, F_n = (1 - a) F_(n-1) + a M_n, a = 2^(-k/4): TS 38.331, 5.5.3.2.

    A missing value (NaN) leaves the filter as it is and stays missing.

    Args:
        values: one row for each measurement, in order of time.
        coefficient: k; 0 switches the filter off.
    """
    share = 2.0 ** (-coefficient / 4.0)
    out = values.copy()
    state = np.full(values.shape[1:], np.nan)
    for step in range(len(values)):
        value = values[step]
        mixed = np.asarray((1.0 - share) * state + share * value)
        mixed = np.where(np.isnan(state), value, mixed)
        state = np.where(np.isnan(value), state, mixed)
        out[step] = np.where(np.isnan(value), np.nan, state)
    return out


def l3_noise_share(coefficient: float = FILTER_COEFFICIENT) -> float:
    """Standard deviation of white noise after the L3 filter over that before, once it has settled.

    sqrt(a / (2 - a)), a = 2^(-k/4): the sum of squares of the filter's impulse response.

    >>> round(l3_noise_share(4.0), 4), l3_noise_share(0.0)
    (0.5774, 1.0)
    """
    share = 2.0 ** (-coefficient / 4.0)
    return float(np.sqrt(share / (2.0 - share)))


def delay_spread_s(
    gain_db: Float[np.ndarray, "*links paths"], delay_s: Float[np.ndarray, "*links paths"]
) -> Float[np.ndarray, "*links"]:
    """Root mean square delay spread [s], weighted by power; NaN for a link without paths.

    Args:
        gain_db: power of each path [dB]; NaN where there is none.
        delay_s: its delay [s].
    """
    return _weighted_deviation(gain_db, delay_s)


def doppler_spread_hz(
    gain_db: Float[np.ndarray, "*links paths"], doppler_hz: Float[np.ndarray, "*links paths"]
) -> Float[np.ndarray, "*links"]:
    """Standard deviation of the Doppler shift [Hz], weighted by power; NaN without paths."""
    return _weighted_deviation(gain_db, doppler_hz)


def angle_spread_rad(
    gain_db: Float[np.ndarray, "*links paths"], angle_rad: Float[np.ndarray, "*links paths"]
) -> Float[np.ndarray, "*links"]:
    """Circular standard deviation [rad], sqrt(-2 ln R), weighted by power; NaN without paths."""
    turned = np.exp(1j * np.nan_to_num(angle_rad))
    length = np.abs((_share_of_power(gain_db) * turned).sum(axis=-1))
    return np.sqrt(-2.0 * np.log(np.clip(length, 1e-12, 1.0)))


def _weighted_deviation(gain_db: np.ndarray, value: np.ndarray) -> np.ndarray:
    weight, value = _share_of_power(gain_db), np.nan_to_num(value)
    mean = (weight * value).sum(axis=-1, keepdims=True)
    return np.sqrt((weight * (value - mean) ** 2).sum(axis=-1))


def rank_indicator(
    singular: Float[np.ndarray, "*links ranks"], snr: Float[np.ndarray, "*links"]
) -> Int[np.ndarray, "*links"]:
    """Number of spatial layers that carries most: argmax over r of sum_(s<=r) log2(1 + SNR s^2/r).

    Source: capacity of equal power over the r strongest singular values; TS 38.214, 5.2.2, leaves
    the choice of the rank to the UE.

    Args:
        singular: singular values of the channel matrix, falling, at most 8 are used.
        snr: transmit power over noise, per resource element, as a ratio.
    """
    squares = singular[..., :8] ** 2 * snr[..., None]
    rate = [
        np.log2(1.0 + squares[..., :rank] / rank).sum(axis=-1)
        for rank in range(1, squares.shape[-1] + 1)
    ]
    return np.argmax(np.stack(rate, axis=-1), axis=-1) + 1


def _share_of_power(gain_db: np.ndarray) -> np.ndarray:
    """Power of each path over that of all; NaN for a link that has none."""
    power = np.nan_to_num(to_linear(gain_db))
    total = power.sum(axis=-1, keepdims=True)
    return power / np.where(total > 0, total, np.nan)


@final
@dataclass(frozen=True)
class Mapping:
    """A report mapping of TS 38.133: how a value becomes an index, and what the index stands for.

    Index `first` begins at `low`; the lowest and the highest index are open to their side: they
    bound a value, they do not measure it.
    """

    low: float
    """Value at which index `first` begins [dB or dBm]."""
    step: float
    """Width of an index [dB]."""
    least: int
    """Lowest index."""
    most: int
    """Highest index."""
    first: int = 1
    """Index that begins at `low`."""

    def index(self, value: np.ndarray) -> Float[np.ndarray, "*places"]:
        """Report index of a value; NaN stays NaN."""
        index = np.floor((value - self.low) / self.step) + self.first
        return np.clip(index, self.least, self.most)

    def decoded(self, index: np.ndarray) -> Float[np.ndarray, "*places"]:
        """Middle of an index's bin, also for the open ones."""
        return self.low + (index - self.first + 0.5) * self.step

    def censored(self, index: np.ndarray) -> Bool[np.ndarray, "*places"]:
        """Whether an index is open to one side."""
        return (index <= self.least) | (index >= self.most)


RSRP = Mapping(low=-156.0, step=1.0, least=0, most=127)
"""SS-RSRP for L3 reporting, table 10.1.6.1-1."""
RSRP_L1 = Mapping(low=-156.0, step=1.0, least=16, most=113)
"""SS-RSRP of beams (L1), table 10.1.6.1-1."""
RSRP_L1_STEP_DB = 2.0
"""Step by which beams are reported below the best one [dB], in 4 bits; table 10.1.6.1-2."""
RSRQ = Mapping(low=-43.0, step=0.5, least=0, most=127)
"""SS-RSRQ, table 10.1.11.1-1."""
SINR = Mapping(low=-23.0, step=0.5, least=0, most=127)
"""SS-SINR, table 10.1.16.1-1."""
RSRP_FIELD_TOOLS_OFFSET_DB = 0.5
"""Field tools often write dBm = index - 156, the upper edge of a bin: so much above its middle."""


def headroom_index(headroom_db: np.ndarray) -> Float[np.ndarray, "*places"]:
    """Index of a power headroom: steps of 1 dB up to 22 dB, then of 2 dB; TS 38.133, 10.1.17.1."""
    fine, coarse = np.floor(headroom_db) + 33, 55 + np.floor((headroom_db - 22.0) / 2.0)
    return np.clip(np.where(headroom_db < 22.0, fine, coarse), 0, 63)


def headroom_of_index_db(index: np.ndarray) -> Float[np.ndarray, "*places"]:
    """Power headroom that an index stands for [dB]: the middle of its bin."""
    return np.where(index < 55, index - 32.5, 22.0 + 2.0 * (index - 55) + 1.0)


def beam_indices(rsrp: Float[np.ndarray, "*links beams"]) -> Float[np.ndarray, "*links beams"]:
    """Indices of beams' RSRP [dBm], best first: the others by how far they lie below it.

    Source: TS 38.133, tables 10.1.6.1-1 and 10.1.6.1-2. NaN stays NaN.
    """
    below = np.floor((rsrp[..., :1] - rsrp[..., 1:]) / RSRP_L1_STEP_DB)
    return np.concatenate([RSRP_L1.index(rsrp[..., :1]), np.clip(below, 0.0, 15.0)], axis=-1)


def beams_of_indices_dbm(
    index: Float[np.ndarray, "*links beams"],
) -> Float[np.ndarray, "*links beams"]:
    """RSRP that the indices of `beam_indices` stand for [dBm]: middles of bins."""
    best = RSRP_L1.decoded(index[..., :1])
    below = (index[..., 1:] + 0.5) * RSRP_L1_STEP_DB
    return np.concatenate([best, best - below], axis=-1)


def nr_arfcn(carrier_hz: float) -> int:
    """Number of a carrier frequency [Hz] on NR's global raster, TS 38.104, table 5.4.2.1-1.

    >>> nr_arfcn(3.5e9), nr_arfcn(2.0e9), nr_arfcn(28e9)
    (633333, 400000, 2079166)
    """
    rows = ((0.0, 5e3, 0), (3e9, 15e3, 600_000), (24.25008e9, 60e3, 2_016_667))
    low, step, first = [row for row in rows if carrier_hz >= row[0]][-1]
    return first + round((carrier_hz - low) / step)
