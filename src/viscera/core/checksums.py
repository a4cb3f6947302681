"""The sha256 of a scan, whether a file or a folder of files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from viscera.core.errors import ReadError, reason
from viscera.core.folders import files_below


class Digest(NamedTuple):
    """Lower-case hexadecimal digits, and the number of files behind them: 1 for a file, any number for a folder."""

    sha256: str
    files: int


def path_digest(path: Path) -> Digest:
    """The sha256 of a file, or of the sorted list of its files' sha256 for a folder.

    `find -L FOLDER -type f -exec sha256sum {} + | cut -c 1-64 | sort | sha256sum` gives the same for a folder. Names do
    not count.

    Raises:
        ReadError: If a file cannot be read, or a folder has more files than any study.
    """
    try:
        if not path.is_dir():
            return Digest(_file_digest(path), 1)
        # Broken links that may be images are refused where the scan is read.
        digests = sorted(_file_digest(file) for file in files_below(path) if file.exists())
    except OSError as error:
        raise ReadError(
            f"reading {path}",
            expected="a readable file",
            got=reason(error),
            remedy="Check that it is still there",
        ) from error
    listed = "".join(f"{digest}\n" for digest in digests)
    return Digest(hashlib.sha256(listed.encode()).hexdigest(), len(digests))


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
