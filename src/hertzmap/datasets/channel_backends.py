"""Who computes channels for a dataset: a backend's name, and the one call behind it."""

from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from hertzmap.core.channels import Channels
from hertzmap.core.types import Transmitter
from hertzmap.propagation.scatter import ScatterConfig, ScatterWorld

Backend = Literal["scatter", "sionna"]
"""``scatter`` is exact and reproducible, without buildings."""


def scattered(
    config: ScatterConfig,
    seed: int,
    transmitters: tuple[Transmitter, ...],
    ue_m: Float[np.ndarray, "snapshots 3"],
    velocity_m_s: Float[np.ndarray, "snapshots 3"],
) -> Channels:
    """Channels in a world of scatterers about the middle of the stations; buildings play no part.

    Args:
        config: of the world.
        seed: of the world.
        transmitters: the stations, in the scene's frame.
        ue_m: (east, north, up) of each snapshot [m].
        velocity_m_s: (east, north, up) of each snapshot [m/s].
    """
    middle = np.mean([one.place_m[:2] for one in transmitters], axis=0)
    shift = np.array([*middle, 0.0])
    moved = tuple(
        replace(one, place_m=tuple((np.array(one.place_m) - shift).tolist()))
        for one in transmitters
    )
    found = ScatterWorld(config, seed=seed).channels(moved, ue_m - shift, velocity_m_s)
    return replace(found, transmitters=transmitters)
