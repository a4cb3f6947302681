"""Which cases paths stand for, and how they are named: CTs to work on, and label files to be paired."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from viscera.core.errors import ReadError, reason
from viscera.core.folders import files_below, folders_below
from viscera.core.organs import ORGANS
from viscera.formats.dicom.files import is_beside_images, is_dicom_file, unfetched
from viscera.formats.file_kinds import ITK_SUFFIXES, NIFTI_SUFFIXES, SUPPORTED, require_kind
from viscera.formats.label_maps import organ_masks
from viscera.formats.voxel_stream import VoxelStream

_IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
_CASE_SUFFIXES = (*_IMAGE_SUFFIXES, ".zip")
# What 3D Slicer calls a segmentation.
_SLICER_SUFFIX = ".seg.nrrd"
# What `viscera segment` calls a DICOM SEG; of a case that has another label map, too, that one is taken.
SEG_ENDING = "_seg.dcm"
LABEL_SUFFIXES = _IMAGE_SUFFIXES
# A label file may end in one of these without it being part of the case's name.
_ROLES = ("_labels", "_label", "_seg", "_segmentation", "_dseg", "_mask")
# Names that files of every case of a data set have: those of its labels, and those of its CT. Here the folder tells.
_LABEL_STEMS = frozenset({"seg", "segmentation", "segmentations", "label", "labels", "mask", "masks", "labelmap"})
_CT_STEMS = frozenset({"ct", "image", "imaging", "img", "volume"})
_INTENT_OFFSET, _LABEL_INTENT = 68, 1002
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class CaseInput:
    """One CT to work on: the file or folder it is read from, and the stem its outputs are named after."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The cases found, and one sentence for each group of images that were not taken for cases."""

    cases: tuple[CaseInput, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelInput:
    """A label file, or a folder of masks, and the name of its case; `stem` is the name before a role was taken off."""

    path: Path
    name: str
    stem: str


def find_inputs(paths: Sequence[Path]) -> list[CaseInput]:
    """The cases that `paths` stand for, in order, each once, with names that differ; see `list_inputs`.

    Raises:
        ReadError: If a path does not exist, a file is of no supported kind, or a folder has no CT.
    """
    return list(list_inputs(paths).cases)


def list_inputs(paths: Sequence[Path]) -> Inputs:
    """The cases that `paths` stand for, and what is skipped among them.

    A file is one case. A folder that directly holds a DICOM file (a DICOMDIR included) is one case with everything
    below it. Any other folder is a folder of CTs: each NIfTI, NRRD, MetaImage or zip file at any depth and each of its
    sub-folders that has DICOM at any depth is one case. What leads to nothing (links of git-annex or DataLad whose
    content was not fetched) is a case, too, which reading refuses. Hidden files are skipped; so are, with a note,
    segmentations of 3D Slicer, label files and folders of masks in sub-folders, and images next to DICOM. Files are
    distinguished by names and first bytes.

    Names are stems without suffix of the paths as given, links not followed, with the names of the sub-folders before;
    where two agree, the parent folder is put before, and where that does not help a number behind.

    Raises:
        ReadError: If a path does not exist, a file is of no supported kind, or a folder has no CT.
    """
    found: dict[Path, str] = {}
    known: set[Path] = set()
    notes: list[str] = []
    for path in map(Path, paths):
        cases = _Cases()
        _add_given(path, cases)
        for case, stem in cases.found.items():
            if _spelled(case) not in known:
                known.add(_spelled(case))
                found[case] = stem
        notes += cases.notes(path)
    names = _names(list(found.items()))
    return Inputs(
        cases=tuple(CaseInput(path=path, name=name) for path, name in zip(found, names, strict=True)),
        notes=tuple(notes),
    )


def find_label_files(folder: Path) -> list[LabelInput]:
    """The label maps in `folder` and below it: image files, DICOM SEGs of `viscera segment`, folders of masks.

    A case's name is the file's without its format suffix and one ending such as `_seg`, with the names of sub-folders
    before; names that every case has (segmentation.nii.gz, segmentations/) are left out, as are CTs next to them.

    Raises:
        ReadError: If a folder cannot be listed.
    """
    found = list(_label_files(folder, ()))
    known = {one.name for one in found if not one.path.name.lower().endswith(SEG_ENDING)}
    return [one for one in found if not (one.path.name.lower().endswith(SEG_ENDING) and one.name in known)]


def case_name(path: Path) -> str:
    """The name of the case a label map belongs to: `case7` for `case7.nii.gz`, `case7_seg.nrrd`, `case7.seg.nrrd`."""
    stem = _without_suffix(path.name, (_SLICER_SUFFIX, *_IMAGE_SUFFIXES, ".dcm"))
    role = next((role for role in _ROLES if stem.endswith(role) and stem != role), "")
    return stem.removesuffix(role)


@dataclass(kw_only=True)
class _Cases:
    """Cases as they are found, with their stems, and what was skipped."""

    found: dict[Path, str] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)
    beside: list[Path] = field(default_factory=list)

    def notes(self, root: Path) -> list[str]:
        return [
            f"{root}: {len(paths)} {'was' if len(paths) == 1 else 'were'} passed over as {what}: {_shown(paths, root)}."
            for paths, what in ((self.labels, "labels, not CTs"), (self.beside, "images next to a DICOM series"))
            if paths
        ]


def _add_given(path: Path, cases: _Cases) -> None:
    if not path.is_dir():
        require_kind(path)
        cases.found[path] = _stem(path)
        return
    entries = _entries(path)
    if any(is_dicom_file(file) for file in entries if file.is_file() and not is_case_file(file.name)):
        cases.found[path] = _stem(path)
        cases.beside += _images_below(path)
        return
    _add_entries(entries, (), cases)
    if not cases.found:
        got = "none of these" if not cases.labels else f"labels only: {_shown(cases.labels, path)}"
        raise ReadError(f"looking for CTs in {path}", expected=SUPPORTED, got=got, remedy="Check the folder")


def _add_entries(entries: Sequence[Path], parts: tuple[str, ...], cases: _Cases) -> None:
    for entry in entries:
        if not entry.is_dir():
            if is_case_file(entry.name) and _is_label_file(entry, nested=bool(parts)):
                cases.labels.append(entry)
            elif is_case_file(entry.name):
                cases.found[entry] = _nested_name((*parts, _stem(entry)), _CT_STEMS)
            elif not is_beside_images(entry.name) and unfetched(entry) is not None:
                cases.found[entry] = "_".join((*parts, entry.name))
        elif organ_masks(entry, ORGANS):
            cases.labels.append(entry)
        elif _has_dicom(entry):
            cases.found[entry] = "_".join((*parts, entry.name))
            cases.beside += _images_below(entry)
        else:
            _add_entries(_entries(entry), (*parts, entry.name), cases)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, hidden files apart."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ReadError(
            f"listing {folder}",
            expected="a folder that can be listed",
            got=reason(error),
            remedy="Ask for the right to read it",
        ) from error


def is_case_file(name: str) -> bool:
    """Whether a file of this name is an image or a zip by its ending."""
    return name.lower().endswith(_CASE_SUFFIXES)


def _is_label_file(path: Path, *, nested: bool) -> bool:
    """Whether a file says by its name or header that it holds labels; in the folder that was given, only 3D Slicer's.

    There everything was asked for: for a folder with label maps an error says of each that it is no CT.
    """
    if path.name.lower().endswith(_SLICER_SUFFIX):
        return True
    stem = _without_suffix(path.name, _CASE_SUFFIXES).lower()
    return nested and (stem in _LABEL_STEMS or stem.endswith(_ROLES) or _has_label_intent(path))


def _has_label_intent(path: Path) -> bool:
    """Whether a NIfTI file says by its intent code that its values are labels, as those of viscera do."""
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        return False
    try:
        head = VoxelStream(path, None, perhaps_gzip=True).read(_INTENT_OFFSET + 2)
    except ReadError:
        return False  # reading it says why
    codes = [
        struct.unpack_from(order + "h", head, _INTENT_OFFSET)[0] for order in "<>" if len(head) > _INTENT_OFFSET + 1
    ]
    return _LABEL_INTENT in codes


def _has_dicom(folder: Path) -> bool:
    """Whether there is DICOM at any depth, or what may be DICOM but cannot be read: reading the folder says why."""
    try:
        return any(
            is_dicom_file(file)
            or (not is_case_file(file.name) and not is_beside_images(file.name) and unfetched(file) is not None)
            for file in files_below(folder)
        )
    except ReadError:
        return True


def _images_below(folder: Path) -> list[Path]:
    try:
        return [
            Path(parent, name)
            for parent, names in folders_below(folder)
            for name in names
            if name.lower().endswith(_IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    except ReadError:
        return []


def _label_files(folder: Path, parts: tuple[str, ...]) -> Iterator[LabelInput]:
    for entry in _entries(folder):
        lower = entry.name.lower()
        if entry.is_dir():
            if organ_masks(entry, ORGANS):
                name = _nested_name((*parts, entry.name), _LABEL_STEMS)
                yield LabelInput(path=entry, name=name, stem=name)
            else:
                yield from _label_files(entry, (*parts, entry.name))
        elif lower.endswith((*LABEL_SUFFIXES, SEG_ENDING)):
            stem = _without_suffix(entry.name, (_SLICER_SUFFIX, *_IMAGE_SUFFIXES, ".dcm"))
            if parts and stem.lower() in _CT_STEMS:
                continue
            if stem.startswith("sub-"):  # as BIDS names files, the folders tell nothing more
                yield LabelInput(path=entry, name=case_name(entry), stem=stem)
            else:
                names = (_nested_name((*parts, last), _LABEL_STEMS) for last in (case_name(entry), stem))
                yield LabelInput(path=entry, name=next(names), stem=next(names))


def _nested_name(parts: Sequence[str], common: frozenset[str]) -> str:
    """The name of a file in sub-folders: x for x.nii/x.nii, patient7 for patient7/ct.nii.gz."""
    plain = [_without_suffix(part, _CASE_SUFFIXES) for part in parts]
    if len(plain) > 1 and plain[-1].lower() in common:
        plain.pop()
    kept = [part for number, part in enumerate(plain) if number == 0 or part != plain[number - 1]]
    return "_".join(kept) or "case"


def _without_suffix(name: str, suffixes: Sequence[str]) -> str:
    suffix = next((one for one in suffixes if name.lower().endswith(one)), "")
    return name[: len(name) - len(suffix)]


def _stem(path: Path) -> str:
    name = _spelled(path).name
    return (name if path.is_dir() else _without_suffix(name, (*_CASE_SUFFIXES, ".dcm"))) or "case"


def _spelled(path: Path) -> Path:
    """The path in full, links in it not followed, as two of them may lead to one place."""
    return Path(os.path.normpath(path.absolute()))


def _names(cases: Sequence[tuple[Path, str]]) -> Iterator[str]:
    # Names that differ only in case would be one file on some disks.
    common = Counter(stem.casefold() for _, stem in cases)
    taken: set[str] = set()
    for path, stem in cases:
        name = f"{_spelled(path).parent.name}_{stem}" if common[stem.casefold()] > 1 else stem
        number, numbered = 1, name
        while numbered.casefold() in taken:
            number += 1
            numbered = f"{name}_{number}"
        taken.add(numbered.casefold())
        yield numbered


def _shown(paths: Sequence[Path], root: Path) -> str:
    names = [str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in paths[:_SHOWN]]
    return ", ".join(names) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
