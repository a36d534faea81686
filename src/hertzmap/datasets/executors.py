"""Run plans: here, in a process pool, as one part of an array job, or as Ray tasks.

All call one function with one plan and a folder that every worker sees; results go to the disk, not
through the executor. So all give the same shards, and any of them resumes what another left.
"""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, final

from hertzmap.core.errors import ConfigError, DataError, HertzmapError, MissingExtraError
from hertzmap.datasets.recipes import ShardPlan

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Make = Callable[[ShardPlan, Path], bool]
"""Makes one shard unless it is there, and says whether it did; `recipes.make`."""
Outcome = tuple[int, bool, HertzmapError | None]
"""Shard, whether it was made, and what went wrong."""


@final
@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    shard: int
    """The shard that has just ended."""
    made: bool
    """Whether it was made now, not found."""
    done: int
    """Shards that have ended."""
    total: int
    """Shards of this run."""
    seconds: float
    """Since the run began [s]."""
    eta_s: float | None
    """Until its end, by the shards made so far [s]; None before the first one."""


Tell = Callable[[Progress], None]
"""Called when a shard has ended."""


def part(plans: Sequence[Item], which: str | None) -> list[Item]:
    """The plans of one job of an array job.

    Args:
        plans: all of them.
        which: ``i/n``, i from 1 to n; None for all.

    Raises:
        ConfigError: if it is not of this form.

    >>> part([10, 11, 12, 13, 14], "2/2")
    [11, 13]
    """
    if which is None:
        return list(plans)
    try:
        index, count = (int(text) for text in which.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count:
        msg = f"a part is named i/n with 1 <= i <= n, e.g. 2/8; got {which!r}"
        raise ConfigError(msg)
    return list(plans[index - 1 :: count])


def run(
    plans: Sequence[ShardPlan],
    folder: Path,
    make: Make,
    *,
    workers: int = 1,
    ray: str | None = None,
    tell: Tell | None = None,
) -> None:
    """Make all shards of the plans that are not there yet.

    A shard that fails does not stop the others.

    Args:
        plans: what to make.
        folder: the dataset; all workers must see it.
        make: makes one shard; a function of a module, for processes import it.
        workers: processes; 1 works in this one. With Ray: processors to ask for, if it starts here.
        ray: address of a Ray cluster, or ``local`` to start one on this machine.
        tell: called when a shard has ended.

    Raises:
        DataError: if shards failed or a worker died; what is finished stays.
        MissingExtraError: if Ray is asked for and not installed.
        ConfigError: if `workers` is below 1.
    """
    if workers < 1:
        msg = f"a run needs at least one worker, got {workers}"
        raise ConfigError(msg)
    started = time.perf_counter()
    if ray is not None:
        outcomes = _by_ray(plans, folder, make, ray, workers)
    elif workers == 1 or len(plans) < 2:
        outcomes = (_tried(make, item, folder) for item in plans)
    else:
        outcomes = _by_pool(plans, folder, make, min(workers, len(plans)))
    made, failed = 0, dict[int, HertzmapError]()
    for done, (number, was_made, error) in enumerate(outcomes, start=1):
        made += was_made
        if error is not None:
            failed[number] = error
            logger.warning("shard %d failed: %s", number, error)
        seconds = time.perf_counter() - started
        left = len(plans) - done
        eta = seconds / made * left if made else None
        if tell is not None:
            tell(Progress(number, was_made, done, len(plans), seconds, eta if left else 0.0))
    if failed:
        first = min(failed)
        msg = (
            f"{len(failed)} of {len(plans)} shards failed, first shard {first}: {failed[first]}; "
            "mend the cause and run the same command again, what is finished stays"
        )
        raise DataError(msg) from failed[first]


def _tried(make: Make, item: ShardPlan, folder: Path) -> Outcome:
    try:
        return item.number, make(item, folder), None
    except HertzmapError as error:
        return item.number, False, error


def _by_pool(
    plans: Iterable[ShardPlan], folder: Path, make: Make, workers: int
) -> Iterator[Outcome]:
    """Processes that are spawned, never forked: no thread or open store is carried over."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent) as pool:
        waiting: dict[Future[Outcome], int] = {
            pool.submit(_tried, make, item, folder): item.number for item in plans
        }
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool as error:
            msg = (
                "a worker process died, perhaps for want of memory; run the same command again "
                "with fewer --workers, what is finished stays"
            )
            raise DataError(msg) from error
        finally:
            for future in waiting:
                future.cancel()


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, however that ended."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _by_ray(
    plans: Sequence[ShardPlan], folder: Path, make: Make, address: str, workers: int
) -> Iterator[Outcome]:
    """Ray tasks; the folder must lie on storage that all its machines see."""
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        msg = "Ray is not installed; run `pip install 'hertzmap[cluster]'`, or use --workers"
        raise MissingExtraError(msg) from error
    local = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    where = None if address == "local" else address
    ray.init(address=where, log_to_driver=False, configure_logging=False, **local)
    try:
        task = ray.remote(num_cpus=1, max_retries=2)(_tried)
        waiting = [task.remote(make, item, folder.resolve()) for item in plans]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)
    except RayError as error:
        msg = f"a Ray task died ({error}); run the same command again, what is finished stays"
        raise DataError(msg) from error
    finally:
        ray.shutdown()
