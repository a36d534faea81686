"""Fit of the dominant-path model's free numbers to maps or reports.

Routes are found with the present numbers and held fixed; then all numbers are fitted at once by
bounded least squares, and routes are searched again, until nothing moves. Line of sight, street
and rooftop places weigh the same in total, large residuals count linearly (Huber), and a weak
pull to the starting numbers decides what the data leave open.

Hold out whole environments (or at least whole maps), never cells: `error_db` scores any set.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import least_squares

from hertzmap.core.errors import DataError, PropagationError
from hertzmap.core.seeds import generator
from hertzmap.core.types import Reports, Transmitter
from hertzmap.core.units import to_linear
from hertzmap.propagation._rooftop_kernels import SHORTEST_ROUTE_M
from hertzmap.propagation.antennas import gain_dbi
from hertzmap.propagation.dominant_path import (
    DominantPath,
    Environment,
    Routes,
    one_metre_loss_db,
)
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.rooftop import rooftop_loss, rooftop_turns

NO_ROUTE_DB = -400.0
"""Gain of a route that does not exist [dB]; adds nothing to any sum."""
SIGHT, STREET, ROOF = 0, 1, 2
"""Classes of places, by the route that is strongest there."""


@final
@dataclass(frozen=True)
class Observation:
    """Path gains of one transmitter at some cells: part of a map, or measured reports."""

    environment: Environment
    """Where."""
    transmitter: Transmitter
    """Which antenna."""
    cell: Int[np.ndarray, "points 2"]
    """(row, col) of each place on the environment's grid, outdoors."""
    gain_db: Float[np.ndarray, " points"]
    """Path gain of each place [dB], finite."""

    def __post_init__(self) -> None:
        if self.cell.shape != (len(self.gain_db), 2) or not np.all(np.isfinite(self.gain_db)):
            msg = (
                f"Observation needs one cell (row, col) per finite gain, got cells "
                f"{self.cell.shape} and gains {self.gain_db.shape}; leave places without truth out"
            )
            raise ValueError(msg)

    @classmethod
    def of_map(
        cls,
        environment: Environment,
        transmitter: Transmitter,
        gain_db: Float[np.ndarray, "rows cols"],
    ) -> "Observation":
        """All outdoor cells of a map that have a truth.

        Args:
            environment: where; its grid is the map's.
            transmitter: which antenna.
            gain_db: path gain [dB]; NaN where there is no truth, which leaves the cell out.
        """
        cell = np.argwhere(environment.site.free & np.isfinite(gain_db))
        return cls(environment, transmitter, cell, gain_db[cell[:, 0], cell[:, 1]].astype(float))

    @classmethod
    def of_reports(
        cls, environment: Environment, transmitter: Transmitter, reports: Reports
    ) -> "Observation":
        """Reports of one transmitter, each at the cell it was reported from.

        Reports indoors or off the grid are left out. Without a reference the powers count as
        gains, and the fitted offsets take up the constant.
        """
        cell = environment.grid.cell(reports.reported_m)
        keep = environment.grid.contains(reports.reported_m)
        keep[keep] = environment.site.free[cell[keep, 0], cell[keep, 1]]
        gain_db = reports.power_dbm[keep] - (reports.reference_dbm or 0.0)
        return cls(environment, transmitter, cell[keep], gain_db.astype(float))

    def thin(self, limit: int, draw: np.random.Generator) -> "Observation":
        """At most `limit` places, drawn at random."""
        if len(self.gain_db) <= limit:
            return self
        keep = np.sort(draw.choice(len(self.gain_db), limit, replace=False))
        return replace(self, cell=self.cell[keep], gain_db=self.gain_db[keep])


@final
@dataclass(frozen=True)
class CalibrationConfig:
    """How the fit is done; bounds and rules are those of the engine's design."""

    free: tuple[str, ...] = (
        "n_los", "n_nlos", "n_bend", "k1", "k2",
        "offset_los_db", "offset_nlos_db", "offset_roof_db", "waveguide_db",
    )  # fmt: skip
    """Names of the numbers to fit; the others keep their starting value."""
    bounds: tuple[tuple[str, float, float], ...] = (
        ("n_los", 1.6, 3.0),
        ("n_nlos", 2.0, 4.5),
        ("n_bend", 0.5, 4.5),
        ("k0", 0.0, 1.0),
        ("k1", 0.0, 5.0),
        ("k2", 0.0, 10.0),
        ("offset_los_db", -15.0, 15.0),
        ("offset_nlos_db", -15.0, 15.0),
        ("offset_roof_db", -15.0, 15.0),
        ("waveguide_db", 0.0, 15.0),
    )
    """(name, least, most) of every number that may be free."""
    huber_db: float = 10.0
    """Residual from which on the loss grows linearly [dB]."""
    pull: float = 1e-3
    """Price of moving a number across its whole bounds, as a mean squared residual [dB^2]."""
    places: int = 4000
    """Places of each observation that enter the fit, drawn at random."""
    rounds: int = 10
    """Largest number of searches."""
    tolerance: float = 0.01
    """The fit ends when no number moves by more than this share of its size."""
    equal_classes: bool = True
    """Whether line of sight, street and rooftop places weigh the same in total."""
    seed: int = 0
    """Seed of the draw of places."""


@final
@dataclass(frozen=True)
class Calibration:
    """Fitted numbers and how well they fit."""

    parameters: PropagationParameters
    """The fitted numbers."""
    before_db: float
    """Root mean square error of the starting numbers on the fitted places [dB]."""
    after_db: float
    """The same of the fitted numbers [dB]."""
    rounds: int
    """Searches done."""


@final
@dataclass(frozen=True)
class _Places:
    """Everything about the fixed routes of all observed places that the losses depend on."""

    gain_db: np.ndarray
    """Observed path gain [dB]."""
    first_metre_db: np.ndarray
    los: np.ndarray
    """Whether the street route is the line of sight."""
    street: np.ndarray
    """Whether a street route exists."""
    length_m: np.ndarray
    """Length of the street route in space [m]."""
    first_leg_m: np.ndarray
    closeness: np.ndarray
    half_sine: np.ndarray
    """(points, bends) sine of half of each bend; NaN beyond the last."""
    antenna_db: np.ndarray
    """Antenna gain towards the street route [dBi]."""
    roof_length_m: np.ndarray
    """Length of the route over the roofs [m]; infinite where there is none."""
    roof_edges_db: np.ndarray
    roof_half_sine: np.ndarray
    roof_clear: np.ndarray
    roof_antenna_db: np.ndarray


def calibrate(
    observations: Sequence[Observation],
    start: PropagationParameters | None = None,
    config: CalibrationConfig | None = None,
    *,
    roof: bool = True,
) -> Calibration:
    """Fit the free numbers of the dominant-path model.

    Args:
        observations: maps or reports, from any number of environments and transmitters.
        start: starting numbers, and the values of all that is not free; defaults when None.
        config: what is free, bounds and rules.
        roof: whether the route over the roofs takes part.

    Returns:
        The numbers of the round with the least error on the fitted places.

    Raises:
        PropagationError: if there is nothing to fit, or a free number has no bounds.
    """
    rules, numbers = config or CalibrationConfig(), start or PropagationParameters()
    limits = {name: (least, most) for name, least, most in rules.bounds}
    unknown = [name for name in rules.free if name not in limits]
    if unknown or not sum(len(seen.gain_db) for seen in observations):
        msg = f"nothing to calibrate on, or free numbers without bounds: {unknown}"
        raise PropagationError(msg)
    thinned = [
        seen.thin(rules.places, generator(rules.seed, k)) for k, seen in enumerate(observations)
    ]
    origin = _vector(numbers, rules.free)
    best, rounds = (np.inf, numbers), 0
    before_db = np.inf
    for rounds in range(1, rules.rounds + 1):
        places = _gather(thinned, numbers, roof)
        error = _weighted_error(places, numbers, rules)
        if rounds == 1:
            before_db = _rmse(places, numbers)
        if error < best[0]:
            best = (error, numbers)
        moved = _solve(places, numbers, origin, rules, limits)
        old, new = _vector(numbers, rules.free), _vector(moved, rules.free)
        numbers = moved
        if np.all(np.abs(new - old) <= rules.tolerance * np.maximum(np.abs(old), 0.1)):
            break
    places = _gather(thinned, numbers, roof)
    if _weighted_error(places, numbers, rules) > best[0]:
        numbers = best[1]
        places = _gather(thinned, numbers, roof)
    return Calibration(numbers, before_db, _rmse(places, numbers), rounds)


def error_db(
    observations: Sequence[Observation], parameters: PropagationParameters, *, roof: bool = True
) -> Float[np.ndarray, " tx"]:
    """Root mean square error of a set of numbers on each observation [dB].

    Places that no route reaches are left out.
    """
    return np.array([_rmse(_gather([seen], parameters, roof), parameters) for seen in observations])


def write_calibration(
    path: Path, calibration: Calibration, *, environment_class: str, source: str, truth_hash: str,
    carrier_hz: float, held_out_before_db: float, held_out_after_db: float,
) -> None:  # fmt: skip
    """Write the fitted numbers with what they stand on, as a small JSON file.

    Args:
        path: the file.
        calibration: the fit.
        environment_class: in words, e.g. ``dense low-rise``.
        source: where the truth came from, in words.
        truth_hash: SHA-256 of the truth.
        carrier_hz: carrier the fit was made at [Hz].
        held_out_before_db: error of the starting numbers on held-out maps [dB].
        held_out_after_db: error of the fitted numbers on held-out maps [dB].
    """
    numbers = asdict(calibration.parameters)
    numbers["w_max"] = None if np.isinf(numbers["w_max"]) else numbers["w_max"]
    content = {
        "parameters": numbers,
        "carrier_hz": carrier_hz,
        "environment_class": environment_class,
        "source": source,
        "truth_sha256": truth_hash,
        "fitted_rmse_db": [calibration.before_db, calibration.after_db],
        "held_out_rmse_db": [held_out_before_db, held_out_after_db],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def read_calibration(path: Path) -> PropagationParameters:
    """Read the numbers of a file made by `write_calibration`.

    Raises:
        DataError: if the file is missing or damaged.
    """
    try:
        numbers: dict[str, Any] = json.loads(path.read_text())["parameters"]
        if numbers["w_max"] is None:
            numbers["w_max"] = np.inf
        return PropagationParameters(**numbers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is no calibration ({error}); make it with write_calibration"
        raise DataError(msg) from error


def _vector(parameters: PropagationParameters, names: tuple[str, ...]) -> np.ndarray:
    """The free numbers as a vector; a bend exponent that is None counts as what it stands for."""
    whole = asdict(parameters) | {"n_bend": parameters.bend_exponent}
    return np.array([whole[name] for name in names], dtype=float)


def _solve(
    places: _Places,
    numbers: PropagationParameters,
    origin: np.ndarray,
    rules: CalibrationConfig,
    limits: dict[str, tuple[float, float]],
) -> PropagationParameters:
    """Bounded least squares with routes fixed."""
    least, most = np.array([limits[name] for name in rules.free]).T
    root_weight = np.sqrt(_weights(_classes(places, numbers), rules.equal_classes))
    stiffness = np.sqrt(rules.pull) / (most - least)

    def residual(vector: np.ndarray) -> np.ndarray:
        tried = replace(numbers, **dict(zip(rules.free, vector.tolist(), strict=True)))
        off = _huber(_model_db(places, tried) - places.gain_db, rules.huber_db)
        return np.concatenate([root_weight * off, stiffness * (vector - origin)])

    guess = np.clip(_vector(numbers, rules.free), least, most)
    found = least_squares(residual, guess, bounds=(least, most), x_scale=most - least)
    return replace(numbers, **dict(zip(rules.free, found.x.tolist(), strict=True)))


def _huber(residual: np.ndarray, knee: float) -> np.ndarray:
    """Residuals whose squares are twice Huber's loss."""
    size = np.abs(residual)
    bent = np.sqrt(np.maximum(2.0 * knee * size - knee * knee, 0.0))
    return np.sign(residual) * np.where(size <= knee, size, bent)


def _classes(places: _Places, numbers: PropagationParameters) -> np.ndarray:
    street, roof = _street_db(places, numbers), _roof_db(places, numbers)
    kind = np.where(places.los, SIGHT, STREET)
    return np.where((roof > street) & ~places.los, ROOF, kind)


def _weights(kind: np.ndarray, equal: bool) -> np.ndarray:
    """Weights that add up to 1, and within each class to the same if asked."""
    if not equal:
        return np.full(len(kind), 1.0 / len(kind))
    count = np.bincount(kind, minlength=3)
    return 1.0 / (count[kind] * np.count_nonzero(count))


def _weighted_error(
    places: _Places, numbers: PropagationParameters, rules: CalibrationConfig
) -> float:
    weight = _weights(_classes(places, numbers), rules.equal_classes)
    off = _huber(_model_db(places, numbers) - places.gain_db, rules.huber_db)
    return float(np.sum(weight * off**2))


def _rmse(places: _Places, numbers: PropagationParameters) -> float:
    return float(np.sqrt(np.mean((_model_db(places, numbers) - places.gain_db) ** 2)))


def _model_db(places: _Places, numbers: PropagationParameters) -> np.ndarray:
    """Path gain of the fixed routes [dB], combined as the engine does."""
    street, roof = _street_db(places, numbers), _roof_db(places, numbers)
    if numbers.roof_law == "bends":
        both = np.maximum(street, roof)
    else:
        both = 10.0 * np.log10(to_linear(street) + to_linear(roof))
    return np.where(places.los, street, both)


def _street_db(places: _Places, numbers: PropagationParameters) -> np.ndarray:
    slope = np.where(places.los, numbers.n_los, numbers.length_exponent)
    offset = np.where(places.los, numbers.offset_los_db, numbers.offset_nlos_db)
    head = np.where(places.los, 0.0, numbers.head_exponent * np.log10(places.first_leg_m))
    bends = _log_factor(places.half_sine, numbers) + head
    loss = places.first_metre_db + 10.0 * slope * np.log10(places.length_m) + offset
    loss += 10.0 * numbers.bend_exponent * bends - numbers.waveguide_db * places.closeness
    return np.where(places.street, places.antenna_db - loss, NO_ROUTE_DB)


def _roof_db(places: _Places, numbers: PropagationParameters) -> np.ndarray:
    length = np.log10(np.minimum(places.roof_length_m, 1e6))
    loss = places.first_metre_db + numbers.offset_roof_db
    if numbers.roof_law == "bends":
        clear = places.roof_clear
        loss = loss + 10.0 * np.where(clear, numbers.n_los, numbers.length_exponent) * length
        loss += np.where(clear, numbers.offset_los_db, numbers.offset_nlos_db)
        loss += 10.0 * numbers.bend_exponent * _log_factor(places.roof_half_sine, numbers)
    else:
        loss = loss + 20.0 * length + places.roof_edges_db
    exists = np.isfinite(places.roof_length_m)
    return np.where(exists, places.roof_antenna_db - loss, NO_ROUTE_DB)


def _log_factor(half_sine: np.ndarray, numbers: PropagationParameters) -> np.ndarray:
    """Logarithm (base 10) of the product of the bend factors."""
    k0, k1, k2, most = numbers.bend_curve
    factor = np.minimum(1.0 + k0 + half_sine * (k1 + k2 * half_sine), most)
    return np.sum(np.log10(np.where(np.isnan(half_sine), 1.0, factor)), axis=-1)


def _gather(
    observations: Sequence[Observation], numbers: PropagationParameters, roof: bool
) -> _Places:
    """Search the routes of all observations and keep the places that any route reaches."""
    parts = [_routes_of(seen, numbers, roof) for seen in observations]
    most = [max(part[name].shape[1] for part in parts) for name in ("half_sine", "roof_half_sine")]
    for part in parts:
        for name, bends in zip(("half_sine", "roof_half_sine"), most, strict=True):
            gap = bends - part[name].shape[1]
            part[name] = np.pad(part[name], ((0, 0), (0, gap)), constant_values=np.nan)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    reached = whole["street"] | np.isfinite(whole["roof_length_m"])
    if not reached.any():
        msg = "no route reaches any observed place; check that transmitters and places match"
        raise PropagationError(msg)
    return _Places(**{name: values[reached] for name, values in whole.items()})


def _routes_of(
    seen: Observation, numbers: PropagationParameters, roof: bool
) -> dict[str, np.ndarray]:
    """The fields of `_Places` for one observation."""
    engine = DominantPath(seen.environment, numbers, roof=roof)
    count = len(seen.gain_db)
    fields = {
        "gain_db": seen.gain_db,
        "first_metre_db": np.full(count, one_metre_loss_db(seen.transmitter.carrier_hz)),
        "los": np.zeros(count, bool),
        "street": np.zeros(count, bool),
        "length_m": np.ones(count),
        "first_leg_m": np.ones(count),
        "closeness": np.zeros(count),
        "half_sine": np.empty((count, 0)),
        "antenna_db": np.zeros(count),
    }
    place_m = seen.transmitter.place_m
    try:
        routes = engine.routes(seen.transmitter)
    except PropagationError:
        if not roof:
            raise
    else:
        place_m = routes.transmitter.place_m
        fields |= _street_fields(seen, routes, numbers)
    return fields | _roof_fields(seen, place_m, numbers, roof)


def _street_fields(
    seen: Observation, routes: Routes, numbers: PropagationParameters
) -> dict[str, np.ndarray]:
    row, col = seen.cell.T
    exists = routes.valid[row, col]
    rise = numbers.receiver_height_m - routes.transmitter.place_m[2]
    level = np.where(exists, routes.length_m[row, col], 1.0)
    end = np.where(exists[:, None], _first_stop(routes, row, col), np.array([1.0, 0.0]))
    leg = end - np.array(routes.transmitter.place_m[:2])
    return {
        "los": routes.los[row, col],
        "street": exists,
        "length_m": np.maximum(np.hypot(level, rise), SHORTEST_ROUTE_M),
        "first_leg_m": np.maximum(np.where(exists, routes.first_leg_m[row, col], 1.0), 1e-3),
        "closeness": np.where(exists, routes.closeness[row, col], 0.0),
        "half_sine": np.sin(0.5 * routes.bend_rad[row, col].astype(float)),
        "antenna_db": gain_dbi(
            routes.transmitter, np.arctan2(leg[:, 1], leg[:, 0]), np.arctan2(level, rise)
        ),
    }


def _first_stop(routes: Routes, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Where the first leg of each route ends: its first corner, or the cell itself [m]."""
    cell = routes.grid.place(np.stack([row, col], axis=-1).astype(float))
    bends = routes.corner[row, col]
    count = np.sum(bends >= 0, axis=-1)
    if not bends.shape[-1]:
        return cell
    first = np.take_along_axis(bends, np.maximum(count - 1, 0)[:, None], axis=-1)[:, 0]
    return np.where((count > 0)[:, None], routes.corner_m[first], cell)


def _roof_fields(
    seen: Observation,
    place_m: tuple[float, float, float],
    numbers: PropagationParameters,
    roof: bool,
) -> dict[str, np.ndarray]:
    row, col = seen.cell.T
    count, raster, grid = len(row), seen.environment.raster, seen.environment.grid
    fields = {
        "roof_length_m": np.full(count, np.inf),
        "roof_edges_db": np.zeros(count),
        "roof_half_sine": np.empty((count, 0)),
        "roof_clear": np.zeros(count, bool),
        "roof_antenna_db": np.zeros(count),
    }
    if not roof:
        return fields
    height_m = numbers.receiver_height_m
    if numbers.roof_law == "bends":
        turn, length, zenith, clear = rooftop_turns(
            raster.height_m, raster.grid, grid, place_m, height_m
        )
        fields["roof_half_sine"] = np.sin(0.5 * turn[row, col].astype(float))
    else:
        edges, length, zenith, clear = rooftop_loss(
            raster.height_m, raster.grid, grid, place_m, seen.transmitter.carrier_hz, height_m
        )
        length = np.where(np.isfinite(edges), length, np.inf)
        fields["roof_edges_db"] = np.where(np.isfinite(edges), edges, 0.0)[row, col].astype(float)
    leg = grid.place(seen.cell.astype(float)) - np.array(place_m[:2])
    azimuth = np.arctan2(leg[:, 1], leg[:, 0])
    moved = replace(seen.transmitter, place_m=place_m)
    return fields | {
        "roof_length_m": length[row, col].astype(float),
        "roof_clear": clear[row, col],
        "roof_antenna_db": gain_dbi(moved, azimuth, zenith[row, col].astype(float)),
    }
