"""The statistics of many cases in one table, in the forms a single case has."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

from viscera.quality.statistics import OrganStatistics, statistics_csv, statistics_json

Cases = Mapping[str, Sequence[OrganStatistics]]


def cases_csv(cases: Cases) -> str:
    """CSV with one row per case and organ: the columns of `statistics_csv` after one with the case's name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, (name, statistics) in enumerate(cases.items()):
        header, *rows = csv.reader(io.StringIO(statistics_csv(statistics)))
        if number == 0:
            writer.writerow(["case", *header])
        # A file's name need not be text; what is not is escaped.
        shown = name.encode(errors="backslashreplace").decode()
        writer.writerows([shown, *row] for row in rows)
    return text.getvalue()


def cases_json(cases: Cases) -> str:
    """JSON with one object per case: its name and the list of `statistics_json`."""
    entries = [{"case": name, "organs": json.loads(statistics_json(rows))} for name, rows in cases.items()]
    return json.dumps(entries, indent=2, allow_nan=False) + "\n"


def summary(statistics: Sequence[OrganStatistics]) -> str:
    """Return the volumes on one line; an organ at the scan's border is marked, as part of it may be missing.

    For example: "liver 1510 ml, kidney 312 ml (at the border), spleen 201 ml, pancreas not found".
    """
    return ", ".join(map(_organ, statistics))


def _organ(organ: OrganStatistics) -> str:
    if not organ.voxels:
        return f"{organ.organ} not found"
    return f"{organ.organ} {organ.volume_ml:.0f} ml{' (at the border)' if organ.touches_border else ''}"
