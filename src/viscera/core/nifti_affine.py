"""Where a NIfTI header says its voxels lie, and whether it contradicts itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError

# A stored quaternion may be this much longer than one, squared.
QUATERNION_TOLERANCE = 1e-5
# pixdim and the sform are rounded to float32, and some writers round pixdim to two digits.
SPACING_TOLERANCE = 0.02
# Two orientations in one header that place a corner further apart than this are worth a note.
FORMS_TOLERANCE_MM = 1.0

_MILLIMETRE, _UNKNOWN_UNIT = 2, 0
_UNITS = {1: "metres", 3: "micrometres"}


def stored_affine(header: Any, shape_ijk: tuple[int, int, int]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The affine from (i, j, k, 1) to (x, y, z, 1) in mm, RAS, of a nibabel header, and what was odd about it.

    The sform counts before the qform. nibabel's own choice is not taken, as it ignores the unit, a missing orientation,
    and a sform that contradicts pixdim or the qform.

    Raises:
        GeometryError: If the header does not say where the voxels lie, or says two things.
    """
    _require_units(header)
    spacing = np.abs(header["pixdim"][1:4].astype(np.float64))
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise GeometryError(
            expected="spacings above zero",
            got=f"pixdim {header['pixdim'][1:4].tolist()} mm (x, y, z)",
            remedy="Correct the spacing in the file's header",
        )
    has_sform, has_qform = header["sform_code"] > 0, header["qform_code"] > 0
    if not has_sform and not has_qform:
        raise GeometryError(
            expected="a sform or qform that says which side of the image is which side of the patient",
            got="sform_code 0 and qform_code 0",
            remedy="Convert the scan again from DICOM, or set the sform if its orientation is known",
        )
    if not has_sform:
        return _qform(header, spacing), ()
    sform: NDArray[np.float64] = header.get_sform()
    _require_same_spacing(sform, spacing)
    return sform, _contradictions(sform, _qform(header, spacing), shape_ijk) if has_qform else ()


def _qform(header: Any, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    # Not nibabel's get_qform, which refuses quaternions a little too long, negative spacings and a handedness of 0.
    from nibabel.quaternions import quat2mat

    bcd = [header[f"quatern_{part}"].item() for part in "bcd"]
    rest = 1.0 - sum(part * part for part in bcd)
    if not rest > -QUATERNION_TOLERANCE:  # also when NaN
        raise GeometryError(
            expected="a unit quaternion in the qform",
            got=f"{tuple(bcd)}",
            remedy="Convert the scan again from DICOM",
        )
    quaternion = math.sqrt(max(rest, 0.0)), *bcd
    handed = -1.0 if header["pixdim"][0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = quat2mat(quaternion) * spacing * (1.0, 1.0, handed)  # type: ignore[no-untyped-call]
    affine[:3, 3] = [header[f"qoffset_{axis}"].item() for axis in "xyz"]
    return affine


def _require_same_spacing(sform: NDArray[np.float64], spacing: NDArray[np.float64]) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(lengths, spacing, rtol=SPACING_TOLERANCE, atol=0):
        raise GeometryError(
            expected="the same spacing in pixdim and in the sform",
            got=f"{spacing.round(4).tolist()} and {lengths.round(4).tolist()} mm (x, y, z)",
            remedy="Convert the scan again, or correct the header",
        )


def _contradictions(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape_ijk: tuple[int, int, int]
) -> tuple[str, ...]:
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise GeometryError(
            expected="a sform and a qform that agree",
            got="one that is the other's mirror image, so left and right are unknown",
            remedy="Convert the scan again from DICOM, or remove the wrong one from the header",
        )
    corners = np.array(np.meshgrid(*((0, count - 1) for count in shape_ijk), indexing="ij")).reshape(3, -1)
    apart = float(np.abs((sform - qform)[:3] @ np.vstack([corners, np.ones(8)])).max())
    if apart <= FORMS_TOLERANCE_MM:
        return ()
    return (f"The header's sform and qform differ by up to {apart:.1f} mm; the sform was used.",)


def _require_units(header: Any) -> None:
    unit = header["xyzt_units"].item() & 0x07  # the other bits are the unit of time
    if unit not in (_MILLIMETRE, _UNKNOWN_UNIT):
        raise GeometryError(
            expected="lengths in mm",
            got=_UNITS.get(unit, f"the unknown unit {unit}"),
            remedy="Store the header's affine and pixdim in mm",
        )
