"""Which prediction belongs to which reference: by file name, regardless of the format and the usual endings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from viscera.core.errors import ReadError
from viscera.core.organs import ORGANS
from viscera.formats.inputs import LABEL_SUFFIXES, SEG_ENDING, case_name, find_label_files
from viscera.formats.label_maps import organ_masks

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

    In a folder, cases are named as `find_label_files` says; a DICOM SEG (_seg.dcm) counts where its case has no other
    file. One label map, whether a file or a folder of masks, is paired with one regardless of their names.

    Raises:
        ReadError: If there are no references or predictions, or two files of a folder have one case name.
    """
    if isinstance(references, Path) and isinstance(predictions, Path) and _is_one(references) and _is_one(predictions):
        return Pairs(files={_own_name(references): (references, predictions)})
    expected, found = _by_case(references, "references"), _by_case(predictions, "predictions")
    return Pairs(
        files={case: (expected[case], found.get(case)) for case in sorted(expected)},
        without_reference=tuple(sorted(set(found) - set(expected))),
    )


def _by_case(files: Files, what: str) -> dict[str, Path]:
    if isinstance(files, Mapping):
        listed = [(name, Path(path)) for name, path in files.items()]
    elif _is_one(files):
        listed = [(_own_name(files), files)]
    else:
        listed = [(one.name, one.path) for one in find_label_files(files)]
    by_case: dict[str, Path] = {}
    for name, path in listed:
        if name in by_case:
            raise ReadError(
                f"listing {what}",
                expected="one file per case",
                got=f"{_shown(by_case[name], files)} and {_shown(path, files)}, both for case {name}",
                remedy="Move one of them away, or give the files by case name",
            )
        by_case[name] = path
    if not by_case:
        raise ReadError(
            f"listing {what} in {files}",
            expected=f"files ending in {', '.join((*LABEL_SUFFIXES, SEG_ENDING))}",
            got="none",
            remedy="Give the folder the label maps lie in",
        )
    return by_case


def _is_one(files: Files) -> bool:
    """Whether these are one label map: a file, or a folder with a mask for each organ."""
    return isinstance(files, Path) and (not files.is_dir() or bool(organ_masks(files, ORGANS)))


def _own_name(path: Path) -> str:
    """The name of the case of a single label map; a folder of masks may be called as that of every case."""
    full = path.absolute()
    return case_name(path) if not path.is_dir() else full.parent.name if full.name == "segmentations" else full.name


def _shown(path: Path, files: Files) -> str:
    return str(path.relative_to(files)) if isinstance(files, Path) and path.is_relative_to(files) else path.name
