"""Who computes what a recipe asks for: a backend's name, and the calls behind it."""

from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from hertzmap.core.channels import Channels
from hertzmap.core.types import Scene, Transmitter
from hertzmap.propagation.ray_budget import SionnaConfig
from hertzmap.propagation.scatter import ScatterConfig, ScatterWorld

if TYPE_CHECKING:
    from hertzmap.propagation.sionna_rt import SionnaScene

Backend = Literal["scatter", "sionna"]
"""``scatter`` is exact, in the open; ``sionna`` traces rays among the buildings (extra ``rt``)."""


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


def traced(
    scene: Scene,
    name: str,
    config: SionnaConfig,
    transmitters: tuple[Transmitter, ...],
    ue_m: Float[np.ndarray, "snapshots 3"],
    velocity_m_s: Float[np.ndarray, "snapshots 3"],
) -> Channels:
    """Channels by Sionna RT; the scene stays loaded for the next call in this process.

    Args:
        scene: buildings.
        name: of the scene, the same for the same buildings.
        config: how paths are sought.
        transmitters: the stations.
        ue_m: (east, north, up) of each snapshot [m].
        velocity_m_s: (east, north, up) of each snapshot [m/s].

    Raises:
        MissingExtraError: if the extra ``rt`` or a fit LLVM is missing.
    """
    return _loaded(_Named(scene, name), config).channels(transmitters, ue_m, velocity_m_s)


class _Named:
    """A scene that is known by its name, as scenes cannot be hashed."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene, self.name = scene, name

    def __hash__(self) -> int:
        """Of the name."""
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        """By the name."""
        return isinstance(other, _Named) and other.name == self.name


@lru_cache(maxsize=1)
def _loaded(named: _Named, config: SionnaConfig) -> "SionnaScene":
    from hertzmap.propagation.sionna_rt import SionnaScene

    return SionnaScene.of(named.scene, config)


def engine_versions(engine: str) -> dict[str, str]:
    """Versions of the packages of an engine that is not ours."""
    names = ("sionna-rt", "mitsuba", "drjit") if engine == "sionna" else ()
    return {name: metadata.version(name) for name in names}
