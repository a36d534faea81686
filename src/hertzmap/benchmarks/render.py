"""Renders tables into documents from the result files; no figure is typed by hand.

A document says where a table goes with two comments: ``<!-- results:NAME -->`` above it and
``<!-- /results -->`` below. Names are those of `TABLES`, or ``<table>/<cell>`` for any result file
as it is. Published figures stand in columns named *published*: the paper's own, on its own data.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hertzmap.benchmarks import results
from hertzmap.benchmarks.results import ResultFile
from hertzmap.benchmarks.tables import (
    CASES,
    METRICS,
    PAPER_METHODS,
    PRINTED_ROWS,
    RADIOMAPSEER_ROWS,
    Metric,
    project_root,
    published,
)
from hertzmap.core.errors import DataError

DOCUMENTS = ("README.md", "docs/results.md")
"""Documents that hold tables."""
_BLOCK = re.compile(r"(<!-- results:(?P<name>[\w./-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)
_RADIOMAPSEER = ("psnr_db", "psnr_lit_db", "ssim", "nmse")
_RECORD = ("psnr_db", "ssim", "rmse_db", "crps_db", "coverage50", "coverage90")
OURS = {
    "combined:default": "combined",
    "radiodiff_inv2:quick:data_term=moment": "Inv2",
    "amortised_unet:default": "amortised",
}
"""Methods of ours and their short names."""
TUNED = {
    "kriging:tuned": "Kriging",
    "kriging:path_loss": "Kriging, path loss",
    "idw:tuned": "IDW",
    "radiounet:tuned": "RadioUNet",
    "rme_gan:tuned": "RME-GAN",
    "radiodiff_inv1:tuned": "Inv1",
}
"""Baselines given noise, drift and buildings."""
AS_PUBLISHED = {
    "kriging:as_published": "Kriging",
    "radiounet:as_published": "RadioUNet",
    "rme_gan:as_published": "RME-GAN",
    "radiodiff_inv1:as_published": "Inv1",
}
"""Baselines with the weaknesses they were published with."""
_COSTS = ("seconds", "cpu_seconds", "peak_rss_mib")
_SMALL_IS_GOOD = ("nmse", "rmse_db", "mae_db", "crps_db", "paper_nmse", "paper_lpips")
_EMPTY = "–"
_NOT_RUN = "*Not run yet.*"


def run(root: Path | None = None) -> tuple[Path, ...]:
    """Render all tables of all documents.

    Args:
        root: the checkout; the one this package lies in by default.

    Returns:
        The documents that changed.

    Raises:
        DataError: if a document names a table that does not exist, or a result file is damaged.
    """
    changed = []
    for path, new in _rendered(root or project_root()):
        if new != path.read_text(encoding="utf-8"):
            results.write_whole(path, new.encode())
            changed.append(path)
    return tuple(changed)


def stale(root: Path | None = None) -> tuple[Path, ...]:
    """The documents whose tables differ from the result files; `run` brings them up to date."""
    root = root or project_root()
    return tuple(p for p, new in _rendered(root) if new != p.read_text(encoding="utf-8"))


def _rendered(root: Path) -> list[tuple[Path, str]]:
    paths = [root / name for name in DOCUMENTS if (root / name).is_file()]
    return [(path, _fill(path, root / "results")) for path in paths]


def _fill(path: Path, folder: Path) -> str:
    """A document's text with all its tables made anew."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n{table(match['name'], folder)}\n\n{match[3]}"

    return _BLOCK.sub(block, path.read_text(encoding="utf-8"))


def table(name: str, folder: Path) -> str:
    """One table in Markdown.

    Args:
        name: a key of `TABLES`, or ``<table>/<cell>``.
        folder: the folder of all results.

    Raises:
        DataError: if there is no such table.
    """
    if name in TABLES:
        return TABLES[name](folder)
    if "/" not in name:
        msg = f"no table {name!r}; there are {', '.join(TABLES)}, or <table>/<cell> of results/"
        raise DataError(msg)
    found = _read(folder, name)
    return _NOT_RUN if found is None else _plain(found)


def method_title(method: str) -> str:
    """A method in words.

    >>> method_title("kriging:tuned")
    'Kriging (tuned)'
    """
    name, _, rest = method.partition(":")
    words = rest.replace("_", " ").replace(":", ",").replace(",", ", ").replace("=", " ")
    return f"{PAPER_METHODS.get(name, name)} ({words})" if words else PAPER_METHODS.get(name, name)


def _default(folder: Path) -> str:
    """The default cell, all methods, of record, with costs and the paper's figure."""
    found = _read(folder, "tables/default")
    if found is None:
        return _NOT_RUN
    metrics = [*_RECORD, *_COSTS]
    head = [
        "method",
        *(_title(metric) for metric in metrics),
        "PSNR, paper protocol [dB]",
        "published PSNR [dB]",
    ]
    rows = [
        [
            method_title(method),
            *(_value(found, method, metric) for metric in metrics),
            _value(found, method, "paper_psnr_db"),
            _published(printed_row="kp 0.05", metric="paper_psnr_db", method=method),
        ]
        for method in found.methods()
    ]
    return _markdown(head, rows) + "\n\n" + _note(found)


def _record(metric: str) -> Callable[[Path], str]:
    """One metric on free cells over all cells: ours beside tuned baselines, with mean ranks."""

    def make(folder: Path) -> str:
        every = dict.fromkeys(PRINTED_ROWS.values())
        files = [one for cell in every if (one := _read(folder, f"tables/{cell}"))]
        if not files:
            return _NOT_RUN
        methods = [m for m in (*OURS, *TUNED) if any(one.row(m, metric) for one in files)]
        names = OURS | {method: f"{name} (tuned)" for method, name in TUNED.items()}
        rows = []
        for found in files:
            shown = {method: _value(found, method, metric) for method in methods}
            best = _ranked(found, methods, metric)[:1]
            bold = [f"**{text}**" if method in best else text for method, text in shown.items()]
            gap = _difference(found, found.header["headline"], found.header["baseline"], metric)
            rows.append([_setting(found), *bold, gap])
        rows.append(["mean rank", *_mean_ranks(files, methods, metric), _EMPTY])
        against = method_title(files[0].header["baseline"])
        head = [
            "setting",
            *(names[method] for method in methods),
            f"combined against {against}, 95 % interval",
        ]
        note = "Ranks are among the methods that ran on as many maps as the first one does."
        return (
            f"{_title(metric)}, free cells. {note}\n\n{_markdown(head, rows)}\n\n{_note(files[0])}"
        )

    return make


def sweeps(
    folder: Path, metric: str
) -> tuple[dict[str, tuple[float, ...]], dict[str, dict[str, list[tuple[float, float] | None]]]]:
    """Values of each factor of the paper's grid, and each method's (mean, error) at them.

    Args:
        folder: the folder of all results.
        metric: e.g. ``psnr_db``.
    """
    factors: dict[str, dict[float, str]] = {
        "kp (reports per outdoor cell)": {0.005: "kp-0.005", 0.01: "kp-0.01", 0.05: "default",
                                          0.1: "kp-0.1"},
        "SNR [dB]": {0.0: "snr-0", 1.0: "snr-1", 5.0: "default", 10.0: "snr-10"},
        "drift per axis [m]": {0.0: "drift-0", 0.8: "default", 1.6: "drift-1.6",
                               2.4: "drift-2.4", 3.2: "drift-3.2"},
    }  # fmt: skip
    names = OURS | {m: f"{name} (tuned)" for m, name in TUNED.items()}
    curves: dict[str, dict[str, list[tuple[float, float] | None]]] = {}
    for method, name in names.items():
        curves[name] = {}
        for factor, cells in factors.items():
            files = [_read(folder, f"tables/{cell}") for cell in cells.values()]
            rows = [None if found is None else found.row(method, metric) for found in files]
            curves[name][factor] = [
                None if row is None else (row.mean, row.se or 0.0) for row in rows
            ]
    return {factor: tuple(cells) for factor, cells in factors.items()}, curves


def _ranked(found: ResultFile, methods: Sequence[str], metric: str) -> list[str]:
    """Methods of a cell from best to worst, those on fewer maps left out."""
    values = {m: row for m in methods if (row := found.row(m, metric))}
    most = max((row.n for row in values.values()), default=0)
    full = {m: row.mean for m, row in values.items() if 2 * row.n >= most}
    sign = 1.0 if metric in _SMALL_IS_GOOD else -1.0
    return sorted(full, key=lambda m: sign * full[m])


def _mean_ranks(files: Sequence[ResultFile], methods: Sequence[str], metric: str) -> list[str]:
    ranked = [_ranked(found, methods, metric) for found in files]
    shown = []
    for method in methods:
        ranks = [order.index(method) + 1 for order in ranked if method in order]
        whole = len(ranks) == len(files)
        shown.append(f"{sum(ranks) / len(ranks):.1f}" if ranks and whole else _EMPTY)
    return shown


def _paper(metric: str) -> Callable[[Path], str]:
    """One of the paper's tables: its 13 rows, our figures beside the published ones."""

    def make(folder: Path) -> str:
        files = {cell: _read(folder, f"tables/{cell}") for cell in PRINTED_ROWS.values()}
        known = [found for found in files.values() if found is not None]
        columns = {
            **{m: f"ours: {name}" for m, name in OURS.items()},
            "kriging:tuned": "tuned: Kriging",
            **{m: f"as published: {name}" for m, name in AS_PUBLISHED.items()},
        }
        columns = {
            m: name
            for m, name in columns.items()
            if m in ("combined:default", "kriging:tuned", "kriging:as_published")
            or any(found.row(m, metric) for found in known)
        }
        rows = []
        for row, cell in PRINTED_ROWS.items():
            found = files[cell]
            ours = [_EMPTY if found is None else _value(found, m, metric) for m in columns]
            paper = [_published(row, metric, method) for method in PAPER_METHODS]
            rows.append([row, *ours, *paper])
        head = [
            "setting",
            *columns.values(),
            *(f"published: {name}" for name in PAPER_METHODS.values()),
        ]
        text = f"{_title(metric)}.\n\n{_markdown(head, rows)}"
        return f"{text}\n\n{_note(known[0])}" if known else text

    return make


def _radiomapseer(folder: Path) -> str:
    """The two cells on RadioMapSeer's public maps, free cells and paper protocol."""
    rows = []
    newest = None
    for cell, row in RADIOMAPSEER_ROWS.items():
        found = _read(folder, f"tables/{cell}")
        if found is None:
            continue
        newest = newest or found
        rows += [
            [
                row,
                method_title(method),
                *(_value(found, method, metric) for metric in _RADIOMAPSEER),
                _value(found, method, "paper_psnr_db"),
                _published(row, "paper_psnr_db", method),
            ]
            for method in found.methods()
        ]
    if newest is None:
        return _NOT_RUN
    head = [
        "setting",
        "method",
        *(_title(metric) for metric in _RADIOMAPSEER),
        "PSNR, paper protocol [dB]",
        "published PSNR [dB]",
    ]
    return _markdown(head, rows) + "\n\n" + _note(newest)


def _campus(folder: Path) -> str:
    """Leave-places-out on the measured campus: a row for each share known and method."""
    found = _read(folder, "campus/rsrp")
    if found is None:
        return _NOT_RUN
    baseline = found.differences[0].against if found.differences else ""
    metrics = ("rmse_db", "rmse_place_db", "crps_db", "coverage90", "seconds")
    rows = []
    for share in found.header["settings"]["shares"]:
        at = f"@{round(100 * share)}"
        for method in found.methods():
            values = [found.row(method, metric + at) for metric in metrics]
            if values[0] is None:
                continue
            shown = [
                _EMPTY if row is None else f"{row.mean:.{digits}f}"
                for row, digits in zip(values, (2, 2, 2, 2, 1), strict=True)
            ]
            gap = _difference(found, method, baseline, f"rmse_db{at}")
            rows.append([f"{round(100 * share)} %", method_title(method), *shown[:1], gap])
            rows[-1] += shown[1:]
    head = [
        "places known",
        "method",
        "RMSE over reports [dB]",
        f"against {method_title(baseline)}, 95 % interval",
        "RMSE over places [dB]",
        "CRPS [dB]",
        "coverage of 90 %",
        "time [s]",
    ]
    return _markdown(head, rows) + "\n\n" + _note(found)


def _mismatch(folder: Path) -> str:
    """Every named mismatch case: ours, the best tuned baseline, their difference, coverage."""
    rows = []
    for case in CASES:
        found = _read(folder, f"mismatch/{case}")
        ours = "combined:default"
        if found is None or (mine := found.row(ours, "psnr_db")) is None:
            continue
        rivals = [m for m in _ranked(found, found.methods(), "psnr_db") if m in TUNED]
        best = rivals[0]
        theirs = found.row(best, "psnr_db")
        assert theirs is not None
        rows.append(
            [
                case,
                f"{mine.n}",
                _value(found, ours, "psnr_db"),
                method_title(best),
                _value(found, best, "psnr_db"),
                _difference(found, ours, best, "psnr_db"),
                _value(found, ours, "coverage50"),
                _value(found, ours, "coverage90"),
            ]
        )
    if not rows:
        return _NOT_RUN
    head = [
        "case",
        "maps",
        "combined, PSNR [dB]",
        "best tuned baseline",
        "its PSNR [dB]",
        "difference, 95 % interval",
        "coverage of 50 %",
        "coverage of 90 %",
    ]
    return _markdown(head, rows)


def _measured(folder: Path) -> str:
    """Measured reports: ours against the best tuned baseline, by the share of places known."""
    rows = []
    ours = "combined:default"
    for name, title in (("campus/rsrp", "campus"), ("mismatch/utah", "utah")):
        found = _read(folder, name)
        for place, share in enumerate(() if found is None else found.header["settings"]["shares"]):
            assert found is not None
            metric = f"rmse_db@{round(100 * share)}"
            mine = found.row(ours, metric)
            rivals = {m: row.mean for m in TUNED if (row := found.row(m, metric))}
            if mine is None or not rivals:
                continue
            best = min(rivals, key=lambda method: rivals[method])
            held = [found.row(ours, f"coverage{level}@{metric[8:]}") for level in (50, 90)]
            rows.append(
                [
                    f"{title}, {round(100 * share)} % known",
                    f"{found.header['runs_by_share'][ours][place]}",
                    f"{mine.mean:.2f}",
                    method_title(best),
                    f"{rivals[best]:.2f}",
                    _difference(found, ours, best, metric),
                    *(_EMPTY if row is None else f"{row.mean:.2f}" for row in held),
                ]
            )
    head = [
        "case",
        "splits",
        "combined, RMSE [dB]",
        "best tuned baseline",
        "its RMSE [dB]",
        "difference, 95 % interval",
        "coverage of 50 %",
        "coverage of 90 %",
    ]
    note = (
        "<sub>Differences are paired on identical splits; where a baseline ran on more splits, its "
        "RMSE is over those.</sub>"
    )
    return f"{_markdown(head, rows)}\n\n{note}" if rows else _NOT_RUN


def _transmitter(folder: Path) -> str:
    """Where the default says that the transmitter stands, by cell."""
    rows = []
    for cell in (*dict.fromkeys(PRINTED_ROWS.values()), *RADIOMAPSEER_ROWS):
        found = _read(folder, f"tables/{cell}")
        middle = found and found.row("combined:default", "transmitter_error_median_m")
        held = found and found.row("combined:default", "transmitter_in90")
        if middle and held:
            share = f"{held.mean:.2f}" + ("" if held.se is None else f" ± {held.se:.2f}")
            rows.append([cell, f"{held.n}", f"{middle.n}", f"{middle.mean:.1f}", share])
    head = ["cell", "maps", "runs", "median error [m]", "90 % region holds"]
    return _markdown(head, rows) if rows else _NOT_RUN


def _speed(folder: Path) -> str:
    """Time and memory of each method, side by side."""
    found = _read(folder, "speed/estimators")
    if found is None:
        return _NOT_RUN
    rows = [
        [
            method_title(method),
            *(
                f"{row.mean:.{0 if metric == 'peak_rss_mib' else 2}f}"
                for metric in _COSTS
                if (row := found.row(method, metric))
            ),
        ]
        for method in found.methods()
    ]
    head = ["method", *(_title(metric) for metric in _COSTS)]
    header = found.header
    rows_cols = " x ".join(f"{side}" for side in header["grid"])
    note = (
        f"<sub>{rows_cols} cells, {header['reports']} reports, {header['threads']} threads, median "
        f"of {header['repeats']} runs; {header['hardware']['cpu']}; commit "
        f"{(header.get('commit') or '')[:10]}.</sub>"
    )
    return _markdown(head, rows) + "\n\n" + note


_DATASETS = ("diffloc-uma", "mapcond-cities")
"""Datasets whose figures are shown."""


def _datasets(folder: Path) -> str:
    """What each dataset holds and costs."""
    rows = []
    for name in _DATASETS:
        found = _read(folder, f"data/{name}")
        if found is None:
            continue
        recipe = found.header["recipe"]
        whole = {row.metric: row.mean for row in found.results if row.method == recipe}
        if "links" in whole:
            content = (
                f"{whole['links']:,.0f} links, {whole['paths_of_a_link']:.1f} paths each, "
                f"{whole['links_with_paths']:.0f} % with a path"
            )
        else:
            tiles, cells, ways = (
                sum(row.mean for row in found.results if row.metric == metric)
                for metric in ("tiles", "radio_cells", "sequences")
            )
            content = f"{tiles:.0f} tiles, {cells:.0f} radio cells, {ways:,.0f} sequences"
        rows.append(
            [
                name,
                f"{found.header['engine']}",
                content,
                f"{whole['cpu_seconds_of_shards'] / 60.0:.1f}",
                f"{whole['wall_seconds'] / 60.0:.0f}",
                f"{whole['peak_rss']:.0f}",
                f"{whole['size']:.0f}",
            ]
        )
    head = [
        "dataset",
        "engine",
        "holds",
        "processor time [min]",
        "time on the clock [min]",
        "peak memory [MiB]",
        "size [MiB]",
    ]
    return _markdown(head, rows) if rows else _NOT_RUN


def _stations(folder: Path) -> str:
    """Links of `diffloc-uma` by base station."""
    found = _read(folder, "data/diffloc-uma")
    if found is None:
        return _NOT_RUN
    metrics = ("links_with_paths", "line_of_sight")
    names = [name for name in found.methods() if name.startswith("BS")]
    rows = [
        [title, *(f"{row.mean:.0f}" for name in names if (row := found.row(name, metric)))]
        for title, metric in zip(("with a path", "in line of sight"), metrics, strict=True)
    ]
    return _markdown(["links [%]", *names], rows)


def _calibration(folder: Path) -> str:
    """The dominant path against ray tracing, on cities left out of the fit."""
    found = _read(folder, "data/calibration")
    if found is None:
        return _NOT_RUN
    metrics = ("los_bias_db", "los_std_db", "nlos_bias_db", "nlos_std_db", "rmse_db")
    rows = []
    for method in found.methods():
        held = [found.row(method, f"left_out_{metric}") for metric in metrics]
        if all(held):
            rows.append([method, *(f"{row.mean:.1f}" for row in held if row)])
        held = [found.row(method, f"test_{metric}") for metric in metrics]
        if all(held):
            rows.append([f"{method} (test cities)", *(f"{row.mean:.1f}" for row in held if row)])
    head = [
        "truth: model",
        "in sight, bias [dB]",
        "deviation [dB]",
        "out of sight, bias [dB]",
        "deviation [dB]",
        "RMSE [dB]",
    ]
    return _markdown(head, rows)


TABLES: dict[str, Callable[[Path], str]] = {
    "calibration": _calibration,
    "datasets": _datasets,
    "stations": _stations,
    "campus-rsrp": _campus,
    "maps-default": _default,
    "maps-psnr": _record("psnr_db"),
    "maps-ssim": _record("ssim"),
    "maps-crps": _record("crps_db"),
    "maps-paper-psnr": _paper("paper_psnr_db"),
    "maps-paper-ssim": _paper("paper_ssim"),
    "maps-paper-nmse": _paper("paper_nmse"),
    "maps-paper-lpips": _paper("paper_lpips"),
    "maps-radiomapseer": _radiomapseer,
    "mismatch": _mismatch,
    "measured": _measured,
    "speed": _speed,
    "transmitter": _transmitter,
}
"""Tables by name, each made from the folder of results."""


def _plain(found: ResultFile) -> str:
    """Any result file: methods down, metrics across."""
    metrics = tuple(dict.fromkeys(row.metric for row in found.results))
    head = ["method", *(_title(metric, found) for metric in metrics)]
    rows = [
        [method_title(method), *(_value(found, method, metric) for metric in metrics)]
        for method in found.methods()
    ]
    return _markdown(head, rows) + "\n\n" + _note(found)


def _read(folder: Path, name: str) -> ResultFile | None:
    path = folder / f"{name}.json"
    return results.read(path) if path.is_file() else None


def _metric(name: str) -> Metric:
    return METRICS.get(name, Metric(name.replace("_", " "), "1", 3))


def _title(metric: str, found: ResultFile | None = None) -> str:
    known = _metric(metric)
    unit = known.unit
    if found is not None and metric not in METRICS:
        unit = next(row.unit for row in found.results if row.metric == metric)
    return known.title if unit == "1" else f"{known.title} [{unit}]"


def _value(found: ResultFile, method: str, metric: str) -> str:
    row = found.row(method, metric)
    if row is None:
        return _EMPTY
    digits = _metric(metric).digits
    if row.se is None or metric in _COSTS:
        return f"{row.mean:.{digits}f}"
    return f"{row.mean:.{digits}f} ± {row.se:.{digits}f}"


def _published(printed_row: str, metric: str, method: str) -> str:
    figure = published(printed_row, metric, method)
    return _EMPTY if figure is None else f"{figure:.{_metric(metric).digits}f}"


def _difference(found: ResultFile, method: str, against: str, metric: str) -> str:
    gap = found.difference(method, against, metric)
    if gap is None:
        return _EMPTY
    digits = _metric(metric.partition("@")[0]).digits
    if gap.low is None or gap.high is None:
        return f"{gap.mean:+.{digits}f}"
    return f"{gap.mean:+.{digits}f} ({gap.low:+.{digits}f} to {gap.high:+.{digits}f})"


def _setting(found: ResultFile) -> str:
    sampling = found.header["sampling"]
    return (
        f"kp {sampling['rate_kp']:g}, SNR {sampling['snr_db']:g} dB, "
        f"drift {sampling['drift_m']:g} m"
    )


def _note(found: ResultFile) -> str:
    """What a reader must know of a table: size, flags, error bars, machine, commit."""
    header = found.header
    size = max((row.n for row in found.results), default=0)
    raised = [key for key, value in header.items() if key.startswith("same_") and value is True]
    parts = [f"n = {size}"]
    if seeds := len(header.get("report_seeds", ())):
        parts.append(f"{seeds} report seed{'s' if seeds > 1 else ''}")
    parts += [f"`{flag}: true`" for flag in raised]
    planned, runs = header.get("planned_runs"), header.get("runs", {})
    fewer = header.get("fewer_maps", {})
    for count in sorted(set(fewer.values()) & {runs.get(name) for name in fewer}):
        names = [method_title(name) for name in fewer if runs.get(name) == fewer[name] == count]
        parts.append(f"{count} maps for {', '.join(names)}")
    unfinished = [
        f"{method_title(name)} ({count})"
        for name, count in runs.items()
        if count < min(planned or 0, fewer.get(name, planned or 0))
    ]
    if unfinished:
        parts.append(f"of {planned} planned runs fewer are done for {', '.join(unfinished)}")
    machines = sorted(
        {machine for names in header.get("measured_on", {}).values() for machine in names}
    )
    if machines:
        parts.append("run on " + ", ".join(machines))
    if header.get("error_bars"):
        parts.append(header["error_bars"])
    if header.get("commit"):
        parts.append(f"commit {header['commit'][:10]}")
    return "<sub>" + "; ".join(parts) + ".</sub>"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
