"""Lesions, cysts and stones within organs: where they lie, what they measure, and how they are painted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viscera.core.geometry import Grid, Vector
from viscera.synthesis.config import AppearanceConfig
from viscera.synthesis.patient import Inflation, Patient, Tissues, as_vector, axes_mm, corners_zyx_mm
from viscera.synthesis.tissues import ORGANS, Tissue

_CYSTS = 1 / 3
_CYST_HU = (-5.0, 20.0)
_STONE_RADIUS_MM = (2.0, 8.0)
_STENT_STEPS = (4, 9)
_STENT_RADIUS_MM = (1.5, 4.0)
_STONY = (Tissue.KIDNEY_LEFT, Tissue.KIDNEY_RIGHT, Tissue.GALLBLADDER)


@dataclass(frozen=True, kw_only=True)
class SyntheticLesion:
    """A ball of other density.

    Attributes:
        tissue: Of the organ it is confined to, None for none: metal lies anywhere.
        centre_zyx_mm: In the patient's mm.
        radius_mm: Of the ball.
        hu: What it measures.
        added: Whether that is a difference to what is there.
        whole: Whether it is dense up to its radius, as what fills an addition is, instead of having an uneven rim.
    """

    tissue: Tissue | None
    centre_zyx_mm: tuple[float, float, float]
    radius_mm: float
    hu: float
    added: bool
    whole: bool = False


def draw_lesions(
    patient: Patient, seen: Tissues, grid: Grid, config: AppearanceConfig, rng: np.random.Generator
) -> tuple[SyntheticLesion, ...]:
    """Random lesions in organs that `seen`, a coarse map on an upright grid, shows, and those that bulge one."""
    tissue = seen.tissue
    lesions = [_inflated(one, patient, grid, config, rng) for one in patient.inflations]
    for organ in ORGANS:
        if rng.uniform() < config.lesion_probability:
            count = int(rng.integers(*config.lesion_count, endpoint=True))
            low, high = np.log(config.lesion_radius_mm)
            for centre in _places(tissue, organ, grid, count, rng):
                lesions.append(_of_any_kind(organ, centre, float(np.exp(rng.uniform(low, high))), config, rng))
    for organ in _STONY:
        if rng.uniform() < config.stone_probability:
            for centre in _places(tissue, organ, grid, 1, rng):
                hu, radius_mm = rng.uniform(*config.stone_hu), rng.uniform(*_STONE_RADIUS_MM)
                lesions.append(
                    SyntheticLesion(tissue=organ, centre_zyx_mm=centre, radius_mm=radius_mm, hu=hu, added=False)
                )
    if rng.uniform() < config.lipiodol_probability:
        for centre in _places(tissue, Tissue.LIVER, grid, int(rng.integers(1, 12)), rng):
            hu, radius_mm = rng.uniform(*config.lipiodol_hu), rng.uniform(2, 22)
            lesions.append(
                SyntheticLesion(tissue=Tissue.LIVER, centre_zyx_mm=centre, radius_mm=radius_mm, hu=hu, added=True)
            )
    if rng.uniform() < config.stent_probability:
        lesions += _stent(tissue, grid, config, rng)
    return tuple(lesions)


def _stent(tissue: Tensor, grid: Grid, config: AppearanceConfig, rng: np.random.Generator) -> list[SyntheticLesion]:
    """A row of dense balls in or next to the pancreas or the liver: a stent, clips, coils or a drain."""
    organ = (Tissue.PANCREAS, Tissue.LIVER)[int(rng.integers(2))]
    hu, radius_mm = rng.uniform(*config.stent_hu), rng.uniform(*_STENT_RADIUS_MM)
    way = rng.standard_normal(3)
    way *= 1.2 * radius_mm / np.linalg.norm(way)
    return [
        SyntheticLesion(
            tissue=None, centre_zyx_mm=as_vector(start + step * way), radius_mm=radius_mm, hu=hu, added=False
        )
        for start in map(np.array, _places(tissue, organ, grid, 1, rng))
        for step in range(int(rng.integers(*_STENT_STEPS)))
    ]


def paint_lesion(hu: Tensor, tissue: Tensor, lesion: SyntheticLesion, grid: Grid, unevenness: Tensor) -> None:
    """Paints a lesion into `hu` (z, y, x), in place; only where its organ is.

    Args:
        hu: Changed.
        tissue: Of every voxel.
        lesion: What to paint.
        grid: The upright one they lie on.
        unevenness: A smooth random field (z, y, x) that makes the rim uneven.
    """
    axes = axes_mm(grid, hu.device)
    part = ball_part(axes, lesion.centre_zyx_mm, 1.4 * lesion.radius_mm)
    if part is None:
        return
    z, y, x = axes[0][part[0]], axes[1][:, part[1]], axes[2][:, :, part[2]]
    zc, yc, xc = lesion.centre_zyx_mm
    distance = ((z - zc).square() + (y - yc).square() + (x - xc).square()).sqrt()
    # An uneven rim, soft over two millimetres; or beyond the radius, where the organ it is confined to ends.
    rim = lesion.radius_mm + 2.0 if lesion.whole else lesion.radius_mm * (1 + 0.12 * unevenness[part])
    share = ((rim - distance) / 2.0).clamp_(0, 1)
    if lesion.tissue is not None:
        share = torch.where(tissue[part] == lesion.tissue, share, 0.0)
    change = torch.full_like(share, lesion.hu) if lesion.added else lesion.hu - hu[part]
    hu[part] += share * change


def ball_part(
    axes: tuple[Tensor, Tensor, Tensor], centre_zyx_mm: Vector, radius_mm: float
) -> tuple[slice, slice, slice] | None:
    """The part of a grid with these `axes_mm` around a ball; None if it lies beyond."""
    ranges = []
    for axis, centre in zip(axes, centre_zyx_mm, strict=True):
        near = ((axis.flatten() - centre).abs() < radius_mm).nonzero().flatten()
        if not len(near):
            return None
        ranges.append(slice(int(near[0]), int(near[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]


def _of_any_kind(
    organ: Tissue, centre: Vector, radius_mm: float, config: AppearanceConfig, rng: np.random.Generator
) -> SyntheticLesion:
    cyst = rng.uniform() < _CYSTS
    hu = rng.uniform(*(_CYST_HU if cyst else config.lesion_hu))
    return SyntheticLesion(tissue=organ, centre_zyx_mm=centre, radius_mm=radius_mm, hu=hu, added=not cyst)


def _inflated(
    inflation: Inflation, patient: Patient, grid: Grid, config: AppearanceConfig, rng: np.random.Generator
) -> SyntheticLesion:
    """The lesion in the middle of an inflation, at the voxel of `grid` that lies nearest to it in the anatomy."""
    away = [
        position - float(middle) for position, middle in zip(patient.positions(grid), inflation.centre, strict=True)
    ]
    nearest = int(torch.stack(away).square().sum(0).argmin())
    place = np.array(np.unravel_index(nearest, grid.shape_zyx))
    centre = as_vector(np.array(corners_zyx_mm(grid)[0]) + np.array(grid.spacing_zyx_mm) * place)
    return _of_any_kind(inflation.tissue, centre, inflation.radius_mm, config, rng)


def _places(tissue: Tensor, organ: Tissue, grid: Grid, count: int, rng: np.random.Generator) -> list[Vector]:
    """Random points of an organ in the patient's mm; none if it is not there."""
    voxels: NDArray[np.int64] = (tissue == organ).nonzero().cpu().numpy()
    if not len(voxels):
        return []
    first, steps = np.array(corners_zyx_mm(grid)[0]), np.array(grid.spacing_zyx_mm)
    return [as_vector(first + steps * voxel) for voxel in voxels[rng.integers(len(voxels), size=count)]]
