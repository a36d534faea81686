"""Layers of a radio map from the paths to a receiver in each cell; of any channel backend."""

import numpy as np
from jaxtyping import Int

from hertzmap.core.channels import ARRIVAL_WINDOW_DB, Channels
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap
from hertzmap.propagation.antennas import gain_dbi


def layers_from_paths(
    channels: Channels, grid: Grid, cell: Int[np.ndarray, " snapshots"]
) -> RadioMap:
    """Path gain, delay, line of sight and angles of the dominant path, per cell.

    Powers of paths add, so the map is free of the fading within a cell. The antenna pattern of each
    station is applied at each path's departure; a receiver takes the power of both polarisations.
    Cells without a receiver or without a path are masked.

    Args:
        channels: a snapshot per receiver.
        grid: cells of the maps.
        cell: flat index ``row * cols + col`` of each snapshot's cell, each at most once.
    """
    stations = len(channels.transmitters)
    shape = (stations, grid.rows * grid.cols)
    link = channels.link_of_path
    owner, place = link % stations, cell[link // stations]
    gain_db = np.full(shape, np.nan)
    toa_s, arrival, departure = (np.full(shape, np.nan) for _ in range(3))
    los = np.zeros(shape, dtype=bool)
    for number, transmitter in enumerate(channels.transmitters):
        mine = np.flatnonzero(owner == number)
        pattern_db = gain_dbi(transmitter, *channels.departure_rad[mine].astype(np.float64).T)
        power = channels.power[mine] * 10.0 ** (pattern_db / 10.0)
        mine, power = mine[power > 0], power[power > 0]
        where = place[mine]
        total = np.bincount(where, weights=power, minlength=shape[1])
        lit = total > 0
        gain_db[number, lit] = 10.0 * np.log10(total[lit])
        dominant, first_of = _firsts(where, -power)
        arrival[number, first_of] = channels.arrival_rad[mine[dominant], 0]
        departure[number, first_of] = channels.departure_rad[mine[dominant], 0]
        most = np.zeros(shape[1])
        most[first_of] = power[dominant]
        heard = np.flatnonzero(power >= most[where] * 10.0 ** (-ARRIVAL_WINDOW_DB / 10.0))
        earliest, first_of = _firsts(where[heard], channels.delay_s[mine[heard]])
        toa_s[number, first_of] = channels.delay_s[mine[heard[earliest]]]
        los[number, where[channels.depth[mine] == 0]] = True
    full = (stations, *grid.shape)
    return RadioMap(
        grid,
        gain_db.reshape(full),
        np.isfinite(gain_db).reshape(full),
        channels.transmitters,
        toa_s=toa_s.reshape(full),
        los=los.reshape(full),
        aoa_rad=arrival.reshape(full),
        aod_rad=departure.reshape(full),
    )


def _firsts(place: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the least value of each place, and the places."""
    order = np.lexsort((value, place))
    places, first = np.unique(place[order], return_index=True)
    return order[first], places
