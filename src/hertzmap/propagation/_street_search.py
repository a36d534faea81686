"""All street routes of one transmitter: the workspace that a thread reuses, and what it finds."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int

from hertzmap.core.grid import Grid
from hertzmap.propagation._street_kernels import (
    LANES,
    SITE_BINS,
    look_around,
    resolve,
    search,
    sweep,
)
from hertzmap.propagation._street_setup import Outline, StreetGraph
from hertzmap.propagation.parameters import PropagationParameters


@final
@dataclass(frozen=True)
class _Labels:
    """Arrivals at corners; `labels` of them per corner, in the order of the corners."""

    cost: Float[np.ndarray, " arrivals"]
    length: Float[np.ndarray, " arrivals"]
    factor: Float[np.ndarray, " arrivals"]
    way: Float[np.ndarray, "arrivals 2"]
    parent: Int[np.ndarray, " arrivals"]
    origin: Int[np.ndarray, " arrivals"]
    bends: Int[np.ndarray, " arrivals"]
    parent_corner: Int[np.ndarray, " arrivals"]
    done: Bool[np.ndarray, " arrivals"]

    @classmethod
    def empty(cls, count: int) -> "_Labels":
        cost, length, factor = np.zeros((3, count))
        parent, origin, bends, parent_corner = np.zeros((4, count), np.int32)
        done = np.zeros(count, np.bool_)
        way = np.zeros((count, 2))
        return cls(cost, length, factor, way, parent, origin, bends, parent_corner, done)


@final
@dataclass(frozen=True)
class StreetSearch:
    """Finds the cheapest street route to every cell; its arrays are overwritten by each run."""

    grid: Grid
    """Cells of the map."""
    sides: Outline
    """Walls and corners."""
    graph: StreetGraph
    """Cells and corners each corner serves."""
    parameters: PropagationParameters
    """Bend factors and the rules of the search."""
    free: np.ndarray
    """1 outdoors, 0 inside buildings."""
    los: Bool[np.ndarray, "rows cols"]
    """Cells in line of sight."""
    length_m: Float[np.ndarray, "rows cols"]
    """Length of each cell's route in the plan [m]; straight where no route leads."""
    factor: Float[np.ndarray, "rows cols"]
    """Cost over length; 1 in line of sight."""
    back_m: Float[np.ndarray, "rows cols 2"]
    """Vector (east, north) from each cell to the start of its last leg [m]."""
    _winner: np.ndarray
    _cost: np.ndarray
    _east_m: np.ndarray
    _shadow: np.ndarray
    _near: np.ndarray
    _label: _Labels
    _order: np.ndarray
    _heap_cost: np.ndarray
    _heap_label: np.ndarray

    @classmethod
    def make(
        cls,
        grid: Grid,
        free: Bool[np.ndarray, "rows cols"],
        sides: Outline,
        graph: StreetGraph,
        parameters: PropagationParameters,
    ) -> "StreetSearch":
        """Allocate what one thread needs."""
        rows, cols = grid.shape
        padded = -(-cols // LANES) * LANES
        corners = len(sides.corner)
        count = corners * parameters.labels
        heap = corners + parameters.labels * len(graph.graph_corner) + 1
        return cls(
            grid=grid,
            sides=sides,
            graph=graph,
            parameters=parameters,
            free=free.view(np.uint8),
            los=np.empty((rows, cols), np.bool_),
            length_m=np.empty((rows, cols), np.float32),
            factor=np.empty((rows, cols), np.float32),
            back_m=np.empty((2, rows, cols), np.float32).transpose(1, 2, 0),
            _winner=np.empty((rows, padded), np.int32),
            _cost=np.empty((rows, padded), np.float32),
            _east_m=((np.arange(padded) + 0.5) * grid.spacing_m).astype(np.float32),
            _shadow=np.empty((4, SITE_BINS), np.float32),
            _near=np.empty(corners, np.bool_),
            _label=_Labels.empty(count),
            _order=np.empty(count, np.int32),
            _heap_cost=np.empty(heap, np.float64),
            _heap_label=np.empty(heap, np.int32),
        )

    def run(self, east_m: float, north_m: float) -> None:
        """Search from a place, in metres from the grid's south-west corner."""
        sides, graph, label, numbers = self.sides, self.graph, self._label, self.parameters
        spacing = self.grid.spacing_m
        look_around(
            east_m, north_m, sides.walls, sides.corner, sides.vertex, sides.before, sides.after,
            self.free, spacing, self._shadow, self.los.view(np.uint8), self._near,
        )  # fmt: skip
        settled = search(
            east_m, north_m, self._near, sides.corner, graph.graph_start, graph.graph_corner,
            numbers.bend_curve, numbers.head_exponent, numbers.labels, numbers.max_bends,
            label.cost, label.length, label.factor, label.way, label.parent, label.origin,
            label.bends, label.parent_corner, label.done,
            self._order, self._heap_cost, self._heap_label,
        )  # fmt: skip
        sweep(
            settled, self._order, numbers.labels, sides.corner, label.length, label.factor,
            label.way, numbers.bend_curve, spacing, graph.span_start, graph.span,
            self._east_m, self._cost, self._winner,
        )  # fmt: skip
        resolve(
            east_m, north_m, self.los.view(np.uint8), self._winner, self._cost, sides.corner,
            numbers.labels, label.length, spacing, self.length_m, self.factor,
            self.back_m[..., 0], self.back_m[..., 1],
        )  # fmt: skip

    @property
    def arrival(self) -> Int[np.ndarray, "rows cols"]:
        """Number of the winning arrival of each cell, -1 where none leads."""
        return self._winner[:, : self.grid.cols]

    def first_leg(self, east_m: float, north_m: float) -> Float[np.ndarray, "rows cols 2"]:
        """Vector of the first leg of each cell's route [m], for the place of the last run."""
        leg = self.sides.corner - np.array([east_m, north_m])
        first = np.where(self._label.done, self._label.origin, 0)
        of_arrival = np.vstack([leg[first], np.zeros((1, 2))]).astype(np.float32)
        legs = of_arrival.T[:, self.arrival].transpose(1, 2, 0)
        np.copyto(legs, -self.back_m, where=self.los[..., None])
        return legs

    def bends(
        self,
    ) -> tuple[Int[np.ndarray, "rows cols bends"], Float[np.ndarray, "rows cols bends"]]:
        """Corners of each cell's route, from the cell back, and the turn at each [rad].

        Entries beyond a route's last bend are -1 and NaN.
        """
        label = self._label
        at, turn = [], []
        arrival = np.where(self.los, -1, self.arrival)
        way = -self.back_m.astype(np.float64)
        while np.any(arrival >= 0):
            here = arrival >= 0
            before = label.way[arrival]
            cross = before[..., 0] * way[..., 1] - before[..., 1] * way[..., 0]
            angle = np.abs(np.arctan2(cross, np.sum(before * way, axis=-1)))
            at.append(np.where(here, arrival // self.parameters.labels, -1).astype(np.int32))
            turn.append(np.where(here, angle, np.nan).astype(np.float32))
            way = before
            arrival = np.where(here, label.parent[arrival], -1)
        if not at:
            nothing = (*self.grid.shape, 0)
            return np.empty(nothing, np.int32), np.empty(nothing, np.float32)
        return np.stack(at, axis=-1), np.stack(turn, axis=-1)
