"""RadioDiff-Inv2: a diffusion prior inverted through its probability-flow ODE, drift-aware.

Source: RadioDiff-Inv2 (Wang, Wang, Cheng, 2026), eq. 18-30. The paper publishes no optimiser, step
count or stopping rule; all such values are ours. What we add to the paper, each with its switch:
a Gaussian prior on the seed (``z_prior``), the exact moment-matched drift term in place of the
mean of log-likelihoods (``data_term``), an inferred transmitter in place of an environment-only
condition (``transmitter``), and a drift-aware Gaussian process on what the prior leaves
unexplained (``residual``). Preset ``as_published`` has none of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster, Trace
from hertzmap.core.units import GreyScale
from hertzmap.diffusion.denoisers import MapUNet
from hertzmap.diffusion.process import angles
from hertzmap.diffusion.samplers import encode, sample
from hertzmap.estimation._gaussian_process import FitConfig, Observations, condition, fit
from hertzmap.estimation._rasters import condition_planes, condition_scalars, pad_site
from hertzmap.estimation._transmitter_search import (
    Evidence,
    SearchSite,
    TermPrior,
    TransmitterSearch,
    basis,
    lattice,
)
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.measurement.likelihood import data_term, read_nodes
from hertzmap.measurement.operator import DriftOperator
from hertzmap.scenes.wayfinding import transmitter_planes


@final
@dataclass(frozen=True)
class RadioDiffInv2Config:
    """Settings of the inversion."""

    data_term: Literal["naive", "blur", "paper", "moment", "mixture"] = "moment"
    """How drift enters the likelihood, see `measurement.likelihood.data_term`."""
    q: int | None = 1
    """Nodes per cell and axis of the drift kernel; None lets the operator choose by the drift."""
    transmitter: Literal["inferred", "agnostic"] = "inferred"
    """Condition on transmitters inferred from the reports, or on the environment only (paper)."""
    z_prior: Literal["gaussian", "chi", "none"] = "gaussian"
    """Prior of the seed: true MAP, a shell, or none as in the paper."""
    prior_weight: float = 1.0
    """Weight of the seed prior; 1 is MAP."""
    steps: int = 2
    """ODE steps K."""
    solver: Literal["ddim", "euler", "heun"] = "ddim"
    """ODE solver."""
    shift: float = 3.0
    """Where the ODE's steps lie, see `diffusion.process.shifted_angle`."""
    starts: int = 2
    """Seeds optimised as one batch, each with its own supposed transmitter."""
    iterations: int = 30
    """Most optimiser steps."""
    rate: float = 0.05
    """Adam's step size in seed space."""
    initial: Literal["encoded", "random"] = "encoded"
    """Start from the conditional mean run backwards through the ODE, or from noise."""
    seed_noise: float = 0.0
    """Standard deviation of noise on an encoded start."""
    plateau: float = 1e-3
    """Stop when the smoothed loss falls by less than this share over `patience` steps."""
    patience: int = 15
    """Steps between the losses that `plateau` compares."""
    discrepancy: bool = False
    """Stop when the normalised squared residual reaches 1."""
    checkpoint: bool = False
    """Keep states only, compute activations again: less memory, 4/3 of the time."""
    coarse_step_m: float = 16.0
    """First spacing of supposed transmitters [m], for a window of 256 m; grows with the window."""
    outside_m: float = 64.0
    """How far off the map a transmitter may be [m], for a window of 256 m; grows with it."""
    model_std: float = 0.06
    """Error of the conditional mean in the search [grey]."""
    temperature: float = 3.0
    """Tempering of the search for errors that neighbouring reports share."""
    offset_std: float = 0.25
    """Prior standard deviation of an unknown link budget [grey]."""
    offset_reference_dbm: float = 5.0
    """Prior mean of an unknown EIRP per resource element [dBm]: a small cell."""
    residual: bool = True
    """Whether a Gaussian process takes up what the prior leaves unexplained."""
    spread_scale: float = 1.0
    """Factor on the stated spread, set on the validation cities."""


PRESETS: dict[str, RadioDiffInv2Config] = {
    "quick": RadioDiffInv2Config(),
    "thorough": RadioDiffInv2Config(starts=4, iterations=150, steps=4, checkpoint=True),
    "as_published": RadioDiffInv2Config(
        data_term="paper",
        transmitter="agnostic",
        z_prior="none",
        steps=4,
        starts=1,
        iterations=100,
        initial="random",
        residual=False,
    ),
}
"""Named settings."""


@final
@dataclass(frozen=True)
class _Problem:
    """Reports on the padded grid, in grey."""

    grid: Grid
    free: np.ndarray
    operator: DriftOperator
    cell: Tensor
    tap: Tensor
    omega: Tensor
    report: Tensor
    grey: Tensor
    noise: Tensor
    offset_std: float

    @property
    def count(self) -> int:
        """Number of kept reports."""
        return len(self.grey)


@final
@dataclass(frozen=True)
class _Start:
    """A batch of starts: their conditions, seeds and offsets."""

    planes: Tensor
    agnostic: Tensor
    seed: Tensor
    offset: Tensor
    guess: np.ndarray
    """Conditional mean maps [grey], global unknowns at their prior mean; none if agnostic."""
    terms: np.ndarray
    """Fields of the global unknowns, whitened by their prior [grey]: (starts terms rows cols)."""


@final
@dataclass(frozen=True)
class RadioDiffInv2(AbstractEstimator):
    """Optimise the seed of a diffusion prior until its map explains the drifted reports.

    Cost with the shipped network on two cores: about 10 s a 256 x 256 map (``quick``). Use
    something else where the building mask is missing, or where the field has many transmitters.
    """

    config: RadioDiffInv2Config = field(default_factory=RadioDiffInv2Config)
    """Settings."""
    network: MapUNet | None = None
    """The prior's denoiser; passed in by `training.checkpoint.load_estimator`."""
    term_prior: TermPrior | None = None
    """Belief about the global unknowns of the search; passed in with the network."""
    scale: GreyScale = field(default_factory=GreyScale)
    """The grey scale the prior was trained on."""
    progress: Callable[[int, int], None] | None = None
    """Called with (iteration, iterations)."""

    @classmethod
    def from_preset(cls, preset: str) -> "RadioDiffInv2":
        """See the base class; the network still has to be passed in."""
        if preset not in PRESETS:
            msg = f"radiodiff_inv2 has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class. The trace holds each start's loss and discrepancy curve."""
        if self.network is None:
            msg = "RadioDiffInv2 needs its network; build it by training.checkpoint.load_estimator"
            raise ConfigError(msg)
        self.network.eval().requires_grad_(requires_grad=False)
        problem = self._problem(reports, site)
        start = self._start(problem, seed)
        maps, offset, objective, trace = self._optimise(problem, start)
        reference = reports.reference_dbm
        if reference is None:
            reference = self.config.offset_reference_dbm
        maps_dbm = reference + self.scale.to_db(maps + offset[:, None, None])
        log_weight = -(objective - objective.min()) / self.config.temperature
        spread_db = np.full_like(maps_dbm, self.config.model_std * self.scale.span_db)
        if self.config.residual:
            maps_dbm, spread_db, log_weight = self._explain_rest(
                problem, start, maps_dbm, reference, reports, seed
            )
        rows, cols = site.grid.shape
        maps_dbm, spread_db = maps_dbm[:, :rows, :cols], spread_db[:, :rows, :cols]
        floor_dbm = reference + self.scale.min_db
        if reports.reference_dbm is not None:
            maps_dbm = np.clip(maps_dbm, floor_dbm, reference + self.scale.max_db)
        maps_dbm = np.where(site.free, maps_dbm, floor_dbm)
        spread_db = np.where(site.free, spread_db * self.config.spread_scale, 0.0)
        return MapPosterior(site.grid, maps_dbm, log_weight, spread_db, trace)

    def _problem(self, reports: Reports, site: SceneRaster) -> _Problem:
        grid, free = pad_site(site)
        drift = reports.drift_cov_m2
        if self.config.data_term == "naive":
            drift = np.zeros_like(drift)
        operator = DriftOperator.build(grid, free, reports.reported_m, drift, q=self.config.q)
        if operator.kept.sum() < 3:
            msg = (
                f"only {int(operator.kept.sum())} of {len(reports)} reports lie on free ground of "
                "the map; RadioDiff-Inv2 needs 3: check the reports' frame and the map's extent"
            )
            raise ReportsError(msg)
        known = reports.reference_dbm is not None
        reference = reports.reference_dbm if known else self.config.offset_reference_dbm
        gain_db = reports.power_dbm[operator.kept] - float(reference or 0.0)
        grey = (gain_db - self.scale.min_db) / self.scale.span_db
        noise = np.maximum(reports.noise_db[operator.kept], 0.5) / self.scale.span_db
        return _Problem(
            grid,
            free,
            operator,
            torch.from_numpy(operator.cell),
            torch.from_numpy(operator.tap).float(),
            torch.from_numpy(operator.omega).float(),
            torch.from_numpy(operator.report),
            torch.from_numpy(grey).float(),
            torch.from_numpy(noise).float(),
            0.0 if known else self.config.offset_std,
        )

    # --- Where to start -------------------------------------------------------------------

    def _start(self, problem: _Problem, seed: int) -> _Start:
        config, starts = self.config, self.config.starts
        rng = torch.Generator().manual_seed(seed)
        shape = (starts, 1, *problem.grid.shape)
        noise = torch.randn(shape, generator=rng)
        free = torch.from_numpy(problem.free)[None, None].float().expand(starts, -1, -1, -1)
        if config.transmitter == "agnostic":
            planes = free.expand(-1, 5, -1, -1)
            offset = torch.zeros(starts)
            agnostic = torch.ones(starts, dtype=torch.bool)
            return _Start(planes, agnostic, noise, offset, np.empty(0), np.empty(0))
        search = self._searcher(problem, seed)
        chosen = self._search(problem, search)
        agnostic = torch.zeros(starts, dtype=torch.bool)
        stack = np.stack(
            [transmitter_planes(problem.free, problem.grid, c.place_m) for c in chosen]
        )
        planes = torch.cat([free, torch.from_numpy(stack)], dim=1)
        full = SearchSite(problem.grid, problem.free, self._cells(problem.grid, problem))
        guess = search.mean_maps(full, stack)
        prior = search.prior
        outer = problem.offset_std**2 / prior.covariance[0, 0]
        offset = np.array([outer * (e.coefficient[0] - prior.mean[0]) for e in chosen])
        fields = np.stack(
            [basis(stack[k], problem.grid, e.place_m) for k, e in enumerate(chosen)]
        ).astype(np.float64)
        coefficient = np.stack([evidence.coefficient for evidence in chosen])
        coefficient[:, 0] -= offset
        first = guess + np.einsum("kt,ktrc->krc", coefficient, fields)
        guess = guess + np.einsum("t,ktrc->krc", prior.mean, fields)
        terms = np.einsum("ts,ktrc->ksrc", np.linalg.cholesky(prior.covariance), fields)
        if config.initial == "encoded":
            clean = torch.from_numpy((2.0 * np.clip(first, 0.0, 1.0) - 1.0) * problem.free)[:, None]
            with torch.no_grad():
                denoiser = self._denoiser(planes, agnostic, problem)
                encoded = encode(denoiser, clean.float(), angles(config.steps, config.shift))
            noise = encoded + config.seed_noise * noise
        return _Start(planes, agnostic, noise, torch.from_numpy(offset).float(), guess, terms)

    def _searcher(self, problem: _Problem, seed: int) -> TransmitterSearch:
        network, prior = self.network, self.term_prior
        assert network is not None
        if prior is None:
            msg = "inferring transmitters needs term_prior; use training.checkpoint.load_estimator"
            raise ConfigError(msg)
        return TransmitterSearch(
            network,
            problem.grey.double().numpy(),
            problem.noise.double().numpy(),
            prior.with_offset_std(problem.offset_std),
            model_std=self.config.model_std,
            temperature=self.config.temperature,
            seed=seed,
        )

    def _cells(self, grid: Grid, problem: _Problem) -> np.ndarray:
        """Cell of the mean possible place of each report."""
        cell = grid.cell(problem.operator.mean_place_m)
        cell = np.clip(cell, 0, np.array(grid.shape) - 1)
        return cell[:, 0] * grid.cols + cell[:, 1]

    def _search(self, problem: _Problem, search: TransmitterSearch) -> list[Evidence]:
        """Coarse to fine: the best supposed transmitters, at least 4 cells apart."""
        config = self.config
        factor = 2 if min(problem.grid.shape) % 64 == 0 and min(problem.grid.shape) >= 128 else 1
        coarse = problem.grid
        free = problem.free
        if factor == 2 and all(n % 64 == 0 for n in problem.grid.shape):
            rows, cols = problem.grid.shape
            coarse = Grid(rows // 2, cols // 2, 2.0 * problem.grid.spacing_m, problem.grid.origin_m)
            free = problem.free.reshape(rows // 2, 2, cols // 2, 2).mean(axis=(1, 3)) >= 0.5
        site = SearchSite(coarse, free, self._cells(coarse, problem))
        size = max(problem.grid.rows, problem.grid.cols) * problem.grid.spacing_m / 256.0
        step = config.coarse_step_m * size
        found = search.score(site, lattice(problem.grid, step, config.outside_m * size))
        while step > 2.0 * problem.grid.spacing_m:
            step *= 0.5
            best = _distinct(found, 2.0 * step, 4)
            corners = 0.5 * step * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
            if step <= 4.0 * problem.grid.spacing_m:
                site = SearchSite(problem.grid, problem.free, self._cells(problem.grid, problem))
                best = _distinct(search.score(site, np.array([b.place_m for b in best])), 0.0, 4)
            around = np.concatenate([np.asarray(b.place_m) + corners for b in best])
            found = best + search.score(site, around)
        return _padded(_distinct(found, 4.0 * problem.grid.spacing_m, config.starts), config.starts)

    # --- Inversion ------------------------------------------------------------------------

    def _denoiser(
        self, planes: Tensor, agnostic: Tensor, problem: _Problem
    ) -> Callable[[Tensor, Tensor], Tensor]:
        network = self.network
        assert network is not None
        planes = condition_planes(planes, agnostic)
        spacing = torch.full((len(planes),), problem.grid.spacing_m)
        scalars = condition_scalars(spacing, agnostic)
        with torch.no_grad():
            features = network.encode_condition(planes)

        def denoise(state: Tensor, angle: Tensor) -> Tensor:
            return network(state, angle, planes, scalars, features)

        return denoise

    def _optimise(
        self, problem: _Problem, start: _Start
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Trace]:
        """Maps [grey], offsets [grey], objective per start, and the curves."""
        config = self.config
        denoiser = self._denoiser(start.planes, start.agnostic, problem)
        free = torch.from_numpy(problem.free)
        path = angles(config.steps, config.shift)
        seed = start.seed.clone().requires_grad_(True)
        offset = start.offset.clone().requires_grad_(problem.offset_std > 0.0)
        groups = [{"params": [seed], "lr": config.rate}]
        if offset.requires_grad:
            groups.append({"params": [offset], "lr": 0.005})
        optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))

        def objective() -> tuple[Tensor, Tensor, Tensor]:
            clean = sample(denoiser, seed, path, solver=config.solver, checkpoint=config.checkpoint)
            maps = (0.5 * (clean[:, 0] + 1.0)) * free
            nodes = read_nodes(maps, problem.cell, problem.tap)
            terms = data_term(
                config.data_term,
                nodes,
                problem.omega,
                problem.report,
                problem.count,
                problem.grey - offset[:, None],
                problem.noise,
            )
            loss = terms.sum(dim=1) + config.prior_weight * self._seed_prior(seed)
            if problem.offset_std > 0.0:
                loss = loss + 0.5 * (offset / problem.offset_std) ** 2
            misfit = self._misfit(problem, nodes.detach(), offset.detach())
            return loss, misfit, maps

        losses, misfits = [], []
        stopped = "cap"
        best = torch.full((config.starts,), math.inf)
        kept, kept_offset = torch.zeros((config.starts, *problem.grid.shape)), offset.detach()
        for iteration in range(config.iterations + 1):
            optimiser.zero_grad(set_to_none=True)
            loss, misfit, maps = objective()
            losses.append(loss.detach().numpy().astype(np.float64))
            misfits.append(misfit.numpy().astype(np.float64))
            better = loss.detach() < best
            best = torch.where(better, loss.detach(), best)
            kept = torch.where(better[:, None, None], maps.detach(), kept)
            kept_offset = torch.where(better, offset.detach(), kept_offset)
            if self.progress is not None:
                self.progress(iteration, config.iterations)
            if config.discrepancy and bool((misfit <= 1.0).all()):
                stopped = "discrepancy"
                break
            if _stalled(losses, config.patience, config.plateau):
                stopped = "plateau"
                break
            if iteration < config.iterations:
                (loss.sum() / problem.count).backward()
                optimiser.step()
        values = {"loss": np.stack(losses), "discrepancy": np.stack(misfits)}
        trace = Trace(values, (stopped,) * config.starts)
        return kept.double().numpy(), kept_offset.double().numpy(), best.double().numpy(), trace

    def _seed_prior(self, seed: Tensor) -> Tensor:
        square = seed.flatten(1).square().sum(dim=1)
        if self.config.z_prior == "gaussian":
            return 0.5 * square
        if self.config.z_prior == "chi":
            dimension = seed[0].numel()
            return 0.5 * square - 0.5 * (dimension - 1) * torch.log(square)
        return 0.0 * square

    def _misfit(self, problem: _Problem, nodes: Tensor, offset: Tensor) -> Tensor:
        """Mean of (y - m)^2 / S per start: 1 where the map explains the reports."""
        weighted = nodes * problem.omega
        zero = nodes.new_zeros((len(nodes), problem.count))
        mean = zero.index_add(1, problem.report, weighted)
        square = zero.index_add(1, problem.report, weighted * nodes)
        variance = (square - mean**2).clamp_min(0.0) + problem.noise**2
        return ((problem.grey - offset[:, None] - mean) ** 2 / variance).mean(dim=1)

    # --- What the prior leaves ------------------------------------------------------------

    def _explain_rest(
        self,
        problem: _Problem,
        start: _Start,
        maps_dbm: np.ndarray,
        reference: float,
        reports: Reports,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Condition a Gaussian process about each map on the reports.

        Candidates are the inverted maps and, where a transmitter was inferred, the conditional
        means, whose global unknowns are then estimated together with the process. Averaging over
        them gains what averaging over posterior samples gains. All weigh the same: inverted maps
        were fitted to the same reports, so their evidence is no fair judge.

        Returns:
            Maps [dBm] and deviations [dB] (candidates rows cols) and log weights (candidates,).
        """
        span = self.scale.span_db
        none = np.zeros((0, *problem.grid.shape))
        about = [(one, none) for one in maps_dbm]
        for guess, terms in zip(start.guess, start.terms, strict=True):
            about.append((reference + self.scale.to_db(guess), span * terms))
        hyper = None
        means, deviations = [], []
        for mean_dbm, terms in reversed(about):
            seen = self._observations(problem, mean_dbm, terms, reports)
            if hyper is None or len(terms) == 0:
                hyper = fit(seen, FitConfig(most_reports=600), np.random.default_rng(seed))
            process = condition(seen, hyper)
            at_cells = np.ascontiguousarray(np.moveaxis(terms, 0, -1)) if len(terms) else None
            means.append(mean_dbm + process.mean_db(problem.grid, at_cells))
            variance = process.variance_db2(problem.grid, at_cells)
            deviations.append(np.sqrt(np.maximum(variance, 0.0)))
        return np.stack(means), np.stack(deviations), np.zeros(len(means))

    def _observations(
        self, problem: _Problem, mean_dbm: np.ndarray, terms: np.ndarray, reports: Reports
    ) -> Observations:
        """What the reports say about a map: residuals at the mean possible places."""
        operator = problem.operator
        reading, variance = operator.moments(mean_dbm)
        count = len(terms)
        cells = self._cells(problem.grid, problem)
        return Observations(
            operator.mean_place_m,
            np.trace(operator.place_cov_m2, axis1=1, axis2=2) / 2.0,
            reports.power_dbm[operator.kept] - reading,
            reports.noise_db[operator.kept] ** 2 + variance,
            terms.reshape(count, problem.free.size)[:, cells].T,
            np.zeros(count),
            np.ones(count),
        )

    def with_options(self, **options: object) -> "RadioDiffInv2":
        """A copy with some settings of the config changed.

        Raises:
            ConfigError: if a setting is not known.
        """
        try:
            return replace(self, config=replace(self.config, **options))
        except TypeError as error:
            msg = f"radiodiff_inv2 has no such setting: {error}"
            raise ConfigError(msg) from error


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


def _padded(chosen: list[Evidence], count: int) -> list[Evidence]:
    """Repeat the best where there are fewer than `count`."""
    return chosen + [chosen[0]] * (count - len(chosen))


def _stalled(losses: list[np.ndarray], patience: int, share: float) -> bool:
    if len(losses) <= 2 * patience:
        return False
    now = np.mean(losses[-patience:], axis=0)
    before = np.mean(losses[-2 * patience : -patience], axis=0)
    return bool((before - now <= share * np.abs(before)).all())


METHOD = RadioDiffInv2
