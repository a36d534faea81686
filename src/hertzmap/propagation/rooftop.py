"""The route over the rooftops: straight rays through the height raster, roofs as knife edges.

A ray runs from the antenna to every border cell of the window. Along it the upper convex hull of
the profile seen so far, as looked at from the antenna, is kept on a stack; its vertices are the
only roofs that can be edges for a receiver farther out. At every cell the ray passes, at most
three of them are charged (Deygout), or one equivalent edge (Bullington). A roof just below the
line is charged too, so nothing jumps where the line of sight grazes a roof. Flat ground is no
edge.

Source: ITU-R P.526-15 eq. 31 (single edge); Deygout, IEEE Trans. Antennas Propag. 14(4), 1966;
Bullington, Proc. IRE 35(10), 1947. Heights of edges are measured vertically and distances
horizontally.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from hertzmap.core.errors import PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.units import wavelength_m
from hertzmap.propagation._rooftop_kernels import (
    BULLINGTON,
    DEYGOUT,
    EDGE_THRESHOLD,
    STRING,
    measure_line,
    walk_rays,
)

NO_BENDS = (0.0, 0.0, 0.0, 1.0)
MOST_TURNS = 6
"""Bends of a string over the roofs that `rooftop_turns` tells; the rest is left out."""


def edge_loss_db(nu: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Loss of one knife edge [dB]. Source: ITU-R P.526-15 eq. 31.

    Args:
        nu: dimensionless clearance; 0 when the edge just touches the line.

    >>> [round(float(loss), 2) for loss in edge_loss_db(np.array([-1.0, 0.0, 1.0]))]
    [0.0, 6.03, 13.93]
    """
    shifted = np.maximum(nu, EDGE_THRESHOLD) - 0.1
    loss = 6.9 + 20.0 * np.log10(np.sqrt(shifted * shifted + 1.0) + shifted)
    return np.where(nu > EDGE_THRESHOLD, loss, 0.0)


def rooftop_loss(
    height_m: Float[np.ndarray, "raster_rows raster_cols"],
    raster_grid: Grid,
    grid: Grid,
    place_m: tuple[float, float, float],
    carrier_hz: float,
    receiver_height_m: float,
    edges: Literal["deygout", "bullington"] = "deygout",
) -> tuple[
    Float[np.ndarray, "rows cols"],
    Float[np.ndarray, "rows cols"],
    Float[np.ndarray, "rows cols"],
    Bool[np.ndarray, "rows cols"],
]:
    """Edges, length and angle of the straight route over the roofs to every cell of a grid.

    The transmitter may stand outside the raster; the ground there is flat and bare. Roofs in the
    transmitter's own cell are no edges.

    Args:
        height_m: building height above ground [m], float32, 0 outdoors; grid plus margin.
        raster_grid: grid of `height_m`; same cells as `grid`, reaching at least as far.
        grid: cells to evaluate.
        place_m: antenna (east, north, up) [m].
        carrier_hz: carrier frequency [Hz].
        receiver_height_m: height of every receiver above ground [m].
        edges: ``deygout`` (at most three edges) or ``bullington`` (one equivalent edge).

    Returns:
        loss of the edges [dB], infinite where a building is higher than the receiver; straight
        distance [m], at least 0.5; zenith at the transmitter [rad]; and whether nothing stands
        in the straight line. float32, except the last.

    Raises:
        PropagationError: if the two grids do not share their cells.
    """
    law = BULLINGTON if edges == "bullington" else DEYGOUT
    return _over_roofs(
        height_m, raster_grid, grid, place_m, carrier_hz, receiver_height_m, law, NO_BENDS, 0
    )[:4]


def rooftop_bends(
    height_m: Float[np.ndarray, "raster_rows raster_cols"],
    raster_grid: Grid,
    grid: Grid,
    place_m: tuple[float, float, float],
    receiver_height_m: float,
    bend_curve: tuple[float, float, float, float],
) -> tuple[
    Float[np.ndarray, "rows cols"],
    Float[np.ndarray, "rows cols"],
    Float[np.ndarray, "rows cols"],
    Bool[np.ndarray, "rows cols"],
]:
    """The string pulled tight over the roofs to every cell, as a route with bends.

    It lies in the upright plane through antenna and cell. Its bends are charged like those of
    street routes, which is what commercial dominant-path tools do.

    Args:
        height_m: see `rooftop_loss`, as for the other arguments.
        raster_grid: grid of `height_m`.
        grid: cells to evaluate.
        place_m: antenna (east, north, up) [m].
        receiver_height_m: height of every receiver above ground [m].
        bend_curve: (k0, k1, k2, w_max) of the bend factor ``min(1 + k0 + k1 s + k2 s^2, w_max)``.

    Returns:
        product of the bend factors, 1 on a straight line, infinite where a building is higher
        than the receiver; length of the string [m], at least 0.5; zenith of its first leg [rad];
        and whether it is straight. float32, except the last.

    Raises:
        PropagationError: if the two grids do not share their cells.
    """
    return _over_roofs(
        height_m, raster_grid, grid, place_m, 1.0, receiver_height_m, STRING, bend_curve, 0
    )[:4]


def rooftop_turns(
    height_m: Float[np.ndarray, "raster_rows raster_cols"],
    raster_grid: Grid,
    grid: Grid,
    place_m: tuple[float, float, float],
    receiver_height_m: float,
) -> tuple[
    Float[np.ndarray, "rows cols turns"],
    Float[np.ndarray, "rows cols"],
    Float[np.ndarray, "rows cols"],
    Bool[np.ndarray, "rows cols"],
]:
    """The string of `rooftop_bends` with its bends one by one, for calibration.

    Args:
        height_m: see `rooftop_loss`, as for the other arguments.
        raster_grid: grid of `height_m`.
        grid: cells to evaluate.
        place_m: antenna (east, north, up) [m].
        receiver_height_m: height of every receiver above ground [m].

    Returns:
        the first `MOST_TURNS` bends [rad], NaN beyond the last; length [m], infinite where a
        building is higher than the receiver; zenith of the first leg [rad]; and whether the
        string is straight.

    Raises:
        PropagationError: if the two grids do not share their cells.
    """
    factor, length_m, zenith_rad, clear, turn_rad = _over_roofs(
        height_m, raster_grid, grid, place_m, 1.0, receiver_height_m, STRING, NO_BENDS, MOST_TURNS
    )
    length_m[~np.isfinite(factor)] = np.inf
    return turn_rad, length_m, zenith_rad, clear


def _over_roofs(
    height_m: np.ndarray,
    raster_grid: Grid,
    grid: Grid,
    place_m: tuple[float, float, float],
    carrier_hz: float,
    receiver_height_m: float,
    law: int,
    bend_curve: tuple[float, float, float, float],
    turns: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    row_offset, col_offset = _offset(raster_grid, grid, height_m.shape)
    pixel = raster_grid.to_pixel(np.array(place_m[:2], dtype=np.float64))
    row, col = float(pixel[0]), float(pixel[1])
    charge = np.full(grid.shape, 1.0 if law == STRING else 0.0, np.float32)
    length_m, zenith_rad = np.empty((2, *grid.shape), np.float32)
    clear = np.ones(grid.shape, np.bool_)
    turn_rad = np.full((*grid.shape, turns), np.nan, np.float32)
    drop_m = float(place_m[2]) - receiver_height_m
    measure_line(row - row_offset, col - col_offset, drop_m, grid.spacing_m, length_m, zenith_rad)
    walk_rays(
        np.ascontiguousarray(height_m, dtype=np.float32), row_offset, col_offset, row, col,
        float(place_m[2]), raster_grid.spacing_m, wavelength_m(carrier_hz),
        float(receiver_height_m), law, bend_curve, charge, clear, length_m, zenith_rad, turn_rad,
    )  # fmt: skip
    return charge, length_m, zenith_rad, clear, turn_rad


def _offset(raster_grid: Grid, grid: Grid, shape: tuple[int, ...]) -> tuple[int, int]:
    """Row and column of the grid's first cell in the raster, if their cells coincide."""
    first = raster_grid.to_pixel(grid.place(np.zeros(2)))
    row, col = (int(value) for value in np.rint(first))
    same_cells = np.isclose(raster_grid.spacing_m, grid.spacing_m) and np.allclose(
        first, (row, col), atol=1e-3
    )
    inside = min(row, col) >= 0 and (
        row + grid.rows <= raster_grid.rows and col + grid.cols <= raster_grid.cols
    )
    if not (same_cells and inside and shape == raster_grid.shape):
        msg = (
            f"the height raster {raster_grid} of shape {shape} does not hold the cells of {grid}; "
            "give both grids the same spacing and origins a whole number of cells apart"
        )
        raise PropagationError(msg)
    return row, col
