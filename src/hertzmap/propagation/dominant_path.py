"""The dominant-path model: a map from the one route per cell that loses least.

A route leaves the transmitter, bends at convex building corners and ends at a cell. With legs of
total length L and bends phi_k it costs ``J = L prod w(phi_k)``, ``w = 1 + k1 s + k2 s^2``,
``s = sin(phi / 2)``; the cheapest route is charged

    PL = PL_1 + 10 n log10(L_3d) + 10 n_B log10(J / L) - waveguide + offset

Source: the dominant-path idea is Wahl, Wölfle et al. (2005); angle factor and search are our own.
Street routes are two-dimensional (walls are infinitely high); the over-rooftop route is added in
power.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import final

import numpy as np
import shapely
from jaxtyping import Float
from scipy import ndimage

from hertzmap.core.errors import PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Scene, SceneRaster, Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S, wavelength_m
from hertzmap.propagation._street_kernels import (
    LANES,
    SITE_BINS,
    look_around,
    resolve,
    search,
    sweep,
)
from hertzmap.propagation._street_setup import (
    Outline,
    StreetGraph,
    clear_of_walls,
    distance_to_walls,
    outline,
    street_graph,
)
from hertzmap.propagation.antennas import gain_dbi
from hertzmap.propagation.base import AbstractMapBackend
from hertzmap.propagation.rooftop import rooftop_loss
from hertzmap.scenes.raster import rasterize, window

CLEARANCE_M = 0.10
"""Least distance of a transmitter from walls [m]; nearer ones are moved."""
NEAREST_M = 0.5
"""Route lengths are not taken below this [m]."""
WAVEGUIDE_REACH_M = 40.0
"""Street width beyond which walls no longer guide the wave [m]; engine design figure."""
ARRIVAL_WINDOW_DB = 25.0
"""The delay is that of the earliest route within this of the strongest [dB]."""
NO_ROUTE_DB = np.float32(-1e4)
"""Stands for a missing route inside a power sum."""
LN10 = float(np.log(10.0))
EXPONENT_MODES = ("whole", "single", "split")


@final
@dataclass(frozen=True)
class PropagationParameters:
    """Free numbers of the dominant-path model; the defaults are uncalibrated."""

    n_los: float = 2.0
    """Path-loss exponent in line of sight; 2 with offset 0 is Friis."""
    n_nlos: float = 2.8
    """Path-loss exponent of routes with bends."""
    n_bend: float | None = None
    """Exponent of the bends' cost; None takes the exponent of the length."""
    k1: float = 1.2
    """Linear coefficient of the bend factor, at least 0."""
    k2: float = 3.5
    """Quadratic coefficient of the bend factor, at least 0."""
    offset_los_db: float = 0.0
    """Extra loss in line of sight [dB]."""
    offset_nlos_db: float = 0.0
    """Extra loss of routes with bends [dB]."""
    offset_roof_db: float = 0.0
    """Extra loss of the over-rooftop route [dB]."""
    waveguide_db: float = 0.0
    """Gain of a route that runs along walls all the way [dB], 0 to 15."""
    exponent: str = "whole"
    """``whole``: one exponent per route (jumps at the shadow's edge); ``single``: `n_los`
    everywhere; ``split``: `n_los` up to the first bend, `n_nlos` after it (not reciprocal)."""
    labels: int = 1
    """Arrivals kept per corner; 1 for speed, 4 for reference maps."""
    max_bends: int = 30
    """Longest chain of bends followed."""
    receiver_height_m: float = 1.5
    """Height of all receivers above ground [m]."""

    def __post_init__(self) -> None:
        numbers = (self.n_los, self.n_nlos, self.bend_exponent, self.receiver_height_m)
        if not (np.all(np.isfinite(numbers)) and min(numbers) > 0):
            msg = f"exponents and receiver height must be above 0: {self}"
            raise ValueError(msg)
        if self.k1 < 0 or self.k2 < 0 or not 0 <= self.waveguide_db <= 15:
            msg = f"k1, k2 must be at least 0 and waveguide_db within 0 to 15: {self}"
            raise ValueError(msg)
        if self.exponent not in EXPONENT_MODES:
            msg = f"exponent must be one of {EXPONENT_MODES}, got {self.exponent!r}"
            raise ValueError(msg)
        if self.labels < 1 or self.max_bends < 1:
            msg = f"labels and max_bends must be at least 1: {self}"
            raise ValueError(msg)

    @property
    def length_exponent(self) -> float:
        """Exponent of the length of routes with bends."""
        return self.n_los if self.exponent == "single" else self.n_nlos

    @property
    def bend_exponent(self) -> float:
        """Exponent of the bends' cost."""
        return self.length_exponent if self.n_bend is None else self.n_bend

    @property
    def head_exponent(self) -> float:
        """First labels start with their length to this power, which makes ``split`` continuous."""
        if self.exponent != "split":
            return 0.0
        return (self.n_los - self.n_nlos) / self.bend_exponent


@final
@dataclass(frozen=True)
class Environment:
    """All that many transmitters in one window share; immutable, so threads may share it too."""

    scene: Scene
    """Buildings that meet the window with its margin."""
    grid: Grid
    """Cells of the maps."""
    raster: SceneRaster
    """Heights and outdoor mask on the grid grown by the margin."""
    site: SceneRaster
    """Heights and outdoor mask on the grid."""
    closeness: Float[np.ndarray, "rows cols"]
    """How near walls are: 1 at a wall, 0 from `WAVEGUIDE_REACH_M` / 2 on."""
    sides: Outline
    """Walls and corners."""
    graph: StreetGraph
    """Cells and corners each corner serves."""

    @classmethod
    def prepare(cls, scene: Scene, grid: Grid, *, margin_m: float = 100.0) -> "Environment":
        """Clip a scene to a window, find its corners and who sees whom.

        Args:
            scene: the buildings; only those that meet the window plus margin count.
            grid: cells of the maps.
            margin_m: width of the belt round the grid whose corners still bend routes [m].

        Raises:
            ValueError: if the margin is negative or the grid has more than 32 767 rows or columns.
        """
        if margin_m < 0 or max(grid.shape) > np.iinfo(np.int16).max:
            msg = f"needs a margin of at least 0 and at most 32767 rows, cols: {margin_m}, {grid}"
            raise ValueError(msg)
        cells = int(np.ceil(margin_m / grid.spacing_m))
        belt = cells * grid.spacing_m
        padded = Grid(
            grid.rows + 2 * cells,
            grid.cols + 2 * cells,
            grid.spacing_m,
            (grid.origin_m[0] - belt, grid.origin_m[1] - belt),
        )
        local = window(scene, grid, margin_m)
        whole = rasterize(local, padded)
        raster = SceneRaster(padded, whole.height_m.astype(np.float32), whole.free)
        inner = np.s_[cells : cells + grid.rows, cells : cells + grid.cols]
        site = SceneRaster(grid, raster.height_m[inner].copy(), raster.free[inner].copy())
        distance = np.asarray(ndimage.distance_transform_edt(raster.free))[inner] - 0.5
        near = closeness(distance * grid.spacing_m).astype(np.float32)
        sides = outline(list(local.footprints), grid.origin_m, padded.bounds_m)
        graph = street_graph(sides, site.free, grid.spacing_m)
        return cls(local, grid, raster, site, near, sides, graph)


def closeness(distance_m: np.ndarray) -> np.ndarray:
    """1 at a wall, falling to 0 at half of `WAVEGUIDE_REACH_M` [m] from it."""
    return np.clip(1.0 - 2.0 * distance_m / WAVEGUIDE_REACH_M, 0.0, 1.0)


@final
@dataclass(frozen=True)
class _Workspace:
    """Arrays one thread reuses for all its maps."""

    shadow: np.ndarray
    near: np.ndarray
    los: np.ndarray
    cost: np.ndarray
    winner: np.ndarray
    label: dict[str, np.ndarray]
    order: np.ndarray
    heap_cost: np.ndarray
    heap_label: np.ndarray
    plane: dict[str, np.ndarray]
    free: np.ndarray
    east_m: np.ndarray

    @classmethod
    def make(cls, environment: Environment, labels: int) -> "_Workspace":
        """Workspace for maps of an environment."""
        rows, cols = environment.grid.shape
        padded = (rows, -(-cols // LANES) * LANES)
        corners = len(environment.sides.corner)
        total = corners * labels
        heap = corners + labels * len(environment.graph.graph_corner) + 1
        integer, double = np.int32, np.float64
        kinds = {
            "cost": double, "length": double, "factor": double, "way": double,
            "parent": integer, "origin": integer, "bends": integer, "parent_corner": integer,
            "done": np.bool_,
        }  # fmt: skip
        names = ("length", "factor", "towards_east", "towards_north")
        return cls(
            shadow=np.empty((4, SITE_BINS), np.float32),
            near=np.empty(corners, np.bool_),
            los=np.empty((rows, cols), np.uint8),
            cost=np.empty(padded, np.float32),
            winner=np.empty(padded, np.int32),
            label={
                name: np.empty((total, 2) if name == "way" else total, kind)
                for name, kind in kinds.items()
            },
            order=np.empty(total, integer),
            heap_cost=np.empty(heap, double),
            heap_label=np.empty(heap, integer),
            plane={name: np.empty((rows, cols), np.float32) for name in names},
            free=environment.site.free.view(np.uint8),
            east_m=((np.arange(padded[1]) + 0.5) * environment.grid.spacing_m).astype(np.float32),
        )


@final
@dataclass(frozen=True)
class DominantPath(AbstractMapBackend):
    """Radio maps from the dominant street route and the route over the roofs."""

    environment: Environment
    """Where; prepared once for all transmitters."""
    parameters: PropagationParameters = field(default_factory=PropagationParameters)
    """Losses."""
    roof: bool = True
    """Whether to add the over-rooftop route."""
    layers: str = "all"
    """``all``, or ``street`` for gain, delay and line of sight only."""

    def __post_init__(self) -> None:
        if self.layers not in ("all", "street"):
            msg = f"DominantPath.layers must be 'all' or 'street', got {self.layers!r}"
            raise ValueError(msg)

    def trace(self, transmitters: tuple[Transmitter, ...], *, workers: int = 1) -> RadioMap:
        """Compute one map per transmitter.

        Args:
            transmitters: sites in the scene's frame; up is above ground. One nearer than
                `CLEARANCE_M` to a wall is moved; the map names the place used.
            workers: threads, at least 1; the result does not depend on their number.

        Returns:
            Map with delay and line of sight; with `layers` ``all`` also angles and the
            interaction loss.

        Raises:
            PropagationError: if a transmitter stands inside a building, or where no route starts.
        """
        sites = tuple(self._site(transmitter) for transmitter in transmitters)
        moved = tuple(site for site, _ in sites)
        shape = (len(sites), *self.environment.grid.shape)
        names = ["gain", "toa"] + (["aoa", "aod", "loss"] if self.layers == "all" else [])
        out = {name: np.full(shape, np.nan, np.float32) for name in names}
        los, valid = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        spare: SimpleQueue[_Workspace] = SimpleQueue()

        def fill(index: int) -> None:
            work = spare.get()
            place = {name: layer[index] for name, layer in out.items()}
            self._fill(*sites[index], work, place, los[index], valid[index])
            spare.put(work)

        for _ in range(workers):
            spare.put(_Workspace.make(self.environment, self.parameters.labels))
        if workers == 1:
            for index in range(len(sites)):
                fill(index)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(fill, range(len(sites))))
        return RadioMap(
            self.environment.grid, out["gain"], valid, moved, out["toa"], los,
            out.get("aoa"), out.get("aod"), out.get("loss"),
        )  # fmt: skip

    def _site(self, transmitter: Transmitter) -> tuple[Transmitter, bool]:
        """The transmitter moved clear of walls, and whether street routes leave it."""
        environment = self.environment
        east, north, up = transmitter.place_m
        west, south, far_east, far_north = environment.raster.grid.bounds_m
        if not (west <= east <= far_east and south <= north <= far_north):
            return transmitter, self._roof_only(transmitter, "beyond the margin of the window")
        scene = environment.scene
        inside = shapely.contains_xy(np.array(scene.footprints, dtype=object), east, north)
        roof_m = float(np.max(scene.height_m[inside], initial=0.0))
        if up > roof_m > 0:
            return transmitter, self._roof_only(transmitter, "above a roof")
        if roof_m > 0:
            msg = (
                f"transmitter {transmitter.name!r} at {transmitter.place_m} is inside a building "
                f"{roof_m:g} m high; place it outdoors or above the roof"
            )
            raise PropagationError(msg)
        origin = np.array(environment.grid.origin_m)
        place = clear_of_walls(environment.sides, np.array([east, north]) - origin, CLEARANCE_M)
        if place is None:
            msg = (
                f"transmitter {transmitter.name!r} at {transmitter.place_m} has no place "
                f"{CLEARANCE_M} m clear of walls near it; move it into the open"
            )
            raise PropagationError(msg)
        moved_east, moved_north = (place + origin).tolist()
        return replace(transmitter, place_m=(moved_east, moved_north, up)), True

    def _roof_only(self, transmitter: Transmitter, where: str) -> bool:
        if not self.roof:
            msg = (
                f"transmitter {transmitter.name!r} at {transmitter.place_m} is {where}: only the "
                "route over the roofs leaves it; trace with roof=True"
            )
            raise PropagationError(msg)
        return False

    def _search(self, transmitter: Transmitter, work: _Workspace) -> int:
        """Fill a workspace with all street routes of a transmitter; returns the label count."""
        environment, parameters = self.environment, self.parameters
        sides, graph, label, plane = environment.sides, environment.graph, work.label, work.plane
        spacing = environment.grid.spacing_m
        east = transmitter.place_m[0] - environment.grid.origin_m[0]
        north = transmitter.place_m[1] - environment.grid.origin_m[1]
        look_around(
            east, north, sides.walls, sides.corner, sides.vertex, sides.before, sides.after,
            work.free, spacing, work.shadow, work.los, work.near,
        )  # fmt: skip
        settled = search(
            east, north, work.near, sides.corner, graph.graph_start, graph.graph_corner,
            parameters.k1, parameters.k2, parameters.head_exponent, parameters.labels,
            parameters.max_bends, label["cost"], label["length"], label["factor"], label["way"],
            label["parent"], label["origin"], label["bends"], label["parent_corner"],
            label["done"], work.order, work.heap_cost, work.heap_label,
        )  # fmt: skip
        sweep(
            settled, work.order, parameters.labels, sides.corner, label["length"],
            label["factor"], label["way"], parameters.k1, parameters.k2, spacing,
            graph.span_start, graph.span, work.east_m, work.cost, work.winner,
        )  # fmt: skip
        resolve(
            east, north, work.los, work.winner, work.cost, sides.corner, parameters.labels,
            label["length"], spacing, plane["length"], plane["factor"],
            plane["towards_east"], plane["towards_north"],
        )  # fmt: skip
        return settled

    def _fill(
        self,
        transmitter: Transmitter,
        street: bool,
        work: _Workspace,
        out: dict[str, np.ndarray],
        los: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Fill the layers of one map."""
        if street:
            self._search(transmitter, work)
            self._fill_street(transmitter, work, out, los, valid)
        if self.roof:
            self._add_roof(transmitter, out, los, valid)
        for layer in out.values():
            layer[~valid] = np.nan

    def _fill_street(
        self,
        transmitter: Transmitter,
        work: _Workspace,
        out: dict[str, np.ndarray],
        los: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Layers of the street routes that `_search` left in the workspace."""
        parameters, plane, grid = self.parameters, work.plane, self.environment.grid
        np.copyto(los, work.los.view(np.bool_))
        np.logical_or(los, work.winner[:, : grid.cols] >= 0, out=valid)
        rise = np.float32(parameters.receiver_height_m - transmitter.place_m[2])
        length = np.sqrt(plane["length"] ** 2 + rise * rise)
        np.maximum(length, np.float32(NEAREST_M), out=length)
        np.divide(length, np.float32(SPEED_OF_LIGHT_M_S), out=out["toa"])
        slope = _pick(los, 10.0 * parameters.n_los, 10.0 * parameters.length_exponent)
        bends = np.log10(plane["factor"]) * np.float32(10.0 * parameters.bend_exponent)
        loss = _pick(los, parameters.offset_los_db, parameters.offset_nlos_db)
        loss += np.float32(one_metre_loss_db(transmitter.carrier_hz))
        loss += slope * np.log10(length) + bends
        if parameters.waveguide_db > 0:
            closeness = self._route_closeness(transmitter, work)
            loss -= np.float32(parameters.waveguide_db) * closeness
        np.negative(loss, out=out["gain"])
        if self.layers == "street" and transmitter.pattern.kind == "isotropic":
            return
        arrival = np.arctan2(plane["towards_north"], plane["towards_east"])
        first_leg = self._first_leg(transmitter, work)
        departure = first_leg[1][work.winner[:, : grid.cols]]
        np.copyto(departure, arrival - np.copysign(np.float32(np.pi), arrival), where=los)
        zenith = np.arctan2(plane["length"], rise)
        out["gain"] += gain_dbi(transmitter, departure, zenith)
        if self.layers == "all":
            np.copyto(out["aoa"], arrival)
            np.copyto(out["aod"], departure)
            head = np.log10(first_leg[0]) * (10.0 * parameters.head_exponent)
            head *= parameters.bend_exponent
            np.copyto(out["loss"], bends)
            if parameters.exponent == "split":
                out["loss"] -= np.where(los, 0.0, head[work.winner[:, : grid.cols]])

    def _first_leg(self, transmitter: Transmitter, work: _Workspace) -> tuple[np.ndarray, ...]:
        """Length [m] and azimuth [rad] of each label's first leg, with one spare entry."""
        environment = self.environment
        start = np.array(transmitter.place_m[:2]) - environment.grid.origin_m
        leg = environment.sides.corner - start
        first = np.append(work.label["origin"], 0)
        first[:-1][~work.label["done"]] = 0
        if not len(leg):
            return np.ones(1, np.float32), np.zeros(1, np.float32)
        length = np.maximum(np.hypot(leg[:, 0], leg[:, 1]), 1e-3).astype(np.float32)
        return length[first], np.arctan2(leg[:, 1], leg[:, 0]).astype(np.float32)[first]

    def _route_closeness(self, transmitter: Transmitter, work: _Workspace) -> np.ndarray:
        """Mean closeness to walls along each cell's route; corners stand at walls, so count 1."""
        environment, plane = self.environment, work.plane
        start = np.array(transmitter.place_m[:2]) - environment.grid.origin_m
        at_start = closeness(np.array(distance_to_walls(environment.sides, start)))
        at_cell = environment.closeness
        last = np.hypot(plane["towards_east"], plane["towards_north"])
        first = self._first_leg(transmitter, work)[0][work.winner[:, : environment.grid.cols]]
        short = 0.5 * (first * (1.0 - at_start) + last * (1.0 - at_cell))
        bent = 1.0 - short / np.maximum(plane["length"], np.float32(1e-3))
        los = work.los.view(np.bool_)
        return np.where(los, 0.5 * (at_start + at_cell), bent).astype(np.float32)

    def _add_roof(
        self,
        transmitter: Transmitter,
        out: dict[str, np.ndarray],
        los: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Add the over-rooftop route in power; in line of sight it is the street route itself."""
        environment, parameters = self.environment, self.parameters
        place = transmitter.place_m
        edges, distance, zenith, clear = rooftop_loss(
            environment.raster.height_m, environment.raster.grid, environment.grid, place,
            transmitter.carrier_hz, parameters.receiver_height_m,
        )  # fmt: skip
        grid = environment.grid
        east = (np.arange(grid.cols) + 0.5) * grid.spacing_m + grid.origin_m[0] - place[0]
        north = (np.arange(grid.rows) + 0.5) * grid.spacing_m + grid.origin_m[1] - place[1]
        departure = np.arctan2(north.astype(np.float32)[:, None], east.astype(np.float32)[None, :])
        gain = gain_dbi(transmitter, departure, zenith) - edges
        gain -= np.float32(one_metre_loss_db(transmitter.carrier_hz) + parameters.offset_roof_db)
        gain -= np.float32(20.0) * np.log10(distance)
        route = environment.site.free & np.isfinite(gain) & ~los
        street = np.where(valid, out["gain"], NO_ROUTE_DB)
        over = np.where(route, gain, NO_ROUTE_DB)
        stronger, gap = np.maximum(street, over), np.abs(street - over)
        total = stronger + np.float32(10.0) * np.log10(1.0 + np.exp(gap * np.float32(-LN10 / 10.0)))
        np.copyto(out["gain"], total, where=route)
        arrives = route & (over >= stronger - np.float32(ARRIVAL_WINDOW_DB))
        np.copyto(out["toa"], distance / np.float32(SPEED_OF_LIGHT_M_S), where=arrives)
        if self.layers == "all":
            leads = route & (over > street)
            arrival = departure - np.copysign(np.float32(np.pi), departure)
            np.copyto(out["aoa"], arrival, where=leads)
            np.copyto(out["aod"], departure, where=leads)
            np.copyto(out["loss"], edges, where=leads)
        los |= clear & environment.site.free
        valid |= route


def one_metre_loss_db(carrier_hz: float) -> float:
    """Free-space loss of the first metre [dB]: ``20 log10(4 pi f 1 m / c)``."""
    return float(20.0 * np.log10(4.0 * np.pi / wavelength_m(carrier_hz)))


def _pick(los: np.ndarray, in_sight: float, bent: float) -> np.ndarray:
    return np.where(los, np.float32(in_sight), np.float32(bent))
