"""Recipes of datasets: a config makes plans, a plan makes one shard, finished shards a dataset.

A recipe is a file of this folder with a `RECIPE`; it computes and draws, and never writes. Here its
results meet the disk. A shard's content depends on its plan alone, not on worker, order or number.
"""

import importlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from platform import node
from typing import Any, final

import yaml
from pydantic import TypeAdapter, ValidationError
from threadpoolctl import threadpool_limits

from hertzmap.core.errors import ConfigError, DataError
from hertzmap.core.kpi import KPI_VERSION
from hertzmap.datasets import store
from hertzmap.datasets.store import Contents

RECIPES = {"diffloc-uma": "diffloc_uma", "mapcond-cities": "mapcond_cities"}
"""File of each recipe in this folder."""
PLAN, DATASET, RUN_LOG = "plan.json", "dataset.json", "run.log"
"""What will be made, what is there once all of it is, and when it was run."""
_PACKAGES = ("hertzmap", "numba", "numpy", "scipy", "shapely", "zarr")


@final
@dataclass(frozen=True)
class Recipe:
    """What a recipe's file offers."""

    config: type
    """Its settings, a frozen dataclass with the fields ``recipe`` and ``seed``."""
    unit: type
    """What one shard is about, a frozen dataclass of plain data."""
    units: Callable[[Any], list[Any]]
    """Lists the units of a config, always in the same order."""
    contents: Callable[[Any, Any], Contents]
    """Computes one shard from config and unit."""
    about: Callable[[Any, dict[str, Any]], dict[str, Any]]
    """What the dataset says of itself, from config and counts: licence, sources, splits, ..."""


@final
@dataclass(frozen=True)
class ShardPlan:
    """All that decides what is in one shard."""

    config: Any
    """The recipe's config."""
    number: int
    """Number of the shard in the dataset."""
    unit: Any
    """The recipe's unit."""

    def facts(self) -> dict[str, Any]:
        """The plan as plain JSON values; its hash names the shard."""
        content = {
            "config": asdict(self.config),
            "number": self.number,
            "unit": asdict(self.unit),
        }
        return json.loads(json.dumps(content, allow_nan=False))


def recipe(name: str) -> Recipe:
    """Find a recipe by its name.

    Raises:
        ConfigError: if there is no such recipe.
    """
    if name not in RECIPES:
        msg = f"there is no dataset recipe {name!r}; choose one of {', '.join(RECIPES)}"
        raise ConfigError(msg)
    return importlib.import_module(f"hertzmap.datasets.{RECIPES[name]}").RECIPE


def load_config(path: Path) -> Any:  # noqa: ANN401 - the class depends on the file
    """Read a config's YAML: the recipe's name and any of its settings.

    Raises:
        ConfigError: if the file is missing, or a setting is unknown or wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"{path} cannot be read as a dataset's config: {error}"
        raise ConfigError(msg) from error
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), str):
        msg = (
            f"{path} must name its recipe, e.g. `recipe: diffloc-uma`; known: {', '.join(RECIPES)}"
        )
        raise ConfigError(msg)
    try:
        return _parsed(recipe(content["recipe"]).config, content)
    except ValidationError as error:
        msg = f"{path} is not a valid config of {content['recipe']}: {error}"
        raise ConfigError(msg) from error


def _parsed(kind: Any, content: object) -> Any:  # noqa: ANN401 - a type, and one of it
    return TypeAdapter(kind).validate_json(json.dumps(content))


def plan(config: Any) -> list[ShardPlan]:  # noqa: ANN401 - any recipe's config
    """List the shards of a config."""
    units = recipe(config.recipe).units(config)
    return [ShardPlan(config, number, unit) for number, unit in enumerate(units)]


def begin(config: Any, folder: Path) -> list[ShardPlan]:  # noqa: ANN401 - any recipe's config
    """The plans of a folder: from its file if it was begun, else listed and written there.

    Raises:
        ConfigError: if the folder holds another dataset.
    """
    with store.held(folder / RUN_LOG):
        return _begun(config, folder)


def _begun(config: Any, folder: Path) -> list[ShardPlan]:  # noqa: ANN401 - any recipe's config
    path = folder / PLAN
    settings = json.loads(json.dumps(asdict(config), allow_nan=False))
    if path.exists():
        stored = store.read_json(path, "delete the folder and generate again")
        if stored.get("config") != settings:
            other = sorted(
                key for key, value in settings.items() if stored["config"].get(key) != value
            )
            msg = (
                f"{folder} holds a dataset made with other settings ({', '.join(other)}); "
                "choose another folder or delete this one"
            )
            raise ConfigError(msg)
        return read_plans(folder)
    plans = plan(config)
    units = [item.facts()["unit"] for item in plans]
    store.write_whole(
        path, {"format_version": store.FORMAT_VERSION, "config": settings, "units": units}
    )
    return plans


def read_plans(folder: Path) -> list[ShardPlan]:
    """The plans that a folder was begun with.

    Raises:
        DataError: if it holds no dataset, or its plan is damaged.
    """
    path = folder / PLAN
    stored = store.read_json(path, "name the folder of a dataset")
    try:
        found = recipe(stored["config"]["recipe"])
        config = _parsed(found.config, stored["config"])
        units = _parsed(list[found.unit], stored["units"])
    except (KeyError, TypeError, ValidationError) as error:
        msg = f"{path} is no plan that this version reads ({error}); generate the dataset again"
        raise DataError(msg) from error
    return [ShardPlan(config, number, unit) for number, unit in enumerate(units)]


def make(item: ShardPlan, folder: Path) -> bool:
    """Make one shard unless it is there; returns whether it was made.

    Linear algebra runs on one thread, so that its sums have one order.

    Raises:
        DataError: if the shard there was made by another plan, or the disk fails.
    """
    facts = item.facts()
    if store.is_finished(folder, item.number, facts):
        return False
    with store.held(store.shard_path(folder, item.number, "log")) as note:
        if store.is_finished(folder, item.number, facts):  # made while we waited
            return False
        started, cpu_started = time.perf_counter(), time.process_time()
        with threadpool_limits(1):
            found = recipe(item.config.recipe).contents(item.config, item.unit)
        attrs = {**found.attrs, "": {**found.attrs.get("", {}), **_provenance(item)}}
        written = store.write_shard(
            folder, item.number, facts, Contents(found.layers, attrs, found.facts)
        )
        note(
            {
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - started, 3),
                "cpu_seconds": round(time.process_time() - cpu_started, 3),
                "peak_rss_mib": peak_memory_mib(),
                "host": node(),
                "commit": commit(),
                "content_sha256": written["content_sha256"],
            }
        )
    return True


def finish(folder: Path) -> bool:
    """Write ``dataset.json`` if all shards are there; returns whether it is there.

    Shards are joined by what their JSON files say.
    """
    plans = read_plans(folder)
    if not all(store.is_finished(folder, item.number, item.facts()) for item in plans):
        return False
    shards = [store.read_facts(folder, item.number) for item in plans]
    config = plans[0].config
    counts = total(shard["counts"] for shard in shards)
    content = {
        "format_version": store.FORMAT_VERSION,
        "kpi_version": KPI_VERSION,
        "recipe": config.recipe,
        "config": asdict(config),
        "versions": versions(),
        "commit": commit(),
        **recipe(config.recipe).about(config, counts),
        "counts": counts,
        "shards": [
            {key: shard[key] for key in ("number", "content_sha256", "counts")} for shard in shards
        ],
    }
    with store.held(folder / RUN_LOG):
        store.write_whole(folder / DATASET, content)
    return True


def note_run(folder: Path, line: Mapping[str, Any]) -> None:
    """Append a line to the dataset's log of runs."""
    with store.held(folder / RUN_LOG) as note:
        note({"host": node(), "commit": commit(), **line})


def total(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of several shards added up: numbers, lists of them, and mappings, by their names.

    >>> total([{"links": 2, "by_cell": [1, 0]}, {"links": 3, "by_cell": [1, 1]}])
    {'links': 5, 'by_cell': [2, 1]}
    """
    out: dict[str, Any] = {}
    for one in counts:
        for name, value in one.items():
            out[name] = _added(out[name], value) if name in out else value
    return out


def _added(first: Any, second: Any) -> Any:  # noqa: ANN401 - numbers, lists and mappings alike
    if isinstance(first, dict):
        return total([first, second])
    if isinstance(first, list):
        return [_added(a, b) for a, b in zip(first, second, strict=True)]
    return first + second


def _provenance(item: ShardPlan) -> dict[str, Any]:
    facts = item.facts()
    return {
        "format_version": store.FORMAT_VERSION,
        "recipe": item.config.recipe,
        "seed": item.config.seed,
        "config": facts["config"],
        "config_sha256": store.key_of(facts["config"]),
        "unit": facts["unit"],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide a shard's bytes."""
    return {name: metadata.version(name) for name in _PACKAGES}


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Commit of the source tree; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far [MiB]; None where the system tells it not."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peak = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return round(peak[0] / 1024, 1) if peak else None
