"""CT numbers: what each tissue of a patient measures in a contrast phase, and the texture that fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viscera.core.geometry import Grid
from viscera.synthesis.config import AppearanceConfig, BodyConfig
from viscera.synthesis.densities import (
    ALIKE,
    APART,
    BILE_HU,
    DENSE_BILE_HU,
    HU,
    MEDULLA_SHARE,
    PELVIS_HU,
    PHASES,
    Phase,
)
from viscera.synthesis.fields import RandomFields
from viscera.synthesis.kidneys import KidneyAppearance, paint_kidneys
from viscera.synthesis.lesions import SyntheticLesion, paint_lesion
from viscera.synthesis.patient import Tissues, axes_mm
from viscera.synthesis.tissues import HOLLOW, Tissue

_COLLAPSED = 0.4
_HEART_WALL_MM = (5.0, 14.0)


@dataclass(frozen=True, kw_only=True)
class Effusion:
    """Fluid behind the lungs of a person who lies on the back.

    Attributes:
        sides: Whether on the right and on the left.
        depth_mm: How far its level lies before the hindmost lung.
        hu: What it measures.
        collapsed_mm: Thickness of the airless lung before it.
        collapsed_hu: What that measures.
    """

    sides: tuple[bool, bool]
    depth_mm: float
    hu: float
    collapsed_mm: float
    collapsed_hu: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Appearance:
    """What one patient looks like in one scan; HU by tissue are (tissues,) float32.

    Attributes:
        phase: Of the contrast agent.
        means, textures: Mean HU of each tissue and deviation of its smooth unevenness.
        kidney: Its inside.
        compact_hu: By how much compact bone is denser than the rest.
        spleen_bands_hu: Amplitude of the stripes of the spleen.
        lumen: HU of what fills stomach, bowel, oesophagus, gallbladder and heart.
        lumen_textures: Deviation of its unevenness.
        gas: Share of gas in them.
        walls_mm: Thickness of their walls, by tissue.
        soft_share: Share of soft tissue in the interior.
        strands_hu: By how much sheets and strands in the fat are denser than it.
        ascites: How much fluid lies in the interior, 0 for none.
        effusion: Fluid next to the lungs, None for none.
        dilated: Whether wide loops of bowel do.
        muscle_mm, fat_mm, skin_mm, fat_unevenness: Layers beyond the core.
        arms: Whether arms lie next to the body, and how far from its middle.
        lesions: In organs.
    """

    phase: Phase
    means: NDArray[np.float32]
    textures: NDArray[np.float32]
    kidney: KidneyAppearance
    spleen_bands_hu: float
    compact_hu: float
    lumen: NDArray[np.float32]
    lumen_textures: NDArray[np.float32]
    gas: NDArray[np.float32]
    walls_mm: NDArray[np.float32]
    soft_share: float
    strands_hu: float
    ascites: float
    effusion: Effusion | None
    dilated: bool
    muscle_mm: float
    fat_mm: float
    skin_mm: float
    fat_unevenness: float
    arms: bool
    lesions: tuple[SyntheticLesion, ...]


def draw_appearance(
    body: BodyConfig, config: AppearanceConfig, lesions: tuple[SyntheticLesion, ...], rng: np.random.Generator
) -> Appearance:
    """A random appearance, with these lesions."""
    weights = np.array(config.phase_weights)
    number = int(rng.choice(len(PHASES), p=weights / weights.sum()))
    textures = np.full(len(Tissue), rng.uniform(*config.texture_hu), dtype=np.float32)
    textures[[Tissue.LUNG, Tissue.BONE, Tissue.INTERIOR, Tissue.FAT, Tissue.OUTSIDE]] = (40, 45, 12, 10, 8)
    if 1 <= number <= 2:  # blood of different origin is not yet mixed
        textures[Tissue.VEIN] = rng.uniform(*config.mixing_hu)
    means = _drawn_means(number, config, textures, rng)
    contents = _drawn_contents(config, means, rng)
    thin, thick = body.fat_mm
    return Appearance(
        phase=PHASES[number],
        means=means,
        textures=textures,
        kidney=_drawn_kidney(number, config, rng),
        spleen_bands_hu=rng.uniform(*config.spleen_bands_hu) if number == 1 else 0.0,
        compact_hu=rng.uniform(*config.compact_bone_hu),
        lumen=contents[0],
        lumen_textures=contents[1],
        gas=contents[2],
        walls_mm=_drawn_walls(rng),
        soft_share=rng.uniform(*config.interior_soft_share),
        strands_hu=rng.uniform(*config.strands_hu),
        ascites=rng.uniform(*config.ascites) if rng.uniform() < config.ascites_probability else 0.0,
        effusion=_drawn_effusion(number, config, rng),
        dilated=bool(rng.uniform() < config.dilated_bowel_probability),
        muscle_mm=rng.uniform(*body.muscle_mm),
        fat_mm=thin + (thick - thin) * rng.uniform() ** 3,
        skin_mm=rng.uniform(*body.skin_mm),
        fat_unevenness=rng.uniform(0, body.fat_unevenness),
        arms=bool(rng.uniform() < body.arms_probability),
        lesions=lesions,
    )


def painted(seen: Tissues, grid: Grid, appearance: Appearance, rng: np.random.Generator) -> Tensor:
    """HU (z, y, x), float32, of tissues on an upright grid, as sharp and noiseless as the grid allows."""
    tissue = seen.tissue
    device = tissue.device
    fields = RandomFields(grid.shape_zyx, grid.spacing_zyx_mm, rng, device)
    broad, middle, fine = fields.smooth(60.0), fields.smooth(22.0), fields.smooth(4.0)
    around = fields.smooth(160.0)
    one, other = fields.smooth(11.0), fields.smooth(11.0)
    # Where two fields vanish together they leave curves: branching vessels, strands.
    threads = torch.exp((one.square() + other.square()) * -35.0)
    y_mm = axes_mm(grid, device)[1]
    hu = _table(appearance.means, device)[tissue]
    hu += _table(appearance.textures, device)[tissue] * (0.7 * fine + 0.7 * one)
    _paint_bone(hu, seen, appearance.compact_hu, fine)
    paint_kidneys(hu, seen, grid, appearance.kidney, coarse=middle, fine=one)
    _paint_spleen(hu, tissue, appearance.spleen_bands_hu, middle, one)
    _paint_vessels(hu, tissue, appearance, middle, threads)
    _paint_contents(hu, seen, appearance, middle, one, y_mm)
    _paint_interior(hu, tissue, appearance, broad, middle, one, threads, y_mm)
    if appearance.effusion is not None:
        _paint_effusion(hu, tissue, grid, appearance.effusion)
    _paint_outside(hu, seen, appearance, around, middle, fine, y_mm)
    if appearance.arms:
        _paint_arms(hu, tissue, grid, rng)
    for lesion in appearance.lesions:
        paint_lesion(hu, tissue, lesion, grid, middle)
    return hu


def _drawn_means(
    number: int, config: AppearanceConfig, textures: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    common = rng.uniform()
    means = np.zeros(len(Tissue), dtype=np.float32)
    for tissue, ranges in HU.items():
        low, high = ranges[number]
        share = 0.0 if tissue in APART else config.common_share
        place = share * common + (1 - share) * rng.uniform()
        means[tissue] = low + (high - low) * place + rng.normal() * config.spread_hu
    for tissue, like in ALIKE.items():
        means[tissue] = means[like]
    if rng.uniform() < config.fatty_liver_probability:
        means[Tissue.LIVER] -= rng.uniform(*config.fatty_liver_hu)
    if rng.uniform() < config.fatty_pancreas_probability:
        means[Tissue.PANCREAS] -= rng.uniform(*config.fatty_pancreas_hu)
        textures[Tissue.PANCREAS] += rng.uniform(*config.fatty_pancreas_texture_hu)
    return means


def _drawn_contents(
    config: AppearanceConfig, means: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What hollow organs hold, how uneven that is, and their share of gas."""
    lumen, textures, gas = (np.zeros(len(Tissue), dtype=np.float32) for _ in range(3))
    contrast = rng.uniform() < config.oral_contrast_probability
    largest = {
        Tissue.STOMACH: 0.6,
        Tissue.OESOPHAGUS: 0.4,
        Tissue.DUODENUM: 0.3,
        Tissue.SMALL_BOWEL: 0.25,
        Tissue.COLON: 1.0,
    }
    for tissue in HOLLOW:
        reached = contrast and rng.uniform() < 0.75
        lumen[tissue] = rng.uniform(*config.oral_contrast_hu) if reached else rng.uniform(-10, 70)
        textures[tissue] = rng.uniform(*config.contents_texture_hu) + 0.12 * abs(lumen[tissue])
        gas[tissue] = rng.uniform(0, config.gas_share) * largest[tissue]
    textures[Tissue.COLON] += 30
    dense = rng.uniform() < config.dense_bile_probability
    lumen[Tissue.GALLBLADDER] = rng.uniform(*(DENSE_BILE_HU if dense else BILE_HU))
    lumen[Tissue.HEART] = means[Tissue.VEIN] + rng.uniform(0.3, 1) * (means[Tissue.ARTERY] - means[Tissue.VEIN])
    return lumen, textures, gas


def _drawn_walls(rng: np.random.Generator) -> NDArray[np.float32]:
    """Collapsed, the stomach and the duodenum are little more than wall."""
    walls = np.full(len(Tissue), rng.uniform(1.5, 4.0), dtype=np.float32)
    for tissue in (Tissue.STOMACH, Tissue.DUODENUM):
        if rng.uniform() < _COLLAPSED:
            walls[tissue] *= rng.uniform(1.5, 5.0)
    walls[Tissue.HEART] = rng.uniform(*_HEART_WALL_MM)
    return walls


def _drawn_kidney(number: int, config: AppearanceConfig, rng: np.random.Generator) -> KidneyAppearance:
    stowed = rng.uniform() < config.hydronephrosis_probability
    return KidneyAppearance(
        medulla=rng.uniform(*MEDULLA_SHARE[number]),
        cortex_mm=rng.uniform(*config.cortex_mm),
        sinus=1.0 if stowed else rng.uniform(*config.sinus),
        pelvis=1.0 if stowed else rng.uniform(0.4, 1.0),
        pelvis_hu=rng.uniform(*PELVIS_HU[number]),
    )


def _drawn_effusion(number: int, config: AppearanceConfig, rng: np.random.Generator) -> Effusion | None:
    if rng.uniform() >= config.effusion_probability:
        return None
    return Effusion(
        sides=((True, True), (True, False), (False, True))[int(rng.integers(3))],
        depth_mm=rng.uniform(*config.effusion_mm),
        hu=rng.uniform(-5, 25),
        collapsed_mm=rng.uniform(0, 25),
        collapsed_hu=rng.uniform(20, 50) if number == 0 else rng.uniform(45, 130),
    )


def _paint_bone(hu: Tensor, seen: Tissues, compact_hu: float, fine: Tensor) -> None:
    tissue, depth = seen
    # The compact outer layer; at the sampling here it is averaged with what lies next to it.
    compact = (1.5 - (depth - 2.0) / 2.0).clamp_(0, 1) * (compact_hu + 80 * fine)
    hu += torch.where(tissue == Tissue.BONE, compact, 0.0)


def _paint_spleen(hu: Tensor, tissue: Tensor, bands_hu: float, middle: Tensor, one: Tensor) -> None:
    """Winding stripes: a wave along two random fields."""
    if bands_hu <= 0:
        return
    places = (tissue == Tissue.SPLEEN).nonzero(as_tuple=True)
    hu[places] += bands_hu * torch.sin(3.0 * middle[places] + 2.0 * one[places])


def _paint_vessels(hu: Tensor, tissue: Tensor, appearance: Appearance, middle: Tensor, threads: Tensor) -> None:
    """Branches of the portal and the hepatic veins in the liver, vessels of the lung."""
    places = ((tissue == Tissue.LIVER) | (tissue == Tissue.LUNG)).nonzero(as_tuple=True)
    own = hu[places]
    portal, hepatic = float(appearance.means[Tissue.PORTAL_VEIN]), float(appearance.means[Tissue.VEIN])
    hu[places] = torch.lerp(own, torch.where(middle[places] > 0, portal, hepatic), threads[places])


def _paint_contents(
    hu: Tensor, seen: Tissues, appearance: Appearance, middle: Tensor, one: Tensor, y_mm: Tensor
) -> None:
    tissue, depth = seen
    device = hu.device
    hollow = torch.zeros(len(Tissue), dtype=torch.bool, device=device)
    hollow[[*HOLLOW, Tissue.GALLBLADDER, Tissue.HEART]] = True
    inside = hollow[tissue] & (depth > _table(appearance.walls_mm, device)[tissue])
    lumen = _table(appearance.lumen, device)[tissue]
    content = lumen + _table(appearance.lumen_textures, device)[tissue] * one
    # Gas gathers in front, as patients lie on their backs.
    share = _table(appearance.gas, device)[tissue]
    gas = (middle - y_mm / 60.0 > 1.6 - 3.2 * share) & (share > 0.02)
    content = torch.where(gas, -930.0 + 25 * one, content)
    hu.copy_(torch.where(inside, content, hu))


def _paint_interior(
    hu: Tensor,
    tissue: Tensor,
    appearance: Appearance,
    broad: Tensor,
    middle: Tensor,
    one: Tensor,
    threads: Tensor,
    y_mm: Tensor,
) -> None:
    # Sheets of connective tissue, also through the fat of the kidneys: where a field vanishes.
    sheets = torch.exp(one.square() * -12.0) * (0.6 + 0.4 * middle).clamp_(min=0.0)
    filled = hu + appearance.strands_hu * sheets
    hu.copy_(torch.where(tissue == Tissue.FAT, filled + 0.5 * threads * appearance.strands_hu, hu))
    level = 1.3 - 2.4 * appearance.soft_share
    soft = ((0.6 * broad + 0.7 * one - level) * 2.5).clamp_(0, 1)
    bowel = float(appearance.means[Tissue.SMALL_BOWEL]) - 15
    filled += soft * (bowel - filled)
    artery, vein = float(appearance.means[Tissue.ARTERY]), float(appearance.means[Tissue.PORTAL_VEIN])
    filled += threads * (torch.where(middle > 0.7, artery, vein) - filled)
    if appearance.ascites > 0:
        fluid = ((broad + 0.3 * one - 1.2 + 1.4 * appearance.ascites) * 4).clamp_(0, 1)
        filled += fluid * (8.0 - filled)
    if appearance.dilated:
        loops = (0.8 - middle.abs()) * 6  # sheets between wide cells are walls
        filled = torch.where((broad > 0) & (loops < 0), torch.full_like(filled, bowel + 20), filled)
        gas = middle - y_mm / 60.0 > 1.4
        content = torch.where(gas, -930.0, float(appearance.lumen[Tissue.SMALL_BOWEL]) + 5 * one)
        filled = torch.where((broad > 0) & (loops < -0.6), content, filled)
    hu.copy_(torch.where(tissue == Tissue.INTERIOR, filled, hu))


def _paint_effusion(hu: Tensor, tissue: Tensor, grid: Grid, effusion: Effusion) -> None:
    """Fluid, and airless lung before it, in the hindmost part of the lungs."""
    _, y, x = axes_mm(grid, hu.device)
    lung = tissue == Tissue.LUNG
    rows = lung.any(0).any(1).nonzero().flatten()
    if not len(rows):
        return
    level = float(y[0, int(rows[-1]), 0]) - effusion.depth_mm
    right, left = effusion.sides
    beside = (x < 0) & right | (x >= 0) & left
    hu.copy_(torch.where(lung & beside & (y > level - effusion.collapsed_mm), effusion.collapsed_hu, hu))
    hu.copy_(torch.where(lung & beside & (y > level), effusion.hu, hu))


def _paint_outside(
    hu: Tensor, seen: Tissues, appearance: Appearance, around: Tensor, middle: Tensor, fine: Tensor, y_mm: Tensor
) -> None:
    tissue, depth = seen
    # Behind, the maps name the muscles themselves.
    behind = 1 - 0.8 * ((y_mm - 20.0) / 40.0).clamp(0, 1)
    muscle_end = appearance.muscle_mm * (1 + 0.35 * middle).clamp_(min=0.2) * behind
    # Fat evens out what is uneven below, so that the skin is smooth.
    fat_end = appearance.muscle_mm * behind + appearance.fat_mm * (1 + appearance.fat_unevenness * around).clamp_(
        min=0.15
    )
    skin_end = fat_end + appearance.skin_mm
    muscle = float(appearance.means[Tissue.MUSCLE]) + 10 * fine
    layer = torch.where(depth < skin_end, float(appearance.means[Tissue.MUSCLE]) - 20.0, -1000.0)
    layer = torch.where(depth < fat_end, hu, layer)
    # Sheets of fat between the muscles of the wall.
    sheet = ((depth - 0.5 * muscle_end).abs() < 0.8) & (middle > 0)
    layer = torch.where((depth < muscle_end) & ~sheet, muscle, layer)
    hu.copy_(torch.where(tissue == Tissue.OUTSIDE, layer, hu))


def _paint_arms(hu: Tensor, tissue: Tensor, grid: Grid, rng: np.random.Generator) -> None:
    z, y, x = axes_mm(grid, hu.device)
    body = (hu > -300).any(0).any(0).nonzero().flatten()
    if not len(body):
        return
    sides = (float(x[0, 0, int(body[0])]), float(x[0, 0, int(body[-1])]))
    radius = rng.uniform(32, 48)
    for side, sign in zip(sides, (-1, 1), strict=True):
        centre_x = side + sign * (radius + rng.uniform(2, 25)) + z * rng.uniform(-0.08, 0.08)
        distance = ((x - centre_x).square() + ((y - rng.uniform(-20, 60)) * rng.uniform(0.8, 1.1)).square()).sqrt()
        arm = torch.where(distance < 0.75 * radius, 55.0, -100.0)
        arm = torch.where(distance < 0.3 * radius, torch.where(distance < 0.2 * radius, 150.0, 900.0), arm)
        free = (tissue == Tissue.OUTSIDE) & (hu < -500) & (distance < radius)
        hu.copy_(torch.where(free, arm, hu))


def with_table(hu: Tensor, grid: Grid, rng: np.random.Generator) -> Tensor:
    """`hu` with the patient's table under the body, in the air only."""
    _, y, x = axes_mm(grid, hu.device)
    body = (hu > -300).any(0).any(1).nonzero().flatten()
    if not len(body):
        return hu
    back = float(y[0, int(body[-1]), 0])
    below = y - back - rng.uniform(2, 20) - rng.uniform(-8e-4, 4e-4) * x.square()
    thickness = rng.uniform(3, 25)
    shell = rng.uniform(1, 3)
    inside = (below > 0) & (below < thickness)
    solid = inside & ((below < shell) | (below > thickness - shell))
    value = torch.where(solid, rng.uniform(-250, 250), rng.uniform(-980, -700))
    return torch.where(inside & (hu < -500) & (x.abs() < rng.uniform(180, 280)), value, hu)


def _table(values: NDArray[np.float32] | Sequence[float], device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)
