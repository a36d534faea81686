"""The main job on bundled data: a held-out district with known truth, and a measured campus."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from hertzmap.apps import jobs, pages, plots, report
from hertzmap.apps.jobs import Tell
from hertzmap.apps.report import Fact, Page, Picture, Section, Table
from hertzmap.benchmarks import campus as campus_bench
from hertzmap.benchmarks import methods as method_tools
from hertzmap.benchmarks import worlds
from hertzmap.benchmarks.campus import CampusConfig
from hertzmap.benchmarks.worlds import WorldKey
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.seeds import generator
from hertzmap.core.types import SceneRaster
from hertzmap.datasets import interchange, splits
from hertzmap.datasets.campus import Campus, read_campus
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.measurement.sampling import SamplingConfig, sample_reports
from hertzmap.scenes.raster import window

OURS = "combined:default"
"""The method shown."""
TUNED = "kriging:tuned"
"""The baseline to beat, told the same facts."""
FLOOR = "nearest:default"
"""The floor every method must clear."""
CITY = "heidelberg"
"""Held-out city of the district; its first tile, whatever it looks like."""
THRESHOLD_DBM = -100.0
"""Power whose coverage is mapped on the campus [dBm]."""
MINUTES = "two to four minutes on two cores; the maps of our own method take most of it"
"""Said first."""
KNOWN_SHARE = 0.8
"""Share of a radio cell's places that methods see before they are scored on the others."""


@final
@dataclass(frozen=True)
class DemoOptions:
    """How large a demo; the defaults take a few minutes on two cores."""

    ours: str = OURS
    """Method shown, ``name:preset[:option=value,...]``."""
    size_m: float = 256.0
    """Side of the district [m]."""
    spacing_m: float = 1.0
    """Side of its cells [m]."""
    cells: int = 4
    """Radio cells of the campus, those with most reports."""
    sampling: SamplingConfig = SamplingConfig(rate_kp=0.05, snr_db=5.0, drift_m=0.8)
    """Reports of the district."""


def run(
    out: Path, *, seed: int = 0, options: DemoOptions | None = None, tell: Tell = lambda _: None
) -> dict[str, Any]:
    """Run both parts, write ``report.html``, ``report.json``, ``overview.png`` and GeoTIFFs.

    Args:
        out: folder of the results.
        seed: of the reports, the split of places and the estimates.
        options: size of the demo; the default if None.
        tell: called with what is done next.

    Returns:
        The content of ``report.json``.

    Raises:
        DataError: if bundled data or weights are missing or damaged.
    """
    options = options or DemoOptions()
    started = time.perf_counter()
    tell(MINUTES)
    tell = _numbered(tell, 5 + 4 * options.cells)
    methods = {name: method_tools.build(name) for name in (options.ours, TUNED, FLOOR)}
    district, first = _district(out, methods, options, seed, tell)
    campus, second = _campus(out, methods, options, seed, tell)
    page = Page(
        "Radio maps from sparse, noisy, misplaced reports",
        "What hertzmap makes of a few signal reports and a map of buildings: first where the truth "
        "is known because it was simulated, then on measurements, where reports that the methods "
        "never saw are the judge.",
        (first, second),
        seed,
        tuple(report.CREDITS.values()),
    )
    tell("the report")
    interchange.write_text(out / "report.html", report.render(page))
    summary = {
        "district": district,
        "campus": campus,
        "seconds": round(time.perf_counter() - started, 1),
        "made_by": report.provenance(seed),
    }
    interchange.write_json(out / "report.json", summary)
    return summary


def _numbered(tell: Tell, steps: int) -> Tell:
    """Say which step of how many it is."""
    count = itertools.count(1)
    return lambda text: tell(f"{next(count)} of {steps}: {text}")


# --- the district -------------------------------------------------------------------------------


def _district(
    out: Path,
    methods: Mapping[str, AbstractEstimator],
    options: DemoOptions,
    seed: int,
    tell: Tell,
) -> tuple[dict[str, Any], Section]:
    tell(f"simulating the truth of a district of {CITY}")
    key = WorldKey("cities", CITY, 0)
    world = worlds.make_city_world(key, size_m=options.size_m, spacing_m=options.spacing_m)
    scene = window(splits.load_extract(CITY), world.site.grid, jobs.MARGIN_M)
    simulated = sample_reports(world.truth, options.sampling, generator(seed, 1))
    posteriors, scores = {}, {}
    for name in (options.ours, TUNED):
        tell(f"district: {name} on {len(simulated.reports)} reports")
        began = time.perf_counter()
        posteriors[name] = methods[name].estimate(simulated.reports, world.site, seed=seed)
        seconds = round(time.perf_counter() - began, 2)
        scores[name] = jobs.scored(posteriors[name], world, options.sampling.reference_dbm)
        scores[name]["seconds"] = seconds
        path = out / f"district-{_file_name(name)}.tif"
        interchange.write_map(
            path, posteriors[name], world.site, scene, threshold_dbm=THRESHOLD_DBM
        )
    figure = pages.truth_figure(world, simulated, posteriors, scene)
    plots.save(figure, out / "overview.png")
    section = pages.truth_section(
        f"A district of {CITY.title()}, never trained on",
        world,
        simulated,
        posteriors,
        scores,
        scene,
        note=f" No map of {CITY.title()}, nor of anything within 2 km of it, was among them.",
    )
    summary = {
        "city": CITY,
        "reports": len(simulated.reports),
        "sampling": asdict(options.sampling),
        "flags": worlds.flags("cities"),
        "scores": scores,
    }
    return summary, section


# --- the campus ---------------------------------------------------------------------------------


def _campus(
    out: Path,
    methods: Mapping[str, AbstractEstimator],
    options: DemoOptions,
    seed: int,
    tell: Tell,
) -> tuple[dict[str, Any], Section]:
    tell("reading the campus measurements")
    data = read_campus()
    config = CampusConfig(shares=(KNOWN_SHARE,), repeats=seed + 1, cells=options.cells)
    chosen = [split for split in campus_bench.splits(data, config) if split.repeat == seed]
    scores: dict[str, dict[int, dict[str, float]]] = {name: {} for name in methods}
    left_out: dict[int, int] = {}
    for split in chosen:
        reports, place = data.of_cell(split.cell)
        hidden = ~split.known
        left_out[split.cell] = int(hidden.sum())
        for name, method in methods.items():
            tell(f"campus cell {split.cell}: {name} on {int(split.known.sum())} reports")
            posterior = method.estimate(reports.select(split.known), data.site, seed=seed)
            found = campus_bench.score(posterior, data.site, reports.select(hidden), place[hidden])
            scores[name][split.cell] = {key: round(value, 4) for key, value in found.items()}
    maps = {}
    for cell in data.cells[: options.cells]:
        tell(f"campus cell {cell}: map from all reports")
        maps[cell] = methods[options.ours].estimate(data.of_cell(cell)[0], data.site, seed=seed)
        interchange.write_map(
            out / f"campus-cell-{cell}.tif",
            maps[cell],
            data.site,
            data.scene,
            threshold_dbm=THRESHOLD_DBM,
        )
    covered = {cell: _covered_share(posterior, data.site) for cell, posterior in maps.items()}
    summary = {
        "reports": {str(cell): len(data.of_cell(cell)[0]) for cell in maps},
        "left_out_reports": {str(cell): count for cell, count in left_out.items()},
        "known_share_of_places": KNOWN_SHARE,
        "scores": {
            name: {str(cell): found for cell, found in cells.items()}
            for name, cells in scores.items()
        },
        "threshold_dbm": THRESHOLD_DBM,
        "covered_share": {str(cell): round(share, 4) for cell, share in covered.items()},
    }
    return summary, _campus_section(data, maps, scores, left_out, options)


def _covered_share(posterior: MapPosterior, site: SceneRaster) -> float:
    return float(posterior.coverage_probability(THRESHOLD_DBM)[site.free].mean())


def _campus_section(
    data: Campus,
    maps: Mapping[int, MapPosterior],
    scores: Mapping[str, Mapping[int, Mapping[str, float]]],
    left_out: Mapping[int, int],
    options: DemoOptions,
) -> Section:
    reports = {cell: data.of_cell(cell)[0] for cell in maps}
    shown = window(data.scene, data.site.grid, 0.0)
    seen = [
        plots.Panel(f"Cell {cell}: {len(own)} reports", "power", reports=own)
        for cell, own in reports.items()
    ]
    power = [
        plots.Panel(f"Cell {cell}: estimated RSRP", "power", posterior.mean_dbm())
        for cell, posterior in maps.items()
    ]
    spread = [
        plots.Panel(f"Cell {cell}: standard deviation", "std", posterior.std_db())
        for cell, posterior in maps.items()
    ]
    chance = [
        plots.Panel(
            f"Cell {cell}: above {pages.dbm(THRESHOLD_DBM)}",
            "probability",
            posterior.coverage_probability(THRESHOLD_DBM),
        )
        for cell, posterior in maps.items()
    ]
    labels = {
        "power": "RSRP [dBm]",
        "probability": f"probability of RSRP above {pages.dbm(THRESHOLD_DBM)}",
    }
    levels = plots.map_figure([seen, power], data.site, scene=shown, labels=labels)
    trust = plots.map_figure([spread, chance], data.site, scene=shown, labels=labels)
    text = (
        f"{sum(len(own) for own in reports.values())} LTE reports of a walking phone at 3.5 GHz. "
        "Cell sites and transmit powers are not known, and no truth exists. So "
        f"{100 * KNOWN_SHARE:.0f} % of the places were shown to each method, and the reports of "
        "all other places are what it is judged by. The maps below use all reports.",
    )
    return Section(
        "A measured campus",
        text,
        (
            campus_table(scores, left_out),
            Picture(
                levels,
                "Upper row: measured RSRP of the four radio cells with most reports, at the places "
                f"the phone stated. Lower row: the map by {pages.display_name(options.ours)}.",
            ),
            Picture(
                trust,
                "Upper row: standard deviation of the estimate. Lower row: probability of an RSRP "
                f"above {pages.dbm(THRESHOLD_DBM)}. Where no one measured, little is certain.",
            ),
        ),
        tuple(
            Fact(
                f"{100 * _covered_share(posterior, data.site):.0f} %",
                f"of the outdoor area above {pages.dbm(THRESHOLD_DBM)} by cell {cell}, as expected "
                "by its map",
            )
            for cell, posterior in maps.items()
        ),
    )


def campus_table(
    scores: Mapping[str, Mapping[int, Mapping[str, float]]], left_out: Mapping[int, int]
) -> Table:
    """RMSE at left-out places by method and radio cell, and how often stated intervals hold."""
    values = []
    for cells in scores.values():
        errors = [cells[cell]["rmse_db"] for cell in left_out]
        holds = [cells[cell]["coverage90"] for cell in left_out]
        values.append([*errors, float(np.mean(errors)), float(np.mean(holds))])
    rows = tuple(
        (
            pages.display_name(name),
            *(f"{value:.2f}" for value in row[:-1]),
            f"{100 * row[-1]:.0f} %",
        )
        for name, row in zip(scores, values, strict=True)
    )
    heads = [f"cell {cell} ({count} left out)" for cell, count in left_out.items()]
    return Table(
        ("method: RMSE [dB] at left-out places", *heads, "mean of cells", "90 % interval holds"),
        rows,
        "Measured reports that no method saw, their own noise included; the stated interval "
        "covers map and noise. One split of the places: differences below some tenths of a dB "
        "mean little.",
        report.best_of(values, smallest=[True] * (len(left_out) + 1) + [None]),
    )


def _file_name(method: str) -> str:
    return "".join(mark if mark.isalnum() else "-" for mark in method)
