"""Sections and pages of reports: what is shown of an estimate, and in which words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hertzmap.apps import plots, report
from hertzmap.apps.report import Fact, Page, Picture, Section, Table
from hertzmap.benchmarks.worlds import World
from hertzmap.core import registry
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, Scene, SceneRaster
from hertzmap.measurement.truth import SimulatedReports
from hertzmap.planning.survey import Survey

SCORES = (
    ("rmse_db", "RMSE [dB]", 2, True),
    ("mae_db", "MAE [dB]", 2, True),
    ("psnr_db", "PSNR [dB]", 2, False),
    ("ssim", "SSIM", 3, False),
    ("crps_db", "CRPS [dB]", 2, True),
    ("coverage50", "50 % interval holds", None, None),
    ("coverage90", "90 % interval holds", None, None),
    ("seconds", "time [s]", 1, None),
)
"""Columns of a score table: key, title, digits (None: per cent), whether small is good."""


def estimate_page(
    summary: Mapping[str, Any],
    reports: Reports,
    posterior: MapPosterior,
    site: SceneRaster,
    scene: Scene,
    survey: Survey,
    *,
    seed: int,
) -> Page:
    """The report of one estimated map.

    Args:
        summary: what `jobs.estimate` found out.
        reports: of one radio cell.
        posterior: the estimate.
        site: its grid and outdoor mask.
        scene: outlines of buildings.
        survey: places to measure at next.
        seed: of the run.
    """
    threshold_dbm = float(summary["threshold_dbm"])
    threshold = dbm(threshold_dbm)
    cell = "" if summary["cell"] is None else f", cell {summary['cell']}"
    panels = [
        plots.Panel(f"{len(reports)} reports as given", "power", reports=reports),
        plots.Panel("Estimated power", "power", posterior.mean_dbm()),
        plots.Panel("Standard deviation", "std", posterior.std_db(), marks_m=survey.place_m),
        plots.Panel(
            f"Probability of more than {threshold}",
            "probability",
            posterior.coverage_probability(threshold_dbm),
        ),
    ]
    tall = site.grid.rows > 1.2 * site.grid.cols
    rows = [panels] if tall else [panels[:2], panels[2:]]
    maps = plots.map_figure(rows, site, scene=scene)
    caption = (
        "Reports at their stated places, and the estimate on the same scale; standard deviation "
        "of the estimate, with the places in order where the next reports would lower it most; "
        f"and the probability that the power exceeds {threshold}. Buildings are grey."
    )
    blocks: list[Picture | Table] = [Picture(maps, caption)]
    if posterior.trace is not None and posterior.trace.values:
        blocks.append(
            Picture(
                plots.loss_figure(posterior.trace, width_in=plots.WIDTH_IN),
                "How the search converged.",
            )
        )
    least, most = (round(100 * end) for end in summary["covered_share_90_percent_interval"])
    facts = [
        Fact(f"{len(reports)}", f"reports, {summary['repeated_places']} at a repeated place"),
        Fact(
            f"{100 * summary['mean_coverage_probability']:.0f} %",
            f"of the outdoor area above {threshold}, with 90 % probability {least} to {most} %",
        ),
        Fact(dbm(round(summary["median_dbm"], 1)), "median power outdoors"),
        Fact(f"{summary['median_std_db']:.1f} dB", "median standard deviation"),
    ]
    for number, one in enumerate(summary["transmitters"], start=1):
        radius_m = np.sqrt(one["area_of_90_percent_m2"] / np.pi)
        which = "the antenna" if len(summary["transmitters"]) == 1 else f"antenna {number}"
        facts.append(Fact(f"{radius_m:.0f} m", f"radius of the area that holds {which} with 90 %"))
    text = (
        f"{display_name(summary['method'])} on {site.grid.rows} x {site.grid.cols} cells of "
        f"{site.grid.spacing_m:g} m, in {summary['seconds']:.1f} s. The map shows the power "
        "without measurement noise; it says nothing about the inside of buildings.",
        f"Reports at the {len(survey.left)} marked places are expected to take "
        f"{100 * (1 - survey.left[-1]):.0f} % of the summed variance away.",
    )
    section = Section("The radio map", text, tuple(blocks), tuple(facts))
    return Page(
        f"Radio map of {scene.name}{cell}",
        f"Estimated from {len(reports)} measured reports and the buildings of the map extract.",
        (section,),
        seed,
        (report.CREDITS["osm"],) if scene.attribution else (),
    )


def display_name(method: str) -> str:
    """A method in words.

    >>> display_name("kriging:tuned"), display_name("nearest:default:pool=2")
    ('Kriging (tuned)', 'Nearest (default, pool=2)')
    """
    name, _, variant = method.partition(":")
    return f"{registry.get('estimation', name).__name__} ({variant.replace(':', ', ')})"


def dbm(value: float) -> str:
    """A power in words, with a true minus sign.

    >>> dbm(-100.0)
    '−100 dBm'
    """
    return f"{value:g} dBm".replace("-", "−")


def score_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Figures of several methods on one truth."""
    values = [[score[key] for key, *_ in SCORES] for score in scores.values()]
    rows = tuple(
        (
            display_name(name),
            *(_shown(value, digits) for value, (_, _, digits, _) in zip(row, SCORES, strict=True)),
        )
        for name, row in zip(scores, values, strict=True)
    )
    return Table(
        ("method", *(title for _, title, *_ in SCORES)),
        rows,
        "Outdoor cells only, against the noise-free truth; every method knows the buildings and "
        "sees the same reports. A stated interval is honest if it holds its own share.",
        report.best_of(values, smallest=[small for *_, small in SCORES]),
    )


def _shown(value: float, digits: int | None) -> str:
    return f"{100 * value:.0f} %" if digits is None else f"{value:.{digits}f}"


def truth_section(
    title: str,
    world: World,
    simulated: SimulatedReports,
    posteriors: Mapping[str, MapPosterior],
    scores: Mapping[str, Mapping[str, float]],
    scene: Scene,
    *,
    note: str = "",
) -> Section:
    """Truth, reports and every method's estimate, deviation and error, with figures."""
    free = world.site.free
    reference_dbm = float(simulated.reports.reference_dbm or 0.0)
    truth_dbm = np.where(free, world.truth.path_gain_db + reference_dbm, np.nan)
    errors = {
        display_name(name): (post.mean_dbm() - truth_dbm)[free] for name, post in posteriors.items()
    }
    maps = truth_figure(world, simulated, posteriors, scene)
    noise_db = float(simulated.reports.noise_db.mean())
    drift_m = float(np.sqrt(simulated.reports.drift_cov_m2[:, 0, 0].mean()))
    text = (
        f"The truth comes from our own propagation engine on a grid twice as fine, with "
        "transmitter, antenna and propagation drawn at random and unknown to every method; the "
        f"engine also made the maps that the diffusion prior was trained on.{note} "
        f"{len(simulated.reports)} reports carry {noise_db:.1f} dB of noise and {drift_m:.1f} m of "
        "drift per axis.",
    )
    blocks: list[Picture | Table] = [
        score_table(scores),
        Picture(
            maps,
            "Upper row: true field with the transmitter (star); reports at their stated places; a "
            "detail that joins stated and true places. Below, one row per method: estimate, its "
            "standard deviation, and its error. Equal colours mean equal values throughout.",
        ),
        Picture(plots.error_figure(errors), "Higher and further left is better.", half=True),
    ]
    blocks += [
        Picture(plots.loss_figure(post.trace), f"How {display_name(name)} converged.", half=True)
        for name, post in posteriors.items()
        if post.trace is not None and post.trace.values
    ]
    facts = tuple(
        Fact(f"{score['rmse_db']:.1f} dB", f"RMSE of {display_name(name)}")
        for name, score in scores.items()
    )
    return Section(title, text, tuple(blocks), facts)


def truth_figure(
    world: World,
    simulated: SimulatedReports,
    posteriors: Mapping[str, MapPosterior],
    scene: Scene,
) -> Figure:
    """Truth, reports and a detail; below, each method's estimate, deviation and error."""
    reports, true_m = simulated.reports, simulated.true_m
    reference_dbm = float(reports.reference_dbm or 0.0)
    truth_dbm = np.where(world.site.free, world.truth.path_gain_db + reference_dbm, np.nan)
    transmitter = world.truth.transmitter
    who = () if transmitter is None else (transmitter,)
    side_m = 40.0 * max(world.site.grid.rows * world.site.grid.spacing_m / 256.0, 0.1)
    detail = plots.detail_view(world.site, reports, side_m=side_m)
    rows = [
        [
            plots.Panel("Truth", "power", truth_dbm, transmitters=who),
            plots.Panel(f"{len(reports):,} reports", "power", reports=reports, frame_m=detail),
            plots.Panel(
                "Detail: reported and true places",
                "power",
                reports=reports,
                true_m=true_m,
                view_m=detail,
            ),
        ]
    ]
    for name, posterior in posteriors.items():
        mean_dbm, shown = posterior.mean_dbm(), display_name(name)
        rows.append(
            [
                plots.Panel(f"{shown}: estimate", "power", mean_dbm),
                plots.Panel(f"{shown}: standard deviation", "std", posterior.std_db()),
                plots.Panel(f"{shown}: error", "error", mean_dbm - truth_dbm),
            ]
        )
    return plots.map_figure(rows, world.site, scene=scene)
