"""What the command line does, without the terminal: files and options in, files and summaries out.

Every job returns its summary as plain JSON values and writes its files into one folder.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from hertzmap.apps import pages, plots, report
from hertzmap.apps.report import Page
from hertzmap.benchmarks import methods as method_tools
from hertzmap.benchmarks import worlds
from hertzmap.benchmarks.worlds import World, WorldKey
from hertzmap.core.errors import ConfigError, DataError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.seeds import generator
from hertzmap.core.types import (
    AntennaPattern,
    RadioMap,
    Reports,
    Scene,
    SceneRaster,
    Transmitter,
)
from hertzmap.datasets import interchange
from hertzmap.measurement.explain import ExplainedReports, explain_reports
from hertzmap.measurement.sampling import SamplingConfig, sample_reports
from hertzmap.measurement.truth import SimulatedReports, truth_from_fine
from hertzmap.metrics.maps import score_map
from hertzmap.planning.areas import estimate_area
from hertzmap.planning.survey import next_places
from hertzmap.propagation.antennas import read_pattern
from hertzmap.propagation.dominant_path import DominantPath, Environment, PropagationParameters
from hertzmap.propagation.draws import draw_parameters
from hertzmap.scenes import frame
from hertzmap.scenes.osm import read_osm
from hertzmap.scenes.raster import rasterize, window
from hertzmap.scenes.tiles import tiles

MOST_CELLS = 4_000_000
"""Cells of a map above which a job asks for a smaller area or larger cells."""
MARGIN_M = 100.0
"""Buildings this far outside a map still bend its routes [m]."""
FINER = 2
"""Simulated reports are read from a map this much finer than the one written."""
RSRP_REFERENCE_DBM = PowerBudget().reference_dbm
"""Power per resource element of the default link budget [dBm]."""
Tell = Callable[[str], None]
"""Called with what a job does next."""


@final
@dataclass(frozen=True)
class Area:
    """Which part of an extract to read; all of it by default."""

    box_lonlat: tuple[float, float, float, float] | None = None
    """(west, south, east, north) [degrees]."""
    centre_lonlat: tuple[float, float] | None = None
    """(lon, lat) [degrees] of a square's centre, together with `radius_m`."""
    radius_m: float | None = None
    """Half of the square's side [m]."""


def open_scene(osm: Path, area: Area) -> Scene:
    """Read an extract, or the part of it that the area names."""
    return read_osm(
        osm,
        box_lonlat=area.box_lonlat,
        centre_lonlat=area.centre_lonlat,
        radius_m=area.radius_m,
    )


def grid_over(bounds_m: tuple[float, float, float, float], spacing_m: float) -> Grid:
    """The smallest grid of whole cells over an area, with its corners on whole cells.

    Raises:
        ConfigError: if the spacing is not above 0 or the grid would have over 4 million cells.
    """
    if not (math.isfinite(spacing_m) and spacing_m > 0):
        msg = f"the spacing must be above 0 m, got {spacing_m}"
        raise ConfigError(msg)
    low = np.floor(np.array(bounds_m[:2]) / spacing_m)
    high = np.ceil(np.array(bounds_m[2:]) / spacing_m)
    cols, rows = (high - low).astype(np.int64).tolist()
    if rows * cols > MOST_CELLS:
        msg = (
            f"{rows} x {cols} cells of {spacing_m:g} m are over {MOST_CELLS:,}; choose a part of "
            "the extract (--box, or --centre with --radius) or a larger --spacing"
        )
        raise ConfigError(msg)
    return Grid(rows, cols, spacing_m, (float(low[0] * spacing_m), float(low[1] * spacing_m)))


# --- scene --------------------------------------------------------------------------------------


def summarise_scene(scene: Scene) -> dict[str, Any]:
    """Counts, heights, extent and credit of a scene."""
    west, south, east, north = scene.bounds_m
    rules, counts = np.unique(
        [rule.partition(":")[0] for rule in scene.height_rule], return_counts=True
    )
    reasons, skips = np.unique([item.reason for item in scene.skipped], return_counts=True)
    covered = sum(footprint.area for footprint in scene.footprints)
    summary: dict[str, Any] = {
        "name": scene.name,
        "buildings": len(scene.footprints),
        "roads": len(scene.roads),
        "size_m": [round(east - west, 1), round(north - south, 1)],
        "footprint_share": round(covered / ((east - west) * (north - south)), 4),
        "height_median_m": round(float(np.median(scene.height_m)), 1),
        "height_max_m": round(float(scene.height_m.max()), 1),
        "heights_from": dict(zip(rules.tolist(), counts.tolist(), strict=True)),
        "skipped": dict(zip(reasons.tolist(), skips.tolist(), strict=True)),
        "crs": scene.crs,
        "origin_m": list(scene.origin_m),
        "bounds_m": [round(edge, 2) for edge in scene.bounds_m],
        "attribution": scene.attribution,
    }
    if scene.crs != "LOCAL":
        corners = frame.to_lonlat(scene, np.array([[west, south], [east, north]]))
        summary["bounds_lonlat"] = np.round(corners, 6).ravel().tolist()
    return summary


def export_scene(scene: Scene, out: Path, *, raster_m: float | None) -> dict[str, Any]:
    """Write GeoJSON and picture, and heights as GeoTIFF if a spacing [m] is given."""
    files = {"geojson": out / f"{scene.name}.geojson", "picture": out / f"{scene.name}.png"}
    interchange.write_geojson(files["geojson"], scene)
    plots.save(plots.scene_figure(scene), files["picture"])
    if raster_m is not None:
        site = rasterize(scene, grid_over(scene.bounds_m, raster_m))
        files["raster"] = out / f"{scene.name}.tif"
        bands = {"building_height_m": site.height_m, "outdoors": site.free.astype(np.float64)}
        interchange.write_geotiff(files["raster"], bands, site.grid, scene)
    return summarise_scene(scene) | {"files": _named(files)}


# --- simulate -----------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class SimulateOptions:
    """What to simulate."""

    lonlat: tuple[tuple[float, float], ...] = ()
    """Transmitters by (lon, lat) [degrees]."""
    local_m: tuple[tuple[float, float], ...] = ()
    """Transmitters by local (east, north) [m]."""
    height_m: float = 10.0
    """Height of the antennas above ground [m]."""
    carrier_hz: float = 3.5e9
    """Carrier frequency [Hz]."""
    pattern: str = "isotropic"
    """``isotropic``, ``dipole``, ``sector`` or a pattern file (MSI)."""
    azimuth_deg: float = 0.0
    """Where the antennas look [degrees], clockwise from north."""
    tilt_deg: float = 0.0
    """How far they look down [degrees]."""
    reference_dbm: float = RSRP_REFERENCE_DBM
    """Power per resource element [dBm]: RSRP = path gain + this."""
    propagation: Path | None = None
    """YAML file of propagation parameters; the defaults without it."""
    draw_propagation: bool = False
    """Draw the propagation parameters at random by the seed."""
    spacing_m: float = 1.0
    """Side of a cell [m]."""
    sampling: SamplingConfig | None = None
    """Also simulate reports of the first transmitter."""


def simulate(
    scene: Scene, out: Path, options: SimulateOptions, *, seed: int, tell: Tell
) -> dict[str, Any]:
    """Simulate path gain and RSRP of each transmitter; optionally sample reports.

    Raises:
        ConfigError: if no transmitter is given, or a parameter file is not valid.
        PropagationError: if a transmitter stands inside a building.
    """
    transmitters = _transmitters(scene, options)
    parameters = _parameters(options, seed)
    grid = grid_over(scene.bounds_m, options.spacing_m)
    started = time.perf_counter()
    tell("preparing the environment")
    environment = Environment.prepare(scene, grid, margin_m=MARGIN_M)
    tell(f"tracing {len(transmitters)} transmitter(s) over {grid.rows} x {grid.cols} cells")
    radio_map = DominantPath(environment, parameters).trace(transmitters)
    files = _write_maps(radio_map, environment.site, scene, out, options.reference_dbm)
    summary: dict[str, Any] = {
        "scene": scene.name,
        "transmitters": [asdict(transmitter) for transmitter in radio_map.transmitters],
        "propagation": asdict(parameters),
        "grid": asdict(grid),
        "reference_dbm": options.reference_dbm,
        "served_share": [
            round(float(valid[environment.site.free].mean()), 4) for valid in radio_map.valid
        ],
    }
    if options.sampling is not None:
        tell("sampling reports from a finer map")
        simulated = _sample(scene, environment, parameters, radio_map, options.sampling, seed)
        files["reports"] = out / "reports.csv"
        interchange.write_reports(files["reports"], simulated.reports, scene)
        summary["reports"] = len(simulated.reports)
        summary["sampling"] = asdict(options.sampling)
    summary["seconds"] = round(time.perf_counter() - started, 2)
    summary["files"] = _named(files)
    return summary | {"made_by": report.provenance(seed)}


def _transmitters(scene: Scene, options: SimulateOptions) -> tuple[Transmitter, ...]:
    local = [*options.local_m]
    if options.lonlat:
        local += [tuple(p) for p in frame.to_local(scene, np.array(options.lonlat)).tolist()]
    if not local:
        msg = "no transmitter is given; place at least one by --at LON,LAT or --at-local EAST,NORTH"
        raise ConfigError(msg)
    known = ("isotropic", "dipole", "sector")
    pattern = (
        AntennaPattern(options.pattern)
        if options.pattern in known
        else read_pattern(Path(options.pattern))
    )
    try:
        return tuple(
            Transmitter(
                (east, north, options.height_m),
                options.carrier_hz,
                pattern,
                yaw_rad=math.radians(90.0 - options.azimuth_deg),
                pitch_rad=math.radians(options.tilt_deg),
                name=f"tx{index}",
            )
            for index, (east, north) in enumerate(local, start=1)
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _parameters(options: SimulateOptions, seed: int) -> PropagationParameters:
    if options.draw_propagation:
        return draw_parameters(generator(seed))
    if options.propagation is None:
        return PropagationParameters()
    return _read_parameters(options.propagation)


def _read_parameters(path: Path) -> PropagationParameters:
    import yaml
    from pydantic import TypeAdapter

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        parameters = TypeAdapter(PropagationParameters).validate_json(json.dumps(content))
    except (OSError, ValueError, yaml.YAMLError) as error:
        msg = f"{path} holds no propagation parameters: {error}"
        raise ConfigError(msg) from error
    known = [field.name for field in fields(PropagationParameters)]
    unknown = [name for name in content if name not in known]
    if unknown:
        msg = f"{path}: {', '.join(unknown)} is no propagation parameter; known: {', '.join(known)}"
        raise ConfigError(msg)
    return parameters


def _write_maps(
    radio_map: RadioMap, site: SceneRaster, scene: Scene, out: Path, reference_dbm: float
) -> dict[str, Path]:
    files: dict[str, Path] = {"npz": out / "maps.npz"}
    layers = {
        "path_gain_db": radio_map.path_gain_db,
        "toa_s": radio_map.toa_s,
        "los": radio_map.los,
        "valid": radio_map.valid,
    }
    with interchange.whole_file(files["npz"]) as partial, partial.open("wb") as stream:
        np.savez_compressed(
            stream,
            origin_m=np.array(radio_map.grid.origin_m),
            spacing_m=np.array(radio_map.grid.spacing_m),
            free=site.free,
            **{name: layer for name, layer in layers.items() if layer is not None},
        )
    for index, transmitter in enumerate(radio_map.transmitters):
        gain_db = np.where(radio_map.valid[index], radio_map.path_gain_db[index], np.nan)
        bands = {"path_gain_db": gain_db, "rsrp_dbm": gain_db + reference_dbm}
        files[transmitter.name] = out / f"{transmitter.name}.tif"
        interchange.write_geotiff(
            files[transmitter.name], bands, radio_map.grid, scene, free=site.free
        )
        files[f"{transmitter.name}_picture"] = out / f"{transmitter.name}.png"
        figure = plots.propagation_figure(radio_map, site, tx=index, scene=scene)
        plots.save(figure, files[f"{transmitter.name}_picture"])
    return files


def _sample(
    scene: Scene,
    environment: Environment,
    parameters: PropagationParameters,
    radio_map: RadioMap,
    sampling: SamplingConfig,
    seed: int,
) -> SimulatedReports:
    fine = Environment.prepare(scene, environment.grid.refine(FINER), margin_m=MARGIN_M)
    traced = DominantPath(fine, parameters, layers="street").trace(radio_map.transmitters[:1])
    truth = truth_from_fine(traced, fine.site.free, FINER, free=environment.site.free)
    return sample_reports(truth, sampling, generator(seed, 1))


# --- estimate -----------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class EstimateOptions:
    """How to turn reports into a map."""

    method: str = "combined:default"
    """``name:preset[:option=value,...]``."""
    spacing_m: float = 2.0
    """Side of a cell [m]."""
    margin_m: float = 60.0
    """Ground around the reports that the map covers [m]."""
    threshold_dbm: float = -100.0
    """Power whose coverage probability is mapped [dBm]."""
    cell: int | None = None
    """Radio cell; needed when the table holds several."""
    noise_db: float = interchange.NOISE_DB
    """Value noise of rows that state none [dB]."""
    drift_std_m: float = interchange.DRIFT_STD_M
    """Drift per axis of rows that state none [m]."""
    value: str | None = None
    """Power column, when there are several."""
    reports_crs: str | None = None
    """CRS of the columns ``east_m``, ``north_m``; None: the scene's local metres."""
    reference_dbm: float | None = None
    """Known EIRP per resource element [dBm]."""
    outside: Literal["error", "drop"] = "error"
    """What to do with reports outside the map."""
    next_places: int = 8
    """Places that are proposed for the next measurements."""


def estimate(
    scene: Scene, table: Path, out: Path, options: EstimateOptions, *, seed: int, tell: Tell
) -> dict[str, Any]:
    """Estimate the map of one radio cell from measured reports and write it in three forms.

    Raises:
        ReportsError: if the table cannot be used, or holds several radio cells and none is named.
        ConfigError: if the method or the grid is not valid.
    """
    tell("reading reports")
    reports = read_table(scene, table, options)
    cells = interchange.cells_by_count(reports)
    if len(cells) > 1:
        listed = ", ".join(f"{name} ({count})" for name, count in cells.items())
        msg = (
            f"{table} holds several radio cells; choose one by --cell, or map all of them by "
            f"`hertzmap network`: {listed} reports"
        )
        raise ReportsError(msg)
    site = site_around(scene, reports, options)
    grid = site.grid
    estimator = method_tools.build(options.method)
    tell(f"estimating {grid.rows} x {grid.cols} cells from {len(reports)} reports")
    started = time.perf_counter()
    posterior = estimate_area(
        estimator,
        reports,
        site,
        seed=seed,
        folder=out / "tiles",
        name=method_tools.fingerprint(estimator),
        progress=tell,
    )
    seconds = time.perf_counter() - started
    covered, least, most = posterior.covered_share(options.threshold_dbm, site.free)
    tell("asking the map about the reports, and where to measure next")
    explained = explain_reports(posterior, reports, site)
    noise_db = float(np.median(reports.noise_db)) or interchange.NOISE_DB
    survey = next_places(
        posterior, site.free, scene=scene, count=options.next_places, noise_db=noise_db, seed=seed
    )
    files = {
        "map": out / "map.tif",
        "report": out / "report.html",
        "reports": out / "reports.csv",
        "next_places": out / "next_places.csv",
        "buildings": out / "scene.geojson",
    }
    summary: dict[str, Any] = {
        "scene": scene.name,
        "reports_file": str(table),
        "reports": len(reports),
        "repeated_places": interchange.repeated_places(reports),
        "cell": next(iter(cells), None),
        "method": options.method,
        "grid": asdict(grid),
        "threshold_dbm": options.threshold_dbm,
        "mean_coverage_probability": round(covered, 4),
        "covered_share_90_percent_interval": [round(least, 4), round(most, 4)],
        "median_dbm": round(float(np.median(posterior.mean_dbm()[site.free])), 2),
        "median_std_db": round(float(np.median(posterior.std_db()[site.free])), 2),
        "variance_left_after_next_places": round(float(survey.left[-1]), 4),
        "transmitters": [
            {
                "east_m": round(float(one.median_m()[0]), 1),
                "north_m": round(float(one.median_m()[1]), 1),
                "area_of_90_percent_m2": round(one.region_area_m2(0.9)),
            }
            for one in posterior.transmitters
        ],
        "seconds": round(seconds, 2),
    }
    tell("writing")
    interchange.write_map(files["map"], posterior, site, scene, threshold_dbm=options.threshold_dbm)
    _write_explained(files["reports"], reports, explained, scene)
    interchange.write_places(
        files["next_places"],
        survey.place_m,
        scene,
        {"rank": np.arange(1, len(survey.left) + 1), "std_db": np.round(survey.std_db, 2),
         "variance_left": np.round(survey.left, 4)},
    )  # fmt: skip
    around = window(scene, grid, 0.0)
    if scene.crs != "LOCAL":
        interchange.write_geojson(files["buildings"], around, reports=reports)
    else:
        del files["buildings"]
    page = pages.estimate_page(summary, reports, posterior, site, around, survey, seed=seed)
    interchange.write_text(files["report"], report.render(page))
    summary["files"] = _named(files)
    return summary | {"made_by": report.provenance(seed)}


def read_table(scene: Scene, table: Path, options: EstimateOptions) -> Reports:
    """Read measured reports as the options say."""
    return interchange.read_reports(
        table,
        scene,
        noise_db=options.noise_db,
        drift_std_m=options.drift_std_m,
        cell=options.cell,
        value=options.value,
        crs=options.reports_crs,
        reference_dbm=options.reference_dbm,
        outside=options.outside,
    )


def site_around(scene: Scene, reports: Reports, options: EstimateOptions) -> SceneRaster:
    """Heights and outdoor mask around the reports."""
    low = reports.reported_m.min(axis=0) - options.margin_m
    high = reports.reported_m.max(axis=0) + options.margin_m
    return rasterize(scene, grid_over((*low.tolist(), *high.tolist()), options.spacing_m))


def _write_explained(
    path: Path, reports: Reports, explained: ExplainedReports, scene: Scene
) -> None:
    """Reports at the places where they were likely taken."""
    used = reports.select(explained.used)
    moved_m = explained.place_m - used.reported_m
    std_m = np.sqrt(0.5 * np.trace(explained.covariance_m2, axis1=1, axis2=2))
    columns = {
        "power_dbm": used.power_dbm,
        "moved_east_m": np.round(moved_m[:, 0], 2),
        "moved_north_m": np.round(moved_m[:, 1], 2),
        "std_m": np.round(std_m, 2),
        "information_nats": np.round(explained.information_nats, 4),
    }
    if used.cell_id is not None:
        columns["cell_id"] = used.cell_id
    interchange.write_places(path, explained.place_m, scene, columns)


# --- evaluate -----------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate on simulated truth."""

    methods: tuple[str, ...] = ("combined:default", "kriging:tuned")
    """Methods as ``name:preset[:option=value,...]``."""
    size_m: float = 256.0
    """Side of the tile [m]."""
    spacing_m: float = 1.0
    """Side of a cell [m]."""
    tile: int = 0
    """Which of the extract's tiles."""
    sampling: SamplingConfig = SamplingConfig()
    """How reports are drawn."""


def evaluate(
    scene: Scene, out: Path, options: EvaluateOptions, *, seed: int, tell: Tell
) -> dict[str, Any]:
    """Simulate a truth on a tile, estimate it from sampled reports by each method, and score.

    Raises:
        ConfigError: if the extract has no such tile, or a method is not known.
    """
    found = tiles(scene, size_m=options.size_m, spacing_m=options.spacing_m, limit=options.tile + 1)
    if len(found) <= options.tile:
        msg = (
            f"{scene.name} has {len(found)} tiles of {options.size_m:g} m with enough buildings, "
            f"so there is no tile {options.tile}; choose a smaller --tile or --size"
        )
        raise ConfigError(msg)
    contestants = {name: method_tools.build(name) for name in options.methods}
    tell("simulating the truth")
    key = WorldKey("cities", scene.name, seed)
    grid = found[options.tile]
    around = window(scene, grid, MARGIN_M)
    world = worlds.world_of(key, around, grid)
    simulated = sample_reports(world.truth, options.sampling, generator(seed, 1))
    scores, posteriors = {}, {}
    for name, estimator in contestants.items():
        tell(f"estimating by {name} from {len(simulated.reports)} reports")
        started = time.perf_counter()
        posteriors[name] = estimator.estimate(simulated.reports, world.site, seed=seed)
        scores[name] = scored(posteriors[name], world, options.sampling.reference_dbm)
        scores[name]["seconds"] = round(time.perf_counter() - started, 2)
    files = {"report": out / "report.html"}
    page = Page(
        f"Evaluation on {scene.name}",
        f"A simulated truth, {len(simulated.reports)} noisy and misplaced reports of it, and what "
        f"{len(scores)} methods make of them.",
        (pages.truth_section("The district", world, simulated, posteriors, scores, around),),
        seed,
        (report.CREDITS["osm"],) if scene.attribution else (),
    )
    interchange.write_text(files["report"], report.render(page))
    return {
        "scene": scene.name,
        "grid": asdict(grid),
        "sampling": asdict(options.sampling),
        "reports": len(simulated.reports),
        "flags": worlds.flags("cities"),
        "scores": scores,
        "files": _named(files),
        "made_by": report.provenance(seed),
    }


def scored(posterior: MapPosterior, world: World, reference_dbm: float) -> dict[str, float]:
    """Scores of a posterior on a simulated world, rounded for print."""
    truth_dbm = world.truth.path_gain_db + reference_dbm
    scores = score_map(posterior, truth_dbm, world.site.free, reference_dbm=reference_dbm)
    return {name: round(float(value), 4) for name, value in scores.items()}


def _named(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in files.items()}


def prior_picture(weights: Path, maps: Path, count: int = 4) -> plots.Figure:
    """Draw what a diffusion prior makes of maps of a folder, and its loss over training.

    Args:
        weights: ``.safetensors`` with the card beside it.
        maps: folder of shards, of cities it was not trained on.
        count: maps, of different cities.

    Raises:
        DataError: if weights, card or maps are missing or damaged.
    """
    from hertzmap.training.checkpoint import load_denoiser
    from hertzmap.training.prior import examples

    found = examples(load_denoiser(weights), maps, count)
    if not found:
        msg = f"no maps in {maps}; make them by `hertzmap train`"
        raise DataError(msg)
    card = json.loads(weights.with_suffix(".json").read_text())
    rows = [
        {
            "map": one.truth,
            "conditional mean": one.mean,
            "with global unknowns fitted": one.fitted,
            "a draw of the prior": one.sample,
        }
        for one in found
    ]
    return plots.prior_figure(rows, [one.free for one in found], card["loss_curve"])
