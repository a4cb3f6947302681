"""Post-processing: labels without their small components, if asked for and reported (the published method has none).

Voxels that share only an edge or a corner are connected: where a thin organ runs obliquely, one voxel wide, faces alone
would cut it, and what is removed by mistake is worse than a small component that stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.core.components import Components, connected_components, label_boxes
from viscera.core.config import CleanConfig
from viscera.core.errors import GeometryError
from viscera.core.geometry import Ranges
from viscera.core.organs import PAIRED, Organ, sided_table
from viscera.core.volume import LabelMap, Volume
from viscera.quality.laterality import Sides, body_middle_vox, level, organ_sides

Voxels = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

# Less than this shows as 0.00 ml.
_NOTED_ML = 0.005
_NONE: Voxels = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was removed from one organ: its name, the number of components and their volume together."""

    organ: str
    components: int
    volume_ml: float


def small_components(
    label_map: LabelMap, volume: Volume, organs: Sequence[Organ], config: CleanConfig
) -> tuple[tuple[Removal, Voxels], ...]:
    """Find what post-processing removes from each organ, in order: indices (z, y, x) that become background.

    Of each organ the largest component stays and every other of at least `config.keep_share` of it; of a paired one the
    largest, and the largest such component whose centre is on the other side of the body's middle. Other labels stay as
    they are.

    Raises:
        GeometryError: If the label map lies on another grid than the volume, whose body gives the middle.
    """
    if not volume.grid.matches(label_map.grid):
        raise GeometryError(
            "post-processing labels",
            expected=f"a label map on the volume's grid of {volume.grid.shape_zyx} voxels",
            got=f"one of {label_map.grid.shape_zyx} voxels, or elsewhere in space",
            remedy="Bring the label map onto the volume's grid",
        )
    boxes = label_boxes(label_map.labels)
    found = []
    for organ in organs:
        count, voxels = 0, _NONE
        if organ.index in boxes:
            box = boxes[organ.index]
            components = connected_components(label_map.labels[box], value=organ.index)
            large = components.sizes_vox >= config.keep_share * components.sizes_vox[0]
            kept = _one_each_side(components, large, box, volume) if organ.name in config.paired else large
            count = int(np.count_nonzero(~kept))
            z, y, x = components.voxels(~kept)
            voxels = z + box[0].start, y + box[1].start, x + box[2].start
        volume_ml = voxels[0].size * label_map.grid.voxel_ml
        found.append((Removal(organ=organ.name, components=count, volume_ml=volume_ml), voxels))
    return tuple(found)


def removal_notes(removals: Sequence[Removal]) -> tuple[str, ...]:
    """A sentence for each organ from which something was removed that the two decimals of its volume show."""
    return tuple(
        f"Post-processing removed {removal.volume_ml:.2f} ml of {removal.organ} in {removal.components} "
        f"small component{'s' if removal.components > 1 else ''}."
        for removal in removals
        if removal.volume_ml >= _NOTED_ML
    )


def split_sides(label_map: LabelMap, volume: Volume, organs: Sequence[Organ]) -> tuple[LabelMap, tuple[Sides, ...]]:
    """Return a label map in which the left of each paired organ has a label of its own, as `organs.sided_table` says.

    Args:
        label_map: On the volume's grid.
        volume: The CT, whose body gives the midline.
        organs: What the labels mean before.

    Returns:
        The new label map, and the sides of each paired organ that was found.
    """
    lefts = iter(sided_table(organs)[len(organs) :])
    boxes = label_boxes(label_map.labels)
    labels, found = label_map.labels.copy(), []
    for organ in organs:
        left = next(lefts) if organ.name in PAIRED else None
        if left is not None and organ.index in boxes:
            sides = organ_sides(volume, label_map, organ, boxes[organ.index])
            labels[sides.box][sides.left] = left.index
            found.append(sides)
    return LabelMap(labels=labels, grid=label_map.grid, notes=label_map.notes), tuple(found)


def _one_each_side(components: Components, large: NDArray[np.bool_], box: Ranges, volume: Volume) -> NDArray[np.bool_]:
    """The largest component, and the largest of the `large` ones on the other side of the body's middle."""
    left = volume.grid.to_canonical().axes[2]  # the array's axis that runs across, either way round
    middle_vox = body_middle_vox(volume.hu[level(volume, box)], left) - box[left].start
    beyond = components.centres_zyx_vox()[:, left] > middle_vox
    across = np.flatnonzero(large & (beyond != beyond[0]))
    kept = np.zeros(components.count, dtype=np.bool_)
    kept[[0, *across[:1]]] = True
    return kept
