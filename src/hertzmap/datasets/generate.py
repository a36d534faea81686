"""Training maps: the dominant-path engine on real tiles, one shard a tile, resumable.

Every map has its own propagation parameters, carrier, height and pattern, so that what a prior
learns is no single simulator's fingerprint. A shard's content depends on its plan alone: each map
draws from the generator (seed, tile, map). A shard is written whole or not at all, and finished
shards are skipped.
"""

import json
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, UInt8

from hertzmap.core.errors import ConfigError, DataError, HertzmapError
from hertzmap.core.grid import Grid
from hertzmap.core.seeds import generator
from hertzmap.core.types import Scene, SceneRaster, Transmitter
from hertzmap.core.units import GreyScale
from hertzmap.datasets import splits
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.draws import draw_parameters, draw_transmitter
from hertzmap.scenes.raster import rasterize, window
from hertzmap.scenes.tiles import spread

logger = logging.getLogger(__name__)

LEAST_LIT_SHARE = 0.3
"""A map with fewer free cells above the floor is drawn again: it teaches nothing."""
ATTEMPTS = 8
"""Draws before a map is given up."""


@final
@dataclass(frozen=True)
class GenerateConfig:
    """What training data to make."""

    seed: int = 20261122
    """First part of every generator's address."""
    split: str = "training"
    """``training`` or ``validation`` cities."""
    transmitters: int = 16
    """Maps per tile."""
    outside_share: float = 0.15
    """Share of transmitters outside the window, as when a campaign's site is off the map."""
    margin_m: float = 100.0
    """Margin of buildings round the window [m]."""
    tiles_per_extract: int = 60
    """At most so many tiles of 256 m at 1 m an extract."""
    coarse_tiles_per_extract: int = 6
    """At most so many tiles of 512 m at 2 m an extract."""


@final
@dataclass(frozen=True)
class ShardPlan:
    """One tile of one extract."""

    extract: str
    """Name of the map extract."""
    number: int
    """Address of the tile within the extract; coarse tiles start at 1000."""
    grid: Grid
    """The tile."""

    @property
    def name(self) -> str:
        """File name of the shard without its ending."""
        return f"{self.extract}-{self.number:04d}"


@final
@dataclass(frozen=True)
class MapShard:
    """Maps of one tile."""

    grid: Grid
    """The tile."""
    free: Bool[np.ndarray, "rows cols"]
    """Outdoor mask."""
    grey: UInt8[np.ndarray, "samples rows cols"]
    """Path gain on the grey scale, 0-255."""
    place_m: np.ndarray
    """Transmitter places (samples, 3) [m]."""


def plan(config: GenerateConfig) -> list[ShardPlan]:
    """List the shards of a config, fine tiles first, in a fixed order.

    Raises:
        DataError: if the data folder has no extract of the split.
    """
    plans = []
    for spacing_m, limit, base in (
        (1.0, config.tiles_per_extract, 0),
        (2.0, config.coarse_tiles_per_extract, 1000),
    ):
        sites = _sites(config.split, limit, spacing_m) if limit else {}
        for extract, grids in sites.items():
            kept = spread(tuple(grids), limit)
            plans.extend(ShardPlan(extract, base + i, grid) for i, grid in enumerate(kept))
    return plans


def _remembered_plan(config: GenerateConfig, path: Path) -> list[ShardPlan]:
    """The plan, from its file if there is one: listing tiles reads every extract.

    Raises:
        ConfigError: if the folder holds the maps of another config.
    """
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["config"] != asdict(config):
            other = sorted(k for k, v in asdict(config).items() if stored["config"].get(k) != v)
            msg = (
                f"{path.parent} holds maps made with other settings ({', '.join(other)}); "
                "choose another folder or delete this one"
            )
            raise ConfigError(msg)
        return [
            ShardPlan(
                item["extract"],
                item["number"],
                Grid(**{**item["grid"], "origin_m": tuple(item["grid"]["origin_m"])}),
            )
            for item in stored["shards"]
        ]
    plans = plan(config)
    partial = path.with_suffix(".part")
    partial.write_text(
        json.dumps({"config": asdict(config), "shards": [asdict(item) for item in plans]})
    )
    partial.replace(path)
    return plans


def _sites(split: str, limit: int, spacing_m: float) -> dict[str, list[Grid]]:
    size_m = 256.0 * spacing_m
    found: dict[str, list[Grid]] = {}
    if split == "training":
        for site in splits.training_sites(size_m=size_m, spacing_m=spacing_m):
            found.setdefault(site.extract, []).append(site.grid)
        return found
    for city in splits.VALIDATION:
        for count in range(limit, 0, -1):
            try:
                sites = splits.evaluation_tiles(city, count, size_m=size_m, spacing_m=spacing_m)
            except DataError:  # a small extract has fewer tiles than asked for
                continue
            found[city] = [site.grid for site in sites]
            break
    return found


def _draw_map(
    environment: Environment, site: SceneRaster, config: GenerateConfig, address: tuple[int, ...]
) -> tuple[np.ndarray, Transmitter, dict[str, object]] | None:
    scale = GreyScale()
    for attempt in range(ATTEMPTS):
        draw = generator(config.seed, *address, attempt)
        parameters = draw_parameters(draw)
        try:
            transmitter = draw_transmitter(draw, site, outside_share=config.outside_share)
            traced = DominantPath(environment, parameters).trace((transmitter,))
        except HertzmapError as error:
            logger.debug("draw %s %d given up: %s", address, attempt, error)
            continue
        gain = np.where(traced.valid[0], traced.path_gain_db[0], scale.min_db)
        grey = scale.to_grey(gain)
        if (grey[site.free] > 0.0).mean() >= LEAST_LIT_SHARE:
            return np.rint(grey * 255.0).astype(np.uint8), transmitter, asdict(parameters)
    return None


def make(shard: ShardPlan, scene: Scene, config: GenerateConfig, folder: Path) -> bool:
    """Make one shard unless it exists; returns whether it was made.

    Raises:
        SceneError, PropagationError: if the tile cannot become an environment.
    """
    path = folder / f"{shard.name}.npz"
    if path.exists():
        return False
    part = window(scene, shard.grid, config.margin_m)
    site = rasterize(part, shard.grid)
    environment = Environment.prepare(part, shard.grid, margin_m=config.margin_m)
    code = zlib.crc32(shard.extract.encode())
    drawn = [
        _draw_map(environment, site, config, (code, shard.number, k))
        for k in range(config.transmitters)
    ]
    kept = [item for item in drawn if item is not None]
    if not kept:
        logger.warning("shard %s has no usable map and is left out", shard.name)
        return False
    facts = {
        "extract": shard.extract,
        "number": shard.number,
        "grid": asdict(shard.grid),
        "config": asdict(config),
        "parameters": [item[2] for item in kept],
        "carrier_hz": [item[1].carrier_hz for item in kept],
        "pattern": [item[1].pattern.kind for item in kept],
        "attribution": scene.attribution,
    }
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            free=np.packbits(site.free),
            grey=np.stack([item[0] for item in kept]),
            place_m=np.array([item[1].place_m for item in kept]),
            facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
        )
    partial.replace(path)
    return True


def generate(config: GenerateConfig, folder: Path, *, workers: int = 2) -> Iterator[str]:
    """Make all missing shards, extract by extract; yields each shard's name when it is there.

    Raises:
        ConfigError: if the folder holds the maps of another config.
        DataError: if the data folder has no extract of the split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plans = _remembered_plan(config, folder / "plan.json")
    for extract in dict.fromkeys(item.extract for item in plans):
        todo = [item for item in plans if item.extract == extract]
        missing = [item for item in todo if not (folder / f"{item.name}.npz").exists()]
        if missing:
            scene = splits.load_extract(extract)

            def work(item: ShardPlan, scene: Scene = scene) -> str:
                try:
                    make(item, scene, config, folder)
                except HertzmapError as error:
                    logger.warning("shard %s left out: %s", item.name, error)
                return item.name

            with ThreadPoolExecutor(workers) as pool:
                yield from pool.map(work, missing)
        yield from (item.name for item in todo if item not in missing)


def read_shard(path: Path) -> MapShard:
    """Read one shard.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            facts = json.loads(data["facts"].tobytes())
            grid_facts = facts["grid"]
            grid = Grid(**{**grid_facts, "origin_m": tuple(grid_facts["origin_m"])})
            free = np.unpackbits(data["free"], count=grid.rows * grid.cols)
            return MapShard(
                grid, free.reshape(grid.shape).astype(bool), data["grey"], data["place_m"]
            )
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"training shard {path} is damaged ({error}); delete it and generate again"
        raise DataError(msg) from error
