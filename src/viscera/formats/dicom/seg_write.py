"""Label maps as DICOM Segmentation objects (PS3.3, A.51), with codes, colours and references to the CT."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from viscera.core.errors import MissingExtraError, WriteError
from viscera.core.organs import CATEGORY, PRIVATE_SCHEME, Organ
from viscera.core.provenance import Origin
from viscera.core.version import version
from viscera.core.volume import LabelMap
from viscera.formats.dicom.derived import (
    INTENDED_USE,
    MANUFACTURER,
    file_meta,
    private_codes_used,
    require_described,
    save,
    set_identity,
)
from viscera.formats.dicom.references import SourceImages

SegType = Literal["binary", "labelmap"]
SERIES_NUMBER = 9001


def write_dicom_seg(
    label_map: LabelMap, source: SourceImages, path: Path, origin: Origin, *, kind: SegType = "binary"
) -> None:
    """Write the labels as one DICOM SEG in a series of its own in the source's study.

    Segment numbers are the labels' indices. An organ that was not found is a segment without a voxel, so that numbers
    mean the same in every file. Every slice of the CT has its frame, also an empty one: a reader then gets the CT's
    whole grid.

    Args:
        label_map: On the grid of the images.
        source: The images it was made from.
        path: The file; missing parent folders are made.
        origin: What made it.
        kind: "binary", one bit for each voxel and organ, which every reader knows; or "labelmap", one byte for each
            voxel, packed, of the year 2024 and known to few.

    Raises:
        GeometryError: If the labels lie on another grid than the images.
        WriteError: If the source or a label has no place in a DICOM SEG, or the file cannot be written.
        MissingExtraError: If highdicom is not installed.
    """
    doing = f"writing {path}"
    import_highdicom()
    source.require_grid(label_map.grid, doing)
    require_described(label_map, origin, doing)
    if source.multi_frame and len(source.images) > 1:
        raise _refused(doing, "one multi-frame object", f"{len(source.images)}", "Ask for an RTSTRUCT or NIfTI")
    # The patient's data are the archive's own and are copied as they are, valid or not.
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        try:
            dataset = _segmentation(label_map, source, origin, kind)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise _refused(
                doing, "images that a DICOM SEG can refer to", type(error).__name__, "Ask for NIfTI instead"
            ) from error
        set_identity(dataset, source, origin, doing)
        save(dataset, path, source, doing)


def import_highdicom() -> Any:
    """The package highdicom; raises MissingExtraError if it is not installed."""
    try:
        import highdicom
    except ImportError as error:
        raise MissingExtraError(
            "making a DICOM SEG",
            expected="the package highdicom",
            got="none",
            remedy="Run: pip install 'viscera[dicom]'",
        ) from error
    return highdicom


def _segmentation(label_map: LabelMap, source: SourceImages, origin: Origin, kind: SegType) -> Any:
    import highdicom as hd

    labelmap = kind == "labelmap"
    positions = source.positions_xyz_mm.tolist()
    dataset = hd.seg.Segmentation(
        source_images=list(source.images),
        pixel_array=label_map.labels,
        segmentation_type=kind.upper(),
        segment_descriptions=[_segment(organ, origin) for organ in origin.organs],
        series_instance_uid=origin.uid("seg series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=origin.uid("seg"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="viscera",
        software_versions=version(),
        device_serial_number=f"{origin.bundle} {origin.bundle_version}"[:64],
        content_description=INTENDED_USE,
        content_label="ORGANS",
        transfer_syntax_uid=RLELossless if labelmap else ExplicitVRLittleEndian,
        pixel_measures=_pixel_measures(source),
        plane_positions=[hd.PlanePositionSequence("PATIENT", position) for position in positions],
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", _orientation(source)),
        omit_empty_frames=False,
        series_description=f"Organs by viscera ({INTENDED_USE})"[:64],
        specific_character_set=None,  # the source's, set with its patient and study
        coding_schemes=_coding_schemes(origin),
    )
    _date(dataset, origin)
    syntax = dataset.file_meta.TransferSyntaxUID
    dataset.file_meta = file_meta(dataset.SOPClassUID, dataset.SOPInstanceUID)
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _segment(organ: Organ, origin: Origin) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    segment = hd.seg.SegmentDescription(
        segment_number=organ.index,
        segment_label=organ.name,
        segmented_property_category=hd.sr.CodedConcept(CATEGORY.value, CATEGORY.scheme, CATEGORY.meaning),
        segmented_property_type=hd.sr.CodedConcept(organ.code.value, organ.code.scheme, organ.code.meaning),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="viscera",
            family=codes.DCM.ArtificialIntelligence,
            version=version(),
            parameters={"bundle": origin.bundle, "bundle_version": origin.bundle_version},
        ),
        display_color=hd.color.CIELabColor.from_rgb(*organ.colour),
    )
    segment.SegmentDescription = INTENDED_USE
    segment.SegmentAlgorithmName = origin.algorithm
    return segment


def _pixel_measures(source: SourceImages) -> Any:
    """Spacings as the grid has them: the source's own slice spacing is often that of another reconstruction."""
    import highdicom as hd

    step, row, column = source.grid.affine[:3, :3].T
    normal = np.cross(column, row)
    between = abs(float(step @ normal / np.linalg.norm(normal)))
    _, row_mm, column_mm = source.grid.spacing_zyx_mm
    thickness = source.first.get("SliceThickness")
    return hd.PixelMeasuresSequence(
        pixel_spacing=[_short(row_mm), _short(column_mm)],
        slice_thickness=_short(float(thickness) if thickness else between),
        spacing_between_slices=_short(between),
    )


def _orientation(source: SourceImages) -> list[float]:
    _, row, column = source.grid.direction_zyx.T
    return [_short(float(part)) for part in (*column, *row)]


def _short(value: float) -> float:
    """`value` as near as the 16 characters of a decimal string allow."""
    from pydicom.valuerep import format_number_as_ds

    return float(format_number_as_ds(float(value)))


def _coding_schemes(origin: Origin) -> list[Any] | None:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    if not private_codes_used(origin.organs):
        return None
    return [
        CodingSchemeIdentificationItem(
            PRIVATE_SCHEME, name="Organ names of a viscera bundle", responsible_organization="viscera"
        )
    ]


def _date(dataset: Any, origin: Origin) -> None:
    """One moment everywhere, that of the origin."""
    date, time = origin.made.strftime("%Y%m%d"), origin.made.strftime("%H%M%S")
    for part in ("Series", "Content", "InstanceCreation"):
        setattr(dataset, f"{part}Date", date)
        setattr(dataset, f"{part}Time", time)


def _refused(doing: str, expected: str, got: str, remedy: str) -> WriteError:
    return WriteError(doing, expected=expected, got=got, remedy=remedy)
