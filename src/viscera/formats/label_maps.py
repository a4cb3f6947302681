"""Label maps from files: what their labels are by the names in the file, and where they lie on a scan's grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError, ReadError, reading
from viscera.core.geometry import Grid, require_spacing
from viscera.core.hounsfield import allocated
from viscera.core.label_names import (
    LabelMeaning,
    LabelName,
    label_meaning,
    names_organ,
    organ_by_name,
    require_agreement,
)
from viscera.core.organs import BACKGROUND, Organ
from viscera.core.volume import LabelMap
from viscera.formats.dicom.files import is_dicom_file
from viscera.formats.file_kinds import ITK_SUFFIXES, NIFTI_SUFFIXES, Kind, opened_raster, require_kind
from viscera.formats.label_grids import placed_on
from viscera.formats.label_tables import bids_label_names
from viscera.formats.raster import Raster

LARGEST_LABEL = 255
# Values this close to whole numbers are labels: floats, and stored numbers with a scale factor, are rounded.
_ROUNDING = 1e-3
# Where a writer spread the labels over all numbers of a type, half a step of its scale and the rounding of that; a
# larger step is no rounding.
_HALF_STEP, _LARGEST_ROUNDING = 0.501, 0.01
_MASK_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
_EMPTY_SHAPE = (1, 1, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelFile:
    """A label map as its file has it, and what the file says of the labels.

    Attributes:
        label_map: Labels as stored, or, of a file that only names them, organ indices.
        tables: For each table of names, in the file or next to it, what each label is; none if there is no table.
        stored: Whether labels are as stored.
        partial: Whether the file may hold only a part of the scan's voxels, cut to the organs.
        path: The file.
    """

    label_map: LabelMap
    tables: tuple[Mapping[int, LabelName], ...] = ()
    stored: bool = True
    partial: bool = False
    path: Path

    def by_name(self, organs: Sequence[Organ]) -> LabelMap:
        """Organ indices by the names in the file; labels as stored where it names none.

        Raises:
            ReadError: If the names are no organs of the table, contradict each other or leave out a label.
        """
        with reading(self.path):
            meaning = self._meaning(organs) if self.stored else None
            return self.label_map if meaning is None else _renamed(self.label_map, meaning)

    def by_mapping(self, mapping: Mapping[int, int], organs: Sequence[Organ]) -> LabelMap:
        """Labels as stored, to be mapped to organ indices by `mapping`, once the file's own names agree with it.

        Raises:
            ReadError: If a label is one organ by its name and another by the mapping.
        """
        with reading(self.path):
            for table in self.tables:
                known = {label: name for label, name in table.items() if names_organ(name, organs)}
                meaning = label_meaning(known, organs) if known else None
                if meaning is not None:
                    require_agreement(meaning, mapping, organs)
        return self.label_map

    def placed_on(self, grid: Grid) -> LabelFile:
        """The same labels on `grid`, if this file holds a part of its voxels."""
        if not self.partial:
            return self
        if self.label_map.grid.shape_zyx == _EMPTY_SHAPE:  # an empty segmentation, whose grid means nothing
            empty = LabelMap(labels=np.full(grid.shape_zyx, BACKGROUND, dtype=np.uint8), grid=grid)
            return replace(self, label_map=empty)
        with reading(self.path):
            return replace(self, label_map=placed_on(self.label_map, grid))

    def _meaning(self, organs: Sequence[Organ]) -> LabelMeaning | None:
        found = [label_meaning(table, organs) for table in self.tables]
        meanings = [meaning for meaning in found if meaning is not None]
        for meaning in meanings[1:]:
            require_agreement(meaning, meanings[0].indices, organs)
        return meanings[0] if meanings else None


def read_label_file(path: Path, organs: Sequence[Organ]) -> LabelFile:
    """The labels at `path` on their own grid, and what the file says of them.

    Args:
        path: A label file, or a folder of masks or of DICOM objects; see `viscera.read.read_label_map`.
        organs: What to look for in files that only name their labels.

    Raises:
        ReadError, GeometryError: As `viscera.read.read_label_map`.
    """
    path = Path(path)
    kind = require_kind(path)
    with reading(path):
        if masks := organ_masks(path, organs):
            return LabelFile(label_map=_joined_masks(masks), stored=False, path=path)
        if kind == "dicom":
            from viscera.formats.dicom.seg_read import read_dicom_seg

            label_map = read_dicom_seg(path, organs)
            require_spacing(label_map.grid)
            return LabelFile(label_map=label_map, stored=False, partial=True, path=path)
        return _read_image(path, kind, organs)


def _read_image(path: Path, kind: Kind, organs: Sequence[Organ]) -> LabelFile:
    raster = opened_raster(path, kind, labels=True)
    require_spacing(raster.grid)
    partial = kind == "itk" and bool(raster.names)
    if {layer for layer, _ in raster.names} <= {0}:
        names = {label: name for (_, label), name in raster.names.items()}
        sidecar = bids_label_names(path)
        tables = tuple(table for table in (names, sidecar and sidecar[1]) if table)
        # Several layers of which one is named are refused where their values are read.
        label_map = LabelMap(labels=_labels(raster), grid=raster.grid)
        return LabelFile(label_map=label_map, tables=tables, partial=partial, path=path)
    return LabelFile(label_map=_joined_layers(raster, organs), stored=False, partial=partial, path=path)


def organ_masks(path: Path, organs: Sequence[Organ]) -> dict[Path, Organ]:
    """The organ of each mask in a folder with one file for each structure, as TotalSegmentator writes; else empty."""
    if not path.is_dir():
        return {}
    found = {}
    try:
        files = sorted(path.iterdir())
    except OSError:  # reading it says why
        return {}
    for file in files:
        suffix = next((one for one in _MASK_SUFFIXES if file.name.lower().endswith(one)), None)
        if suffix is None or file.name.startswith("."):
            if not suffix and not file.name.startswith(".") and is_dicom_file(file):
                return {}
            continue
        organ = organ_by_name(file.name[: -len(suffix)], organs)
        if organ is not None:
            found[file] = organ
    return found


def _joined_masks(masks: Mapping[Path, Organ]) -> LabelMap:
    """The label map of several masks, each of one organ or of one of a pair."""
    joined: tuple[NDArray[np.uint8], Grid] | None = None
    for path, organ in masks.items():
        mask = _mask(path)
        labels, grid = joined = joined or (np.full_like(mask.labels, BACKGROUND), mask.grid)
        if not mask.grid.matches(grid):
            raise GeometryError(
                expected="masks on one grid",
                got=f"{path.name} on another one",
                remedy="Give the masks of one scan",
            )
        others = (labels != BACKGROUND) & (labels != organ.index)
        _require_apart(int(np.count_nonzero((mask.labels > 0) & others)))
        labels[mask.labels > 0] = organ.index
    if joined is None:
        raise _refused("masks of organs", "none", _ONE_MASK)
    return LabelMap(labels=joined[0], grid=joined[1])


def _mask(path: Path) -> LabelMap:
    with reading(path):
        raster = opened_raster(path, require_kind(path))
        require_spacing(raster.grid)
        mask = _labels(raster)
        if len(values := np.flatnonzero(_counts(mask))) > 2:
            raise _refused("a mask of one organ", f"the labels {values.tolist()[:8]}", _ONE_MASK)
        return LabelMap(labels=mask, grid=raster.grid)


_ONE_MASK = "Give a folder with one mask for each organ, or one label map"


def _joined_layers(raster: Raster, organs: Sequence[Organ]) -> LabelMap:
    """The label map of a segmentation in layers, whose segments are identified by layer and value."""
    places = list(raster.names)
    meaning = label_meaning(dict(enumerate(raster.names.values())), organs)
    if meaning is None:
        raise _refused(
            f"segments named {', '.join(organ.name for organ in organs)}",
            ", ".join(name.name for name in list(raster.names.values())[:8]),
            "Name them so in the program that made them",
        )
    labels: NDArray[np.uint8] = np.full(raster.grid.shape_zyx, BACKGROUND, dtype=np.uint8)
    last, start, overlapping = max(layer for layer, _ in places), 0, 0
    for slab in raster.slabs:
        part = labels[start : start + len(slab)]
        for layer in range(slab.shape[3] if slab.ndim == 4 else 0):
            values = {
                value: meaning.indices[number] for number, (one, value) in enumerate(places) if one == layer and value
            }
            found = _mapped(slab[..., layer], values)
            overlapping += int(np.count_nonzero((found != BACKGROUND) & (part != BACKGROUND) & (part != found)))
            np.copyto(part, found, where=found != BACKGROUND)
        if slab.ndim != 4 or slab.shape[3] <= last:
            raise _refused(f"voxels in {last + 1} layers", "fewer", "Save the segmentation again in 3D Slicer")
        start += len(slab)
    _require_apart(overlapping)
    return LabelMap(labels=labels, grid=raster.grid, notes=meaning.notes)


def _mapped(stored: NDArray[Any], indices: Mapping[int, int]) -> NDArray[np.uint8]:
    """Organ indices of the stored values of a layer, each of which must be some segment's."""
    largest = max([0, *indices])
    if stored.dtype.kind not in "iu" or (stored.size and (stored.min() < 0 or stored.max() > largest)):
        raise _unnamed([stored.max()])
    table = np.full(largest + 1, BACKGROUND, dtype=np.uint8)
    known = np.zeros(largest + 1, dtype=bool)
    known[0] = True
    for value, index in indices.items():
        table[value], known[value] = index, True
    if not known[stored].all():
        raise _unnamed(np.unique(stored[~known[stored]]).tolist())
    mapped: NDArray[np.uint8] = table[stored]
    return mapped


def _renamed(label_map: LabelMap, meaning: LabelMeaning) -> LabelMap:
    """The label map with organ indices in place of its labels, itself where they are the same."""
    same = all(index in (BACKGROUND, label) for label, index in meaning.indices.items())
    if same and not meaning.passed_over:
        return label_map
    table = np.arange(LARGEST_LABEL + 1, dtype=np.uint8) if same else np.zeros(LARGEST_LABEL + 1, dtype=np.uint8)
    known = np.full(LARGEST_LABEL + 1, same)
    known[BACKGROUND] = True
    for label, index in meaning.indices.items():
        if label <= LARGEST_LABEL:
            table[label], known[label] = index, True
    present = [int(label) for label in np.flatnonzero(_counts(label_map.labels)) if not known[label]]
    if present:
        raise _unnamed(present)
    return LabelMap(labels=table[label_map.labels], grid=label_map.grid, notes=(*label_map.notes, *meaning.notes))


def _counts(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    counts = np.zeros(LARGEST_LABEL + 1, dtype=np.int64)
    for part in labels:  # slice by slice, as counting makes large integers of them
        counts += np.bincount(part.ravel(), minlength=LARGEST_LABEL + 1)
    return counts


def _labels(raster: Raster) -> NDArray[np.uint8]:
    """The whole numbers of an image as uint8, each within rounding."""
    labels: NDArray[np.uint8] = allocated(raster.grid.shape_zyx, np.uint8)
    start = 0
    for slab in _flat_slabs(raster):
        values = slab
        if slab.dtype.kind == "f" or (raster.slope, raster.intercept) != (1.0, 0.0):
            values = slab.astype(np.float64) * raster.slope + raster.intercept
        if slab.dtype != np.uint8 or values is not slab:
            values = _whole(values, _tolerance(raster))
        labels[start : start + len(slab)] = values
        start += len(slab)
    return labels


def _flat_slabs(raster: Raster) -> Iterator[NDArray[Any]]:
    for slab in raster.slabs:
        if slab.ndim != 3 and slab[..., 1:].any():
            raise _refused(
                "a segment for every layer of the file",
                f"{slab.shape[3]} layers, of which only the first one has segments",
                "Save the segmentation again in 3D Slicer",
            )
        yield slab if slab.ndim == 3 else slab[..., 0]


def _tolerance(raster: Raster) -> float:
    """How far rounding may have moved a label from a whole number."""
    return min(_LARGEST_ROUNDING, max(_ROUNDING, _HALF_STEP * abs(raster.slope))) if raster.slope != 1.0 else _ROUNDING


def _whole(values: NDArray[Any], tolerance: float) -> NDArray[Any]:
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    # A NaN fails all comparisons.
    inside = (rounded >= 0) & (rounded <= LARGEST_LABEL)
    if not inside.all() or (_differ(values, rounded) and not (np.abs(values - rounded) <= tolerance).all()):
        raise ReadError(
            expected=f"labels, whole numbers from 0 to {LARGEST_LABEL}",
            got=f"values from {values.min()} to {values.max()}",
            remedy="Give a label map, not an image or a probability map",
        )
    return rounded


def _differ(values: NDArray[Any], rounded: NDArray[Any]) -> bool:
    return rounded is not values and bool((values != rounded).any())


def _require_apart(overlapping: int) -> None:
    if overlapping:
        raise _refused(
            "at most one organ in a voxel",
            f"{overlapping} voxels with two",
            "Separate the segments in the program that made them",
        )


def _unnamed(values: Sequence[Any]) -> ReadError:
    shown = ", ".join(str(value) for value in values[:8])
    return _refused("a name for every label", f"voxels of the label {shown} without one", "Name it in the file")


def _refused(expected: str, got: str, remedy: str) -> ReadError:
    return ReadError(expected=expected, got=got, remedy=remedy)
