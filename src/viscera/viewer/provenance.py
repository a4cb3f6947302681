"""Where a report's images come from: digests of the inputs, without their names, which may name a patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from viscera.core.checksums import path_digest
from viscera.core.geometry import Grid
from viscera.core.version import version
from viscera.viewer.run_report import utc_now

# World axes and array axes that differ by more than this (a cosine) are worth a note.
_OBLIQUE = 1e-3


def provenance_facts(ct: Path, labels: Path, grid: Grid) -> list[tuple[str, str]]:
    """(what, value) of what was read and what reads it.

    Raises:
        ReadError: If a file cannot be read (again).
    """
    spacing = " x ".join(f"{step:g}" for step in (round(step, 4) for step in grid.spacing_zyx_mm))
    return [
        ("report made by", f"viscera {version()}"),
        ("report made on", utc_now()),
        ("scan", f"{' x '.join(map(str, grid.shape_zyx))} voxels of {spacing} mm (z, y, x)"),
        ("CT", digest_words(ct)),
        ("labels", digest_words(labels)),
    ]


def digest_words(path: Path) -> str:
    """The sha256 of a file or folder in words, see `viscera.core.checksums.path_digest`, which says what is raised."""
    sha256, files = path_digest(path)
    return f"{files} files, sha256 of their sorted sha256 {sha256}" if path.is_dir() else f"sha256 {sha256}"


def shape_notes(grid: Grid) -> Sequence[str]:
    """What to know about pictures of a scan on `grid`: nothing for one along the patient's axes."""
    direction = abs(grid.direction_zyx)
    if ((direction > _OBLIQUE) & (direction < 1 - _OBLIQUE)).any():
        return ("The scan's axes are oblique to the patient's: pictures are cut along the scan's own axes.",)
    return ()
