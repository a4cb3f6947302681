"""What is laid over a deformed anatomy: bowel against organs, growths and lobes of organs, accessory spleens.

An addition is a capsule, all that lies within a radius of a line. Where the tissues it may replace lie it becomes
another tissue, and so another label; its depth is the distance to the capsule's surface, so that bowel gets a wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from viscera.core.geometry import Grid, Vector
from viscera.synthesis.config import AdditionConfig
from viscera.synthesis.lesions import SyntheticLesion, ball_part
from viscera.synthesis.patient import Tissues, as_vector, axes_mm, corners_zyx_mm
from viscera.synthesis.tissues import ORGANS, Tissue

_FATTY = (Tissue.INTERIOR, Tissue.FAT)
# What other organs may grow over; not the fat of kidneys, lest these lie within a liver.
_SOFT = (
    Tissue.INTERIOR,
    Tissue.SMALL_BOWEL,
    Tissue.COLON,
    Tissue.STOMACH,
    Tissue.DUODENUM,
    Tissue.GALLBLADDER,
)
_BESIDE_BOWEL = (Tissue.KIDNEY_RIGHT, Tissue.KIDNEY_LEFT, Tissue.SPLEEN, Tissue.LIVER)
_KIDNEYS = (Tissue.KIDNEY_RIGHT, Tissue.KIDNEY_LEFT)
# Of growths: simple cysts, and how often; others differ from their organ as lesions do.
_CYST_HU = (-8.0, 20.0)
_DENSE_CYST_HU = (25.0, 90.0)
_CYST_SHARE = 0.6
_DENSE_SHARE = 0.1
# How far the middle of a growth lies outside of the organ's surface, by its radius; negative within.
_OUTSIDE_SHARE = (-0.5, 0.6)


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A capsule of a tissue.

    Attributes:
        tissue: What it becomes.
        start_zyx_mm, end_zyx_mm: Its line, in the patient's mm.
        radius_mm: Around that.
        over: What it may replace.
    """

    tissue: Tissue
    start_zyx_mm: Vector
    end_zyx_mm: Vector
    radius_mm: float
    over: tuple[Tissue, ...]


class Additions(NamedTuple):
    """Capsules, and the lesions that fill those that are no healthy tissue."""

    capsules: tuple[Addition, ...]
    lesions: tuple[SyntheticLesion, ...]


def draw_additions(seen: Tissues, grid: Grid, config: AdditionConfig, rng: np.random.Generator) -> Additions:
    """Random additions to what a coarse upright grid shows."""
    shells = {organ: shell for organ in ORGANS if (shell := _Shell.of(organ, seen, grid)) is not None}
    capsules = [
        _fat(shells[kidney], config, rng)
        for kidney in _KIDNEYS
        if kidney in shells and rng.uniform() < config.perirenal_fat_probability
    ]
    capsules += [one for organ in _BESIDE_BOWEL if organ in shells for one in _bowel(shells[organ], config, rng)]
    if Tissue.LIVER in shells and rng.uniform() < config.lobe_probability:
        capsules.append(_lobe(shells[Tissue.LIVER], config, rng))
    if Tissue.SPLEEN in shells and rng.uniform() < config.long_spleen_probability:
        capsules.append(_long_spleen(shells[Tissue.SPLEEN], config, rng))
    if Tissue.SPLEEN in shells and rng.uniform() < config.accessory_probability:
        capsules.append(_accessory(shells[Tissue.SPLEEN], config, rng))
    lesions = []
    for organ, shell in shells.items():
        chance = config.kidney_growth_probability if organ in _KIDNEYS else config.growth_probability
        if rng.uniform() < chance:
            for _ in range(int(rng.integers(*config.growth_count, endpoint=True))):
                capsule, lesion = _growth(shell, config, rng)
                capsules.append(capsule)
                lesions.append(lesion)
    return Additions(tuple(capsules), tuple(lesions))


def with_additions(seen: Tissues, grid: Grid, capsules: Sequence[Addition]) -> Tissues:
    """What lies at the voxels of an upright grid once the capsules are laid over, one after the other; in place."""
    for one in capsules:
        _lay(seen, grid, one)
    return seen


def _lay(seen: Tissues, grid: Grid, one: Addition) -> None:
    start, end = np.array(one.start_zyx_mm), np.array(one.end_zyx_mm)
    length = float(np.linalg.norm(end - start))
    reach = length / 2 + one.radius_mm
    axes = axes_mm(grid, seen.tissue.device)
    part = ball_part(axes, as_vector((start + end) / 2), reach)
    if part is None:
        return
    z, y, x = axes[0][part[0]], axes[1][:, part[1]], axes[2][:, :, part[2]]
    away = [axis - float(value) for axis, value in zip((z, y, x), start, strict=True)]
    if length > 0:
        direction = (end - start) / length
        z_part, y_part, x_part = (axis * float(value) for axis, value in zip(away, direction, strict=True))
        along = (z_part + y_part + x_part).clamp(0, length)
        away = [axis - along * float(value) for axis, value in zip(away, direction, strict=True)]
    depth = one.radius_mm - (away[0].square() + away[1].square() + away[2].square()).sqrt()
    table = torch.zeros(256, dtype=torch.bool, device=seen.tissue.device)
    table[list(one.over)] = True
    changed = (depth > 0) & table[seen.tissue[part]]
    seen.tissue[part].masked_fill_(changed, int(one.tissue))
    seen.depth_mm[part].copy_(torch.where(changed, depth, seen.depth_mm[part]))


class _Shell(NamedTuple):
    """An organ's outer voxels on a coarse grid, and its middle, both (z, y, x) in the patient's mm."""

    organ: Tissue
    points: NDArray[np.float64]
    middle: NDArray[np.float64]

    @classmethod
    def of(cls, organ: Tissue, seen: Tissues, grid: Grid) -> _Shell | None:
        """Of an organ; None if it is not there."""
        inside = seen.tissue == organ
        if not inside.any():
            return None
        first, steps = np.array(corners_zyx_mm(grid)[0]), np.array(grid.spacing_zyx_mm)
        all_points = first + steps * inside.nonzero().cpu().numpy()
        outer = (inside & (seen.depth_mm <= steps.max())).nonzero().cpu().numpy()
        points = first + steps * outer if len(outer) else all_points
        return cls(organ, points, all_points.mean(axis=0))

    def drawn(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A random point of the surface, and the direction away from the organ's middle there."""
        point = self.points[int(rng.integers(len(self.points)))]
        away = point - self.middle
        return point, away / max(float(np.linalg.norm(away)), 1e-6)

    def utmost(self, direction: Sequence[float], share: float) -> NDArray[np.float64]:
        """The middle of the surface's points that lie furthest in a direction, by their share of all."""
        order = np.argsort(self.points @ np.array(direction))
        return np.asarray(self.points[order[-max(1, int(share * len(order))) :]].mean(axis=0))


def _log_uniform(limits: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))


def _fat(shell: _Shell, config: AdditionConfig, rng: np.random.Generator) -> Addition:
    """The fat a kidney lies in, around a line through its middle from the lower to the upper pole."""
    low, high = shell.points[:, 0].min(), shell.points[:, 0].max()
    width = float(np.percentile(np.linalg.norm((shell.points - shell.middle)[:, 1:], axis=1), 90))
    return Addition(
        tissue=Tissue.FAT,
        start_zyx_mm=as_vector(np.array([low, *shell.middle[1:]])),
        end_zyx_mm=as_vector(np.array([high, *shell.middle[1:]])),
        radius_mm=width + rng.uniform(*config.perirenal_fat_mm),
        over=(Tissue.INTERIOR, Tissue.SMALL_BOWEL, Tissue.COLON),
    )


def _bowel(shell: _Shell, config: AdditionConfig, rng: np.random.Generator) -> list[Addition]:
    """Loops of bowel that lie against an organ, filled as the bowel elsewhere is."""
    if rng.uniform() >= config.bowel_probability:
        return []
    loops = []
    for _ in range(int(rng.integers(*config.bowel_count, endpoint=True))):
        point, outwards = shell.drawn(rng)
        radius = rng.uniform(*config.bowel_radius_mm)
        middle = point + outwards * (radius + rng.uniform(-2, 4))
        along = np.cross(outwards, rng.standard_normal(3))
        along *= rng.uniform(*config.bowel_length_mm) / 2 / max(float(np.linalg.norm(along)), 1e-6)
        loops.append(
            Addition(
                tissue=Tissue.COLON if rng.uniform() < 0.6 else Tissue.SMALL_BOWEL,
                start_zyx_mm=as_vector(middle - along),
                end_zyx_mm=as_vector(middle + along),
                radius_mm=radius,
                over=(*_FATTY, Tissue.SMALL_BOWEL),
            )
        )
    return loops


def _lobe(shell: _Shell, config: AdditionConfig, rng: np.random.Generator) -> Addition:
    """The left lobe reaching over the stomach, or the right one reaching down."""
    leftwards = rng.uniform() < 0.7
    start = shell.utmost((0.0, 0.0, 1.0) if leftwards else (-1.0, 0.0, 0.0), 0.08)
    main = np.array((-0.2, 0.1, 1.0) if leftwards else (-1.0, 0.0, 0.1))
    end = start + (main + rng.normal(0, 0.15, 3)) * rng.uniform(*config.lobe_mm)
    return Addition(
        tissue=Tissue.LIVER,
        start_zyx_mm=as_vector(start),
        end_zyx_mm=as_vector(end),
        radius_mm=rng.uniform(*config.lobe_radius_mm),
        over=_SOFT,
    )


def _long_spleen(shell: _Shell, config: AdditionConfig, rng: np.random.Generator) -> Addition:
    """A spleen that reaches down and forwards, at its largest into the pelvis."""
    main = np.array((-1.0, -0.35, -0.2)) + rng.normal(0, 0.15, 3)
    start = shell.middle + main * 10.0
    return Addition(
        tissue=Tissue.SPLEEN,
        start_zyx_mm=as_vector(start),
        end_zyx_mm=as_vector(start + main * rng.uniform(*config.long_spleen_mm)),
        radius_mm=rng.uniform(*config.long_spleen_radius_mm),
        over=_SOFT,
    )


def _accessory(shell: _Shell, config: AdditionConfig, rng: np.random.Generator) -> Addition:
    point, outwards = shell.drawn(rng)
    radius = rng.uniform(*config.accessory_radius_mm)
    place = as_vector(point + outwards * (radius + rng.uniform(3, 20)))
    return Addition(tissue=Tissue.SPLEEN, start_zyx_mm=place, end_zyx_mm=place, radius_mm=radius, over=_FATTY)


def _growth(shell: _Shell, config: AdditionConfig, rng: np.random.Generator) -> tuple[Addition, SyntheticLesion]:
    """A cyst or a tumour at the surface, which counts as the organ where it reaches beyond."""
    kidney = shell.organ in _KIDNEYS
    radius = _log_uniform(config.kidney_growth_radius_mm if kidney else config.growth_radius_mm, rng)
    if shell.organ in (Tissue.SPLEEN, Tissue.PANCREAS):
        radius /= 2
    point, outwards = shell.drawn(rng)
    centre = as_vector(point + outwards * radius * rng.uniform(*_OUTSIDE_SHARE))
    cyst = rng.uniform() < (_CYST_SHARE if kidney else _CYST_SHARE / 3)
    limits = (_DENSE_CYST_HU if rng.uniform() < _DENSE_SHARE else _CYST_HU) if cyst else config.growth_hu
    over = (*_SOFT, Tissue.FAT) if kidney else _SOFT
    capsule = Addition(tissue=shell.organ, start_zyx_mm=centre, end_zyx_mm=centre, radius_mm=radius, over=over)
    lesion = SyntheticLesion(
        tissue=shell.organ, centre_zyx_mm=centre, radius_mm=radius, hu=rng.uniform(*limits), added=not cyst, whole=True
    )
    return capsule, lesion
