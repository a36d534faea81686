"""How phones move: along roads or over free ground, walking or driving, never through walls.

Sources: speeds of DiffLoc (arXiv 2510.14111), Table III (1.5 to 2.5 m/s) and its high-speed case
(15 to 25 m/s). The paper does not say how its users turn; random turns at junctions and the random
waypoint walk are ours.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, final

import numpy as np
import shapely
from jaxtyping import Float, Int
from pydantic import ConfigDict
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from hertzmap.core.errors import ConfigError, SceneError
from hertzmap.core.types import Scene

CAR_ROADS = (
    *("motorway", "trunk", "primary", "secondary", "tertiary", "unclassified", "residential"),
    *("living_street", "service", "road"),
)
"""OSM ``highway`` values that cars use, their ``_link`` kinds too."""
CLOSED = ("proposed", "construction", "corridor", "razed", "abandoned", "platform", "elevator")
"""OSM ``highway`` values that nobody moves along outdoors."""
LEAST_ROAD_M = 1.0
"""Roads shorter than this after cutting at walls and at the zone's edge are left out [m]."""
CLEAR_M = 0.3
"""Distance that walks keep from walls [m]."""
WAYPOINT_M = (5.0, 60.0)
"""Least and greatest distance to the next waypoint of a walk over free ground [m]."""
MOST_DRAWS = 10_000
"""Draws after which a zone is taken to hold no free ground."""
_SPEEDS_M_S: dict[str, tuple[float, float]] = {"pedestrian": (1.5, 2.5), "vehicular": (15.0, 25.0)}


@final
@dataclass(frozen=True)
class TrajectoryConfig:
    """Who moves, how fast, for how long, and when a position is taken."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    mover: Literal["pedestrian", "vehicular"] = "pedestrian"
    """Pedestrians use every road and free ground, vehicles the roads of cars."""
    speed_m_s: tuple[float, float] | None = None
    """Least and greatest speed [m/s]; each mover keeps one. By default 1.5 to 2.5 or 15 to 25."""
    duration_s: float = 9.0
    """Time from the first to the last position [s], at least 0."""
    period_s: float = 1.0
    """Time between two positions [s]."""
    road_share: float = 0.7
    """Share of the pedestrians that keep to roads; vehicles always do."""

    def __post_init__(self) -> None:
        least, most = self.speeds_m_s
        if not 0.0 < least <= most:
            msg = f"TrajectoryConfig.speed_m_s must be two rising speeds above 0, got {least, most}"
            raise ConfigError(msg)
        if not (self.period_s > 0.0 and 0.0 <= self.duration_s < np.inf):
            msg = (
                "TrajectoryConfig needs period_s above 0 and a finite duration_s of at least 0, "
                f"got {self.period_s} and {self.duration_s}"
            )
            raise ConfigError(msg)
        if not 0.0 <= self.road_share <= 1.0:
            msg = f"TrajectoryConfig.road_share must lie between 0 and 1, got {self.road_share}"
            raise ConfigError(msg)

    @property
    def speeds_m_s(self) -> tuple[float, float]:
        """Least and greatest speed [m/s]."""
        return self.speed_m_s or _SPEEDS_M_S[self.mover]

    @property
    def time_s(self) -> Float[np.ndarray, " steps"]:
        """When positions are taken, from 0 [s]."""
        return self.period_s * np.arange(int(np.floor(self.duration_s / self.period_s + 1e-9)) + 1)


@final
@dataclass(frozen=True)
class Trajectory:
    """Where one phone is and how it moves; what only the simulator knows."""

    time_s: Float[np.ndarray, " steps"]
    """Times, rising [s]."""
    place_m: Float[np.ndarray, "steps 2"]
    """(east, north) [m]."""
    velocity_m_s: Float[np.ndarray, "steps 2"]
    """(east, north) [m/s], of the stretch that begins there."""


@final
@dataclass(frozen=True)
class Ground:
    """Where phones may be: a zone without its buildings, and the roads in it."""

    zone: Polygon
    """Phones stay inside."""
    walls: BaseGeometry
    """Buildings that meet the zone, widened by `CLEAR_M`; prepared for many questions."""
    paths: "Roads"
    """All roads that one can walk along."""
    streets: "Roads"
    """Roads of cars."""

    @classmethod
    def of(cls, scene: Scene, zone: Polygon | None = None) -> "Ground":
        """Cut a scene to a zone, by default to all that it covers.

        Raises:
            SceneError: if the zone is empty or all of it is built over.
        """
        zone = shapely.box(*scene.bounds_m) if zone is None else zone
        near = [outline for outline in scene.footprints if outline.intersects(zone)]
        walls = shapely.union_all([shapely.buffer(outline, CLEAR_M) for outline in near])
        free = shapely.difference(zone, walls)
        if shapely.area(free) < 1.0:
            msg = f"the zone {zone.bounds} of {scene.name} has no free ground; choose another one"
            raise SceneError(msg)
        walkable = [road.line for road in scene.roads if road.kind not in CLOSED]
        driven = [road.line for road in scene.roads if road.kind.removesuffix("_link") in CAR_ROADS]
        shapely.prepare(walls)
        shapely.prepare(zone)
        return cls(zone, walls, Roads.within(walkable, free), Roads.within(driven, free))

    def is_free(self, place_m: Float[np.ndarray, "points 2"]) -> np.ndarray:
        """Whether places lie in the zone and clear of walls."""
        east, north = place_m.T
        inside = shapely.contains_xy(self.zone, east, north)
        return np.logical_and(inside, ~shapely.intersects_xy(self.walls, east, north))

    def is_clear(
        self, start_m: Float[np.ndarray, " 2"], end_m: Float[np.ndarray, "points 2"]
    ) -> np.ndarray:
        """Whether straight lines from a place meet no wall and stay in the zone."""
        ends = np.stack([np.broadcast_to(start_m, end_m.shape), end_m], axis=1)
        lines = shapely.linestrings(ends)
        clear = ~shapely.intersects(self.walls, lines)
        return np.logical_and(shapely.covers(self.zone, lines), clear)

    def draw(self, generator: np.random.Generator) -> Float[np.ndarray, " 2"]:
        """A place drawn evenly from the free ground [m]."""
        west, south, east, north = self.zone.bounds
        for _ in range(MOST_DRAWS // 64):
            asked = generator.uniform((west, south), (east, north), size=(64, 2))
            free = np.flatnonzero(self.is_free(asked))
            if len(free):
                return asked[free[0]]
        msg = f"no free ground was found in {MOST_DRAWS} draws; choose a zone with more of it"
        raise SceneError(msg)


@final
@dataclass(frozen=True)
class Roads:
    """Straight pieces of road and which of them meet."""

    ends_m: Float[np.ndarray, "pieces 2 2"]
    """Both ends of each piece: (piece, end, (east, north)) [m]."""
    node: Int[np.ndarray, "pieces 2"]
    """Which ends are one junction: its number, for both ends of each piece."""

    @classmethod
    def within(cls, lines: list, free: Polygon | MultiPolygon | BaseGeometry) -> "Roads":
        """Lines cut at walls and at the zone's edge, joined wherever they touch or cross.

        A bridge is joined to the road below it, as heights of roads are not known.
        """
        cut = shapely.intersection(np.array(lines, dtype=object), free)
        parts = shapely.get_parts(shapely.node(shapely.union_all(cut))) if len(lines) else cut
        parts = [part for part in parts if part.geom_type == "LineString"]
        parts = [part for part in parts if part.length >= LEAST_ROAD_M]
        pieces = [
            np.stack([line[:-1], line[1:]], axis=1)
            for line in (shapely.get_coordinates(part) for part in parts)
        ]
        ends = np.concatenate(pieces) if pieces else np.empty((0, 2, 2))
        _, node = np.unique(ends.reshape(-1, 2).round(2), axis=0, return_inverse=True)
        return cls(ends, node.reshape(-1, 2))

    @cached_property
    def length_m(self) -> Float[np.ndarray, " pieces"]:
        """Length of each piece [m]."""
        return np.hypot(*(self.ends_m[:, 1] - self.ends_m[:, 0]).T)

    @cached_property
    def leaving(self) -> dict[int, list[tuple[int, int]]]:
        """Pieces that begin at each junction, as (piece, end that one comes from)."""
        found: dict[int, list[tuple[int, int]]] = {}
        for piece, ends in enumerate(self.node.tolist()):
            for end, node in enumerate(ends):
                found.setdefault(node, []).append((piece, end))
        return found

    def walk(
        self, length_m: float, generator: np.random.Generator
    ) -> Float[np.ndarray, "corners 2"]:
        """Corners of a way of at least this length: random turns, back only at dead ends."""
        share = self.length_m / self.length_m.sum()
        piece = int(generator.choice(len(share), p=share))
        end = int(generator.integers(2))
        behind = generator.random()
        start = (1.0 - behind) * self.ends_m[piece, end] + behind * self.ends_m[piece, 1 - end]
        corners, gone = [start], 0.0
        while True:
            corners.append(self.ends_m[piece, 1 - end])
            gone += float(np.hypot(*(corners[-1] - corners[-2])))
            if gone >= length_m:
                return np.array(corners)
            here = self.leaving[int(self.node[piece, 1 - end])]
            onward = [way for way in here if way[0] != piece] or [(piece, 1 - end)]
            piece, end = onward[int(generator.integers(len(onward)))]


def draw_trajectory(
    ground: Ground, config: TrajectoryConfig, generator: np.random.Generator
) -> Trajectory:
    """Let one phone move: along roads, or from waypoint to waypoint over free ground.

    Starts are even over the length of the roads, or over the free ground. Where the zone has no
    road that will do, pedestrians go over free ground.

    Raises:
        SceneError: if a vehicle finds no road of cars in the zone.
    """
    speed = generator.uniform(*config.speeds_m_s)
    time_s = config.time_s
    length_m = speed * float(time_s[-1]) + 1e-6
    roads = ground.streets if config.mover == "vehicular" else ground.paths
    keeps = config.mover == "vehicular" or generator.random() < config.road_share
    if config.mover == "vehicular" and not len(roads.node):
        msg = f"no road of cars in the zone {ground.zone.bounds}; choose another one or pedestrians"
        raise SceneError(msg)
    if keeps and len(roads.node):
        corner_m = roads.walk(length_m, generator)
    else:
        corner_m = _waypoints(ground, length_m, generator)
    return _timed(corner_m, speed, time_s)


def _waypoints(
    ground: Ground, length_m: float, generator: np.random.Generator
) -> Float[np.ndarray, "corners 2"]:
    """Corners of a walk over free ground, each in sight of the last one."""
    corners, gone, reach = [ground.draw(generator)], 0.0, WAYPOINT_M[1]
    while gone < length_m:
        angle = generator.uniform(0.0, 2.0 * np.pi, size=16)
        length = generator.uniform(min(WAYPOINT_M[0], reach), reach, size=16)
        asked = corners[-1] + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        clear = np.flatnonzero(ground.is_clear(corners[-1], asked))
        if not len(clear):
            reach = max(0.5 * reach, 0.01)  # a narrow yard: look nearer
            continue
        corners.append(asked[clear[0]])
        gone += float(length[clear[0]])
        reach = WAYPOINT_M[1]
    return np.array(corners)


def _timed(
    corner_m: Float[np.ndarray, "corners 2"], speed_m_s: float, time_s: Float[np.ndarray, " steps"]
) -> Trajectory:
    """Move along corners at one speed."""
    leg = np.diff(corner_m, axis=0)
    length = np.hypot(*leg.T)
    leg, length = leg[length > 0], length[length > 0]
    corner_m = np.concatenate([corner_m[:1], corner_m[0] + np.cumsum(leg, axis=0)])
    reached = np.concatenate([[0.0], np.cumsum(length)])
    along = speed_m_s * time_s
    which = np.clip(np.searchsorted(reached, along, side="right") - 1, 0, len(length) - 1)
    share = (along - reached[which]) / length[which]
    place_m = corner_m[which] + share[:, None] * leg[which]
    return Trajectory(time_s, place_m, speed_m_s * leg[which] / length[which, None])


def thinned(
    trajectory: Trajectory,
    steps: int,
    period_s: tuple[float, float],
    generator: np.random.Generator,
) -> Trajectory:
    """Positions of a fine trajectory at irregular times, as reports come.

    Gaps are drawn evenly from a range and rounded to the trajectory's own positions, so that every
    place is one the phone has been at.

    Args:
        trajectory: at short, equal times.
        steps: positions to keep, the first one among them.
        period_s: least and greatest gap [s].
        generator: source of chance.

    Raises:
        ConfigError: if the trajectory is too short or too coarse for these gaps.
    """
    length = len(trajectory.time_s)
    fine_s = float(np.diff(trajectory.time_s).mean()) if length > 1 else np.inf
    most = int(np.round(period_s[1] / fine_s))
    if not 0.0 < fine_s <= period_s[0] <= period_s[1] or (steps - 1) * most >= length:
        msg = (
            f"{steps} positions {period_s[0]} to {period_s[1]} s apart do not fit a trajectory of "
            f"{length} positions {fine_s:.3g} s apart; draw it longer or finer"
        )
        raise ConfigError(msg)
    gaps = np.round(generator.uniform(*period_s, size=steps - 1) / fine_s).astype(int)
    kept = np.concatenate([[0], np.cumsum(np.maximum(gaps, 1))])
    return Trajectory(
        trajectory.time_s[kept], trajectory.place_m[kept], trajectory.velocity_m_s[kept]
    )
