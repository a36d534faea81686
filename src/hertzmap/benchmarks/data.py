"""The data engine's figures: size and time of a dataset, its links, taps per second, kills, Ray."""

import multiprocessing
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hertzmap.core.errors import DataError
from hertzmap.core.seeds import generator
from hertzmap.datasets import executors, recipes


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
