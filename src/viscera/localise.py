"""Where the organs are: the box around what the localiser finds in the low-resolution image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError, NothingFoundError
from viscera.core.geometry import Box, Grid, Vector


def organ_box(logits: NDArray[np.float32], low_grid: Grid, grid: Grid, *, least_ml: float = 0.0) -> Box:
    """Return the box around every foreground voxel, in mm of `grid`, within the scan, without margin.

    Foreground is where logit 1 exceeds logit 0 (authors' release); the box runs over the voxels' outer faces. Nothing
    is filtered: one false voxel widens the box. Where less than half a voxel of the scan is left beyond the box, it
    runs on to the scan's face: that rest holds no voxel centre of the low-resolution image, and nothing could be
    found there.

    Args:
        logits: (2, z, y, x) on `low_grid`.
        low_grid: The low-resolution image's grid, parallel to `grid`.
        grid: The scan's grid.
        least_ml: Less foreground than this counts as none.

    Raises:
        NothingFoundError: If no voxel or too little is foreground, or only voxels in the padding around the scan are.
        GeometryError: If the logits are not on `low_grid`, or the grids are not parallel.
    """
    if logits.shape != (2, *low_grid.shape_zyx):
        raise GeometryError(
            "locating the organs",
            expected=f"logits of shape {(2, *low_grid.shape_zyx)} (channel, z, y, x)",
            got=f"{logits.shape}",
            remedy="Give the grid of the low-resolution image",
        )
    foreground = logits[1] > logits[0]
    if not foreground.any():
        raise nothing_found("no foreground voxel")
    found_ml = float(np.count_nonzero(foreground)) * low_grid.voxel_ml
    if found_ml < least_ml:
        raise nothing_found(f"{found_ml:.1f} ml of foreground, less than the {least_ml:g} ml of any organ worth naming")
    box = grid.box_from(low_grid, low_grid.box(_bounds(foreground)))
    limits = grid.box()
    if not box.overlaps(limits):
        raise nothing_found("foreground only in the padding around the scan")
    return _to_faces(box.clipped(limits), limits, low_grid.spacing_zyx_mm)


def _to_faces(box: Box, limits: Box, spacing_zyx_mm: Vector) -> Box:
    """The box with every side that lies less than half a spacing within `limits` moved out to them."""
    near = [0.5 * step for step in spacing_zyx_mm]
    low = [
        edge if one - edge < half else one
        for one, edge, half in zip(box.lower_zyx_mm, limits.lower_zyx_mm, near, strict=True)
    ]
    high = [
        edge if edge - one < half else one
        for one, edge, half in zip(box.upper_zyx_mm, limits.upper_zyx_mm, near, strict=True)
    ]
    return Box(lower_zyx_mm=(low[0], low[1], low[2]), upper_zyx_mm=(high[0], high[1], high[2]))


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    z, y, x = (np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return slice(int(z[0]), int(z[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


def nothing_found(got: str) -> NothingFoundError:
    """Return the error for a scan without organs; `got` says what was found instead."""
    return NothingFoundError(
        "looking for organs",
        expected="a CT showing organs the model knows",
        got=got,
        remedy="Check that the input is a CT of the abdomen in Hounsfield units, or allow empty results",
    )
