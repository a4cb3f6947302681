"""Scores of cases, their summaries and comparisons as tables: text, CSV, Markdown, LaTeX and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from viscera.evaluation.ranking import MethodRank
from viscera.evaluation.scores import CaseScore, Evaluation, Measure
from viscera.evaluation.significance import Comparison
from viscera.evaluation.statistics import OrganSummary, Spread, case_values, scored_organs, summary_of

# Shown in tables as remarks or in files, not as columns.
_REMARKED = ("false_parts", "false_ml", "missed_parts", "missed_ml")
_PLACES = 15  # of a case's DSC / NSD, "100.00 / 100.00"
_LATEX = str.maketrans({char: f"\\{char}" for char in "&%$#_{}"} | {"±": r"$\pm$", "\\": r"\textbackslash{}"})


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be written in several forms.

    Attributes:
        title: Above it.
        header: Its columns.
        rows: Their cells.
        rules: Numbers of rows, from 0, after which a line is drawn.
        notes: Below it.
        texts: How many columns, from the first, hold words and are flush left.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    rules: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    texts: int = 1

    def text(self) -> str:
        """For a terminal."""
        lines = aligned_rows(
            [self.header, *self.rows], {0, *(place + 1 for place in self.rules)}, flush_left=self.texts
        )
        return "\n".join([self.title, "", *lines, *(["", *self.notes] if self.notes else [])]) + "\n"

    def markdown(self) -> str:
        """For GitHub and most other readers of Markdown."""
        marks = ["---" if column < self.texts else "---:" for column in range(len(self.header))]
        lines = [_piped(row) for row in (self.header, marks, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    def latex(self) -> str:
        """A `table` environment with rules of the package booktabs."""
        columns = "l" * self.texts + "r" * (len(self.header) - self.texts)
        rows = [
            f"    {' & '.join(' '.join(cell.translate(_LATEX).split()) for cell in row)} \\\\"
            for row in (self.header, *self.rows)
        ]
        ruled = [row + ("\n    \\midrule" if place - 1 in {-1, *self.rules} else "") for place, row in enumerate(rows)]
        if ruled[-1].endswith("\\midrule"):
            ruled[-1] = rows[-1]
        caption = ". ".join(part.rstrip(".") for part in (self.title, *self.notes)).translate(_LATEX)
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                f"  \\caption{{{caption}.}}",
                f"  \\begin{{tabular}}{{{columns}}}",
                r"    \toprule",
                *ruled,
                r"    \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def summary_table(evaluation: Evaluation, summaries: Sequence[OrganSummary] | None = None, name: str = "") -> Table:
    """Per organ and on average: mean and standard deviation, median, and the mean's 95 % interval, by measure.

    One case has only its scores. Undefined scores, false-positive and false-negative components, and
    predictions without reference are noted.

    Args:
        evaluation: What is shown.
        summaries: Its summaries if they are known already.
        name: Of the method, put before the title.
    """
    rows = summary_of(evaluation) if summaries is None else summaries
    shown = [measure for measure in evaluation.measures if measure.key not in _REMARKED]
    count = len(evaluation.cases)
    several = count > 1
    title = ("no cases", "1 case")[count] if not several else f"{count} cases"
    cells: list[tuple[str, ...]] = []
    rules = set()
    for row in rows if count else ():
        spreads = [(measure, row.spreads[measure.key]) for measure in shown]
        if several:
            cells.append((row.organ, "mean ± SD", *(_mean_sd(*one) for one in spreads)))
            cells.append(("", "median", *(_value(measure, part.median) for measure, part in spreads)))
            cells.append(("", "95 % of mean", *(_interval(*one) for one in spreads)))
            rules.add(len(cells) - 1)
        else:
            cells.append((row.organ, *(_mean_sd(*one) for one in spreads)))
    if not several:
        rules = {len(cells) - 2}
    headings = [measure.heading for measure in shown]
    return Table(
        title=f"{name}: {title}" if name else title,
        header=("organ", *(("",) if several else ()), *headings),
        rows=tuple(cells),
        rules=frozenset(rules),
        notes=tuple(_remarks(evaluation, rows)),
        texts=2 if several else 1,
    )


def comparison_table(comparisons: Sequence[Comparison], first: str, second: str) -> Table:
    """Two methods side by side, and the tests of their differences."""
    cells, rules = [], set()
    for place, row in enumerate(comparisons):
        test, measure = row.test, row.measure
        title = f"|{measure.title}| {measure.unit}" if measure.best == "zero" else measure.heading
        means = ["-" if mean is None else measure.shown(mean) for mean in (row.first, row.second)]
        gain = "-" if row.median_gain is None else format(row.median_gain * measure.factor, f"+.{measure.digits}f")
        p_holm = "" if row.p_holm is None else p_text(row.p_holm)
        cells.append((title, row.organ, *means, gain, p_text(test.p), p_holm, f"{test.effect:+.2f}", str(test.pairs)))
        if place + 1 < len(comparisons) and comparisons[place + 1].measure.key != measure.key:
            rules.add(place)
    return Table(
        title=f"{first} against {second}",
        header=("measure", "organ", first, second, "median gain", "p", "p Holm", "effect", "n"),
        rows=tuple(cells),
        rules=frozenset(rules),
        notes=(
            f"Means; median over cases of how much better {first} is; Wilcoxon signed-rank test (zeros after Pratt), "
            f"corrected after Holm over the organs; matched-pairs rank-biserial effect, above 0 if {first} is better.",
        ),
        texts=2,
    )


def ranking_table(ranks: Sequence[MethodRank], measures: Sequence[Measure]) -> Table:
    """The methods from the best to the worst."""
    titles = {measure.key: measure.title for measure in measures}
    keys = list(ranks[0].by_measure) if ranks else []
    return Table(
        title="Ranking: rank in every case and metric, then their mean (FLARE)",
        header=("place", "method", "mean rank", *(f"by {titles[key]}" for key in keys), "first in %"),
        rows=tuple(
            (
                f"{one.place:g}",
                one.method,
                f"{one.rank:.3f}",
                *(f"{one.by_measure[key]:.3f}" for key in keys),
                f"{100 * one.firsts:.1f}",
            )
            for one in ranks
        ),
        texts=2,
    )


def summary_text(evaluation: Evaluation) -> str:
    """`summary_table` for a terminal."""
    return summary_table(evaluation).text()


def cases_text(evaluation: Evaluation) -> str:
    """A table for a terminal: one row per case with DSC / NSD in percent of each organ and on average."""
    organs = scored_organs(evaluation.scores, evaluation.organs)
    width = max([4, *map(len, evaluation.cases)])
    by_case: dict[str, list[CaseScore]] = {}
    for score in evaluation.scores:
        by_case.setdefault(score.case, []).append(score)
    rows = [case_line(own, organs, width) for own in by_case.values()]
    return "\n".join([*case_heading(evaluation.tolerances[0].label, organs, width), *rows]) + "\n"


def case_heading(tolerance: str, organs: Sequence[str], width: int) -> list[str]:
    """The lines above those of `case_line`, whose names are `width` wide."""
    titles = [f"{organ:>{_PLACES}}" for organ in (*organs, "mean")]
    header = "  ".join(["case".ljust(width), *titles])
    return [f"DSC / NSD in %, tolerance {tolerance}", "", header, "-" * len(header)]


def case_line(scores: Sequence[CaseScore], organs: Sequence[str], width: int) -> str:
    """One case: its name, then DSC / NSD of the organs and their mean; nothing for an organ without score."""
    values = case_values(scores, organs, [lambda score: score.dsc, lambda score: score.nsd])[0]
    scored = [organ in {score.organ for score in scores} for organ in organs]
    pairs = [_pair(*pair) if shown else "" for pair, shown in zip(values.tolist(), [*scored, True], strict=True)]
    return "  ".join([scores[0].case.ljust(width), *(f"{pair:>{_PLACES}}" for pair in pairs)]).rstrip()


def aligned_rows(rows: Sequence[Sequence[str]], rules_after: set[int], *, flush_left: int = 1) -> list[str]:
    """The rows with columns of one width, the first ones flush left, the others flush right, and rules after some."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for index, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column < flush_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if index in rules_after and index < len(rows) - 1:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


def p_text(p: float) -> str:
    """A p-value as it is usually written: three decimals, or that it is below 0.001."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def scores_csv(evaluations: Mapping[str, Evaluation]) -> str:
    """CSV with one row per case and organ, full precision; undefined scores are `nan`, infinite ones `inf`.

    With several methods, the first column is their name.
    """
    several = len(evaluations) > 1
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = next(iter(evaluations.values())).measures
    volumes = ["reference_ml", "prediction_ml"]
    writer.writerow([*(["method"] if several else []), "case", "organ", *(one.key for one in measures), *volumes])
    for name, evaluation in evaluations.items():
        for score in evaluation.scores:
            values = [*(measure.value(score) for measure in measures), score.reference_ml, score.prediction_ml]
            writer.writerow([*([name] if several else []), score.case, score.organ, *values])
    return text.getvalue()


def summary_csv(summaries: Mapping[str, Sequence[OrganSummary]]) -> str:
    """CSV with one row per method, organ and measure, full precision; what is not defined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "organ", "measure", "mean", "sd", "median", "low", "high", "count", "undefined"])
    for name, rows in summaries.items():
        for row in rows:
            for key, part in row.spreads.items():
                values = ["" if one is None else one for one in (part.mean, part.sd, part.median, part.low, part.high)]
                writer.writerow([name, row.organ, key, *values, part.count, part.undefined])
    return text.getvalue()


def evaluation_json(evaluation: Evaluation, summaries: Sequence[OrganSummary] | None = None) -> dict[str, Any]:
    """Settings, the summary per organ and every score, as JSON holds them: undefined is null, infinite "inf"."""
    rows = summary_of(evaluation) if summaries is None else summaries
    return {
        "tolerances": [
            {"name": one.label, "mm": {organ.name: one.of(organ.name) for organ in evaluation.organs}}
            for one in evaluation.tolerances
        ],
        "empty": evaluation.empty,
        "without_reference": list(evaluation.without_reference),
        "failures": [asdict(one) for one in evaluation.failures],
        "summary": [{"organ": row.organ} | {key: asdict(part) for key, part in row.spreads.items()} for row in rows],
        "scores": [score.as_json() for score in evaluation.scores],
    }


def comparison_json(row: Comparison) -> dict[str, Any]:
    """A comparison as JSON holds it."""
    return {**asdict(row), "measure": row.measure.key}


def json_text(content: Any) -> str:
    """JSON for people, without anything that is not JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _value(measure: Measure, value: float | None) -> str:
    return "-" if value is None else measure.shown(value, sign=True)


def _mean_sd(measure: Measure, part: Spread) -> str:
    mean = _value(measure, part.mean)
    return mean if part.sd is None else f"{mean} ± {measure.shown(part.sd):>{measure.digits + 3}}"


def _interval(measure: Measure, part: Spread) -> str:
    return "-" if part.low is None else f"{_value(measure, part.low)} to {_value(measure, part.high)}"


def _pair(dsc: float, nsd: float) -> str:
    dsc_text, nsd_text = ("-" if math.isnan(value) else f"{100 * value:.2f}" for value in (dsc, nsd))
    return f"{dsc_text} / {nsd_text:>6}"


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in cells)} |"


def _remarks(evaluation: Evaluation, rows: Sequence[OrganSummary]) -> list[str]:
    empty = [(row.organ, row.dsc) for row in rows[:-1] if row.dsc.undefined]
    distances = [(row.organ, row.spreads["hd95_mm"]) for row in rows[:-1] if not row.dsc.undefined]
    remarks = [
        *_left_out("Undefined and left out of the means, as the reference is empty", empty),
        *_left_out(
            "Distances infinite and left out of the means, as only one label map shows the organ",
            [(organ, part) for organ, part in distances if part.undefined],
        ),
        *_components_remark("False-positive components", evaluation, lambda score: (score.false_parts, score.false_ml)),
        *_components_remark(
            "False-negative components", evaluation, lambda score: (score.missed_parts, score.missed_ml)
        ),
    ]
    if evaluation.failures:
        remarks.append("Not scored, as something is wrong: " + ", ".join(one.case for one in evaluation.failures) + ".")
    if evaluation.without_reference:
        remarks.append("Not scored, as there is no reference: " + ", ".join(evaluation.without_reference) + ".")
    return remarks


def _left_out(what: str, found: Sequence[tuple[str, Spread]]) -> list[str]:
    counts = [f"{organ} in {part.undefined} of {part.count + part.undefined} cases" for organ, part in found]
    return [f"{what}: {'; '.join(counts)}."] if counts else []


def _components_remark(
    what: str, evaluation: Evaluation, measured: Callable[[CaseScore], tuple[int, float]]
) -> list[str]:
    """How many components of each organ, in how many cases, and their volume; nothing if there are none."""
    found = []
    for organ in scored_organs(evaluation.scores, evaluation.organs):
        having = [one for score in evaluation.scores if score.organ == organ and (one := measured(score))[0]]
        if having:
            count, ml = sum(one[0] for one in having), sum(one[1] for one in having)
            cases = f"{len(having)} case{'' if len(having) == 1 else 's'}"
            found.append(f"{organ} {count} in {cases} ({ml:.1f} ml)")
    return [f"{what}: {'; '.join(found)}."] if found else []
