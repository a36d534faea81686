"""Families of candidates: a Gaussian process about each of several maps, and their mixture."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int

from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.estimation._engine_search import EngineSearch
from hertzmap.estimation._gaussian_process import (
    FitConfig,
    HyperPrior,
    Observations,
    condition,
    drawn,
    factorise,
    seek,
)
from hertzmap.estimation._path_loss import PathLossConfig, infer_site, trend_terms
from hertzmap.estimation._stacking import (
    THREADS,
    Family,
    GapErrors,
    square_blocks,
    typical_gap_m,
)
from hertzmap.estimation._supposed import Supposed
from hertzmap.measurement.operator import DriftOperator

FITTED_TO = 600
"""Reports, at most, that the kernel about a family's maps is fitted to."""
BLOCK_GAPS = 2.0
"""Width of a left-out block in typical gaps: its reports then lie about a gap from the others."""
NEGLIGIBLE = 7.0
"""Candidates whose weight is below e^-7 of the best one's are left out."""


ENGINE_DEVIATION_DB = 2.0
"""Prior median of how far the field lies from the engine's fitted map [dB]."""


@final
@dataclass(frozen=True)
class Conditioning:
    """Reports that families of candidates are conditioned on."""

    operator: DriftOperator
    """How the reports read a map."""
    reports: Reports
    """All of them; those that the operator kept are used."""

    def few(self, draw: np.random.Generator, most: int = FITTED_TO) -> Int[np.ndarray, " few"]:
        """At most so many of the kept reports, to fit hyper-parameters to."""
        return drawn(self.operator.count, most, draw)

    def maps(
        self,
        mean_dbm: Float[np.ndarray, "maps rows cols"],
        terms_db: Float[np.ndarray, "maps terms rows cols"],
        few: Int[np.ndarray, " few"],
        temperature: float = 1.0,
        *,
        deviation_db: float = HyperPrior.deviation_db,
        log_weight: Float[np.ndarray, " maps"] | None = None,
    ) -> Family:
        """One process about each map plus standard normal unknowns times its fields [dB].

        They share kernel, noise and so the Cholesky factor: the kernel is fitted about the first,
        and what a report's drift adds to its noise is the mean over all.

        Args:
            mean_dbm: known part of each mean [dBm].
            terms_db: fields of its global unknowns, whitened [dB].
            few: reports that the kernel is fitted to.
            temperature: of the evidence by which they share their weight.
            deviation_db: prior median of how far the field lies from such a mean [dB].
            log_weight: of the maps, where it is known without their evidence.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            seen = list(pool.map(self._residuals, mean_dbm, terms_db))
        noise = np.mean([one.noise_var_db2 for one in seen], axis=0)
        seen = [replace(one, noise_var_db2=noise) for one in seen]
        prior = HyperPrior(deviation_db=deviation_db)
        told = seen[0].select(few)
        hyper = seek(told, FitConfig(prior=prior), lambda at: condition(told, at).log_evidence)
        factor = factorise(seen[0], hyper)
        with ThreadPoolExecutor(THREADS) as pool:
            processes = list(pool.map(lambda one: condition(one, hyper, factor), seen))
        evidence = np.array([process.log_evidence for process in processes]) / temperature
        weight = evidence if log_weight is None else log_weight
        weight = weight - np.logaddexp.reduce(weight)
        return Family(processes, weight, mean_dbm, list(np.moveaxis(terms_db, 1, -1)))

    def path_loss(
        self,
        free: Bool[np.ndarray, "rows cols"],
        few: Int[np.ndarray, " few"],
        config: PathLossConfig,
    ) -> Family:
        """Kriging about path loss from supposed sites; the few reports weigh those."""
        operator, grid = self.operator, self.operator.grid
        seen = Observations.with_constant_mean(
            operator.mean_place_m,
            self._place_var_m2,
            self.reports.power_dbm[operator.kept],
            self.reports.noise_db[operator.kept] ** 2,
        )
        site = SceneRaster(grid, np.zeros(grid.shape), free)
        belief = infer_site(seen, seen.select(few), site, config, FitConfig())
        cells = grid.centres_m().reshape(-1, 2)
        terms = [
            trend_terms(cells, place_m, site, config).reshape(*grid.shape, -1)
            for place_m in belief.site_m
        ]
        log_weight = belief.log_weight - np.logaddexp.reduce(belief.log_weight)
        known = np.zeros((len(terms), *grid.shape))
        return Family(belief.processes, log_weight, known, terms, belief.site_m)

    def engine(
        self,
        search: EngineSearch,
        supposed: Sequence[Supposed],
        log_weight: Float[np.ndarray, " supposed"],
        few: Int[np.ndarray, " few"],
        reference_dbm: float,
    ) -> Family:
        """Maps of the dominant-path engine from supposed transmitters."""
        with ThreadPoolExecutor(THREADS) as pool:
            about = list(pool.map(search.map_about, supposed))
        family = self.maps(
            reference_dbm + np.stack([gain for gain, _ in about]),
            np.stack([terms for _, terms in about]),
            few,
            deviation_db=ENGINE_DEVIATION_DB,
            log_weight=log_weight,
        )
        return replace(family, stride=2)  # many members, and little is left beside them

    def gap_errors(
        self, families: Sequence[Family], free: Bool[np.ndarray, "rows cols"]
    ) -> GapErrors:
        """How each family fills gaps of the typical width."""
        place_m = self.operator.mean_place_m
        width_m = BLOCK_GAPS * typical_gap_m(self.operator.grid, free, place_m)
        return GapErrors.of(families, square_blocks(place_m, width_m))

    def _residuals(self, mean_dbm: np.ndarray, terms_db: np.ndarray) -> Observations:
        """What the reports say about a map: residuals over its mean within each one's drift."""
        operator = self.operator
        reading, variance = operator.moments(mean_dbm)
        count = len(terms_db)
        return Observations(
            operator.mean_place_m,
            self._place_var_m2,
            self.reports.power_dbm[operator.kept] - reading,
            self.reports.noise_db[operator.kept] ** 2 + variance,
            operator.averages @ terms_db.reshape(count, mean_dbm.size).T,
            np.zeros(count),
            np.ones(count),
        )

    @property
    def _place_var_m2(self) -> Float[np.ndarray, " points"]:
        return np.trace(self.operator.place_cov_m2, axis1=1, axis2=2) / 2.0


def agreed(
    grid: Grid, families: Sequence[Family], shares: Float[np.ndarray, " families"]
) -> tuple[
    Float[np.ndarray, "candidates rows cols"],
    Float[np.ndarray, "candidates rows cols"],
    Float[np.ndarray, " candidates"],
]:
    """All families' members, each family moved to the weighted median of all, cell by cell.

    On measured fields one kind of model is now and then far off where reports are few, and a mean
    follows it; the median does not. The spread grows by the move, so doubt between families stays.

    Returns:
        Maps [dBm], deviations [dB] and log weights of the members.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        spreads = pool.map(lambda family: family.deviation_db(grid), families)
        every = pool.map(
            lambda family: family.maps_dbm(grid, np.arange(len(family.log_weight))), families
        )
        members, spread = list(every), list(spreads)
    mean = [
        np.tensordot(np.exp(family.log_weight), maps, 1)
        for family, maps in zip(families, members, strict=True)
    ]
    median = weighted_median(np.stack(mean), shares)
    moves = [median - one for one in mean]
    weights = [np.log(share) + one.log_weight for share, one in zip(shares, families, strict=True)]
    return (
        np.concatenate([maps + move for maps, move in zip(members, moves, strict=True)]),
        np.concatenate(
            [
                np.broadcast_to(np.hypot(std, move), maps.shape)
                for maps, std, move in zip(members, spread, moves, strict=True)
            ]
        ),
        np.concatenate(weights),
    )


def weighted_median(
    value: Float[np.ndarray, "families rows cols"], weight: Float[np.ndarray, " families"]
) -> Float[np.ndarray, "rows cols"]:
    """The least value at which half of the weight is reached, in every cell."""
    order = np.argsort(value, axis=0, kind="stable")
    reached = np.cumsum(weight[order], axis=0) >= 0.5 * weight.sum()
    return np.take_along_axis(value, np.take_along_axis(order, reached.argmax(0)[None], 0), 0)[0]


def mixture(
    grid: Grid,
    families: Sequence[Family],
    deviations_db: Sequence[Float[np.ndarray, "rows cols"]],
    log_weights: Sequence[np.ndarray],
) -> tuple[
    Float[np.ndarray, "candidates rows cols"],
    Float[np.ndarray, "candidates rows cols"],
    Float[np.ndarray, " candidates"],
]:
    """Maps [dBm], deviations [dB] and log weights of all candidates that matter.

    Args:
        grid: cells of the answer.
        families: their processes give the maps.
        deviations_db: of each family.
        log_weights: of each family's members, over all families.
    """
    least = max(one.max() for one in log_weights) - NEGLIGIBLE
    found = []
    for family, spread, own in zip(families, deviations_db, log_weights, strict=True):
        kept = np.flatnonzero(own > least)
        if len(kept):
            maps = family.maps_dbm(grid, kept)
            found.append((maps, np.broadcast_to(spread, maps.shape), own[kept]))
    maps, spread, weight = (np.concatenate(part) for part in zip(*found, strict=True))
    return maps, spread, weight
