"""Datasets from the command line: generate one, resume it, check it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hertzmap.core.errors import DataError
from hertzmap.datasets import executors, recipes, store
from hertzmap.datasets.executors import Progress


@final
@dataclass(frozen=True)
class RunOptions:
    """Who works, and on what."""

    workers: int | None = None
    """Processes; one for each processor by default."""
    ray: str | None = None
    """Address of a Ray cluster, or ``local``."""
    shard: str | None = None
    """Part ``i/n`` of the shards, for jobs of an array."""


def usual_workers() -> int:
    """Processors that this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1


def generate(
    config_file: Path, folder: Path, options: RunOptions, tell: Callable[[Progress], None]
) -> dict[str, Any]:
    """Make all shards of a dataset, or of a part of it, that are not there yet.

    Raises:
        ConfigError: if the config is not valid, or the folder holds another dataset.
        DataError: if shards failed.
    """
    config = recipes.load_config(config_file)
    workers = options.workers or usual_workers()
    plans = recipes.begin(config, folder)
    chosen = executors.part(plans, options.shard)
    started = time.perf_counter()
    recipes.note_run(folder, {"event": "begin", "shards": len(chosen), "workers": workers})
    executors.run(chosen, folder, recipes.make, workers=workers, ray=options.ray, tell=tell)
    finished = recipes.finish(folder)
    seconds = round(time.perf_counter() - started, 1)
    recipes.note_run(folder, {"event": "end", "seconds": seconds, "whole": finished})
    summary: dict[str, Any] = {
        "recipe": config.recipe,
        "folder": str(folder),
        "shards": len(chosen),
        "of": len(plans),
        "whole": finished,
        "seconds": seconds,
        "size_mib": round(size_bytes(folder) / 2**20, 2),
    }
    if finished:
        facts = store.read_json(folder / recipes.DATASET, "generate the dataset again")
        summary["counts"] = _without_sums(facts["counts"])
    return summary


def _without_sums(counts: dict[str, Any]) -> dict[str, Any]:
    """Counts that people read; sums for constants of normalisation stay in the file."""
    return {
        name: _without_sums(value) if isinstance(value, dict) else value
        for name, value in counts.items()
        if not name.endswith("_sum")
    }


def size_bytes(folder: Path) -> int:
    """Bytes of all files of a dataset."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check(folder: Path) -> dict[str, Any]:
    """Check every shard: hashes, names, units, shapes, ranges.

    Raises:
        DataError: if anything is wrong; it lists the first findings.
    """
    plans = recipes.read_plans(folder)
    missing = [
        item.number for item in plans if not store.is_finished(folder, item.number, item.facts())
    ]
    present = [item.number for item in plans if item.number not in missing]
    problems = [text for number in present for text in store.shard_problems(folder, number)]
    if problems:
        listed = "\n".join(problems[:20])
        msg = f"{folder} has {len(problems)} problems; delete the shards and run again:\n{listed}"
        raise DataError(msg)
    return {
        "folder": str(folder),
        "shards": len(present),
        "missing": missing or "none",
        "problems": 0,
        "size_mib": round(size_bytes(folder) / 2**20, 2),
    }
