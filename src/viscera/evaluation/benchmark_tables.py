"""Accuracy over real scans as tables in Markdown, as JSON, and as the figures of a bundle's card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from viscera.core.errors import BundleError
from viscera.evaluation.benchmark import LOW_DSC, AccuracyRun, CaseAccuracy, OrganAccuracy
from viscera.model.bundle import CARD, FILES, Bundle, load_bundle, write_bundle

# What `card_metrics` fills in a card begins with one of these, so that it can be told from other figures.
CARD_TITLES = ("real CTs", "no abdominal CT")

_NOT_SHOWN = "not in reference"
_CARD_DECIMALS = 3


def run_markdown(run: AccuracyRun) -> str:
    """Three tables, readable as they are: the organs, the cases, the means; then the organs that were found badly."""
    title = f"## {run.bundle}, {_setting(run)}"
    tables = [_organ_table(run), _case_table(run), _mean_table(run)]
    low = "; ".join(f"{organ} of {case} {dsc:.2f}" for case, organ, dsc in run.low())
    return "\n\n".join([title, *tables, f"DSC below {LOW_DSC:g}: {low or 'none'}."]) + "\n"


def runs_json(runs: Sequence[AccuracyRun]) -> str:
    """JSON with one object per run: how it was run, the means, the low scores, every case, and the figures of a card.

    What is not known is null.
    """
    content = [
        {
            "bundle": run.bundle,
            "setting": run.setting,
            "mean": {organ.name: _means(run, organ.name) for organ in run.config.organs},
            f"dsc_below_{LOW_DSC:g}": [dict(zip(("case", "organ", "dsc"), low, strict=True)) for low in run.low()],
            "cases": [_case_values(case, run) for case in run.cases],
            "card_metrics": card_metrics(run),
        }
        for run in runs
    ]
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def card_metrics(run: AccuracyRun) -> dict[str, Any]:
    """What a bundle's card says of the run: DSC and NSD by case, with the kind of reference, and volumes elsewhere."""
    labelled = _of_group(run, "labelled")
    by_case = {f"{case.case.name} (reference: {case.case.reference})": _shown(case) for case in labelled}
    values: dict[str, Any] = {
        "real CTs": _setting(run),
        "real CTs, mean DSC": _rounded({organ.name: run.mean_dsc(organ.name) for organ in run.config.organs}),
        "real CTs, DSC": {name: _rounded({one.organ: one.dsc for one in organs}) for name, organs in by_case.items()},
    }
    for place, tolerance_mm in enumerate(run.config.tolerances_mm):
        values[f"real CTs, NSD at {tolerance_mm:g} mm"] = {
            name: _rounded({one.organ: one.nsd[place] for one in organs}) for name, organs in by_case.items()
        }
    values["real CTs without reference, ml found"] = dict(_volumes(_of_group(run, "unlabelled")))
    values["no abdominal CT, ml found"] = dict(_volumes(_of_group(run, "no abdominal CT")))
    return {name: value for name, value in values.items() if value}


def write_card_metrics(folder: Path, metrics: dict[str, Any]) -> Bundle:
    """The bundle in `folder` with new figures in its card, written back; its other fields and its files stay.

    Figures of an earlier run are replaced, those of other measurements kept.

    Raises:
        BundleError: If there is no sound bundle, or other files lie with it, which would be lost.
        WriteError: If the folder cannot be written.
    """
    bundle = load_bundle(folder)
    if others := sorted({path.name for path in folder.iterdir()} - {CARD, *FILES}):
        raise BundleError(
            f"writing the card in {folder}",
            expected=f"only {CARD} and {', '.join(FILES)}",
            got=f"also {', '.join(others)}",
            remedy="Move the other files out of the bundle",
        )
    kept = {name: value for name, value in bundle.card.metrics.items() if not name.startswith(CARD_TITLES)}
    card = replace(bundle.card, metrics=kept | metrics)
    return write_bundle(folder, card, {name: (folder / name).read_bytes() for name in FILES}, overwrite=True)


def _organ_table(run: AccuracyRun) -> str:
    surface = [f"NSD {tolerance_mm:g} mm" for tolerance_mm in run.config.tolerances_mm]
    header = ["case", "organ", "DSC", *surface, "reference ml", "found ml", "in box", "with margin", "volume"]
    rows = []
    for case in run.cases:
        for one in case.organs:
            scores = [one.dsc, *(one.nsd or (None,) * len(surface))]
            reference = _NOT_SHOWN if one.reference_ml is None else f"{one.reference_ml:.1f}"
            shares = [_number(share, "{:.1%}") for share in (one.in_box, one.in_region)]
            # Where a reference tells what there is, an adult's usual volumes have nothing to add.
            unknown = case.case.group == "unlabelled" and one.dsc is None
            volume = (one.doubt or "plausible") if unknown else ""
            scored = [_number(score, "{:.3f}") for score in scores]
            rows.append([case.case.name, one.organ, *scored, reference, f"{one.prediction_ml:.1f}", *shares, volume])
    return _table(header, rows, flush_left={0, 1, len(header) - 1})


def _case_table(run: AccuracyRun) -> str:
    header = ["case", "group", "reference", "seconds", "localise mm", "segment mm", "remarks"]
    rows = []
    for one in run.cases:
        spacings = [_number(value, "{:.2f}") for value in (one.localise_mm, one.segment_mm)]
        remarks = f"refused: {one.refusal}" if one.refusal else " ".join(one.notes)
        seconds = _number(one.seconds, "{:.1f}")
        rows.append([one.case.name, one.case.group, one.case.reference, seconds, *spacings, remarks])
    return _table(header, rows, flush_left={0, 1, 2, 6})


def _mean_table(run: AccuracyRun) -> str:
    surface = [f"NSD {tolerance_mm:g} mm" for tolerance_mm in run.config.tolerances_mm]
    rows = []
    for organ in run.config.organs:
        means = _means(run, organ.name)
        cells = [_number(means[name], "{:.3f}") for name in ("DSC", *surface)]
        rows.append([organ.name, str(means["cases"]), *cells])
    return _table(["organ", "labelled cases", "mean DSC", *(f"mean {name}" for name in surface)], rows, flush_left={0})


def _setting(run: AccuracyRun) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in run.setting.items()
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, flush_left: set[int]) -> str:
    """A Markdown table with columns of one width; the last column is not filled up."""
    lines = [list(header), *([" ".join(cell.replace("|", "/").split()) for cell in row] for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    widths[-1] = len(header[-1])
    rule = ["-" * width if column in flush_left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if column in flush_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in [lines[0], rule, *lines[1:]]
    )


def _means(run: AccuracyRun, organ: str) -> dict[str, float | int | None]:
    surface = {
        f"NSD {tolerance_mm:g} mm": run.mean_nsd(organ, place)
        for place, tolerance_mm in enumerate(run.config.tolerances_mm)
    }
    return {"cases": len(run.scored(organ)), "DSC": run.mean_dsc(organ), **surface}


def _case_values(case: CaseAccuracy, run: AccuracyRun) -> dict[str, Any]:
    values = asdict(case)
    known: dict[str, Any] = values.pop("case")
    for organ in values["organs"]:
        nsd = organ.pop("nsd")
        names = [f"{tolerance_mm:g} mm" for tolerance_mm in run.config.tolerances_mm]
        organ["nsd"] = dict(zip(names, nsd, strict=True)) if nsd else None
        organ["in_reference"] = organ["reference_ml"] is not None
    return known | values


def _of_group(run: AccuracyRun, group: str) -> list[CaseAccuracy]:
    return [case for case in run.cases if case.case.group == group]


def _shown(case: CaseAccuracy) -> list[OrganAccuracy]:
    return [one for one in case.organs if one.dsc is not None]


def _volumes(cases: Iterable[CaseAccuracy]) -> Iterator[tuple[str, Any]]:
    for case in cases:
        found = {one.organ: round(one.prediction_ml, 1) for one in case.organs}
        yield case.case.name, "refused" if case.refusal else found


def _rounded(values: dict[str, float | None]) -> dict[str, float]:
    return {name: round(value, _CARD_DECIMALS) for name, value in values.items() if value is not None}


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
