"""What the readers of image files hand over: a grid, and the stored numbers slab by slab."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from viscera.core.geometry import Grid
from viscera.core.label_names import LabelName


@dataclass(frozen=True, kw_only=True, eq=False)
class Raster:
    """An image in a file whose stored numbers are still to be read.

    Attributes:
        grid: Where the voxels lie.
        slope, intercept: Stored numbers to values.
        slabs: Runs once over the whole image: consecutive arrays (some z, y, x) of real numbers, from z = 0 up; of a
            segmentation in layers (some z, y, x, layer).
        names: What the file says its labels are, by layer and value; empty if it does not.
        notes: What was odd, one sentence each.
    """

    grid: Grid
    slope: float
    intercept: float
    slabs: Iterator[NDArray[Any]]
    names: Mapping[tuple[int, int], LabelName] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
