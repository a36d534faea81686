"""Recipe ``diffloc-uma``: seven stations around city blocks, 200 walking users, 200 driving ones.

A shard holds a block of users: the paths of all links as master record, times, splits, and the
positions in `truth/`. Taps and features are made from it on the fly (`measurement.csi`).

Source: DiffLoc (arXiv 2510.14111), Table III: 7 stations, 2,000 snapshots (200 users, 10 s at
1 Hz), users inside the stations' convex hull, 3.6 GHz, 1.5-2.5 m/s, 3:1:1. The paper's heights and
station places are not known, nor is its map; ours are the options below.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal, final

import numpy as np
import shapely
from jaxtyping import Bool, Float, UInt8
from pydantic import ConfigDict
from shapely.geometry import MultiPoint, Polygon

from hertzmap.core.channels import Channels
from hertzmap.core.errors import ConfigError, SceneError
from hertzmap.core.grid import Grid
from hertzmap.core.kpi import PowerBudget, rsrp_dbm
from hertzmap.core.seeds import generator
from hertzmap.core.types import AntennaPattern, Scene, Transmitter
from hertzmap.datasets import layouts, splits
from hertzmap.datasets.channel_backends import Backend, engine_versions, scattered, traced
from hertzmap.datasets.recipes import Recipe
from hertzmap.datasets.remote import extract_sha256
from hertzmap.datasets.squares import NO_PART, PART_ATTRS, PARTS, Squares, dealt
from hertzmap.datasets.store import Contents, Layer
from hertzmap.measurement.trajectories import (
    Ground,
    Trajectory,
    TrajectoryConfig,
    draw_trajectory,
)
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.ray_budget import SionnaConfig
from hertzmap.propagation.scatter import ScatterConfig
from hertzmap.scenes.raster import window

WORLD, USERS, SNAPSHOTS, PEOPLE, AREAS = range(5)
"""First part of every address: scatterers, movements, the deals of the splits."""
POPULATIONS = ("pedestrian", "vehicular")
"""Who moves; the second one makes the splits ``fast``."""
ROOF_CLEARANCE_M = 2.0
"""Least height of a station above the roof it stands on [m]; ours."""
EDGE_M = 0.5
"""A station stands this far behind its roof's edge [m]; ours."""
REACH_M = 40.0
"""Beyond this from its place on the ring a station gets a mast, not a roof [m]; ours."""
COVERAGE_SPACING_M = 2.0
"""Cells of the coverage maps [m]."""
MOST_DRAWS = 100
"""Ways of one user that leave the covered ground before the zone is given up."""
AREA_M, AREA_GUARD_M = 40.0, 5.0
"""Squares of the split ``area``, and how far its training keeps from test squares [m]."""


@final
@dataclass(frozen=True)
class DifflocConfig:
    """Where the stations stand, who moves among them, and who computes the channels."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    recipe: Literal["diffloc-uma"] = "diffloc-uma"
    """Names the recipe."""
    seed: int = 20261127
    """First part of every generator's address."""
    extract: str = "nyc_eastvillage"
    """Map extract: dense blocks enclosed by houses of 9 to 24 m, 99 % of them of tagged height."""
    centre_m: tuple[float, float] = (0.0, 0.0)
    """Middle of the ring of stations (east, north) in the extract's frame [m]."""
    radius_m: float = 165.0
    """Radius of the ring [m]; ours."""
    stations: int = 7
    """Stations, evenly on the ring, each then moved to a roof's edge or a mast near by."""
    station_height_m: float = 25.0
    """Height of every station above ground [m]; ours."""
    tilt_rad: float = 0.1
    """Down-tilt of every station [rad]; ours. They look at the middle of the ring."""
    total_dbm: float = 43.0
    """Transmit power of a station [dBm]."""
    carrier_hz: float = 3.6e9
    """Carrier [Hz]."""
    ue_height_m: float = 1.5
    """Height of the users' phones [m]; ours."""
    users: int = 200
    """Walking users, 1.5 to 2.5 m/s."""
    fast_users: int = 200
    """Driving users, 15 to 25 m/s."""
    snapshots: int = 10
    """Snapshots of each user."""
    period_s: float = 1.0
    """Time between two of them [s]."""
    users_per_shard: int = 20
    """Users in a shard."""
    coverage_dbm: float | None = -120.0
    """Every snapshot lies where the strongest station reaches this RSRP by the dominant-path
    engine [dBm]; a way that leaves that ground is drawn again. None: no such rule."""
    backend: Backend = "scatter"
    """Who computes the channels."""
    scatter: ScatterConfig = field(default_factory=ScatterConfig)
    """Settings of the backend ``scatter``."""
    sionna: SionnaConfig = field(default_factory=SionnaConfig)
    """Settings of the backend ``sionna``."""
    margin_m: float = 150.0
    """Buildings so far outside the zone are traced too [m]."""

    def __post_init__(self) -> None:
        if self.stations < 3 or self.radius_m <= 0:
            msg = f"a zone needs 3 stations and a radius above 0, got {self}"
            raise ConfigError(msg)
        if min(self.users, self.fast_users) < 0 or self.users + self.fast_users < 1:
            msg = f"there must be users, got {self.users} and {self.fast_users}"
            raise ConfigError(msg)
        if min(self.snapshots, self.users_per_shard) < 1:
            msg = f"snapshots and users_per_shard must be at least 1, got {self}"
            raise ConfigError(msg)

    def population(self, name: str) -> int:
        """Number of users of a population."""
        return self.users if name == POPULATIONS[0] else self.fast_users


@final
@dataclass(frozen=True)
class UserBlock:
    """The users of one shard."""

    population: str
    """``pedestrian`` or ``vehicular``."""
    first: int
    """First user, counted within the population."""
    count: int
    """Number of users."""


@final
@dataclass(frozen=True)
class Layout:
    """The scene with its stations: what all shards share."""

    scene: Scene
    """Buildings and roads of the extract."""
    stations: tuple[Transmitter, ...]
    """On roofs or masts."""
    on_roof: tuple[bool, ...]
    """Which of them stand on a roof."""
    zone: Polygon
    """Convex hull of the stations: users stay inside."""
    ground: Ground
    """Roads and free ground of the zone."""
    grid: Grid
    """Cells of `covered`."""
    covered: Bool[np.ndarray, "rows cols"] | None
    """Where the coverage rule holds; None without the rule."""

    def is_covered(self, place_m: Float[np.ndarray, "points 2"]) -> bool:
        """Whether all places lie where the coverage rule holds."""
        if self.covered is None:
            return True
        rows, cols = self.grid.cell(place_m).T
        return bool(self.covered[rows, cols].all())


def units(config: DifflocConfig) -> list[UserBlock]:
    """Blocks of users, walking ones first."""
    return [
        UserBlock(name, first, min(config.users_per_shard, config.population(name) - first))
        for name in POPULATIONS
        for first in range(0, config.population(name), config.users_per_shard)
    ]


@lru_cache(maxsize=2)
def layout(config: DifflocConfig) -> Layout:
    """Place the stations and find out where they reach.

    Raises:
        SceneError: if a station finds neither roof nor free ground near its place on the ring.
    """
    scene = splits.load_extract(config.extract)
    placed = [_station(scene, config, number) for number in range(config.stations)]
    stations = tuple(one for one, _ in placed)
    zone = MultiPoint([one.place_m[:2] for one in stations]).convex_hull
    if not isinstance(zone, Polygon):
        msg = f"the stations of {config.extract} stand on a line; choose another centre_m"
        raise SceneError(msg)
    west, south, east, north = zone.bounds
    corner = (float(np.floor(west)), float(np.floor(south)))
    spacing = COVERAGE_SPACING_M
    rows = int(np.ceil((north - corner[1]) / spacing)) + 1
    cols = int(np.ceil((east - corner[0]) / spacing)) + 1
    grid = Grid(rows, cols, spacing, corner)
    covered = None
    if config.coverage_dbm is not None:
        environment = Environment.prepare(scene, grid)
        traced = DominantPath(environment).trace(stations)
        rsrp = rsrp_dbm(traced.path_gain_db, PowerBudget(config.total_dbm))
        covered = np.any(
            traced.valid & (np.nan_to_num(rsrp, nan=-np.inf) >= config.coverage_dbm), 0
        )
    ground = Ground.of(scene, zone)
    return Layout(scene, stations, tuple(roof for _, roof in placed), zone, ground, grid, covered)


def _station(scene: Scene, config: DifflocConfig, number: int) -> tuple[Transmitter, bool]:
    """One station at the edge of the nearest low enough roof, or else on a mast."""
    turn = np.pi / 2 + 2.0 * np.pi * number / config.stations
    centre = np.array(config.centre_m)
    ideal = shapely.Point(centre + config.radius_m * np.array([np.cos(turn), np.sin(turn)]))
    most_m = config.station_height_m - ROOF_CLEARANCE_M
    outlines = np.array(scene.footprints, dtype=object)
    near = np.flatnonzero(shapely.dwithin(outlines, ideal, REACH_M))
    roofs = shapely.buffer(outlines[near[scene.height_m[near] <= most_m]], -EDGE_M)
    edges = shapely.boundary(roofs[~shapely.is_empty(roofs)])
    places = [shapely.get_point(shapely.shortest_line(edge, ideal), 0) for edge in edges]
    # a higher building may overlap a low roof's outline
    tall = shapely.union_all(outlines[near[scene.height_m[near] > most_m]])
    places = [place for place in places if not shapely.intersects(tall, place)]
    on_roof = bool(places)
    if on_roof:
        place = min(places, key=lambda one: one.distance(ideal))
    else:
        walls = shapely.union_all(shapely.buffer(outlines[near], 2.0 * EDGE_M))
        free = shapely.difference(shapely.buffer(ideal, REACH_M), walls)
        if free.is_empty:
            msg = (
                f"station {number} finds no roof up to {most_m:g} m and no free ground within "
                f"{REACH_M:g} m of {ideal.wkt} in {scene.name}; choose another centre_m"
            )
            raise SceneError(msg)
        place = shapely.get_point(shapely.shortest_line(free, ideal), 0)
    to_middle = centre - np.array([place.x, place.y])
    station = Transmitter(
        place_m=(float(place.x), float(place.y), config.station_height_m),
        carrier_hz=config.carrier_hz,
        pattern=AntennaPattern("sector"),
        yaw_rad=float(np.arctan2(to_middle[1], to_middle[0])),
        pitch_rad=config.tilt_rad,
        name=f"BS{number + 1}",
    )
    return station, on_roof


def trajectory(config: DifflocConfig, population: str, user: int) -> tuple[Trajectory, int]:
    """The way of one user, and how many ways before it left the covered ground.

    Raises:
        SceneError: if no way stays on covered ground.
    """
    here = layout(config)
    code = POPULATIONS.index(population)
    moves = TrajectoryConfig(
        mover="pedestrian" if code == 0 else "vehicular",
        duration_s=config.period_s * (config.snapshots - 1),
        period_s=config.period_s,
    )
    for attempt in range(MOST_DRAWS):
        draw = generator(config.seed, USERS, code, user, attempt)
        found = draw_trajectory(here.ground, moves, draw)
        if here.is_covered(found.place_m):
            return found, attempt
    msg = (
        f"{MOST_DRAWS} ways of {population} user {user} in {config.extract} all leave the ground "
        f"that is covered by {config.coverage_dbm} dBm; lower coverage_dbm or choose another zone"
    )
    raise SceneError(msg)


def split_codes(
    config: DifflocConfig, block: UserBlock, place_m: Float[np.ndarray, "samples steps 2"]
) -> dict[str, UInt8[np.ndarray, "samples steps"]]:
    """Part of every snapshot of a block in every split; see `about` for what they mean."""
    code = POPULATIONS.index(block.population)
    total = config.population(block.population)
    shape = place_m.shape[:2]
    mine = slice(block.first, block.first + block.count)
    people = dealt(total, config.seed, PEOPLE, code)[mine, None]
    each = dealt(total * config.snapshots, config.seed, SNAPSHOTS, code)
    by_user = np.broadcast_to(people, shape)
    by_snapshot = each.reshape(total, config.snapshots)[mine]
    area = area_parts(config.seed, place_m.reshape(-1, 2)).reshape(shape)
    none = np.full(shape, NO_PART, np.uint8)
    if code == 0:
        fast = np.where(by_user == PARTS.index("test"), NO_PART, by_user).astype(np.uint8)
        found = {"random": by_snapshot, "user": by_user, "area": area, "fast": fast}
        return {**found, "fast-random": none, "fast-user": none}
    fast = np.full(shape, PARTS.index("test"), np.uint8)
    found = {"random": none, "user": none, "area": none, "fast": fast}
    return {**found, "fast-random": by_snapshot, "fast-user": by_user}


def area_parts(seed: int, place_m: Float[np.ndarray, "points 2"]) -> UInt8[np.ndarray, " points"]:
    """Parts by squares of 40 m dealt 3 : 1 : 1; training points near test squares have none."""
    squares = Squares(AREA_M, (seed, AREAS))
    part, test = squares.part(place_m), PARTS.index("test")
    near_test = squares.near_other(place_m, AREA_GUARD_M)[:, test]
    return np.where(near_test & (part == 0), NO_PART, part).astype(np.uint8)


def contents(config: DifflocConfig, block: UserBlock) -> Contents:
    """Compute one shard: the ways of its users and the channels along them."""
    here = layout(config)
    users = range(block.first, block.first + block.count)
    drawn = [trajectory(config, block.population, user) for user in users]
    place_m = np.stack([way.place_m for way, _ in drawn])
    up_m = np.full((*place_m.shape[:2], 1), config.ue_height_m)
    position = np.concatenate([place_m, up_m], axis=-1)
    flat = np.stack([way.velocity_m_s for way, _ in drawn])
    velocity = np.concatenate([flat, np.zeros_like(up_m)], axis=-1)
    channels = _channels(config, here, position.reshape(-1, 3), velocity.reshape(-1, 3))
    cells, cell_attrs = layouts.cell_layers(here.stations, config.total_dbm)
    code = POPULATIONS.index(block.population)
    identity = np.arange(block.first, block.first + block.count, dtype=np.int32)
    layers = {
        **cells,
        **layouts.channel_layers(channels),
        **_ue_layers(config, np.stack([way.time_s for way, _ in drawn]), identity, code),
        **{
            f"split/{name}": Layer(
                np.ascontiguousarray(codes),
                ("samples", "steps"),
                "1",
                f"part of each snapshot in the split {name}",
                attrs=PART_ATTRS,
            )
            for name, codes in split_codes(config, block, place_m).items()
        },
        **layouts.truth_layers(position, velocity),
    }
    attrs = {"": _scene_attrs(config, here), "cells": cell_attrs}
    redrawn = sum(attempts for _, attempts in drawn)
    return Contents(layers, attrs, {**channel_counts(channels), "ways_redrawn": redrawn})


def _channels(
    config: DifflocConfig, here: Layout, ue_m: np.ndarray, velocity_m_s: np.ndarray
) -> Channels:
    if config.backend == "sionna":
        name = f"{config.extract} {here.grid} {config.margin_m}"
        around = window(here.scene, here.grid, config.margin_m)
        return traced(around, name, config.sionna, here.stations, ue_m, velocity_m_s)
    world_seed = int(generator(config.seed, WORLD).integers(2**31))
    return scattered(config.scatter, world_seed, here.stations, ue_m, velocity_m_s)


def channel_counts(channels: Channels) -> dict[str, Any]:
    """Links, links with paths and in line of sight by station, and paths: nothing is silent."""
    stations = len(channels.transmitters)
    with_paths = (np.diff(channels.offset) > 0).reshape(-1, stations)
    return {
        "snapshots": channels.snapshots,
        "links": channels.links,
        "paths": len(channels.delay_s),
        "links_with_paths": int(with_paths.sum()),
        "snapshots_without_paths": int((~with_paths.any(axis=1)).sum()),
        "links_with_paths_by_cell": with_paths.sum(axis=0).tolist(),
        "links_in_sight_by_cell": channels.los.sum(axis=0).tolist(),
    }


def _ue_layers(
    config: DifflocConfig, time_s: np.ndarray, identity: np.ndarray, code: int
) -> dict[str, Layer]:
    return {
        "ue/time": Layer(
            time_s, ("samples", "steps"), "s", "time since the user's first snapshot", least=0
        ),
        "ue/id": Layer(
            identity + code * config.users, ("samples",), "1", "user; never an input of a method"
        ),
        "ue/population": Layer(
            np.full(len(identity), code, np.uint8),
            ("samples",),
            "1",
            "who moves",
            attrs={"flag_values": [0, 1], "flag_meanings": " ".join(POPULATIONS)},
        ),
    }


def _scene_attrs(config: DifflocConfig, here: Layout) -> dict[str, Any]:
    return {
        "scene_id": here.scene.name,
        "crs": here.scene.crs,
        "origin_east_m": here.scene.origin_m[0],
        "origin_north_m": here.scene.origin_m[1],
        "datum": "up is above flat ground",
        "osm_sha256": extract_sha256(config.extract),
        "attribution": here.scene.attribution,
        "engine": config.backend,
        "engine_versions": engine_versions(config.backend),
        "zone_m": [list(corner) for corner in here.zone.exterior.coords],
        "stations_on_roof": list(here.on_roof),
        "coverage_rule": coverage_rule(config),
    }


def coverage_rule(config: DifflocConfig) -> str:
    """Which ways users may take, in words."""
    inside = "every snapshot lies in the convex hull of the stations, outdoors"
    if config.coverage_dbm is None:
        return inside
    return (
        f"{inside}, where the strongest station has an RSRP of at least {config.coverage_dbm:g} "
        f"dBm by the dominant-path engine on cells of {COVERAGE_SPACING_M:g} m"
    )


def about(config: DifflocConfig, counts: dict[str, Any]) -> dict[str, Any]:
    """What the dataset says of itself."""
    del counts
    scene = splits.load_extract(config.extract)
    return {
        "licence": "ODbL 1.0 for what derives from the map; the rest Apache 2.0",
        "attribution": scene.attribution,
        "sources": [{"extract": config.extract, "sha256": extract_sha256(config.extract)}],
        "coverage_rule": coverage_rule(config),
        "parts": list(PARTS),
        "splits": {
            "random": "walking snapshots shuffled 3:1:1; a test point has its own user's "
            "neighbours in training",
            "user": "whole walking users 3:1:1",
            "area": "walking snapshots by squares of 40 m dealt 3:1:1; training keeps 5 m from "
            "test squares",
            "fast": "train and validation as `user`, test on all driving users",
            "fast-random": "as `random`, driving users",
            "fast-user": "as `user`, driving users",
        },
    }


RECIPE = Recipe(DifflocConfig, UserBlock, units, contents, about)
