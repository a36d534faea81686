"""Measurement sequences in the shape of NR measurement reports, as JSON, both ways.

Each report holds a ``measResults`` of TS 38.331: the serving cell, then a list of neighbours, with
RSRP, RSRQ and SINR as raw indices. Only these, the lists and times are carried.

Source: TS 38.331, 6.3.2, ``MeasResults``; ``cellId`` beside ``physCellId``, times and names of UEs
are ours.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int

from hertzmap.core import sequences
from hertzmap.core.errors import DataError, ReportsError
from hertzmap.core.sequences import MOST_NEIGHBOURS, NO_INDEX, MeasurementSequence
from hertzmap.datasets._sequence_rows import LongRows, assembled, chosen_rows
from hertzmap.datasets.interchange import write_text

FORMAT = "hertzmap-meas-results"
"""Value of ``format`` in the file."""
_NAMES = {"ss_rsrp": "rsrp", "ss_rsrq": "rsrq", "ss_sinr": "sinr"}
_SPACINGS = {"kHz15": 15e3, "kHz30": 30e3, "kHz60": 60e3, "kHz120": 120e3}


def write_measurements(path: Path, found: MeasurementSequence) -> None:
    """Write serving cells and neighbours with their indices.

    Raises:
        DataError: if a physical cell identity is unknown, a report has more than eight neighbours,
            or the file cannot be written.
    """
    if (found.pci < 0).any():
        cells = found.cell_id[found.pci < 0].tolist()
        msg = f"measResults name cells by PCI, but cells {cells[:5]} have none; write a table"
        raise DataError(msg)
    sample, step, cell = chosen_rows(found, tuple(_NAMES))
    serving = found.serving
    by_report: dict[tuple[int, int], list[int]] = {}
    for k, address in enumerate(zip(sample.tolist(), step.tolist(), strict=True)):
        by_report.setdefault(address, []).append(k)
    ues: dict[int, list[dict[str, Any]]] = {}
    for (ue, report), rows in by_report.items():
        cells = [int(cell[k]) for k in rows]
        own = [one for one in cells if one == serving[ue, report]]
        beside = _in_order(found, ue, report, [one for one in cells if one not in own])
        results = {
            "measId": 1,
            "measResultServingMOList": [
                {"servCellId": 0, "measResultServingCell": _result(found, ue, report, one)}
                for one in own
            ],
            "measResultNeighCells": {
                "measResultListNR": [_result(found, ue, report, one) for one in beside]
            },
        }
        ues.setdefault(ue, []).append(
            {
                "reportId": report,
                "time_s": float(found.time_s[ue, report]),
                "measResults": results,
            }
        )
    spacing = [name for name, hz in _SPACINGS.items() if hz == found.subcarrier_spacing_hz]
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": 1,
        "ues": [{"ueId": found.ue_id[ue], "reports": reports} for ue, reports in ues.items()],
    }
    if spacing:
        content["subcarrierSpacing"] = spacing[0]
    if found.nr_arfcn is not None:
        arfcn = dict(zip(found.cell_id.tolist(), found.nr_arfcn.tolist(), strict=True))
        content["ssbFrequency"] = {str(one): number for one, number in arfcn.items()}
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


def _in_order(found: MeasurementSequence, ue: int, report: int, cells: list[int]) -> list[int]:
    """Neighbours by their rank if it was reported, else by RSRP."""
    if len(cells) > MOST_NEIGHBOURS:
        msg = (
            f"the report {report} of {found.ue_id[ue]} has {len(cells)} neighbours, measResults "
            f"hold {MOST_NEIGHBOURS}; write a table"
        )
        raise DataError(msg)
    rank = found.index.get("neighbours")
    level = found.value.get("ss_rsrp")

    def key(cell: int) -> tuple[float, float, int]:
        own = np.inf if rank is None or rank[ue, report, cell] < 0 else rank[ue, report, cell]
        power = np.nan if level is None else level[ue, report, cell]
        return (float(own), np.inf if np.isnan(power) else -float(power), cell)

    return sorted(cells, key=key)


def _result(found: MeasurementSequence, ue: int, report: int, cell: int) -> dict[str, Any]:
    """MeasResultNR of one cell."""
    values = {
        name: int(found.index[key][ue, report, cell])
        for key, name in _NAMES.items()
        if key in found.index and found.index[key][ue, report, cell] != NO_INDEX
    }
    return {
        "physCellId": int(found.pci[cell]),
        "cellId": int(found.cell_id[cell]),
        "measResult": {"cellResults": {"resultsSSB-Cell": values}},
    }


def read_measurements(path: Path) -> MeasurementSequence:
    """Read reports written by `write_measurements`, or in the same shape by others.

    Without ``cellId`` a cell is named by its ``physCellId``. The list of neighbours ranks them.

    Raises:
        ReportsError: if the file is missing or broken; names the UE and report.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} is no readable JSON file ({error}); save it again as UTF-8"
        raise ReportsError(msg) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        msg = f"{path} is no file of measurement reports: its `format` is not {FORMAT!r}"
        raise ReportsError(msg)
    rows: list[tuple[Any, ...]] = []
    names: list[str] = []
    places: list[str] = []
    for number, ue in enumerate(_list(path, content, "ues", "")):
        where = f"ues[{number}]"
        names.append(str(_member(path, ue, "ueId", where)))
        for k, report in enumerate(_list(path, ue, "reports", where)):
            spot = f"{where}.reports[{k}]"
            for row in _of_report(path, report, spot):
                rows.append((number, *row))
                places.append(spot)
    if not rows:
        msg = f"{path} holds no measurement result"
        raise ReportsError(msg)

    def refuse(what: str, which: Int[np.ndarray, " rows"], advice: str) -> NoReturn:
        shown = ", ".join(dict.fromkeys(places[k] for k in which[:5]))
        msg = f"{path}: {what} in {shown}; {advice}"
        raise ReportsError(msg)

    ue, time_s, cell_id, pci, serving, rank, *index = (
        np.array(one) for one in zip(*rows, strict=True)
    )
    indices = {"neighbours": rank, **dict(zip(_NAMES, index, strict=True))}
    arfcn = content.get("ssbFrequency")
    return assembled(
        LongRows(
            ue,
            tuple(names),
            time_s.astype(np.float64),
            cell_id,
            pci,
            serving=serving.astype(np.float64),
            nr_arfcn=_arfcn(path, arfcn, cell_id) if arfcn else None,
            value={
                key: sequences.decoded(key, one).astype(np.float64) for key, one in indices.items()
            },
            index=indices,
            subcarrier_spacing_hz=_SPACINGS.get(content.get("subcarrierSpacing", ""), 30e3),
        ),
        refuse,
    )


def _of_report(path: Path, report: object, where: str) -> list[tuple[Any, ...]]:
    """Rows (time, cell, pci, serving, rank, indices) of one report."""
    time_s = _member(path, report, "time_s", where)
    if isinstance(time_s, bool) or not isinstance(time_s, int | float):
        _broken(path, f"{where}.time_s", f"is no number, but {time_s!r}")
    results = _member(path, report, "measResults", where)
    inside = f"{where}.measResults"
    out = []
    own = _list(path, results, "measResultServingMOList", inside)
    if len(own) > 1:
        _broken(path, f"{inside}.measResultServingMOList", "holds more than one serving cell")
    for one in own:
        result = _member(path, one, "measResultServingCell", inside)
        out.append((time_s, *_of_cell(path, result, inside, 1, NO_INDEX)))
    beside = results.get("measResultNeighCells") or {}
    for rank, result in enumerate(_list(path, beside, "measResultListNR", inside), start=1):
        if rank > MOST_NEIGHBOURS:
            _broken(path, f"{inside}.measResultNeighCells", f"holds over {MOST_NEIGHBOURS} cells")
        out.append((time_s, *_of_cell(path, result, inside, 0, rank)))
    return out


def _of_cell(path: Path, result: object, where: str, serving: int, rank: int) -> tuple[int, ...]:
    pci = _index(path, _member(path, result, "physCellId", where), 1007, f"{where}.physCellId")
    cell = result.get("cellId", pci) if isinstance(result, dict) else pci
    if isinstance(cell, bool) or not isinstance(cell, int):
        _broken(path, f"{where}.cellId", f"is no whole number, but {cell!r}")
    inner = _member(path, result, "measResult", where)
    found = _member(path, inner, "cellResults", where)
    values = _member(path, found, "resultsSSB-Cell", where)
    if not isinstance(values, dict):
        _broken(path, f"{where}.resultsSSB-Cell", "is no object")
    indices = (
        NO_INDEX if values.get(name) is None else _index(path, values[name], 127, f"{where}.{name}")
        for name in _NAMES.values()
    )
    return (cell, pci, serving, rank, *indices)


def _arfcn(path: Path, stated: object, cell_id: Int[np.ndarray, " rows"]) -> np.ndarray:
    missing = [one for one in cell_id.tolist() if str(one) not in stated]  # type: ignore[operator]
    if missing:
        _broken(path, "ssbFrequency", f"lacks the cell {missing[0]}")
    return np.array([int(stated[str(one)]) for one in cell_id.tolist()])  # type: ignore[index]


def _index(path: Path, number: object, most: int, where: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
        _broken(path, where, f"is no whole number from 0 to {most}, but {number!r}")
    return number


def _member(path: Path, holder: object, name: str, where: str) -> Any:  # noqa: ANN401 - JSON value
    if not isinstance(holder, dict) or name not in holder:
        _broken(path, where or "the file", f"has no {name}")
    return holder[name]


def _list(path: Path, holder: object, name: str, where: str) -> list[Any]:
    found = holder.get(name, []) if isinstance(holder, dict) else None
    if not isinstance(found, list):
        _broken(path, f"{where}.{name}".lstrip("."), "is no list")
    return found


def _broken(path: Path, where: str, what: str) -> NoReturn:
    msg = f"{path}: {where} {what}; mend the file as docs/data-formats.md says"
    raise ReportsError(msg)
