"""The dominant-path gain as a function of the numbers it depends on linearly, routes held fixed.

Along a fixed street route the gain is linear in level, offsets, exponents, waveguide gain and the
harmonics of the antenna; so is the route over the roofs. The two add in power, which is smooth: a
few Gauss-Newton steps fit all numbers at once, with nothing but a linear prior. Place, height and
the shape of the bend factor choose the routes and are searched outside.

Source: the engine's own law (`dominant_path`); the split into linear terms is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
from jaxtyping import Float
from scipy.linalg import block_diag
from scipy.ndimage import distance_transform_edt

from hertzmap.core.seeds import generator
from hertzmap.core.types import AntennaPattern, Transmitter
from hertzmap.propagation.antennas import gain_dbi
from hertzmap.propagation.calibration import NO_ROUTE_DB
from hertzmap.propagation.dominant_path import GainLayers, one_metre_loss_db
from hertzmap.propagation.draws import ParameterRanges, TransmitterRanges, draw_parameters

HARMONICS = 3
"""Of the antenna's gain over azimuth."""
TERMS = (
    "level",
    "sight",
    "bent",
    "sight_exponent",
    "bent_exponent",
    "bend_exponent",
    "waveguide",
    "roof",
    "head_exponent",
    "cosine1",
    "sine1",
    "cosine2",
    "sine2",
    "cosine3",
    "sine3",
)
"""Gain at one metre; extra gain in sight, out of sight and over roofs [dB]; exponents, negative;
waveguide gain [dB]; the exponent's excess on the first leg (mode ``split``); antenna [dB]."""
_DRAWS = 2000


@final
@dataclass(frozen=True)
class TermBelief:
    """A Gaussian over `TERMS`."""

    mean: Float[np.ndarray, " terms"]
    """Mean, in the units of the terms."""
    covariance: Float[np.ndarray, "terms terms"]
    """Covariance."""


@lru_cache(maxsize=4)
def term_belief(*, directional: bool) -> TermBelief:
    """What the ranges of the propagation parameters and antennas say about `TERMS`.

    Args:
        directional: a sector antenna of unknown azimuth, or one that is alike all around.
    """
    draw, antennas = generator(0), TransmitterRanges()
    spread = ParameterRanges()
    low, high = np.log(antennas.carrier_hz)
    azimuth = np.linspace(-np.pi, np.pi, 72, endpoint=False)
    waves = np.linalg.pinv(np.column_stack([np.ones(len(azimuth)), *_harmonics(azimuth)]))
    level_zenith = np.full_like(azimuth, 0.5 * np.pi)
    found = np.empty((_DRAWS, len(TERMS)))
    for row in found:
        numbers = draw_parameters(draw, spread)
        carrier_hz = float(np.exp(draw.uniform(low, high)))
        head = numbers.n_los - numbers.length_exponent if numbers.exponent == "split" else 0.0
        kind = (
            "sector" if directional else str(draw.choice(["isotropic", "dipole"], p=[6 / 7, 1 / 7]))
        )
        tilt = float(np.deg2rad(draw.uniform(*antennas.sector_tilt_deg)))
        antenna = Transmitter(
            (0.0, 0.0, 5.0),
            carrier_hz,
            AntennaPattern(kind),
            yaw_rad=float(draw.uniform(-np.pi, np.pi)),
            pitch_rad=tilt if directional else 0.0,
        )
        pattern = waves @ gain_dbi(antenna, azimuth, level_zenith)
        row[:] = [
            pattern[0] - one_metre_loss_db(carrier_hz),
            -numbers.offset_los_db,
            -numbers.offset_nlos_db,
            -numbers.n_los,
            -numbers.length_exponent,
            -numbers.bend_exponent,
            numbers.waveguide_db,
            -numbers.offset_roof_db,
            -head,
            *pattern[1:],
        ]
    least = np.diag([0.5, 0.1, 0.1, 1e-4, 1e-4, 1e-3, 0.1, 0.1, 1e-3] + [0.5] * 2 * HARMONICS)
    return TermBelief(found.mean(axis=0), np.cov(found.T) + least)


def _harmonics(azimuth_rad: Float[np.ndarray, "*cells"]) -> list[np.ndarray]:
    return [wave(k * azimuth_rad) for k in range(1, HARMONICS + 1) for wave in (np.cos, np.sin)]


@final
@dataclass(frozen=True)
class Response:
    """Design matrices of the two routes of one transmitter."""

    street: Float[np.ndarray, "terms *cells"]
    """Terms of the street route."""
    roof: Float[np.ndarray, "terms *cells"]
    """Terms of the route over the roofs."""
    street_db: Float[np.ndarray, "*cells"]
    """Added to the street route's gain [dB]: 0, or `NO_ROUTE_DB`."""
    roof_db: Float[np.ndarray, "*cells"]
    """Added to the other route's gain [dB]: minus its loss, or `NO_ROUTE_DB`."""

    @classmethod
    def of(cls, layers: GainLayers) -> "Response":
        """Terms at the cells of the layers."""
        one = np.ones(layers.los.shape)
        none = np.zeros_like(one)
        sight = layers.los.astype(np.float64)
        bent = 1.0 - sight
        street = [
            one, sight, bent, sight * layers.length_db, bent * layers.length_db,
            bent * layers.bend_db, layers.closeness, none, bent * layers.first_leg_db,
            *_harmonics(layers.departure_rad),
        ]  # fmt: skip
        roof = [one, *[none] * 6, one, none, *_harmonics(layers.roof_departure_rad)]
        return cls(
            np.stack(street).astype(np.float64),
            np.stack(roof),
            np.where(layers.street, 0.0, NO_ROUTE_DB),
            np.where(layers.roof, -layers.roof_loss_db, NO_ROUTE_DB),
        )

    def gain(
        self, value: Float[np.ndarray, " terms"], floor_db: float
    ) -> tuple[Float[np.ndarray, "*cells"], Float[np.ndarray, "terms *cells"]]:
        """Path gain [dB] at the terms' values, and its derivative by each of them.

        The gain stays above a floor, where the derivative is 0. Without any route it is the floor
        too; `fill_gaps` says what else it may be.
        """
        street = np.tensordot(value, self.street, 1) + self.street_db
        roof = np.tensordot(value, self.roof, 1) + self.roof_db
        share = 1.0 / (1.0 + 10.0 ** (0.1 * np.clip(street - roof, -300.0, 300.0)))
        stronger, gap = np.maximum(street, roof), np.abs(street - roof)
        total = stronger + 10.0 * np.log10(1.0 + 10.0 ** (-0.1 * np.minimum(gap, 300.0)))
        slope = (1.0 - share) * self.street + share * self.roof
        low = total <= floor_db
        return np.maximum(total, floor_db), np.where(low, 0.0, slope)

    @property
    def without(self) -> np.ndarray:
        """True at cells that no route reaches."""
        return (self.street_db <= NO_ROUTE_DB) & (self.roof_db <= NO_ROUTE_DB)


def summed_gain(
    responses: Sequence[Response], value: Float[np.ndarray, "sources terms"], floor_db: float
) -> tuple[Float[np.ndarray, "*cells"], Float[np.ndarray, "unknowns *cells"]]:
    """Path gain [dB] of several transmitters whose powers add, and its derivatives.

    Args:
        responses: of each transmitter, at the same cells.
        value: of each one's terms.
        floor_db: as in `Response.gain`.

    Returns:
        Gain, and its derivative by the first one's terms, then the second one's and so on.
    """
    if len(responses) == 1:
        return responses[0].gain(value[0], floor_db)
    found = [one.gain(own, -np.inf) for one, own in zip(responses, value, strict=True)]
    gain = np.stack([own for own, _ in found])
    most = gain.max(axis=0)
    power = 10.0 ** (0.1 * (gain - most))
    total = most + 10.0 * np.log10(power.sum(axis=0))
    share = np.where(total > floor_db, power / power.sum(axis=0), 0.0)
    slope = [part * own for part, (_, own) in zip(share, found, strict=True)]
    return np.maximum(total, floor_db), np.concatenate(slope)


def joint_belief(beliefs: Sequence[TermBelief]) -> TermBelief:
    """Belief about the terms of several transmitters, independent of each other."""
    return TermBelief(
        np.concatenate([one.mean for one in beliefs]),
        np.asarray(block_diag(*[one.covariance for one in beliefs])),
    )


def fill_gaps(layers: GainLayers) -> GainLayers:
    """Layers in which cells without any route copy the nearest cell with one.

    A yard that a coarse mask closes is rarely dark in truth.
    """
    none = ~(layers.street | layers.roof)
    if not none.any() or none.all():
        return layers
    nearest = np.empty((2, *none.shape), np.int32)
    distance_transform_edt(none, return_distances=False, return_indices=True, indices=nearest)
    flat = np.ravel_multi_index(tuple(nearest), none.shape)
    filled = layers.at(flat.reshape(-1))
    return filled.reshape(none.shape)
