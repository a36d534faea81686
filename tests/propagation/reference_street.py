"""The street engine in plain NumPy: the same steps, written to be read, slow, in double precision.

It takes the engine's walls and corners and repeats everything after them: shadow maps, tangent
corner graph, label search, minimum over cells, losses.
"""

import heapq

import numpy as np

CORNER_BINS, SITE_BINS = 1024, 4096
SPEED_OF_LIGHT_M_S = 299_792_458.0


def cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def shadow_map(place, walls, bins):
    """Inverse depth of the nearest wall along the ray through each bin's centre, per face."""
    u = (np.arange(bins) + 0.5) / (bins / 2) - 1.0
    one = np.ones(bins)
    faces = [np.stack(pair, axis=-1) for pair in ((one, u), (u, one), (-one, u), (u, -one))]
    start, along = walls[:, None, :2] - place, (walls[:, 2:] - walls[:, :2])[:, None]
    shadow = np.zeros((4, bins))
    for face, ray in enumerate(faces):
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = cross(start, along) / cross(ray[None], along)
            share = cross(start, ray[None]) / cross(ray[None], along)
            met = (share >= 0) & (share <= 1) & (depth > 0)
            shadow[face] = np.max(np.where(met, 1.0 / depth, 0.0), axis=0, initial=0.0)
    return shadow


def visible(offset, shadow):
    """Whether points at these offsets from the map's owner are seen."""
    east, north = offset[..., 0], offset[..., 1]
    flat = np.abs(north) <= np.abs(east)
    face = np.where(flat, np.where(east > 0, 0, 2), np.where(north > 0, 1, 3))
    depth = np.maximum(np.maximum(np.abs(east), np.abs(north)), 1e-9)
    across = np.where(flat, north, east) / depth
    bins = shadow.shape[1]
    index = np.minimum(((across + 1.0) * bins / 2).astype(int), bins - 1)
    near = np.hypot(east, north) < 0.3
    return near | (1.0 / depth >= 0.9995 * shadow[face, index])


def tangent(ray, before, after):
    """Whether both walls of a corner lie on one side of a ray."""
    slack = 1e-4 * np.linalg.norm(ray, axis=-1)
    a, b = cross(ray, before), cross(ray, after)
    return ((a >= -slack) & (b >= -slack)) | ((a <= slack) & (b <= slack))


def bend_factor(way, onward, curve):
    k0, k1, k2, w_max = curve
    s2 = np.clip(0.5 - 0.5 * np.sum(way * onward, axis=-1), 0.0, 1.0)
    return np.minimum(1.0 + k0 + k1 * np.sqrt(s2) + k2 * s2, w_max)


def unit(vector):
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)


def corner_graph(sides, maps):
    """Neighbours of each corner, joined when either sees the other."""
    count = len(sides.corner)
    joined = np.zeros((count, count), bool)
    for c in range(count):
        ray = sides.vertex - sides.vertex[c]
        joined[c] = visible(sides.corner - sides.corner[c], maps[c])
        joined[c] &= tangent(ray, sides.before[c], sides.after[c])
        joined[c] &= tangent(-ray, sides.before, sides.after)
        joined[c, c] = False
    return joined | joined.T


def search(place, seen, sides, joined, parameters):
    """Settled labels, each a dict, cheapest first."""
    labels = [[] for _ in sides.corner]
    queue, settled, count = [], [], 0

    def offer(corner, parent, length, factor, way, bends, first):
        nonlocal count
        label = {
            "corner": corner, "parent": parent, "length": length, "factor": factor, "way": way,
            "bends": bends, "first": first, "cost": length * factor, "done": False, "gone": False,
        }  # fmt: skip
        same = [other for other in labels[corner] if other["parent"] == parent]
        rivals = same or [other for other in labels[corner] if not other["done"]]
        if same or len(labels[corner]) == parameters.labels:
            if not rivals:
                return
            worst = max(rivals, key=lambda other: other["cost"])
            if worst["done"] or worst["cost"] <= label["cost"]:
                return
            worst["gone"] = True
            labels[corner].remove(worst)
        labels[corner].append(label)
        count += 1
        heapq.heappush(queue, (label["cost"], count, label))

    for corner in np.flatnonzero(seen):
        leg = sides.corner[corner] - place
        length = np.linalg.norm(leg)
        offer(corner, -1, length, length**parameters.head_exponent, leg / length, 1, corner)
    while queue:
        label = heapq.heappop(queue)[2]
        if label["gone"]:
            continue
        label["done"] = True
        settled.append(label)
        if label["bends"] == parameters.max_bends:
            continue
        for corner in np.flatnonzero(joined[label["corner"]]):
            leg = sides.corner[corner] - sides.corner[label["corner"]]
            length, way = np.linalg.norm(leg), unit(leg)
            factor = bend_factor(label["way"], way, parameters.bend_curve)
            offer(
                corner, label["corner"], label["length"] + length, label["factor"] * factor, way,
                label["bends"] + 1, label["first"],
            )  # fmt: skip
    return settled


def trace(sides, grid, free, place_m, carrier_hz, parameters):
    """Path gain [dB], delay [s], line of sight and interaction loss [dB] of one isotropic site."""
    place = np.array(place_m[:2]) - grid.origin_m
    cells = grid.centres_m() - np.array(grid.origin_m)
    maps = [shadow_map(corner, sides.walls, CORNER_BINS) for corner in sides.corner]
    joined = corner_graph(sides, maps)
    around = shadow_map(place, sides.walls, SITE_BINS)
    los = free & visible(cells - place, around)
    seen = visible(sides.corner - place, around)
    seen &= tangent(place - sides.vertex, sides.before, sides.after)
    best, length = np.full(grid.shape, np.inf), np.full(grid.shape, np.nan)
    for label in search(place, seen, sides, joined, parameters):
        c = label["corner"]
        ray = cells - sides.corner[c]
        open_ = free & visible(ray, maps[c])
        open_ &= tangent(cells - sides.vertex[c], sides.before[c], sides.after[c])
        total = label["length"] + np.linalg.norm(ray, axis=-1)
        cost = total * label["factor"]
        cost *= bend_factor(label["way"], unit(ray), parameters.bend_curve)
        wins = open_ & (cost < best)
        best, length = np.where(wins, cost, best), np.where(wins, total, length)
    length = np.where(los, np.linalg.norm(cells - place, axis=-1), length)
    ratio = np.where(los, 1.0, best / length)
    rise = parameters.receiver_height_m - place_m[2]
    length_3d = np.maximum(np.hypot(length, rise), 0.5)
    exponent = np.where(los, parameters.n_los, parameters.length_exponent)
    loss = 20.0 * np.log10(4.0 * np.pi * carrier_hz / SPEED_OF_LIGHT_M_S)
    loss = loss + 10.0 * exponent * np.log10(length_3d)
    loss += 10.0 * parameters.bend_exponent * np.log10(ratio)
    loss += np.where(los, parameters.offset_los_db, parameters.offset_nlos_db)
    valid = los | np.isfinite(best)
    return np.where(valid, -loss, np.nan), length_3d / SPEED_OF_LIGHT_M_S, los
