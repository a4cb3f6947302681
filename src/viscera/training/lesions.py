"""Lesions for training: tissue inside an organ is pushed outwards and gets another, textured density.

The paper's outlook names this local inflation (section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viscera.core.geometry import Grid, Vector
from viscera.training.cache import TrainingCase
from viscera.training.config import TrainConfig

# The push fades out at so many radii from the middle.
_REACH_RADII = 2.0
# The outline departs from a ball by up to this part of the radius, and fades over that part.
_RAGGED = 0.25
_FADE = 0.2
# Random values per side of the cube that the texture and the outline are interpolated from.
_TEXTURE_NODES = 9


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesion:
    """One lesion in a training case.

    Attributes:
        label: Of the organ it lies in.
        centre_zyx_vox: Its middle among the voxels of the case's grid.
        radius_mm: Of the ball it roughly is.
        inflation: Share in [0, 1) by which tissue in the middle is stretched.
        hu: Added inside.
        texture_hu: And this times a smooth noise in [-1, 1].
        noise: (2, n, n, n) random values in [-1, 1] for outline and texture.
    """

    label: int
    centre_zyx_vox: Vector
    radius_mm: float
    inflation: float
    hu: float
    texture_hu: float
    noise: NDArray[np.float32]


def draw_lesion(case: TrainingCase, config: TrainConfig, rng: np.random.Generator) -> Lesion | None:
    """Return a random lesion in a random organ of the case, None as often as the settings say or without organs."""
    if rng.uniform() >= config.lesion_probability or case.organs is None:
        return None
    ranges = case.grid.voxels(case.organs)
    part = case.labels[ranges]
    present = np.flatnonzero(np.bincount(part.ravel(), minlength=256)[1:]) + 1
    if not present.size:
        return None
    label = int(rng.choice(present))
    place = np.unravel_index(rng.choice(np.flatnonzero(part == label)), part.shape)
    z, y, x = (float(index + span.start) for index, span in zip(place, ranges, strict=True))
    return Lesion(
        label=label,
        centre_zyx_vox=(z, y, x),
        radius_mm=rng.uniform(*config.lesion_radius_mm),
        inflation=rng.uniform(0.5, 1.0) * config.lesion_inflation,
        hu=rng.uniform(*config.lesion_hu),
        texture_hu=config.lesion_texture_hu,
        noise=rng.uniform(-1, 1, (2, *(3 * [_TEXTURE_NODES]))).astype(np.float32),
    )


def inflated(positions: Tensor, lesion: Lesion, grid: Grid) -> Tensor:
    """Return where to read, (z, y, x, 3) among the voxels of `grid`, so that tissue moves away from the middle.

    At distance d from the middle, tissue is read from d * (1 - k * (1 - (d/R)^2)^2), R being two radii: nearer to the
    middle, never in another order along a line through it (k < 1), and unchanged from R on.
    """
    offset, distance = _offsets(positions, lesion, grid)
    rest = (1 - (distance / (_REACH_RADII * lesion.radius_mm)) ** 2).clamp_(min=0)
    spacing = torch.tensor(grid.spacing_zyx_mm, device=positions.device)
    return positions - (lesion.inflation * rest**2)[..., None] * offset / spacing


def with_lesion(
    image: Tensor, labels: Tensor, positions: Tensor, lesion: Lesion, *, grid: Grid, hu_scale: float
) -> Tensor:
    """Return the image (z, y, x) with the lesion's density where it lies and `labels` (z, y, x) show its organ.

    Args:
        image: HU / scale, inflated.
        labels: Organ indices.
        positions: As they were before inflation: (z, y, x, 3) among the voxels of the case's grid.
        lesion: What to draw.
        grid: The case's.
        hu_scale: Scale of intensities.
    """
    offset, distance = _offsets(positions, lesion, grid)
    radius = lesion.radius_mm
    near = (distance < (1 + _RAGGED + _FADE) * radius) & (labels == lesion.label)
    places = (offset[near] / ((1 + _RAGGED + _FADE) * radius))[None, None, None]
    noise = torch.from_numpy(lesion.noise).to(image.device)[None]
    # The sampling wants (x, y, z); for noise any order will do, as long as it is always the same.
    ragged, texture = F.grid_sample(noise, places, padding_mode="border", align_corners=True)[0, :, 0, 0]
    inside = ((radius * (1 + _RAGGED * ragged) - distance[near]) / (_FADE * radius) + 0.5).clamp_(0, 1)
    result = image.clone()
    result[near] += inside * (lesion.hu + lesion.texture_hu * texture) / hu_scale
    return result


def _offsets(positions: Tensor, lesion: Lesion, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return how far each position is from the lesion's middle: (z, y, x, 3) and the length (z, y, x), in mm."""
    device = positions.device
    centre = torch.tensor(lesion.centre_zyx_vox, device=device)
    offset = (positions - centre) * torch.tensor(grid.spacing_zyx_mm, device=device)
    return offset, offset.norm(dim=-1)
