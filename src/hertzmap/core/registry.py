"""A method is found by its file name; listing the names imports nothing."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from hertzmap.core.errors import ConfigError

FAMILIES = ("estimation", "positioning")
"""Folders whose files are methods."""


def names(family: str) -> tuple[str, ...]:
    """Names of a family's methods, sorted: its file names but ``base`` and ``_private`` ones.

    Raises:
        ConfigError: if there is no such family.
    """
    if family not in FAMILIES:
        msg = f"there is no method family {family!r}; choose one of {', '.join(FAMILIES)}"
        raise ConfigError(msg)
    spec = importlib.util.find_spec(f"hertzmap.{family}")
    places = spec.submodule_search_locations if spec else None
    found = {
        path.stem
        for place in places or ()
        for path in Path(place).glob("*.py")
        if path.stem != "base" and not path.stem.startswith("_")
    }
    return tuple(sorted(found))


def get(family: str, name: str) -> type[Any]:
    """Import one method's file and return its ``METHOD`` class.

    Raises:
        ConfigError: if the family has no such method.
    """
    known = names(family)
    if name not in known:
        msg = f"{family} has no method {name!r}; it has: {', '.join(known) or 'none yet'}"
        raise ConfigError(msg)
    return importlib.import_module(f"hertzmap.{family}.{name}").METHOD
