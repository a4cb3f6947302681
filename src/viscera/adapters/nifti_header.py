"""NIfTI headers, versions 1 and 2, as bytes and as records.

Source of every field and offset: the NIfTI-1 and NIfTI-2 standards (nifti1.h, nifti2.h).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.errors import GeometryError, ReadError
from viscera.geometry import Grid

HEADER_BYTES = 348
HEADER_2_BYTES = 540
# The four bytes after a version 1 header say whether extensions follow.
FIRST_DATA_BYTE = 352

# A stored qform rotation within this of the affine's places voxels the same for all practical purposes.
ORTHONORMAL_TOLERANCE = 1e-5
# pixdim and the sform are rounded to float32, and some writers round pixdim to two digits.
SPACING_TOLERANCE = 0.02
# Two orientations in one header that place a corner further apart than this are worth a note.
FORMS_TOLERANCE_MM = 1.0

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED_TYPES = {
    1: "1-bit", 32: "complex64", 128: "RGB colour", 1536: "float128", 1792: "complex128", 2048: "complex256",
    2304: "RGBA colour",
}  # fmt: skip
_MILLIMETRE, _UNKNOWN_UNIT = 2, 0
_UNITS = {1: "metres", 3: "micrometres"}
# Field: (format, offset) in version 1, then in version 2.
_FIELDS: dict[str, tuple[str, int, str, int]] = {
    "dim": ("8h", 40, "8q", 16),
    "datatype": ("h", 70, "h", 12),
    "pixdim": ("8f", 76, "8d", 104),
    "vox_offset": ("f", 108, "q", 168),
    "scl_slope": ("f", 112, "d", 176),
    "scl_inter": ("f", 116, "d", 184),
    "xyzt_units": ("B", 123, "i", 500),
    "qform_code": ("h", 252, "i", 344),
    "sform_code": ("h", 254, "i", 348),
    "quatern": ("3f", 256, "3d", 352),
    "qoffset": ("3f", 268, "3d", 376),
    "srow": ("12f", 280, "12d", 400),
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


def parsed_header(raw: bytes, doing: str) -> NiftiHeader:
    """The record of the header in `raw`, the first `HEADER_2_BYTES` (or all, if fewer) of an uncompressed file.

    Raises:
        ReadError: If it is no NIfTI header of one real-valued 3-D image.
        GeometryError: If it does not say where the voxels lie.
    """
    fields = _fields(raw, doing)
    dtype = _stored_type(fields, doing)
    shape_ijk = _spatial_shape(fields["dim"], doing)
    _require_units(fields["xyzt_units"][0], doing)
    affine, notes = _affine(fields, shape_ijk, doing)
    slope, intercept = _scaling(fields, doing)
    first_byte = fields["vox_offset"][0]
    if not (math.isfinite(first_byte) and FIRST_DATA_BYTE <= first_byte < 2**40):
        raise _broken(doing, f"data that begin at byte {first_byte}")
    return NiftiHeader(
        grid=Grid.from_nifti(shape_ijk, affine),
        dtype=dtype,
        first_byte=int(first_byte),
        slope=slope,
        intercept=intercept,
        notes=notes,
    )


def _broken(doing: str, got: str) -> ReadError:
    return ReadError(doing, expected="a NIfTI header", got=got, remedy="Check the file, or convert the scan again")


def _fields(raw: bytes, doing: str) -> dict[str, Any]:
    for order in "<>":
        for size, magic_at, magic, place in ((348, 344, b"n+1\0", 0), (540, 4, b"n+2\0", 2)):
            if len(raw) < size or struct.unpack_from(f"{order}i", raw)[0] != size:
                continue
            found = raw[magic_at : magic_at + 4]
            if found in (b"ni1\0", b"ni2\0"):
                raise _broken(doing, "the header of a .hdr/.img pair, which is not supported")
            if found != magic:
                raise _broken(doing, "a header without the NIfTI mark (Analyze 7.5 is not supported)")
            fields: dict[str, Any] = {
                name: struct.unpack_from(order + spec[place], raw, spec[place + 1])  # type: ignore[operator,arg-type]
                for name, spec in _FIELDS.items()
            }
            fields["order"] = order
            return fields
    raise _broken(doing, "other bytes" if len(raw) >= HEADER_BYTES else f"a file of {len(raw)} bytes")


def _stored_type(fields: dict[str, Any], doing: str) -> np.dtype[Any]:
    code = fields["datatype"][0]
    if code not in _TYPES:
        raise ReadError(
            doing,
            expected="one real number per voxel",
            got=_REFUSED_TYPES.get(code, f"the unknown data type {code}"),
            remedy="Give the CT itself, in Hounsfield units",
        )
    dtype: np.dtype[Any] = np.dtype(fields["order"] + _TYPES[code])
    return dtype


def _spatial_shape(dim: tuple[int, ...], doing: str) -> tuple[int, int, int]:
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise _broken(doing, f"the dimensions {list(dim)}")
    shape = dim[1 : dim[0] + 1]
    volumes = math.prod(shape[3:])
    if len(shape) < 3 or min(shape[:3]) < 2:
        got = f"{' x '.join(map(str, shape))} voxels, which is a picture"
    elif volumes > 1:
        got = f"{volumes} volumes in one file"
    else:
        return shape[0], shape[1], shape[2]
    raise ReadError(
        doing, expected="one 3-D volume", got=got, remedy="Give one volume with at least 2 voxels along each axis"
    )


def _require_units(xyzt_units: int, doing: str) -> None:
    unit = xyzt_units & 0x07
    if unit not in (_MILLIMETRE, _UNKNOWN_UNIT):
        raise GeometryError(
            doing,
            expected="lengths in mm",
            got=_UNITS.get(unit, f"the unknown unit {unit}"),
            remedy="Store the header's affine and pixdim in mm",
        )


def _scaling(fields: dict[str, Any], doing: str) -> tuple[float, float]:
    slope, intercept = fields["scl_slope"][0], fields["scl_inter"][0]
    if slope == 0 or math.isnan(slope):  # the standard's two ways of saying "not scaled"
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise _broken(doing, f"the scaling {slope}, {intercept}")
    return slope, intercept


def _affine(
    fields: dict[str, Any], shape_ijk: tuple[int, int, int], doing: str
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    spacing = np.abs(fields["pixdim"][1:4])
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise GeometryError(
            doing,
            expected="spacings above zero",
            got=f"pixdim {list(fields['pixdim'][1:4])} mm (x, y, z)",
            remedy="Correct the spacing in the file's header",
        )
    has_sform, has_qform = fields["sform_code"][0] > 0, fields["qform_code"][0] > 0
    if not has_sform and not has_qform:
        raise GeometryError(
            doing,
            expected="a sform or qform that says which side of the image is which side of the patient",
            got="sform_code 0 and qform_code 0",
            remedy="Convert the scan again from DICOM, or set the sform if its orientation is known",
        )
    if not has_sform:
        return _qform(fields, spacing, doing), ()
    sform = np.vstack([np.reshape(fields["srow"], (3, 4)), (0, 0, 0, 1)]).astype(np.float64)
    _require_same_spacing(sform, spacing, doing)
    return sform, _contradictions(sform, _qform(fields, spacing, doing), shape_ijk, doing) if has_qform else ()


def _qform(fields: dict[str, Any], spacing: NDArray[np.float64], doing: str) -> NDArray[np.float64]:
    b, c, d = (float(value) for value in fields["quatern"])
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest > -1e-5:  # also when NaN
        raise GeometryError(
            doing,
            expected="a unit quaternion in the qform",
            got=f"({b}, {c}, {d})",
            remedy="Convert the scan again from DICOM",
        )
    a = math.sqrt(max(rest, 0.0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handed = -1.0 if fields["pixdim"][0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * (spacing * (1.0, 1.0, handed))
    affine[:3, 3] = fields["qoffset"]
    return affine


def _require_same_spacing(sform: NDArray[np.float64], spacing: NDArray[np.float64], doing: str) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(lengths, spacing, rtol=SPACING_TOLERANCE, atol=0):
        raise GeometryError(
            doing,
            expected="the same spacing in pixdim and in the sform",
            got=f"{spacing.round(4).tolist()} and {lengths.round(4).tolist()} mm (x, y, z)",
            remedy="Convert the scan again, or correct the header",
        )


def _contradictions(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape_ijk: tuple[int, int, int], doing: str
) -> tuple[str, ...]:
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise GeometryError(
            doing,
            expected="a sform and a qform that agree",
            got="one that is the other's mirror image, so left and right are unknown",
            remedy="Convert the scan again from DICOM, or remove the wrong one from the header",
        )
    corners = np.array(np.meshgrid(*((0, count - 1) for count in shape_ijk), indexing="ij")).reshape(3, -1)
    apart = float(np.abs((sform - qform)[:3] @ np.vstack([corners, np.ones(8)])).max())
    if apart <= FORMS_TOLERANCE_MM:
        return ()
    return (f"The header's sform and qform differ by up to {apart:.1f} mm; the sform was used.",)


def packed_header(grid: Grid, dtype: np.dtype[Any], *, extension: bytes = b"", intent: int = 0) -> bytes:
    """The bytes before the voxels of a little-endian version 1 file: header, extension mark and one comment extension.

    The sform holds the affine; the qform too where it can, which is when the axes are orthogonal.

    Args:
        grid: Where the voxels lie, at most 32767 along each axis.
        dtype: uint8 or int16.
        extension: Text for an extension of code 0, or nothing.
        intent: The standard's intent code, 1002 for labels.
    """
    # Everything follows from the affine as it is stored, so that writing what was read changes no byte.
    affine = grid.nifti_affine().astype(np.float32).astype(np.float64) + 0.0  # no negative zeros
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    handed, quatern, qform_code = _quaternion(affine, spacing)
    block = _extension_block(extension)
    code = next(code for code, name in _TYPES.items() if name == dtype.str[1:])
    head = bytearray(HEADER_BYTES)
    for form, offset, values in (
        ("i", 0, [HEADER_BYTES]),
        ("c", 38, [b"r"]),
        ("8h", 40, [3, *grid.shape_zyx[::-1], 1, 1, 1, 1]),
        ("3h", 68, [intent, code, dtype.itemsize * 8]),
        ("8f", 76, [handed, *spacing, 0, 0, 0, 0]),
        ("3f", 108, [FIRST_DATA_BYTE + len(block), 1, 0]),
        ("B", 123, [_MILLIMETRE]),
        ("80s", 148, [b"viscera"]),
        ("2h", 252, [qform_code, 1]),
        ("6f", 256, [*quatern, *affine[:3, 3]]),
        ("12f", 280, affine[:3].ravel()),
        ("4s", 344, [b"n+1\0"]),
    ):
        struct.pack_into("<" + form, head, offset, *values)
    return bytes(head) + bytes([1 if block else 0, 0, 0, 0]) + block


def _extension_block(text: bytes) -> bytes:
    if not text:
        return b""
    size = -(-(len(text) + 8) // 16) * 16  # the standard asks for multiples of 16
    return struct.pack("<2i", size, 0) + text.ljust(size - 8, b"\0")


def _quaternion(
    affine: NDArray[np.float64], spacing: NDArray[np.float64]
) -> tuple[float, tuple[float, float, float], int]:
    rotation = affine[:3, :3] / spacing
    handed = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation = rotation * (1.0, 1.0, handed)
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        return handed, (0.0, 0.0, 0.0), 0
    # The quaternion (a, b, c, d) is the eigenvector of the largest eigenvalue of this symmetric matrix
    # (I. Y. Bar-Itzhack, "New method for extracting the quaternion from a rotation matrix", 2000).
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    vector = np.linalg.eigh(matrix)[1][:, -1]
    a, b, c, d = (float(part) for part in (vector if vector[0] >= 0 else -vector))
    del a  # the standard stores b, c and d; a follows, being positive
    return handed, (b, c, d), 1
