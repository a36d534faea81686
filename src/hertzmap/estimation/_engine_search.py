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
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int

from hertzmap.core.errors import PropagationError
from hertzmap.core.posteriors import PositionPosterior
from hertzmap.core.types import SceneRaster, Transmitter
from hertzmap.estimation._transmitter_search import free_cells
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.response import TERMS, Response, TermBelief, fill_gaps, term_belief

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
BANDWIDTH = np.array([1.5, 1.5, 0.2])
"""Of the density of judged (east, north, log height)."""
PLACE_TEMPERATURE = 1.25
"""Tempering of the evidence for the place, set on the validation cities."""
LEAST_WEIGHT = 1e-4
"""Samples below this share of the heaviest one are left out of the posterior of the place."""
LEAST_BLUR_M = 1.0
"""Blur of a sample per axis, at least [m]: a cell."""
ABOVE_ROOF_M = 2.0
"""A supposed antenna inside a building is lifted so far above its roof [m]."""
SHRINK = 0.6
"""By which steps grow shorter from round to round."""
LEAST_SHARE = 0.15
"""They grow no shorter than this share."""
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


@final
@dataclass(frozen=True)
class Supposed:
    """A supposed transmitter and how well it explains the reports."""

    place_m: tuple[float, float, float]
    """(east, north, up above ground) [m]."""
    curve: tuple[float, float]
    """(k1, k2) of the bend factor."""
    directional: bool
    """Whether the antenna is a sector."""
    log_evidence: float
    """Log marginal likelihood of the reports, the linear numbers integrated out."""
    value: Float[np.ndarray, " terms"]
    """Posterior mean of the linear numbers, see `propagation.response.TERMS`."""

    @property
    def numbers(self) -> Float[np.ndarray, "5"]:
        """(east, north, log height, log k1, k2)."""
        east, north, up = self.place_m
        return np.array([east, north, np.log(up), np.log(self.curve[0]), self.curve[1]])


@final
@dataclass(frozen=True)
class Found:
    """All that were judged, the best first."""

    pool: Sequence[Supposed]
    """Empty where no antenna can stand."""
    crowding: Float[np.ndarray, " supposed"]
    """Logarithm of how densely places and heights about each one were judged."""
    temperature: float
    """Tempering of the evidence for the map's members, see `SearchConfig.temperature`."""

    @property
    def weight(self) -> Float[np.ndarray, " supposed"]:
        """Weight of each as a member of the map; they sum to 1."""
        return self._weight(self.temperature)

    def _weight(self, temperature: float) -> Float[np.ndarray, " supposed"]:
        evidence = np.array([one.log_evidence for one in self.pool])
        log_weight = evidence / temperature - self.crowding
        weight = np.exp(log_weight - log_weight.max(initial=-np.inf))
        return weight / weight.sum()

    def place(self, temperature: float = PLACE_TEMPERATURE) -> PositionPosterior:
        """Where the transmitter may stand: the judged ones by evidence, each a little blurred.

        Args:
            temperature: tempers the evidence, for errors that reports share.

        Raises:
            ValueError: if no antenna can stand anywhere.
        """
        every = self._weight(temperature)
        kept = np.flatnonzero(every > LEAST_WEIGHT * every.max(initial=0.0))
        place_m = np.array([self.pool[int(k)].place_m[:2] for k in kept]).reshape(-1, 2)
        weight = every[kept] / every[kept].sum()
        gap = place_m - weight @ place_m
        # Scott's rule for two dimensions, on the number of samples that count
        share = float((weight**2).sum()) ** (1.0 / 3.0)
        blur = share * np.einsum("k,ki,kj->ij", weight, gap, gap) + LEAST_BLUR_M**2 * np.eye(2)
        return PositionPosterior(place_m, np.log(weight), np.tile(blur, (len(kept), 1, 1)))

    def members(
        self, most: int, draw: np.random.Generator
    ) -> tuple[list[Supposed], Float[np.ndarray, " members"]]:
        """Different ones drawn by weight, and the logarithm of the weight that each stands for."""
        count = _resampled(self.weight, most, draw)
        index = np.flatnonzero(count)
        return [self.pool[int(k)] for k in index], np.log(count[index] / most)


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
        self.cell: Int[np.ndarray, " points"] = free_cells(site.grid, site.free, place_m)
        self.gain_db = gain_db
        self.variance = noise_db**2 + config.model_db**2
        self.floor_db = floor_db
        self.config = config
        self.beliefs = [
            _widened(term_belief(directional=d), level_std_db, config.roof_std_db)
            for d in (False, True)
        ]

    def map_about(
        self, one: Supposed
    ) -> tuple[Float[np.ndarray, "rows cols"], Float[np.ndarray, "terms rows cols"]]:
        """Path gain with the linear numbers at their prior mean, and their whitened fields [dB].

        Linear about the posterior mean, where the two routes' powers are added.
        """
        layers = self._engine(one.curve).layers_of(Transmitter(one.place_m, _CARRIER_HZ))
        gain, slope = Response.of(fill_gaps(layers)).gain(one.value, self.floor_db)
        belief = self.beliefs[int(one.directional)]
        base = gain - np.tensordot(one.value - belief.mean, slope, 1)
        root = np.linalg.cholesky(belief.covariance)
        return base, np.einsum("tu,trc->urc", root, slope)

    def judge(
        self, place_m: tuple[float, float, float], curve: tuple[float, float]
    ) -> list[Supposed]:
        """Evidence for both kinds of antenna; nothing where none can stand."""
        place_m = self._lifted(place_m)
        try:
            layers = self._engine(curve).layers_of(Transmitter(place_m, _CARRIER_HZ))
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

    def find(self, start_m: Float[np.ndarray, "points 2"], draw: np.random.Generator) -> Found:
        """Improve, then sample.

        Args:
            start_m: places to begin with (east, north) [m].
            draw: of the random steps and samples.
        """
        config = self.config
        first = [
            np.array([east, north, np.log(up), np.log(k1), k2])
            for east, north in start_m
            for up in START_HEIGHTS_M
            for k1, k2 in START_CURVES
        ]
        about = start_m[draw.integers(len(start_m), size=config.scattered)]
        about = about + config.scatter_m * draw.standard_normal(about.shape)
        first += [np.append(place, draw.uniform(SCATTER[0], SCATTER[1])) for place in about]
        with ThreadPoolExecutor(THREADS) as threads:

            def judged(asked: Sequence[np.ndarray]) -> list[Supposed]:
                return [one for found in threads.map(self._judge, asked) for one in found]

            pool = judged(first)
            best = -np.inf
            for turn in range(config.most_rounds if pool else 0):
                pool.sort(key=lambda one: -one.log_evidence)
                if turn >= config.rounds and pool[0].log_evidence < best + config.rise:
                    break
                best = pool[0].log_evidence
                near = apart(pool, config.kept, config.apart_m * _shrunk(turn))
                pool += judged(
                    [self._step(one, turn, draw) for one in near for _ in range(config.tried)]
                )
            for _ in range(config.populations if pool else 0):
                pool += judged(self._proposed(pool, draw))
        pool.sort(key=lambda one: -one.log_evidence)
        return self._found(pool)

    def _judge(self, numbers: Float[np.ndarray, "5"]) -> list[Supposed]:
        east, north, up, k1, k2 = (float(one) for one in numbers)
        return self.judge((east, north, float(np.exp(up))), (float(np.exp(k1)), k2))

    def _engine(self, curve: tuple[float, float]) -> DominantPath:
        return DominantPath(self.environment, PropagationParameters(k1=curve[0], k2=curve[1]))

    def _step(self, one: Supposed, turn: int, draw: np.random.Generator) -> np.ndarray:
        """A random step, ever shorter; now and then with another bend curve."""
        length = np.array([self.config.step_m, self.config.step_m, 0.35, 0.2, 0.5]) * _shrunk(turn)
        numbers = one.numbers + length * draw.standard_normal(len(length))
        if draw.random() < 0.3:
            numbers[3:] = draw.uniform(LOWEST[3:], HIGHEST[3:])
        return np.clip(numbers, LOWEST, HIGHEST)

    def _proposed(self, pool: list[Supposed], draw: np.random.Generator) -> list[np.ndarray]:
        """Steps from judged ones drawn by weight, as wide as those about them are scattered."""
        numbers = np.array([one.numbers for one in pool])
        weight, asked = self._found(pool).weight, []
        for k in np.repeat(np.arange(len(pool)), _resampled(weight, self.config.samples, draw)):
            gap = np.hypot(*(numbers[:, :2] - numbers[k, :2]).T)
            share = weight * (gap < NEAR_M)
            share /= share.sum()
            spread = np.sqrt(share @ (numbers - share @ numbers) ** 2)
            width = np.clip(spread, LEAST_STEP, MOST_STEP) * (0.7 if draw.random() < 0.75 else 1.4)
            step = width * draw.standard_normal(len(width))
            asked.append(np.clip(numbers[k] + step, LOWEST, HIGHEST))
        return asked

    def _found(self, pool: Sequence[Supposed]) -> Found:
        if not pool:
            return Found(pool, np.empty(0), self.config.temperature)
        where = np.array([one.numbers[:3] for one in pool]) / BANDWIDTH
        gap = ((where[:, None] - where) ** 2).sum(axis=-1)
        crowding = np.log(np.exp(-0.5 * gap).sum(axis=1))
        return Found(pool, crowding, self.config.temperature)

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


def apart(pool: Sequence[Supposed], most: int, apart_m: float) -> list[Supposed]:
    """The first of a sorted pool that stand so far from each other."""
    chosen: list[Supposed] = []
    for one in pool:
        if all(np.hypot(*(_ground(one) - _ground(other))) >= apart_m for other in chosen):
            chosen.append(one)
        if len(chosen) == most:
            break
    return chosen


def _shrunk(turn: int) -> float:
    """Length of a round's steps over that of the first one's."""
    return max(SHRINK**turn, LEAST_SHARE)


def _ground(one: Supposed) -> np.ndarray:
    return np.asarray(one.place_m[:2])


def _resampled(
    weight: Float[np.ndarray, " supposed"], most: int, draw: np.random.Generator
) -> Int[np.ndarray, " supposed"]:
    """How often each is drawn by systematic resampling."""
    comb = (draw.random() + np.arange(most)) / most
    index = np.searchsorted(np.cumsum(weight), comb).clip(0, len(weight) - 1)
    return np.bincount(index, minlength=len(weight))


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
