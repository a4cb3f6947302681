"""The organs of a page: what was measured of each, its QC status, and a point inside to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.geometry import RAS_TO_LPS, Vector
from viscera.core.organs import BACKGROUND, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.quality.statistics import OrganStatistics, organ_statistics
from viscera.viewer.run_facts import OrganQC


@dataclass(frozen=True, kw_only=True)
class OrganRow:
    """One organ.

    Attributes:
        organ: Its index, name and colour.
        statistics: Volume, HU, border contact.
        inside_ras_mm: A point well inside it in NIfTI's world, which is the viewer's: to the patient's right, front
            and head; None for an absent organ.
        qc: What the run that made the labels says of it, None if nothing.
    """

    organ: Organ
    statistics: OrganStatistics
    inside_ras_mm: Vector | None
    qc: OrganQC | None = None


def organ_rows(volume: Volume, label_map: LabelMap, organs: Sequence[Organ]) -> tuple[OrganRow, ...]:
    """Return the rows of `organs`, in their order, without QC status.

    Raises:
        GeometryError: If the label map lies on another grid than the volume.
    """
    return tuple(
        OrganRow(
            organ=organ,
            statistics=statistics,
            inside_ras_mm=_inside(label_map, organ.index) if statistics.voxels else None,
        )
        for organ, statistics in zip(organs, organ_statistics(volume, label_map, organs), strict=True)
    )


def known_labels(label_map: LabelMap, organs: Sequence[Organ]) -> tuple[LabelMap, str | None]:
    """The label map with those of `organs` alone, and a sentence on the others that are left out, None if none are."""
    known = {BACKGROUND, *(organ.index for organ in organs)}
    counts = np.bincount(label_map.labels.ravel())
    unknown = [value for value in np.flatnonzero(counts).tolist() if value not in known]
    if not unknown:
        return label_map, None
    kept = np.array([value if value in known else BACKGROUND for value in range(len(counts))], dtype=np.uint8)
    words = ", ".join(f"{value} ({counts[value]} voxels)" for value in unknown)
    note = f"Labels that are no organ of the table are not shown: {words}."
    return LabelMap(labels=kept[label_map.labels], grid=label_map.grid), note


def _inside(label_map: LabelMap, index: int) -> Vector:
    """The middle of the longest run in the fullest row of the fullest slice: inside, also where organs are hollow."""
    mask = label_map.labels == index
    z = int(_counts(mask, (1, 2)).argmax())
    y = int(_counts(mask[z], (1,)).argmax())
    ends = np.flatnonzero(np.diff(mask[z, y].astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    first, last = ends[np.diff(ends, axis=1).argmax()]
    point = label_map.grid.world(np.array([z, y, (first + last - 1) // 2]))
    x_mm, y_mm, z_mm = (RAS_TO_LPS[:3, :3] @ point).round(3).tolist()
    return x_mm, y_mm, z_mm


def _counts(mask: NDArray[np.bool_], axes: tuple[int, ...]) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.count_nonzero(mask, axis=axes)
    return counts


def viewer_entry(row: OrganRow) -> Mapping[str, Any]:
    """What the page's script needs to know of the organ."""
    return {
        "index": row.organ.index,
        "name": row.organ.name,
        "colour": row.organ.colour,
        "inside_ras_mm": row.inside_ras_mm,
    }
