"""Labels without their small stray parts, as a repair that is asked for and told (the published method does none).

Voxels that share only an edge or a corner belong together: where a thin organ runs obliquely, one voxel wide, faces
alone would cut it, and what is removed by mistake is worse than a stray voxel that stays.
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
from viscera.core.organs import Organ
from viscera.core.volume import LabelMap, Volume

Voxels = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

# Between air and fat.
BODY_HU = -300
# The body's middle needs no more than every so many voxels.
_STEP_VOX = 4
_NONE: Voxels = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was taken from one organ: its name, how many parts and their volume together."""

    organ: str
    parts: int
    volume_ml: float


def stray_parts(
    label_map: LabelMap, volume: Volume, organs: Sequence[Organ], config: CleanConfig
) -> tuple[tuple[Removal, Voxels], ...]:
    """What cleaning takes from each organ, in order, and where: indices (z, y, x) that become background.

    Of each organ the largest part stays and every other of at least `config.keep_share` of it; of a paired one the
    largest, and the largest such part whose centre is on the other side of the body's middle. Other labels stay as
    they are.

    Raises:
        GeometryError: If the label map lies on another grid than the volume, whose body tells the middle.
    """
    if not volume.grid.matches(label_map.grid):
        raise GeometryError(
            "cleaning labels",
            expected=f"a label map on the volume's grid of {volume.grid.shape_zyx} voxels",
            got=f"one of {label_map.grid.shape_zyx} voxels, or elsewhere in space",
            remedy="Bring the label map onto the volume's grid",
        )
    boxes = label_boxes(label_map.labels)
    found = []
    for organ in organs:
        parts, voxels = 0, _NONE
        if organ.index in boxes:
            box = boxes[organ.index]
            components = connected_components(label_map.labels[box], value=organ.index)
            large = components.sizes_vox >= config.keep_share * components.sizes_vox[0]
            kept = _one_each_side(components, large, box, volume) if organ.name in config.paired else large
            parts = int(np.count_nonzero(~kept))
            z, y, x = components.voxels(~kept)
            voxels = z + box[0].start, y + box[1].start, x + box[2].start
        volume_ml = voxels[0].size * label_map.grid.voxel_ml
        found.append((Removal(organ=organ.name, parts=parts, volume_ml=volume_ml), voxels))
    return tuple(found)


def clean_notes(removals: Sequence[Removal]) -> tuple[str, ...]:
    """A sentence for each organ of which something was removed."""
    return tuple(
        f"Cleaning removed {removal.volume_ml:.2f} ml of {removal.organ} in {removal.parts} "
        f"part{'s' if removal.parts > 1 else ''}."
        for removal in removals
        if removal.parts
    )


def _one_each_side(components: Components, large: NDArray[np.bool_], box: Ranges, volume: Volume) -> NDArray[np.bool_]:
    """The largest part, and the largest of the `large` ones on the other side of the body's middle."""
    head, _, left = volume.grid.to_canonical().axes  # the array's axes that run up and across, either way round
    level: list[slice] = [slice(None)] * 3
    level[head] = box[head]
    middle_vox = _body_middle_vox(volume.hu[tuple(level)], left) - box[left].start
    beyond = components.centres_zyx_vox()[:, left] > middle_vox
    across = np.flatnonzero(large & (beyond != beyond[0]))
    kept = np.zeros(components.count, dtype=np.bool_)
    kept[[0, *across[:1]]] = True
    return kept


def _body_middle_vox(hu: NDArray[np.int16], axis: int) -> float:
    """The body's middle along an axis of `hu` in voxels; the middle of the array where there is no body."""
    body = hu[::_STEP_VOX, ::_STEP_VOX, ::_STEP_VOX] > BODY_HU
    weights = np.count_nonzero(body, axis=tuple(other for other in range(3) if other != axis))
    if not weights.any():
        return float(hu.shape[axis] - 1) / 2
    return float(np.average(np.arange(0, hu.shape[axis], _STEP_VOX), weights=weights))
