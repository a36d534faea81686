"""The measured campus: LTE reports of several radio cells, and the buildings around them.

RSRP at 3.5 GHz by a walking phone on a university campus in North Carolina. Cell sites and transmit
powers are not known. What the table leaves open is assumed, the same for all methods:

* value noise of 3 dB: pairs of reports of one cell within 3 m differ by 1.7 to 3.7 dB per report;
* drift of 3 m per axis: a phone's satellite fix between buildings;
* a place: reports chained by gaps of at most 5 m (single linkage), over all radio cells together,
  as one stop reports several cells.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from jaxtyping import Int

from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, Scene, SceneRaster
from hertzmap.datasets import remote
from hertzmap.datasets.interchange import cells_by_count, group_places, read_reports
from hertzmap.scenes.osm import read_osm
from hertzmap.scenes.raster import rasterize

NOISE_DB = 3.0
"""Assumed standard deviation of a report's value [dB]."""
DRIFT_STD_M = 3.0
"""Assumed standard deviation of the reported place per axis [m]."""
PLACE_RADIUS_M = 5.0
"""Reports chained by gaps of at most this are one place [m]."""
SPACING_M = 2.0
"""Side of a cell of the grid [m]."""
MARGIN_M = 60.0
"""Ground around the reported places that the grid covers [m]."""
FLOOR_DBM = -140.0
"""Lowest value a phone reports (3GPP TS 36.133, table 9.1.4-1)."""


@final
@dataclass(frozen=True)
class Campus:
    """All reports of the campus on one grid, with the place each was taken at."""

    scene: Scene
    """Buildings, in local metres."""
    site: SceneRaster
    """Heights and free mask on the grid all methods estimate on."""
    reports: Reports
    """Reports of all radio cells; the reference power is not known."""
    place: Int[np.ndarray, " points"]
    """Place of each report, numbered from 0."""

    @cached_property
    def cells(self) -> tuple[int, ...]:
        """Radio cells, the one with most reports first."""
        return tuple(cells_by_count(self.reports))

    def of_cell(self, cell: int) -> tuple[Reports, Int[np.ndarray, " points"]]:
        """Reports of one radio cell, and their places."""
        assert self.reports.cell_id is not None
        mine = self.reports.cell_id == cell
        return self.reports.select(mine), self.place[mine]


def read_campus() -> Campus:
    """Read reports and map extract of the campus.

    Raises:
        DataError: if the files are missing.
        SceneError: if the extract is broken.
        ReportsError: if the table is broken.
    """
    scene = read_osm(remote.find("rsrp-campus/campus.osm.gz"), name="campus")
    reports = read_reports(
        remote.find("rsrp-campus/reports.csv"), scene, noise_db=NOISE_DB, drift_std_m=DRIFT_STD_M
    )
    site = rasterize(scene, _grid_around(reports))
    return Campus(scene, site, reports, group_places(reports.reported_m, radius_m=PLACE_RADIUS_M))


def _grid_around(reports: Reports) -> Grid:
    """The smallest grid of whole cells, corners on whole cells, that leaves the margin."""
    low = np.floor((reports.reported_m.min(axis=0) - MARGIN_M) / SPACING_M)
    high = np.ceil((reports.reported_m.max(axis=0) + MARGIN_M) / SPACING_M)
    cols, rows = (high - low).astype(int).tolist()
    return Grid(rows, cols, SPACING_M, (float(low[0]) * SPACING_M, float(low[1]) * SPACING_M))
