"""Methods by name: ``name:preset[:option=value,...]`` to an estimator, and what it costs to run."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, final, get_type_hints

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from hertzmap.core.errors import ConfigError
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.training.checkpoint import load_estimator


@final
@dataclass(frozen=True)
class MethodSpec:
    """A method as a table names it."""

    name: str
    """File name of the method, e.g. ``kriging``."""
    preset: str
    """One of its presets, e.g. ``tuned``."""
    options: tuple[tuple[str, str], ...] = ()
    """Fields of its configuration that differ from the preset, and their values as text."""


def parse(text: str) -> MethodSpec:
    """Read ``name:preset[:option=value,...]``.

    >>> parse("radiodiff_inv2:quick:data_term=paper").options
    (('data_term', 'paper'),)

    Raises:
        ConfigError: if the text has another form.
    """
    name, _, rest = text.partition(":")
    preset, _, tail = rest.partition(":")
    pairs = [pair.partition("=") for pair in tail.split(",")] if tail else []
    if not (name and preset) or any(not (key and sign and value) for key, sign, value in pairs):
        msg = f"{text!r} is no method; write name:preset[:option=value,...], e.g. kriging:tuned"
        raise ConfigError(msg)
    return MethodSpec(name, preset, tuple((key, value) for key, _, value in pairs))


def build(text: str) -> AbstractEstimator:
    """Build a method with its shipped weights, and set the options on its configuration.

    Args:
        text: the method, see `parse`.

    Raises:
        ConfigError: if name, preset or option is not known, or a value has the wrong type.
        DataError: if its weights are missing or damaged.
    """
    spec = parse(text)
    return with_options(load_estimator(spec.name, spec.preset), spec.options)


def with_options(
    estimator: AbstractEstimator, options: tuple[tuple[str, str], ...]
) -> AbstractEstimator:
    """A copy of an estimator with fields of its ``config`` (or, without one, its own) changed.

    Raises:
        ConfigError: if there is no such field, or the value is not of its type.
    """
    if not options:
        return estimator
    own: Any = estimator
    nested = {field.name for field in fields(own)} >= {"config"}
    config = own.config if nested else own
    known: dict[str, Any] = get_type_hints(type(config))
    changes = {}
    for name, text in options:
        if name not in known:
            msg = f"{type(own).__name__} has no option {name!r}; it has {', '.join(known)}"
            raise ConfigError(msg)
        try:
            changes[name] = TypeAdapter(known[name]).validate_python(text)
        except ValidationError as error:
            msg = f"{type(own).__name__}: option {name}={text!r} does not fit: {error}"
            raise ConfigError(msg) from error
    changed = replace(config, **changes)
    return replace(own, config=changed) if nested else changed


def fingerprint(estimator: AbstractEstimator) -> str:
    """Short hash of a method as built: class, settings and weights, but not the device."""
    digest = hashlib.sha256(type(estimator).__name__.encode())
    for part in _leaves(estimator):
        digest.update(part)
    return digest.hexdigest()[:16]


def _leaves(value: object) -> Iterator[bytes]:
    """All that makes a value what it is, in a fixed order."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield field.name.encode()
            yield from _leaves(getattr(value, field.name))
    elif isinstance(value, torch.nn.Module):
        yield from _leaves(dict(value.state_dict()))
    elif isinstance(value, torch.Tensor):
        yield from _leaves(value.detach().cpu().numpy())
    elif isinstance(value, np.ndarray):
        yield str((value.shape, value.dtype)).encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _leaves(value[key])
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, torch.device):
        return
    else:
        yield repr(value).encode()


def reset_peak_memory() -> None:
    """Start a new measurement of the process's largest resident memory, where Linux allows it.

    Source: Linux proc(5), ``/proc/self/clear_refs``, value 5.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mib() -> float:
    """Largest resident memory of the process since the last reset [MiB]; 0 where unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    peak = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak[0]) / 1024 if peak else 0.0
