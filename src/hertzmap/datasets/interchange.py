"""Measured reports in (CSV, Parquet); GeoTIFF, GeoJSON and report tables out.

The columns and files are described in ``docs/data-formats.md``. Files whose row 0 is north are
flipped here and nowhere else. Every file is written whole or not at all (see `whole_file`).
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from hertzmap.core.errors import DataError, ReportsError, SceneError
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, Scene, SceneRaster
from hertzmap.datasets._report_table import ReportTable
from hertzmap.scenes import frame

VALUE_COLUMNS = ("rsrp_dbm", "rss_dbm", "power_dbm")
"""Columns that may hold the reported power [dBm]; exactly one is used."""
COVARIANCE_COLUMNS = ("drift_cov_ee_m2", "drift_cov_en_m2", "drift_cov_nn_m2")
"""Columns of the drift's covariance [m^2]: east-east, east-north, north-north."""
CELL_COLUMNS = ("cell_id", "pci")
"""Columns that may name the radio cell of a report."""
NOISE_DB = 4.0
"""Value noise assumed when a table states none [dB]: the middle of 2 to 8 dB for phones."""
DRIFT_STD_M = 3.0
"""Drift per axis assumed when a table states none [m]: a phone in a street, wider than the 2 m
that follow from 4.9 m at 95 % under open sky (GPS.gov, "GPS Accuracy")."""
MIN_REPORTS = 4
"""Fewest reports that count as a measurement of a map."""
PLAUSIBLE_DBM = (-200.0, 10.0)
"""Noise-free received powers lie in this range [dBm]: thermal noise of one resource element is
about -130 dBm, and 43 dBm over 40 dB of path loss stay below 10 dBm."""
NOISE_MARGIN = 6.0
"""Standard deviations of stated noise by which a value may leave the plausible range."""

EDGE_M = 25.0
"""Reports this far beyond the scene's bounds still count [m]: the bounds of a whole extract are
those of its buildings, and streets run round the outermost ones too."""

_LONLAT = ("lon", "lat")
_METRES = ("east_m", "north_m")


# --- reports in ---------------------------------------------------------------------------------


def read_reports(
    path: Path,
    scene: Scene,
    *,
    noise_db: float = NOISE_DB,
    drift_std_m: float = DRIFT_STD_M,
    cell: int | None = None,
    value: str | None = None,
    crs: str | None = None,
    reference_dbm: float | None = None,
    outside: Literal["error", "drop"] = "error",
    minimum: int = MIN_REPORTS,
) -> Reports:
    """Read measured reports and bring them into the scene's local frame.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.parquet``; columns as in ``docs/data-formats.md``.
        scene: the site; reports must lie in its bounds or within `EDGE_M` of them.
        noise_db: value noise of rows that state none [dB], at least 0.
        drift_std_m: drift per axis of rows that state none [m], at least 0.
        cell: keep only this radio cell; None keeps all.
        value: name of the power column, when the table has several.
        crs: projected metric CRS of ``east_m``, ``north_m``; None: the scene's local metres.
        reference_dbm: known EIRP per resource element [dBm], or None.
        outside: ``error`` refuses reports outside the scene's bounds, ``drop`` leaves them out.
        minimum: fewest reports to accept.

    Raises:
        ReportsError: if the file is missing, broken or empty; a column is missing; a value is
            not a number; places or powers look like other units; too few reports remain.
    """
    table = ReportTable.read(path)
    power_column = table.pick((value,) if value else VALUE_COLUMNS, "power column")
    cell_column = table.pick(CELL_COLUMNS, "cell column", optional=cell is None)
    rows = table.rows if cell is None else table.rows_of_cell(cell_column, cell)
    power_dbm = table.numbers(power_column, rows)
    noise = table.deviations("noise_db", rows, noise_db)
    _check_powers(table, power_column, power_dbm, noise, rows)
    drift = _drift_cov_m2(table, rows, drift_std_m)
    reported_m = _places(table, rows, scene, crs)
    inside = _inside(table, scene, reported_m, rows, outside)
    if inside.sum() < minimum:
        which = f" of cell {cell}" if cell is not None else ""
        left_out = f" ({(~inside).sum()} lie outside the map)" if not inside.all() else ""
        msg = (
            f"{path}: {inside.sum()} usable reports{which}{left_out} are too few for a map; "
            f"at least {minimum} are needed, and some hundred are sensible"
        )
        raise ReportsError(msg)
    kept = rows[inside]
    return Reports(
        reported_m[inside],
        power_dbm[inside],
        noise[inside],
        drift[inside],
        reference_dbm,
        table.integers(cell_column, kept) if cell_column else None,
        table.integers("device_id", kept) if "device_id" in table else None,
        table.numbers("time_s", kept) if "time_s" in table else None,
    )


def repeated_places(reports: Reports, *, within_m: float = 0.01) -> int:
    """Number of reports that stand at the same place (to `within_m`) as an earlier one."""
    cells = np.round(reports.reported_m / within_m).astype(np.int64)
    return len(reports) - len(np.unique(cells, axis=0))


def group_places(
    reported_m: Float[np.ndarray, "points 2"], *, radius_m: float = 5.0
) -> Int[np.ndarray, " points"]:
    """Number the places: reports chained by gaps of at most `radius_m` [m] share one place.

    Splits that hold out places, not rows, need it: phones repeat a place within centimetres.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    count = len(reported_m)
    pairs = KDTree(reported_m).query_pairs(radius_m, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def cells_by_count(reports: Reports) -> dict[int, int]:
    """Number of reports of each radio cell, most first; empty when cells are unknown."""
    if reports.cell_id is None:
        return {}
    names, counts = np.unique(reports.cell_id, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {int(names[k]): int(counts[k]) for k in order}


def _check_powers(
    table: ReportTable,
    column: str,
    power_dbm: Float[np.ndarray, " points"],
    noise_db: Float[np.ndarray, " points"],
    rows: Int[np.ndarray, " points"],
) -> None:
    """Refuse powers that cannot all be dBm, e.g. milliwatts or lost signs among dBm."""
    low, high = PLAUSIBLE_DBM
    linear = (power_dbm >= 0) & (power_dbm < 0.01)
    too_high = power_dbm > high + NOISE_MARGIN * noise_db
    too_low = power_dbm < low - NOISE_MARGIN * noise_db
    odd = linear | too_high | too_low
    if not odd.any():
        return
    if linear.any():
        kind = "milliwatts (near 0)"
    elif too_high.any():
        kind = "a path loss, a lost minus sign or an RSRP index (large and positive)"
    else:
        kind = "tenths of dBm or a mark for 'no value' (far below thermal noise)"
    mix = "" if odd.all() else ", mixed with plausible dBm,"
    what = f"{odd.sum()} of {len(odd)} values of {column} look like {kind}{mix}"
    table.refuse(what, rows[odd], "give every power in dBm")


def _drift_cov_m2(
    table: ReportTable, rows: Int[np.ndarray, " points"], default_m: float
) -> Float[np.ndarray, "points 2 2"]:
    stated = [name for name in COVARIANCE_COLUMNS if name in table]
    if stated and len(stated) < len(COVARIANCE_COLUMNS):
        table.lacks("whole drift covariance", ", ".join(COVARIANCE_COLUMNS))
    if stated and "drift_std_m" in table:
        msg = f"{table.path} states drift_std_m and a drift covariance; keep one of them"
        raise ReportsError(msg)
    if not stated:
        std_m = table.deviations("drift_std_m", rows, default_m)
        return std_m[:, None, None] ** 2 * np.eye(2)
    east, cross, north = (table.numbers(name, rows) for name in COVARIANCE_COLUMNS)
    bad = (east < 0) | (north < 0) | (cross**2 > east * north * (1 + 1e-9))
    if bad.any():
        what = "the drift covariance is not positive semi-definite"
        table.refuse(what, rows[bad], "mend it or give drift_std_m")
    return np.stack([east, cross, cross, north], axis=-1).reshape(-1, 2, 2)


def _places(
    table: ReportTable, rows: Int[np.ndarray, " points"], scene: Scene, crs: str | None
) -> Float[np.ndarray, "points 2"]:
    """Places in the scene's local metres; lon/lat win when a table has both pairs."""
    pair = next((pair for pair in (_LONLAT, _METRES) if all(name in table for name in pair)), None)
    if pair is None:
        table.lacks("places", "lon, lat or east_m, north_m")
    stated = np.stack([table.numbers(name, rows) for name in pair], axis=-1)
    if pair == _METRES and crs is None:
        _check_metres(table, stated, scene)
        return stated
    if scene.crs == "LOCAL":
        msg = (
            f"{table.path} gives places on the globe, but the scene {scene.name!r} has none; "
            "give east_m, north_m in the scene's metres and no CRS"
        )
        raise ReportsError(msg)
    require_metric_crs(scene.crs, ReportsError)
    if pair == _METRES:
        return _from_projected(stated, scene, str(crs))
    return _from_lonlat(table, stated, rows, scene)


def _from_lonlat(
    table: ReportTable,
    lonlat: Float[np.ndarray, "points 2"],
    rows: Int[np.ndarray, " points"],
    scene: Scene,
) -> Float[np.ndarray, "points 2"]:
    limits = np.array([180.0, 90.0])
    beyond = (np.abs(lonlat) > limits).any(axis=-1)
    if beyond.any():
        swapped = bool((np.abs(lonlat[:, ::-1]) <= limits).all())
        what = "lon, lat are beyond 180, 90 degrees"
        advice = "lon and lat look swapped" if swapped else "metres belong in east_m, north_m"
        table.refuse(what, rows[beyond], advice)
    local_m = frame.to_local(scene, lonlat)
    outside = ~_within(scene.bounds_m, local_m)
    if 2 * outside.sum() > len(rows) and bool((np.abs(lonlat[:, 0]) <= 90.0).all()):
        exchanged = _within(scene.bounds_m, frame.to_local(scene, lonlat[:, ::-1]))
        if 2 * exchanged.sum() > len(rows):
            msg = (
                f"{table.path}: lon and lat look swapped: {outside.sum()} of {len(rows)} reports "
                f"lie outside the map, but exchanged {exchanged.sum()} lie on it; rename them"
            )
            raise ReportsError(msg)
    return local_m


def _from_projected(
    projected_m: Float[np.ndarray, "points 2"], scene: Scene, crs: str
) -> Float[np.ndarray, "points 2"]:
    from pyproj import Transformer

    require_metric_crs(crs, ReportsError)
    change = Transformer.from_crs(crs, scene.crs, always_xy=True)
    east, north = change.transform(projected_m[:, 0], projected_m[:, 1])
    return np.stack([east, north], axis=-1) - np.asarray(scene.origin_m)


def _check_metres(
    table: ReportTable, places_m: Float[np.ndarray, "points 2"], scene: Scene
) -> None:
    """Refuse degrees or projected coordinates where local metres are expected."""
    places = np.unique(places_m, axis=0)
    if len(places) < 2:
        return
    spread = float(np.ptp(places, axis=0).max())
    if spread < 0.1:  # a district of 10 km spans 0.09 degrees
        msg = (
            f"{table.path}: all places in east_m, north_m lie within {spread:.3g} m of each other, "
            "as degrees would; name columns in degrees lon, lat"
        )
        raise ReportsError(msg)
    shifted = places - np.asarray(scene.origin_m)
    if np.any(scene.origin_m) and 2 * _within(scene.bounds_m, shifted).sum() > len(places):
        msg = (
            f"{table.path}: east_m, north_m are {scene.crs} coordinates, not the scene's local "
            f"metres; name their CRS (--reports-crs {scene.crs})"
        )
        raise ReportsError(msg)


def _within(
    bounds_m: tuple[float, float, float, float], places_m: Float[np.ndarray, "points 2"]
) -> Bool[np.ndarray, " points"]:
    low, high = np.array(bounds_m[:2]) - EDGE_M, np.array(bounds_m[2:]) + EDGE_M
    return np.all((places_m >= low) & (places_m <= high), axis=-1)


def _inside(
    table: ReportTable,
    scene: Scene,
    places_m: Float[np.ndarray, "points 2"],
    rows: Int[np.ndarray, " points"],
    outside: Literal["error", "drop"],
) -> Bool[np.ndarray, " points"]:
    """Mask of the reports in the scene's bounds; refuses the others unless told to drop them."""
    inside = _within(scene.bounds_m, places_m)
    if outside == "error" and not inside.all():
        west, south, east, north = scene.bounds_m
        away = np.maximum(np.array([west, south]) - places_m, places_m - np.array([east, north]))
        gap_m = float(np.linalg.norm(np.maximum(away, 0.0), axis=-1).max())
        far = f"{gap_m:.0f} m" if gap_m < 1e6 else "over 1000 km"
        what = (
            f"{(~inside).sum()} of {len(inside)} reports lie outside the map {scene.name!r}, up "
            f"to {far} away ({_extent(scene)}),"
        )
        table.refuse(
            what, rows[~inside], "drop them (--drop-outside) or read a larger area (--box)"
        )
    return inside


def _extent(scene: Scene) -> str:
    west, south, east, north = scene.bounds_m
    text = f"the map spans east {west:.0f} to {east:.0f} m, north {south:.0f} to {north:.0f} m"
    if scene.crs == "LOCAL":
        return text
    corners = frame.to_lonlat(scene, np.array([[west, south], [east, north]]))
    (west_deg, south_deg), (east_deg, north_deg) = corners
    return f"{text}; lon {west_deg:.5f} to {east_deg:.5f}, lat {south_deg:.5f} to {north_deg:.5f}"


def require_metric_crs(crs: str, error: type[ReportsError] | type[SceneError]) -> None:
    """Refuse a CRS that is unknown or does not count in metres.

    Raises:
        ReportsError, SceneError: as named by `error`.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        system = CRS.from_user_input(crs)
    except CRSError as reason:
        msg = f"the CRS {crs!r} is not known; give a projected one, e.g. EPSG:32632"
        raise error(msg) from reason
    units = {axis.unit_name for axis in system.axis_info[:2]}
    if not system.is_projected or units != {"metre"}:
        found = ", ".join(sorted(units)) or "no unit"
        msg = f"the CRS {crs} counts in {found}, not metres; give a projected one, e.g. UTM"
        raise error(msg)


# --- files out ----------------------------------------------------------------------------------


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` that becomes `path` only if the block succeeds.

    Raises:
        DataError: if the folder or the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        msg = f"cannot write {path} ({error.strerror or error}); choose another folder"
        raise DataError(msg) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def as_json(content: Mapping[str, Any]) -> str:
    """JSON text; numbers that are not finite, which JSON lacks, become null."""

    def plain(value: Any) -> Any:  # noqa: ANN401 - JSON values
        if isinstance(value, Mapping):
            return {str(key): plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(content), indent=1, allow_nan=False)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as `as_json` gives it, whole or not at all."""
    write_text(path, as_json(content) + "\n")


def write_geotiff(
    path: Path,
    bands: Mapping[str, Float[np.ndarray, "rows cols"]],
    grid: Grid,
    scene: Scene,
    *,
    free: Bool[np.ndarray, "rows cols"] | None = None,
) -> None:
    """Write named bands as a float32 GeoTIFF whose row 0 is north, NaN where there is no value.

    Args:
        path: the file.
        bands: name (with unit) to values; one band each, in order.
        grid: the raster of the bands, in the scene's local metres.
        scene: gives CRS and origin; a ``LOCAL`` scene leaves the CRS out and counts local metres.
        free: outdoor mask; cells outside it become NaN.

    Raises:
        SceneError: if the scene's CRS does not count in metres.
        DataError: if the file cannot be written.
    """
    import rasterio
    from affine import Affine
    from rasterio.crs import CRS

    crs = None
    if scene.crs != "LOCAL":
        require_metric_crs(scene.crs, SceneError)
        crs = CRS.from_user_input(scene.crs)
    west, _, _, north = grid.bounds_m
    corner_east, corner_north = west + scene.origin_m[0], north + scene.origin_m[1]
    to_place = Affine(grid.spacing_m, 0.0, corner_east, 0.0, -grid.spacing_m, corner_north)
    with (
        whole_file(path) as partial,
        rasterio.open(
            partial,
            "w",
            driver="GTiff",
            height=grid.rows,
            width=grid.cols,
            count=len(bands),
            dtype="float32",
            crs=crs,
            transform=to_place,
            nodata=float("nan"),
            compress="deflate",
        ) as file,
    ):
        file.update_tags(SCENE=scene.name, ATTRIBUTION=scene.attribution)
        for index, (name, values) in enumerate(bands.items(), start=1):
            kept = values if free is None else np.where(free, values, np.nan)
            file.write(np.flipud(kept).astype(np.float32), index)
            file.set_band_description(index, name)


def write_map(
    path: Path, posterior: MapPosterior, site: SceneRaster, scene: Scene, *, threshold_dbm: float
) -> None:
    """Write a posterior as a GeoTIFF of mean, standard deviation and coverage probability."""
    bands = {
        "mean_dbm": posterior.mean_dbm(),
        "std_db": posterior.std_db(),
        f"probability_above_{threshold_dbm:g}_dbm": posterior.coverage_probability(threshold_dbm),
    }
    write_geotiff(path, bands, posterior.grid, scene, free=site.free)


def write_geojson(path: Path, scene: Scene, *, reports: Reports | None = None) -> None:
    """Write footprints with height and rule, and reports if given, as GeoJSON in lon/lat.

    Source: RFC 7946 (WGS 84 lon/lat; outer rings anticlockwise).

    Raises:
        SceneError: if the scene is ``LOCAL``, as GeoJSON knows no local metres.
        DataError: if the file cannot be written.
    """
    if scene.crs == "LOCAL":
        msg = (
            f"the scene {scene.name!r} has no place on the globe, and GeoJSON is lon/lat only; "
            "write a GeoTIFF or a report table instead"
        )
        raise SceneError(msg)
    features = _footprint_features(scene)
    if reports is not None:
        features += _report_features(scene, reports)
    content: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if scene.attribution:
        content["attribution"] = scene.attribution
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


def _footprint_features(scene: Scene) -> list[dict[str, Any]]:
    import shapely
    from shapely.geometry.polygon import orient

    def outwards(places_m: np.ndarray) -> np.ndarray:
        return np.round(frame.to_lonlat(scene, places_m), 8)

    return [
        {
            "type": "Feature",
            "id": source_id,
            "geometry": shapely.geometry.mapping(orient(shapely.transform(footprint, outwards))),
            "properties": {"kind": "building", "height_m": float(height_m), "height_rule": rule},
        }
        for footprint, height_m, rule, source_id in zip(
            scene.footprints, scene.height_m, scene.height_rule, scene.source_id, strict=True
        )
    ]


def _report_features(scene: Scene, reports: Reports) -> list[dict[str, Any]]:
    lonlat = np.round(frame.to_lonlat(scene, reports.reported_m), 8)
    features = []
    for index, (lon, lat) in enumerate(lonlat.tolist()):
        properties: dict[str, Any] = {
            "kind": "report",
            "power_dbm": float(reports.power_dbm[index]),
            "noise_db": float(reports.noise_db[index]),
        }
        if reports.cell_id is not None:
            properties["cell_id"] = int(reports.cell_id[index])
        point = {"type": "Point", "coordinates": [lon, lat]}
        features.append({"type": "Feature", "geometry": point, "properties": properties})
    return features


def write_reports(path: Path, reports: Reports, scene: Scene) -> None:
    """Write reports as CSV or Parquet (by name) in the columns `read_reports` reads.

    Raises:
        DataError: if the file cannot be written or its name ends in neither.
    """
    import pandas as pd

    if path.suffix not in (".csv", ".parquet"):
        msg = f"reports are written as .csv or .parquet, not {path.name}"
        raise DataError(msg)
    if scene.crs == "LOCAL":
        columns = dict(zip(_METRES, reports.reported_m.T, strict=True))
    else:
        columns = dict(zip(_LONLAT, frame.to_lonlat(scene, reports.reported_m).T, strict=True))
    columns |= {"power_dbm": reports.power_dbm, "noise_db": reports.noise_db}
    entries = ((0, 0), (0, 1), (1, 1))
    for name, (row, col) in zip(COVARIANCE_COLUMNS, entries, strict=True):
        columns[name] = reports.drift_cov_m2[:, row, col]
    for name in ("cell_id", "device_id", "time_s"):
        values = getattr(reports, name)
        if values is not None:
            columns[name] = values
    table = pd.DataFrame(columns)
    with whole_file(path) as partial:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)


def write_places(
    path: Path,
    places_m: Float[np.ndarray, "points 2"],
    scene: Scene,
    columns: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write places as CSV: lon, lat (local metres for a ``LOCAL`` scene) and more columns.

    Args:
        path: the file.
        places_m: (east, north) in the scene's local metres.
        scene: its CRS and origin.
        columns: further columns by name, one value for each place.

    Raises:
        DataError: if the file cannot be written.
    """
    import pandas as pd

    local = scene.crs == "LOCAL"
    names = _METRES if local else _LONLAT
    there = places_m if local else np.round(frame.to_lonlat(scene, places_m), 7)
    table = pd.DataFrame(dict(zip(names, there.T, strict=True)) | dict(columns or {}))
    with whole_file(path) as partial:
        table.to_csv(partial, index=False, float_format="%.7g" if local else "%.10g")
