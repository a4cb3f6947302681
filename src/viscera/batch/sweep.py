"""Files that killed processes left half written are removed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from viscera.batch.ledger import FOLDER

# A file still being written is touched by every write, so that one this old has lost its process.
_LEFT_SECONDS = 3600.0
_PASSING = ".viscera-*.part"


def remove_left_files(outputs: Path, folders: Iterable[Path]) -> None:
    """Nothing; removes from `folders` and the ledger of `outputs` the passing files not written to for an hour."""
    for folder in {*folders, outputs, outputs / FOLDER}:
        for path in folder.glob(_PASSING):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                    path.unlink()
