"""What a picture of a segmentation shows: the scan in canonical orientation, what of it, and in which slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.components import connected_components
from viscera.core.geometry import Grid, Ranges
from viscera.core.organs import BACKGROUND, ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.quality.rules import Reason

Plane = Literal["axial", "coronal", "sagittal"]

# The array axis (z, y, x in canonical orientation) each plane is cut across.
_PLANE_AXIS: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}

# Heights of the axial slices as shares of the organs' extent, from head to foot, and how far each may move.
_AXIAL_HEIGHTS = (0.78, 0.52, 0.26)
_AXIAL_SLACK = 0.06
# Air outside the body is cut away where HU stay below this, but for a margin; far above and below the organs likewise.
_BODY_HU = -300
_BODY_MARGIN_MM = 10.0
_ORGAN_MARGIN_MM = 45.0
# Largest size of the shown range in pixels along the world's axes.
_LARGEST_PX = {"x": 520, "y": 430, "z": 560}
# A component smaller than this share of the largest one is a fragment.
_FRAGMENT_SHARE = 0.25
# How much more than an organ what is in doubt counts when slices are chosen.
_DOUBT_WEIGHT = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The scan in canonical orientation, what of it is shown, and how large.

    Attributes:
        hu, labels: Views (z, y, x).
        grid: Their grid.
        organs: The organs to draw.
        ranges: The voxels shown along each axis.
        px_per_mm: The scale of axial panels, and of the others unless the shown range is too tall for it.
        doubts: Why organs are to be checked, by their names.
    """

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    grid: Grid
    organs: Sequence[Organ]
    ranges: Ranges
    px_per_mm: float
    doubts: Mapping[str, Sequence[Reason]] = field(default_factory=dict)

    def size_px(self, axis: int) -> int:
        """Return how many pixels the shown range of an axis takes."""
        return max(1, round(self._extent_mm(axis) * self.px_per_mm))

    def scaled_for(self, plane: Plane) -> Scene:
        """Return the scene at the scale of one plane's panels: a range too tall for the axial scale is shrunk."""
        fitting = _LARGEST_PX["z"] / self._extent_mm(0)
        return self if plane == "axial" or self.px_per_mm <= fitting else replace(self, px_per_mm=fitting)

    def _extent_mm(self, axis: int) -> float:
        part = self.ranges[axis]
        return (int(part.stop) - int(part.start)) * self.grid.spacing_zyx_mm[axis]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A plane at a voxel index along its axis."""

    plane: Plane
    index: int

    @property
    def axis(self) -> int:
        """The array axis the plane is cut across."""
        return _PLANE_AXIS[self.plane]


def scene_of(
    volume: Volume,
    label_map: LabelMap,
    organs: Sequence[Organ] = ORGANS,
    doubts: Mapping[str, Sequence[Reason]] | None = None,
) -> Scene:
    """Return the scan and its labels as they are drawn: in canonical orientation, cut to the body around the organs."""
    turn = volume.grid.to_canonical()
    hu, labels, grid = turn.apply(volume.hu), turn.apply(label_map.labels), turn.apply_to_grid(volume.grid)
    ranges = _shown(hu, labels, grid)
    _, height_mm, width_mm = (
        (part.stop - part.start) * step for part, step in zip(ranges, grid.spacing_zyx_mm, strict=True)
    )
    scale = min(_LARGEST_PX["y"] / height_mm, _LARGEST_PX["x"] / width_mm)
    return Scene(
        hu=hu, labels=labels, grid=grid, organs=organs, ranges=ranges, px_per_mm=scale, doubts=dict(doubts or {})
    )


def _shown(hu: NDArray[np.int16], labels: NDArray[np.uint8], grid: Grid) -> Ranges:
    """Return the voxels to show: across, the body; along it, the organs and a margin. All if nothing is found."""
    step_z, step_y, step_x = grid.spacing_zyx_mm
    organs = labels != BACKGROUND
    along = np.flatnonzero(_profile(organs, 0))
    z = _widened(along, round(_ORGAN_MARGIN_MM / step_z), labels.shape[0])
    body = hu[z] > _BODY_HU
    third = labels.shape[2] // 3
    # Front to back, the middle third tells the body from the table: a table bends towards the body at its sides only.
    across_y = _widest(_profile(body[..., third : labels.shape[2] - third], 1)) | (_profile(organs, 1) > 0)
    y = _widened(np.flatnonzero(across_y), round(_BODY_MARGIN_MM / step_y), labels.shape[1])
    across_x = _widest(_profile(body[:, y], 2)) | (_profile(organs, 2) > 0)
    x = _widened(np.flatnonzero(across_x), round(_BODY_MARGIN_MM / step_x), labels.shape[2])
    return z, y, x


def _widest(profile: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the run of neighbouring slices with the most voxels, among those that hold more than a few."""
    filled = profile > 0.05 * max(1, int(profile.max()))
    run = np.cumsum(np.diff(filled, prepend=False))
    weights = np.bincount(run, weights=profile * filled)
    widest: NDArray[np.bool_] = filled & (run == weights.argmax())
    return widest


def _profile(mask: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """Return how many voxels of `mask` each slice across `axis` holds."""
    others = tuple(other for other in range(3) if other != axis)
    counts: NDArray[np.int64] = np.count_nonzero(mask, axis=others)
    return counts


def _widened(indices: NDArray[np.int64], margin: int, count: int) -> slice:
    if not len(indices):
        return slice(0, count)
    return slice(max(0, int(indices[0]) - margin), min(count, int(indices[-1]) + 1 + margin))


def organ_cuts(scene: Scene) -> list[Cut]:
    """Return three axial cuts from head to foot, then a coronal and a sagittal one.

    Without doubt they lie where most of the organs is seen. An organ to be checked gets an axial cut through what is
    doubtful of it, and draws the coronal and the sagittal one towards that. Where an organ only reaches the edge of the
    scan, the axial cuts stay, as the other two show it.
    """
    scores = organ_profiles(scene)
    doubts = {organ.name: _doubt_profiles(scene, organ) for organ in scene.organs if organ.name in scene.doubts}
    wanted = [
        best_index(profiles[0])
        for name, profiles in doubts.items()
        if set(scene.doubts[name]) != {Reason.AT_BORDER} and profiles[0].any()
    ]
    axial = _axial_indices(scores[0], wanted)
    for profiles in doubts.values():
        for axis in (1, 2):
            scores[axis] += _DOUBT_WEIGHT * profiles[axis]
    planes: list[tuple[Plane, int]] = [("axial", index) for index in axial]
    planes += [(plane, best_index(scores[_PLANE_AXIS[plane]])) for plane in ("coronal", "sagittal")]
    return [Cut(plane=plane, index=index) for plane, index in planes]


def _axial_indices(score: NDArray[np.float64], wanted: Sequence[int]) -> list[int]:
    """Return three indices from head to foot: the usual heights, the nearest ones replaced by `wanted` ones."""
    span = np.flatnonzero(score)
    low, high = (int(span[0]), int(span[-1])) if len(span) else (0, len(score) - 1)
    # Each height moves to the best place nearby.
    usual = [best_index(score, low + (high - low) * part, _AXIAL_SLACK * (high - low)) for part in _AXIAL_HEIGHTS]
    if len(span):  # a few stray labels far away leave heights without any organ
        shares = np.cumsum(score) / score.sum()
        usual = [
            index if score[index] else int(np.searchsorted(shares, part))
            for index, part in zip(usual, _AXIAL_HEIGHTS, strict=True)
        ]
    chosen: list[int] = []
    for index in dict.fromkeys(wanted):
        if usual:
            usual.remove(min(usual, key=lambda other: abs(other - index)))
            chosen.append(index)
    return sorted(chosen + usual, reverse=True)


def organ_profiles(scene: Scene) -> list[NDArray[np.float64]]:
    """Return how much of the organs each slice across z, y and x shows.

    Each organ counts by its area relative to its own largest one, so that a small organ counts as much as the liver.
    """
    scores = [np.zeros(count) for count in scene.labels.shape]
    for organ in scene.organs:
        for axis, share in enumerate(_shares(scene.labels == organ.index)):
            scores[axis] += share
    return scores


def _shares(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the areas of a mask in the slices across each axis, relative to the largest one."""
    profiles = [_profile(mask, axis) for axis in range(3)]
    return [profile / max(1, int(profile.max())) for profile in profiles]


def _doubt_profiles(scene: Scene, organ: Organ) -> list[NDArray[np.float64]]:
    """Return how much of what is doubtful of an organ each slice across z, y and x shows."""
    reasons = scene.doubts[organ.name]
    mask = scene.labels == organ.index
    if Reason.FRAGMENTED in reasons:
        components = connected_components(scene.labels, value=organ.index)
        fragments = components.sizes_vox < _FRAGMENT_SHARE * components.sizes_vox.max(initial=0)
        if fragments.any():
            mask = np.zeros_like(mask)
            mask[components.voxels(fragments)] = True
    elif set(reasons) == {Reason.AT_BORDER}:
        mask[1:-1, 1:-1, 1:-1] = False
    return _shares(mask)


def best_index(score: NDArray[np.float64], about: float | None = None, reach: float = 0.0) -> int:
    """Return the index of the largest score, within `reach` of `about` if given; the middle one where all are equal."""
    about = (len(score) - 1) / 2 if about is None else about
    first, last = (round(about - reach), round(about + reach)) if reach else (0, len(score) - 1)
    part = score[first : last + 1]
    best = np.flatnonzero(part == part.max()) + first
    return int(best[np.argmin(np.abs(best - about))])
