"""What every map backend is: transmitters in, a RadioMap on the environment's grid out."""

from abc import ABC, abstractmethod

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
