"""Heights of the ground from a DEM GeoTIFF, resampled to a scene's frame. Rows are flipped here."""

import math
from pathlib import Path

import numpy as np

from hertzmap.core.errors import DataError, SceneError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene, Terrain
from hertzmap.scenes.export import MARGIN_M

SPACING_M = 10.0
"""Side of a cell of the resampled terrain [m]: finer than the freely available 30 m DEMs."""
_METRES = ("", "m", "metre", "metres", "meter", "meters")


def read_dem(
    path: Path,
    scene: Scene,
    *,
    spacing_m: float = SPACING_M,
    margin_m: float = MARGIN_M,
    datum_m: float | None = None,
) -> Terrain:
    """Read the ground below a scene from a digital elevation model (GeoTIFF with a CRS).

    Any CRS will do; heights are resampled bilinearly to the scene's own. Use a model of the bare
    ground: one of the surface has the buildings in it already.

    Args:
        path: the file; its first band holds heights [m].
        scene: where to; the terrain reaches `margin_m` beyond its bounds and buildings.
        spacing_m: side of a cell [m], above 0.
        margin_m: ground beyond the scene [m], at least 0.
        datum_m: height of up = 0 [m]; the lowest ground, rounded down, if None.

    Raises:
        SceneError: if the scene has no CRS.
        DataError: if the file is missing, has no CRS, is not in metres or has holes there.
    """
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.warp import Resampling, reproject

    if scene.crs == "LOCAL":
        msg = f"scene {scene.name!r} is synthetic: no DEM lies below it; make a Terrain by hand"
        raise SceneError(msg)
    grid = _grid_below(scene, spacing_m, margin_m)
    west, _, _, north = grid.bounds_m
    corner = (scene.origin_m[0] + west, scene.origin_m[1] + north)
    from_corner = rasterio.Affine(spacing_m, 0.0, corner[0], 0.0, -spacing_m, corner[1])
    from_north = np.full(grid.shape, np.nan)
    try:
        with rasterio.open(path) as file:
            _check(path, file.crs, file.units[0])
            scale, offset = file.scales[0], file.offsets[0]
            reproject(
                rasterio.band(file, 1),
                from_north,
                src_nodata=file.nodata,
                dst_transform=from_corner,
                dst_crs=scene.crs,
                dst_nodata=np.nan,
                resampling=Resampling.bilinear,
            )
    except RasterioError as error:
        msg = f"{path} cannot be read as a DEM ({error}); give a GeoTIFF of heights"
        raise DataError(msg) from error
    missing = float(np.isnan(from_north).mean())
    if missing:
        msg = (
            f"{path} has no heights for {missing:.1%} of the area of scene {scene.name!r} and "
            f"{margin_m:g} m round it; choose a smaller part of the map, or a DEM without holes"
        )
        raise DataError(msg)
    height_m = from_north[::-1] * scale + offset
    datum = float(np.floor(height_m.min())) if datum_m is None else datum_m
    return Terrain(grid, height_m - datum, datum, path.name)


def _check(path: Path, crs: object, units: str | None) -> None:
    if crs is None:
        msg = f"{path} has no CRS; say where it lies, e.g. by gdal_edit -a_srs EPSG:25832"
        raise DataError(msg)
    if (units or "").lower() not in _METRES:
        msg = f"{path} counts heights in {units}; give a DEM in metres"
        raise DataError(msg)


def _grid_below(scene: Scene, spacing_m: float, margin_m: float) -> Grid:
    """A grid whose centres lie on multiples of the spacing and reach beyond scene and margin."""
    if not (math.isfinite(spacing_m) and spacing_m > 0 and margin_m >= 0):
        msg = (
            f"terrain needs a spacing above 0 m and a margin from 0 m, not {spacing_m}, {margin_m}"
        )
        raise DataError(msg)
    edges = np.array([scene.bounds_m, *(footprint.bounds for footprint in scene.footprints)])
    low = np.floor((edges[:, :2].min(axis=0) - margin_m) / spacing_m)
    high = np.ceil((edges[:, 2:].max(axis=0) + margin_m) / spacing_m)
    cols, rows = (high - low + 1.0).astype(np.int64).tolist()
    west, south = ((low - 0.5) * spacing_m).tolist()
    return Grid(max(rows, 2), max(cols, 2), spacing_m, (west, south))
