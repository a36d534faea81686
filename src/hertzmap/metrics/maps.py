"""Scores of a map against the noise-free truth: free cells of record, the paper's protocol beside.

Grey means ``(power - reference - floor) / span`` clipped to [0, 1], on one fixed scale; nothing is
rescaled per image. Of record: free cells only, walls zeroed for every method, cells without a route
at the floor. Paper protocol: the whole picture, walls included, each map as its method gave it.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.units import GreyScale
from hertzmap.metrics.calibration import (
    central_width,
    coverage,
    crps_mixture,
    probability_below,
)

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Central intervals whose coverage is reported."""
LIKELY = 1e-4
"""Candidates below this weight are left out of the calibration scores."""
MOST_PAIRS = 4_000_000
"""Pairs of candidates times cells above which calibration scores use every n-th free cell."""
NEAR_TRANSMITTER_M = 20.0
"""Radius of the stratum around the transmitter [m]."""
NEAR_WALL_M = 3.0
"""Depth of the stratum along walls [m]."""
REPORT_RINGS_M = (0.0, 2.0, 5.0, 10.0, 20.0, np.inf)
"""Edges of the strata by distance to the nearest report [m]."""


# --- Single pictures, in grey ---------------------------------------------------------------


def mse(truth: Float[np.ndarray, "*shape"], estimate: Float[np.ndarray, "*shape"]) -> float:
    """Mean squared error."""
    return float(np.mean((truth - estimate) ** 2))


def psnr_db(truth: Float[np.ndarray, "*shape"], estimate: Float[np.ndarray, "*shape"]) -> float:
    """Peak signal-to-noise ratio of grey values [dB]: ``-10 log10 mean (x - x')^2``.

    Equal pictures score 120 dB, a squared error of 1e-12, so that means stay finite.
    """
    return float(-10.0 * np.log10(max(mse(truth, estimate), 1e-12)))


def nmse(truth: Float[np.ndarray, "*shape"], estimate: Float[np.ndarray, "*shape"]) -> float:
    """Normalised squared error of grey values: ``mean (x - x')^2 / mean x^2``."""
    return mse(truth, estimate) / max(float(np.mean(truth**2)), 1e-12)


def ssim_map(
    truth: Float[np.ndarray, "rows cols"], estimate: Float[np.ndarray, "rows cols"]
) -> Float[np.ndarray, "rows cols"]:
    """Structural similarity around each cell: 7 x 7 uniform window, sample covariance, range 1.

    Source: Wang, Bovik, Sheikh and Simoncelli (2004), K1 = 0.01, K2 = 0.03, by scikit-image.
    """
    from skimage.metrics import structural_similarity

    both = structural_similarity(truth, estimate, data_range=1.0, full=True)
    return np.asarray(both[1])


def paper_protocol(
    truth: Float[np.ndarray, "rows cols"],
    estimate: Float[np.ndarray, "rows cols"],
    *,
    minmax: bool = False,
) -> dict[str, float]:
    """PSNR, SSIM and NMSE over the whole picture, walls included; one number per picture.

    Args:
        truth: raw grey picture, lit wall pixels included.
        estimate: grey picture.
        minmax: stretch both to their own minimum and maximum and round to 8 bits first, as the
            code of RadioDiff-Inv1 does. It hides offsets; off of record.

    Source: RadioDiff-Inv2, tables I to IV, as far as its protocol can be inferred.
    """
    if minmax:
        truth, estimate = _stretch(truth), _stretch(estimate)
    return {
        "paper_psnr_db": psnr_db(truth, estimate),
        "paper_ssim": _mean_ssim(truth, estimate),
        "paper_nmse": nmse(truth, estimate),
    }


def _mean_ssim(truth: np.ndarray, estimate: np.ndarray) -> float:
    """Mean of the map without the border of 3 cells, the default of scikit-image."""
    return float(ssim_map(truth, estimate)[3:-3, 3:-3].mean())


def _stretch(grey: np.ndarray) -> np.ndarray:
    low, high = float(grey.min()), float(grey.max())
    return np.round((grey - low) / max(high - low, 1e-12) * 255.0) / 255.0


# --- A posterior against the truth ----------------------------------------------------------


def score_map(
    posterior: MapPosterior,
    truth_dbm: Float[np.ndarray, "rows cols"],
    free: Bool[np.ndarray, "rows cols"],
    *,
    reference_dbm: float,
    scale: GreyScale | None = None,
) -> dict[str, float]:
    """All scores of one map.

    Args:
        posterior: a method's belief; its mean is scored, its mixture is checked for calibration.
        truth_dbm: noise-free power [dBm]; not finite where there is no route (scored as floor).
        free: True outdoors.
        reference_dbm: power per resource element that turns path gain into `truth_dbm` [dBm].
        scale: fixed grey scale; the default scale if None.

    Returns:
        Of record, free cells only: ``psnr_db``, ``ssim``, ``nmse``, ``rmse_db``, ``mae_db``,
        ``crps_db``, ``coverage50`` .. ``coverage95``, ``width90_db``. Paper protocol:
        ``paper_psnr_db``, ``paper_ssim``, ``paper_nmse``.

    Raises:
        ValueError: if the truth has another shape than the map, or no cell is free.
    """
    scale = scale or GreyScale()
    if truth_dbm.shape != posterior.grid.shape or free.shape != posterior.grid.shape:
        msg = f"truth {truth_dbm.shape}, mask {free.shape} and map {posterior.grid.shape} differ"
        raise ValueError(msg)
    if not free.any():
        msg = "no cell is free, so there is nothing to score"
        raise ValueError(msg)
    gain_db = np.where(np.isfinite(truth_dbm), truth_dbm - reference_dbm, scale.min_db)
    raw, estimate = scale.to_grey(gain_db), scale.to_grey(posterior.mean_dbm() - reference_dbm)
    truth, shown = raw * free, estimate * free
    scores = {
        "psnr_db": psnr_db(truth[free], shown[free]),
        "ssim": float(ssim_map(truth, shown)[free].mean()),
        "nmse": nmse(truth[free], shown[free]),
        "rmse_db": scale.span_db * float(np.sqrt(mse(truth[free], shown[free]))),
        "mae_db": scale.span_db * float(np.abs(truth - shown)[free].mean()),
    }
    scores |= paper_protocol(raw, estimate)
    true_dbm = scale.to_db(truth) + reference_dbm
    return scores | _calibration(posterior, true_dbm, free, reference_dbm, scale)


def _calibration(
    posterior: MapPosterior,
    true_dbm: np.ndarray,
    free: np.ndarray,
    reference_dbm: float,
    scale: GreyScale,
) -> dict[str, float]:
    weight = posterior.weight
    likely = weight >= min(LIKELY, float(weight.max()))
    weight = weight[likely] / weight[likely].sum()
    cells = np.flatnonzero(free)
    cells = cells[:: max(1, len(weight) ** 2 * len(cells) // MOST_PAIRS)]
    ends = (scale.min_db + reference_dbm, scale.max_db + reference_dbm)
    means = np.clip(posterior.maps_dbm[likely].reshape(len(weight), -1)[:, cells], *ends)
    spreads = posterior.spread_db[likely].reshape(len(weight), -1)[:, cells]
    return _score_mixture(true_dbm.ravel()[cells], means, spreads, weight)


def _score_mixture(
    value_dbm: np.ndarray, means: np.ndarray, spreads: np.ndarray, weight: np.ndarray
) -> dict[str, float]:
    transform = probability_below(value_dbm, means, spreads, weight)
    scores = {"crps_db": float(crps_mixture(value_dbm, means, spreads, weight).mean())}
    scores |= {f"coverage{round(100 * level)}": coverage(transform, level) for level in LEVELS}
    scores["width90_db"] = float(central_width(means, spreads, weight, 0.9).mean())
    return scores


def score_points(
    power_dbm: Float[np.ndarray, " points"],
    noise_db: Float[np.ndarray, " points"],
    means_dbm: Float[np.ndarray, "candidates points"],
    spreads_db: Float[np.ndarray, "candidates points"],
    weight: Float[np.ndarray, " candidates"],
) -> dict[str, float]:
    """Scores of a belief at the places of left-out measured reports, their noise as stated.

    Args:
        power_dbm: left-out reports [dBm].
        noise_db: their stated noise [dB]; the belief about a report is wider by it.
        means_dbm: each candidate at the reports' places [dBm].
        spreads_db: its standard deviation there, drift included [dB].
        weight: of the candidates; sums to 1.

    Returns:
        ``rmse_db``, ``mae_db``, ``crps_db``, ``coverage50`` .. ``coverage95``, ``width90_db``.
    """
    error_db = power_dbm - weight @ means_dbm
    scores = {
        "rmse_db": float(np.sqrt(np.mean(error_db**2))),
        "mae_db": float(np.abs(error_db).mean()),
    }
    wide = np.hypot(spreads_db, noise_db)
    return scores | _score_mixture(power_dbm, means_dbm, wide, weight)


# --- Strata ---------------------------------------------------------------------------------


def strata(
    grid: Grid,
    free: Bool[np.ndarray, "rows cols"],
    *,
    transmitter_m: tuple[float, float] | None = None,
    los: Bool[np.ndarray, "rows cols"] | None = None,
    reported_m: Float[np.ndarray, "points 2"] | None = None,
) -> dict[str, Bool[np.ndarray, "rows cols"]]:
    """Masks of free cells that tell where an error sits; each needs what it is named after.

    Args:
        grid: the raster.
        free: True outdoors.
        transmitter_m: (east, north) of the transmitter [m].
        los: True in line of sight of it.
        reported_m: reported places (east, north) [m].

    Returns:
        ``near_wall`` and, where known, ``near_transmitter``, ``los``, ``nlos`` and
        ``report_0_2m`` .. ``report_beyond_20m`` by distance to the nearest report.
    """
    masks = {"near_wall": free & _within(free, NEAR_WALL_M / grid.spacing_m)}
    centres = grid.centres_m()
    if transmitter_m is not None:
        gap = np.linalg.norm(centres - np.array(transmitter_m), axis=-1)
        masks["near_transmitter"] = free & (gap <= NEAR_TRANSMITTER_M)
    if los is not None:
        masks |= {"los": free & los, "nlos": free & ~los}
    if reported_m is not None and len(reported_m):
        nearest, _ = KDTree(reported_m).query(centres)
        for low, high in pairwise(REPORT_RINGS_M):
            name = f"{low:.0f}_{high:.0f}m" if np.isfinite(high) else f"beyond_{low:.0f}m"
            masks[f"report_{name}"] = free & (nearest >= low) & (nearest < high)
    return masks


def _within(free: np.ndarray, cells: float) -> np.ndarray:
    """Cells whose centre is at most so many cells from the edge of a wall."""
    if free.all():
        return np.zeros_like(free)
    return np.asarray(distance_transform_edt(free)) - 0.5 <= cells


def rmse_by_stratum(
    estimate_dbm: Float[np.ndarray, "rows cols"],
    truth_dbm: Float[np.ndarray, "rows cols"],
    masks: dict[str, Bool[np.ndarray, "rows cols"]],
) -> dict[str, float]:
    """Root mean square error [dB] in each stratum that has cells."""
    square = (estimate_dbm - truth_dbm) ** 2
    return {name: float(np.sqrt(square[mask].mean())) for name, mask in masks.items() if mask.any()}
