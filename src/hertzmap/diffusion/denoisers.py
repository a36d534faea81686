"""The denoiser: a U-Net on lossless patches with full-resolution condition coefficients.

Pixel (un)shuffling by the patch size only reorders numbers, so white noise stays white and no
autoencoder caps the quality. Work sits on wide channels at an eighth of the resolution, because
convolutions of 64 and more channels run about twice as fast on a CPU as thin ones.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


@final
@dataclass(frozen=True)
class UNetConfig:
    """Layout of `MapUNet`."""

    planes: int = 5
    """Number of condition planes."""
    scalars: int = 2
    """Number of condition scalars."""
    patch: int = 8
    """Side of a lossless patch [pixels]."""
    widths: tuple[int, ...] = (64, 128, 192)
    """Channels per level; each level halves the resolution."""
    condition_widths: tuple[int, ...] = (64, 64, 64)
    """Channels of the condition encoder per level."""
    embedding: int = 128
    """Width of the embedding of noise level and scalars."""
    heads: int = 4
    """Attention heads at the lowest level."""
    groups: int = 8
    """Groups of the group normalisation."""
    outputs: int = 1
    """Images answered: 1 for a denoiser."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with scale and shift from the embedding."""

    def __init__(self, inputs: int, width: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * width)
        self.skip = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(batch, inputs, r, c), (batch, embedding) -> (batch, width, r, c)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(functional.silu(self.norm2(h) * (1.0 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """Multi-head self-attention over all places of the lowest level."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, width)
        self.query_key_value = nn.Conv2d(width, 3 * width, 1)
        self.project = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, r, c) -> the same shape."""
        batch, width, rows, cols = x.shape
        packed = self.query_key_value(self.norm(x)).flatten(2)
        packed = packed.reshape(batch, 3, self.heads, width // self.heads, rows * cols)
        query, key, value = packed.transpose(-1, -2).unbind(1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return x + self.project(mixed.transpose(-1, -2).reshape(batch, width, rows, cols))


class ConditionEncoder(nn.Module):
    """Condition planes to features per level: the module the paper's adaptation tunes alone."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.patch = config.patch
        inputs = config.planes * config.patch**2
        layers: list[nn.Module] = []
        for level, width in enumerate(config.condition_widths):
            first = (
                nn.Conv2d(inputs, width, 1)
                if level == 0
                else nn.Conv2d(inputs, width, 3, stride=2, padding=1)
            )
            layers.append(
                nn.Sequential(first, nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU())
            )
            inputs = width
        self.levels = nn.ModuleList(layers)

    def forward(self, planes: Tensor) -> list[Tensor]:
        """(batch, planes, rows, cols) -> the patched planes, then features, finest first."""
        x = functional.pixel_unshuffle(planes, self.patch)
        x = x.contiguous(memory_format=torch.channels_last)
        features = [x]
        for layer in self.levels:
            x = layer(x)
            features.append(x)
        return features


class MapUNet(nn.Module):
    """Expected clean image given state, noise level, condition planes and scalars.

    Each output is A + sum_k B_k * plane_k + B_u * state with coefficient fields A, B of full
    resolution: edges of the condition planes reach the output pixel by pixel.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = config.patch
        widths, embed, groups = config.widths, config.embedding, config.groups
        area = config.patch**2
        self.condition_encoder = ConditionEncoder(config)
        self.condition_scalars = nn.Linear(config.scalars, embed)
        self.condition_down = nn.ModuleList(
            nn.Conv2d(c, w, 1) for c, w in zip(config.condition_widths, widths, strict=True)
        )
        self.condition_up = nn.ModuleList(
            nn.Conv2d(c, w, 1) for c, w in zip(config.condition_widths, widths, strict=True)
        )
        self.time = nn.Sequential(nn.Linear(32, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.stem = nn.Conv2d(area, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(ResidualBlock(width, width, embed, groups))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
        self.middle = ResidualBlock(widths[-1], widths[-1], embed, groups)
        self.attention = Attention(widths[-1], config.heads, groups)
        self.up = nn.ModuleList(ResidualBlock(2 * w, w, embed, groups) for w in widths)
        self.grow = nn.ModuleList(
            nn.Conv2d(below, width, 1) for below, width in zip(widths[1:], widths, strict=False)
        )
        self.head_norm = nn.GroupNorm(groups, widths[0])
        self.head = nn.Conv2d(widths[0], area * config.outputs * (config.planes + 2), 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def embed(self, angle: Tensor, scalars: Tensor) -> Tensor:
        """(batch,), (batch, scalars) -> (batch, embedding)."""
        level = torch.log(torch.tan(angle.clamp(1e-3, 0.5 * math.pi - 1e-3))) / 4.0
        rate = torch.exp(torch.linspace(0.0, 3.0, 16, dtype=angle.dtype, device=angle.device))
        wave = level[:, None] * rate
        time = self.time(torch.cat([torch.sin(wave), torch.cos(wave)], dim=1))
        return functional.silu(time + self.condition_scalars(scalars))

    def encode_condition(self, planes: Tensor) -> list[Tensor]:
        """Features of the condition; constant over noise levels, so compute them once."""
        return self.condition_encoder(planes)

    def forward(
        self,
        state: Tensor,
        angle: Tensor,
        planes: Tensor,
        scalars: Tensor,
        features: list[Tensor] | None = None,
    ) -> Tensor:
        """Expected clean image.

        Args:
            state: (batch, 1, rows, cols); rows and cols multiples of patch * 2^(levels - 1).
            angle: noise level (batch,) [rad].
            planes: (batch, planes, rows, cols).
            scalars: (batch, scalars).
            features: of `encode_condition`, when known.
        """
        basis, *features = self.encode_condition(planes) if features is None else features
        embedding = self.embed(angle, scalars)
        patches = functional.pixel_unshuffle(state, self.patch)
        patches = patches.contiguous(memory_format=torch.channels_last)
        x = self.stem(patches)
        kept = []
        for level, block in enumerate(self.down):
            x = block(x + self.condition_down[level](features[level]), embedding)
            kept.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        x = self.attention(self.middle(x, embedding))
        for level in reversed(range(len(self.up))):
            x = x + self.condition_up[level](features[level])
            x = self.up[level](torch.cat([x, kept[level]], dim=1), embedding)
            if level > 0:
                x = functional.interpolate(self.grow[level - 1](x), scale_factor=2.0)
        area = self.patch**2
        coefficients = self.head(functional.silu(self.head_norm(x))).split(area, dim=1)
        images = []
        for first in range(0, len(coefficients), self.config.planes + 2):
            own = coefficients[first : first + self.config.planes + 2]
            image = torch.addcmul(own[0], own[-1], patches)
            for index, plane in enumerate(basis.split(area, dim=1)):
                image = torch.addcmul(image, own[index + 1], plane)
            images.append(image)
        return functional.pixel_shuffle(torch.cat(images, dim=1), self.patch)

    def condition_parameters(self) -> list[nn.Parameter]:
        """Encoder and injection layers: what the paper's adaptation tunes."""
        named = dict(self.named_parameters())
        return [value for name, value in named.items() if name.startswith("condition_")]
