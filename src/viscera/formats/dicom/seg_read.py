"""DICOM Segmentation objects as label maps: codes become the labels of an organ table."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from viscera.core.errors import GeometryError, ReadError, reading
from viscera.core.geometry import Grid
from viscera.core.hounsfield import allocated
from viscera.core.label_names import LabelMeaning, LabelName, label_meaning
from viscera.core.organs import BACKGROUND, ORGANS, Code, Laterality, Organ
from viscera.core.volume import LabelMap
from viscera.formats.dicom.derived import SIDES
from viscera.formats.dicom.files import DicomSource, dicom_sources
from viscera.formats.dicom.pixels import dataset_images
from viscera.formats.dicom.read import LARGEST_IMAGE_RATIO, SLICE_TOLERANCE, line_through
from viscera.formats.dicom.series import (
    DEFLATED,
    DICOM_FAULTS,
    LARGEST_MATRIX_VOX,
    META_BYTES,
    ORIENTATION_TOLERANCE,
)

_SEGMENTATION, _LABELMAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
# In SNOMED CT, and in the SNOMED RT of older programs; no value means anything else in another scheme.
_SIDES: Mapping[str, Laterality] = {
    **{code.value: side for side, code in SIDES.items()},
    "G-A101": "left",
    "G-A100": "right",
}
# Segment numbers are unsigned and of 16 bits.
_LARGEST_SEGMENT = 65535


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where a frame lies: centre of its first pixel, directions of rows and columns, spacings, and its segment."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    between: float
    segment: int | None


def read_dicom_seg(path: Path, organs: Sequence[Organ] = ORGANS) -> LabelMap:
    """The label map of a DICOM SEG on its own grid: uint8 (slice, row, column), slices along their normal.

    Segments become the labels of the organs with the same code (Segmented Property Type), or of that name where the
    code fits any tissue. Where the organs do not tell sides, a left and a right kidney are both the organ kidney; where
    they do, the modifier of the code, or the name, says which.
    Segments that are none of the organs are passed over, with a note. The grid reaches from the first to the last slice
    that has a frame, and slices without one between them are background: files that leave out empty slices do not say
    how far their CT reached.

    Args:
        path: The file, or a folder or zip with one SEG among other objects.
        organs: What to look for.

    Raises:
        ReadError: If there is not exactly one SEG, it is damaged or fractional, has none of the organs, one whose
            name and code contradict each other, or two of them in one voxel.
        GeometryError: If its frames are not slices of one regular grid.
        MemoryBudgetError: If there is no memory for it.
    """
    path = Path(path)
    with reading(path), dicom_sources(path) as sources, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values
        source = _only_seg(sources)
        try:
            with source.opened() as file:
                dataset = pydicom.dcmread(file, force=True)
            _require_supported(dataset, source)
            meaning = _meaning(dataset, organs)
            frames = _frames(dataset)
            places, grid = _laid_out(frames, (int(dataset.Rows), int(dataset.Columns)))
            labels: NDArray[np.uint8] = allocated(grid.shape_zyx, np.uint8)
            labels[:] = BACKGROUND
            _fill(labels, dataset, list(zip(places, frames, strict=True)), meaning.indices)
        except DICOM_FAULTS as error:
            raise _damaged(type(error).__name__) from error
    return LabelMap(labels=labels, grid=grid, notes=meaning.notes)


def _only_seg(sources: Sequence[DicomSource]) -> DicomSource:
    kinds: Counter[str] = Counter()
    found = []
    for source in sources:
        try:
            with source.opened() as file:
                if DEFLATED in file.read(META_BYTES):  # inflating it has no limit, and hardly anybody deflates
                    kinds["the deflated transfer syntax"] += 1
                    continue
                file.seek(0)
                header = pydicom.dcmread(
                    file, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality"], force=True
                )
            if str(header.get("SOPClassUID") or "") in (_SEGMENTATION, _LABELMAP):
                found.append(source)
            kinds[str(header.get("Modality") or "no modality")[:16]] += 1
        except DICOM_FAULTS as error:
            raise _damaged(type(error).__name__, f" in {source.label}") from error
    if len(found) == 1:
        return found[0]
    others = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items())) or "no DICOM object"
    raise ReadError(
        expected="one DICOM segmentation (SEG)",
        got=f"{len(found)} of them" if found else others,
        remedy="Give the file of one SEG; structure sets (RTSTRUCT) are not read",
    )


def _require_supported(dataset: Any, source: DicomSource) -> None:
    """Refuse what cannot be read as labels, and objects shorter than what they claim to hold."""
    kind = str(dataset.get("SegmentationType") or "")
    if kind not in ("BINARY", "LABELMAP"):
        raise ReadError(
            expected="a SEG of type BINARY or LABELMAP",
            got=kind[:16] or "no type",
            remedy="Cut it at a threshold of your choice in the program that made it, and save it as BINARY",
        )
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.NumberOfFrames)
    if not (1 <= rows <= LARGEST_MATRIX_VOX and 1 <= columns <= LARGEST_MATRIX_VOX and count >= 1):
        raise _damaged(f"{count} frames of {rows} x {columns} voxels")
    bits = rows * columns * count * int(dataset.BitsAllocated)
    packed = dataset.file_meta.TransferSyntaxUID.is_compressed
    held = 8 * source.size_bytes * (LARGEST_IMAGE_RATIO if packed else 1)
    if bits > held or (not packed and bits > 8 * len(dataset.PixelData)):
        raise _damaged(f"too few bytes for {count} frames of {rows} x {columns} voxels")
    if len(dataset.PerFrameFunctionalGroupsSequence) != count:
        raise _damaged(f"{len(dataset.PerFrameFunctionalGroupsSequence)} positions for {count} frames")


def _meaning(dataset: Any, organs: Sequence[Organ]) -> LabelMeaning:
    """The organ of each segment number."""
    segments = {int(segment.SegmentNumber): _label_name(segment) for segment in dataset.SegmentSequence}
    if len(segments) < len(dataset.SegmentSequence):
        raise _damaged("two segments of one number")
    meaning = label_meaning(segments, organs) if segments else None
    if meaning is None:
        raise ReadError(
            expected=f"segments coded or named as {', '.join(organ.name for organ in organs)}",
            got=", ".join(one.name or "without a name" for one in list(segments.values())[:8]) or "no segment",
            remedy="Give a SEG of these organs, or the bundle whose organs they are",
        )
    return meaning


def _label_name(segment: Any) -> LabelName:
    """What a segment is by its label and by the code of its property type."""
    kinds = segment.get("SegmentedPropertyCategoryCodeSequence") or ()
    return LabelName(
        name=str(segment.get("SegmentLabel") or ""),
        code=_code(segment.SegmentedPropertyTypeCodeSequence[0]),
        category=_code(kinds[0]) if kinds else None,
        laterality=_laterality(segment),
    )


def _laterality(segment: Any) -> Laterality | None:
    """The side a segment is on: of the modifiers in all the places that programs write them to, if they agree."""
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    regions = segment.get("AnatomicRegionSequence") or ()
    modifiers = [
        *(kind.get("SegmentedPropertyTypeModifierCodeSequence") or ()),
        *(segment.get("SegmentedPropertyTypeModifierCodeSequence") or ()),
        *(modifier for region in regions for modifier in region.get("AnatomicRegionModifierSequence") or ()),
    ]
    found = {side for one in modifiers if (side := _SIDES.get(_code(one).value)) is not None}
    return found.pop() if len(found) == 1 else None


def _code(item: Any) -> Code:
    value, meaning, scheme = (
        str(item.get(name) or "") for name in ("CodeValue", "CodeMeaning", "CodingSchemeDesignator")
    )
    return Code(value=value, meaning=meaning, scheme=scheme)


def _frames(dataset: Any) -> list[_Frame]:
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]
    frames = []
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        items = [groups, *shared]
        orientation = [float(part) for part in _item(items, "PlaneOrientationSequence").ImageOrientationPatient]
        measures = _item(items, "PixelMeasuresSequence")
        identified = next((one for one in items if one.get("SegmentIdentificationSequence")), None)
        number = None
        if identified is not None:
            number = int(identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        frame = _Frame(
            position=tuple(float(part) for part in _item(items, "PlanePositionSequence").ImagePositionPatient),
            orientation=tuple(orientation),
            spacing=tuple(float(part) for part in measures.PixelSpacing),
            between=abs(float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0)),
            segment=number,
        )
        numbers = [*frame.position, *frame.orientation, *frame.spacing, frame.between]
        if len(numbers) != 12 or not np.isfinite(numbers).all() or min(frame.spacing) <= 0:
            raise _damaged("a frame without place, direction or spacing")
        frames.append(frame)
    return frames


def _item(items: Sequence[Any], name: str) -> Any:
    """The item of a functional group, of the frame or of all frames; raises KeyError if there is none."""
    for one in items:
        if one.get(name):
            return one[name][0]
    raise KeyError(name)


def _laid_out(frames: Sequence[_Frame], size_vox: tuple[int, int]) -> tuple[list[int], Grid]:
    """For each frame its slice, and the grid of all slices from the first to the last one that has a frame."""
    first = frames[0]
    column, row = np.array(first.orientation).reshape(2, 3)
    normal = np.cross(column, row)
    lengths = np.linalg.norm([column, row, normal], axis=1)
    if np.abs(lengths - 1).max() > 10 * ORIENTATION_TOLERANCE or not all(_alike(first, frame) for frame in frames):
        raise _irregular("frames of several directions or spacings")
    positions = np.array([frame.position for frame in frames])
    along = positions @ normal
    step_mm = _slice_step(np.unique(along.round(3)), first.between)
    places = np.rint((along - along.min()) / step_mm).astype(np.int_)
    count = int(places.max()) + 1
    if count > LARGEST_MATRIX_VOX:
        raise _irregular(f"frames over {count} slices")
    if count == 1:
        origin, step = positions[0], normal * step_mm
    else:
        origin, step = line_through(positions, places)
    astray = np.linalg.norm(positions - origin - places[:, None] * step, axis=1).max()
    if astray > SLICE_TOLERANCE * step_mm:
        raise _irregular(f"a frame {astray:.2f} mm from its place")
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = row / lengths[1] * first.spacing[0]
    affine[:3, 2] = column / lengths[0] * first.spacing[1]
    affine[:3, 3] = origin
    return places.tolist(), Grid(shape_zyx=(count, *size_vox), affine=affine)


def _slice_step(along: NDArray[np.float64], declared: float) -> float:
    """The distance of neighbouring slices: as declared if all frames fit, else that of the nearest two."""
    if len(along) == 1:
        if declared <= 0:
            raise _irregular("one slice without a thickness")
        return declared
    gaps = np.diff(along)
    for step in (declared, float(gaps.min())):
        if step > 0 and np.abs(gaps / step - np.rint(gaps / step)).max() <= SLICE_TOLERANCE and gaps.min() > step / 2:
            # The mean over all steps evens out rounded positions.
            return float((along[-1] - along[0]) / np.rint(gaps / step).sum())
    raise _irregular(f"gaps from {gaps.min():.2f} to {gaps.max():.2f} mm")


def _alike(first: _Frame, other: _Frame) -> bool:
    return bool(
        np.allclose(first.orientation, other.orientation, rtol=0, atol=ORIENTATION_TOLERANCE)
        and np.allclose(first.spacing, other.spacing, rtol=1e-4, atol=0)
    )


def _fill(
    labels: NDArray[np.uint8],
    dataset: Any,
    places: Sequence[tuple[int, _Frame]],
    indices: Mapping[int, int],
) -> None:
    """Write every frame's voxels of organs into `labels`."""
    overlapping = 0
    by_segment = np.full(_LARGEST_SEGMENT + 1, BACKGROUND, dtype=np.uint8)
    for segment, index in indices.items():
        by_segment[segment] = index
    for (place, frame), image in zip(places, dataset_images(dataset, range(len(places))), strict=True):
        if image.shape != labels.shape[1:]:
            raise _damaged(f"a frame of {image.shape} voxels")
        target = labels[place]
        if dataset.SegmentationType == "LABELMAP":
            found = by_segment[image]
        else:
            if frame.segment is None:
                raise _damaged("a frame without a segment")
            found = np.where(image > 0, by_segment[frame.segment], np.uint8(BACKGROUND))
        inside = found != BACKGROUND
        overlapping += int(np.count_nonzero(inside & (target != BACKGROUND) & (target != found)))
        target[inside] = found[inside]
    if overlapping:
        raise ReadError(
            expected="at most one organ in a voxel",
            got=f"{overlapping} voxels with two",
            remedy="Separate the segments in the program that made them",
        )


def _damaged(got: str, where: str = "") -> ReadError:
    return ReadError(expected=f"a whole DICOM SEG{where}", got=got, remedy="Copy or make it again")


def _irregular(got: str) -> GeometryError:
    return GeometryError(
        expected="frames on parallel, evenly spaced slices in the patient's space",
        got=got,
        remedy="Resample the segmentation onto its CT in the program that made it",
    )
