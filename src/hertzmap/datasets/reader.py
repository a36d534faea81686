"""Read a dataset in batches, at random or in order, without loading it, and without its truth.

    dataset = Dataset(folder)
    for batch in dataset.batches("user", "train", 32, seed=0):
        taps = synthesize_taps(batch.channels, port_gains(batch.channels))
        labels = read_truth(dataset, batch.index)["position"]      # for a loss, never for a method

An index names what a batch holds: (shard, sample, step), step -1 for all steps of a sample. A
`Dataset` may be handed to other processes: each opens the stores itself, also after a fork.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xarray
from jaxtyping import Int

from hertzmap.core.channels import Channels
from hertzmap.core.errors import ConfigError, DataError
from hertzmap.core.seeds import generator
from hertzmap.core.sequences import NOT_SIMULATED, MeasurementSequence
from hertzmap.core.types import Transmitter
from hertzmap.datasets import layouts, store
from hertzmap.datasets.recipes import DATASET

MEMORY_MIB = 256.0
"""Size of the arrays that a reader keeps by default [MiB]."""
SEEN = ("ue", "meas", "rt")
"""Groups whose samples a batch holds; what is in ``rt`` no field UE can report."""
ALL_STEPS = -1
"""Stands for all steps of a sample in an index."""
Index = Int[np.ndarray, "samples 3"]
"""(shard, sample, step) of what is read."""


@final
@dataclass(frozen=True)
class Batch:
    """What a method may see of some samples or snapshots."""

    index: Index
    """What it holds."""
    values: dict[str, np.ndarray]
    """Arrays of the groups `SEEN` by ``group/name``, one row for each index.

    Where shards have different numbers of radio cells, the axis of cells is as long as the longest
    and ends in cells that were not simulated."""
    channels: Channels | None
    """Paths of their links, in the same order; None if the dataset has none."""


@final
class Dataset:
    """A finished dataset on disk; arrays are read when asked for."""

    def __init__(self, folder: Path, *, memory_mib: float = MEMORY_MIB) -> None:
        """Open a dataset.

        Args:
            folder: as `hertzmap simulate dataset` wrote it.
            memory_mib: arrays read last are kept up to this size [MiB]; 0 keeps none.

        Raises:
            DataError: if it is not finished, or of another format.
        """
        self.folder = Path(folder)
        remedy = "finish it by running `hertzmap simulate dataset` again"
        self.facts: dict[str, Any] = store.read_json(self.folder / DATASET, remedy)
        """What ``dataset.json`` says."""
        if self.facts.get("format_version") != store.FORMAT_VERSION:
            msg = (
                f"{folder} has format {self.facts.get('format_version')}, this version reads "
                f"{store.FORMAT_VERSION}; generate it again"
            )
            raise DataError(msg)
        self.memory_mib = memory_mib
        self._process = os.getpid()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but open stores, which no other process may use, and what was read."""
        return {"folder": self.folder, "facts": self.facts, "memory_mib": self.memory_mib}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin anew in this process."""
        self.__dict__.update(state)
        self._process = os.getpid()
        self._forget()

    def _forget(self) -> None:
        self._open: dict[tuple[int, str], xarray.Dataset] = {}
        self._held: OrderedDict[tuple[int, str, str], np.ndarray] = OrderedDict()
        self._held_bytes = 0

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the shards."""
        return tuple(shard["number"] for shard in self.facts["shards"])

    def group(self, shard: int, name: str) -> xarray.Dataset:
        """A group of a shard, lazily.

        Raises:
            DataError: if there is none, or the truth is asked for: see `read_truth`.
        """
        if name.split("/")[0] == store.TRUTH:
            msg = "the truth is not for methods; ask `read_truth` for labels of a loss"
            raise DataError(msg)
        return self._group(shard, name)

    def attrs(self, shard: int) -> dict[str, Any]:
        """What a shard says of itself: scene, CRS, engine, config, versions."""
        return dict(store.open_group(self.folder, shard, "").attrs)

    def has(self, shard: int, name: str) -> bool:
        """Whether a shard has a group; looks at no file of the truth."""
        return (store.shard_path(self.folder, shard) / name / "zarr.json").exists()

    def _group(self, shard: int, name: str) -> xarray.Dataset:
        if self._process != os.getpid():
            self._process = os.getpid()
            self._forget()
        if (shard, name) not in self._open:
            self._open[shard, name] = store.open_group(self.folder, shard, name)
        return self._open[shard, name]

    def array(self, shard: int, group: str, name: str) -> np.ndarray | xarray.Variable:
        """An array of a shard, to be indexed: in memory if it is small enough to be kept, or lazy.

        Maps are large: index cells and layers of them, not the whole.
        """
        key = (shard, group, name)
        lazy = self._group(shard, group).variables[name]
        budget = self.memory_mib * 2**20
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        if lazy.nbytes > budget / 4:
            return lazy
        self._held[key] = lazy.values
        self._held_bytes += lazy.nbytes
        while self._held_bytes > budget:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return self._held[key]

    def index(self, split: str, part: str) -> Index:
        """All that belongs to one part of a split, in the order of the disk.

        Args:
            split: e.g. ``user``; see ``dataset.json``.
            part: ``train``, ``validation`` or ``test``.

        Raises:
            ConfigError: if there is no such split or part.
        """
        if split not in self.facts["splits"] or part not in self.facts["parts"]:
            msg = (
                f"{self.folder} has no {part!r} of split {split!r}; splits: "
                f"{', '.join(self.facts['splits'])}; parts: {', '.join(self.facts['parts'])}"
            )
            raise ConfigError(msg)
        code = self.facts["parts"].index(part)
        found = [np.empty((0, 3), np.int64)]
        for shard in self.shards:
            codes = self.group(shard, "split")[split].values
            where = np.argwhere(codes == code)
            if codes.ndim == 1:
                where = np.column_stack([where, np.full(len(where), ALL_STEPS)])
            found.append(np.column_stack([np.full(len(where), shard), where]).astype(np.int64))
        return np.concatenate(found)

    def batches(
        self, split: str, part: str, size: int, *, seed: int | None = None
    ) -> Iterator[Batch]:
        """One pass over a part of a split; the last batch may be smaller.

        Args:
            split: e.g. ``user``.
            part: e.g. ``train``.
            size: samples or snapshots in a batch, at least 1.
            seed: shuffles them; in the order of the disk without it.
        """
        index = self.index(split, part)
        if seed is not None:
            index = generator(seed).permutation(index)
        for first in range(0, len(index), size):
            yield self.read(index[first : first + size])

    def read(self, index: Index) -> Batch:
        """Read what an index names, in its order."""
        groups = [name for name in SEEN if len(index) and self.has(int(index[0, 0]), name)]
        values = {
            f"{group}/{name}": array
            for group in groups
            for name, array in _rows(self, group, index).items()
        }
        with_paths = len(index) > 0 and self.has(int(index[0, 0]), "rt/offset")
        return Batch(index, values, self._channels(index) if with_paths else None)

    def transmitters(self, shard: int) -> tuple[Transmitter, ...]:
        """The radio cells of a shard."""
        cells = self.group(shard, "cells")
        values = {name: cells[name].values for name in ("pose", "pattern")}
        return layouts.transmitters_of(values, cells.attrs)

    def _channels(self, index: Index) -> Channels:
        """Paths of all links of an index, shard by shard, laid in the index's order."""
        stations = self.transmitters(int(index[0, 0]))
        steps = int(self._group(int(index[0, 0]), "split").sizes["steps"])
        each = np.where(index[:, 2] == ALL_STEPS, steps, 1) * len(stations)
        first = (index[:, 1] * steps + np.maximum(index[:, 2], 0)) * len(stations)
        owner, link = np.repeat(index[:, 0], each), _ranges(first, each)
        begin, count = np.empty(len(link), np.int64), np.empty(len(link), np.int64)
        for shard in np.unique(owner):
            mine = owner == shard
            offset = self.array(int(shard), "rt", "offset")
            begin[mine] = np.asarray(offset[link[mine]])
            count[mine] = np.asarray(offset[link[mine] + 1]) - begin[mine]
        offset = np.concatenate([[0], np.cumsum(count)])
        values: dict[str, np.ndarray] = {}
        for shard in np.unique(owner):
            mine = owner == shard
            source = _ranges(begin[mine], count[mine])
            target = _ranges(offset[:-1][mine], count[mine])
            for name in sorted(map(str, self._group(int(shard), "rt").variables)):
                if name == "offset":
                    continue
                rows = np.asarray(self.array(int(shard), "rt", str(name))[source])
                if name not in values:
                    values[str(name)] = np.empty((offset[-1], *rows.shape[1:]), rows.dtype)
                values[str(name)][target] = rows
        return layouts.channels_of({**values, "offset": offset}, stations)


def _ranges(first: Int[np.ndarray, " n"], count: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """``first[i], ..., first[i] + count[i] - 1`` behind one another.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(count) - count
    return np.repeat(first - before, count) + np.arange(int(count.sum()))


def read_truth(dataset: Dataset, index: Index) -> dict[str, np.ndarray]:
    """Positions and velocities of what an index names: labels for a loss and for scores.

    No method may see them.
    """
    return _rows(dataset, store.TRUTH, index)


def _rows(dataset: Dataset, group: str, index: Index) -> dict[str, np.ndarray]:
    """Rows of all arrays of a group that have samples, for each index."""
    shards = np.unique(index[:, 0]).tolist()
    opened = {shard: dataset._group(shard, group) for shard in shards}
    cells = max((one.sizes.get("cells", 0) for one in opened.values()), default=0)
    out: dict[str, np.ndarray] = {}
    for shard in shards:
        mine = np.flatnonzero(index[:, 0] == shard)
        sample, step = index[mine, 1], index[mine, 2]
        for name, found in sorted(opened[shard].variables.items()):
            if found.dims[:1] != ("samples",):
                continue
            rows = np.asarray(dataset.array(shard, group, str(name))[sample])
            if "cells" in found.dims:
                missing = [(0, cells - size if dim == "cells" else 0)
                           for dim, size in zip(found.dims, rows.shape, strict=True)]  # fmt: skip
                rows = np.pad(rows, missing, constant_values=NOT_SIMULATED * (name == "reason"))
            if found.dims[1:2] == ("steps",) and np.all(step != ALL_STEPS):
                rows = rows[np.arange(len(rows)), step]
            if str(name) not in out:
                out[str(name)] = np.empty((len(index), *rows.shape[1:]), rows.dtype)
            out[str(name)][mine] = rows
    return out


def read_sequences(dataset: Dataset, index: Index) -> MeasurementSequence:
    """What some UEs of one shard report.

    Args:
        dataset: with measurements.
        index: of samples of one shard.

    Raises:
        ConfigError: if the index is of several shards, whose radio cells differ.
    """
    shards = np.unique(index[:, 0])
    if len(shards) != 1:
        msg = f"sequences share their radio cells, so ask for one shard, not {shards.tolist()}"
        raise ConfigError(msg)
    shard = int(shards[0])
    batch = dataset.read(index)
    meas, cells = dataset.group(shard, "meas"), dataset.group(shard, "cells")
    values = {name.partition("/")[2]: array for name, array in batch.values.items()}
    return layouts.sequences_of(
        values,
        meas["reason"].attrs["keys"],
        batch.values["ue/time"],
        [f"ue{number}" for number in batch.values["ue/id"].tolist()],
        {str(name): array.values for name, array in cells.variables.items()},
        meas.attrs["subcarrier_spacing_hz"],
    )
