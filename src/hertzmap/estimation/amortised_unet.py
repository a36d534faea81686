"""One network for all densities, noise levels and drifts: reports in, map with spread out.

The reports are smoothed at four widths, each pulled towards the next wider one as far as their
noise asks; the network sees these maps with how sure they are, the buildings, and the levels of
noise and drift, and answers with a correction of the smooth map and a spread.

Source: ours. The network is that of the prior (`diffusion.denoisers`) with other planes.
"""

from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from hertzmap.core.errors import ConfigError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.estimation._rasters import MULTIPLE, ReportRasters, rasterize_reports
from hertzmap.estimation.base import AbstractEstimator

WIDTHS_CELLS = (1.5, 4.0, 12.0, 36.0)
"""Standard deviations of the smoothing [cells], the drift's added in square."""
FIELD_STD = (0.06, 0.08, 0.1, 0.12)
"""How far a map smoothed so may lie from the next wider one [grey]."""
WALLS_WITHIN = 32.0
"""Distance to the nearest wall is told up to this [cells]."""
LAYOUT = UNetConfig(planes=2 + 2 * len(WIDTHS_CELLS), scalars=6, outputs=2)
"""Layout of the network."""
MEAN_SCALE, STD_SCALE = 0.5, 0.1


class AmortisedNetwork(nn.Module):
    """Mean and log standard deviation [grey] of a map given rasters of reports."""

    def __init__(self, config: UNetConfig = LAYOUT) -> None:
        super().__init__()
        self.config = config
        self.body = MapUNet(config)

    def forward(self, rasters: ReportRasters, wall: Tensor) -> tuple[Tensor, Tensor]:
        """Two images (batch, 1, rows, cols).

        Args:
            rasters: rows and columns multiples of 32.
            wall: distance to the nearest wall over `WALLS_WITHIN`, at most 1, like ``free``.
        """
        smooth, planes, level = smoothed(rasters)
        planes = torch.cat([rasters.free, wall, planes], dim=1)
        cells = rasters.free.flatten(1).sum(1).clamp_min(1.0)
        share = rasters.count.flatten(1).sum(1) / cells
        scalars = torch.stack(
            [
                torch.log2(rasters.spacing_m),
                level,
                torch.log10(rasters.noise + 0.01),
                0.25 * rasters.drift_cells,
                torch.log10(share + 1e-5),
                rasters.unknown_level,
            ],
            dim=1,
        )
        angle = torch.full_like(level, 0.5 * torch.pi)
        state = (smooth - level[:, None, None, None]) / 0.25
        answer = self.body(state, angle, planes, scalars)
        mean = smooth + MEAN_SCALE * answer[:, :1]
        log_std = np.log(STD_SCALE) + torch.clamp(answer[:, 1:], -4.0, 2.0)
        return mean, log_std


def smoothed(rasters: ReportRasters) -> tuple[Tensor, Tensor, Tensor]:
    """Map smoothed at all widths (grey), planes of value and sureness per width, mean level."""
    weight = 1.0 / (rasters.noise**2 + FIELD_STD[0] ** 2)
    count, total = rasters.count, rasters.total
    level = total.flatten(1).sum(1) / count.flatten(1).sum(1).clamp_min(1e-6)
    at = level[:, None, None, None]
    smooth, planes = at.expand_as(total), []
    layers = torch.cat([count, total - at * count], dim=1)
    for width, deviation in zip(reversed(WIDTHS_CELLS), reversed(FIELD_STD), strict=True):
        std = torch.sqrt(width**2 + rasters.drift_cells**2)
        rows, cols = (_blur(size, std)[:, None] for size in count.shape[-2:])
        spread = rows @ layers @ cols
        sure = spread[:, :1] * weight[:, None, None, None]
        own = spread[:, 1:] * weight[:, None, None, None]
        prior = deviation**-2
        smooth = (own + prior * (smooth - at)) / (sure + prior) + at
        planes += [(smooth - at) / 0.25, sure / (sure + prior)]
    return smooth, torch.cat(planes, dim=1), level


def _blur(size: int, std: Float[Tensor, " batch"]) -> Float[Tensor, "batch size size"]:
    """Matrices of Gaussians of height 1."""
    gap = torch.arange(size, dtype=std.dtype, device=std.device)
    gap = gap[:, None] - gap
    return torch.exp(-0.5 * (gap / std[:, None, None]) ** 2)


def wall_plane(free: np.ndarray) -> np.ndarray:
    """Distance to the nearest wall over `WALLS_WITHIN`, at most 1."""
    if free.all():
        return np.ones(free.shape)
    return np.minimum(np.asarray(distance_transform_edt(free)) / WALLS_WITHIN, 1.0)


@final
@dataclass(frozen=True)
class AmortisedUNetConfig:
    """Settings."""

    offset_reference_dbm: float = 5.0
    """Prior mean of an unknown EIRP per resource element [dBm]: a small cell."""
    spread_scale: float = 1.0
    """Factor on the stated spread."""


PRESETS: dict[str, AmortisedUNetConfig] = {"default": AmortisedUNetConfig()}
"""Named settings."""


@final
@dataclass(frozen=True)
class AmortisedUNet(AbstractEstimator):
    """One call of a network per map.

    Use it where milliseconds count. Use `combined` where accuracy does, or where the field is
    unlike the dominant-path engine's, which taught this network all it knows.
    """

    config: AmortisedUNetConfig = field(default_factory=AmortisedUNetConfig)
    """Settings."""
    network: AmortisedNetwork | None = None
    """Passed in by `training.checkpoint.load_estimator`."""
    scale: GreyScale = field(default_factory=GreyScale)
    """The grey scale it was trained on."""

    @classmethod
    def from_preset(cls, preset: str) -> "AmortisedUNet":
        """See the base class; the network still has to be passed in."""
        if preset not in PRESETS:
            msg = f"amortised_unet has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class; one report on the map is enough."""
        del seed
        if self.network is None:
            msg = "amortised_unet needs its network; build it by training.checkpoint.load_estimator"
            raise ConfigError(msg)
        reference = reports.reference_dbm
        if reference is None:
            reference = self.config.offset_reference_dbm
        rasters = rasterize_reports(reports, site, self.scale, reference, MULTIPLE)
        wall = torch.from_numpy(wall_plane(rasters.free[0, 0].numpy() > 0.5)).float()
        with torch.inference_mode():
            mean, log_std = self.network(rasters, wall[None, None])
        rows, cols = site.grid.shape
        grey = mean[0, 0, :rows, :cols].double().numpy()
        std = log_std[0, 0, :rows, :cols].double().exp().numpy() * self.config.spread_scale
        if reports.reference_dbm is not None:
            grey = np.clip(grey, 0.0, 1.0)
        maps_dbm = reference + self.scale.to_db(np.where(site.free, grey, 0.0))
        spread_db = np.where(site.free, self.scale.span_db * std, 0.0)
        return MapPosterior(site.grid, maps_dbm[None], np.zeros(1), spread_db[None])


METHOD = AmortisedUNet
