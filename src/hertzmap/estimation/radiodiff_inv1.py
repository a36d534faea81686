"""RadioDiff-Inv1: a diffusion prior whose sampling is pulled to the measurements.

No training. ``as_published``: at each step down, every measured cell's prediction, a Gaussian, is
multiplied with the measurement brought to the same noise level; particles are weighed by how well
they foresaw it. ``tuned``: the prediction's misfit pulls all cells, by the denoiser's gradient.

Source: RadioDiff-Inverse (Wang et al., 2025), filtering posterior sampling (Dou, Song, 2024);
guidance: Song et al., Pseudoinverse-guided diffusion models for inverse problems (2023).
Deviations: our prior of radio maps stands for the paper's prior of photographs, which we do not
ship; ``as_published`` gives it an all-zero condition, so that it knows no buildings, and is not
told the noise. ``tuned`` knows buildings, noise and what drift adds to it, in fewer steps.
"""

import itertools
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor

from hertzmap.core.errors import ConfigError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.diffusion.denoisers import MapUNet
from hertzmap.diffusion.process import angles
from hertzmap.estimation._rasters import (
    MULTIPLE,
    ReportRasters,
    condition_planes,
    condition_scalars,
    rasterize_reports,
)
from hertzmap.estimation.base import AbstractEstimator

UNTOLD = 0.01
"""Standard deviation of measurements whose noise is not told, on the scale of u = 2 grey - 1."""


@final
@dataclass(frozen=True)
class RadioDiffInv1Config:
    """Settings of the sampler."""

    steps: int = 50
    """Steps from pure noise to the map."""
    starts: int = 4
    """Particles."""
    environment: bool = True
    """Whether the prior is told the buildings."""
    told: bool = True
    """Whether the sampler is told noise and drift."""
    trust: float = 0.5
    """Factor on the told variance: below 1, measurements pull more than their noise says."""
    guided: bool = True
    """Whether a measurement pulls all cells, by the denoiser's gradient, or its own cell alone."""
    eta: float = 0.0
    """Share of fresh noise in a guided step, between 0 and 1."""
    mean: bool = True
    """Answer with all particles as candidates; else with the first one alone."""
    shift: float = 4.0
    """Where the steps lie, see `diffusion.process.shifted_angle`."""
    offset_reference_dbm: float = 5.0
    """Taken for an unknown EIRP per resource element [dBm]: a small cell."""

    def __post_init__(self) -> None:
        if min(self.steps, self.starts) < 1 or not self.shift > 0:
            msg = f"RadioDiffInv1Config needs steps, starts and shift above 0, got {self}"
            raise ConfigError(msg)
        if not 0.0 <= self.eta <= 1.0:
            msg = f"RadioDiffInv1Config.eta is {self.eta}, not in [0, 1]"
            raise ConfigError(msg)


PRESETS: dict[str, RadioDiffInv1Config] = {
    "tuned": RadioDiffInv1Config(),
    "as_published": RadioDiffInv1Config(
        steps=1000,
        starts=5,
        environment=False,
        told=False,
        trust=1.0,
        guided=False,
        mean=False,
        shift=1.0,
    ),
}
"""Named settings."""


@final
@dataclass(frozen=True)
class RadioDiffInv1(AbstractEstimator):
    """A baseline: particles of a prior that knows no transmitter, one pass down.

    Cost with the shipped network on one core: 13 s a 256 x 256 map (``tuned``), and 20 times as
    much as published. Where the steps lie decides: most of them close to pure noise, or the
    measurements do not steer the whole.
    """

    config: RadioDiffInv1Config = field(default_factory=RadioDiffInv1Config)
    """Settings."""
    network: MapUNet | None = None
    """The prior's denoiser; passed in by `training.checkpoint.load_estimator`."""
    scale: GreyScale = field(default_factory=GreyScale)
    """The grey scale it was trained on."""

    @classmethod
    def from_preset(cls, preset: str) -> "RadioDiffInv1":
        """See the base class; the network still has to be passed in."""
        if preset not in PRESETS:
            msg = f"radiodiff_inv1 has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class; one report on the map is enough."""
        if self.network is None:
            msg = "radiodiff_inv1 needs its network; build it by training.checkpoint.load_estimator"
            raise ConfigError(msg)
        reference = reports.reference_dbm
        reference = self.config.offset_reference_dbm if reference is None else reference
        rasters = rasterize_reports(reports, site, self.scale, reference, MULTIPLE)
        draw = torch.Generator().manual_seed(seed)
        if self.config.guided:
            particles = self._guided(rasters, draw)
        else:
            with torch.inference_mode():
                particles = self._sample(rasters, draw)
        rows, cols = site.grid.shape
        grey = (0.5 * (particles[:, 0, :rows, :cols] + 1.0)).double().numpy()
        grey = np.clip(grey if self.config.mean else grey[:1], 0.0, 1.0)
        maps_dbm = reference + self.scale.to_db(np.where(site.free, grey, 0.0))
        count = len(maps_dbm)
        return MapPosterior(site.grid, maps_dbm, np.zeros(count), np.zeros_like(maps_dbm))

    def _sample(self, rasters: ReportRasters, draw: torch.Generator) -> Tensor:
        """Particles (starts, 1, rows, cols) on the scale of u = 2 grey - 1."""
        config = self.config
        seen, target = _measured(rasters)
        state = torch.randn((config.starts, 1, *rasters.free.shape[-2:]), generator=draw)
        path = angles(config.steps, config.shift)
        for phi, lower in itertools.pairwise(path):
            clean = self._clean(state, phi, rasters)
            if lower <= 0.0:
                return clean
            gone = (state - np.cos(phi) * clean) / np.sin(phi)
            # DDIM's variance at eta = 1, eq. 12 of RadioDiff-Inv2
            ratio = np.cos(phi) / np.cos(lower) if np.cos(lower) > 0 else 0.0
            std = np.sin(lower) / np.sin(phi) * np.sqrt(max(1.0 - ratio**2, 0.0))
            mean = np.cos(lower) * clean + np.sqrt(max(np.sin(lower) ** 2 - std**2, 0.0)) * gone
            width = np.cos(lower) ** 2 * self._variance(rasters, clean)
            eps = torch.randn(target.shape, generator=draw)
            level = np.cos(lower) * target + np.sin(lower) * eps
            # the measurement's own share of the level's noise is the particle's, as in the source
            both = std**2 * width / (std**2 + width).clamp_min(1e-12)
            pulled = both * (mean / max(std**2, 1e-12) + level / width.clamp_min(1e-12))
            score = -0.5 * (level - mean).square() / (std**2 + width)
            mean = torch.where(seen, pulled, mean)
            spread = torch.where(seen, both.sqrt(), torch.full_like(both, std))
            state = mean + spread * torch.randn(state.shape, generator=draw)
            state = state[_resampled((score * seen).flatten(1).sum(1), draw)]
        return state

    def _guided(self, rasters: ReportRasters, draw: torch.Generator) -> Tensor:
        """As `_sample`, by pseudo-inverse guidance."""
        config = self.config
        seen, target = _measured(rasters)
        state = torch.randn((config.starts, 1, *rasters.free.shape[-2:]), generator=draw)
        for phi, lower in itertools.pairwise(angles(config.steps, config.shift)):
            with torch.enable_grad():
                at = state.detach().requires_grad_()
                clean = self._clean(at, phi, rasters)
                told = self._variance(rasters, clean.detach())
                open_ = np.sin(phi) ** 2  # variance of a cell of unit variance, given the state
                gap = torch.where(seen, open_ * (target - clean.detach()) / (open_ + told), 0.0)
                (pull,) = torch.autograd.grad((clean * gap).sum(), at)
            clean = clean.detach()
            if lower <= 0.0:
                return clean
            gone = (state - np.cos(phi) * clean) / np.sin(phi)
            fresh = config.eta * np.sin(lower)
            kept = np.sqrt(np.sin(lower) ** 2 - fresh**2)
            state = np.cos(lower) * clean + kept * gone + np.cos(phi) * pull
            state = state + fresh * torch.randn(state.shape, generator=draw)
        return state

    def _variance(self, rasters: ReportRasters, clean: Tensor) -> Tensor:
        """Variance of each cell's measurement about the map, as far as the sampler is told."""
        if not self.config.told:
            return torch.full_like(rasters.free, UNTOLD**2)
        noise = 4.0 * rasters.noise**2 / rasters.count.clamp_min(1e-6)
        drift = rasters.drift_cells**2 * _steepness(clean, rasters.free)
        return self.config.trust * (noise + drift)

    def _clean(self, state: Tensor, phi: float, rasters: ReportRasters) -> Tensor:
        network, count = self.network, len(state)
        assert network is not None
        agnostic = torch.ones(count, dtype=torch.bool)
        free = rasters.free if self.config.environment else torch.zeros_like(rasters.free)
        planes = condition_planes(free.expand(count, 5, -1, -1), agnostic)
        scalars = condition_scalars(rasters.spacing_m.expand(count), agnostic)
        angle = torch.full((count,), float(phi))
        return network(state, angle, planes, scalars)


def _measured(rasters: ReportRasters) -> tuple[Tensor, Tensor]:
    """Free cells with reports, and the mean of those on the scale of u."""
    return (rasters.count > 0.0) & (rasters.free > 0.0), 2.0 * rasters.mean - 1.0


def _steepness(clean: Tensor, free: Tensor) -> Tensor:
    """Mean squared slope of the particles' maps per cell, walls left out."""
    image = clean.mean(dim=0, keepdim=True)
    found = torch.zeros_like(image)
    for axis in (-1, -2):
        step = torch.diff(image, dim=axis) ** 2
        open_ = free.narrow(axis, 1, free.shape[axis] - 1) * free.narrow(
            axis, 0, free.shape[axis] - 1
        )
        found.narrow(axis, 0, step.shape[axis]).add_(step * open_)
    return found


def _resampled(log_weight: Tensor, draw: torch.Generator) -> Tensor:
    """Indices of the particles to keep; all where more than half of them still count."""
    weight = torch.softmax(log_weight.double(), dim=0)
    if 1.0 / weight.square().sum() >= 0.5 * len(weight):
        return torch.arange(len(weight))
    return torch.multinomial(weight, len(weight), replacement=True, generator=draw)


METHOD = RadioDiffInv1
