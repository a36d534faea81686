"""Numba kernels of the over-rooftop route: rays, convex hull of the roofs, knife edges.

Compiled on first use and cached on disk. Types are numba's to find, so the arguments carry none.
"""
# ruff: noqa: ANN001, ANN202

import math
import typing

import numpy as np
from numba import njit

EDGE_THRESHOLD = -0.78
"""An edge with a smaller nu loses nothing (ITU-R P.526-15 eq. 31)."""
SHORTEST_ROUTE_M = 0.5
"""No route counts as shorter than this [m]."""
DEYGOUT, BULLINGTON, STRING = 0, 1, 2
"""What a blocked cell is charged: three edges, one equivalent edge, or the string's bends."""


@njit(cache=True, nogil=True, fastmath=True)
@typing.no_type_check
def measure_line(row, col, drop_m, spacing_m, distance_m, zenith_rad):
    """Straight distance [m] and zenith at the transmitter [rad], in place."""
    rows, cols = distance_m.shape
    for r in range(rows):
        for c in range(cols):
            level = spacing_m * math.sqrt((r - row) ** 2 + (c - col) ** 2)
            slanted = math.sqrt(level * level + drop_m * drop_m)
            distance_m[r, c] = max(slanted, SHORTEST_ROUTE_M)
            zenith_rad[r, c] = math.atan2(level, -drop_m)


@njit(cache=True, nogil=True)
@typing.no_type_check
def walk_rays(
    height_m,
    row_offset,
    col_offset,
    row,
    col,
    antenna_m,
    spacing_m,
    wavelength,
    receiver_m,
    law,
    bend,
    loss_db,
    clear,
    length_m,
    zenith_rad,
    turn_rad,
):
    """Walk a ray to each border cell of the window and evaluate the cells it passes, in place.

    Args:
        height_m: building heights [m]; the window starts at the two offsets.
        row_offset: row of the window's first cell in the raster.
        col_offset: column of the window's first cell in the raster.
        row: continuous row of the antenna in the raster.
        col: continuous column of the antenna in the raster.
        antenna_m: height of the antenna [m].
        spacing_m: side of a cell [m].
        wavelength: wavelength [m].
        receiver_m: height of the receivers [m].
        law: DEYGOUT, BULLINGTON or STRING.
        bend: (k0, k1, k2, w_max) of the bend factor, for the string.
        loss_db: (rows, cols) output: loss of the edges [dB], or the string's bend factor.
        clear: (rows, cols) output: whether nothing stands in the straight line.
        length_m: (rows, cols) of the straight line; output with STRING [m].
        zenith_rad: (rows, cols) of the straight line; output with STRING [rad].
        turn_rad: (rows, cols, turns) output with STRING: its first bends [rad], NaN at first.
    """
    rows, cols = loss_db.shape
    offset = np.full((rows, cols), np.float32(2.0))
    reach = max(height_m.shape[0], height_m.shape[1]) + 2
    hull_d = np.empty(reach)
    hull_z = np.empty(reach)
    for border in range(2 * (rows + cols)):
        if border < 2 * cols:
            end_row = row_offset + (0 if border < cols else rows - 1)
            end_col = col_offset + border % cols
        else:
            side = border - 2 * cols
            end_row = row_offset + side % rows
            end_col = col_offset + (0 if side < rows else cols - 1)
        down, right = end_row - row, end_col - col
        if max(abs(down), abs(right)) < 0.5:
            continue
        along_rows = abs(down) >= abs(right)
        _walk_ray(
            height_m,
            row_offset,
            col_offset,
            row if along_rows else col,
            col if along_rows else row,
            end_row if along_rows else end_col,
            (right / down) if along_rows else (down / right),
            along_rows,
            antenna_m,
            spacing_m,
            wavelength,
            receiver_m,
            law,
            bend,
            loss_db,
            clear,
            length_m,
            zenith_rad,
            turn_rad,
            offset,
            hull_d,
            hull_z,
        )


@njit(cache=True, nogil=True)
@typing.no_type_check
def _walk_ray(
    height_m,
    row_offset,
    col_offset,
    start,
    start_across,
    end,
    slope,
    along_rows,
    antenna_m,
    spacing_m,
    wavelength,
    receiver_m,
    law,
    bend,
    loss_db,
    clear,
    length_m,
    zenith_rad,
    turn_rad,
    offset,
    hull_d,
    hull_z,
):
    """One ray, one step per row (or per column) of the raster.

    `start`, `end` count along the axis of the larger component, `start_across` along the other.
    """
    rows, cols = loss_db.shape
    raster_rows, raster_cols = height_m.shape
    length = raster_rows if along_rows else raster_cols
    breadth = raster_cols if along_rows else raster_rows
    step = 1 if end > start else -1
    own = math.floor(start + 0.5)
    own_across = math.floor(start_across + 0.5)
    first = math.floor(start) + 1 if step > 0 else math.ceil(start) - 1
    first = max(first, 0) if step > 0 else min(first, length - 1)
    metres = spacing_m * math.sqrt(1.0 + slope * slope)
    hull_d[0], hull_z[0] = 0.0, antenna_m
    top = 0
    here = first
    while (end - here) * step >= 0:
        position = start_across + slope * (here - start)
        across = math.floor(position + 0.5)
        if 0 <= across < breadth and not (here == own and across == own_across):
            r, c = (here, across) if along_rows else (across, here)
            roof_m = height_m[r, c]
            distance = abs(here - start) * metres
            window_r, window_c = r - row_offset, c - col_offset
            if 0 <= window_r < rows and 0 <= window_c < cols:
                aside = abs(position - across)
                if aside < offset[window_r, window_c]:
                    offset[window_r, window_c] = aside
                    if roof_m > receiver_m:
                        loss_db[window_r, window_c] = np.inf
                        clear[window_r, window_c] = False
                    elif law == STRING:
                        factor, length, zenith, free = _string(
                            hull_d,
                            hull_z,
                            top,
                            distance,
                            receiver_m,
                            bend,
                            turn_rad[window_r, window_c],
                        )
                        loss_db[window_r, window_c] = factor
                        clear[window_r, window_c] = free
                        length_m[window_r, window_c] = max(length, SHORTEST_ROUTE_M)
                        zenith_rad[window_r, window_c] = zenith
                    elif top > 0:
                        if law == BULLINGTON:
                            loss, free = _bullington(
                                hull_d, hull_z, top, distance, receiver_m, wavelength
                            )
                        else:
                            loss, free = _deygout(
                                hull_d, hull_z, top, distance, receiver_m, wavelength
                            )
                        loss_db[window_r, window_c] = loss
                        clear[window_r, window_c] = free
                    else:
                        loss_db[window_r, window_c] = 0.0
                        clear[window_r, window_c] = True
            if roof_m > 0.0:
                top = _push(hull_d, hull_z, top, distance, roof_m)
        here += step


@njit(cache=True, nogil=True, inline="always")
@typing.no_type_check
def _push(hull_d, hull_z, top, distance, height):
    """Add a point to the upper convex hull; returns the index of its new last vertex."""
    while top > 0:
        rise = (hull_z[top] - hull_z[top - 1]) * (distance - hull_d[top - 1])
        if rise > (height - hull_z[top - 1]) * (hull_d[top] - hull_d[top - 1]):
            break
        top -= 1
    hull_d[top + 1], hull_z[top + 1] = distance, height
    return top + 1


@njit(cache=True, nogil=True, inline="always")
@typing.no_type_check
def _highest(hull_d, hull_z, first, last, d_a, z_a, d_b, z_b):
    """The hull vertex of largest nu between two ends, and its signed nu^2 times wavelength / 2."""
    span = d_b - d_a
    slope = (z_b - z_a) / span
    best, winner = -1e30, -1
    for k in range(first, last + 1):
        before, after = hull_d[k] - d_a, d_b - hull_d[k]
        above = hull_z[k] - z_a - slope * before
        value = above * abs(above) * span / (before * after)
        if value > best:
            best, winner = value, k
    return best, winner


@njit(cache=True, nogil=True, fastmath=True, inline="always")
@typing.no_type_check
def _amplitude(value, wavelength):
    """The factor whose 20 log10 is an edge's loss less 6.9 dB, or 0 for an edge that is none."""
    nu = math.sqrt(2.0 * abs(value) / wavelength)
    if value < 0.0:
        nu = -nu
    if nu <= EDGE_THRESHOLD:
        return 0.0
    shifted = nu - 0.1
    return math.sqrt(shifted * shifted + 1.0) + shifted


@njit(cache=True, nogil=True, fastmath=True)
@typing.no_type_check
def _deygout(hull_d, hull_z, top, distance, receiver_m, wavelength):
    """Loss [dB] of the main edge and one on either side, and whether the line is free.

    Source: Deygout, IEEE Trans. Antennas Propag. 14(4), 1966.
    """
    best, main = _highest(hull_d, hull_z, 1, top, hull_d[0], hull_z[0], distance, receiver_m)
    product = _amplitude(best, wavelength)
    if product == 0.0:
        return 0.0, best <= 0.0
    edges = 1
    if main > 1:
        value, _ = _highest(
            hull_d, hull_z, 1, main - 1, hull_d[0], hull_z[0], hull_d[main], hull_z[main]
        )
        factor = _amplitude(value, wavelength)
        if factor > 0.0:
            product *= factor
            edges += 1
    if main < top:
        value, _ = _highest(
            hull_d, hull_z, main + 1, top, hull_d[main], hull_z[main], distance, receiver_m
        )
        factor = _amplitude(value, wavelength)
        if factor > 0.0:
            product *= factor
            edges += 1
    return 6.9 * edges + 20.0 * math.log10(product), best <= 0.0


@njit(cache=True, nogil=True, fastmath=True)
@typing.no_type_check
def _bullington(hull_d, hull_z, top, distance, receiver_m, wavelength):
    """Loss [dB] of the one edge where the horizons of both ends meet, and whether the line is free.

    Source: Bullington, Proc. IRE 35(10), 1947, without the empirical correction that ITU-R P.526
    adds to it; in line of sight the vertex of largest nu counts, as there.
    """
    best, _ = _highest(hull_d, hull_z, 1, top, hull_d[0], hull_z[0], distance, receiver_m)
    free = best <= 0.0
    if not free:
        rise = (hull_z[1] - hull_z[0]) / hull_d[1]
        fall = -1e30
        for k in range(1, top + 1):
            fall = max(fall, (hull_z[k] - receiver_m) / (distance - hull_d[k]))
        d_edge = (receiver_m + fall * distance - hull_z[0]) / (rise + fall)
        above = hull_z[0] + rise * d_edge
        above -= (hull_z[0] * (distance - d_edge) + receiver_m * d_edge) / distance
        best = above * abs(above) * distance / (d_edge * (distance - d_edge))
    factor = _amplitude(best, wavelength)
    if factor == 0.0:
        return 0.0, free
    return 6.9 + 20.0 * math.log10(factor), free


@njit(cache=True, nogil=True, fastmath=True)
@typing.no_type_check
def _string(hull_d, hull_z, top, distance, receiver_m, bend, turn_rad):
    """The string pulled tight over the roofs: bend factor, length [m], zenith [rad], straight.

    Its first bends go to `turn_rad`, as far as that reaches.
    """
    last = top
    while last > 0:
        rise = (hull_z[last] - hull_z[last - 1]) * (distance - hull_d[last - 1])
        if rise > (receiver_m - hull_z[last - 1]) * (hull_d[last] - hull_d[last - 1]):
            break
        last -= 1
    k0, k1, k2, most = bend
    turn_rad[:] = np.nan
    factor, length = 1.0, 0.0
    zenith, way_d, way_z = 0.0, 0.0, 0.0
    for k in range(last + 1):
        end_d = hull_d[k + 1] if k < last else distance
        end_z = hull_z[k + 1] if k < last else receiver_m
        step_d, step_z = end_d - hull_d[k], end_z - hull_z[k]
        leg = max(math.sqrt(step_d * step_d + step_z * step_z), 1e-6)
        step_d, step_z = step_d / leg, step_z / leg
        if k == 0:
            zenith = math.atan2(step_d, step_z)
        else:
            s = math.sqrt(max(0.0, 0.5 - 0.5 * (step_d * way_d + step_z * way_z)))
            factor *= min(1.0 + k0 + s * (k1 + k2 * s), most)
            if k <= turn_rad.shape[0]:
                turn_rad[k - 1] = 2.0 * math.asin(min(s, 1.0))
        length += leg
        way_d, way_z = step_d, step_z
    return factor, length, zenith, last == 0
