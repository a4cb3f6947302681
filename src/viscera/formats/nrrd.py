"""NRRD files: the header, and where it says the voxels are and lie.

Source: "Definition of NRRD File Format" of the Teem library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from viscera.formats.header_text import (
    BLANKS,
    HEADER_BYTES,
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
)
from viscera.formats.slicer_segments import segment_names
from viscera.formats.voxel_stream import Compression

# The spaces that are a patient's, and what turns each into LPS.
_TO_LPS = {
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1), "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1), "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
}  # fmt: skip
_COMPRESSIONS: dict[str, Compression | None] = {
    "raw": None, "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "ascii": None, "text": None,
    "txt": None,
}  # fmt: skip
_TEXT_ENCODINGS = {"ascii", "text", "txt"}
# ITK copies whole lines into buffers of a fixed size; numbers may take more, nine of 25 signs.
_LONGEST_TEXT, _LONGEST_NUMBERS = 100, 400
_VERSION = re.compile(r"NRRD000[1-9]")
_FIELDS = {
    "content", "number", "type", "block size", "blocksize", "dimension", "space", "space dimension", "sizes",
    "spacings", "thicknesses", "axis mins", "axismins", "axis maxs", "axismaxs", "space directions", "centers",
    "centerings", "kinds", "labels", "units", "space units", "min", "max", "old min", "oldmin", "old max", "oldmax",
    "endian", "encoding", "line skip", "lineskip", "byte skip", "byteskip", "sample units", "sampleunits",
    "space origin", "measurement frame", "data file", "datafile",
}  # fmt: skip
_SEPARATORS = re.compile(r"[ \t(),]+")
_REAL_FIELDS = (
    "space directions", "space origin", "measurement frame", "spacings", "thicknesses", "axis mins", "axismins",
    "axis maxs", "axismaxs",
)  # fmt: skip
_WHOLE_FIELDS = ("dimension", "space dimension", "line skip", "byte skip", "lineskip", "byteskip")
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names}
_EMPTY_LINE = re.compile(r"\n\r?\n")


def nrrd_header(path: Path) -> TextHeader:
    """What the header of an .nrrd file says.

    Raises:
        ReadError: If it is no such header, can be read in two ways, or has its voxels elsewhere than in the file or in
            one next to it.
        GeometryError: If it does not say where the voxels lie.
    """
    text = read_header(path)
    fields, pairs = _fields(text)
    names = segment_names(pairs)
    to_lps = _TO_LPS.get(fields.get("space", "").lower())
    if to_lps is None or "space directions" not in fields:
        raise without_axes()
    directions = _directions(fields["space directions"], axis_count(fields["dimension"]))
    layout = _layout(path, fields, text, [direction is None for direction in directions])
    spatial = [direction for direction in directions if direction is not None]
    origin = _numbers(fields.get("space origin", "")) or [0.0, 0.0, 0.0]
    if len(spatial) != 3 or len(origin) != 3:
        raise refused("three axes in space, each with a direction of 3 numbers", fields["space directions"][:80])
    axes = np.array(spatial) * to_lps
    return TextHeader(layout=layout, axes_xyz_mm=axes, origin_xyz_mm=np.array(origin) * to_lps, names=names)


def _layout(path: Path, fields: Mapping[str, str], text: str, spaceless: list[bool]) -> VoxelLayout:
    file = data_file(path, _either(fields, "data file", "datafile") or "local")
    encoding = fields.get("encoding", "").lower()
    if encoding not in _COMPRESSIONS:
        raise refused(f"voxels encoded as {', '.join(_COMPRESSIONS)}", repr(fields.get("encoding", "")[:40]))
    compression = _COMPRESSIONS[encoding]
    lines, skipped = (int(_either(fields, f"{one} skip", f"{one}skip") or "0") for one in ("line", "byte"))
    if compression and (lines or skipped):
        raise refused("compressed voxels that begin at once", "some to be skipped before")
    if skipped < -1 or lines < 0 or (lines and skipped):
        raise refused("lines or bytes to skip, or byte skip -1", f"{lines} and {skipped}")
    end = _EMPTY_LINE.search(text)
    header = len(text) if end is None else end.end()
    first_byte = None if skipped < 0 else skipped + (header if file == path else 0)
    sizes = axis_sizes(fields["sizes"], len(spaceless))
    # Numbers of one voxel are a first axis without a direction; others of size 1 are nothing.
    layers = sizes[0] if spaceless[0] else 1
    inner = [size for size, outside in zip(sizes, spaceless, strict=True) if not outside]
    outer = [size for size, outside in zip(sizes[1:], spaceless[1:], strict=True) if outside]
    return VoxelLayout(
        data_file=file,
        compression=compression,
        text=encoding in _TEXT_ENCODINGS,
        first_byte=first_byte,
        first_line=lines,
        dtype=_dtype(fields, text=encoding in _TEXT_ENCODINGS),
        sizes=(*inner, *outer),
        layers=layers,
    )


def _dtype(fields: Mapping[str, str], *, text: bool) -> np.dtype[np.generic]:
    name = " ".join(fields.get("type", "").lower().split())
    if name not in _TYPE_OF:
        raise refused("a real number as type", repr(fields.get("type", "")[:40]))
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big") and not text and np.dtype(_TYPE_OF[name]).itemsize > 1:
        raise refused("little or big as endian", repr(endian[:40]))
    return np.dtype((">" if endian == "big" else "<") + _TYPE_OF[name])


def _directions(value: str, axes: int) -> list[list[float] | None]:
    """The vector of each axis, None of one that is not in space."""
    vectors = re.findall(r"none|\([^()]*\)", value, re.IGNORECASE)
    found = [None if one.lower() == "none" else _numbers(one) for one in vectors]
    if len(found) != axes or any(one is not None and len(one) != 3 for one in found):
        raise refused("a direction of 3 numbers, or none, for each axis", value[:80])
    return found


def _numbers(value: str) -> list[float]:
    return [float(one) for one in _SEPARATORS.split(value) if one not in ("", "none")]


def _either(fields: Mapping[str, str], one: str, other: str) -> str | None:
    """The value of a field with two spellings."""
    if one in fields and other in fields:
        raise refused(f"an NRRD header that names one {one}", "two")
    return fields.get(one, fields.get(other))


def _fields(text: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The fields of a header, names in small letters, and its keys with values; it ends with an empty line."""
    if not text.startswith("NRRD"):
        raise refused("an NRRD file", "a file that does not begin with NRRD")
    head, end, _ = text.replace("\r\n", "\n").partition("\n\n")
    if not end:  # without one there is only a header, and the voxels are elsewhere
        head = head.rstrip("\n")
        if len(text) >= HEADER_BYTES:
            raise refused(f"an NRRD header of less than {HEADER_BYTES} bytes", "a longer one")
    version, *lines = head.split("\n")
    if not _VERSION.fullmatch(version):
        raise refused("an NRRD file of a known version", f"{version[:20]!r}")
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in lines:
        require_plain(line)
        if line.startswith("#"):
            continue
        if ":=" in line.partition(": ")[0]:
            _add_pair(line, pairs)
            continue
        name, sign, value = line.partition(": ")
        if not sign or name.lower() not in _FIELDS or name.lower() in fields:
            raise refused("an NRRD header of lines NAME: VALUE, each name once", "other text")
        most = _LONGEST_NUMBERS if name.lower() in (*_REAL_FIELDS, "content") else _LONGEST_TEXT
        require_short(name, value, most)
        fields[name.lower()] = value.strip(BLANKS)
    _require_values(fields)
    return fields, pairs


def _add_pair(line: str, pairs: dict[str, str]) -> None:
    """Add a key with a value of a program's own."""
    key, _, value = line.partition(":=")
    if key in pairs and key.startswith("Segment"):
        raise refused("an NRRD header of keys that differ", f"{key[:40]!r} twice")
    pairs[key] = value.encode("latin-1").decode(errors="replace")


def _require_values(fields: Mapping[str, str]) -> None:
    _either(fields, "data file", "datafile")
    axis_sizes(fields.get("sizes", ""), axis_count(fields.get("dimension", "")))
    for name in _WHOLE_FIELDS:
        if name in fields:
            require_numbers(name, [fields[name]], 1, whole=True)
    for name in _REAL_FIELDS:
        numbers = [one for one in _SEPARATORS.split(fields.get(name, "")) if one not in ("", "none")]
        require_numbers(name, numbers, len(numbers), whole=False)
