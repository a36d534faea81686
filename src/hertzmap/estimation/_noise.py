"""Noise that is not what reports state: found by how far neighbours disagree.

A Gaussian process about a constant tells noise from field. Overstated noise shows as reports that
agree too well: one factor on all of it is fitted, and kept if the evidence insists. Understated
noise shows as a nugget, which a field has too, for it varies within metres; what exceeds fading
that survives averaging over a cell counts as noise.

Source: the nugget of geostatistics as measurement error plus micro-scale variation: Cressie,
Statistics for Spatial Data (1993), section 3.2.1. The split between the two is ours.
"""

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from hertzmap.core.types import Reports
from hertzmap.estimation._gaussian_process import (
    FitConfig,
    Hyperparameters,
    HyperPrior,
    Observations,
    condition,
    fit,
    thin_out,
)
from hertzmap.measurement.operator import DriftOperator

FADING_DB = 6.0
"""A field's own nugget reaches this at most [dB]: Rayleigh fading in decibels has 5.6."""
PAYS = 10.0
"""Rise of the log posterior below which noise is not taken to be overstated."""
FEWEST = 30
"""Fewer reports say nothing about it."""
MOST_REPORTS = 300
"""Reports that the factor is fitted to."""
SMALLEST = 0.2
"""Least factor."""
SHORTEST_M = 6.0
"""Least correlation length [m]: a shorter one would be a nugget by another name."""
_TRIED = 0.7


def with_fitted_noise(
    reports: Reports, operator: DriftOperator, generator: np.random.Generator
) -> Reports:
    """The reports with their noise times the factor under which they agree.

    Args:
        reports: of one radio cell.
        operator: how they read a map.
        generator: draws the reports that the factor is fitted to.
    """
    factor = noise_factor(reports, operator, generator)
    return replace(reports, noise_db=factor * reports.noise_db) if factor != 1.0 else reports


def noise_factor(
    reports: Reports, operator: DriftOperator, generator: np.random.Generator
) -> float:
    """True noise over stated noise; 1 where the reports do not insist on another one."""
    kept = operator.kept
    noise_db = reports.noise_db[kept]
    if operator.count < FEWEST or noise_db.max(initial=0.0) <= 0.0:
        return 1.0
    seen = Observations.with_constant_mean(
        operator.mean_place_m,
        np.trace(operator.place_cov_m2, axis1=1, axis2=2) / 2.0,
        reports.power_dbm[kept],
        noise_db**2,
    )
    few = thin_out(seen, MOST_REPORTS, generator)
    as_stated = fit(few, FitConfig(most_reports=MOST_REPORTS, shortest_m=SHORTEST_M), generator)
    excess_db2 = as_stated.nugget_db2 - FADING_DB**2
    if excess_db2 > 0.0:
        return float(np.sqrt(1.0 + excess_db2 / few.noise_var_db2.mean()))
    return _overstated(few, as_stated)


def _overstated(few: Observations, as_stated: Hyperparameters) -> float:
    """The factor below 1 of highest posterior density, or 1."""
    prior = HyperPrior()

    def score(point: np.ndarray) -> float:
        variance, length = np.exp(np.clip(point[:2], -6.0, 12.0)).tolist()
        factor = float(np.exp(point[2]))
        if not SHORTEST_M <= length <= 1000.0 or factor < SMALLEST:
            return -1e12
        hyper = replace(as_stated, variance_db2=variance, length_m=length)
        told = replace(few, noise_var_db2=factor**2 * few.noise_var_db2)
        return condition(told, hyper).log_evidence + prior.log_density(hyper)

    start = np.append(np.log([as_stated.variance_db2, as_stated.length_m]), 0.0)
    at_stated, tried = score(start), np.append(start[:2], np.log(_TRIED))
    if score(tried) < at_stated:
        return 1.0
    found = minimize(
        lambda at: -score(at),
        tried,
        method="Nelder-Mead",
        options={
            "initial_simplex": np.vstack([tried, tried + 0.4 * np.eye(3)]),
            "xatol": 0.03,
            "fatol": 0.05,
            "maxfev": 80,
        },
    )
    return float(np.exp(min(found.x[2], 0.0))) if -found.fun > at_stated + PAYS else 1.0
