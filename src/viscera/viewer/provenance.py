"""Where a report's images come from: digests of the inputs, without their names, which may name a patient."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import viscera
from viscera.adapters.dicom_files import files_below
from viscera.errors import ReadError
from viscera.geometry import Grid
from viscera.report import utc_now

# World axes and array axes that differ by more than this (a cosine) are worth a note.
_OBLIQUE = 1e-3


def provenance_facts(ct: Path, labels: Path, grid: Grid) -> list[tuple[str, str]]:
    """(what, value) of what was read and what reads it.

    Raises:
        ReadError: If a file cannot be read (again).
    """
    spacing = " x ".join(f"{step:g}" for step in (round(step, 4) for step in grid.spacing_zyx_mm))
    return [
        ("report made by", f"viscera {viscera.__version__}"),
        ("report made on", utc_now()),
        ("scan", f"{' x '.join(map(str, grid.shape_zyx))} voxels of {spacing} mm (z, y, x)"),
        ("CT", digest_words(ct)),
        ("labels", digest_words(labels)),
    ]


def digest_words(path: Path) -> str:
    """The sha256 of a file, or of the sorted list of its files' sha256 for a folder, in words.

    `find FOLDER -type f -exec sha256sum {} + | cut -c 1-64 | sort | sha256sum` gives the same for a folder.

    Raises:
        ReadError: If a file cannot be read.
    """
    try:
        if path.is_file():
            return f"sha256 {_digest(path)}"
        digests = sorted(_digest(file) for file in files_below(path))
    except OSError as error:
        raise ReadError(
            f"reading {path}",
            expected="a readable file",
            got=error.strerror or type(error).__name__,
            remedy="Check that it is still there",
        ) from error
    listed = "".join(f"{digest}\n" for digest in digests)
    return f"{len(digests)} files, sha256 of their sorted sha256 {hashlib.sha256(listed.encode()).hexdigest()}"


def shape_notes(grid: Grid) -> Sequence[str]:
    """What to know about pictures of a scan on `grid`: nothing for one along the patient's axes."""
    direction = abs(grid.direction_zyx)
    if ((direction > _OBLIQUE) & (direction < 1 - _OBLIQUE)).any():
        return ("The scan's axes are oblique to the patient's: pictures are cut along the scan's own axes.",)
    return ()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
