"""Recipe ``mapcond-cities``: tiles of many cities with maps per radio cell and report sequences.

A shard is one tile: channels of the map, a stack of radio layers for each radio cell, and what UEs
report, read off the same maps; their places are in `truth/`.

Source: map-conditioned positioning (N. Tzur, 2026), its pipeline, layers and settings; tiles,
splits, sites and noise are ours. The ground is flat; a site outside its tile is not simulated.
"""

import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, final

import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import ConfigDict
from shapely.geometry import box

from hertzmap.core import kpi, layers
from hertzmap.core.errors import ConfigError, DataError, PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.kpi import PowerBudget
from hertzmap.core.seeds import generator
from hertzmap.core.sequences import MeasurementSequence
from hertzmap.core.types import AntennaPattern, RadioMap, Scene, SceneRaster, Transmitter
from hertzmap.datasets import layouts, splits
from hertzmap.datasets.channel_backends import engine_versions
from hertzmap.datasets.recipes import Recipe
from hertzmap.datasets.remote import extract_sha256
from hertzmap.datasets.squares import NO_PART, PART_ATTRS, PARTS, Squares
from hertzmap.datasets.store import Contents, Layer
from hertzmap.datasets.tile_maps import MapEngine, filled_maps, map_planes
from hertzmap.measurement.sequences import SequenceConfig, simulate
from hertzmap.measurement.trajectories import (
    Ground,
    Trajectory,
    TrajectoryConfig,
    draw_trajectory,
    thinned,
)
from hertzmap.propagation.draws import TransmitterRanges, draw_transmitter
from hertzmap.scenes.raster import rasterize, window
from hertzmap.scenes.tiles import spread

SITES, WAYS, REPORTS, GROUND = range(4)
"""First part of every address."""
SIZES_M = ((512.0, 2.0), (256.0, 1.0))
"""Side of a tile and of its cells [m]; the first one that the extract has enough tiles for."""
SECTORS_DEG = (0.0, 120.0, 240.0)
"""Azimuths of a site's three sectors to each other."""
GUARD_M = 25.0
"""Least distance of ways of different parts of the split ``trajectory`` [m]."""
SQUARES_A_SIDE = 4
"""Squares that ways are dealt by, along a tile's side."""
LEAST_APART = 0.2
"""Least distance of two sites of a tile, as a share of its side."""
MOST_DRAWS = 1000
"""Draws after which a site or a way is given up."""
FINE_S = 0.01
"""Period of the fine ways that irregular report times are taken from [s]."""


@final
@dataclass(frozen=True)
class MapcondConfig:
    """Which cities, how many sites and UEs, and which engine."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    recipe: Literal["mapcond-cities"] = "mapcond-cities"
    """Names the recipe."""
    seed: int = 20261127
    """First part of every generator's address."""
    cities: tuple[str, ...] = ()
    """Extracts that train; tiles within 2 km of a held-out city or on another's are left out."""
    validation: tuple[str, ...] = ("karlsruhe_kirchfeld", "nyc_eastvillage")
    """Held-out cities for choosing settings."""
    test: tuple[str, ...] = ("heidelberg", "paris_9e", "austin_ut")
    """Held-out cities for scores."""
    tiles: int = 4
    """Tiles of each city."""
    tile_cells: int | None = None
    """Only the middle so many cells of every tile, for small trials; all of it by default."""
    sites: int = 3
    """Sites of each tile."""
    height_m: tuple[float, float] = (10.0, 35.0)
    """Least and greatest height of a site above ground [m]."""
    sector_share: float = 0.5
    """Share of sites with three sectors; the others have one omnidirectional antenna."""
    tilt_rad: float = 0.17453
    """Down-tilt of sectors [rad]: 10 degrees."""
    total_dbm: float = 46.0
    """Transmit power of a radio cell [dBm]."""
    load: float = 1.0
    """Share of resource elements in use."""
    carrier_hz: float = 3.5e9
    """Carrier [Hz]."""
    margin_m: float = 100.0
    """Buildings so far outside a tile still count [m]."""
    engine: MapEngine = "dominant-path"
    """Who computes the maps; ``sionna`` traces rays to a coarse grid and fills what stays dark."""
    ray_spacing_m: float = 4.0
    """Cells of the ray-traced grid [m]."""
    sequences: int = 200
    """UEs of each tile."""
    reports: int = 11
    """Report instants of each UE."""
    period_s: float = 0.2
    """Time between them [s]."""
    irregular_share: float = 0.0
    """Share of UEs with report periods drawn from `irregular_s`."""
    irregular_s: tuple[float, float] = (0.08, 0.48)
    """Least and greatest irregular report period [s]."""
    speed_m_s: tuple[float, float] = (0.1, 10.0)
    """Least and greatest speed of UEs [m/s]."""
    measure: SequenceConfig = field(default_factory=SequenceConfig)
    """How UEs measure and report."""

    def __post_init__(self) -> None:
        if min(self.tiles, self.sites, self.sequences, self.reports) < 1:
            msg = f"tiles, sites, sequences and reports must be at least 1, got {self}"
            raise ConfigError(msg)
        wrong = [name for name in self.cities if name in splits.HELD_OUT] + [
            name for name in (*self.validation, *self.test) if name not in splits.HELD_OUT
        ]
        twice = set(self.validation) & set(self.test)
        if wrong or twice:
            msg = (
                f"{', '.join((*wrong, *twice))} cannot be used so: held-out cities "
                f"({', '.join(splits.HELD_OUT)}) validate or test and never train, others train"
            )
            raise ConfigError(msg)
        if not 0.0 < self.height_m[0] <= self.height_m[1]:
            msg = f"height_m must be two rising heights above 0, got {self.height_m}"
            raise ConfigError(msg)

    @property
    def budget(self) -> PowerBudget:
        """Link budget of every radio cell."""
        return PowerBudget(total_dbm=self.total_dbm, load=self.load)


@final
@dataclass(frozen=True)
class Tile:
    """What one shard is about."""

    extract: str
    """Map extract."""
    part: str
    """``train``, ``validation`` or ``test``."""
    number: int
    """Number of the tile in its city."""
    grid: Grid
    """Its cells."""

    @property
    def address(self) -> tuple[int, int]:
        """Part of the address of all that is drawn for it."""
        return zlib.crc32(self.extract.encode()), self.number


def units(config: MapcondConfig) -> list[Tile]:
    """Tiles of all cities, training ones first; reads every extract.

    Raises:
        DataError: if a city has too few tiles of any size, or its extract is not at hand.
    """
    found: list[Tile] = []
    by_city = _training(config)
    for city in config.cities:
        found += [Tile(city, "train", k, grid) for k, grid in enumerate(by_city[city])]
    for part, cities in (("validation", config.validation), ("test", config.test)):
        for city in cities:
            found += [Tile(city, part, k, grid) for k, grid in enumerate(_held_out(config, city))]
    return [replace(tile, grid=_middle(tile.grid, config.tile_cells)) for tile in found]


def _training(config: MapcondConfig) -> dict[str, tuple[Grid, ...]]:
    """Tiles of the training cities: of the largest size that each has enough of."""
    chosen: dict[str, tuple[Grid, ...]] = {}
    for size_m, spacing_m in SIZES_M:
        names = tuple(city for city in config.cities if city not in chosen)
        by_city: dict[str, list[Grid]] = {city: [] for city in names}
        sites = splits.training_sites(names, size_m=size_m, spacing_m=spacing_m) if names else ()
        for site in sites:
            by_city[site.extract].append(site.grid)
        chosen |= {
            city: spread(tuple(grids), config.tiles)
            for city, grids in by_city.items()
            if len(grids) >= config.tiles
        }
    lacking = [city for city in config.cities if city not in chosen]
    if lacking:
        msg = (
            f"{', '.join(lacking)} have fewer than {config.tiles} free tiles of any size; choose "
            "other cities or fewer tiles"
        )
        raise DataError(msg)
    return chosen


def _held_out(config: MapcondConfig, city: str) -> tuple[Grid, ...]:
    for size_m, spacing_m in SIZES_M:
        try:
            sites = splits.evaluation_tiles(city, config.tiles, size_m=size_m, spacing_m=spacing_m)
        except DataError:
            if (size_m, spacing_m) == SIZES_M[-1]:
                raise
            continue
        return tuple(site.grid for site in sites)
    return ()


def _middle(grid: Grid, cells: int | None) -> Grid:
    if cells is None:
        return grid
    away = (np.array(grid.shape) - cells) // 2
    corner = np.array(grid.origin_m) + away[::-1] * grid.spacing_m
    return Grid(cells, cells, grid.spacing_m, (float(corner[0]), float(corner[1])))


def radio_cells(
    config: MapcondConfig, tile: Tile, site: SceneRaster
) -> tuple[tuple[Transmitter, ...], list[int]]:
    """Radio cells of a tile, and the site of each.

    Sites stand on roofs or in the open, apart from each other.

    Raises:
        DataError: if the tile has no room for them.
    """
    ranges = TransmitterRanges(
        low_share=0.0,
        high_height_m=config.height_m,
        patterns=("isotropic",),
        pattern_shares=(1.0,),
    )
    side_m = tile.grid.cols * tile.grid.spacing_m
    placed: list[np.ndarray] = []
    cells: list[Transmitter] = []
    owner: list[int] = []
    for attempt in range(MOST_DRAWS):
        if len(placed) == config.sites:
            break
        draw = generator(config.seed, SITES, *tile.address, attempt)
        try:
            found = draw_transmitter(draw, site, ranges=ranges)
        except PropagationError:
            continue
        place = np.array(found.place_m[:2])
        if any(np.hypot(*(place - other)) < LEAST_APART * side_m for other in placed):
            continue
        name = f"{tile.extract}-{tile.number}-{len(placed)}"
        base = replace(found, carrier_hz=config.carrier_hz, name=name, yaw_rad=0.0)
        made = _antennas(config, base, draw)
        cells += made
        owner += [len(placed)] * len(made)
        placed.append(place)
    if len(placed) < config.sites:
        msg = f"no room for {config.sites} sites on tile {tile.number} of {tile.extract}"
        raise DataError(msg)
    return tuple(cells), owner


def _antennas(
    config: MapcondConfig, base: Transmitter, draw: np.random.Generator
) -> list[Transmitter]:
    """Three sectors, or one antenna for all directions."""
    if draw.random() >= config.sector_share:
        return [replace(base, pattern=AntennaPattern("dipole"))]
    first = draw.uniform(-np.pi, np.pi)
    turns = [float(np.angle(np.exp(1j * (first + np.deg2rad(deg))))) for deg in SECTORS_DEG]
    return [
        replace(
            base,
            pattern=AntennaPattern("sector"),
            yaw_rad=turn,
            pitch_rad=config.tilt_rad,
            name=f"{base.name}{letter}",
        )
        for turn, letter in zip(turns, "abc", strict=True)
    ]


def squares_of(config: MapcondConfig, tile: Tile) -> Squares:
    """Squares that the ways of a tile are dealt by."""
    side_m = tile.grid.cols * tile.grid.spacing_m / SQUARES_A_SIDE
    return Squares(max(side_m, 2.0 * GUARD_M), (config.seed, GROUND, *tile.address))


def ways(
    config: MapcondConfig, tile: Tile, scene: Scene
) -> tuple[list[Trajectory], UInt8[np.ndarray, " samples"]]:
    """Ways of a tile's UEs, and the part of the split ``trajectory`` that each belongs to.

    In training cities a way keeps half the guard from squares of other parts, so that ways of
    different parts are a whole guard apart; in held-out cities there is no such split.

    Raises:
        DataError: if no way is found.
    """
    # a cell's width inside the edge, where maps can be read
    inside = box(*tile.grid.bounds_m).buffer(-tile.grid.spacing_m)
    ground = Ground.of(scene, inside)
    squares = squares_of(config, tile) if tile.part == "train" else None
    found = [_way(config, tile, ground, squares, user) for user in range(config.sequences)]
    return [way for way, _ in found], np.array([part for _, part in found], np.uint8)


def _way(
    config: MapcondConfig, tile: Tile, ground: Ground, squares: Squares | None, user: int
) -> tuple[Trajectory, int]:
    for attempt in range(MOST_DRAWS):
        draw = generator(config.seed, WAYS, *tile.address, user, attempt)
        irregular = draw.random() < config.irregular_share
        gap_s = config.irregular_s[1] if irregular else config.period_s
        moves = TrajectoryConfig(
            speed_m_s=config.speed_m_s,
            duration_s=gap_s * (config.reports - 1) + (2 * FINE_S if irregular else 0.0),
            period_s=FINE_S if irregular else config.period_s,
            road_share=0.5,
        )
        way = draw_trajectory(ground, moves, draw)
        if irregular:
            way = thinned(way, config.reports, config.irregular_s, draw)
        if squares is None:
            return way, NO_PART
        part = squares.part(way.place_m)
        if np.all(part == part[0]) and not squares.near_other(way.place_m, 0.5 * GUARD_M).any():
            return way, int(part[0])
    msg = f"{MOST_DRAWS} ways on tile {tile.number} of {tile.extract} leave their squares"
    raise DataError(msg)


@lru_cache(maxsize=4)
def _scene(extract: str) -> Scene:
    return splits.load_extract(extract)


def contents(config: MapcondConfig, tile: Tile) -> Contents:
    """Compute one tile: maps of all its radio cells and the reports of its UEs."""
    scene = window(_scene(tile.extract), tile.grid, config.margin_m)
    site = rasterize(scene, tile.grid)
    cells, owner = radio_cells(config, tile, site)
    radio, filled = filled_maps(
        config.engine, scene, site, cells, owner, config.ray_spacing_m, config.margin_m
    )
    moves, part = ways(config, tile, scene)
    pci = (np.arange(len(cells)) + 16 * tile.number) % 1008
    reported = simulate(
        radio,
        moves,
        config.budget,
        config.measure,
        seed=config.seed,
        address=(REPORTS, *tile.address),
        free=site.free,
        pci=pci,
    )
    stack = layers.cell_layers(radio, config.budget, free=site.free)
    cell_group, cell_attrs = layouts.cell_layers(cells, config.total_dbm, pci.tolist())
    meas, meas_attrs = layouts.sequence_layers(reported.sequences)
    found = {
        **cell_group,
        **_more_cells(config, cells, owner),
        **map_planes(scene, site),
        **_map_layers(stack, radio, filled),
        **_ue_layers(reported.sequences.time_s, tile, part),
        **meas,
        **layouts.truth_layers(reported.place_m, reported.velocity_m_s),
    }
    attrs = {"": _attrs(config, tile, scene), "cells": cell_attrs, "meas": meas_attrs}
    return Contents(found, attrs, _counts(tile, site, stack, radio, filled, reported.sequences))


def _more_cells(
    config: MapcondConfig, cells: tuple[Transmitter, ...], owner: list[int]
) -> dict[str, Layer]:
    axis, count = ("cells",), len(cells)
    numbers = np.arange(count, dtype=np.int64)
    carrier = np.full(count, kpi.nr_arfcn(config.carrier_hz), np.int64)
    return {
        "cells/id": Layer(numbers, axis, "1", "identity of the radio cell within its tile"),
        "cells/site": Layer(np.array(owner, np.int32), axis, "1", "site of the radio cell"),
        "cells/nr_arfcn": Layer(carrier, axis, "1", "NR-ARFCN of the carrier"),
    }


def _map_layers(
    stack: layers.CellLayers, radio: RadioMap, filled: Bool[np.ndarray, "cells rows cols"]
) -> dict[str, Layer]:
    south = {"row_order": "south_up"}
    names = {"layers": list(stack.names), "layer_units": [layers.UNITS[n] for n in stack.names]}
    shape = (-1, *stack.grid.shape)
    rasters = ("cells", "rows", "cols")
    valid = np.asarray(stack.valid.all(axis=1))
    sight = valid if radio.los is None else np.logical_and(radio.los, valid)
    return {
        "maps/radio": Layer(
            np.where(valid[:, None], stack.value, np.float32(0.0)),
            ("cells", "layers_of_maps", "rows", "cols"),
            "see layer_units",
            "radio layers of each radio cell; 0 where not valid",
            chunk=1,
            attrs=south | names,
        ),
        "maps/valid": Layer(
            valid.reshape(shape), rasters, "1", "outdoors and reached", chunk=1, attrs=south
        ),
        "maps/filled": Layer(
            filled, rasters, "1", "filled from the dominant path", chunk=1, attrs=south
        ),
        "maps/los": Layer(
            sight,
            rasters,
            "1",
            "line of sight",
            chunk=1,
            attrs=south,
        ),
    }


def _ue_layers(
    time_s: np.ndarray, tile: Tile, part: UInt8[np.ndarray, " samples"]
) -> dict[str, Layer]:
    count = len(time_s)
    by_city = np.full(count, PARTS.index(tile.part), np.uint8)
    axis = ("samples",)
    return {
        "ue/time": Layer(time_s, ("samples", "steps"), "s", "time of each report", 64, least=0),
        "ue/id": Layer(np.arange(count, dtype=np.int32), axis, "1", "UE; never an input"),
        "split/city": Layer(by_city, axis, "1", "part by city", attrs=PART_ATTRS),
        "split/trajectory": Layer(
            part, axis, "1", "part by ground within training cities", attrs=PART_ATTRS
        ),
    }


def _attrs(config: MapcondConfig, tile: Tile, scene: Scene) -> dict[str, Any]:
    return {
        "scene_id": tile.extract,
        "crs": scene.crs,
        "origin_east_m": scene.origin_m[0],
        "origin_north_m": scene.origin_m[1],
        "grid_origin_m": list(tile.grid.origin_m),
        "spacing_m": tile.grid.spacing_m,
        "datum": "up is above flat ground",
        "osm_sha256": extract_sha256(tile.extract),
        "attribution": scene.attribution,
        "engine": config.engine,
        "engine_versions": engine_versions(config.engine),
    }


def _counts(
    tile: Tile,
    site: SceneRaster,
    stack: layers.CellLayers,
    radio: RadioMap,
    filled: Bool[np.ndarray, "cells rows cols"],
    sequences: MeasurementSequence,
) -> dict[str, Any]:
    """Sizes, shares and sums for the constants of normalisation, by part."""
    valid = np.asarray(stack.valid.all(axis=1))
    value = np.moveaxis(stack.value.astype(np.float64), 1, 0)[:, valid]
    counts = {
        "tiles": 1,
        "radio_cells": len(stack.value),
        "sequences": sequences.shape[0],
        "reports": sequences.shape[0] * sequences.shape[1],
        "reports_of_cells": int(sequences.reported.sum()),
        "samples_without_reports": int((~sequences.reported.any(axis=(1, 2))).sum()),
        "outdoor_pixels": int(site.free.sum()) * len(stack.value),
        "valid_pixels": int(valid.sum()),
        "filled_pixels": int(filled.sum()),
        "pixels_in_sight": 0 if radio.los is None else int((radio.los & valid).sum()),
        "radio_sum": value.sum(axis=1).tolist(),
        "radio_square_sum": (value**2).sum(axis=1).tolist(),
    }
    return {tile.part: counts}


def about(config: MapcondConfig, counts: dict[str, Any]) -> dict[str, Any]:
    """What the dataset says of itself, constants of normalisation from training tiles included."""
    cities = {"train": config.cities, "validation": config.validation, "test": config.test}
    names = [name for part in cities.values() for name in part]
    train = counts.get("train")
    constants = None
    if train:
        count = max(train["valid_pixels"], 1)
        mean = np.array(train["radio_sum"]) / count
        std = np.sqrt(np.maximum(np.array(train["radio_square_sum"]) / count - mean**2, 0.0))
        constants = {
            "layers": list(layers.RADIO),
            "mean": mean.tolist(),
            "std": std.tolist(),
        }
    return {
        "licence": "ODbL 1.0 for what derives from the map; the rest Apache 2.0",
        "attribution": _scene(names[0]).attribution if names else "",
        "sources": [{"extract": name, "sha256": extract_sha256(name)} for name in names],
        "cities": {part: list(found) for part, found in cities.items()},
        "normalisation": constants,
        "parts": list(PARTS),
        "splits": {
            "city": "whole cities; nothing of training within 2 km of the others",
            "trajectory": "ways of training cities by squares of ground dealt 3:1:1, ways of "
            f"different parts at least {GUARD_M:g} m apart",
        },
        "label": "truth/position at the last report",
    }


RECIPE = Recipe(MapcondConfig, Tile, units, contents, about)
