"""MetaImage files (.mha, .mhd): the header, and where it says the voxels are and lie.

Source: the MetaIO documentation of ITK; where it is silent, what ITK makes of a field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from viscera.core.errors import GeometryError
from viscera.formats.header_text import (
    BLANKS,
    TextHeader,
    VoxelLayout,
    axis_count,
    axis_sizes,
    data_file,
    read_header,
    refused,
    require_numbers,
    require_plain,
    require_short,
    without_axes,
    words,
)

# DICOM's elements are kept as fields like 0008|103e, NIfTI's like dim[0], DICOM's names like Slice Thickness (mm). ITK
# ends a name at a colon as well as at a sign of equality, so that no other name may have one.
_FIELD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_|\[\](){}.,/+#&'\- ]*")
# ITK copies the texts of fields that it knows into buffers of 255 bytes without asking how long they are.
_LONGEST_TEXT, _LONGEST_OWN_TEXT = 250, 4000
_TEXTS = {
    "ObjectType", "ObjectSubType", "TransformType", "Comment", "Name", "Color", "BinaryData", "BinaryDataByteOrderMSB",
    "ElementByteOrderMSB", "CompressedData", "AnatomicalOrientation", "DistanceUnits", "AcquisitionDate", "Modality",
    "SequenceID", "ElementMin", "ElementMax", "ElementType", "ElementDataFile",
}  # fmt: skip
# Fields that are whole numbers, and those with a number for each axis or for each pair of axes.
_WHOLE = ("NDims", "ElementNumberOfChannels", "HeaderSize", "CompressedDataSize", "ObjectSubType", "ID", "ParentID")
_ORIGINS = ("Offset", "Position", "Origin")
_PER_AXIS = ("DimSize", "ElementSpacing", "ElementSize", "CenterOfRotation", *_ORIGINS)
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_LAST_LINE = re.compile(r"^[ \t]*ElementDataFile[ \t]*=[^\n]*\n", re.MULTILINE)


def metaimage_header(path: Path) -> TextHeader:
    """What the header of an .mha or .mhd file says.

    Raises:
        ReadError: If it is no such header, can be read in two ways, or has its voxels elsewhere than in the file or in
            one next to it.
        GeometryError: If it does not say where the voxels lie.
    """
    text = read_header(path)
    fields = _fields(text)
    if not any(name in fields for name in _MATRICES) or "ElementSpacing" not in fields:
        raise without_axes()
    axes = int(fields["NDims"])
    layout = _layout(path, fields, text)
    spacing = np.array(words(fields["ElementSpacing"]), dtype=np.float64)
    if not (spacing > 0).all():
        raise GeometryError(
            expected="spacings above zero",
            got=f"ElementSpacing {spacing.tolist()}",
            remedy="Correct the spacing in the file's header",
        )
    matrix = np.array(_one_of(fields, _MATRICES), dtype=np.float64).reshape(axes, axes)
    origin = np.array(_one_of(fields, _ORIGINS) or ["0"] * axes, dtype=np.float64)
    return TextHeader(layout=layout, axes_xyz_mm=(matrix * spacing[:, np.newaxis])[:3, :3], origin_xyz_mm=origin[:3])


def _layout(path: Path, fields: Mapping[str, str], text: str) -> VoxelLayout:
    file = data_file(path, fields["ElementDataFile"])
    compressed, skipped = _is_true(fields, "CompressedData"), int(fields.get("HeaderSize", "0"))
    if compressed and skipped:
        raise refused("compressed voxels that begin at once", "some to be skipped before")
    last = _LAST_LINE.search(text)
    header = len(text) if last is None else last.end()
    return VoxelLayout(
        data_file=file,
        compression="zlib" if compressed else None,
        text="BinaryData" in fields and not _is_true(fields, "BinaryData"),
        first_byte=None if skipped < 0 else skipped or (header if file == path else 0),
        dtype=_dtype(fields),
        sizes=axis_sizes(fields["DimSize"], int(fields["NDims"])),
        layers=int(fields.get("ElementNumberOfChannels", "1")),
    )


def _dtype(fields: Mapping[str, str]) -> np.dtype[np.generic]:
    name = fields.get("ElementType", "")
    orders = {_is_true(fields, order) for order in _BYTE_ORDERS if order in fields}
    if name.removesuffix("_ARRAY") not in _TYPES:
        raise refused("a real number as ElementType", repr(name[:40]))
    if len(orders) > 1:
        raise refused("one byte order", "two")
    return np.dtype((">" if True in orders else "<") + _TYPES[name.removesuffix("_ARRAY")])


def _is_true(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "")[:1] in ("T", "t", "1")


def _one_of(fields: Mapping[str, str], names: tuple[str, ...]) -> list[str]:
    """The numbers of the one field of several that mean the same; none if there is none."""
    found = {name: [float(one) for one in words(fields[name])] for name in names if name in fields}
    if any(numbers != next(iter(found.values())) for numbers in found.values()):
        raise refused(f"one of {', '.join(names)}", f"{' and '.join(found)} that differ")
    return words(fields[next(iter(found))]) if found else []


def _fields(text: str) -> Mapping[str, str]:
    """The fields of a header, which ends with the line that names the data file."""
    fields: dict[str, str] = {}
    for line in text.replace("\r\n", "\n").split("\n"):
        name, sign, value = (part.strip(BLANKS) for part in line.partition("="))
        if not sign or not _FIELD_NAME.fullmatch(name) or name in fields:
            break
        require_plain(line)
        require_short(name, value, _LONGEST_TEXT if name in _TEXTS else _LONGEST_OWN_TEXT)
        fields[name] = value
        if name == "ElementDataFile":
            break
    if "ElementDataFile" not in fields:
        raise refused("a MetaImage header of lines NAME = VALUE, each name once", "other text")
    axes = axis_count(fields.get("NDims", ""))
    axis_sizes(fields.get("DimSize", ""), axes)
    for name, value in fields.items():
        count = 1 if name in _WHOLE else axes if name in _PER_AXIS else axes**2
        if name in (*_WHOLE, *_PER_AXIS, *_MATRICES):
            require_numbers(name, words(value), count, whole=name in _WHOLE)
    return fields
