"""The DICOM objects a CT was read from: what results refer to, and whose patient and study they are of."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from viscera.adapters.dicom_files import DicomSource, dicom_sources, is_dicom_file, is_zip_file
from viscera.adapters.dicom_read import Stack, chosen_stack
from viscera.adapters.dicom_series import DICOM_FAULTS
from viscera.errors import GeometryError, ReadError
from viscera.geometry import Grid

# Of the patient and the study, copied into every result (DICOM PS3.3, C.7.1.1, C.7.2.1 and C.7.2.2); those that a
# result must have, if only empty, come first.
REQUIRED_COPIES = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
OPTIONAL_COPIES = (
    "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence",
)  # fmt: skip
_IDENTIFIERS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID",
)  # fmt: skip
_TAGS = [
    *_IDENTIFIERS, *REQUIRED_COPIES, *OPTIONAL_COPIES, "SpecificCharacterSet", "PositionReferenceIndicator", "Modality",
    "Rows", "Columns", "NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
    "SliceThickness", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_UID = re.compile(r"[0-9.]{1,64}")
_DATE = re.compile(r"[0-9]{8}")
_TIME = re.compile(r"[0-9]{2,6}(\.[0-9]{1,6})?")
_SEXES = ("M", "F", "O")


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceImages:
    """The images of one CT series, in the order of its slices.

    Attributes:
        images: The headers of the objects, without pixels: identifiers, geometry, and what is copied into results.
        places: For each slice its object, as a place in `images`, and the frame in it from 1.
        positions_xyz_mm: For each slice the centre of its first pixel, as stored.
        grid: Of the volume that `read_volume` makes of them.
    """

    images: tuple[Any, ...]
    places: tuple[tuple[int, int], ...]
    positions_xyz_mm: NDArray[np.float64]
    grid: Grid

    @property
    def first(self) -> Any:
        """The header that stands for all where they agree."""
        return self.images[0]

    @property
    def multi_frame(self) -> bool:
        """Whether an object holds several slices."""
        return "PerFrameFunctionalGroupsSequence" in self.first

    def require_grid(self, grid: Grid, doing: str) -> None:
        """Raises GeometryError if `grid` is not the images' own; returns nothing."""
        if not self.grid.matches(grid):
            raise GeometryError(
                doing,
                expected=f"labels on the CT's own grid, {self.grid.shape_zyx} voxels",
                got=f"{grid.shape_zyx} voxels" if grid.shape_zyx != self.grid.shape_zyx else "another place in space",
                remedy="Give the series that the labels were made for",
            )


def source_images(path: Path, *, series: str | None = None) -> SourceImages:
    """The images of the very series that `read_volume` takes from `path` for the same `series`; no pixels are read.

    Text that DICOM does not allow for a date, a time or a sex is left out of the headers; a slice thickness that is not
    said is the distance of the slices.

    Args:
        path: A folder, a zip of one, or a multi-frame file.
        series: As for `read_volume`.

    Raises:
        ReadError: If it is no DICOM, has no such series, or lacks what results must refer to.
        GeometryError: If slices are missing, doubled or unevenly spaced.
    """
    path = Path(path)
    doing = f"reading {path}"
    if not (path.is_dir() or is_zip_file(path) or is_dicom_file(path)):
        raise ReadError(
            doing,
            expected="a CT series in DICOM (a folder, a zip, a multi-frame file), as the results are to be DICOM",
            got="another file" if path.exists() else "nothing there",
            remedy="Give the DICOM images, or ask for NIfTI only",
        )
    with dicom_sources(path) as sources:
        stack = chosen_stack(sources, series, doing)
        objects = list(dict.fromkeys(one.source for one in stack.slices))
        images = tuple(_header(source, doing) for source in objects)
    _require_one_frame_of_reference(images, doing)
    for image in images:
        if not image.get("SliceThickness"):
            image.SliceThickness = round(stack.grid.spacing_zyx_mm[0], 4)
    return SourceImages(
        images=images,
        places=_places(stack, objects),
        positions_xyz_mm=np.array([one.position_xyz_mm for one in stack.slices]),
        grid=stack.grid,
    )


def _places(stack: Stack, objects: Sequence[DicomSource]) -> tuple[tuple[int, int], ...]:
    number = {source: place for place, source in enumerate(objects)}
    return tuple((number[one.source], one.frame + 1) for one in stack.slices)


def _header(source: DicomSource, doing: str) -> Any:
    try:
        with warnings.catch_warnings(), source.opened() as file:
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
            _clean(header)
            missing = [name for name in _IDENTIFIERS if not _UID.fullmatch(str(header.get(name) or ""))]
    except DICOM_FAULTS as error:
        raise _unusable(f"{doing}, {source.label}", "a header that can be read", type(error).__name__) from error
    if missing:
        raise ReadError(
            f"{doing}, {source.label}",
            expected="identifiers that DICOM results can refer to",
            got=f"no valid {missing[0]}",
            remedy="Give images whose UIDs were not removed, or ask for NIfTI only",
        )
    return header


def _clean(header: Any) -> None:
    """Leaves out of `header` what may not be copied, and adds as empty what must be there."""
    for name in REQUIRED_COPIES:
        text = str(header.get(name) or "")
        pattern = _DATE if name.endswith("Date") else _TIME if name.endswith("Time") else None
        if not text or (pattern and not pattern.fullmatch(text)) or (name == "PatientSex" and text not in _SEXES):
            setattr(header, name, "")
    for name in OPTIONAL_COPIES:
        if name in header and header.get(name) in (None, ""):
            delattr(header, name)


def _require_one_frame_of_reference(images: Sequence[Any], doing: str) -> None:
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if (count := len({str(image.get(name)) for image in images})) > 1:
            raise _unusable(doing, f"one {name} in the series", f"{count}")


def _unusable(doing: str, expected: str, got: str) -> ReadError:
    return ReadError(doing, expected=expected, got=got, remedy="Copy the series again from its archive")
