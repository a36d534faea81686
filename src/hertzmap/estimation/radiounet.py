"""RadioUNet: two U-Nets in a row from buildings and a raster of values to a map.

Source: RadioUNet (Levie et al., 2021), the version with samples. Deviations: half the channels
(the published 13.3 M parameters do not fit a shipped file), and the transmitter's plane is empty,
since no estimator here is told where it stands.

``as_published`` learned on 10 to 300 clean samples a map; ``tuned`` has the same layout and inputs
and learned on drifted, noisy reports of all densities.
"""

from dataclasses import dataclass, field
from typing import final

from hertzmap.core.errors import ConfigError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.estimation._radio_unet import RadioUNetNetwork, estimate_by
from hertzmap.estimation.base import AbstractEstimator


@final
@dataclass(frozen=True)
class RadioUNetConfig:
    """Settings."""

    offset_reference_dbm: float = 5.0
    """Taken for an unknown EIRP per resource element [dBm]: a small cell."""


PRESETS: dict[str, RadioUNetConfig] = {
    "tuned": RadioUNetConfig(),
    "as_published": RadioUNetConfig(),
}
"""Named settings; they differ in their weights."""


@final
@dataclass(frozen=True)
class RadioUNet(AbstractEstimator):
    """A baseline: one call of a network, blind to the levels of noise and drift, no spread."""

    config: RadioUNetConfig = field(default_factory=RadioUNetConfig)
    """Settings."""
    network: RadioUNetNetwork | None = None
    """Passed in by `training.checkpoint.load_estimator`."""
    scale: GreyScale = field(default_factory=GreyScale)
    """The grey scale it was trained on."""

    @classmethod
    def from_preset(cls, preset: str) -> "RadioUNet":
        """See the base class; the network still has to be passed in."""
        if preset not in PRESETS:
            msg = f"radiounet has no preset {preset!r}; it has: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        return cls(PRESETS[preset])

    def estimate(self, reports: Reports, site: SceneRaster, *, seed: int) -> MapPosterior:
        """See the base class; one report on the map is enough."""
        del seed
        if self.network is None:
            msg = "radiounet needs its network; build it by training.checkpoint.load_estimator"
            raise ConfigError(msg)
        return estimate_by(
            self.network, reports, site, self.scale, self.config.offset_reference_dbm
        )


METHOD = RadioUNet
