"""What the learned estimators feed their networks: planes, scalars, padding, grey values."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hertzmap.core.errors import ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale

MULTIPLE = 32
"""Rows and columns of a network's input are multiples of this: patch 8 times two halvings."""


def condition_planes(
    planes: Float[Tensor, "batch planes rows cols"], agnostic: Bool[Tensor, " batch"]
) -> Float[Tensor, "batch planes rows cols"]:
    """Replace the transmitter planes by copies of the first, the free mask, where agnostic.

    Source: RadioDiff-Inv2's environment-only condition, C2 <- C1.
    """
    mask = agnostic[:, None, None, None]
    return torch.where(mask, planes[:, :1].expand_as(planes), planes)


def condition_scalars(
    spacing_m: Float[Tensor, " batch"], agnostic: Bool[Tensor, " batch"]
) -> Float[Tensor, "batch 2"]:
    """log2 of the cell side [m], and 1 where the transmitter is given."""
    return torch.stack([torch.log2(spacing_m), (~agnostic).to(spacing_m.dtype)], dim=1)


def pad_site(
    site: SceneRaster, multiple: int = MULTIPLE
) -> tuple[Grid, Bool[np.ndarray, "rows_padded cols_padded"]]:
    """Grid and free mask grown to the north and east to multiples of a size; pads are walls."""
    rows = -(-site.grid.rows // multiple) * multiple
    cols = -(-site.grid.cols // multiple) * multiple
    free = np.zeros((rows, cols), dtype=bool)
    free[: site.grid.rows, : site.grid.cols] = site.free
    return Grid(rows, cols, site.grid.spacing_m, site.grid.origin_m), free


@final
@dataclass(frozen=True)
class ReportRasters:
    """Reports as rasters: all that a network of reports sees. On the grey scale, walls 0."""

    free: Float[Tensor, "batch 1 rows cols"]
    """1 outdoors."""
    count: Float[Tensor, "batch 1 rows cols"]
    """Reports of each cell; one of twice the usual noise counts as a quarter."""
    total: Float[Tensor, "batch 1 rows cols"]
    """Sum of their values [grey], counted alike."""
    noise: Float[Tensor, " batch"]
    """Standard deviation of the usual noise [grey]."""
    drift_cells: Float[Tensor, " batch"]
    """Standard deviation of the drift per axis [cells]."""
    spacing_m: Float[Tensor, " batch"]
    """Side of a cell [m]."""
    unknown_level: Float[Tensor, " batch"]
    """1 where the link budget is unknown."""

    @property
    def mean(self) -> Float[Tensor, "batch 1 rows cols"]:
        """Mean value of each cell's reports [grey], 0 without any."""
        return self.total / self.count.clamp_min(1e-6) * (self.count > 0.0)


LEAST_NOISE_DB = 0.5
"""Smaller noise is taken as this."""


def rasterize_reports(
    reports: Reports, site: SceneRaster, scale: GreyScale, reference_dbm: float, multiple: int
) -> ReportRasters:
    """Reports of one radio cell as rasters of a batch of one; reports off the map are left out.

    Args:
        reports: at least one must lie on the map.
        site: buildings and grid.
        scale: the grey scale.
        reference_dbm: subtracted from the powers where the link budget is unknown.
        multiple: rows and columns are padded to multiples of it.

    Raises:
        ReportsError: if no report lies on the map.
    """
    grid, free = pad_site(site, multiple)
    inside = site.grid.contains(reports.reported_m)
    if not inside.any():
        msg = f"none of {len(reports)} reports lies on the map; check their frame and its extent"
        raise ReportsError(msg)
    known = reports.reference_dbm
    gain_db = reports.power_dbm[inside] - (reference_dbm if known is None else known)
    grey = (gain_db - scale.min_db) / scale.span_db
    noise = np.maximum(reports.noise_db[inside], LEAST_NOISE_DB) / scale.span_db
    usual = float(np.sqrt(1.0 / np.mean(1.0 / noise**2)))
    cell = np.clip(site.grid.cell(reports.reported_m[inside]), 0, np.array(grid.shape) - 1)
    flat, weight = cell[:, 0] * grid.cols + cell[:, 1], (usual / noise) ** 2
    drift_m2 = np.trace(reports.drift_cov_m2[inside], axis1=1, axis2=2) / 2.0

    def plane(value: np.ndarray) -> Tensor:
        return torch.from_numpy(value.reshape(1, 1, *grid.shape)).float()

    def number(value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float32)

    return ReportRasters(
        plane(free.astype(np.float64)),
        plane(np.bincount(flat, weight, free.size)),
        plane(np.bincount(flat, weight * grey, free.size)),
        number(usual),
        number(float(np.sqrt(drift_m2.mean())) / grid.spacing_m),
        number(grid.spacing_m),
        number(float(known is None)),
    )
