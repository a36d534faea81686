"""The U-Net that RadioUNet and RME-GAN share, and how both feed it and read it."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.estimation._rasters import ReportRasters, rasterize_reports

POOLED = 64
"""Rows and columns are multiples of it: six poolings."""
PLANES = 3
"""Buildings, transmitter (empty), values."""
FIRST = (6, 40, 50, 60, 100, 100, 150, 300, 500, 300, 150, 100, 100, 60, 50, 40, 20, 20)
"""Published channels of the first U-Net, down then up, without the last one."""
SECOND = (20, 30, 40, 50, 60, 70, 90, 110, 150, 110, 90, 70, 60, 50, 40, 30, 20, 20)
"""Published channels of the second U-Net."""
_DOWN = ((3, 1), (5, 2), (5, 2), (5, 1), (5, 2), (3, 1), (5, 2), (5, 2), (5, 2))
_UP = ((4, 2), (4, 2), (4, 2), (3, 1), (6, 2), (5, 1), (6, 2), (6, 2), (5, 1))


@final
@dataclass(frozen=True)
class RadioUNetLayout:
    """Layout of one U-Net or of two in a row."""

    share: float = 0.5
    """Share of the published channels."""
    second: bool = True
    """Whether a second U-Net follows."""


class Stage(nn.Module):
    """One U-Net: nine convolutions down, nine up, skips concatenated, ReLU after every layer."""

    def __init__(self, inputs: int, channels: tuple[int, ...], share: float) -> None:
        super().__init__()
        width = [max(2, round(share * one)) for one in channels]
        count, below = len(_DOWN), inputs
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for out, (kernel, _) in zip(width, _DOWN, strict=False):
            self.down.append(nn.Conv2d(below, out, kernel, padding=kernel // 2))
            below = out
        for step, (kernel, stride) in enumerate(_UP):
            skip = width[count - 1 - step] if step else 0
            extra = inputs if step == len(_UP) - 1 else 0
            out = width[count + step]
            self.up.append(
                nn.ConvTranspose2d(below + skip, out, kernel, 2, padding=(kernel - 2) // 2)
                if stride == 2
                else nn.Conv2d(below + skip + extra, out, kernel, padding=kernel // 2)
            )
            below = out
        self.last = nn.Conv2d(below + inputs, 1, 5, padding=2)
        for name, parameter in self.named_parameters():
            if name == "last.bias":
                nn.init.constant_(parameter, 0.3)  # a last ReLU that is never on learns nothing
            elif name.endswith("weight") and not name.startswith("last"):
                nn.init.kaiming_normal_(parameter)  # eighteen layers without any normalisation

    def forward(self, planes: Tensor) -> Tensor:
        """(batch, inputs, rows, cols) -> (batch, 1, rows, cols)."""
        x, kept = planes, []
        for layer, (_, stride) in zip(self.down, _DOWN, strict=True):
            x = functional.relu(layer(x))
            x = functional.max_pool2d(x, 2) if stride == 2 else x
            kept.append(x)
        for step, layer in enumerate(self.up):
            if step:
                x = torch.cat([x, kept[-1 - step]], dim=1)
            if step == len(self.up) - 1:
                x = torch.cat([x, planes], dim=1)
            x = functional.relu(layer(x))
        return functional.relu(self.last(torch.cat([x, planes], dim=1)))


class RadioUNetNetwork(nn.Module):
    """The first U-Net, and a second one that sees its answer beside the inputs."""

    def __init__(self, config: RadioUNetLayout) -> None:
        super().__init__()
        self.config = config
        self.first = Stage(PLANES, FIRST, config.share)
        self.second = Stage(PLANES + 1, SECOND, config.share) if config.second else None

    def forward(self, planes: Tensor) -> Tensor:
        """(batch, planes, rows, cols) -> map on the grey scale (batch, 1, rows, cols)."""
        answer = self.first(planes)
        if self.second is None:
            return answer
        return self.second(torch.cat([planes, answer], dim=1))


def sample_planes(rasters: ReportRasters) -> Tensor:
    """Buildings, an empty transmitter plane and the mean value of each cell's reports."""
    return torch.cat([1.0 - rasters.free, torch.zeros_like(rasters.free), rasters.mean], dim=1)


def estimate_by(
    network: RadioUNetNetwork,
    reports: Reports,
    site: SceneRaster,
    scale: GreyScale,
    offset_reference_dbm: float,
) -> MapPosterior:
    """One call of a network: a bare map without any spread."""
    reference = reports.reference_dbm
    reference = offset_reference_dbm if reference is None else reference
    rasters = rasterize_reports(reports, site, scale, reference, POOLED)
    with torch.inference_mode():
        answer = network(sample_planes(rasters))
    rows, cols = site.grid.shape
    grey = np.clip(answer[0, 0, :rows, :cols].double().numpy(), 0.0, 1.0)
    map_dbm = reference + scale.to_db(np.where(site.free, grey, 0.0))
    return MapPosterior(site.grid, map_dbm[None], np.zeros(1), np.zeros((1, *site.grid.shape)))
