"""Ground dealt to the parts of a split by squares, with a guard between parts."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from hertzmap.core.seeds import generator

PARTS = ("train", "validation", "test")
"""Parts of every split, by their codes."""
NO_PART = 255
"""Code of what a split does not use."""
SHARES = (0.6, 0.2, 0.2)
"""3 : 1 : 1."""
PART_ATTRS = {"flag_values": [0, 1, 2, NO_PART], "flag_meanings": " ".join((*PARTS, "none"))}
"""What the codes mean, for files."""


def dealt(count: int, *address: int) -> UInt8[np.ndarray, " samples"]:
    """Parts dealt 3 : 1 : 1 among so many, by the generator of an address."""
    order = generator(*address).permutation(count)
    ends = np.round(np.cumsum(SHARES) * count)
    parts = np.empty(count, np.uint8)
    parts[order] = np.searchsorted(ends, np.arange(count), side="right")
    return parts


@final
@dataclass(frozen=True)
class Squares:
    """Squares of the plane, each dealt to a part by a draw of its own."""

    side_m: float
    """Side of a square [m]; corners lie on its multiples."""
    address: tuple[int, ...]
    """First parts of every square's address."""

    def part_of(self, square: Int[np.ndarray, "points 2"]) -> Int[np.ndarray, " points"]:
        """Part of squares named by (east, north) numbers."""
        unique, back = np.unique(square, axis=0, return_inverse=True)
        # an address counts from 0, numbers of squares may be negative
        drawn = [
            generator(*self.address, *(2 * abs(n) + (n < 0) for n in one)).random()
            for one in unique.tolist()
        ]
        parts = np.searchsorted(np.cumsum(SHARES[:2]), np.array(drawn), side="right")
        return parts[back.reshape(-1)]

    def part(self, place_m: Float[np.ndarray, "points 2"]) -> Int[np.ndarray, " points"]:
        """Part of the square that holds each place."""
        return self.part_of(np.floor(place_m / self.side_m).astype(np.int64))

    def near_other(
        self, place_m: Float[np.ndarray, "points 2"], reach_m: float
    ) -> Bool[np.ndarray, "points parts"]:
        """Whether a square of each part, another than its own, lies nearer than `reach_m`.

        Args:
            place_m: (east, north) [m].
            reach_m: at most `side_m`.
        """
        square = np.floor(place_m / self.side_m).astype(np.int64)
        inside = place_m - square * self.side_m
        own = self.part_of(square)
        near = np.zeros((len(place_m), len(PARTS)), bool)
        steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
        for step in steps:
            turn = np.array(step)
            gap = np.where(turn > 0, self.side_m - inside, np.where(turn < 0, inside, 0.0))
            other = self.part_of(square + turn)
            close = (np.hypot(*gap.T) < reach_m) & (other != own)
            near[close, other[close]] = True
        return near
