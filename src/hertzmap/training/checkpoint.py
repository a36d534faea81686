"""Weights as they are shipped: half-precision safetensors, each with a JSON card beside it."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import hertzmap
from hertzmap.core import registry
from hertzmap.core.errors import ConfigError, DataError
from hertzmap.core.units import GreyScale
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.estimation._radio_unet import RadioUNetLayout, RadioUNetNetwork
from hertzmap.estimation._transmitter_search import TERMS, TermPrior
from hertzmap.estimation.amortised_unet import AmortisedNetwork
from hertzmap.estimation.base import AbstractEstimator

WEIGHTS: dict[tuple[str, str], str] = {
    ("radiodiff_inv2", "as_published"): "prior-paper",
    ("radiounet", "as_published"): "radiounet-published",
    ("rme_gan", "as_published"): "rme_gan-published",
}
"""Weights that a preset of a method wants; `DEFAULT_WEIGHTS` otherwise."""
DEFAULT_WEIGHTS: dict[str, str] = {
    "radiodiff_inv2": "prior",
    "radiodiff_inv1": "prior",
    "combined": "prior",
    "amortised_unet": "amortised_unet",
    "radiounet": "radiounet",
    "rme_gan": "rme_gan",
}
"""Weights of the methods that have any."""
ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {
    "map_unet": (UNetConfig, MapUNet),
    "amortised_unet": (UNetConfig, AmortisedNetwork),
    "radiounet": (RadioUNetLayout, RadioUNetNetwork),
}
"""Layout and network of each kind of weights."""


def weights_folder() -> Path:
    """Folder of the shipped weights."""
    return Path(str(resources.files(hertzmap))) / "weights"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _commit() -> str:
    """Commit of this source, where it lies in a repository; marked where files differ from it."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:  # no git on this machine
            return ""
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
    return f"{head}{'+changed' if changed else ''}" if head else "unknown"


def export(
    state: Path,
    target: Path,
    config: UNetConfig | RadioUNetLayout,
    facts: Mapping[str, object],
    term_prior: TermPrior | None = None,
    *,
    prefix: str = "average.",
    target_of: str = "expected clean map u = 2 grey - 1 on free cells, 0 in walls",
) -> Path:
    """Write the averaged weights of a run as half-precision safetensors with a card.

    Args:
        state: ``state.safetensors`` of a training stage.
        target: path of the weights, ending in ``.safetensors``; the card ends in ``.json``.
        config: the network's layout.
        term_prior: belief about the global unknowns that goes with these weights.
        facts: what else the card says: data, cities, split, seed, figures, limits.
        prefix: of the tensors to keep.
        target_of: what the network answers.
    """
    stored = load_file(state)
    weights = {
        name.removeprefix(prefix): value.half().contiguous()
        for name, value in stored.items()
        if name.startswith(prefix)
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    save_file(weights, partial, metadata={"format": "hertzmap-map-unet-1"})
    partial.replace(target)
    card = {
        "network": asdict(config),
        "parameters": sum(value.numel() for value in weights.values()),
        "steps": int(stored["step"].item()),
        "scale": asdict(GreyScale()),
        "target": target_of,
        "sha256": digest(target),
        "commit": _commit(),
        "version": hertzmap.__version__,
        "torch": torch.__version__,
        **facts,
    }
    if term_prior is not None:
        card["term_prior"] = {
            "terms": TERMS,
            "mean": term_prior.mean.tolist(),
            "covariance": term_prior.covariance.tolist(),
        }
    target.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    return target


def load_network(path: Path) -> nn.Module:
    """Build the network a weights file describes.

    Raises:
        DataError: if weights or card are missing or do not belong together.
    """
    card_path = path.with_suffix(".json")
    if not (path.exists() and card_path.exists()):
        msg = f"no weights at {path} with a card beside them; train them by `hertzmap train`"
        raise DataError(msg)
    card: dict[str, Any] = json.loads(card_path.read_text())
    if digest(path) != card["sha256"]:
        msg = f"{path} is not the file its card describes (SHA-256 differs); fetch it again"
        raise DataError(msg)
    layout = {k: tuple(v) if isinstance(v, list) else v for k, v in card["network"].items()}
    config, build = ARCHITECTURES[card.get("architecture", "map_unet")]
    network = build(config(**layout))
    network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def load_denoiser(path: Path) -> MapUNet:
    """Build the prior's denoiser.

    Raises:
        DataError: if the weights are missing, damaged or those of another kind of network.
    """
    network = load_network(path)
    if not isinstance(network, MapUNet):
        msg = f"{path} holds a {type(network).__name__}, not a prior's denoiser"
        raise DataError(msg)
    return network


def load_term_prior(path: Path) -> TermPrior | None:
    """The belief about global unknowns on the card of weights, if it has one.

    Raises:
        DataError: if it speaks of other unknowns than this version's.
    """
    stored = json.loads(path.with_suffix(".json").read_text()).get("term_prior")
    if stored is None:
        return None
    if tuple(stored["terms"]) != TERMS:
        msg = f"the card of {path} knows the terms {stored['terms']}, not {TERMS}; fit them again"
        raise DataError(msg)
    return TermPrior(np.array(stored["mean"]), np.array(stored["covariance"]))


def load_scale(path: Path) -> GreyScale:
    """The grey scale that weights were trained on, from their card."""
    return GreyScale(**json.loads(path.with_suffix(".json").read_text())["scale"])


def load_estimator(
    name: str, preset: str, *, weights: Path | None = None, **options: object
) -> AbstractEstimator:
    """Build an estimator by name and preset, with its weights where it has any.

    Args:
        name: method, see `registry.names("estimation")`.
        preset: one of the method's presets.
        weights: other weights than the shipped ones.
        options: settings of the method's config to change.

    Raises:
        ConfigError: if method, preset or setting is not known.
        DataError: if its weights are missing or damaged.
    """
    method = registry.get("estimation", name).from_preset(preset)
    if name in DEFAULT_WEIGHTS:
        wanted = WEIGHTS.get((name, preset), DEFAULT_WEIGHTS[name])
        path = weights or weights_folder() / f"{wanted}.safetensors"
        parts = {"network": load_network(path), "scale": load_scale(path)}
        if hasattr(method, "term_prior"):
            parts["term_prior"] = load_term_prior(path)
        method = replace(method, **parts)
    try:
        method = replace(method, config=replace(method.config, **options)) if options else method
    except TypeError as error:
        msg = f"{name} has no such setting: {error}"
        raise ConfigError(msg) from error
    if getattr(method.config, "initial", None) == "guessed":
        method = replace(method, guess=load_estimator("amortised_unet", "default"))
    return method
