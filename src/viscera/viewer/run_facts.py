"""What a run report (`viscera.viewer.run_report`) says of one label map: verdicts, notes, what computed it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscera.core.errors import ReadError, reason
from viscera.quality.rules import QcStatus
from viscera.quality.statistics import OrganStatistics
from viscera.viewer.run_report import SCHEMA

# Far above the report of ten thousand cases.
_LIMIT_BYTES = 256 << 20
# What is said of the machinery, and how.
_MACHINERY = {
    "bundle": "bundle",
    "bundle_version": "bundle version",
    "card_sha256": "bundle's card, sha256",
    "engine": "engine",
    "device": "device",
    "precision": "precision",
}


@dataclass(frozen=True, kw_only=True)
class OrganVerdict:
    """The verdict on one organ, and why, one sentence each."""

    verdict: QcStatus
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of how labels were made.

    Attributes:
        verdicts: By the organ's name; empty where labels were not assessed.
        notes: Of the case, one sentence each.
        provenance: (what, value): the version and date of the run, and its machinery.
    """

    verdicts: Mapping[str, OrganVerdict]
    notes: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]


def read_run_facts(path: Path, statistics: Sequence[OrganStatistics]) -> RunFacts:
    """The facts of the case in the run report at `path` whose organs have exactly the voxels of `statistics`.

    A case is known by its labels, not by its name, so that no label map is shown with another one's verdicts. Nothing
    of a path is taken from the report.

    Raises:
        ReadError: If the file is no run report, or not exactly one of its cases fits.
    """
    doing = f"reading the run report {path}"
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise ValueError(f"more than {_LIMIT_BYTES} bytes")
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or report.get("schema") != SCHEMA:
            raise ValueError("JSON of another kind")
        wanted = {row.organ: row.voxels for row in statistics}
        fitting = [case for case in report["cases"] if _voxels(case) == wanted]
        facts = [_facts(report, case) for case in fitting]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        remedy = "Give the file that viscera segment --report wrote"
        raise ReadError(doing, expected=f"JSON of the schema {SCHEMA}", got=_words(error), remedy=remedy) from error
    if not facts or any(one != facts[0] for one in facts):
        raise ReadError(
            doing,
            expected="one case with as many voxels of every organ as the label map has",
            got=f"{len(facts)} of {len(report['cases'])}",
            remedy="Give the report of the run that wrote these labels",
        )
    return facts[0]


def _voxels(case: Mapping[str, Any]) -> dict[str, int]:
    return {str(organ["organ"]): int(organ["voxels"]) for organ in case["organs"]}


def _facts(report: Mapping[str, Any], case: Mapping[str, Any]) -> RunFacts:
    verdicts = {
        str(organ["organ"]): OrganVerdict(
            verdict=QcStatus(organ["quality"]), sentences=tuple(map(str, organ.get("quality_sentences", ())))
        )
        for organ in case["organs"]
        if organ["quality"] is not None
    }
    machinery = report["machinery"] or {}
    provenance = [("labels made by", f"viscera {report['viscera']}"), ("labels made on", str(report["started"]))]
    provenance += [(words, str(machinery[name])) for name, words in _MACHINERY.items() if machinery.get(name)]
    return RunFacts(verdicts=verdicts, notes=tuple(map(str, case["notes"])), provenance=tuple(provenance))


def _words(error: Exception) -> str:
    return f"no field {error}" if isinstance(error, KeyError) else reason(error)
