"""Numba kernels of the dominant-path model: shadow maps, row spans, label search, sweep.

All places are metres east and north of the grid's south-west corner, which keeps single precision
exact to a tenth of a millimetre. Compiled on first use and cached on disk.

Source: the perspective shadow map is the classic z-buffer taken to two dimensions: along a
straight wall the inverse depth is linear in the projected coordinate, so it needs no arctangent.
"""

# ruff: noqa: ANN001, ANN202, D417  (numba infers the types; lists of arguments are grouped)

import math
from typing import no_type_check

import numpy as np
from numba import njit

CORNER_BINS = 1024
"""Bins of each of the four faces of a corner's shadow map."""
SITE_BINS = 4096
"""The same of a transmitter's, whose line of sight is a product; four times finer edges."""
LANES = 16
"""Cells swept at once; workspaces have rows padded to a multiple of it."""
FAR = np.float32(3.0e38)
"""Cost of a cell no route has reached (no infinity, so that the arithmetic stays fast)."""
DEPTH_SLACK = np.float32(0.9995)
"""A point is visible when its inverse depth is at least this times the wall's."""
NEAR_M2 = np.float32(0.09)
"""Anything nearer than 0.3 m is visible; its square [m^2]."""
TANGENT_SLACK = 1e-4
"""How far, relative to the distance, a ray may pass on the wrong side of a neighbour vertex."""
_FAST = {"contract", "reassoc", "arcp", "nsz"}


@njit(cache=True, nogil=True)
@no_type_check
def shadow_map(east, north, walls, shadow):
    """Fill the perspective shadow map of a point: largest inverse depth [1/m] of a wall per bin.

    Args:
        east: place of the point [m].
        north: place of the point [m].
        walls: (edges, 4) east, north of both ends [m].
        shadow: (4, bins) output; faces look east, north, west, south.
    """
    shadow[:] = 0.0
    bins = shadow.shape[1]
    half = 0.5 * bins
    for k in range(walls.shape[0]):
        e0, n0 = walls[k, 0] - east, walls[k, 1] - north
        e1, n1 = walls[k, 2] - east, walls[k, 3] - north
        for face in range(4):
            if face == 0:
                d0, t0, d1, t1 = e0, n0, e1, n1
            elif face == 1:
                d0, t0, d1, t1 = n0, e0, n1, e1
            elif face == 2:
                d0, t0, d1, t1 = -e0, n0, -e1, n1
            else:
                d0, t0, d1, t1 = -n0, e0, -n1, e1
            # clip the wall to the face's quadrant, depth >= |across|
            first, last = 0.0, 1.0
            for side in (-1.0, 1.0):
                a0, a1 = d0 + side * t0, d1 + side * t1
                if a0 < 0.0 and a1 < 0.0:
                    first = 2.0
                elif a0 < 0.0:
                    first = max(first, a0 / (a0 - a1))
                elif a1 < 0.0:
                    last = min(last, a0 / (a0 - a1))
            if first >= last:
                continue
            ds, ts = d0 + first * (d1 - d0), t0 + first * (t1 - t0)
            de, te = d0 + last * (d1 - d0), t0 + last * (t1 - t0)
            if ds < 1e-9 or de < 1e-9:
                continue
            us, ue = ts / ds, te / de
            inv_s, inv_e = 1.0 / ds, 1.0 / de
            if us > ue:
                us, ue, inv_s, inv_e = ue, us, inv_e, inv_s
            if ue - us < 1e-12:
                continue
            slope = (inv_e - inv_s) / (ue - us)
            low = max(0, math.ceil((us + 1.0) * half - 0.5))
            high = min(bins - 1, math.floor((ue + 1.0) * half - 0.5))
            for b in range(low, high + 1):
                inverse = np.float32(inv_s + ((b + 0.5) / half - 1.0 - us) * slope)
                shadow[face, b] = max(shadow[face, b], inverse)


@njit(cache=True, nogil=True)
@no_type_check
def sees(east, north, shadow):
    """Whether the owner of a shadow map sees the point at an offset (east, north) from it [m]."""
    if east * east + north * north < NEAR_M2:
        return True
    if abs(north) <= abs(east):
        face = 0 if east > 0 else 2
        depth, across = abs(east), north
    else:
        face = 1 if north > 0 else 3
        depth, across = abs(north), east
    bins = shadow.shape[1]
    b = min(bins - 1, int((across / depth + 1.0) * (0.5 * bins)))
    return 1.0 / depth >= DEPTH_SLACK * shadow[face, b]


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
@no_type_check
def _flag_steep(dn, first, last, de, depth_map, free, flags):
    """Visibility of cells [first, last) of a row that the north or south face looks at."""
    inverse = np.float32(1.0) / max(abs(dn), np.float32(1e-6))
    half = np.float32(0.5 * depth_map.shape[0])
    top = np.int32(depth_map.shape[0] - 1)
    for c in range(first, last):
        b = min(top, max(np.int32(0), np.int32((de[c] * inverse + np.float32(1.0)) * half)))
        flags[c] = free[c] & (inverse >= DEPTH_SLACK * depth_map[b])


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
@no_type_check
def _flag_flat(dn, first, last, de, depth_map, free, flags):
    """Visibility of cells [first, last) of a row that the east or west face looks at."""
    half = np.float32(0.5 * depth_map.shape[0])
    top = np.int32(depth_map.shape[0] - 1)
    for c in range(first, last):
        inverse = np.float32(1.0) / abs(de[c])
        b = min(top, max(np.int32(0), np.int32((dn * inverse + np.float32(1.0)) * half)))
        flags[c] = free[c] & (inverse >= DEPTH_SLACK * depth_map[b])


@njit(cache=True, nogil=True)
@no_type_check
def visible_row(east, row_north, east_m, spacing, shadow, free, de, flags):
    """Flag the free cells of one row that the point at `east` sees.

    Args:
        east: place of the point [m].
        row_north: north of the row's centres minus north of the point [m].
        east_m: (cols,) east of the cell centres [m], equal steps.
        spacing: step of `east_m` [m].
        shadow: (4, bins) shadow map of the point.
        free: (cols,) uint8, 1 outdoors.
        de: (cols,) workspace.
        flags: (cols,) uint8 output.
    """
    cols = east_m.shape[0]
    for c in range(cols):
        de[c] = east_m[c] - east
    reach = abs(row_north)
    steep = min(cols, max(0, math.ceil((east - reach - east_m[0]) / spacing)))
    flat = min(cols, max(steep, math.floor((east + reach - east_m[0]) / spacing) + 1))
    _flag_flat(row_north, 0, steep, de, shadow[2], free, flags)
    _flag_steep(row_north, steep, flat, de, shadow[1 if row_north > 0 else 3], free, flags)
    _flag_flat(row_north, flat, cols, de, shadow[0], free, flags)
    if reach < 0.3:
        for c in range(cols):
            if de[c] * de[c] + row_north * row_north < NEAR_M2:
                flags[c] = free[c]


@njit(cache=True, nogil=True)
@no_type_check
def is_tangent(east, north, before_e, before_n, after_e, after_n):
    """Whether a ray leaving a corner at (east, north) has both neighbour walls on one side."""
    slack = TANGENT_SLACK * math.sqrt(east * east + north * north)
    a = east * before_n - north * before_e
    b = east * after_n - north * after_e
    return (a >= -slack and b >= -slack) or (a <= slack and b <= slack)


@njit(cache=True, nogil=True)
@no_type_check
def scan_corners(corner, vertex, before, after, walls, free, spacing):
    """Visible tangent cells, as row spans, and visible tangent corners of every corner.

    Args:
        corner: (corners, 2) places moved off the wall [m].
        vertex: (corners, 2) their true vertices [m].
        before: (corners, 2) unit vectors to the previous vertex.
        after: (corners, 2) unit vectors to the next vertex.
        walls: (edges, 4) walls [m].
        free: (rows, cols) uint8, 1 outdoors.
        spacing: cell side [m].

    Returns:
        start (corners + 1), row, first, stop of the spans and joined (corners, corners).
    """
    rows, cols = free.shape
    count = corner.shape[0]
    shadow = np.empty((4, CORNER_BINS), np.float32)
    flags = np.empty(cols, np.uint8)
    de = np.empty(cols, np.float32)
    east_m = ((np.arange(cols) + 0.5) * spacing).astype(np.float32)
    joined = np.zeros((count, count), np.bool_)
    start = np.zeros(count + 1, np.int64)
    spans = np.empty((max(64 * count, rows * (cols + 1)), 3), np.int16)
    used = 0
    for k in range(count):
        shadow_map(corner[k, 0], corner[k, 1], walls, shadow)
        be, bn, ae, an = before[k, 0], before[k, 1], after[k, 0], after[k, 1]
        for j in range(count):
            e, n = vertex[j, 0] - vertex[k, 0], vertex[j, 1] - vertex[k, 1]
            if (
                j != k
                and is_tangent(e, n, be, bn, ae, an)
                and is_tangent(-e, -n, before[j, 0], before[j, 1], after[j, 0], after[j, 1])
            ):
                joined[k, j] = sees(
                    corner[j, 0] - corner[k, 0], corner[j, 1] - corner[k, 1], shadow
                )
        if used + rows * (cols // 2 + 1) > spans.shape[0]:
            larger = np.empty((2 * spans.shape[0], 3), np.int16)
            larger[:used] = spans[:used]
            spans = larger
        for r in range(rows):
            n = (r + 0.5) * spacing - corner[k, 1]
            visible_row(
                np.float32(corner[k, 0]), np.float32(n), east_m, spacing, shadow, free[r], de, flags
            )
            n = (r + 0.5) * spacing - vertex[k, 1]
            open_span = False
            for c in range(cols):
                keep = flags[c] != 0 and is_tangent(
                    (c + 0.5) * spacing - vertex[k, 0], n, be, bn, ae, an
                )
                if keep and not open_span:
                    spans[used, 0], spans[used, 1] = r, c
                elif open_span and not keep:
                    spans[used, 2] = c
                    used += 1
                open_span = keep
            if open_span:
                spans[used, 2] = cols
                used += 1
        start[k + 1] = used
    return start, spans[:used].copy(), joined


@njit(cache=True, nogil=True)
@no_type_check
def look_around(
    east, north, walls, corner, vertex, before, after, free, spacing, shadow, los, near
):
    """Shadow map of a transmitter: its line-of-sight cells and its visible tangent corners.

    Args:
        east: place of the transmitter [m].
        north: place of the transmitter [m].
        walls, corner, vertex, before, after, free, spacing: as in `scan_corners`.
        shadow: (4, bins) workspace.
        los: (rows, cols) uint8 output.
        near: (corners,) bool output.
    """
    rows, cols = free.shape
    shadow_map(east, north, walls, shadow)
    de = np.empty(cols, np.float32)
    east_m = ((np.arange(cols) + 0.5) * spacing).astype(np.float32)
    for r in range(rows):
        n = (r + 0.5) * spacing - north
        visible_row(np.float32(east), np.float32(n), east_m, spacing, shadow, free[r], de, los[r])
    for k in range(corner.shape[0]):
        e, n = east - vertex[k, 0], north - vertex[k, 1]
        near[k] = is_tangent(e, n, before[k, 0], before[k, 1], after[k, 0], after[k, 1]) and sees(
            corner[k, 0] - east, corner[k, 1] - north, shadow
        )


@njit(cache=True, nogil=True)
@no_type_check
def _push(heap_cost, heap_label, size, cost, label):
    """Add a label to the binary heap; returns the new size."""
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        if heap_cost[parent] <= cost:
            break
        heap_cost[child], heap_label[child] = heap_cost[parent], heap_label[parent]
        child = parent
    heap_cost[child], heap_label[child] = cost, label
    return size + 1


@njit(cache=True, nogil=True)
@no_type_check
def _pop(heap_cost, heap_label, size):
    """Remove the heap's first entry; returns the new size."""
    size -= 1
    cost, label = heap_cost[size], heap_label[size]
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        if child + 1 < size and heap_cost[child + 1] < heap_cost[child]:
            child += 1
        if heap_cost[child] >= cost:
            break
        heap_cost[parent], heap_label[parent] = heap_cost[child], heap_label[child]
        parent = child
    heap_cost[parent], heap_label[parent] = cost, label
    return size


@njit(cache=True, nogil=True)
@no_type_check
def _slot_for(corner, parent, cost, labels, label_cost, label_parent_corner, label_done):
    """The label of a corner that a cheaper arrival from `parent` may take, or -1.

    A corner keeps up to `labels` labels with distinct parent corners; when all are taken, the
    dearest unsettled one gives way.
    """
    base = corner * labels
    for slot in range(base, base + labels):
        if label_cost[slot] < FAR and label_parent_corner[slot] == parent:
            return slot if cost < label_cost[slot] and not label_done[slot] else -1
    worst, worst_cost = -1, cost
    for slot in range(base, base + labels):
        if not label_done[slot] and label_cost[slot] > worst_cost:
            worst, worst_cost = slot, label_cost[slot]
    return worst


@njit(cache=True, nogil=True)
@no_type_check
def search(
    east, north, near, corner, graph_start, graph_corner, bend, head_exponent, labels, max_bends,
    label_cost, label_length, label_factor, label_way, label_parent, label_origin, label_bends,
    label_parent_corner, label_done, order, heap_cost, heap_label,
):  # fmt: skip
    """Dijkstra over corner labels: least cost ``J = length * product of bend factors``.

    Args:
        east: place of the transmitter [m].
        north: place of the transmitter [m].
        near: (corners,) its visible tangent corners.
        corner: (corners, 2) places [m].
        graph_start, graph_corner: neighbours of each corner (CSR).
        bend: (k0, k1, k2, w_max) of the bend factor ``min(1 + k0 + k1 s + k2 s^2, w_max)``.
        head_exponent: first labels start with ``length ** head_exponent`` (0: with 1).
        labels: labels per corner.
        max_bends: routes with more bends are not followed.
        label_...: per label, outputs: cost [m], length [m], factor, arrival direction (labels, 2),
            parent label, first corner of the route, bends, parent's corner, settled.
        order: settled labels, cheapest first.
        heap_cost, heap_label: workspaces.

    Returns:
        How many labels are settled.
    """
    label_cost[:] = FAR
    label_done[:] = False
    size, settled = 0, 0
    k0, k1, k2, most = bend
    least = 1.0 + k0
    for c in range(corner.shape[0]):
        if near[c]:
            e, n = corner[c, 0] - east, corner[c, 1] - north
            length = max(1e-3, math.sqrt(e * e + n * n))
            slot = c * labels
            factor = length**head_exponent
            label_length[slot], label_factor[slot] = length, factor
            label_way[slot, 0], label_way[slot, 1] = e / length, n / length
            label_parent[slot], label_parent_corner[slot] = -1, -1
            label_origin[slot], label_bends[slot] = c, 1
            label_cost[slot] = length * factor
            size = _push(heap_cost, heap_label, size, label_cost[slot], slot)
    while size > 0:
        cost, label = heap_cost[0], heap_label[0]
        size = _pop(heap_cost, heap_label, size)
        if label_done[label] or cost > label_cost[label]:
            continue
        label_done[label] = True
        order[settled] = label
        settled += 1
        if label_bends[label] >= max_bends:
            continue
        c = label // labels
        for j in range(graph_start[c], graph_start[c + 1]):
            d = graph_corner[j]
            e, n = corner[d, 0] - corner[c, 0], corner[d, 1] - corner[c, 1]
            leg = math.sqrt(e * e + n * n)
            e, n = e / leg, n / leg
            cosine = e * label_way[label, 0] + n * label_way[label, 1]
            s = math.sqrt(max(0.0, 0.5 - 0.5 * cosine))
            factor = label_factor[label] * min(least + s * (k1 + k2 * s), most)
            length = label_length[label] + leg
            new_cost = length * factor
            slot = _slot_for(d, c, new_cost, labels, label_cost, label_parent_corner, label_done)
            if slot < 0:
                continue
            label_cost[slot], label_length[slot], label_factor[slot] = new_cost, length, factor
            label_way[slot, 0], label_way[slot, 1] = e, n
            label_parent[slot], label_parent_corner[slot] = label, c
            label_origin[slot], label_bends[slot] = label_origin[label], label_bends[label] + 1
            size = _push(heap_cost, heap_label, size, new_cost, slot)
    return settled


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
@no_type_check
def sweep_block(east_m, best, who, first, stop, ce, dn2, along, way_e, length, factor, curve, mark):
    """Take the cells of one block, from `first` to before `stop`, that a label serves cheaper."""
    half, one = np.float32(0.5), np.float32(1.0)
    least, slope1, slope2, most = curve
    for lane in range(LANES):
        de = east_m[lane] - ce
        squared = de * de + dn2
        inverse = one / np.sqrt(squared)
        s2 = max(np.float32(0.0), half - half * (de * way_e + along) * inverse)
        bent = min(least + slope1 * np.sqrt(s2) + slope2 * s2, most)
        new = (length + squared * inverse) * factor * bent
        wins = (new < best[lane]) & (lane >= first) & (lane < stop)
        best[lane] = new if wins else best[lane]
        who[lane] = mark if wins else who[lane]


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
@no_type_check
def sweep(
    settled, order, labels, corner, label_length, label_factor, label_way, bend, spacing,
    span_start, span, east_m, cost, winner,
):  # fmt: skip
    """Least cost of each cell over all labels whose corner sees it.

    Args:
        settled, order: settled labels from `search`.
        labels: labels per corner.
        corner: (corners, 2) places [m].
        label_length, label_factor, label_way: from `search`.
        bend: as in `search`.
        spacing: cell side [m].
        span_start, span: row spans (row, first, stop) of each corner.
        east_m: (padded cols,) float32, east of the cell centres [m].
        cost: (rows, padded cols) float32 output, FAR where no label reaches.
        winner: (rows, padded cols) int32 output, the winning label or -1.
    """
    cost[:] = FAR
    winner[:] = -1
    tiny = np.float32(1e-6)
    curve = (
        np.float32(1.0 + bend[0]), np.float32(bend[1]), np.float32(bend[2]), np.float32(bend[3]),
    )  # fmt: skip
    for rank in range(settled):
        label = order[rank]
        mark = np.int32(label)
        c = label // labels
        ce, cn = np.float32(corner[c, 0]), corner[c, 1]
        length, factor = np.float32(label_length[label]), np.float32(label_factor[label])
        way_e, way_n = np.float32(label_way[label, 0]), np.float32(label_way[label, 1])
        for k in range(span_start[c], span_start[c + 1]):
            row = span[k, 0]
            first, stop = np.int32(span[k, 1]), np.int32(span[k, 2])
            dn = np.float32((row + 0.5) * spacing - cn)
            dn2, along = dn * dn + tiny, dn * way_n
            best, who = cost[row], winner[row]
            for base in range(first // LANES * LANES, stop, LANES):
                sweep_block(
                    east_m[base : base + LANES], best[base : base + LANES],
                    who[base : base + LANES], np.int32(first - base), np.int32(stop - base),
                    ce, dn2, along, way_e, length, factor, curve, mark,
                )  # fmt: skip


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
@no_type_check
def resolve(
    east, north, los, winner, cost, corner, labels, label_length, spacing,
    length, factor, towards_east, towards_north,
):  # fmt: skip
    """Length and bend factor of each cell's route, and the way back along its last leg.

    Args:
        east: place of the transmitter [m].
        north: place of the transmitter [m].
        los: (rows, cols) uint8, 1 in line of sight.
        winner, cost: (rows, padded cols) from `sweep`.
        corner, labels, label_length, spacing: as in `sweep`.
        length: (rows, cols) output, route length in the plan [m].
        factor: (rows, cols) output, cost over length; 1 in line of sight.
        towards_east, towards_north: (rows, cols) outputs, vector to the last corner or, in line
            of sight and where no route leads, to the transmitter [m].
    """
    rows, cols = los.shape
    for r in range(rows):
        for c in range(cols):
            label = winner[r, c]
            bent = label >= 0 and los[r, c] == 0
            e, n, head = east, north, 0.0
            if bent:
                k = label // labels
                e, n, head = corner[k, 0], corner[k, 1], label_length[label]
            de = np.float32(e - (c + 0.5) * spacing)
            dn = np.float32(n - (r + 0.5) * spacing)
            towards_east[r, c], towards_north[r, c] = de, dn
            length[r, c] = np.float32(head) + np.sqrt(de * de + dn * dn)
            factor[r, c] = cost[r, c] / length[r, c] if bent else np.float32(1.0)
