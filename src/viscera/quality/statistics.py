"""Volume, density and completeness of each organ in a scan, as records, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from viscera.core.components import label_boxes, touched_faces
from viscera.core.errors import GeometryError
from viscera.core.geometry import Ranges
from viscera.core.organs import ORGANS, PAIRED, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.quality.laterality import organ_sides
from viscera.quality.rules import OrganQuality, QcStatus, Reason


@dataclass(frozen=True, kw_only=True)
class OrganStatistics:
    """What a label map says about one organ.

    Attributes:
        organ: Its name.
        voxels: Voxels with the organ's label.
        volume_ml: Their volume.
        mean_hu, sd_hu: Mean and standard deviation of their HU (over all of them, n); None for an absent organ.
        border_faces: Faces of the scan the organ touches, so that it may be cut there: superior, inferior, anterior,
            posterior, left, right (the patient's), each the face nearest to that direction.
        quality: The QC status of its labels, None where they were not assessed.
        quality_reasons: Why, as `quality.rules.Reason` names it.
        left_ml, right_ml: Volume on the patient's left and right side, of a label that holds a pair (the kidneys); None
            for any other.
        sides_finding: What is unusual about the sides, such as a single or a horseshoe kidney, as a sentence.
    """

    organ: str
    voxels: int
    volume_ml: float
    mean_hu: float | None
    sd_hu: float | None
    border_faces: tuple[str, ...]
    quality: QcStatus | None = None
    quality_reasons: tuple[Reason, ...] = ()
    left_ml: float | None = None
    right_ml: float | None = None
    sides_finding: str = ""

    @property
    def touches_border(self) -> bool:
        """Whether the organ reaches the edge of the scan, so that its volume may be too small."""
        return bool(self.border_faces)


def organ_statistics(
    volume: Volume, label_map: LabelMap, organs: Sequence[Organ] = ORGANS
) -> tuple[OrganStatistics, ...]:
    """The statistics of every one of `organs`, in their order; other labels are not counted.

    Needs little memory beyond the arrays: one slab's voxels at a time, summed exactly as integers.

    Raises:
        GeometryError: If the label map lies on another grid than the volume.
    """
    if not volume.grid.matches(label_map.grid):
        raise GeometryError(
            "measuring organs",
            expected=f"a label map on the volume's grid of {volume.grid.shape_zyx} voxels",
            got=f"one of {label_map.grid.shape_zyx} voxels, or elsewhere in space",
            remedy="Bring the label map onto the volume's grid",
        )
    boxes = label_boxes(label_map.labels)
    return tuple(_record(organ, volume, label_map, boxes.get(organ.index)) for organ in organs)


def with_quality(statistics: Sequence[OrganStatistics], quality: Sequence[OrganQuality]) -> tuple[OrganStatistics, ...]:
    """The statistics with the QC status of each organ, given in the same order."""
    return tuple(
        replace(row, quality=found.status, quality_reasons=found.reasons)
        for row, found in zip(statistics, quality, strict=True)
    )


def _record(organ: Organ, volume: Volume, label_map: LabelMap, box: Ranges | None) -> OrganStatistics:
    side_ml = 0.0 if organ.name in PAIRED else None
    absent = OrganStatistics(
        organ=organ.name,
        voxels=0,
        volume_ml=0.0,
        mean_hu=None,
        sd_hu=None,
        border_faces=(),
        left_ml=side_ml,
        right_ml=side_ml,
    )
    if box is None:
        return absent
    count, total, squares = _sums(volume.hu[box], label_map.labels[box], organ.index)
    voxel_ml = volume.grid.voxel_ml
    row = replace(
        absent,
        voxels=count,
        volume_ml=count * voxel_ml,
        mean_hu=total / count,
        # Integers keep the difference of two large numbers exact.
        sd_hu=math.sqrt(count * squares - total * total) / count,
        border_faces=touched_faces(box, label_map.grid),
    )
    if side_ml is None:
        return row
    sides = organ_sides(volume, label_map, organ, box)
    return replace(
        row, left_ml=sides.left_vox * voxel_ml, right_ml=sides.right_vox * voxel_ml, sides_finding=sides.finding
    )


def _sums(hu: NDArray[np.int16], labels: NDArray[np.uint8], index: int) -> tuple[int, int, int]:
    """The number of an organ's voxels, the sum of their HU and of its squares."""
    count = total = squares = 0
    for hu_slab, label_slab in zip(hu, labels, strict=True):
        values = hu_slab[label_slab == index].astype(np.int64)
        count += values.size
        total += int(values.sum())
        squares += int(values @ values)
    return count, total, squares


def statistics_csv(statistics: Sequence[OrganStatistics]) -> str:
    """CSV with one row per organ; several border faces or reasons are separated by a space.

    HU of absent organs are empty, and so is the quality of labels that were not assessed.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = ["organ", "voxels", "volume_ml", "mean_hu", "sd_hu", "touches_border", "border_faces"]
    writer.writerow([*measured, "quality", "quality_reasons", "left_ml", "right_ml"])
    for row in statistics:
        hu = ["" if value is None else f"{value:.2f}" for value in (row.mean_hu, row.sd_hu)]
        border = ["yes" if row.touches_border else "no", " ".join(row.border_faces)]
        quality = [row.quality or "", " ".join(row.quality_reasons)]
        sides = ["" if value is None else f"{value:.3f}" for value in (row.left_ml, row.right_ml)]
        writer.writerow([row.organ, row.voxels, f"{row.volume_ml:.3f}", *hu, *border, *quality, *sides])
    return text.getvalue()


def statistics_json(statistics: Sequence[OrganStatistics]) -> str:
    """JSON with one object per organ; HU of absent organs and the quality of labels not assessed are null."""
    rows = [{**asdict(row), "touches_border": row.touches_border} for row in statistics]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
