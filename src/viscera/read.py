"""CT volumes and label maps from files and folders: every format becomes a `Volume` or `LabelMap` or a clear error."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from viscera.core.errors import ReadError, reading
from viscera.core.geometry import Grid, require_spacing
from viscera.core.hounsfield import hu_from_slabs, require_hu, require_offset
from viscera.core.organs import ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.formats.file_kinds import opened_raster, require_kind
from viscera.formats.label_maps import read_label_file
from viscera.formats.raster import Raster


def read_volume(
    path: str | os.PathLike[str],
    *,
    series: str | None = None,
    hu_offset: int = 0,
    on_grid: Callable[[Grid], None] | None = None,
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
        MemoryBudgetError: If there is no memory for it.
    """
    path = Path(path)
    require_offset(hu_offset)
    kind = require_kind(path)

    def checked(grid: Grid) -> None:
        with reading(path):
            require_spacing(grid)
        if on_grid is not None:
            on_grid(grid)

    if kind == "dicom":
        from viscera.formats.dicom.read import read_dicom

        with reading(path):
            volume = read_dicom(path, series=series, hu_offset=hu_offset, on_grid=checked)
    elif series is not None:
        raise ReadError(
            f"reading {path}",
            expected="DICOM, as a series was asked for",
            got="a file that holds one volume",
            remedy="Leave out --series",
        )
    else:
        with reading(path):
            volume = _volume(opened_raster(path, kind), hu_offset, checked)
    if not hu_offset:
        return volume
    note = f"An offset of {hu_offset:+d} HU was added to the stored values on request."
    return replace(volume, notes=(*volume.notes, note))


def read_label_map(
    path: str | os.PathLike[str], organs: Sequence[Organ] = ORGANS, *, within: Grid | None = None
) -> LabelMap:
    """The label map at `path` on its own grid: uint8 0..255, any of them, read-only.

    A file that names its labels is read by these names, regardless of its numbers: `organs` become their indices, other
    labels background, with a note. Such are DICOM SEG, segmentations of 3D Slicer (.seg.nrrd), NIfTI files with a table
    of labels in their header, and those that have a table next to them in a BIDS data set. Names such as Segment_1 say
    nothing. Any other file is read as it is.

    Args:
        path: NIfTI, NRRD or MetaImage file of whole numbers, stored in any type; a DICOM SEG, in a file of its own or
            with others in a folder or a zip, see `viscera.formats.dicom.seg_read`; or a folder with one mask for each
            organ, named after it, as TotalSegmentator writes.
        organs: What to look for by name or code.
        within: The grid of the CT or of other labels. A DICOM SEG or a segmentation of 3D Slicer that holds a part of
            it is put onto it.

    Raises:
        ReadError: If it is missing, damaged, not one volume, or a value is no whole number in 0..255; for a file that
            names its labels if none is one of the organs, a name contradicts its code, a label has no name, or there
            are two organs in one voxel; for a DICOM SEG or segmentation if it is fractional.
        GeometryError: If it does not say where the voxels lie, or labels lie outside of `within`.
    """
    found = read_label_file(Path(path), organs)
    return (found if within is None else found.placed_on(within)).by_name(organs)


def _volume(raster: Raster, hu_offset: int, on_grid: Callable[[Grid], None]) -> Volume:
    on_grid(raster.grid)
    intercept = raster.intercept + hu_offset
    hu = hu_from_slabs(raster.slabs, raster.grid.shape_zyx, slope=raster.slope, intercept=intercept)
    return Volume(hu=hu, grid=raster.grid, notes=raster.notes + require_hu(hu))
