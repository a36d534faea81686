"""Which cities train, validate and test, and the tiles each of them gives.

Held-out cities are never trained on, nor is anything within 2 km of their buildings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
from shapely.geometry import Polygon, box

from hertzmap.core.errors import DataError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene
from hertzmap.datasets.remote import extract_path, extracts
from hertzmap.scenes.frame import to_local, to_lonlat
from hertzmap.scenes.osm import read_osm
from hertzmap.scenes.tiles import cover, spread, tiles

TEST = ("heidelberg", "baltimore", "paris_9e", "chennai_adyar", "austin_ut", "berlin_mitte")
"""Cities of the benchmarks."""
VALIDATION = ("karlsruhe_kirchfeld", "mumbai_worli", "london_herne_hill", "nyc_eastvillage")
"""Cities for choosing settings."""
HELD_OUT = (*TEST, *VALIDATION)
"""Cities that no training tile may come near."""
BUFFER_M = 2000.0
"""Least distance of a training tile from the extent of a held-out city's buildings [m]."""
TILES_PER_EXTRACT = 60
"""Most training tiles of one extract, so that four large ones do not outweigh the rest."""
_PREFERRED = ("monaco_2021", "nyc_lower_manhattan_3", "tokyo_5")
"""Extracts that keep their windows where a neighbour overlaps them: newer or better tagged."""


@final
@dataclass(frozen=True)
class Site:
    """One tile of one extract."""

    extract: str
    """Name of the map extract, e.g. ``geneva``."""
    grid: Grid
    """Its window, in the local frame of `load_extract`."""


@lru_cache(maxsize=8)
def load_extract(name: str) -> Scene:
    """The whole scene of a map extract; the last few stay in memory.

    Raises:
        DataError: if there is no such extract.
    """
    return read_osm(extract_path(name), name=name)


def training_extracts() -> tuple[str, ...]:
    """Names of the extracts at hand that may train, in the order their windows are given out."""
    free = [name for name in extracts() if name not in HELD_OUT]
    return tuple(sorted(free, key=lambda name: (name not in _PREFERRED, name)))


def training_sites(
    names: tuple[str, ...] | None = None, *, size_m: float = 256.0, spacing_m: float = 1.0
) -> Iterator[Site]:
    """Training tiles, extract by extract; each extract is read when its turn comes.

    A window counts if it holds at least 8 buildings and 10 % cover, lies at least 2 km from every
    held-out city's buildings, and meets no window of an earlier extract. At most 60 windows of an
    extract remain, spread over it.

    Args:
        names: extracts to use; all training extracts if None. Overlaps are resolved among these.
        size_m: side of a window [m].
        spacing_m: side of a cell [m].

    Raises:
        DataError: if a held-out city is asked for, or no training extract is at hand.
    """
    names = training_extracts() if names is None else names
    forbidden = [name for name in names if name in HELD_OUT]
    if forbidden:
        msg = f"{', '.join(forbidden)} are held out for tests or validation; never train on them"
        raise DataError(msg)
    if not names:
        msg = (
            "no training extract is at hand: the package ships only the held-out cities; "
            "set HERTZMAP_DATA to the full data folder"
        )
        raise DataError(msg)
    taken: list[np.ndarray] = []
    for name in names:
        scene = load_extract(name)
        free = [
            grid
            for grid in tiles(scene, size_m=size_m, spacing_m=spacing_m)
            if not _near_held_out(scene, grid) and not _meets(scene, grid, taken)
        ]
        taken += [to_lonlat(scene, _corners(grid)) for grid in free]
        for grid in spread(tuple(free), TILES_PER_EXTRACT):
            yield Site(name, grid)


def evaluation_tiles(
    city: str, count: int = 4, *, size_m: float = 256.0, spacing_m: float = 1.0
) -> tuple[Site, ...]:
    """Well-built tiles of a held-out city, spread over it; always the same, in the same order.

    Buildings cover 15 % to 60 % of a tile and at least 5 % of each quarter, which keeps out tiles
    that reach beyond the mapped area. Fewer tiles are the first of more.

    Args:
        city: a test or validation city.
        count: number of tiles, at least 1.
        size_m: side of a window [m].
        spacing_m: side of a cell [m].

    Raises:
        DataError: if the city is not held out or has fewer such tiles.
    """
    if city not in HELD_OUT:
        msg = f"{city!r} is no test or validation city; choose one of {', '.join(HELD_OUT)}"
        raise DataError(msg)
    scene = load_extract(city)
    built = tuple(
        grid
        for grid in tiles(scene, size_m=size_m, spacing_m=spacing_m, min_cover=0.15)
        if cover(scene, grid) <= 0.60 and min(cover(scene, q) for q in _quarters(grid)) >= 0.05
    )
    if len(built) < count:
        msg = (
            f"{city} has {len(built)} well-built tiles of {size_m:g} m, not {count}; ask for fewer"
        )
        raise DataError(msg)
    return tuple(Site(city, grid) for grid in spread(built, count))


def _quarters(grid: Grid) -> tuple[Grid, ...]:
    west, south, east, north = grid.bounds_m
    return tuple(
        Grid(1, 1, 0.5 * (east - west), (corner_east, corner_north))
        for corner_north in (south, 0.5 * (south + north))
        for corner_east in (west, 0.5 * (west + east))
    )


def _corners(grid: Grid) -> np.ndarray:
    west, south, east, north = grid.bounds_m
    return np.array([[west, south], [east, south], [east, north], [west, north]])


def _meets(scene: Scene, grid: Grid, taken: list[np.ndarray]) -> bool:
    """Whether a window shares area with one of those taken (corners in lon/lat)."""
    corners = to_lonlat(scene, _corners(grid))
    centre = corners.mean(axis=0)
    near = [other for other in taken if np.abs(other.mean(axis=0) - centre).max() < 0.05]
    own = Polygon(_corners(grid)).buffer(-1.0)
    return any(own.intersects(Polygon(to_local(scene, other))) for other in near)


@lru_cache(maxsize=1)
def _held_out_scenes() -> tuple[Scene, ...]:
    return tuple(load_extract(name) for name in HELD_OUT)


def _near_held_out(scene: Scene, grid: Grid) -> bool:
    """Whether a window lies within 2 km of the extent of a held-out city's buildings."""
    corners = to_lonlat(scene, _corners(grid))
    for city in _held_out_scenes():
        if np.abs(to_lonlat(city, np.zeros((1, 2)))[0] - corners[0]).max() > 1.0:
            continue  # a degree away, too far for the buffer and for the city's UTM zone
        places = to_local(city, corners)
        if box(*city.bounds_m).distance(Polygon(places)) < BUFFER_M:
            return True
    return False
