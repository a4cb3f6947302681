"""What a network is trained on: the grid inference would use, and an augmented image with its labels on it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viscera.core.config import ModelConfig, StageConfig
from viscera.core.errors import ConfigError, VisceraError
from viscera.core.geometry import AIR_HU, Grid, Ranges, Vector
from viscera.model.bundle import Stage
from viscera.preprocess import fitted_grid
from viscera.synthesis.fields import smooth_maps
from viscera.training.augment import (
    Warp,
    beyond,
    draw_warp,
    jitter_intensity,
    position_bounds,
    sample,
    sampling_positions,
)
from viscera.training.cache import UNKNOWN_LABEL, Cache, CacheSettings, TrainingCase
from viscera.training.config import TrainConfig
from viscera.training.lesions import Lesion, draw_lesion, inflated, with_lesion

# An image (1, 1, z, y, x) and its labels (1, z, y, x).
Patch = tuple[Tensor, Tensor]

# Rounding of float32 positions may put a voxel this far beyond the scan's face.
_ROUNDING_VOX = 1e-3


def training_grid(case: TrainingCase, stage: Stage, model: ModelConfig) -> Grid:
    """Return the grid inference would sample: the low-resolution one, or the region of interest of the true organs.

    Raises:
        VisceraError: For segmentation, if the case shows no organs.
    """
    if stage == "localise":
        return fitted_grid(case.grid, case.scan, model.localise)
    if case.organs is None:
        raise VisceraError(
            f"training on {case.name}", expected="organs in the labels", got="none", remedy="Leave the case out"
        )
    return fitted_grid(case.grid, case.organs.grown(model.margin_mm).clipped(case.scan), model.segment)


def training_sample(
    case: TrainingCase,
    stage: Stage,
    config: TrainConfig,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Patch:
    """Return an augmented image (1, 1, z, y, x) in [-1, 1] and its labels, uint8 (1, z, y, x), both on `device`.

    Labels are 0 and 1 (any organ) for localisation, nearest voxels; organ indices for segmentation, interpolated as
    maps of each label, smoothed, then the largest; and `UNKNOWN_LABEL` for both. Without augmentation the image is what
    inference computes for the same grid, but for the rounding of the stored HU to integers.
    """
    settings: StageConfig = getattr(config.model, stage)
    target = training_grid(case, stage, config.model)
    warp = draw_warp(config.augment, rng)
    lesion = draw_lesion(case, config, rng)
    drawn = sampling_positions(warp, case.grid, target, device)
    positions = drawn if lesion is None else inflated(drawn, lesion, case.grid)
    low, high = _scan_limits(case)
    outside = beyond(drawn, low, high)
    labels = _labels(case, stage, config, positions).masked_fill_(outside, 0)
    image = _image(case, positions, _needed(case, warp, target, lesion)).div_(settings.hu_scale)
    if lesion is not None:
        image = with_lesion(image, labels, drawn, lesion, grid=case.grid, hu_scale=settings.hu_scale)
    image.masked_fill_(outside, AIR_HU / settings.hu_scale)
    image = jitter_intensity(image, config.augment, rng, gamma=stage == "localise")
    if stage == "localise":
        labels = torch.where(labels == UNKNOWN_LABEL, labels, labels.clamp(max=1))
    return image[None, None], labels[None]


def sampling_weights(cache: Cache, config: TrainConfig) -> NDArray[np.float64]:
    """Return how often each of `cache.names` is drawn: float64, sums to 1.

    All alike unless `lesion_weight` is above 0; then in proportion to 1 + lesion_weight * min(1, volume / large),
    with the volume of the case's marked lesions and `lesion_large_ml` (paper, section 5).

    Raises:
        ConfigError: If the cache was not prepared for the model of `config`; see `require_sampling`.
    """
    require_sampling(cache.manifest.settings, config.model)
    volumes = np.array([cache.entry(name).lesion_ml for name in cache.names], dtype=np.float64)
    weights = 1 + config.lesion_weight * np.minimum(1, volumes / config.lesion_large_ml)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def require_sampling(settings: CacheSettings, model: ModelConfig) -> None:
    """Require that a cache made with `settings` can serve to train `model`.

    Raises:
        ConfigError: If the images were smoothed otherwise or are coarser than the networks read, the margin is larger
            than what was stored, or the organs are of another number.
    """
    checks = {
        "organs": (len(settings.organs), model.scn.labels - 1, len(settings.organs) == model.scn.labels - 1),
        "margin_mm": (
            settings.margin_mm + settings.padding_mm,
            model.margin_mm,
            settings.margin_mm + settings.padding_mm >= model.margin_mm,
        ),
    }
    for stage in ("localise", "segment"):
        stored, wanted = getattr(settings, stage), getattr(model, stage)
        checks[f"{stage}.sigma_mm"] = (stored.sigma_mm, wanted.sigma_mm, stored.sigma_mm == wanted.sigma_mm)
        finest = stored.spacing_mm / settings.oversampling
        checks[f"{stage}.spacing_mm"] = (finest, wanted.spacing_mm, finest <= wanted.spacing_mm)
    for name, (stored, wanted, fits) in checks.items():
        if not fits:
            raise ConfigError(
                f"training with a cache prepared for another {name}",
                expected=f"{stored} as stored",
                got=f"{wanted} in the settings",
                remedy="Run viscera prepare with these settings",
            )


def _image(case: TrainingCase, positions: Tensor, needed: Ranges) -> Tensor:
    """Return HU at the positions, float32 (z, y, x); only what is needed goes to the device."""
    part = torch.from_numpy(case.image[needed].copy()).to(positions.device, non_blocking=True)
    return sample(part[None], positions, start_zyx=_starts(needed))[0]


def _labels(case: TrainingCase, stage: Stage, config: TrainConfig, positions: Tensor) -> Tensor:
    """Return organ indices at the positions, uint8 (z, y, x); computed only where positions come near the organs."""
    labels = torch.zeros(positions.shape[:3], dtype=torch.uint8, device=positions.device)
    if case.organs is None:
        return labels
    # Two voxels more: one for the voxels that the box's faces cut, one of zeros for interpolation.
    ranges = case.labelled or case.grid.voxels(case.organs.grown(2 * max(case.grid.spacing_zyx_mm)))
    near = _near(positions, ranges)
    if near is None:
        return labels
    part = torch.from_numpy(case.labels[ranges].copy()).to(positions.device, non_blocking=True)
    places, start = positions[near], _starts(ranges)
    if stage == "localise":
        labels[near] = sample(part[None], places, nearest=True, edge=False, start_zyx=start)[0].to(torch.uint8)
        return labels
    known = torch.arange(1, config.model.scn.labels, device=part.device, dtype=torch.uint8)
    values = torch.cat([known, known.new_tensor([UNKNOWN_LABEL])]) if (part == UNKNOWN_LABEL).any() else known
    maps = sample(part == values[:, None, None, None], places, edge=False, start_zyx=start)
    smoothed = smooth_maps(maps, config.label_sigma_vox)
    strongest, label = smoothed.max(0)
    # The smoothing keeps sums, so the background's map need not be smoothed itself.
    labels[near] = torch.where(strongest > 1 - smoothed.sum(0), values[label], 0)
    return labels


def _near(positions: Tensor, ranges: Ranges) -> Ranges | None:
    """Return the ranges of the network's grid outside of which no position lies in `ranges`; None if none does."""
    (z0, z1), (y0, y1), (x0, x1) = ((float(part.start - 1), float(part.stop)) for part in ranges)
    inside = ~beyond(positions, (z0, y0, x0), (z1, y1, x1))
    planes = inside.any(0)
    lines = [line.nonzero().flatten() for line in (inside.flatten(1).any(1), planes.any(1), planes.any(0))]
    if not len(lines[0]):
        return None
    z, y, x = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
    return z, y, x


def _scan_limits(case: TrainingCase) -> tuple[Vector, Vector]:
    """Return the scan's faces as voxel positions of the case's grid."""
    sides = [
        (low / step - 0.5 - _ROUNDING_VOX, high / step - 0.5 + _ROUNDING_VOX)
        for low, high, step in zip(
            case.scan.lower_zyx_mm, case.scan.upper_zyx_mm, case.grid.spacing_zyx_mm, strict=True
        )
    ]
    (z0, z1), (y0, y1), (x0, x1) = sides
    return (z0, y0, x0), (z1, y1, x1)


def _needed(case: TrainingCase, warp: Warp, target: Grid, lesion: Lesion | None) -> Ranges:
    """Return the voxels of the case's arrays that sampling may read."""
    low, high = position_bounds(warp, case.grid, target)
    if lesion is not None:  # positions move towards its middle only
        low, high = np.minimum(low, lesion.centre_zyx_vox), np.maximum(high, lesion.centre_zyx_vox)
    starts = np.clip(np.floor(low).astype(int) - 1, 0, np.array(case.grid.shape_zyx) - 1)
    stops = np.clip(np.ceil(high).astype(int) + 2, starts + 1, case.grid.shape_zyx)
    z, y, x = (slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True))
    return z, y, x


def _starts(ranges: Ranges) -> tuple[int, int, int]:
    z, y, x = (part.start for part in ranges)
    return z, y, x
