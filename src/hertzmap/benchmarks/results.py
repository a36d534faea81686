"""The result file: what a benchmark leaves behind, with all that says how it came about.

``results/<table>/<cell>.json`` holds one JSON object: ``header`` (config hash, commit, versions,
hardware, protocol, flags), ``results`` (a list of `ResultRow`) and ``differences`` (a list of
`PairedDifference`). Files are written whole or not at all; tables are rendered from them.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, TypeAdapter, ValidationError

from hertzmap.core.errors import DataError
from hertzmap.core.seeds import generator

RESAMPLES = 2000
"""Bootstrap resamples behind every standard error and interval of a table."""
_PACKAGES = ("hertzmap", "numpy", "scipy", "numba", "torch")


@final
@dataclass(frozen=True)
class ResultRow:
    """One number of a table: one method, one metric."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    method: str
    """Method as asked for, e.g. ``kriging:tuned``."""
    metric: str
    """Name of the metric, e.g. ``psnr_db``."""
    unit: str
    """Unit in words, e.g. ``dB``; ``1`` for a pure number."""
    mean: float
    """Mean over environments."""
    se: float | None
    """Standard error of the mean (see the header's ``se``); None with one environment."""
    n: int
    """Number of environments behind the mean."""
    published: float | None = None
    """The source paper's own figure, on the paper's own data; None where it has none."""


@final
@dataclass(frozen=True)
class PairedDifference:
    """Difference of two methods on identical reports, with its interval."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    method: str
    """The method whose value comes first."""
    against: str
    """The method whose value is subtracted."""
    metric: str
    """Name of the metric."""
    unit: str
    """Unit in words."""
    mean: float
    """Mean of the paired difference over environments."""
    low: float | None
    """Lower end of the 95 % bootstrap interval; None with one environment."""
    high: float | None
    """Upper end of the 95 % bootstrap interval."""
    n: int
    """Number of environments both methods were run on."""


@final
@dataclass(frozen=True)
class ResultFile:
    """One cell of one table, as it lies on disk."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    header: dict[str, Any]
    """Provenance: see `provenance`."""
    results: tuple[ResultRow, ...]
    """The numbers."""
    differences: tuple[PairedDifference, ...] = field(default=())
    """Paired differences between methods."""

    def row(self, method: str, metric: str) -> ResultRow | None:
        """The number of one method and metric; None when it was not run."""
        found = [row for row in self.results if (row.method, row.metric) == (method, metric)]
        return found[0] if found else None

    def difference(self, method: str, against: str, metric: str) -> PairedDifference | None:
        """The paired difference of two methods; None when it was not computed."""
        key = (method, against, metric)
        found = [d for d in self.differences if (d.method, d.against, d.metric) == key]
        return found[0] if found else None

    def methods(self) -> tuple[str, ...]:
        """The methods, in the order of the file."""
        return tuple(dict.fromkeys(row.method for row in self.results))


_RESULT_FILE = TypeAdapter(ResultFile)


def provenance(config_hash: str, protocol: str, **flags: object) -> dict[str, Any]:
    """The header of a result file.

    Args:
        config_hash: hash of the settings, see `hash_of`.
        protocol: in words: what was measured, on what, and how errors were computed.
        flags: further entries, e.g. ``same_engine=True``.
    """
    return {
        "config_hash": config_hash,
        "commit": commit(),
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": versions(),
        "hardware": hardware(),
        "protocol": protocol,
        **flags,
    }


def hash_of(settings: object) -> str:
    """Short SHA-256 of settings that JSON can hold; key order does not matter.

    >>> hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def commit() -> str | None:
    """Commit of the source tree, with ``+changed`` when src differs from it; None without git."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", here.parent)
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changed" if changed else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that carry the numerics."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, object]:
    """Processor, cores, threads, memory [GiB] and, where torch is loaded and sees one, the GPU."""
    cores = os.cpu_count() or 1
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores)
    found: dict[str, object] = {"cpu": _cpu_model(), "cores": cores, "threads": threads}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def machine() -> str:
    """The hardware in a few words, e.g. ``AMD EPYC (1 of 2 threads)``."""
    found = hardware()
    gpu = f" and {found['gpu']}" if "gpu" in found else ""
    return f"{found['cpu']} ({found['threads']} of {found['cores']} threads){gpu}"


def standard_error(per_environment: Float[np.ndarray, " samples"]) -> float | None:
    """Bootstrap standard error of the mean over environments; None below two."""
    if len(per_environment) < 2:
        return None
    return float(_resampled_means(per_environment).std(ddof=1))


def interval95(per_environment: Float[np.ndarray, " samples"]) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean over environments; None below two.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13; maps of one
    environment are correlated, so environments are resampled, not maps.
    """
    if len(per_environment) < 2:
        return None
    low, high = np.quantile(_resampled_means(per_environment), [0.025, 0.975])
    return float(low), float(high)


def write(path: Path, result: ResultFile) -> None:
    """Write a result file whole or not at all."""
    text = json.dumps(asdict(result), indent=1, allow_nan=False, default=str) + "\n"
    write_whole(path, text.encode())


def read(path: Path) -> ResultFile:
    """Read a result file.

    Raises:
        DataError: if the file is missing or is not a result file.
    """
    try:
        return _RESULT_FILE.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        msg = f"{path} is no result file ({error}); make it again with `hertzmap bench`"
        raise DataError(msg) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file through a temporary neighbour, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _resampled_means(values: np.ndarray) -> np.ndarray:
    drawn = generator(0).integers(len(values), size=(RESAMPLES, len(values)))
    return values[drawn].mean(axis=1)


def _git(folder: Path, *arguments: str | Path) -> str:
    command = ["git", "-C", str(folder), *(str(part) for part in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
