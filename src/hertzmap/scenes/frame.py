"""The local metric frame of a scene, and the way back to longitude and latitude.

local = projected (UTM zone of the scene's centre) minus ``Scene.origin_m``; nothing else.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from pyproj import Transformer

from hertzmap.core.errors import SceneError
from hertzmap.core.types import Scene


def frame_for(lon: float, lat: float) -> str:
    """Metric CRS of a place: the UTM zone that holds it, on WGS 84.

    Args:
        lon: longitude [degrees], -180 to 180.
        lat: latitude [degrees], -80 to 84, where UTM is defined.

    Raises:
        SceneError: if the place lies outside UTM.

    Source: EPSG:32601-32660 (north) and EPSG:32701-32760 (south). The wider zones around Norway
    and Svalbard are not used: regular zones serve there too, only less exactly.

    >>> frame_for(8.69, 49.41), frame_for(144.96, -37.81)
    ('EPSG:32632', 'EPSG:32755')
    """
    if not (-180.0 <= lon <= 180.0 and -80.0 <= lat <= 84.0):
        msg = (
            f"longitude {lon}, latitude {lat} lies outside UTM (-180..180, -80..84); "
            "give degrees of WGS 84 as (lon, lat)"
        )
        raise SceneError(msg)
    zone = min(int((lon + 180.0) // 6.0) + 1, 60)
    return f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"


@lru_cache(maxsize=32)
def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def project(lonlat: Float[np.ndarray, "points 2"], crs: str) -> Float[np.ndarray, "points 2"]:
    """Longitude and latitude [degrees] to projected (east, north) [m] of a CRS."""
    east, north = _transformer("EPSG:4326", crs).transform(lonlat[:, 0], lonlat[:, 1])
    return np.column_stack([east, north])


def _require_crs(scene: Scene) -> None:
    if scene.crs == "LOCAL":
        msg = f"scene {scene.name!r} is synthetic: it lies nowhere on Earth and has no lon/lat"
        raise SceneError(msg)


def to_local(scene: Scene, lonlat: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """Longitude and latitude [degrees] to the scene's local (east, north) [m].

    Raises:
        SceneError: if the scene has no CRS.
    """
    _require_crs(scene)
    return project(lonlat, scene.crs) - np.array(scene.origin_m)


def to_lonlat(scene: Scene, places: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """The scene's local (east, north) [m] to longitude and latitude [degrees].

    Raises:
        SceneError: if the scene has no CRS.
    """
    _require_crs(scene)
    projected = places + np.array(scene.origin_m)
    lon, lat = _transformer(scene.crs, "EPSG:4326").transform(projected[:, 0], projected[:, 1])
    return np.column_stack([lon, lat])
