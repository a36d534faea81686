"""Deterministic maps from noise to sample: one function a solver.

Each takes a denoiser (expected clean sample), the noise, and the angles from pi/2 down to 0.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from hertzmap.diffusion.base import Denoiser
from hertzmap.diffusion.process import velocity


def _velocity_at(denoiser: Denoiser, state: Tensor, phi: float) -> Tensor:
    angle = state.new_full((state.shape[0],), phi)
    return velocity(denoiser(state, angle), state, angle)


def ddim_step(denoiser: Denoiser, state: Tensor, phi: float, phi_next: float) -> Tensor:
    """One DDIM step with eta = 0: cos(d) u - sin(d) v, d = phi - phi_next.

    Equal to eq. 13 of RadioDiff-Inv2 and finite at pure noise.
    """
    step = phi - phi_next
    return math.cos(step) * state - math.sin(step) * _velocity_at(denoiser, state, phi)


def euler_step(denoiser: Denoiser, state: Tensor, phi: float, phi_next: float) -> Tensor:
    """One Euler step of the probability-flow ODE du/dphi = v."""
    return state - (phi - phi_next) * _velocity_at(denoiser, state, phi)


def heun_step(denoiser: Denoiser, state: Tensor, phi: float, phi_next: float) -> Tensor:
    """One Heun step: a DDIM predictor, then the mean of both velocities; plain DDIM at the end.

    Velocities are averaged, not clean and noise estimates: that would give the DDIM step back.
    """
    step = phi - phi_next
    first = _velocity_at(denoiser, state, phi)
    guess = math.cos(step) * state - math.sin(step) * first
    if phi_next <= 0.0:
        return guess
    return state - 0.5 * step * (first + _velocity_at(denoiser, guess, phi_next))


SOLVERS = {"ddim": ddim_step, "euler": euler_step, "heun": heun_step}
"""Solver names and their step functions."""


def sample(
    denoiser: Denoiser,
    noise: Tensor,
    angles: Sequence[float],
    *,
    solver: str = "ddim",
    checkpoint: bool = False,
) -> Tensor:
    """Run noise (batch, ...) down the angles; eq. 23-24 of RadioDiff-Inv2.

    Args:
        denoiser: expected clean sample of a state at an angle.
        noise: the seed, standard normal.
        angles: from pi/2 down to 0 [rad], see `process.angles`.
        solver: ``ddim`` (K calls), ``euler`` (K) or ``heun`` (2K - 1).
        checkpoint: keep only the states for the backward pass; activations are computed again,
            so memory grows by one state a step and a gradient costs 4 instead of 3 forward passes.

    Raises:
        ValueError: if the solver is not known.
    """
    if solver not in SOLVERS:
        msg = f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}"
        raise ValueError(msg)
    step = SOLVERS[solver]
    state = noise
    for phi, phi_next in pairwise(angles):
        if checkpoint and torch.is_grad_enabled():
            state = torch_checkpoint(step, denoiser, state, phi, phi_next, use_reentrant=False)
        else:
            state = step(denoiser, state, phi, phi_next)
    return state


def encode(denoiser: Denoiser, clean: Tensor, angles: Sequence[float]) -> Tensor:
    """Run a clean sample (batch, ...) up the same angles by DDIM steps: an approximate seed.

    The first step leaves phi = 0, where the velocity has no meaning, by keeping the sample.
    """
    rising = tuple(reversed(angles))
    state = clean
    for phi, phi_next in pairwise(rising):
        if phi <= 0.0:
            state = math.cos(phi_next) * clean
            continue
        state = ddim_step(denoiser, state, phi, phi_next)
    return state
