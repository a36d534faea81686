"""Share weight between families of models by how well they fill gaps they did not see.

The marginal likelihood picks one family and is sure of it, also where none is true and reports
share errors: on measured fields it believes at 100 to 1 what fills a gap no better than its rival.
Here weights maximise the log score of a mixture on blocks of reports left out in turn; a block is
as wide as the gaps that the map must fill.

Source: Yao, Vehtari, Simpson, Gelman, Using stacking to average Bayesian predictive distributions
(2018); Roberts et al., Cross-validation strategies for data with spatial structure (2017). The
width of the blocks and the pseudo-block are ours.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt

from hertzmap.core.grid import Grid
from hertzmap.estimation._gaussian_process import GaussianProcess, left_out, means_db

PSEUDO_BLOCKS = 1.0
"""Blocks, for each family, that count as predicted best by it: few blocks keep weights alike."""

THREADS = 2
"""Families that are worked on at a time; the answer does not depend on it."""
FACTOR_STD = 0.5
"""Prior standard deviation of the logarithm of the factor on the spread."""
DROWNED = (0.5, 0.75)
"""Share of noise in what reports leave unexplained: up to the first the field shows, from the
second on noise drowns it; ours, not tuned (ADR 008)."""


@final
@dataclass(frozen=True)
class Family:
    """Processes that share kernel and noise, and differ in their mean."""

    processes: Sequence[GaussianProcess]
    """At least one, conditioned on the same reports in the same order for every family."""
    log_weight: Float[np.ndarray, " processes"]
    """Logarithm of their weights within the family; the weights sum to 1."""
    mean_dbm: Float[np.ndarray, "processes rows cols"]
    """The known part of each one's mean at the cells [dBm]."""
    terms: Sequence[Float[np.ndarray, "rows cols terms"]]
    """Fields of the unknown part of each one's mean."""
    place_m: Float[np.ndarray, "processes 2"] | None = None
    """Supposed (east, north) of each one's transmitter [m], where it has one."""
    stride: int = 1
    """Of the maps, see `_gaussian_process.means_db`."""

    def maps_dbm(
        self, grid: Grid, chosen: Int[np.ndarray, " chosen"]
    ) -> Float[np.ndarray, "chosen rows cols"]:
        """Posterior means of the chosen ones."""
        processes, terms = zip(*((self.processes[k], self.terms[k]) for k in chosen), strict=True)
        return self.mean_dbm[chosen] + means_db(processes, grid, terms, self.stride)

    def with_nugget_as_noise(self) -> "Family":
        """The same processes, whose nugget is noise of the reports and no deviation of the field.

        Means, evidence and predictions of left-out reports stay; `deviation_db` shrinks.
        """
        return replace(
            self,
            processes=[
                replace(
                    one,
                    hyper=replace(one.hyper, nugget_db2=0.0),
                    observations=replace(
                        one.observations,
                        noise_var_db2=one.observations.noise_var_db2 + one.hyper.nugget_db2,
                    ),
                )
                for one in self.processes
            ],
        )

    def deviation_db(self, grid: Grid) -> Float[np.ndarray, "rows cols"]:
        """Posterior deviation of the likeliest; the others' differ by their terms alone."""
        first = int(np.argmax(self.log_weight))
        variance = self.processes[first].variance_db2(grid, self.terms[first])
        return np.sqrt(np.maximum(variance, 0.0))


def typical_gap_m(
    grid: Grid, free: Bool[np.ndarray, "rows cols"], place_m: Float[np.ndarray, "points 2"]
) -> float:
    """Median distance from a free cell to the nearest report [m], at least one cell."""
    cell = np.clip(grid.cell(place_m), 0, np.array(grid.shape) - 1)
    seen = np.zeros(grid.shape, bool)
    seen[cell[:, 0], cell[:, 1]] = True
    distance = np.asarray(distance_transform_edt(~seen))
    far = distance[free] if free.any() else distance
    return float(max(np.median(far), 1.0)) * grid.spacing_m


def square_blocks(
    place_m: Float[np.ndarray, "points 2"], width_m: float
) -> Int[np.ndarray, " points"]:
    """Number, from 0, of the square of a lattice in which each place lies."""
    square = np.floor((place_m - place_m.min(axis=0)) / width_m).astype(np.int64)
    return np.unique(square, axis=0, return_inverse=True)[1].ravel()


@final
@dataclass(frozen=True)
class GapErrors:
    """How each family predicts reports whose block is left out."""

    families: Sequence[Family]
    """The families."""
    block: Int[np.ndarray, " points"]
    """Number of the block of each report, from 0."""
    error_db: Sequence[Float[np.ndarray, "_ points"]]
    """Value minus prediction, per family (processes, points) [dB]."""
    variance_db2: Sequence[Float[np.ndarray, "_ points"]]
    """Predictive variance, noise included, per family [dB^2]."""

    @classmethod
    def of(cls, families: Sequence[Family], block: Int[np.ndarray, " points"]) -> "GapErrors":
        """Leave each block out in turn; of a single block nothing can be said."""
        if block.max(initial=0) == 0:
            return cls(families, block, [], [])
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda family: left_out(family.processes, block), families))
        return cls(families, block, [one for one, _ in found], [one for _, one in found])

    def log_shares(self) -> Float[np.ndarray, " families"]:
        """Logarithm of the weight of each family.

        Each block counts once, by the mean log density of its reports. With a single block nothing
        can be left out: all families weigh alike.
        """
        families = self.families
        if len(families) == 1 or not self.error_db:
            return np.full(len(families), -np.log(len(families)))
        scores = []
        for family, error, variance in zip(families, self.error_db, self.variance_db2, strict=True):
            density = _log_normal(error, variance)
            density = np.logaddexp.reduce(density + family.log_weight[:, None], axis=0)
            scores.append(self._block_mean(density))
        return np.log(_mixture_weights(np.stack(scores)))

    def spread_factor(self, shares: Float[np.ndarray, " families"], usual: float) -> float:
        """Factor on the deviations of the field by which left-out reports are told best.

        Noise stays as stated, so where it drowns the field nothing is learned and the factor stays
        near the usual one; where reports are exact, they say how far off the models are.

        Args:
            shares: weights of the families.
            usual: prior median of the factor, see `FACTOR_STD`.
        """
        if not self.error_db:
            return usual
        error, variance = np.zeros(len(self.block)), np.zeros(len(self.block))
        for share, family, gap, spread in zip(
            shares, self.families, self.error_db, self.variance_db2, strict=True
        ):
            weight = share * np.exp(family.log_weight)
            error += weight @ gap
            variance += weight @ spread
        noise = self.families[0].processes[0].observations.noise_var_db2
        field = np.maximum(variance - noise, 0.0)
        factor = usual * np.exp(np.linspace(-1.5, 1.5, 61))
        density = [self._block_mean(_log_normal(error, noise + a**2 * field)).sum() for a in factor]
        belief = -0.5 * (np.log(factor / usual) / FACTOR_STD) ** 2
        weight = np.exp(density + belief - np.max(density + belief))
        return float(np.exp(weight @ np.log(factor) / weight.sum()))

    def drowned(self, shares: Float[np.ndarray, " families"]) -> float:
        """How far noise drowns the field beside the models: 0 not at all, 1 wholly.

        Where the field beside the maps outweighs the noise, its kernel was fitted to the reports
        and its deviation needs no usual factor; where noise drowns it, the kernel is its prior.

        Args:
            shares: weights of the families.
        """
        first = [family.processes[0] for family in self.families]
        beside = [one.hyper.variance_db2 + one.hyper.nugget_db2 for one in first]
        noise = float(np.mean(first[0].observations.noise_var_db2))
        share = noise / (noise + float(shares @ np.array(beside)))
        low, high = DROWNED
        return float(np.clip((share - low) / (high - low), 0.0, 1.0))

    def _block_mean(self, value: np.ndarray) -> np.ndarray:
        count = np.bincount(self.block)
        return np.bincount(self.block, value) / count


def _log_normal(error: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * (error**2 / variance + np.log(2.0 * np.pi * variance))


def _mixture_weights(
    score: Float[np.ndarray, "families blocks"],
) -> Float[np.ndarray, " families"]:
    """Weights of highest log score, with `PSEUDO_BLOCKS`, by expectation maximisation."""
    likelihood = np.exp(score - score.max(axis=0))
    weight = np.full(len(score), 1.0 / len(score))
    for _ in range(500):
        part = weight[:, None] * likelihood
        new = (part / part.sum(axis=0)).sum(axis=1) + PSEUDO_BLOCKS
        new /= new.sum()
        settled = np.abs(new - weight).max() < 1e-6
        weight = new
        if settled:
            break
    return weight
