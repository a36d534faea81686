"""The map benchmark: worlds, reports, methods, scores; resumable at any time.

All methods see identical reports: a report set is addressed by (seed, cell, place, map) and drawn
once for all of them. The truth goes to the metrics and nowhere else.
"""

import itertools
import logging
import time
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hertzmap.benchmarks import methods as method_tools
from hertzmap.benchmarks import mismatch, results, worlds
from hertzmap.benchmarks.results import PairedDifference, ResultFile, ResultRow
from hertzmap.benchmarks.runlog import Run, RunLog
from hertzmap.benchmarks.tables import (
    CELLS,
    METRICS,
    PAPER_METHODS,
    PUBLISHED,
    CellConfig,
    load_cell,
    printed_rows,
    published,
)
from hertzmap.benchmarks.worlds import World, WorldKey
from hertzmap.core.errors import ConfigError, DataError, HertzmapError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.seeds import generator
from hertzmap.core.types import Reports
from hertzmap.core.units import GreyScale
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.measurement.sampling import sample_reports
from hertzmap.metrics.maps import psnr_db, rmse_by_stratum, score_map, strata
from hertzmap.metrics.perceptual import Lpips

logger = logging.getLogger(__name__)

PROTOCOL = (
    "Of record: psnr_db, ssim, nmse, rmse_db, mae_db, crps_db and coverage on free cells, walls "
    "zeroed for every method. paper_*: whole map, walls included. Fixed scale of -147 to -47.84 "
    "dB. All methods see identical reports. Mean over report seeds, then over maps; differences "
    "are paired on identical reports. Of several transmitters that a method finds the nearest one "
    "to the true one is scored; `transmitters` counts them. transmitter_error_median_m is the "
    "median over all runs. psnr_lit_db: free cells whose truth lies above the scale's floor. Where "
    "the truth is not known everywhere outdoors (ray-traced maps), free cells mean those with a "
    "truth: reports stand on them and they are scored, and paper_* are left out."
)
"""What the numbers of a cell mean; stands in every result file."""
_ERROR_BARS = {
    "cities": (
        "se and 95 % intervals: bootstrap over environments (tiles, each with its own buildings, "
        f"transmitter and propagation parameters), {results.RESAMPLES} resamples"
    ),
    "radiomapseer": (
        "se and 95 % intervals: bootstrap over the transmitters of ONE environment, "
        f"{results.RESAMPLES} resamples; they say nothing about other environments"
    ),
    "ray-traced": (
        "se and 95 % intervals: bootstrap over environments (one tile of each city, with its own "
        f"buildings and transmitter), {results.RESAMPLES} resamples"
    ),
}
KNOBS = (
    *(f"radiodiff_inv2:quick:steps={k}" for k in (1, 2, 4, 8)),
    *(f"radiodiff_inv2:quick:iterations={k}" for k in (10, 120)),
    "radiodiff_inv2:quick:q=2",
    "radiodiff_inv2:quick:places=24",
    *(f"combined:default:engines={k}" for k in (4, 24, 64)),
)
"""What accuracy costs: ODE steps, iterations, nodes of the drift kernel, supposed transmitters."""
QUICK = (
    "nearest:default",
    "idw:tuned",
    "kriging:as_published",
    "kriging:tuned",
    "kriging:path_loss",
    "amortised_unet:default",
    "combined:default",
)
"""Methods of the quick run: all but those that iterate a diffusion network."""
_COSTS = ("seconds", "cpu_seconds", "peak_rss_mib")
_SAME_TRUTH_DB = 0.05
LIT_DB = 0.5
"""A cell is lit when its truth lies more than this above the scale's floor [dB]."""


@final
@dataclass(frozen=True)
class Contestant:
    """A method as built, with what identifies it."""

    method: str
    """The method as asked for."""
    estimator: AbstractEstimator
    """The estimator."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of settings and weights."""
        return method_tools.fingerprint(self.estimator)


def run(
    cells: list[str] | None = None,
    out: Path = Path("results/tables"),
    methods: list[str] | None = None,
    maps_per_city: int | None = None,
    limit: int | None = None,
    split: str = "test",
    seeds: int | None = None,
    lpips: Path | None = None,
) -> tuple[Path, ...]:
    """Run what is missing of the cells, then aggregate each cell to its result file.

    Args:
        cells: names of cells; all of them by default.
        out: folder of the result files; single runs are logged in ``out/raw/<cell>.jsonl``.
        methods: methods as ``name:preset[:option=value,...]``; the cell's own by default.
        maps_per_city: at most so many maps a city, and no more than the cell's own number, which
            is the default.
        limit: at most so many worlds; the first map of every city comes before any second one.
        split: ``test``, or ``validation`` for choices, whose files end in ``.validation``.
        seeds: at most so many report seeds.
        lpips: weights of the backbone of LPIPS, see `metrics.perceptual`; without them it is left
            out. Runs that the log holds already are not scored again: choose another `out`.

    Returns:
        The result files written.

    Raises:
        ConfigError: if a cell, method, preset, option or split is not known, or LPIPS is asked for
            without its library.
        DataError: if its weights are missing.
    """
    if split not in ("test", "validation"):
        msg = f"split must be 'test' or 'validation', got {split!r}"
        raise ConfigError(msg)
    configs = [load_cell(name) for name in cells or CELLS]
    perceptual = None if lpips is None else Lpips(lpips)
    written = []
    for config in configs:
        if split == "validation" and config.world != "cities":
            continue
        stem = config.cell if split == "test" else f"{config.cell}.{split}"
        log = RunLog(out / "raw" / f"{stem}.jsonl")
        keys = world_keys(config, split, maps_per_city)[:limit]
        asked = contestants(config, methods)
        run_cell(config, keys, config.report_seeds[:seeds], asked, log, perceptual)
        planned = len(world_keys(config, split)) * len(config.report_seeds)
        results.write(out / f"{stem}.json", aggregate(config, log.read(), split, planned))
        written.append(out / f"{stem}.json")
    return tuple(written)


def contestants(config: CellConfig, methods: list[str] | None = None) -> list[Contestant]:
    """Build the methods asked for; by default a cell's own, but those whose weights are missing."""
    if methods:
        return [Contestant(method, method_tools.build(method)) for method in methods]
    found = []
    for method in config.methods:
        try:
            found.append(Contestant(method, method_tools.build(method)))
        except DataError as error:
            logger.warning("%s is left out: %s", method, error)
    return found


def world_keys(
    config: CellConfig, split: str, maps_per_city: int | None = None
) -> tuple[WorldKey, ...]:
    """The worlds of a cell, in the order they are run."""
    if config.world == "radiomapseer":
        return worlds.radiomapseer_keys()
    if config.world == "ray-traced":
        count = min(config.maps_per_city, maps_per_city or config.maps_per_city)
        return worlds.ray_traced_keys(config.cities.test, count)
    cities = config.cities.test if split == "test" else config.cities.validation
    variant = config.mismatch.truth if config.mismatch else ""
    count = min(config.maps_per_city, maps_per_city or config.maps_per_city)
    keys = worlds.city_keys(cities, count, variant)
    return tuple(key for key in keys if key.index < config.most_maps.get(key.place, count))


def run_cell(
    config: CellConfig,
    keys: tuple[WorldKey, ...],
    seeds: tuple[int, ...],
    contestants: list[Contestant],
    log: RunLog,
    perceptual: Lpips | None = None,
) -> None:
    """Run every method on every world and seed that the log does not hold yet.

    A method that refuses its reports is warned about and stays missing; the result file counts
    the runs it has.
    """
    done = {_address(entry): entry.truth_mean_db for entry in log.read()}
    with _progress() as bar:
        task = bar.add_task(config.cell, total=len(seeds) * len(keys) * len(contestants))
        for seed, (number, key) in itertools.product(seeds, enumerate(keys)):
            world = worlds.load(key)
            reports = draw_reports(config, world, seed)
            for contestant in contestants:
                most = config.fewer_maps.get(contestant.method)
                if most is not None and (number >= most or seed != seeds[0]):
                    bar.advance(task)
                    continue
                bar.update(task, description=f"{config.cell} {key.name} {contestant.method}")
                address = (key.name, seed, contestant.method, contestant.fingerprint)
                before_db = done.get((*address, reports_hash(config)))
                if before_db is None or abs(before_db - world.mean_db) >= _SAME_TRUTH_DB:
                    _run_and_log(config, world, reports, seed, contestant, log, perceptual)
                bar.advance(task)


def draw_reports(config: CellConfig, world: World, seed: int) -> Reports:
    """Take the reports of one (seed, cell, place, map): the same ones for every method."""
    draw = generator(seed, zlib.crc32(config.cell.encode()), *world.key.address)
    if config.mismatch:
        return mismatch.draw(world.truth, config.sampling, config.mismatch, draw)
    return sample_reports(world.truth, config.sampling, draw).reports


def score(
    posterior: MapPosterior, world: World, reports: Reports, reference_dbm: float
) -> dict[str, float]:
    """Compare a posterior with the truth: all map scores, and the RMSE by stratum [dB].

    Outdoor cells whose truth is not known are left out.
    """
    truth_dbm, free = world.scored_db + reference_dbm, world.truth.free
    scores = score_map(posterior, truth_dbm, free, reference_dbm=reference_dbm)
    if not np.array_equal(free, world.site.free):  # the whole picture needs a whole truth
        scores = {name: one for name, one in scores.items() if not name.startswith("paper_")}
    transmitter = world.truth.transmitter
    masks = strata(
        world.site.grid,
        world.site.free,
        transmitter_m=None if transmitter is None else transmitter.place_m[:2],
        reported_m=reports.reported_m,
    )
    masks = {name: mask & free for name, mask in masks.items()}
    scale = GreyScale()
    ends_dbm = (scale.min_db + reference_dbm, scale.max_db + reference_dbm)
    if posterior.transmitters and transmitter is not None:
        true_m = np.asarray(transmitter.place_m[:2])
        found = min(
            posterior.transmitters, key=lambda one: float(np.hypot(*(one.median_m() - true_m)))
        )
        scores["transmitters"] = len(posterior.transmitters)
        scores["transmitter_error_m"] = float(np.hypot(*(found.median_m() - true_m)))
        scores["transmitter_in90"] = float(found.credibility(true_m) < 0.9)
        scores["transmitter_area90_m2"] = found.region_area_m2(0.9)
    shown_dbm = np.clip(posterior.mean_dbm(), *ends_dbm)
    errors = rmse_by_stratum(shown_dbm, truth_dbm, masks)
    lit = free & (world.scored_db > scale.min_db + LIT_DB)
    if lit.any():
        grey = [scale.to_grey(one[lit] - reference_dbm) for one in (truth_dbm, shown_dbm)]
        scores["psnr_lit_db"] = psnr_db(*grey)
    return scores | {f"rmse_{name}_db": value for name, value in errors.items()}


def reports_hash(config: CellConfig) -> str:
    """Hash of the settings that decide truths and reports of a cell."""
    settings = {
        "cell": config.cell,
        "world": config.world,
        "sampling": asdict(config.sampling),
        "truth": worlds.TRUTH_VERSION,
    }
    if config.mismatch:
        settings["mismatch"] = asdict(config.mismatch)
    return results.hash_of(settings)


def _run_and_log(
    config: CellConfig,
    world: World,
    reports: Reports,
    seed: int,
    contestant: Contestant,
    log: RunLog,
    perceptual: Lpips | None,
) -> None:
    method_tools.reset_peak_memory()
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        posterior = contestant.estimator.estimate(reports, world.site, seed=seed)
    except HertzmapError as error:
        logger.warning("%s failed on %s: %s", contestant.method, world.key.name, error)
        return
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    peak_mib = method_tools.peak_memory_mib()
    scores = score(posterior, world, reports, config.sampling.reference_dbm)
    if perceptual is not None:
        scale, reference_dbm = GreyScale(), config.sampling.reference_dbm
        scores["paper_lpips"] = perceptual(
            scale.to_grey(world.scored_db), scale.to_grey(posterior.mean_dbm() - reference_dbm)
        )
    log.append(
        Run(
            world=world.key.name,
            seed=seed,
            method=contestant.method,
            fingerprint=contestant.fingerprint,
            config_hash=reports_hash(config),
            truth_mean_db=world.mean_db,
            reports=len(reports),
            metrics={name: round(float(value), 6) for name, value in scores.items()},
            seconds=round(seconds, 3),
            cpu_seconds=round(cpu_seconds, 3),
            peak_rss_mib=round(peak_mib, 1),
            stopped_by=posterior.trace.stopped_by if posterior.trace else (),
            commit=results.commit(),
            hardware=results.machine(),
        )
    )


def aggregate(
    config: CellConfig, runs: tuple[Run, ...], split: str, planned_runs: int
) -> ResultFile:
    """Turn single runs into the result file of a cell.

    Of each method only runs of its newest build count, and of each world only runs on its newest
    truth.

    Args:
        config: the cell.
        runs: the log, oldest first.
        split: which worlds the log is of.
        planned_runs: number of runs a complete method has.
    """
    current = _current(runs, reports_hash(config))
    names = tuple(dict.fromkeys((*config.methods, *(entry.method for entry in current))))
    by_method = {
        name: chosen for name in names if (chosen := [r for r in current if r.method == name])
    }
    rows = tuple(
        row for name, chosen in by_method.items() for row in _rows(config.cell, name, chosen)
    )
    pairs = [(name, config.baseline) for name in by_method if name != config.baseline]
    pairs += [
        (config.headline, name)
        for name in by_method
        if name not in (config.headline, config.baseline)
    ]
    differences = tuple(
        difference
        for one, other in pairs
        if one in by_method and other in by_method
        for difference in _differences(one, other, by_method[one], by_method[other])
    )
    header = results.provenance(
        reports_hash(config),
        PROTOCOL,
        error_bars=_ERROR_BARS[config.world],
        cell=config.cell,
        split=split,
        headline=config.headline,
        baseline=config.baseline,
        sampling=asdict(config.sampling),
        report_seeds=sorted({entry.seed for entry in current}),
        truth_version=worlds.TRUTH_VERSION,
        **worlds.flags(config.world),
        planned_runs=planned_runs,
        fewer_maps=config.fewer_maps,
        runs={name: len(chosen) for name, chosen in by_method.items()},
        measured_on={name: sorted({r.hardware for r in c}) for name, c in by_method.items()},
        commits_of_runs=sorted({r.commit for r in current if r.commit}),
        published_rows=_published_rows(config.cell),
    )
    return ResultFile(header, rows, differences)


def _address(entry: Run) -> tuple[str, int, str, str, str]:
    return entry.world, entry.seed, entry.method, entry.fingerprint, entry.config_hash


def _current(runs: tuple[Run, ...], config_hash: str) -> list[Run]:
    """The newest line of each run that still counts."""
    mine = [entry for entry in runs if entry.config_hash == config_hash]
    build = {entry.method: entry.fingerprint for entry in mine}
    truth_db = {entry.world: entry.truth_mean_db for entry in mine}
    newest = {
        _address(entry): entry
        for entry in mine
        if entry.fingerprint == build[entry.method]
        and abs(entry.truth_mean_db - truth_db[entry.world]) < _SAME_TRUTH_DB
    }
    return list(newest.values())


def _values(entry: Run) -> dict[str, float]:
    costs = {name: getattr(entry, name) for name in _COSTS}
    return entry.metrics | {name: cost for name, cost in costs.items() if cost is not None}


def _metric_names(chosen: list[Run]) -> list[str]:
    """Metrics of the runs, known ones first and in their order."""
    found = dict.fromkeys(name for entry in chosen for name in _values(entry))
    return [name for name in METRICS if name in found] + [n for n in found if n not in METRICS]


def _unit(metric: str) -> str:
    if metric in METRICS:
        return METRICS[metric].unit
    ending = metric.rsplit("_", 1)[-1]
    return {"db": "dB", "m": "m", "m2": "m^2"}.get(ending, "1")


def _rows(cell: str, method: str, chosen: list[Run]) -> list[ResultRow]:
    rows = []
    for metric in _metric_names(chosen):
        per_map: dict[str, list[float]] = {}
        for entry in chosen:
            if metric in _values(entry):
                per_map.setdefault(entry.world, []).append(_values(entry)[metric])
        means = np.array([np.mean(values) for values in per_map.values()])
        rows.append(
            ResultRow(
                method,
                metric,
                _unit(metric),
                mean=round(float(means.mean()), 6),
                se=_tidy(results.standard_error(means)),
                n=len(means),
                published=next(
                    (published(row, metric, method) for row in printed_rows(cell)), None
                ),
            )
        )
    errors = [
        e.metrics["transmitter_error_m"] for e in chosen if "transmitter_error_m" in e.metrics
    ]
    if errors:
        middle = round(float(np.median(errors)), 6)
        rows.append(ResultRow(method, "transmitter_error_median_m", "m", middle, None, len(errors)))
    return rows


def _differences(
    method: str, against: str, first: list[Run], second: list[Run]
) -> list[PairedDifference]:
    """Paired differences of two methods over the runs both have."""
    other = {(entry.world, entry.seed): entry for entry in second}
    pairs = [(e, other[e.world, e.seed]) for e in first if (e.world, e.seed) in other]
    found = []
    for metric in _metric_names(first):
        per_map: dict[str, list[float]] = {}
        for mine, theirs in pairs:
            if metric not in _COSTS and metric in mine.metrics and metric in theirs.metrics:
                gap = mine.metrics[metric] - theirs.metrics[metric]
                per_map.setdefault(mine.world, []).append(gap)
        if not per_map:
            continue
        means = np.array([np.mean(values) for values in per_map.values()])
        low, high = results.interval95(means) or (None, None)
        found.append(
            PairedDifference(
                method,
                against,
                metric,
                _unit(metric),
                mean=round(float(means.mean()), 6),
                low=_tidy(low),
                high=_tidy(high),
                n=len(means),
            )
        )
    return found


def _tidy(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _published_rows(cell: str) -> dict[str, dict[str, dict[str, float]]]:
    """All the paper's figures of the printed rows that a cell stands for."""
    return {
        row: {
            metric: dict(zip(PAPER_METHODS, figures[row], strict=True))
            for metric, figures in PUBLISHED.items()
        }
        for row in printed_rows(cell)
    }


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
