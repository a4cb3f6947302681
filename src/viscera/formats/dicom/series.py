"""The headers of DICOM objects as slices, and the slices as series to choose from."""

from __future__ import annotations

import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from viscera.core.errors import ReadError
from viscera.core.geometry import Vector
from viscera.formats.dicom.files import DicomSource
from viscera.formats.dicom.series_ranking import HU_TYPES, ImageKind, SeriesTraits, image_kind, spread

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
# Larger than any CT detector's matrix; a header that claims more is wrong.
LARGEST_MATRIX_VOX = 4096

# Inflating an object has no limit on what comes out, and nobody deflates CT (reports, yes: they are passed over).
DEFLATED = b"1.2.840.10008.1.2.1.99"
_CT_CLASSES = b"1.2.840.10008.5.1.4.1.1.2"
META_BYTES = 4096
# Only these are kept in memory, so nothing about a person can reach a message.
_TAGS = [
    "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "SeriesNumber", "SeriesDescription",
    "BodyPartExamined", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "VolumeBasedCalculationTechnique",
    "DerivationCodeSequence",
]  # fmt: skip


class NoCtSeriesError(ReadError):
    """DICOM objects, or none, that are all sound and have no CT series among them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One image of a CT series, its pixels not yet read.

    Attributes:
        source, frame: The object and the frame in it, from 0.
        instance: The object's identifier, possibly empty; never shown.
        kind: What sort of image it is.
        rescale_type: In capitals, empty if not said.
        size_vox: Rows and columns.
        position_xyz_mm: Centre of the first pixel.
        orientation: Unit direction of growing column index, then of growing row index, in x, y, z.
        spacing_mm: Between rows, then between columns.
        slope, intercept: Stored values to HU.
    """

    source: DicomSource
    frame: int
    instance: str
    kind: ImageKind
    rescale_type: str
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
    """

    uid: str
    number: str
    description: str
    body_part: str
    slices: tuple[Slice, ...]

    @property
    def units(self) -> str:
        """What is measured, for messages."""
        return repr(self.slices[0].rescale_type) if self.slices[0].rescale_type not in HU_TYPES else "of a spectral map"

    @cached_property
    def traits(self) -> SeriesTraits:
        """What the ranking looks at."""
        normal = self.slices[0].normal
        along = np.array([one.position_xyz_mm for one in self.slices]) @ normal
        images = {(one.instance or number, one.frame, one.position_xyz_mm) for number, one in enumerate(self.slices)}
        places, gap_mm, even = spread(along, len(images))
        return SeriesTraits(
            kind=self.slices[0].kind,
            axial=bool(abs(normal[2]) >= AXIAL_COSINE),
            places=places,
            gap_mm=gap_mm,
            even=even,
            description=self.description,
            body_part=self.body_part,
            number=self.number,
            uid=self.uid,
        )

    def text(self, *, with_uid: bool) -> str:
        """A line for notes and messages: number, description and slice count."""
        name = f"series {self.number}" if self.number else "a series without number"
        described = f" ({self.description})" if self.description else ""
        uid = f" with UID {self.uid}" if with_uid and self.uid else ""
        return f"{name}{described}{uid}, {len(self.slices)} slices"


def ct_series(sources: Sequence[DicomSource]) -> list[Series]:
    """The CT series in `sources`, best first, see `viscera.formats.dicom.series_ranking`.

    Localisers, pictures of reports and objects of other modalities are passed over. Images in HU and others, and
    projections and others, are never of one series, regardless of what their identifiers say.

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
                header = _header(source)
                if header is None:
                    continue
                modality = _text(header, "Modality") or "no modality"
                modalities[modality] += 1
                if modality == "CT":
                    reason, slices = _slices(header, source)
                    passed_over[reason] += 1
                    found.append((_labels(header), slices))
            except DICOM_FAULTS as error:
                raise _unreadable(source, type(error).__name__) from error
    series = _grouped(found)
    if not series:
        raise _no_series(modalities, passed_over)
    return sorted(series, key=lambda one: one.traits.rank())


def _header(source: DicomSource) -> Any | None:
    """The few fields of interest; None for bytes that only look like DICOM."""
    with source.opened() as file:
        head = file.read(META_BYTES)
        marked = head[128:132] == b"DICM"
        if marked and DEFLATED in head:
            if _CT_CLASSES not in head:
                return None
            raise _unreadable(source, "the deflated transfer syntax, which is not supported")
        file.seek(0)
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
            return header if marked or "Modality" in header else None
        except DICOM_FAULTS:
            if marked:
                raise
            return None


def _unreadable(source: DicomSource, got: str) -> ReadError:
    return ReadError(
        expected=f"a whole DICOM object in {source.label}",
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
    }


def _slices(header: Any, source: DicomSource) -> tuple[str, list[Slice]]:
    """The slices of a CT object, and why there are none if so."""
    kind = _kind(header, ())
    if not kind.slices:
        return "localisers", []
    if int(header.get("SamplesPerPixel") or 1) != 1 or "Rows" not in header:
        return "pictures or objects without an image", []
    if "PerFrameFunctionalGroupsSequence" in header:
        return "images without position", list(_frames(header, source))
    if not header.get("ImagePositionPatient") or not header.get("ImageOrientationPatient"):
        return "images without position", []
    return "images", [_slice(header, source, 0, [header], kind)]


def _frames(header: Any, source: DicomSource) -> Iterator[Slice]:
    shared = list(header.get("SharedFunctionalGroupsSequence") or ())[:1]
    for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        items = [
            group[0]
            for functional in (frame, *shared)
            for name in _GROUPS
            if (group := functional.get(name))
        ]  # fmt: skip
        placed = any("ImagePositionPatient" in item for item in items)
        if placed and (kind := _kind(header, items)).slices:
            yield _slice(header, source, number, items, kind)


# Where an enhanced object keeps what a classic one has at its top (DICOM PS3.3, C.7.6.16.2 and C.8.15.3).
_GROUPS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "CTPixelValueTransformationSequence", "CTImageFrameTypeSequence",
)  # fmt: skip


def _kind(header: Any, items: Sequence[Any]) -> ImageKind:
    """What sort of image `items`, which stand before the object's `header`, tell of."""

    def texts(name: str) -> list[str]:
        value = next((one for item in (*items, header) if (one := item.get(name)) not in (None, "")), ())
        return [str(part).upper() for part in ([value] if isinstance(value, str) else value)]

    derivations = header.get("DerivationCodeSequence") or ()
    return image_kind(
        (*(texts("FrameType") or texts("ImageType")), *texts("VolumeBasedCalculationTechnique")),
        rescale_type="".join(texts("RescaleType")).strip(),
        description=_text(header, "SeriesDescription"),
        codes=tuple(str(one.get("CodeValue") or "") for one in derivations),
    )


def _slice(header: Any, source: DicomSource, frame: int, items: Sequence[Any], kind: ImageKind) -> Slice:
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
        kind=kind,
        rescale_type=str(value("RescaleType", "")).strip().upper(),
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
    return [Series(**labels, slices=part) for labels, members in groups for part in _divided(members)]


def _divided(members: Sequence[Slice]) -> list[tuple[Slice, ...]]:
    """Originals and what was derived from them apart, where one series has both at the same places.

    Under identifiers of their own only: what shares an identifier claims to be the same image, and is compared.
    """
    originals = tuple(one for one in members if not one.kind.derived)
    derived = tuple(one for one in members if one.kind.derived)
    shared = {one.position_xyz_mm for one in originals} & {one.position_xyz_mm for one in derived}
    known = {(one.instance, one.frame) for one in originals}
    if shared and not any((one.instance, one.frame) in known for one in derived):
        return [originals, derived]
    return [tuple(members)]


def _alike(first: Slice, second: Slice) -> bool:
    return (
        (first.kind.in_hu, first.kind.projection) == (second.kind.in_hu, second.kind.projection)
        and first.size_vox == second.size_vox
        and bool(np.allclose(first.orientation, second.orientation, rtol=0, atol=ORIENTATION_TOLERANCE))
        and bool(np.allclose(first.spacing_mm, second.spacing_mm, rtol=0, atol=SPACING_TOLERANCE_MM))
    )


def _no_series(modalities: Counter[str], passed_over: Counter[str]) -> NoCtSeriesError:
    if not modalities:
        got = "no DICOM object at all"
    elif "CT" not in modalities:
        got = f"only {', '.join(sorted(modalities))}"
    else:
        got = "only " + ", ".join(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
    return NoCtSeriesError(expected="a CT series", got=got, remedy="Give the folder of a CT series in DICOM")
