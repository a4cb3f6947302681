"""The course of a training, read from its log.jsonl."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ReadError

LOG_NAME = "log.jsonl"

_ByIteration = dict[int, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One quantity over a training: its name, iterations (ascending) and values, float64 of equal length."""

    name: str
    iterations: NDArray[np.float64]
    values: NDArray[np.float64]


def read_curves(log: Path) -> tuple[list[Curve], list[Curve]]:
    """Return the loss with its terms, and the validation DSC by organ, from a training's log.

    Where a resumed run has done iterations once more, the later records count. A last line without its end, as a
    crash may leave it, is passed over; values that are no finite numbers are left out.

    Raises:
        ReadError: If the file cannot be read, a line is no JSON record of a training, or there is no loss at all.
    """
    losses: _ByIteration = {}
    scores: _ByIteration = {}
    for record in _records(log):
        iteration = record["iteration"]
        if "validation" in record:
            _forget(scores, iteration)
            _forget(losses, iteration + 1)
            scores[iteration] = record["validation"]
        else:
            _forget(losses, iteration)
            _forget(scores, iteration + 1)
            losses[iteration] = {"loss": record["loss"], **(record.get("terms") or {})}
    curves = _curves(losses)
    if not curves:
        raise _log_error(log, "records with a loss that is a finite number", "none")
    if len(curves) == 2 and np.array_equal(curves[0].values, curves[1].values):
        curves = curves[:1]  # a loss of one term
    return curves, _curves(scores)


def _forget(records: _ByIteration, first: int) -> None:
    """Remove the records from iteration `first` on; the iterations of `records` ascend."""
    for late in list(itertools.takewhile(lambda iteration: iteration >= first, reversed(records))):
        del records[late]


def _curves(records: _ByIteration) -> list[Curve]:
    """Return one curve per name, in the order the names first come, of the values that are finite numbers."""
    found: dict[str, list[tuple[int, float]]] = {}
    for iteration, values in records.items():
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append((iteration, float(value)))
    columns = {name: np.array(pairs, dtype=float) for name, pairs in found.items()}
    return [Curve(name=name, iterations=pairs[:, 0], values=pairs[:, 1]) for name, pairs in columns.items()]


def _records(log: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = log.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _log_error(log, "the log.jsonl of a training", str(error)) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return  # written only in part
            raise _log_error(log, "one JSON record per line", f"line {number}: {error}") from error
        known = isinstance(record, dict) and isinstance(record.get("iteration"), int)
        if not known or not ("loss" in record or isinstance(record.get("validation"), dict)):
            raise _log_error(log, "an iteration with a loss or a validation", f"line {number}: {line[:60]}")
        yield record


def _log_error(log: Path, expected: str, got: str) -> ReadError:
    return ReadError(
        f"reading {log}", expected=expected, got=got, remedy="Give the folder of a training, or mend its log"
    )
