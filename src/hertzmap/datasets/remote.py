"""Where the data files are, what they are, and whether they are whole."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

from hertzmap.core.errors import DataError

ENVIRONMENT_VARIABLE = "HERTZMAP_DATA"
"""Names the data folder; wins over all other places."""
BUNDLED = Path(__file__).resolve().parents[1] / "data"
"""The small copy that the package ships."""


@final
@dataclass(frozen=True)
class DataFile:
    """One entry of the manifest."""

    name: str
    """Path below the data folder, e.g. ``osm/heidelberg.osm.pbf``."""
    sha256: str
    """SHA-256 of the content, in hexadecimal."""
    size: int
    """Size [bytes]."""
    source: str
    """Where it comes from: repository, commit and path, or what is known of it."""
    licence: str
    """Licence and holder."""


def data_root() -> Path:
    """The data folder: ``HERTZMAP_DATA``; else ``../shared/data`` beside the project; else bundled.

    Raises:
        DataError: if ``HERTZMAP_DATA`` names no folder.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        if not Path(named).is_dir():
            msg = f"{ENVIRONMENT_VARIABLE}={named} is no folder; correct the variable or unset it"
            raise DataError(msg)
        return Path(named)
    project = Path(__file__).resolve().parents[3]
    beside = project.parent / "shared" / "data"
    return beside if (project / "pyproject.toml").is_file() and beside.is_dir() else BUNDLED


def find(name: str) -> Path:
    """Path of a data file such as ``osm/heidelberg.osm.pbf``: in the data folder, else bundled.

    Raises:
        DataError: if neither has it.
    """
    places = (data_root() / name, BUNDLED / name)
    for place in places:
        if place.exists():
            return place
    known = name in manifest()
    msg = (
        f"data file {name!r} is not in {places[0].parent} nor in the package's own copy; "
        + (
            f"it comes from {manifest()[name].source}; "
            if known
            else "the manifest has no such file; "
        )
        + f"set {ENVIRONMENT_VARIABLE} to a data folder that holds it"
    )
    raise DataError(msg)


@lru_cache(maxsize=1)
def manifest() -> dict[str, DataFile]:
    """All data files by name: shipped ones and those of the full data folder."""
    entries = json.loads((BUNDLED / "manifest.json").read_text(encoding="utf-8"))
    return {entry["name"]: DataFile(**entry) for entry in entries}


def verify(name: str) -> Path:
    """Find a data file and check its SHA-256 against the manifest.

    Raises:
        DataError: if it is missing, not in the manifest, or its content differs.
    """
    path = find(name)
    if name not in manifest():
        msg = f"data file {name!r} is not in the manifest; its content cannot be checked"
        raise DataError(msg)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = manifest()[name].sha256
    if found != expected:
        msg = f"{path} is damaged: its SHA-256 is {found}, not {expected}; copy it again"
        raise DataError(msg)
    return path


def extracts() -> tuple[str, ...]:
    """Names of the map extracts at hand, sorted, e.g. ``heidelberg``."""
    return tuple(sorted(_extract_files()))


def extract_path(name: str) -> Path:
    """Path of a map extract by its name.

    Raises:
        DataError: if there is no such extract.
    """
    files = _extract_files()
    if name not in files:
        msg = (
            f"there is no map extract {name!r} in {data_root()}, which has "
            f"{', '.join(sorted(files))}; "
            f"set {ENVIRONMENT_VARIABLE} to a data folder that holds it"
        )
        raise DataError(msg)
    return files[name]


@lru_cache(maxsize=64)
def extract_sha256(name: str) -> str:
    """SHA-256 of a map extract's file, in hexadecimal.

    Raises:
        DataError: if there is no such extract.
    """
    return hashlib.sha256(extract_path(name).read_bytes()).hexdigest()


def _extract_files() -> dict[str, Path]:
    folders = (BUNDLED / "osm", data_root() / "osm")
    return {
        path.name.split(".")[0]: path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if ".osm" in path.name
    }
