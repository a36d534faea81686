# pyright: basic
"""Posteriors: weighted candidates, so that metrics, plots and reports need no cases."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, ndtr  # ships no types, hence the basic check above

from hertzmap.core.grid import Grid
from hertzmap.core.types import Trace


@final
@dataclass(frozen=True)
class MapPosterior:
    """Belief about the noise-free power [dBm] of one radio cell at every grid cell.

    A mixture: candidate k has weight ``exp(log_weight[k])`` (normalised here) and, in each cell,
    a Gaussian of standard deviation ``spread_db[k]`` about ``maps_dbm[k]`` (0 = a bare sample).
    Cells in buildings hold the scale's floor and mean nothing.
    """

    grid: Grid
    """The raster."""
    maps_dbm: Float[np.ndarray, "candidates rows cols"]
    """Candidate maps [dBm]; finite."""
    log_weight: Float[np.ndarray, " candidates"]
    """Logarithm of each candidate's weight, up to a constant."""
    spread_db: Float[np.ndarray, "candidates rows cols"]
    """Standard deviation of each candidate in each cell [dB], at least 0."""
    trace: Trace | None = None
    """How an iterative estimator got there; None for direct ones."""

    def __post_init__(self) -> None:
        count = len(self.log_weight)
        expected = (count, *self.grid.shape)
        if count < 1 or self.maps_dbm.shape != expected or self.spread_db.shape != expected:
            msg = (
                f"MapPosterior: maps {self.maps_dbm.shape} and spreads {self.spread_db.shape} "
                f"must be (candidates, rows, cols) = {expected} with at least one candidate"
            )
            raise ValueError(msg)
        if not (np.isfinite(self.maps_dbm).all() and np.isfinite(self.spread_db).all()):
            msg = "MapPosterior maps and spreads must be finite"
            raise ValueError(msg)
        if (self.spread_db < 0).any():
            msg = "MapPosterior.spread_db must be at least 0"
            raise ValueError(msg)

    @property
    def weight(self) -> Float[np.ndarray, " candidates"]:
        """Normalised weights; they sum to 1."""
        return np.exp(self.log_weight - logsumexp(self.log_weight))

    def mean_dbm(self) -> Float[np.ndarray, "rows cols"]:
        """Posterior mean [dBm] in every cell."""
        return np.einsum("k,krc->rc", self.weight, self.maps_dbm)

    def std_db(self) -> Float[np.ndarray, "rows cols"]:
        """Posterior standard deviation [dB]: spread between candidates plus within them."""
        gap = self.maps_dbm - self.mean_dbm()
        variance = np.einsum("k,krc->rc", self.weight, gap**2 + self.spread_db**2)
        return np.sqrt(np.maximum(variance, 0.0))

    def probability_below(
        self, threshold_dbm: float | Float[np.ndarray, "rows cols"]
    ) -> Float[np.ndarray, "rows cols"]:
        """Probability that the power is at most the threshold [dBm], in every cell."""
        gap = threshold_dbm - self.maps_dbm
        spread = np.maximum(self.spread_db, 1e-9)
        return np.clip(np.einsum("k,krc->rc", self.weight, ndtr(gap / spread)), 0.0, 1.0)

    def coverage_probability(self, threshold_dbm: float) -> Float[np.ndarray, "rows cols"]:
        """Probability that the power is above a threshold [dBm], in every cell."""
        return 1.0 - self.probability_below(threshold_dbm)

    def quantile_dbm(self, level: float) -> Float[np.ndarray, "rows cols"]:
        """Quantile [dBm] of the mixture in every cell, by bisection to 0.01 dB.

        Raises:
            ValueError: if the level does not lie strictly between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            msg = f"a quantile's level lies strictly between 0 and 1, got {level}"
            raise ValueError(msg)
        low = (self.maps_dbm - 9.0 * self.spread_db).min(axis=0) - 0.01
        high = (self.maps_dbm + 9.0 * self.spread_db).max(axis=0) + 0.01
        steps = int(np.ceil(np.log2(max(float((high - low).max()), 0.01) / 0.005)))
        for _ in range(max(steps, 1)):
            middle = 0.5 * (low + high)
            below = self.probability_below(middle) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def members(self, count: int, *, seed: int) -> Float[np.ndarray, "samples rows cols"]:
        """Draw maps [dBm]: a candidate by weight, then white noise of its spread per cell."""
        draw = np.random.default_rng(seed)
        which = draw.choice(len(self.log_weight), size=count, p=self.weight)
        noise = draw.standard_normal((count, *self.grid.shape))
        return self.maps_dbm[which] + self.spread_db[which] * noise
