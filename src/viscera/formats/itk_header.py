"""The text headers of NRRD and MetaImage files, checked before a library sees them.

ITK believes its headers: some numbers end the whole process, and a field written twice or in another way makes it open
a file that a looser check did not see. Only headers that can be read in one way are let through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from viscera.core.errors import GeometryError, ReadError
from viscera.core.label_names import LabelName
from viscera.formats.slicer_segments import segment_names

# Text headers are far shorter, also those of segmentations with hundreds of segments. They are read in such parts.
HEADER_BYTES = 2**24
_PART_BYTES = 2**16
# The spaces ITK knows how to turn into its own, LPS.
_NRRD_SPACES = {
    "right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps",
}  # fmt: skip
_COMPRESSED_FORMATS = ("gzip", "gz", "bzip2", "bz2")
_MOST_AXES = 4
# No file system has longer names.
_LONGEST_NAME = 255
_LARGEST_SIZE_VOX = 2**31 - 1
# Beyond any place in a scanner, in any unit. ITK multiplies directions by spacings, and its search for an inverse of a
# matrix that has overflowed does not end.
_LARGEST_NUMBER = 1e9
# DICOM's elements are kept as fields like 0008|103e, NIfTI's like dim[0], DICOM's names like Slice Thickness (mm). ITK
# ends a name at a colon as well as at a sign of equality, so that no other name may have one.
_FIELD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_|\[\](){}.,/+#&'\- ]*")
# ITK copies the texts of fields that it knows into places of 255 bytes without asking how long they are.
_LONGEST_TEXT, _LONGEST_OWN_TEXT = 250, 4000
_META_TEXTS = {
    "ObjectType", "ObjectSubType", "TransformType", "Comment", "Name", "Color", "BinaryData", "BinaryDataByteOrderMSB",
    "ElementByteOrderMSB", "CompressedData", "AnatomicalOrientation", "DistanceUnits", "AcquisitionDate", "Modality",
    "SequenceID", "ElementMin", "ElementMax", "ElementType", "ElementDataFile",
}  # fmt: skip
# Of NRRD it copies whole lines, in its error messages, too; its numbers may take more, nine of 25 signs.
_LONGEST_NRRD_TEXT, _LONGEST_NRRD_NUMBERS = 100, 400
_NRRD_VERSION = re.compile(r"NRRD000[1-9]")
_NRRD_FIELDS = {
    "content", "number", "type", "block size", "blocksize", "dimension", "space", "space dimension", "sizes",
    "spacings", "thicknesses", "axis mins", "axismins", "axis maxs", "axismaxs", "space directions", "centers",
    "centerings", "kinds", "labels", "units", "space units", "min", "max", "old min", "oldmin", "old max", "oldmax",
    "endian", "encoding", "line skip", "lineskip", "byte skip", "byteskip", "sample units", "sampleunits",
    "space origin", "measurement frame", "data file", "datafile",
}  # fmt: skip
_NRRD_SEPARATORS = re.compile(r"[ \t(),]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# Around names and values; others that Python strips and splits at are letters to ITK.
_BLANKS = " \t"
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
# MetaImage fields that are whole numbers, and those with a number for each axis or for each pair of axes.
_META_WHOLE = (
    "NDims",
    "ElementNumberOfChannels",
    "HeaderSize",
    "CompressedDataSize",
    "ObjectSubType",
    "ID",
    "ParentID",
)
_META_PER_AXIS = ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
_META_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_NRRD_REAL = (
    "space directions", "space origin", "measurement frame", "spacings", "thicknesses", "axis mins", "axismins",
    "axis maxs", "axismaxs",
)  # fmt: skip
# Bytes or lines before the voxels.
_SKIPPED = ("HeaderSize", "line skip", "byte skip", "lineskip", "byteskip")
_NRRD_WHOLE = ("dimension", "space dimension", "line skip", "byte skip", "lineskip", "byteskip")


@dataclass(frozen=True, kw_only=True)
class TextHeader:
    """What a header says about its voxels.

    Attributes:
        data_file: The file that holds them.
        compressed: Whether they are compressed there.
        first_byte: At which byte they begin there.
        names: What each label is, by layer and value, of a segmentation that says so.
    """

    data_file: Path
    compressed: bool
    first_byte: int
    names: Mapping[tuple[int, int], LabelName] = field(default_factory=dict)


def checked_header(path: Path, doing: str) -> TextHeader:
    """What the header of an .nrrd, .mha or .mhd file says about its voxels.

    Raises:
        ReadError: If it is no such header, can be read in two ways, or has its voxels elsewhere than in the file or in
            one beside it.
        GeometryError: If it does not say where the voxels lie.
    """
    text = _header_text(path)
    names: Mapping[tuple[int, int], LabelName] = {}
    if path.suffix.lower() == ".nrrd":
        fields, pairs = _nrrd_fields(text, doing)
        names = segment_names(pairs, doing)
        known = fields.get("space", "").lower() in _NRRD_SPACES and "space directions" in fields
        data_name = fields.get("data file", fields.get("datafile", "local"))
        compressed = fields.get("encoding", "").lower() in _COMPRESSED_FORMATS
    else:
        fields = _meta_fields(text, doing)
        known = any(name in fields for name in _META_MATRICES) and "ElementSpacing" in fields
        data_name, compressed = fields["ElementDataFile"], fields.get("CompressedData", "").lower() in ("true", "1")
    if not known:
        raise GeometryError(
            doing,
            expected="the spacing and the patient's axes in the header",
            got="a header without them",
            remedy="Export the scan again with its geometry, best from DICOM",
        )
    data_file = _data_file(path, data_name, doing)
    if compressed and any(fields.get(name, "0") != "0" for name in _SKIPPED):
        raise _not_that(doing, "compressed voxels that begin at once", "some to be skipped before")
    first_byte = _header_bytes(text) if data_file == path else 0
    return TextHeader(data_file=data_file, compressed=compressed, first_byte=first_byte, names=names)


def _header_text(path: Path) -> str:
    """The beginning of a file with the whole of its header, as far as that has an end."""
    text, end = "", re.compile(r"\n\r?\n|^[ \t]*ElementDataFile[^\n]*\n", re.MULTILINE)
    with path.open("rb") as file:
        while len(text) < HEADER_BYTES and (part := file.read(_PART_BYTES)):
            # The end may lie over the border of two parts, but its line is not longer than one.
            start = max(0, len(text) - _PART_BYTES)
            text += part.decode("latin-1")
            if end.search(text, start):
                break
    return text


def _header_bytes(text: str) -> int:
    """How long a checked header is that its voxels follow."""
    if not text.startswith("NRRD"):
        last = re.search(r"^[ \t]*ElementDataFile[ \t]*=[^\n]*\n", text, re.MULTILINE)
    else:
        last = re.search(r"\n\r?\n", text)
    return len(text) if last is None else last.end()


def _meta_fields(text: str, doing: str) -> Mapping[str, str]:
    """The fields of a MetaImage header, which ends with the line that names the data file."""
    fields: dict[str, str] = {}
    for line in text.replace("\r\n", "\n").split("\n"):
        name, sign, value = (part.strip(_BLANKS) for part in line.partition("="))
        if not sign or not _FIELD_NAME.fullmatch(name) or name in fields:
            break
        _require_plain(line, doing)
        _require_short(name, value, _LONGEST_TEXT if name in _META_TEXTS else _LONGEST_OWN_TEXT, doing)
        fields[name] = value
        if name == "ElementDataFile":
            break
    if "ElementDataFile" not in fields:
        raise _not_that(doing, "a MetaImage header of lines NAME = VALUE, each name once", "other text")
    axes = _axes(fields.get("NDims", ""), doing)
    _require_sizes(fields.get("DimSize", ""), axes, doing)
    for name, value in fields.items():
        count = 1 if name in _META_WHOLE else axes if name in _META_PER_AXIS else axes**2
        if name in (*_META_WHOLE, *_META_PER_AXIS, *_META_MATRICES):
            _require_numbers(name, _words(value), count, doing, whole=name in _META_WHOLE)
    return fields


def _nrrd_fields(text: str, doing: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The fields of a NRRD header, names in small letters, and its keys with values; it ends with an empty line."""
    if not text.startswith("NRRD"):
        raise _not_that(doing, "an NRRD file", "a file that does not begin with NRRD")
    head, end, _ = text.replace("\r\n", "\n").partition("\n\n")
    if not end:  # without one there is only a header, and the voxels are elsewhere
        head = head.rstrip("\n")
        if len(text) >= HEADER_BYTES:
            raise _not_that(doing, f"an NRRD header of less than {HEADER_BYTES} bytes", "a longer one")
    version, *lines = head.split("\n")
    if not _NRRD_VERSION.fullmatch(version):
        raise _not_that(doing, "an NRRD file of a known version", f"{version[:20]!r}")
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in lines:
        _require_plain(line, doing)
        if line.startswith("#") or ":=" in line.partition(": ")[0]:
            _add_pair(line, pairs, doing)
            continue
        name, sign, value = line.partition(": ")
        if not sign or name.lower() not in _NRRD_FIELDS or name.lower() in fields:
            raise _not_that(doing, "an NRRD header of lines NAME: VALUE, each name once", "other text")
        most = _LONGEST_NRRD_NUMBERS if name.lower() in (*_NRRD_REAL, "content") else _LONGEST_NRRD_TEXT
        _require_short(name, value, most, doing)
        fields[name.lower()] = value.strip(_BLANKS)
    if "data file" in fields and "datafile" in fields:
        raise _not_that(doing, "an NRRD header that names one data file", "two")
    axes = _axes(fields.get("dimension", ""), doing)
    _require_sizes(fields.get("sizes", ""), axes, doing)
    for name in _NRRD_WHOLE:
        if name in fields:
            _require_numbers(name, [fields[name]], 1, doing, whole=True)
    for name in _NRRD_REAL:
        numbers = [one for one in _NRRD_SEPARATORS.split(fields.get(name, "")) if one not in ("", "none")]
        _require_numbers(name, numbers, len(numbers), doing, whole=False)
    return fields, pairs


def _add_pair(line: str, pairs: dict[str, str], doing: str) -> None:
    """Add a key with a value of a program's own; a line may be a comment instead."""
    if line.startswith("#"):
        return
    key, _, value = line.partition(":=")
    if key in pairs and key.startswith("Segment"):
        raise _not_that(doing, "an NRRD header of keys that differ", f"{key[:40]!r} twice")
    pairs[key] = value.encode("latin-1").decode(errors="replace")


def _require_plain(line: str, doing: str) -> None:
    """Another reader may take a control character for the end of a line or of a text."""
    if _CONTROL.search(line):
        raise _not_that(doing, "a header of plain lines", "control characters in it")


def _require_short(name: str, value: str, most: int, doing: str) -> None:
    if len(name) + len(value) > most:
        raise _not_that(doing, f"at most {most} characters as {name[:40]}", f"{len(name) + len(value)}")


def _axes(value: str, doing: str) -> int:
    if not _WHOLE.fullmatch(value) or not 1 <= int(value) <= _MOST_AXES:
        raise _not_that(doing, f"a header of 1 to {_MOST_AXES} axes", f"{value[:40]!r}")
    return int(value)


def _require_sizes(value: str, axes: int, doing: str) -> None:
    sizes = _words(value)
    if len(sizes) != axes or not all(_WHOLE.fullmatch(one) and 0 < int(one) <= _LARGEST_SIZE_VOX for one in sizes):
        raise _not_that(doing, f"{axes} sizes in the header", f"{value[:80]!r}")


def _require_numbers(name: str, values: Sequence[str], count: int, doing: str, *, whole: bool) -> None:
    if len(values) != count or not all(_WHOLE.fullmatch(one) if whole else _is_moderate(one) for one in values):
        kind = f"{'whole ' * whole}number{'s' * (count != 1)}{'' if whole else f' up to {_LARGEST_NUMBER:g}'}"
        raise _not_that(doing, f"{count} {kind} as {name}", f"{' '.join(values)[:80]!r}")


def _is_moderate(text: str) -> bool:
    return bool(_REAL.fullmatch(text)) and abs(float(text)) <= _LARGEST_NUMBER


def _words(value: str) -> list[str]:
    return [one for one in re.split(f"[{_BLANKS}]+", value) if one]


def _data_file(path: Path, name: str, doing: str) -> Path:
    if name.lower() == "local":
        return path
    # "LIST" and names with spaces or signs stand for several files, which the header names one after the other.
    several = name.upper().startswith("LIST") or "%" in name
    if (
        several
        or PurePath(name).name != name
        or "\\" in name
        or len(name) > _LONGEST_NAME
        or not (beside := path.parent / name).is_file()
    ):
        raise _not_that(doing, "voxels in the file or in one beside it", f"the data file {name[:200]!r}")
    return beside


def _not_that(doing: str, expected: str, got: str) -> ReadError:
    return ReadError(doing, expected=expected, got=got, remedy="Check the file, or export the scan again as NIfTI")
