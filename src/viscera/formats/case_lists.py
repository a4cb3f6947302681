"""Lists of cases as tables of text, also as spreadsheet programs save them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from viscera.core.errors import ReadError, during, reason

_SEPARATORS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r"\s*\"?sep=(.)\"?[\s,;]*", re.IGNORECASE)
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, kw_only=True)
class ListRow:
    """A row of a list: the number of its last line, and its cells by the name of their column, blanks taken off."""

    line: int
    cells: dict[str, str]


def read_list(path: Path, required: Collection[str], doing: str) -> list[ListRow]:
    """The rows of a list that are not empty.

    Columns are separated by commas, semicolons or tabs, whichever the first line has or a line `sep=` before it names;
    the text is UTF-8 or UTF-16. Case and blanks in the names of columns do not count.

    Args:
        path: The file.
        required: Columns it must have, in small letters.
        doing: What its errors say that was being done.

    Raises:
        ReadError: If it is no such text, lacks a column or has one twice, or a row has more cells than the first line.
    """
    with during(doing):
        text = _text(path)
        first, _, others = text.partition("\n")
        named = _SEPARATOR_LINE.fullmatch(first.rstrip("\r"))
        if named is not None:
            return _rows(others, required, named[1], skipped=1)
        return _rows(text, required, _separator(text, required), skipped=0)


def _rows(text: str, required: Collection[str], separator: str, *, skipped: int) -> list[ListRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        while columns and not columns[-1]:
            columns.pop()
        _require_columns(columns, required)
        return [
            ListRow(line=line, cells=_cells(columns, row, line))
            for row, line in ((row, reader.line_num + skipped) for row in reader)
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise ReadError(
            expected="a list with whole rows",
            got=f"{error} in line {reader.line_num + skipped}",
            remedy="Correct the file",
        ) from error


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReadError(expected="a readable list", got=reason(error), remedy="Check the file") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ReadError(
            expected="a list in UTF-8, or in UTF-16 with its mark",
            got=f"bytes of another encoding in line {line}",
            remedy="Save it as UTF-8; Excel calls that CSV UTF-8",
        ) from error


def _separator(text: str, required: Collection[str]) -> str:
    """The sign with which the first line has all columns asked for, a comma if none has."""
    head = text.split("\n", 1)[0]
    for separator in _SEPARATORS:
        names = {name.strip().strip('"').strip().lower() for name in head.split(separator)}
        if set(required) <= names:
            return separator
    return ","


def _require_columns(columns: list[str], required: Collection[str]) -> None:
    if not set(required) <= set(columns):
        wanted = " and ".join(f"`{name}`" for name in required)
        raise ReadError(
            expected=f"a first line that names {'a column' if len(required) == 1 else 'the columns'} {wanted}",
            got=repr(",".join(columns)[:80]),
            remedy="Name them so, with commas, semicolons or tabs between columns",
        )
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise ReadError(expected="columns that differ", got=f"{twice[0]!r} twice", remedy="Remove one")


def _cells(columns: list[str], row: list[str], line: int) -> dict[str, str]:
    cells = [cell.strip() for cell in row]
    if any(cells[len(columns) :]):
        raise ReadError(
            expected=f"at most {len(columns)} cells in a row, as in the first line",
            got=f"more in line {line}",
            remedy="Put a cell that holds a separator in quotation marks",
        )
    return dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))
