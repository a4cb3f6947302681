"""Smoothing and linear interpolation between parallel grids: one matrix per axis, slab by slab.

Gaussian smoothing on the source grid and linear interpolation at the target's voxel centres are both linear and both
separable, so their product is one matrix (target voxels x source voxels) per axis. Applying the three matrices gives
what smoothing the whole volume and then interpolating it would give, without ever holding a smoothed or a floating
point copy of the volume, and it costs a few matrix products.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.cores import allowed_cores
from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid

# The Gaussian is cut where its weights have fallen to 3e-4 of the middle one; what is cut sums to 6e-5.
_CUT_SIGMAS = 4.0
# A narrower Gaussian weighs its neighbours with less than float32 can add to the middle.
_LEAST_SIGMA_VOX = 0.1
# Part of a voxel that rounding may put a target centre beyond the outer face of the source.
_ROUNDING_VOX = 1e-6
# Rows of a matrix multiplied at once: enough to keep the product fast, few enough to leave most zeros of the band out.
_BLOCK_ROWS = 16
# Floating point bytes of the source converted at once: small enough to stay in a processor's cache.
_SLAB_BYTES = 2 << 20
# Rows of one product along the fastest axis: keeps each product so small that BLAS does it in the calling thread.
_TILE_ROWS = 64
# More threads than this only wait for memory.
_MOST_WORKERS = 4


def worker_count() -> int:
    """How many threads work on slabs at the same time."""
    return min(_MOST_WORKERS, allowed_cores())


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """A part of an axis matrix: rows `targets`, and columns `sources` outside of which those rows are zero."""

    targets: slice
    sources: slice
    weights: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class AxisMap:
    """Smoothing and interpolation along one axis.

    Attributes:
        inside: The target voxels whose centres lie within the outer faces of the source; the others have no value.
        weights: float32 (voxels of `inside`, source voxels); every row sums to 1.
    """

    inside: slice
    weights: NDArray[np.float32]

    @property
    def count(self) -> int:
        """The number of target voxels inside."""
        return int(self.weights.shape[0])

    @property
    def sources(self) -> slice:
        """The source voxels that have a part in any target voxel."""
        return _support(self.weights)

    def reversed(self) -> AxisMap:
        """The same map for a source that lies the other way round."""
        return AxisMap(inside=self.inside, weights=self.weights[:, ::-1])

    def trimmed(self) -> AxisMap:
        """The same map for only those source voxels that have a part in it, `sources`."""
        return AxisMap(inside=self.inside, weights=self.weights[:, self.sources])

    def blocks(self, rows: int = _BLOCK_ROWS) -> list[Block]:
        """The matrix cut into blocks of at most `rows` rows, zeros outside the band left out; slices count from 0."""
        cuts = [slice(start, min(start + rows, self.count)) for start in range(0, self.count, rows)]
        supports = [_support(self.weights[cut]) for cut in cuts]
        return [
            Block(targets=cut, sources=part, weights=np.ascontiguousarray(self.weights[cut, part]))
            for cut, part in zip(cuts, supports, strict=True)
        ]


def resample(
    array: NDArray[np.int16] | NDArray[np.float32], source: Grid, target: Grid, *, sigma_mm: float, outside: float
) -> NDArray[np.float32]:
    """The array smoothed and linearly interpolated at the voxel centres of `target`: float32 (z, y, x).

    Beyond its outer voxel centres the source continues with its edge values, for the smoothing everywhere and for the
    interpolation up to the outer voxel faces; target voxels centred beyond the outer faces become `outside`. The array
    may be any view (reversed, transposed); it is read slab by slab in the order it lies in memory, and memory use
    beyond input and output does not depend on the number of slabs.

    Args:
        array: (z, y, x) on `source`.
        source: The grid of the array.
        target: A grid parallel to it.
        sigma_mm: Standard deviation of the Gaussian along every axis, in mm of the axis itself; 0 for none.
        outside: The value of target voxels that lie outside the source.

    Raises:
        GeometryError: If the grids are not parallel, or the array is not on `source`.
    """
    if array.shape != source.shape_zyx:
        raise GeometryError(
            "resampling a volume",
            expected=f"an array of its grid's shape {source.shape_zyx} (z, y, x)",
            got=f"{array.shape}",
            remedy="Give the grid the array lies on",
        )
    maps = axis_maps(source, target, sigma_mm)
    result = np.full(target.shape_zyx, outside, dtype=np.float32)
    if all(axis.count for axis in maps):
        result[maps[0].inside, maps[1].inside, maps[2].inside] = _mapped(array, maps)
    return result


def axis_maps(source: Grid, target: Grid, sigma_mm: float = 0.0) -> tuple[AxisMap, AxisMap, AxisMap]:
    """The three maps (z, y, x) from voxels of `source` to voxels of `target`, a parallel grid.

    Raises:
        GeometryError: If the grids are not parallel.
    """
    offset, step = target.positions_in(source)
    maps = [
        axis_map(
            np.arange(target.shape_zyx[k], dtype=np.float64) * step[k] + offset[k],
            source.shape_zyx[k],
            sigma_mm / spacing,
        )
        for k, spacing in enumerate(source.spacing_zyx_mm)
    ]
    return maps[0], maps[1], maps[2]


def axis_map(positions_vox: NDArray[np.float64], count: int, sigma_vox: float) -> AxisMap:
    """The map from `count` source voxels to ascending continuous positions among them.

    The Gaussian is sampled at voxel centres and normalised. Where sigma is at least 0.8 voxels that equals continuous
    smoothing of a band-limited signal to 1 %; below, it smooths less than that and fades out (sigma 0.2 voxels leaves
    the signal as it is), which suits axes that the scanner has already averaged over a thicker slice. It is also what
    SimpleITK's SmoothingRecursiveGaussian does, which the published model was trained with, and whose edge handling
    (the edge value continues) this shares.
    """
    half = 0.5 + _ROUNDING_VOX  # of a voxel
    inside = np.flatnonzero((positions_vox >= -half) & (positions_vox <= count - 1 + half))
    if inside.size == 0:
        return AxisMap(inside=slice(0, 0), weights=np.zeros((0, count), dtype=np.float32))
    position = np.clip(positions_vox[inside], 0, count - 1)
    below = np.floor(position).astype(np.intp)
    upper_share = position - below
    kernel = _gaussian(sigma_vox)
    taps = np.arange(kernel.size) - kernel.size // 2
    weights = np.zeros((inside.size, count))
    rows = np.arange(inside.size)[:, np.newaxis]
    for corner, share in ((below, 1.0 - upper_share), (below + 1, upper_share)):
        columns = np.clip(corner[:, np.newaxis] + taps, 0, count - 1)
        np.add.at(weights, (rows, columns), share[:, np.newaxis] * kernel)
    return AxisMap(inside=slice(int(inside[0]), int(inside[-1]) + 1), weights=weights.astype(np.float32))


def _gaussian(sigma_vox: float) -> NDArray[np.float64]:
    if sigma_vox < _LEAST_SIGMA_VOX:
        return np.ones(1)
    radius = math.ceil(_CUT_SIGMAS * sigma_vox)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_vox) ** 2)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def _support(weights: NDArray[np.float32]) -> slice:
    columns = np.flatnonzero(weights.any(axis=0))
    return slice(int(columns[0]), int(columns[-1]) + 1)


def _mapped(array: NDArray[Any], maps: tuple[AxisMap, AxisMap, AxisMap]) -> NDArray[np.float32]:
    """The three maps applied, with the axes taken in the order and direction they lie in memory."""
    order = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    backward = [array.strides[axis] < 0 for axis in order]
    turns = [slice(None, None, -1 if back else 1) for back in backward]
    turned = array.transpose(order)[turns[0], turns[1], turns[2]]
    slow, middle, fast = (
        maps[axis].reversed() if back else maps[axis] for axis, back in zip(order, backward, strict=True)
    )
    needed = turned[slow.sources, middle.sources, fast.sources]
    result = np.zeros((slow.count, middle.count, fast.count), dtype=np.float32)
    slow, middle, fast = slow.trimmed(), middle.trimmed(), fast.trimmed()
    for slices, planes in _planes(needed, middle, fast):
        part = slow.weights[:, slices]
        rows = np.flatnonzero(part.any(axis=1))
        touched = slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)
        result[touched] += np.matmul(part[touched], planes.transpose(1, 0, 2)).transpose(1, 0, 2)
    return result.transpose(np.argsort(order))


def _planes(array: NDArray[Any], middle: AxisMap, fast: AxisMap) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Slab by slab along the slowest axis, in order: where the slab lies, and its slices with both other axes mapped.

    Several threads work ahead, by a fixed number of slabs; what they return does not depend on their number.
    """
    depth = max(1, _SLAB_BYTES // (4 * array[0].size))
    cuts = [slice(start, start + depth) for start in range(0, len(array), depth)]
    row_blocks, column_blocks = middle.blocks(), fast.blocks()

    def mapped(cut: slice) -> NDArray[np.float32]:
        narrow = _columns_mapped(array[cut], column_blocks, fast.count)
        planes = np.empty((len(narrow), middle.count, fast.count), dtype=np.float32)
        for block in row_blocks:
            np.matmul(block.weights, narrow[:, block.sources], out=planes[:, block.targets])
        return planes

    with ThreadPoolExecutor(worker_count()) as pool:
        pending: deque[tuple[slice, Future[NDArray[np.float32]]]] = deque()
        for cut in cuts:
            pending.append((cut, pool.submit(mapped, cut)))
            if len(pending) > 2 * worker_count():
                slices, planes = pending.popleft()
                yield slices, planes.result()
        for slices, planes in pending:
            yield slices, planes.result()


def _columns_mapped(slab: NDArray[Any], blocks: list[Block], count: int) -> NDArray[np.float32]:
    """A slab in float32 with its last axis mapped; rows are padded with zeros to whole tiles."""
    slices, rows, columns = slab.shape
    tiles = -(-rows // _TILE_ROWS)
    floats = np.empty((slices, tiles * _TILE_ROWS, columns), dtype=np.float32)
    floats[:, :rows] = slab
    floats[:, rows:] = 0.0
    narrow = np.empty((slices, tiles * _TILE_ROWS, count), dtype=np.float32)
    tiles_in = floats.reshape(slices * tiles, _TILE_ROWS, columns)
    tiles_out = narrow.reshape(slices * tiles, _TILE_ROWS, count)
    for block in blocks:
        np.matmul(tiles_in[:, :, block.sources], block.weights.T, out=tiles_out[:, :, block.targets])
    return narrow


def nearest_labels(labels: NDArray[np.uint8], source: Grid, target: Grid) -> NDArray[np.uint8]:
    """Return the label of the source voxel that each voxel centre of `target` lies in, edges continued."""
    offset, step = target.positions_in(source)
    nearest = [
        np.clip(np.rint(first + ratio * np.arange(count)).astype(int), 0, size - 1)
        for first, ratio, count, size in zip(offset, step, target.shape_zyx, source.shape_zyx, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*nearest)])
