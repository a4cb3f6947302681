"""One table for all cases of a batch, made from its ledger: a row for each case and organ."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from viscera.batch.ledger import Entry, EntryStatus, Ledger
from viscera.core.files import write_bytes, write_text

NAME = "statistics"
COLUMNS = (
    "case", "status", "series", "phase", "organ", "voxels", "volume_ml", "mean_hu", "sd_hu", "touches_border",
    "border_faces", "quality", "quality_reasons", "error",
)  # fmt: skip


def cohort_rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return a row for each case and organ with the keys `COLUMNS`, and one for each case that failed.

    `series` and `phase` are None where no header names them, and so are an absent organ's HU. Several border faces or
    reasons are separated by a space.
    """
    rows = []
    for entry in entries:
        series = entry.series or {}
        # A file's name need not be text; what is not is escaped.
        name = entry.name.encode(errors="backslashreplace").decode()
        error = None if entry.error is None else entry.error.message
        common = {"case": name, "status": str(entry.status), "error": error}
        common |= {"series": series.get("number"), "phase": series.get("phase")}
        organs = entry.organs if entry.status is EntryStatus.DONE else ({},)
        rows += [{column: {**_measured(organ), **common}.get(column) for column in COLUMNS} for organ in organs]
    return rows


def write_cohort_table(ledger: Ledger, names: Iterable[str], folder: Path) -> list[Path]:
    """Write the rows of the cases `names` that have an entry as statistics.csv, and .parquet if pandas can.

    Returns:
        The files written.

    Raises:
        ReadError, WriteError: If an entry cannot be read, or a file cannot be written.
    """
    rows = cohort_rows(entry for name in names if (entry := ledger.read(name)) is not None)
    paths = [folder / f"{NAME}.csv"]
    write_text(_csv(rows), paths[0])
    if (data := _parquet(rows)) is not None:
        paths.append(folder / f"{NAME}.parquet")
        write_bytes(data, paths[1])
    return paths


def _measured(organ: Mapping[str, Any]) -> dict[str, Any]:
    listed = {name: " ".join(organ[name]) for name in ("border_faces", "quality_reasons") if name in organ}
    return {**organ, **listed}


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(name, value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(column: str, value: Any) -> Any:
    """As in the table of `viscera segment`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if column == "volume_ml" else f"{value:.2f}"
    return value


def _parquet(rows: list[dict[str, Any]]) -> bytes | None:
    """The table in Parquet; None if pandas, or what it needs for that, is not installed."""
    try:
        import pandas as pd

        types = {"voxels": "Int64", "volume_ml": float, "mean_hu": float, "sd_hu": float, "touches_border": "boolean"}
        frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({name: types.get(name, "string") for name in COLUMNS})
        return bytes(frame.to_parquet(index=False))
    except ImportError:
        return None
