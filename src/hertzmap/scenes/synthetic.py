"""Toy cities drawn from a seed: rectangles and L-shapes along a street grid, for tests."""

import numpy as np
import shapely
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Polygon

from hertzmap.core.seeds import generator
from hertzmap.core.types import Road, Scene

_STREET_M = 12.0
"""Width of a street [m]."""
_GAP_M = 1.5
"""Least distance of a building from its lot's edge [m]."""
_LEAST_LOT_M = 6.0
"""Least width of a lot [m]."""


def city(seed: int, *, size_m: float = 256.0, buildings: int = 30) -> Scene:
    """A toy city: one building per lot between straight streets; the same for the same seed.

    Two of three buildings are rectangles, the others L-shapes; about a third stand askew. No two
    buildings touch, and all streets are free.

    Args:
        seed: at least 0.
        size_m: side of the square city, centred on (0, 0) [m].
        buildings: number of buildings, at least 1.

    Raises:
        ValueError: if so many buildings leave lots under 6 m wide.
    """
    lots = int(np.ceil(np.sqrt(max(buildings, 1))))
    lot_m = size_m / lots - _STREET_M
    if buildings < 1 or lot_m < _LEAST_LOT_M:
        msg = f"{buildings} buildings do not fit a city of {size_m} m: ask for 1 or more, or fewer"
        raise ValueError(msg)
    draw = generator(seed)
    chosen = np.sort(draw.permutation(lots * lots)[:buildings])
    pitch = size_m / lots
    footprints = []
    for lot in chosen:
        centre = (np.array([lot % lots, lot // lots]) + 0.5) * pitch - 0.5 * size_m
        shape = _building(draw, lot_m - 2.0 * _GAP_M)
        footprints.append(translate(shape, float(centre[0]), float(centre[1])))
    half = 0.5 * size_m
    lines = [-half + pitch * k for k in range(1, lots)]
    roads = [LineString([(-half, north), (half, north)]) for north in lines]
    roads += [LineString([(east, -half), (east, half)]) for east in lines]
    return Scene(
        footprints=tuple(footprints),
        height_m=np.round(draw.uniform(4.0, 30.0, size=buildings), 1),
        height_rule=("synthetic",) * buildings,
        source_id=tuple(f"lot/{lot}" for lot in chosen),
        bounds_m=(-half, -half, half, half),
        roads=tuple(Road(line, "residential") for line in roads),
        name=f"toy-{seed}",
    )


def _building(draw: np.random.Generator, side_m: float) -> Polygon:
    """A building about (0, 0) that fits a square lot of `side_m`."""
    width, depth = draw.uniform(0.55, 1.0, size=2) * side_m
    shape = shapely.box(-width / 2, -depth / 2, width / 2, depth / 2)
    if draw.random() < 1 / 3:
        notch = shapely.box(draw.uniform(-0.2, 0.2) * width, 0.0, width, depth)
        shape = shape.difference(notch)
    if draw.random() < 1 / 3:
        shape = rotate(shape, draw.uniform(5.0, 40.0), origin=(0.0, 0.0))
    west, south, east, north = shape.bounds
    shape = translate(shape, -(west + east) / 2, -(south + north) / 2)
    scale = min(1.0, side_m / max(east - west, north - south))
    return Polygon(np.asarray(shape.exterior.coords) * scale)
