"""Antenna patterns: isotropic, half-wave dipole, the 3GPP sector, and patterns from a file.

A pattern is given in the antenna's own frame (boresight along x, z up). The antenna is turned by
roll about its boresight, then by pitch (positive looks down), then by yaw (anticlockwise from
east). A direction leaves towards azimuth ``phi`` (anticlockwise from east) and zenith ``theta``
(0 is straight up).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from hertzmap.core.errors import DataError
from hertzmap.core.types import AntennaPattern, Transmitter

DIPOLE_DIRECTIVITY = 1.6409
"""Directivity of a half-wave dipole, 2.15 dBi (Balanis, Antenna Theory, eq. 4-91)."""
DIPOLE_NULL_DB = 30.0
"""Depth below its peak at which we end the dipole's null [dB], so that every gain is finite."""
SECTOR_PEAK_DBI = 8.0
"""Peak gain of one element (3GPP TR 38.901 table 7.3-1)."""
SECTOR_WIDTH_DEG = 65.0
"""3 dB beam width in both cuts [deg] (3GPP TR 38.901 table 7.3-1)."""
SECTOR_FLOOR_DB = 30.0
"""Side-lobe limit and front-to-back ratio [dB] (3GPP TR 38.901 table 7.3-1)."""
DIPOLE_OVER_ISOTROPIC_DB = 2.15
"""0 dBd in dBi."""


def gain_dbi(
    transmitter: Transmitter,
    azimuth_rad: Float[np.ndarray, "*shape"],
    zenith_rad: Float[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """Gain of a transmitter's antenna towards each direction [dBi].

    Args:
        transmitter: gives pattern, yaw, pitch and roll.
        azimuth_rad: azimuth the wave leaves towards, anticlockwise from east [rad].
        zenith_rad: angle from straight up [rad], 0 to pi.

    Returns:
        Gain [dBi], finite, in the shape and precision of `azimuth_rad`.
    """
    kind = transmitter.pattern.kind
    if kind == "isotropic":
        return np.zeros_like(azimuth_rad)
    forward, left, up = antenna_frame(transmitter, azimuth_rad, zenith_rad)
    if kind == "dipole":
        return _dipole_dbi(up)
    if kind == "sector":
        return _sector_dbi(forward, left, up)
    return _table_dbi(transmitter.pattern, forward, left, up)


def read_pattern(path: Path) -> AntennaPattern:
    """Read a pattern in the MSI (Planet) text format.

    The file names its gain (``GAIN 17.5 dBi``; a gain without unit is in dBd, as the format has
    it) and two cuts of 360 lines ``angle attenuation`` after ``HORIZONTAL 360`` and
    ``VERTICAL 360``. Attenuations are positive decibels below the peak. Horizontal angles run
    clockwise from boresight and are turned to our anticlockwise azimuth here; vertical angles
    start at boresight and run downwards.

    Args:
        path: the ``.msi``, ``.pln`` or ``.txt`` file.

    Raises:
        DataError: if the file is missing or lacks a part, naming the part and the line.
    """
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        msg = f"cannot read the antenna pattern {path}: {error.strerror}; check the path"
        raise DataError(msg) from error
    words = [line.replace(",", " ").split() for line in lines]
    clockwise_db = -_attenuation_db(path, words, "HORIZONTAL")
    anticlockwise_db = np.roll(clockwise_db[::-1], 1)
    return AntennaPattern(
        kind="table",
        azimuth_gain_db=tuple(anticlockwise_db.tolist()),
        elevation_gain_db=tuple((-_attenuation_db(path, words, "VERTICAL")).tolist()),
        peak_dbi=_peak_dbi(path, words),
    )


def antenna_frame(
    transmitter: Transmitter, azimuth_rad: np.ndarray, zenith_rad: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components of the direction along the antenna's boresight, left side and top.

    Source: 3GPP TR 38.901 eq. 7.1-2, whose rotation (bearing, down-tilt, slant) is ours.
    """
    turned = azimuth_rad - transmitter.yaw_rad
    sine = np.sin(zenith_rad)
    ahead, left, up = sine * np.cos(turned), sine * np.sin(turned), np.cos(zenith_rad)
    tilt_cos, tilt_sin = np.cos(transmitter.pitch_rad), np.sin(transmitter.pitch_rad)
    forward, up = tilt_cos * ahead - tilt_sin * up, tilt_sin * ahead + tilt_cos * up
    roll_cos, roll_sin = np.cos(transmitter.roll_rad), np.sin(transmitter.roll_rad)
    return forward, roll_cos * left + roll_sin * up, roll_cos * up - roll_sin * left


def _dipole_dbi(up: np.ndarray) -> np.ndarray:
    """Half-wave dipole along the antenna's z axis. Source: Balanis, Antenna Theory, eq. 4-84."""
    sine_squared = np.maximum(1.0 - up * up, 1e-12)
    power = DIPOLE_DIRECTIVITY * np.cos(0.5 * np.pi * up) ** 2 / sine_squared
    return 10.0 * np.log10(np.maximum(power, DIPOLE_DIRECTIVITY * 10 ** (-DIPOLE_NULL_DB / 10)))


def _sector_dbi(forward: np.ndarray, left: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Sector element. Source: 3GPP TR 38.901 table 7.3-1."""
    elevation_deg = np.rad2deg(np.arcsin(np.clip(up, -1.0, 1.0)))
    azimuth_deg = np.rad2deg(np.arctan2(left, forward))
    vertical_db = np.minimum(12.0 * (elevation_deg / SECTOR_WIDTH_DEG) ** 2, SECTOR_FLOOR_DB)
    horizontal_db = np.minimum(12.0 * (azimuth_deg / SECTOR_WIDTH_DEG) ** 2, SECTOR_FLOOR_DB)
    return SECTOR_PEAK_DBI - np.minimum(vertical_db + horizontal_db, SECTOR_FLOOR_DB)


def _table_dbi(
    pattern: AntennaPattern, forward: np.ndarray, left: np.ndarray, up: np.ndarray
) -> np.ndarray:
    """Two measured cuts joined to a full pattern.

    The horizontal cut counts in full; the vertical cut is blended from its front to its rear half
    with azimuth, so both cuts come out as measured. The idea of weighting crossed cuts is that of
    Gil et al., IEEE Antennas Propag. Mag. 43(2), 2001; our weight is linear in azimuth.
    """
    azimuth = np.arctan2(left, forward)
    depression = -np.arcsin(np.clip(up, -1.0, 1.0))
    front = _read_cut(pattern.elevation_gain_db, depression)
    rear = _read_cut(pattern.elevation_gain_db, np.pi - depression)
    rear = rear - _read_cut(pattern.elevation_gain_db, np.full(1, np.pi))
    backwards = np.abs(azimuth) / np.pi
    vertical = (1.0 - backwards) * front + backwards * rear
    gain = pattern.peak_dbi + _read_cut(pattern.azimuth_gain_db, azimuth) + vertical
    return gain.astype(azimuth.dtype)


def _read_cut(gain_db: tuple[float, ...], angle_rad: np.ndarray) -> np.ndarray:
    """Periodic linear interpolation in a cut sampled at equal steps over 360 degrees."""
    step_rad = 2.0 * np.pi / len(gain_db)
    return np.interp(
        angle_rad, np.arange(len(gain_db)) * step_rad, np.array(gain_db), period=2.0 * np.pi
    )


def _attenuation_db(path: Path, words: list[list[str]], cut: str) -> np.ndarray:
    """The 360 attenuations [dB] after the line that starts with the cut's name."""
    starts = [index for index, line in enumerate(words) if line and line[0].upper() == cut]
    if not starts:
        msg = f"{path} has no {cut} 360 section; give an MSI (Planet) pattern with both cuts"
        raise DataError(msg)
    heading = words[starts[0]]
    if heading[1:2] != ["360"]:
        msg = f"{path} line {starts[0] + 1}: expected '{cut} 360', got {' '.join(heading)!r}"
        raise DataError(msg)
    attenuation_db = np.empty(360)
    for degree in range(360):
        number = starts[0] + 1 + degree
        try:
            angle_deg, attenuation_db[degree] = (float(word) for word in words[number][:2])
        except (IndexError, ValueError) as error:
            msg = f"{path} line {number + 1}: expected '{degree} attenuation' in the {cut} cut"
            raise DataError(msg) from error
        if abs(angle_deg - degree) > 0.01 or not np.isfinite(attenuation_db[degree]):
            msg = f"{path} line {number + 1}: expected angle {degree}, got {angle_deg}"
            raise DataError(msg)
    return attenuation_db


def _peak_dbi(path: Path, words: list[list[str]]) -> float:
    """The gain on the GAIN line, in dBi."""
    for number, line in enumerate(words):
        if not line or line[0].upper() != "GAIN":
            continue
        unit = line[2].lower() if len(line) > 2 else "dbd"
        try:
            value = float(line[1])
        except (IndexError, ValueError) as error:
            msg = f"{path} line {number + 1}: GAIN needs a number, got {' '.join(line)!r}"
            raise DataError(msg) from error
        if unit not in ("dbi", "dbd"):
            msg = f"{path} line {number + 1}: GAIN must be in dBi or dBd, got {unit!r}"
            raise DataError(msg)
        return value if unit == "dbi" else value + DIPOLE_OVER_ISOTROPIC_DB
    msg = f"{path} has no GAIN line; add e.g. 'GAIN 17.5 dBi'"
    raise DataError(msg)
