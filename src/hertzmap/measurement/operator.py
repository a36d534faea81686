"""How a map is read at places known only up to a drift: y = A(map; reported places).

A report stands for a small cloud of possible true places around its reported place. The cloud is a
lattice of nodes weighted by the Gaussian mass of drift, cut at walls; each node reads the map
bilinearly, walls left out. Reading and its adjoint are the same sparse matrix, so one operator both
simulates and inverts.
"""

import functools
import math
import typing
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit
from scipy.sparse import csr_matrix

from hertzmap.core.errors import ReportsError
from hertzmap.core.grid import Grid

LEAST_MASS = 1e-6
"""A report needs more Gaussian mass than this on free ground; else its lattice is widened."""
WIDEST_DEVIATIONS = 6.0
"""Widening ends here: beyond six deviations less than 1e-6 of a Gaussian is left."""
FINE_BELOW_CELLS = 1.5
"""Drift deviation [cells] below which the lattice is twice as fine as the grid."""
NODE_LIMIT = 100_000_000
"""Most nodes of one operator (about 10 GB)."""
_TIE = 1e-6
_MOST_REDRAWS = 200


@njit(cache=True, nogil=True)
@typing.no_type_check
def _taps(free: np.ndarray, row: float, col: float, cell: np.ndarray, tap: np.ndarray) -> float:
    """Bilinear taps on free cells, summing to 1; returns the free weight before that."""
    rows, cols = free.shape
    south, west = math.floor(row), math.floor(col)
    mass, heaviest, anchor = 0.0, 0.0, 0
    for k in range(4):
        r, c = int(south) + k // 2, int(west) + k % 2
        weight = (row - south if k // 2 else 1.0 - row + south) * (
            col - west if k % 2 else 1.0 - col + west
        )
        cell[k], tap[k] = -1, 0.0
        if 0 <= r < rows and 0 <= c < cols and free[r, c]:
            cell[k], tap[k] = r * cols + c, weight
            mass += weight
            if weight > heaviest:
                heaviest, anchor = weight, cell[k]
    for k in range(4):
        if cell[k] < 0:  # a wall's tap is 0 and points at a free cell: walls may hold NaN
            cell[k] = anchor
        elif mass > 0.0:
            tap[k] /= mass
    return mass


@njit(cache=True, nogil=True)
@typing.no_type_check
def _all_taps(
    free: np.ndarray, pixel: np.ndarray, cell: np.ndarray, tap: np.ndarray, mass: np.ndarray
) -> None:
    for i in range(len(pixel)):
        mass[i] = _taps(free, pixel[i, 0], pixel[i, 1], cell[i], tap[i])


@njit(cache=True, nogil=True)
@typing.no_type_check
def _free_share(free: np.ndarray, row: float, col: float) -> float:
    """1 where the nearest cell is free, else 0; on an edge the mean over the tied cells."""
    rows, cols = free.shape
    north, east = math.floor(row + 0.5 + _TIE), math.floor(col + 0.5 + _TIE)
    south, west = math.floor(row + 0.5 - _TIE), math.floor(col + 0.5 - _TIE)
    total = 0.0
    for r in (int(south), int(north)):
        for c in (int(west), int(east)):
            if 0 <= r < rows and 0 <= c < cols and free[r, c]:
                total += 0.25
    return total


@njit(cache=True, nogil=True)
@typing.no_type_check
def _square_mass(k: int, deviation: float, step: float) -> float:
    """Mass of N(0, deviation^2) on the interval of length `step` about `k * step`."""
    if deviation == 0.0:
        return 1.0 if k == 0 else 0.0
    scale = step / (deviation * math.sqrt(2.0))
    if k == 0:
        return math.erf(0.5 * scale)
    near, far = (abs(k) - 0.5) * scale, (abs(k) + 0.5) * scale
    return 0.5 * (math.erfc(near) - math.erfc(far))


@njit(cache=True, nogil=True)
@typing.no_type_check
def _visit(
    free: np.ndarray,
    place: np.ndarray,
    variance: np.ndarray,
    q: int,
    reach: np.ndarray,
    start: int,
    cell: np.ndarray,
    tap: np.ndarray,
    omega: np.ndarray,
    offset: np.ndarray,
) -> tuple[int, float]:
    """Walk one report's lattice, in cells; with `start` >= 0 write its nodes there.

    `variance` holds (row row), (col col), (row col) [cells^2]. Returns the number of nodes on free
    ground and their Gaussian mass.
    """
    step = 1.0 / q
    down, along, mixed = variance
    full = abs(mixed) > 1e-12 * math.sqrt(down * along)
    rows, cols = reach[0] * q, reach[1] * q
    mass_down, mass_along = np.empty(2 * rows + 1), np.empty(2 * cols + 1)
    for k in range(-rows, rows + 1):
        mass_down[k + rows] = _square_mass(k, math.sqrt(down), step)
    for k in range(-cols, cols + 1):
        mass_along[k + cols] = _square_mass(k, math.sqrt(along), step)
    # the square's own covariance makes the midpoint value its mass, to third order in the step
    down += step * step / 12.0
    along += step * step / 12.0
    det = down * along - mixed * mixed
    count, total = 0, 0.0
    for a in range(-rows, rows + 1):
        for b in range(-cols, cols + 1):
            if full:
                u, v = a * step, b * step
                form = (along * u * u - 2.0 * mixed * u * v + down * v * v) / det
                mass = step * step * math.exp(-0.5 * form) / (2.0 * math.pi * math.sqrt(det))
            else:
                mass = mass_down[a + rows] * mass_along[b + cols]
            if mass == 0.0:
                continue
            row, col = place[0] + a * step, place[1] + b * step
            mass *= _free_share(free, row, col)
            if mass == 0.0:
                continue
            if start >= 0:
                node = start + count
                _taps(free, row, col, cell[node], tap[node])
                omega[node] = mass
                offset[node, 0], offset[node, 1] = b * step, a * step
            count += 1
            total += mass
    return count, total


@njit(cache=True, nogil=True)
@typing.no_type_check
def _reach(
    free: np.ndarray,
    pixel: np.ndarray,
    variance: np.ndarray,
    q: np.ndarray,
    deviations: float,
    reach: np.ndarray,
    count: np.ndarray,
) -> None:
    """Per report, how far its lattice goes [cells] and how many nodes it has; 0 = dropped."""
    cell, tap = np.empty((0, 4), np.int64), np.empty((0, 4))  # nothing is written while counting
    omega, offset = np.empty(0), np.empty((0, 2))
    for i in range(len(pixel)):
        widest = np.empty(2, np.int64)
        for axis in range(2):
            deviation = math.sqrt(variance[i, axis])
            reach[i, axis] = math.ceil(deviations * deviation - 1e-9)
            widest[axis] = math.ceil(max(deviations, WIDEST_DEVIATIONS) * deviation - 1e-9)
        while True:
            count[i], mass = _visit(
                free,
                pixel[i],
                variance[i],
                q[i],
                reach[i],
                -1,
                cell,
                tap,
                omega,
                offset,
            )
            if mass > LEAST_MASS:
                break
            if reach[i, 0] >= widest[0] and reach[i, 1] >= widest[1]:
                count[i] = 0
                break
            for axis in range(2):
                reach[i, axis] = min(reach[i, axis] + 1, widest[axis])


@njit(cache=True, nogil=True)
@typing.no_type_check
def _fill(
    free: np.ndarray,
    pixel: np.ndarray,
    variance: np.ndarray,
    q: np.ndarray,
    reach: np.ndarray,
    start: np.ndarray,
    cell: np.ndarray,
    tap: np.ndarray,
    omega: np.ndarray,
    offset: np.ndarray,
    report: np.ndarray,
) -> None:
    for i in range(len(pixel)):
        count, mass = _visit(
            free, pixel[i], variance[i], q[i], reach[i], start[i], cell, tap, omega, offset
        )
        for node in range(start[i], start[i] + count):
            omega[node] /= mass
            report[node] = i


def bilinear(
    grid: Grid, free: Bool[np.ndarray, "rows cols"], place_m: Float[np.ndarray, "points 2"]
) -> tuple[
    Int[np.ndarray, "points 4"], Float[np.ndarray, "points 4"], Float[np.ndarray, " points"]
]:
    """Four taps per place: ``S(x; p) = sum_j b_j f_j x_j / sum_j b_j f_j``.

    Cells off the map count as walls. Where the nearest cell is free the third result is at least
    1/4, which makes "nearest cell is free" the rule for a usable place.

    Args:
        grid: the raster of the map to read.
        free: True outdoors, shape of the grid.
        place_m: places (east, north) [m].

    Returns:
        Flat cell indices (a wall's tap points at a free neighbour), taps that sum to 1, and the
        bilinear weight on free cells before normalising; where that is 0 all taps are 0.
    """
    count = len(place_m)
    cell, tap = np.zeros((count, 4), np.int64), np.zeros((count, 4))
    mass = np.zeros(count)
    pixel = np.ascontiguousarray(grid.to_pixel(np.asarray(place_m, np.float64)))
    _all_taps(np.ascontiguousarray(free), pixel, cell, tap, mass)
    return cell, tap, mass


def nearest_free(
    grid: Grid, free: Bool[np.ndarray, "rows cols"], place_m: Float[np.ndarray, "points 2"]
) -> Bool[np.ndarray, " points"]:
    """Whether each place (east, north) [m] has a free cell on the map as its nearest."""
    cell = np.clip(grid.cell(place_m), 0, np.array(grid.shape) - 1)
    return grid.contains(place_m) & free[cell[:, 0], cell[:, 1]]


def drift_root(drift_cov_m2: Float[np.ndarray, "points 2 2"]) -> Float[np.ndarray, "points 2 2"]:
    """Matrix L with ``L L^T`` the drift covariance [m]; singular covariances are welcome."""
    variance, axes = np.linalg.eigh(drift_cov_m2)
    return axes * np.sqrt(np.maximum(variance, 0.0))[:, None, :]


def _binned(
    index: Int[np.ndarray, " values"], value: Float[np.ndarray, " values"], count: int
) -> Float[np.ndarray, " count"]:
    # without any value numpy counts in integers
    return np.bincount(index, value, minlength=count).astype(np.float64, copy=False)


@final
@dataclass(frozen=True)
class DriftOperator:
    """Nodes of all kept reports, their weights, and the bilinear taps that read them.

    Node values are ``v = B x`` with ``B`` given by `cell` and `tap`; a report's mean and variance
    over its drift are ``m_i = sum_j omega_ij v_ij`` and ``V_i = sum_j omega_ij (v_ij - m_i)^2``.
    Source: RadioDiff-Inv2, eqs. 19-21 and 25-26, averaged by quadrature instead of draws.
    """

    grid: Grid
    """The raster of the map."""
    cell: Int[np.ndarray, "nodes 4"]
    """Flat index ``row * cols + col`` of each tap's cell."""
    tap: Float[np.ndarray, "nodes 4"]
    """Bilinear weights, walls left out; at least 0, each row sums to 1."""
    omega: Float[np.ndarray, " nodes"]
    """Probability of each node given its report; sums to 1 per report."""
    report: Int[np.ndarray, " nodes"]
    """Index among the KEPT reports; ascending."""
    offset_m: Float[np.ndarray, "nodes 2"]
    """Node place minus reported place (east, north) [m]."""
    reported_m: Float[np.ndarray, "count 2"]
    """Reported places of the kept reports (east, north) [m]."""
    kept: Bool[np.ndarray, " points"]
    """False where a report found no free ground within six deviations and was dropped."""

    @classmethod
    def build(
        cls,
        grid: Grid,
        free: Bool[np.ndarray, "rows cols"],
        reported_m: Float[np.ndarray, "points 2"],
        drift_cov_m2: Float[np.ndarray, "points 2 2"],
        *,
        q: int | None = None,
        deviations: float = 3.0,
    ) -> "DriftOperator":
        """Lay a lattice of possible true places around every reported place.

        Nodes stand ``spacing / q`` apart, out to `deviations` drift deviations per axis, rounded
        up to whole cells. A node weighs the Gaussian mass of its little square (products of normal
        distribution functions; with correlated axes the midpoint value, the square's own
        covariance added), times 1 if its nearest cell is free and 0 if not (the mean of the tied
        cells on an edge). A report without mass on free ground reaches further, up to six
        deviations, before it is dropped. Zero drift gives one node per report.

        Args:
            grid: the raster of the map.
            free: True outdoors, shape of the grid; off the map counts as wall.
            reported_m: reported places (east, north) [m]; may lie off the map or in walls.
            drift_cov_m2: covariance of true minus reported place [m^2], positive semi-definite.
            q: nodes per cell side; default 2 for reports whose smallest deviation is below 1.5
                cells, else 1.
            deviations: reach of the lattice in drift deviations, above 0.

        Raises:
            ReportsError: if the mask does not fit, `q` is below 1, or the nodes would not fit
                into memory.
        """
        if free.shape != grid.shape:
            msg = f"the free mask {free.shape} does not fit the grid {grid.shape}"
            raise ReportsError(msg)
        if q is not None and q < 1:
            msg = f"a drift lattice needs at least one node per cell side, got q = {q}"
            raise ReportsError(msg)
        reported_m = np.asarray(reported_m, np.float64)
        free = np.ascontiguousarray(free)
        pixel = np.ascontiguousarray(grid.to_pixel(reported_m))
        cov = np.asarray(drift_cov_m2, np.float64) / grid.spacing_m**2
        own = np.maximum(np.diagonal(cov, axis1=1, axis2=2), 0.0)
        variance = np.stack([own[:, 1], own[:, 0], cov[:, 0, 1]], axis=-1)
        smallest = np.sqrt(np.maximum(np.linalg.eigvalsh(cov)[:, 0], 0.0))
        fine = np.where(smallest < FINE_BELOW_CELLS, 2, 1) if q is None else np.full(len(cov), q)
        reach = np.zeros((len(pixel), 2), np.int64)
        count = np.zeros(len(pixel), np.int64)
        _reach(free, pixel, variance, fine, float(deviations), reach, count)
        nodes = int(count.sum())
        if nodes > NODE_LIMIT:
            msg = (
                f"{len(pixel)} reports need {nodes} nodes on cells of {grid.spacing_m} m; use a "
                "coarser grid, fewer reports or a smaller drift"
            )
            raise ReportsError(msg)
        kept = count > 0
        start = np.cumsum(count[kept]) - count[kept]
        cell, tap = np.empty((nodes, 4), np.int64), np.empty((nodes, 4))
        omega, report = np.empty(nodes), np.empty(nodes, np.int64)
        offset = np.empty((nodes, 2))
        _fill(
            free, pixel[kept], variance[kept], fine[kept], reach[kept], start,
            cell, tap, omega, offset, report,
        )  # fmt: skip
        offset *= grid.spacing_m
        return cls(grid, cell, tap, omega, report, offset, reported_m[kept], kept)

    @classmethod
    def draw(
        cls,
        grid: Grid,
        free: Bool[np.ndarray, "rows cols"],
        reported_m: Float[np.ndarray, "points 2"],
        drift_cov_m2: Float[np.ndarray, "points 2 2"],
        *,
        draws: int,
        generator: np.random.Generator,
        shared: bool = False,
    ) -> "DriftOperator":
        """The same cloud by Monte Carlo: equally likely draws of the drift, cut at walls.

        The data term ``paper`` on it is RadioDiff-Inv2's eq. 28 with fresh draws; ``mixture`` on
        it is the biased but consistent log-mean-exp. Whether the paper shares a draw between
        reports is not said: with `shared` all reports move alike and a draw that puts one into a
        wall has no weight there; without, such a draw is repeated. A report whose draws all fail
        is dropped.

        Args:
            grid: the raster of the map.
            free: True outdoors, shape of the grid.
            reported_m: reported places (east, north) [m].
            drift_cov_m2: covariance of true minus reported place [m^2].
            draws: draws per report, at least 1.
            generator: source of chance.
            shared: one standard-normal draw for all reports instead of one each.
        """
        points = len(reported_m)
        root = drift_root(np.asarray(drift_cov_m2, np.float64))
        shape = (1 if shared else points, draws, 2)
        normal = np.broadcast_to(generator.standard_normal(shape), (points, draws, 2))
        offset = np.einsum("pab,pdb->pda", root, normal).reshape(-1, 2)
        report = np.repeat(np.arange(points), draws)
        valid = nearest_free(grid, free, reported_m[report] + offset)
        for _ in range(0 if shared else _MOST_REDRAWS):
            again = np.flatnonzero(~valid)
            if not len(again):
                break
            fresh = generator.standard_normal((len(again), 2))
            offset[again] = np.einsum("pab,pb->pa", root[report[again]], fresh)
            valid[again] = nearest_free(grid, free, reported_m[report[again]] + offset[again])
        offset, report = offset[valid], report[valid]
        count = np.bincount(report, minlength=points)
        kept = count > 0
        cell, tap, _ = bilinear(grid, free, reported_m[report] + offset)
        omega = 1.0 / count[report]
        position = np.cumsum(kept) - 1
        return cls(grid, cell, tap, omega, position[report], offset, reported_m[kept], kept)

    @property
    def count(self) -> int:
        """Number of kept reports."""
        return len(self.reported_m)

    def read(self, x: Float[np.ndarray, "rows cols"]) -> Float[np.ndarray, " nodes"]:
        """Node values ``v = B x``; what `x` holds in walls does not matter."""
        return np.einsum("nt,nt->n", x.ravel()[self.cell], self.tap)

    def adjoint(self, w: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, "rows cols"]:
        """``B^T w``: each node's value goes back to its four cells with the same taps."""
        cells = self.grid.rows * self.grid.cols
        spread = (self.tap * w[:, None]).ravel()
        return _binned(self.cell.ravel(), spread, cells).reshape(self.grid.shape)

    def moments(
        self, x: Float[np.ndarray, "rows cols"]
    ) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"]]:
        """Mean ``m`` and variance ``V`` of the reading over each kept report's drift."""
        value = self.read(x)
        mean = self._average(value)
        return mean, self._average((value - mean[self.report]) ** 2)

    @functools.cached_property
    def averages(self) -> csr_matrix:
        """Rows average a raveled map over each kept report's drift: (count, rows * cols)."""
        value = (self.omega[:, None] * self.tap).ravel()
        row = np.repeat(self.report, self.tap.shape[1])
        shape = (self.count, self.grid.rows * self.grid.cols)
        return csr_matrix((value, (row, self.cell.ravel())), shape=shape)

    @property
    def mean_place_m(self) -> Float[np.ndarray, "count 2"]:
        """Mean of each report's cut cloud (east, north) [m]: it leans away from walls."""
        return self.reported_m + self._mean_offset()

    @property
    def place_cov_m2(self) -> Float[np.ndarray, "count 2 2"]:
        """Covariance of each report's cut cloud [m^2].

        Without walls about the drift's covariance plus ``spacing^2 / (12 q^2)`` per axis, less
        the cut tails.
        """
        gap = self.offset_m - self._mean_offset()[self.report]
        cov = np.empty((self.count, 2, 2))
        for a in range(2):
            for b in range(2):
                cov[:, a, b] = self._average(gap[:, a] * gap[:, b])
        return cov

    def _average(self, value: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " count"]:
        return _binned(self.report, self.omega * value, self.count)

    def _mean_offset(self) -> Float[np.ndarray, "count 2"]:
        return np.stack([self._average(self.offset_m[:, axis]) for axis in range(2)], axis=-1)
