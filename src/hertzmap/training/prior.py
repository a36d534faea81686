"""Training of the diffusion prior over radio maps, in three stages of one resumable command.

1. ``backbone``: with the transmitter given, as the paper's backbone.
2. ``prior``: goes on with condition dropout, so one network serves with and without transmitter.
3. ``paper``: from the backbone, only condition modules tuned, transmitter never given: the
   paper's own adaptation.
"""

import json
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from hertzmap.core.errors import ConfigError
from hertzmap.datasets import splits
from hertzmap.datasets.generate import GenerateConfig, MapShard, generate, read_shard
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.diffusion.losses import denoising_loss
from hertzmap.diffusion.process import angles, shifted_angle
from hertzmap.diffusion.samplers import sample
from hertzmap.estimation._rasters import condition_planes, condition_scalars
from hertzmap.estimation._transmitter_search import TERMS, TermPrior, basis
from hertzmap.scenes.wayfinding import transmitter_planes
from hertzmap.training.checkpoint import export
from hertzmap.training.loop import Batch, LoopConfig, read_log, train

PROJECTED = 8
"""How many of `TERMS`, the first ones, `projected_loss` fits: those of eq. 16 and the pattern."""
RIDGE = 1e-3
"""Ridge on the coefficients of the global unknowns."""


@final
@dataclass(frozen=True)
class PriorConfig:
    """Everything that shapes the prior."""

    network: UNetConfig = UNetConfig()
    """Layout of the denoiser."""
    loop: LoopConfig = LoopConfig(steps=5750, rate=1.2e-3, decay=1250)
    """Length and rates of stages 1 and 2 together."""
    backbone_steps: int = 750
    """Steps of stage 1."""
    paper_steps: int = 300
    """Steps of stage 3."""
    agnostic_share: float = 0.3
    """Stage 2: share of the samples that `mean_share` leaves whose transmitter planes are replaced
    by the building mask."""
    mean_share: float = 0.25
    """Share of samples at pure noise with the transmitter given, for `projected_loss`."""
    mean_weight: float = 4.0
    """Weight of `projected_loss` on those samples."""
    shift: float = 3.0
    """Noise levels of training: tan(phi) = shift tan(pi t / 2), t uniform."""
    training: GenerateConfig = GenerateConfig()
    """Training maps."""
    validation: GenerateConfig = GenerateConfig(
        split="validation", transmitters=4, tiles_per_extract=4, coarse_tiles_per_extract=1
    )
    """Validation maps."""


class MapSet:
    """Maps and transmitter planes in memory as bytes; draws augmented batches."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        shards = [read_shard(path) for path in sorted(folder.glob("*.npz"))]
        self.free = np.stack([shard.free for shard in shards])
        self.spacing_m = np.array([shard.grid.spacing_m for shard in shards])
        self.tile = np.repeat(np.arange(len(shards)), [len(s.grey) for s in shards])
        self.grey = np.concatenate([shard.grey for shard in shards])
        self.grids = [shard.grid for shard in shards]
        self.place_m = np.concatenate([shard.place_m for shard in shards])
        jobs = [(s, place) for s in shards for place in s.place_m]
        key = zlib.crc32(self.free.tobytes() + self.place_m.tobytes())
        cache = folder / f"planes-{len(jobs)}-{key:08x}.npy"
        if cache.exists():
            self.planes = np.load(cache)
            return

        def work(job: tuple[MapShard, np.ndarray]) -> np.ndarray:
            shard, place = job
            planes = transmitter_planes(shard.free, shard.grid, (place[0], place[1]))
            return np.rint(np.clip(planes, 0.0, 1.0) * 255.0).astype(np.uint8)

        self.planes = np.empty((len(jobs), 4, *self.grey.shape[1:]), dtype=np.uint8)
        with ThreadPoolExecutor(workers) as pool:
            for index, planes in enumerate(pool.map(work, jobs)):
                self.planes[index] = planes
        unfinished = cache.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.save(file, self.planes)
        unfinished.replace(cache)

    def __len__(self) -> int:
        return len(self.grey)

    def batch(self, index: np.ndarray, symmetry: np.ndarray, agnostic: np.ndarray) -> Batch:
        """Samples by index, each turned and mirrored by its symmetry (0-7)."""
        turned = np.empty((len(index), 6, *self.grey.shape[1:]), dtype=np.uint8)
        for place, i, s in zip(turned, index, symmetry, strict=True):
            free = 255 * self.free[self.tile[i]].astype(np.uint8)
            stack = np.rot90(np.stack([self.grey[i], free, *self.planes[i]]), s % 4, axes=(1, 2))
            place[:] = stack[:, :, ::-1] if s >= 4 else stack
        stacked = torch.from_numpy(turned).float() / 255.0
        free = stacked[:, 1:2]
        spacing = self.spacing_m[self.tile[index]]
        return {
            "clean": (2.0 * stacked[:, :1] - 1.0) * free,
            "weight": free.contiguous(),
            "planes": condition_planes(stacked[:, 1:], torch.from_numpy(agnostic)),
            "scalars": condition_scalars(
                torch.from_numpy(spacing.astype(np.float32)), torch.from_numpy(agnostic)
            ),
        }

    def terms(self, index: np.ndarray, symmetry: np.ndarray) -> Tensor:
        """The first fields of `basis` (samples terms rows cols), turned as in `batch`."""
        fields = []
        for i, s in zip(index, symmetry, strict=True):
            offset_m = self.grids[self.tile[i]].centres_m() - self.place_m[i][:2]
            level = np.full(self.grey.shape[1:], np.float32(0.4))  # the truth must not leak in
            found = basis(self.planes[i] / np.float32(255.0), offset_m, level)[:PROJECTED]
            found = np.rot90(found, s % 4, axes=(1, 2))
            fields.append(found[:, :, ::-1] if s >= 4 else found)
        shape = (0, PROJECTED, *self.grey.shape[1:])
        stacked = np.stack(fields) if fields else np.zeros(shape, dtype=np.float32)
        return torch.from_numpy(stacked)


def _draw(
    maps: MapSet, config: PriorConfig, agnostic_share: float
) -> Callable[[np.random.Generator, int], Batch]:
    def draw(rng: np.random.Generator, _step: int) -> Batch:
        count = config.loop.batch
        index, symmetry = rng.integers(len(maps), size=count), rng.integers(8, size=count)
        pure = round(config.mean_share * count) if agnostic_share < 1.0 else 0
        agnostic = (rng.random(count) < agnostic_share) & (np.arange(count) >= pure)
        batch = maps.batch(index, symmetry, agnostic)
        rest = count - pure
        time = np.ones(count)
        time[pure:] = ((np.arange(rest) + rng.random(rest)) / rest)[rng.permutation(rest)]
        batch["angle"] = shifted_angle(
            torch.from_numpy(np.clip(time, 0.02, 1.0)).float(), config.shift
        )
        batch["terms"] = maps.terms(index[:pure], symmetry[:pure])
        noise = rng.standard_normal(batch["clean"].shape, dtype=np.float32)
        batch["noise"] = torch.from_numpy(noise)
        return batch

    return draw


def projected_loss(clean: Tensor, mean: Tensor, free: Tensor, terms: Tensor) -> Tensor:
    """Squared error of mean maps once their global unknowns are fitted, per sample.

    At pure noise the transmitter's power, exponents and pattern are unknown, and their scatter
    drowns what the network can know: the shape of the field behind the buildings. The search
    estimates those few unknowns from reports (`_transmitter_search.basis`), so the network need
    not guess them. The fitted part is held constant: its derivative vanishes at the optimum.

    Args:
        clean: maps u (samples, 1, rows, cols).
        mean: the network's answers, like `clean`.
        free: 1 on free cells, like `clean`.
        terms: fields (samples, terms, rows, cols).
    """
    residual = (free * (clean - mean)).flatten(1)
    count = free.flatten(1).sum(1).clamp_min(1.0)
    fields = (free * terms).flatten(2)
    with torch.no_grad():
        normal = fields @ fields.mT / count[:, None, None]
        normal = normal + RIDGE * torch.eye(normal.shape[1], dtype=normal.dtype)
        right = (fields @ residual[..., None]) / count[:, None, None]
        fitted = (fields.mT @ torch.linalg.solve(normal, right))[..., 0]
    return (residual - fitted).square().sum(1) / count


def _loss(network: nn.Module, batch: Batch, weight: float = 0.0) -> Tensor:
    estimates = []

    def denoiser(state: Tensor, angle: Tensor) -> Tensor:
        estimates.append(network(state, angle, batch["planes"], batch["scalars"]))
        return estimates[0]

    loss = denoising_loss(
        denoiser, batch["clean"], batch["noise"], batch["angle"], batch["weight"]
    ).mean()
    pure = len(batch["terms"]) if "terms" in batch else 0
    if weight == 0.0 or pure == 0:
        return loss
    left = projected_loss(
        batch["clean"][:pure], estimates[0][:pure], batch["weight"][:pure], batch["terms"]
    )
    return loss + weight * left.sum() / len(batch["clean"])


def _validator(maps: MapSet, config: PriorConfig) -> Callable[[nn.Module], dict[str, float]]:
    """Denoising loss and one-step conditional mean on fixed draws of the validation cities."""
    rng = np.random.default_rng(0)
    index = rng.permutation(len(maps))[:32]
    groups = np.array_split(index, 2)
    fields = [maps.terms(group, np.zeros(len(group), dtype=int)) for group in groups]
    noises = [
        torch.from_numpy(rng.standard_normal((len(g), 1, 256, 256), dtype=np.float32))
        for g in groups
    ]
    times = [torch.from_numpy((np.arange(len(g)) + 0.5) / len(g)).float() for g in groups]

    @torch.no_grad()
    def validate(network: nn.Module) -> dict[str, float]:
        network.eval()
        figures: dict[str, list[float]] = {}
        for mode, agnostic in (("tx", False), ("agnostic", True)):
            for group, noise, time, terms in zip(groups, noises, times, fields, strict=True):
                flags = np.full(len(group), agnostic)
                batch = maps.batch(group, np.zeros(len(group), dtype=int), flags)
                batch |= {"noise": noise, "angle": shifted_angle(time, config.shift)}
                figures.setdefault(f"loss_{mode}", []).append(float(_loss(network, batch)))
                angle = torch.full((len(group),), 0.5 * torch.pi)
                mean = network(noise, angle, batch["planes"], batch["scalars"])
                error = batch["weight"] * (0.5 * (mean - batch["clean"])) ** 2
                mse = error.flatten(1).sum(1) / batch["weight"].flatten(1).sum(1)
                figures.setdefault(f"mean_psnr_{mode}", []).extend(
                    (-10.0 * torch.log10(mse)).tolist()
                )
                if agnostic:
                    continue
                left = projected_loss(batch["clean"], mean, batch["weight"], terms)
                figures.setdefault("shape_psnr_tx", []).extend(
                    (-10.0 * torch.log10(0.25 * left)).tolist()
                )
        return {name: float(np.mean(values)) for name, values in figures.items()}

    return validate


def fit_term_prior(
    network: MapUNet, folder: Path, *, tiles: int = 250, maps_per_tile: int = 2, seed: int = 0
) -> TermPrior:
    """Measure on training maps what the one-step mean map leaves to the global unknowns.

    Each map minus its conditional mean is fitted by the terms of `basis` on free cells; mean and
    covariance of the coefficients are the belief that the transmitter search starts from.
    """
    rng = np.random.default_rng(seed)
    paths = [path for path in sorted(folder.glob("*.npz")) if int(path.stem[-4:]) < 1000]
    chosen = [paths[i] for i in rng.permutation(len(paths))[:tiles]]
    coefficients = []
    for path in chosen:
        shard = read_shard(path)
        for k in rng.permutation(len(shard.grey))[:maps_per_tile]:
            place = (float(shard.place_m[k][0]), float(shard.place_m[k][1]))
            planes = transmitter_planes(shard.free, shard.grid, place)
            stack = torch.from_numpy(np.concatenate([shard.free[None].astype(np.float32), planes]))
            noise = torch.from_numpy(rng.standard_normal((1, 1, *shard.grid.shape)).astype("f4"))
            angle = torch.full((1,), 0.5 * torch.pi)
            with torch.no_grad():
                clean = network(noise, angle, stack[None], torch.tensor([[0.0, 1.0]]))
            mean = 0.5 * (clean[0, 0].numpy() + 1.0)
            residual = (shard.grey[k] / 255.0 - mean)[shard.free]
            offset_m = shard.grid.centres_m()[shard.free] - np.asarray(place)
            terms = basis(planes[:, shard.free], offset_m, mean[shard.free]).astype(np.float64)
            normal = terms @ terms.T / len(residual) + RIDGE * np.eye(len(TERMS))
            coefficients.append(np.linalg.solve(normal, terms @ residual / len(residual)))
    found = np.array(coefficients)
    return TermPrior(found.mean(axis=0), np.cov(found.T))


@final
@dataclass(frozen=True)
class Example:
    """What a trained prior says of one map of a validation city, all in grey."""

    name: str
    """Tile."""
    free: Bool[np.ndarray, "rows cols"]
    """Outdoor mask."""
    truth: Float[np.ndarray, "rows cols"]
    """The map."""
    mean: Float[np.ndarray, "rows cols"]
    """Conditional mean: one call at pure noise, transmitter given, power and exponents not."""
    fitted: Float[np.ndarray, "rows cols"]
    """The same with its global unknowns fitted to the map."""
    sample: Float[np.ndarray, "rows cols"]
    """A draw of the prior given buildings and transmitter, 20 steps."""


def examples(network: MapUNet, folder: Path, count: int = 4, *, seed: int = 0) -> list[Example]:
    """Maps of different tiles in a folder of shards beside what the network makes of them."""
    rng = np.random.default_rng(seed)
    paths = [path for path in sorted(folder.glob("*.npz")) if int(path.stem[-4:]) < 1000]
    cities = {path.stem[:-5]: path for path in rng.permutation(np.array(paths, dtype=object))}
    found = []
    for path in list(cities.values())[:count]:
        shard = read_shard(path)
        place = shard.place_m[0]
        planes = transmitter_planes(shard.free, shard.grid, (float(place[0]), float(place[1])))
        stack = np.concatenate([shard.free[None].astype(np.float32), planes])
        condition = torch.from_numpy(stack)[None]
        scalars = torch.tensor([[float(np.log2(shard.grid.spacing_m)), 1.0]])

        def denoiser(
            state: Tensor, angle: Tensor, given: Tensor = condition, extra: Tensor = scalars
        ) -> Tensor:
            return network(state, angle, given, extra)

        noise = torch.from_numpy(rng.standard_normal((1, 1, *shard.grid.shape)).astype("f4"))
        with torch.no_grad():
            clean = denoiser(noise, torch.full((1,), 0.5 * torch.pi))
            drawn = sample(denoiser, noise, angles(20, 3.0), solver="ddim")
        mean, one = (0.5 * (x[0, 0].double().numpy() + 1.0) for x in (clean, drawn))
        truth, free = shard.grey[0] / 255.0, shard.free
        offset_m = shard.grid.centres_m() - place[:2]
        terms = basis(planes, offset_m, mean).astype(np.float64)
        inside = terms[:, free]
        normal = inside @ inside.T / inside.shape[1] + RIDGE * np.eye(len(terms))
        right = inside @ (truth - mean)[free] / inside.shape[1]
        fitted = mean + np.einsum("t,trc->rc", np.linalg.solve(normal, right), terms)
        found.append(Example(path.stem, free, truth, mean, fitted, one))
    return found


def build(config: UNetConfig, seed: int = 0) -> MapUNet:
    """A fresh network in the memory layout that is fastest on CPUs."""
    torch.manual_seed(seed)
    network = MapUNet(config)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def run(
    folder: Path,
    config: PriorConfig | None = None,
    *,
    stages: tuple[str, ...] = ("backbone", "prior", "paper"),
    progress: Callable[[str, int, int, dict[str, float]], None] = lambda *_: None,
) -> Path:
    """Generate what is missing, then train stage by stage; killed runs go on where they were.

    Args:
        folder: holds shards, run states, logs and ``config.json``.
        config: all settings; the default is that of the shipped weights' last steps, whose card
            tells how they began.
        stages: which stages to run, in their order.
        progress: called with (stage, step, steps, figures).

    Returns:
        The folder, with ``<stage>/state.safetensors`` for each stage.

    Raises:
        ConfigError: if the folder holds a run with other settings.
    """
    config = config or PriorConfig()
    folder.mkdir(parents=True, exist_ok=True)
    settings_path, mine = folder / "config.json", json.loads(json.dumps(asdict(config)))
    if settings_path.exists():
        stored = json.loads(settings_path.read_text())
        if stored != mine:
            other = sorted(k for k in mine if stored.get(k) != mine[k])
            msg = (
                f"{folder} holds a run with other settings ({', '.join(other)}); choose another "
                "folder, or delete its config.json to go on with the new ones"
            )
            raise ConfigError(msg)
    else:
        settings_path.write_text(json.dumps(mine, indent=1))
    for part, settings in (("training", config.training), ("validation", config.validation)):
        for done, _name in enumerate(generate(settings, folder / part), start=1):
            progress(f"maps ({part})", done, 0, {})
    maps, held_out = MapSet(folder / "training"), MapSet(folder / "validation")
    validate = _validator(held_out, config)
    network = build(config.network)
    average = deepcopy(network)
    for stage in stages:
        target = folder / stage
        loop, share, trainable = config.loop, 0.0, None
        if stage == "backbone":
            loop = replace(loop, steps=config.backbone_steps, decay=1)
        elif stage == "prior":
            share = config.agnostic_share
            _start_from(folder / "backbone", target)
        elif stage == "paper":
            share = 1.0
            _start_from(folder / "backbone", target)
            last = config.backbone_steps + config.paper_steps
            loop = replace(loop, steps=last, decay=config.paper_steps)
            trainable = network.condition_parameters()

        def tell(step: int, figures: dict[str, float], stage: str = stage, n: int = loop.steps):  # noqa: ANN202
            progress(stage, step, n, figures)

        draw = _draw(maps, config, share)
        train(
            network,
            average,
            partial(_loss, weight=config.mean_weight),
            draw,
            validate,
            loop,
            target,
            trainable=trainable,
            progress=tell,
        )
    return folder


def _start_from(source: Path, target: Path) -> None:
    """Begin a stage at another's last state, unless it has one of its own."""
    if not (target / "state.safetensors").exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "state.safetensors", target / "state.safetensors")


def release(
    folder: Path, target: Path, config: PriorConfig | None = None, remarks: str = ""
) -> list[Path]:
    """Export what a finished run learned: weights and cards of stages ``prior`` and ``paper``.

    Args:
        folder: of `run`.
        target: folder of the weights; ``prior.safetensors`` and ``prior-paper.safetensors``.
        config: settings of the run; the weights are of its network.
        remarks: what else the cards should say of the run.

    Returns:
        The weights written.
    """
    config = config or PriorConfig()
    plan = json.loads((folder / "training" / "plan.json").read_text())
    shards = {path.stem: path for path in (folder / "training").glob("*.npz")}
    cities = sorted({item["extract"] for item in plan["shards"]})
    names = {"prior": "prior", "paper": "prior-paper"}
    written = []
    for stage, name in names.items():
        state = folder / stage / "state.safetensors"
        if not state.exists():
            continue
        network = build(config.network)
        stored = load_file(state)
        kept = {k[8:]: v for k, v in stored.items() if k.startswith("average.")}
        network.load_state_dict(kept)
        log = read_log(folder / stage / "log.jsonl")
        last = {key: value for line in log for key, value in line.items()}
        facts = {
            "method": "radiodiff_inv2",
            "stage": stage,
            "config": asdict(config),
            "trained_on": cities,
            "training_tiles": len(shards),
            "training_maps": int(sum(len(read_shard(p).place_m) for p in shards.values())),
            "validation": list(splits.VALIDATION),
            "never_seen": list(splits.HELD_OUT),
            "last_figures": last,
            "remarks": remarks,
            "loss_curve": [[line["step"], round(line["loss"], 5)] for line in log],
            "licence": "weights Apache-2.0; learned on maps over OpenStreetMap data, "
            "(c) OpenStreetMap contributors, ODbL 1.0",
            "limits": "one transmitter; 1 or 2 m cells; windows near 256 x 256; outdoor; learned "
            "from the dominant-path engine with random propagation parameters only",
        }
        term_prior = fit_term_prior(network, folder / "training") if stage == "prior" else None
        path = target / f"{name}.safetensors"
        written.append(export(state, path, config.network, facts, term_prior))
    return written
