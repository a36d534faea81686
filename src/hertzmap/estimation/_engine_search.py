"""Where the transmitter stands and what it is like, judged by the reports through the engine.

Each supposed place, height, bend curve and kind of antenna gives routes by the dominant-path model;
all else is linear and integrated out (`propagation.response`). Supposed ones are improved by random
steps that shrink, from places that something cheaper proposes. No truth enters; the beliefs about
propagation are those of the documented ranges.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int

from hertzmap.core.errors import PropagationError
from hertzmap.core.types import SceneRaster, Transmitter
from hertzmap.estimation._transmitter_search import free_cells
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.response import Response, TermBelief, fill_gaps, term_belief

CURVES = ((0.6, 0.8), (1.0, 3.0), (2.0, 2.0), (2.0, 5.0))
"""(k1, k2) of the bend factors that are tried."""
HEIGHTS_M = (4.0, 18.0)
"""Heights that are tried first [m]."""
ABOVE_ROOF_M = 2.0
"""A supposed antenna inside a building is lifted so far above its roof [m]."""
THREADS = 2
"""Supposed transmitters judged at a time; the answer does not depend on it."""
_CARRIER_HZ = 2.0e9
_STEPS = 2


@final
@dataclass(frozen=True)
class SearchConfig:
    """How places are sought."""

    rounds: int = 6
    """Rounds of random steps."""
    kept: int = 4
    """Supposed transmitters that each round improves."""
    tried: int = 6
    """Steps tried from each of them."""
    step_m: float = 8.0
    """First length of a step per axis [m]; falls by 0.6 a round."""
    model_db: float = 4.0
    """Error of the engine's map, taken as independent noise [dB]."""
    behind: float = 60.0
    """After two rounds, those so far behind in log evidence are left alone."""


@final
@dataclass(frozen=True)
class Supposed:
    """A supposed transmitter and how well it explains the reports."""

    place_m: tuple[float, float, float]
    """(east, north, up above ground) [m]."""
    curve: int
    """Index into `CURVES`."""
    directional: bool
    """Whether the antenna is a sector."""
    log_evidence: float
    """Log marginal likelihood of the reports, the linear numbers integrated out."""
    value: Float[np.ndarray, " terms"]
    """Posterior mean of the linear numbers, see `propagation.response.TERMS`."""


class EngineSearch:
    """Scores supposed transmitters of one set of reports."""

    def __init__(
        self,
        site: SceneRaster,
        place_m: Float[np.ndarray, "points 2"],
        gain_db: Float[np.ndarray, " points"],
        noise_db: Float[np.ndarray, " points"],
        *,
        level_std_db: float,
        floor_db: float,
        config: SearchConfig,
    ) -> None:
        """Prepare the engine.

        Args:
            site: heights and free mask.
            place_m: where each report may have been taken, on average (east, north) [m].
            gain_db: reported power minus the reference [dB].
            noise_db: its noise [dB].
            level_std_db: what the reference leaves open [dB]; 0 where it is known.
            floor_db: path gain below which maps are cut [dB].
            config: how to search.
        """
        self.environment = Environment.of_raster(site)
        self.engines = [
            DominantPath(self.environment, PropagationParameters(k1=k1, k2=k2)) for k1, k2 in CURVES
        ]
        self.cell: Int[np.ndarray, " points"] = free_cells(site.grid, site.free, place_m)
        self.gain_db = gain_db
        self.variance = noise_db**2 + config.model_db**2
        self.floor_db = floor_db
        self.config = config
        self.beliefs = [_widened(term_belief(directional=d), level_std_db) for d in (False, True)]

    def map_about(
        self, one: Supposed
    ) -> tuple[Float[np.ndarray, "rows cols"], Float[np.ndarray, "terms rows cols"]]:
        """Path gain with the linear numbers at their prior mean, and their whitened fields [dB].

        Linear about the posterior mean, where the two routes' powers are added.
        """
        layers = self.engines[one.curve].layers_of(Transmitter(one.place_m, _CARRIER_HZ))
        gain, slope = Response.of(fill_gaps(layers)).gain(one.value, self.floor_db)
        belief = self.beliefs[int(one.directional)]
        base = gain - np.tensordot(one.value - belief.mean, slope, 1)
        root = np.linalg.cholesky(belief.covariance)
        return base, np.einsum("tu,trc->urc", root, slope)

    def judge(self, place_m: tuple[float, float, float], curve: int) -> list[Supposed]:
        """Evidence for both kinds of antenna; nothing where none can stand."""
        place_m = self._lifted(place_m)
        try:
            layers = self.engines[curve].layers_of(Transmitter(place_m, _CARRIER_HZ))
        except PropagationError:
            return []
        seen = Response.of(fill_gaps(layers).at(self.cell))
        found = []
        for directional, belief in zip((False, True), self.beliefs, strict=True):
            value, evidence = belief.mean, 0.0
            for _ in range(_STEPS):
                gain, slope = seen.gain(value, self.floor_db)
                target = self.gain_db - gain + value @ slope
                evidence, value = _evidence(target, self.variance, slope.T, belief)
            found.append(Supposed(place_m, curve, directional, evidence, value))
        return found

    def find(
        self, start_m: Float[np.ndarray, "points 2"], draw: np.random.Generator
    ) -> list[Supposed]:
        """All that were judged, the best first.

        Args:
            start_m: places to begin with (east, north) [m].
            draw: of the random steps.
        """
        first = [
            ((float(east), float(north), up), curve)
            for east, north in start_m
            for up in HEIGHTS_M
            for curve in (0, 2)
        ]
        with ThreadPoolExecutor(THREADS) as threads:

            def judged(asked: list[tuple[tuple[float, float, float], int]]) -> list[Supposed]:
                return [
                    one
                    for found in threads.map(lambda job: self.judge(*job), asked)
                    for one in found
                ]

            pool = judged(first)
            for turn in range(self.config.rounds):
                pool.sort(key=lambda one: -one.log_evidence)
                near = [
                    one
                    for one in apart(pool, self.config.kept)
                    if turn < 2 or one.log_evidence > pool[0].log_evidence - self.config.behind
                ]
                pool += judged(
                    [self._step(one, turn, draw) for one in near for _ in range(self.config.tried)]
                )
        pool.sort(key=lambda one: -one.log_evidence)
        return pool

    def _step(
        self, one: Supposed, turn: int, draw: np.random.Generator
    ) -> tuple[tuple[float, float, float], int]:
        step_m = self.config.step_m * 0.6**turn
        east, north = np.asarray(one.place_m[:2]) + step_m * draw.standard_normal(2)
        up = np.clip(one.place_m[2] * np.exp(0.35 * 0.8**turn * draw.standard_normal()), 1.5, 60.0)
        curve = int(draw.integers(len(CURVES))) if draw.random() < 0.4 else one.curve
        return (float(east), float(north), float(up)), curve

    def _lifted(self, place_m: tuple[float, float, float]) -> tuple[float, float, float]:
        """Onto the roof, if it would stand in a building."""
        raster = self.environment.raster
        at = np.asarray(place_m[:2])
        if not raster.grid.contains(at[None])[0]:
            return place_m
        row, col = np.clip(raster.grid.cell(at), 0, np.array(raster.grid.shape) - 1)
        if raster.free[row, col]:
            return place_m
        least_m = float(raster.height_m[row, col]) + ABOVE_ROOF_M
        return (*place_m[:2], max(place_m[2], least_m))


def apart(pool: list[Supposed], most: int) -> list[Supposed]:
    """The first of a sorted pool, one for each place and height."""
    chosen: list[Supposed] = []
    for one in pool:
        if all(one.place_m != other.place_m for other in chosen):
            chosen.append(one)
        if len(chosen) == most:
            break
    return chosen


def _widened(belief: TermBelief, level_std_db: float) -> TermBelief:
    covariance = belief.covariance.copy()
    covariance[0, 0] += level_std_db**2
    return TermBelief(belief.mean, covariance)


def _evidence(
    target: Float[np.ndarray, " points"],
    variance: Float[np.ndarray, " points"],
    terms: Float[np.ndarray, "points terms"],
    belief: TermBelief,
) -> tuple[float, Float[np.ndarray, " terms"]]:
    """Log evidence, up to what no supposed transmitter changes, and posterior mean."""
    residual = target - terms @ belief.mean
    scaled = terms / variance[:, None]
    precision = terms.T @ scaled + np.linalg.inv(belief.covariance)
    factor = np.linalg.cholesky(precision)
    half = np.linalg.solve(factor, scaled.T @ residual)
    mean = belief.mean + np.linalg.solve(factor.T, half)
    volume = 2.0 * np.log(np.diag(factor)).sum() + np.linalg.slogdet(belief.covariance)[1]
    fit = (residual**2 / variance).sum() - half @ half
    return float(-0.5 * (fit + volume)), mean
