"""Measurement sequences as tables with 3GPP-shaped columns: CSV and Parquet, both ways.

One row for each (UE, time, cell); what is missing is empty. The columns are described in
``docs/data-formats.md``. True places stand in a file of their own and are refused here.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from hertzmap.core import kpi, sequences
from hertzmap.core.errors import DataError, ReportsError
from hertzmap.core.sequences import NO_INDEX, QUANTITIES, MeasurementSequence
from hertzmap.core.types import Scene
from hertzmap.datasets._report_table import ReportTable
from hertzmap.datasets._sequence_rows import LongRows, assembled, chosen_rows, ranked
from hertzmap.datasets.interchange import whole_file
from hertzmap.measurement.truth_sequences import SimulatedSequences
from hertzmap.scenes import frame

COLUMNS: dict[str, tuple[str, str]] = {
    "ss_rsrp": ("ss_rsrp_idx", "ss_rsrp_dbm"),
    "ss_rsrq": ("ss_rsrq_idx", "ss_rsrq_db"),
    "ss_sinr": ("ss_sinr_idx", "ss_sinr_db"),
    "beam_id": ("ssb_index", ""),
    "l1_rsrp": ("", "l1_rsrp_dbm"),
    "cqi": ("cqi", ""),
    "ri": ("ri", ""),
    "pmi": ("pmi", ""),
    "timing_advance": ("timing_advance", ""),
    "phr": ("", "phr_db"),
    "dl_throughput": ("", "dl_mbps"),
    "bler": ("", "bler"),
    "neighbours": ("neighbour_rank", ""),
}
"""Columns of each key: (raw index, value). Of beams a table holds the best one."""
TRUTH_COLUMNS = ("true_lon", "true_lat", "true_east_m", "true_north_m")
"""Columns that only a simulator can fill."""
PLAUSIBLE: dict[str, tuple[float, float]] = {
    "ss_rsrp": (-200.0, 0.0),
    "l1_rsrp": (-200.0, 0.0),
    "ss_rsrq": (-150.0, 40.0),
    "ss_sinr": (-150.0, 100.0),
    "phr": (-100.0, 100.0),
    "dl_throughput": (0.0, 1e6),
    "bler": (0.0, 1.0),
}
"""Range that values must lie in; beyond it the unit is another one."""
LEAST: dict[str, int] = {"ri": 1, "neighbours": 1}
"""Least index of those that do not begin at 0."""
_LONLAT, _METRES = ("lon", "lat"), ("east_m", "north_m")


def write_sequences(path: Path, found: MeasurementSequence, scene: Scene | None = None) -> None:
    """Write what UEs reported as CSV or Parquet, by file name.

    Quantities of the ray-tracing layer, reasons and all beams but the best are left out: a table is
    what a network sees. `read_sequences` reads it again.

    Args:
        path: ``.csv`` or ``.parquet``.
        found: the sequences.
        scene: to write reported places as lon, lat; without it they are local metres.

    Raises:
        DataError: if the file cannot be written or its name ends in neither.
    """
    sample, step, cell = chosen_rows(found, tuple(COLUMNS))
    columns: dict[str, np.ndarray] = {
        "ue_id": np.array(found.ue_id)[sample],
        "report_id": step,
        "time_s": found.time_s[sample, step],
        "cell_id": found.cell_id[cell],
    }
    if (found.pci >= 0).all():
        columns["pci"] = found.pci[cell]
    if found.nr_arfcn is not None:
        columns["nr_arfcn"] = found.nr_arfcn[cell]
    columns["scs_khz"] = np.full(len(sample), found.subcarrier_spacing_hz / 1e3)
    if "serving_cell" in found.value:
        columns["is_serving"] = found.value["serving_cell"][sample, step, cell]
    for key, (index_column, value_column) in COLUMNS.items():
        if key not in found.value:
            continue
        if index_column:
            index = found.index[key]
            index = index[..., 0] if index.ndim == 4 else index
            picked = index[sample, step, cell].astype(np.float64)
            columns[index_column] = np.where(picked == NO_INDEX, np.nan, picked)
        if value_column:
            value = found.value[key]
            value = value[..., 0] if value.ndim == 4 else value
            columns[value_column] = value[sample, step, cell]
    if found.reported_m is not None:
        columns |= _place_columns(found.reported_m[sample, step], scene, "")
    _write(path, columns)


def write_truth(path: Path, found: SimulatedSequences, scene: Scene | None = None) -> None:
    """Write where simulated UEs really were: one row for each (UE, time), beside the reports.

    Args:
        path: ``.csv`` or ``.parquet``.
        found: sequences and places.
        scene: to write places as lon, lat; without it they are local metres.

    Raises:
        DataError: if the file cannot be written or its name ends in neither.
    """
    own = found.sequences
    sample, step = np.nonzero(np.isfinite(own.time_s))
    place, velocity = found.place_m[sample, step], found.velocity_m_s[sample, step]
    columns = {
        "ue_id": np.array(own.ue_id)[sample],
        "report_id": step,
        "time_s": own.time_s[sample, step],
        **_place_columns(place[:, :2], scene, "true_"),
        "true_up_m": place[:, 2],
        "true_east_m_s": velocity[:, 0],
        "true_north_m_s": velocity[:, 1],
        "true_up_m_s": velocity[:, 2],
    }
    _write(path, columns)


def read_truth(
    path: Path, found: MeasurementSequence, scene: Scene | None = None
) -> SimulatedSequences:
    """Read true places written by `write_truth` for sequences that were read from a table.

    Args:
        path: ``.csv`` or ``.parquet``.
        found: the sequences; matched by UE and time.
        scene: needed if places are lon, lat.

    Raises:
        ReportsError: if the file is broken, or a report has no true place in it.
    """
    table = ReportTable.read(path)
    rows = table.rows
    place = _places(table, scene, "true_")
    if place is None:
        table.lacks("true places", ", ".join(TRUTH_COLUMNS))
    more = ("true_up_m", "true_east_m_s", "true_north_m_s", "true_up_m_s")
    for name in ("ue_id", "time_s", *more):
        table.pick((name,), "column")
    where = {
        (str(ue), round(time, 6)): row
        for row, (ue, time) in enumerate(
            zip(
                table.columns["ue_id"].tolist(), table.numbers("time_s", rows).tolist(), strict=True
            )
        )
    }
    whole = np.column_stack([place, *(table.numbers(name, rows) for name in more)])
    out = np.full((*found.time_s.shape, 6), np.nan)
    for sample, step in np.argwhere(np.isfinite(found.time_s)).tolist():
        key = (found.ue_id[sample], round(float(found.time_s[sample, step]), 6))
        if key not in where:
            msg = f"{path} has no true place of {key[0]} at {key[1]} s; give the file of its run"
            raise ReportsError(msg)
        out[sample, step] = whole[where[key]]
    return SimulatedSequences(found, out[..., :3], out[..., 3:])


def read_sequences(
    path: Path,
    scene: Scene | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    rsrp_scale: Literal["middle", "field"] = "middle",
) -> MeasurementSequence:
    """Read measurement reports of one or more UEs.

    Where a raw index and a value disagree the index wins, with a warning. A value without an index
    keeps its decimals. How reasons of missing values are guessed says `_sequence_rows.assembled`;
    quantities without a column are not there at all.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.parquet``; columns as in ``docs/data-formats.md``.
        scene: needed if the table has reported places in lon, lat.
        columns: names of the file's columns for ours, e.g. ``{"ss_rsrp_dbm": "RSRP"}``.
        rsrp_scale: what ``ss_rsrp_dbm`` of index k is: ``middle`` of its bin, k - 156.5, or as
            ``field`` tools write it, k - 156.

    Raises:
        ReportsError: if the file is missing, broken or empty, a needed column is missing, or a row
            is wrong; names column and row.
    """
    table = _renamed(ReportTable.read(path), columns or {})
    if not len(table.rows):
        msg = f"{path} has column names but no report below them"
        raise ReportsError(msg)
    truth = [name for name in TRUTH_COLUMNS if name in table]
    if truth:
        msg = (
            f"{path} holds true places ({', '.join(truth)}) among the reports; move them to a file "
            "of their own, so that no method can see them"
        )
        raise ReportsError(msg)
    value, index = {}, {}
    for key in COLUMNS:
        found = _quantity(table, key, rsrp_scale)
        if found is not None:
            value[key], index[key] = found
    if not value:
        table.lacks("measurement", " or ".join(a or b for a, b in COLUMNS.values()))
    rows = _rows(table, scene, value, index)
    if rows.serving is not None and "neighbours" not in value and "ss_rsrp" in value:
        value["neighbours"], index["neighbours"] = ranked(rows, value["ss_rsrp"])
    return assembled(rows, table.refuse)


def _rows(
    table: ReportTable,
    scene: Scene | None,
    value: dict[str, np.ndarray],
    index: dict[str, np.ndarray],
) -> LongRows:
    """All columns but the quantities."""
    import pandas as pd

    rows = table.rows
    name = table.pick(("cell_id", "pci"), "cell column") if "cell_id" not in table else "cell_id"
    cell = table.integers(name, rows)
    pci = table.integers("pci", rows) if "pci" in table else np.full(len(rows), -1)
    bad = ((pci < 0) | (pci > 1007)) & ("pci" in table)
    if bad.any():
        table.refuse("pci is not between 0 and 1007", rows[bad], "mend or delete these rows")
    ue = np.full(len(rows), "ue0")
    if "ue_id" in table:
        stated = pd.Series(table.columns["ue_id"])
        if stated.isna().any():
            table.refuse("ue_id is empty", rows[np.asarray(stated.isna())], "name each UE")
        ue = stated.astype(str).to_numpy(str)
    names, first, number = np.unique(ue, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return LongRows(
        np.argsort(order)[number],
        tuple(names[order].tolist()),
        _times(table),
        cell,
        pci,
        table.integers("report_id", rows) if "report_id" in table else None,
        table.integers("nr_arfcn", rows) if "nr_arfcn" in table else None,
        _serving(table) if "is_serving" in table else None,
        value,
        index,
        _places(table, scene, ""),
        _spacing_hz(table),
    )


def _renamed(table: ReportTable, columns: Mapping[str, str]) -> ReportTable:
    """The table under our names; a file's column of our name that is not meant gives way."""
    theirs = {name.lower(): ours for ours, name in columns.items()}
    for name in theirs:
        if name not in table:
            table.lacks(f"column {name}", f"the columns of the map, {', '.join(theirs)}")
    kept = {
        theirs.get(name, name): values
        for name, values in table.columns.items()
        if name in theirs or name not in columns
    }
    return ReportTable(table.path, kept)


def _quantity(
    table: ReportTable, key: str, rsrp_scale: str
) -> tuple[Float[np.ndarray, " rows"], Int[np.ndarray, " rows"]] | None:
    """Values and indices of one key; None without a column."""
    index_column, value_column = COLUMNS[key]
    rows = table.rows
    has_index, has_value = (bool(one) and one in table for one in (index_column, value_column))
    if not has_index and not has_value:
        return None
    value = np.full(len(rows), np.nan)
    if has_value:
        value = table.optional_numbers(value_column, rows)
        low, high = PLAUSIBLE[key]
        odd = (value < low) | (value > high)
        if odd.any():
            what = f"{value_column} is not between {low:g} and {high:g}"
            table.refuse(what, rows[odd], "mend the unit, or leave these cells empty")
        if key == "ss_rsrp" and rsrp_scale == "field":
            value = value - kpi.RSRP_FIELD_TOOLS_OFFSET_DB
    value = value.astype(np.float32)
    index = sequences.index_of(key, value[:, None])[:, 0]  # of beams there is one
    if has_index:
        raw = table.optional_numbers(index_column, rows)
        mapping, most = QUANTITIES[key].mapping, QUANTITIES[key].most
        most = mapping.most if mapping is not None else most
        assert most is not None
        bad = np.isfinite(raw) & ((raw != np.round(raw)) | (raw < LEAST.get(key, 0)) | (raw > most))
        if bad.any():
            what = f"{index_column} is no whole number from {LEAST.get(key, 0)} to {most}"
            table.refuse(what, rows[bad], "mend or empty these cells")
        stated = np.where(np.isnan(raw), NO_INDEX, raw).astype(np.int16)
        differs = (stated != NO_INDEX) & (index != NO_INDEX) & (stated != index)
        if differs.any():
            msg = (
                f"{table.path}: {index_column} and {value_column} disagree in {differs.sum()} "
                f"rows, the first in data row {rows[differs][0] + 1}; the index is taken"
            )
            warnings.warn(msg, UserWarning, stacklevel=3)
        taken = (stated != NO_INDEX) & (differs | np.isnan(value))
        value = np.where(taken, sequences.decoded(key, stated), value)
        index = np.where(stated != NO_INDEX, stated, index)
    return value.astype(np.float64), index


def _times(table: ReportTable) -> Float[np.ndarray, " rows"]:
    """Times [s]; from ISO 8601 they count from 1970."""
    import pandas as pd

    name = table.pick(("time_s", "timestamp_utc"), "time column")
    if name == "time_s":
        return table.numbers(name, table.rows)
    stated = pd.Series(table.columns[name])
    moment = pd.to_datetime(stated, utc=True, errors="coerce", format="ISO8601")
    bad = np.asarray(moment.isna())
    if bad.any():
        table.refuse(f"{name} is no ISO 8601 time", table.rows[bad], "write 2026-01-31T12:00:00Z")
    since = moment - pd.Timestamp("1970-01-01", tz="UTC")
    return np.asarray(since.dt.total_seconds(), dtype=np.float64)


def _serving(table: ReportTable) -> Float[np.ndarray, " rows"]:
    """1, 0 or NaN from numbers, truth values or words."""
    words = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    empty = ("", "nan", "none", "<na>")
    stated = [str(one).strip().lower() for one in table.columns["is_serving"].tolist()]
    bad = np.array([one not in words and one not in empty for one in stated])
    if bad.any():
        table.refuse("is_serving is neither true nor false", table.rows[bad], "write true or false")
    return np.array([words.get(one, np.nan) for one in stated])


def _spacing_hz(table: ReportTable) -> float:
    if "scs_khz" not in table:
        return 30e3
    spacing = table.numbers("scs_khz", table.rows)
    other = np.flatnonzero((spacing != spacing[0]) | (spacing <= 0))
    if len(other):
        table.refuse("scs_khz is not the same above 0 throughout", other, "split the table by it")
    return 1e3 * float(spacing[0])


def _places(
    table: ReportTable, scene: Scene | None, prefix: str
) -> Float[np.ndarray, "rows 2"] | None:
    """Places in local metres, NaN where both columns are empty; lon, lat win."""
    pairs = [tuple(prefix + name for name in pair) for pair in (_LONLAT, _METRES)]
    pair = next((pair for pair in pairs if all(name in table for name in pair)), None)
    if pair is None:
        return None
    rows = table.rows
    stated = np.stack([table.optional_numbers(name, rows) for name in pair], axis=1)
    half = np.isfinite(stated).sum(axis=1) == 1
    if half.any():
        table.refuse(f"only one of {pair[0]}, {pair[1]} is given", rows[half], "give both or none")
    if pair == pairs[1]:
        return stated
    if scene is None or scene.crs == "LOCAL":
        msg = f"{table.path} gives places in lon, lat; name the scene (with a CRS) they belong to"
        raise ReportsError(msg)
    beyond = (np.abs(stated) > (180.0, 90.0)).any(axis=1)
    if beyond.any():
        what = f"{pair[0]}, {pair[1]} are beyond 180, 90 degrees"
        table.refuse(what, rows[beyond], "metres belong in east_m, north_m")
    out = np.full(stated.shape, np.nan)
    known = np.isfinite(stated).all(axis=1)
    out[known] = frame.to_local(scene, stated[known])
    return out


def _place_columns(
    place_m: Float[np.ndarray, "rows 2"], scene: Scene | None, prefix: str
) -> dict[str, np.ndarray]:
    """Places as columns; lon, lat where a scene says how."""
    names = _METRES
    if scene is not None and scene.crs != "LOCAL":
        names = _LONLAT
        known = np.isfinite(place_m).all(axis=1)
        there = np.full(place_m.shape, np.nan)
        there[known] = frame.to_lonlat(scene, place_m[known])
        place_m = there
    return {prefix + name: place_m[:, k] for k, name in enumerate(names)}


def _write(path: Path, columns: dict[str, np.ndarray]) -> None:
    import pandas as pd

    if path.suffix not in (".csv", ".parquet"):
        msg = f"sequences are written as .csv or .parquet, not {path.name}"
        raise DataError(msg)
    whole = {a for a, _ in COLUMNS.values() if a} | {"report_id", "cell_id", "pci", "nr_arfcn"}
    table = pd.DataFrame(columns)
    for name in table.columns:
        if name in whole:
            table[name] = table[name].astype("Int64")
        elif name == "is_serving":
            table[name] = table[name].astype("boolean")
    with whole_file(path) as partial:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)
