"""Label maps as RT Structure Sets (DICOM PS3.3, A.19): closed contours on the CT's own slices."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from viscera.core.errors import MissingExtraError
from viscera.core.organs import PRIVATE_SCHEME, Organ
from viscera.core.provenance import Origin
from viscera.core.version import version
from viscera.core.volume import LabelMap
from viscera.formats.dicom.derived import (
    INTENDED_USE,
    MANUFACTURER,
    coded,
    file_meta,
    private_codes_used,
    require_described,
    save,
    set_identity,
    tag_of,
)
from viscera.formats.dicom.references import SourceImages

SERIES_NUMBER = 9002
# The retired "detached study" class, which the standard keeps for this one reference.
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
# Of a millimetre: 0.1 micrometres, and never more than the 16 characters of a decimal string.
_DECIMALS = 4


def write_rtstruct(label_map: LabelMap, source: SourceImages, path: Path, origin: Origin) -> None:
    """Write the labels as one RT Structure Set in a series of its own in the source's study.

    Each organ is a region of interest whose number is its label. Contours run half-way between the centres of voxels
    in and outside the organ, so that filling them by the even-odd rule at voxel centres gives the labels back. They
    lie on the planes of the images, wherever these are. Of an area with holes outer and inner outlines are one contour,
    joined by a cut of no width (the keyhole of PS3.3, C.8.8.6.3): it is filled alike by the even-odd and the winding
    rule and by readers that join all contours of a slice, while holes as contours of their own would be filled by some.

    An organ that was not found is left out, as many programs take every region to have contours; only where no organ
    at all was found all are listed without any, since a structure set must have one.

    Args:
        label_map: On the grid of the images.
        source: The images it was made from.
        path: The file; missing parent folders are made.
        origin: What made it.

    Raises:
        GeometryError: If the labels lie on another grid than the images.
        WriteError: If a label is no organ's, or the file cannot be written.
        MissingExtraError: If contourpy is not installed.
    """
    import_contourpy()
    doing = f"writing {path}"
    source.require_grid(label_map.grid, doing)
    require_described(label_map, origin, doing)
    # The patient's data are the archive's own and are copied as they are, valid or not.
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        dataset = _structure_set(label_map, source, origin)
        set_identity(dataset, source, origin, doing)
        save(dataset, path, source, doing)


def import_contourpy() -> Any:
    """The package contourpy; raises MissingExtraError if it is not installed."""
    try:
        import contourpy
    except ImportError as error:
        raise MissingExtraError(
            "making an RTSTRUCT",
            expected="the package contourpy",
            got="none",
            remedy="Run: pip install 'viscera[dicom]'",
        ) from error
    return contourpy


def outlines(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Closed polygons (points, 2) in (column, row) around the areas of a mask (row, column), voxel centres at integers.

    A polygon's last point is joined to its first. Holes are joined to their outline as a keyhole.
    """
    from contourpy import FillType, contour_generator

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float64)
    generator = contour_generator(z=part, fill_type=FillType.OuterOffset)
    for points, offsets in zip(*generator.filled(0.5, 2.0), strict=True):
        # Every ring repeats its first point at its end.
        rings = [ring[:-1] for ring in np.split(points, offsets[1:-1])]
        outline = rings[0]
        # From the right: what a cut to the right then meets is part of the outline already.
        for hole in sorted(rings[1:], key=lambda ring: -float(ring[:, 0].max())):
            outline = _joined(outline, hole)
        yield _corners(outline) + np.array([columns[0] - 1, rows[0] - 1])


def _joined(outline: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outline, cut from its nearest edge to the right of the hole, around the hole and back.

    The cut begins a quarter along an edge of the hole, so that it never meets the centre of a voxel.
    """
    hole = np.roll(hole, -int(hole[:, 0].argmax()), axis=0)
    start = 0.75 * hole[0] + 0.25 * hole[1]
    ends = np.roll(outline, -1, axis=0)
    low, high = np.minimum(outline[:, 1], ends[:, 1]), np.maximum(outline[:, 1], ends[:, 1])
    rise = np.where(high > low, ends[:, 1] - outline[:, 1], 1.0)
    at = outline[:, 0] + (start[1] - outline[:, 1]) / rise * (ends[:, 0] - outline[:, 0])
    met = (low < start[1]) & (start[1] < high) & (at > start[0])
    edge = int(np.where(met, at, np.inf).argmin())
    meeting = np.array([at[edge], start[1]])
    around = [start[None], np.roll(hole, -1, axis=0), start[None]]
    return np.concatenate([outline[: edge + 1], meeting[None], *around, meeting[None], outline[edge + 1 :]])


def _corners(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outline without points on straight runs; all coordinates are fractions that floats hold exactly."""
    before = outline - np.roll(outline, 1, axis=0)
    after = np.roll(outline, -1, axis=0) - outline
    straight = before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]
    onward = (before * after).sum(axis=1) > 0
    corners: NDArray[np.float64] = outline[~(straight & onward)]
    return corners


def _structure_set(label_map: LabelMap, source: SourceImages, origin: Origin) -> Dataset:
    present = set(np.flatnonzero(np.bincount(label_map.labels.ravel(), minlength=256)).tolist())
    organs = [organ for organ in origin.organs if organ.index in present] or list(origin.organs)
    instance = origin.uid("rtstruct")
    result = Dataset()
    result.file_meta = file_meta(RTStructureSetStorage, instance)
    result.SOPClassUID, result.SOPInstanceUID = RTStructureSetStorage, instance
    result.Modality, result.SeriesInstanceUID = "RTSTRUCT", origin.uid("rtstruct series")
    result.SeriesNumber, result.InstanceNumber, result.OperatorsName = SERIES_NUMBER, 1, ""
    result.SeriesDescription = f"Organs by viscera ({INTENDED_USE})"[:64]
    result.Manufacturer, result.ManufacturerModelName = MANUFACTURER, "viscera"
    result.SoftwareVersions = version()
    date, time = origin.made.strftime("%Y%m%d"), origin.made.strftime("%H%M%S")
    for part in ("Series", "InstanceCreation", "StructureSet"):
        setattr(result, f"{part}Date", date)
        setattr(result, f"{part}Time", time)
    result.StructureSetLabel, result.StructureSetName = "ORGANS", origin.algorithm
    result.StructureSetDescription = f"{INTENDED_USE}. Made by {origin.algorithm}."
    result.ApprovalStatus = "UNAPPROVED"
    result.FrameOfReferenceUID = source.first.FrameOfReferenceUID
    result.PositionReferenceIndicator = ""
    if "PositionReferenceIndicator" in source.identity:
        indicator = tag_of("PositionReferenceIndicator")
        result[indicator] = source.identity.get_item(indicator)
    result.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    result.StructureSetROISequence = [_region(organ, source, origin) for organ in organs]
    result.ROIContourSequence = [_contours(organ, label_map, source) for organ in organs]
    result.RTROIObservationsSequence = [_observation(organ) for organ in organs]
    if private_codes_used(organs):
        scheme = Dataset()
        scheme.CodingSchemeDesignator = PRIVATE_SCHEME
        scheme.CodingSchemeName = "Organ names of a viscera bundle"
        scheme.CodingSchemeResponsibleOrganization = "viscera"
        result.CodingSchemeIdentificationSequence = [scheme]
    return result


def _frame_of_reference(source: SourceImages) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.first.SeriesInstanceUID
    series.ContourImageSequence = [_image_reference(source, number) for number in range(len(source.places))]
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, source.first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = source.first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image_reference(source: SourceImages, number: int) -> Dataset:
    """The reference to a slice's image."""
    place, frame = source.places[number]
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.images[place].SOPClassUID
    reference.ReferencedSOPInstanceUID = source.images[place].SOPInstanceUID
    if source.multi_frame:
        reference.ReferencedFrameNumber = frame
    return reference


def _region(organ: Organ, source: SourceImages, origin: Origin) -> Dataset:
    region = Dataset()
    region.ROINumber, region.ROIName = organ.index, organ.name
    region.ReferencedFrameOfReferenceUID = source.first.FrameOfReferenceUID
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    region.ROIGenerationDescription = origin.algorithm
    region.ROIDescription = INTENDED_USE
    return region


def _observation(organ: Organ) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = organ.index
    observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
    observation.RTROIIdentificationCodeSequence = [coded(organ.code.value, organ.code.scheme, organ.code.meaning)]
    return observation


def _contours(organ: Organ, label_map: LabelMap, source: SourceImages) -> Dataset:
    result = Dataset()
    result.ROIDisplayColor = list(organ.colour)
    result.ReferencedROINumber = organ.index
    _, row_mm, column_mm = label_map.grid.affine[:3, :3].T
    contours: list[Dataset] = []
    for number, labels in enumerate(label_map.labels):
        for points in outlines(labels == organ.index):
            world = source.positions_xyz_mm[number] + points[:, :1] * column_mm + points[:, 1:] * row_mm
            contour = Dataset()
            contour.ContourImageSequence = [_image_reference(source, number)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourNumber = len(contours) + 1
            contour.ContourData = [_decimal(value) for value in world.ravel().tolist()]
            contours.append(contour)
    if contours:
        result.ContourSequence = contours
    return result


def _decimal(value: float) -> str:
    text = f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
