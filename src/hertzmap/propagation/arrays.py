"""Antenna arrays of base stations and UEs: the gain of every path between every pair of ports.

Source: polarised panels of 3GPP TR 38.901, sections 7.1 and 7.3; DiffLoc (arXiv 2510.14111), Table
III for the number of ports, whose split into rows and columns is ours.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Complex, Float
from pydantic import ConfigDict

from hertzmap.core.channels import Channels
from hertzmap.core.errors import ConfigError
from hertzmap.core.types import Transmitter
from hertzmap.propagation.antennas import antenna_frame, gain_dbi


@final
@dataclass(frozen=True)
class PanelArray:
    """A panel of equal elements in rows and columns; ports are (polarisation, row, column)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    rows: int = 4
    """Elements above one another."""
    cols: int = 4
    """Elements beside one another."""
    slants_deg: tuple[float, ...] = (45.0, -45.0)
    """Slant of each polarisation [deg], 0 is vertical; two for a dual-polarised panel."""
    spacing_wavelengths: float = 0.5
    """Distance of neighbours in wavelengths of the carrier."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1 or not self.slants_deg or self.spacing_wavelengths <= 0:
            msg = (
                "PanelArray needs rows, cols and polarisations of at least 1 and a spacing above "
                f"0, got {self.rows} x {self.cols}, {self.slants_deg}, {self.spacing_wavelengths}"
            )
            raise ConfigError(msg)

    @property
    def ports(self) -> int:
        """Number of ports."""
        return self.rows * self.cols * len(self.slants_deg)


STATION = PanelArray()
"""32 ports, as DiffLoc's stations: a dual-polarised panel of 4 x 4 (its split is ours)."""
UE = PanelArray(1, 2)
"""4 ports, as DiffLoc's UE: two dual-polarised elements."""


def port_gains(
    channels: Channels,
    station: PanelArray = STATION,
    ue: PanelArray = UE,
    ue_yaw_rad: Float[np.ndarray, " snapshots"] | None = None,
    time_s: float = 0.0,
) -> Complex[np.ndarray, "paths antennas ports"]:
    """Complex gain of every path between every port of its station and of its UE.

    The phase of the carrier over the delay is in it, computed in double precision.

    Args:
        channels: the paths.
        station: array of every station, turned as its transmitter says, with its pattern.
        ue: array of every UE, isotropic elements, upright.
        ue_yaw_rad: azimuth that each UE's array looks towards [rad]; 0 by default.
        time_s: time since the snapshot [s], for the Doppler shift.
    """
    stations = len(channels.transmitters)
    owner = channels.link_of_path % stations
    yaw = np.zeros(channels.snapshots) if ue_yaw_rad is None else ue_yaw_rad
    yaw = yaw[channels.link_of_path // stations]
    out = np.empty((len(owner), station.ports, ue.ports), np.complex128)
    for number, transmitter in enumerate(channels.transmitters):
        mine = np.flatnonzero(owner == number)
        departure, arrival = channels.departure_rad[mine], channels.arrival_rad[mine]
        at_station = _element_fields(station, transmitter, departure, patterned=True)
        turned = arrival - np.stack([yaw[mine], np.zeros(len(mine))], axis=1)
        at_ue = _element_fields(ue, Transmitter((0.0, 0.0, 0.0)), turned, patterned=False)
        waves = transmitter.carrier_hz * channels.delay_s[mine] - channels.doppler_hz[mine] * time_s
        phase = np.exp(-2j * np.pi * np.mod(waves, 1.0))
        joint = np.einsum("prv,puv->pru", at_station, at_ue @ channels.gain[mine])
        out[mine] = joint * phase[:, None, None]
    return out


def _element_fields(
    array: PanelArray,
    antenna: Transmitter,
    direction_rad: Float[np.ndarray, "paths 2"],
    *,
    patterned: bool,
) -> Complex[np.ndarray, "paths ports 2"]:
    """Field of each port towards each direction by (vertical, horizontal) polarisation.

    Source: polarisation model 2 of 3GPP TR 38.901, section 7.3.2, eq. 7.3-4/5, for an upright
    panel. We let tilt turn the pattern and the elements' places but not the slant, which is then
    off by up to the tilt beside boresight.
    """
    azimuth, zenith = direction_rad.T
    forward_left_up = antenna_frame(antenna, azimuth, zenith)
    rows = np.arange(array.rows) - 0.5 * (array.rows - 1)
    cols = np.arange(array.cols) - 0.5 * (array.cols - 1)
    turns = array.spacing_wavelengths * (
        cols[None, None, :] * forward_left_up[1][:, None, None]
        + rows[None, :, None] * forward_left_up[2][:, None, None]
    )
    steering = np.exp(2j * np.pi * turns).reshape(len(azimuth), 1, array.rows * array.cols)
    amplitude = 10.0 ** (gain_dbi(antenna, azimuth, zenith) / 20.0) if patterned else 1.0
    slant = np.deg2rad(np.array(array.slants_deg))
    field = np.stack([np.cos(slant), np.sin(slant)], axis=1)
    ports = steering[..., None] * field[None, :, None, :]
    scaled = ports * np.broadcast_to(amplitude, len(azimuth))[:, None, None, None]
    return scaled.reshape(len(azimuth), array.ports, 2)
