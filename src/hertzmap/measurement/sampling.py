"""Where one measures: sparse reports with noise on the value and drift on the place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
from jaxtyping import Bool, Float
from pydantic import ConfigDict

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.types import Reports
from hertzmap.core.units import GreyScale
from hertzmap.measurement.operator import bilinear, drift_root, nearest_free
from hertzmap.measurement.truth import SimulatedReports, TruthMap

MOST_REDRAWS = 10_000
"""Draws after which a report is taken to have no free ground within its drift."""


@final
@dataclass(frozen=True)
class SamplingConfig:
    """How many reports, how noisy, how far off. Defaults: RadioDiff-Inv2's default cell."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    rate_kp: float = 0.05
    """Reports per cell, in (0, 1]."""
    kp_over: Literal["free", "all"] = "free"
    """Which cells the rate counts: free ones or all of the grid."""
    snr_db: float | None = 5.0
    """Mean square of the grey map over ALL cells, walls as 0, above the noise variance [dB].

    Source: the level that RadioDiff-Inv2's tables imply, about 18 dB of noise at 5 dB."""
    sigma_db: float | None = None
    """Standard deviation of the value noise [dB], at least 0; takes precedence over `snr_db`.

    With both None reports carry no noise."""
    drift_m: float = 0.8
    """Size of the drift per axis, at least 0 (see `drift_is`)."""
    drift_cov_m2: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Covariance (east, north) of the drift [m^2]; takes precedence over `drift_m`."""
    drift_is: Literal["std", "variance"] = "std"
    """Whether `drift_m` is a standard deviation [m] or a variance [m^2]."""
    reading: Literal["berkson", "classical"] = "berkson"
    """``berkson``: true = reported + drift (the paper's); ``classical``: reported = true - drift.

    Berkson reports stand on cell centres; classical ones anywhere, in walls and off the map too."""
    reference_dbm: float = 0.0
    """EIRP per resource element that turns path gain into power [dBm]."""

    def __post_init__(self) -> None:
        sizes = {"rate_kp": self.rate_kp, "drift_m": self.drift_m, "sigma_db": self.sigma_db or 0.0}
        for name, value in sizes.items():
            if not (np.isfinite(value) and value >= 0):
                msg = f"SamplingConfig.{name} must be finite and at least 0, got {value}"
                raise ConfigError(msg)
        if not 0 < self.rate_kp <= 1:
            msg = f"SamplingConfig.rate_kp must lie in (0, 1], got {self.rate_kp}"
            raise ConfigError(msg)
        cov = self.covariance_m2
        if not np.allclose(cov, cov.T) or np.linalg.eigvalsh(cov).min() < -1e-9:
            msg = (
                "SamplingConfig.drift_cov_m2 must be symmetric and positive semi-definite, got "
                f"{self.drift_cov_m2}"
            )
            raise ConfigError(msg)

    @property
    def covariance_m2(self) -> Float[np.ndarray, "2 2"]:
        """Covariance (east, north) of the drift [m^2]."""
        if self.drift_cov_m2 is not None:
            return np.array(self.drift_cov_m2, np.float64)
        return np.eye(2) * (self.drift_m**2 if self.drift_is == "std" else self.drift_m)


def noise_std_grey(truth: TruthMap, config: SamplingConfig, scale: GreyScale) -> float:
    """Standard deviation of the value noise [grey] that a configuration asks for.

    ``sigma_n^2 = mean over all cells of x^2 / 10^(SNR / 10)``, walls as 0.
    """
    if config.sigma_db is not None:
        return config.sigma_db / scale.span_db
    if config.snr_db is None:
        return 0.0
    grey = np.where(truth.free, scale.to_grey(truth.path_gain_db), 0.0)
    return float(np.sqrt(np.mean(grey**2) / 10.0 ** (config.snr_db / 10.0)))


def sample_reports(
    truth: TruthMap,
    config: SamplingConfig,
    generator: np.random.Generator,
    scale: GreyScale | None = None,
) -> SimulatedReports:
    """Simulate reports: cells without replacement, drift cut at walls, values at the true places.

    Only free cells with a route above the scale's floor are drawn. The drift is redrawn until the
    nearest cell of the true place is free and on the map, and the fine map can be read there. The
    value is the fine map read bilinearly at the continuous true place, walls left out, plus noise.
    Where the rate asks for more cells than can be drawn, all of them report once.

    Source: RadioDiff-Inv2, eqs. 18-21.

    Args:
        truth: the noise-free map.
        config: rate, noise and drift.
        generator: source of chance.
        scale: the grey scale; the default scale if None.

    Raises:
        ReportsError: if no cell can report, or a report finds no free ground within its drift.
    """
    scale = scale or GreyScale()

    def drift(count: int) -> Float[np.ndarray, "draws 2"]:
        return generator.standard_normal((count, 2)) @ root.T

    def within_cell(count: int) -> Float[np.ndarray, "draws 2"]:
        return (generator.random((count, 2)) - 0.5) * truth.grid.spacing_m

    root = drift_root(config.covariance_m2[None])[0]
    centre_m = _draw_centres(truth, config, generator, scale)
    if config.reading == "classical":
        true_m = _on_free_ground(truth, centre_m, within_cell)
        reported_m = true_m - drift(len(true_m))
    else:
        true_m = _on_free_ground(truth, centre_m, drift)
        reported_m = centre_m
    noise = noise_std_grey(truth, config, scale)
    grey = scale.to_grey(read_truth(truth, true_m)) + noise * generator.standard_normal(len(true_m))
    reports = Reports(
        reported_m,
        scale.to_db(grey) + config.reference_dbm,
        np.full(len(true_m), noise * scale.span_db),
        np.tile(config.covariance_m2, (len(true_m), 1, 1)),
        reference_dbm=config.reference_dbm,
    )
    return SimulatedReports(reports, true_m)


def read_truth(
    truth: TruthMap, place_m: Float[np.ndarray, "points 2"]
) -> Float[np.ndarray, " points"]:
    """Noise-free path gain [dB] at continuous places, off the fine map with its walls left out."""
    cell, tap, _ = bilinear(truth.fine_grid, truth.fine_free, place_m)
    return np.einsum("pt,pt->p", truth.fine_gain_db.ravel()[cell], tap)


def _draw_centres(
    truth: TruthMap, config: SamplingConfig, generator: np.random.Generator, scale: GreyScale
) -> Float[np.ndarray, "points 2"]:
    heard = np.flatnonzero(truth.free & (truth.path_gain_db > scale.min_db))
    cells = truth.free.sum() if config.kp_over == "free" else truth.free.size
    count = min(round(config.rate_kp * int(cells)), len(heard))
    if count == 0:
        msg = (
            f"no cell can report: {len(heard)} of {truth.free.size} cells are free with a route "
            f"above {scale.min_db} dB, and the rate is {config.rate_kp}; raise the rate or move "
            "the transmitter"
        )
        raise ReportsError(msg)
    chosen = generator.choice(heard, size=count, replace=False)
    return truth.grid.centres_m().reshape(-1, 2)[chosen]


def _on_free_ground(
    truth: TruthMap,
    centre_m: Float[np.ndarray, "points 2"],
    draw: Callable[[int], Float[np.ndarray, "draws 2"]],
) -> Float[np.ndarray, "points 2"]:
    """Centres plus draws, each redrawn until it is a usable place on both grids."""
    place_m = centre_m.copy()
    again = np.arange(len(centre_m))
    for _ in range(MOST_REDRAWS):
        place_m[again] = centre_m[again] + draw(len(again))
        again = again[~_usable(truth, place_m[again])]
        if not len(again):
            return place_m
    msg = (
        f"{len(again)} reports, the first at {centre_m[again[0]].tolist()} m, found no free ground "
        f"in {MOST_REDRAWS} draws; use a smaller drift"
    )
    raise ReportsError(msg)


def _usable(truth: TruthMap, place_m: Float[np.ndarray, "points 2"]) -> Bool[np.ndarray, " points"]:
    """Nearest coarse cell free, and at least 1/4 of the fine reading's weight on free cells."""
    _, _, weight = bilinear(truth.fine_grid, truth.fine_free, place_m)
    return nearest_free(truth.grid, truth.free, place_m) & (weight >= 0.25 - 1e-9)
