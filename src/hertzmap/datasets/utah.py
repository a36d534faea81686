"""Measured RSS of fixed receivers on a hilly campus, without a map of its buildings.

A handheld transmitter at 462.7 MHz was carried around; by reciprocity each of its positions is a
report about the receiver, which takes the part of a radio cell. RSS is uncalibrated: every receiver
has its own unknown offset, as a cell of unknown power has. Moving receivers (on buses) and those
without a position are left out. What the table leaves open is assumed, the same for all methods:
value noise of 4 dB and a drift of 5 m per axis, a walker's satellite fix.
"""

import numpy as np

from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, Scene, SceneRaster
from hertzmap.datasets import remote
from hertzmap.datasets.campus import Campus
from hertzmap.datasets.interchange import group_places

NAME = "rss-462mhz/reports.csv.gz"
"""The table."""
NOISE_DB = 4.0
"""Assumed standard deviation of a report's value [dB]."""
DRIFT_STD_M = 5.0
"""Assumed standard deviation of the reported place per axis [m]."""
SPACING_M = 20.0
"""Side of a cell of the grid [m]."""
PLACE_RADIUS_M = 10.0
"""Reports chained by gaps of at most this are one place [m]."""
MARGIN_M = 100.0
"""Ground around the reported places that the grid covers [m]."""
MOST_REPORTS = 600
"""Reports of a receiver, every n-th in time: neighbours in time say the same."""
CRS = "EPSG:32612"
"""UTM zone of Utah."""


def read_utah(receivers: int = 8) -> Campus:
    """Read the reports of the fixed receivers with most of them.

    Args:
        receivers: number of receivers; they are numbered from 1 in `Reports.cell_id`.

    Raises:
        DataError: if the file is missing.
    """
    import pandas as pd
    from pyproj import Transformer

    table = pd.read_csv(remote.find(NAME)).sort_values("sample", kind="stable")
    receiver = table["receiver"].to_numpy(str)
    heard_db = table["rss_db"].to_numpy(float)
    fixed = (table["rx_lat"].to_numpy(float) != 0.0) & ~np.char.startswith(receiver, "bus-")
    usable = fixed & np.isfinite(heard_db)
    names, count = np.unique(receiver[usable], return_counts=True)
    busiest = names[np.lexsort((names, -count))][:receivers]
    change = Transformer.from_crs("EPSG:4326", CRS, always_xy=True)
    parts = []
    for number, name in enumerate(busiest, start=1):
        mine = np.flatnonzero(usable & (receiver == name))
        mine = mine[:: max(1, len(mine) // MOST_REPORTS)]
        lon, lat = (table[column].to_numpy(float)[mine] for column in ("tx_lon", "tx_lat"))
        parts.append((np.stack(change.transform(lon, lat), axis=-1), heard_db[mine], number))
    place_m = np.concatenate([part[0] for part in parts])
    origin = np.floor(place_m.min(axis=0))
    place_m = place_m - origin
    low = np.floor((place_m.min(axis=0) - MARGIN_M) / SPACING_M)
    high = np.ceil((place_m.max(axis=0) + MARGIN_M) / SPACING_M)
    cols, rows = (high - low).astype(int).tolist()
    grid = Grid(rows, cols, SPACING_M, (float(low[0]) * SPACING_M, float(low[1]) * SPACING_M))
    reports = Reports(
        place_m,
        np.concatenate([part[1] for part in parts]),
        np.full(len(place_m), NOISE_DB),
        np.tile(DRIFT_STD_M**2 * np.eye(2), (len(place_m), 1, 1)),
        cell_id=np.concatenate([np.full(len(part[1]), part[2]) for part in parts]),
    )
    corner_m = (float(origin[0]), float(origin[1]))
    scene = Scene((), np.empty(0), (), (), grid.bounds_m, CRS, corner_m, name="utah")
    site = SceneRaster(grid, np.zeros(grid.shape), np.ones(grid.shape, bool))
    return Campus(scene, site, reports, group_places(place_m, radius_m=PLACE_RADIUS_M))
