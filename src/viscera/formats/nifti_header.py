"""NIfTI headers, versions 1 and 2, parsed and written with nibabel.

nibabel knows the fields; what is accepted is decided here, as nibabel repairs or ignores some of what misplaces voxels.
"""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from viscera.core.errors import ReadError
from viscera.core.geometry import Grid
from viscera.core.nifti_affine import stored_affine

# The two headers, of version 1 and of version 2.
HEADER_1_BYTES, HEADER_2_BYTES = 348, 540
# Far more than any extension before the voxels; what is to be skipped has to be decompressed first.
LARGEST_OFFSET_BYTES = 2**28

# Axes within this of orthogonal can be stored as a quaternion.
ORTHONORMAL_TOLERANCE = 1e-5
# Where nibabel's name would not do; the others are named as in numpy.
_TYPES = {
    "none": "the unknown data type 0",
    "all": "the unknown data type 255",
    "binary": "1-bit",
    "RGB": "RGB colour",
    "RGBA": "RGBA colour",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class NiftiHeader:
    """What a NIfTI header says about its image.

    Attributes:
        grid: Where the voxels lie.
        dtype: Type and byte order of the stored numbers.
        first_byte: Where the stored numbers begin in the uncompressed file.
        slope, intercept: Stored numbers to values.
        notes: What was odd, one sentence each.
    """

    grid: Grid
    dtype: np.dtype[Any]
    first_byte: int
    slope: float
    intercept: float
    notes: tuple[str, ...]


@np.errstate(all="ignore")  # what damaged numbers lead to is refused in words, below and by the grid
def parsed_header(raw: bytes) -> NiftiHeader:
    """The record of the header in `raw`, the first `HEADER_2_BYTES` (or all, if fewer) of an uncompressed file.

    Raises:
        ReadError: If it is no NIfTI header of one real-valued 3-D image.
        GeometryError: If it does not say where the voxels lie.
    """
    header = _header(raw)
    dtype = _stored_type(header)
    shape_ijk = _spatial_shape(header["dim"].tolist())
    affine, notes = stored_affine(header, shape_ijk)
    slope, intercept = _scaling(header)
    first_byte = header["vox_offset"].item()
    if not (math.isfinite(first_byte) and header.single_vox_offset <= first_byte <= LARGEST_OFFSET_BYTES):
        raise _broken(f"data that begin at byte {first_byte}")
    return NiftiHeader(
        grid=Grid.from_nifti(shape_ijk, affine),
        dtype=dtype,
        first_byte=int(first_byte),
        slope=slope,
        intercept=intercept,
        notes=notes,
    )


def _broken(got: str) -> ReadError:
    return ReadError(expected="a NIfTI header", got=got, remedy="Check the file, or convert the scan again")


def _header(raw: bytes) -> Any:
    """A nibabel header, unchecked: its checks repair what is to be refused, and write to a log."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    kinds: tuple[Any, ...] = (Nifti1Header, Nifti2Header)
    # The byte order is tried, as nibabel guesses it from a field that may be damaged.
    for kind, order in itertools.product(kinds, "<>"):
        size = kind.sizeof_hdr
        if len(raw) < size or (header := kind(raw[:size], order, check=False))["sizeof_hdr"] != size:
            continue
        if header["magic"] in (b"ni1", b"ni2"):
            raise _broken("the header of a .hdr/.img pair, which is not supported")
        if header["magic"] != kind.single_magic:
            raise _broken("a header without the NIfTI mark (Analyze 7.5 is not supported)")
        return header
    raise _broken("other bytes" if len(raw) >= Nifti1Header.sizeof_hdr else f"a file of {len(raw)} bytes")


def _stored_type(header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
        name = header.get_value_label("datatype")
    except KeyError:
        dtype, name = np.dtype(np.void), f"the unknown data type {header['datatype']}"
    if dtype.kind in "iuf" and dtype.itemsize <= 8:
        return dtype
    raise ReadError(
        expected="one real number per voxel",
        got=_TYPES.get(name, name),
        remedy="Give the CT itself, in Hounsfield units",
    )


def _spatial_shape(dim: list[int]) -> tuple[int, int, int]:
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise _broken(f"the dimensions {dim}")
    shape = dim[1 : dim[0] + 1]
    volumes = math.prod(shape[3:])
    if len(shape) < 3 or min(shape[:3]) < 2:
        got = f"{' x '.join(map(str, shape))} voxels, which is a picture"
    elif volumes > 1:
        got = f"{volumes} volumes in one file"
    else:
        return shape[0], shape[1], shape[2]
    raise ReadError(expected="one 3-D volume", got=got, remedy="Give one volume with at least 2 voxels along each axis")


def _scaling(header: Any) -> tuple[float, float]:
    slope, intercept = header["scl_slope"].item(), header["scl_inter"].item()
    if slope == 0 or math.isnan(slope):  # the standard's two ways of saying "not scaled"
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise _broken(f"the scaling {slope}, {intercept}")
    return slope, intercept


def packed_header(grid: Grid, dtype: np.dtype[Any], *, extension: bytes = b"", intent: int = 0) -> bytes:
    """The bytes before the voxels of a little-endian version 1 file: header, extension mark and one comment extension.

    The sform holds the affine; the qform too where it can, which is when the axes are orthogonal.

    Args:
        grid: Where the voxels lie, at most 32767 along each axis.
        dtype: uint8 or int16.
        extension: Text for an extension of code 0, or nothing.
        intent: The standard's intent code, 1002 for labels.
    """
    from nibabel.nifti1 import Nifti1Extension, Nifti1Header

    # Everything follows from the affine as it is stored, so that writing what was read changes no byte.
    affine = grid.nifti_affine().astype(np.float32).astype(np.float64) + 0.0  # no negative zeros
    rotation = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    orthogonal = np.abs(rotation.T @ rotation - np.eye(3)).max() <= ORTHONORMAL_TOLERANCE
    extensions = [Nifti1Extension(0, extension)] if extension else []
    header: Any = Nifti1Header(endianness="<", extensions=extensions)  # type: ignore[no-untyped-call]
    header.set_data_shape(grid.shape_zyx[::-1])
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_xyzt_units("mm")
    header.set_intent(intent)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=int(orthogonal))  # sets the spacing in either case
    header["descrip"] = b"viscera"
    written = io.BytesIO()
    header.write_to(written)
    return written.getvalue()
