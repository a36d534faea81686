"""Measurement reports in long form, one row for each (UE, time, cell), and back to a sequence.

Tables and JSON files become these rows, and rows a `MeasurementSequence`. A file says what was
reported, not why something was not; `assembled` says how reasons are guessed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, final

import numpy as np
from jaxtyping import Bool, Float, Int

from hertzmap.core.sequences import (
    BELOW_DETECTION,
    DROPPED,
    MOST_NEIGHBOURS,
    NO_INDEX,
    NOT_CONFIGURED,
    PRESENT,
    QUANTITIES,
    MeasurementSequence,
)

Refuse = Callable[[str, Int[np.ndarray, " rows"], str], NoReturn]
"""Raises an error that names rows: (what is wrong, which rows, what to do)."""
CSI = ("cqi", "ri", "pmi", "l1_rsrp", "beam_id")
"""Quantities that come in one report of their own."""
RRC = ("ss_rsrp", "ss_rsrq", "ss_sinr")
"""Quantities that come in another one."""


@final
@dataclass(frozen=True)
class LongRows:
    """Rows in any order."""

    ue: Int[np.ndarray, " rows"]
    """Number of each row's UE."""
    ue_id: tuple[str, ...]
    """Name of each UE."""
    time_s: Float[np.ndarray, " rows"]
    """Time of the report [s]."""
    cell_id: Int[np.ndarray, " rows"]
    """Identity of the radio cell."""
    pci: Int[np.ndarray, " rows"]
    """Physical identity; -1 where unknown."""
    report_id: Int[np.ndarray, " rows"] | None = None
    """Number of the report within its UE, if stated."""
    nr_arfcn: Int[np.ndarray, " rows"] | None = None
    """Carrier, if stated."""
    serving: Float[np.ndarray, " rows"] | None = None
    """1 for the serving cell, 0 for others, NaN where unknown; None if never stated."""
    value: dict[str, Float[np.ndarray, " rows"]] = field(default_factory=dict[str, np.ndarray])
    """Values by key; NaN where empty."""
    index: dict[str, Int[np.ndarray, " rows"]] = field(default_factory=dict[str, np.ndarray])
    """Their indices, for keys that have one."""
    reported_m: Float[np.ndarray, "rows 2"] | None = None
    """Place that the UE reported; NaN where it did not."""
    subcarrier_spacing_hz: float = 30e3
    """Of all radio cells [Hz]."""


def assembled(rows: LongRows, refuse: Refuse) -> MeasurementSequence:
    """Rows on the axes (samples, steps, cells); samples and steps in order of appearance and time.

    Why a value is missing is guessed. A cell without a row in a report was below detection. In a
    report without any RRC or CSI value that report was not configured; a value that is missing
    beside others was dropped. Quantities of the serving cell are not configured elsewhere.

    Args:
        rows: one for each (UE, time, cell).
        refuse: raises an error about rows.

    Raises:
        ReportsError: by `refuse`, if rows repeat or contradict each other.
    """
    cells, cell = np.unique(rows.cell_id, return_inverse=True)
    pci = _one_for_each(rows.pci, cell, len(cells), "cell_id with several pci", refuse)
    step, time_s = _steps(rows, refuse)
    shape = (*time_s.shape, len(cells))
    where = (rows.ue, step, cell)
    flat = np.ravel_multi_index(where, shape)
    order = np.argsort(flat, kind="stable")
    again = np.sort(order[1:][np.diff(flat[order]) == 0])
    if len(again):
        refuse("a (UE, time, cell) that an earlier row holds is", again, "keep one row for each")
    there = np.zeros(shape, bool)
    there[where] = True
    if rows.serving is not None:
        twice = np.zeros(shape, bool)
        twice[where] = rows.serving == 1.0
        many = (twice.sum(axis=2) > 1)[rows.ue, step] & (rows.serving == 1.0)
        if many.any():
            refuse("several serving cells in one report", np.flatnonzero(many), "keep one")
    if "neighbours" in rows.index:
        _check_ranks(rows, where, refuse)
    value, index, reason = _scattered(rows, where, shape, there)
    arfcn = rows.nr_arfcn
    if arfcn is not None:
        arfcn = _one_for_each(arfcn, cell, len(cells), "cell_id with several nr_arfcn", refuse)
    place = None
    if rows.reported_m is not None:
        place = np.full((*time_s.shape, 2), np.nan)
        known = np.isfinite(rows.reported_m).all(axis=1)
        place[rows.ue[known][::-1], step[known][::-1]] = rows.reported_m[known][::-1]
    return MeasurementSequence(
        rows.ue_id,
        time_s,
        cells,
        pci,
        value,
        index,
        reason,
        arfcn,
        rows.subcarrier_spacing_hz,
        None,
        place,
    )


def _one_for_each(
    values: Int[np.ndarray, " rows"],
    cell: Int[np.ndarray, " rows"],
    count: int,
    what: str,
    refuse: Refuse,
) -> Int[np.ndarray, " cells"]:
    found = np.zeros(count, values.dtype)
    found[cell[::-1]] = values[::-1]
    other = np.flatnonzero(found[cell] != values)
    if len(other):
        refuse(what, other, "give each cell_id one")
    return found


def _steps(
    rows: LongRows, refuse: Refuse
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, "samples steps"]]:
    """Step of each row, and times of all reports, NaN beyond a UE's last one."""
    times, code = np.unique(rows.time_s, return_inverse=True)
    joint, report = np.unique(rows.ue * len(times) + code, return_inverse=True)
    ue, moment = joint // len(times), times[joint % len(times)]
    if rows.report_id is not None:
        stated = np.zeros(len(joint), np.int64)
        stated[report[::-1]] = rows.report_id[::-1]
        other = np.flatnonzero(stated[report] != rows.report_id)
        if len(other):
            refuse("two report_id at one time of a UE", other, "give each report its own time")
        numbers = np.stack([ue, stated], axis=1)
        _, first, count = np.unique(numbers, axis=0, return_index=True, return_counts=True)
        if count.max(initial=1) > 1:
            double = np.isin(report, first[count > 1])
            refuse("one report_id at several times", np.flatnonzero(double), "give each one time")
    begins = np.searchsorted(ue, np.arange(len(rows.ue_id)))
    step = np.arange(len(joint)) - begins[ue]
    time_s = np.full((len(rows.ue_id), int(step.max(initial=0)) + 1), np.nan)
    time_s[ue, step] = moment
    return step[report], time_s


def _scattered(
    rows: LongRows,
    where: tuple[np.ndarray, ...],
    shape: tuple[int, ...],
    there: Bool[np.ndarray, "samples steps cells"],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Values, indices and reasons on their axes."""
    value: dict[str, np.ndarray] = {}
    index: dict[str, np.ndarray] = {}
    for key, column in rows.value.items():
        ports = (1,) if QUANTITIES[key].ports else ()
        value[key] = np.full((*shape, *ports), np.nan, np.float32)
        value[key][where] = column.astype(np.float32).reshape(-1, *ports)
        if QUANTITIES[key].indexed:
            index[key] = np.full((*shape, *ports), NO_INDEX, np.int16)
            index[key][where] = rows.index[key].reshape(-1, *ports)
    present = {key: np.isfinite(found.reshape(shape)) for key, found in value.items()}
    served = np.zeros(shape, bool)
    if rows.serving is not None:
        served[where] = rows.serving == 1.0
        known = np.broadcast_to(served.any(axis=2, keepdims=True), shape)
        value["serving_cell"] = np.where(known, served, np.nan).astype(np.float32)
        present["serving_cell"] = known
    reason = {}
    for key, seen in present.items():
        group = next((one for one in (CSI, RRC) if key in one), (key,))
        sent = np.any([present[one] for one in group if one in present], axis=0)
        sent = np.broadcast_to(sent.any(axis=2, keepdims=True), shape)
        missing = np.where(there, DROPPED, BELOW_DETECTION)
        if QUANTITIES[key].serving:
            missing = np.where(served, missing, NOT_CONFIGURED)
        if key == "neighbours":
            missing = np.where(served, NOT_CONFIGURED, BELOW_DETECTION)
        missing = np.where(sent, missing, NOT_CONFIGURED)
        reason[key] = np.where(seen, PRESENT, missing).astype(np.uint8)
    return value, index, reason


def ranked(
    rows: LongRows, level: Float[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Ranks of the eight strongest neighbours of each report, for files that do not state them.

    Args:
        rows: with `serving`.
        level: what they are ranked by; where it is NaN a row is no neighbour.
    """
    assert rows.serving is not None
    beside = np.flatnonzero((rows.serving != 1.0) & np.isfinite(level))
    keys = (rows.cell_id, -level, rows.time_s, rows.ue)
    order = beside[np.lexsort([key[beside] for key in keys])]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(rows.ue[order]) != 0) | (np.diff(rows.time_s[order]) != 0)
    begins = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    rank = np.full(len(rows.ue), NO_INDEX, np.int64)
    rank[order] = np.arange(len(order)) - begins + 1
    rank = np.where(rank > MOST_NEIGHBOURS, NO_INDEX, rank)
    return np.where(rank > 0, rank, np.nan), rank


def _check_ranks(rows: LongRows, where: tuple[np.ndarray, ...], refuse: Refuse) -> None:
    """Refuse lists of neighbours that do not count 1, 2, 3 and so on."""
    listed = np.flatnonzero(rows.index["neighbours"] != NO_INDEX)
    report = np.stack([where[0][listed], where[1][listed]], axis=1)
    _, number, count = np.unique(report, axis=0, return_inverse=True, return_counts=True)
    rank = rows.index["neighbours"][listed]
    twice = np.stack([number, rank], axis=1)
    _, same, often = np.unique(twice, axis=0, return_inverse=True, return_counts=True)
    wrong = (rank > count[number]) | (often[same] > 1)
    if wrong.any():
        refuse("the rank of a neighbour is out of order", listed[wrong], "count from 1 in a report")


def chosen_rows(
    sequences: MeasurementSequence, keys: tuple[str, ...]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Samples, steps and cells that have something to tell by some keys, or that serve."""
    served = sequences.serving[..., None] == np.arange(sequences.shape[2])
    seen = [sequences.present(key) for key in keys if key in sequences.value]
    sample, step, cell = np.nonzero(np.any([served, *seen], axis=0))
    return sample, step, cell
