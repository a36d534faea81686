"""Whether stated uncertainty is true: CRPS, coverage, and intervals over environments.

A belief about a number is a mixture of Gaussians: values and spreads with weights, candidates
first. A spread of 0 is a bare sample.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri

from hertzmap.core.seeds import generator

RESAMPLES = 2000
"""Bootstrap resamples."""

_LEAST_SPREAD = 1e-9
_SQRT_PI = np.sqrt(np.pi)


def crps_gaussian(
    value: Float[np.ndarray, "*shape"],
    mean: Float[np.ndarray, "*shape"],
    spread: Float[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """Continuous ranked probability score of a Gaussian; with spread 0 the absolute error.

    ``s [z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)]``, ``z = (x - mean) / s``.
    Source: Gneiting, Raftery, Westveld and Goldman (2005), eq. 5.
    """
    return _mean_distance(value - mean, spread) - spread / _SQRT_PI


def crps_mixture(
    value: Float[np.ndarray, " points"],
    means: Float[np.ndarray, "candidates points"],
    spreads: Float[np.ndarray, "candidates points"],
    weight: Float[np.ndarray, " candidates"],
) -> Float[np.ndarray, " points"]:
    """CRPS of a Gaussian mixture, closed form; cost grows with the square of the candidates.

    ``sum_k w_k A(x - m_k, s_k) - 1/2 sum_kl w_k w_l A(m_k - m_l, sqrt(s_k^2 + s_l^2))`` with
    ``A(m, s)`` the mean distance of ``N(m, s^2)`` from 0.
    Source: Grimit, Gneiting, Berrocal and Johnson, The CRPS for circular variables (2006), eq. 5.
    """
    near = np.einsum("k,kp->p", weight, _mean_distance(value - means, spreads))
    apart = np.zeros_like(value)
    for k in range(len(weight)):
        gap, width = means[k] - means[: k + 1], np.hypot(spreads[k], spreads[: k + 1])
        twice = np.where(np.arange(k + 1) < k, 2.0, 1.0) * weight[k] * weight[: k + 1]
        apart += np.einsum("k,kp->p", twice, _mean_distance(gap, width))
    return near - 0.5 * apart


def crps_ensemble(
    value: Float[np.ndarray, " points"], members: Float[np.ndarray, "samples points"]
) -> Float[np.ndarray, " points"]:
    """Fair CRPS of an ensemble: ``mean |x_k - x| - sum_kl |x_k - x_l| / (2 n (n - 1))``.

    One member has no spread and scores its absolute error.
    Source: Ferro, Fair scores for ensemble forecasts (2014).
    """
    count = len(members)
    near = np.abs(members - value).mean(axis=0)
    if count < 2:
        return near
    ordered = np.sort(members, axis=0)
    rank = 2.0 * np.arange(count) - count + 1.0
    return near - np.einsum("k,kp->p", rank, ordered) / (count * (count - 1.0))


def _mean_distance(gap: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """``E |N(gap, spread^2)|``: ``2 s phi(g/s) + g (2 Phi(g/s) - 1)``."""
    safe = np.maximum(spread, _LEAST_SPREAD)
    ratio = np.clip(gap / safe, -1e6, 1e6)
    density = np.exp(-0.5 * np.minimum(ratio**2, 1400.0)) / np.sqrt(2.0 * np.pi)
    return 2.0 * spread * density + gap * (2.0 * ndtr(ratio) - 1.0)


def probability_below(
    value: Float[np.ndarray, " points"],
    means: Float[np.ndarray, "candidates points"],
    spreads: Float[np.ndarray, "candidates points"],
    weight: Float[np.ndarray, " candidates"],
) -> Float[np.ndarray, " points"]:
    """Probability integral transform: the mixture's distribution function at each value.

    Uniform over [0, 1] where the belief is right. Source: Dawid (1984).
    """
    ratio = (value - means) / np.maximum(spreads, _LEAST_SPREAD)
    return np.einsum("k,kp->p", weight, ndtr(ratio))


def coverage(transform: Float[np.ndarray, " points"], level: float) -> float:
    """Share of values inside the central interval of a level, from their transform.

    >>> coverage(np.array([0.1, 0.5, 0.9]), 0.8)
    1.0
    >>> coverage(np.array([0.05, 0.5, 0.95, 0.6]), 0.8)
    0.5
    """
    return float(np.mean(np.abs(transform - 0.5) <= 0.5 * level + 1e-12))


def central_width(
    means: Float[np.ndarray, "candidates points"],
    spreads: Float[np.ndarray, "candidates points"],
    weight: Float[np.ndarray, " candidates"],
    level: float,
) -> Float[np.ndarray, " points"]:
    """Width of the central interval of a level: closed form for one Gaussian, else bisection."""
    if len(weight) == 1:
        return 2.0 * ndtri(0.5 + 0.5 * level) * spreads[0]
    tail = 0.5 - 0.5 * level
    low = _quantile(means, spreads, weight, tail)
    return _quantile(means, spreads, weight, 1.0 - tail) - low


def _quantile(
    means: np.ndarray, spreads: np.ndarray, weight: np.ndarray, level: float
) -> np.ndarray:
    low = (means - 9.0 * spreads).min(axis=0) - 0.01
    high = (means + 9.0 * spreads).max(axis=0) + 0.01
    for _ in range(20):
        middle = 0.5 * (low + high)
        below = probability_below(middle, means, spreads, weight) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    """Mean over environments."""
    low: float
    """2.5 % quantile of the resampled means."""
    high: float
    """97.5 % quantile of the resampled means."""

    def contains(self, value: float) -> bool:
        """Whether a nominal value lies in the interval."""
        return self.low <= value <= self.high


def bootstrap(
    value: Float[np.ndarray, " samples"], environment: np.ndarray, *, seed: int = 0
) -> Interval:
    """Mean over environments and its percentile interval, resampling whole environments.

    Values of one environment (maps of one city, repeats on one radio cell) are correlated, so they
    are averaged first and stay together. With one environment the interval is the mean itself.

    Args:
        value: one number per run.
        environment: the environment of each run, any sortable labels.
        seed: of the resampling.

    Raises:
        ValueError: if there is no value or the labels do not fit.
    """
    if len(value) == 0 or len(value) != len(environment):
        msg = f"bootstrap needs a label for each of at least one value, got {len(value)} values"
        raise ValueError(msg)
    _, label = np.unique(environment, return_inverse=True)
    means = np.bincount(label, value) / np.bincount(label)
    drawn = generator(seed).integers(len(means), size=(RESAMPLES, len(means)))
    low, high = np.quantile(means[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(means.mean()), float(low), float(high))


def paired_difference(
    ours: Float[np.ndarray, " samples"],
    theirs: Float[np.ndarray, " samples"],
    environment: np.ndarray,
    *,
    seed: int = 0,
) -> Interval:
    """Mean of ours minus theirs on identical reports, with its interval over environments."""
    return bootstrap(ours - theirs, environment, seed=seed)
