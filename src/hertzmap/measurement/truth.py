"""What only the simulator knows: the noise-free map and the true places. No method imports this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float

from hertzmap.core.errors import DataError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Reports, Transmitter
from hertzmap.core.units import GreyScale, to_db, to_linear


@final
@dataclass(frozen=True)
class TruthMap:
    """Noise-free path gain of one transmitter, on the estimators' grid and on a finer one.

    Gains lie on the grey scale: cells without any route, in walls or below the scale hold its
    floor, gains above it are cut.
    """

    grid: Grid
    """The estimators' raster."""
    path_gain_db: Float[np.ndarray, "rows cols"]
    """Path gain of record [dB]; finite, the floor where no route exists."""
    free: Bool[np.ndarray, "rows cols"]
    """True outdoors, on `grid`."""
    fine_grid: Grid
    """The raster that reports are read from; covers the same area."""
    fine_gain_db: Float[np.ndarray, "fine_rows fine_cols"]
    """Path gain [dB] on `fine_grid`; finite."""
    fine_free: Bool[np.ndarray, "fine_rows fine_cols"]
    """True outdoors, on `fine_grid`."""
    transmitter: Transmitter | None = None
    """Who transmits; None when the data do not say."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the simulator drew: propagation parameters by name."""
    same_operator: bool = False
    """True when reports are read from the estimators' own grid, which flatters every result."""

    def __post_init__(self) -> None:
        coarse = (self.path_gain_db.shape, self.free.shape)
        fine = (self.fine_gain_db.shape, self.fine_free.shape)
        if any(shape != self.grid.shape for shape in coarse) or any(
            shape != self.fine_grid.shape for shape in fine
        ):
            msg = (
                f"TruthMap layers {coarse} and {fine} do not fit the grids {self.grid.shape} and "
                f"{self.fine_grid.shape}"
            )
            raise ValueError(msg)
        if not (np.isfinite(self.path_gain_db).all() and np.isfinite(self.fine_gain_db).all()):
            msg = "TruthMap gains must be finite; put the scale's floor where no route exists"
            raise ValueError(msg)


@final
@dataclass(frozen=True)
class SimulatedReports:
    """Reports together with the places where they were really taken."""

    reports: Reports
    """What an estimator may see."""
    true_m: Float[np.ndarray, "points 2"]
    """True places (east, north) [m]."""

    def __post_init__(self) -> None:
        if self.true_m.shape != (len(self.reports), 2):
            msg = f"{len(self.reports)} reports, but true places of shape {self.true_m.shape}"
            raise ValueError(msg)


def truth_from_fine(
    fine: RadioMap,
    fine_free: Bool[np.ndarray, "fine_rows fine_cols"],
    factor: int = 2,
    scale: GreyScale | None = None,
    *,
    free: Bool[np.ndarray, "rows cols"] | None = None,
    tx: int = 0,
    parameters: Mapping[str, Any] | None = None,
) -> TruthMap:
    """Average a fine map in linear power over the free parts of every coarse cell.

    A free part without any route counts with the scale's floor.

    Args:
        fine: radio map on the fine raster.
        fine_free: True outdoors, on the fine raster.
        factor: fine cells per coarse cell and axis, at least 1; rows and columns are multiples.
        scale: the grey scale that gains are cut to; the default scale if None.
        free: the coarse mask that estimators are told; by default a coarse cell is free when at
            least half of it is.
        tx: which transmitter's map.
        parameters: what the simulator drew, to be kept with the truth.

    Raises:
        DataError: if the fine raster does not divide by the factor, or a mask does not fit.
    """
    scale = scale or GreyScale()
    rows, cols = fine.grid.shape
    if factor < 1 or rows % factor or cols % factor:
        msg = f"a fine map of {rows} x {cols} cells does not divide by the factor {factor}"
        raise DataError(msg)
    if fine_free.shape != fine.grid.shape:
        msg = f"the fine mask {fine_free.shape} does not fit the fine grid {fine.grid.shape}"
        raise DataError(msg)
    grid = Grid(rows // factor, cols // factor, fine.grid.spacing_m * factor, fine.grid.origin_m)
    blocks = (grid.rows, factor, grid.cols, factor)
    gain = _on_scale(fine.path_gain_db[tx], fine.valid[tx] & fine_free, scale)
    parts = fine_free.reshape(blocks).sum(axis=(1, 3))
    power = np.where(fine_free, to_linear(gain), 0.0).reshape(blocks).sum(axis=(1, 3))
    mean = np.full(grid.shape, scale.min_db)
    mean[parts > 0] = to_db(power[parts > 0] / parts[parts > 0])
    outdoors = 2 * parts >= factor * factor if free is None else free
    if outdoors.shape != grid.shape:
        msg = f"the free mask {outdoors.shape} does not fit the coarse grid {grid.shape}"
        raise DataError(msg)
    return TruthMap(
        grid,
        _on_scale(mean, outdoors, scale),
        outdoors,
        fine.grid,
        gain,
        fine_free,
        fine.transmitters[tx],
        dict(parameters or {}),
        same_operator=factor == 1,
    )


def truth_from_grid(
    grid: Grid,
    path_gain_db: Float[np.ndarray, "rows cols"],
    free: Bool[np.ndarray, "rows cols"],
    *,
    transmitter: Transmitter | None = None,
    parameters: Mapping[str, Any] | None = None,
    scale: GreyScale | None = None,
) -> TruthMap:
    """Take a map given on one grid only as truth; its reports carry ``same_operator``.

    Args:
        grid: the only raster.
        path_gain_db: path gain [dB]; NaN counts as no route.
        free: True outdoors.
        transmitter: who transmits, if known.
        parameters: anything to be kept with the truth.
        scale: the grey scale that gains are cut to; the default scale if None.
    """
    gain = _on_scale(path_gain_db, free & np.isfinite(path_gain_db), scale or GreyScale())
    return TruthMap(
        grid,
        gain,
        free,
        grid,
        gain,
        free,
        transmitter,
        dict(parameters or {}),
        same_operator=True,
    )


def _on_scale(
    gain_db: Float[np.ndarray, "rows cols"], heard: Bool[np.ndarray, "rows cols"], scale: GreyScale
) -> Float[np.ndarray, "rows cols"]:
    return np.clip(np.where(heard, gain_db, scale.min_db), scale.min_db, scale.max_db)
