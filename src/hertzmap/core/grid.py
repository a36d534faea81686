"""The raster every map lives on, and the one pair of functions between world and pixel.

Places are (east, north) in metres. Row 0 is the SOUTHERN row: cell (r, c) has its centre at
(x0 + (c + 1/2) spacing, y0 + (r + 1/2) spacing). Readers and writers of formats whose row 0 is
north (PNG, GeoTIFF) flip at the border and nowhere else.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int


@final
@dataclass(frozen=True)
class Grid:
    """A regular raster in a local metric frame; row 0 is south."""

    rows: int
    """Number of rows, south to north, at least 1."""
    cols: int
    """Number of columns, west to east, at least 1."""
    spacing_m: float = 1.0
    """Side of a cell [m], above 0."""
    origin_m: tuple[float, float] = (0.0, 0.0)
    """South-west corner (east, north) [m]."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            msg = f"a Grid needs at least one row and column, got {self.rows} x {self.cols}"
            raise ValueError(msg)
        if not (np.isfinite(self.spacing_m) and self.spacing_m > 0):
            msg = f"Grid.spacing_m must be above 0, got {self.spacing_m}"
            raise ValueError(msg)
        if not np.all(np.isfinite(self.origin_m)):
            msg = f"Grid.origin_m must be finite, got {self.origin_m}"
            raise ValueError(msg)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return (self.rows, self.cols)

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) edges [m]."""
        west, south = self.origin_m
        return (west, south, west + self.cols * self.spacing_m, south + self.rows * self.spacing_m)

    def to_pixel(self, place_m: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape 2"]:
        """Continuous (row, col) of places (east, north) [m]; a cell's centre has integer values.

        >>> Grid(4, 4).to_pixel(np.array([0.5, 1.5])).tolist()
        [1.0, 0.0]
        """
        col = (place_m[..., 0] - self.origin_m[0]) / self.spacing_m - 0.5
        row = (place_m[..., 1] - self.origin_m[1]) / self.spacing_m - 0.5
        return np.stack([row, col], axis=-1)

    def place(self, pixel: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape 2"]:
        """Place (east, north) [m] of continuous (row, col); inverse of `to_pixel`."""
        east = self.origin_m[0] + (pixel[..., 1] + 0.5) * self.spacing_m
        north = self.origin_m[1] + (pixel[..., 0] + 0.5) * self.spacing_m
        return np.stack([east, north], axis=-1)

    def cell(self, place_m: Float[np.ndarray, "*shape 2"]) -> Int[np.ndarray, "*shape 2"]:
        """Cell (row, col) that holds each place; may lie outside the grid (see `contains`)."""
        return np.floor(self.to_pixel(place_m) + 0.5).astype(np.int64)

    def contains(self, place_m: Float[np.ndarray, "*shape 2"]) -> np.ndarray:
        """Whether each place lies on the grid; the west and south edges count, shape ``*shape``."""
        cell = self.cell(place_m)
        inside = (cell >= 0) & (cell < np.array(self.shape))
        return np.asarray(np.all(inside, axis=-1))

    def centres_m(self) -> Float[np.ndarray, "{self.rows} {self.cols} 2"]:
        """Centres (east, north) [m] of all cells."""
        row, col = np.meshgrid(
            np.arange(self.rows, dtype=np.float64),
            np.arange(self.cols, dtype=np.float64),
            indexing="ij",
        )
        return self.place(np.stack([row, col], axis=-1))

    def refine(self, factor: int) -> "Grid":
        """The same area with cells `factor` times smaller."""
        return Grid(self.rows * factor, self.cols * factor, self.spacing_m / factor, self.origin_m)
