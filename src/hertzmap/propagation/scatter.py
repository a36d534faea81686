"""A world of point scatterers: line of sight and fixed points that send on what reaches them.

No buildings and no tracer: exact, fast and reproducible, for tests of everything that reads
channels, and for trials. Gain and delay of a scattered path are those of free space over both legs,
with a random polarisation matrix and loss that belong to the scatterer.

Source: the scattering world of DiffLoc's pilot studies; its numbers are ours.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict

from hertzmap.core.channels import LINE_OF_SIGHT, SCATTERED, Channels
from hertzmap.core.errors import ConfigError
from hertzmap.core.seeds import generator
from hertzmap.core.types import Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S, wavelength_m
from hertzmap.propagation.base import AbstractChannelBackend


@final
@dataclass(frozen=True)
class ScatterConfig:
    """How many scatterers stand where, and how much they take."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    scatterers: int = 25
    """Number of points."""
    radius_m: float = 200.0
    """They stand evenly over a disc of this radius about (0, 0) [m]."""
    height_m: tuple[float, float] = (1.0, 30.0)
    """Least and greatest height [m]."""
    loss_db: tuple[float, float] = (3.0, 15.0)
    """Least and greatest loss at a scatterer over free space of the whole way [dB]."""
    cross_db: float = 8.0
    """How much weaker a scatterer sends the other polarisation [dB]."""

    def __post_init__(self) -> None:
        if self.scatterers < 0 or self.radius_m <= 0:
            msg = (
                f"ScatterConfig needs scatterers of at least 0 and radius_m above 0, got "
                f"{self.scatterers} and {self.radius_m}"
            )
            raise ConfigError(msg)


@final
class ScatterWorld(AbstractChannelBackend):
    """Scatterers drawn from a seed; links are computed exactly."""

    def __init__(self, config: ScatterConfig, *, seed: int) -> None:
        """Draw the scatterers.

        Args:
            config: how many and where.
            seed: at least 0; the same seed gives the same world.
        """
        draw = generator(seed)
        count = config.scatterers
        radius = config.radius_m * np.sqrt(draw.random(count))
        angle = draw.uniform(0.0, 2.0 * np.pi, size=count)
        height = draw.uniform(*config.height_m, size=count)
        self.place_m = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
        amplitude = 10.0 ** (-draw.uniform(*config.loss_db, size=count) / 20.0)
        phase = np.exp(2j * np.pi * draw.random((count, 2, 2)))
        cross = 10.0 ** (-config.cross_db / 20.0)
        shape = np.array([[1.0, cross], [cross, 1.0]]) / np.sqrt(1.0 + cross**2)
        self.matrix = amplitude[:, None, None] * phase * shape

    def channels(
        self,
        transmitters: tuple[Transmitter, ...],
        ue_m: Float[np.ndarray, "snapshots 3"],
        velocity_m_s: Float[np.ndarray, "snapshots 3"] | None = None,
    ) -> Channels:
        """Paths of every UE snapshot to every station.

        Args:
            transmitters: the stations, with one carrier each.
            ue_m: (east, north, up) of each snapshot [m].
            velocity_m_s: (east, north, up) of each snapshot [m/s]; at rest by default.
        """
        still = np.zeros_like(ue_m) if velocity_m_s is None else velocity_m_s
        links = [
            self._link(np.array(one.place_m), wavelength_m(one.carrier_hz), place, speed)
            for place, speed in zip(ue_m, still, strict=True)
            for one in transmitters
        ]
        count = 1 + len(self.place_m)
        return Channels(
            transmitters,
            count * np.arange(len(links) + 1),
            *(np.concatenate([link[k] for link in links]) for k in range(7)),
        )

    def _link(
        self, station_m: np.ndarray, wavelength: float, ue_m: np.ndarray, speed_m_s: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Fields of `Channels` for one link, in their order."""
        leaves = np.concatenate([ue_m[None], self.place_m]) - station_m
        comes = np.concatenate([station_m[None], self.place_m]) - ue_m
        out, back = np.linalg.norm(leaves, axis=1), np.linalg.norm(comes, axis=1)
        length = np.where(np.arange(len(out)) == 0, out, out + back)
        sight = np.diag([1.0, -1.0]).astype(complex)  # H points the other way at the far end
        matrix = np.concatenate([sight[None], self.matrix])
        gain = wavelength / (4.0 * np.pi * length)[:, None, None] * matrix
        doppler = (comes / back[:, None]) @ speed_m_s / wavelength
        order = np.argsort(length, kind="stable")
        scattered = (order > 0).astype(np.uint8)
        return (
            gain[order],
            (length / SPEED_OF_LIGHT_M_S)[order],
            _direction(leaves)[order],
            _direction(comes)[order],
            doppler[order],
            np.where(scattered, SCATTERED, LINE_OF_SIGHT).astype(np.uint8),
            scattered,
        )


def _direction(vector_m: Float[np.ndarray, "paths 3"]) -> Float[np.ndarray, "paths 2"]:
    """(azimuth, zenith) of vectors [rad]."""
    east, north, up = vector_m.T
    return np.stack([np.arctan2(north, east), np.arctan2(np.hypot(east, north), up)], axis=1)
