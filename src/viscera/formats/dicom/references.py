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
from pydicom.charset import default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag

from viscera.core.errors import GeometryError, ReadError, reading
from viscera.core.geometry import Grid
from viscera.formats.dicom.files import DicomSource, dicom_sources, is_dicom_file, is_zip_file
from viscera.formats.dicom.read import Stack, chosen_stack
from viscera.formats.dicom.series import DICOM_FAULTS
from viscera.formats.dicom.uids import named_uid

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
# Also of the source, for the results that have it.
_OTHER_COPIES = ("PositionReferenceIndicator",)
_IDENTIFIERS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID",
)  # fmt: skip
# Repeated in the file meta information (DICOM PS3.10, 7.1); some programs empty, or replace, one of the two.
_IN_FILE_META = {"SOPClassUID": "MediaStorageSOPClassUID", "SOPInstanceUID": "MediaStorageSOPInstanceUID"}
# Emptied by some programs that de-identify. Nothing in space depends on them.
_REPLACEABLE = ("StudyInstanceUID", "SeriesInstanceUID")
_TAGS = [
    *_IDENTIFIERS, *REQUIRED_COPIES, *OPTIONAL_COPIES, *_OTHER_COPIES, "SpecificCharacterSet", "Modality", "Rows",
    "Columns", "NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_UID = re.compile(r"[0-9.]{1,64}")
_DATE = re.compile(r"[0-9]{8}")
_TIME = re.compile(r"[0-9]{2,6}(\.[0-9]{1,6})?")
_SEXES = ("M", "F", "O")
# Of one person in all images.
_PERSON = ("PatientID", "PatientName")


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceImages:
    """The images of one CT series, in the order of its slices.

    Attributes:
        images: The headers of the objects, without pixels: identifiers and geometry. Text about the patient and the
            study is empty in them, as decoding it may change it.
        identity: That text, of the first image, byte for byte, with the character set it is in.
        places: For each slice its object, as a place in `images`, and the frame in it from 1.
        positions_xyz_mm: For each slice the centre of its first pixel, as stored.
        grid: Of the volume that `read_volume` makes of them.
        notes: What a reader of the results should know about their identifiers, one sentence each.
    """

    images: tuple[Any, ...]
    identity: Dataset
    places: tuple[tuple[int, int], ...]
    positions_xyz_mm: NDArray[np.float64]
    grid: Grid
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Any:
        """The header that stands for all where they agree."""
        return self.images[0]

    @property
    def multi_frame(self) -> bool:
        """Whether an object holds several slices."""
        return "PerFrameFunctionalGroupsSequence" in self.first

    def require_grid(self, grid: Grid) -> None:
        """Raise GeometryError if `grid` is not the images' own."""
        if not self.grid.matches(grid):
            raise GeometryError(
                expected=f"labels on the CT's own grid, {self.grid.shape_zyx} voxels",
                got=f"{grid.shape_zyx} voxels" if grid.shape_zyx != self.grid.shape_zyx else "another place in space",
                remedy="Give the series that the labels were made for",
            )


def source_images(path: Path, *, series: str | None = None) -> SourceImages:
    """The images of the very series that `read_volume` takes from `path` for the same `series`; no pixels are read.

    Text that DICOM does not allow for a date, a time or a sex is left out of the headers; a slice thickness that is not
    said is the distance of the slices. Identifiers of an object that only its file meta information has are taken from
    there; where both have one and they differ, the data set's own is used, as archives do, and a note says so. Images
    without any study or series identifier get ones that follow from their other identifiers, with a note as well.

    Args:
        path: A folder, a zip of one, or a multi-frame file.
        series: As for `read_volume`.

    Raises:
        ReadError: If it is no DICOM, has no such series, or lacks what results must refer to.
        GeometryError: If slices are missing, doubled or unevenly spaced.
    """
    path = Path(path)
    with reading(path):
        if not (path.is_dir() or is_zip_file(path) or is_dicom_file(path)):
            raise ReadError(
                expected="a CT series in DICOM (a folder, a zip, a multi-frame file), as the results are to be DICOM",
                got="another file" if path.exists() else "nothing there",
                remedy="Give the DICOM images, or ask for NIfTI only",
            )
        with dicom_sources(path) as sources:
            stack = chosen_stack(sources, series)
            objects = list(dict.fromkeys(one.source for one in stack.slices))
            headers = [_header(source) for source in objects]
        return _checked(stack, objects, headers)


def _checked(stack: Stack, objects: Sequence[DicomSource], headers: Sequence[tuple[Any, Dataset]]) -> SourceImages:
    """The images of a stack, once their headers are known to be of one person, study and space."""
    images = tuple(header for header, _ in headers)
    notes = (*_contradictions(images), *_with_study_and_series(images))
    _require_one_frame_of_reference(images)
    _require_one_person([identity for _, identity in headers])
    for image in images:
        if not image.get("SliceThickness"):
            image.SliceThickness = round(stack.grid.spacing_zyx_mm[0], 4)
    return SourceImages(
        images=images,
        identity=headers[0][1],
        places=_places(stack, objects),
        positions_xyz_mm=np.array([one.position_xyz_mm for one in stack.slices]),
        grid=stack.grid,
        notes=notes,
    )


def _contradictions(images: Sequence[Any]) -> list[str]:
    """Say which identifiers differ between the data sets and the file meta information, and which are used."""
    notes = []
    for name, other in _IN_FILE_META.items():
        declared = [(str(image[name].value), str(image.file_meta.get(other) or "")) for image in images]
        if count := sum(1 for used, repeated in declared if repeated not in ("", used)):
            notes.append(
                f"In {count} of {len(images)} images {name} contradicts {other}; DICOM results refer to the former."
            )
    return notes


def _with_study_and_series(images: Sequence[Any]) -> list[str]:
    """Give images of which none has a study or a series identifier one that follows from the others, and say so."""
    made = [name for name in _REPLACEABLE if not any(image.get(name) for image in images)]
    uids = {
        "StudyInstanceUID": named_uid("study of", str(images[0].FrameOfReferenceUID)),
        "SeriesInstanceUID": named_uid("series of", *sorted(str(image.SOPInstanceUID) for image in images)),
    }
    for image in images:
        for name in made:
            setattr(image, name, uids[name])
    if not made:
        return []
    return [
        f"The images have no {' and no '.join(made)}; DICOM results carry made ones, so archives will not file them "
        "with the images."
    ]


def _places(stack: Stack, objects: Sequence[DicomSource]) -> tuple[tuple[int, int], ...]:
    number = {source: place for place, source in enumerate(objects)}
    return tuple((number[one.source], one.frame + 1) for one in stack.slices)


def _header(source: DicomSource) -> tuple[Any, Dataset]:
    """An object's header, and the text about the patient and the study taken out of it."""
    try:
        with warnings.catch_warnings(), source.opened() as file:
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
            identity = _identity(header)
            for name, other in _IN_FILE_META.items():
                if not header.get(name) and other in header.file_meta:
                    setattr(header, name, header.file_meta[other].value)
            missing = [
                name
                for name in _IDENTIFIERS
                if not (_UID.fullmatch(uid := str(header.get(name) or "")) or (not uid and name in _REPLACEABLE))
            ]
    except DICOM_FAULTS as error:
        raise _unusable(f"a header that can be read in {source.label}", type(error).__name__) from error
    if missing:
        raise ReadError(
            expected=f"identifiers that DICOM results can refer to in {source.label}",
            got=f"no valid {missing[0]}",
            remedy="Give images whose UIDs were not removed, or ask for NIfTI only",
        )
    return header, identity


def _identity(header: Any) -> Dataset:
    """The text about patient and study as stored, without what may not be copied; `header` is left without it."""
    identity = Dataset()
    if declared := header.pop("SpecificCharacterSet", None):
        identity.add(declared)
    for name in (*REQUIRED_COPIES, *OPTIONAL_COPIES, *_OTHER_COPIES):
        tag = BaseTag(tag_for_keyword(name) or 0)
        element = _as_stored(header, tag) if tag in header else None
        if name in REQUIRED_COPIES:
            stored = b"" if element is None else element.value
            identity[tag] = _raw(tag, stored if _may_be_copied(name, stored) else b"")
            setattr(header, name, "")
        elif element is not None:
            if element.value:
                identity[tag] = element
            delattr(header, name)
    return identity


def _as_stored(dataset: Any, tag: BaseTag) -> Any:
    """The element with the very bytes of its file, which no character set has touched."""
    if _representation(dataset, tag) == "SQ":
        items = []
        for item in dataset[tag].value:
            copied = Dataset()
            for inner in item.keys():  # noqa: SIM118  (a data set's own iterator decodes what it meets)
                copied[inner] = _as_stored(item, inner)
            copied.set_original_encoding(False, True, default_encoding)
            items.append(copied)
        return DataElement(tag, "SQ", Items(items))
    value = dataset.get_item(tag).value
    if not isinstance(value, bytes | None):
        raise TypeError("text that is decoded already")
    return _raw(tag, value or b"", _representation(dataset, tag))


def _representation(dataset: Any, tag: BaseTag) -> str:
    return dictionary_VR(tag) if dictionary_has_tag(tag) else dataset.get_item(tag).VR or "UN"


def _raw(tag: BaseTag, value: bytes, representation: str | None = None) -> RawDataElement:
    value += b" " * (len(value) % 2)
    return RawDataElement(tag, representation or dictionary_VR(tag), len(value), value, 0, False, True)


def _may_be_copied(name: str, stored: bytes) -> bool:
    """Whether it is what DICOM allows for a date, a time or a sex; other text may be anything."""
    text = stored.strip(b" \0").decode("ascii", "replace")
    if name == "PatientSex":
        return text in _SEXES
    pattern = _DATE if name.endswith("Date") else _TIME if name.endswith("Time") else None
    return pattern is None or bool(pattern.fullmatch(text))


def _require_one_frame_of_reference(images: Sequence[Any]) -> None:
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if (count := len({str(image.get(name)) for image in images})) > 1:
            raise _unusable(f"one {name} in the series", f"{count}")


def _require_one_person(identities: Sequence[Dataset]) -> None:
    for name in _PERSON:
        tag = BaseTag(tag_for_keyword(name) or 0)
        values = {identity.get_item(tag).value.rstrip(b" \0^").upper() for identity in identities}
        if len(values) > 1:
            raise ReadError(
                expected=f"one {name} in the series, as the results are to be of one person",
                got=f"{len(values)}",
                remedy="Separate the persons' images, or ask for NIfTI only",
            )


def _unusable(expected: str, got: str) -> ReadError:
    return ReadError(expected=expected, got=got, remedy="Copy the series again from its archive")
