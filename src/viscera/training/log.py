"""log.jsonl: one record per line, appended as they come, and cut back to a checkpoint when a training resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from viscera.core.errors import WriteError, reason
from viscera.core.files import write_text


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line to the log, whose parent folder exists.

    Raises:
        WriteError: If the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise WriteError(
            f"writing {path}",
            expected="a file that can be added to",
            got=reason(error),
            remedy="Check the folder's permissions and the free space",
        ) from error


def cut_back(path: Path, iteration: int) -> None:
    """Keep the records up to `iteration`, and no half-written line. A missing file stays missing.

    Raises:
        WriteError: If the file cannot be written.
    """
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _holds(line, iteration)]
    write_text("".join(f"{line}\n" for line in kept), path)


def _holds(line: str, iteration: int) -> bool:
    try:
        return bool(json.loads(line)["iteration"] <= iteration)
    except (ValueError, KeyError, TypeError):
        return False
