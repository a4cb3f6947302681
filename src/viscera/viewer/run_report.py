"""The machine-readable report of a run: what was asked, what ran, and what became of every case.

The report holds the paths the user gave and no other data of a patient. It is rewritten after every case, so a run that
is killed leaves a valid file in which the cases not reached are `waiting`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from viscera.core.errors import VisceraError
from viscera.core.memory import peak_bytes

SCHEMA = "viscera.report/1"


class Status(StrEnum):
    """What became of a case (every member) or of the whole run (`RUNNING`, `DONE`, `FAILED`, `INTERRUPTED`)."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a case or a run failed: the error's type name and its message on one line."""

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure `error` stands for; an error without a message is described by its type."""
        kind = type(error).__name__
        return cls(type=kind, message=" ".join(str(error).split()) or kind)


@dataclass(frozen=True, kw_only=True)
class CaseEntry:
    """One case of the report.

    Attributes:
        name: The case's name, which its outputs carry.
        input: The path read.
        status: What became of it.
        output: The label file written or kept (of several the NIfTI file, else the DICOM SEG), None if there is none.
        outputs: All label files written or kept, by format.
        preview: The picture written, None if there is none.
        error: Why it failed, None if it did not.
        notes: What the reader of the result should know, one sentence each.
        shape_zyx_vox, spacing_zyx_mm: The scan's grid, None if it was not read.
        seconds: Wall-clock seconds by stage.
        organs: One mapping per organ: name, volume, mean HU, whether the scan's border cuts it, the QC status of its
            labels with the reasons and what was measured, the volume that post-processing removed.
        peak_memory_mib: Largest resident memory of the process so far, None where the system does not tell.
    """

    name: str
    input: str
    status: Status = Status.WAITING
    output: str | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    preview: str | None = None
    error: Failure | None = None
    notes: tuple[str, ...] = ()
    shape_zyx_vox: tuple[int, ...] | None = None
    spacing_zyx_mm: tuple[float, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    organs: tuple[Mapping[str, Any], ...] = ()
    peak_memory_mib: float | None = None


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What computed the labels: the bundle's name, version and the sha256 of its card, and the engine."""

    bundle: str
    bundle_version: str
    card_sha256: str
    engine: str
    device: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """The whole run; changed copies are made with the methods, and `text` is the file.

    Attributes:
        viscera: Version of the package.
        options: The command's options as given.
        started, finished: UTC, ISO 8601; `finished` is None until the run ends.
        status: `RUNNING` until the end; then `DONE`, `FAILED` (some case or the run itself) or `INTERRUPTED`.
        machinery: None until a case has been segmented.
        error: Why no case could be begun, None otherwise.
        cases: In the order they are worked on.
    """

    viscera: str
    options: Mapping[str, Any]
    started: str
    finished: str | None = None
    status: Status = Status.RUNNING
    machinery: Runtime | None = None
    error: Failure | None = None
    cases: tuple[CaseEntry, ...] = ()

    def with_case(self, index: int, **changes: Any) -> RunReport:
        """The report with fields of case number `index` changed."""
        changed = dataclasses.replace(self.cases[index], **changes)
        return dataclasses.replace(self, cases=(*self.cases[:index], changed, *self.cases[index + 1 :]))

    def count(self, status: Status) -> int:
        """How many cases have `status`."""
        return sum(case.status is status for case in self.cases)

    def ended(self, *, interrupted: bool = False, error: VisceraError | None = None) -> RunReport:
        """The report of the ended run; a case still running is counted as interrupted."""
        cases = tuple(
            dataclasses.replace(case, status=Status.INTERRUPTED) if case.status is Status.RUNNING else case
            for case in self.cases
        )
        failed = error is not None or any(case.status is Status.FAILED for case in cases)
        status = Status.INTERRUPTED if interrupted else Status.FAILED if failed else Status.DONE
        failure = None if error is None else Failure.of(error)
        return dataclasses.replace(self, cases=cases, status=status, error=failure, finished=utc_now())

    def text(self) -> str:
        """The report as JSON in ASCII, with a final newline; a number that is not finite becomes null (RFC 8259)."""
        values = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(plain_values(values), indent=2, allow_nan=False) + "\n"

    def save(self, path: Path | None) -> None:
        """Write the report to `path` atomically, or does nothing for None.

        Raises:
            WriteError: If the file cannot be written.
        """
        if path is not None:
            from viscera.core.files import write_text

            write_text(self.text(), path)


def utc_now() -> str:
    """The present time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_mib() -> float | None:
    """The largest resident memory of this process so far in MiB, or None where the system does not tell (Windows)."""
    peak = peak_bytes()
    return None if peak is None else round(peak / 2**20, 1)


def plain_values(value: Any) -> Any:
    """`value` in what JSON knows: tuples as lists, numbers with six decimals, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
