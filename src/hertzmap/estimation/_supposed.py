"""Supposed transmitters that were judged by the reports, and what they say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int

from hertzmap.core.posteriors import PositionPosterior

BANDWIDTH = np.array([1.5, 1.5, 0.2])
"""Of the density of judged (east, north, log height)."""
LEAST_WEIGHT = 1e-4
"""Samples below this share of the heaviest one are left out of the posterior of the place."""
LEAST_BLUR_M = 1.0
"""Blur of a sample per axis, at least [m]: a cell."""


@final
@dataclass(frozen=True)
class Source:
    """What decides the routes from one transmitter, and the kind of its antenna."""

    place_m: tuple[float, float, float]
    """(east, north, up above ground) [m]."""
    curve: tuple[float, float]
    """(k1, k2) of the bend factor."""
    directional: bool
    """Whether the antenna is a sector."""

    @property
    def numbers(self) -> Float[np.ndarray, "5"]:
        """(east, north, log height, log k1, k2)."""
        east, north, up = self.place_m
        return np.array([east, north, np.log(up), np.log(self.curve[0]), self.curve[1]])


@final
@dataclass(frozen=True)
class Supposed:
    """Supposed transmitters of one radio cell, and how well they explain the reports."""

    sources: tuple[Source, ...]
    """At least one; their powers add."""
    log_evidence: float
    """Log marginal likelihood of the reports, the linear numbers integrated out."""
    value: Float[np.ndarray, "sources terms"]
    """Posterior mean of the linear numbers, see `propagation.response.TERMS`."""

    @property
    def numbers(self) -> Float[np.ndarray, "sources 5"]:
        """`Source.numbers` of each."""
        return np.stack([one.numbers for one in self.sources])

    @property
    def ground_m(self) -> Float[np.ndarray, "sources 2"]:
        """(east, north) of each [m]."""
        return np.array([one.place_m[:2] for one in self.sources])

    def ordered_as(self, other: "Supposed") -> "Supposed":
        """The same, its two sources in the order that is nearest to another's."""
        if len(self.sources) != 2:
            return self
        kept = np.hypot(*(self.ground_m - other.ground_m).T).sum()
        swapped = np.hypot(*(self.ground_m[::-1] - other.ground_m).T).sum()
        if kept <= swapped:
            return self
        return Supposed(self.sources[::-1], self.log_evidence, self.value[::-1])


@final
@dataclass(frozen=True)
class Found:
    """All that were judged, the best first."""

    pool: Sequence[Supposed]
    """All with as many sources; empty where no antenna can stand."""
    temperature: float
    """Tempering of the evidence for the map's members."""
    place_temperature: float = 2.0
    """Tempering of the evidence for the places."""

    @property
    def weight(self) -> Float[np.ndarray, " supposed"]:
        """Weight of each as a member of the map; they sum to 1."""
        return self._weight(self.temperature)

    def _weight(self, temperature: float) -> Float[np.ndarray, " supposed"]:
        if not self.pool:
            return np.empty(0)
        evidence = np.array([one.log_evidence for one in self.pool])
        log_weight = evidence / temperature - self._crowding()
        weight = np.exp(log_weight - log_weight.max())
        return weight / weight.sum()

    def _crowding(self) -> Float[np.ndarray, " supposed"]:
        """Logarithm of how densely places and heights about each one were judged."""
        where = np.array([(one.numbers[:, :3] / BANDWIDTH).ravel() for one in self.pool])
        square = (where**2).sum(axis=1)
        gap = np.maximum(square[:, None] + square - 2.0 * where @ where.T, 0.0)
        return np.log(np.exp(-0.5 * gap).sum(axis=1))

    def places(self) -> tuple[PositionPosterior, ...]:
        """Where each transmitter may stand: the judged ones by evidence, each a little blurred."""
        if not self.pool:
            return ()
        every = self._weight(self.place_temperature)
        kept = np.flatnonzero(every > LEAST_WEIGHT * every.max())
        ground_m = np.stack([self.pool[int(k)].ground_m for k in kept])
        weight = every[kept] / every[kept].sum()
        # Scott's rule for two dimensions, on the number of samples that count
        share = float((weight**2).sum()) ** (1.0 / 3.0)
        found = []
        for place_m in np.moveaxis(ground_m, 1, 0):
            gap = place_m - weight @ place_m
            blur = share * np.einsum("k,ki,kj->ij", weight, gap, gap) + LEAST_BLUR_M**2 * np.eye(2)
            covariance = np.tile(blur, (len(kept), 1, 1))
            found.append(PositionPosterior(place_m, np.log(weight), covariance))
        return tuple(found)

    def members(
        self, most: int, draw: np.random.Generator
    ) -> tuple[list[Supposed], Float[np.ndarray, " members"]]:
        """Different ones drawn by weight, and the logarithm of the weight that each stands for."""
        count = resampled(self.weight, most, draw)
        index = np.flatnonzero(count)
        return [self.pool[int(k)] for k in index], np.log(count[index] / most)


def apart(pool: Sequence[Supposed], most: int, apart_m: float) -> list[Supposed]:
    """The first of a sorted pool that stand so far from each other, with one source at least."""
    chosen: list[Supposed] = []
    for one in pool:
        gap = (np.hypot(*(one.ground_m - other.ground_m).T).max() for other in chosen)
        if all(away >= apart_m for away in gap):
            chosen.append(one)
        if len(chosen) == most:
            break
    return chosen


def resampled(
    weight: Float[np.ndarray, " supposed"], most: int, draw: np.random.Generator
) -> Int[np.ndarray, " supposed"]:
    """How often each is drawn by systematic resampling."""
    comb = (draw.random() + np.arange(most)) / most
    index = np.searchsorted(np.cumsum(weight), comb).clip(0, len(weight) - 1)
    return np.bincount(index, minlength=len(weight))
