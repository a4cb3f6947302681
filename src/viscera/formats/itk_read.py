"""NRRD and MetaImage files, read with SimpleITK (extra `itk`)."""

from __future__ import annotations

import importlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import MissingExtraError, ReadError
from viscera.core.geometry import Grid
from viscera.core.hounsfield import LARGEST_VOLUME_VOX, require_likely, slab_slices
from viscera.formats.gzip import FAULTS, gzip_decompressor
from viscera.formats.itk_header import TextHeader, checked_header
from viscera.formats.nifti_read import DEFLATE_LARGEST_RATIO, GZIP_MAGIC
from viscera.formats.raster import Raster

_CHUNK_BYTES = 2**20
# How ITK's names of types with several numbers in a voxel begin.
_VECTOR = "vector of "


def open_itk(path: Path, *, labels: bool = False) -> Raster:
    """The image of an .nrrd, .mha or .mhd file.

    SimpleITK keeps the whole image in its own type beside the slabs; for large scans NIfTI and DICOM are leaner.

    Args:
        path: The file.
        labels: Whether a segmentation with named segments will do, which may have several layers, and be cut to one
            slice of voxels.

    Raises:
        MissingExtraError: If SimpleITK is not installed.
        ReadError: If the file is damaged, shorter than its header claims, or not one real-valued 3-D volume.
        GeometryError: If its header does not say where the voxels lie.
    """
    doing = f"reading {path}"
    try:
        sitk: Any = importlib.import_module("SimpleITK")
    except ImportError as error:
        raise MissingExtraError(
            doing, expected="SimpleITK", got="no such package", remedy="Install it with: pip install 'viscera[itk]'"
        ) from error
    header = checked_header(path, doing)
    if header.names and not labels:
        raise ReadError(
            doing,
            expected="a CT",
            got="a segmentation",
            remedy="Give the CT that it was drawn on",
        )
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _require_real_volume(reader, sitk, doing, segmentation=bool(header.names))
        _require_room(reader, sitk, header, doing)
        image = reader.Execute()
    except RuntimeError as error:
        raise ReadError(
            doing,
            expected=f"a whole {path.suffix} file that SimpleITK can read",
            got=_last_line(str(error)),
            remedy="The file is cut off, damaged or of a kind ITK refuses: export it again, best as NIfTI",
        ) from error
    width, height, depth = image.GetSize()[:3]
    spacing, direction, origin = image.GetSpacing(), image.GetDirection(), image.GetOrigin()
    size = image.GetDimension()
    grid = Grid.from_axes(
        (depth, height, width),
        spacing_zyx_mm=(spacing[2], spacing[1], spacing[0]),
        direction_zyx=np.reshape(direction, (size, size))[:3, 2::-1],
        origin_xyz_mm=(origin[0], origin[1], origin[2]),
    )
    return Raster(grid=grid, slope=1.0, intercept=0.0, slabs=_slabs(image, sitk, grid), names=header.names)


def _slabs(image: Any, sitk: Any, grid: Grid) -> Iterator[NDArray[Any]]:
    # The view is only valid while `image` lives, which this generator's frame sees to.
    layers = image.GetNumberOfComponentsPerPixel()
    array = sitk.GetArrayViewFromImage(image).reshape(*grid.shape_zyx, *([layers] if layers > 1 else []))
    step = slab_slices(grid.shape_zyx, array.dtype)
    for start in range(0, grid.shape_zyx[0], step):
        yield array[start : start + step]


def _require_real_volume(reader: Any, sitk: Any, doing: str, *, segmentation: bool) -> None:
    size = reader.GetSize()
    # Names of other types begin with "vector of", "complex of", "label of" or "Unknown".
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    real = reader.GetNumberOfComponents() == 1 and name[0].isdigit()
    real = real or (segmentation and name.removeprefix(_VECTOR)[0].isdigit())
    if len(size) < 3 or min(size[:3]) < (1 if segmentation else 2) or math.prod(size[3:]) > 1 or not real:
        kind = "" if real else f" of {name}"
        raise ReadError(
            doing,
            expected="one 3-D volume of real numbers",
            got=f"{' x '.join(map(str, size))} voxels{kind}",
            remedy="Give one volume with at least 2 voxels along each axis",
        )


def _require_room(reader: Any, sitk: Any, header: TextHeader, doing: str) -> None:
    voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    stored = header.data_file.stat().st_size
    # ITK names types as in "16-bit signed integer" and "vector of 8-bit unsigned integer".
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID()).removeprefix(_VECTOR)
    bits = int(name.partition("-")[0])
    least = voxels * bits / 8 / (DEFLATE_LARGEST_RATIO if header.compressed else 1)
    if least > stored or voxels > LARGEST_VOLUME_VOX:
        raise ReadError(
            doing,
            expected=f"data for the {' x '.join(map(str, reader.GetSize()))} voxels its header claims",
            got=f"a file of {stored} bytes",
            remedy="The file is cut off or damaged: copy or convert it again",
        )
    width, height, depth = reader.GetSize()[:3]
    require_likely((depth, height, width), stored, doing)
    if header.compressed:
        _require_whole(header, voxels * bits // 8, doing)


def _require_whole(header: TextHeader, size: int, doing: str) -> None:
    """ITK makes voxels of damaged data, too, so their checksum is looked at before."""
    try:
        unpacked = _unpacked_bytes(header, size)
    except FAULTS as error:
        raise _damaged(doing, "damaged compressed data") from error
    if unpacked < size:
        raise _damaged(doing, "compressed data that are cut off")


def _unpacked_bytes(header: TextHeader, wanted: int) -> int:
    """How many bytes whole compressed members hold, up to the one that has the `wanted` ones; 0 if one is not whole."""
    count = 0
    with header.data_file.open("rb") as file:
        file.seek(header.first_byte)
        data = file.read(_CHUNK_BYTES)
        if data.startswith(b"BZh"):  # which ITK refuses in its own words
            return wanted
        while data and count < wanted:
            unpacker = gzip_decompressor() if data.startswith(GZIP_MAGIC) else zlib.decompressobj()
            while not unpacker.eof:
                part = unpacker.decompress(data, _CHUNK_BYTES)
                count += len(part)
                data = unpacker.unconsumed_tail or (b"" if unpacker.eof else file.read(_CHUNK_BYTES))
                if not unpacker.eof and not data and not part:
                    return 0
            data = unpacker.unused_data or file.read(_CHUNK_BYTES)
    return count


def _damaged(doing: str, got: str) -> ReadError:
    return ReadError(doing, expected="whole compressed data", got=got, remedy="Copy or convert the file again")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "an error without a message"
