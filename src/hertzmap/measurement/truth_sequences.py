"""Where simulated UEs really were. Like `measurement.truth`, no method imports this."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from hertzmap.core.sequences import MeasurementSequence


@final
@dataclass(frozen=True)
class SimulatedSequences:
    """Measurement sequences together with where their UEs really were."""

    sequences: MeasurementSequence
    """What a method may see."""
    place_m: Float[np.ndarray, "samples steps 3"]
    """True places (east, north, up) [m]; the label of a sample is its last one."""
    velocity_m_s: Float[np.ndarray, "samples steps 3"]
    """True velocities (east, north, up) [m/s]."""

    def __post_init__(self) -> None:
        expected = (*self.sequences.shape[:2], 3)
        if self.place_m.shape != expected or self.velocity_m_s.shape != expected:
            msg = (
                f"sequences of (samples, steps) = {expected[:2]}, but true places of shape "
                f"{self.place_m.shape} and velocities of {self.velocity_m_s.shape}"
            )
            raise ValueError(msg)
