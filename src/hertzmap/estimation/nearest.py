"""Nearest neighbour: every cell takes the mean of the reports at the nearest reported place."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.estimation.base import AbstractEstimator


@final
@dataclass(frozen=True)
class NearestConfig:
    """What counts as one place."""

    same_place_m: float = 0.5
    """Reports in the same square of this side [m] are averaged before the search."""

    def __post_init__(self) -> None:
        if not self.same_place_m > 0:
            msg = f"NearestConfig.same_place_m must be above 0, got {self.same_place_m}"
            raise ConfigError(msg)


PRESETS: dict[str, NearestConfig] = {"default": NearestConfig()}


@final
@dataclass(frozen=True)
class Nearest(AbstractEstimator):
    """The floor every other estimator must clear; blind to drift, noise and buildings.

    Source: Thiessen, Precipitation averages for large areas (1911): the polygons of that name.
    The spread is the root mean square of leave-one-place-out residuals, the same in every cell.
    """

    config: NearestConfig = NearestConfig()
    """Settings."""

    @classmethod
    def from_preset(cls, preset: str) -> "Nearest":
        """See the base class."""
        if preset not in PRESETS:
            msg = f"nearest has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class; one report is enough."""
        del seed
        if len(reports) == 0:
            msg = "there is no report to take a neighbour from; add reports"
            raise ReportsError(msg)
        place_m, power_dbm = self._average_places(reports)
        tree = KDTree(place_m)
        _, nearest = tree.query(site.grid.centres_m())
        floor_dbm = GreyScale().min_db + (reports.reference_dbm or 0.0)
        map_dbm = np.where(site.free, power_dbm[nearest], floor_dbm)
        spread_db = np.where(site.free, _left_out_error_db(tree, power_dbm), 0.0)
        return MapPosterior(site.grid, map_dbm[None], np.zeros(1), spread_db[None])

    def _average_places(
        self, reports: Reports
    ) -> tuple[Float[np.ndarray, "places 2"], Float[np.ndarray, " places"]]:
        square: Int[np.ndarray, "points 2"]
        square = np.floor(reports.reported_m / self.config.same_place_m).astype(np.int64)
        _, place, count = np.unique(square, axis=0, return_inverse=True, return_counts=True)
        place = place.ravel()

        def average(value: np.ndarray) -> np.ndarray:
            return np.bincount(place, value) / count

        east, north = average(reports.reported_m[:, 0]), average(reports.reported_m[:, 1])
        return np.stack([east, north], axis=-1), average(reports.power_dbm)


def _left_out_error_db(tree: KDTree, power_dbm: Float[np.ndarray, " places"]) -> float:
    """Root mean square difference of each place to its nearest other place [dB]; 0 for one."""
    if len(power_dbm) < 2:
        return 0.0
    _, neighbours = tree.query(tree.data, k=2)
    neighbour = np.asarray(neighbours)[:, 1]
    return float(np.sqrt(np.mean((power_dbm - power_dbm[neighbour]) ** 2)))


METHOD = Nearest
