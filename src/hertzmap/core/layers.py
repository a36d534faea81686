"""Layers of all radio cells on one grid, derived from a `RadioMap` and the link budget.

The engine gives path gain, delay, sight and angles; everything else is a formula of `core.kpi`,
the same as for reports. A radio cell is a transmitter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int

from hertzmap.core import kpi
from hertzmap.core.errors import ConfigError
from hertzmap.core.grid import Grid
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.types import RadioMap, Transmitter

UNITS: dict[str, str] = {
    "path_gain": "dB",
    "toa": "ns",
    "snr": "dB",
    "sinr": "dB",
    "throughput": "Mbit/s",
    "rsrp": "dBm",
    "rsrq": "dB",
    "cqi": "",
    "los": "",
    "coverage": "",
    "delay_spread": "ns",
    "aoa_cos": "",
    "aoa_sin": "",
    "aod_cos": "",
    "aod_sin": "",
}
"""Unit of every layer of a radio cell; ``cqi`` is without its steps, as maps are unquantised."""
RADIO = ("path_gain", "toa", "snr", "sinr", "throughput")
"""The five radio channels of map-conditioned positioning, in its order."""


@final
@dataclass(frozen=True)
class CellLayers:
    """Layers per radio cell, and what belongs to the site as a whole."""

    grid: Grid
    """The raster."""
    names: tuple[str, ...]
    """Names of the layers, keys of `UNITS`."""
    value: Float[np.ndarray, "cells layers rows cols"]
    """Values (float32); 0 where not `valid`, which means nothing."""
    valid: Bool[np.ndarray, "cells layers rows cols"]
    """Where a layer has a value."""
    association: Int[np.ndarray, "rows cols"]
    """Number of the radio cell with the greatest RSRP (ties: the lowest), -1 where none is."""
    summed_cells: Int[np.ndarray, "rows cols"]
    """Number of radio cells that reach a place, and so are summed in its interference."""

    def __post_init__(self) -> None:
        cells = len(self.value)
        expected = (cells, len(self.names), *self.grid.shape)
        if self.value.shape != expected or self.valid.shape != expected:
            msg = f"CellLayers {self.value.shape}, {self.valid.shape} do not fit {expected}"
            raise ValueError(msg)
        unknown = [name for name in self.names if name not in UNITS]
        if unknown:
            msg = f"no layer {', '.join(unknown)}; choose from {', '.join(UNITS)}"
            raise ValueError(msg)
        if not np.all(np.isfinite(self.value)):
            msg = "CellLayers.value must be finite; what is missing is masked"
            raise ValueError(msg)

    def layer(self, name: str) -> Float[np.ndarray, "cells rows cols"]:
        """One layer of all radio cells; NaN where it has no value."""
        k = self.names.index(name)
        return np.where(self.valid[:, k], self.value[:, k], np.float32(np.nan))


def budgets_of(
    budgets: PowerBudget | Sequence[PowerBudget],
    transmitters: tuple[Transmitter, ...],
) -> tuple[PowerBudget, ...]:
    """One budget for each radio cell, checked to share a carrier and a receiver.

    Raises:
        ConfigError: if their number does not fit, or carrier, subcarrier spacing or noise figure
            differ: then cells are not heard in one band, and interference has no single formula.
    """
    cells = len(transmitters)
    each = (budgets,) * cells if isinstance(budgets, PowerBudget) else tuple(budgets)
    if len(each) != cells:
        msg = f"{cells} radio cells need one PowerBudget, or one each; got {len(each)}"
        raise ConfigError(msg)
    carriers = sorted({one.carrier_hz for one in transmitters})
    receivers = {(one.subcarrier_spacing_hz, one.noise_figure_db) for one in each}
    if len(carriers) > 1 or len(receivers) > 1:
        msg = (
            f"cells must share carrier, subcarrier spacing and noise figure, got carriers "
            f"{carriers} Hz and {sorted(receivers)}; take the layers of each band apart"
        )
        raise ConfigError(msg)
    return each


def loads_of(
    budgets: tuple[PowerBudget, ...], loads: Float[np.ndarray, " cells"] | None
) -> Float[np.ndarray, " cells"]:
    """Load of each radio cell: as given, else that of its budget.

    Raises:
        ConfigError: if their number does not fit or one is not between 0 and 1.
    """
    found = np.array([one.load for one in budgets]) if loads is None else loads.astype(np.float64)
    if found.shape != (len(budgets),) or not np.all((found >= 0) & (found <= 1)):
        msg = f"{len(budgets)} radio cells need as many loads between 0 and 1, got {loads}"
        raise ConfigError(msg)
    return found


def rsrp_of(
    path_gain_db: Float[np.ndarray, "cells *places"], budgets: tuple[PowerBudget, ...]
) -> Float[np.ndarray, "cells *places"]:
    """RSRP [dBm] of each radio cell in double precision; NaN stays NaN."""
    gain = path_gain_db.astype(np.float64)
    return np.stack([kpi.rsrp_dbm(own, one) for own, one in zip(gain, budgets, strict=True)])


def throughput_of(
    sinr: Float[np.ndarray, "cells *places"],
    budgets: tuple[PowerBudget, ...],
    *,
    table: str,
    share: float,
    index: Int[np.ndarray, "cells *places"] | None = None,
) -> Float[np.ndarray, "cells *places"]:
    """Throughput [Mbit/s] of each radio cell on one spatial layer, see `kpi.throughput_mbps`."""
    return np.stack(
        [
            kpi.throughput_mbps(
                sinr[k], one, share=share, table=table, index=None if index is None else index[k]
            )
            for k, one in enumerate(budgets)
        ]
    )


def cell_layers(
    radio_map: RadioMap,
    budgets: PowerBudget | Sequence[PowerBudget],
    *,
    names: Sequence[str] = RADIO,
    loads: Float[np.ndarray, " cells"] | None = None,
    free: Bool[np.ndarray, "rows cols"] | None = None,
    delay_spread_s: Float[np.ndarray, "cells rows cols"] | None = None,
    table: str = "256QAM",
    share: float = 1.0,
) -> CellLayers:
    """Layers of all radio cells of a map, whichever engine made it.

    What the map lacks (delay, sight, angles, delay spread) is masked throughout. A radio cell
    without a path does not interfere.

    Source: 3GPP formulas of `core.kpi`; choice of layers: map-conditioned positioning (N. Tzur).

    Args:
        radio_map: path gain and what else the engine gives.
        budgets: link budget of all radio cells, or one each.
        names: layers to make, keys of `UNITS`.
        loads: share of resource elements in use in each radio cell; by default its budget's.
        free: True outdoors; with it, ``coverage`` is 0 and not masked where no path leads.
        delay_spread_s: delay spread of a ray tracer's paths [s]; NaN without paths.
        table: CQI table of the throughput and of ``cqi``.
        share: of a radio cell's resources that one UE gets, for the throughput.

    Raises:
        ConfigError: as for `budgets_of` and `loads_of`.
    """
    each = budgets_of(budgets, radio_map.transmitters)
    shares = loads_of(each, loads)
    # no path is no path, whatever number the engine left there
    gain = np.where(radio_map.valid, radio_map.path_gain_db, np.nan)
    rsrp = rsrp_of(gain, each)
    noise = each[0].noise_dbm
    sinr = kpi.sinr_db(rsrp, loads=shares, noise_dbm=noise)
    nothing = np.full(rsrp.shape, np.nan)

    def angle(which: str) -> np.ndarray:
        found = radio_map.aoa_rad if which == "aoa" else radio_map.aod_rad
        return nothing if found is None else found

    makers = {
        "path_gain": lambda: gain,
        "toa": lambda: nothing if radio_map.toa_s is None else 1e9 * radio_map.toa_s,
        "snr": lambda: rsrp - noise,
        "sinr": lambda: sinr,
        "throughput": lambda: throughput_of(sinr, each, table=table, share=share),
        "rsrp": lambda: rsrp,
        "rsrq": lambda: kpi.rsrq_db(rsrp, loads=shares, noise_dbm=noise),
        "cqi": lambda: kpi.smooth_cqi(sinr, table),
        "los": lambda: nothing if radio_map.los is None else radio_map.los.astype(np.float64),
        "coverage": lambda: kpi.is_detected(rsrp, sinr).astype(np.float64),
        "delay_spread": lambda: nothing if delay_spread_s is None else 1e9 * delay_spread_s,
        "aoa_cos": lambda: np.cos(angle("aoa")),
        "aoa_sin": lambda: np.sin(angle("aoa")),
        "aod_cos": lambda: np.cos(angle("aod")),
        "aod_sin": lambda: np.sin(angle("aod")),
    }
    unknown = [name for name in names if name not in makers]
    if unknown:
        msg = f"no layer {', '.join(unknown)}; choose from {', '.join(UNITS)}"
        raise ConfigError(msg)
    value = np.stack([makers[name]() for name in names], axis=1).astype(np.float32)
    valid = np.isfinite(value) & radio_map.valid[:, None]
    if free is not None and "coverage" in names:
        valid[:, list(names).index("coverage")] = free
    return CellLayers(
        radio_map.grid,
        tuple(names),
        np.where(valid, value, np.float32(0.0)),
        valid,
        kpi.best_server(rsrp),
        radio_map.valid.sum(axis=0),
    )
