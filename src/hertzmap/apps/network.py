"""All radio cells of one table of reports: a map of each, best server and overlap."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hertzmap.apps import pages, plots, report
from hertzmap.apps.jobs import EstimateOptions, Tell, read_table, site_around
from hertzmap.apps.report import Fact, Page, Picture, Section, Table
from hertzmap.benchmarks import methods as method_tools
from hertzmap.core.errors import ReportsError
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Scene, SceneRaster
from hertzmap.datasets import interchange
from hertzmap.planning.areas import estimate_area
from hertzmap.planning.network import NetworkView, view_network
from hertzmap.scenes.raster import window


def network(
    scene: Scene,
    table: Path,
    out: Path,
    options: EstimateOptions,
    *,
    margin_db: float = 6.0,
    overlapping: int = 3,
    fewest: int = 20,
    most_cells: int = 12,
    seed: int,
    tell: Tell,
) -> dict[str, Any]:
    """Estimate every radio cell with enough reports on one grid, then who serves where.

    Args:
        scene: buildings.
        table: reports with a column of radio cells.
        out: folder of the files; finished tiles of large areas are kept there.
        options: as for one map; its `cell` is not used.
        margin_db: servers within it of the strongest one could serve as well [dB].
        overlapping: so many of them count as overlap.
        fewest: radio cells with fewer reports are left out, and named in the summary.
        most_cells: at most so many, those with most reports.
        seed: of all that is drawn.
        tell: called with what is done next.

    Raises:
        ReportsError: if the table names no radio cells, or none of them carries a map.
    """
    tell("reading reports")
    reports = read_table(scene, table, replace(options, cell=None))
    if reports.cell_id is None:
        msg = f"{table} names no radio cells; add a column of them, or use `hertzmap estimate`"
        raise ReportsError(msg)
    count = interchange.cells_by_count(reports)
    chosen = [cell for cell, size in count.items() if size >= fewest][:most_cells]
    if not chosen:
        msg = (
            f"no radio cell of {table} has {fewest} reports, the most is "
            f"{max(count.values(), default=0)}; lower --fewest or measure more"
        )
        raise ReportsError(msg)
    kept = reports.select(np.isin(reports.cell_id, chosen))
    site = site_around(scene, kept, options)
    estimator = method_tools.build(options.method)
    started = time.perf_counter()
    posteriors: dict[str, MapPosterior] = {}
    left = {
        f"{cell}": f"{size} reports, fewer than {fewest}"
        if size < fewest
        else f"beyond the {most_cells} with most reports"
        for cell, size in count.items()
        if cell not in chosen
    }
    for number, cell in enumerate(chosen, start=1):
        own = reports.select(reports.cell_id == cell)
        tell(f"radio cell {cell} ({number} of {len(chosen)}), {len(own)} reports")
        try:
            posteriors[f"{cell}"] = estimate_area(
                estimator,
                own,
                site,
                seed=seed,
                folder=out / "tiles",
                name=method_tools.fingerprint(estimator),
                progress=tell,
            )
        except ReportsError as error:
            left[f"{cell}"] = str(error)
            tell(f"radio cell {cell} is left out: {error}")
    if not posteriors:
        msg = f"no radio cell of {table} carries a map: {next(iter(left.values()))}"
        raise ReportsError(msg)
    seconds = time.perf_counter() - started
    tell("best server and overlap")
    view = view_network(
        posteriors,
        threshold_dbm=options.threshold_dbm,
        margin_db=margin_db,
        overlapping=overlapping,
        seed=seed,
    )
    tell("writing")
    files = _write(posteriors, view, site, scene, out, options.threshold_dbm)
    free = site.free
    summary: dict[str, Any] = {
        "scene": scene.name,
        "reports_file": str(table),
        "method": options.method,
        "grid": asdict(site.grid),
        "threshold_dbm": options.threshold_dbm,
        "margin_db": margin_db,
        "overlapping": overlapping,
        "served_share": round(float(view.any_probability[free].mean()), 4),
        "overlap_share": round(float(view.overlap_probability[free].mean()), 4),
        "cells": {
            name: {
                "reports": int(count[int(name)]),
                "covered_share": round(
                    float(one.coverage_probability(options.threshold_dbm)[free].mean()), 4
                ),
                "best_server_share": round(float(best[free].mean()), 4),
            }
            for (name, one), best in zip(posteriors.items(), view.best_probability, strict=True)
        },
        "left_out": left,
        "seconds": round(seconds, 2),
    }
    page = _page(summary, view, site, window(scene, site.grid, 0.0), seed)
    interchange.write_text(files["report"], report.render(page))
    summary["files"] = {name: str(path) for name, path in files.items()}
    return summary | {"made_by": report.provenance(seed)}


def _write(
    posteriors: dict[str, MapPosterior],
    view: NetworkView,
    site: SceneRaster,
    scene: Scene,
    out: Path,
    threshold_dbm: float,
) -> dict[str, Path]:
    files: dict[str, Path] = {"network": out / "network.tif", "report": out / "report.html"}
    bands = {
        "best_server_index": view.best.astype(np.float64),
        "best_server_dbm": view.best_dbm,
        f"probability_served_above_{threshold_dbm:g}_dbm": view.any_probability,
        "expected_servers": view.expected_servers,
        "probability_overlap": view.overlap_probability,
        **{
            f"probability_best_{name}": one
            for name, one in zip(view.names, view.best_probability, strict=True)
        },
    }
    interchange.write_geotiff(files["network"], bands, site.grid, scene, free=site.free)
    for name, posterior in posteriors.items():
        files[name] = out / f"cell-{name}.tif"
        interchange.write_map(files[name], posterior, site, scene, threshold_dbm=threshold_dbm)
    return files


def _page(
    summary: dict[str, Any], view: NetworkView, site: SceneRaster, scene: Scene, seed: int
) -> Page:
    threshold = pages.dbm(summary["threshold_dbm"])
    rows = tuple(
        (
            name,
            f"{own['reports']}",
            f"{100 * own['covered_share']:.0f} %",
            f"{100 * own['best_server_share']:.0f} %",
        )
        for name, own in summary["cells"].items()
    )
    table = Table(
        ("radio cell", "reports", f"area above {threshold}", "area as best server"),
        rows,
        "Expected shares of the outdoor area, doubt about each map included.",
    )
    figure = plots.server_figure(view.best, view.names, view.overlap_probability, site, scene=scene)
    picture = Picture(
        figure,
        "Left, the radio cell that is likeliest to be the strongest one above "
        f"{threshold}. Right, the probability that {summary['overlapping']} or more are above it "
        f"and within {summary['margin_db']:g} dB of the strongest. Buildings are grey.",
    )
    facts = (
        Fact(f"{len(view.names)}", "radio cells"),
        Fact(f"{100 * summary['served_share']:.0f} %", f"of the outdoor area above {threshold}"),
        Fact(f"{100 * summary['overlap_share']:.0f} %", "of it with overlap"),
    )
    left = summary["left_out"]
    text = (
        f"{pages.display_name(summary['method'])}, each radio cell by itself, on "
        f"{site.grid.rows} x {site.grid.cols} cells of {site.grid.spacing_m:g} m, in "
        f"{summary['seconds']:.0f} s.",
    )
    if left:
        text += (f"Left out: {'; '.join(f'{cell} ({why})' for cell, why in left.items())}.",)
    section = Section("Who serves where", text, (picture, table), facts)
    return Page(
        f"Network of {scene.name}",
        "Best server and overlap, from measured reports and the buildings of the map extract.",
        (section,),
        seed,
        (report.CREDITS["osm"],) if scene.attribution else (),
    )
