"""Datasets on disk: one Zarr store a shard, whole or not at all, beside it a JSON that says so.

    dataset/
    ├── plan.json           what will be made: recipe, config, one entry a shard
    ├── dataset.json        written when all shards are there; a reader asks for it
    ├── run.log             when and how it was run
    ├── shards/00017.zarr/  Zarr v3 groups; `truth/` holds what a method never sees
    ├── shards/00017.json   plan, hashes, counts; written last: a shard without it does not exist
    └── shards/00017.log    when, where and how fast; beside the shard, which holds no time or host

A shard's bytes depend on its plan and on the package's versions alone. Nothing is pickled.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import xarray
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from hertzmap.core.errors import DataError

FORMAT_VERSION = 1
"""Raise it when a reader of the old layout would misread the new one."""
TRUTH = "truth"
"""The group that holds what only the simulator knows."""
LEVEL = 3
"""Effort of the Zstandard codec; more of it gained under 2 % on paths and maps."""
SHARDS = "shards"
"""Folder of the shards."""


@final
@dataclass(frozen=True)
class Layer:
    """One array of a shard with what a reader must know about it."""

    values: np.ndarray
    """The numbers; none of them NaN or infinite."""
    dims: tuple[str, ...]
    """Name of each axis, see `core.units`."""
    units: str
    """Unit; ``1`` for a pure number."""
    long_name: str
    """What it is, in words."""
    chunk: int | None = None
    """Entries of the first axis in a chunk, what is read at once; all of them by default."""
    least: int | float | None = None
    """No value lies below this."""
    most: int | float | None = None
    """No value lies above this."""
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further attributes, e.g. ``row_order`` of a raster."""

    def __post_init__(self) -> None:
        if self.values.ndim != len(self.dims):
            msg = f"Layer {self.long_name!r} has axes {self.dims} but shape {self.values.shape}"
            raise ValueError(msg)
        if self.values.dtype.kind not in "biufc":
            msg = f"Layer {self.long_name!r} must hold numbers, not {self.values.dtype}"
            raise ValueError(msg)
        if self.chunk is not None and self.chunk < 1:
            msg = f"Layer {self.long_name!r} needs a chunk of at least 1, got {self.chunk}"
            raise ValueError(msg)


@final
@dataclass(frozen=True)
class Contents:
    """All that goes into one shard."""

    layers: Mapping[str, Layer]
    """Arrays by ``group/name``."""
    attrs: Mapping[str, Mapping[str, Any]]
    """Attributes by group; the shard's own under the empty name."""
    facts: Mapping[str, Any]
    """Counts for the shard's JSON; numbers and lists of numbers are added up over the dataset."""


def shard_path(folder: Path, number: int, ending: str = "zarr") -> Path:
    """Path of a shard's store, JSON or log."""
    return folder / SHARDS / f"{number:05d}.{ending}"


def key_of(plan: Mapping[str, Any]) -> str:
    """Name of a plan: the SHA-256 of its JSON."""
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_finished(folder: Path, number: int, plan: Mapping[str, Any]) -> bool:
    """Whether a shard is there.

    Raises:
        DataError: if it is there but was made by another plan, or its JSON is damaged.
    """
    if not shard_path(folder, number, "json").exists():
        return False
    made_by = read_facts(folder, number)["key"]
    if made_by != key_of(plan):
        msg = (
            f"{shard_path(folder, number)} was made by another plan; choose another folder, or "
            "delete this one to make it anew"
        )
        raise DataError(msg)
    return True


def read_facts(folder: Path, number: int) -> dict[str, Any]:
    """What a shard's JSON says.

    Raises:
        DataError: if it is missing or damaged.
    """
    return read_json(shard_path(folder, number, "json"), "make the shard again: delete both files")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object, or say what is wrong with it and what to do."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read ({error}); {remedy}"
        raise DataError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} holds no JSON object; {remedy}"
        raise DataError(msg)
    return content


@contextmanager
def held(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Hold a log, and what it is the log of, alone; yields what appends a line of JSON to it.

    The lock ends with the process that holds it, however that ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    def note(line: Mapping[str, Any]) -> None:
        os.write(handle, (json.dumps(line) + "\n").encode())

    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield note
    finally:
        os.close(handle)


def discard_unfinished(folder: Path, number: int) -> None:
    """Remove what an interrupted run left of a shard; only for the process that holds it."""
    for path in (shard_path(folder, number), _partial(shard_path(folder, number))):
        if path.exists():
            shutil.rmtree(path)
    _partial(shard_path(folder, number, "json")).unlink(missing_ok=True)


def write_shard(
    folder: Path, number: int, plan: Mapping[str, Any], contents: Contents
) -> dict[str, Any]:
    """Write one shard that is not there yet: the store whole, then its JSON.

    Only for the process that holds the shard, see `held`.

    Returns:
        What the JSON says.

    Raises:
        DataError: if an array holds NaN or leaves its own range, or the disk fails.
    """
    for name, layer in contents.layers.items():
        wrong = _outside(layer.values, layer.least, layer.most)
        if wrong:
            msg = f"array {name} of shard {number} {wrong}; nothing was written"
            raise DataError(msg)
    discard_unfinished(folder, number)
    path = shard_path(folder, number)
    try:
        _write_store(_partial(path), contents)
        hashes = _hashes(_partial(path))
        _sync_tree(_partial(path))
        _partial(path).rename(path)
        _sync(path.parent)
        facts = {
            "format_version": FORMAT_VERSION,
            "number": number,
            "key": key_of(plan),
            "plan": dict(plan),
            "content_sha256": key_of(hashes),
            "files_sha256": hashes,
            "counts": dict(contents.facts),
        }
        write_whole(shard_path(folder, number, "json"), facts)
    except OSError as error:
        msg = f"cannot write {path} ({error.strerror or error}); free the disk and run again"
        raise DataError(msg) from error
    return facts


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that it is there whole, and on the disk, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync(path.parent)


def open_group(folder: Path, number: int, group: str) -> xarray.Dataset:
    """One group of a shard, lazily: arrays are read when indexed. Never across a fork.

    Raises:
        DataError: if it is not there.
    """
    path = shard_path(folder, number)
    try:
        return xarray.open_dataset(
            path,
            engine="zarr",
            group=group,
            chunks=None,
            decode_cf=False,  # the units are ours, and there are no fill values
            cache=False,
            consolidated=False,  # Zarr v3 has no agreed form of it
        )
    except (OSError, ValueError, KeyError) as error:
        msg = f"group {group!r} of {path} cannot be opened ({error}); check the dataset"
        raise DataError(msg) from error


def groups_of(folder: Path, number: int, *, truth: bool = False) -> tuple[str, ...]:
    """Names of a shard's groups that hold arrays, by file names; without `truth/` by default."""
    path = shard_path(folder, number)
    found = {file.parent.parent.relative_to(path) for file in path.glob("*/*/zarr.json")}
    names = sorted(str(name) for name in found)
    return tuple(name for name in names if truth or name != TRUTH)


def shard_problems(folder: Path, number: int) -> list[str]:
    """What is wrong with one shard: hashes, then names, units, shapes, ranges and offsets."""
    path = shard_path(folder, number)
    try:
        facts = read_facts(folder, number)
        stated = facts["files_sha256"]
        version = facts["format_version"]
    except (DataError, KeyError) as error:
        return [f"{shard_path(folder, number, 'json')}: {error}"]
    if version != FORMAT_VERSION:
        return [f"{path} has format {version}, this version reads {FORMAT_VERSION}"]
    found = _hashes(path)
    problems = [f"{path / name} is missing" for name in sorted(stated.keys() - found.keys())]
    problems += [f"{path / name} does not belong here" for name in sorted(found.keys() - stated)]
    problems += [
        f"{path / name} is damaged: its SHA-256 is not the one that was written"
        for name in sorted(stated.keys() & found.keys())
        if stated[name] != found[name]
    ]
    if facts["content_sha256"] != key_of(stated):
        problems.append(f"{shard_path(folder, number, 'json')} is damaged: its hashes disagree")
    return problems or _layout_problems(folder, number)


def _layout_problems(folder: Path, number: int) -> list[str]:
    problems: list[str] = []
    sizes: dict[str, int] = {}
    offsets: dict[str, tuple[str, np.ndarray]] = {}
    path = shard_path(folder, number)
    for group in groups_of(folder, number, truth=True):
        for name, array in open_group(folder, number, group).variables.items():
            where = f"{path / group}/{name}"
            lacking = [key for key in ("units", "long_name") if not array.attrs.get(key)]
            if lacking:
                problems.append(f"{where} has no {' and no '.join(lacking)}")
            if {"rows", "cols"} <= set(array.dims) and array.attrs.get("row_order") != "south_up":
                problems.append(f"{where} is a raster but does not say row_order = south_up")
            for dim, size in zip(array.dims, array.shape, strict=True):
                if sizes.setdefault(str(dim), size) != size:
                    problems.append(f"{where} has {size} {dim}, other arrays {sizes[str(dim)]}")
            wrong = _outside(
                array.values, array.attrs.get("valid_min"), array.attrs.get("valid_max")
            )
            if wrong:
                problems.append(f"{where} {wrong}")
            if "offsets_of" in array.attrs:
                offsets[where] = (array.attrs["offsets_of"], array.values)
    problems += [
        f"{where} does not divide the {of}: it must rise from 0 to all"
        for where, (of, values) in offsets.items()
        if not _is_offset(values, sizes.get(of))
    ]
    return problems


def _is_offset(offset: np.ndarray, total: int | None) -> bool:
    ends = total is None or (offset[0] == 0 and offset[-1] == total)
    return bool(ends and np.all(np.diff(offset) >= 0))


def _outside(values: np.ndarray, least: int | float | None, most: int | float | None) -> str:
    """What is wrong with an array's values, or nothing."""
    if not np.all(np.isfinite(values)):
        return "holds NaN or infinite numbers"
    if values.size and least is not None and values.min() < least:
        return f"goes down to {values.min()}, below its least value {least}"
    if values.size and most is not None and values.max() > most:
        return f"goes up to {values.max()}, above its greatest value {most}"
    return ""


def _write_store(path: Path, contents: Contents) -> None:
    store = LocalStore(path)
    root = zarr.create_group(
        store=store, zarr_format=3, attributes=dict(contents.attrs.get("", {}))
    )
    names = dict.fromkeys(name.rpartition("/")[0] for name in contents.layers)
    for group in names:
        root.create_group(group, attributes=dict(contents.attrs.get(group, {})))
    for name, layer in contents.layers.items():
        ends = {"valid_min": layer.least, "valid_max": layer.most}
        array = root.create_array(
            name,
            shape=layer.values.shape,
            dtype=layer.values.dtype,
            dimension_names=layer.dims,
            compressors=ZstdCodec(level=LEVEL),
            fill_value=0,
            attributes={
                "units": layer.units,
                "long_name": layer.long_name,
                **{key: value for key, value in ends.items() if value is not None},
                **layer.attrs,
            },
            **_chunking(layer),
        )
        if layer.values.size:
            array[...] = layer.values


def _chunking(layer: Layer) -> dict[str, Any]:
    """Chunks of some entries, all of them in one file (a Zarr shard)."""
    shape = tuple(max(size, 1) for size in layer.values.shape)
    if layer.chunk is None or not shape or layer.chunk >= shape[0]:
        return {"chunks": shape}
    whole = -(-shape[0] // layer.chunk) * layer.chunk
    return {"chunks": (layer.chunk, *shape[1:]), "shards": (whole, *shape[1:])}


def _hashes(path: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its name."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _sync_tree(path: Path) -> None:
    for below in sorted(path.rglob("*")):
        _sync(below)
    _sync(path)


def _sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
