"""How fast, how complete and how right the dominant-path model is.

``speed.json``: set-up, maps per second and core, cells without a route, and route lengths against
fast marching. ``radiomapseer-fit.json``: error on RadioMapSeer's ten maps, from a commercial
dominant-path tool, with one common set of numbers fitted on nine maps and scored on the tenth;
all ten are one environment. ``radiomapseer-parameters.json``: the numbers of the best refinement,
fitted on all ten.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np
import shapely
from jaxtyping import Bool, Float
from scipy import ndimage
from shapely.affinity import translate

from hertzmap.benchmarks.results import ResultFile, ResultRow, hash_of, provenance, write
from hertzmap.core.grid import Grid
from hertzmap.core.seeds import generator
from hertzmap.core.types import Scene, Transmitter
from hertzmap.core.units import GreyScale
from hertzmap.datasets.radiomapseer import BUILDING_M, CARRIER_HZ, SeerMaps, read_maps
from hertzmap.datasets.remote import extract_path
from hertzmap.propagation.calibration import (
    Calibration,
    CalibrationConfig,
    Observation,
    calibrate,
    write_calibration,
)
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.draws import TransmitterRanges, draw_transmitter
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.vectorize import scene_from_mask
from hertzmap.scenes.osm import read_osm
from hertzmap.scenes.synthetic import city
from hertzmap.scenes.tiles import tiles

_SIDE = 256
_MARGIN_M = 100.0
_SIMPLIFY_M = 0.75
"""Tolerance of the simplified outlines [m]; cells are 1 m wide."""
_ORACLE_RADIUS_M = 3.0
"""Fast marching starts on a circle of this radius, which takes the grid's error at a point."""
_FITTED = (
    "n_los", "n_nlos", "k0", "k1", "k2", "offset_los_db", "offset_nlos_db", "offset_roof_db",
)  # fmt: skip


@final
@dataclass(frozen=True)
class Rung:
    """One refinement of the fit to RadioMapSeer, on top of the one before."""

    name: str
    """Name in the result file."""
    start: PropagationParameters
    """Starting numbers."""
    free: tuple[str, ...]
    """Numbers that are fitted; none means that the starting numbers are scored."""
    shift_m: float = 0.0
    """How far the walls of the mask are moved east and north before the fit [m]."""
    simplified: bool = False
    """Whether outlines are the mask's cell edges simplified, which keeps buildings at their full
    extent, and not lines fitted to the middle of the edges."""


_LIKE_THE_TOOL = PropagationParameters(
    n_los=2.5, n_nlos=2.8, k0=0.2, k1=1.3, k2=2.8, roof_law="bends", receiver_height_m=0.5
)
"""Starting numbers near the tool's. Its gains fall near the antenna as if the receivers stood
1 m lower."""
_NINE = CalibrationConfig().free
RUNGS = (
    Rung("defaults", PropagationParameters(), ()),
    Rung("nine numbers", PropagationParameters(), _NINE),
    Rung("walls half a cell north-east", PropagationParameters(), _NINE, 0.5),
    Rung("constant per bend", replace(_LIKE_THE_TOOL, roof_law="edges"), _FITTED, 0.5),
    Rung("roofs as bends", _LIKE_THE_TOOL, _FITTED, 0.5),
    Rung("outlines at full extent", _LIKE_THE_TOOL, _FITTED, 0.5, True),
    Rung("four arrivals per corner", replace(_LIKE_THE_TOOL, labels=4), _FITTED, 0.5, True),
)
"""The ladder of refinements."""


@final
@dataclass(frozen=True)
class PropagationBenchConfig:
    """What is timed and fitted."""

    repeats: int = 5
    """Timed runs, whose spread becomes the standard error."""
    transmitters: int = 20
    """Maps per timed run."""
    buildings: int = 100
    """Buildings of the synthetic city in the window plus margin."""
    tile_city: str = "heidelberg"
    """Extract whose window comes nearest to as many buildings."""
    oracle_cities: int = 5
    """Synthetic cities whose route lengths are compared with fast marching."""
    rungs: tuple[str, ...] = field(default_factory=lambda: tuple(rung.name for rung in RUNGS))
    """Refinements of the fit to run."""
    fit: CalibrationConfig = field(
        default_factory=lambda: CalibrationConfig(places=1000, rounds=4, equal_classes=False)
    )
    """Rules of the fit; every place weighs the same, as in the score."""


def run(
    out: Path = Path("results/propagation"),
    *,
    parts: tuple[str, ...] = ("speed", "fit"),
    config: PropagationBenchConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Path, ...]:
    """Run the benchmark on one thread and write its result files.

    Args:
        out: folder of the result files.
        parts: ``speed`` and ``fit``, or one of them.
        config: what is timed and fitted.
        progress: called with a sentence after each step.

    Returns:
        The files written.
    """
    settings, written = config or PropagationBenchConfig(), []
    digest = hash_of(asdict(settings))
    if "speed" in parts:
        rows = _speed_rows(settings, progress)
        header = provenance(
            digest,
            "one thread; CPU seconds (not wall time); mean and standard error over timed runs, and "
            "the least, which other work on the machine disturbs least; "
            f"{settings.transmitters} street-level isotropic transmitters a run, 256 x 256 cells "
            "of 1 m; lengths without bend losses against fast marching (scikit-fmm)",
            buildings_in_window_and_margin=settings.buildings,
        )
        write(out / "speed.json", ResultFile(header, tuple(rows)))
        written.append(out / "speed.json")
    if "fit" in parts:
        written += _fit(out, settings, digest, progress)
    return tuple(written)


def _speed_rows(
    settings: PropagationBenchConfig, progress: Callable[[str], None]
) -> list[ResultRow]:
    size_m = _SIDE + 2 * _MARGIN_M
    toy = city(1, size_m=size_m, buildings=settings.buildings)
    centred = Grid(_SIDE, _SIDE, 1.0, (-_SIDE / 2, -_SIDE / 2))
    tile_scene, tile_grid = _tile(settings.tile_city, settings.buildings)
    rows = []
    for name, scene, grid in (
        ("synthetic", toy, centred), (settings.tile_city, tile_scene, tile_grid),
    ):  # fmt: skip
        rows += _speed_of(name, scene, grid, settings)
        progress(f"timed {name}")
    rows += _oracle_rows(settings)
    progress("compared lengths with fast marching")
    return rows


def _tile(name: str, buildings: int) -> tuple[Scene, Grid]:
    """The window of an extract whose buildings in window plus margin come nearest to a number."""
    scene = read_osm(extract_path(name))
    centres = np.array([[part.centroid.x, part.centroid.y] for part in scene.footprints])

    def gap(grid: Grid) -> int:
        west, south, east, north = grid.bounds_m
        low, high = np.array([west, south]) - _MARGIN_M, np.array([east, north]) + _MARGIN_M
        return abs(int(np.sum(np.all((centres >= low) & (centres <= high), axis=1))) - buildings)

    return scene, min(tiles(scene, size_m=float(_SIDE)), key=gap)


def _speed_of(
    name: str, scene: Scene, grid: Grid, settings: PropagationBenchConfig
) -> list[ResultRow]:
    """Set-up, speed and coverage in one window."""
    environment = Environment.prepare(scene, grid, margin_m=_MARGIN_M)
    setup = [_cpu_s(lambda: Environment.prepare(scene, grid)) for _ in range(settings.repeats)]
    rows = [
        _row(f"set-up ({name})", "setup_s", "s", np.array(setup)),
        _row(f"set-up ({name})", "buildings", "1", np.array([len(environment.scene.footprints)])),
        _row(f"set-up ({name})", "corners", "1", np.array([len(environment.sides.corner)])),
    ]
    ranges = TransmitterRanges(low_share=1.0, patterns=("isotropic",), pattern_shares=(1.0,))
    sites = tuple(
        draw_transmitter(generator(7, k), environment.site, ranges=ranges)
        for k in range(settings.transmitters)
    )
    engines = {
        "street route": DominantPath(environment, roof=False, layers="street"),
        "all layers, roof": DominantPath(environment),
        "all layers, roof, 4 arrivals": DominantPath(environment, PropagationParameters(labels=4)),
        "all layers, roofs as bends": DominantPath(
            environment, PropagationParameters(roof_law="bends")
        ),
    }
    for label, engine in engines.items():
        engine.trace(sites[:1])
        spent = np.array([_cpu_s(lambda e=engine: e.trace(sites)) for _ in range(settings.repeats)])
        least = 1e3 * spent.min(keepdims=True) / len(sites)
        rows += [
            _row(f"{label} ({name})", "maps_per_s_core", "1/s", len(sites) / spent),
            _row(f"{label} ({name})", "cpu_ms_per_map", "ms", 1e3 * spent / len(sites)),
            _row(f"{label} ({name})", "cpu_ms_per_map_least", "ms", least),
        ]
    uncovered = np.array([_uncovered(engines["street route"], site) for site in sites])
    rows.append(_row(f"street route ({name})", "uncovered_percent", "%", 100.0 * uncovered))
    return rows


def _uncovered(engine: DominantPath, site: Transmitter) -> float:
    """Share of outdoor cells connected with the transmitter that no street route reaches."""
    environment, radio_map = engine.environment, engine.trace((site,))
    moved = np.array(radio_map.transmitters[0].place_m[:2])
    label = np.empty(environment.raster.free.shape, np.int32)
    ndimage.label(environment.raster.free, output=label)
    row, col = environment.raster.grid.cell(moved)
    own = label == label[row, col] if label[row, col] else environment.raster.free
    belt = (environment.raster.grid.rows - environment.grid.rows) // 2
    reachable = own[belt : belt + environment.grid.rows, belt : belt + environment.grid.cols]
    return float(np.mean(~radio_map.valid[0][reachable]))


def _oracle_rows(settings: PropagationBenchConfig) -> list[ResultRow]:
    """Route lengths without bend losses against fast marching on the raster."""
    shortest = PropagationParameters(k1=0.0, k2=0.0, labels=2)
    quantiles, apart = [], []
    for seed in range(settings.oracle_cities):
        grid = Grid(_SIDE, _SIDE, 1.0, (-_SIDE / 2, -_SIDE / 2))
        environment = Environment.prepare(city(10 + seed, buildings=30), grid, margin_m=0.0)
        site = draw_transmitter(generator(8, seed), environment.site)
        site = replace(site, place_m=(*site.place_m[:2], shortest.receiver_height_m))
        if not environment.site.free[tuple(grid.cell(np.array(site.place_m[:2])))]:
            centres = grid.centres_m()[environment.site.free]
            site = replace(site, place_m=(*centres[len(centres) // 2].tolist(), 1.5))
        routes = DominantPath(environment, shortest, roof=False).routes(site)
        marched = _marched_m(environment, np.array(routes.transmitter.place_m[:2]))
        seen = routes.valid & np.isfinite(marched) & (marched > 10.0)
        gap = routes.length_m[seen] - marched[seen]
        quantiles.append(100.0 * np.median(gap / marched[seen]))
        apart.append(np.quantile(gap, [0.05, 0.95]))
    low, high = np.array(apart).T
    name = "length against fast marching"
    return [
        _row(name, "median_percent", "%", np.array(quantiles)),
        _row(name, "p05_m", "m", low),
        _row(name, "p95_m", "m", high),
    ]


def _marched_m(environment: Environment, place_m: np.ndarray) -> Float[np.ndarray, "rows cols"]:
    """Length of the shortest way on the raster [m]; infinite where none leads."""
    import skfmm

    straight = np.linalg.norm(environment.grid.centres_m() - place_m, axis=-1)
    level = np.ma.MaskedArray(straight - _ORACLE_RADIUS_M, ~environment.site.free)
    marched = skfmm.travel_time(level, np.ones(straight.shape), environment.grid.spacing_m)
    far = np.ma.filled(np.ma.asarray(marched), np.inf) + _ORACLE_RADIUS_M
    return np.where(straight < _ORACLE_RADIUS_M, straight, far)


def _fit(
    out: Path, settings: PropagationBenchConfig, digest: str, progress: Callable[[str], None]
) -> list[Path]:
    """The ladder of refinements on RadioMapSeer, leaving one map out."""
    seer = read_maps()
    rows, best = [], None
    for rung in RUNGS:
        if rung.name not in settings.rungs:
            continue
        environment = _environment(seer, rung)
        observations = _observations(seer, environment)
        errors = np.empty(len(observations))
        for held in range(len(observations)):
            others = [seen for k, seen in enumerate(observations) if k != held]
            numbers = _fitted(others, rung, settings).parameters if rung.free else rung.start
            errors[held] = map_error_db(seer, environment, numbers, held)
            progress(f"{rung.name}: map {held} off by {errors[held]:.2f} dB")
        rows += [
            ResultRow(rung.name, "rmse_db", "dB", float(np.sqrt(np.mean(errors**2))), None, 1),
            ResultRow(rung.name, "rmse_best_map_db", "dB", float(errors.min()), None, 1),
            ResultRow(rung.name, "rmse_median_map_db", "dB", float(np.median(errors)), None, 1),
            ResultRow(rung.name, "rmse_worst_map_db", "dB", float(errors.max()), None, 1),
        ]
        total_db = float(np.sqrt(np.mean(errors**2)))
        if rung.free and (best is None or total_db < best[0]):
            best = total_db, rung, environment, observations
    header = provenance(
        digest,
        "RadioMapSeer map 0, ten transmitters; numbers common to all maps, fitted on nine and "
        "scored on the tenth; root mean square over lit free cells, cells without a route "
        "filled from the nearest with one; the mean over maps is of squares",
        same_environment=True,
    )
    write(out / "radiomapseer-fit.json", ResultFile(header, tuple(rows)))
    written = [out / "radiomapseer-fit.json"]
    if best is not None:
        held_out_db, rung, environment, observations = best
        final_fit = _fitted(observations, rung, settings)
        before = [map_error_db(seer, environment, rung.start, k) for k in range(len(observations))]
        path = out / "radiomapseer-parameters.json"
        write_calibration(
            path, final_fit,
            environment_class="suburban blocks, all buildings 25 m high (one environment)",
            source=f"RadioMapSeer map 0, ten maps; refinement: {rung.name}",
            truth_hash=hashlib.sha256(seer.grey.tobytes()).hexdigest(), carrier_hz=CARRIER_HZ,
            held_out_before_db=float(np.sqrt(np.mean(np.square(before)))),
            held_out_after_db=held_out_db,
        )  # fmt: skip
        written.append(path)
    return written


def _environment(seer: SeerMaps, rung: Rung) -> Environment:
    """Walls from the mask, moved east and north."""
    scene = scene_from_mask(seer.site.free, seer.site.grid, height_m=BUILDING_M)
    if rung.simplified:
        scene = _simplified(seer, scene)
    moved = tuple(translate(part, rung.shift_m, rung.shift_m) for part in scene.footprints)
    return Environment.prepare(replace(scene, footprints=moved), seer.site.grid, margin_m=0.0)


def _simplified(seer: SeerMaps, scene: Scene) -> Scene:
    """The scene with the union of its indoor cells as footprints, simplified."""
    row, col = np.nonzero(~seer.site.free)
    cells = shapely.union_all(shapely.box(col, row, col + 1, row + 1))
    parts = tuple(shapely.get_parts(shapely.simplify(cells, _SIMPLIFY_M)))
    return replace(
        scene,
        footprints=parts,
        height_m=np.full(len(parts), BUILDING_M),
        height_rule=("default:mask",) * len(parts),
        source_id=tuple(f"mask/{k}" for k in range(len(parts))),
    )


def _observations(seer: SeerMaps, environment: Environment) -> list[Observation]:
    maps = seer.radio_map
    return [
        Observation.of_map(environment, site, np.where(lit, gain_db, np.nan))
        for site, gain_db, lit in zip(maps.transmitters, maps.path_gain_db, maps.valid, strict=True)
    ]


def _fitted(
    observations: list[Observation], rung: Rung, settings: PropagationBenchConfig
) -> Calibration:
    rules = replace(settings.fit, free=rung.free)
    return calibrate(observations, rung.start, rules)


def map_error_db(
    seer: SeerMaps, environment: Environment, numbers: PropagationParameters, index: int
) -> float:
    """Root mean square error on the lit free cells of one RadioMapSeer map [dB].

    Args:
        seer: the maps.
        environment: where the model runs.
        numbers: the model's numbers.
        index: which map.
    """
    truth, lit = seer.radio_map.path_gain_db[index], seer.radio_map.valid[index]
    traced = DominantPath(environment, numbers, layers="street").trace(
        (seer.radio_map.transmitters[index],)
    )
    model_db = np.maximum(_filled(traced.path_gain_db[0], traced.valid[0]), GreyScale().min_db)
    return float(np.sqrt(np.mean((model_db - truth)[lit] ** 2)))


def _filled(
    values: Float[np.ndarray, "rows cols"], valid: Bool[np.ndarray, "rows cols"]
) -> Float[np.ndarray, "rows cols"]:
    """Values with each gap filled from the nearest valid cell."""
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return values[tuple(np.asarray(nearest))]


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _row(method: str, metric: str, unit: str, values: np.ndarray) -> ResultRow:
    """Mean and standard error over runs (or cities, or maps)."""
    count = len(values)
    error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    return ResultRow(method, metric, unit, float(values.mean()), error, count)
