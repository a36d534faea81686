# pyright: basic
"""Posteriors: weighted candidates, so that metrics, plots and reports need no cases."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp, ndtr, ndtri  # ships no types, hence the basic check above

from hertzmap.core.grid import Grid
from hertzmap.core.types import Trace


@final
@dataclass(frozen=True)
class PositionPosterior:
    """Belief about a place: a mixture of Gaussians over (east, north).

    Candidate k has weight ``exp(log_weight[k])`` (normalised here) and covariance
    ``covariance_m2[k]`` about ``place_m[k]``.
    """

    place_m: Float[np.ndarray, "candidates 2"]
    """Candidate (east, north) [m]; finite."""
    log_weight: Float[np.ndarray, " candidates"]
    """Logarithm of each candidate's weight, up to a constant."""
    covariance_m2: Float[np.ndarray, "candidates 2 2"]
    """Covariance about each candidate [m^2], positive definite."""

    def __post_init__(self) -> None:
        count = len(self.log_weight)
        shapes = (self.place_m.shape, self.covariance_m2.shape)
        if count < 1 or shapes != ((count, 2), (count, 2, 2)):
            msg = f"PositionPosterior: {count} weights, but places and covariances {shapes}"
            raise ValueError(msg)
        if not np.isfinite(self.place_m).all() or np.linalg.eigvalsh(self.covariance_m2).min() <= 0:
            msg = "PositionPosterior needs finite places and positive definite covariances"
            raise ValueError(msg)

    @property
    def weight(self) -> Float[np.ndarray, " candidates"]:
        """Normalised weights; they sum to 1."""
        return np.exp(self.log_weight - logsumexp(self.log_weight))

    def mean_m(self) -> Float[np.ndarray, "2"]:
        """Posterior mean (east, north) [m]."""
        return self.weight @ self.place_m

    def median_m(self) -> Float[np.ndarray, "2"]:
        """Geometric median of the candidates [m]: the least expected distance to the truth."""
        weight, place = self.weight, self.mean_m()
        for _ in range(50):
            pull = weight / (np.hypot(*(self.place_m - place).T) + 0.1)
            place = pull @ self.place_m / pull.sum()
        return place

    def covariance(self) -> Float[np.ndarray, "2 2"]:
        """Posterior covariance [m^2]: between candidates plus within them."""
        gap = self.place_m - self.mean_m()
        return np.einsum(
            "k,kij->ij", self.weight, gap[:, :, None] * gap[:, None] + self.covariance_m2
        )

    def log_density(self, place_m: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, " points"]:
        """Logarithm of the density at places [1/m^2]."""
        precision = np.linalg.inv(self.covariance_m2)
        gap = place_m[:, None] - self.place_m
        squared = np.einsum("pki,kij,pkj->pk", gap, precision, gap)
        size = np.linalg.slogdet(self.covariance_m2)[1] + 2.0 * np.log(2.0 * np.pi)
        return np.asarray(logsumexp(-0.5 * (squared + size) + np.log(self.weight), axis=1))

    def sample(self, count: int, *, seed: int) -> Float[np.ndarray, "samples 2"]:
        """Draw places (east, north) [m]."""
        draw = np.random.default_rng(seed)
        which = draw.choice(len(self.log_weight), size=count, p=self.weight)
        root = np.linalg.cholesky(self.covariance_m2)[which]
        return self.place_m[which] + np.einsum("pij,pj->pi", root, draw.standard_normal((count, 2)))

    def credibility(self, place_m: Float[np.ndarray, "2"], draws: int = 4000) -> float:
        """Probability of all places likelier than this one: below 0.9 inside the 90 % region.

        By draws with a fixed seed; the region is the smallest that holds its probability.
        """
        drawn = self.log_density(self.sample(draws, seed=0))
        return float(np.mean(drawn > self.log_density(np.asarray(place_m, float)[None])[0]))

    def region_area_m2(self, level: float = 0.9, draws: int = 4000) -> float:
        """Area of the smallest region that holds so much probability [m^2].

        By draws: the mean of 1 / density over those inside.

        Raises:
            ValueError: if the level does not lie strictly between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            msg = f"a region's level lies strictly between 0 and 1, got {level}"
            raise ValueError(msg)
        drawn = self.log_density(self.sample(draws, seed=0))
        inside = drawn >= np.quantile(drawn, 1.0 - level)
        return float(np.exp(-drawn[inside]).sum() / draws)


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
    transmitters: tuple[PositionPosterior, ...] = ()
    """Where each transmitter may stand, where the method says so; their powers add."""

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

    def covered_share(
        self,
        threshold_dbm: float,
        counted: Bool[np.ndarray, "rows cols"],
        *,
        level: float = 0.9,
    ) -> tuple[float, float, float]:
        """Share of cells above a threshold [dBm]: its mean and the ends of a central interval.

        Within a candidate all cells err together, as if their errors were one; neighbours' nearly
        are, far ones' less, so the interval is on the wide side.

        Args:
            threshold_dbm: a cell is covered above it.
            counted: cells that count, e.g. those outdoors.
            level: probability of the interval, strictly between 0 and 1.

        Raises:
            ValueError: if no cell counts, or the level is not a probability.
        """
        if not counted.any() or not 0.0 < level < 1.0:
            msg = f"covered_share needs cells that count and a level between 0 and 1, got {level}"
            raise ValueError(msg)
        node = ndtri((np.arange(41) + 0.5) / 41)
        share = np.array(
            [
                np.mean(mean + one * spread > threshold_dbm)
                for mean, spread in zip(
                    self.maps_dbm[:, counted], self.spread_db[:, counted], strict=True
                )
                for one in node
            ]
        )
        order = np.argsort(share)
        reached = np.cumsum(np.repeat(self.weight / len(node), len(node))[order])
        ends = np.searchsorted(reached, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
        low, high = share[order][np.clip(ends, 0, len(order) - 1)]
        mean = float(self.coverage_probability(threshold_dbm)[counted].mean())
        return mean, float(min(low, mean)), float(max(high, mean))

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
