"""The dominant-path model: a map from the one route per cell that loses least.

A route leaves the transmitter, bends at convex building corners and ends at a cell. With legs of
total length L and bends phi_k it costs ``J = L prod w(phi_k)``,
``w = min(1 + k0 + k1 s + k2 s^2, w_max)``, ``s = sin(phi / 2)``; the cheapest route is charged

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
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from hertzmap.core.channels import ARRIVAL_WINDOW_DB
from hertzmap.core.errors import PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Scene, SceneRaster, Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S, wavelength_m
from hertzmap.propagation._street_search import StreetSearch
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
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.rooftop import rooftop_bends, rooftop_loss
from hertzmap.propagation.vectorize import scene_from_mask
from hertzmap.scenes.raster import rasterize, window

CLEARANCE_M = 0.10
"""Least distance of a transmitter from walls [m]; nearer ones are moved."""
NEAREST_M = 0.5
"""Route lengths are not taken below this [m]."""
WAVEGUIDE_REACH_M = 40.0
"""Street width beyond which walls no longer guide the wave [m]; engine design figure."""
LEAST_HEIGHT_M = 0.1
"""Height of footprints whose heights only a raster knows [m]."""
NO_ROUTE_DB = np.float32(-1e4)
"""Stands for a missing route inside a power sum."""
LN10 = float(np.log(10.0))


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
        padded, cells = _grown(grid, margin_m)
        local = window(scene, grid, margin_m)
        whole = rasterize(local, padded)
        raster = SceneRaster(padded, whole.height_m.astype(np.float32), whole.free)
        inner = np.s_[cells : cells + grid.rows, cells : cells + grid.cols]
        site = SceneRaster(grid, raster.height_m[inner].copy(), raster.free[inner].copy())
        near = _closeness(_distance_to_buildings(raster)[inner])
        sides = outline(list(local.footprints), grid.origin_m, padded.bounds_m)
        graph = street_graph(sides, site.free, grid.spacing_m)
        return cls(local, grid, raster, site, near, sides, graph)

    @classmethod
    def of_raster(cls, site: SceneRaster, *, margin_m: float = 100.0) -> "Environment":
        """What a raster alone tells: walls traced from its mask, bare ground around it.

        Heights stand in the raster; the traced footprints only say where no street route starts.

        Args:
            site: heights and outdoor mask; its grid is that of the maps.
            margin_m: width of the belt of bare ground in which transmitters may stand [m].
        """
        grid = site.grid
        padded, cells = _grown(grid, margin_m)
        height_m = np.pad(np.where(site.free, 0.0, site.height_m), cells).astype(np.float32)
        raster = SceneRaster(padded, height_m, np.pad(site.free, cells, constant_values=True))
        inner = np.s_[cells : cells + grid.rows, cells : cells + grid.cols]
        near = _closeness(_distance_to_buildings(raster)[inner])
        scene = scene_from_mask(site.free, grid, height_m=LEAST_HEIGHT_M)
        sides = outline(list(scene.footprints), grid.origin_m, padded.bounds_m)
        graph = street_graph(sides, site.free, grid.spacing_m)
        own = SceneRaster(grid, height_m[inner].copy(), site.free.copy())
        return cls(scene, grid, raster, own, near, sides, graph)


def _grown(grid: Grid, margin_m: float) -> tuple[Grid, int]:
    """The grid with a belt of whole cells round it, and the width of the belt in cells."""
    cells = int(np.ceil(margin_m / grid.spacing_m))
    belt = cells * grid.spacing_m
    origin_m = (grid.origin_m[0] - belt, grid.origin_m[1] - belt)
    return Grid(grid.rows + 2 * cells, grid.cols + 2 * cells, grid.spacing_m, origin_m), cells


def _distance_to_buildings(raster: SceneRaster) -> np.ndarray:
    """Distance of each outdoor cell's centre to the edge of the nearest indoor cell [m]."""
    if raster.free.all():
        return np.full(raster.grid.shape, np.inf, np.float32)
    distance = np.asarray(ndimage.distance_transform_edt(raster.free), dtype=np.float32)
    return (distance - np.float32(0.5)) * np.float32(raster.grid.spacing_m)


def _closeness(distance_m: np.ndarray) -> np.ndarray:
    """1 at a wall, falling to 0 at half of `WAVEGUIDE_REACH_M` from it."""
    return np.clip(1.0 - 2.0 * distance_m / WAVEGUIDE_REACH_M, 0.0, 1.0)


@final
@dataclass(frozen=True)
class Routes:
    """The dominant street route of every cell, as calibration and plots need it."""

    transmitter: Transmitter
    """The transmitter, moved clear of walls."""
    los: Bool[np.ndarray, "rows cols"]
    """True in line of sight."""
    valid: Bool[np.ndarray, "rows cols"]
    """True where a street route exists."""
    length_m: Float[np.ndarray, "rows cols"]
    """Length in the plan [m]; NaN where not `valid`."""
    first_leg_m: Float[np.ndarray, "rows cols"]
    """Length of the leg that leaves the transmitter [m]; NaN where not `valid`."""
    bend_rad: Float[np.ndarray, "rows cols bends"]
    """Change of direction at each bend, from the cell back [rad]; NaN beyond the last bend."""
    corner: Int[np.ndarray, "rows cols bends"]
    """Corner of each bend, an index into `corner_m`; -1 beyond the last bend."""
    closeness: Float[np.ndarray, "rows cols"]
    """Mean closeness to walls along the route, 0 to 1; NaN where not `valid`."""
    corner_m: Float[np.ndarray, "corners 2"]
    """Places (east, north) of the corners [m]."""
    grid: Grid
    """Cells."""

    def polyline_m(self, row: int, col: int) -> Float[np.ndarray, "points 2"]:
        """The route of one cell from the transmitter to the cell's centre [m].

        Raises:
            ValueError: if no street route leads to the cell.
        """
        if not self.valid[row, col]:
            msg = f"no street route leads to cell ({row}, {col}); ask `valid` first"
            raise ValueError(msg)
        bends = self.corner[row, col]
        via = self.corner_m[bends[bends >= 0][::-1]]
        end = self.grid.place(np.array([row, col], dtype=np.float64))
        return np.vstack([self.transmitter.place_m[:2], via, end])


@final
@dataclass(frozen=True)
class GainLayers:
    """What the gain of one transmitter is made of, routes held fixed; see `response`."""

    transmitter: Transmitter
    """The transmitter, moved clear of walls."""
    los: Bool[np.ndarray, "*cells"]
    """True in line of sight along the street."""
    street: Bool[np.ndarray, "*cells"]
    """True where a street route exists, line of sight included."""
    length_db: Float[np.ndarray, "*cells"]
    """10 log10 of the street route's length in space [m]."""
    bend_db: Float[np.ndarray, "*cells"]
    """10 log10(J / L) of its bends; 0 in line of sight."""
    first_leg_db: Float[np.ndarray, "*cells"]
    """10 log10 of its first leg [m], at least one metre."""
    closeness: Float[np.ndarray, "*cells"]
    """Mean closeness to walls along it, 0 to 1."""
    departure_rad: Float[np.ndarray, "*cells"]
    """Azimuth it leaves towards [rad]."""
    roof: Bool[np.ndarray, "*cells"]
    """True where the route over the roofs counts."""
    roof_loss_db: Float[np.ndarray, "*cells"]
    """Its loss beyond the first metre [dB]; 0 where there is none."""
    roof_departure_rad: Float[np.ndarray, "*cells"]
    """Azimuth it leaves towards [rad]."""

    def at(self, cell: Int[np.ndarray, " points"]) -> "GainLayers":
        """The same at some cells only, by flat index."""
        return replace(self, **{name: layer.reshape(-1)[cell] for name, layer in self._all()})

    def reshape(self, shape: tuple[int, ...]) -> "GainLayers":
        """The same cells in another shape."""
        return replace(self, **{name: layer.reshape(shape) for name, layer in self._all()})

    def _all(self) -> list[tuple[str, np.ndarray]]:
        return [(name, layer) for name, layer in vars(self).items() if name != "transmitter"]


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
        spare: SimpleQueue[StreetSearch] = SimpleQueue()

        def fill(index: int) -> None:
            work = spare.get()
            place = {name: layer[index] for name, layer in out.items()}
            self._fill(*sites[index], work, place, los[index], valid[index])
            spare.put(work)

        for _ in range(workers):
            spare.put(self._new_search())
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

    def _new_search(self) -> StreetSearch:
        environment = self.environment
        return StreetSearch.make(
            environment.grid,
            environment.site.free,
            environment.sides,
            environment.graph,
            self.parameters,
        )

    def _local(self, transmitter: Transmitter) -> tuple[float, float]:
        """East, north of a transmitter from the grid's south-west corner [m]."""
        origin = self.environment.grid.origin_m
        return transmitter.place_m[0] - origin[0], transmitter.place_m[1] - origin[1]

    def routes(self, transmitter: Transmitter) -> Routes:
        """The street route of every cell: lengths, bends and corners.

        Raises:
            PropagationError: if no street route leaves the transmitter.
        """
        moved, street = self._site(transmitter)
        if not street:
            msg = f"no street route leaves transmitter {moved.name!r} at {moved.place_m}"
            raise PropagationError(msg)
        work, place = self._new_search(), self._local(moved)
        work.run(*place)
        valid = work.los | (work.arrival >= 0)
        corner, bend = work.bends()
        leg = np.linalg.norm(work.first_leg(*place), axis=-1)
        near = self._route_closeness(moved, work)
        return Routes(
            transmitter=moved,
            los=work.los,
            valid=valid,
            length_m=np.where(valid, work.length_m, np.float32(np.nan)),
            first_leg_m=np.where(valid, leg, np.float32(np.nan)),
            bend_rad=bend,
            corner=corner,
            closeness=np.where(valid, near, np.float32(np.nan)),
            corner_m=self.environment.sides.corner + np.array(self.environment.grid.origin_m),
            grid=self.environment.grid,
        )

    def layers_of(self, transmitter: Transmitter) -> GainLayers:
        """Routes of one transmitter as layers; the antenna's pattern does not enter.

        Raises:
            PropagationError: if the transmitter stands inside a building.
        """
        environment = self.environment
        moved, leaves = self._site(transmitter)
        grid, place = environment.grid, moved.place_m
        los, street = np.zeros((2, *grid.shape), np.bool_)
        length, bend, first, near, departure = np.zeros((5, *grid.shape), np.float32)
        if leaves:
            work, local = self._new_search(), self._local(moved)
            work.run(*local)
            los, street = work.los, work.los | (work.arrival >= 0)
            rise = np.float32(self.parameters.receiver_height_m - place[2])
            length = 10.0 * np.log10(np.maximum(np.hypot(work.length_m, rise), NEAREST_M))
            bend = np.where(street, 10.0 * np.log10(work.factor), np.float32(0.0))
            leg = work.first_leg(*local)
            first = 10.0 * np.log10(np.maximum(np.hypot(leg[..., 0], leg[..., 1]), 1.0))
            departure = np.arctan2(leg[..., 1], leg[..., 0])
            near = self._route_closeness(moved, work)
        loss, _, _, _, _ = self._over_roofs(moved)
        roof = environment.site.free & np.isfinite(loss) & ~los
        east, north = np.moveaxis(grid.centres_m() - np.array(place[:2]), -1, 0)
        return GainLayers(
            moved, los, street, length, bend, first, near, departure,
            roof, np.where(roof, loss, np.float32(0.0)), np.arctan2(north, east),
        )  # fmt: skip

    def _fill(
        self,
        transmitter: Transmitter,
        street: bool,
        work: StreetSearch,
        out: dict[str, np.ndarray],
        los: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Fill the layers of one map."""
        if street:
            work.run(*self._local(transmitter))
            np.copyto(los, work.los)
            np.logical_or(los, work.arrival >= 0, out=valid)
            self._fill_street(transmitter, work, out)
        if self.roof:
            self._add_roof(transmitter, out, los, valid)
        for layer in out.values():
            layer[~valid] = np.nan

    def _fill_street(
        self, transmitter: Transmitter, work: StreetSearch, out: dict[str, np.ndarray]
    ) -> None:
        """Layers of the street routes found by a search."""
        parameters, los = self.parameters, work.los
        rise = np.float32(parameters.receiver_height_m - transmitter.place_m[2])
        length = np.sqrt(work.length_m**2 + rise * rise)
        np.maximum(length, np.float32(NEAREST_M), out=length)
        np.divide(length, np.float32(SPEED_OF_LIGHT_M_S), out=out["toa"])
        slope = _pick(los, 10.0 * parameters.n_los, 10.0 * parameters.length_exponent)
        bends = np.log10(work.factor) * np.float32(10.0 * parameters.bend_exponent)
        loss = _pick(los, parameters.offset_los_db, parameters.offset_nlos_db)
        loss += np.float32(one_metre_loss_db(transmitter.carrier_hz))
        loss += slope * np.log10(length) + bends
        if parameters.waveguide_db > 0:
            guided = self._route_closeness(transmitter, work)
            loss -= np.float32(parameters.waveguide_db) * guided
        np.negative(loss, out=out["gain"])
        if self.layers == "street" and transmitter.pattern.kind == "isotropic":
            return
        leg = work.first_leg(*self._local(transmitter))
        departure = np.arctan2(leg[..., 1], leg[..., 0])
        out["gain"] += gain_dbi(transmitter, departure, np.arctan2(work.length_m, rise))
        if self.layers == "all":
            np.copyto(out["aod"], departure)
            np.arctan2(work.back_m[..., 1], work.back_m[..., 0], out=out["aoa"])
            if parameters.exponent == "split":
                # the first labels started with their length to the head exponent
                head = np.log10(np.hypot(leg[..., 0], leg[..., 1]) + np.float32(1e-6))
                excess = 10.0 * parameters.head_exponent * parameters.bend_exponent
                bends -= np.where(los, np.float32(0.0), np.float32(excess) * head)
            np.copyto(out["loss"], bends)

    def _route_closeness(
        self, transmitter: Transmitter, work: StreetSearch
    ) -> Float[np.ndarray, "rows cols"]:
        """Mean closeness to walls along each cell's route, each leg by the mean of its ends.

        Corners stand at walls, so only the ends of a route can fall short of 1.
        """
        place = self._local(transmitter)
        apart = distance_to_walls(self.environment.sides, np.array(place))
        at_start = float(_closeness(np.array([apart]))[0])
        at_cell = self.environment.closeness
        last = np.hypot(work.back_m[..., 0], work.back_m[..., 1])
        first = np.linalg.norm(work.first_leg(*place), axis=-1)
        short = 0.5 * (first * (1.0 - at_start) + last * (1.0 - at_cell))
        bent = 1.0 - short / np.maximum(work.length_m, np.float32(1e-3))
        return np.where(work.los, 0.5 * (at_start + at_cell), bent).astype(np.float32)

    def _add_roof(
        self,
        transmitter: Transmitter,
        out: dict[str, np.ndarray],
        los: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Add the over-rooftop route in power, or take it where it is stronger (law ``bends``).

        In line of sight it is the street route itself.
        """
        environment, parameters = self.environment, self.parameters
        place = transmitter.place_m
        loss, edges, distance, zenith, clear = self._over_roofs(transmitter)
        grid = environment.grid
        east = (np.arange(grid.cols) + 0.5) * grid.spacing_m + grid.origin_m[0] - place[0]
        north = (np.arange(grid.rows) + 0.5) * grid.spacing_m + grid.origin_m[1] - place[1]
        departure = np.arctan2(north.astype(np.float32)[:, None], east.astype(np.float32)[None, :])
        gain = gain_dbi(transmitter, departure, zenith) - loss
        gain -= np.float32(one_metre_loss_db(transmitter.carrier_hz) + parameters.offset_roof_db)
        route = environment.site.free & np.isfinite(gain) & ~los
        street = np.where(valid, out["gain"], NO_ROUTE_DB)
        over = np.where(route, gain, NO_ROUTE_DB)
        stronger, gap = np.maximum(street, over), np.abs(street - over)
        arrives = route & (over >= stronger - np.float32(ARRIVAL_WINDOW_DB))
        np.copyto(out["toa"], distance / np.float32(SPEED_OF_LIGHT_M_S), where=arrives)
        if parameters.roof_law == "edges":
            stronger += np.float32(10.0) * np.log10(1.0 + np.exp(gap * np.float32(-LN10 / 10.0)))
        np.copyto(out["gain"], stronger, where=route)
        if self.layers == "all":
            leads = route & (over > street)
            arrival = departure - np.copysign(np.float32(np.pi), departure)
            np.copyto(out["aoa"], arrival, where=leads)
            np.copyto(out["aod"], departure, where=leads)
            np.copyto(out["loss"], edges, where=leads)
        los |= clear & environment.site.free
        valid |= route

    def _over_roofs(self, transmitter: Transmitter) -> tuple[np.ndarray, ...]:
        """The route over the roofs by the law of the parameters.

        Returns loss beyond the first metre [dB], its part due to edges or bends [dB], length [m],
        zenith at the transmitter [rad] and whether the line is free.
        """
        raster, grid, numbers = self.environment.raster, self.environment.grid, self.parameters
        if numbers.roof_law == "edges":
            edges, distance, zenith, clear = rooftop_loss(
                raster.height_m, raster.grid, grid, transmitter.place_m,
                transmitter.carrier_hz, numbers.receiver_height_m,
            )  # fmt: skip
            loss = edges + np.float32(20.0) * np.log10(distance)
            return loss, edges, distance, zenith, clear
        factor, length, zenith, clear = rooftop_bends(
            raster.height_m, raster.grid, grid, transmitter.place_m,
            numbers.receiver_height_m, numbers.bend_curve,
        )  # fmt: skip
        bends = np.log10(factor) * np.float32(10.0 * numbers.bend_exponent)
        slope = _pick(clear, 10.0 * numbers.n_los, 10.0 * numbers.length_exponent)
        offset = _pick(clear, numbers.offset_los_db, numbers.offset_nlos_db)
        return bends + offset + slope * np.log10(length), bends, length, zenith, clear


def one_metre_loss_db(carrier_hz: float) -> float:
    """Free-space loss of the first metre [dB]: ``20 log10(4 pi f 1 m / c)``."""
    return float(20.0 * np.log10(4.0 * np.pi / wavelength_m(carrier_hz)))


def _pick(los: np.ndarray, in_sight: float, bent: float) -> np.ndarray:
    return np.where(los, np.float32(in_sight), np.float32(bent))
