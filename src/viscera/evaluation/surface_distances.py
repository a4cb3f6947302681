"""How far apart the surfaces of two masks are: measured once, and every surface metric read from it.

Surfaces are made of the cells between 2x2x2 voxels that hold inner and outer corners (see `surfels`); a cell weighs by
the area of the surface inside it, and its distance is that of its centre to the nearest surface cell of the other mask.
Both surfaces of a useful segmentation nearly coincide, so most cells meet the other one within a few lattice steps:
these are tried from the shortest on, and only what is left is searched for, block by block. That needs no distance
transform of the whole box. All distances are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.core.geometry import Size, Vector
from viscera.evaluation.surface_areas import CODES, surfel_areas_mm2

_Cells = NDArray[np.int64]

# Lattice steps to try before the search by blocks: about so many lie in the ball of steps.
_STEPS = 300
# The edge of the blocks in which far cells are searched, in edges of a cube as large as a voxel.
_BLOCK_VOX = 11.0
# More than what rounding can hide in a squared distance.
_ROUNDING_MM2 = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceDistances:
    """The cells of two surfaces, each with its distance to the other surface; neither surface is empty.

    Attributes:
        reference_mm, prediction_mm: The distance of each cell of the reference's and of the prediction's surface.
        reference_mm2, prediction_mm2: The area of the surface inside each of these cells.
    """

    reference_mm: NDArray[np.float64]
    prediction_mm: NDArray[np.float64]
    reference_mm2: NDArray[np.float64]
    prediction_mm2: NDArray[np.float64]

    def share_within(self, tolerance_mm: float) -> float:
        """The share of both surfaces' area that lies at most `tolerance_mm` from the other one: the surface Dice."""
        close = sum(float(areas[distances <= tolerance_mm].sum()) for distances, areas in self._sides())
        return close / sum(float(areas.sum()) for _, areas in self._sides())

    def percentile_mm(self, percent: float) -> float:
        """The distance within which `percent` of a surface's area lies, of both surfaces the larger one."""
        return max(_percentile(distances, areas, percent) for distances, areas in self._sides())

    def mean_mm(self) -> float:
        """The mean distance over the area of both surfaces together."""
        total = sum(float(distances @ areas) for distances, areas in self._sides())
        return total / sum(float(areas.sum()) for _, areas in self._sides())

    def _sides(self) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]:
        return (self.reference_mm, self.reference_mm2), (self.prediction_mm, self.prediction_mm2)


def surface_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_zyx_mm: Vector
) -> SurfaceDistances:
    """The distances between the surfaces of two masks (z, y, x) on one grid, neither of them empty.

    A mask that reaches the edge of the array has a surface there. Time and memory go with the array: cut it to the box
    around both masks first.
    """
    steps, lengths_mm = _lattice(spacing_zyx_mm)
    z, y, x = steps.max(axis=0).tolist()
    codes = [_cell_codes(mask, (z, y, x)) for mask in (reference, prediction)]
    surfaces = [(code != 0) & (code != CODES - 1) for code in codes]
    cells = [np.flatnonzero(surface) for surface in surfaces]
    areas_mm2 = surfel_areas_mm2(spacing_zyx_mm)
    distances = []
    for one, other in ((0, 1), (1, 0)):
        found_mm = _by_steps(cells[one], surfaces[other], steps, lengths_mm)
        far = np.flatnonzero(np.isnan(found_mm))
        if far.size:
            points, others = (_places(flat, surfaces[0].shape) for flat in (cells[one][far], cells[other]))
            found_mm[far] = _by_blocks(points, others, spacing_zyx_mm)
        distances.append(found_mm)
    return SurfaceDistances(
        reference_mm=distances[0],
        prediction_mm=distances[1],
        reference_mm2=areas_mm2[codes[0].ravel()[cells[0]]],
        prediction_mm2=areas_mm2[codes[1].ravel()[cells[1]]],
    )


def _percentile(distances_mm: NDArray[np.float64], areas_mm2: NDArray[np.float64], percent: float) -> float:
    """The least of the distances within which at least `percent` of the area lies."""
    order = np.argsort(distances_mm)
    within = np.cumsum(areas_mm2[order])
    index = int(np.searchsorted(within / within[-1], percent / 100))
    return float(distances_mm[order[min(index, order.size - 1)]])


def _cell_codes(mask: NDArray[np.bool_], reach: Size) -> NDArray[np.uint8]:
    """The code (see `surfels`) of every cell of 2x2x2 voxels; the surface keeps `reach` cells off the array's edge."""
    codes: NDArray[np.uint8] = np.pad(mask, [(steps + 1, steps + 1) for steps in reach]).view(np.uint8)
    for axis, bits in enumerate((4, 2, 1)):  # corners join to edges, edges to faces, faces to cells
        lower, upper = (tuple(part if other == axis else slice(None) for other in range(3)) for part in _HALVES)
        codes = codes[lower] | (codes[upper] << np.uint8(bits))
    return codes


_HALVES = (slice(None, -1), slice(1, None))


def _lattice(spacing_zyx_mm: Vector) -> tuple[_Cells, NDArray[np.float64]]:
    """(steps, 3): every lattice step (z, y, x) within a ball of about `_STEPS` of them, shortest first; and lengths."""
    radius_mm = (_STEPS * math.prod(spacing_zyx_mm) * 3 / (4 * math.pi)) ** (1 / 3)
    reach = [math.floor(radius_mm / step) for step in spacing_zyx_mm]
    ranges = [np.arange(-count, count + 1) for count in reach]
    lattice = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths_mm = np.sqrt(_squares(lattice, spacing_zyx_mm))
    order = np.argsort(lengths_mm, kind="stable")
    order = order[lengths_mm[order] <= radius_mm]
    return lattice[order], lengths_mm[order]


def _squares(steps: _Cells, spacing_zyx_mm: Vector) -> NDArray[np.float64]:
    """The squared lengths in mm2 of steps (..., 3) in voxels, always rounded alike."""
    z, y, x = (steps[..., axis] * spacing_zyx_mm[axis] for axis in range(3))
    squares: NDArray[np.float64] = z * z + y * y + x * x
    return squares


def _by_steps(
    cells: _Cells, surface: NDArray[np.bool_], steps: _Cells, lengths_mm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The length of the shortest of `steps` from each of `cells` (flat indices) to a cell of `surface`, else NaN."""
    flat = surface.ravel()
    strides = np.array([surface.shape[1] * surface.shape[2], surface.shape[2], 1])
    found_mm = np.full(cells.size, np.nan)
    left = np.arange(cells.size)
    for step, length_mm in zip((steps @ strides).tolist(), lengths_mm.tolist(), strict=True):
        hit = flat[cells[left] + step]
        if hit.any():
            found_mm[left[hit]] = length_mm
            left = left[~hit]
        if not left.size:
            break
    return found_mm


def _places(flat: _Cells, shape: tuple[int, ...]) -> _Cells:
    """(n, 3): the cells (z, y, x) of flat indices."""
    return np.stack(np.unravel_index(flat, shape), axis=-1)


def _by_blocks(points: _Cells, surface: _Cells, spacing_zyx_mm: Vector) -> NDArray[np.float64]:
    """The distance from each of `points` (n, 3) to the nearest of `surface` (m, 3), both as cells (z, y, x).

    A block of points is measured against those of the surface that can be nearest to one of its points: by the boxes
    around blocks first, then by where they lie as seen from the block's middle.
    """
    spacing = np.asarray(spacing_zyx_mm)
    edge = np.maximum(1, np.rint(_BLOCK_VOX * math.prod(spacing_zyx_mm) ** (1 / 3) / spacing)).astype(np.int64)
    order, sizes = _blocks(surface, edge)
    targets = surface[order]
    starts = np.cumsum(sizes) - sizes
    lows, highs = np.minimum.reduceat(targets, starts), np.maximum.reduceat(targets, starts)
    nearest = np.empty(len(points))
    order, counts = _blocks(points, edge)
    for members in np.split(order, np.cumsum(counts)[:-1]):
        own = points[members]
        low, high = own.min(axis=0), own.max(axis=0)
        least = _squares(np.maximum(0, np.maximum(lows - high, low - highs)), spacing_zyx_mm)
        most = _squares(np.maximum(highs - low, high - lows), spacing_zyx_mm)
        near = targets[np.repeat(least <= most.min(), sizes)]
        middle = own[len(own) // 2]
        near_mm, own_mm = (near - middle) * spacing, (own - middle) * spacing
        squares, own_squares = (np.einsum("ij,ij->i", one, one) for one in (near_mm, own_mm))
        # Seen from the middle, a is nearest. Then b is nearer to a point p only if |b|^2 - |a|^2 < 2 p (b - a), which
        # is at most twice the block's radius times |b - a|.
        first = squares.argmin()
        aside = near_mm - near_mm[first]
        reach = 2 * math.sqrt(own_squares.max()) * np.sqrt(np.einsum("ij,ij->i", aside, aside))
        kept = squares - squares[first] <= reach + _ROUNDING_MM2
        # |a - b|^2 without |a|^2, which is the same for all b.
        best = (squares[kept] - 2 * own_mm @ near_mm[kept].T).argmin(axis=1)
        nearest[members] = _squares(own - near[kept][best], spacing_zyx_mm)
    return np.sqrt(nearest)


def _blocks(points: _Cells, edge: _Cells) -> tuple[_Cells, _Cells]:
    """The order that brings points of one block of `edge` cells together, and how many each block holds."""
    blocks = points // edge
    order = np.lexsort(blocks.T)
    changes = np.flatnonzero((np.diff(blocks[order], axis=0) != 0).any(axis=1)) + 1
    return order, np.diff(changes, prepend=0, append=len(points))
