"""The headers of DICOM objects as slices, and the slices as series to choose from."""

from __future__ import annotations

import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from viscera.adapters.dicom_files import DicomSource
from viscera.errors import ReadError
from viscera.geometry import Vector

# What pydicom raises on damaged objects; there is no common root.
DICOM_FAULTS = (
    InvalidDicomError, BytesLengthException, AttributeError, KeyError, IndexError, TypeError, ValueError,
    ArithmeticError, EOFError, MemoryError, OSError, RuntimeError, struct.error,
)  # fmt: skip
# Direction cosines within this are one orientation: a thousandth is half a millimetre across a body.
ORIENTATION_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-4
# Cosine between a series' normal and the body's long axis above which its slices count as axial (37 degrees: gantries
# tilt by up to 30).
AXIAL_COSINE = 0.8
# Shorter series are a look at one place, for timing contrast agent or guiding a needle; they come last.
FEWEST_PLACES = 10
# Larger than any CT detector's matrix; a header that claims more is wrong.
LARGEST_MATRIX_VOX = 4096
# Rescale types that are Hounsfield units or do not say (DICOM PS3.3, C.11.1.1.2).
HU_TYPES = ("", "HU", "HU_MOD", "US", "NONE")
ABDOMEN_HINTS = ("ABD", "LIVER", "PANCREAS", "KIDNEY", "SPLEEN", "BODY", "TRUNK", "TORSO", "WHOLEBODY")

# Inflating an object has no limit on what comes out, and nobody deflates CT (reports, yes: they are passed over).
DEFLATED = b"1.2.840.10008.1.2.1.99"
_CT_CLASSES = b"1.2.840.10008.5.1.4.1.1.2"
META_BYTES = 4096
# Only these are kept in memory, so nothing about a person can reach a message.
_TAGS = [
    "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "SeriesNumber", "SeriesDescription",
    "BodyPartExamined", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


class NoCtSeriesError(ReadError):
    """DICOM objects, or none, that are all sound and have no CT series among them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One image of a CT series, its pixels not yet read.

    Attributes:
        source, frame: The object and the frame in it, from 0.
        instance: The object's identifier, possibly empty; never shown.
        size_vox: Rows and columns.
        position_xyz_mm: Centre of the first pixel.
        orientation: Unit direction of growing column index, then of growing row index, in x, y, z.
        spacing_mm: Between rows, then between columns.
        slope, intercept: Stored values to HU.
    """

    source: DicomSource
    frame: int
    instance: str
    size_vox: tuple[int, int]
    position_xyz_mm: Vector
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float

    @property
    def normal(self) -> Any:
        """Direction across the slice: of growing columns x of growing rows."""
        return np.cross(self.orientation[:3], self.orientation[3:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """Parallel slices of one size from one series.

    Attributes:
        uid: Series Instance UID, possibly empty.
        number, description, body_part: As stored; empty where absent.
        slices: In no order.
        rescale_type: Of the first slice, in capitals.
    """

    uid: str
    number: str
    description: str
    body_part: str
    rescale_type: str
    slices: tuple[Slice, ...]

    @property
    def places(self) -> int:
        """How many different positions across the slices there are, to a hundredth of a millimetre."""
        normal = self.slices[0].normal
        return len({round(float(np.dot(one.position_xyz_mm, normal)), 2) for one in self.slices})

    @property
    def axial(self) -> bool:
        """Whether the slices lie across the body's long axis."""
        return bool(abs(self.slices[0].normal[2]) >= AXIAL_COSINE)

    def text(self, *, with_uid: bool) -> str:
        """A line for notes and messages: number, description and slice count."""
        name = f"series {self.number}" if self.number else "a series without number"
        described = f" ({self.description})" if self.description else ""
        uid = f" with UID {self.uid}" if with_uid and self.uid else ""
        return f"{name}{described}{uid}, {len(self.slices)} slices"


def ct_series(sources: Sequence[DicomSource], doing: str) -> list[Series]:
    """The CT series in `sources`, best first: not short, axial, most positions, named after the abdomen.

    Localisers, pictures of reports and objects of other modalities are passed over.

    Raises:
        NoCtSeriesError: If there is no CT series.
        ReadError: If an object cannot be parsed.
    """
    modalities: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    found: list[tuple[dict[str, str], list[Slice]]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values
        for source in sources:
            try:
                header = _header(source, doing)
                if header is None:
                    continue
                modality = _text(header, "Modality") or "no modality"
                modalities[modality] += 1
                if modality == "CT":
                    reason, slices = _slices(header, source)
                    passed_over[reason] += 1
                    found.append((_labels(header), slices))
            except DICOM_FAULTS as error:
                raise _unreadable(doing, source, type(error).__name__) from error
    series = _grouped(found)
    if not series:
        raise _no_series(doing, modalities, passed_over)
    return sorted(series, key=_rank)


def _header(source: DicomSource, doing: str) -> Any | None:
    """The few fields of interest; None for bytes that only look like DICOM."""
    with source.opened() as file:
        head = file.read(META_BYTES)
        marked = head[128:132] == b"DICM"
        if marked and DEFLATED in head:
            if _CT_CLASSES not in head:
                return None
            raise _unreadable(doing, source, "the deflated transfer syntax, which is not supported")
        file.seek(0)
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
            return header if marked or "Modality" in header else None
        except DICOM_FAULTS:
            if marked:
                raise
            return None


def _unreadable(doing: str, source: DicomSource, got: str) -> ReadError:
    return ReadError(
        f"{doing}, {source.label}",
        expected="a whole DICOM object",
        got=got,
        remedy="Remove the file if it is not part of the CT, or copy the series again",
    )


def _text(header: Any, name: str, longest: int = 64) -> str:
    value = header.get(name)
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " for c in text).strip()[:longest]


def _labels(header: Any) -> dict[str, str]:
    return {
        "uid": _text(header, "SeriesInstanceUID"),
        "number": _text(header, "SeriesNumber"),
        "description": _text(header, "SeriesDescription"),
        "body_part": _text(header, "BodyPartExamined"),
        "rescale_type": _text(header, "RescaleType").upper(),
    }


def _slices(header: Any, source: DicomSource) -> tuple[str, list[Slice]]:
    """The slices of a CT object, and why there are none if so."""
    kinds = {str(kind).upper() for kind in header.get("ImageType") or ()}
    if kinds & {"LOCALIZER", "SCOUT", "TOPOGRAM"}:
        return "localisers", []
    if int(header.get("SamplesPerPixel") or 1) != 1 or "Rows" not in header:
        return "pictures or objects without an image", []
    if "PerFrameFunctionalGroupsSequence" in header:
        return "images without position", list(_frames(header, source))
    if not header.get("ImagePositionPatient") or not header.get("ImageOrientationPatient"):
        return "images without position", []
    return "images", [_slice(header, source, 0, [header])]


def _frames(header: Any, source: DicomSource) -> Iterator[Slice]:
    shared = list(header.get("SharedFunctionalGroupsSequence") or ())[:1]
    for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        items = [
            group[0]
            for functional in (frame, *shared)
            for name in _GROUPS
            if (group := functional.get(name))
        ]  # fmt: skip
        kinds = {str(kind).upper() for item in items for kind in item.get("FrameType") or ()}
        placed = any("ImagePositionPatient" in item for item in items)
        if placed and not kinds & {"LOCALIZER", "SCOUT"}:
            yield _slice(header, source, number, items)


# Where an enhanced object keeps what a classic one has at its top (DICOM PS3.3, C.7.6.16.2 and C.8.15.3).
_GROUPS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "CTPixelValueTransformationSequence", "CTImageFrameTypeSequence",
)  # fmt: skip


def _slice(header: Any, source: DicomSource, frame: int, items: Sequence[Any]) -> Slice:
    def value(name: str, default: Any = None) -> Any:
        present = (item.get(name) for item in items)
        return next((one for one in present if one not in (None, "")), default)

    orientation = np.array([float(part) for part in value("ImageOrientationPatient")])
    position = [float(part) for part in value("ImagePositionPatient")]
    spacing = [float(part) for part in value("PixelSpacing")]
    lengths = np.linalg.norm(orientation.reshape(2, 3), axis=1)
    slope, intercept = float(value("RescaleSlope", 1.0)), float(value("RescaleIntercept", 0.0))
    numbers = np.array([*orientation, *position, *spacing, slope, intercept])
    skewed = abs(float(np.dot(orientation[:3], orientation[3:]))) > ORIENTATION_TOLERANCE
    if len(numbers) != 13 or not np.isfinite(numbers).all() or (abs(lengths - 1) > 0.01).any() or skewed:
        raise ValueError("position, orientation or rescale")
    rows, columns = int(header.Rows), int(header.Columns)
    if min(*spacing, slope) <= 0 or not 1 < min(rows, columns) <= max(rows, columns) <= LARGEST_MATRIX_VOX:
        raise ValueError("spacing, size or slope")
    return Slice(
        source=source,
        frame=frame,
        instance=str(header.get("SOPInstanceUID") or ""),
        size_vox=(rows, columns),
        position_xyz_mm=(position[0], position[1], position[2]),
        orientation=tuple((orientation.reshape(2, 3) / lengths[:, None]).ravel().tolist()),
        spacing_mm=(spacing[0], spacing[1]),
        slope=slope,
        intercept=intercept,
    )


def _grouped(found: Iterable[tuple[dict[str, str], list[Slice]]]) -> list[Series]:
    groups: list[tuple[dict[str, str], list[Slice]]] = []
    for labels, slices in found:
        for one in slices:
            for known, members in groups:
                if known["uid"] == labels["uid"] and _alike(members[0], one):
                    members.append(one)
                    break
            else:
                groups.append((labels, [one]))
    return [Series(**labels, slices=tuple(members)) for labels, members in groups]


def _alike(first: Slice, second: Slice) -> bool:
    return (
        first.size_vox == second.size_vox
        and bool(np.allclose(first.orientation, second.orientation, rtol=0, atol=ORIENTATION_TOLERANCE))
        and bool(np.allclose(first.spacing_mm, second.spacing_mm, rtol=0, atol=SPACING_TOLERANCE_MM))
    )


def _rank(series: Series) -> tuple[Any, ...]:
    words = f"{series.body_part} {series.description}".upper()
    hinted = any(hint in words for hint in ABDOMEN_HINTS)
    short = series.places < FEWEST_PLACES
    return short, not series.axial, -series.places, not hinted, len(series.number), series.number, series.uid


def _no_series(doing: str, modalities: Counter[str], passed_over: Counter[str]) -> NoCtSeriesError:
    if not modalities:
        got = "no DICOM object at all"
    elif "CT" not in modalities:
        got = f"only {', '.join(sorted(modalities))}"
    else:
        got = "only " + ", ".join(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
    return NoCtSeriesError(doing, expected="a CT series", got=got, remedy="Give the folder of a CT series in DICOM")
