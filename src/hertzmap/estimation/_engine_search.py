"""Where the transmitter stands and what it is like, judged by the reports through the engine.

Each supposed place, height and bend curve gives routes by the dominant-path model; all else is
linear and integrated out (`propagation.response`). Supposed ones are improved by random steps from
places that something cheaper proposes, then sampled by population Monte Carlo, so that those kept
stand for what the reports leave open. No truth enters; the beliefs about propagation are those of
the documented ranges.

Source: Cappe, Guillin, Marin, Robert, Population Monte Carlo (2004); the tempering and the weights
by the density of what was judged are ours.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

import numpy as np
from jaxtyping import Float, Int

from hertzmap.core.errors import PropagationError
from hertzmap.core.types import SceneRaster, Transmitter
from hertzmap.estimation._supposed import Found, Source, Supposed, apart, resampled
from hertzmap.estimation._transmitter_search import free_cells
from hertzmap.propagation.dominant_path import DominantPath, Environment, GainLayers
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.response import (
    TERMS,
    Response,
    TermBelief,
    fill_gaps,
    joint_belief,
    summed_gain,
    term_belief,
)

START_CURVES = ((0.6, 0.8), (2.0, 2.0))
"""(k1, k2) of the bend factors that are tried first."""
START_HEIGHTS_M = (4.0, 18.0)
"""Heights that are tried first [m]."""
LOWEST = np.array([-np.inf, -np.inf, np.log(1.5), np.log(0.3), 0.0])
"""Least (east, north, log height, log k1, k2): the ranges of `propagation.draws`."""
HIGHEST = np.array([np.inf, np.inf, np.log(45.0), np.log(3.0), 6.0])
"""Largest ones."""
SCATTER = np.array([[np.log(3.0), LOWEST[3], 0.0], [np.log(30.0), HIGHEST[3], 6.0]])
"""Log heights and curves of those that are scattered about the first places."""
LEAST_STEP = np.array([0.7, 0.7, 0.08, 0.15, 0.4])
"""Least standard deviation of what is proposed about a sample."""
MOST_STEP = np.array([10.0, 10.0, 0.3, 0.4, 1.2])
"""Largest one."""
NEAR_M = 30.0
"""Samples within it say how wide to propose about one."""
ABOVE_ROOF_M = 2.0
"""A supposed antenna inside a building is lifted so far above its roof [m]."""
SHRINK = 0.6
"""By which steps grow shorter from round to round."""
LEAST_SHARE = 0.15
"""They grow no shorter than this share."""
PAIR_PAYS = 2.5
"""A second transmitter adds five numbers, so the evidence must rise by this times log(reports), in
units of the misfit of one alone: a model that errs everywhere gains by anything that bends it."""
PAIR_HINT = 6.0
"""Rise of the evidence by the best of the first pairs below which no more are sought."""
PLACE_TEMPERATURE = 2.0
"""Tempering of the evidence for places, at least."""
PATCH_M2 = 1000.0
"""Reports within such an area share the engine's error, so each tells less: tempering grows by
their number times the engine's share in the variance of a report. This and the least one were set
on the validation cities in three cells of the benchmark."""
JUMPS = 0.3
"""Share of the steps of a pair that put one of the two anywhere."""
THREADS = 2
"""Supposed transmitters judged at a time; the answer does not depend on it."""
_CARRIER_HZ = 2.0e9
_STEPS = 2
_ROOF = TERMS.index("roof")


@final
@dataclass(frozen=True)
class SearchConfig:
    """How places are sought."""

    scattered: int = 40
    """Random supposed transmitters about those places that are tried first."""
    scatter_m: float = 25.0
    """Standard deviation of their distance per axis [m]."""
    rounds: int = 3
    """Rounds of random steps, at least."""
    most_rounds: int = 10
    """Rounds at most: they go on while the best one's evidence rises by `rise`."""
    rise: float = 6.0
    """See `most_rounds`."""
    kept: int = 8
    """Supposed transmitters that each of these rounds improves."""
    tried: int = 5
    """Steps tried from each of them."""
    apart_m: float = 12.0
    """Least distance of two that the first round improves [m]; falls alike."""
    step_m: float = 12.0
    """First length of a step per axis [m]; falls by `SHRINK` a round."""
    pairs: bool = True
    """Whether a second transmitter is tried where one alone does not explain the reports."""
    pair_rounds: int = 7
    """Rounds of random steps for pairs, at least."""
    seconds: int = 120
    """Places that are tried for it."""
    populations: int = 4
    """Rounds of sampling that follow."""
    samples: int = 40
    """Supposed transmitters that each of them draws."""
    temperature: float = 2.0
    """Tempering of the evidence: reports share errors of the model."""
    model_db: float = 4.0
    """Error of the engine's map, taken as independent noise [dB]."""
    roof_std_db: float = 6.0
    """Added to the belief about the loss over roofs [dB]: knife edges err by so much."""


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
        self.free_m2 = float(site.free.sum()) * site.grid.spacing_m**2
        self.cell: Int[np.ndarray, " points"] = free_cells(site.grid, site.free, place_m)
        self.gain_db = gain_db
        self.noise_db = noise_db
        self.variance = noise_db**2 + config.model_db**2
        self.floor_db = floor_db
        self.config = config
        self.beliefs = [
            _widened(term_belief(directional=d), level_std_db, config.roof_std_db)
            for d in (False, True)
        ]
        self._read = lru_cache(maxsize=128)(self._read_once)

    def map_about(
        self, one: Supposed
    ) -> tuple[Float[np.ndarray, "rows cols"], Float[np.ndarray, "terms rows cols"]]:
        """Path gain with the linear numbers at their prior mean, and their whitened fields [dB].

        Linear about the posterior mean, where the powers of routes and sources are added.
        """
        responses = [Response.of(fill_gaps(self._layers(source))) for source in one.sources]
        gain, slope = summed_gain(responses, one.value, self.floor_db)
        belief = self._belief(tuple(source.directional for source in one.sources))
        base = gain - np.tensordot(one.value.ravel() - belief.mean, slope, 1)
        root = np.linalg.cholesky(belief.covariance)
        return base, np.einsum("tu,trc->urc", root, slope)

    def judge(self, numbers: Float[np.ndarray, "sources 5"]) -> list[Supposed]:
        """Evidence for both kinds of antenna, alike for all; nothing where one cannot stand.

        Args:
            numbers: see `Source.numbers`, one row for each source.
        """
        seen = [self._read(tuple(row.tolist())) for row in numbers]
        found = []
        for kind in (False, True) if all(seen) else ():
            belief = self._belief((kind,) * len(seen))
            responses = [one[1] for one in seen if one]
            value, evidence = belief.mean, 0.0
            for _ in range(_STEPS + len(seen) - 1):
                own = value.reshape(len(seen), -1)
                gain, slope = summed_gain(responses, own, self.floor_db)
                target = self.gain_db - gain + value @ slope
                evidence, value = _evidence(target, self.variance, slope.T, belief)
            sources = tuple(replace(one[0], directional=kind) for one in seen if one)
            found.append(Supposed(sources, evidence, value.reshape(len(seen), -1)))
        return found

    def find(self, start_m: Float[np.ndarray, "points 2"], draw: np.random.Generator) -> Found:
        """Improve, then sample; try a second transmitter where one alone does not explain.

        Args:
            start_m: places to begin with (east, north) [m].
            draw: of the random steps and samples.
        """
        config = self.config
        first = [
            np.array([[east, north, np.log(up), np.log(k1), k2]])
            for east, north in start_m
            for up in START_HEIGHTS_M
            for k1, k2 in START_CURVES
        ]
        about = start_m[draw.integers(len(start_m), size=config.scattered)]
        about = about + config.scatter_m * draw.standard_normal(about.shape)
        first += [np.append(place, self._scattered(draw))[None] for place in about]
        with ThreadPoolExecutor(THREADS) as threads:
            found = self._searched(self._judged(first, threads), config.rounds, threads, draw)
            misfit = self._misfit(found.pool[0]) if config.pairs and found.pool else 0.0
            if misfit > np.mean(self.noise_db**2 / self.variance):
                pairs = self._judged(self._pairs(found.pool, draw), threads)
                alone = found.pool[0].log_evidence
                if max((one.log_evidence for one in pairs), default=-np.inf) > alone + PAIR_HINT:
                    both = self._searched(pairs, config.pair_rounds, threads, draw)
                    gained = (both.pool[0].log_evidence - alone) / max(misfit, 1.0)
                    found = both if gained > PAIR_PAYS * np.log(len(self.gain_db)) else found
        self._read.cache_clear()
        return found

    def _judged(self, asked: Sequence[np.ndarray], threads: ThreadPoolExecutor) -> list[Supposed]:
        return [one for found in threads.map(self.judge, asked) for one in found]

    def _searched(
        self,
        pool: list[Supposed],
        rounds: int,
        threads: ThreadPoolExecutor,
        draw: np.random.Generator,
    ) -> Found:
        """At least so many rounds of random steps from the best, then population Monte Carlo."""
        config, best = self.config, -np.inf
        for turn in range(config.most_rounds if pool else 0):
            pool.sort(key=lambda one: -one.log_evidence)
            if turn >= rounds and pool[0].log_evidence < best + config.rise:
                break
            best = pool[0].log_evidence
            near = apart(pool, config.kept, config.apart_m * _shrunk(turn))
            asked = [self._step(one, turn, draw) for one in near for _ in range(config.tried)]
            pool += self._judged(asked, threads)
        for _ in range(config.populations if pool else 0):
            pool += self._judged(self._proposed(pool, draw), threads)
        pool.sort(key=lambda one: -one.log_evidence)
        ordered = [one.ordered_as(pool[0]) for one in pool]
        return Found(ordered, config.temperature, self.place_temperature)

    def _scattered(self, draw: np.random.Generator) -> np.ndarray:
        """A random (log height, log k1, k2)."""
        return draw.uniform(SCATTER[0], SCATTER[1])

    def _pairs(self, pool: Sequence[Supposed], draw: np.random.Generator) -> list[np.ndarray]:
        """The best that stand apart, each beside places that are scattered over the map."""
        config = self.config
        near = apart(pool, config.kept, config.apart_m)
        first = [
            np.concatenate([one.numbers, other.numbers])
            for k, one in enumerate(near)
            for other in near[:k]
        ]
        for k in range(config.seconds):
            second = np.append(self._anywhere(draw), self._scattered(draw))
            first.append(np.concatenate([near[k % 2 % len(near)].numbers, second[None]]))
        return first

    def _anywhere(self, draw: np.random.Generator) -> np.ndarray:
        """A random (east, north) on the map [m]."""
        west, south, east, north = self.environment.raster.grid.bounds_m
        return draw.uniform((west, south), (east, north))

    @property
    def place_temperature(self) -> float:
        """Tempering of the evidence for places, see `PATCH_M2`."""
        alike = max(PATCH_M2 * len(self.gain_db) / self.free_m2, 1.0)
        share = self.config.model_db**2 / float(np.mean(self.variance))
        return PLACE_TEMPERATURE + alike * share

    def _misfit(self, one: Supposed) -> float:
        """Mean square residual over its stated variance: above 1 where the model falls short."""
        responses = [self._read(tuple(row.tolist())) for row in one.numbers]
        gain, _ = summed_gain([own[1] for own in responses if own], one.value, self.floor_db)
        return float(np.mean((self.gain_db - gain) ** 2 / self.variance))

    def _belief(self, kinds: tuple[bool, ...]) -> TermBelief:
        own = [self.beliefs[int(kind)] for kind in kinds]
        return own[0] if len(own) == 1 else joint_belief(own)

    def _read_once(self, numbers: tuple[float, ...]) -> tuple[Source, Response] | None:
        """What the routes from a place say at the reports; None where no antenna can stand."""
        east, north, up, k1, k2 = numbers
        place_m = self._lifted((east, north, float(np.exp(up))))
        source = Source(place_m, (float(np.exp(k1)), k2), directional=False)
        try:
            layers = self._layers(source)
        except PropagationError:
            return None
        dark = ~(layers.street | layers.roof)
        if dark.reshape(-1)[self.cell].any():  # only then do gaps matter here
            layers = fill_gaps(layers)
        return source, Response.of(layers.at(self.cell))

    def _layers(self, source: Source) -> GainLayers:
        k1, k2 = source.curve
        engine = DominantPath(self.environment, PropagationParameters(k1=k1, k2=k2))
        return engine.layers_of(Transmitter(source.place_m, _CARRIER_HZ))

    def _step(self, one: Supposed, turn: int, draw: np.random.Generator) -> np.ndarray:
        """A random step of one source, ever shorter; now and then with another bend curve."""
        length = np.array([self.config.step_m, self.config.step_m, 0.35, 0.2, 0.5]) * _shrunk(turn)
        numbers = one.numbers
        which = int(draw.integers(len(numbers))) if len(numbers) > 1 else 0
        if len(numbers) > 1 and draw.random() < JUMPS:
            numbers[which] = np.append(self._anywhere(draw), self._scattered(draw))
            return numbers
        numbers[which] += length * draw.standard_normal(len(length))
        if draw.random() < 0.3:
            numbers[which, 3:] = draw.uniform(LOWEST[3:], HIGHEST[3:])
        return np.clip(numbers, LOWEST, HIGHEST)

    def _proposed(self, pool: list[Supposed], draw: np.random.Generator) -> list[np.ndarray]:
        """Steps from judged ones drawn by weight, as wide as those about them are scattered."""
        numbers = np.array([one.ordered_as(pool[0]).numbers for one in pool])
        found = Found(pool, self.config.temperature)
        weight, asked = found.weight, []
        for k in np.repeat(np.arange(len(pool)), resampled(weight, self.config.samples, draw)):
            gap = np.hypot(*np.moveaxis(numbers[:, :, :2] - numbers[k, :, :2], -1, 0))
            share = weight * (gap < NEAR_M).all(axis=1)
            share /= share.sum()
            mean = np.tensordot(share, numbers, 1)
            spread = np.sqrt(np.tensordot(share, (numbers - mean) ** 2, 1))
            width = np.clip(spread, LEAST_STEP, MOST_STEP) * (0.7 if draw.random() < 0.75 else 1.4)
            step = width * draw.standard_normal(width.shape)
            asked.append(np.clip(numbers[k] + step, LOWEST, HIGHEST))
        return asked

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


def _shrunk(turn: int) -> float:
    """Length of a round's steps over that of the first one's."""
    return max(SHRINK**turn, LEAST_SHARE)


def _widened(belief: TermBelief, level_std_db: float, roof_std_db: float) -> TermBelief:
    covariance = belief.covariance.copy()
    covariance[0, 0] += level_std_db**2
    covariance[_ROOF, _ROOF] += roof_std_db**2
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
