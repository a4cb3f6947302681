"""Scores of cases as records, their means, and their form as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

from viscera.evaluation.metrics import FLARE_TOLERANCE_MM, EmptyRule
from viscera.labels import ORGANS, Organ

MEAN_ROW = "mean"


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """One organ of one case.

    Attributes:
        case: Name of the case.
        organ: Name in the organ table.
        dsc: Dice in [0, 1]; NaN where the rule for empty masks leaves it undefined.
        nsd: Surface Dice in [0, 1]; NaN likewise.
        reference_ml, prediction_ml: Volumes of the organ in both label maps.
    """

    case: str
    organ: str
    dsc: float
    nsd: float
    reference_ml: float
    prediction_ml: float

    @property
    def difference_ml(self) -> float:
        """Predicted minus reference volume."""
        return self.prediction_ml - self.reference_ml


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of the defined values.

    Attributes:
        mean: None if no value is defined.
        sd: None for fewer than two defined values.
        count: Defined values.
        undefined: Values left out because they are NaN.
    """

    mean: float | None
    sd: float | None
    count: int
    undefined: int


@dataclass(frozen=True, kw_only=True)
class OrganSummary:
    """The scores of one organ over all cases; in the row named "mean", of each case's mean over its organs."""

    organ: str
    dsc: Spread
    nsd: Spread
    difference_ml: Spread


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All scores of an evaluation, with what they mean.

    Attributes:
        scores: One record per case and organ, cases in order.
        tolerance_mm: Tolerance of the surface Dice.
        empty: Rule for empty masks.
        without_reference: Names of predictions that had no reference and were not scored.
        organs: The organ table the label maps were scored by.
    """

    scores: tuple[CaseScore, ...]
    tolerance_mm: float = FLARE_TOLERANCE_MM
    empty: EmptyRule = "flare"
    without_reference: tuple[str, ...] = ()
    organs: tuple[Organ, ...] = ORGANS

    @property
    def cases(self) -> tuple[str, ...]:
        """The names of the cases, in order."""
        return tuple(dict.fromkeys(score.case for score in self.scores))


def spread(values: Iterable[float]) -> Spread:
    """Mean and standard deviation of `values` without its NaN, which are counted."""
    given = list(values)
    defined = [value for value in given if not math.isnan(value)]
    return Spread(
        mean=statistics.fmean(defined) if defined else None,
        sd=statistics.stdev(defined) if len(defined) > 1 else None,
        count=len(defined),
        undefined=len(given) - len(defined),
    )


def summarise(scores: Sequence[CaseScore], organs: Sequence[Organ] = ORGANS) -> tuple[OrganSummary, ...]:
    """One summary per scored organ in the order of the table `organs`, then the row "mean".

    The last row first takes each case's mean over its defined organs, then mean and standard deviation over cases:
    with no undefined score its mean is the mean of the organs' means.
    """
    names = [organ.name for organ in organs if any(score.organ == organ.name for score in scores)]
    rows = [_organ_summary(name, [score for score in scores if score.organ == name]) for name in names]
    by_case: dict[str, list[CaseScore]] = {}
    for score in scores:
        by_case.setdefault(score.case, []).append(score)
    mean = OrganSummary(
        organ=MEAN_ROW,
        dsc=spread(_defined_mean(score.dsc for score in case) for case in by_case.values()),
        nsd=spread(_defined_mean(score.nsd for score in case) for case in by_case.values()),
        difference_ml=spread(_defined_mean(score.difference_ml for score in case) for case in by_case.values()),
    )
    return (*rows, mean)


def _organ_summary(organ: str, scores: Sequence[CaseScore]) -> OrganSummary:
    return OrganSummary(
        organ=organ,
        dsc=spread(score.dsc for score in scores),
        nsd=spread(score.nsd for score in scores),
        difference_ml=spread(score.difference_ml for score in scores),
    )


def _defined_mean(values: Iterable[float]) -> float:
    mean = spread(values).mean
    return math.nan if mean is None else mean


def summary_text(evaluation: Evaluation) -> str:
    """A table for a terminal: per organ and on average DSC and NSD in percent and the volume difference in ml.

    Every entry is the mean and, from two cases on, the standard deviation. Undefined scores and predictions without
    reference are said below the table.
    """
    count = len(evaluation.cases)
    title = f"{count} case{'' if count == 1 else 's'}, mean ± standard deviation" if count > 1 else "1 case"
    header = ["organ", "DSC %", f"NSD % at {evaluation.tolerance_mm:g} mm", "volume difference ml"]
    summaries = summarise(evaluation.scores, evaluation.organs)
    rows = [
        [row.organ, _entry(row.dsc, 100, "5.2f"), _entry(row.nsd, 100, "5.2f"), _entry(row.difference_ml, 1, "+6.1f")]
        for row in summaries
    ]
    rule_above_last = len(rows) - 1
    lines = [
        title if count else "no cases",
        "",
        *aligned_rows([header, *rows], {0, rule_above_last}),
        *_remarks(evaluation),
    ]
    return "\n".join(lines) + "\n"


def cases_text(evaluation: Evaluation) -> str:
    """A table for a terminal: one row per case with DSC / NSD in percent of each organ and on average."""
    names = [row.organ for row in summarise(evaluation.scores, evaluation.organs)]
    header = ["case", *names]
    rows = []
    for case in evaluation.cases:
        scores = {score.organ: score for score in evaluation.scores if score.case == case}
        mean = _defined_mean(s.dsc for s in scores.values()), _defined_mean(s.nsd for s in scores.values())
        pairs = {**{name: (score.dsc, score.nsd) for name, score in scores.items()}, MEAN_ROW: mean}
        rows.append([case, *(_pair(*pairs[name]) if name in pairs else "" for name in names)])
    title = f"DSC / NSD in %, tolerance {evaluation.tolerance_mm:g} mm"
    return "\n".join([title, "", *aligned_rows([header, *rows], {0}), *_remarks(evaluation)]) + "\n"


def _entry(values: Spread, factor: float, form: str) -> str:
    if values.mean is None:
        return "-"
    mean = format(values.mean * factor, form).strip()
    return mean if values.sd is None else f"{mean} ± {format(values.sd * factor, form.replace('+', ''))}"


def _pair(dsc: float, nsd: float) -> str:
    dsc_text, nsd_text = ("-" if math.isnan(value) else f"{100 * value:.2f}" for value in (dsc, nsd))
    return f"{dsc_text} / {nsd_text:>6}"


def aligned_rows(rows: Sequence[Sequence[str]], rules_after: set[int]) -> list[str]:
    """The rows with columns of one width, the first flush left and the others flush right, and rules after some."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for index, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
        if index in rules_after and index < len(rows) - 1:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


def _remarks(evaluation: Evaluation) -> list[str]:
    remarks = []
    for row in summarise(evaluation.scores, evaluation.organs)[:-1]:
        if row.dsc.undefined:
            remarks.append(f"{row.organ}: {row.dsc.undefined} of {row.dsc.count + row.dsc.undefined} cases undefined")
    if remarks:
        remarks = ["Left out of the means, as the reference is empty: " + "; ".join(remarks) + "."]
    if evaluation.without_reference:
        remarks.append("Not scored, as there is no reference: " + ", ".join(evaluation.without_reference) + ".")
    return ["", *remarks] if remarks else []


def scores_csv(scores: Sequence[CaseScore]) -> str:
    """CSV with one row per case and organ, full precision; undefined scores are `nan`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(CaseScore)]
    writer.writerow(names)
    writer.writerows([getattr(score, name) for name in names] for score in scores)
    return text.getvalue()


def evaluation_json(evaluation: Evaluation) -> str:
    """JSON with the settings, the summary per organ and every score; undefined scores are null."""
    content = {
        "tolerance_mm": evaluation.tolerance_mm,
        "empty": evaluation.empty,
        "without_reference": list(evaluation.without_reference),
        "summary": [asdict(row) for row in summarise(evaluation.scores, evaluation.organs)],
        "scores": [
            {
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in asdict(score).items()
            }
            for score in evaluation.scores
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
