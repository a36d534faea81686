"""Training of the networks that answer reports with a map in one call, on one equal budget.

``amortised_unet`` is ours; ``radiounet`` and ``rme_gan`` are baselines, each once as published and
once tuned. All see the same training maps, for as many steps as the same time on the same processor
allows (`STEPS`). Reports are drawn anew for every sample, as `measurement.sampling` draws them but
from the maps of 1 m alone.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hertzmap.core.errors import ConfigError
from hertzmap.datasets import splits
from hertzmap.datasets.generate import GenerateConfig, generate, read_shard
from hertzmap.estimation._radio_unet import PLANES, RadioUNetLayout, RadioUNetNetwork, sample_planes
from hertzmap.estimation._rasters import ReportRasters
from hertzmap.estimation.amortised_unet import AmortisedNetwork, smoothed, wall_plane
from hertzmap.estimation.rme_gan import Discriminator, flawed_planes
from hertzmap.measurement.operator import drift_root
from hertzmap.training.checkpoint import export
from hertzmap.training.loop import Batch, LoopConfig, read_log, train

NETWORKS = (
    "amortised_unet",
    "radiounet",
    "radiounet-published",
    "rme_gan",
    "rme_gan-published",
)
"""What can be trained, by the name of its weights."""


@final
@dataclass(frozen=True)
class ReportRange:
    """Reports to learn from: each map draws its own density, noise and drift."""

    rate_kp: tuple[float, float] = (1e-4, 0.2)
    """Reports per free cell, log-uniform."""
    count: tuple[int, int] | None = None
    """Number of reports, uniform; takes precedence over `rate_kp`."""
    snr_db: tuple[float, float] | None = (-5.0, 30.0)
    """Signal-to-noise ratio [dB], uniform; None for clean reports."""
    drift_cells: float = 5.0
    """Largest standard deviation of the drift [cells], uniform from 0."""
    anisotropy: float = 3.0
    """Largest ratio of the drift's axes, log-uniform from 1."""
    unknown_level: float = 0.15
    """Share of maps whose link budget is unknown."""


REPORTS: dict[str, ReportRange] = {
    "amortised_unet": ReportRange(),
    "radiounet": ReportRange(unknown_level=0.0),
    "radiounet-published": ReportRange(
        count=(10, 300), snr_db=None, drift_cells=0.0, unknown_level=0.0
    ),
    "rme_gan": ReportRange(unknown_level=0.0),
    "rme_gan-published": ReportRange(
        rate_kp=(0.01, 0.1), snr_db=None, drift_cells=0.0, unknown_level=0.0
    ),
}
"""What each one learns from."""

STEPS: dict[str, int] = {
    "amortised_unet": 3000,
    "radiounet": 1900,
    "radiounet-published": 1900,
    "rme_gan": 1350,
    "rme_gan-published": 1350,
}
"""Steps of 8 maps that one core of the machine that trained them does in about an hour."""
LEVEL_STD = 0.25
"""Standard deviation of an unknown link budget [grey]."""


@final
@dataclass(frozen=True)
class RegressionConfig:
    """Everything that shapes one network."""

    name: str = "amortised_unet"
    """One of `NETWORKS`."""
    loop: LoopConfig = LoopConfig(
        steps=1000, batch=8, rate=1e-3, warmup=50, decay=300, save_every=50, validate_every=200
    )
    """Length and rates."""
    training: GenerateConfig = GenerateConfig()
    """Training maps."""
    validation: GenerateConfig = GenerateConfig(
        split="validation", transmitters=4, tiles_per_extract=4, coarse_tiles_per_extract=1
    )
    """Validation maps."""

    def __post_init__(self) -> None:
        if self.name not in NETWORKS:
            msg = f"there is no network {self.name!r} to train; choose of {', '.join(NETWORKS)}"
            raise ConfigError(msg)


class Maps:
    """Maps in memory as bytes."""

    def __init__(self, folder: Path) -> None:
        shards = [read_shard(path) for path in sorted(folder.glob("*.npz"))]
        self.free = np.stack([shard.free for shard in shards])
        self.wall = np.stack(
            [np.rint(255.0 * wall_plane(one)).astype(np.uint8) for one in self.free]
        )
        self.spacing_m = np.array([shard.grid.spacing_m for shard in shards])
        self.tile = np.repeat(np.arange(len(shards)), [len(s.grey) for s in shards])
        self.grey = np.concatenate([shard.grey for shard in shards])

    def __len__(self) -> int:
        return len(self.grey)


def draw_rasters(
    grey: np.ndarray, free: np.ndarray, config: ReportRange, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Count and sum of drifted, noisy reports per cell; noise [grey] and drift [cells].

    A report stands on the centre of a free cell above the scale's floor; its true place is drifted,
    again until the nearest cell is free; its value is read bilinearly there, walls left out.
    """
    rows, cols = grey.shape
    heard = np.flatnonzero(free & (grey > 0.0))
    if config.count is not None:
        wanted = int(rng.integers(config.count[0], config.count[1] + 1))
    else:
        low, high = np.log(config.rate_kp)
        wanted = round(float(np.exp(rng.uniform(low, high))) * int(free.sum()))
    chosen = rng.choice(heard, size=min(max(wanted, 3), len(heard)), replace=False)
    centre = np.stack(np.divmod(chosen, cols), axis=-1).astype(np.float64)
    major = rng.uniform(0.0, config.drift_cells) if config.drift_cells else 0.0
    minor = major / np.exp(rng.uniform(0.0, np.log(config.anisotropy)))
    turn = rng.uniform(0.0, np.pi)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    root = drift_root((axes @ np.diag([major**2, minor**2]) @ axes.T)[None])[0]
    place = centre.copy()
    again = np.arange(len(place)) if major > 0.0 else np.arange(0)
    for _ in range(200):
        if not len(again):
            break
        place[again] = centre[again] + rng.standard_normal((len(again), 2)) @ root.T
        cell = np.rint(place[again]).astype(np.int64)
        inside = ((cell >= 0) & (cell < (rows, cols))).all(axis=1)
        cell = np.clip(cell, 0, (rows - 1, cols - 1))
        again = again[~(inside & free[cell[:, 0], cell[:, 1]])]
    place[again] = centre[again]
    corner = np.floor(place).astype(np.int64)
    part = place - corner
    value, weight = np.zeros(len(place)), np.zeros(len(place))
    for down in (0, 1):
        for along in (0, 1):
            at = corner + np.array([down, along])
            ok = ((at >= 0) & (at < (rows, cols))).all(axis=1)
            at = np.clip(at, 0, (rows - 1, cols - 1))
            share = np.abs(1 - down - part[:, 0]) * np.abs(1 - along - part[:, 1])
            share = share * ok * free[at[:, 0], at[:, 1]]
            value += share * grey[at[:, 0], at[:, 1]]
            weight += share
    value /= np.maximum(weight, 1e-9)
    noise = 0.0
    if config.snr_db is not None:
        snr = rng.uniform(*config.snr_db)
        noise = float(np.sqrt(np.mean((grey * free) ** 2) / 10.0 ** (snr / 10.0)))
        value = value + noise * rng.standard_normal(len(value))
    count = np.bincount(chosen, minlength=grey.size).reshape(grey.shape)
    total = np.bincount(chosen, value, grey.size).reshape(grey.shape)
    return count, total, noise, float(np.sqrt(0.5 * (major**2 + minor**2)))


def batch_of(
    maps: Maps,
    index: np.ndarray,
    symmetry: np.ndarray,
    config: ReportRange,
    rng: np.random.Generator,
) -> Batch:
    """Maps by index, each turned and mirrored by its symmetry (0-7), and reports of each."""
    planes = np.empty((len(index), 5, *maps.grey.shape[1:]), dtype=np.float32)
    numbers = np.empty((len(index), 4), dtype=np.float32)
    for k, (i, s) in enumerate(zip(index, symmetry, strict=True)):
        tile = maps.tile[i]
        stack = np.stack([maps.grey[i], maps.free[tile], maps.wall[tile]])
        stack = np.rot90(stack, s % 4, axes=(1, 2))
        grey, free, wall = stack[:, :, ::-1] if s >= 4 else stack
        grey, free = grey / 255.0, free > 0
        count, total, noise, drift = draw_rasters(grey, free, config, rng)
        unknown = rng.random() < config.unknown_level
        shift = LEVEL_STD * rng.standard_normal() if unknown else 0.0
        planes[k] = grey * free + shift, free, wall / 255.0, count, total + shift * count
        numbers[k] = noise, drift, maps.spacing_m[tile], unknown
    stacked, numbers = torch.from_numpy(planes), torch.from_numpy(numbers)
    names = ("truth", "free", "wall", "count", "total")
    batch = {name: stacked[:, k : k + 1].contiguous() for k, name in enumerate(names)}
    scalars = ("noise", "drift_cells", "spacing_m", "unknown_level")
    return batch | {name: numbers[:, k].contiguous() for k, name in enumerate(scalars)}


def rasters_of(batch: Batch) -> ReportRasters:
    """The part of a batch that a network sees."""
    names = ("free", "count", "total", "noise", "drift_cells", "spacing_m", "unknown_level")
    return ReportRasters(*(batch[name] for name in names))


# --- Losses ---------------------------------------------------------------------------------


def amortised_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Squared error of the mean over (0.1)^2, and the Gaussian score of the spread about it."""
    mean, log_std = network(rasters_of(batch), batch["wall"])
    free = batch["free"]
    cells = free.sum()
    squared = (mean - batch["truth"]).square()
    score = 0.5 * squared.detach() * torch.exp(-2.0 * log_std) + log_std
    return (free * (100.0 * squared + 0.2 * score)).sum() / cells


def radiounet_loss(network: RadioUNetNetwork, batch: Batch, *, masked: bool) -> Tensor:
    """Mean squared error of the first U-Net, then of the second with the first held."""
    planes = sample_planes(rasters_of(batch))
    weight = batch["free"] if masked else torch.ones_like(planes[:, :1])
    truth = batch["truth"] * batch["free"]
    if batch["phase"] < 0.5 or network.second is None:
        answer = network.first(planes)
    else:
        with torch.no_grad():
            first = network.first(planes)
        answer = network.second(torch.cat([planes, first], dim=1))
    return (weight * (answer - truth).square()).sum() / weight.sum()


class GanPair(nn.Module):
    """Generator and discriminator, trained by one loss."""

    def __init__(self, flawed: bool) -> None:
        super().__init__()
        self.flawed = flawed
        self.generator = RadioUNetNetwork(RadioUNetLayout(second=False))
        self.discriminator = Discriminator(2 if flawed else 1 + PLANES, 0.5)

    def judge(self, image: Tensor, planes: Tensor, *, real: bool, held: bool) -> Tensor:
        """Adversarial loss of an image against the label ``real``."""
        seen = flawed_planes(image, real) if self.flawed else torch.cat([image, planes], dim=1)
        named = {k: v.detach() if held else v for k, v in self.discriminator.named_parameters()}
        logits = torch.func.functional_call(self.discriminator, named, (seen,))
        if self.flawed:
            logits = torch.sigmoid(logits)
        return functional.binary_cross_entropy_with_logits(
            logits, torch.full_like(logits, float(real))
        )


TUNED_ADVERSARIAL = 0.1
"""Weight of the adversarial loss in the tuned RME-GAN, whose first phase weighs the squared error
by 100 like its second: with the published weights it ended 5.7 dB below RadioUNet on validation
maps, whose first U-Net it is."""


def gan_loss(pair: GanPair, batch: Batch) -> Tensor:
    """Both phases' losses of the generator plus the discriminator's own."""
    rasters = rasters_of(batch)
    planes = sample_planes(rasters)
    free = batch["free"]
    weight = torch.ones_like(free) if pair.flawed else free
    truth = batch["truth"] * free
    answer = pair.generator(planes)
    squared = (weight * (answer - truth).square()).sum() / weight.sum()
    fooled = pair.judge(answer, planes, real=True, held=True)
    if batch["phase"] < 0.5:
        with torch.no_grad():
            model = smoothed(rasters)[0]
        ours, theirs = _gradients(answer), _gradients(model)
        alike = functional.cosine_similarity(ours, theirs, dim=1).mean()
        adversarial, square = (10.0, 1.0) if pair.flawed else (TUNED_ADVERSARIAL, 100.0)
        loss = adversarial * fooled + square * squared + 1e-6 * _variation(answer)
        loss = loss + (10.0 if pair.flawed else 1.0) * (1.0 - alike)
    else:
        similar = _similarity(answer, truth)
        apart = (weight * (answer - truth).abs()).sum() / weight.sum()
        adversarial = 1.0 if pair.flawed else TUNED_ADVERSARIAL
        loss = adversarial * fooled + 100.0 * squared + 1e-6 * _variation(answer)
        loss = loss + 84.0 * (0.84 * (1.0 - similar) + 0.16 * apart)
    found = 0.5 * (
        pair.judge(truth, planes, real=True, held=False)
        + pair.judge(answer.detach(), planes, real=False, held=False)
    )
    return loss + found


def _variation(image: Tensor) -> Tensor:
    down = (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
    return down + (image[..., 1:] - image[..., :-1]).abs().mean()


def _gradients(image: Tensor) -> Tensor:
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    both = torch.stack([kernel, kernel.T])[:, None]
    return functional.conv2d(image, both, padding=1).flatten(2).flatten(1)


def _similarity(image: Tensor, truth: Tensor, scales: int = 3) -> Tensor:
    """Structural similarity, 7 x 7 windows, mean over scales."""
    values = []
    for _ in range(scales):

        def mean(x: Tensor) -> Tensor:
            return functional.avg_pool2d(x, 7, stride=1)

        a, b = mean(image), mean(truth)
        var_a, var_b = mean(image**2) - a**2, mean(truth**2) - b**2
        both = mean(image * truth) - a * b
        top = (2.0 * a * b + 1e-4) * (2.0 * both + 9e-4)
        values.append((top / ((a**2 + b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean())
        image, truth = functional.avg_pool2d(image, 2), functional.avg_pool2d(truth, 2)
    return torch.stack(values).mean()


# --- Runs -----------------------------------------------------------------------------------


def build(name: str, seed: int = 0) -> nn.Module:
    """A fresh network, with its discriminator where it has one."""
    torch.manual_seed(seed)
    if name == "amortised_unet":
        network: nn.Module = AmortisedNetwork()
    elif name.startswith("radiounet"):
        network = RadioUNetNetwork(RadioUNetLayout())
    else:
        network = GanPair(flawed=name.endswith("published"))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _loss(name: str) -> Callable[[nn.Module, Batch], Tensor]:
    if name == "amortised_unet":
        return amortised_loss
    if name.startswith("radiounet"):
        return partial(radiounet_loss, masked=not name.endswith("published"))  # type: ignore[return-value]
    return gan_loss  # type: ignore[return-value]


def answer(network: nn.Module, batch: Batch) -> Tensor:
    """The map that a network answers with [grey]."""
    if isinstance(network, AmortisedNetwork):
        return network(rasters_of(batch), batch["wall"])[0]
    called = network.generator if isinstance(network, GanPair) else network
    return called(sample_planes(rasters_of(batch)))


def _validator(
    maps: Maps, kinds: dict[str, ReportRange], count: int = 32
) -> Callable[[nn.Module], dict[str, float]]:
    """PSNR on free cells of fixed draws of the validation cities."""
    fixed: dict[str, list[Batch]] = {}
    for kind, reports in kinds.items():
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(maps))[:count]
        fixed[kind] = [
            batch_of(maps, part, np.zeros(len(part), dtype=int), reports, rng)
            for part in np.array_split(chosen, 4)
        ]

    @torch.no_grad()
    def validate(network: nn.Module) -> dict[str, float]:
        network.eval()
        figures = {}
        for kind, batches in fixed.items():
            found = []
            for batch in batches:
                error = batch["free"] * (answer(network, batch) - batch["truth"]).square()
                mse = error.flatten(1).sum(1) / batch["free"].flatten(1).sum(1)
                found += (-10.0 * torch.log10(mse)).tolist()
            figures[f"psnr_{kind}"] = float(np.mean(found))
        network.train()
        return figures

    return validate


VALIDATED = {
    "all": ReportRange(unknown_level=0.0),
    "default": ReportRange(
        rate_kp=(0.05, 0.05), snr_db=(5.0, 5.0), drift_cells=0.8, anisotropy=1.0, unknown_level=0.0
    ),
}
"""Reports that training is watched on; nothing stops by them."""


def run(
    folder: Path,
    config: RegressionConfig,
    *,
    progress: Callable[[int, dict[str, float]], None] = lambda *_: None,
) -> Path:
    """Generate maps that are missing, then train; a killed run goes on where it was.

    Args:
        folder: holds ``training`` and ``validation`` maps, as of `training.prior`, and one folder
            a network.
        config: all settings.
        progress: called with (step, figures).

    Raises:
        ConfigError: if the folder holds a run of that network with other settings.
    """
    target = folder / config.name
    target.mkdir(parents=True, exist_ok=True)
    settings_path, mine = target / "config.json", json.loads(json.dumps(asdict(config)))
    if settings_path.exists() and json.loads(settings_path.read_text()) != mine:
        msg = f"{target} holds a run with other settings; choose another folder or delete it"
        raise ConfigError(msg)
    settings_path.write_text(json.dumps(mine, indent=1))
    for part, settings in (("training", config.training), ("validation", config.validation)):
        for _ in generate(settings, folder / part):
            pass
    maps = Maps(folder / "training")
    validate = _validator(Maps(folder / "validation"), VALIDATED)
    network = build(config.name)
    reports = REPORTS[config.name]
    in_order = config.name == "rme_gan-published"

    def draw(rng: np.random.Generator, step: int) -> Batch:
        count = config.loop.batch
        index = rng.integers(len(maps), size=count)
        if in_order:
            index = (step * count + np.arange(count)) % len(maps)
        batch = batch_of(maps, index, rng.integers(8, size=count), reports, rng)
        batch["phase"] = torch.tensor(float(step >= config.loop.steps // 2))
        return batch

    return train(
        network,
        deepcopy(network),
        _loss(config.name),
        draw,
        validate,
        config.loop,
        target,
        progress=progress,
    )


def default_config(name: str) -> RegressionConfig:
    """Settings of the shipped weights.

    Raises:
        ConfigError: if there is no such network.
    """
    config = RegressionConfig(name=name)
    steps = STEPS[name]
    return replace(config, loop=replace(config.loop, steps=steps, decay=steps // 3))


def release(folder: Path, name: str, target: Path, remarks: str = "") -> Path:
    """Export what a finished run learned: weights and card.

    Args:
        folder: of `run`.
        name: one of `NETWORKS`.
        target: folder of the weights.
        remarks: what else the card should say.
    """
    state = folder / name / "state.safetensors"
    log = read_log(folder / name / "log.jsonl")
    plan = json.loads((folder / "training" / "plan.json").read_text())
    layout = AmortisedNetwork().config if name == "amortised_unet" else RadioUNetLayout()
    if name.startswith("rme_gan"):
        layout = RadioUNetLayout(second=False)
    facts = {
        "method": name.split("-")[0],
        "architecture": "amortised_unet" if name == "amortised_unet" else "radiounet",
        "config": json.loads((folder / name / "config.json").read_text()),
        "reports": asdict(REPORTS[name]),
        "trained_on": sorted({item["extract"] for item in plan["shards"]}),
        "validation": list(splits.VALIDATION),
        "never_seen": list(splits.HELD_OUT),
        "wall_seconds": round(_seconds(log), 1),
        "last_figures": {key: value for line in log for key, value in line.items()},
        "loss_curve": [[line["step"], round(line["loss"], 5)] for line in log],
        "remarks": remarks,
        "licence": "weights Apache-2.0; learned on maps over OpenStreetMap data, "
        "(c) OpenStreetMap contributors, ODbL 1.0",
        "limits": "one transmitter; 1 or 2 m cells; windows near 256 x 256; outdoor; learned "
        "from the dominant-path engine with random propagation parameters only",
    }
    prefix = "average.generator." if name.startswith("rme_gan") else "average."
    return export(
        state, target / f"{name}.safetensors", layout, facts, prefix=prefix, target_of=TARGET
    )


TARGET = "map on the grey scale [0, 1], 0 in walls"


def _seconds(log: list[dict[str, int | float]]) -> float:
    """Time on the clock over all resumed runs, pauses and other work on the machine included."""
    last: dict[float, float] = {}
    for line in log:
        last[line["run_from"]] = line["seconds"]
    return float(sum(last.values()))
