"""Inverse distance weighting: each cell takes a mean of the nearest places, the nearer the more.

``as_published`` is Shepard's form with the square of the distance and twelve places; ``tuned``
chooses exponent and number of places by leaving each place out in turn, and nothing but the
reports decides.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.estimation.base import AbstractEstimator


@final
@dataclass(frozen=True)
class IdwConfig:
    """What is tried; a single exponent and number are taken as they are."""

    exponents: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    """Exponents of the distance."""
    neighbours: tuple[int, ...] = (6, 12, 25, 50, 100, 200)
    """Numbers of nearest reports."""
    least_m: float = 1.0
    """Smaller distances count as this [m]."""

    def __post_init__(self) -> None:
        if not (self.exponents and self.neighbours) or min(self.neighbours) < 1:
            msg = "IdwConfig needs at least one exponent and one number of neighbours above 0"
            raise ConfigError(msg)
        if not (min(self.exponents) >= 0 and self.least_m > 0):
            msg = "IdwConfig: exponents must be at least 0 and least_m above 0"
            raise ConfigError(msg)


PRESETS: dict[str, IdwConfig] = {
    "tuned": IdwConfig(),
    "as_published": IdwConfig(exponents=(2.0,), neighbours=(12,)),
}
"""Named settings."""


@final
@dataclass(frozen=True)
class Idw(AbstractEstimator):
    """Inverse distance weighting, blind to drift, stated noise and buildings.

    Source: Shepard, A two-dimensional interpolation function for irregularly-spaced data (1968).
    The spread is the root mean square of left-out residuals beyond the stated noise, the same in
    every cell.
    """

    config: IdwConfig = IdwConfig()
    """Settings."""

    @classmethod
    def from_preset(cls, preset: str) -> "Idw":
        """See the base class."""
        if preset not in PRESETS:
            msg = f"idw has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class; one report is enough."""
        del seed
        count = len(reports)
        if count == 0:
            msg = "there is no report to interpolate from; add reports"
            raise ReportsError(msg)
        tree, power_dbm = KDTree(reports.reported_m), reports.power_dbm
        most = min(max(self.config.neighbours), count)
        exponent, neighbours, error_db = self._choose(tree, power_dbm, most)
        distance_m, index = tree.query(site.grid.centres_m().reshape(-1, 2), k=neighbours)
        shape = (site.grid.rows * site.grid.cols, neighbours)
        distance_m, index = np.reshape(distance_m, shape), np.reshape(index, shape)
        power = self._mean(distance_m, power_dbm[index], exponent).reshape(site.grid.shape)
        noise_db2 = float(np.mean(reports.noise_db**2))
        std_db = float(np.sqrt(max(error_db**2 - noise_db2, 0.0)))
        floor_dbm = GreyScale().min_db + (reports.reference_dbm or 0.0)
        map_dbm = np.where(site.free, power, floor_dbm)
        spread_db = np.where(site.free, std_db, 0.0)
        return MapPosterior(site.grid, map_dbm[None], np.zeros(1), spread_db[None])

    def _choose(
        self, tree: KDTree, power_dbm: Float[np.ndarray, " points"], most: int
    ) -> tuple[float, int, float]:
        """Exponent and number of neighbours of least left-out error, and that error [dB]."""
        if len(power_dbm) < 2:
            return self.config.exponents[0], 1, 0.0
        distance_m, index = tree.query(tree.data, k=min(most + 1, len(power_dbm)))
        distance_m, values = distance_m[:, 1:], power_dbm[np.asarray(index)[:, 1:]]
        found = []
        for exponent in self.config.exponents:
            for neighbours in self.config.neighbours:
                near = slice(0, neighbours)
                mean = self._mean(distance_m[:, near], values[:, near], exponent)
                error_db = float(np.sqrt(np.mean((power_dbm - mean) ** 2)))
                found.append((error_db, exponent, min(neighbours, most)))
        error_db, exponent, neighbours = min(found)
        return exponent, neighbours, error_db

    def _mean(
        self,
        distance_m: Float[np.ndarray, "cells near"],
        value: Float[np.ndarray, "cells near"],
        exponent: float,
    ) -> Float[np.ndarray, " cells"]:
        weight = np.maximum(distance_m, self.config.least_m) ** -exponent
        return (weight * value).sum(axis=1) / weight.sum(axis=1)


METHOD = Idw
