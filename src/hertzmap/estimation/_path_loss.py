"""The mean of a field about an unknown site: path loss over distance, and loss behind buildings.

A Gaussian process with a constant mean falls back to the average where there are no reports. Where
reports are few, physics knows better: the field falls off from one place, which the reports point
to, and drops behind walls. The site is not chosen but averaged over:

    m(p) = a + b log10(d(p) / 100 m) - c (1 - exp(-w(p) / 15 m)),   d^2 = |p - site|^2 + h^2,

with w the metres of building on the straight line to the site, a flat, b and c with Gaussian
priors, all three integrated out in closed form for each supposed site on a lattice that reaches
beyond the map.

Source: log-distance path loss with an exponent of 3.5 +- 1, between free space (2) and 3GPP
TR 38.901 table 7.4.1-1, UMi out of sight (3.53) and worse; its loss out of sight exceeds that in
sight by 13 to 25 dB at 50 to 300 m, whence 20 +- 8 dB. The soft step is ours.
"""

# ruff: noqa: ANN001, ANN202  (numba infers the types of the kernel)

import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float, Int
from numba import njit
from scipy.linalg import solve_triangular

from hertzmap.core.types import SceneRaster
from hertzmap.estimation._gaussian_process import (
    FitConfig,
    GaussianProcess,
    Hyperparameters,
    Observations,
    affordable_stride,
    condition,
    factorise,
    seek,
)

MOST_WORK = 20_000
"""Sites times reports, at most, but never under four sites: bounds time where both are many."""
MOST_SUPPOSED = 1200
"""Supposed sites at most: beyond about a square kilometre their lattice gets coarser."""
_CLOUD = 1.2 * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
_CLOUD_CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
_REFERENCE_M = 100.0


@final
@dataclass(frozen=True)
class PathLossConfig:
    """Beliefs about the site and its path loss before any report."""

    exponent: float = 3.5
    """Prior mean of the path-loss exponent."""
    exponent_std: float = 1.0
    """Its standard deviation, above 0."""
    blocked_db: float = 20.0
    """Prior mean of the loss behind buildings [dB]."""
    blocked_std_db: float = 8.0
    """Its standard deviation [dB]; 0 leaves buildings out of the mean."""
    blocked_within_m: float = 15.0
    """Metres of building after which 63 % of that loss is reached [m]."""
    deviation_db: float = 7.0
    """Prior median of the deviation about the mean [dB]: 7.8 dB in TR 38.901's UMi out of sight."""
    height_m: float = 12.0
    """Height of the site above the phones [m]: how round the field is below it."""
    spacing_m: float = 25.0
    """Spacing of supposed sites [m]."""
    outside_m: float = 100.0
    """How far off the map a site may be [m]."""
    most_reports: int = 300
    """Reports used to fit hyper-parameters and to choose sites; all of them weigh those."""
    most_sites: int = 32
    """Sites that the answer averages over, at most."""
    least_weight: float = 0.01
    """Sites below this share of the best one are left out."""


@final
@dataclass(frozen=True)
class SiteBelief:
    """Supposed sites with their weights, and the process conditioned on each."""

    site_m: Float[np.ndarray, "candidates 2"]
    """Supposed (east, north) of the site [m]."""
    log_weight: Float[np.ndarray, " candidates"]
    """Logarithm of each one's weight, up to a constant."""
    processes: tuple[GaussianProcess, ...]
    """Gaussian process whose mean is the path loss from that site."""

    def maps_db(
        self, site: SceneRaster, config: PathLossConfig, stride: int | None = None
    ) -> tuple[
        Float[np.ndarray, "candidates rows cols"], Float[np.ndarray, "candidates rows cols"]
    ]:
        """Posterior mean and standard deviation of the field given each site [dB].

        Args:
            site: buildings, and the grid of the answer.
            config: as given to `infer_site`.
            stride: of the variances, see `GaussianProcess.variance_db2`; None chooses by cost.
        """
        grid = site.grid
        reports = len(self.processes[0].weight)
        stride = stride or affordable_stride(reports, grid, len(self.processes))
        cells = grid.centres_m().reshape(-1, 2)
        means, spreads = [], []
        for place_m, process in zip(self.site_m, self.processes, strict=True):
            terms = trend_terms(cells, place_m, site, config).reshape(*grid.shape, -1)
            means.append(process.mean_db(grid, terms))
            spreads.append(np.sqrt(process.variance_db2(grid, terms, stride)))
        return np.stack(means), np.stack(spreads)


def infer_site(
    observations: Observations,
    few: Observations,
    site: SceneRaster,
    config: PathLossConfig,
    fit: FitConfig,
) -> SiteBelief:
    """Weigh supposed sites by the reports, and condition on all reports for the likely ones.

    Hyper-parameters maximise the evidence summed over all sites: fitted under a constant mean
    they would take path loss for shadowing and see no site.

    Args:
        observations: reports with a constant mean, see `observe`.
        few: those of them that hyper-parameters and sites are weighed by.
        site: buildings.
        config: prior beliefs.
        fit: search of the hyper-parameters.

    Raises:
        ReportsError: if there are fewer than three reports.
    """
    supposed_m = supposed_sites(site, config)
    evidence = _evidence_of_sites(few, supposed_m, site, config)
    fit = replace(fit, prior=replace(fit.prior, deviation_db=config.deviation_db))
    hyper = seek(few, fit, lambda at: float(np.logaddexp.reduce(evidence(at))))
    likely_m = supposed_m[_likely(evidence(hyper), config)[: config.most_sites]]
    factor = factorise(observations, hyper)
    processes = [
        condition(_with_trend(observations, at, site, config), hyper, factor) for at in likely_m
    ]
    log_weight = np.array([process.log_evidence for process in processes])
    kept = _likely(log_weight, config)[: max(4, MOST_WORK // len(factor))]
    return SiteBelief(likely_m[kept], log_weight[kept], tuple(processes[k] for k in kept))


def _likely(
    log_weight: Float[np.ndarray, " candidates"], config: PathLossConfig
) -> Int[np.ndarray, " kept"]:
    """The sites worth keeping, best first."""
    order = np.argsort(-log_weight, kind="stable")
    return order[log_weight[order] >= log_weight[order[0]] + np.log(config.least_weight)]


def supposed_sites(site: SceneRaster, config: PathLossConfig) -> Float[np.ndarray, "candidates 2"]:
    """A lattice over the map and around it, without places in buildings."""
    west, south, east, north = site.grid.bounds_m
    reach = config.outside_m
    area_m2 = (east - west + 2.0 * reach) * (north - south + 2.0 * reach)
    step = max(config.spacing_m, float(np.sqrt(area_m2 / MOST_SUPPOSED)))
    easts = np.arange(west - reach, east + reach, step) + 0.5 * step
    norths = np.arange(south - reach, north + reach, step) + 0.5 * step
    lattice = np.stack(np.meshgrid(easts, norths), axis=-1).reshape(-1, 2)
    cell = np.clip(site.grid.cell(lattice), 0, np.array(site.grid.shape) - 1)
    return lattice[site.free[cell[:, 0], cell[:, 1]] | ~site.grid.contains(lattice)]


def trend_terms(
    place_m: Float[np.ndarray, "points 2"],
    site_m: Float[np.ndarray, "2"],
    site: SceneRaster,
    config: PathLossConfig,
) -> Float[np.ndarray, "points terms"]:
    """Terms of the mean at places: 1, log10 of distance, and share of the loss behind walls."""
    gap = place_m - site_m
    distance_m = np.sqrt((gap**2).sum(axis=-1) + config.height_m**2)
    terms = [np.ones(len(place_m)), np.log10(distance_m / _REFERENCE_M)]
    if config.blocked_std_db > 0:
        wall_m = np.empty(len(place_m))
        _wall_metres(
            site.free,
            site.grid.to_pixel(place_m),
            site.grid.to_pixel(site_m[None])[0],
            site.grid.spacing_m,
            wall_m,
        )
        terms.append(1.0 - np.exp(-wall_m / config.blocked_within_m))
    return np.stack(terms, axis=-1)


@njit(cache=True, nogil=True)
@typing.no_type_check
def _wall_metres(free, pixel, source, spacing, out):
    """Metres of building on the straight line from one source, sampled once a cell."""
    rows, cols = free.shape
    for k in range(len(pixel)):
        down, along = pixel[k, 0] - source[0], pixel[k, 1] - source[1]
        cells = np.sqrt(down * down + along * along)
        steps = int(cells) + 1
        inside = 0
        for i in range(steps):
            share = (i + 0.5) / steps
            row = int(np.floor(source[0] + share * down + 0.5))
            col = int(np.floor(source[1] + share * along + 0.5))
            if 0 <= row < rows and 0 <= col < cols and not free[row, col]:
                inside += 1
        out[k] = inside * cells * spacing / steps


def _report_terms(
    observations: Observations,
    site_m: Float[np.ndarray, "2"],
    site: SceneRaster,
    config: PathLossConfig,
) -> Float[np.ndarray, "points terms"]:
    """The terms at reports: mean over nine places within the drift of each."""
    offset = np.concatenate([_CLOUD, _CLOUD_CORNERS])
    deviation_m = np.sqrt(observations.place_var_m2)[:, None, None]
    places = observations.place_m[:, None, :] + deviation_m * offset
    terms = trend_terms(places.reshape(-1, 2), site_m, site, config)
    return terms.reshape(len(deviation_m), len(offset), -1).mean(axis=1)


def _with_trend(
    observations: Observations,
    site_m: Float[np.ndarray, "2"],
    site: SceneRaster,
    config: PathLossConfig,
) -> Observations:
    basis = _report_terms(observations, site_m, site, config)
    coefficient, precision = _prior(config)
    return replace(
        observations, basis=basis, coefficient=coefficient, coefficient_precision=precision
    )


def _prior(config: PathLossConfig) -> tuple[np.ndarray, np.ndarray]:
    mean, std = [0.0, -10.0 * config.exponent], [np.inf, 10.0 * config.exponent_std]
    if config.blocked_std_db > 0:
        mean, std = [*mean, -config.blocked_db], [*std, config.blocked_std_db]
    return np.array(mean), 1.0 / np.array(std) ** 2


def _evidence_of_sites(
    observations: Observations,
    supposed_m: Float[np.ndarray, "candidates 2"],
    site: SceneRaster,
    config: PathLossConfig,
) -> Callable[[Hyperparameters], np.ndarray]:
    """Log evidence of every site as a function of the hyper-parameters, up to one constant.

    As in `condition`, with one Cholesky factor for all sites.
    """
    basis = np.stack([_report_terms(observations, at, site, config) for at in supposed_m])
    mean, precision = _prior(config)
    gap = observations.value_db - basis @ mean
    stacked = np.concatenate([gap[..., None], basis], axis=-1)  # candidates, points, 1 + terms
    flat = np.moveaxis(stacked, 1, 0).reshape(len(observations.value_db), -1)

    def evidence(hyper: Hyperparameters) -> np.ndarray:
        factor = factorise(observations, hyper)
        white = solve_triangular(factor, flat, lower=True, check_finite=False)
        white = np.moveaxis(white.reshape(len(white), len(supposed_m), -1), 0, 1)
        left, terms = white[..., 0], white[..., 1:]
        inner = np.einsum("cpt,cpu->ctu", terms, terms) + np.diag(precision)
        right = np.einsum("cpt,cp->ct", terms, left)
        explained = np.einsum("ct,ct->c", right, np.linalg.solve(inner, right[..., None])[..., 0])
        misfit = np.einsum("cp,cp->c", left, left) - explained
        volume = 2.0 * np.log(np.diag(factor)).sum() + np.linalg.slogdet(inner)[1]
        return -0.5 * (misfit + volume)

    return evidence
