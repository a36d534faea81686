"""Random propagation parameters and transmitters, for training maps and benchmark truth.

The ranges are wide on purpose: a prior learned from these maps should know how radio maps look,
not which simulator made them. Every draw comes from the caller's generator alone.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import binary_erosion

from hertzmap.core.errors import PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.types import AntennaPattern, SceneRaster, Transmitter
from hertzmap.propagation.dominant_path import PropagationParameters


@final
@dataclass(frozen=True)
class ParameterRanges:
    """What `draw_parameters` draws from.

    The ranges enclose measured path-loss laws of streets (3GPP TR 38.901 table 7.4.1-1: exponents
    2.1 in and 3.2 to 3.9 out of sight) and the dominant-path maps of RadioMapSeer (line of sight
    ``-46.8 - 25.6 log10 d``, else ``-37 - 35.5 log10 L - 18 log10(J/L)`` dB at 5.9 GHz).
    """

    n_los: tuple[float, float] = (1.7, 2.7)
    """Path-loss exponent in line of sight; uniform."""
    n_nlos: tuple[float, float] = (2.2, 4.0)
    """Path-loss exponent out of sight; uniform, never below `n_los`."""
    n_bend: tuple[float, float] = (0.8, 4.0)
    """Exponent of the bends; log-uniform."""
    k1: tuple[float, float] = (0.3, 3.0)
    """Linear angle factor; log-uniform."""
    k2: tuple[float, float] = (0.0, 6.0)
    """Quadratic angle factor; uniform."""
    waveguide_db: tuple[float, float] = (0.0, 8.0)
    """Largest waveguide gain [dB]; uniform."""
    offset_los_sd_db: float = 2.0
    """Standard deviation of the offset in line of sight [dB]; normal about 0."""
    offset_nlos_sd_db: float = 4.0
    """Standard deviation of the offset out of sight [dB]; normal about the breakpoint's offset."""
    offset_roof_sd_db: float = 3.0
    """Standard deviation of the rooftop route's offset [dB]; normal about 0."""
    breakpoint_m: tuple[float, float] = (1.0, 20.0)
    """Distance at which the two laws of mode ``whole`` meet but for offsets [m]; log-uniform.
    A larger exponent counted from the first metre would make every shadow too deep."""
    exponents: tuple[str, ...] = ("whole", "single", "split")
    """Rules for the exponent at the shadow boundary."""
    exponent_shares: tuple[float, ...] = (0.5, 0.2, 0.3)
    """Share of each rule; they add up to 1."""


@final
@dataclass(frozen=True)
class TransmitterRanges:
    """What `draw_transmitter` draws from."""

    carrier_hz: tuple[float, float] = (0.7e9, 6.0e9)
    """Carrier frequency [Hz]; log-uniform."""
    low_share: float = 0.5
    """Share of street-level antennas, always outdoors."""
    low_height_m: tuple[float, float] = (1.5, 12.0)
    """Height of a street-level antenna above ground [m]; uniform."""
    high_height_m: tuple[float, float] = (12.0, 35.0)
    """Height of the others above ground [m]; uniform."""
    roof_share: float = 0.7
    """Share of the high antennas that stand on a roof, where a low enough roof exists."""
    roof_clearance_m: float = 2.0
    """Least height of an antenna above the roof under it [m]."""
    outside_m: float = 150.0
    """Largest distance of an outside transmitter from the window's edge [m]."""
    patterns: tuple[str, ...] = ("isotropic", "dipole", "sector")
    """Kinds of antenna."""
    pattern_shares: tuple[float, ...] = (0.6, 0.1, 0.3)
    """Share of each kind; they add up to 1."""
    sector_tilt_deg: tuple[float, float] = (0.0, 12.0)
    """Down-tilt of a sector antenna [deg]; uniform."""


def draw_parameters(
    generator: np.random.Generator, ranges: ParameterRanges | None = None
) -> PropagationParameters:
    """Draw one set of propagation parameters.

    Args:
        generator: source of all randomness; the same state gives the same parameters.
        ranges: what to draw from; the documented defaults when None.
    """
    spread = ranges or ParameterRanges()
    exponent = str(generator.choice(spread.exponents, p=spread.exponent_shares))
    n_los = generator.uniform(*spread.n_los)
    n_nlos = generator.uniform(max(spread.n_nlos[0], n_los), spread.n_nlos[1])
    breakpoint_m = _log_uniform(generator, spread.breakpoint_m)
    meeting_db = -10.0 * (n_nlos - n_los) * np.log10(breakpoint_m)
    return PropagationParameters(
        n_los=n_los,
        n_nlos=n_los if exponent == "single" else n_nlos,
        n_bend=_log_uniform(generator, spread.n_bend),
        k1=_log_uniform(generator, spread.k1),
        k2=generator.uniform(*spread.k2),
        offset_los_db=generator.normal(0.0, spread.offset_los_sd_db),
        offset_nlos_db=generator.normal(0.0, spread.offset_nlos_sd_db)
        + (float(meeting_db) if exponent == "whole" else 0.0),
        offset_roof_db=generator.normal(0.0, spread.offset_roof_sd_db),
        waveguide_db=generator.uniform(*spread.waveguide_db),
        exponent=exponent,
    )


def draw_transmitter(
    generator: np.random.Generator,
    site: SceneRaster,
    *,
    outside_share: float = 0.0,
    surroundings: SceneRaster | None = None,
    ranges: TransmitterRanges | None = None,
) -> Transmitter:
    """Draw one transmitter at a place where an antenna can stand.

    Street-level antennas stand outdoors, at least one cell from a building where the site has
    such cells; high ones outdoors or on a roof at least 2 m below them.

    Args:
        generator: source of all randomness; the same state gives the same transmitter.
        site: heights and free mask of the window.
        outside_share: share of transmitters placed outside the window, in [0, 1].
        surroundings: heights and free mask of a wider area, by which outside places are judged;
            where it does not reach, and everywhere outside without it, the ground counts as bare.
        ranges: what to draw from; the documented defaults when None.

    Raises:
        PropagationError: if the site has no place for the antenna.
    """
    spread = ranges or TransmitterRanges()
    low = generator.random() < spread.low_share
    height_m = generator.uniform(*(spread.low_height_m if low else spread.high_height_m))
    if generator.random() < outside_share:
        place = _draw_outside(generator, site.grid, surroundings, height_m, low, spread)
    else:
        place = _draw_inside(generator, site, height_m, low, spread)
    kind = str(generator.choice(spread.patterns, p=spread.pattern_shares))
    tilt_rad = np.deg2rad(generator.uniform(*spread.sector_tilt_deg))
    return Transmitter(
        place_m=(*place, height_m),
        carrier_hz=_log_uniform(generator, spread.carrier_hz),
        pattern=AntennaPattern(kind),
        yaw_rad=generator.uniform(-np.pi, np.pi),
        pitch_rad=float(tilt_rad) if kind == "sector" else 0.0,
    )


def _log_uniform(generator: np.random.Generator, ends: tuple[float, float]) -> float:
    return float(np.exp(generator.uniform(np.log(ends[0]), np.log(ends[1]))))


def _draw_inside(
    generator: np.random.Generator,
    site: SceneRaster,
    height_m: float,
    low: bool,
    spread: TransmitterRanges,
) -> tuple[float, float]:
    """A place (east, north) [m] on the window where an antenna of this height can stand."""
    cells = np.argwhere(_clear_of_walls(site.free))
    if not low and generator.random() < spread.roof_share:
        roofs = np.argwhere(~site.free & (site.height_m <= height_m - spread.roof_clearance_m))
        cells = roofs if len(roofs) else cells
    if not len(cells):
        msg = f"no outdoor cell for a transmitter of {height_m:.1f} m on {site.grid}"
        raise PropagationError(msg)
    cell = cells[generator.integers(len(cells))] + generator.uniform(-0.5, 0.5, 2)
    east, north = site.grid.place(cell)
    return float(east), float(north)


def _clear_of_walls(free: Bool[np.ndarray, "rows cols"]) -> Bool[np.ndarray, "rows cols"]:
    """Free cells with free neighbours on all eight sides; all free cells if there are none."""
    clear = binary_erosion(free, np.ones((3, 3), bool), border_value=1)
    return clear if clear.any() else free


def _draw_outside(
    generator: np.random.Generator,
    window: Grid,
    surroundings: SceneRaster | None,
    height_m: float,
    low: bool,
    spread: TransmitterRanges,
) -> tuple[float, float]:
    """A place (east, north) [m] within reach of the window but not on it."""
    west, south, east, north = window.bounds_m
    clear = None if surroundings is None else _clear_of_walls(surroundings.free)
    for _ in range(1000):
        place = np.array(
            [
                generator.uniform(west - spread.outside_m, east + spread.outside_m),
                generator.uniform(south - spread.outside_m, north + spread.outside_m),
            ]
        )
        beyond = place - np.clip(place, (west, south), (east, north))
        if not 0.0 < np.hypot(*beyond) <= spread.outside_m:
            continue
        if surroundings is None or clear is None or not surroundings.grid.contains(place[None])[0]:
            return float(place[0]), float(place[1])
        row, col = surroundings.grid.cell(place)
        roof_m = surroundings.height_m[row, col]
        if clear[row, col] or (not low and 0.0 < roof_m <= height_m - spread.roof_clearance_m):
            return float(place[0]), float(place[1])
    msg = f"no place for a transmitter within {spread.outside_m} m outside of {window}"
    raise PropagationError(msg)
