"""What a map says about the reports it was made from: where each was taken, and how noisy all are.

Given a map, report i was taken at node j of its drift with probability

    gamma_ij  ~  omega_ij N(y_i; v_ij, s_i^2 + t_i^2),

with ``v_ij`` the map's value there, ``s_i`` the noise and ``t_i`` the map's own spread. Averaged
over the candidates of a posterior this gives de-drifted places with their uncertainty. One factor
on all stated noise and one on all stated drift are those of highest posterior density, summed over
nodes; expectation maximisation has the same fixed points but creeps where the map's own spread
outweighs the noise, hence a direct search.

Source: Cervone and Pillai, Gaussian process regression with location errors (2015), for places as
unknowns. The log-normal beliefs about the factors are ours.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from hertzmap.core.errors import ReportsError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.measurement.operator import DriftOperator

WIDER = 2.0
"""Nodes reach so much further than the stated drift, so that understated drift can be seen."""
FACTORS = (0.1, 4.0)
"""Least and largest factor that is found."""
FACTOR_STD = 0.7
"""Prior standard deviation of the logarithm of each factor."""
MOST_CANDIDATES = 8
"""So many of the heaviest candidates are asked."""


@final
@dataclass(frozen=True)
class ExplainedReports:
    """Where reports were taken, as far as a map can tell; one row for each report that is used."""

    used: Bool[np.ndarray, " points"]
    """False where a report has no free ground within its drift."""
    place_m: Float[np.ndarray, "used 2"]
    """Expected true place (east, north) [m]."""
    covariance_m2: Float[np.ndarray, "used 2 2"]
    """Covariance of it [m^2]."""
    information_nats: Float[np.ndarray, " used"]
    """How much the value tells about the place, over the stated place and the walls alone."""
    noise_factor: float
    """True noise over stated noise; 1 if it was not asked for."""
    drift_factor: float
    """True drift over stated drift; 1 if it was not asked for."""


def explain_reports(
    posterior: MapPosterior,
    reports: Reports,
    site: SceneRaster,
    *,
    fit_noise: bool = False,
    fit_drift: bool = False,
) -> ExplainedReports:
    """De-drift reports, and fit the scale of their noise and drift if asked.

    A map made from the same reports agrees with them a little too well, so the noise factor is on
    the low side where reports are few. Where the map's own spread outweighs the noise, the factor
    says little and stays near 1.

    Args:
        posterior: belief about the map, of the same radio cell.
        reports: with their stated noise and drift.
        site: free mask; its grid is the posterior's.
        fit_noise: whether one factor on all stated noise is fitted.
        fit_drift: whether one factor on all stated drift is fitted.

    Raises:
        ReportsError: if no report lies on free ground of the map.
    """
    wide = reports.drift_cov_m2 * (WIDER**2 if fit_drift else 1.0)
    operator = DriftOperator.build(site.grid, site.free, reports.reported_m, wide)
    if operator.count == 0:
        msg = "no report lies on free ground of the map: check the reports' frame and the map"
        raise ReportsError(msg)
    nodes = _Nodes.of(posterior, reports, operator, fit_drift=fit_drift)
    noise, drift = _fitted(nodes, fit_noise=fit_noise, fit_drift=fit_drift)
    omega = nodes.prior(drift)
    gamma, _ = nodes.posterior(omega, noise)
    shift = np.stack([nodes.summed(gamma * operator.offset_m[:, a]) for a in (0, 1)], axis=-1)
    gap = operator.offset_m - shift[operator.report]
    covariance = np.empty((operator.count, 2, 2))
    for a in (0, 1):
        for b in (0, 1):
            covariance[:, a, b] = nodes.summed(gamma * gap[:, a] * gap[:, b])
    with np.errstate(divide="ignore", invalid="ignore"):
        told = np.where(gamma > 0.0, gamma * np.log(gamma / omega), 0.0)
    information = np.maximum(nodes.summed(told), 0.0)
    return ExplainedReports(
        operator.kept, operator.reported_m + shift, covariance, information, noise, drift
    )


@final
@dataclass(frozen=True)
class _Nodes:
    """Nodes of all reports, read from all likely candidates."""

    operator: DriftOperator
    weight: Float[np.ndarray, " candidates"]
    gap_db: Float[np.ndarray, "candidates nodes"]
    """Reported value minus the map's."""
    spread_var: Float[np.ndarray, "candidates points"]
    """Variance of the map within each report's drift [dB^2]."""
    noise_var: Float[np.ndarray, " points"]
    mahalanobis: Float[np.ndarray, " nodes"]
    """Squared offset in units of the stated drift."""
    base: float
    """What `operator.omega` holds of it: 1 over the square of the factor it was built with."""

    @classmethod
    def of(
        cls,
        posterior: MapPosterior,
        reports: Reports,
        operator: DriftOperator,
        *,
        fit_drift: bool,
    ) -> "_Nodes":
        likely = np.argsort(-posterior.weight, kind="stable")[:MOST_CANDIDATES]
        weight = posterior.weight[likely] / posterior.weight[likely].sum()
        value = np.stack([operator.read(one) for one in posterior.maps_dbm[likely]])
        spread = np.stack([operator.moments(one)[0] for one in posterior.spread_db[likely]])
        precision = np.linalg.pinv(reports.drift_cov_m2[operator.kept], hermitian=True)
        offset = operator.offset_m
        return cls(
            operator,
            weight,
            reports.power_dbm[operator.kept][operator.report] - value,
            spread**2,
            np.maximum(reports.noise_db[operator.kept] ** 2, 1e-6),
            np.einsum("na,nab,nb->n", offset, precision[operator.report], offset),
            1.0 / WIDER**2 if fit_drift else 1.0,
        )

    def summed(self, value: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " points"]:
        return np.bincount(self.operator.report, value, minlength=self.operator.count)

    def prior(self, drift: float) -> Float[np.ndarray, " nodes"]:
        """Probability of each node for so many times the stated drift."""
        tilt = self.operator.omega * np.exp(-0.5 * self.mahalanobis * (drift**-2 - self.base))
        return tilt / np.maximum(self.summed(tilt), 1e-300)[self.operator.report]

    def posterior(
        self, omega: Float[np.ndarray, " nodes"], noise: float
    ) -> tuple[Float[np.ndarray, " nodes"], float]:
        """Probability of each node given the value, and the log likelihood of all values."""
        report = self.operator.report
        gamma, log_likelihood = np.zeros(len(omega)), 0.0
        for weight, gap, spread in zip(self.weight, self.gap_db, self.spread_var, strict=True):
            total = noise**2 * self.noise_var + spread
            log_density = -0.5 * gap**2 / total[report]
            peak = np.full(self.operator.count, -np.inf)
            np.maximum.at(peak, report, log_density)
            part = omega * np.exp(log_density - peak[report])
            mass = np.maximum(self.summed(part), 1e-300)
            gamma += weight * part / mass[report]
            log_likelihood += weight * float((peak + np.log(mass) - 0.5 * np.log(total)).sum())
        return gamma, log_likelihood


def _fitted(nodes: _Nodes, *, fit_noise: bool, fit_drift: bool) -> tuple[float, float]:
    """Factors on noise and drift of highest posterior density; 1 where one is not asked for."""
    free = np.array([fit_noise, fit_drift])
    if not free.any():
        return 1.0, 1.0
    low, high = np.log(FACTORS)

    def factors(point: np.ndarray) -> tuple[float, float]:
        both = np.zeros(2)
        both[free] = np.clip(point, low, high)
        return tuple(np.exp(both).tolist())

    def loss(point: np.ndarray) -> float:
        noise, drift = factors(point)
        belief = 0.5 * float((point**2).sum()) / FACTOR_STD**2
        return belief - nodes.posterior(nodes.prior(drift), noise)[1]

    start = np.zeros(int(free.sum()))
    simplex = np.vstack([start, start + 0.4 * np.eye(len(start))])
    options = {"initial_simplex": simplex, "xatol": 0.01, "fatol": 0.01, "maxfev": 120}
    return factors(minimize(loss, start, method="Nelder-Mead", options=options).x)
