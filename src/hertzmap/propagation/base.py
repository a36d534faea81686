"""What every backend is: transmitters in, a `RadioMap` or `Channels` out."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float

from hertzmap.core.channels import Channels
from hertzmap.core.types import RadioMap, Transmitter


class AbstractMapBackend(ABC):
    """Turns transmitters in a prepared environment into layers of a radio map."""

    @abstractmethod
    def trace(self, transmitters: tuple[Transmitter, ...], *, workers: int = 1) -> RadioMap:
        """Compute one map per transmitter.

        Args:
            transmitters: the sites; their places are in the scene's local frame.
            workers: threads that share the environment, at least 1; the result does not depend
                on their number.

        Raises:
            PropagationError: if a transmitter cannot be simulated.
        """


class AbstractChannelBackend(ABC):
    """Turns stations and UE snapshots in a prepared world into lists of paths."""

    @abstractmethod
    def channels(
        self,
        transmitters: tuple[Transmitter, ...],
        ue_m: Float[np.ndarray, "snapshots 3"],
        velocity_m_s: Float[np.ndarray, "snapshots 3"] | None = None,
    ) -> Channels:
        """Paths of every UE snapshot to every station.

        Args:
            transmitters: the stations; their patterns play no role.
            ue_m: (east, north, up) of each snapshot [m].
            velocity_m_s: (east, north, up) of each snapshot [m/s]; at rest by default.

        Raises:
            PropagationError: if a station cannot be simulated.
        """
