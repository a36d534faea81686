"""Areas of square kilometres: overlapping tiles, estimated one by one and blended without seams.

Networks were trained on tiles, and the cost of exact Gaussian processes grows with the cube of the
reports, so a large area is cut. Tiles overlap; where they do, their beliefs are mixed with weights
that fall to 0 at a tile's edge and sum to 1, so that mean and spread pass over without a step. What
a tile cannot say for want of reports is filled from a coarse belief about the whole area.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates

from hertzmap.core.errors import ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.datasets.interchange import whole_file
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.estimation.kriging import Kriging

FEWEST = 12
"""Reports below which a tile is left to the belief about the whole area."""
COARSER = 4
"""Cells of that belief are so many times larger."""
MOST_REPORTS = 1500
"""Reports it is made from, drawn by the seed."""


@final
@dataclass(frozen=True)
class Tiling:
    """How an area is cut."""

    tile: int = 256
    """Side of a tile [cells]."""
    overlap: int = 64
    """Cells that neighbours share, below half of the side."""
    most_reports: int = 6000
    """Reports of a tile, drawn by the seed where there are more."""

    def __post_init__(self) -> None:
        if not 0 < 2 * self.overlap < self.tile:
            msg = f"Tiling needs 0 < 2 overlap < tile, got {self.overlap} and {self.tile} cells"
            raise ValueError(msg)

    def starts(self, count: int) -> list[int]:
        """First cells of the tiles along one axis; the last one ends with it.

        >>> Tiling(tile=256, overlap=64).starts(600)
        [0, 172, 344]
        """
        if count <= self.tile:
            return [0]
        steps = int(np.ceil((count - self.tile) / (self.tile - self.overlap)))
        return [round(k * (count - self.tile) / steps) for k in range(steps + 1)]


def needs_tiles(grid: Grid, tiling: Tiling | None = None) -> bool:
    """Whether the area is larger than one tile."""
    tiling = tiling or Tiling()
    return max(grid.shape) > tiling.tile + tiling.overlap


def estimate_area(
    estimator: AbstractEstimator,
    reports: Reports,
    site: SceneRaster,
    *,
    seed: int,
    tiling: Tiling | None = None,
    folder: Path | None = None,
    name: str = "",
    progress: Callable[[str], None] | None = None,
) -> MapPosterior:
    """Estimate a large area by tiles; a small one is estimated as it is.

    Args:
        estimator: used for every tile.
        reports: of one radio cell, anywhere on the area.
        site: of the whole area.
        seed: as in `AbstractEstimator.estimate`; every tile gets it.
        tiling: how to cut.
        folder: finished tiles are kept there, so that an interrupted run goes on where it was.
        name: of the method and its settings; finished tiles of another name are not used.
        progress: called with what is done next.

    Returns:
        For a large area one candidate: mean and standard deviation of the mixture of tiles. It
        names no transmitter.

    Raises:
        ReportsError: if there are too few reports for any map.
    """
    tiling = tiling or Tiling()
    if not needs_tiles(site.grid, tiling):
        return estimator.estimate(reports, site, seed=seed)
    windows = [(r, c) for r in tiling.starts(site.grid.rows) for c in tiling.starts(site.grid.cols)]
    tell = progress or (lambda _: None)
    total, mean, square = (np.zeros(site.grid.shape) for _ in range(3))
    background: list[tuple[np.ndarray, np.ndarray]] = []
    for number, (row, col) in enumerate(windows, start=1):
        tell(f"tile {number} of {len(windows)}")
        part = _crop(site, row, col, tiling.tile)
        area = (slice(row, row + part.grid.rows), slice(col, col + part.grid.cols))
        found = _tile(estimator, reports, part, seed, tiling, folder, name)
        if found is None:
            if not background:
                tell("the whole area, coarsely")
                background.append(_coarse_belief(reports, site, seed))
            found = background[0][0][area], background[0][1][area]
        weight = np.outer(
            _ramp(row, part.grid.rows, site.grid.rows, tiling.overlap),
            _ramp(col, part.grid.cols, site.grid.cols, tiling.overlap),
        )
        total[area] += weight
        mean[area] += weight * found[0]
        square[area] += weight * (found[0] ** 2 + found[1] ** 2)
    mean /= total
    spread = np.sqrt(np.maximum(square / total - mean**2, 0.0))
    return MapPosterior(site.grid, mean[None], np.zeros(1), spread[None])


def _ramp(first: int, count: int, whole: int, overlap: int) -> Float[np.ndarray, " count"]:
    """Weight along one axis: 1 inside, falling to 0 over the overlap with a neighbour."""
    cell = np.arange(count) + 0.5
    weight = np.ones(count)
    if first > 0:
        weight = np.minimum(weight, cell / overlap)
    if first + count < whole:
        weight = np.minimum(weight, cell[::-1] / overlap)
    return np.sin(0.5 * np.pi * np.minimum(weight, 1.0)) ** 2


def _crop(site: SceneRaster, row: int, col: int, side: int) -> SceneRaster:
    height = site.height_m[row : row + side, col : col + side]
    free = site.free[row : row + side, col : col + side]
    west, south = site.grid.origin_m
    spacing_m = site.grid.spacing_m
    corner = (west + col * spacing_m, south + row * spacing_m)
    rows, cols = height.shape
    return SceneRaster(Grid(rows, cols, spacing_m, corner), height, free)


def _tile(
    estimator: AbstractEstimator,
    reports: Reports,
    part: SceneRaster,
    seed: int,
    tiling: Tiling,
    folder: Path | None,
    name: str,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation of one tile; None where it has too few reports."""
    near = np.flatnonzero(part.grid.contains(reports.reported_m))
    if len(near) > tiling.most_reports:
        draw = np.random.default_rng(seed)
        near = np.sort(draw.choice(near, tiling.most_reports, replace=False))
    own = reports.select(near)
    if len(own) < FEWEST:
        return None
    path = None if folder is None else folder / f"{_digest(own, part, seed, name)}.npz"
    if path is not None and path.is_file():
        with np.load(path) as kept:
            return kept["mean_dbm"], kept["std_db"]
    try:
        posterior = estimator.estimate(own, part, seed=seed)
    except ReportsError:
        return None
    found = posterior.mean_dbm(), posterior.std_db()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, mean_dbm=found[0], std_db=found[1])
    return found


def _digest(reports: Reports, part: SceneRaster, seed: int, name: str) -> str:
    """Hash of all that decides a tile."""
    digest = hashlib.sha256(f"{name} {seed} {part.grid} {reports.reference_dbm}".encode())
    for one in (reports.reported_m, reports.power_dbm, reports.noise_db, reports.drift_cov_m2):
        digest.update(np.ascontiguousarray(one).tobytes())
    if reports.device_id is not None:
        digest.update(np.ascontiguousarray(reports.device_id).tobytes())
    for one in (part.height_m, part.free):
        digest.update(np.ascontiguousarray(one).tobytes())
    return digest.hexdigest()[:16]


def _coarse_belief(reports: Reports, site: SceneRaster, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Kriging about path loss over the whole area, on larger cells."""
    rows, cols = (max(1, count // COARSER) for count in site.grid.shape)
    coarse = Grid(rows, cols, site.grid.spacing_m * COARSER, site.grid.origin_m)
    blocks = (rows, COARSER, cols, COARSER)
    cut = (slice(0, rows * COARSER), slice(0, cols * COARSER))
    free = site.free[cut].reshape(blocks).mean(axis=(1, 3)) >= 0.5
    height = site.height_m[cut].reshape(blocks).max(axis=(1, 3))
    draw = np.random.default_rng(seed)
    chosen = np.flatnonzero(coarse.contains(reports.reported_m))
    if len(chosen) > MOST_REPORTS:
        chosen = np.sort(draw.choice(chosen, MOST_REPORTS, replace=False))
    raster = SceneRaster(coarse, np.where(free, 0.0, height), free)
    posterior = Kriging.from_preset("path_loss").estimate(reports.select(chosen), raster, seed=seed)
    row, col = (
        np.clip((np.arange(count) + 0.5) / COARSER - 0.5, 0, size - 1)
        for count, size in zip(site.grid.shape, coarse.shape, strict=True)
    )
    where = np.stack(np.meshgrid(row, col, indexing="ij"))
    mean, spread = (
        map_coordinates(one, where, order=1, mode="nearest")
        for one in (posterior.mean_dbm(), posterior.std_db())
    )
    return mean, np.maximum(spread, 0.0)
