"""What every radio-map estimator is: reports and site in, MapPosterior out."""

from abc import ABC, abstractmethod

from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster


class AbstractEstimator(ABC):
    """Turns the reports of ONE radio cell and the site into a posterior over the map."""

    @abstractmethod
    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """Estimate the noise-free power map.

        Args:
            reports: powers [dBm] at reported places, with their stated noise and drift.
            site: heights and free mask; the grid of the answer.
            seed: makes the answer reproducible: same seed, same bytes.

        Raises:
            ReportsError: if the reports cannot carry an estimate.
        """

    @classmethod
    @abstractmethod
    def from_preset(cls, preset: str) -> "AbstractEstimator":
        """Build the method from one of its named presets (see ``PRESETS`` in its file).

        Raises:
            ConfigError: if the preset is not known.
        """
