"""CT volumes and label maps from files and folders: every format becomes a `Volume` or `LabelMap` or a clear error."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viscera.adapters.dicom_files import files_below, is_dicom_file, is_zip_file
from viscera.adapters.itk_read import open_itk
from viscera.adapters.nifti_read import open_nifti
from viscera.adapters.raster import Raster
from viscera.errors import GeometryError, ReadError
from viscera.geometry import Grid
from viscera.hounsfield import allocated, fill_hu, require_finite, require_hu, require_offset
from viscera.labels import ORGANS, Organ
from viscera.volume import LabelMap, Volume

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
_CASE_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".zip")
SUPPORTED = ".nii, .nii.gz, .nrrd, .mha, .mhd, or a CT series in DICOM (a folder, a zip, a multi-frame file)"
# No CT has voxels outside this; metres or micrometres taken for millimetres do.
SPACING_RANGE_MM = (0.02, 50.0)
LARGEST_LABEL = 255

_Kind = Literal["nifti", "itk", "dicom"]


@dataclass(frozen=True, kw_only=True)
class CaseInput:
    """One CT to work on: the file or folder it is read from, and the stem its outputs are named after."""

    path: Path
    name: str


def read_volume(
    path: Path, *, series: str | None = None, hu_offset: int = 0, on_grid: Callable[[Grid], None] | None = None
) -> Volume:
    """The CT at `path` in int16 HU on its own grid, voxels in the file's order, read-only.

    Oblique and sheared grids are carried exactly. DICOM arrays are (slice, row, column).

    Args:
        path: NIfTI, NRRD or MetaImage file, DICOM folder, zip of a DICOM series, or multi-frame DICOM file.
        series: Which of several DICOM series: its number, or the beginning of its UID. The best one if not said.
        hu_offset: Added to all stored values after the file's own scaling; recorded in the volume's notes.
        on_grid: Called with the grid once it is known, before memory is taken for the voxels; what it raises ends the
            reading.

    Raises:
        ReadError: If it is missing, damaged, not one CT volume, or its values cannot be HU.
        GeometryError: If it does not say, or contradicts itself about, where the voxels lie.
        ConfigError: If `hu_offset` is out of range, or `series` is given for a file that has none.
        MissingExtraError: If SimpleITK is needed and not installed.
        MemoryBudgetError: If there is no memory for it.
    """
    path = Path(path)
    require_offset(hu_offset)
    kind = _require_kind(path)

    def checked(grid: Grid) -> None:
        _require_spacing(grid, path)
        if on_grid is not None:
            on_grid(grid)

    if kind == "dicom":
        from viscera.adapters.dicom_read import read_dicom

        volume = read_dicom(path, series=series, hu_offset=hu_offset, on_grid=checked)
    elif series is not None:
        raise ReadError(
            f"reading {path}",
            expected="DICOM, as a series was asked for",
            got="a file that holds one volume",
            remedy="Leave out --series",
        )
    else:
        volume = _volume(_opened(path, kind), path, hu_offset, checked)
    if not hu_offset:
        return volume
    note = f"An offset of {hu_offset:+d} HU was added to the stored values on request."
    return replace(volume, notes=(*volume.notes, note))


def read_label_map(path: Path, organs: Sequence[Organ] = ORGANS, *, within: Grid | None = None) -> LabelMap:
    """The label map at `path` on its own grid: uint8 0..255, any of them, read-only.

    Args:
        path: NIfTI, NRRD or MetaImage file of whole numbers, stored in any type; or a DICOM SEG, in a file of its own
            or with others in a folder or a zip, see `viscera.adapters.dicom_seg_read`.
        organs: Which codes of a DICOM SEG become which labels; other formats are read as they are.
        within: The grid of the CT or of other labels. A DICOM SEG that left out empty slices of it is put onto it.

    Raises:
        ReadError: If it is missing, damaged, not one volume, or a value is no whole number in 0..255; for a DICOM SEG
            if it is fractional, has none of the organs, or two in one voxel.
        GeometryError: If it does not say where the voxels lie.
        MissingExtraError: If SimpleITK is needed and not installed.
    """
    path = Path(path)
    doing = f"reading {path}"
    kind = _require_kind(path)
    if kind == "dicom":
        from viscera.adapters.dicom_seg_read import extended_to, read_dicom_seg

        label_map = read_dicom_seg(path, organs)
        _require_spacing(label_map.grid, path)
        return label_map if within is None else extended_to(label_map, within)
    raster = _opened(path, kind)
    _require_spacing(raster.grid, path)
    labels: NDArray[np.uint8] = allocated(raster.grid.shape_zyx, np.uint8, doing)
    place = 0
    for slab in raster.slabs:
        values = slab
        if slab.dtype.kind == "f" or (raster.slope, raster.intercept) != (1.0, 0.0):
            values = slab.astype(np.float64) * raster.slope + raster.intercept
        if slab.dtype != np.uint8 or values is not slab:
            # A NaN fails both comparisons.
            inside = (values >= 0) & (values <= LARGEST_LABEL)
            if not inside.all() or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
                raise ReadError(
                    doing,
                    expected=f"labels, whole numbers from 0 to {LARGEST_LABEL}",
                    got=f"values from {values.min()} to {values.max()}",
                    remedy="Give a label map, not an image or a probability map",
                )
        labels[place : place + len(slab)] = values
        place += len(slab)
    return LabelMap(labels=labels, grid=raster.grid)


def find_inputs(paths: Sequence[Path]) -> list[CaseInput]:
    """The cases that `paths` stand for, in order, each once, with names that differ.

    A file is one case. A folder that directly holds a DICOM file (a DICOMDIR included) is one case with everything
    below it. Any other folder is a folder of CTs: each NIfTI, NRRD, MetaImage or zip file in it and each of its
    sub-folders that has DICOM at any depth is one case. Hidden files are passed over. Files are told apart by names
    and first bytes; none is read. Names are stems without suffix; where two agree, the parent folder is put before,
    and where that does not help a number behind.

    Raises:
        ReadError: If a path does not exist, a file is of no supported kind, or a folder has no CT.
    """
    found: list[Path] = []
    known: set[Path] = set()
    for path in map(Path, paths):
        for case in _cases(path):
            if case.resolve() not in known:
                known.add(case.resolve())
                found.append(case)
    return [CaseInput(path=path, name=name) for path, name in zip(found, _names(found), strict=True)]


def _volume(raster: Raster, path: Path, hu_offset: int, on_grid: Callable[[Grid], None]) -> Volume:
    doing = f"reading {path}"
    on_grid(raster.grid)
    hu: NDArray[np.int16] = allocated(raster.grid.shape_zyx, np.int16, doing)
    place = wrong = 0
    for slab in raster.slabs:
        part = hu[place : place + len(slab)]
        wrong += fill_hu(part, slab, slope=raster.slope, intercept=raster.intercept + hu_offset)
        place += len(slab)
    require_finite(wrong, doing)
    return Volume(hu=hu, grid=raster.grid, notes=raster.notes + require_hu(hu, doing))


def _opened(path: Path, kind: _Kind) -> Raster:
    openers: dict[str, Callable[[Path], Raster]] = {"nifti": open_nifti, "itk": open_itk}
    return openers[kind](path)


def _require_kind(path: Path) -> _Kind:
    doing = f"reading {path}"
    if not path.exists():
        raise ReadError(doing, expected="a file or folder", got="nothing there", remedy="Check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise ReadError(doing, expected="a CT", got="an empty file", remedy="Copy or convert the scan again")
    if not path.is_file() and not path.is_dir():
        raise ReadError(doing, expected="a file or folder", got="a device or pipe", remedy="Save it as a file first")
    if not os.access(path, os.R_OK):
        raise ReadError(doing, expected="a readable file", got="no permission", remedy="Ask for the right to read it")
    kind = _kind(path)
    if kind is None:
        raise ReadError(doing, expected=SUPPORTED, got="something else", remedy="Convert the scan to one of these")
    return kind


def _kind(path: Path) -> _Kind | None:
    name = path.name.lower()
    if path.is_dir():
        return "dicom"
    if name.endswith(NIFTI_SUFFIXES):
        return "nifti"
    if name.endswith(ITK_SUFFIXES):
        return "itk"
    return "dicom" if is_zip_file(path) or is_dicom_file(path) else None


def _require_spacing(grid: Grid, path: Path) -> None:
    low, high = SPACING_RANGE_MM
    if not all(low <= step <= high for step in grid.spacing_zyx_mm):
        raise GeometryError(
            f"reading {path}",
            expected=f"spacings from {low} to {high} mm",
            got=f"{[round(step, 6) for step in grid.spacing_zyx_mm]} mm (z, y, x)",
            remedy="Correct the spacing in the file's header, which must be in mm",
        )


def _cases(path: Path) -> list[Path]:
    if not path.is_dir():
        _require_kind(path)
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file()]
    if any(is_dicom_file(file) for file in files if not file.name.lower().endswith(_CASE_SUFFIXES)):
        return [path]
    cases = [
        entry
        for entry in entries
        if (entry.is_file() and entry.name.lower().endswith(_CASE_SUFFIXES)) or (entry.is_dir() and _has_dicom(entry))
    ]
    if not cases:
        raise ReadError(
            f"looking for CTs in {path}", expected=SUPPORTED, got="none of these", remedy="Check the folder"
        )
    return cases


def _has_dicom(folder: Path) -> bool:
    return any(is_dicom_file(file) for file in files_below(folder))


def _stem(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.name
    lower = name.lower()
    suffix = next((s for s in (*_CASE_SUFFIXES, ".dcm") if path.is_file() and lower.endswith(s)), "")
    return name[: len(name) - len(suffix)] or "case"


def _names(paths: Sequence[Path]) -> Iterator[str]:
    stems = [_stem(path) for path in paths]
    # Names that differ only in case would be one file on some disks.
    common = Counter(stem.casefold() for stem in stems)
    taken: set[str] = set()
    for path, stem in zip(paths, stems, strict=True):
        name = f"{path.resolve().parent.name}_{stem}" if common[stem.casefold()] > 1 else stem
        number, numbered = 1, name
        while numbered.casefold() in taken:
            number += 1
            numbered = f"{name}_{number}"
        taken.add(numbered.casefold())
        yield numbered
