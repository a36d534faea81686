"""The one training loop: any objective, exactly resumable, weights averaged.

Step k draws from the generator (seed, k) only, so a run that was killed and resumed equals one
that was not. Run state is safetensors, never pickle.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hertzmap.core.seeds import generator

Batch = dict[str, Tensor]


@final
@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn."""

    steps: int = 6000
    """Steps in all."""
    batch: int = 16
    """Samples a step."""
    rate: float = 1.5e-3
    """Learning rate after the warm-up."""
    warmup: int = 200
    """Steps of linear warm-up."""
    decay: int = 1500
    """Last steps, over which the rate falls linearly to a hundredth."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    clip: float = 1.0
    """Largest gradient norm."""
    average: float = 0.999
    """Decay of the weight average; shorter at the start: min(average, (1 + k) / (10 + k))."""
    save_every: int = 250
    """Steps between checkpoints."""
    validate_every: int = 500
    """Steps between validations."""
    seed: int = 1
    """First part of every step's address."""

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        left = max(self.steps - step, 0) / max(self.decay, 1)
        return self.rate * rise * min(1.0, max(left, 0.01))


def _save_whole(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    partial = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=metadata)
    partial.replace(path)


def _optimiser_state(optimiser: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> Batch:
    state: Batch = {}
    for name, parameter in named.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            state[f"optimiser.{key}.{name}"] = torch.as_tensor(value)
    return state


def _restore(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    named: dict[str, nn.Parameter],
) -> int:
    stored = load_file(path)
    network.load_state_dict({k[8:]: v for k, v in stored.items() if k.startswith("network.")})
    average.load_state_dict({k[8:]: v for k, v in stored.items() if k.startswith("average.")})
    for name, parameter in named.items():
        if f"optimiser.step.{name}" in stored:
            moments = {
                key: torch.empty_like(parameter).copy_(stored[f"optimiser.{key}.{name}"])
                for key in ("exp_avg", "exp_avg_sq")
            }
            optimiser.state[parameter] = {"step": stored[f"optimiser.step.{name}"], **moments}
    return int(stored["step"].item())


def read_log(log: Path) -> list[dict[str, int | float]]:
    """Lines of a run's log, without those that a run resumed from before them made again."""
    lines: list[dict[str, int | float]] = []
    for text in log.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # half a line, of a run that was killed while writing
            continue
        lines = [old for old in lines if old["step"] < line["step"]]
        lines.append(line)
    return lines


def _last_loss(log: Path, first: int) -> float | None:
    """The smoothed loss where a resumed run goes on."""
    if first == 0 or not log.exists():
        return None
    known = [line["loss"] for line in read_log(log) if line["step"] <= first]
    return known[-1] if known else None


def _batches(
    draw: Callable[[np.random.Generator, int], Batch], config: LoopConfig, first: int
) -> Iterator[Batch]:
    """Batches of steps first, first + 1, ...; the next is made while one is used."""
    with ThreadPoolExecutor(1) as pool:

        def ask(step: int):  # noqa: ANN202
            return pool.submit(draw, generator(config.seed, step), step)

        waiting = ask(first)
        for step in range(first, config.steps):
            ready, waiting = waiting.result(), ask(step + 1)
            yield ready


def train(
    network: nn.Module,
    average: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    draw: Callable[[np.random.Generator, int], Batch],
    validate: Callable[[nn.Module], dict[str, float]],
    config: LoopConfig,
    folder: Path,
    *,
    trainable: list[nn.Parameter] | None = None,
    progress: Callable[[int, dict[str, float]], None] = lambda _step, _figures: None,
) -> Path:
    """Train, or go on training, and return the path of the last checkpoint.

    Args:
        network: what learns; changed in place.
        average: a copy of it, which holds the weight average.
        loss: mean loss of a batch.
        draw: makes the batch of a step from its generator.
        validate: figures of the averaged network.
        config: length and rates.
        folder: holds ``state.safetensors`` and ``log.jsonl``; a run found there goes on.
        trainable: the parameters to change; all by default.
        progress: called every step with the latest figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / "state.safetensors", folder / "log.jsonl"
    chosen = {id(p) for p in (trainable or list(network.parameters()))}
    named = {k: p for k, p in network.named_parameters() if id(p) in chosen}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in named)
    optimiser = torch.optim.AdamW(
        named.values(), lr=config.rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    first = _restore(path, network, average, optimiser, named) if path.exists() else 0
    started, smooth = time.monotonic(), _last_loss(log, first)
    if log.exists() and not log.read_text().endswith("\n"):
        with log.open("a") as file:
            file.write("\n")
    figures: dict[str, float] = {}
    for step, batch in enumerate(_batches(draw, config, first), start=first):
        for group in optimiser.param_groups:
            group["lr"] = config.rate_at(step)
        optimiser.zero_grad(set_to_none=True)
        value = loss(network, batch)
        value.backward()
        nn.utils.clip_grad_norm_(named.values(), config.clip)
        optimiser.step()
        decay = min(config.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1.0 - decay)
        now = float(value.detach())
        smooth = now if smooth is None else 0.99 * smooth + 0.01 * now
        figures = {**figures, "loss": smooth, "rate": config.rate_at(step)}
        done = step + 1
        if done % config.validate_every == 0 or done == config.steps:
            figures |= validate(average)
        if done % 50 == 0 or done == config.steps:
            seconds = time.monotonic() - started
            line = {"step": done, "seconds": round(seconds, 1), "run_from": first, **figures}
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if done % config.save_every == 0 or done == config.steps:
            state = {f"network.{k}": v for k, v in network.state_dict().items()}
            state |= {f"average.{k}": v for k, v in average.state_dict().items()}
            state |= _optimiser_state(optimiser, named)
            state["step"] = torch.tensor(done)
            _save_whole(state, path, {"step": str(done)})
        progress(done, figures)
    return path
