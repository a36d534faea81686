"""The free numbers of the dominant-path model."""

from dataclasses import dataclass
from typing import final

import numpy as np

EXPONENT_MODES = ("whole", "single", "split")
ROOF_LAWS = ("edges", "bends")


@final
@dataclass(frozen=True)
class PropagationParameters:
    """Free numbers of the dominant-path model; the defaults are uncalibrated."""

    n_los: float = 2.0
    """Path-loss exponent in line of sight; 2 with offset 0 is Friis."""
    n_nlos: float = 2.8
    """Path-loss exponent of routes with bends."""
    n_bend: float | None = None
    """Exponent of the bends' cost; None takes the exponent of the length."""
    k1: float = 1.2
    """Linear coefficient of the bend factor, at least 0."""
    k2: float = 3.5
    """Quadratic coefficient of the bend factor, at least 0."""
    offset_los_db: float = 0.0
    """Extra loss in line of sight [dB]."""
    offset_nlos_db: float = 0.0
    """Extra loss of routes with bends [dB]."""
    offset_roof_db: float = 0.0
    """Extra loss of the over-rooftop route [dB]."""
    waveguide_db: float = 0.0
    """Gain of a route that runs along walls all the way [dB], 0 to 15."""
    exponent: str = "whole"
    """``whole``: one exponent per route (jumps at the shadow's edge); ``single``: `n_los`
    everywhere; ``split``: `n_los` up to the first bend, `n_nlos` after it (not reciprocal)."""
    labels: int = 1
    """Arrivals kept per corner; 1 for speed, 4 for reference maps."""
    max_bends: int = 30
    """Longest chain of bends followed."""
    receiver_height_m: float = 1.5
    """Height of all receivers above ground [m]."""
    k0: float = 0.0
    """Constant coefficient of the bend factor: what a bend costs however slight, at least 0."""
    w_max: float = np.inf
    """Largest bend factor, above 1: from the angle on where it is reached, loss stays level."""
    roof_law: str = "edges"
    """``edges``: roofs are knife edges, the length counts as in free space, and the route adds in
    power; ``bends``: the string over the roofs is one more route with bends, and the stronger
    route counts."""

    def __post_init__(self) -> None:
        numbers = (self.n_los, self.n_nlos, self.bend_exponent, self.receiver_height_m)
        if not (np.all(np.isfinite(numbers)) and min(numbers) > 0):
            msg = f"exponents and receiver height must be above 0: {self}"
            raise ValueError(msg)
        if self.k1 < 0 or self.k2 < 0 or not 0 <= self.waveguide_db <= 15:
            msg = f"k1, k2 must be at least 0 and waveguide_db within 0 to 15: {self}"
            raise ValueError(msg)
        if not (0 <= self.k0 < np.inf and self.w_max > 1):
            msg = f"k0 must be at least 0 and w_max above 1: {self}"
            raise ValueError(msg)
        if self.roof_law not in ROOF_LAWS:
            msg = f"roof_law must be one of {ROOF_LAWS}, got {self.roof_law!r}"
            raise ValueError(msg)
        if self.exponent not in EXPONENT_MODES:
            msg = f"exponent must be one of {EXPONENT_MODES}, got {self.exponent!r}"
            raise ValueError(msg)
        if self.labels < 1 or self.max_bends < 1:
            msg = f"labels and max_bends must be at least 1: {self}"
            raise ValueError(msg)

    @property
    def length_exponent(self) -> float:
        """Exponent of the length of routes with bends."""
        return self.n_los if self.exponent == "single" else self.n_nlos

    @property
    def bend_exponent(self) -> float:
        """Exponent of the bends' cost."""
        return self.length_exponent if self.n_bend is None else self.n_bend

    @property
    def bend_curve(self) -> tuple[float, float, float, float]:
        """(k0, k1, k2, w_max) of the bend factor ``min(1 + k0 + k1 s + k2 s^2, w_max)``."""
        return (float(self.k0), float(self.k1), float(self.k2), float(self.w_max))

    @property
    def head_exponent(self) -> float:
        """First labels start with their length to this power, which makes ``split`` continuous."""
        if self.exponent != "split":
            return 0.0
        return (self.n_los - self.n_nlos) / self.bend_exponent
