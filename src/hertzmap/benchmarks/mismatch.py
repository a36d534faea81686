"""Reports and truths unlike what estimators assume: one named case each, never used for tuning."""

from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from jaxtyping import Bool
from pydantic import ConfigDict
from scipy.ndimage import distance_transform_edt

from hertzmap.core.types import Reports
from hertzmap.core.units import GreyScale
from hertzmap.measurement.sampling import SamplingConfig, noise_std_grey, sample_reports
from hertzmap.measurement.truth import TruthMap

STREET_M = (1.5, 12.0)
"""Street: so far from the nearest building [m]."""
CLUSTER_M = 15.0
"""Standard deviation of a cluster per axis [m]."""


@final
@dataclass(frozen=True)
class MismatchConfig:
    """What is unlike the usual benchmark."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    truth: Literal["", "exponents", "two-transmitters"] = ""
    """Variant of the truths, see `worlds.VARIANTS`."""
    stated: float = 1.0
    """Factor on the noise and the drift that reports state."""
    devices: int = 0
    """Devices that share the reports; 0 for none named."""
    offset_std_db: float = 0.0
    """Standard deviation of each one's unknown offset [dB]."""
    clusters: int = 0
    """Reports stand in so many clusters along streets; 0 for anywhere."""


def draw(
    truth: TruthMap,
    sampling: SamplingConfig,
    mismatch: MismatchConfig,
    generator: np.random.Generator,
) -> Reports:
    """Sample reports as usual but for what the case changes.

    Raises:
        ReportsError: if no cell can report.
    """
    scale = GreyScale()
    if mismatch.clusters:
        noise_db = noise_std_grey(truth, sampling, scale) * scale.span_db
        count = round(sampling.rate_kp * int(truth.free.sum()))
        chosen = _clustered(truth, count, mismatch.clusters, generator)
        truth = replace(truth, path_gain_db=np.where(chosen, truth.path_gain_db, scale.min_db))
        sampling = replace(sampling, sigma_db=noise_db, snr_db=None)
    reports = sample_reports(truth, sampling, generator, scale).reports
    if mismatch.devices:
        device = generator.integers(mismatch.devices, size=len(reports))
        offset_db = mismatch.offset_std_db * generator.standard_normal(mismatch.devices)
        reports = replace(
            reports, power_dbm=reports.power_dbm + offset_db[device], device_id=device
        )
    return replace(
        reports,
        noise_db=mismatch.stated * reports.noise_db,
        drift_cov_m2=mismatch.stated**2 * reports.drift_cov_m2,
    )


def _clustered(
    truth: TruthMap, count: int, clusters: int, generator: np.random.Generator
) -> Bool[np.ndarray, "rows cols"]:
    """So many cells of streets, gathered about random ones of them."""
    grid = truth.grid
    gap_m = np.asarray(distance_transform_edt(truth.free)) * grid.spacing_m
    street = (gap_m >= STREET_M[0]) & (gap_m <= STREET_M[1])
    street &= truth.path_gain_db > GreyScale().min_db
    cells = np.flatnonzero(street)
    place_m = grid.centres_m().reshape(-1, 2)[cells]
    centre_m = place_m[generator.choice(len(cells), size=clusters)]
    apart = ((place_m[:, None] - centre_m) ** 2).sum(axis=-1).min(axis=1)
    taste = -0.5 * apart / CLUSTER_M**2 + generator.gumbel(size=len(cells))
    mask = np.zeros(grid.shape, bool)
    mask.ravel()[cells[np.argsort(-taste)[:count]]] = True
    return mask
