"""Where the transmitter may be, judged by the reports through the prior's own conditional mean.

One evaluation of the denoiser at pure noise is the mean map given a supposed transmitter. Its
misfit to the reports, with the few global unknowns of the link budget marginalised in closed
form, weighs the candidates. No other model enters, and no transmitter is told.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from hertzmap.core.grid import Grid
from hertzmap.diffusion.denoisers import MapUNet
from hertzmap.scenes.wayfinding import transmitter_planes

TERMS = (
    "offset",
    "slope",
    "shadow",
    "shadow_slope",
    "detour",
    "wall",
    "cosine",
    "sine",
    "level",
    "level_square",
    "shadow_level",
    "level_cube",
    "slope_square",
    "slope_detour",
    "shadow_detour",
    "detour_square",
    "wall_square",
    "wall_slope",
    "wall_detour",
)
"""What the mean map leaves open: link budget, exponents in and out of sight, losses of bends and
walls (eq. 16-17), a first harmonic of the antenna's azimuth, how strongly and how unevenly the
mean map's own contrast shows, and second orders of distance, detour and wall."""


@final
@dataclass(frozen=True)
class Evidence:
    """How well one supposed transmitter explains the reports."""

    place_m: tuple[float, float]
    """Supposed (east, north) [m]."""
    log_evidence: float
    """Log marginal likelihood of the reports, global unknowns integrated out."""
    coefficient: Float[np.ndarray, " terms"]
    """Posterior mean of the global unknowns [grey], in the order of `TERMS`."""


def basis(
    planes: Float[np.ndarray, "planes *places"],
    offset_m: Float[np.ndarray, "*places 2"],
    mean: Float[np.ndarray, "*places"],
) -> Float[np.ndarray, "terms *places"]:
    """Fields that the global unknowns multiply, at any set of places.

    Args:
        planes: of the supposed transmitter, see `scenes.wayfinding.transmitter_planes`.
        offset_m: each place minus the transmitter's (east, north) [m].
        mean: conditional mean map there [grey].
    """
    length_m = np.maximum(np.hypot(offset_m[..., 0], offset_m[..., 1]), 1e-9)
    distance, detour, sight, wall = planes
    detour = 2.0 * detour
    shadow, slope, level = 1.0 - sight, 3.0 * (distance - 0.6), 2.0 * (mean - 0.4)
    return np.stack(
        [
            np.ones_like(distance),
            slope,
            shadow,
            shadow * slope,
            detour,
            wall * shadow,
            offset_m[..., 0] / length_m,
            offset_m[..., 1] / length_m,
            level,
            level**2,
            shadow * level,
            level**3,
            slope**2,
            slope * detour,
            shadow * detour,
            detour**2,
            wall**2,
            wall * slope,
            wall * detour,
        ]
    ).astype(np.float32)


@final
@dataclass(frozen=True)
class PlaceConfig:
    """Which places are supposed."""

    most: int = 8
    """Supposed transmitters that are kept."""
    apart_cells: float = 8.0
    """Least distance of two of them, in cells."""
    coarse_step_m: float = 16.0
    """First spacing of supposed transmitters [m], for a window of 256 m; grows with the window."""
    outside_m: float = 64.0
    """How far off the map a transmitter may be [m], for a window of 256 m; grows with it."""


@final
@dataclass(frozen=True)
class ConditionalMeans:
    """Mean maps given the best supposed transmitters, the best first."""

    place_m: Float[np.ndarray, "places 2"]
    """Supposed (east, north) [m]."""
    planes: Float[np.ndarray, "places planes rows cols"]
    """Condition planes of each."""
    grey: Float[np.ndarray, "places rows cols"]
    """Mean map [grey], global unknowns at their prior mean."""
    terms: Float[np.ndarray, "places terms rows cols"]
    """Fields of the global unknowns, whitened by their prior [grey]."""
    coefficient: Float[np.ndarray, "places terms"]
    """Posterior mean of the whitened unknowns."""


@final
@dataclass(frozen=True)
class TermPrior:
    """Belief about the global unknowns before any report, measured on training maps."""

    mean: Float[np.ndarray, " terms"]
    """Mean [grey]."""
    covariance: Float[np.ndarray, "terms terms"]
    """Covariance [grey^2]."""

    def with_offset_std(self, offset_std: float) -> "TermPrior":
        """The same with a further unknown offset, of an unknown link budget."""
        covariance = self.covariance.copy()
        covariance[0, 0] += offset_std**2
        return TermPrior(self.mean, covariance)


def linear_evidence(
    residual: Float[np.ndarray, " points"],
    variance: Float[np.ndarray, " points"],
    terms: Float[np.ndarray, "points terms"],
    prior: TermPrior,
    temperature: float = 1.0,
) -> tuple[float, Float[np.ndarray, " terms"]]:
    """Log evidence and posterior mean of r = terms b + e, b ~ N(prior), e ~ N(0, variance).

    `temperature` above 1 counts reports as so many times fewer, for model errors that
    neighbouring reports share.
    """
    residual = residual - terms @ prior.mean
    scaled = terms / (variance * temperature)[:, None]
    precision = terms.T @ scaled + np.linalg.inv(prior.covariance)
    right = scaled.T @ residual
    factor = np.linalg.cholesky(precision)
    half = np.linalg.solve(factor, right)
    mean = prior.mean + np.linalg.solve(factor.T, half)
    fit = (residual**2 / variance).sum() / temperature - half @ half
    norm = np.log(2.0 * np.pi * variance).sum() / temperature
    volume = 2.0 * np.log(np.diag(factor)).sum() + np.linalg.slogdet(prior.covariance)[1]
    return float(-0.5 * (fit + norm + volume)), mean


@final
@dataclass(frozen=True)
class SearchSite:
    """One resolution of the search: grid, mask, and how reports read it."""

    grid: Grid
    """Rows and columns are multiples of the network's."""
    free: Bool[np.ndarray, "rows cols"]
    """Outdoor mask."""
    cell: np.ndarray
    """Flat index of the free cell of each report, shape (points,), see `free_cells`."""


def free_cells(
    grid: Grid, free: Bool[np.ndarray, "rows cols"], place_m: Float[np.ndarray, "points 2"]
) -> Int[np.ndarray, " points"]:
    """Flat index of the free cell nearest to each place: in walls a map means nothing."""
    cell = np.clip(grid.cell(place_m), 0, np.array(grid.shape) - 1)
    if free.any():
        nearest = np.empty((2, *grid.shape), dtype=np.int32)
        distance_transform_edt(~free, return_distances=False, return_indices=True, indices=nearest)
        cell = nearest[:, cell[:, 0], cell[:, 1]].T
    return cell[:, 0] * grid.cols + cell[:, 1]


class TransmitterSearch:
    """Scores supposed transmitters of one set of reports."""

    def __init__(
        self,
        network: MapUNet,
        grey: Float[np.ndarray, " points"],
        noise: Float[np.ndarray, " points"],
        prior: TermPrior,
        *,
        model_std: float,
        temperature: float,
        seed: int,
    ) -> None:
        self.network = network
        self.grey = grey
        self.variance = noise**2 + model_std**2
        self.prior = prior
        self.temperature = temperature
        self.seed = seed

    def mean_maps(
        self, site: SearchSite, planes: Float[np.ndarray, "batch planes rows cols"]
    ) -> Float[np.ndarray, "batch rows cols"]:
        """Mean map [grey] given each supposed transmitter: one denoiser call at pure noise."""
        free = np.broadcast_to(site.free, (len(planes), 1, *site.grid.shape))
        stack = torch.from_numpy(np.concatenate([free.astype(np.float32), planes], axis=1))
        draw = torch.Generator().manual_seed(self.seed)
        noise = torch.randn((1, 1, *site.grid.shape), generator=draw).expand(
            len(planes), -1, -1, -1
        )
        scalars = stack.new_tensor([[np.log2(site.grid.spacing_m), 1.0]]).expand(len(planes), -1)
        angle = stack.new_full((len(planes),), 0.5 * np.pi)
        with torch.no_grad():
            clean: Tensor = self.network(noise, angle, stack, scalars)
        return (0.5 * (clean[:, 0] + 1.0)).numpy()

    def score(
        self, site: SearchSite, places_m: Float[np.ndarray, "points 2"], batch: int = 16
    ) -> list[Evidence]:
        """Evidence of each supposed place."""
        found = []
        for start in range(0, len(places_m), batch):
            chosen = [(float(p[0]), float(p[1])) for p in places_m[start : start + batch]]
            planes = np.stack([transmitter_planes(site.free, site.grid, p) for p in chosen])
            maps = self.mean_maps(site, planes)
            found += [self.judge(site, *about) for about in zip(chosen, planes, maps, strict=True)]
        return found

    def judge(
        self,
        site: SearchSite,
        place_m: tuple[float, float],
        planes: Float[np.ndarray, "planes rows cols"],
        mean: Float[np.ndarray, "rows cols"],
    ) -> Evidence:
        """Evidence of one supposed place, its planes and mean map known."""
        cells_m = site.grid.centres_m().reshape(-1, 2)[site.cell]
        seen = mean.reshape(-1)[site.cell]
        planes_seen = planes.reshape(len(planes), -1)[:, site.cell]
        terms = basis(planes_seen, cells_m - np.asarray(place_m), seen)
        value, coefficient = linear_evidence(
            self.grey - seen, self.variance, terms.T, self.prior, self.temperature
        )
        return Evidence(place_m, value, coefficient)

    def places(
        self,
        grid: Grid,
        free: Bool[np.ndarray, "rows cols"],
        seen_m: Float[np.ndarray, "points 2"],
        config: PlaceConfig,
    ) -> list[Evidence]:
        """Coarse to fine: the best supposed transmitters, `apart_cells` apart.

        Scores of coarse and fine cells stand side by side; `conditional_means` judges again.

        Args:
            grid: padded to the network's multiple.
            free: outdoor mask.
            seen_m: mean place of each report (east, north) [m].
            config: which places are supposed.
        """
        coarse, coarse_free = grid, free
        if all(n % 64 == 0 for n in grid.shape) and min(grid.shape) >= 128:
            rows, cols = grid.shape
            coarse = Grid(rows // 2, cols // 2, 2.0 * grid.spacing_m, grid.origin_m)
            coarse_free = free.reshape(rows // 2, 2, cols // 2, 2).mean(axis=(1, 3)) >= 0.5
        site = SearchSite(coarse, coarse_free, free_cells(coarse, coarse_free, seen_m))
        size = max(grid.rows, grid.cols) * grid.spacing_m / 256.0
        step = config.coarse_step_m * size
        found = self.score(site, lattice(grid, step, config.outside_m * size))
        pool = list(found)
        while step > 2.0 * grid.spacing_m:
            step *= 0.5
            best = _distinct(found, 2.0 * step, 4)
            corners = 0.5 * step * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
            if step <= 4.0 * grid.spacing_m:
                site = SearchSite(grid, free, free_cells(grid, free, seen_m))
                best = _distinct(self.score(site, np.array([b.place_m for b in best])), 0.0, 4)
            around = np.concatenate([np.asarray(b.place_m) + corners for b in best])
            found = best + self.score(site, around)
            pool += found
        chosen = _distinct(pool, config.apart_cells * grid.spacing_m, config.most)
        return chosen + [chosen[0]] * (config.most - len(chosen))

    def conditional_means(
        self,
        grid: Grid,
        free: Bool[np.ndarray, "rows cols"],
        seen_m: Float[np.ndarray, "points 2"],
        config: PlaceConfig,
    ) -> ConditionalMeans:
        """Mean maps of the best places and the fields of what they leave open; see `places`."""
        chosen = self.places(grid, free, seen_m, config)
        planes = np.stack([transmitter_planes(free, grid, c.place_m) for c in chosen])
        full = SearchSite(grid, free, free_cells(grid, free, seen_m))
        means = self.mean_maps(full, planes)
        judged = [
            self.judge(full, c.place_m, *at) for c, *at in zip(chosen, planes, means, strict=True)
        ]
        order = np.argsort([-one.log_evidence for one in judged], kind="stable")
        chosen, planes = [judged[k] for k in order], planes[order]
        grey = means[order].astype(np.float64)
        cells_m = grid.centres_m()
        fields = np.stack(
            [
                basis(planes[k], cells_m - np.asarray(one.place_m), grey[k])
                for k, one in enumerate(chosen)
            ]
        ).astype(np.float64)
        root = np.linalg.cholesky(self.prior.covariance)
        found = np.stack([one.coefficient for one in chosen])
        return ConditionalMeans(
            np.array([one.place_m for one in chosen]),
            planes,
            grey + np.einsum("t,ktrc->krc", self.prior.mean, fields),
            np.einsum("ts,ktrc->ksrc", root, fields),
            np.linalg.solve(root, (found - self.prior.mean).T).T,
        )


def _distinct(found: list[Evidence], apart_m: float, most: int) -> list[Evidence]:
    """The best of all that are at least so far apart."""
    chosen: list[Evidence] = []
    for item in sorted(found, key=lambda e: -e.log_evidence):
        gaps = [math.dist(item.place_m, other.place_m) for other in chosen]
        if all(gap >= apart_m for gap in gaps):
            chosen.append(item)
        if len(chosen) == most:
            break
    return chosen


def lattice(
    grid: Grid, step_m: float, outside_m: float, free: Bool[np.ndarray, "rows cols"] | None = None
) -> Float[np.ndarray, "points 2"]:
    """Candidate places every `step_m`, and every 2 `step_m` in the ring up to `outside_m` away."""
    west, south, east, north = grid.bounds_m
    inner = _mesh(west, south, east, north, step_m)
    if free is not None:
        cell = np.clip(grid.cell(inner), 0, np.array(grid.shape) - 1)
        inner = inner[free[cell[:, 0], cell[:, 1]]]
    if outside_m <= 0.0:
        return inner
    reach = outside_m
    ring = _mesh(west - reach, south - reach, east + reach, north + reach, 2.0 * step_m)
    return np.concatenate([inner, ring[~grid.contains(ring)]])


def _mesh(west: float, south: float, east: float, north: float, step_m: float) -> np.ndarray:
    easts = np.arange(west + 0.5 * step_m, east, step_m)
    norths = np.arange(south + 0.5 * step_m, north, step_m)
    return np.stack(np.meshgrid(easts, norths), axis=-1).reshape(-1, 2)
