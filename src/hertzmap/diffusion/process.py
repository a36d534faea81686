"""The variance-preserving process in angle form, and conversions between its quantities.

The state at angle phi is u = cos(phi) clean + sin(phi) noise, phi from pi/2 (pure noise) to 0.
With sqrt(alpha_bar) = cos(phi) it is the process of DDPM (eq. 1-3 of RadioDiff-Inv2); the velocity
is v = cos(phi) noise - sin(phi) clean = du/dphi, so the probability-flow ODE is du/dphi = v.
"""

import math

import torch
from torch import Tensor


def _like(angle: Tensor, state: Tensor) -> Tensor:
    return angle.reshape(-1, *([1] * (state.ndim - 1)))


def mix(clean: Tensor, noise: Tensor, angle: Tensor) -> Tensor:
    """State (batch, ...) at an angle (batch,) [rad]: eq. 3 of RadioDiff-Inv2 in angle form."""
    phi = _like(angle, clean)
    return torch.cos(phi) * clean + torch.sin(phi) * noise


def velocity(clean: Tensor, state: Tensor, angle: Tensor) -> Tensor:
    """Velocity v = (cos(phi) u - clean) / sin(phi); needs phi > 0."""
    phi = _like(angle, state)
    return (torch.cos(phi) * state - clean) / torch.sin(phi)


def clean_from_velocity(v: Tensor, state: Tensor, angle: Tensor) -> Tensor:
    """Clean sample cos(phi) u - sin(phi) v: eq. 8 of RadioDiff-Inv2 without its division."""
    phi = _like(angle, state)
    return torch.cos(phi) * state - torch.sin(phi) * v


def noise_from_velocity(v: Tensor, state: Tensor, angle: Tensor) -> Tensor:
    """Noise sin(phi) u + cos(phi) v."""
    phi = _like(angle, state)
    return torch.sin(phi) * state + torch.cos(phi) * v


def shifted_angle(time: Tensor, shift: float) -> Tensor:
    """Angle [rad] of a time in [0, 1]: tan(phi) = shift tan(pi t / 2).

    ``shift = 1`` is the cosine schedule. Large, smooth images decide their few global features
    at noise levels far above 1, where a cosine schedule hardly looks; a shift above 1 moves
    steps and training there (our choice; the sources' schedules are for latents or small images).
    """
    half = 0.5 * math.pi * time
    return torch.atan2(shift * torch.sin(half), torch.cos(half))


def angles(steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """The ``steps + 1`` angles [rad] from pi/2 down to 0 of a sampler.

    Raises:
        ValueError: if there is no step.
    """
    if steps < 1:
        msg = f"a sampler needs at least one step, got {steps}"
        raise ValueError(msg)
    time = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return tuple(shifted_angle(time, shift).tolist())
