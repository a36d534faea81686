"""Benchmark truths: real cities under our own engine, and RadioMapSeer's public maps.

Source: the inverse-crime rule. A city's truth comes from a grid of 0.5 m, averaged in power to the
cells of 1 m; estimators work on their own 1 m grid, see reports only, and know neither transmitter
nor propagation parameters, which are drawn anew for each map. As the engine also makes training
maps, every figure carries ``same_engine: true``. RadioMapSeer's maps exist on one grid only, which
serves truth and inversion alike: ``same_operator: true``; all ten are one environment. Ray-traced
truths come from the package's files, on one grid too; cells without a path hold no truth.
"""

import hashlib
import io
import json
import os
import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import final
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter

from hertzmap.benchmarks.results import write_whole
from hertzmap.core.errors import DataError, PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.seeds import generator
from hertzmap.core.types import RadioMap, Scene, SceneRaster, Transmitter
from hertzmap.core.units import GreyScale, to_db, to_linear
from hertzmap.datasets import radiomapseer, raytraced, splits
from hertzmap.datasets.raytraced import RayTraced
from hertzmap.measurement.truth import TruthMap, truth_from_fine, truth_from_grid
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.draws import ParameterRanges, draw_parameters, draw_transmitter
from hertzmap.scenes.raster import rasterize, window

TRUTH_VERSION = 1
"""Raise it when truths shall be drawn anew; it enters every draw."""
MARGIN_M = 100.0
"""Buildings this far outside the tile still bend its routes [m]."""
FINER = 2
"""The truth's grid is this much finer than the estimators'."""
LEAST_SERVED = 0.30
"""Share of free cells above the scale's floor below which a draw is rejected."""
_MOST_DRAWS = 20
_NO_PART_OF_TRUTHS = (
    "_meshes.py",
    "_osm_materials.py",
    "_solids.py",
    "arrays.py",
    "calibration.py",
    "export.py",
    "material_fit.py",
    "path_layers.py",
    "ray_budget.py",
    "response.py",
    "roads.py",
    "scatter.py",
    "sionna_rt.py",
)
_GRID = TypeAdapter(Grid)
_TRANSMITTER = TypeAdapter(Transmitter | None)
_FLAGS: dict[str, dict[str, bool]] = {
    "cities": {"same_engine": True, "same_operator": False, "same_environment": False},
    "radiomapseer": {"same_engine": False, "same_operator": True, "same_environment": True},
    "ray-traced": {"same_engine": False, "same_operator": True, "same_environment": False},
}


OUTSIDE = ParameterRanges(
    n_los=(2.8, 3.3),
    n_nlos=(4.1, 5.0),
    n_bend=(4.5, 7.0),
    k1=(3.2, 5.0),
    k2=(6.5, 9.0),
    waveguide_db=(9.0, 14.0),
    offset_los_sd_db=6.0,
    offset_nlos_sd_db=10.0,
    offset_roof_sd_db=12.0,
    exponents=("whole", "single"),
    exponent_shares=(0.7, 0.3),
)
"""Propagation that no network was trained on, and no belief of an estimator encloses."""
VARIANTS = ("", "exponents", "two-transmitters")
"""Usual truths; propagation from `OUTSIDE`; two transmitters of one radio cell, powers added."""


@final
@dataclass(frozen=True)
class WorldKey:
    """Names one world; reading or making it is left to `load`."""

    family: str
    """``cities``, ``radiomapseer`` or ``ray-traced``."""
    place: str
    """City, or RadioMapSeer map."""
    index: int
    """Number of the map at that place."""
    variant: str = ""
    """How its truth is unlike the usual ones, see `VARIANTS`; nothing for a usual one."""

    @property
    def name(self) -> str:
        """E.g. ``heidelberg/2``."""
        return f"{self.place}/{self.index}"

    @property
    def address(self) -> tuple[int, int]:
        """Address of the world's random draws: (place, map)."""
        return zlib.crc32(self.place.encode()), self.index


@final
@dataclass(frozen=True)
class World:
    """A truth and the site that estimators may know."""

    key: WorldKey
    """Its name."""
    site: SceneRaster
    """Heights and free mask on the estimators' grid."""
    truth: TruthMap
    """What the simulator reads reports from. Its free cells report and are scored: all of the
    site's, but where a ray-traced map has no path."""
    scored_db: Float[np.ndarray, "rows cols"]
    """Path gain that metrics compare with [dB]; walls as the source of the truth has them."""

    @property
    def mean_db(self) -> float:
        """Mean true path gain over scored cells [dB], to 0.01."""
        return round(float(self.scored_db[self.truth.free].mean()), 2)


def flags(family: str) -> dict[str, bool]:
    """The inverse-crime flags that a result on such worlds carries."""
    return dict(_FLAGS[family])


def city_keys(
    cities: tuple[str, ...], maps_per_city: int, variant: str = ""
) -> tuple[WorldKey, ...]:
    """All maps of the cities; the first map of every city comes before any second one."""
    return tuple(
        WorldKey("cities", city, index, variant)
        for index in range(maps_per_city)
        for city in cities
    )


def radiomapseer_keys() -> tuple[WorldKey, ...]:
    """The ten public maps of RadioMapSeer's environment 0."""
    antennas = len(_seer_maps().radio_map.transmitters)
    return tuple(WorldKey("radiomapseer", "radiomapseer-0", index) for index in range(antennas))


def ray_traced_keys(cities: tuple[str, ...], maps_per_city: int) -> tuple[WorldKey, ...]:
    """The shipped ray-traced maps of the cities, in the order of `city_keys`."""
    return tuple(
        WorldKey("ray-traced", city, index) for index in range(maps_per_city) for city in cities
    )


def load(key: WorldKey) -> World:
    """Read a world from the cache, or make and cache it.

    Raises:
        DataError: if its source is missing, or no draw serves enough of the tile.
    """
    if key.family == "radiomapseer":
        return _radiomapseer_world(key)
    if key.family == "ray-traced":
        return ray_traced_world(key, raytraced.load(key.place, key.index))
    kind = f"-{key.variant}" if key.variant else ""
    path = cache_folder() / "truths" / f"{key.place}-{key.index}{kind}-{_engine_digest()}.npz"
    if path.is_file():
        return _unpack(key, path)
    world = make_city_world(key)
    write_whole(path, _pack(world))
    return world


def make_city_world(key: WorldKey, *, size_m: float = 256.0, spacing_m: float = 1.0) -> World:
    """Draw transmitter and propagation for one tile of a held-out city and compute its truth.

    A draw that leaves fewer than 30 % of the free cells above the scale's floor is rejected; the
    next draw has the next index, so the outcome depends on nothing but the key.

    Raises:
        DataError: if the city has no such tile, or 20 draws in a row are rejected.
    """
    tile = splits.evaluation_tiles(key.place, key.index + 1, size_m=size_m, spacing_m=spacing_m)[
        key.index
    ]
    scene = window(splits.load_extract(key.place), tile.grid, MARGIN_M)
    return world_of(key, scene, tile.grid)


def world_of(key: WorldKey, scene: Scene, grid: Grid) -> World:
    """Draw transmitter and propagation for a window of a scene and compute its truth.

    Raises:
        DataError: if 20 draws in a row are rejected.
    """
    site = rasterize(scene, grid)
    environment = Environment.prepare(scene, grid.refine(FINER), margin_m=MARGIN_M)
    for attempt in range(_MOST_DRAWS):
        draw = generator(TRUTH_VERSION, *key.address, attempt)
        parameters = draw_parameters(draw, OUTSIDE if key.variant == "exponents" else None)
        try:
            sites = [draw_transmitter(draw, site)]
            if key.variant == "two-transmitters":
                sites.append(draw_transmitter(draw, site))
            fine = DominantPath(environment, parameters, layers="street").trace(tuple(sites))
        except PropagationError:
            continue  # no place for it, or one that lies inside a footprint's edge
        drawn = asdict(parameters)
        fine_free = environment.site.free
        truth = truth_from_fine(_added(fine), fine_free, FINER, free=site.free, parameters=drawn)
        world = World(key, site, truth, truth.path_gain_db)
        if _served(world) >= LEAST_SERVED:
            return world
    msg = f"{_MOST_DRAWS} draws on {key.name} left most of the tile dark; raise TRUTH_VERSION"
    raise DataError(msg)


def _added(fine: RadioMap) -> RadioMap:
    """Powers of all transmitters together, under the name of the first one."""
    if len(fine.transmitters) == 1:
        return fine
    each = np.where(fine.valid, to_linear(np.nan_to_num(fine.path_gain_db)), 0.0)
    power = np.sum(each, axis=0)
    valid = np.any(fine.valid, axis=0)
    gain = np.full(power.shape, np.nan, np.float32)
    gain[valid] = to_db(power[valid])
    return RadioMap(fine.grid, gain[None], valid[None], fine.transmitters[:1])


def _served(world: World) -> float:
    """Share of free cells above the scale's floor."""
    return float((world.scored_db[world.site.free] > GreyScale().min_db).mean())


@lru_cache(maxsize=1)
def _seer_maps() -> radiomapseer.SeerMaps:
    return radiomapseer.read_maps()


def _radiomapseer_world(key: WorldKey) -> World:
    """One public map; the wall pixels that its picture has lit stay lit in what is scored."""
    maps = _seer_maps()
    gain_db, site = maps.radio_map.path_gain_db[key.index], maps.site
    transmitter = maps.radio_map.transmitters[key.index]
    truth = truth_from_grid(site.grid, gain_db, site.free, transmitter=transmitter)
    return World(key, site, truth, GreyScale().to_db(maps.grey[key.index]))


def ray_traced_world(key: WorldKey, traced: RayTraced) -> World:
    """A ray-traced map as truth: known where a path was found, and unknown elsewhere."""
    gain_db, known = traced.on_site()
    truth = truth_from_grid(
        traced.site.grid,
        gain_db,
        known,
        transmitter=traced.transmitter,
        parameters=traced.made,
    )
    return World(key, traced.site, truth, truth.path_gain_db)


def cache_folder() -> Path:
    """Where made truths are kept: ``HERTZMAP_CACHE``, else ``~/.cache/hertzmap``."""
    named = os.environ.get("HERTZMAP_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "hertzmap"


@lru_cache(maxsize=1)
def _engine_digest() -> str:
    """Hash of the code that makes truths, so that a cached truth never outlives its engine.

    Taken once: code edited during a run must not lend its name to what the loaded code makes.
    """
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(f"{TRUTH_VERSION}".encode())
    for folder in ("propagation", "scenes"):
        for source in sorted((package / folder).glob("*.py")):
            if source.name not in _NO_PART_OF_TRUTHS:
                digest.update(source.read_bytes())
    for source in ("benchmarks/worlds.py", "datasets/splits.py", "measurement/truth.py"):
        digest.update((package / source).read_bytes())
    return digest.hexdigest()[:12]


def _pack(world: World) -> bytes:
    truth = world.truth
    facts = {
        "grid": asdict(truth.grid),
        "fine_grid": asdict(truth.fine_grid),
        "transmitter": _TRANSMITTER.dump_python(truth.transmitter, mode="json"),
        "parameters": dict(truth.parameters),
    }
    content = io.BytesIO()
    np.savez_compressed(
        content,
        height_m=world.site.height_m,
        free=truth.free,
        gain_db=truth.path_gain_db,
        fine_gain_db=truth.fine_gain_db,
        fine_free=truth.fine_free,
        facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
    )
    return content.getvalue()


def _unpack(key: WorldKey, path: Path) -> World:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            facts = json.loads(data["facts"].tobytes())
            grid = _GRID.validate_python(facts["grid"])
            truth = TruthMap(
                grid,
                data["gain_db"],
                data["free"],
                _GRID.validate_python(facts["fine_grid"]),
                data["fine_gain_db"],
                data["fine_free"],
                _TRANSMITTER.validate_python(facts["transmitter"]),
                facts["parameters"],
            )
            site = SceneRaster(grid, data["height_m"], data["free"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        msg = f"cached truth {path} is damaged ({error}); delete it and run again"
        raise DataError(msg) from error
    return World(key, site, truth, truth.path_gain_db)
