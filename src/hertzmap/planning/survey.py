"""Where to measure next: the places whose reports are expected to leave least doubt about the map.

Errors of a map at two places are correlated as far as the candidates agree on them, and, within a
candidate, over a short distance. A report at one place then lowers the variance at another by
``C(p, q)^2 / (C(q, q) + noise^2)``, whatever it will say; places are taken one by one, each given
those before it.

Source: Krause, Singh, Guestrin, Near-optimal sensor placements in Gaussian processes (2008), with
the drop of total variance as the gain; decorrelation distances of 10 to 50 m as in 3GPP TR 38.901,
table 7.5-6.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import cdist

from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Scene

MOST_PLACES = 600
"""Candidate places, at most."""
MOST_CELLS = 2500
"""Cells over which variance is summed, at most."""


@final
@dataclass(frozen=True)
class Survey:
    """Places to measure at, the most useful first."""

    place_m: Float[np.ndarray, "places 2"]
    """(east, north) [m]."""
    std_db: Float[np.ndarray, " places"]
    """Standard deviation of the map there now [dB]."""
    left: Float[np.ndarray, " places"]
    """Share of the summed variance that is expected to be left once this one and all before it are
    measured."""


def next_places(
    posterior: MapPosterior,
    counted: Bool[np.ndarray, "rows cols"],
    *,
    scene: Scene | None = None,
    count: int = 10,
    noise_db: float = 4.0,
    correlation_m: float = 25.0,
    seed: int = 0,
) -> Survey:
    """Choose places to measure at next.

    Args:
        posterior: belief about the map.
        counted: cells that matter, e.g. those outdoors.
        scene: places are then sought along its roads, as far as they are outdoors; anywhere in
            `counted` without it, or where it has no roads on the map.
        count: number of places.
        noise_db: standard deviation of a report there [dB], above 0.
        correlation_m: distance over which errors within a candidate keep together [m], above 0.
        seed: of the draw of candidate places and cells.

    Raises:
        ValueError: if no cell counts or a number is out of range.
    """
    if not counted.any() or count < 1 or noise_db <= 0.0 or correlation_m <= 0.0:
        msg = (
            "next_places needs cells that count, count >= 1, noise_db > 0 and correlation_m > 0, "
            f"got {int(counted.sum())} cells, {count}, {noise_db} and {correlation_m}"
        )
        raise ValueError(msg)
    draw = np.random.default_rng(seed)
    cells = _thin(np.flatnonzero(counted), MOST_CELLS, draw)
    asked = _thin(_along_roads(posterior, counted, scene), MOST_PLACES, draw)
    between = _covariance(posterior, asked, cells, correlation_m)
    own = _covariance(posterior, asked, asked, correlation_m)
    variance = posterior.std_db().ravel() ** 2
    before = float(variance[cells].sum())
    summed, chosen, left = before, [], []
    for _ in range(min(count, len(asked))):
        spread = np.maximum(np.diag(own), 0.0) + noise_db**2
        gain = (between**2).sum(axis=1) / spread
        gain[chosen] = -1.0
        best = int(gain.argmax())
        summed -= float(gain[best])
        chosen.append(best)
        left.append(max(summed, 0.0) / max(before, 1e-12))
        column = own[:, best] / spread[best]
        between = between - np.outer(column, between[best])
        own = own - np.outer(column, own[best])
    place_m = posterior.grid.centres_m().reshape(-1, 2)[asked[chosen]]
    return Survey(place_m, np.sqrt(variance[asked[chosen]]), np.array(left))


def _thin(index: np.ndarray, most: int, draw: np.random.Generator) -> np.ndarray:
    return index if len(index) <= most else np.sort(draw.choice(index, most, replace=False))


def _along_roads(
    posterior: MapPosterior, counted: Bool[np.ndarray, "rows cols"], scene: Scene | None
) -> Int[np.ndarray, " cells"]:
    """Counted cells that a road runs through; all counted ones where none does."""
    everywhere = np.flatnonzero(counted)
    if scene is None or not scene.roads:
        return everywhere
    step_m = posterior.grid.spacing_m
    points = [
        shapely.get_coordinates(shapely.segmentize(road.line, step_m)) for road in scene.roads
    ]
    place_m = np.concatenate(points)
    cell = posterior.grid.cell(place_m[posterior.grid.contains(place_m)])
    flat = np.unique(cell[:, 0] * posterior.grid.cols + cell[:, 1])
    along = flat[counted.ravel()[flat]]
    return along if len(along) else everywhere


def _covariance(
    posterior: MapPosterior, first: np.ndarray, second: np.ndarray, correlation_m: float
) -> Float[np.ndarray, "first second"]:
    """Covariance of the map's errors at two sets of cells [dB^2]."""
    weight = posterior.weight
    gap = (posterior.maps_dbm - posterior.mean_dbm()).reshape(len(weight), -1)
    spread = np.sqrt(np.einsum("k,krc->rc", weight, posterior.spread_db**2)).ravel()
    place_m = posterior.grid.centres_m().reshape(-1, 2)
    near = np.exp(-cdist(place_m[first], place_m[second]) / correlation_m)
    common = np.einsum("k,kp,kq->pq", weight, gap[:, first], gap[:, second], optimize=True)
    return common + near * np.outer(spread[first], spread[second])
