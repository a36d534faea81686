"""Noise-free quantities of the links between UEs and radio cells: off maps, and out of paths.

Maps are read bilinearly, weighted by their masks; a place counts when its nearest cell does, so
that a reading never comes from beyond a wall. Angles and spreads come from `Channels` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from hertzmap.core import kpi
from hertzmap.core.channels import ARRIVAL_WINDOW_DB, Channels
from hertzmap.core.errors import ReportsError
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.layers import budgets_of
from hertzmap.core.sequences import PathTable
from hertzmap.core.types import RadioMap
from hertzmap.core.units import to_linear
from hertzmap.measurement.operator import bilinear, nearest_free

COUNTED_DB = 30.0
"""A path this far below the strongest one still counts as one [dB]; ours."""


@final
@dataclass(frozen=True)
class MapReadings:
    """What maps say at places, for every radio cell."""

    gain_db: Float[np.ndarray, "samples steps cells"]
    """Path gain [dB]; NaN without a path, or where the map says nothing."""
    toa_s: Float[np.ndarray, "samples steps cells"] | None
    """Delay of the first strong path [s]; None if the maps hold none."""
    nlos: Float[np.ndarray, "samples steps cells"] | None
    """1 without a line of sight, 0 with it, NaN without a path; None if the maps hold none."""
    readable: Bool[np.ndarray, "samples steps"]
    """Whether the nearest cell of a place is outdoors and on the map."""


def read_maps(
    radio_map: RadioMap,
    place_m: Float[np.ndarray, "samples steps 2"],
    free: Bool[np.ndarray, "rows cols"] | None = None,
) -> MapReadings:
    """Read the maps of all radio cells at places.

    Args:
        radio_map: of any engine.
        place_m: (east, north) [m].
        free: True outdoors; by default wherever any radio cell has a path.

    Raises:
        ReportsError: if a place lies off the grid.
    """
    samples, steps = place_m.shape[:2]
    cells = len(radio_map.transmitters)
    flat = place_m.reshape(-1, 2).astype(np.float64)
    away = np.flatnonzero(~radio_map.grid.contains(flat))
    if len(away):
        sample, step = divmod(int(away[0]), steps)
        msg = (
            f"{len(away)} of {len(flat)} places lie off the map, the first at "
            f"{flat[away[0]].round(1).tolist()} m (sample {sample}, step {step}); the map spans "
            f"{radio_map.grid.bounds_m}: keep trajectories in it"
        )
        raise ReportsError(msg)
    outdoors = np.asarray(radio_map.valid.any(axis=0) if free is None else free)
    shape = (samples, steps, cells)
    gain, toa, nlos = (np.full((len(flat), cells), np.nan) for _ in range(3))
    row, col = radio_map.grid.cell(flat).T
    for k in range(cells):
        heard = np.asarray(radio_map.valid[k] & outdoors)
        index, tap, _ = bilinear(radio_map.grid, heard, flat)
        good = nearest_free(radio_map.grid, heard, flat)
        gain[good, k] = _weighed(radio_map.path_gain_db[k], index[good], tap[good])
        if radio_map.toa_s is not None:
            toa[good, k] = _weighed(radio_map.toa_s[k], index[good], tap[good])
        if radio_map.los is not None:
            nlos[good, k] = ~radio_map.los[k, row[good], col[good]]
    return MapReadings(
        gain.reshape(shape),
        toa.reshape(shape) if radio_map.toa_s is not None else None,
        nlos.reshape(shape) if radio_map.los is not None else None,
        nearest_free(radio_map.grid, outdoors, flat).reshape(samples, steps),
    )


def _weighed(
    layer: Float[np.ndarray, "rows cols"],
    index: Int[np.ndarray, "points 4"],
    tap: Float[np.ndarray, "points 4"],
) -> Float[np.ndarray, " points"]:
    return np.einsum("pt,pt->p", layer.ravel()[index].astype(np.float64), tap)


@final
@dataclass(frozen=True)
class BeamReadings:
    """What an array at each radio cell adds; (samples, steps, cells), NaN without paths."""

    gain_db: Float[np.ndarray, "samples steps cells beams"]
    """Path gain of the best beams [dB], best first."""
    beam: Float[np.ndarray, "samples steps cells beams"]
    """Number of each of them in the codebook."""
    rank: Float[np.ndarray, "samples steps cells"]
    """Rank indicator."""
    precoder: Float[np.ndarray, "samples steps cells"]
    """Number of the best precoder in the codebook."""


@final
@dataclass(frozen=True)
class PathReadings:
    """What paths say, for every radio cell; all NaN for a link without any."""

    toa_s: Float[np.ndarray, "samples steps cells"]
    """Delay of the first strong path [s]."""
    delay_spread_s: Float[np.ndarray, "samples steps cells"]
    """Delay spread [s]."""
    angle_spread_rad: Float[np.ndarray, "samples steps cells"]
    """Circular spread of the azimuths of arrival [rad]."""
    doppler_spread_hz: Float[np.ndarray, "samples steps cells"]
    """Doppler spread [Hz]."""
    count: Float[np.ndarray, "samples steps cells"]
    """Paths within `COUNTED_DB` of the strongest."""
    nlos: Float[np.ndarray, "samples steps cells"]
    """1 if every path meets something, else 0."""
    paths: PathTable
    """The paths themselves."""
    beams: BeamReadings | None = None
    """What an array adds; None without one."""


def read_channels(
    channels: Channels, samples: int, steps: int, *, most_paths: int = 64
) -> PathReadings:
    """Spreads, counts and path lists of all links.

    Source: delay spread of 3GPP TR 38.901, circular angular spread of its annex A.

    Args:
        channels: of all snapshots, those of one sample behind one another in order of time.
        samples: number of UEs.
        steps: snapshots of each UE.
        most_paths: so many of the strongest paths of a link are listed.

    Raises:
        ReportsError: if the channels hold another number of snapshots.
    """
    if channels.snapshots != samples * steps:
        msg = (
            f"channels of {channels.snapshots} snapshots do not fit {samples} samples of {steps} "
            "steps; trace every step of every trajectory, sample by sample"
        )
        raise ReportsError(msg)
    shape = (samples, steps, len(channels.transmitters))
    power_db = 10.0 * np.log10(np.where(channels.power > 0, channels.power, np.nan))
    gain, delay, azimuth, doppler, depth = (
        _padded(channels, values)
        for values in (
            power_db,
            channels.delay_s,
            channels.arrival_rad[:, 0],
            channels.doppler_hz,
            channels.depth.astype(np.float64),
        )
    )
    some = np.asarray(np.isfinite(gain).any(axis=1))
    strongest = np.where(some, np.nanmax(np.where(some[:, None], gain, 0.0), axis=1), np.nan)
    strong = gain >= strongest[:, None] - ARRIVAL_WINDOW_DB
    first = np.min(np.where(strong, delay, np.inf), axis=1, initial=np.inf)
    counted = (gain >= strongest[:, None] - COUNTED_DB).sum(axis=1)

    def shaped(values: np.ndarray) -> Float[np.ndarray, "samples steps cells"]:
        return np.where(some, values, np.nan).reshape(shape)

    return PathReadings(
        shaped(first),
        shaped(kpi.delay_spread_s(gain, delay)),
        shaped(kpi.angle_spread_rad(gain, azimuth)),
        shaped(kpi.doppler_spread_hz(gain, doppler)),
        shaped(counted.astype(np.float64)),
        shaped(~(depth == 0).any(axis=1)),
        path_table(channels, power_db, most_paths),
    )


def _padded(
    channels: Channels, values: Float[np.ndarray, " paths"]
) -> Float[np.ndarray, "links most"]:
    """Values of each link's paths in a row of their own, NaN beyond."""
    most = max(int(np.diff(channels.offset).max(initial=0)), 1)
    out = np.full((channels.links, most), np.nan)
    link = channels.link_of_path
    out[link, np.arange(len(values)) - channels.offset[link]] = values
    return out


def path_table(
    channels: Channels, power_db: Float[np.ndarray, " paths"], most_paths: int
) -> PathTable:
    """The strongest paths of every link in the units of files, in order of delay.

    Args:
        channels: the paths.
        power_db: power gain of each path [dB]; NaN for one that carries nothing, left out.
        most_paths: paths kept of each link.
    """
    link = channels.link_of_path
    order = np.lexsort((-np.nan_to_num(power_db, nan=-np.inf), link))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - channels.offset[link[order]]
    kept = np.flatnonzero((place < most_paths) & np.isfinite(power_db))
    offset = np.concatenate([[0], np.cumsum(np.bincount(link[kept], minlength=channels.links))])
    return PathTable(
        offset.astype(np.int64),
        *(
            np.asarray(values[kept], np.float32)
            for values in (
                power_db,
                1e9 * channels.delay_s,
                *channels.arrival_rad.T,
                *channels.departure_rad.T,
                channels.doppler_hz,
            )
        ),
    )


def with_beams(
    readings: PathReadings,
    channels: Channels,
    gains: Complex[np.ndarray, "paths antennas ports"],
    budgets: PowerBudget | Sequence[PowerBudget],
    *,
    panel: tuple[int, int, int] = (2, 4, 4),
    most_beams: int = 4,
    oversampling: int = 1,
) -> PathReadings:
    """Add beams, rank and precoder of an array at every radio cell.

    A beam is a column of the DFT over the panel's rows and columns, on both polarisations with half
    the power each; its gain adds the powers of paths, as over a wide band, and is the mean over the
    UE's ports. A precoder is such a column and a phase (0, 90, 180, 270 degrees) between the
    polarisations; number = 4 beam + phase, the one of greatest power on the carrier. The rank is
    `kpi.rank_indicator` of the channel matrix on the carrier, without interference.

    Source: type I single-panel codebook of TS 38.214, 5.2.2.2.1, for its form; the numbering and
    the order of beams (row by row) are ours.

    Args:
        readings: of `read_channels` for the same channels.
        channels: the paths.
        gains: of `propagation.arrays.port_gains`, with the phase of the carrier.
        budgets: link budget of all radio cells, or one each.
        panel: polarisations (1 or 2), rows and columns of the radio cells' arrays.
        most_beams: beams that are reported.
        oversampling: beams for each row and column.

    Raises:
        ReportsError: if the gains do not fit the panel.
    """
    slants, rows, cols = panel
    if gains.shape[:2] != (len(channels.delay_s), slants * rows * cols) or slants not in (1, 2):
        msg = f"gains {gains.shape} do not fit {len(channels.delay_s)} paths and the panel {panel}"
        raise ReportsError(msg)
    beams = np.kron(_columns(rows, oversampling), _columns(cols, oversampling))
    shape = readings.toa_s.shape
    links, cells, ports = channels.links, shape[2], gains.shape[2]
    parts = gains.reshape(len(gains), slants, rows * cols, ports)
    # power of each beam on each path, over the slants and the UE's ports
    through = np.einsum("psau,ab->psbu", parts, beams, optimize=True)
    power = (np.abs(through) ** 2).sum(axis=1).mean(axis=2) / slants
    total = np.zeros((links, beams.shape[1]))
    np.add.at(total, channels.link_of_path, power)
    best = np.argsort(-total, axis=1, kind="stable")[:, :most_beams]
    top = np.take_along_axis(total, best, axis=1)
    # the channel matrix on the carrier, and through each precoder
    matrix = np.zeros((links, slants * rows * cols, ports), np.complex128)
    np.add.at(matrix, channels.link_of_path, gains)
    steered = np.zeros((links, slants, beams.shape[1], ports), np.complex128)
    np.add.at(steered, channels.link_of_path, through)
    turns = np.exp(0.5j * np.pi * np.arange(4)) if slants == 2 else np.zeros(4)
    second = steered[:, -1, :, None] * turns[:, None]
    precoded = (np.abs(steered[:, 0, :, None] + second) ** 2).sum(axis=3).reshape(links, -1)
    singular = np.linalg.svd(matrix, compute_uv=False)
    some = np.diff(channels.offset) > 0

    def shaped(values: np.ndarray) -> np.ndarray:
        seen = some.reshape(-1, *(1,) * (values.ndim - 1))
        return np.where(seen, values, np.nan).reshape(*shape, *values.shape[1:])

    with np.errstate(divide="ignore"):
        gain_db = 10.0 * np.log10(top)
    gain_db = np.where(np.isfinite(gain_db), gain_db, np.nan)
    each = budgets_of(budgets, channels.transmitters)
    snr = to_linear(np.array([one.reference_dbm - one.noise_dbm for one in each]))
    rank = kpi.rank_indicator(singular, np.tile(snr, links // cells))
    return replace(
        readings,
        beams=BeamReadings(
            shaped(gain_db),
            shaped(best.astype(float)),
            shaped(rank),
            shaped(np.argmax(precoded, axis=1)),
        ),
    )


def _columns(count: int, oversampling: int) -> Complex[np.ndarray, "count beams"]:
    """Unit columns of a DFT that steer a line of elements, `oversampling` times as many."""
    turn = np.outer(np.arange(count), np.arange(count * oversampling)) / (count * oversampling)
    return np.exp(2j * np.pi * turn) / np.sqrt(count)
