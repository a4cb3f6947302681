"""Volume and LabelMap: arrays with the grid they lie on, immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid


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


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """Organ labels (see `viscera.core.organs`).

    Attributes:
        labels: uint8 (z, y, x), read-only.
        grid: Where the voxels lie.
        notes: What a reader of the result should know about how the labels were read (segments passed over), one
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
