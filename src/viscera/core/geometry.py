"""Grids and boxes in space; the only place that flips, permutes or converts axes.

Arrays are (z, y, x). The world is LPS in mm: +x to the patient's left, +y to the back, +z to the head. An affine maps
voxel centres (z, y, x, 1) to world points (x, y, z, 1). Its columns need be neither orthogonal nor of unit length, so
oblique grids and tilted gantries are carried through exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError

Vector = tuple[float, float, float]
Size = tuple[int, int, int]
Ranges = tuple[slice, slice, slice]

AIR_HU = -1024

# NIfTI's world is RAS+, ours is LPS+: the first two axes change sign.
RAS_TO_LPS: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0])
# File formats index voxels (i, j, k) = (x, y, z), we index (z, y, x): the first three columns are reversed.
_IJK_FROM_ZYX: NDArray[np.float64] = np.eye(4)[[2, 1, 0, 3]]

# Two affines that place every voxel within this distance describe the same grid (float32 headers round to about 1e-5).
SAME_GRID_TOLERANCE_MM = 1e-3
# No CT has voxels outside this; metres or micrometres taken for millimetres do.
SPACING_RANGE_MM = (0.02, 50.0)
# Part of a voxel that rounding may hide when extents are turned into voxel counts.
_ROUNDING_VOX = 1e-6


@dataclass(frozen=True, kw_only=True)
class Box:
    """A half-open box in mm along the axes of a grid, from the outer corner of that grid's first voxel.

    Voxels [a, b) of an axis with spacing s span [a * s, b * s): a box runs over voxel faces, not centres.

    Example:
        >>> box = Box(lower_zyx_mm=(10, 0, 20), upper_zyx_mm=(30, 40, 60))
        >>> box.extent_zyx_mm
        (20.0, 40.0, 40.0)
        >>> box.grown(5).lower_zyx_mm
        (5.0, -5.0, 15.0)
    """

    lower_zyx_mm: Vector
    upper_zyx_mm: Vector

    def __post_init__(self) -> None:
        bounds = self.lower_zyx_mm + self.upper_zyx_mm
        ordered = all(low < high for low, high in zip(self.lower_zyx_mm, self.upper_zyx_mm, strict=True))
        if not (all(map(math.isfinite, bounds)) and ordered):
            raise GeometryError(
                "making a box",
                expected="finite bounds with lower < upper on every axis",
                got=f"{self.lower_zyx_mm} to {self.upper_zyx_mm} mm",
                remedy="Check the voxel range the box was made from",
            )

    @property
    def extent_zyx_mm(self) -> Vector:
        """The length of the box along each axis."""
        return _vector(high - low for low, high in zip(self.lower_zyx_mm, self.upper_zyx_mm, strict=True))

    @property
    def centre_zyx_mm(self) -> Vector:
        """The middle of the box along each axis."""
        return _vector((high + low) / 2 for low, high in zip(self.lower_zyx_mm, self.upper_zyx_mm, strict=True))

    def grown(self, margin_mm: float) -> Box:
        """The box with `margin_mm` added on each of its six sides."""
        return Box(
            lower_zyx_mm=_vector(low - margin_mm for low in self.lower_zyx_mm),
            upper_zyx_mm=_vector(high + margin_mm for high in self.upper_zyx_mm),
        )

    def overlaps(self, other: Box) -> bool:
        """Whether the two boxes, along the same axes, share more than a face."""
        lower = map(max, self.lower_zyx_mm, other.lower_zyx_mm)
        upper = map(min, self.upper_zyx_mm, other.upper_zyx_mm)
        return all(low < high for low, high in zip(lower, upper, strict=True))

    def clipped(self, limits: Box) -> Box:
        """The part of the box inside `limits`; raises GeometryError if there is none."""
        return Box(
            lower_zyx_mm=_vector(map(max, self.lower_zyx_mm, limits.lower_zyx_mm)),
            upper_zyx_mm=_vector(map(min, self.upper_zyx_mm, limits.upper_zyx_mm)),
        )


@dataclass(frozen=True, kw_only=True)
class Reorientation:
    """A permutation and flips of array axes: output axis k is input axis `axes[k]`, reversed if `flipped[k]`."""

    axes: Size
    flipped: tuple[bool, bool, bool]

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """A reoriented view of `array`; its last three axes are (z, y, x), leading axes stay in place."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        z, y, x = (slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return turned[..., z, y, x]

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of `array` with `apply` taken back."""
        return self.inverse().apply(array)

    def inverse(self) -> Reorientation:
        """The reorientation that takes this one back."""
        axes = [self.axes.index(axis) for axis in range(3)]
        flips = [self.flipped[axis] for axis in axes]
        return Reorientation(axes=(axes[0], axes[1], axes[2]), flipped=(flips[0], flips[1], flips[2]))

    def apply_to_grid(self, grid: Grid) -> Grid:
        """The grid of `apply(array)` for an array on `grid`."""
        matrix = np.eye(4)
        for out_axis, (in_axis, flip) in enumerate(zip(self.axes, self.flipped, strict=True)):
            matrix[in_axis, :3] = 0.0
            matrix[in_axis, out_axis] = -1.0 if flip else 1.0
            matrix[in_axis, 3] = grid.shape_zyx[in_axis] - 1 if flip else 0.0
        shape = [grid.shape_zyx[axis] for axis in self.axes]
        return Grid(shape_zyx=(shape[0], shape[1], shape[2]), affine=grid.affine @ matrix)


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """A regular lattice of voxels in space.

    Attributes:
        shape_zyx: Number of voxels along each array axis.
        affine: 4x4 float64, voxel centres (z, y, x, 1) to world (x, y, z, 1) in mm, LPS. Stored read-only.

    Raises:
        GeometryError: If the shape is not three positive counts, or the affine is not finite and invertible.
    """

    shape_zyx: Size
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.flags.writeable = False
        shape = tuple(int(count) for count in self.shape_zyx)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape_zyx", shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(
                "making a grid",
                expected="three positive voxel counts (z, y, x)",
                got=f"{self.shape_zyx}",
                remedy="Give a 3-D volume",
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError(
                "making a grid",
                expected="a finite 4x4 affine whose last row is 0 0 0 1",
                got=f"{affine.tolist()}",
                remedy="Correct the orientation and spacing in the file's header",
            )
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError(
                "making a grid",
                expected="three independent axes with spacings above zero",
                got=f"spacings {[float(round(s, 6)) for s in self.spacing_zyx_mm]} mm (z, y, x)",
                remedy="Correct the spacing and orientation in the file's header",
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape_zyx == other.shape_zyx and bool(np.array_equal(self.affine, other.affine))

    __hash__ = None  # type: ignore[assignment]  # grids are compared, never used as keys

    @classmethod
    def from_axes(
        cls, shape_zyx: Size, *, spacing_zyx_mm: Vector, direction_zyx: NDArray[Any], origin_xyz_mm: Vector
    ) -> Self:
        """A grid from spacings, directions and the centre of voxel (0, 0, 0).

        Args:
            shape_zyx: Voxel counts.
            spacing_zyx_mm: Spacing along each array axis.
            direction_zyx: 3x3; column k is the world (x, y, z) direction of array axis k.
            origin_xyz_mm: World position of the first voxel's centre.

        Example:
            Slices of 512 x 512 voxels, axes to the head, the back and the left:

            >>> axes = np.eye(3)[[2, 1, 0]]
            >>> grid = Grid.from_axes(
            ...     (40, 512, 512), spacing_zyx_mm=(5, 0.8, 0.8), direction_zyx=axes, origin_xyz_mm=(-200, -150, 30)
            ... )
            >>> grid.spacing_zyx_mm
            (5.0, 0.8, 0.8)
            >>> grid.extent_zyx_mm
            (200.0, 409.6, 409.6)
            >>> grid.world(np.array([1, 0, 2])).tolist()  # one slice up, two voxels to the left
            [-198.4, -150.0, 35.0]
        """
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(direction_zyx, dtype=np.float64) * np.asarray(spacing_zyx_mm)
        affine[:3, 3] = origin_xyz_mm
        return cls(shape_zyx=shape_zyx, affine=affine)

    @classmethod
    def from_nifti(cls, shape_ijk: Sequence[int], affine_ras: NDArray[Any]) -> Self:
        """The grid of a NIfTI image; its array must be transposed from (i, j, k) to (z, y, x) alike."""
        affine = RAS_TO_LPS @ np.asarray(affine_ras, dtype=np.float64) @ _IJK_FROM_ZYX
        return cls(shape_zyx=(shape_ijk[2], shape_ijk[1], shape_ijk[0]), affine=affine)

    def nifti_affine(self) -> NDArray[np.float64]:
        """The RAS+ affine over (i, j, k) indices that NIfTI stores; the inverse of `from_nifti`."""
        affine: NDArray[np.float64] = RAS_TO_LPS @ self.affine @ _IJK_FROM_ZYX
        return affine

    @property
    def spacing_zyx_mm(self) -> Vector:
        """Distance between neighbouring voxel centres along each array axis."""
        return _vector(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def direction_zyx(self) -> NDArray[np.float64]:
        """3x3; column k is the unit world (x, y, z) direction of array axis k."""
        direction: NDArray[np.float64] = self.affine[:3, :3] / np.asarray(self.spacing_zyx_mm)
        return direction

    @property
    def origin_xyz_mm(self) -> Vector:
        """World position of the centre of voxel (0, 0, 0)."""
        return _vector(self.affine[:3, 3])

    @property
    def extent_zyx_mm(self) -> Vector:
        """Length of the grid along each array axis, outer face to outer face."""
        return _vector(count * step for count, step in zip(self.shape_zyx, self.spacing_zyx_mm, strict=True))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def world(self, points_zyx_vox: NDArray[Any]) -> NDArray[np.float64]:
        """World points (..., 3) in (x, y, z) mm of continuous voxel positions (..., 3) in (z, y, x)."""
        points: NDArray[np.float64] = points_zyx_vox @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def matches(self, other: Grid, tolerance_mm: float = SAME_GRID_TOLERANCE_MM) -> bool:
        """Whether both grids have one shape and place all their corners within `tolerance_mm` of each other."""
        if self.shape_zyx != other.shape_zyx:
            return False
        corners = np.array(list(itertools.product(*((0, count - 1) for count in self.shape_zyx))))
        return bool(np.abs(self.world(corners) - other.world(corners)).max() <= tolerance_mm)

    def to_canonical(self) -> Reorientation:
        """The reorientation that makes z run to the head, y to the back and x to the left, as nearly as axes allow."""
        cosines = self.direction_zyx[::-1]  # rows now (z, y, x) of the world
        best = max(
            itertools.permutations(range(3)),
            key=lambda axes: sum(abs(cosines[world, axis]) for world, axis in enumerate(axes)),
        )
        flips = [bool(cosines[world, axis] < 0) for world, axis in enumerate(best)]
        return Reorientation(axes=(best[0], best[1], best[2]), flipped=(flips[0], flips[1], flips[2]))

    def box(self, ranges: Ranges | None = None) -> Box:
        """The box over voxel `ranges` (start and stop of each slice given), or over the whole grid."""
        if ranges is None:
            ranges = (slice(0, self.shape_zyx[0]), slice(0, self.shape_zyx[1]), slice(0, self.shape_zyx[2]))
        pairs = list(zip(ranges, self.spacing_zyx_mm, strict=True))
        return Box(
            lower_zyx_mm=_vector(part.start * step for part, step in pairs),
            upper_zyx_mm=_vector(part.stop * step for part, step in pairs),
        )

    def voxels(self, box: Box) -> Ranges:
        """The voxel ranges of this grid that `box` touches, clipped to the grid."""
        starts = [
            max(0, math.floor(low / step + _ROUNDING_VOX))
            for low, step in zip(box.lower_zyx_mm, self.spacing_zyx_mm, strict=True)
        ]
        stops = [
            min(count, math.ceil(high / step - _ROUNDING_VOX))
            for high, step, count in zip(box.upper_zyx_mm, self.spacing_zyx_mm, self.shape_zyx, strict=True)
        ]
        return slice(starts[0], stops[0]), slice(starts[1], stops[1]), slice(starts[2], stops[2])

    def box_from(self, other: Grid, box: Box) -> Box:
        """A box given along the axes of `other`, a parallel grid, in this grid's own mm."""
        offset, step = other.positions_in(self)
        low_face = _vector(
            (start + 0.5 - 0.5 * ratio) * spacing
            for start, ratio, spacing in zip(offset, step, self.spacing_zyx_mm, strict=True)
        )
        return Box(
            lower_zyx_mm=_vector(face + low for face, low in zip(low_face, box.lower_zyx_mm, strict=True)),
            upper_zyx_mm=_vector(face + high for face, high in zip(low_face, box.upper_zyx_mm, strict=True)),
        )

    def positions_in(self, other: Grid) -> tuple[Vector, Vector]:
        """(offset, step) per axis: voxel i of this grid lies at position offset + step * i among `other`'s voxels.

        Raises:
            GeometryError: If the grids' axes are not parallel and equally directed.
        """
        inverse = np.linalg.inv(other.affine)
        relation = inverse @ self.affine
        steps = np.diag(relation)[:3]
        skew = np.abs(relation[:3, :3] - np.diag(steps)).max(axis=0) * np.asarray(self.shape_zyx)
        if (steps <= 0).any() or skew.max() > 1e-3:
            raise GeometryError(
                "relating two grids",
                expected="parallel axes with the same directions",
                got=f"directions {other.direction_zyx.round(4).tolist()} and {self.direction_zyx.round(4).tolist()}",
                remedy="Resample one onto the other's axes first",
            )
        return _vector(relation[:3, 3]), _vector(steps)

    def centred(self, box: Box, size_zyx_vox: Size, spacing_mm: float) -> Grid:
        """An isotropic grid parallel to this one, of the given size, its middle at the middle of `box`."""
        centre_vox = np.asarray(box.centre_zyx_mm) / np.asarray(self.spacing_zyx_mm) - 0.5
        affine = np.eye(4)
        affine[:3, :3] = self.direction_zyx * spacing_mm
        affine[:3, 3] = self.world(centre_vox) - affine[:3, :3] @ ((np.asarray(size_zyx_vox) - 1) / 2)
        return Grid(shape_zyx=size_zyx_vox, affine=affine)


def mask_ranges(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> Ranges | None:
    """The smallest voxel ranges that hold everything that is not 0 in a (z, y, x) mask; None if all is.

    Example:
        >>> mask = np.zeros((3, 4, 5), dtype=bool)
        >>> mask[1, 2:4, 3] = True
        >>> mask_ranges(mask)
        (slice(1, 2, None), slice(2, 4, None), slice(3, 4, None))
    """
    if not mask.size:
        return None
    values = mask.view(np.uint8)  # the largest of bytes is found far faster than whether any is set
    over_z = values.max(axis=0, initial=0)
    ranges = []
    for profile in (
        values.max(axis=2, initial=0).max(axis=1, initial=0),
        over_z.max(axis=1, initial=0),
        over_z.max(axis=0, initial=0),
    ):
        positions = np.flatnonzero(profile)
        if not positions.size:
            return None
        ranges.append(slice(int(positions[0]), int(positions[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]


def require_spacing(grid: Grid) -> None:
    """Raise GeometryError if no scan can have the spacing of `grid`."""
    low, high = SPACING_RANGE_MM
    if not all(low <= step <= high for step in grid.spacing_zyx_mm):
        raise GeometryError(
            expected=f"spacings from {low} to {high} mm",
            got=f"{[round(step, 6) for step in grid.spacing_zyx_mm]} mm (z, y, x)",
            remedy="Correct the spacing in the file's header, which must be in mm",
        )


def _vector(values: Any) -> Vector:
    first, second, third = (float(value) for value in values)
    return first, second, third
