"""Channels between base stations and UEs as lists of paths: the master record of all CSI.

Bands, antennas, noise and features come later (`measurement.csi`), so none of them asks for tracing
anew. Paths of all links lie behind one another; link l owns the slice ``offset[l]:offset[l + 1]``.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Complex, Float, Int, UInt8

from hertzmap.core.types import Transmitter

ARRIVAL_WINDOW_DB = 25.0
"""The time of arrival is that of the earliest path within this of the strongest [dB]; ours, one
rule for routes of the dominant path, for traced paths and for reports."""
LINE_OF_SIGHT, REFLECTED, DIFFRACTED, SCATTERED, TRANSMITTED = 0, 1, 2, 4, 8
"""Bits of `Channels.kind`: what a path met on its way; 0 is the line of sight."""


@final
@dataclass(frozen=True)
class Channels:
    """Paths of every link (UE snapshot, station), in the downlink: they leave at the station."""

    transmitters: tuple[Transmitter, ...]
    """The stations; link ``l`` joins snapshot ``l // stations`` and station ``l % stations``."""
    offset: Int[np.ndarray, " links_and_one"]
    """Where the paths of each link begin, and at last how many there are."""
    gain: Complex[np.ndarray, "paths 2 2"]
    """Field gain by polarisation, (at the UE, at the station), each (vertical, horizontal).

    Both ends isotropic; without the phase of the carrier over the delay."""
    delay_s: Float[np.ndarray, " paths"]
    """Absolute delay [s], never normalised to the first path; rising within a link."""
    departure_rad: Float[np.ndarray, "paths 2"]
    """(azimuth, zenith) that the path leaves the station towards [rad]."""
    arrival_rad: Float[np.ndarray, "paths 2"]
    """(azimuth, zenith) that the path comes to the UE from [rad]."""
    doppler_hz: Float[np.ndarray, " paths"]
    """Doppler shift [Hz]: the UE's speed towards the arriving wave over the wavelength."""
    kind: UInt8[np.ndarray, " paths"]
    """Bits of what the path met, see `LINE_OF_SIGHT`."""
    depth: UInt8[np.ndarray, " paths"]
    """Number of interactions; 0 in line of sight."""

    def __post_init__(self) -> None:
        count = len(self.delay_s)
        lengths = {
            "gain": len(self.gain),
            "departure_rad": len(self.departure_rad),
            "arrival_rad": len(self.arrival_rad),
            "doppler_hz": len(self.doppler_hz),
            "kind": len(self.kind),
            "depth": len(self.depth),
        }
        wrong = [name for name, length in lengths.items() if length != count]
        if wrong or self.offset[0] != 0 or self.offset[-1] != count:
            msg = (
                f"Channels hold {count} delays, but {', '.join(wrong) or 'offset'} tells otherwise "
                f"({lengths}, offset from {self.offset[0]} to {self.offset[-1]})"
            )
            raise ValueError(msg)
        if np.any(np.diff(self.offset) < 0) or self.links % max(len(self.transmitters), 1):
            msg = (
                f"Channels.offset must rise and give as many links for each snapshot as there are "
                f"stations ({len(self.transmitters)}), got {self.links} links"
            )
            raise ValueError(msg)
        inside = np.diff(self.delay_s) < 0
        inside[self.offset[1:-1][(self.offset[1:-1] > 0) & (self.offset[1:-1] < count)] - 1] = False
        if not np.all(np.isfinite(self.delay_s)) or np.any(self.delay_s < 0) or inside.any():
            msg = "Channels.delay_s must be finite, at least 0 and rise within each link"
            raise ValueError(msg)

    @property
    def links(self) -> int:
        """Number of links."""
        return len(self.offset) - 1

    @property
    def snapshots(self) -> int:
        """Number of UE snapshots."""
        return self.links // len(self.transmitters)

    def paths(self, link: int) -> slice:
        """Where the paths of one link lie."""
        return slice(int(self.offset[link]), int(self.offset[link + 1]))

    @property
    def link_of_path(self) -> Int[np.ndarray, " paths"]:
        """Link that each path belongs to."""
        return np.repeat(np.arange(self.links), np.diff(self.offset))

    @property
    def power(self) -> Float[np.ndarray, " paths"]:
        """Power gain of each path between isotropic ends of both polarisations, as a ratio.

        The mean over both polarisations of the UE of what both of the station send: for the line of
        sight it is Friis's.
        """
        return 0.5 * (np.abs(self.gain) ** 2).sum(axis=(1, 2))

    @property
    def path_gain_db(self) -> Float[np.ndarray, "snapshots stations"]:
        """Path gain of each link [dB], powers of its paths added; NaN where it has none."""
        total = np.bincount(self.link_of_path, weights=self.power, minlength=self.links)
        gain = 10.0 * np.log10(np.where(total > 0, total, np.nan))
        return gain.reshape(-1, len(self.transmitters))

    @property
    def first_delay_s(self) -> Float[np.ndarray, "snapshots stations"]:
        """Delay of each link's first path [s]; NaN where it has none."""
        first = np.full(self.links, np.nan)
        seen = np.diff(self.offset) > 0
        first[seen] = self.delay_s[self.offset[:-1][seen]]
        return first.reshape(-1, len(self.transmitters))

    @property
    def los(self) -> np.ndarray:
        """Whether each link has a path that meets nothing, (snapshots, stations)."""
        seen = np.bincount(self.link_of_path[self.depth == 0], minlength=self.links) > 0
        return seen.reshape(-1, len(self.transmitters))


def gathered(parts: list[Channels]) -> Channels:
    """Snapshots of several lists of paths behind one another; the stations must be the same.

    Raises:
        ValueError: if there is no part, or their stations differ.
    """
    if not parts or any(part.transmitters != parts[0].transmitters for part in parts):
        msg = "gathered needs at least one part, all with the same stations in the same order"
        raise ValueError(msg)
    counts = np.concatenate([np.diff(part.offset) for part in parts])
    return Channels(
        parts[0].transmitters,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in (
                *("gain", "delay_s", "departure_rad", "arrival_rad", "doppler_hz"),
                *("kind", "depth"),
            )
        ),
    )
