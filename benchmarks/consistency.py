"""How alike an organ's volumes are over the contrast phases of one person: a check that needs no reference.

Run `python benchmarks/consistency.py CASES.csv [-o table.md] [--bundle NAME_OR_DIR] [--labels-out DIR]`. CASES.csv has
the columns person, image and, if label maps are there already, labels; paths are relative to it. Of every person and
organ all pairs of scans are compared: the difference of both volumes by their mean. A scan whose edge the organ reaches
is left out for it. Small differences do not prove that labels are right: an error that all phases share cancels out.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from viscera.core.errors import ReadError, VisceraError
from viscera.core.files import write_text
from viscera.core.organs import Organ
from viscera.formats.nifti_write import write_label_map
from viscera.model.bundle import load_bundle
from viscera.quality.statistics import OrganStatistics, organ_statistics
from viscera.read import read_label_map, read_volume
from viscera.segmenter import Segmenter, bundle_source


class Case(NamedTuple):
    """A row of the list."""

    person: str
    image: Path
    labels: Path | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike the volumes of one organ are.

    Attributes:
        pairs: How many pairs of scans of one person show the whole organ.
        median_percent, largest_percent: Of their differences, each by the mean of both volumes; None without a pair.
    """

    pairs: int
    median_percent: float | None
    largest_percent: float | None


def read_cases(path: Path) -> list[Case]:
    """Read the list of scans.

    Raises:
        ReadError: If the list cannot be read, lacks a column, or has a person with fewer than two scans.
    """
    doing = f"reading the list {path}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        cases = [
            Case(
                person=row["person"],
                image=path.parent / row["image"],
                labels=path.parent / row["labels"] if row.get("labels") else None,
            )
            for row in rows
        ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise ReadError(
            doing, expected="CSV with the columns person and image", got=str(error), remedy="Correct the list"
        ) from error
    persons = [case.person for case in cases]
    alone = sorted({person for person in persons if persons.count(person) < 2})
    if alone or not cases:
        got = f"one scan of {', '.join(alone)}" if alone else "no row"
        raise ReadError(doing, expected="at least two scans of each person", got=got, remedy="Complete the list")
    return cases


def agreements(scans: Sequence[tuple[str, Sequence[OrganStatistics]]]) -> dict[str, Agreement]:
    """Return the agreement of each organ over all pairs of scans of one person.

    Args:
        scans: The person and the organs of each scan.
    """
    found: dict[str, list[float]] = {row.organ: [] for _, rows in scans for row in rows}
    for (person, rows), (other, others) in itertools.combinations(scans, 2):
        if person != other:
            continue
        for one, two in zip(rows, others, strict=True):
            whole = not one.touches_border and not two.touches_border
            if whole and one.volume_ml + two.volume_ml > 0:
                mean = (one.volume_ml + two.volume_ml) / 2
                found[one.organ].append(100 * abs(one.volume_ml - two.volume_ml) / mean)
    return {
        organ: Agreement(
            pairs=len(values),
            median_percent=median(values) if values else None,
            largest_percent=max(values, default=None),
        )
        for organ, values in found.items()
    }


def table(cases: Sequence[Case], scans: Sequence[Sequence[OrganStatistics]]) -> str:
    """Return both tables as Markdown: volumes of each scan, then the agreement of each organ."""
    organs = [row.organ for row in scans[0]]
    lines = [_line("person", "image", *(f"{organ} ml" for organ in organs)), _line(*["---"] * (len(organs) + 2))]
    lines += [
        _line(case.person, case.image.name, *(f"{row.volume_ml:.0f}{'*' * row.touches_border}" for row in rows))
        for case, rows in zip(cases, scans, strict=True)
    ]
    lines += ["", "\\* reaches the edge of the scan: not compared", ""]
    lines += [_line("organ", "pairs", "median difference", "largest"), _line(*["---"] * 4)]
    for organ, found in agreements([(case.person, rows) for case, rows in zip(cases, scans, strict=True)]).items():
        percents = ["-" if one is None else f"{one:.1f} %" for one in (found.median_percent, found.largest_percent)]
        lines.append(_line(organ, str(found.pairs), *percents))
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def measured(cases: Sequence[Case], bundle: str | None, folder: Path | None) -> Iterator[tuple[OrganStatistics, ...]]:
    """Yield the organs of each case, from its labels if it has some, else segmented (and written to `folder`)."""
    segmenter = Segmenter.load(bundle) if any(case.labels is None for case in cases) else None
    organs: Sequence[Organ] = load_bundle(None if bundle is None else bundle_source(bundle)).card.organs
    for case in cases:
        volume = read_volume(case.image)
        if case.labels is not None or segmenter is None:
            label_map = read_label_map(case.labels or case.image, organs, within=volume.grid)
        else:
            label_map = segmenter.segment_volume(volume).label_map
            if folder is not None:
                name = case.image.name.removesuffix(".gz").removesuffix(".nii")
                write_label_map(label_map, folder / f"{name}_labels.nii.gz")
        yield organ_statistics(volume, label_map, organs)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", type=Path, help="CSV with person, image and perhaps labels")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file of the tables (default: print)")
    parser.add_argument("--bundle", help="shipped name or folder (default: the package's own default)")
    parser.add_argument("--labels-out", type=Path, help="folder to keep the label maps in")
    options = parser.parse_args(given)
    try:
        cases = read_cases(options.cases)
        scans = []
        for case, rows in zip(cases, measured(cases, options.bundle, options.labels_out), strict=True):
            print(case.person, case.image.name, *(f"{row.volume_ml:.0f}" for row in rows), file=sys.stderr, flush=True)
            scans.append(rows)
        text = table(cases, scans)
        if options.output is None:
            print(text, end="")
        else:
            write_text(text, options.output)
    except VisceraError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
