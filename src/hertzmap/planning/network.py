"""Several radio cells at once: who serves where, and how many could.

Every radio cell has its own posterior; given the reports they err independently. All figures are
shares of joint draws, so doubt about each map goes into them. Within a draw a candidate's cells err
together, which leaves what is said of a single cell of the map as it is, and borders smooth.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri

from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior


@final
@dataclass(frozen=True)
class NetworkView:
    """Who serves where. Radio cells are counted in the order of `names`."""

    grid: Grid
    """The raster."""
    names: tuple[str, ...]
    """Radio cells, e.g. their PCI."""
    best_probability: Float[np.ndarray, "cells rows cols"]
    """Probability that each radio cell is the strongest one and above the threshold."""
    any_probability: Float[np.ndarray, "rows cols"]
    """Probability that at least one is above the threshold."""
    expected_servers: Float[np.ndarray, "rows cols"]
    """Expected number above the threshold and within the margin of the strongest."""
    overlap_probability: Float[np.ndarray, "rows cols"]
    """Probability that there are so many of those that they count as overlap."""
    best_dbm: Float[np.ndarray, "rows cols"]
    """Expected power of the strongest one [dBm]."""

    @property
    def best(self) -> Int[np.ndarray, "rows cols"]:
        """Index of the likeliest server; -1 where none is likelier than 'no service'."""
        likeliest = self.best_probability.argmax(axis=0)
        unserved = 1.0 - self.any_probability
        return np.where(self.best_probability.max(axis=0) > unserved, likeliest, -1)


def view_network(
    posteriors: dict[str, MapPosterior],
    *,
    threshold_dbm: float = -110.0,
    margin_db: float = 6.0,
    overlapping: int = 3,
    draws: int = 100,
    seed: int = 0,
) -> NetworkView:
    """Best server and overlap from the posteriors of several radio cells on one grid.

    Args:
        posteriors: by name of the radio cell, all on the same grid.
        threshold_dbm: a radio cell serves where it is above it [dBm].
        margin_db: servers within it of the strongest one could serve as well [dB].
        overlapping: so many of them count as overlap (pilot pollution), at least 2.
        draws: joint draws; shares are exact to about ``0.5 / sqrt(draws)``.
        seed: pairs the draws of one radio cell with those of the others.

    Raises:
        ValueError: if there is no radio cell, the grids differ, or a number is out of range.
    """
    if not posteriors:
        msg = "view_network needs at least one radio cell's posterior"
        raise ValueError(msg)
    names, each = tuple(posteriors), tuple(posteriors.values())
    grid = each[0].grid
    strays = [name for name, one in posteriors.items() if one.grid != grid]
    if strays:
        msg = f"radio cells {', '.join(strays)} lie on another grid than {names[0]}; estimate all "
        msg += "of them on one grid"
        raise ValueError(msg)
    if margin_db < 0.0 or overlapping < 2 or draws < 1:
        msg = (
            "view_network needs margin_db >= 0, overlapping >= 2 and draws >= 1, got "
            f"{margin_db}, {overlapping} and {draws}"
        )
        raise ValueError(msg)
    best = np.zeros((len(each), *grid.shape))
    served, servers, overlap, strongest = (np.zeros(grid.shape) for _ in range(4))
    plans = [
        _plan(one, draws, np.random.default_rng((seed, cell))) for cell, one in enumerate(each)
    ]
    for k in range(draws):
        drawn = np.stack(
            [
                one.maps_dbm[which[k]] + level[k] * one.spread_db[which[k]]
                for one, (which, level) in zip(each, plans, strict=True)
            ]
        )
        top = drawn.max(axis=0)
        above = top > threshold_dbm
        first = drawn.argmax(axis=0)
        for cell in range(len(each)):
            best[cell] += (first == cell) & above
        count = ((drawn > threshold_dbm) & (drawn >= top - margin_db)).sum(axis=0)
        served += above
        servers += count
        overlap += count >= overlapping
        strongest += top
    return NetworkView(
        grid, names, best / draws, served / draws, servers / draws, overlap / draws,
        strongest / draws,
    )  # fmt: skip


def _plan(
    posterior: MapPosterior, draws: int, draw: np.random.Generator
) -> tuple[Int[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Candidate and deviation in units of its spread, for every draw: both evenly spread."""
    even = (np.arange(draws) + 0.5) / draws
    which = np.searchsorted(np.cumsum(posterior.weight), even).clip(0, len(posterior.weight) - 1)
    return draw.permutation(which), draw.permutation(ndtri(even))
