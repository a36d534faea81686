"""A Gaussian process over the plane whose observations were taken at uncertain places.

Shared by Kriging and by methods that put a Gaussian process on their residual. All values are
decibels. The covariance of two reports is the kernel averaged over where both were really taken,

    C_ij = E k(r_i + d_i - r_j - d_j) (i != j),   C_ii = variance + nugget + noise_i^2,

and the covariance of a report with a cell is ``E k(p - r_i - d_i)``: every matrix is that of true
random variables, hence positive semi-definite. Drift is summed up per report by the mean place and
the mean variance per axis of its kernel cut at the walls; the direction of a lopsided kernel is
dropped, which keeps one table in (distance, standard deviation) exact for isotropic drift.

Source: Cervone and Pillai, Gaussian process regression with location errors (2015); Matérn
kernels as scale mixtures of squared exponentials: Stein, Interpolation of Spatial Data (1999).
"""

# ruff: noqa: ANN001, ANN202  (numba infers the types of the kernels)

import functools
import typing
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from jaxtyping import Float, Int
from numba import njit
from scipy.linalg import LinAlgError, cho_solve, cholesky, get_lapack_funcs, solve_triangular
from scipy.optimize import minimize

from hertzmap.core.errors import ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.measurement.operator import DriftOperator

Kernel = Literal["exponential", "matern32", "squared_exponential"]
"""Correlation over distance: exp(-h/l); (1 + √3 h/l) exp(-√3 h/l); exp(-h²/2l²)."""

FEWEST_REPORTS = 3
"""A constant, a variance and a length need at least three reports."""

_LEVELS_PER_LENGTH = 32.0
_ENTRIES_PER_LENGTH = 128.0
_WIDEST_LENGTHS = 3.0
_LEVELS = int(_WIDEST_LENGTHS * _LEVELS_PER_LENGTH)
_ENTRIES = int((16.0 + 6.0 * _WIDEST_LENGTHS) * _ENTRIES_PER_LENGTH)
_JITTERS = (1e-6, 1e-5, 1e-4, 1e-3)
_BLOCK = 1024
_VARIANCE_COST = 3e10


@final
@dataclass(frozen=True)
class Observations:
    """What the process is conditioned on: values at uncertain places, with a linear mean."""

    place_m: Float[np.ndarray, "points 2"]
    """Mean (east, north) of where each report may have been taken [m]."""
    place_var_m2: Float[np.ndarray, " points"]
    """Variance of that place per axis [m^2], at least 0."""
    value_db: Float[np.ndarray, " points"]
    """Reported values, or residuals over a known mean [dB]."""
    noise_var_db2: Float[np.ndarray, " points"]
    """Variance of each value's noise [dB^2], at least 0."""
    basis: Float[np.ndarray, "points terms"]
    """Terms of the unknown mean at the reports; zero columns for a known mean of 0."""
    coefficient: Float[np.ndarray, " terms"]
    """Prior mean of each term's coefficient."""
    coefficient_precision: Float[np.ndarray, " terms"]
    """Prior precision of each coefficient; 0 is a flat prior (generalised least squares)."""

    @classmethod
    def with_constant_mean(
        cls,
        place_m: Float[np.ndarray, "points 2"],
        place_var_m2: Float[np.ndarray, " points"],
        value_db: Float[np.ndarray, " points"],
        noise_var_db2: Float[np.ndarray, " points"],
    ) -> "Observations":
        """Observations whose mean is one unknown constant: ordinary Kriging."""
        ones, zero = np.ones((len(value_db), 1)), np.zeros(1)
        return cls(place_m, place_var_m2, value_db, noise_var_db2, ones, zero, zero)

    def select(self, keep: np.ndarray) -> "Observations":
        """The observations named by an index or mask array."""
        return Observations(
            self.place_m[keep],
            self.place_var_m2[keep],
            self.value_db[keep],
            self.noise_var_db2[keep],
            self.basis[keep],
            self.coefficient,
            self.coefficient_precision,
        )


@final
@dataclass(frozen=True)
class Hyperparameters:
    """Kernel of the process."""

    variance_db2: float
    """Variance of the smooth field [dB^2], above 0."""
    length_m: float
    """Correlation length [m], above 0."""
    nugget_db2: float = 0.0
    """Variance of what the field does within a few metres, beyond the stated noise [dB^2]."""
    kernel: Kernel = "exponential"
    """Family of the correlation."""


@final
@dataclass(frozen=True)
class HyperPrior:
    """Log-normal beliefs about the hyper-parameters, which matter below some tens of reports.

    Source: shadowing of 3GPP TR 38.901 tables 7.4.1-1 and 7.5-6 (4 to 8 dB about a known path
    loss, decorrelation in 10 to 50 m), widened because here the path loss is part of the field.
    """

    length_m: float = 40.0
    """Median correlation length [m]."""
    length_factor: float = 3.0
    """One standard deviation of the length, as a factor."""
    deviation_db: float = 10.0
    """Median standard deviation of the field [dB]."""
    deviation_factor: float = 2.0
    """One standard deviation of that deviation, as a factor."""
    nugget_db: float = 2.0
    """Median standard deviation of the nugget [dB], where one is fitted."""
    nugget_factor: float = 3.0
    """One standard deviation of that deviation, as a factor."""

    def log_density(self, hyper: Hyperparameters) -> float:
        """Logarithm of the prior density over log-parameters, up to a constant."""
        deviation_db = 0.5 * np.log(hyper.variance_db2)
        total = _log_normal(np.log(hyper.length_m), self.length_m, self.length_factor)
        total += _log_normal(deviation_db, self.deviation_db, self.deviation_factor)
        if hyper.nugget_db2 > 0:
            nugget_db = 0.5 * np.log(hyper.nugget_db2)
            total += _log_normal(nugget_db, self.nugget_db, self.nugget_factor)
        return float(total)


def _log_normal(logarithm: float, median: float, factor: float) -> float:
    return -0.5 * ((logarithm - np.log(median)) / np.log(factor)) ** 2


def observe(
    reports: Reports,
    site: SceneRaster,
    *,
    known_mean_dbm: Float[np.ndarray, "rows cols"] | None = None,
    drift_aware: bool = True,
) -> Observations:
    """Reports as observations of a field with an unknown constant, their drift cut at walls.

    Args:
        reports: of one radio cell.
        site: free mask and grid.
        known_mean_dbm: mean of the field at the cells [dBm]; the observations are then the
            residuals over its average within each report's drift, and its variance there counts
            as noise. The constant stays unknown.
        drift_aware: False takes every report at its stated place.

    Raises:
        ReportsError: if fewer than three reports are usable.
    """
    if not drift_aware and known_mean_dbm is None:
        return at_stated_places(reports)
    cov_m2 = reports.drift_cov_m2 if drift_aware else np.zeros_like(reports.drift_cov_m2)
    operator = DriftOperator.build(site.grid, site.free, reports.reported_m, cov_m2)
    require_enough(operator.count)
    kept = reports.select(operator.kept)
    value_db, noise_var_db2 = kept.power_dbm, kept.noise_db**2
    if known_mean_dbm is not None:
        mean_dbm, variance_db2 = operator.moments(known_mean_dbm)
        value_db, noise_var_db2 = value_db - mean_dbm, noise_var_db2 + variance_db2
    place_var_m2 = 0.5 * np.trace(operator.place_cov_m2, axis1=1, axis2=2)
    return Observations.with_constant_mean(
        operator.mean_place_m, place_var_m2, value_db, noise_var_db2
    )


def at_stated_places(reports: Reports, *, noisy: bool = True) -> Observations:
    """Reports as observations exactly where they say, in walls too; without noise if asked."""
    nothing = np.zeros(len(reports))
    noise_var_db2 = reports.noise_db**2 if noisy else nothing
    return Observations.with_constant_mean(
        reports.reported_m, nothing, reports.power_dbm, noise_var_db2
    )


# --- The kernel averaged over drift ---------------------------------------------------------


def _scale_mixture(kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Squared lengths (in units of length²) and weights of the Gaussians that make a kernel.

    The Matérn kernel of smoothness n is a mixture of squared exponentials whose squared length is
    chi-square distributed with 2n degrees of freedom, over 2n. Trapezium rule in its logarithm.
    """
    if kernel == "squared_exponential":
        return np.ones(1), np.ones(1)
    freedom = 1.0 if kernel == "exponential" else 3.0
    log_square = np.arange(-24.0, 4.5, 0.5)
    square = np.exp(log_square)
    weight = np.exp(0.5 * freedom * (np.log(freedom) + log_square) - 0.5 * freedom * square)
    return square, weight / weight.sum()


def drifted_correlation(
    kernel: Kernel,
    length_m: float,
    distance_m: Float[np.ndarray, " distances"],
    deviation_m: Float[np.ndarray, " levels"],
) -> Float[np.ndarray, "levels distances"]:
    """Correlation averaged over an isotropic Gaussian offset of the distance vector.

    Each squared exponential of the mixture keeps its form: its squared length grows by the
    offset's variance q per axis and its height falls to ``l²/(l² + q)`` (two dimensions).

    Args:
        kernel: family.
        length_m: correlation length [m].
        distance_m: distances between the mean places [m].
        deviation_m: standard deviations of the offset per axis [m].
    """
    square, weight = _scale_mixture(kernel)
    own = square * length_m**2
    half_square = -0.5 * distance_m[:, None] ** 2
    rows = []
    for deviation in deviation_m:
        wide = own + deviation**2
        rows.append(np.exp(half_square / wide) @ (weight * own / wide))
    return np.stack(rows)


@functools.cache
def _table(kernel: Kernel) -> np.ndarray:
    """Averaged correlation in units of the length: rows are deviations, columns distances."""
    deviation = np.arange(_LEVELS + 1) / _LEVELS_PER_LENGTH
    distance = np.arange(_ENTRIES + 1) / _ENTRIES_PER_LENGTH
    value = drifted_correlation(kernel, 1.0, distance, deviation).astype(np.float32)
    value[:, -1] = 0.0
    return value


@njit(cache=True, nogil=True)
@typing.no_type_check
def _pair_correlations(place, variance, length, table, per_length, levels_per_length, out):
    """Lower triangle of the reports' correlations; 1 on the diagonal."""
    levels, entries = table.shape
    for i in range(len(place)):
        out[i, i] = 1.0
        for j in range(i):
            east, north = place[i, 0] - place[j, 0], place[i, 1] - place[j, 1]
            across = np.sqrt(east * east + north * north) * (per_length / length)
            up = np.sqrt(variance[i] + variance[j]) * (levels_per_length / length)
            left, low = min(int(across), entries - 2), min(int(up), levels - 2)
            part, share = min(across - left, 1.0), min(up - low, 1.0)
            below = table[low, left] * (1.0 - part) + table[low, left + 1] * part
            above = table[low + 1, left] * (1.0 - part) + table[low + 1, left + 1] * part
            out[i, j] = below * (1.0 - share) + above * share


@njit(cache=True, nogil=True)
@typing.no_type_check
def _report_row(variance, length, table, levels_per_length, row):
    """Correlation over distance of one report with a cell."""
    up = np.sqrt(variance) * (levels_per_length / length)
    low = min(int(up), table.shape[0] - 2)
    share = np.float32(min(up - low, 1.0))
    for k in range(table.shape[1]):
        row[k] = table[low, k] * (np.float32(1.0) - share) + table[low + 1, k] * share


@njit(cache=True, nogil=True, fastmath=True)
@typing.no_type_check
def _weighted_sum(cells, place, variance, weight, length, table, per_length, per_level, out):
    """Add, at every cell, the weights of the reports times their correlation with it.

    One row of `weight` and `out` for each of several processes that share places and kernel.
    """
    last = table.shape[1] - 1
    row = np.empty(table.shape[1], np.float32)
    found = np.empty(cells.shape[1], np.float32)
    scale, end = np.float32(per_length / length), np.float32(last - 0.001)
    for i in range(len(place)):
        _report_row(variance[i], length, table, per_level, row)
        east, north = np.float32(place[i, 0]), np.float32(place[i, 1])
        for k in range(cells.shape[1]):
            de, dn = cells[0, k] - east, cells[1, k] - north
            across = min(np.sqrt(de * de + dn * dn) * scale, end)
            left = np.int32(across)
            found[k] = row[left] + (across - left) * (row[left + 1] - row[left])
        for j in range(len(weight)):
            share = np.float32(weight[j, i])
            for k in range(cells.shape[1]):
                out[j, k] += share * found[k]


@njit(cache=True, nogil=True, fastmath=True)
@typing.no_type_check
def _cross_correlations(cells, place, variance, length, table, per_length, per_level, out):
    """Correlation of every report (rows) with every cell (columns)."""
    last = table.shape[1] - 1
    row = np.empty(table.shape[1], np.float32)
    scale, end = np.float32(per_length / length), np.float32(last - 0.001)
    for i in range(len(place)):
        _report_row(variance[i], length, table, per_level, row)
        east, north = np.float32(place[i, 0]), np.float32(place[i, 1])
        for k in range(cells.shape[1]):
            de, dn = cells[0, k] - east, cells[1, k] - north
            across = min(np.sqrt(de * de + dn * dn) * scale, end)
            left = np.int32(across)
            out[i, k] = row[left] + (across - left) * (row[left + 1] - row[left])


# --- The process ----------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class GaussianProcess:
    """A Gaussian process conditioned on observations; make it with `condition`."""

    observations: Observations
    """What it was conditioned on."""
    hyper: Hyperparameters
    """Its kernel."""
    factor: Float[np.ndarray, "points points"]
    """Lower Cholesky factor of the reports' covariance [dB]."""
    coefficient: Float[np.ndarray, " terms"]
    """Posterior mean of the coefficients of the mean's terms [dB]."""
    coefficient_factor: Float[np.ndarray, "terms terms"]
    """Lower Cholesky factor of the coefficients' posterior precision."""
    weight: Float[np.ndarray, " points"]
    """C^-1 (y - F beta): each report's part in the mean [1/dB]."""
    log_evidence: float
    """Log marginal likelihood; with flat coefficients the restricted one."""

    def mean_db(
        self, grid: Grid, basis: Float[np.ndarray, "rows cols terms"] | None = None
    ) -> Float[np.ndarray, "rows cols"]:
        """Posterior mean of the field at every cell [dB].

        Args:
            grid: cells of the answer.
            basis: the mean's terms at the cells; None where the mean is a constant, or known.
        """
        return means_db([self], grid, [basis])[0]

    def variance_db2(
        self,
        grid: Grid,
        basis: Float[np.ndarray, "rows cols terms"] | None = None,
        stride: int | None = None,
    ) -> Float[np.ndarray, "rows cols"]:
        """Posterior variance of the field at every cell, nugget included [dB^2].

        Computed in single precision on every `stride`-th cell and bilinear in between.

        Args:
            grid: cells of the answer.
            basis: as in `mean_db`.
            stride: cells from one computed value to the next; None takes the smallest of 1, 2, 4
                and 8 that `affordable_stride` finds.
        """
        stride = stride or affordable_stride(len(self.weight), grid)
        rows, cols = _coarse(grid.rows, stride), _coarse(grid.cols, stride)
        terms = _cell_terms(grid, basis, len(self.coefficient)).reshape(*grid.shape, -1)
        centres = np.moveaxis(grid.centres_m()[np.ix_(rows, cols)], -1, 0).reshape(2, -1)
        flat = terms[np.ix_(rows, cols)].reshape(len(rows) * len(cols), -1)
        coarse = self._variance_at(centres.astype(np.float32), flat)
        coarse = coarse.reshape(len(rows), len(cols))
        return coarse if stride == 1 else _bilinear(coarse, rows, cols, grid)

    def _variance_at(self, cells: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Variance ``v - c'C^-1 c + r'(F'C^-1 F + P)^-1 r``, ``r = f - F'C^-1 c``, plus nugget."""
        hyper, seen = self.hyper, self.observations
        factor = self.factor.astype(np.float32)
        whitened_basis = solve_triangular(self.factor, seen.basis, lower=True)
        variance = np.empty(cells.shape[1])
        for first in range(0, cells.shape[1], _BLOCK):
            block = slice(first, first + _BLOCK)
            part = np.ascontiguousarray(cells[:, block])
            cross = np.empty((len(self.weight), part.shape[1]), np.float32)
            _cross_correlations(
                part,
                seen.place_m,
                seen.place_var_m2,
                hyper.length_m,
                _table(hyper.kernel),
                _ENTRIES_PER_LENGTH,
                _LEVELS_PER_LENGTH,
                cross,
            )
            cross *= np.float32(hyper.variance_db2)
            white = solve_triangular(factor, cross, lower=True, check_finite=False)
            known = np.einsum("pc,pc->c", white, white)
            rest = terms[block].T - whitened_basis.T @ white
            unknown = solve_triangular(self.coefficient_factor, rest, lower=True)
            variance[block] = hyper.variance_db2 - known + np.einsum("tc,tc->c", unknown, unknown)
        return np.maximum(variance, 0.0) + hyper.nugget_db2


def means_db(
    processes: Sequence[GaussianProcess],
    grid: Grid,
    bases: Sequence[Float[np.ndarray, "rows cols terms"] | None],
    stride: int = 1,
) -> Float[np.ndarray, "processes rows cols"]:
    """Posterior means of several processes that share their reports' places and their kernel.

    The correlations of reports and cells are then looked up once for all of them, on two threads.

    Args:
        processes: at least one.
        grid: cells of the answer.
        bases: of each, as in `GaussianProcess.mean_db`.
        stride: what is left beside the terms is computed on every `stride`-th cell, and bilinear
            in between.
    """
    coarse_rows, coarse_cols = _coarse(grid.rows, stride), _coarse(grid.cols, stride)
    centres = grid.centres_m()[np.ix_(coarse_rows, coarse_cols)]
    cells = np.moveaxis(centres, -1, 0).reshape(2, -1).astype(np.float32)
    hyper, seen = processes[0].hyper, processes[0].observations
    weight = hyper.variance_db2 * np.stack([process.weight for process in processes])
    total = np.zeros((len(processes), cells.shape[1]))

    def add(first: int) -> None:
        block = slice(first, first + _BLOCK)
        part = np.zeros((len(processes), len(total[0, block])))
        _weighted_sum(
            np.ascontiguousarray(cells[:, block]),
            seen.place_m,
            seen.place_var_m2,
            weight,
            hyper.length_m,
            _table(hyper.kernel),
            _ENTRIES_PER_LENGTH,
            _LEVELS_PER_LENGTH,
            part,
        )
        total[:, block] = part

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add, range(0, cells.shape[1], _BLOCK)))
    left = total.reshape(len(processes), len(coarse_rows), len(coarse_cols))
    if stride > 1:
        left = np.stack([_bilinear(one, coarse_rows, coarse_cols, grid) for one in left])
    for process, image, basis in zip(processes, left, bases, strict=True):
        known = _cell_terms(grid, basis, len(process.coefficient)) @ process.coefficient
        image += known.reshape(grid.shape)
    return left


def left_out(
    processes: Sequence[GaussianProcess], block: Int[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, "processes points"], Float[np.ndarray, "processes points"]]:
    """How each report is predicted, noise included, from the reports of all other blocks.

    With ``Q`` the precision of the reports, coefficients integrated out, and ``w = Q (y - F b)``,
    the error on block B is ``Q_BB^-1 w_B`` and its covariance ``Q_BB^-1``: no process is
    conditioned again.

    Args:
        processes: share their factor, as those of `means_db`.
        block: number of each report's block, from 0; at least two blocks.

    Returns:
        Value minus prediction [dB] and predictive variance [dB^2].
    """
    factor = np.asfortranarray(processes[0].factor)
    (invert,) = get_lapack_funcs(("trtri",), (factor,))
    inverse = invert(factor, lower=1)[0]
    parts = []
    for process in processes:
        white = (inverse @ process.observations.basis).T @ inverse
        parts.append(solve_triangular(process.coefficient_factor, white, lower=True))
    error = np.empty((len(processes), len(block)))
    variance = np.empty_like(error)
    size = np.bincount(block)
    members = np.split(np.argsort(block, kind="stable"), np.cumsum(size)[:-1])
    for width in np.unique(size[size > 0]):
        index = np.stack([found for found in members if len(found) == width])
        some = inverse[:, index]
        common = np.einsum("nbi,nbj->bij", some, some, optimize=True)
        for k, (process, part) in enumerate(zip(processes, parts, strict=True)):
            known = np.einsum("tbi,tbj->bij", part[:, index], part[:, index], optimize=True)
            covariance = np.linalg.inv(common - known)
            error[k, index] = np.einsum("bij,bj->bi", covariance, process.weight[index])
            variance[k, index] = np.einsum("bii->bi", covariance)
    return error, np.maximum(variance, 1e-9)


def condition(
    observations: Observations,
    hyper: Hyperparameters,
    factor: Float[np.ndarray, "points points"] | None = None,
) -> GaussianProcess:
    """Condition a Gaussian process on observations, exactly, by a dense Cholesky factor.

    With coefficients ``beta ~ N(b, P^-1)``, ``P = 0`` for a flat prior (universal Kriging):
    ``beta = (F'C^-1 F + P)^-1 (F'C^-1 y + P b)``.

    Args:
        observations: reports.
        hyper: kernel.
        factor: what `factorise` gives for them, where it is known already.

    Raises:
        ReportsError: if there are fewer than three reports, or the covariance is singular.
    """
    require_enough(len(observations.value_db))
    factor = factorise(observations, hyper) if factor is None else factor
    precision = observations.coefficient_precision
    basis = solve_triangular(factor, observations.basis, lower=True, check_finite=False)
    gap = observations.value_db - observations.basis @ observations.coefficient
    white = solve_triangular(factor, gap, lower=True, check_finite=False)
    coefficient_factor = cholesky(basis.T @ basis + np.diag(precision), lower=True)
    correction = cho_solve((coefficient_factor, True), basis.T @ white)
    left = white - basis @ correction
    evidence = -0.5 * (white @ left) - np.log(np.diag(factor)).sum()
    evidence -= np.log(np.diag(coefficient_factor)).sum()
    evidence += 0.5 * np.log(precision[precision > 0]).sum()
    evidence -= 0.5 * (len(gap) - int((precision == 0).sum())) * np.log(2.0 * np.pi)
    return GaussianProcess(
        observations,
        hyper,
        factor,
        observations.coefficient + correction,
        coefficient_factor,
        solve_triangular(factor.T, left, lower=False, check_finite=False),
        float(evidence),
    )


def affordable_stride(reports: int, grid: Grid, processes: int = 1) -> int:
    """The smallest of 1, 2, 4 and 8 at which variances cost under 3e10 multiplications."""
    cost = processes * reports**2 * grid.rows * grid.cols
    return next((step for step in (1, 2, 4) if cost / step**2 < _VARIANCE_COST), 8)


def require_enough(count: int) -> None:
    """Refuse fewer reports than a Gaussian process can be fitted to.

    Raises:
        ReportsError: if there are fewer than three.
    """
    if count < FEWEST_REPORTS:
        msg = (
            f"{count} usable reports cannot carry a map: at least {FEWEST_REPORTS} are needed; "
            "add reports, or check that they lie on the grid"
        )
        raise ReportsError(msg)


def factorise(
    observations: Observations, hyper: Hyperparameters
) -> Float[np.ndarray, "points points"]:
    """Lower Cholesky factor of the reports' covariance [dB].

    A report repeated without noise needs a little on the diagonal, added only then.

    Raises:
        ReportsError: if the covariance is singular even so.
    """
    for jitter in _JITTERS:
        covariance = _covariance(observations, hyper, jitter)
        try:
            return cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            continue
    msg = (
        "the reports' covariance is singular: state a noise above 0 dB, or drop reports that "
        "repeat a place"
    )
    raise ReportsError(msg)


def _covariance(
    observations: Observations, hyper: Hyperparameters, jitter: float
) -> Float[np.ndarray, "points points"]:
    """Lower triangle of the reports' covariance [dB^2]."""
    count = len(observations.value_db)
    covariance = np.zeros((count, count))
    _pair_correlations(
        observations.place_m,
        observations.place_var_m2,
        hyper.length_m,
        _table(hyper.kernel),
        _ENTRIES_PER_LENGTH,
        _LEVELS_PER_LENGTH,
        covariance,
    )
    covariance *= hyper.variance_db2
    extra = observations.noise_var_db2 + hyper.nugget_db2 + jitter * hyper.variance_db2
    covariance[np.diag_indices(count)] += extra
    return covariance


def _cell_terms(grid: Grid, basis: np.ndarray | None, count: int) -> np.ndarray:
    if basis is None:
        return np.ones((grid.rows * grid.cols, count))
    return basis.reshape(grid.rows * grid.cols, count)


def _coarse(count: int, stride: int) -> np.ndarray:
    """Every `stride`-th index and the last."""
    return np.unique(np.append(np.arange(0, count, stride), count - 1))


def _bilinear(coarse: np.ndarray, rows: np.ndarray, cols: np.ndarray, grid: Grid) -> np.ndarray:
    along = np.stack([np.interp(np.arange(grid.cols), cols, line) for line in coarse])
    return np.stack([np.interp(np.arange(grid.rows), rows, line) for line in along.T], axis=1)


# --- Hyper-parameters -----------------------------------------------------------------------


@final
@dataclass(frozen=True)
class FitConfig:
    """How the hyper-parameters are sought."""

    kernels: tuple[Kernel, ...] = ("exponential",)
    """Families to choose from by marginal likelihood. On maps of the validation cities the
    exponential alone gains 0.02 to 0.05 dB over choosing between it and ``matern32``, which is too
    sure of itself: of 50 and 95 % intervals 48 and 90 % held, against 58 and 96 %."""
    prior: HyperPrior = HyperPrior()
    """Weak beliefs that decide where there are few reports."""
    nugget: bool = True
    """Whether to fit a nugget beyond the stated noise, kept if it pays for itself (Akaike)."""
    most_reports: int = 1200
    """Reports used in the search, drawn by the seed; the process itself uses all of them."""
    shortest_m: float = 1.0
    """Shortest length considered [m]; never under a third of two reports' drift."""
    longest_m: float = 1000.0
    """Longest length considered [m]."""


def fit(
    observations: Observations, config: FitConfig, generator: np.random.Generator
) -> Hyperparameters:
    """Hyper-parameters of highest posterior density: kernel, variance, length and nugget.

    Args:
        observations: reports; at most `config.most_reports` of them are used.
        config: what to search.
        generator: draws the reports used.

    Raises:
        ReportsError: if there are fewer than three reports.
    """
    observations = thin_out(observations, config.most_reports, generator)
    return seek(observations, config, lambda hyper: condition(observations, hyper).log_evidence)


def thin_out(observations: Observations, most: int, generator: np.random.Generator) -> Observations:
    """At most so many of the observations, drawn without replacement, in their order."""
    return observations.select(drawn(len(observations.value_db), most, generator))


def drawn(count: int, most: int, generator: np.random.Generator) -> Int[np.ndarray, " drawn"]:
    """At most so many of the numbers below `count`, without replacement, in their order."""
    if count <= most:
        return np.arange(count)
    return np.sort(generator.choice(count, most, replace=False))


def seek(
    observations: Observations,
    config: FitConfig,
    log_evidence: Callable[[Hyperparameters], float],
) -> Hyperparameters:
    """Maximise log evidence plus log prior by Nelder-Mead in log-parameters.

    Each kernel family starts from the best of four lengths. A nugget is kept if it pays for
    itself (Akaike).

    Args:
        observations: give the scale of the start and the shortest length drift lets one see.
        config: what to search.
        log_evidence: of the observations, given hyper-parameters.

    Raises:
        ReportsError: if there are fewer than three reports.
    """
    require_enough(len(observations.value_db))
    drift_m = float(np.sqrt(2.0 * observations.place_var_m2.max()))
    shortest_m = max(config.shortest_m, drift_m / _WIDEST_LENGTHS)

    def score(hyper: Hyperparameters) -> float:
        if not shortest_m <= hyper.length_m <= config.longest_m:
            return -1e12
        return log_evidence(hyper) + config.prior.log_density(hyper)

    noise_db2 = float(observations.noise_var_db2.mean())
    spread_db2 = float(observations.value_db.var())
    variance_db2 = max(spread_db2 - noise_db2, 0.1 * spread_db2, 1e-2)
    smooth = [_search(score, variance_db2, kernel) for kernel in config.kernels]
    best, reached = max(smooth, key=lambda found: found[1])
    if not config.nugget:
        return best
    start_db2 = max(0.05 * best.variance_db2, 0.25)
    with_nugget, further = _climb(score, replace(best, nugget_db2=start_db2))
    return with_nugget if further > reached + 1.0 else best


_Score = Callable[[Hyperparameters], float]


def _search(score: _Score, variance_db2: float, kernel: Kernel) -> tuple[Hyperparameters, float]:
    starts = [
        Hyperparameters(variance_db2, length_m, 0.0, kernel)
        for length_m in (6.0, 20.0, 60.0, 180.0)
    ]
    return _climb(score, starts[int(np.argmax([score(start) for start in starts]))])


def _climb(score: _Score, start: Hyperparameters) -> tuple[Hyperparameters, float]:
    """Nelder-Mead over (log variance, log length and, if the start has one, log nugget)."""
    names = ("variance_db2", "length_m", "nugget_db2")[: 3 if start.nugget_db2 > 0 else 2]

    def unpack(point: np.ndarray) -> Hyperparameters:
        value = np.exp(np.clip(point, -12.0, 14.0)).tolist()
        return replace(start, **dict(zip(names, value, strict=True)))

    point = np.log([getattr(start, name) for name in names])
    found = minimize(
        lambda at: -score(unpack(at)),
        point,
        method="Nelder-Mead",
        options={
            "initial_simplex": np.vstack([point, point + 0.5 * np.eye(len(point))]),
            "xatol": 0.02,
            "fatol": 0.02,
            "maxfev": 120,
        },
    )
    return unpack(found.x), -float(found.fun)
