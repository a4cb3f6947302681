"""The folder in which OpenVINO keeps compiled networks between processes: made, kept private and kept small."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

# A network of one shape takes up to 6 MB, and scans come in a few dozen shapes.
LARGEST_BYTES = 256 << 20

_log = logging.getLogger(__name__)


def prepare_folder(folder: Path, *, largest_bytes: int = LARGEST_BYTES) -> Path | None:
    """The folder, made if missing (for this user alone) and trimmed; None if that cannot be done.

    A cache only saves time, so what goes wrong with it is logged and nothing more. Of files beyond `largest_bytes` the
    oldest are removed; another process that was about to read one compiles again.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = [(path, path.stat()) for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        _log.info("no cache of compiled networks in %s: %s", folder, error)
        return None
    total = 0
    for path, status in sorted(found, key=lambda one: one[1].st_mtime, reverse=True):
        total += status.st_size
        if total > largest_bytes:
            with contextlib.suppress(OSError):
                path.unlink()
    return folder
