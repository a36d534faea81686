"""Renders tables into documents from the result files; no figure is typed by hand.

A document says where a table goes with two comments: ``<!-- results:NAME -->`` above it and
``<!-- /results -->`` below. Names are those of `TABLES`, or ``<table>/<cell>`` for any result file
as it is. Published figures stand in columns named *published*: the paper's own, on its own data.
"""

import re
from collections.abc import Callable
from pathlib import Path

from hertzmap.benchmarks import results
from hertzmap.benchmarks.results import ResultFile
from hertzmap.benchmarks.tables import (
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
_RECORD = (
    "psnr_db",
    "ssim",
    "nmse",
    "rmse_db",
    "crps_db",
    "coverage50",
    "coverage80",
    "coverage95",
)
_COSTS = ("seconds", "cpu_seconds", "peak_rss_mib")
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
    """One metric on free cells over all cells: ours, all Krigings, the paired difference."""

    def make(folder: Path) -> str:
        rows = []
        newest = None
        for cell in dict.fromkeys(PRINTED_ROWS.values()):
            found = _read(folder, f"tables/{cell}")
            if found is None:
                continue
            newest = newest or found
            ours, baseline = found.header["headline"], found.header["baseline"]
            rows.append(
                [
                    _setting(found),
                    _value(found, ours, metric),
                    _value(found, baseline, metric),
                    _difference(found, ours, baseline, metric),
                    _value(found, "kriging:path_loss", metric),
                    _value(found, "kriging:as_published", metric),
                ]
            )
        if newest is None:
            return _NOT_RUN
        head = [
            "setting",
            method_title(newest.header["headline"]),
            method_title(newest.header["baseline"]),
            "difference, 95 % interval",
            "Kriging (path loss)",
            "Kriging (as published)",
        ]
        return f"{_title(metric)}, free cells.\n\n{_markdown(head, rows)}\n\n{_note(newest)}"

    return make


def _paper(metric: str) -> Callable[[Path], str]:
    """One of the paper's tables: its 13 rows, our figures beside the published ones."""

    def make(folder: Path) -> str:
        rows = []
        newest = None
        for row, cell in PRINTED_ROWS.items():
            found = _read(folder, f"tables/{cell}")
            newest = newest or found
            rows.append([row, *_ours_beside_published(found, row, metric)])
        head = ["setting", *_OURS_HEAD, *(f"published: {name}" for name in PAPER_METHODS.values())]
        text = f"{_title(metric)}.\n\n{_markdown(head, rows)}"
        return text if newest is None else f"{text}\n\n{_note(newest)}"

    return make


_OURS_HEAD = ("ours: headline", "ours: Kriging (tuned)", "ours: Kriging (as published)")


def _ours_beside_published(found: ResultFile | None, row: str, metric: str) -> list[str]:
    ours = [_EMPTY] * 3
    if found is not None:
        methods = (found.header["headline"], found.header["baseline"], "kriging:as_published")
        ours = [_value(found, method, metric) for method in methods]
    return ours + [_published(row, metric, method) for method in PAPER_METHODS]


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
                *(_value(found, method, metric) for metric in ("psnr_db", "ssim", "nmse")),
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
        *(_title(metric) for metric in ("psnr_db", "ssim", "nmse")),
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


TABLES: dict[str, Callable[[Path], str]] = {
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
        method_title(name)
        for name, count in runs.items()
        if count < min(planned or 0, fewer.get(name, planned or 0))
    ]
    if unfinished:
        parts.append(f"of {planned} planned runs not all are done for {', '.join(unfinished)}")
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
