"""Label maps that cover a part of a scan, such as 3D Slicer and DICOM SEG files hold, placed on the whole scan's grid.

Voxels are moved as they are: two grids that are not parts of one lattice are left for others to refuse.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid, Reorientation, Size
from viscera.core.organs import BACKGROUND
from viscera.core.volume import LabelMap

# How far a voxel may lie from its position, in voxels: positions in DICOM are rounded.
PLACE_TOLERANCE_VOX = 0.1

# Every way to store one scan's voxels, as it is first. All are tried where two grids are compared: none has to be
# guessed from the axes' directions, which may be oblique to any degree.
ORIENTATIONS = tuple(
    Reorientation(axes=(first, second, third), flipped=(z, y, x))
    for first, second, third in itertools.permutations(range(3))
    for z, y, x in itertools.product((False, True), repeat=3)
)


def placed_on(label_map: LabelMap, grid: Grid) -> LabelMap:
    """The label map on `grid`, background where it has no voxels; itself if its voxels are none of that grid's lattice.

    Args:
        label_map: Of a part of the scan, along whichever axes.
        grid: The whole scan's.

    Raises:
        GeometryError: If a label lies outside of `grid`.
    """
    found = _place(label_map.grid, grid)
    if found is None:
        return label_map
    turn, start = found
    labels = turn.apply(label_map.labels)
    inside = [
        slice(max(0, -first), max(0, min(size, whole - first)))
        for first, size, whole in zip(start, labels.shape, grid.shape_zyx, strict=True)
    ]
    z, y, x = inside
    part = labels[z, y, x]
    if (outside := np.count_nonzero(labels) - np.count_nonzero(part)) > 0:
        raise GeometryError(
            expected=f"labels within the {grid.shape_zyx} voxels (z, y, x) of the scan they belong to",
            got=f"{outside} labelled voxels outside",
            remedy="Give the labels of this scan",
        )
    whole: NDArray[np.uint8] = np.full(grid.shape_zyx, BACKGROUND, dtype=np.uint8)
    z, y, x = (slice(first + one.start, first + one.stop) for first, one in zip(start, inside, strict=True))
    whole[z, y, x] = part
    return LabelMap(labels=whole, grid=grid, notes=label_map.notes)


def joint_grid(one: Grid, other: Grid) -> Grid | None:
    """The smallest grid along the axes of `one` that holds both; None if they are no parts of one lattice."""
    found = _place(other, one)
    if found is None:
        return None
    turn, start = found
    shape = turn.apply_to_grid(other).shape_zyx
    first = [min(0, place) for place in start]
    last = [max(own, place + size) for own, place, size in zip(one.shape_zyx, start, shape, strict=True)]
    affine = one.affine.copy()
    affine[:3, 3] = one.world(np.array(first))
    z, y, x = (end - begin for begin, end in zip(first, last, strict=True))
    return Grid(shape_zyx=(z, y, x), affine=affine)


def _place(part: Grid, whole: Grid) -> tuple[Reorientation, Size] | None:
    """How to turn `part`, and which voxel of `whole` its first one is then; None if there is no such way."""
    tolerance_mm = PLACE_TOLERANCE_VOX * min(whole.spacing_zyx_mm)
    for turn in ORIENTATIONS:
        own = turn.apply_to_grid(part)
        z, y, x = (int(place) for place in np.rint(np.linalg.solve(whole.affine, own.affine[:, 3])[:3]))
        affine = np.column_stack([whole.affine[:, :3], [*whole.world(np.array([z, y, x])), 1.0]])
        if own.matches(Grid(shape_zyx=own.shape_zyx, affine=affine), tolerance_mm):
            return turn, (z, y, x)
    return None
