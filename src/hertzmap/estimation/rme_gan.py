"""RME-GAN: RadioUNet's first U-Net as a generator, taught by a discriminator beside map losses.

Source: RME-GAN (Zhang, Wijesinghe, Ding, 2023), two phases of losses. Deviations: half the
channels; an empty transmitter plane; the losses on Fourier rank and on maxima of superpixels are
left out, as their definitions could not be had; the model map that gradients are compared with is
the samples' own smooth map. See `training.regression` for the losses.

``as_published`` learned on clean samples in 1 to 10 % of the cells, and its public code's flaws
stand: the discriminator sees the label as a plane, a sigmoid precedes a loss that expects logits,
maps come unshuffled. ``tuned`` has none of them and learned on drifted, noisy reports.
"""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from hertzmap.core.errors import ConfigError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.estimation._radio_unet import RadioUNetNetwork, estimate_by
from hertzmap.estimation.base import AbstractEstimator

DISCRIMINATOR = (64, 128, 256, 512)
"""Published channels."""


class Discriminator(nn.Module):
    """Logits of patches: 4x4 convolutions of stride 2, then one to a single plane."""

    def __init__(self, inputs: int, share: float) -> None:
        super().__init__()
        widths = [round(share * one) for one in DISCRIMINATOR]
        ins = [inputs, *widths[:-1]]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(ins, widths, strict=True)
        )
        self.last = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, planes: Tensor) -> Tensor:
        """(batch, inputs, rows, cols) -> (batch, 1, patches, patches)."""
        x = planes
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
        return self.last(x)


@final
@dataclass(frozen=True)
class RmeGanConfig:
    """Settings."""

    offset_reference_dbm: float = 5.0
    """Taken for an unknown EIRP per resource element [dBm]: a small cell."""


PRESETS: dict[str, RmeGanConfig] = {"tuned": RmeGanConfig(), "as_published": RmeGanConfig()}
"""Named settings; they differ in their weights."""


@final
@dataclass(frozen=True)
class RmeGan(AbstractEstimator):
    """A baseline: one call of a network, blind to the levels of noise and drift, no spread."""

    config: RmeGanConfig = field(default_factory=RmeGanConfig)
    """Settings."""
    network: RadioUNetNetwork | None = None
    """Passed in by `training.checkpoint.load_estimator`."""
    scale: GreyScale = field(default_factory=GreyScale)
    """The grey scale it was trained on."""

    @classmethod
    def from_preset(cls, preset: str) -> "RmeGan":
        """See the base class; the network still has to be passed in."""
        if preset not in PRESETS:
            msg = f"rme_gan has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class; one report on the map is enough."""
        del seed
        if self.network is None:
            msg = "rme_gan needs its network; build it by training.checkpoint.load_estimator"
            raise ConfigError(msg)
        return estimate_by(
            self.network, reports, site, self.scale, self.config.offset_reference_dbm
        )


def flawed_planes(image: Tensor, real: bool) -> Tensor:
    """What the discriminator of ``as_published`` sees: the map and the label it should find."""
    return torch.cat([image, torch.full_like(image, float(real))], dim=1)


METHOD = RmeGan
