"""A table of reports as it lies on disk: named columns, checked when they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, final

import numpy as np
from jaxtyping import Float, Int

from hertzmap.core.errors import ReportsError

_SHOWN = 5
"""Rows that an error names before it only counts them."""


@final
@dataclass(frozen=True)
class ReportTable:
    """Columns of a CSV or Parquet file; every complaint names the file and the rows."""

    path: Path
    """Where it was read."""
    columns: dict[str, np.ndarray]
    """Values by lower-case name, in the file's order."""

    @classmethod
    def read(cls, path: Path) -> "ReportTable":
        """Read a ``.csv``, ``.csv.gz`` or ``.parquet`` file.

        Raises:
            ReportsError: if it is missing, empty, broken or of another kind.
        """
        import pandas as pd
        from pyarrow import ArrowException

        if not path.is_file():
            msg = f"there is no report table at {path}; give a CSV or Parquet file"
            raise ReportsError(msg)
        is_csv = path.name.lower().endswith((".csv", ".csv.gz"))
        if not is_csv and path.suffix.lower() != ".parquet":
            msg = f"{path}: reports are read from .csv, .csv.gz or .parquet, by file name"
            raise ReportsError(msg)
        try:
            if is_csv:
                content = pd.read_csv(path, encoding="utf-8-sig", skipinitialspace=True)
            else:
                content = pd.read_parquet(path)
        except pd.errors.EmptyDataError as error:
            msg = f"{path} is empty; its first line must name the columns, e.g. lon,lat,rsrp_dbm"
            raise ReportsError(msg) from error
        except (ValueError, OSError, EOFError, ArrowException) as error:
            reason = " ".join(str(error).split())
            msg = f"{path} is no readable table ({reason}); save it again as CSV (UTF-8) or Parquet"
            raise ReportsError(msg) from error
        if is_csv and not isinstance(content.index, pd.RangeIndex):
            msg = f"{path}: rows hold more fields than the first line names; complete that line"
            raise ReportsError(msg)
        columns = {str(key).strip().lower(): content[key].to_numpy() for key in content.columns}
        return cls(path, columns)

    def __contains__(self, column: str) -> bool:
        """Whether the table has a column."""
        return column in self.columns

    @property
    def rows(self) -> Int[np.ndarray, " points"]:
        """Indices of all rows."""
        return np.arange(len(next(iter(self.columns.values()), ())))

    def refuse(self, what: str, rows: Int[np.ndarray, " points"], advice: str) -> NoReturn:
        """Raise an error that names rows.

        Raises:
            ReportsError: always.
        """
        shown = ", ".join(str(row + 1) for row in rows[:_SHOWN])
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        plural = "s" if len(rows) > 1 else ""
        msg = (
            f"{self.path}: {what} in data row{plural} {shown}{more} (the first row below the "
            f"column names is 1); {advice}"
        )
        raise ReportsError(msg)

    def lacks(self, what: str, needed: str) -> NoReturn:
        """Raise an error about missing columns that names those there are.

        Raises:
            ReportsError: always.
        """
        names = tuple(self.columns)
        hint = ""
        if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
            hint = "; separate the columns by commas"
        msg = f"{self.path} has no {what}: it needs {needed}, but holds {', '.join(names)}{hint}"
        raise ReportsError(msg)

    def pick(self, names: Sequence[str], what: str, *, optional: bool = False) -> str:
        """The one of `names` that is a column; an empty string if optional and absent.

        Raises:
            ReportsError: if there is none, or more than one.
        """
        found = [name for name in names if name in self]
        if len(found) > 1:
            msg = f"{self.path} has several {what}s ({', '.join(found)}); keep one or name it"
            raise ReportsError(msg)
        if not found and not optional:
            self.lacks(what, " or ".join(names))
        return found[0] if found else ""

    def numbers(
        self, column: str, rows: Int[np.ndarray, " points"]
    ) -> Float[np.ndarray, " points"]:
        """Values of a column as floats.

        Raises:
            ReportsError: if one is empty or not a finite number; names the rows.
        """
        import pandas as pd

        values = pd.to_numeric(pd.Series(self.columns[column][rows]), errors="coerce")
        numbers = np.asarray(values, dtype=np.float64)
        bad = ~np.isfinite(numbers)
        if bad.any():
            what = f"{column} is empty or not a finite number"
            self.refuse(what, rows[bad], "mend or delete these rows")
        return numbers

    def optional_numbers(
        self, column: str, rows: Int[np.ndarray, " points"]
    ) -> Float[np.ndarray, " points"]:
        """Values of a column as floats; NaN where a cell of the table is empty.

        Raises:
            ReportsError: if one is neither empty nor a finite number; names the rows.
        """
        import pandas as pd

        stated = pd.Series(self.columns[column][rows])
        numbers = np.asarray(pd.to_numeric(stated, errors="coerce"), dtype=np.float64)
        bad = ~np.isfinite(numbers) & ~np.asarray(stated.isna())
        if bad.any():
            what = f"{column} is neither empty nor a finite number"
            self.refuse(what, rows[bad], "mend these rows or leave their cells empty")
        return numbers

    def integers(self, column: str, rows: Int[np.ndarray, " points"]) -> Int[np.ndarray, " points"]:
        """Values of a column as integers.

        Raises:
            ReportsError: if one is not a whole number; names the rows.
        """
        numbers = self.numbers(column, rows)
        bad = numbers != np.round(numbers)
        if bad.any():
            self.refuse(f"{column} is not a whole number", rows[bad], "mend or delete these rows")
        return numbers.astype(np.int64)

    def deviations(
        self, column: str, rows: Int[np.ndarray, " points"], default: float
    ) -> Float[np.ndarray, " points"]:
        """A column of standard deviations, or the default in every row if there is none.

        Raises:
            ReportsError: if a value, or the default where it is needed, is negative or no number.
        """
        if column not in self:
            if not (np.isfinite(default) and default >= 0):
                msg = (
                    f"{self.path} states no {column}, and the assumed {default} is no standard "
                    "deviation; give a number of at least 0"
                )
                raise ReportsError(msg)
            return np.full(len(rows), float(default))
        values = self.numbers(column, rows)
        if (values < 0).any():
            advice = "give a standard deviation of at least 0"
            self.refuse(f"{column} is negative", rows[values < 0], advice)
        return values

    def rows_of_cell(self, column: str, cell: int) -> Int[np.ndarray, " points"]:
        """Indices of the rows of one radio cell.

        Raises:
            ReportsError: if the cell has no report; names the cells that have.
        """
        cells = self.integers(column, self.rows)
        if not (cells == cell).any():
            names, counts = np.unique(cells, return_counts=True)
            listed = ", ".join(f"{n} ({c})" for n, c in zip(names, counts, strict=True))
            msg = f"{self.path} has no report of cell {cell}; cells (reports): {listed or 'none'}"
            raise ReportsError(msg)
        return self.rows[cells == cell]
