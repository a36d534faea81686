"""Kriging: the best linear estimate of a field of known covariance, drift-aware or as published."""

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from jaxtyping import Float
from scipy.optimize import curve_fit
from scipy.spatial.distance import pdist

from hertzmap.core.errors import ConfigError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.seeds import generator
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.estimation._gaussian_process import (
    FitConfig,
    Hyperparameters,
    Observations,
    at_stated_places,
    condition,
    fit,
    observe,
    thin_out,
)
from hertzmap.estimation._path_loss import PathLossConfig, infer_site
from hertzmap.estimation.base import AbstractEstimator


@final
@dataclass(frozen=True)
class KrigingConfig:
    """Settings; the defaults are the preset ``tuned``."""

    length_from: Literal["likelihood", "variogram"] = "likelihood"
    """``likelihood``: kernel, variance, length and nugget by marginal likelihood, noise as stated.
    ``variogram``: exponential kernel fitted to the binned variogram, noise ignored."""
    trend: Literal["constant", "path_loss"] = "constant"
    """Mean of the field: one unknown constant, or path loss from an unknown site averaged over."""
    drift_aware: bool = True
    """Average the covariance over drift cut at walls; False believes the stated places."""
    knows_walls: bool = True
    """Put cells in buildings on the scale's floor; False lets the field run through them."""
    clip: bool = True
    """Keep the map on the grey scale, where the reports' reference power is known."""
    fit: FitConfig = FitConfig()
    """Search of the hyper-parameters by likelihood."""
    path_loss: PathLossConfig = PathLossConfig()
    """Beliefs about the site, for ``trend="path_loss"``."""
    variance_stride: int | None = None
    """Cells from one computed variance to the next, bilinear between; None chooses by cost."""


PRESETS: dict[str, KrigingConfig] = {
    "tuned": KrigingConfig(),
    "path_loss": KrigingConfig(trend="path_loss"),
    "as_published": KrigingConfig(
        length_from="variogram", drift_aware=False, knows_walls=False, clip=False
    ),
}


@final
@dataclass(frozen=True)
class Kriging(AbstractEstimator):
    """Kriging in decibels: ordinary, with one unknown constant mean, or about an inferred site.

    ``tuned`` knows the stated noise and drift of every report, the free mask and the scale.
    ``path_loss`` is the same about a mean that falls off from an inferred site and behind walls.
    ``as_published`` keeps the weaknesses the paper's figures point to: no nugget, so it passes
    through noisy values, drift ignored, buildings not zeroed.

    Cost on two cores for 3,000 reports and 256 x 256 cells: ``tuned`` 3 s and 400 MiB, growing with
    the cube and the square of the number of reports; ``path_loss`` 5 to 10 s. Use something else
    beyond some 8,000 reports, or where several transmitters share the map.

    Source: Matheron, Principles of geostatistics (1963); Cervone and Pillai (2015) for uncertain
    places; baseline of RadioDiff-Inv2, whose fit of the range is not stated: the variogram of
    ``as_published`` is our choice.
    """

    config: KrigingConfig = KrigingConfig()
    """Settings."""

    @classmethod
    def from_preset(cls, preset: str) -> "Kriging":
        """See the base class."""
        if preset not in PRESETS:
            msg = f"kriging has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class; at least three reports on free ground are needed."""
        config = self.config
        maps_dbm, log_weight, spreads_db = self._krige(reports, site, generator(seed))
        scale, reference_dbm = GreyScale(), reports.reference_dbm or 0.0
        floor_dbm = scale.min_db + reference_dbm
        if config.clip and reports.reference_dbm is not None:
            maps_dbm = np.clip(maps_dbm, floor_dbm, scale.max_db + reference_dbm)
        if config.knows_walls:
            maps_dbm = np.where(site.free, maps_dbm, floor_dbm)
            spreads_db = np.where(site.free, spreads_db, 0.0)
        return MapPosterior(site.grid, maps_dbm, log_weight, spreads_db)

    def _krige(
        self, reports: Reports, site: SceneRaster, draw: np.random.Generator
    ) -> tuple[
        Float[np.ndarray, "candidates rows cols"],
        Float[np.ndarray, " candidates"],
        Float[np.ndarray, "candidates rows cols"],
    ]:
        """Maps [dBm], log weights and spreads [dB]: one candidate, or one for each likely site."""
        config = self.config
        if config.length_from == "variogram":
            seen = at_stated_places(reports, noisy=False)
            hyper = fit_variogram(seen, draw)
        else:
            seen = observe(reports, site, drift_aware=config.drift_aware)
            if config.trend == "path_loss":
                few = thin_out(seen, config.path_loss.most_reports, draw)
                belief = infer_site(seen, few, site, config.path_loss, config.fit)
                maps, spreads = belief.maps_db(site, config.path_loss, config.variance_stride)
                return maps, belief.log_weight, spreads
            hyper = fit(seen, config.fit, draw)
        process = condition(seen, hyper)
        variance_db2 = process.variance_db2(site.grid, stride=config.variance_stride)
        return process.mean_db(site.grid)[None], np.zeros(1), np.sqrt(variance_db2)[None]


_MOST_PAIRED = 2000
_LAGS = 20


def fit_variogram(observations: Observations, draw: np.random.Generator) -> Hyperparameters:
    """Sill and range of an exponential variogram without nugget, by weighted least squares.

    Matheron's estimator in 20 lags up to half the largest distance, on at most 2000 reports;
    weights grow with the number of pairs and fall with the lag.
    Source: Cressie, Fitting variogram models by weighted least squares (1985), simplified.
    """
    keep = np.arange(len(observations.value_db))
    if len(keep) > _MOST_PAIRED:
        keep = np.sort(draw.choice(keep, _MOST_PAIRED, replace=False))
    distance_m = pdist(observations.place_m[keep])
    half_square_db2 = 0.5 * pdist(observations.value_db[keep, None], "sqeuclidean")
    reach_m = max(0.5 * float(distance_m.max(initial=0.0)), 1e-3)
    lag = np.minimum((distance_m / reach_m * _LAGS).astype(np.int64), _LAGS)
    pairs = np.bincount(lag, minlength=_LAGS + 1)[:_LAGS]
    total_db2 = np.bincount(lag, half_square_db2, minlength=_LAGS + 1)[:_LAGS]
    used = pairs > 0
    middle_m = (np.arange(_LAGS)[used] + 0.5) * reach_m / _LAGS
    sill_db2 = max(float(observations.value_db[keep].var()), 1e-6)
    start = (sill_db2, reach_m / 3.0)
    if used.sum() < 3:
        return Hyperparameters(*start)
    found, _ = curve_fit(
        _exponential_variogram,
        middle_m,
        total_db2[used] / pairs[used],
        p0=start,
        sigma=middle_m / np.sqrt(pairs[used]),
        bounds=((1e-3 * sill_db2, 1e-2 * reach_m), (1e2 * sill_db2, 2e1 * reach_m)),
    )
    return Hyperparameters(float(found[0]), float(found[1]))


def _exponential_variogram(
    lag_m: Float[np.ndarray, " lags"], sill_db2: float, length_m: float
) -> Float[np.ndarray, " lags"]:
    return sill_db2 * (1.0 - np.exp(-lag_m / length_m))


METHOD = Kriging
