"""Ray-traced maps as small files: path gain, line of sight and the site, one transmitter a file.

A file is an npz without pickle: gains in whole hundredths of a decibel, heights in whole
centimetres, masks, and ``facts``, JSON with grids, transmitter and how the map was made. Rows run
from south to north, and the file says so. Receivers stand in every so many-th cell of the site's
1 m grid. Cells without a path hold no truth: they are masked.
"""

import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float
from pydantic import TypeAdapter

from hertzmap.core.errors import DataError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, SceneRaster, Transmitter
from hertzmap.datasets.remote import BUNDLED, data_root, find

FOLDER = "raytraced"
"""Folder of the files below the data folder."""
ROW_0 = "south"
"""Where the first row lies; a file that says otherwise is refused."""
_HUNDREDTHS = 100.0
_GRID = TypeAdapter(Grid)
_TRANSMITTER = TypeAdapter(Transmitter)


@final
@dataclass(frozen=True)
class RayTraced:
    """A ray-traced map of one transmitter, and the site it was traced in."""

    extract: str
    """Map extract of the buildings, e.g. ``heidelberg``."""
    index: int
    """Number of the map at that extract."""
    site: SceneRaster
    """Heights and outdoor mask of the tile, in the frame of the extract's scene."""
    radio_map: RadioMap
    """Path gain and line of sight on the traced grid, whose centres are those of every so many-th
    cell of the site; valid where a path was found."""
    made: dict[str, Any]
    """Provenance: versions, rays, depth, seed, hash of the scene."""

    def __post_init__(self) -> None:
        if self.radio_map.grid != every(self.site, self.step).grid:
            msg = f"RayTraced needs a map on every n-th cell of its site, got {self.radio_map.grid}"
            raise ValueError(msg)
        if len(self.radio_map.transmitters) != 1:
            msg = "RayTraced needs a map of one transmitter"
            raise ValueError(msg)
        if self.radio_map.los is None or np.any(self.radio_map.valid[0] & ~self.outdoors):
            msg = "RayTraced needs the line of sight, and paths outdoors alone"
            raise ValueError(msg)

    @property
    def transmitter(self) -> Transmitter:
        """Who transmits."""
        return self.radio_map.transmitters[0]

    @property
    def step(self) -> int:
        """A receiver stands in every so many-th cell of the site, each way."""
        return round(self.radio_map.grid.spacing_m / self.site.grid.spacing_m)

    @property
    def outdoors(self) -> Bool[np.ndarray, "rows cols"]:
        """Outdoor cells of the traced grid."""
        return every(self.site, self.step).free

    @property
    def lit_share(self) -> float:
        """Share of outdoor cells of the traced grid with a path."""
        return float(self.radio_map.valid[0][self.outdoors].mean())

    def on_site(
        self,
    ) -> tuple[Float[np.ndarray, "site_rows site_cols"], Bool[np.ndarray, "site_rows site_cols"]]:
        """Path gain [dB] on every cell of the site, and where it is known.

        Cells between receivers take the mean in decibels of the two or four next to them, linearly
        by distance; they are known if they are outdoors and all of these have a path.
        """
        gain_db, valid = self.radio_map.path_gain_db[0], self.radio_map.valid[0]
        rows, cols = self.site.grid.shape
        known = _between(np.where(valid, gain_db, np.nan).astype(np.float64), self.step, rows)
        known = _between(known.T, self.step, cols).T
        mask = np.isfinite(known) & self.site.free
        return np.where(mask, known, np.nan), mask


def every(site: SceneRaster, step: int) -> SceneRaster:
    """Every so many-th cell of a site, as a coarser raster whose centres are those cells'."""
    grid = site.grid
    free, height_m = site.free[::step, ::step], site.height_m[::step, ::step]
    shift = 0.5 * (step - 1) * grid.spacing_m
    origin = (grid.origin_m[0] - shift, grid.origin_m[1] - shift)
    rows, cols = free.shape
    return SceneRaster(Grid(rows, cols, grid.spacing_m * step, origin), height_m, free)


def _between(
    values: Float[np.ndarray, "some cols"], step: int, count: int
) -> Float[np.ndarray, "rows cols"]:
    """Rows at 0, step, ... made to so many rows; NaN beyond the last and next to a NaN."""
    place = np.arange(count) / step
    low = np.floor(place).astype(np.int64)
    part = (place - low)[:, None]
    beyond = low + (part[:, 0] > 0) > len(values) - 1
    high = np.minimum(low + 1, len(values) - 1)
    made = np.where(part > 0, (1.0 - part) * values[low] + part * values[high], values[low])
    made[beyond] = np.nan
    return made


def name_of(extract: str, index: int) -> str:
    """Path of a map below the data folder, e.g. ``raytraced/heidelberg-0.npz``."""
    return f"{FOLDER}/{extract}-{index}.npz"


def names() -> tuple[str, ...]:
    """Paths below the data folder of all maps at hand, sorted."""
    folders = (BUNDLED / FOLDER, data_root() / FOLDER)
    found = {path.name for folder in folders for path in folder.glob("*.npz")}
    return tuple(sorted(f"{FOLDER}/{name}" for name in found))


def load(extract: str, index: int) -> RayTraced:
    """Read a map of the data folder, or of the package.

    Raises:
        DataError: if there is no such map, or the file is damaged.
    """
    return read(find(name_of(extract, index)))


def write(path: Path, traced: RayTraced) -> None:
    """Write a map, whole or not at all; gains are rounded to 0.01 dB, heights to 0.01 m.

    Raises:
        DataError: if the file cannot be written.
    """
    radio_map, los = traced.radio_map, traced.radio_map.los
    assert los is not None
    valid = radio_map.valid[0]
    facts = {
        "extract": traced.extract,
        "index": traced.index,
        "row_0": ROW_0,
        "grid": asdict(radio_map.grid),
        "site": asdict(traced.site.grid),
        "transmitter": _TRANSMITTER.dump_python(traced.transmitter, mode="json"),
        "made": traced.made,
    }
    content = io.BytesIO()
    np.savez_compressed(
        content,
        gain_cdb=np.round(_HUNDREDTHS * np.where(valid, radio_map.path_gain_db[0], 0.0)).astype(
            np.int16
        ),
        valid=valid,
        los=los[0] & valid,
        free=traced.site.free,
        height_cm=np.round(_HUNDREDTHS * traced.site.height_m).astype(np.uint16),
        facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.getvalue())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        msg = f"cannot write {path} ({error.strerror or error}); choose another folder"
        raise DataError(msg) from error


def read(path: Path) -> RayTraced:
    """Read a file that `write` made.

    Raises:
        DataError: if the file is missing, damaged, or has another orientation.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            facts = json.loads(data["facts"].tobytes())
            if facts["row_0"] != ROW_0:
                msg = f"its first row is {facts['row_0']}, not {ROW_0}"
                raise ValueError(msg)
            grid = _GRID.validate_python(facts["grid"])
            valid = data["valid"]
            gain_db = np.where(valid, data["gain_cdb"] / _HUNDREDTHS, np.nan)
            height_m = data["height_cm"] / _HUNDREDTHS
            site = SceneRaster(_GRID.validate_python(facts["site"]), height_m, data["free"])
            transmitter = _TRANSMITTER.validate_python(facts["transmitter"])
            return RayTraced(
                facts["extract"],
                int(facts["index"]),
                site,
                RadioMap(grid, gain_db[None], valid[None], (transmitter,), los=data["los"][None]),
                facts["made"],
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        msg = f"{path} is no ray-traced map ({error}); make it with `hertzmap bench ray-traced`"
        raise DataError(msg) from error
