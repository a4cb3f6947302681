"""What the text headers of NRRD and MetaImage files have in common, and the checks before they are trusted.

Only headers that can be read in one way are let through, by this reader and by others: a field written twice or in
another way would make ITK, which most other programs read these formats with, open a file that this one did not see.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError, ReadError
from viscera.core.geometry import Grid, Size
from viscera.core.hounsfield import LARGEST_VOLUME_VOX, require_likely
from viscera.core.label_names import LabelName
from viscera.formats.raster import Raster
from viscera.formats.voxel_stream import Compression, VoxelStream

# Text headers are far shorter, also those of segmentations with hundreds of segments. They are read in such parts.
HEADER_BYTES = 2**24
_PART_BYTES = 2**16
_MOST_AXES = 4
# No file system has longer names.
_LONGEST_NAME = 255
_LARGEST_SIZE_VOX = 2**31 - 1
# Beyond any position in a scanner, in any unit.
_LARGEST_NUMBER = 1e9
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# Around names and values; others that Python strips and splits at are letters to ITK.
BLANKS = " \t"
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_END = re.compile(r"\n\r?\n|^[ \t]*ElementDataFile[^\n]*\n", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class VoxelLayout:
    """Where in which file the voxels are, and how they are stored.

    Attributes:
        data_file: The file that holds them.
        compression: How they are compressed there, None if they are not.
        text: Whether they are written out as numbers.
        first_byte: At which byte they begin there; None if they are the last bytes of the file.
        first_line: How many lines after `first_byte` they begin.
        dtype: Type and byte order.
        sizes: Along each axis, the fastest first, without that of the layers.
        layers: How many numbers a voxel has, the fastest axis of all.
    """

    data_file: Path
    compression: Compression | None
    text: bool = False
    first_byte: int | None
    first_line: int = 0
    dtype: np.dtype[Any]
    sizes: tuple[int, ...]
    layers: int = 1

    @property
    def byte_count(self) -> int:
        """Of all voxels, decompressed."""
        return math.prod(self.sizes) * self.layers * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, eq=False)
class TextHeader:
    """What a header says about its voxels.

    Attributes:
        layout: How they are stored.
        axes_xyz_mm: 3x3; row k is the step from one voxel to the next along the k-th fastest spatial axis, LPS.
        origin_xyz_mm: The centre of the first voxel, LPS.
        names: What each label is, by layer and value, of a segmentation that says so.
    """

    layout: VoxelLayout
    axes_xyz_mm: NDArray[np.float64]
    origin_xyz_mm: NDArray[np.float64]
    names: Mapping[tuple[int, int], LabelName] = field(default_factory=dict)


def opened_image(header: TextHeader, *, labels: bool) -> Raster:
    """The image that a header describes, its voxels still to be read.

    Args:
        header: What the header says.
        labels: Whether a segmentation with named segments will do, which may have several layers, and be cut to one
            slice of voxels.

    Raises:
        ReadError: If the file is shorter than its header claims, or not one real-valued 3-D volume.
        GeometryError: If its axes are no axes.
    """
    if header.names and not labels:
        remedy = "Give the CT that it was drawn on"
        raise ReadError(expected="a CT", got="a segmentation", remedy=remedy)
    layout = header.layout
    shape = _volume_shape(layout, segmentation=bool(header.names))
    stream = VoxelStream(layout.data_file, layout.compression, first_byte=layout.first_byte or 0)
    _require_room(layout, stream)
    affine = np.eye(4)
    affine[:3, :3] = header.axes_xyz_mm.T @ np.eye(3)[[2, 1, 0]]
    affine[:3, 3] = header.origin_xyz_mm
    grid = Grid(shape_zyx=shape, affine=affine)
    return Raster(grid=grid, slope=1.0, intercept=0.0, slabs=_slabs(stream, layout, shape), names=header.names)


def _volume_shape(layout: VoxelLayout, *, segmentation: bool) -> Size:
    sizes = layout.sizes
    several = layout.layers > 1 and not segmentation
    if len(sizes) < 3 or min(sizes[:3]) < (1 if segmentation else 2) or math.prod(sizes[3:]) > 1 or several:
        kind = f" of {layout.layers} numbers each" if several else ""
        raise ReadError(
            expected="one 3-D volume of real numbers",
            got=f"{' x '.join(map(str, sizes))} voxels{kind}",
            remedy="Give one volume with at least 2 voxels along each axis",
        )
    return sizes[2], sizes[1], sizes[0]


def _require_room(layout: VoxelLayout, stream: VoxelStream) -> None:
    voxels = math.prod(layout.sizes) * layout.layers
    # A number that is written out takes a digit and a blank.
    least = 2 * voxels - 1 if layout.text else layout.byte_count + (layout.first_byte or 0) * (not stream.compressed)
    if least > stream.largest_bytes or voxels > LARGEST_VOLUME_VOX:
        raise ReadError(
            expected=f"data for the {' x '.join(map(str, layout.sizes))} voxels its header claims",
            got=f"a file of {stream.stored_bytes} bytes",
            remedy="The file is cut off or damaged: copy or convert it again",
        )
    width, height, depth = layout.sizes[:3]
    require_likely((depth, height, width), stream.stored_bytes)


def _slabs(stream: VoxelStream, layout: VoxelLayout, shape_zyx: Size) -> Iterator[NDArray[Any]]:
    for _ in range(layout.first_line):
        stream.read_line()
    if layout.first_byte is None:
        stream.seek(stream.stored_bytes - layout.byte_count)
    if layout.text:
        yield _written_numbers(stream.read(), layout, shape_zyx)
    else:
        yield from stream.slabs(shape_zyx, layout.dtype, layers=layout.layers)


def _written_numbers(text: bytes, layout: VoxelLayout, shape_zyx: Size) -> NDArray[Any]:
    try:
        numbers = np.array(text.split(), dtype=np.float64).astype(layout.dtype)
    except (ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.size != math.prod(shape_zyx) * layout.layers:
        raise ReadError(
            expected=f"{math.prod(shape_zyx) * layout.layers} numbers after the header",
            got="other text",
            remedy="The file is cut off or damaged: copy or convert it again",
        )
    return numbers.reshape(*shape_zyx, *([layout.layers] if layout.layers > 1 else []))


def read_header(path: Path) -> str:
    """The beginning of a file with the whole of its header, as far as that has an end."""
    text = ""
    with path.open("rb") as file:
        while len(text) < HEADER_BYTES and (part := file.read(_PART_BYTES)):
            # The end may lie over the border of two parts, but its line is not longer than one.
            start = max(0, len(text) - _PART_BYTES)
            text += part.decode("latin-1")
            if _END.search(text, start):
                break
    return text


def data_file(path: Path, name: str) -> Path:
    """The file that the header at `path` names, which may be itself; raises ReadError if it is not next to it."""
    if name.lower() == "local":
        return path
    # "LIST" and names with spaces or signs stand for several files, which the header names one after the other.
    several = name.upper().startswith("LIST") or "%" in name
    if (
        several
        or PurePath(name).name != name
        or "\\" in name
        or len(name) > _LONGEST_NAME
        or not (neighbour := path.parent / name).is_file()
    ):
        raise refused("voxels in the file or in one next to it", f"the data file {name[:200]!r}")
    return neighbour


def require_plain(line: str) -> None:
    """Refuse control characters, which another reader may take for the end of a line or of a text."""
    if _CONTROL.search(line):
        raise refused("a header of plain lines", "control characters in it")


def require_short(name: str, value: str, most: int) -> None:
    """Refuse texts that other readers copy into buffers of a fixed size."""
    if len(name) + len(value) > most:
        raise refused(f"at most {most} characters as {name[:40]}", f"{len(name) + len(value)}")


def axis_count(value: str) -> int:
    """The number of axes; raises ReadError if it is none, or none that a scan has."""
    if not _WHOLE.fullmatch(value) or not 1 <= int(value) <= _MOST_AXES:
        raise refused(f"a header of 1 to {_MOST_AXES} axes", f"{value[:40]!r}")
    return int(value)


def axis_sizes(value: str, axes: int) -> tuple[int, ...]:
    """The size along each axis; raises ReadError if one is none."""
    sizes = words(value)
    if len(sizes) != axes or not all(_WHOLE.fullmatch(one) and 0 < int(one) <= _LARGEST_SIZE_VOX for one in sizes):
        raise refused(f"{axes} sizes in the header", f"{value[:80]!r}")
    return tuple(map(int, sizes))


def require_numbers(name: str, values: Sequence[str], count: int, *, whole: bool) -> None:
    """Refuse as the field `name` what is not `count` numbers of a moderate size."""
    if len(values) != count or not all(_WHOLE.fullmatch(one) if whole else _is_moderate(one) for one in values):
        kind = f"{'whole ' * whole}number{'s' * (count != 1)}{'' if whole else f' up to {_LARGEST_NUMBER:g}'}"
        raise refused(f"{count} {kind} as {name}", f"{' '.join(values)[:80]!r}")


def _is_moderate(text: str) -> bool:
    return bool(_REAL.fullmatch(text)) and abs(float(text)) <= _LARGEST_NUMBER


def words(value: str) -> list[str]:
    """The parts of a value between blanks."""
    return [one for one in re.split(f"[{BLANKS}]+", value) if one]


def refused(expected: str, got: str) -> ReadError:
    """The error of a header that is not let through."""
    return ReadError(expected=expected, got=got, remedy="Check the file, or export the scan again as NIfTI")


def without_axes() -> GeometryError:
    """The error of a header that does not say where its voxels lie."""
    return GeometryError(
        expected="the spacing and the patient's axes in the header",
        got="a header without them",
        remedy="Export the scan again with its geometry, best from DICOM",
    )
