"""The ledger: one JSON file for every case, what was done with it and how to find out whether that still holds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from viscera.core.checksums import path_digest
from viscera.core.errors import ReadError, reason
from viscera.core.files import write_bytes, write_text
from viscera.viewer.run_report import Failure, plain_values

SCHEMA = "viscera.ledger/1"
FOLDER = "ledger"
# Of a few label files and entries.
_ROOM_BYTES = 2**20


class EntryStatus(StrEnum):
    """How the last attempt on a case ended."""

    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a result rests on; with any of these changed, the case is done again.

    Attributes:
        input_sha256: Of the scan's file or folder, see `viscera.core.checksums.path_digest`.
        card_sha256: Of the bundle's card, which holds the sha256 of all of its files.
        options_sha256: Of the options that change what is written.
    """

    input_sha256: str
    card_sha256: str
    options_sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of a case. Paths of outputs are relative to the folder of the outputs.

    Attributes:
        name: The case's.
        status: How the last attempt ended.
        input: The path read.
        basis: Hashes of what the result rests on; None if the scan could not be read.
        files: The sha256 of every file written, by its path.
        outputs: The label files by format.
        attempts: Over all runs, those included that ended with their process.
        started, finished: Of the last attempt, UTC, ISO 8601, by the clock of the machine that worked on it.
        worker: Host and process number.
        versions: Of viscera, Python, numpy and the engine's package, and of the bundle.
        machinery: Bundle, its version, engine, device, precision.
        seconds: Wall-clock seconds by stage: those of a case, `digest` (hashing the input) and `record` (the outputs).
        peak_memory_mib: Largest resident memory of the process so far.
        shape_zyx_vox, spacing_zyx_mm: The scan's grid.
        notes: What the reader of the result should know.
        organs: One mapping per organ, as in the report of `viscera segment`: statistics, QC status, its reasons.
        series: Number and contrast phase of the DICOM series read, where the header says them; None if not looked up.
        error: Why it failed.
        permanent: Whether it failed because of the scan itself, so that another attempt would fail, too.
    """

    name: str
    status: EntryStatus
    input: str
    basis: Basis | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 0
    started: str = ""
    finished: str = ""
    worker: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machinery: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    shape_zyx_vox: tuple[int, ...] | None = None
    spacing_zyx_mm: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    organs: tuple[Mapping[str, Any], ...] = ()
    series: Mapping[str, str] | None = None
    error: Failure | None = None
    permanent: bool = False

    def text(self) -> str:
        """Return the entry as JSON in ASCII with a final newline; numbers that are not finite become null."""
        return (
            json.dumps(plain_values({"schema": SCHEMA, **dataclasses.asdict(self)}), indent=1, allow_nan=False) + "\n"
        )


class Ledger:
    """The entries in the folder `ledger` of the folder of the outputs."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self.folder = outputs / FOLDER

    def path(self, name: str) -> Path:
        """Return the file of a case's entry."""
        return self.folder / f"{name}.json"

    def read(self, name: str) -> Entry | None:
        """Return a case's entry; None if there is none, or none that this version understands.

        Raises:
            ReadError: If the file is there and cannot be read.
        """
        try:
            values = json.loads(self.path(name).read_text(encoding="utf-8"))
            return _entry(values)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ReadError(
                f"reading the ledger's entry {self.path(name)}",
                expected="a readable file",
                got=reason(error),
                remedy="Check the folder's permissions",
            ) from error
        except (ValueError, TypeError, KeyError):  # altered by hand, or of another version
            return None

    def write(self, entry: Entry) -> None:
        """Write an entry, whole or not at all, and so that it outlives a power cut.

        Raises:
            WriteError: If it cannot be written.
        """
        write_text(entry.text(), self.path(entry.name), durable=True)

    def require_room(self) -> None:
        """SegmentFn the ledger's folder if need be.

        Raises:
            WriteError: If it cannot be written to, or its disk has not a MiB left.
        """
        probe = self.folder / ".room"
        write_bytes(bytes(_ROOM_BYTES), probe)
        with contextlib.suppress(OSError):
            probe.unlink()

    def attempts(self, name: str) -> int:
        """Return how many attempts on a case are recorded."""
        entry = self.read(name)
        return 0 if entry is None else entry.attempts

    def names(self) -> set[str]:
        """Return the names of the cases that have an entry, of any kind; none if the folder cannot be listed."""
        with contextlib.suppress(OSError):
            return {path.stem for path in self.folder.glob("*.json")}
        return set()

    def altered(self, entry: Entry) -> str | None:
        """Say which of an entry's files is not what was written; None if all are.

        Raises:
            ReadError: If a file is there and cannot be read.
        """
        for name, digest in entry.files.items():
            path = self.outputs / name
            if not path.is_file():
                return f"{name} is missing"
            if path_digest(path).sha256 != digest:
                return f"{name} was altered"
        return None


def _entry(values: dict[str, Any]) -> Entry | None:
    if values.pop("schema") != SCHEMA:
        return None
    values["status"] = EntryStatus(values["status"])
    values["attempts"], values["files"] = int(values["attempts"]), dict(values["files"])
    values["basis"] = values["basis"] and Basis(**values["basis"])
    values["error"] = values["error"] and Failure(**values["error"])
    for name in ("notes", "organs", "shape_zyx_vox", "spacing_zyx_mm"):
        values[name] = values[name] if values[name] is None else tuple(values[name])
    return Entry(**values)
