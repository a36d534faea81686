"""Reader of RadioMapSeer: public path-gain maps of one antenna each, as grey pictures.

Pictures have north on top; rows are flipped on reading, so that row 0 is south inside.

Source: Levie, Yapar, Kutyniok and Caire, RadioUNet (RadioMapSeer, CC BY 4.0): 256 x 256 cells of
1 m, 5.9 GHz, transmitters and receivers at 1.5 m, all buildings 25 m high.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float, UInt8

from hertzmap.core.errors import DataError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, SceneRaster, Transmitter
from hertzmap.core.units import GreyScale
from hertzmap.datasets.remote import find

CARRIER_HZ = 5.9e9
"""Carrier of all maps [Hz]."""
HEIGHT_M = 1.5
"""Height of transmitters above ground [m]."""
BUILDING_M = 25.0
"""Height of all buildings [m]."""
SPACING_M = 1.0
"""Side of a pixel [m]."""
FULL_SCALE = 255.0
"""Grey value of 1."""
ATTRIBUTION = "RadioMapSeer (c) the RadioUNet authors, CC BY 4.0"
"""Credit the licence asks for."""


@final
@dataclass(frozen=True)
class SeerMaps:
    """Maps of one RadioMapSeer environment."""

    radio_map: RadioMap
    """Path gains [dB], one per antenna; valid outdoors where the picture is above 0."""
    site: SceneRaster
    """Buildings (25 m) and outdoor mask."""
    grey: Float[np.ndarray, "tx rows cols"]
    """The pictures as stored, on [0, 1], walls included (some wall pixels are lit)."""


def read_maps(
    folder: Path | None = None,
    *,
    map_id: int = 0,
    antennas: Sequence[int] | None = None,
    simulation: str = "DPM",
    scale: GreyScale | None = None,
) -> SeerMaps:
    """Read maps of one environment.

    Both layouts are read: the released one (``gain/DPM/0_3.png``,
    ``png/buildings_complete/0.png``, ``png/antennas/0_3.png``) and the flat one (``gain/0_3.png``,
    ``buildings_complete_0.png``, ``transmitters.json``). A transmitter stands at the centre of the
    pixel named by ``transmitters.json``, else of its antenna picture, else of the brightest pixel.

    Args:
        folder: root of the data set; None takes the copy in the data folder.
        map_id: number of the environment.
        antennas: numbers of the antennas; None takes all that are there, in numeric order.
        simulation: folder below ``gain`` in the released layout.
        scale: decibels of grey 0 and 1; the default scale if None.

    Raises:
        DataError: if a picture is missing, broken or of another size than its fellows.
    """
    scale = scale or GreyScale()
    root = find("radiomapseer") if folder is None else folder
    gains = root / "gain" / simulation if (root / "gain" / simulation).is_dir() else root / "gain"
    numbers = _antenna_numbers(gains, map_id) if antennas is None else tuple(antennas)
    if not numbers:
        msg = f"{gains} holds no map {map_id}_*.png; check the folder and the map's number"
        raise DataError(msg)
    walls = _first(root, f"buildings_complete_{map_id}.png", f"png/buildings_complete/{map_id}.png")
    indoors = _read_grey(walls) > 127
    pictures = [_read_grey(gains / f"{map_id}_{number}.png") for number in numbers]
    for number, picture in zip(numbers, pictures, strict=True):
        if picture.shape != indoors.shape:
            msg = f"map {map_id}_{number}.png is {picture.shape}, its buildings {indoors.shape}"
            raise DataError(msg)
    grid = Grid(indoors.shape[0], indoors.shape[1], SPACING_M)
    grey = np.stack(pictures) / FULL_SCALE
    valid = (grey > 0) & ~indoors
    places = [
        _transmitter(root, grid, map_id, number, picture)
        for number, picture in zip(numbers, pictures, strict=True)
    ]
    gain_db = np.where(valid, scale.to_db(grey), np.nan)
    site = SceneRaster(grid, np.where(indoors, BUILDING_M, 0.0), ~indoors)
    return SeerMaps(RadioMap(grid, gain_db, valid, tuple(places)), site, grey)


def _antenna_numbers(gains: Path, map_id: int) -> tuple[int, ...]:
    tails = (path.stem.removeprefix(f"{map_id}_") for path in gains.glob(f"{map_id}_*.png"))
    return tuple(sorted(int(tail) for tail in tails if tail.isdecimal()))


def _first(root: Path, *names: str) -> Path:
    found = [root / name for name in names if (root / name).is_file()]
    if not found:
        msg = f"{root} has none of {', '.join(names)}; is it the root of RadioMapSeer?"
        raise DataError(msg)
    return found[0]


def _read_grey(path: Path) -> UInt8[np.ndarray, "rows cols"]:
    """One 8-bit picture, flipped so that row 0 is south."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except (OSError, UnidentifiedImageError) as error:
        msg = f"cannot read the picture {path} ({error}); copy it again"
        raise DataError(msg) from error
    if values.ndim != 2 or values.dtype != np.uint8:
        msg = f"{path} is no 8-bit grey picture (found {values.dtype}, {values.ndim} axes)"
        raise DataError(msg)
    return np.flipud(values).copy()


def _transmitter(
    root: Path, grid: Grid, map_id: int, number: int, picture: UInt8[np.ndarray, "rows cols"]
) -> Transmitter:
    name = f"{map_id}_{number}"
    cell = _stated_cell(root, grid, f"{name}.png")
    if cell is None:
        one_hot = [
            path
            for path in (root / f"png/antennas/{name}.png", root / f"antenna_{name}.png")
            if path.is_file()
        ]
        cell = _brightest(_read_grey(one_hot[0]) if one_hot else picture)
    east, north = grid.place(np.array(cell, dtype=np.float64))
    return Transmitter((float(east), float(north), HEIGHT_M), CARRIER_HZ, name=name)


def _stated_cell(root: Path, grid: Grid, picture_name: str) -> tuple[int, int] | None:
    """Cell of an antenna by ``transmitters.json``, whose rows count from the north."""
    path = root / "transmitters.json"
    if not path.is_file():
        return None
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))["transmitter_row_col_gray"]
        entry = stated.get(picture_name)
        return None if entry is None else (grid.rows - 1 - int(entry[0]), int(entry[1]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} does not name rows and columns of antennas ({error!r}); delete or mend it"
        raise DataError(msg) from error


def _brightest(picture: UInt8[np.ndarray, "rows cols"]) -> tuple[int, int]:
    row, col = np.unravel_index(int(np.argmax(picture)), picture.shape)
    return int(row), int(col)
