"""What UEs report over time: KPIs of radio cells at report instants, and why a value is missing.

One noun for simulated and for measured reports. All values stand on the axes (samples, steps,
cells): a sample is one UE, a step one report. Per-path quantities are ragged (`PathTable`).

Sources: quantities and reasons of `docs/data-formats.md`; report mappings of `core.kpi`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, final

import numpy as np
from jaxtyping import Float, Int, UInt8

from hertzmap.core import kpi

PRESENT, BELOW_DETECTION, DROPPED, NOT_CONFIGURED, NOT_SIMULATED = range(5)
"""Why a value is there or not; below detection is evidence, the others say nothing of the place."""
REASONS = ("present", "below detection", "dropped", "not configured", "not simulated")
"""The reasons in words."""
NO_INDEX = -1
"""Index of a value that is missing, or whose quantity has no report index."""
MOST_NEIGHBOURS = 8
"""Longest list of neighbours: TS 38.331, ``maxCellReport``."""


@final
@dataclass(frozen=True)
class Quantity:
    """What a key stands for."""

    layer: Literal["rt", "phy", "mac"]
    """Protocol layer: ray tracing (the simulator's truth), PHY, or MAC and RRC."""
    unit: str
    """Unit of the values; empty for numbers and indices."""
    meaning: str
    """In words."""
    mapping: kpi.Mapping | None = None
    """Report mapping of values to indices, if it is one of dB or dBm."""
    most: int | None = None
    """Greatest index of a quantity that is its own index."""
    serving: bool = False
    """Whether only the serving cell has it."""
    ports: bool = False
    """Whether it has a fourth axis: beams, the best one first."""

    @property
    def indexed(self) -> bool:
        """Whether it is reported as an index."""
        return self.mapping is not None or self.most is not None


QUANTITIES: dict[str, Quantity] = {
    "toa": Quantity("rt", "ns", "delay of the first strong path, absolute"),
    "rms_ds": Quantity("rt", "ns", "delay spread, weighted by power"),
    "rms_as": Quantity("rt", "rad", "circular spread of azimuths of arrival"),
    "n_paths": Quantity("rt", "", "paths within 30 dB of the strongest"),
    "nlos": Quantity("rt", "", "1 without a line of sight, else 0"),
    "doppler_spread": Quantity("rt", "Hz", "Doppler spread, weighted by power"),
    "ss_rsrp": Quantity("phy", "dBm", "SS-RSRP after the L3 filter", kpi.RSRP),
    "ss_rsrq": Quantity("phy", "dB", "SS-RSRQ after the L3 filter", kpi.RSRQ),
    "ss_sinr": Quantity("phy", "dB", "SS-SINR after the L3 filter", kpi.SINR),
    "cqi": Quantity("phy", "", "channel quality indicator", most=15, serving=True),
    "ri": Quantity("phy", "", "rank indicator", most=8, serving=True),
    "pmi": Quantity("phy", "", "best precoder of the DFT codebook", most=32767, serving=True),
    "l1_rsrp": Quantity("phy", "dBm", "RSRP of the best beams", kpi.RSRP_L1, ports=True),
    "beam_id": Quantity("phy", "", "which beams these are", most=32767, ports=True),
    "serving_cell": Quantity("mac", "", "1 for the serving cell, else 0"),
    "neighbours": Quantity("mac", "", "rank in the list of neighbours, from 1", most=8),
    "timing_advance": Quantity(
        "mac", "", "timing advance", most=kpi.MOST_TIMING_ADVANCE, serving=True
    ),
    "phr": Quantity("mac", "dB", "power headroom", most=63, serving=True),
    "dl_throughput": Quantity("mac", "Mbit/s", "downlink throughput", serving=True),
    "bler": Quantity("mac", "", "share of blocks lost", serving=True),
}
"""Every key; times and delays of the files are ns, as in network inputs."""
FEATURE_SETS: dict[str, tuple[str, ...]] = {
    "rt+phy+mac": tuple(QUANTITIES),
    "phy+mac": tuple(key for key, one in QUANTITIES.items() if one.layer != "rt"),
    "field": ("ss_rsrp", "ss_rsrq", "ss_sinr", "timing_advance"),
}
"""Keys that a model may see, by name of the set; no phone reports what is ray traced."""


def index_of(key: str, value: Float[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Report index of values of a quantity; `NO_INDEX` where NaN, or where it has none."""
    quantity = QUANTITIES[key]
    if not quantity.indexed:
        return np.full(value.shape, NO_INDEX, np.int16)
    if key == "l1_rsrp":
        index = kpi.beam_indices(value)
    elif key == "phr":
        index = kpi.headroom_index(value)
    elif quantity.mapping is not None:
        index = quantity.mapping.index(value)
    else:
        index = np.round(value)
    return np.where(np.isnan(index), NO_INDEX, index).astype(np.int16)


def decoded(key: str, index: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Value that a report index stands for; NaN where it is `NO_INDEX`.

    Raises:
        ValueError: if the quantity has no index.
    """
    quantity = QUANTITIES[key]
    if not quantity.indexed:
        msg = f"{key} is not reported as an index"
        raise ValueError(msg)
    number = np.where(index == NO_INDEX, np.nan, index.astype(np.float64))
    if key == "l1_rsrp":
        value = kpi.beams_of_indices_dbm(number)
    elif key == "phr":
        value = kpi.headroom_of_index_db(number)
    else:
        value = quantity.mapping.decoded(number) if quantity.mapping is not None else number
    return value.astype(np.float32)


@final
@dataclass(frozen=True)
class PathTable:
    """Paths of every (sample, step, cell), behind one another: the simulator's truth."""

    offset: Int[np.ndarray, " links_and_one"]
    """Where the paths of each link begin, and at last how many there are.

    Links in the order of a flattened (samples, steps, cells)."""
    path_gain: Float[np.ndarray, " paths"]
    """20 log10 of the field gain between isotropic antennas [dB]."""
    path_delay: Float[np.ndarray, " paths"]
    """Absolute delay [ns], rising within a link."""
    aoa_az: Float[np.ndarray, " paths"]
    """Azimuth that the path comes from at the UE [rad]."""
    aoa_zen: Float[np.ndarray, " paths"]
    """Zenith that the path comes from at the UE [rad]."""
    aod_az: Float[np.ndarray, " paths"]
    """Azimuth that the path leaves towards at the site [rad]."""
    aod_zen: Float[np.ndarray, " paths"]
    """Zenith that the path leaves towards at the site [rad]."""
    path_doppler: Float[np.ndarray, " paths"]
    """Doppler shift [Hz]."""

    def __post_init__(self) -> None:
        count = int(self.offset[-1]) if len(self.offset) else -1
        wrong = [name for name, values in self.columns.items() if len(values) != count]
        if wrong or count < 0 or self.offset[0] != 0 or np.any(np.diff(self.offset) < 0):
            msg = f"PathTable.offset tells of {count} paths and must rise; {wrong} hold others"
            raise ValueError(msg)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Quantities of the paths by key."""
        return {one.name: getattr(self, one.name) for one in fields(self)[1:]}


@final
@dataclass(frozen=True)
class MeasurementSequence:
    """What some UEs report over time. No field for true places exists, on purpose."""

    ue_id: tuple[str, ...]
    """Name of each sample's UE."""
    time_s: Float[np.ndarray, "samples steps"]
    """Time of each report [s], rising; NaN at the end of a sample with fewer reports."""
    cell_id: Int[np.ndarray, " cells"]
    """Identity of each radio cell (NCI)."""
    pci: Int[np.ndarray, " cells"]
    """Physical cell identity, 0 to 1007; -1 where unknown."""
    value: Mapping[str, Float[np.ndarray, "samples steps cells *ports"]]
    """Decoded values by key of `QUANTITIES`; NaN where not present."""
    index: Mapping[str, Int[np.ndarray, "samples steps cells *ports"]]
    """Report indices of the keys that have one; `NO_INDEX` where not present."""
    reason: Mapping[str, UInt8[np.ndarray, "samples steps cells"]]
    """Why each value is there or not, see `REASONS`; the same keys as `value`."""
    nr_arfcn: Int[np.ndarray, " cells"] | None = None
    """Carrier of each radio cell as NR-ARFCN; None when unknown."""
    subcarrier_spacing_hz: float = 30e3
    """Subcarrier spacing, which the timing advance counts in [Hz]."""
    paths: PathTable | None = None
    """Paths of each link, where channels were simulated."""
    reported_m: Float[np.ndarray, "samples steps 2"] | None = None
    """Place that the UE itself reported (east, north) [m]; NaN where it did not."""

    def __post_init__(self) -> None:
        self._check_axes()
        for key in self.value:
            self._check_values(key)
        self._check_cells()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(samples, steps, cells)."""
        return (*self.time_s.shape, len(self.cell_id))

    @property
    def keys(self) -> tuple[str, ...]:
        """Quantities in the order of `QUANTITIES`."""
        return tuple(key for key in QUANTITIES if key in self.value)

    def present(self, key: str) -> np.ndarray:
        """Where a quantity was reported, (samples, steps, cells)."""
        return self.reason[key] == PRESENT

    @property
    def reported(self) -> np.ndarray:
        """Whether anything at all was reported, (samples, steps, cells)."""
        return np.any([self.present(key) for key in self.keys], axis=0)

    @property
    def stacked_reason(self) -> UInt8[np.ndarray, "samples steps cells layers"]:
        """Reasons of all keys behind one another, in the order of `keys`."""
        return np.stack([self.reason[key] for key in self.keys], axis=-1)

    @property
    def serving(self) -> Int[np.ndarray, "samples steps"]:
        """Number of the serving cell on the axis of cells; -1 where unknown."""
        if "serving_cell" not in self.value:
            return np.full(self.shape[:2], -1)
        flag = self.value["serving_cell"] == 1.0
        return np.where(flag.any(axis=2), flag.argmax(axis=2), -1)

    @property
    def neighbour_list(self) -> Int[np.ndarray, "samples steps 8"]:
        """Numbers of the neighbours on the axis of cells, best first; -1 beyond the list."""
        out = np.full((*self.shape[:2], MOST_NEIGHBOURS), -1)
        if "neighbours" in self.value:
            sample, step, cell = np.nonzero(self.present("neighbours"))
            rank = self.index["neighbours"][sample, step, cell].astype(int) - 1
            out[sample, step, rank] = cell
        return out

    def select(self, samples: Int[np.ndarray, " chosen"]) -> "MeasurementSequence":
        """Some UEs by their numbers, in this order; without the paths."""
        return MeasurementSequence(
            tuple(self.ue_id[int(k)] for k in samples.tolist()),
            self.time_s[samples],
            self.cell_id,
            self.pci,
            {key: values[samples] for key, values in self.value.items()},
            {key: values[samples] for key, values in self.index.items()},
            {key: values[samples] for key, values in self.reason.items()},
            self.nr_arfcn,
            self.subcarrier_spacing_hz,
            None,
            None if self.reported_m is None else self.reported_m[samples],
        )

    def _check_axes(self) -> None:
        samples, steps, cells = self.shape
        _require(len(self.ue_id) == samples, f"{samples} samples, but {len(self.ue_id)} ue_id")
        _require(len(set(self.ue_id)) == samples, "ue_id must differ between samples")
        _require(len(self.pci) == cells, f"{cells} cells, but {len(self.pci)} pci")
        _require(
            bool(np.all((self.pci >= -1) & (self.pci <= 1007))), "pci must lie between 0 and 1007"
        )
        _require(len(np.unique(self.cell_id)) == cells, "cell_id must differ between cells")
        seen = np.isfinite(self.time_s)
        _require(bool(np.all(seen[:, :-1] | ~seen[:, 1:])), "time_s must be NaN at the end only")
        rising = np.diff(self.time_s, axis=1) > 0
        _require(bool(np.all(rising | ~seen[:, 1:])), "time_s must rise within each sample")
        _require(
            self.paths is None or len(self.paths.offset) == samples * steps * cells + 1,
            "paths must hold one slice for each (sample, step, cell)",
        )
        _require(
            self.reported_m is None or self.reported_m.shape == (samples, steps, 2),
            f"reported_m must be {(samples, steps, 2)}",
        )

    def _check_values(self, key: str) -> None:
        _require(key in QUANTITIES, f"no quantity {key!r}; there are {', '.join(QUANTITIES)}")
        quantity = QUANTITIES[key]
        value = self.value[key]
        fits = value.shape[:3] == self.shape and value.ndim == (4 if quantity.ports else 3)
        _require(
            fits and key in self.reason and self.reason[key].shape == self.shape,
            f"{key}: value and reason must begin with (samples, steps, cells) = {self.shape}",
        )
        _require(bool(np.all(self.reason[key] <= NOT_SIMULATED)), f"{key}: unknown reason")
        first = value[..., 0] if quantity.ports else value
        wrong = np.argwhere(np.isfinite(first) != self.present(key))
        _require(
            not len(wrong),
            f"{key}: a value must be finite where present and NaN elsewhere, see (sample, step, "
            f"cell) {wrong[:3].tolist()}",
        )
        if quantity.indexed:
            _require(
                key in self.index and self.index[key].shape == value.shape,
                f"{key} is reported as an index; give one for each value",
            )
            bad = np.argwhere(index_of(key, value) != self.index[key])
            _require(
                not len(bad),
                f"{key}: index and value disagree at (sample, step, cell) {bad[:3].tolist()}",
            )

    def _check_cells(self) -> None:
        if "serving_cell" in self.value:
            count = (self.value["serving_cell"] == 1.0).sum(axis=2)
            _require(bool(np.all(count <= 1)), "at most one cell serves a UE at a time")
        if "neighbours" in self.value:
            listed = self.present("neighbours")
            rank = np.where(listed, self.index["neighbours"], 0)
            last = listed.sum(axis=2)
            # ranks 1 to n, each once: their sum and the sum of their squares say so
            fits = (rank.sum(axis=2) == last * (last + 1) // 2) & (
                (rank.astype(int) ** 2).sum(axis=2) == last * (last + 1) * (2 * last + 1) // 6
            )
            _require(
                bool(np.all(fits & (rank.max(axis=2, initial=0) == last))),
                "neighbours must be ranked 1, 2, 3 and so on",
            )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError("MeasurementSequence: " + message)
