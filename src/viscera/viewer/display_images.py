"""What of a scan a page shows: the region around the organs, and no more voxels than the page can carry."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError
from viscera.core.geometry import AIR_HU, Grid, Ranges, mask_ranges
from viscera.core.organs import BACKGROUND
from viscera.core.resample import resample
from viscera.core.volume import LabelMap, Volume

# Shown around the organs.
MARGIN_MM = 30.0
# Averaging over about one of the coarser voxels, as the pipeline does where it goes to a coarser grid.
_SIGMA_PER_SPACING = 0.35


@dataclass(frozen=True, kw_only=True, eq=False)
class DisplayImages:
    """The images of a page, on one grid.

    Attributes:
        volume: The CT or a part of it.
        label_map: Its labels, None if there are none.
        coarsened: Whether voxels were made larger.
    """

    volume: Volume
    label_map: LabelMap | None
    coarsened: bool

    def zoom(self) -> float:
        """By how much the organs can be enlarged about the images' middle and still be seen whole; at least 1."""
        if self.label_map is None or (spans := _spans(self.label_map)) is None:
            return 1.0
        counts, steps_mm = np.array(self.volume.grid.shape_zyx), np.array(self.volume.grid.spacing_zyx_mm)
        ends = np.array([[span.start, span.stop] for span in spans])
        reach_mm = np.abs(ends - counts[:, None] / 2).max(axis=1) * steps_mm
        return float(np.linalg.norm(counts * steps_mm) / 2 / np.linalg.norm(reach_mm))


def fitted(volume: Volume, label_map: LabelMap | None, most_voxels: int) -> DisplayImages:
    """The scan with at most `most_voxels` voxels: as it is if it has no more, else smoothed and on coarser voxels.

    Voxels that are not cubes are made coarser along their short sides first.
    """
    turn = volume.grid.to_canonical()
    grid = turn.apply_to_grid(volume.grid)
    target = _coarser(grid, most_voxels)
    if target is grid:
        return DisplayImages(volume=volume, label_map=label_map, coarsened=False)
    spacing = max(target.spacing_zyx_mm)
    hu = resample(turn.apply(volume.hu), grid, target, sigma_mm=_SIGMA_PER_SPACING * spacing, outside=AIR_HU)
    coarse = Volume(hu=np.rint(hu).astype(np.int16), grid=target, notes=volume.notes)
    if label_map is None:
        return DisplayImages(volume=coarse, label_map=None, coarsened=True)
    labels = turn.apply(label_map.labels)[np.ix_(*_nearest(target, grid))]
    return DisplayImages(volume=coarse, label_map=LabelMap(labels=labels, grid=target), coarsened=True)


def on_grid(label_map: LabelMap, grid: Grid) -> LabelMap:
    """The label map with its voxels in the order of `grid`, on which they must lie, regardless of the axes of its file.

    Raises:
        GeometryError: If its voxels are not those of `grid`.
    """
    turn, back = label_map.grid.to_canonical(), grid.to_canonical().inverse()
    turned = back.apply_to_grid(turn.apply_to_grid(label_map.grid))
    if not grid.matches(turned):
        raise GeometryError(
            "laying the labels over the CT",
            expected=f"labels of the CT's own voxels, {_words(grid)}",
            got=_words(turned),
            remedy="Give the labels of this CT, or bring them onto its grid",
        )
    return LabelMap(labels=back.apply(turn.apply(label_map.labels)), grid=grid)


def _words(grid: Grid) -> str:
    spacing, first = (
        tuple(round(value, 3) for value in values) for values in (grid.spacing_zyx_mm, grid.origin_xyz_mm)
    )
    return f"{grid.shape_zyx} of {spacing} mm (z, y, x) from {first} mm (x, y, z)"


def around_organs(volume: Volume, label_map: LabelMap) -> tuple[Volume, LabelMap]:
    """The part of the scan that holds every label and `MARGIN_MM` around; all of it if there is no label."""
    grid = volume.grid
    spans = _spans(label_map)
    if spans is None:
        return volume, label_map
    ranges = grid.voxels(grid.box(spans).grown(MARGIN_MM))
    part = _part(grid, ranges)
    hu, labels = np.ascontiguousarray(volume.hu[ranges]), np.ascontiguousarray(label_map.labels[ranges])
    return Volume(hu=hu, grid=part, notes=volume.notes), LabelMap(labels=labels, grid=part)


def _spans(label_map: LabelMap) -> Ranges | None:
    """The voxels between the first and the last label along each axis; None if there is no label."""
    return mask_ranges(label_map.labels != BACKGROUND)


def _part(grid: Grid, ranges: Ranges) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world(np.array([part.start for part in ranges]))
    counts = [int(part.stop) - int(part.start) for part in ranges]
    return Grid(shape_zyx=(counts[0], counts[1], counts[2]), affine=affine)


def _coarser(grid: Grid, most_voxels: int) -> Grid:
    """A grid over the same extent with at most so many voxels; `grid` itself if it has no more."""
    if math.prod(grid.shape_zyx) <= most_voxels:
        return grid
    extent = grid.extent_zyx_mm
    # The spacing at which cubes would do, raised until rounding up to whole voxels fits too.
    least = (math.prod(extent) / most_voxels) ** (1 / 3)
    for step in itertools.count():
        wanted = least * 1.02**step
        spacing = [max(own, wanted) for own in grid.spacing_zyx_mm]
        shape = [
            min(own, math.ceil(length / step_mm))
            for own, length, step_mm in zip(grid.shape_zyx, extent, spacing, strict=True)
        ]
        if math.prod(shape) <= most_voxels:
            break
    ratio = np.array(grid.shape_zyx) / np.array(shape)
    affine = grid.affine.copy()
    affine[:3, :3] *= ratio
    # The first voxel's centre moves so that the outer faces stay where they are.
    affine[:3, 3] = grid.world((ratio - 1) / 2)
    return Grid(shape_zyx=(shape[0], shape[1], shape[2]), affine=affine)


def _nearest(target: Grid, source: Grid) -> tuple[NDArray[np.intp], ...]:
    """For each axis the source voxel nearest to each target voxel's centre."""
    offsets, steps = target.positions_in(source)
    return tuple(
        np.clip(np.rint(offset + step * np.arange(count)), 0, limit - 1).astype(np.intp)
        for offset, step, count, limit in zip(offsets, steps, target.shape_zyx, source.shape_zyx, strict=True)
    )
