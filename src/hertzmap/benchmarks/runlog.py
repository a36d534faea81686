"""A resumable log of single runs: JSON lines, one per run, safe against a kill at any time.

A line is written in one system call and flushed to disk. A line cut short by a kill is dropped on
the next reading and cut off before the next line is appended.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from pydantic import ConfigDict, TypeAdapter, ValidationError


@final
@dataclass(frozen=True)
class Run:
    """One method on one set of reports of one world, scored."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    world: str
    """World, e.g. ``heidelberg/2``."""
    seed: int
    """Report seed."""
    method: str
    """Method as asked for."""
    fingerprint: str
    """Hash of the method as built: settings and weights."""
    config_hash: str
    """Hash of the cell's settings that decide the reports."""
    truth_mean_db: float
    """Mean of the true map over free cells [dB]: tells a changed truth from the same one."""
    reports: int
    """Number of reports."""
    metrics: dict[str, float]
    """Scores."""
    seconds: float
    """Wall time of the estimate [s]."""
    peak_rss_mib: float
    """Largest resident memory of the process during the estimate [MiB]."""
    stopped_by: tuple[str, ...]
    """Stopping rule of each start; empty for direct methods."""
    commit: str | None
    """Commit of the source tree."""
    hardware: str
    """The machine in a few words."""
    cpu_seconds: float | None = None
    """Processor time of the estimate, all threads [s]: holds on a busy machine too."""


_RUN = TypeAdapter(Run)


@final
@dataclass(frozen=True)
class RunLog:
    """The log file of one cell."""

    path: Path
    """Where the lines are."""

    def read(self) -> tuple[Run, ...]:
        """All whole lines, oldest first; a line that is no run (cut short, older form) is left out.

        Returns:
            The runs; empty when there is no file yet.
        """
        if not self.path.exists():
            return ()
        runs = []
        for line in self.path.read_bytes().splitlines():
            try:
                runs.append(_RUN.validate_json(line))
            except ValidationError:
                continue
        return tuple(runs)

    def append(self, run: Run) -> None:
        """Add one run; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(asdict(run), allow_nan=False) + "\n").encode()
        with self._locked() as handle:
            _cut_unfinished_line(handle)
            os.lseek(handle, 0, os.SEEK_END)
            os.write(handle, line)
            os.fsync(handle)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file open for writing, held alone: two benchmarks may share a log."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)


def _cut_unfinished_line(handle: int) -> None:
    size = os.lseek(handle, 0, os.SEEK_END)
    content = os.pread(handle, size, 0)
    if content and not content.endswith(b"\n"):
        os.ftruncate(handle, content.rfind(b"\n") + 1)
