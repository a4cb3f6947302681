"""The patient's left and right of a paired organ: which of its voxels lie on which side of the body's midline.

Connected components go to a side as a whole, by their centres, so that a kidney that reaches a little across an inexact
midline stays whole. Only a component with a large share on either side is divided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.core.components import Components, connected_components
from viscera.core.geometry import Ranges
from viscera.core.organs import Organ
from viscera.core.volume import LabelMap, Volume

# Between air and fat.
BODY_HU = -300
# Cortical bone, contrast-filled bowel and vessels seldom reach it at once along the whole spine.
_BONE_HU = 250
# The body's middle needs no more than every so many voxels.
_STEP_VOX = 4
# Where so much of a lateral face of the scan shows body, the body goes on beyond it and its middle is not the scan's.
_CUT_SHARE = 0.2
# A vertebral body is about as wide.
_SPINE_MM = 40.0
# A component with at least this share on either side of the midline is two organs grown or labelled together.
_FUSED_SHARE = 0.15
# Components below this share of the largest one are no organ of their own.
_LARGE_SHARE = 0.3
# Two kidneys whose centres are so far apart lie on either side of the spine.
_APART_MM = 60.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sides:
    """The two sides of a paired organ.

    Attributes:
        box: The voxel ranges of the scan that hold the organ.
        left: bool (z, y, x) of the box, the voxels on the patient's left.
        left_vox, right_vox: Number of voxels on each side.
        finding: What is unusual about the sides, as a sentence; empty if nothing is.
        doubtful: Whether the division itself is to be checked.
    """

    box: Ranges
    left: NDArray[np.bool_]
    left_vox: int
    right_vox: int
    finding: str = ""
    doubtful: bool = False


def organ_sides(volume: Volume, label_map: LabelMap, organ: Organ, box: Ranges) -> Sides:
    """Tell the patient's left from the right in an organ's label.

    Args:
        volume: The CT, whose body gives the midline.
        label_map: Labels on the volume's grid, any orientation, oblique and sheared grids included.
        organ: A paired organ that has voxels.
        box: The voxel ranges that hold them.
    """
    components = connected_components(label_map.labels[box], value=organ.index)
    start = np.array([axis.start for axis in box])
    centres_mm = volume.grid.world(components.centres_zyx_vox() + start)[:, 0]  # LPS: x runs to the patient's left
    midline_mm = _midline_mm(volume, label_map, box)
    large = components.sizes_vox >= _LARGE_SHARE * components.sizes_vox[0]
    moved = _between(centres_mm[large], midline_mm)
    if moved is not None:
        midline_mm = moved
    left = np.zeros(components.shape_zyx, dtype=np.bool_)
    left[components.voxels(centres_mm > midline_mm)] = True
    fused = False
    for number in np.flatnonzero(large & _crossing(components, volume, start, midline_mm)):
        z, y, x = components.voxels(np.arange(components.count) == number)
        beyond = volume.grid.world(np.stack([z, y, x], axis=-1) + start)[:, 0] > midline_mm
        if min(beyond.mean(), 1 - beyond.mean()) >= _FUSED_SHARE:
            left[z, y, x] = beyond
            fused = True
    left_vox = int(np.count_nonzero(left))
    right_vox = int(components.sizes_vox.sum()) - left_vox
    finding = _finding(organ.name, left_vox, right_vox, fused=fused, moved=moved is not None, large=int(large.sum()))
    return Sides(
        box=box,
        left=left,
        left_vox=left_vox,
        right_vox=right_vox,
        finding=finding,
        doubtful=fused or moved is not None or (bool(finding) and int(large.sum()) > 1),
    )


def body_middle_vox(hu: NDArray[np.int16], axis: int) -> float:
    """The body's middle along an axis of `hu` in voxels; the middle of the array where there is no body."""
    body = hu[::_STEP_VOX, ::_STEP_VOX, ::_STEP_VOX] > BODY_HU
    weights = np.count_nonzero(body, axis=tuple(other for other in range(3) if other != axis))
    if not weights.any():
        return float(hu.shape[axis] - 1) / 2
    return float(np.average(np.arange(0, hu.shape[axis], _STEP_VOX), weights=weights))


def level(volume: Volume, box: Ranges) -> Ranges:
    """The voxel ranges of the whole body at the height of the box."""
    head = volume.grid.to_canonical().axes[0]
    z, y, x = (box[axis] if axis == head else slice(0, volume.grid.shape_zyx[axis]) for axis in range(3))
    return z, y, x


def _midline_mm(volume: Volume, label_map: LabelMap, box: Ranges) -> float:
    """World x of the body's middle at the organ's height; of the spine where the scan cuts the body at a side."""
    around = level(volume, box)
    hu, left = volume.hu[around], volume.grid.to_canonical().axes[2]
    middle_vox = np.array([body_middle_vox(hu, axis) for axis in range(3)])
    if _cut_at_a_side(hu, left):
        spine_vox = _spine_vox(hu, label_map.labels[around], left, volume.grid.spacing_zyx_mm[left])
        middle_vox[left] = middle_vox[left] if spine_vox is None else spine_vox
    return float(volume.grid.world(middle_vox + [axis.start for axis in around])[0])


def _cut_at_a_side(hu: NDArray[np.int16], left: int) -> bool:
    faces = (np.moveaxis(hu, left, 0)[end, ::_STEP_VOX, ::_STEP_VOX] > BODY_HU for end in (0, -1))
    return any(float(face.mean()) > _CUT_SHARE for face in faces)


def _spine_vox(hu: NDArray[np.int16], labels: NDArray[np.uint8], left: int, spacing_mm: float) -> float | None:
    """The position along the axis `left` with the most bone in the width of a vertebra; None where there is none."""
    steps = tuple(slice(None, None, 1 if axis == left else _STEP_VOX) for axis in range(3))
    bone = (hu[steps] > _BONE_HU) & (labels[steps] == 0)
    counts = np.count_nonzero(bone, axis=tuple(axis for axis in range(3) if axis != left)).astype(np.float64)
    if not counts.any():
        return None
    width = min(counts.size, max(1, round(_SPINE_MM / spacing_mm)))
    densest = int(np.argmax(np.convolve(counts, np.ones(width), mode="valid")))
    window = slice(densest, densest + width)
    return float(np.average(np.arange(counts.size)[window], weights=counts[window]))


def _between(centres_mm: NDArray[np.float64], midline_mm: float) -> float | None:
    """A midline between two large components far apart on one side of the body's, as that one must be wrong."""
    if len(centres_mm) != 2 or abs(centres_mm[0] - centres_mm[1]) < _APART_MM:
        return None
    lower, upper = sorted(centres_mm.tolist())
    return None if lower < midline_mm < upper else (lower + upper) / 2


def _crossing(components: Components, volume: Volume, start: NDArray[np.int64], midline_mm: float) -> NDArray[np.bool_]:
    """Which components have voxels on either side; the ends of their runs say it, as x is linear along each."""
    z, y, x = np.unravel_index(components.starts_vox, components.shape_zyx)
    first = volume.grid.world(np.stack([z, y, x], axis=-1) + start)[:, 0] > midline_mm
    last = volume.grid.world(np.stack([z, y, x + components.lengths_vox - 1], axis=-1) + start)[:, 0] > midline_mm
    some = np.bincount(components.parts, first | last, minlength=components.count) > 0
    every = np.bincount(components.parts, first & last, minlength=components.count) == np.bincount(
        components.parts, minlength=components.count
    )
    crossing: NDArray[np.bool_] = some & ~every
    return crossing


def _finding(organ: str, left_vox: int, right_vox: int, *, fused: bool, moved: bool, large: int) -> str:
    if fused:
        return (
            f"The {organ}s are one connected component across the midline (a horseshoe {organ}, or labels that touch); "
            "it is divided at the midline."
        )
    if moved:
        return (
            f"Both large components of the {organ}s lie on one side of the body's midline, far apart; "
            "they are told apart by their own middle."
        )
    smaller, larger = sorted((left_vox, right_vox))
    if smaller >= _LARGE_SHARE * _LARGE_SHARE * larger:
        return ""
    side = "left" if left_vox > right_vox else "right"
    if large > 1:
        return f"All {large} large components of the {organ} lie on the {side}: a crossed or a fragmented {organ}."
    return f"Only a {side} {organ} was found."
