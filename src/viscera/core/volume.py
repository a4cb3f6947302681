"""Volume and LabelMap: arrays with the grid they lie on, immutable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viscera.core.errors import GeometryError, ReadError, during
from viscera.core.geometry import RAS_TO_LPS, Grid, Size, require_spacing
from viscera.core.hounsfield import hu_from_slabs, require_hu, slab_slices
from viscera.core.nifti_affine import stored_affine


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """A CT in Hounsfield units.

    Attributes:
        hu: int16 (z, y, x), read-only.
        grid: Where the voxels lie.
        notes: What a reader of the result should know about how the CT was read (a series chosen among several, an
            offset applied on request), one sentence each. Never names or identifiers of a patient.
        sides_certain: Whether no wrong header can have exchanged left and right, as in DICOM, where row, column and
            slice positions are in the patient's own axes and always right-handed.
    """

    hu: NDArray[np.int16]
    grid: Grid
    notes: tuple[str, ...] = ()
    sides_certain: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hu", _frozen(self.hu, np.int16, self.grid, "a CT volume"))

    @classmethod
    def from_array(
        cls, array: ArrayLike, *, affine_ras: ArrayLike | None = None, affine_lps: ArrayLike | None = None
    ) -> Self:
        """A CT from an array of HU and the affine that says where its voxels lie.

        The affine maps the array's own indices, in their own order, to mm: `affine @ (i, j, k, 1)` is the centre of
        voxel `array[i, j, k]`. Arrays may be (z, y, x) or (x, y, z), as long as the affine's columns have the same
        order. Exactly one affine is given, named after the world that it maps to: RAS as in nibabel, MONAI and TorchIO
        (+x to the patient's right, +y to the front, +z to the head), or LPS as in DICOM, SimpleITK and `Grid.affine`
        (+x to the left, +y to the back, +z to the head).

        Args:
            array: Three axes; integers or floats, which are rounded to the nearest integer (halves to even) and
                clipped to int16, as the NIfTI reader does. An int16 array is kept without a copy: do not change it.
            affine_ras: 4x4, array indices to RAS+ in mm.
            affine_lps: 4x4, array indices to LPS+ in mm.

        Raises:
            GeometryError: If the affine is no affine of a scan in mm, or both or neither is given.
            ReadError: If the array is not one volume of finite numbers that can be HU.

        Example:
            >>> hu = np.full((10, 11, 12), -1000, dtype=np.int16)  # (z, y, x), slices 3 mm apart
            >>> affine = [[0, 0, 1, -6], [0, 2, 0, -11], [3, 0, 0, 40], [0, 0, 0, 1]]
            >>> volume = Volume.from_array(hu, affine_lps=affine)
            >>> volume.grid.spacing_zyx_mm
            (3.0, 2.0, 1.0)
            >>> turned = Volume.from_array(hu, affine_ras=np.diag([-1, -1, 1, 1]) @ affine)
            >>> turned.grid == volume.grid
            True
        """
        with during("converting an array"):
            if (affine_ras is None) == (affine_lps is None):
                raise GeometryError(
                    expected="one affine, affine_ras or affine_lps",
                    got="none" if affine_ras is None else "both",
                    remedy="Give the 4x4 matrix from the array's indices to mm, and say by its name to which world",
                )
            values = _one_volume(np.asarray(array))
            affine = _matrix(affine_lps) if affine_ras is None else RAS_TO_LPS @ _matrix(affine_ras)
            return cls._converted(values, Grid(shape_zyx=_size(values), affine=affine))

    @classmethod
    def from_nibabel(cls, image: Any) -> Self:
        """A CT from a nibabel image, with the voxels, the grid and the refusals of reading its NIfTI file.

        Args:
            image: A `nibabel.Nifti1Image` or another spatial image; its scaling is applied.

        Raises:
            GeometryError: If the header does not say where the voxels lie, or contradicts itself.
            ReadError: If it is not one volume of finite numbers that can be HU.

        Example:
            >>> import nibabel
            >>> image = nibabel.Nifti1Image(np.full((12, 11, 10), -1000, dtype=np.int16), np.diag([1, 2, 3, 1]))
            >>> Volume.from_nibabel(image).grid.spacing_zyx_mm
            (3.0, 2.0, 1.0)
        """
        with during("converting a nibabel image"):
            stored, slope, intercept = _stored_numbers(image.dataobj)
            values = _one_volume(stored)
            affine, notes = _nibabel_affine(image, _size(values))
            grid = Grid.from_nifti(values.shape, affine)
            return cls._converted(values.T, grid, slope=slope, intercept=intercept, notes=notes + _unset(grid))

    @classmethod
    def from_sitk(cls, image: Any) -> Self:
        """A CT from a SimpleITK image, whose spacing, origin and direction say where its voxels lie.

        Raises:
            GeometryError: If its spacing cannot be a scan's in mm.
            ReadError: If it is not one volume of finite numbers that can be HU.

        Example:
            >>> import SimpleITK
            >>> image = SimpleITK.Image([12, 11, 10], SimpleITK.sitkInt16) - 1000
            >>> image.SetSpacing((1, 2, 3))
            >>> Volume.from_sitk(image).grid.extent_zyx_mm
            (30.0, 22.0, 12.0)
        """
        import SimpleITK

        with during("converting a SimpleITK image"):
            if image.GetNumberOfComponentsPerPixel() != 1:
                raise _no_volume(f"{image.GetNumberOfComponentsPerPixel()} numbers in each voxel")
            values = _one_volume(SimpleITK.GetArrayViewFromImage(image).T).T
            count = image.GetDimension()
            spacing, origin = image.GetSpacing()[:3], image.GetOrigin()[:3]
            grid = Grid.from_axes(
                _size(values),
                spacing_zyx_mm=(spacing[2], spacing[1], spacing[0]),
                direction_zyx=np.reshape(image.GetDirection(), (count, count))[:3, 2::-1],
                origin_xyz_mm=origin,
            )
            # The array is a view of the image's own memory, which may go or change at any time.
            return cls._converted(values.copy() if values.dtype == np.int16 else values, grid, notes=_unset(grid))

    @classmethod
    def _converted(
        cls,
        values: NDArray[Any],
        grid: Grid,
        *,
        slope: float = 1.0,
        intercept: float = 0.0,
        notes: tuple[str, ...] = (),
    ) -> Self:
        require_spacing(grid)
        if values.dtype == np.int16 and (slope, intercept) == (1.0, 0.0):
            hu: NDArray[np.int16] = values
        else:
            step = slab_slices(grid.shape_zyx, values.dtype)
            slabs = (values[start : start + step] for start in range(0, len(values), step))
            hu = hu_from_slabs(slabs, grid.shape_zyx, slope=slope, intercept=intercept)
        return cls(hu=hu, grid=grid, notes=notes + require_hu(hu))


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """Organ labels (see `viscera.core.organs`).

    Attributes:
        labels: uint8 (z, y, x), read-only.
        grid: Where the voxels lie.
        notes: What a reader of the result should know about how the labels were read (segments skipped), one
            sentence each.
    """

    labels: NDArray[np.uint8]
    grid: Grid
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _frozen(self.labels, np.uint8, self.grid, "a label map"))


def _frozen(array: NDArray[Any], dtype: type[np.generic], grid: Grid, what: str) -> NDArray[Any]:
    if array.dtype != dtype or array.shape != grid.shape_zyx:
        raise GeometryError(
            f"making {what}",
            expected=f"a {np.dtype(dtype)} array of the grid's shape {grid.shape_zyx} (z, y, x)",
            got=f"{array.dtype} {array.shape}",
            remedy="Convert the array and give the grid it lies on",
        )
    view = array.view()
    view.flags.writeable = False
    return view


def _size(array: NDArray[Any]) -> Size:
    first, second, third = array.shape
    return first, second, third


def _one_volume(array: NDArray[Any]) -> NDArray[Any]:
    """The array with three axes; further ones of a single voxel at its end are left out, as in a NIfTI file."""
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise _no_volume(f"numbers of the type {array.dtype}")
    if array.ndim < 3 or min(array.shape[:3]) < 2 or math.prod(array.shape[3:]) != 1:
        raise _no_volume(f"an array of {' x '.join(map(str, array.shape)) or 'no'} voxels")
    return array.reshape(array.shape[:3])


def _no_volume(got: str) -> ReadError:
    remedy = "Give one volume with at least 2 voxels along each of three axes, in Hounsfield units"
    return ReadError(expected="one 3-D volume of real numbers", got=got, remedy=remedy)


def _matrix(affine: ArrayLike | None) -> NDArray[np.float64]:
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(
            expected="a 4x4 affine", got=f"an array of shape {matrix.shape}", remedy="Give the matrix with its last row"
        )
    return matrix


def _unset(grid: Grid) -> tuple[str, ...]:
    """A note on the geometry that nibabel's and SimpleITK's users get who never set one."""
    if not any(np.array_equal(affine, np.eye(4)) for affine in (grid.nifti_affine(), RAS_TO_LPS @ grid.nifti_affine())):
        return ()
    return ("The affine is the identity, as in an image whose geometry was never set: check spacing and orientation.",)


def _stored_numbers(dataobj: Any) -> tuple[NDArray[Any], float, float]:
    """The numbers as they are stored, their slope and their intercept; scaled already where nibabel holds an array."""
    from nibabel.arrayproxy import ArrayProxy

    if type(dataobj) is ArrayProxy:
        stored = dataobj.get_unscaled()  # type: ignore[no-untyped-call]
        # A mapped file would be read only later, when it may have changed.
        return np.array(stored, copy=isinstance(stored, np.memmap) or None), float(dataobj.slope), float(dataobj.inter)
    return np.asarray(dataobj), 1.0, 0.0


def _nibabel_affine(image: Any, shape_ijk: Size) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The RAS affine of an image and what was odd about it; its header counts as long as it has the same affine."""
    from nibabel.nifti1 import Nifti1Header

    if isinstance(header := image.header, Nifti1Header) and (
        image.affine is None or np.allclose(header.get_best_affine(), image.affine)  # type: ignore[no-untyped-call]
    ):
        return stored_affine(header, shape_ijk)
    return _matrix(image.affine), ()
