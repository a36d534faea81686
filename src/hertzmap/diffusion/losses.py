"""The denoising loss in velocity weighting."""

import torch
from torch import Tensor

from hertzmap.diffusion.base import Denoiser
from hertzmap.diffusion.process import mix


def denoising_loss(
    denoiser: Denoiser, clean: Tensor, noise: Tensor, angle: Tensor, weight: Tensor
) -> Tensor:
    """Mean of weight * |v - v_hat|^2 per sample, shape (batch,).

    With a denoiser that returns the clean sample, |v - v_hat|^2 = |clean - D|^2 / sin^2(phi);
    1 / sin^2 is capped at 10. At pure noise it is the plain squared error, so one evaluation
    there is the conditional mean. RadioDiff-Inv2's eq. 10 weights the noise instead.

    Args:
        denoiser: expected clean sample.
        clean: samples (batch, 1, rows, cols).
        noise: standard normal, like `clean`.
        angle: noise levels (batch,) [rad].
        weight: weight of each pixel, like `clean`, at least 0 (0 leaves a pixel out).
    """
    estimate = denoiser(mix(clean, noise, angle), angle)
    error = (weight * (estimate - clean) ** 2).flatten(1).sum(1)
    level = torch.clamp(1.0 / torch.sin(angle) ** 2, max=10.0)
    return level * error / weight.flatten(1).sum(1).clamp_min(1.0)
