"""Which prediction belongs to which reference: by file name, whatever the format and the usual endings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from viscera.errors import ReadError

_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
# What `viscera segment` calls a DICOM SEG; of a case that has another label map, too, that one is taken.
_SEG_ENDING = "_seg.dcm"
# A file may end in one of these without it being part of the case's name.
_ROLES = ("_labels", "_label", "_seg", "_segmentation", "_dseg")

Files = Path | Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Cases by name, in order.

    Attributes:
        files: (reference, prediction) by case name; None for a prediction that is missing.
        without_reference: Names of predictions that have no reference.
    """

    files: dict[str, tuple[Path, Path | None]]
    without_reference: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of references without a prediction."""
        return tuple(case for case, (_, prediction) in self.files.items() if prediction is None)


def pair_files(references: Files, predictions: Files) -> Pairs:
    """The pairs of two folders, two files or two mappings from case names to files, sorted by name.

    In a folder, a case's name is `case_name`; a DICOM SEG (_seg.dcm) counts where its case has no other file. One file
    is paired with one file whatever their names.

    Raises:
        ReadError: If there are no references or predictions, or two files of a folder have one case name.
    """
    files = [path for path in (references, predictions) if isinstance(path, Path) and not path.is_dir()]
    if len(files) == 2:
        return Pairs(files={case_name(files[0]): (files[0], files[1])})
    expected, found = _by_case(references, "references"), _by_case(predictions, "predictions")
    return Pairs(
        files={case: (expected[case], found.get(case)) for case in sorted(expected)},
        without_reference=tuple(sorted(set(found) - set(expected))),
    )


def case_name(path: Path) -> str:
    """The name of the case a label map belongs to: `case7` for `case7.nii.gz` and `case7_seg.nrrd`."""
    suffix = next((suffix for suffix in (*_SUFFIXES, ".dcm") if path.name.lower().endswith(suffix)), "")
    stem = path.name.removesuffix(path.name[len(path.name) - len(suffix) :]) if suffix else path.name
    role = next((role for role in _ROLES if stem.endswith(role) and stem != role), "")
    return stem.removesuffix(role)


def _by_case(files: Files, what: str) -> dict[str, Path]:
    if isinstance(files, Mapping):
        listed = [(name, Path(path)) for name, path in files.items()]
    elif files.is_dir():
        names = sorted(files.iterdir())
        listed = [(case_name(path), path) for path in names if path.name.lower().endswith(_SUFFIXES)]
        known = {name for name, _ in listed}
        segs = [(case_name(path), path) for path in names if path.name.lower().endswith(_SEG_ENDING)]
        listed += [(name, path) for name, path in segs if name not in known]
    else:
        listed = [(case_name(files), files)]
    by_case: dict[str, Path] = {}
    for name, path in listed:
        if name in by_case:
            raise ReadError(
                f"listing {what}",
                expected="one file per case",
                got=f"{by_case[name].name} and {path.name}, both for case {name}",
                remedy="Move one of them away, or give the files by case name",
            )
        by_case[name] = path
    if not by_case:
        raise ReadError(
            f"listing {what} in {files}",
            expected=f"files ending in {', '.join((*_SUFFIXES, _SEG_ENDING))}",
            got="none",
            remedy="Give the folder the label maps lie in",
        )
    return by_case
