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

from viscera.core.components import CANONICAL_FACES
from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.quality.rules import OrganQuality, Reason, Verdict


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
        quality: The verdict on its labels, None where they were not assessed.
        quality_reasons: Why, as `quality.Reason` names it.
    """

    organ: str
    voxels: int
    volume_ml: float
    mean_hu: float | None
    sd_hu: float | None
    border_faces: tuple[str, ...]
    quality: Verdict | None = None
    quality_reasons: tuple[Reason, ...] = ()

    @property
    def touches_border(self) -> bool:
        """Whether the organ reaches the edge of the scan, so that its volume may be too small."""
        return bool(self.border_faces)


def organ_statistics(
    volume: Volume, label_map: LabelMap, organs: Sequence[Organ] = ORGANS
) -> tuple[OrganStatistics, ...]:
    """The statistics of every one of `organs`, in their order; other labels are not counted.

    Needs little memory beside the arrays: one slab's voxels at a time, summed exactly as integers.

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
    sums = _sums(volume.hu, label_map.labels, [organ.index for organ in organs])
    faces = _border_faces(label_map.labels, label_map.grid)
    return tuple(
        _record(organ.name, sums[organ.index], volume.grid.voxel_ml, faces.get(organ.index, ())) for organ in organs
    )


def with_quality(statistics: Sequence[OrganStatistics], quality: Sequence[OrganQuality]) -> tuple[OrganStatistics, ...]:
    """The statistics with the verdict on each organ, given in the same order."""
    return tuple(
        replace(row, quality=verdict.verdict, quality_reasons=verdict.reasons)
        for row, verdict in zip(statistics, quality, strict=True)
    )


def _sums(hu: NDArray[np.int16], labels: NDArray[np.uint8], indices: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """Per organ index: the number of voxels, the sum of their HU and of its squares."""
    sums = dict.fromkeys(indices, (0, 0, 0))
    for hu_slab, label_slab in zip(hu, labels, strict=True):
        present = np.flatnonzero(np.bincount(label_slab.ravel(), minlength=max(indices) + 1))
        for index in sums.keys() & set(present.tolist()):
            values = hu_slab[label_slab == index].astype(np.int64)
            count, total, squares = sums[index]
            sums[index] = (count + values.size, total + int(values.sum()), squares + int(values @ values))
    return sums


def _border_faces(labels: NDArray[np.uint8], grid: Grid) -> dict[int, tuple[str, ...]]:
    """The faces each label touches, by label."""
    turned = grid.to_canonical().apply(labels)
    faces: dict[int, tuple[str, ...]] = {}
    for axis, names in enumerate(CANONICAL_FACES):
        for position, name in zip((0, -1), names, strict=True):
            for index in np.unique(turned.take(position, axis=axis)).tolist():
                faces[index] = (*faces.get(index, ()), name)
    return faces


def _record(organ: str, sums: tuple[int, int, int], voxel_ml: float, faces: tuple[str, ...]) -> OrganStatistics:
    count, total, squares = sums
    mean = total / count if count else None
    # Integers keep the difference of two large numbers exact.
    sd = math.sqrt(count * squares - total * total) / count if count else None
    return OrganStatistics(
        organ=organ, voxels=count, volume_ml=count * voxel_ml, mean_hu=mean, sd_hu=sd, border_faces=faces
    )


def statistics_csv(statistics: Sequence[OrganStatistics]) -> str:
    """CSV with one row per organ; several border faces or reasons are separated by a space.

    HU of absent organs are empty, and so is the quality of labels that were not assessed.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = ["organ", "voxels", "volume_ml", "mean_hu", "sd_hu", "touches_border", "border_faces"]
    writer.writerow([*measured, "quality", "quality_reasons"])
    for row in statistics:
        hu = ["" if value is None else f"{value:.2f}" for value in (row.mean_hu, row.sd_hu)]
        border = ["yes" if row.touches_border else "no", " ".join(row.border_faces)]
        quality = [row.quality or "", " ".join(row.quality_reasons)]
        writer.writerow([row.organ, row.voxels, f"{row.volume_ml:.3f}", *hu, *border, *quality])
    return text.getvalue()


def statistics_json(statistics: Sequence[OrganStatistics]) -> str:
    """JSON with one object per organ; HU of absent organs and the quality of labels not assessed are null."""
    rows = [{**asdict(row), "touches_border": row.touches_border} for row in statistics]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
