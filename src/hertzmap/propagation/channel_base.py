"""What every channel backend is: stations and places of UEs in, `Channels` out."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float

from hertzmap.core.channels import Channels
from hertzmap.core.types import Transmitter


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
