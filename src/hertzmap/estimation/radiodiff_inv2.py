"""RadioDiff-Inv2: a diffusion prior inverted through its probability-flow ODE, drift-aware.

Source: RadioDiff-Inv2 (Wang, Wang, Cheng, 2026), eq. 18-30. The paper publishes no optimiser, step
count or stopping rule; all such values are ours. What we add to the paper, each with its switch:
a Gaussian prior on the seed (``z_prior``), the exact moment-matched drift term in place of the
mean of log-likelihoods (``data_term``), an inferred transmitter in place of an environment-only
condition (``transmitter``), and a drift-aware Gaussian process on what the prior leaves
unexplained (``residual``). Preset ``as_published`` has none of them. Samples of the posterior in
place of its mode (``randomised``) follow Bardsley et al., Randomize-then-optimize (2014), without
its correction by importance weights.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
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
from hertzmap.estimation._families import Conditioning, mixture
from hertzmap.estimation._path_loss import PathLossConfig
from hertzmap.estimation._rasters import condition_planes, condition_scalars, pad_site
from hertzmap.estimation._transmitter_search import PlaceConfig, TermPrior, TransmitterSearch
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.measurement.likelihood import data_term, read_nodes
from hertzmap.measurement.operator import DriftOperator


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
    places: int = 8
    """Supposed transmitters whose conditional means are averaged; at least `starts`."""
    apart_cells: float = 8.0
    """Least distance of two of them, in cells."""
    evidence_temperature: float = 1.0
    """Tempering of the evidence by which conditional means share their weight."""
    inverted_share: float = 0.25
    """Share of all inverted maps together in what they and the conditional means weigh."""
    data_temperature: float = 1.0
    """Tempering of the data term in the inversion, for the same reason as `temperature`."""
    iterations: int = 30
    """Most optimiser steps."""
    rate: float = 0.05
    """Adam's step size in seed space."""
    initial: Literal["encoded", "random", "guessed"] = "encoded"
    """Start from the conditional mean run backwards through the ODE, from noise, or from the map
    of another method (`RadioDiffInv2.guess`) run backwards."""
    randomised: bool = False
    """Randomise, then optimise: each start explains its own noisy copy of the reports and is held
    to its own draw of seed and unknowns, so that starts are posterior samples."""
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
    path_loss: bool = True
    """Whether Kriging about path loss from supposed sites shares the answer, with `residual`."""
    spread_scale: float = 0.8
    """Factor on the stated spread, set on the validation cities."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "starts": 1, "iterations": 0, "patience": 1}
        if self.transmitter == "inferred":
            least["places"] = self.starts
        for name, value in least.items():
            if getattr(self, name) < value:
                msg = f"RadioDiffInv2Config.{name} is {getattr(self, name)}, below {value}"
                raise ConfigError(msg)
        positive = ("rate", "shift", "model_std", "temperature", "coarse_step_m", "spread_scale")
        for name in (*positive, "evidence_temperature", "data_temperature", "offset_std"):
            if not 0.0 < getattr(self, name) < math.inf:
                msg = f"RadioDiffInv2Config.{name} must be above 0, got {getattr(self, name)}"
                raise ConfigError(msg)
        if self.randomised and self.initial != "random":
            msg = "RadioDiffInv2Config.randomised needs initial='random': a seed from the prior"
            raise ConfigError(msg)
        if not 0.0 <= self.inverted_share <= 1.0:
            msg = f"RadioDiffInv2Config.inverted_share is {self.inverted_share}, not in [0, 1]"
            raise ConfigError(msg)


PRESETS: dict[str, RadioDiffInv2Config] = {
    "quick": RadioDiffInv2Config(),
    "thorough": RadioDiffInv2Config(starts=4, iterations=150, steps=4, checkpoint=True),
    "amortised": RadioDiffInv2Config(transmitter="agnostic", initial="guessed", starts=1),
    "posterior": RadioDiffInv2Config(
        starts=6, initial="random", randomised=True, residual=False, spread_scale=0.5
    ),
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
"""Named settings; ``amortised`` is the paper's inversion made fast by a network's first guess, and
``posterior`` gives samples of the posterior where the others give its mode."""


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
    """A batch of starts: their conditions, seeds and global unknowns."""

    planes: Tensor
    agnostic: Tensor
    seed: Tensor
    coefficient: np.ndarray
    """Where the global unknowns of each start begin, whitened: (starts terms)."""
    guess: np.ndarray
    """Conditional mean maps [grey], global unknowns at their prior mean; none if agnostic."""
    terms: np.ndarray
    """Fields of the global unknowns, whitened by their prior [grey]: (places terms rows cols).
    Where the condition is agnostic that is the offset of an unknown link budget, or nothing."""


@final
@dataclass(frozen=True)
class RadioDiffInv2(AbstractEstimator):
    """Optimise the seed of a diffusion prior until its map explains the drifted reports.

    Cost with the shipped network on two cores: about 15 s a 256 x 256 map (``quick``). Use
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
    guess: AbstractEstimator | None = None
    """Gives the map of ``initial="guessed"``; passed in with the network."""
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
        problem = self._problem(reports, site)
        with _frozen(self.network):
            start = self._start(problem, seed, partial(self._guessed, reports, site, seed))
            maps, objective, trace = self._optimise(problem, start, seed)
        reference = reports.reference_dbm
        if reference is None:
            reference = self.config.offset_reference_dbm
        maps_dbm = reference + self.scale.to_db(maps)
        log_weight = -(objective - objective.min()) / self.config.temperature
        if self.config.randomised:  # samples weigh alike
            log_weight = np.zeros(len(maps))
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

    def _start(
        self, problem: _Problem, seed: int, guessed: Callable[[_Problem], np.ndarray]
    ) -> _Start:
        config, starts = self.config, self.config.starts
        rng = torch.Generator().manual_seed(seed)
        shape = (starts, 1, *problem.grid.shape)
        noise = torch.randn(shape, generator=rng)
        free = torch.from_numpy(problem.free)[None, None].float().expand(starts, -1, -1, -1)
        if config.transmitter == "agnostic":
            planes = free.expand(-1, 5, -1, -1)
            agnostic = torch.ones(starts, dtype=torch.bool)
            count = int(problem.offset_std > 0.0)
            terms = np.full((starts, count, *problem.grid.shape), problem.offset_std)
            coefficient = np.zeros((starts, count))
            if config.initial == "guessed":
                noise = self._encoded(problem, planes, agnostic, guessed(problem)[None], noise)
            return _Start(planes, agnostic, noise, coefficient, np.empty(0), terms)
        means = self._searcher(problem, seed).conditional_means(
            problem.grid, problem.free, problem.operator.mean_place_m, self._places()
        )
        guess, stack, coefficient = means.grey, means.planes, means.coefficient[:starts]
        agnostic = torch.zeros(starts, dtype=torch.bool)
        planes = torch.cat([free, torch.from_numpy(stack[:starts])], dim=1)
        if config.initial != "random":
            first = guess[:starts] if config.initial == "encoded" else guessed(problem)[None]
            noise = self._encoded(problem, planes, agnostic, first, noise)
        return _Start(planes, agnostic, noise, coefficient, guess, means.terms)

    def _encoded(
        self,
        problem: _Problem,
        planes: Tensor,
        agnostic: Tensor,
        grey: np.ndarray,
        noise: Tensor,
    ) -> Tensor:
        """Seeds whose maps are these ones, by the ODE run backwards."""
        clean = (2.0 * np.clip(grey[:, None], 0.0, 1.0) - 1.0) * problem.free
        with torch.no_grad():
            denoiser = self._denoiser(planes, agnostic, problem)
            path = angles(self.config.steps, self.config.shift)
            state = torch.from_numpy(clean).float().expand(len(planes), -1, -1, -1)
            encoded = encode(denoiser, state, path)
        return encoded + self.config.seed_noise * noise

    def _guessed(
        self, reports: Reports, site: SceneRaster, seed: int, problem: _Problem
    ) -> np.ndarray:
        """The other method's mean map [grey] on the padded grid."""
        if self.guess is None:
            msg = "initial='guessed' needs guess; build it by training.checkpoint.load_estimator"
            raise ConfigError(msg)
        found = self.guess.estimate(reports, site, seed=seed).mean_dbm()
        reference = reports.reference_dbm
        reference = self.config.offset_reference_dbm if reference is None else reference
        padded = np.zeros(problem.grid.shape)
        padded[: site.grid.rows, : site.grid.cols] = self.scale.to_grey(found - reference)
        return padded

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

    def _places(self) -> PlaceConfig:
        config = self.config
        return PlaceConfig(
            config.places, config.apart_cells, config.coarse_step_m, config.outside_m
        )

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
        self, problem: _Problem, start: _Start, start_seed: int
    ) -> tuple[np.ndarray, np.ndarray, Trace]:
        """Maps [grey], objective per start, and the curves.

        A map is the decoded seed plus the fields of the global unknowns, both optimised.
        """
        config = self.config
        denoiser = self._denoiser(start.planes, start.agnostic, problem)
        free = torch.from_numpy(problem.free)
        path = angles(config.steps, config.shift)
        seed = start.seed.clone().requires_grad_(True)
        fields = torch.from_numpy(start.terms[: config.starts]).float()
        unknown = torch.from_numpy(start.coefficient).float().requires_grad_()
        grey = problem.grey.expand(config.starts, -1)
        held_seed, held_unknown = torch.zeros_like(seed), torch.zeros_like(unknown)
        if config.randomised:
            draw = torch.Generator().manual_seed(start_seed + 1)
            grey = grey + problem.noise * torch.randn(grey.shape, generator=draw)
            held_seed = start.seed
            held_unknown = torch.randn(unknown.shape, generator=draw)
        optimiser = torch.optim.Adam([seed, unknown], lr=config.rate, betas=(0.9, 0.99))

        def objective() -> tuple[Tensor, Tensor, Tensor]:
            clean = sample(denoiser, seed, path, solver=config.solver, checkpoint=config.checkpoint)
            maps = 0.5 * (clean[:, 0] + 1.0)
            maps = (maps + torch.einsum("kt,ktrc->krc", unknown, fields)) * free
            nodes = read_nodes(maps, problem.cell, problem.tap)
            terms = data_term(
                config.data_term,
                nodes,
                problem.omega,
                problem.report,
                problem.count,
                grey,
                problem.noise,
            )
            loss = terms.sum(dim=1) / config.data_temperature
            loss = loss + config.prior_weight * self._seed_prior(seed - held_seed)
            loss = loss + 0.5 * (unknown - held_unknown).square().sum(dim=1)
            misfit = self._misfit(problem, nodes.detach())
            return loss, misfit, maps

        losses, misfits = [], []
        stopped = "cap"
        best = torch.full((config.starts,), math.inf)
        kept = torch.zeros((config.starts, *problem.grid.shape))
        for iteration in range(config.iterations + 1):
            optimiser.zero_grad(set_to_none=True)
            loss, misfit, maps = objective()
            if not bool(torch.isfinite(loss).all()):
                msg = (
                    f"the inversion's loss is not a number at iteration {iteration}; check the "
                    f"reports for extreme values, or lower the step size (rate={config.rate})"
                )
                raise ReportsError(msg)
            losses.append(loss.detach().numpy().astype(np.float64))
            misfits.append(misfit.numpy().astype(np.float64))
            better = loss.detach() < best
            best = torch.where(better, loss.detach(), best)
            kept = torch.where(better[:, None, None], maps.detach(), kept)
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
        return kept.double().numpy(), best.double().numpy(), trace

    def _seed_prior(self, seed: Tensor) -> Tensor:
        square = seed.flatten(1).square().sum(dim=1)
        if self.config.z_prior == "gaussian":
            return 0.5 * square
        if self.config.z_prior == "chi":
            dimension = seed[0].numel()
            return 0.5 * square - 0.5 * (dimension - 1) * torch.log(square)
        return 0.0 * square

    def _misfit(self, problem: _Problem, nodes: Tensor) -> Tensor:
        """Mean of (y - m)^2 / S per start: 1 where the map explains the reports."""
        weighted = nodes * problem.omega
        zero = nodes.new_zeros((len(nodes), problem.count))
        mean = zero.index_add(1, problem.report, weighted)
        square = zero.index_add(1, problem.report, weighted * nodes)
        variance = (square - mean**2).clamp_min(0.0) + problem.noise**2
        return ((problem.grey - mean) ** 2 / variance).mean(dim=1)

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

        Three families of candidates. (1) The conditional means of the supposed transmitters, whose
        global unknowns are estimated together with the process. (2) Path loss from supposed
        sites, which no simulator taught. Members weigh by evidence, the two families by how they
        fill gaps (`_stacking`). (3) The inverted maps: fitted to the same reports, so that neither
        is a fair judge of them; they take `inverted_share` of what the conditional means weigh.
        Averaging over candidates gains what averaging over posterior samples gains.

        An inverted map has the deviation of the conditional means, since its own process does not
        know how far the seed and the global unknowns were left open.

        Returns:
            Maps [dBm] and deviations [dB] (candidates rows cols) and log weights (candidates,).
        """
        grid, generator = problem.grid, np.random.default_rng(seed)
        none = np.zeros((len(maps_dbm), 0, *grid.shape))
        about = Conditioning(problem.operator, reports)
        inverted = about.maps(maps_dbm, none, about.few(generator))
        every = np.arange(len(maps_dbm))
        if not len(start.guess):
            spread = np.broadcast_to(inverted.deviation_db(grid), maps_dbm.shape)
            return inverted.maps_dbm(grid, every), spread, np.zeros(len(every))
        means_dbm = reference + self.scale.to_db(start.guess)
        terms_db = self.scale.span_db * start.terms
        few = about.few(generator)
        families = [about.maps(means_dbm, terms_db, few, self.config.evidence_temperature)]
        if self.config.path_loss:
            trend = PathLossConfig(most_sites=self.config.places)
            few = about.few(generator, trend.most_reports)
            families.append(about.path_loss(problem.free, few, trend))
        shares = about.gap_errors(families, problem.free).log_shares()
        log_weight = [share + one.log_weight for share, one in zip(shares, families, strict=True)]
        share = self.config.inverted_share
        with np.errstate(divide="ignore"):
            log_weight[0] = log_weight[0] + np.log(1.0 - share)
            log_weight.append(np.full(len(every), shares[0] + np.log(share / len(every))))
        spreads = [one.deviation_db(grid) for one in families]
        return mixture(grid, [*families, inverted], [*spreads, spreads[0]], log_weight)

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


@contextmanager
def _frozen(network: MapUNet) -> Iterator[None]:
    """Evaluate without gradients of the weights; leave the network as it was."""
    training, learns = network.training, [p.requires_grad for p in network.parameters()]
    network.eval().requires_grad_(requires_grad=False)
    try:
        yield
    finally:
        network.train(training)
        for parameter, learn in zip(network.parameters(), learns, strict=True):
            parameter.requires_grad_(learn)


def _stalled(losses: list[np.ndarray], patience: int, share: float) -> bool:
    if len(losses) <= 2 * patience:
        return False
    now = np.mean(losses[-patience:], axis=0)
    before = np.mean(losses[-2 * patience : -patience], axis=0)
    return bool((before - now <= share * np.abs(before)).all())


METHOD = RadioDiffInv2
