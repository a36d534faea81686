"""The nouns: frozen dataclasses over numpy arrays that check themselves when made.

Places are (east, north[, up]) in metres in a scene's local frame. Angles are radians, azimuth
anticlockwise from east. Powers in dBm, gains and losses in dB, delays in seconds.
"""

from dataclasses import dataclass, field
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int
from shapely.geometry import LineString, Polygon

from hertzmap.core.grid import Grid


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@final
@dataclass(frozen=True)
class SkippedBuilding:
    """A building of the map extract that could not become a footprint, and why."""

    source_id: str
    """OSM element, e.g. ``way/123`` or ``relation/4``."""
    reason: str
    """Why it was left out, in words."""


@final
@dataclass(frozen=True)
class Road:
    """One road's centre line."""

    line: LineString
    """Centre line in local metres."""
    kind: str
    """OSM ``highway`` value."""


@final
@dataclass(frozen=True)
class Scene:
    """Buildings and roads of a place in local metres (east, north), reversible to lon/lat."""

    footprints: tuple[Polygon, ...]
    """Building outlines with holes; valid, non-empty, in local metres."""
    height_m: Float[np.ndarray, " buildings"]
    """Height of each building above ground [m], above 0."""
    height_rule: tuple[str, ...]
    """Rule that gave each height: ``height``, ``levels`` or ``default:<building type>``."""
    source_id: tuple[str, ...]
    """Origin of each building, e.g. ``way/123``."""
    bounds_m: tuple[float, float, float, float]
    """(west, south, east, north) of the area the scene covers [m]."""
    crs: str = "LOCAL"
    """Projected metric CRS, e.g. ``EPSG:32632``; ``LOCAL`` for a synthetic scene."""
    origin_m: tuple[float, float] = (0.0, 0.0)
    """Projected (east, north) of the local point (0, 0) [m]."""
    roads: tuple[Road, ...] = ()
    """Centre lines of roads."""
    skipped: tuple[SkippedBuilding, ...] = ()
    """Buildings of the source that are not in `footprints`, each with its reason."""
    materials: tuple[str, ...] = ()
    """Material of each building, or empty when unknown."""
    name: str = "scene"
    """Short name for files and titles."""
    attribution: str = ""
    """Credit the data's licence asks for; empty for a synthetic scene."""

    def __post_init__(self) -> None:
        count = len(self.footprints)
        lengths = (len(self.height_m), len(self.height_rule), len(self.source_id))
        _require(
            all(length == count for length in lengths),
            f"Scene has {count} footprints but heights, rules, ids count {lengths}",
        )
        _require(
            len(self.materials) in (0, count), "Scene.materials must be empty or one per footprint"
        )
        _require(
            bool(np.all(np.isfinite(self.height_m)) and np.all(self.height_m > 0)),
            "Scene.height_m must be finite and above 0",
        )
        west, south, east, north = self.bounds_m
        _require(west < east and south < north, f"Scene.bounds_m is empty: {self.bounds_m}")


@final
@dataclass(frozen=True)
class SceneRaster:
    """What an estimator may know of the site: heights and the free (outdoor) mask on a grid."""

    grid: Grid
    """The raster."""
    height_m: Float[np.ndarray, "rows cols"]
    """Building height per cell [m]; 0 outdoors."""
    free: Bool[np.ndarray, "rows cols"]
    """True outdoors, False inside buildings."""

    def __post_init__(self) -> None:
        shapes = (self.height_m.shape, self.free.shape)
        _require(
            all(shape == self.grid.shape for shape in shapes),
            f"SceneRaster arrays {shapes} do not fit the grid {self.grid.shape}",
        )


@final
@dataclass(frozen=True)
class Terrain:
    """Height of the ground over an area: flat triangles between the centres of a grid's cells.

    Each square of four centres is cut from its south-west to its north-east corner. Meshes and
    look-ups (`up_at`) follow the same triangles, so nothing stands below the mesh by rounding.
    """

    grid: Grid
    """Where heights are known: at the cells' centres; at least 2 x 2."""
    up_m: Float[np.ndarray, "rows cols"]
    """Height of the ground [m], in the scene's frame."""
    datum_m: float = 0.0
    """Height of up = 0 in the source's height system [m]."""
    source: str = ""
    """Where the heights come from."""

    def __post_init__(self) -> None:
        _require(min(self.grid.shape) >= 2, "Terrain needs at least 2 x 2 cells")
        _require(
            self.up_m.shape == self.grid.shape,
            f"Terrain.up_m {self.up_m.shape} does not fit the grid {self.grid.shape}",
        )
        _require(bool(np.all(np.isfinite(self.up_m))), "Terrain.up_m must be finite")

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of the outermost centres, where the mesh ends [m]."""
        west, south, east, north = self.grid.bounds_m
        half = 0.5 * self.grid.spacing_m
        return (west + half, south + half, east - half, north - half)

    def up_at(self, place_m: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape"]:
        """Height of the ground [m] at places (east, north) [m]; beyond the edge as at the edge."""
        last = np.array(self.grid.shape) - 1
        pixel = np.clip(self.grid.to_pixel(place_m), 0.0, last)
        cell = np.minimum(pixel.astype(np.int64), last - 1)
        row, col = cell[..., 0], cell[..., 1]
        north, east = pixel[..., 0] - row, pixel[..., 1] - col
        here, across = self.up_m[row, col], self.up_m[row + 1, col + 1]
        side = np.where(east >= north, self.up_m[row, col + 1], self.up_m[row + 1, col])
        less, more = np.minimum(east, north), np.maximum(east, north)
        return here + more * (side - here) + less * (across - side)


@final
@dataclass(frozen=True)
class AntennaPattern:
    """Gain over direction. Kinds: ``isotropic``, ``dipole``, ``sector`` (TR 38.901), ``table``."""

    kind: str = "isotropic"
    """One of the four kinds."""
    azimuth_gain_db: tuple[float, ...] = ()
    """Kind ``table``: relative gain [dB] at equal azimuth steps over 360 degrees from boresight."""
    elevation_gain_db: tuple[float, ...] = ()
    """Kind ``table``: relative gain [dB] at equal steps over 360 degrees of the vertical cut."""
    peak_dbi: float = 0.0
    """Kind ``table``: gain at the pattern's maximum [dBi]."""

    def __post_init__(self) -> None:
        kinds = ("isotropic", "dipole", "sector", "table")
        _require(self.kind in kinds, f"AntennaPattern.kind must be one of {kinds}: {self.kind!r}")
        if self.kind == "table":
            _require(
                len(self.azimuth_gain_db) >= 4 and len(self.elevation_gain_db) >= 4,
                "a table pattern needs at least 4 azimuth and 4 elevation gains",
            )


@final
@dataclass(frozen=True)
class Transmitter:
    """One transmitting antenna."""

    place_m: tuple[float, float, float]
    """(east, north, up above ground) [m]."""
    carrier_hz: float = 3.5e9
    """Carrier frequency [Hz], above 0."""
    pattern: AntennaPattern = AntennaPattern()
    """Gain over direction."""
    yaw_rad: float = 0.0
    """Boresight azimuth [rad], anticlockwise from east."""
    pitch_rad: float = 0.0
    """Down-tilt [rad]; positive looks down."""
    roll_rad: float = 0.0
    """Rotation about boresight [rad]."""
    name: str = ""
    """Identifier, e.g. a cell id."""

    def __post_init__(self) -> None:
        _require(
            bool(np.all(np.isfinite(self.place_m))) and len(self.place_m) == 3,
            f"Transmitter.place_m must be three finite metres, got {self.place_m}",
        )
        _require(
            np.isfinite(self.carrier_hz) and self.carrier_hz > 0,
            f"Transmitter.carrier_hz must be above 0, got {self.carrier_hz}",
        )


@final
@dataclass(frozen=True)
class RadioMap:
    """Radio layers per transmitter on a grid; no path and indoors are masks, never numbers."""

    grid: Grid
    """The raster."""
    path_gain_db: Float[np.ndarray, "tx rows cols"]
    """Path gain [dB], antenna gains included; NaN where not `valid`."""
    valid: Bool[np.ndarray, "tx rows cols"]
    """True where a route exists and the cell is outdoors."""
    transmitters: tuple[Transmitter, ...]
    """One per map."""
    toa_s: Float[np.ndarray, "tx rows cols"] | None = None
    """Delay of the first strong arrival [s]; NaN where not `valid`."""
    los: Bool[np.ndarray, "tx rows cols"] | None = None
    """True in line of sight (geometry)."""
    aoa_rad: Float[np.ndarray, "tx rows cols"] | None = None
    """Azimuth the dominant path comes from, at the cell [rad]."""
    aod_rad: Float[np.ndarray, "tx rows cols"] | None = None
    """Azimuth the dominant path leaves towards, at the transmitter [rad]."""
    interaction_loss_db: Float[np.ndarray, "tx rows cols"] | None = None
    """Loss of the dominant route's bends [dB]."""

    def __post_init__(self) -> None:
        expected = (len(self.transmitters), *self.grid.shape)
        layers = (self.path_gain_db, self.valid, self.toa_s, self.los, self.aoa_rad, self.aod_rad)
        shapes = tuple(layer.shape for layer in layers if layer is not None)
        _require(
            all(shape == expected for shape in shapes),
            f"RadioMap layers {shapes} do not fit (tx, rows, cols) = {expected}",
        )
        _require(
            bool(np.all(np.isfinite(self.path_gain_db[self.valid]))),
            "RadioMap.path_gain_db must be finite where valid",
        )


@final
@dataclass(frozen=True)
class Reports:
    """Measured powers at REPORTED places. No field for the true position exists, on purpose."""

    reported_m: Float[np.ndarray, "points 2"]
    """Reported (east, north) [m], local frame of the site."""
    power_dbm: Float[np.ndarray, " points"]
    """Reported power, RSRP or RSS [dBm]; finite."""
    noise_db: Float[np.ndarray, " points"]
    """Standard deviation of the value noise [dB], at least 0."""
    drift_cov_m2: Float[np.ndarray, "points 2 2"]
    """Covariance of (true minus reported) place [m^2], symmetric and positive semi-definite."""
    reference_dbm: float | None = None
    """Known EIRP per resource element [dBm]: power = path gain + reference; None when unknown."""
    cell_id: Int[np.ndarray, " points"] | None = None
    """Radio cell (e.g. PCI) of each report."""
    device_id: Int[np.ndarray, " points"] | None = None
    """Reporting device."""
    time_s: Float[np.ndarray, " points"] | None = None
    """Time of each report [s]."""

    def __post_init__(self) -> None:
        count = len(self.power_dbm)
        shapes_fit = (
            self.reported_m.shape == (count, 2)
            and self.noise_db.shape == (count,)
            and self.drift_cov_m2.shape == (count, 2, 2)
        )
        _require(
            shapes_fit,
            f"Reports: {count} powers, but reported_m {self.reported_m.shape}, noise_db "
            f"{self.noise_db.shape}, drift_cov_m2 {self.drift_cov_m2.shape}",
        )
        for name in ("reported_m", "power_dbm", "noise_db", "drift_cov_m2"):
            finite = np.isfinite(getattr(self, name))
            bad = ~finite.all(axis=tuple(range(1, finite.ndim)))
            _require(
                not bad.any(),
                f"Reports.{name} is not finite at report {np.flatnonzero(bad)[:5].tolist()}; "
                "drop these reports or mend them",
            )
        _require(bool(np.all(self.noise_db >= 0)), "Reports.noise_db must be at least 0")
        if count:
            smallest = np.linalg.eigvalsh(self.drift_cov_m2).min()
            symmetric = np.allclose(self.drift_cov_m2, np.swapaxes(self.drift_cov_m2, 1, 2))
            _require(
                bool(symmetric and smallest >= -1e-9),
                "Reports.drift_cov_m2 must be symmetric and positive semi-definite",
            )

    def __len__(self) -> int:
        """Number of reports."""
        return len(self.power_dbm)

    def select(self, keep: np.ndarray) -> "Reports":
        """The reports named by an index or mask array, in its order."""

        def pick(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[keep]

        return Reports(
            self.reported_m[keep],
            self.power_dbm[keep],
            self.noise_db[keep],
            self.drift_cov_m2[keep],
            self.reference_dbm,
            pick(self.cell_id),
            pick(self.device_id),
            pick(self.time_s),
        )


@final
@dataclass(frozen=True)
class Trace:
    """What an iterative estimator did, step by step, for its loss curve."""

    values: dict[str, Float[np.ndarray, "steps candidates"]] = field(
        default_factory=dict[str, np.ndarray]
    )
    """Named curves, e.g. ``loss`` and ``discrepancy``; one column per start."""
    stopped_by: tuple[str, ...] = ()
    """Rule that ended each start, e.g. ``discrepancy``, ``plateau``, ``cap``."""
