"""What the learned estimators feed their networks: planes, scalars, padding, grey values."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hertzmap.core.grid import Grid
from hertzmap.core.types import SceneRaster

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


def pad_site(site: SceneRaster) -> tuple[Grid, Bool[np.ndarray, "rows_padded cols_padded"]]:
    """Grid and free mask grown to the north and east to multiples of `MULTIPLE`; pads are walls."""
    rows = -(-site.grid.rows // MULTIPLE) * MULTIPLE
    cols = -(-site.grid.cols // MULTIPLE) * MULTIPLE
    free = np.zeros((rows, cols), dtype=bool)
    free[: site.grid.rows, : site.grid.cols] = site.free
    return Grid(rows, cols, site.grid.spacing_m, site.grid.origin_m), free
