"""What a denoiser is."""

from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""D(state (batch, 1, rows, cols), angle (batch,) [rad]) -> expected clean sample, same shape.

Conditions are bound beforehand: samplers and losses know none.
"""
