"""Makes the ray-traced maps that the package ships: truths of the test cities, and calibration.

Two kinds. ``paths``: paths to a receiver in each cell, nearly free of noise; rays neither bend at
edges nor pass walls, so deep shadow has no truth. ``rays``: hits of rays that bend at one edge, the
mean power over seeds of cells that most seeds reach, which is nearly everywhere.

Street-level and rooftop antennas take turns. Transmitters are drawn as the benchmark's other truths
draw them, under an address of their own; a draw is kept if enough of the tile has a path, judged on
every eighth cell. In test cities only cells near a judged one with a path are traced: the rest of
the tile is dark but for specks.
"""

import logging
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import binary_dilation

from hertzmap.benchmarks.results import commit
from hertzmap.core.errors import DataError, PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.seeds import generator
from hertzmap.core.types import RadioMap, Scene, SceneRaster, Transmitter
from hertzmap.core.units import to_db, to_linear
from hertzmap.datasets import raytraced, splits
from hertzmap.datasets.raytraced import RayTraced, every
from hertzmap.datasets.remote import BUNDLED
from hertzmap.propagation.draws import TransmitterRanges, draw_transmitter
from hertzmap.propagation.ray_budget import RayBudget, SionnaConfig
from hertzmap.propagation.sionna_rt import SionnaScene
from hertzmap.scenes.export import scene_record
from hertzmap.scenes.raster import rasterize, window
from hertzmap.scenes.tiles import cover, spread

logger = logging.getLogger(__name__)

TRAINING = ("geneva", "monaco_2021", "rome_vittorio", "tokyo_5", "london_moorgate")
"""Extracts of the calibration maps; none of them tests or validates."""
TILES_PER_EXTRACT = 1
"""Calibration tiles of an extract, with a street-level and a rooftop antenna each."""
RAYS_FROM = 10
"""Calibration maps of the kind ``rays`` are numbered so much higher than those by paths."""
MARGIN_M = 100.0
"""Buildings this far outside the tile are traced too [m]."""
TRACER = SionnaConfig(depth=3, path_map=RayBudget(10_000, False), max_paths=400_000)
"""How paths are sought."""
SHOOTER = SionnaConfig(depth=6, radio_map=RayBudget(2_000_000, True))
"""How rays are shot."""
SEEDS, LEAST_SEEDS = 5, 3
"""Seeds of a map by rays, and how many of them must reach a cell. Source: the engine's design."""
TEST_STEP, CALIBRATION_STEP = 1, 4
"""A receiver stands in every so many-th cell of 1 m, each way."""
JUDGED_STEP = 8
"""A draw is judged on every so many-th cell, each way."""
LEAST_LIT = 0.25
"""Share of outdoor cells with a path below which a draw is rejected."""
TEST_RANGES = TransmitterRanges(roof_share=1.0, carrier_hz=(1.0e9, 6.0e9))
"""Antennas of the test cities; carriers within the range of the ground's material."""
CALIBRATION_RANGES = TransmitterRanges(
    roof_share=1.0, carrier_hz=(3.5e9, 3.5e9), patterns=("isotropic",), pattern_shares=(1.0,)
)
"""Antennas of the calibration maps: one carrier, no pattern."""
_MOST_DRAWS = 20
_PACKAGES = ("hertzmap", "numpy", "sionna-rt", "mitsuba", "drjit")


@final
@dataclass(frozen=True)
class Plan:
    """One map to be made."""

    extract: str
    """Map extract."""
    index: int
    """Number of the map at that extract."""
    tile: int
    """Number of its tile."""
    street: bool
    """Whether the antenna is at street level; else it is high, on a roof where there is one."""
    step: int
    """A receiver stands in every so many-th cell of 1 m, each way."""
    kind: str = "paths"
    """``paths`` or ``rays``."""

    @property
    def training(self) -> bool:
        """Whether it is a calibration map."""
        return self.extract not in splits.HELD_OUT


def plans(parts: tuple[str, ...], maps_per_city: int = 1) -> tuple[Plan, ...]:
    """Maps in the order they are made: the first map of every city before any second one.

    >>> [plan.street for plan in plans(("test",))]
    [True, False, True, False, True, False]
    """
    found = []
    if "test" in parts:
        found += [
            Plan(city, index, index, (number + index) % 2 == 0, TEST_STEP)
            for index in range(maps_per_city)
            for number, city in enumerate(splits.TEST)
        ]
    if "training" in parts:
        found += [
            Plan(extract, first + 2 * tile + high, tile, not high, CALIBRATION_STEP, kind)
            for first, kind in ((0, "paths"), (RAYS_FROM, "rays"))
            for tile in range(TILES_PER_EXTRACT)
            for extract in TRAINING
            for high in (0, 1)
        ]
    return tuple(found)


def run(
    out: Path | None = None,
    *,
    parts: tuple[str, ...] = ("training", "test"),
    maps_per_city: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Path, ...]:
    """Make all maps that are not there yet; each file is whole or absent.

    Args:
        out: folder of the files; the package's own by default.
        parts: ``training`` (calibration) and ``test``, or one of them.
        maps_per_city: maps of each test city.
        progress: called with a sentence after each map.

    Returns:
        All files, also those that were there.

    Raises:
        MissingExtraError: if the ray tracer is not installed.
        DataError: if an extract is missing, or no draw lights enough of a tile.
    """
    folder = out or BUNDLED / raytraced.FOLDER
    written = []
    for plan in plans(parts, maps_per_city):
        path = folder / Path(raytraced.name_of(plan.extract, plan.index)).name
        if not path.is_file():
            traced = make(plan)
            raytraced.write(path, traced)
            progress(f"{path.stem}: {traced.lit_share:.0%} of the outdoor cells have a path")
        written.append(path)
    return tuple(written)


def make(plan: Plan) -> RayTraced:
    """Draw the transmitter of a plan and trace its map.

    Raises:
        MissingExtraError: if the ray tracer is not installed.
        DataError: if there is no such tile, or 20 draws in a row light too little of it.
    """
    tile = tile_of(plan)
    scene = window(splits.load_extract(plan.extract), tile, MARGIN_M)
    return trace(plan, scene, tile)


def tile_of(plan: Plan) -> Grid:
    """The tile of a plan, in cells of 1 m."""
    if not plan.training:
        return splits.evaluation_tiles(plan.extract, plan.tile + 1)[plan.tile].grid
    scene = splits.load_extract(plan.extract)
    built = tuple(
        site.grid
        for site in splits.training_sites((plan.extract,))
        if 0.15 <= cover(scene, site.grid) <= 0.60
    )
    if len(built) < TILES_PER_EXTRACT:
        msg = f"{plan.extract} has {len(built)} well-built tiles, not {TILES_PER_EXTRACT}"
        raise DataError(msg)
    return spread(built, TILES_PER_EXTRACT)[plan.tile]


def trace(plan: Plan, scene: Scene, tile: Grid, config: SionnaConfig | None = None) -> RayTraced:
    """Draw the transmitter of a plan in a window of a scene and trace its map.

    Args:
        plan: which map.
        scene: buildings in and around the tile.
        tile: the tile in cells of 1 m.
        config: how paths are sought or rays shot; `TRACER` or `SHOOTER` by default.

    Raises:
        MissingExtraError: if the ray tracer is not installed.
        DataError: if 20 draws in a row light too little of the tile.
    """
    whole = rasterize(scene, tile)
    tracer = SionnaScene.of(scene, TRACER if plan.kind == "rays" or not config else config)
    transmitter, draws, lit = _draw(plan, tracer, whole)
    site = every(whole, plan.step)
    if plan.kind == "rays":
        config = config or SHOOTER
        traced = _shoot(scene, transmitter, site, config)
    else:
        config = config or TRACER
        asked = site.free if plan.training else site.free & near_lit(lit, plan.step, site.grid)
        traced = tracer.path_map((transmitter,), site.grid, asked)
    made = _provenance(plan, scene, config) | {"draws": draws}
    layers = replace(traced, toa_s=None, aoa_rad=None, aod_rad=None)
    return RayTraced(plan.extract, plan.index, whole, layers, made)


def _shoot(
    scene: Scene, transmitter: Transmitter, site: SceneRaster, config: SionnaConfig
) -> RadioMap:
    """Mean power over seeds of cells that enough of them reach; line of sight by paths."""
    power, hits = np.zeros(site.grid.shape), np.zeros(site.grid.shape, int)
    for seed in range(SEEDS):
        tracer = SionnaScene.of(scene, replace(config, seed=seed))
        one = tracer.radio_map((transmitter,), site.grid, site.free)
        power += np.where(one.valid[0], to_linear(np.nan_to_num(one.path_gain_db[0])), 0.0)
        hits += one.valid[0]
    straight = SionnaScene.of(scene, replace(config, depth=0))
    los = straight.path_map((transmitter,), site.grid, site.free).los
    assert los is not None
    valid = hits >= LEAST_SEEDS
    gain_db = np.full(site.grid.shape, np.nan)
    gain_db[valid] = to_db(power[valid] / SEEDS)
    return RadioMap(site.grid, gain_db[None], valid[None], (transmitter,), los=los & valid[None])


def near_lit(
    lit: Bool[np.ndarray, "judged_rows judged_cols"], step: int, grid: Grid
) -> Bool[np.ndarray, "{grid.rows} {grid.cols}"]:
    """Cells whose nearest judged cell, or one of its eight neighbours, has a path.

    Args:
        lit: judged cells with a path: every `JUDGED_STEP`-th cell of 1 m, from the first on.
        step: the grid has every so many-th cell of 1 m, from the first on.
        grid: the grid.
    """
    wide = binary_dilation(lit, np.ones((3, 3), bool))
    nearest = [
        np.clip((step * np.arange(count) + JUDGED_STEP // 2) // JUDGED_STEP, 0, most - 1)
        for count, most in zip(grid.shape, lit.shape, strict=True)
    ]
    return wide[np.ix_(*nearest)]


def _draw(
    plan: Plan, tracer: SionnaScene, whole: SceneRaster
) -> tuple[Transmitter, int, Bool[np.ndarray, "rows cols"]]:
    """The first transmitter that lights enough, draws it took, and judged cells it lights."""
    ranges = replace(
        CALIBRATION_RANGES if plan.training else TEST_RANGES, low_share=float(plan.street)
    )
    judged = every(whole, JUDGED_STEP)
    place, number = zlib.crc32(plan.extract.encode()), plan.index % RAYS_FROM
    for attempt in range(_MOST_DRAWS):
        draw = generator(zlib.crc32(b"ray-traced"), place, number, attempt)
        try:
            transmitter = draw_transmitter(draw, whole, ranges=ranges)
            lit = tracer.path_map((transmitter,), judged.grid, judged.free).valid[0]
        except PropagationError:
            continue  # no place for it, or one that lies inside a footprint's edge
        share = float(lit[judged.free].mean())
        logger.info("%s/%d: draw %d lights %.2f", plan.extract, plan.index, attempt, share)
        if share >= LEAST_LIT:
            return replace(transmitter, name=f"{plan.extract}/{plan.index}"), attempt + 1, lit
    msg = f"{_MOST_DRAWS} draws left most of {plan.extract}/{plan.index} dark; choose another tile"
    raise DataError(msg)


def _provenance(plan: Plan, scene: Scene, config: SionnaConfig) -> dict[str, Any]:
    """What the map stands on, in values that JSON keeps."""
    settings = asdict(config)
    budget = config.radio_map if plan.kind == "rays" else config.path_map
    return {
        "tracer": "Sionna RT",
        "kind": plan.kind,
        "antenna": "street" if plan.street else "roof",
        "rays": budget.rays,
        "diffraction": budget.diffraction,
        **{name: settings[name] for name in ("depth", "refraction", "height_m", "seed")},
        "seeds": SEEDS if plan.kind == "rays" else 1,
        "scene_sha256": scene_record(scene)["scene_sha256"],
        "attribution": scene.attribution,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "commit": commit(),
    }
