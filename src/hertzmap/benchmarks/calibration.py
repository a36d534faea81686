"""Fit of the dominant-path model and of materials to ray-traced maps, and what it brings.

The model's numbers are fitted to the calibration maps of all cities but one and scored on that one;
then fitted to all and scored on the test cities' maps, which no fit has seen. Each kind of truth is
fitted alone: ``rays`` with bends at edges, nearly everywhere, and ``paths`` without, where
reflections reach (see `benchmarks.ray_traced`). Test cities have maps by paths.

Materials are fitted to a map that the tracer made with known ones. Gradients: the model's numbers
by finite differences with routes held fixed; materials by the tracer's own derivative, which is
checked here against finite differences; places of antennas have none, see
`propagation.material_fit`.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, Float

from hertzmap.benchmarks import results
from hertzmap.benchmarks.propagation import Rung
from hertzmap.benchmarks.ray_traced import MARGIN_M, RAYS_FROM, plans
from hertzmap.benchmarks.results import ResultFile, ResultRow
from hertzmap.core.errors import DataError, MissingExtraError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Transmitter
from hertzmap.core.units import GreyScale
from hertzmap.datasets import raytraced, splits
from hertzmap.datasets.raytraced import RayTraced
from hertzmap.propagation.calibration import (
    CalibrationConfig,
    Observation,
    calibrate,
    write_calibration,
)
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.material_fit import (
    Material,
    calibrate_materials,
    map_error,
    materials,
    set_materials,
)
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.ray_budget import RayBudget, SionnaConfig
from hertzmap.propagation.sionna_rt import SionnaScene
from hertzmap.scenes.raster import window

logger = logging.getLogger(__name__)

PROTOCOL = (
    "Ray-traced path gain minus the model's, over cells with a truth; line of sight as the tracer "
    "sees it. By kind of truth that was fitted (rays: diffraction, mean over seeds; paths: without "
    "diffraction). Mean and bootstrap standard error over cities, each left out of the fit it is "
    "scored with (left_out_*), and over the test cities, by paths, after a fit to all calibration "
    "maps (test_*). Cells without a path, or below the scale's floor, hold no truth: their share "
    "is stated (dark_share), and the fit is optimistic there."
)
"""What the numbers mean; stands in the result file."""
UNLIKE = 1e-3
"""Share of cells that may differ between the site of a file and that of its extract."""
KINDS = ("paths", "rays")
"""Kinds of truth; the numbers that are kept come from the first."""
_NINE = CalibrationConfig().free


RUNGS = (
    Rung("defaults", PropagationParameters(), ()),
    Rung("nine numbers", PropagationParameters(), _NINE),
    Rung("roofs as bends, defaults", PropagationParameters(roof_law="bends"), ()),
    Rung("roofs as bends", PropagationParameters(roof_law="bends"), _NINE),
)
"""Ways to fit the model; what is not fitted comes before what is. Other rules of the exponent, a
constant per bend, a largest bend factor and four labels changed nothing."""


@final
@dataclass(frozen=True)
class CalibrationBenchConfig:
    """What is fitted, and how."""

    rungs: tuple[str, ...] = field(default_factory=lambda: tuple(rung.name for rung in RUNGS))
    """Ways to fit the model."""
    fit: CalibrationConfig = field(default_factory=lambda: CalibrationConfig(places=600, rounds=6))
    """Rules of the fit."""
    material_side_m: float = 96.0
    """Side of the area in which materials are fitted [m]."""
    material_spacing_m: float = 8.0
    """Its cells [m]."""
    material_rounds: int = 20
    """Most iterations of their fit."""


@final
@dataclass(frozen=True)
class Seen:
    """A ray-traced map, placed in the environment that the model searches."""

    traced: RayTraced
    """The map."""
    observation: Observation
    """Its cells with a path."""
    los: Bool[np.ndarray, " points"]
    """Line of sight at these cells."""


def run(
    path: Path = Path("results/data/calibration.json"),
    *,
    parts: tuple[str, ...] = ("model", "materials"),
    config: CalibrationBenchConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Path, ...]:
    """Fit to the shipped calibration maps, score, and write the result file.

    Args:
        path: the result file; the fitted numbers lie beside it, in ``<stem>-parameters.json``.
        parts: ``model`` and ``materials``, or one of them; without a ray tracer materials are
            left out.
        config: what is fitted.
        progress: called with a sentence after each step.

    Returns:
        The files written.

    Raises:
        DataError: if maps or extracts are missing: calibration cities need the full data folder.
    """
    settings = config or CalibrationBenchConfig()
    train, test = load_maps("training"), load_maps("test")
    progress(f"read {len(train)} calibration maps and {len(test)} maps of test cities")
    rows, numbers = _share_rows("test", test), None
    for kind in KINDS if "model" in parts else ():
        mine = _of_kind(train, kind)
        rows += _share_rows(f"{kind}: left_out", mine)
        found = [
            _try(mine, test, kind, rung, settings.fit)
            for rung in RUNGS
            if rung.name in settings.rungs
        ]
        for tried in found:
            rows += tried.rows
            progress(f"{kind}, {tried.rung.name}: {tried.words}")
        if kind == KINDS[0]:
            numbers = min((one for one in found if one.rung.free), key=lambda one: one.left_out_db)
    if "materials" in parts:
        try:
            rows += material_rows(settings)
            progress("fitted materials")
        except MissingExtraError as error:
            progress(f"materials are left out: {error}")
    header = results.provenance(
        results.hash_of(asdict(settings)),
        PROTOCOL,
        calibration_cities=_cities(train),
        test_cities=_cities(test),
        maps=[len(train), len(test)],
        truth_sha256={kind: _digest(_of_kind(train, kind)) for kind in KINDS},
        gradients={
            "model numbers": "finite differences, routes held fixed",
            "materials": "the tracer's reverse derivative; see the rows 'materials'",
            "places of antennas": "none: refused, the tracer's is zero",
        },
    )
    results.write(path, ResultFile(header, tuple(rows)))
    if numbers is None:
        return (path,)
    return path, _write_numbers(path, _of_kind(train, KINDS[0]), numbers, settings.fit)


@final
@dataclass(frozen=True)
class _Tried:
    """What one way to fit came to on one kind of truth."""

    rung: Rung
    rows: list[ResultRow]
    start_db: float
    """Error of the starting numbers, mean over cities [dB]."""
    left_out_db: float
    """Error on cities that were left out of the fit, mean over cities [dB]."""
    words: str


def _try(
    train: list[Seen], test: list[Seen], kind: str, rung: Rung, rules: CalibrationConfig
) -> _Tried:
    """Score a way to fit on each city in turn, left out, and on the test cities."""
    cities, name = _cities(train), f"{kind}: {rung.name}"
    left_out = {}
    for city in cities:
        others = [one for one in train if one.traced.extract != city]
        left_out[city] = scores(of(train, city), _fitted(others, rung, rules))
    whole = _fitted(train, rung, rules)
    tested = {city: scores(of(test, city), whole) for city in _cities(test)}
    before = [scores(of(train, city), rung.start)["rmse_db"] for city in cities]
    mean = {
        key: float(np.mean([one[key] for one in left_out.values()]))
        for key in ("rmse_db", "los_bias_db", "los_std_db", "nlos_bias_db", "nlos_std_db")
    }
    words = ", ".join(f"{key} {value:.2f}" for key, value in mean.items())
    rows = _rows(name, "left_out", left_out) + _rows(name, "test", tested)
    return _Tried(rung, rows, float(np.mean(before)), mean["rmse_db"], words)


def load_maps(part: str) -> list[Seen]:
    """The shipped maps of a part (``training`` or ``test``) in their environments.

    Maps by rays have the gains of the map by paths in sight: all seeds send the same first rays, so
    that few hits of a low antenna's rays do not average out there.

    Raises:
        DataError: if there is none, an extract is missing, or it is not what was traced.
    """
    found = [
        raytraced.load(plan.extract, plan.index)
        for plan in plans((part,), maps_per_city=2)
        if raytraced.name_of(plan.extract, plan.index) in raytraced.names()
    ]
    if not found:
        msg = f"no ray-traced {part} map is at hand; make them with `hertzmap bench ray-traced`"
        raise DataError(msg)
    by_paths = {
        (one.extract, one.index + RAYS_FROM): one for one in found if one.made["kind"] == "paths"
    }
    found = [straight(one, by_paths.get((one.extract, one.index))) for one in found]
    environments: dict[tuple[str, Grid], Environment] = {}
    for traced in found:
        tile = traced.site.grid
        if (traced.extract, tile) not in environments:
            scene = window(splits.load_extract(traced.extract), tile, MARGIN_M)
            environment = Environment.prepare(scene, tile, margin_m=MARGIN_M)
            environments[traced.extract, tile] = environment
    return [place(traced, environments[traced.extract, traced.site.grid]) for traced in found]


def straight(rays: RayTraced, paths: RayTraced | None) -> RayTraced:
    """A map by rays with the gains by paths of the same antenna where both are in sight."""
    if paths is None or paths.transmitter.place_m != rays.transmitter.place_m:
        return rays
    layers, los = rays.radio_map, paths.radio_map.los
    assert los is not None
    gain_db = np.where(los, paths.radio_map.path_gain_db, layers.path_gain_db)
    seen = replace(layers, path_gain_db=gain_db, valid=layers.valid | los, los=los)
    return replace(rays, radio_map=seen)


def place(traced: RayTraced, environment: Environment) -> Seen:
    """Put a ray-traced map in an environment of the same tile.

    Gains below the floor of the scale count as dark: where one bend and no more is traced, they
    fall without bound.

    Raises:
        DataError: if the environment has other outdoor cells than the map.
    """
    if np.mean(environment.site.free != traced.site.free) > UNLIKE:
        msg = (
            f"the extract {traced.extract!r} is not the one its ray-traced map {traced.index} was "
            "made from; make the map again with `hertzmap bench ray-traced`"
        )
        raise DataError(msg)
    cell = environment.grid.cell(traced.radio_map.grid.centres_m())
    lit = traced.radio_map.valid[0] & environment.site.free[cell[..., 0], cell[..., 1]]
    lit &= np.nan_to_num(traced.radio_map.path_gain_db[0], nan=-np.inf) > GreyScale().min_db
    gain_db = traced.radio_map.path_gain_db[0][lit].astype(float)
    los = traced.radio_map.los
    assert los is not None
    seen = Observation(environment, traced.transmitter, cell[lit], gain_db)
    return Seen(traced, seen, los[0][lit])


def scores(seen: list[Seen], numbers: PropagationParameters) -> dict[str, float]:
    """How far ray-traced gains lie above the model's, in and out of sight.

    Args:
        seen: maps.
        numbers: the model's numbers.

    Returns:
        ``rmse_db``; ``los_bias_db``, ``los_std_db``, ``nlos_bias_db``, ``nlos_std_db``,
        ``nlos_correlation``; ``nlos_street_std_db`` and ``nlos_roof_std_db`` by antenna;
        ``reached``, the share of cells with a path that the model reaches.
    """
    gap, level, los, street, reached = [], [], [], [], []
    for one in seen:
        off, model = above_model_db(one, numbers)
        fits = np.isfinite(off)
        gap.append(off[fits])
        level.append(np.stack([model[fits], model[fits] + off[fits]]))
        los.append(one.los[fits])
        street.append(np.full(fits.sum(), one.traced.made["antenna"] == "street"))
        reached.append(fits)
    off, sight, low = np.concatenate(gap), np.concatenate(los), np.concatenate(street)
    both = np.concatenate(level, axis=1)
    found = {"rmse_db": float(np.sqrt(np.mean(off**2)))}
    for name, mask in (("los", sight), ("nlos", ~sight)):
        if mask.any():
            found[f"{name}_bias_db"] = float(off[mask].mean())
            found[f"{name}_std_db"] = float(off[mask].std())
    found["nlos_correlation"] = float(np.corrcoef(both[:, ~sight])[0, 1])
    for name, mask in (("street", low & ~sight), ("roof", ~low & ~sight)):
        if mask.any():
            found[f"nlos_{name}_std_db"] = float(off[mask].std())
    return found | {"reached": float(np.concatenate(reached).mean())}


def above_model_db(
    seen: Seen, numbers: PropagationParameters
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Ray-traced minus modelled gain, and modelled gain [dB]; NaN where the model has no route.

    The model's gains are cut at the floor of the scale.
    """
    observation = seen.observation
    engine = DominantPath(observation.environment, numbers, layers="street")
    modelled = engine.trace((observation.transmitter,)).path_gain_db[0]
    model_db = modelled[observation.cell[:, 0], observation.cell[:, 1]].astype(float)
    model_db = np.maximum(model_db, GreyScale().min_db)  # NaN stays
    return observation.gain_db - model_db, model_db


def of(seen: list[Seen], city: str) -> list[Seen]:
    """The maps of one city."""
    return [one for one in seen if one.traced.extract == city]


def _of_kind(seen: list[Seen], kind: str) -> list[Seen]:
    return [one for one in seen if one.traced.made["kind"] == kind]


def _cities(seen: list[Seen]) -> list[str]:
    return list(dict.fromkeys(one.traced.extract for one in seen))


def _fitted(seen: list[Seen], rung: Rung, rules: CalibrationConfig) -> PropagationParameters:
    if not rung.free:
        return rung.start
    observations = [one.observation for one in seen]
    return calibrate(observations, rung.start, replace(rules, free=rung.free)).parameters


def _rows(method: str, part: str, by_city: dict[str, dict[str, float]]) -> list[ResultRow]:
    """Mean over cities of each score, and the scores of each city."""
    rows = []
    for name in dict.fromkeys(key for one in by_city.values() for key in one):
        found = {city: one[name] for city, one in by_city.items() if name in one}
        unit = "dB" if name.endswith("_db") else "1"
        values = np.array(list(found.values()))
        error = results.standard_error(values)
        rows.append(
            ResultRow(method, f"{part}_{name}", unit, _tidy(values.mean()), error, len(values))
        )
        rows += [
            ResultRow(method, f"{part}_{name}@{city}", unit, _tidy(value), None, 1)
            for city, value in found.items()
        ]
    return rows


def _share_rows(part: str, seen: list[Seen]) -> list[ResultRow]:
    """Shares of outdoor cells without a truth, and of cells in sight among those with one."""
    kind, _, part = part.rpartition(": ")
    shares = {
        city: {
            "dark_share": float(
                np.mean([1.0 - len(one.los) / one.traced.outdoors.sum() for one in of(seen, city)])
            ),
            "los_share": float(np.mean(np.concatenate([one.los for one in of(seen, city)]))),
        }
        for city in _cities(seen)
    }
    return _rows(f"{kind}: truth" if kind else "truth", part, shares)


def material_rows(settings: CalibrationBenchConfig) -> list[ResultRow]:
    """Materials recovered from a map that was traced with known ones, and the derivative's error.

    Raises:
        MissingExtraError: if the ray tracer is not installed.
    """
    traced = raytraced.load("heidelberg", 0)
    tile = traced.site.grid
    scene = window(splits.load_extract("heidelberg"), tile, 0.0)
    config = SionnaConfig(depth=2, path_map=RayBudget(10_000, False), max_paths=400_000)
    tracer = SionnaScene.of(scene, config)
    station = Transmitter(traced.transmitter.place_m)
    grid = _around(station, settings)
    cell = tile.cell(grid.centres_m())
    inside = tile.contains(grid.centres_m())
    clipped = np.clip(cell, 0, np.array(tile.shape) - 1)
    free = inside & traced.site.free[clipped[..., 0], clipped[..., 1]]
    truth = tracer.path_map((station,), grid, free)
    known = materials(tracer)
    names = tuple(sorted(known))
    start = {
        name: Material(0.7 * one.relative_permittivity, 2.0 * one.conductivity_s_m)
        for name, one in known.items()
    }
    set_materials(tracer, start)
    rows = _derivative_rows(tracer, truth, start)
    set_materials(tracer, start)
    fit = calibrate_materials(tracer, truth, names, rounds=settings.material_rounds)

    def row(metric: str, unit: str, value: float) -> ResultRow:
        return ResultRow("materials", metric, unit, _tidy(value), None, 1)

    for name in names:
        for label, value in (
            ("true", known[name]),
            ("start", start[name]),
            ("fit", fit.after[name]),
        ):
            rows.append(row(f"permittivity_{label}@{name}", "1", value.relative_permittivity))
            rows.append(row(f"conductivity_{label}@{name}", "S/m", value.conductivity_s_m))
    rows += [
        row("rms_before_db", "dB", fit.rms_before_db),
        row("rms_after_db", "dB", fit.rms_after_db),
        row("maps_traced", "1", float(fit.evaluations)),
        row("cells", "1", float(truth.valid.sum())),
    ]
    return rows


def _around(station: Transmitter, settings: CalibrationBenchConfig) -> Grid:
    """Cells around a station."""
    count = round(settings.material_side_m / settings.material_spacing_m)
    half = 0.5 * settings.material_side_m
    east, north = station.place_m[:2]
    return Grid(count, count, settings.material_spacing_m, (east - half, north - half))


def _derivative_rows(
    tracer: SionnaScene, truth: RadioMap, start: dict[str, Material]
) -> list[ResultRow]:
    """Derivative of the squared error by each material value against central differences."""
    names = tuple(sorted(start))
    slope = map_error(tracer, truth, names).slope
    rows = []
    for name in names:
        for number, kind in enumerate(("relative_permittivity", "conductivity_s_m")):
            step = 5e-3 * getattr(start[name], kind)
            ends = []
            for sign in (1.0, -1.0):
                moved = replace(start[name], **{kind: getattr(start[name], kind) + sign * step})
                set_materials(tracer, {name: moved})
                ends.append(map_error(tracer, truth, ()).mean_square_db2)
            set_materials(tracer, {name: start[name]})
            unit = "dB^2" if number == 0 else "dB^2 m/S"
            metric = f"slope_by_{'permittivity' if number == 0 else 'conductivity'}"
            for label, value in (
                ("tracer", slope[name][number]),
                ("differences", (ends[0] - ends[1]) / (2.0 * step)),
            ):
                rows.append(
                    ResultRow("materials", f"{metric}_{label}@{name}", unit, _tidy(value), None, 1)
                )
    return rows


def _write_numbers(path: Path, train: list[Seen], tried: _Tried, rules: CalibrationConfig) -> Path:
    """The numbers of the best way to fit, fitted to all calibration maps."""
    observations = [one.observation for one in train]
    fit = calibrate(observations, tried.rung.start, replace(rules, free=tried.rung.free))
    target = path.with_name(f"{path.stem}-parameters.json")
    write_calibration(
        target,
        fit,
        environment_class=f"city blocks: {', '.join(_cities(train))}",
        source=f"Sionna RT, {KINDS[0]}; {tried.rung.name}",
        truth_hash=_digest(train),
        carrier_hz=float(round(train[0].traced.transmitter.carrier_hz)),
        held_out_before_db=tried.start_db,
        held_out_after_db=tried.left_out_db,
    )
    return target


def _digest(seen: list[Seen]) -> str:
    """SHA-256 of the gains of all maps."""
    digest = hashlib.sha256()
    for one in seen:
        digest.update(one.observation.gain_db.tobytes())
    return digest.hexdigest()


def _tidy(value: float) -> float:
    return round(float(value), 6)
