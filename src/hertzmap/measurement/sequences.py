"""What UEs report along their trajectories: `MeasurementSequence` from maps and paths.

Every value goes the way of a report: continuous value, noise, L3 filter, index, decoded value. The
continuous value is that of the map at the true place, by the formulas of `core.kpi`; so without
noise, filter and quantisation a report equals the map.

Source: map-conditioned positioning (N. Tzur, 2026) for quantities, layers, detection and rates of
missing values; 3GPP as in `core.kpi`. Standard deviations of RSRQ, SINR and timing are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict

from hertzmap.core import kpi
from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.layers import budgets_of, loads_of, rsrp_of, throughput_of
from hertzmap.core.seeds import generator
from hertzmap.core.sequences import (
    BELOW_DETECTION,
    DROPPED,
    MOST_NEIGHBOURS,
    NOT_CONFIGURED,
    NOT_SIMULATED,
    PRESENT,
    QUANTITIES,
    MeasurementSequence,
    index_of,
)
from hertzmap.core.sequences import decoded as decoded_value
from hertzmap.core.types import RadioMap
from hertzmap.measurement.readings import MapReadings, PathReadings, read_maps
from hertzmap.measurement.trajectories import Trajectory
from hertzmap.measurement.truth_sequences import SimulatedSequences

RRC_KEYS = ("ss_rsrp", "ss_rsrq", "ss_sinr", "neighbours")
"""Quantities of RRC measurement reports."""
CSI_KEYS = ("cqi", "ri", "pmi", "l1_rsrp", "beam_id")
"""Quantities of CSI reports."""


@final
@dataclass(frozen=True)
class SequenceConfig:
    """How UEs measure and report."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    rsrp_noise_db: float = 2.0
    """Standard deviation of RSRP after the L3 filter [dB]."""
    rsrq_noise_db: float = 1.0
    """The same of RSRQ [dB]; to RSRP's about as the accuracies of TS 38.133, 10.1, to each other.

    A UE's gain error is in its RSRP alone, as it cancels in ratios."""
    sinr_noise_db: float = 1.5
    """The same of SINR [dB]."""
    offset_std_db: float = 3.0
    """Standard deviation of a UE's gain error [dB], constant for the UE."""
    timing_noise_s: float = 50e-9
    """Standard deviation of the timing there and back [s]."""
    filter_coefficient: float = kpi.FILTER_COEFFICIENT
    """Coefficient k of the L3 filter; 0 switches it off."""
    quantised: bool = True
    """Whether values are those that report indices stand for."""
    detection_rsrp_dbm: float = kpi.DETECTION_RSRP_DBM
    """RSRP below which a radio cell is not detected [dBm]."""
    detection_sinr_db: float = kpi.DETECTION_SINR_DB
    """SINR below which a radio cell is not detected [dB]."""
    most_cells: int = 1 + MOST_NEIGHBOURS
    """So many radio cells are reported, the serving one and the strongest others."""
    hysteresis_db: float = 3.0
    """Another radio cell serves once it is so much stronger [dB]."""
    rrc_period_s: float = 0.2
    """Least time between RRC measurement reports [s]."""
    csi_period_s: float = 0.32
    """Least time between CSI reports [s]; TS 38.331 allows up to 640 slots."""
    report_loss: float = 0.1
    """Share of report instants at which nothing arrives."""
    drop_rsrp: float = 0.05
    """Share of single values that are dropped; so for the others."""
    drop_rsrq: float = 0.10
    """See `drop_rsrp`."""
    drop_sinr: float = 0.10
    """See `drop_rsrp`."""
    drop_cqi: float = 0.15
    """See `drop_rsrp`."""
    drop_ri: float = 0.20
    """See `drop_rsrp`."""
    drop_pmi: float = 0.25
    """See `drop_rsrp`."""
    drop_neighbours: float = 0.30
    """Share of lists of neighbours that are dropped."""
    table: Literal["64QAM", "256QAM"] = "256QAM"
    """CQI table."""
    share: float = 1.0
    """Share of the serving cell's resources that a UE gets."""
    ue_height_m: float = 1.5
    """Height of UEs above ground [m]."""

    def __post_init__(self) -> None:
        for name in ("rsrp_noise_db", "rsrq_noise_db", "sinr_noise_db", "offset_std_db",
                     "timing_noise_s", "filter_coefficient", "hysteresis_db"):  # fmt: skip
            if not 0.0 <= getattr(self, name) < np.inf:
                msg = f"SequenceConfig.{name} must be at least 0, got {getattr(self, name)}"
                raise ConfigError(msg)
        for name in ("report_loss", *self.__dataclass_fields__):
            rate = getattr(self, name)
            if (name.startswith("drop_") or name in ("report_loss", "share")) and not (
                0.0 <= rate <= 1.0
            ):
                msg = f"SequenceConfig.{name} must lie between 0 and 1, got {rate}"
                raise ConfigError(msg)
        if not 1 <= self.most_cells <= 1 + MOST_NEIGHBOURS:
            msg = f"SequenceConfig.most_cells must lie between 1 and 9, got {self.most_cells}"
            raise ConfigError(msg)
        if self.rrc_period_s <= 0 or self.csi_period_s <= 0:
            msg = "SequenceConfig needs rrc_period_s and csi_period_s above 0"
            raise ConfigError(msg)

    @property
    def drops(self) -> dict[str, float]:
        """Share of single values that are dropped, by key."""
        return {
            "ss_rsrp": self.drop_rsrp,
            "ss_rsrq": self.drop_rsrq,
            "ss_sinr": self.drop_sinr,
            "cqi": self.drop_cqi,
            "ri": self.drop_ri,
            "pmi": self.drop_pmi,
            "neighbours": self.drop_neighbours,
        }


EXACT = SequenceConfig(
    rsrp_noise_db=0.0,
    rsrq_noise_db=0.0,
    sinr_noise_db=0.0,
    offset_std_db=0.0,
    timing_noise_s=0.0,
    filter_coefficient=0.0,
    quantised=False,
    detection_rsrp_dbm=-300.0,
    detection_sinr_db=-300.0,
    csi_period_s=1e-9,
    rrc_period_s=1e-9,
    report_loss=0.0,
    drop_rsrp=0.0,
    drop_rsrq=0.0,
    drop_sinr=0.0,
    drop_cqi=0.0,
    drop_ri=0.0,
    drop_pmi=0.0,
    drop_neighbours=0.0,
)
"""Reports that say what the map says: no noise, filter, quantisation or loss."""


@final
@dataclass(frozen=True)
class _Chance:
    """All draws of a batch, each sample's from its own generator."""

    offset: Float[np.ndarray, "samples 1 1"]
    """Normal."""
    normal: dict[str, Float[np.ndarray, "samples steps cells"]]
    """Normal, by what it is for."""
    lost: Float[np.ndarray, "samples steps"]
    """Even over 0 to 1."""
    drop: dict[str, Float[np.ndarray, "samples steps cells"]]
    """Even over 0 to 1, by key."""
    beam: Float[np.ndarray, "samples steps cells beams"]
    """Normal."""

    @classmethod
    def draw(
        cls, shape: tuple[int, int, int], beams: int, address: tuple[int, ...], first: int
    ) -> "_Chance":
        """Draw for samples `first` and on; what is optional comes last."""
        samples, steps, cells = shape
        noisy, keys = ("rsrp", "rsrq", "sinr", "csi", "timing"), tuple(SequenceConfig().drops)
        offset = np.empty((samples, 1, 1))
        normal = np.empty((len(noisy), *shape))
        lost = np.empty((samples, steps))
        drop = np.empty((len(keys), *shape))
        beam = np.empty((*shape, beams))
        for k in range(samples):
            chance = generator(*address, first + k)
            offset[k] = chance.standard_normal()
            normal[:, k] = chance.standard_normal((len(noisy), steps, cells))
            lost[k] = chance.random(steps)
            drop[:, k] = chance.random((len(keys), steps, cells))
            beam[k] = chance.standard_normal((steps, cells, beams))
        drop[keys.index("neighbours")] = drop[keys.index("neighbours"), :, :, :1]  # a whole list
        return cls(
            offset,
            dict(zip(noisy, normal, strict=True)),
            lost,
            dict(zip(keys, drop, strict=True)),
            beam,
        )


def simulate(
    radio_map: RadioMap,
    trajectories: Sequence[Trajectory],
    budgets: PowerBudget | Sequence[PowerBudget],
    config: SequenceConfig | None = None,
    *,
    seed: int,
    address: tuple[int, ...] = (),
    first: int = 0,
    loads: Float[np.ndarray, " cells"] | None = None,
    free: Bool[np.ndarray, "rows cols"] | None = None,
    paths: PathReadings | None = None,
    cell_id: Int[np.ndarray, " cells"] | None = None,
    pci: Int[np.ndarray, " cells"] | None = None,
) -> SimulatedSequences:
    """Let UEs measure all radio cells of a map along their trajectories.

    Sample k draws from the generator (seed, address, first + k) alone: the same in any batch.
    Quantities that neither map nor paths hold are there as `NOT_SIMULATED`.

    Args:
        radio_map: all radio cells, from any engine; with delays there is a timing advance.
        trajectories: one for each UE, of equally many positions, each a report instant.
        budgets: link budget of all radio cells, or one each; the maps' own.
        config: how UEs measure and report; the default if None.
        seed: at least 0.
        address: further parts of the generators' address, e.g. city and tile.
        first: number of the first sample.
        loads: share of resource elements in use in each radio cell; by default its budget's.
        free: True outdoors; by default wherever any radio cell has a path.
        paths: of `readings.read_channels` (and `with_beams`) for the same radio cells, samples and
            steps, for the quantities of the ray-tracing layer and of arrays.
        cell_id: identities (NCI); numbers from 0 by default.
        pci: physical identities; numbers from 0 modulo 1008 by default.

    Raises:
        ReportsError: if a place lies off the map, or trajectories or paths do not fit.
        ConfigError: if the budgets or loads do not fit.
    """
    config = config or SequenceConfig()
    time_s, place_m, velocity_m_s = _tracks(trajectories, config.ue_height_m)
    each = budgets_of(budgets, radio_map.transmitters)
    cells = len(each)
    shape = (*time_s.shape, cells)
    if paths is not None and paths.toa_s.shape != shape:
        msg = f"paths are of (samples, steps, cells) = {paths.toa_s.shape}, the reports of {shape}"
        raise ReportsError(msg)
    maps = read_maps(radio_map, place_m[..., :2], free)
    beams = 0 if paths is None or paths.beams is None else paths.beams.gain_db.shape[-1]
    chance = _Chance.draw(shape, beams, (seed, *address), first)
    work = _Work(config, each, loads_of(each, loads), time_s, maps, paths, chance)
    value, reason = work.reports()
    index = {key: index_of(key, found) for key, found in value.items() if QUANTITIES[key].indexed}
    if config.quantised:
        value |= {key: decoded_value(key, found) for key, found in index.items()}
    numbers = np.arange(cells)
    carrier = radio_map.transmitters[0].carrier_hz
    sequences = MeasurementSequence(
        tuple(f"ue{first + k}" for k in range(shape[0])),
        time_s,
        numbers if cell_id is None else cell_id,
        numbers % 1008 if pci is None else pci,
        value,
        index,
        reason,
        np.full(cells, kpi.nr_arfcn(carrier)),
        each[0].subcarrier_spacing_hz,
        None if paths is None else paths.paths,
    )
    return SimulatedSequences(sequences, place_m, velocity_m_s)


def _tracks(
    trajectories: Sequence[Trajectory], height_m: float
) -> tuple[
    Float[np.ndarray, "samples steps"],
    Float[np.ndarray, "samples steps 3"],
    Float[np.ndarray, "samples steps 3"],
]:
    """Times, places and velocities of all UEs; they move level."""
    counts = sorted({len(one.time_s) for one in trajectories})
    if len(counts) != 1:
        msg = f"trajectories must be some, and of equally many positions, got {counts}"
        raise ReportsError(msg)
    time_s = np.stack([one.time_s for one in trajectories]).astype(np.float64)
    ones = np.ones((*time_s.shape, 1))
    place = np.stack([one.place_m for one in trajectories])
    velocity = np.stack([one.velocity_m_s for one in trajectories])
    return (
        time_s,
        np.concatenate([place, height_m * ones], axis=2),
        np.concatenate([velocity, 0.0 * ones], axis=2),
    )


@final
@dataclass(frozen=True)
class _Work:
    """All that a batch of reports is made from."""

    config: SequenceConfig
    """How UEs measure."""
    budgets: tuple[PowerBudget, ...]
    """One for each radio cell."""
    loads: Float[np.ndarray, " cells"]
    """Of each radio cell."""
    time_s: Float[np.ndarray, "samples steps"]
    """Report instants."""
    maps: MapReadings
    """What maps say at the true places."""
    paths: PathReadings | None
    """What paths say."""
    chance: _Chance
    """All draws."""

    def reports(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Unquantised values (float32) and reasons of every key."""
        config, chance = self.config, self.chance
        rsrp, rsrq, sinr = self._clean()
        heard = self._filtered(rsrp, "rsrp", config.rsrp_noise_db)
        heard = heard + config.offset_std_db * chance.offset
        clear = self._filtered(sinr, "sinr", config.sinr_noise_db)
        detected = kpi.is_detected(
            heard,
            clear,
            least_rsrp_dbm=config.detection_rsrp_dbm,
            least_sinr_db=config.detection_sinr_db,
        )
        readable = self.maps.readable
        serving = serving_cell(heard, detected, readable, config.hysteresis_db)
        serves = serving[..., None] == np.arange(heard.shape[2])
        rank = np.where(detected, _rank(np.where(serves, np.inf, heard), detected), 0)
        listed = detected & (rank <= config.most_cells)
        beside = np.where(listed & ~serves, rank - 1, 0)
        known = np.broadcast_to((serving >= 0)[..., None], serves.shape)
        value = {
            "ss_rsrp": np.where(listed, heard, np.nan),
            "ss_rsrq": np.where(listed, self._filtered(rsrq, "rsrq", config.rsrq_noise_db), np.nan),
            "ss_sinr": np.where(listed, clear, np.nan),
            "serving_cell": np.where(known, serves, np.nan),
            "neighbours": np.where(beside > 0, beside, np.nan),
            **self._link(sinr, heard),
            **self._rays(),
            **self._array(listed),
        }
        reason = {}
        for key in QUANTITIES:
            found = value[key].astype(np.float32)
            reason[key] = self._reason(key, found, serves, known)
            gone = reason[key] != PRESENT
            value[key] = np.where(gone[..., None] if found.ndim == 4 else gone, np.nan, found)
            value[key] = value[key].astype(np.float32)
        return {key: value[key] for key in QUANTITIES}, reason

    def _clean(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """RSRP, RSRQ and SINR at the true places, without noise; NaN without a path."""
        gain = np.moveaxis(self.maps.gain_db, 2, 0)
        rsrp = rsrp_of(gain, self.budgets)
        noise_dbm = self.budgets[0].noise_dbm
        rsrq = kpi.rsrq_db(rsrp, loads=self.loads, noise_dbm=noise_dbm)
        sinr = kpi.sinr_db(rsrp, loads=self.loads, noise_dbm=noise_dbm)
        return np.moveaxis(rsrp, 0, 2), np.moveaxis(rsrq, 0, 2), np.moveaxis(sinr, 0, 2)

    def _filtered(self, clean: np.ndarray, which: str, std_db: float) -> np.ndarray:
        """Value with noise after the L3 filter; the noise has its stated size from the first on.

        The filter of a cell has run before its first value here, on noise about that value.
        """
        coefficient = self.config.filter_coefficient
        seen = np.isfinite(clean)
        first = seen & (np.cumsum(seen, axis=1) == 1)
        scale = np.where(first, std_db, std_db / kpi.l3_noise_share(coefficient))
        noisy = np.moveaxis(clean + scale * self.chance.normal[which], 1, 0)
        return np.moveaxis(kpi.l3_filtered(noisy, coefficient), 0, 1)

    def _link(self, sinr: np.ndarray, heard: np.ndarray) -> dict[str, np.ndarray]:
        """What every cell would say of its link if it served."""
        config, chance = self.config, self.chance
        # CSI is measured at once, without the L3 filter
        noise_db = config.sinr_noise_db / kpi.l3_noise_share(config.filter_coefficient)
        index = kpi.cqi(sinr + noise_db * chance.normal["csi"], config.table)
        lost = kpi.block_error_rate(sinr, index, config.table)
        rate = throughput_of(
            np.moveaxis(sinr, 2, 0),
            self.budgets,
            table=config.table,
            share=config.share,
            index=np.moveaxis(index, 2, 0),
        )
        reference = np.array([one.reference_dbm for one in self.budgets])
        toa = self._toa_s()
        late = 0.5 * config.timing_noise_s * chance.normal["timing"]
        return {
            "cqi": np.where(np.isfinite(sinr), index, np.nan),
            "timing_advance": kpi.timing_advance(toa + late, self.budgets[0]),
            "phr": kpi.power_headroom_db(reference - heard, self.budgets[0]),
            "dl_throughput": np.moveaxis(rate, 0, 2),
            "bler": lost,
        }

    def _toa_s(self) -> np.ndarray:
        """First delay [s] of the paths if there are any, else of the maps."""
        if self.paths is not None:
            return self.paths.toa_s
        if self.maps.toa_s is not None:
            return self.maps.toa_s
        return np.full(self.maps.gain_db.shape, np.nan)

    def _rays(self) -> dict[str, np.ndarray]:
        """The simulator's truth."""
        nothing = np.full(self.maps.gain_db.shape, np.nan)
        found, nlos = self.paths, self.maps.nlos
        return {
            "toa": 1e9 * self._toa_s(),
            "rms_ds": nothing if found is None else 1e9 * found.delay_spread_s,
            "rms_as": nothing if found is None else found.angle_spread_rad,
            "n_paths": nothing if found is None else found.count,
            "nlos": found.nlos if found is not None else nothing if nlos is None else nlos,
            "doppler_spread": nothing if found is None else found.doppler_spread_hz,
        }

    def _array(self, listed: np.ndarray) -> dict[str, np.ndarray]:
        """Beams of all reported cells, rank and precoder."""
        beams = None if self.paths is None else self.paths.beams
        nothing = np.full(listed.shape, np.nan)
        if beams is None:
            none = nothing[..., None]
            return {"ri": nothing, "pmi": nothing, "l1_rsrp": none, "beam_id": none}
        config, chance = self.config, self.chance
        noise_db = config.rsrp_noise_db / kpi.l3_noise_share(config.filter_coefficient)
        reference = np.array([one.reference_dbm for one in self.budgets])
        level = reference[:, None] + beams.gain_db + noise_db * chance.beam
        level = level + config.offset_std_db * chance.offset[..., None]
        order = np.argsort(-level, axis=-1, kind="stable")  # NaN comes last
        level = np.take_along_axis(level, order, axis=-1)
        number = np.take_along_axis(beams.beam, order, axis=-1)
        seen = np.isfinite(level) & listed[..., None]
        return {
            "ri": beams.rank,
            "pmi": beams.precoder,
            "l1_rsrp": np.where(seen, level, np.nan),
            "beam_id": np.where(seen, number, np.nan),
        }

    def _simulated(self, key: str) -> bool:
        """Whether maps or paths can say anything of a key."""
        paths, maps = self.paths, self.maps
        if key in ("rms_ds", "rms_as", "n_paths", "doppler_spread"):
            return paths is not None
        if key in ("ri", "pmi", "l1_rsrp", "beam_id"):
            return paths is not None and paths.beams is not None
        if key in ("toa", "timing_advance"):
            return paths is not None or maps.toa_s is not None
        return key != "nlos" or paths is not None or maps.nlos is not None

    def _reason(
        self, key: str, value: np.ndarray, serves: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """Why each value is there or not; the later line wins."""
        if not self._simulated(key):
            return np.full(serves.shape, NOT_SIMULATED, np.uint8)
        there = np.isfinite(value[..., 0] if value.ndim == 4 else value)
        reason = np.where(there, PRESENT, BELOW_DETECTION)
        rate = self.config.drops.get(key, 0.0)
        if rate:
            dropped = self.chance.drop[key] < rate
            # of a dropped list nobody knows who was not on it
            reason = np.where(dropped & (there | (key == "neighbours")), DROPPED, reason)
        if QUANTITIES[key].serving:
            if key == "bler":  # nothing was sent
                reason = np.where(serves & ~there, NOT_CONFIGURED, reason)
            reason = np.where(serves, reason, np.where(known, NOT_CONFIGURED, BELOW_DETECTION))
        if key == "neighbours":
            reason = np.where(serves, NOT_CONFIGURED, reason)
        period = {**dict.fromkeys(RRC_KEYS, self.config.rrc_period_s),
                  **dict.fromkeys(CSI_KEYS, self.config.csi_period_s)}.get(key)  # fmt: skip
        if period is not None:
            reason = np.where(due(self.time_s, period)[..., None], reason, NOT_CONFIGURED)
        lost = self.chance.lost < self.config.report_loss
        reason = np.where(lost[..., None], DROPPED, reason)
        if QUANTITIES[key].layer != "rt" or self.paths is None:
            reason = np.where(self.maps.readable[..., None], reason, NOT_SIMULATED)
        return reason.astype(np.uint8)


def due(
    time_s: Float[np.ndarray, "samples steps"], period_s: float
) -> Bool[np.ndarray, "samples steps"]:
    """Instants at which a periodic report is sent: the first, and each after a period's end."""
    since = time_s - time_s[:, :1]
    count = np.floor(since / period_s + 1e-9)
    return np.diff(count, axis=1, prepend=-1.0) > 0


def serving_cell(
    rsrp: Float[np.ndarray, "samples steps cells"],
    detected: Bool[np.ndarray, "samples steps cells"],
    readable: Bool[np.ndarray, "samples steps"],
    hysteresis_db: float,
) -> Int[np.ndarray, "samples steps"]:
    """Number of the serving cell, -1 where none is detected or the place is not readable.

    The strongest one at first; then it stays until another is stronger by more than the hysteresis,
    or it is no longer detected.

    Args:
        rsrp: as measured [dBm].
        detected: which radio cells are.
        readable: where anything is known; elsewhere the serving cell is kept for later.
        hysteresis_db: at least 0.
    """
    samples, steps, _ = rsrp.shape
    out = np.full((samples, steps), -1)
    now = np.full(samples, -1)
    level = np.where(detected, rsrp, -np.inf)
    each = np.arange(samples)
    for step in range(steps):
        here = level[:, step]
        best = np.argmax(here, axis=1)
        stays = (now >= 0) & np.isfinite(here[each, now])
        stays &= here[each, best] <= here[each, now] + hysteresis_db
        new = np.where(stays, now, np.where(detected[:, step].any(axis=1), best, -1))
        now = np.where(readable[:, step], new, now)
        out[:, step] = np.where(readable[:, step], new, -1)
    return out


def _rank(
    level: Float[np.ndarray, "samples steps cells"],
    among: Bool[np.ndarray, "samples steps cells"],
) -> Int[np.ndarray, "samples steps cells"]:
    """Place of each radio cell in the order of falling levels, from 1 (ties: the lowest number)."""
    order = np.argsort(-np.where(among, level, -np.inf), axis=2, kind="stable")
    rank = np.empty(level.shape, np.int64)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(1, level.shape[2] + 1), rank.shape), 2)
    return rank
