"""Tables that say what the labels of a NIfTI file are: in its header, and next to it in a BIDS data set."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from viscera.core.errors import ReadError, during, reason
from viscera.core.label_names import LabelName
from viscera.core.organs import Code

# A thousand labels take a tenth of it.
LARGEST_TABLE_BYTES = 2**21
# The table that Connectome Workbench, TotalSegmentator and viscera write. It is not read as XML, as that may expand
# without a limit.
_TABLE = re.compile(rb"<LabelTable>(.*?)</LabelTable>", re.DOTALL)
_LABEL = re.compile(
    r"""<Label\b[^>]*?\b(?:Key|Index)\s*=\s*["'](\d{1,9})["'][^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))\s*</Label>""",
    re.DOTALL,
)
_BIDS_FILE = re.compile(r"(.*_dseg)\.nii(?:\.gz)?", re.IGNORECASE)
_BIDS_TABLE = "dseg.tsv"
_BIDS_ROOT = "dataset_description.json"


def label_table_names(extensions: bytes) -> dict[tuple[int, int], LabelName]:
    """The names of the labels in the extensions of a NIfTI header, by layer (always 0) and label; empty without any."""
    table = _TABLE.search(extensions)
    if table is None:
        return {}
    text = table[1].decode(errors="replace")
    return {
        (0, int(key)): LabelName(name=(data or html.unescape(plain)).strip())
        for key, data, plain in _LABEL.findall(text)
        if int(key)
    }


def bids_label_names(path: Path) -> tuple[Path, dict[int, LabelName]] | None:
    """The table of labels that BIDS has for a segmentation, and the names in it; None if there is none.

    The table is called like the file or, by the inheritance principle, has some of its entities and lies in a folder
    above, up to the data set's.

    Raises:
        ReadError: If the table cannot be read, or does not say what a label is.
    """
    named = _BIDS_FILE.fullmatch(path.name)
    if named is None:
        return None
    entities = set(named[1].split("_"))
    for folder in _up_to_root(path.absolute().parent):
        tables = [
            table
            for table in sorted(folder.glob(f"*{_BIDS_TABLE}"))
            if not table.name.startswith(".") and set(table.name.removesuffix(".tsv").split("_")) <= entities
        ]
        if tables:
            table = max(tables, key=lambda one: len(one.name.split("_")))
            return table, _table_names(table)
    return None


def _up_to_root(folder: Path) -> Iterator[Path]:
    """The folder, and those above it up to the data set's own; only the folder itself outside of data sets."""
    above = [folder, *folder.parents]
    roots = [number for number, one in enumerate(above) if (one / _BIDS_ROOT).is_file()]
    yield from above[: roots[0] + 1] if roots else above[:1]


def _table_names(path: Path) -> dict[int, LabelName]:
    with during(f"reading the table of labels {path}"):
        try:
            reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), delimiter="\t")
            rows = [
                row for row in reader if any((value or "").strip() for value in row.values() if isinstance(value, str))
            ]
        except (OSError, ValueError, csv.Error) as error:
            raise ReadError(expected="tab-separated text", got=reason(error), remedy="Correct the file") from error
        if not {"index", "name"} <= set(reader.fieldnames or ()):
            got = str(list(reader.fieldnames or ()))[:80]
            raise ReadError(expected="the columns index and name", got=got, remedy="Name the columns so")
        return _row_names(rows)


def _row_names(rows: list[dict[str, str | None]]) -> dict[int, LabelName]:
    names: dict[int, LabelName] = {}
    for row in rows:
        index = (row["index"] or "").strip()
        if not index.isdecimal() or int(index) in names:
            raise ReadError(
                expected="whole numbers as index, each once", got=repr(index[:40]), remedy="Correct the table"
            )
        names[int(index)] = LabelName(name=(row["name"] or "").strip(), code=_code(row))
    return {index: name for index, name in names.items() if index}


def _code(row: Mapping[str, str | None]) -> Code | None:
    """The code in the columns that viscera adds to BIDS's own."""
    scheme, value = (row.get("code_scheme") or "").strip(), (row.get("code_value") or "").strip()
    return Code(scheme=scheme, value=value, meaning="") if scheme and value else None
