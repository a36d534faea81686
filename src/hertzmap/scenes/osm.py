"""OpenStreetMap extracts become scenes, offline: buildings, heights by rule, roads.

Every way tagged ``building`` or ``building:part`` and every relation tagged so ends as a footprint
or in ``Scene.skipped`` with its reason; a relation kept in part stands in both.
"""

import math
from pathlib import Path

import numpy as np
import shapely
from jaxtyping import Float

from hertzmap.core.errors import SceneError
from hertzmap.core.types import Scene, SkippedBuilding
from hertzmap.scenes._osm_file import read_file
from hertzmap.scenes._osm_heights import height_of
from hertzmap.scenes._osm_materials import material_of
from hertzmap.scenes._osm_outlines import Outlines, resolve_parts
from hertzmap.scenes.frame import frame_for, project

ATTRIBUTION = "© OpenStreetMap contributors, ODbL 1.0"
"""Credit that the Open Database License asks for."""

Box = tuple[float, float, float, float]


def read_osm(
    path: Path,
    *,
    box_lonlat: tuple[float, float, float, float] | None = None,
    centre_lonlat: tuple[float, float] | None = None,
    radius_m: float | None = None,
    name: str | None = None,
) -> Scene:
    """Read a map extract (.osm, .osm.gz, .osm.bz2, .osm.pbf) as a scene; needs no network.

    The local frame is the UTM zone of the centre of the chosen area, shifted so that the centre,
    rounded to the metre, is (0, 0). The area is the whole extract (the extent of its buildings),
    a box, or the square of half side `radius_m` around a centre. Buildings and roads that meet the
    area stay whole. Polygons that cross themselves are mended; each of their parts becomes a
    footprint with the same id. Heights and wall materials follow fixed rules (see
    ``_osm_heights.height_of`` and ``_osm_materials.material_of``).

    Args:
        path: the extract.
        box_lonlat: (west, south, east, north) of the area [degrees].
        centre_lonlat: (lon, lat) of the area's centre [degrees]; needs `radius_m`.
        radius_m: half side of the square around the centre [m], above 0.
        name: the scene's name; the file's name without its suffix if None.

    Raises:
        SceneError: if the file is missing, empty, damaged or no OpenStreetMap file, or if the area
            is not valid, lies outside the extract or holds no building.
    """
    _check_area(box_lonlat, centre_lonlat, radius_m)
    extract = read_file(path)
    extent = extract.building_extent()
    if extent is None:
        msg = f"map extract {path} holds no buildings; choose one with building outlines"
        raise SceneError(msg)
    centre = centre_lonlat or _centre(box_lonlat or extent)
    crs = frame_for(*centre)
    origin = np.round(project(np.array([centre]), crs)[0])
    outlines = Outlines(extract, project(extract.lonlat, crs) - origin)
    bounds = _area_bounds(box_lonlat or extent, centre, radius_m, crs, origin)
    whole = box_lonlat is None and centre_lonlat is None
    found = _area_bounds(extent, centre, None, crs, origin)
    if not whole and not shapely.box(*bounds).intersects(shapely.box(*found)):
        msg = (
            f"the chosen area lies outside the map extract {path}, whose buildings span "
            f"{_describe(extent)}; choose an area inside"
        )
        raise SceneError(msg)
    candidates, skipped = outlines.buildings()
    kept, unneeded = resolve_parts(candidates)
    skipped |= unneeded
    pairs = [(candidate, polygon) for candidate in kept for polygon in candidate.polygons]
    if whole and pairs:
        bounds = _bounds_of([polygon for _, polygon in pairs])
    if not whole:
        skipped = {key: why for key, why in skipped.items() if outlines.touches(key, bounds)}
    area = shapely.box(*bounds)
    pairs = [(candidate, polygon) for candidate, polygon in pairs if polygon.intersects(area)]
    if not pairs:
        raise SceneError(_nothing_found(path, skipped, extent))
    heights = [height_of(candidate.tags) for candidate, _ in pairs]
    materials = tuple(material_of(candidate.tags) for candidate, _ in pairs)
    return Scene(
        footprints=tuple(polygon for _, polygon in pairs),
        height_m=np.array([height for height, _ in heights], dtype=np.float64),
        height_rule=tuple(rule for _, rule in heights),
        source_id=tuple(candidate.source_id for candidate, _ in pairs),
        bounds_m=bounds,
        crs=crs,
        origin_m=(float(origin[0]), float(origin[1])),
        roads=tuple(road for road in outlines.roads() if road.line.intersects(area)),
        skipped=tuple(SkippedBuilding(key, why) for key, why in sorted(skipped.items())),
        materials=materials if any(materials) else (),
        name=name or path.name.split(".")[0],
        attribution=ATTRIBUTION,
    )


def _check_area(
    box: Box | None, centre: tuple[float, float] | None, radius_m: float | None
) -> None:
    if box is not None and centre is not None:
        msg = "give either box_lonlat or centre_lonlat with radius_m, not both"
        raise SceneError(msg)
    if (centre is None) != (radius_m is None):
        msg = "centre_lonlat and radius_m belong together: give both or none"
        raise SceneError(msg)
    if radius_m is not None and not (math.isfinite(radius_m) and radius_m > 0):
        msg = f"radius_m must be above 0 m, got {radius_m}"
        raise SceneError(msg)
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        msg = f"box_lonlat must be (west, south, east, north) with west < east, got {box}"
        raise SceneError(msg)


def _centre(box: Box) -> tuple[float, float]:
    return (0.5 * (box[0] + box[2]), 0.5 * (box[1] + box[3]))


def _area_bounds(
    box: Box,
    centre: tuple[float, float],
    radius_m: float | None,
    crs: str,
    origin_m: Float[np.ndarray, "2"],
) -> Box:
    """Local bounds [m] of the square around the centre, or without radius of the projected box."""
    if radius_m is not None:
        east, north = (project(np.array([centre]), crs)[0] - origin_m).tolist()
        return (east - radius_m, north - radius_m, east + radius_m, north + radius_m)
    west, south, east, north = box
    corners = np.array([[west, south], [east, south], [east, north], [west, north]])
    places = project(corners, crs) - origin_m
    return (*places.min(axis=0).tolist(), *places.max(axis=0).tolist())


def _bounds_of(polygons: list[shapely.Polygon]) -> Box:
    west, south, east, north = shapely.total_bounds(np.array(polygons, dtype=object)).tolist()
    return (west, south, east, north)


def _describe(extent: Box) -> str:
    west, south, east, north = extent
    return f"lon {west:.5f} to {east:.5f}, lat {south:.5f} to {north:.5f}"


def _nothing_found(path: Path, skipped: dict[str, str], extent: Box) -> str:
    examples = "; ".join(f"{key}: {why}" for key, why in list(skipped.items())[:3])
    count = f" ({len(skipped)} skipped, e.g. {examples})" if skipped else ""
    return (
        f"no buildings in the chosen area of {path}{count}; the extract's buildings span "
        f"{_describe(extent)}"
    )
