"""The scores of a cross-validation by fold and organ, laid out as in the paper's Table 4: text, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from viscera.evaluation.scores import Evaluation
from viscera.evaluation.statistics import OrganSummary, Spread, summary_of
from viscera.evaluation.tables import aligned_rows

# Evaluations by fold, counted from 1; folds that are not finished are left out.
Folds = Mapping[int, Evaluation]

ALL_FOLDS = "all"


@dataclass(frozen=True, kw_only=True)
class FoldRow:
    """One row of the table.

    Attributes:
        fold: Its number as text, or "all" for the cases of all folds together.
        cases: How many cases it holds.
        organs: One summary per organ, then the row "mean".
    """

    fold: str
    cases: int
    organs: tuple[OrganSummary, ...]


def fold_rows(folds: Folds) -> tuple[FoldRow, ...]:
    """The rows in the order of the folds; the last one is of all their cases together, each counted once.

    Without folds there are no rows.
    """
    if not folds:
        return ()
    parts = [(str(number), folds[number]) for number in sorted(folds)]
    pooled = replace(parts[0][1], scores=tuple(score for _, part in parts for score in part.scores))
    return tuple(
        FoldRow(fold=name, cases=len(part.cases), organs=summary_of(part))
        for name, part in [*parts, (ALL_FOLDS, pooled)]
    )


def crossval_text(folds: Folds) -> str:
    """A table for a terminal, two lines per fold: DSC and NSD in percent, mean and standard deviation over cases."""
    rows = fold_rows(folds)
    if not rows:
        return "no fold is finished\n"
    header = ["fold", "cases", "%", *(organ.organ for organ in rows[-1].organs)]
    lines = [header]
    for row in rows:
        lines.append([row.fold, str(row.cases), "DSC", *(_entry(organ.dsc) for organ in row.organs)])
        lines.append(["", "", "NSD", *(_entry(organ.nsd) for organ in row.organs)])
    return "\n".join([_title(folds), "", *aligned_rows(lines, {0, len(lines) - 3}), *_remarks(rows)]) + "\n"


def crossval_markdown(folds: Folds) -> str:
    """The same as a Markdown table with one row per fold and two columns, DSC and NSD, per organ."""
    rows = fold_rows(folds)
    if not rows:
        return "No fold is finished.\n"
    organs = [organ.organ for organ in rows[-1].organs]
    header = ["fold", "cases", *(f"{organ} {score}" for organ in organs for score in ("DSC", "NSD"))]
    lines = [_title(folds), "", _piped(header), _piped(["---"] + ["---:"] * (len(header) - 1))]
    for row in rows:
        entries = [_entry(part) for organ in row.organs for part in (organ.dsc, organ.nsd)]
        cells = [row.fold, str(row.cases), *entries]
        lines.append(_piped([f"**{cell}**" for cell in cells] if row.fold == ALL_FOLDS else cells))
    return "\n".join([*lines, *_remarks(rows)]) + "\n"


def crossval_csv(folds: Folds) -> str:
    """CSV with one row per fold, organ and score, full precision; a mean or deviation that is not defined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["fold", "cases", "organ", "score", "mean", "sd", "count", "undefined"])
    for row in fold_rows(folds):
        for organ in row.organs:
            for name, part in (("dsc", organ.dsc), ("nsd", organ.nsd)):
                values = ["" if value is None else value for value in (part.mean, part.sd)]
                writer.writerow([row.fold, row.cases, organ.organ, name, *values, part.count, part.undefined])
    return text.getvalue()


def _title(folds: Folds) -> str:
    tolerance = next(iter(folds.values())).tolerances[0]
    return f"Cross-validation, mean ± standard deviation over cases, NSD at {tolerance.label}"


def _entry(values: Spread) -> str:
    if values.mean is None:
        return "-"
    mean = f"{100 * values.mean:.2f}"
    return mean if values.sd is None else f"{mean} ± {100 * values.sd:5.2f}"


def _piped(cells: list[str]) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def _remarks(rows: tuple[FoldRow, ...]) -> list[str]:
    left_out = list(_undefined(rows[-1]))
    return ["", "Left out of the means, as the reference is empty: " + "; ".join(left_out) + "."] if left_out else []


def _undefined(row: FoldRow) -> Iterator[str]:
    for organ in row.organs[:-1]:
        if organ.dsc.undefined:
            yield f"{organ.organ} in {organ.dsc.undefined} of {row.cases} cases"
