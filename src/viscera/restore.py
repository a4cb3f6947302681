"""Back to the scan's own voxels: probabilities interpolated to the scan's grid, the likeliest label of each voxel.

Never holds a probability per label and voxel of the scan: it works slice by slice of the scan, and in each slice only
on the rows and columns where the network was not sure of background.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid
from viscera.core.resample import AxisMap, axis_maps, worker_count

# Where background leads every other label by this much at all corners, float32 rounding cannot change who leads.
_SURE_LEAD = 1e-5
# Columns of the scan interpolated at once: keeps each product so small that BLAS does it in the calling thread.
_TILE_COLUMNS = 32


def restore_labels(probabilities: NDArray[np.float32], roi: Grid, grid: Grid) -> NDArray[np.uint8]:
    """Return the label of every voxel of the scan: uint8 (z, y, x) of `grid`, C-contiguous.

    Each voxel takes the label whose linearly interpolated probability is largest, of equal ones the lowest (paper,
    section 2.1; nothing else is done to the labels). Voxels centred beyond the ROI's outer faces are background;
    between the outer voxel centres and the faces the edge value holds.

    Args:
        probabilities: float32 (labels, z, y, x) on `roi`, background first.
        roi: The grid of the region of interest.
        grid: The scan's grid, parallel to it.

    Raises:
        GeometryError: If the probabilities are not on `roi`, or the grids are not parallel.
    """
    if probabilities.shape[1:] != roi.shape_zyx:
        raise GeometryError(
            "restoring labels",
            expected=f"probabilities of the ROI's shape (labels, *{roi.shape_zyx})",
            got=f"{probabilities.shape}",
            remedy="Give the grid the network worked on",
        )
    maps = axis_maps(roi, grid)
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    if not all(axis.count for axis in maps):
        return labels
    inside = labels[maps[0].inside, maps[1].inside, maps[2].inside]
    unsure = _unsure(probabilities)
    slices = maps[0].blocks(rows=1)

    def fill(index: int) -> None:
        block = slices[index]
        here: NDArray[np.bool_] = np.any(unsure[block.sources], axis=0)
        rows, columns = _cut(maps[1], np.any(here, axis=1)), _cut(maps[2], np.any(here, axis=0))
        if rows.count and columns.count:
            corners = probabilities[:, block.sources, rows.sources, columns.sources]
            slab = np.einsum("s,lsyx->lyx", block.weights[0], corners)
            inside[index, rows.inside, columns.inside] = _likeliest(slab, rows.trimmed(), columns.trimmed())

    with ThreadPoolExecutor(worker_count()) as pool:
        list(pool.map(fill, range(len(slices))))
    return labels


def _unsure(probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where background does not clearly lead; between voxels where it does it wins any linear interpolation."""
    sure: NDArray[np.bool_] = probabilities[0] - probabilities[1:].max(axis=0) > _SURE_LEAD
    return ~sure


def _cut(axis: AxisMap, unsure: NDArray[np.bool_]) -> AxisMap:
    """The part of the map whose target voxels draw on any unsure source voxel, as one range counted from 0."""
    targets = np.flatnonzero(axis.weights[:, unsure].any(axis=1))
    kept = slice(int(targets[0]), int(targets[-1]) + 1) if targets.size else slice(0, 0)
    return AxisMap(inside=kept, weights=axis.weights[kept])


def _likeliest(slab: NDArray[np.float32], rows: AxisMap, columns: AxisMap) -> NDArray[np.uint8]:
    """The largest label of one slice of the scan from its probabilities (labels, y, x) on the ROI's y and x."""
    tall = np.empty((slab.shape[0], rows.count, slab.shape[2]), dtype=np.float32)
    for block in rows.blocks():
        np.matmul(block.weights, slab[:, block.sources], out=tall[:, block.targets])
    full = np.empty((slab.shape[0], rows.count, columns.count), dtype=np.float32)
    for block in columns.blocks(rows=_TILE_COLUMNS):
        np.matmul(tall[:, :, block.sources], block.weights.T, out=full[:, :, block.targets])
    best = full[0]
    labels = np.zeros(best.shape, dtype=np.uint8)
    for label in range(1, len(full)):
        # Labels ascend, so the larger number is the later winner: as fast as bytes can be compared.
        leads = (full[label] > best).view(np.uint8)
        np.maximum(labels, leads * np.uint8(label), out=labels)
        np.maximum(best, full[label], out=best)
    return labels
