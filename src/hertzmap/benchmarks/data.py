"""The data engine's figures: datasets' time, memory, size and links; taps, kills, executors.

``<folder>.json`` tells of one dataset, ``kills.json`` of generations that were killed and went on,
``executors.json`` of the same shards made by one process, two processes and two Ray workers.
"""

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from scipy.spatial import KDTree
from threadpoolctl import threadpool_limits

from hertzmap.benchmarks.results import ResultFile, ResultRow, hash_of, provenance, write
from hertzmap.core.errors import DataError
from hertzmap.core.seeds import generator
from hertzmap.datasets import executors, recipes, store
from hertzmap.datasets.reader import Dataset, read_truth
from hertzmap.measurement.csi import angle_delay_power, synthesize_taps
from hertzmap.propagation.arrays import port_gains

TAPS_USERS = 200
"""Users of the throughput of taps, one snapshot each."""
TAPS_BATCH = 25
"""Users whose taps are held at once: 27 MB at 7 stations."""
Tell = Callable[[str], None]
"""Called with what has been found."""


def run(folder: Path, out: Path = Path("results/data"), tell: Tell = lambda _: None) -> Path:
    """Measure a finished dataset and write its figures.

    Returns:
        The file written.

    Raises:
        DataError: if the dataset is not finished.
    """
    dataset = Dataset(folder)
    rows = _making_rows(dataset)
    if dataset.facts["recipe"] == "diffloc-uma":
        rows += [*_link_rows(dataset), *_place_rows(dataset), *_tap_rows(dataset)]
    else:
        rows += _tile_rows(dataset)
    for row in rows:
        tell(f"{row.method}: {row.metric} {row.mean:g} {row.unit}")
    header = provenance(
        hash_of(dataset.facts["config"]),
        "Times of shards are added up over all; peak memory is that of one worker, interpreter and "
        "scene included; wall time of the last run that finished the dataset. Distances are from "
        "each test snapshot to the nearest training position; the constant guess is the mean "
        "training position. Taps on one thread.",
        recipe=dataset.facts["recipe"],
        engine=dataset.attrs(dataset.shards[0])["engine"],
        made_at=dataset.facts["commit"],
    )
    path = out / f"{folder.resolve().name}.json"
    write(path, ResultFile(header, tuple(rows)))
    return path


def _making_rows(dataset: Dataset) -> list[ResultRow]:
    """Time, memory and size."""
    folder, name = dataset.folder, dataset.facts["recipe"]
    logs = [_log(store.shard_path(folder, shard, "log"))[-1:] for shard in dataset.shards]
    each = [lines[0] for lines in logs if lines]  # shipped datasets come without logs
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".log"]
    figures: dict[str, tuple[str, int | float]] = {
        "shards": ("1", len(dataset.shards)),
        "size": ("MiB", sum(file.stat().st_size for file in files) / 2**20),
        "files": ("1", len(files)),
    }
    if each:
        figures |= {
            "seconds_of_shards": ("s", sum(line["seconds"] for line in each)),
            "cpu_seconds_of_shards": ("s", sum(line["cpu_seconds"] for line in each)),
            "peak_rss": ("MiB", max(line["peak_rss_mib"] or 0.0 for line in each)),
        }
    ends = [line for line in _log(folder / recipes.RUN_LOG) if line.get("event") == "end"]
    if ends:
        figures["wall_seconds"] = ("s", ends[-1]["seconds"])
    return [_row(name, metric, unit, value) for metric, (unit, value) in figures.items()]


def _log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def _link_rows(dataset: Dataset) -> list[ResultRow]:
    """How many links have paths and a line of sight: nothing is silent."""
    name, counts = dataset.facts["recipe"], dataset.facts["counts"]
    snapshots = counts["snapshots"]
    rows = [
        _row(name, "links", "1", counts["links"]),
        _row(name, "paths_of_a_link", "1", counts["paths"] / counts["links"]),
        _row(name, "links_with_paths", "%", 100.0 * counts["links_with_paths"] / counts["links"]),
        _row(name, "snapshots_without_paths", "1", counts["snapshots_without_paths"]),
        _row(name, "ways_redrawn", "1", counts["ways_redrawn"]),
    ]
    for station, with_paths, in_sight in zip(
        dataset.transmitters(dataset.shards[0]),
        counts["links_with_paths_by_cell"],
        counts["links_in_sight_by_cell"],
        strict=True,
    ):
        rows.append(_row(station.name, "links_with_paths", "%", 100.0 * with_paths / snapshots))
        rows.append(_row(station.name, "line_of_sight", "%", 100.0 * in_sight / snapshots))
    return rows


def _place_rows(dataset: Dataset) -> list[ResultRow]:
    """How near training comes to the test points, and what a constant guess scores."""
    rows = []
    for split in dataset.facts["splits"]:
        index = {part: dataset.index(split, part) for part in dataset.facts["parts"]}
        if not (len(index["train"]) and len(index["test"])):
            continue
        train, test = (
            read_truth(dataset, index[part])["position"][:, :2] for part in ("train", "test")
        )
        gap = KDTree(train).query(test)[0]
        guess = np.linalg.norm(test - train.mean(axis=0), axis=1)
        rows += [_row(split, part, "1", len(found)) for part, found in index.items()]
        rows += [
            _row(split, "nearest_training_mean", "m", float(gap.mean())),
            _row(split, "nearest_training_median", "m", float(np.median(gap))),
            _row(split, "nearest_training_p95", "m", float(np.quantile(gap, 0.95))),
            _row(split, "constant_guess_mean_error", "m", float(guess.mean())),
        ]
    return rows


def _tap_rows(dataset: Dataset) -> list[ResultRow]:
    """Time from stored paths to taps and to features, one snapshot of each user.

    On one thread: the products of a link are too small to be shared by threads.
    """
    with threadpool_limits(1):
        return _timed_taps(dataset)


def _timed_taps(dataset: Dataset) -> list[ResultRow]:
    index = dataset.index("user", "train")
    for part in ("validation", "test"):
        index = np.concatenate([index, dataset.index("user", part)])
    index = index[index[:, 2] == 0][:TAPS_USERS]
    seconds = {"read": 0.0, "gains": 0.0, "taps": 0.0, "features": 0.0}
    cpu = time.process_time()
    for first in range(0, len(index), TAPS_BATCH):
        clocks = [time.perf_counter()]
        channels = dataset.read(index[first : first + TAPS_BATCH]).channels
        assert channels is not None
        clocks.append(time.perf_counter())
        gains = port_gains(channels)
        clocks.append(time.perf_counter())
        taps = synthesize_taps(channels, gains)
        clocks.append(time.perf_counter())
        angle_delay_power(taps)
        clocks.append(time.perf_counter())
        for what, spent in zip(seconds, np.diff(clocks).tolist(), strict=True):
            seconds[what] += spent
    name = f"taps of {len(index)} users"
    rows = [_row(name, f"{what}_seconds", "s", value) for what, value in seconds.items()]
    paths_to_taps = seconds["read"] + seconds["gains"] + seconds["taps"]
    links = len(index) * len(dataset.transmitters(dataset.shards[0]))
    return [
        *rows,
        _row(name, "links", "1", links),
        _row(name, "paths_to_taps_seconds", "s", paths_to_taps),
        _row(name, "links_a_second", "1/s", links / paths_to_taps),
        _row(name, "cpu_seconds", "s", time.process_time() - cpu),
    ]


def _tile_rows(dataset: Dataset) -> list[ResultRow]:
    """Sizes, and shares of pixels, by part."""
    rows = []
    for part, counts in dataset.facts["counts"].items():
        whole = ("tiles", "radio_cells", "sequences", "reports", "samples_without_reports")
        rows += [_row(part, name, "1", counts[name]) for name in whole]
        rows += [
            _row(part, name.replace("pixels", "share"), "%", 100.0 * counts[name] / counts[of])
            for name, of in (
                ("valid_pixels", "outdoor_pixels"),
                ("filled_pixels", "valid_pixels"),
                ("pixels_in_sight", "valid_pixels"),
            )
        ]
        rows.append(
            _row(part, "cells_a_report", "1", counts["reports_of_cells"] / counts["reports"])
        )
    return rows


def _row(method: str, metric: str, unit: str, value: int | float) -> ResultRow:
    return ResultRow(method, metric, unit, round(float(value), 4), None, 1)


def run_kills(
    config_file: Path,
    kills: int,
    out: Path = Path("results/data"),
    *,
    work: Path = Path("out/kills"),
    workers: int = 1,
) -> Path:
    """Kill generations of a small dataset, and write how they ended.

    Raises:
        DataError: if a dataset that went on differs from an uninterrupted one.
    """
    found = kill_test(config_file, work, kills, workers=workers)
    if found.unlike:
        msg = f"{len(found.unlike)} files differ after kills: {', '.join(found.unlike[:5])}"
        raise DataError(msg)
    config = recipes.load_config(config_file)
    header = provenance(
        hash_of(asdict(config)),
        "SIGKILL at random moments of generations, each then run again; byte by byte against one "
        "that nothing interrupted, logs aside.",
        config=config_file.name,
        workers=workers,
    )
    rows = (
        _row(config.recipe, "kills", "1", found.kills),
        _row(config.recipe, "generations", "1", found.generations),
        _row(config.recipe, "files_that_differ", "1", len(found.unlike)),
        _row(config.recipe, "seconds_alone", "s", found.seconds_alone),
    )
    path = out / "kills.json"
    write(path, ResultFile(header, rows))
    return path


def run_executors(
    config_file: Path,
    out: Path = Path("results/data"),
    *,
    work: Path = Path("out/executors"),
    tell: Tell = lambda _: None,
) -> Path:
    """Make one dataset by one process, two processes and two Ray workers; compare and time.

    Efficiency is the processor time of all shards made by one process over twice the wall time of
    two workers, their start included.

    Raises:
        DataError: if the shards differ.
        MissingExtraError: if Ray is not installed.
    """
    shutil.rmtree(work, ignore_errors=True)
    ways: dict[str, dict[str, Any]] = {
        "warm": {},
        "serial": {},
        "pool of 2": {"workers": 2},
        "ray of 2": {"workers": 2, "ray": "local"},
    }
    rows: list[ResultRow] = []
    seconds: dict[str, float] = {}
    for name, how in ways.items():
        folder = work / name.replace(" ", "-")
        started = time.perf_counter()
        generate(config_file, folder, **how)
        seconds[name] = time.perf_counter() - started
        if name == "warm":  # compiles kernels and fills caches
            continue
        unlike = [
            file
            for file, found in content(work / "serial").items()
            if content(folder).get(file) != found
        ]
        if unlike:
            msg = f"{name} gives other bytes than one process: {', '.join(unlike[:5])}"
            raise DataError(msg)
        rows += [
            _row(name, "seconds", "s", seconds[name]),
            _row(name, "files_that_differ", "1", 0),
        ]
        if how:
            efficiency = 100.0 * seconds["serial"] / (2.0 * seconds[name])
            rows.append(_row(name, "efficiency", "%", efficiency))
        tell(f"{name}: {seconds[name]:.1f} s")
    config = recipes.load_config(config_file)
    header = provenance(
        hash_of(asdict(config)),
        "Wall time of the whole generation, workers' start included; efficiency is the time of one "
        "process over twice that of two workers.",
        config=config_file.name,
    )
    path = out / "executors.json"
    write(path, ResultFile(header, tuple(rows)))
    return path


@final
@dataclass(frozen=True)
class KillTest:
    """What many sudden ends of a generation left behind."""

    kills: int
    """Runs that were killed while they worked."""
    generations: int
    """Datasets that were finished in spite of them."""
    unlike: tuple[str, ...]
    """Files that differ from an uninterrupted run, or are missing, or should not be there."""
    seconds_alone: float
    """Time of the uninterrupted run [s]."""


def content(folder: Path) -> dict[str, bytes]:
    """All files of a dataset but its logs."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix != ".log"
    }


def generate(config_file: Path, folder: Path, workers: int = 1, ray: str | None = None) -> None:
    """Make a dataset, or go on with it."""
    config = recipes.load_config(config_file)
    plans = recipes.begin(config, folder)
    executors.run(plans, folder, recipes.make, workers=workers, ray=ray)
    recipes.finish(folder)


def kill_test(
    config_file: Path, folder: Path, kills: int, *, workers: int = 1, seed: int = 0
) -> KillTest:
    """Kill a generation (SIGKILL) at random moments, let it go on each time, and compare.

    Runs start in processes of their own; a kill counts if it hit one that had not ended.

    Args:
        config_file: what to generate; must be quick and reproducible.
        folder: for the datasets; what was in it is removed.
        kills: how often.
        workers: processes of each run; above 1 their orphans are part of the test.
        seed: of the moments.
    """
    shutil.rmtree(folder, ignore_errors=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hertzmap.datasets.diffloc_uma", "hertzmap.benchmarks.data"])

    def start(name: str) -> Any:  # noqa: ANN401 - the context's process class
        process = context.Process(target=generate, args=(config_file, folder / name, workers))
        process.start()
        return process

    for name in ("warm", "alone"):  # the first one compiles
        started = time.perf_counter()
        process = start(name)
        process.join()
        seconds = time.perf_counter() - started
        if process.exitcode != 0:
            msg = f"the uninterrupted generation of {config_file} failed; run it by hand"
            raise DataError(msg)
    expected = content(folder / "alone")
    draw, done, generation, unlike = generator(seed), 0, 0, list[str]()
    while done < kills or generation == 0:
        name = f"killed-{generation}"
        while not (folder / name / recipes.DATASET).exists():
            process = start(name)
            if done < kills:
                process.join(draw.uniform(0.0, 0.5 * seconds))
                if process.exitcode is None:
                    process.kill()
                    done += 1
            process.join()
        generation += 1
        found = content(folder / name)
        names = sorted(expected.keys() | found.keys())
        unlike += [f"{name}/{one}" for one in names if found.get(one) != expected.get(one)]
    return KillTest(done, generation, tuple(unlike), round(seconds, 2))
