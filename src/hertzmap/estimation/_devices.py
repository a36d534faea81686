"""Offsets of reporting devices: a phone that always reads 6 dB low is found out by its neighbours.

Each device has one unknown offset, normal about 0. A Gaussian process about a constant, with one
term for each device, tells offsets from the field; how far devices differ is chosen by evidence,
and "not at all" is among the choices, so that reports of equal devices stay as they are. What
all devices share no report can tell from the field's own level: that doubt stays with the map.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from hertzmap.core.types import Reports
from hertzmap.estimation._gaussian_process import (
    FitConfig,
    GaussianProcess,
    Observations,
    condition,
    fit,
    thin_out,
)
from hertzmap.measurement.operator import DriftOperator

SPREADS_DB = (0.0, 1.5, 3.0, 6.0, 12.0)
"""Standard deviations of the offsets that are tried [dB]."""
TYPICAL_DB = 3.0
"""The one of them for which the kernel is fitted."""
FEWEST = 3
"""Devices with fewer reports are left as they are."""
MOST_DEVICES = 300
"""Devices beyond the so many busiest are left as they are."""
_MOST_REPORTS = 600


def without_offsets(
    reports: Reports, operator: DriftOperator, generator: np.random.Generator
) -> tuple[Reports, float]:
    """The reports less the offsets of their devices; each one's own doubt adds to their noise.

    Args:
        reports: of one radio cell; without `device_id` they are returned as they are.
        operator: how they read a map.
        generator: draws the reports that the spread of the offsets is chosen by.

    Returns:
        The reports, and the standard deviation of their common level [dB]: that of the mean of so
        many offsets; 0 where devices do not differ.
    """
    if reports.device_id is None or len(reports) == 0:
        return reports, 0.0
    names, count = np.unique(reports.device_id, return_counts=True)
    busy = np.argsort(-count, kind="stable")[:MOST_DEVICES]
    busy = np.sort(busy[count[busy] >= FEWEST])
    if len(busy) < 2:
        return reports, 0.0
    column = np.full(len(names), -1)
    column[busy] = np.arange(len(busy))
    device = column[np.searchsorted(names, reports.device_id)]
    kept = operator.kept
    place_var_m2 = np.trace(operator.place_cov_m2, axis1=1, axis2=2) / 2.0
    seen = Observations.with_constant_mean(
        operator.mean_place_m,
        place_var_m2,
        reports.power_dbm[kept],
        reports.noise_db[kept] ** 2,
    )
    address = int(generator.integers(2**32))
    told = {spread: _with_devices(seen, device[kept], len(busy), spread) for spread in SPREADS_DB}

    def few(spread: float) -> Observations:
        return thin_out(told[spread], _MOST_REPORTS, np.random.default_rng(address))

    config = FitConfig(most_reports=_MOST_REPORTS)
    alike, apart = (fit(few(one), config, generator) for one in (0.0, TYPICAL_DB))
    hyper = {one: alike if one == 0.0 else apart for one in SPREADS_DB}
    evidence = {one: condition(few(one), hyper[one]).log_evidence for one in SPREADS_DB}
    best = max(evidence, key=lambda one: evidence[one])
    if best == 0.0:
        return reports, 0.0
    offset_db, std_db = _offsets(condition(told[best], hyper[best]), len(busy))
    known = device >= 0
    offset, doubt = np.zeros(len(reports)), np.zeros(len(reports))
    offset[known], doubt[known] = offset_db[device[known]], std_db[device[known]]
    mended = replace(
        reports,
        power_dbm=reports.power_dbm - offset,
        noise_db=np.hypot(reports.noise_db, doubt),
    )
    return mended, best / float(np.sqrt(len(busy)))


def _with_devices(
    seen: Observations, device: Int[np.ndarray, " points"], count: int, spread_db: float
) -> Observations:
    """Add one term for each device; with no spread there is nothing to add."""
    if spread_db == 0.0:
        return seen
    terms = (device[:, None] == np.arange(count)).astype(np.float64)
    return replace(
        seen,
        basis=np.column_stack([seen.basis, terms]),
        coefficient=np.append(seen.coefficient, np.zeros(count)),
        coefficient_precision=np.append(seen.coefficient_precision, np.full(count, spread_db**-2)),
    )


def _offsets(
    process: GaussianProcess, count: int
) -> tuple[Float[np.ndarray, " devices"], Float[np.ndarray, " devices"]]:
    """Posterior mean and standard deviation of each device's offset [dB]."""
    root = np.linalg.inv(process.coefficient_factor)
    return process.coefficient[-count:], np.sqrt((root**2).sum(axis=0))[-count:]
