"""Leave-places-out on the measured campus: no simulator, no truth, only reports not shown.

A share of a radio cell's places is known, with all reports taken there; methods estimate the map
from those and are scored on the reports of all other places. A split is addressed by (share, cell,
repeat) and is the same for every method. Resumable: one line a run in ``<out>/raw/rsrp.jsonl``.
"""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, Int
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hertzmap.benchmarks import methods as method_tools
from hertzmap.benchmarks import results
from hertzmap.benchmarks.maps import Contestant
from hertzmap.benchmarks.results import PairedDifference, ResultFile, ResultRow
from hertzmap.benchmarks.runlog import Run, RunLog
from hertzmap.core.errors import HertzmapError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.seeds import generator
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.datasets import campus, utah
from hertzmap.datasets.campus import Campus
from hertzmap.measurement.operator import DriftOperator
from hertzmap.metrics.calibration import paired_difference
from hertzmap.metrics.maps import score_points

logger = logging.getLogger(__name__)

METHODS = (
    "combined:default",
    "radiodiff_inv2:quick",
    "kriging:tuned",
    "kriging:path_loss",
    "kriging:as_published",
    "idw:tuned",
    "nearest:default",
)
"""Methods that are compared."""
HEADLINE = "combined:default"
"""The method that is compared with every other one."""
UTAH_METHODS = (
    "combined:default",
    "combined:without_network",
    "kriging:tuned",
    "kriging:path_loss",
    "kriging:as_published",
    "idw:tuned",
    "nearest:default",
)
"""Methods that are compared where there is no map of buildings."""
BASELINE = "kriging:tuned"
"""What the others are compared with."""
FEWEST_PLACES = 3
"""Known places, at least."""
PROTOCOL = (
    "Leave-places-out: a share of the places of each radio cell or receiver is known, all reports "
    "of the other places are scored. A map is read at a left-out report as the average over its "
    "drift, cut at walls. rmse_db: over left-out reports; rmse_place_db: each left-out place "
    "counts once; coverage and width: central intervals of the left-out reports with the stated "
    "noise. "
    "metric@share is the mean over radio cells of the mean over repeats, metric@share/pci one "
    "radio cell."
)
"""What the numbers mean; stands in the result file."""
_UNITS = {"rmse_db": "dB", "rmse_place_db": "dB", "mae_db": "dB", "crps_db": "dB"}
_SHOWN = ("rmse_db", "rmse_place_db", "coverage90")
_UNITS |= {"width90_db": "dB", "seconds": "s"}


@final
@dataclass(frozen=True)
class CampusConfig:
    """Settings that decide the splits."""

    shares: tuple[float, ...] = (0.10, 0.25, 0.80)
    """Shares of a radio cell's places that are known."""
    repeats: int = 10
    """Random splits for each share and radio cell."""
    cells: int = 4
    """Radio cells with most reports."""
    noise_db: float = campus.NOISE_DB
    """Assumed value noise [dB]."""
    drift_std_m: float = campus.DRIFT_STD_M
    """Assumed drift per axis [m]."""
    place_radius_m: float = campus.PLACE_RADIUS_M
    """What one place is [m]."""


@final
@dataclass(frozen=True)
class Split:
    """Which reports of a radio cell are known."""

    cell: int
    """Radio cell (PCI)."""
    share: float
    """Share of its places that are known."""
    repeat: int
    """Number of the random draw."""
    known: Bool[np.ndarray, " points"]
    """True for reports that methods see."""

    @property
    def world(self) -> str:
        """Address in the log, e.g. ``pci7@10``."""
        return f"pci{self.cell}@{round(100 * self.share)}"


def run(
    out: Path = Path("results/campus"),
    methods: list[str] | None = None,
    *,
    repeats: int = 10,
    cells: int = 4,
) -> Path:
    """Run what is missing, aggregate it to ``rsrp.json`` and print the table.

    Args:
        out: folder of the result file and of the log.
        methods: methods as ``name:preset[:option=value,...]``; `METHODS` by default.
        repeats: random splits for each share and radio cell.
        cells: radio cells with most reports.

    Returns:
        The result file.

    Raises:
        ConfigError: if a method, preset or option is not known.
        DataError: if the campus or weights are missing.
    """
    config = CampusConfig(repeats=repeats, cells=cells)
    return _run(campus.read_campus(), config, out, "rsrp", methods or list(METHODS))


def run_utah(
    out: Path = Path("results/mismatch"),
    methods: list[str] | None = None,
    *,
    repeats: int = 3,
    receivers: int = 4,
) -> Path:
    """The same on the receivers of a hilly campus without a map of its buildings: ``utah.json``.

    Args:
        out: folder of the result file and of the log.
        methods: methods as ``name:preset[:option=value,...]``; `UTAH_METHODS` by default.
        repeats: random splits for each share and receiver.
        receivers: fixed receivers with most reports.

    Returns:
        The result file.

    Raises:
        ConfigError: if a method, preset or option is not known.
        DataError: if the table or weights are missing.
    """
    config = CampusConfig(
        repeats=repeats,
        cells=receivers,
        noise_db=utah.NOISE_DB,
        drift_std_m=utah.DRIFT_STD_M,
        place_radius_m=utah.PLACE_RADIUS_M,
    )
    return _run(utah.read_utah(receivers), config, out, "utah", methods or list(UTAH_METHODS))


def _run(data: Campus, config: CampusConfig, out: Path, name: str, methods: list[str]) -> Path:
    titles = {"rsrp": "Measured campus", "utah": "Receivers in Utah"}
    log = RunLog(out / "raw" / f"{name}.jsonl")
    contestants = [Contestant(m, method_tools.build(m)) for m in methods]
    run_splits(data, splits(data, config), contestants, log, _splits_hash(config), name)
    path = out / f"{name}.json"
    result = aggregate(config, log.read())
    results.write(path, result)
    Console().print(table(result, config, titles[name]))
    return path


def splits(data: Campus, config: CampusConfig) -> tuple[Split, ...]:
    """All splits; a repeat runs through every share and radio cell before the next begins."""
    return tuple(
        Split(cell, share, repeat, _known(data.of_cell(cell)[1], share, cell, repeat))
        for repeat in range(config.repeats)
        for share in config.shares
        for cell in data.cells[: config.cells]
    )


def _known(
    place: Int[np.ndarray, " points"], share: float, cell: int, repeat: int
) -> Bool[np.ndarray, " points"]:
    places = np.unique(place)
    count = min(max(FEWEST_PLACES, round(share * len(places))), len(places) - 1)
    draw = generator(round(100 * share), cell, repeat)
    return np.isin(place, draw.choice(places, count, replace=False))


def run_splits(
    data: Campus,
    planned: tuple[Split, ...],
    contestants: list[Contestant],
    log: RunLog,
    splits_hash: str,
    name: str = "campus",
) -> None:
    """Run every method on every split that the log does not hold yet.

    A method that refuses its reports is warned about and stays missing.
    """
    done = {(r.world, r.seed, r.method, r.fingerprint, r.config_hash) for r in log.read()}
    todo = [
        (split, contestant)
        for split in planned
        for contestant in contestants
        if (split.world, split.repeat, contestant.method, contestant.fingerprint, splits_hash)
        not in done
    ]
    for split, contestant in track(todo, name):
        reports, place = data.of_cell(split.cell)
        known = reports.select(split.known)
        method_tools.reset_peak_memory()
        started = time.perf_counter()
        try:
            posterior = contestant.estimator.estimate(known, data.site, seed=split.repeat)
        except HertzmapError as error:
            logger.warning("%s failed on %s: %s", contestant.method, split.world, error)
            continue
        seconds, peak_mib = time.perf_counter() - started, method_tools.peak_memory_mib()
        left_out = ~split.known
        scores = score(posterior, data.site, reports.select(left_out), place[left_out])
        log.append(
            Run(
                world=split.world,
                seed=split.repeat,
                method=contestant.method,
                fingerprint=contestant.fingerprint,
                config_hash=splits_hash,
                truth_mean_db=round(float(reports.power_dbm.mean()), 2),
                reports=len(known),
                metrics={name: round(float(value), 6) for name, value in scores.items()},
                seconds=round(seconds, 3),
                peak_rss_mib=round(peak_mib, 1),
                stopped_by=posterior.trace.stopped_by if posterior.trace else (),
                commit=results.commit(),
                hardware=results.machine(),
            )
        )


def score(
    posterior: MapPosterior, site: SceneRaster, left_out: Reports, place: Int[np.ndarray, " points"]
) -> dict[str, float]:
    """Compare a posterior with left-out reports, reading it over their drift, cut at walls."""
    operator = DriftOperator.build(site.grid, site.free, left_out.reported_m, left_out.drift_cov_m2)
    heard, place = left_out.select(operator.kept), place[operator.kept]
    read = [operator.moments(map_dbm) for map_dbm in posterior.maps_dbm]
    means = np.stack([mean for mean, _ in read])
    moved = np.stack([variance for _, variance in read])
    within = np.stack([operator.moments(spread_db**2)[0] for spread_db in posterior.spread_db])
    spreads, weight = np.sqrt(moved + within), posterior.weight
    scores = score_points(heard.power_dbm, heard.noise_db, means, spreads, weight)
    square = (heard.power_dbm - weight @ means) ** 2
    _, label = np.unique(place, return_inverse=True)
    scores["rmse_place_db"] = float(
        np.sqrt(np.mean(np.bincount(label, square) / np.bincount(label)))
    )
    return scores


# --- Aggregation ----------------------------------------------------------------------------


def aggregate(config: CampusConfig, runs: tuple[Run, ...]) -> ResultFile:
    """Turn single runs into the result file; only runs of a method's newest build count."""
    mine = [entry for entry in runs if entry.config_hash == _splits_hash(config)]
    build = {entry.method: entry.fingerprint for entry in mine}
    newest = {
        (entry.method, entry.world, entry.seed): entry
        for entry in mine
        if entry.fingerprint == build[entry.method] and entry.seed < config.repeats
    }
    names = list(dict.fromkeys((*METHODS, *build)))
    names = [name for name in names if name in build]
    rows = [row for name in names for row in _rows(config, name, newest)]
    pairs = [(name, BASELINE) for name in names if name != BASELINE]
    pairs += [(HEADLINE, name) for name in names if name not in (HEADLINE, BASELINE)]
    differences = [
        found
        for one, other in pairs
        for share in config.shares
        if (found := _difference(one, other, share, newest)) is not None
    ]
    header = results.provenance(
        _splits_hash(config),
        PROTOCOL,
        error_bars="se and 95 % intervals: bootstrap over the radio cells or receivers of one site",
        settings=asdict(config),
        same_environment=True,
        runs={name: sum(key[0] == name for key in newest) for name in names},
        runs_by_share={
            name: [len(_of_share(name, share, newest)) for share in config.shares] for name in names
        },
        planned_runs=len(config.shares) * config.repeats * config.cells,
        measured_on={
            name: sorted({r.hardware for r in newest.values() if r.method == name})
            for name in names
        },
        commits_of_runs=sorted({r.commit for r in newest.values() if r.commit}),
    )
    return ResultFile(header, tuple(rows), tuple(differences))


def _rows(
    config: CampusConfig, method: str, newest: dict[tuple[str, str, int], Run]
) -> list[ResultRow]:
    rows = []
    for share in config.shares:
        chosen = _of_share(method, share, newest)
        if not chosen:
            continue
        cell = np.array([run.world.partition("@")[0] for run in chosen])
        for metric in (*chosen[0].metrics, "seconds"):
            value = np.array([{**run.metrics, "seconds": run.seconds}[metric] for run in chosen])
            unit, name = _UNITS.get(metric, "1"), f"{metric}@{round(100 * share)}"
            cells = np.unique(cell)
            means = np.array([value[cell == one].mean() for one in cells])
            se = results.standard_error(means)
            rows.append(ResultRow(method, name, unit, float(means.mean()), se, len(cells)))
            if metric == "rmse_db":
                rows += [
                    ResultRow(method, f"{name}/{one}", unit, float(mean), None, 1)
                    for one, mean in zip(cells, means, strict=True)
                ]
    return rows


def _difference(
    method: str, against: str, share: float, newest: dict[tuple[str, str, int], Run]
) -> PairedDifference | None:
    ours = {(r.world, r.seed): r for r in _of_share(method, share, newest)}
    theirs = {(r.world, r.seed): r for r in _of_share(against, share, newest)}
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None
    cell = np.array([world for world, _ in both])
    mine = np.array([ours[key].metrics["rmse_db"] for key in both])
    base = np.array([theirs[key].metrics["rmse_db"] for key in both])
    gap, cells = paired_difference(mine, base, cell), len(np.unique(cell))
    name = f"rmse_db@{round(100 * share)}"
    ends = (gap.low, gap.high) if cells > 1 else (None, None)
    return PairedDifference(method, against, name, "dB", gap.mean, *ends, cells)


def _of_share(method: str, share: float, newest: dict[tuple[str, str, int], Run]) -> list[Run]:
    suffix = f"@{round(100 * share)}"
    return [
        run for key, run in sorted(newest.items()) if key[0] == method and key[1].endswith(suffix)
    ]


def _splits_hash(config: CampusConfig) -> str:
    """Hash of what decides a split; more repeats or cells leave the others as they are."""
    settings = asdict(config)
    for name in ("shares", "repeats", "cells"):
        del settings[name]
    return results.hash_of(settings)


def table(result: ResultFile, config: CampusConfig, title: str) -> Table:
    """RMSE and coverage of every method at every share, for a terminal."""
    view = Table(
        title=f"{title}, mean over {config.cells}: RMSE (dB) over left-out reports / places, "
        "share of reports in their 90 % interval"
    )
    view.add_column("method", overflow="fold")
    for share in config.shares:
        view.add_column(f"{round(100 * share)} % known", justify="right", no_wrap=True)
    for method in result.methods():
        line = [method]
        for share in config.shares:
            metrics = (f"{name}@{round(100 * share)}" for name in _SHOWN)
            rows = [result.row(method, metric) for metric in metrics]
            line.append(" / ".join("-" if row is None else f"{row.mean:.2f}" for row in rows))
        view.add_row(*line)
    return view
