"""How many rays a result takes, and how many of them reach a cell."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict

from hertzmap.core.errors import ConfigError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Transmitter

LANE_BYTES = 56
"""Memory of the tracer for each ray, depth and receiver, measured [bytes]."""
LEAST_HITS = 10.0
"""A cell hit by fewer rays is noisy by more than about 1.4 dB."""


@final
@dataclass(frozen=True)
class RayBudget:
    """Rays of one kind of result."""

    rays: int
    """Rays that leave each station."""
    diffraction: bool
    """Whether paths may bend at one edge."""


@final
@dataclass(frozen=True)
class SionnaConfig:
    """How paths are sought."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    depth: int = 3
    """Most interactions of a path."""
    refraction: bool = False
    """Whether rays pass walls; on, they light rooms whose walls are one thin sheet."""
    channels: RayBudget = RayBudget(100_000, True)
    """For `SionnaScene.channels`; without diffraction only half as many links have a path."""
    path_map: RayBudget = RayBudget(10_000, False)
    """For `SionnaScene.path_map`."""
    radio_map: RayBudget = RayBudget(10_000_000, False)
    """For `SionnaScene.radio_map`."""
    height_m: float = 1.5
    """Height of the receivers of maps above ground [m]."""
    max_paths: int = 100_000
    """Room for candidate paths of a station and a block of receivers, allocated in advance."""
    memory_mib: int = 640
    """Bound of the tracer's working memory, which sets the length of blocks [MiB]."""
    seed: int = 0
    """Of the draws that pick edges; at least 0."""

    def __post_init__(self) -> None:
        budgets = (self.channels, self.path_map, self.radio_map)
        if (
            self.depth < 0
            or min(one.rays for one in budgets) < 1
            or min(self.max_paths, self.memory_mib) < 1
            or self.seed < 0
            or self.height_m <= 0
        ):
            msg = (
                "SionnaConfig needs depth and seed of at least 0, rays, max_paths and memory_mib "
                f"of at least 1 and height_m above 0, got {self}"
            )
            raise ConfigError(msg)

    def block(self, rays: int) -> int:
        """Receivers traced at once within the memory bound: a power of two."""
        lanes = max(self.depth, 1) * rays
        most = self.memory_mib * 2**20 // (lanes * LANE_BYTES)
        return 1 << max(int(most).bit_length() - 1, 0)


def expected_hits(
    transmitter: Transmitter, grid: Grid, rays: int, height_m: float
) -> Float[np.ndarray, "{grid.rows} {grid.cols}"]:
    """Rays that cross each cell of a level plane straight from the transmitter.

    ``rays * area * h / (4 pi d^3)`` with h the height over the plane and d the distance; walls,
    which take rays away and send others, do not count.

    Args:
        transmitter: where the rays leave, equally in all directions.
        grid: cells of the plane.
        rays: number of rays.
        height_m: height of the plane above ground [m].
    """
    east, north, up = transmitter.place_m
    rise = abs(up - height_m)
    flat = np.linalg.norm(grid.centres_m() - np.array([east, north]), axis=-1)
    distance = np.maximum(np.hypot(flat, rise), 0.5 * grid.spacing_m)
    return rays * grid.spacing_m**2 * rise / (4.0 * np.pi * distance**3)
