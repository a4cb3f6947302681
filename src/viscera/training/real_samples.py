"""Real CTs among synthetic ones: strongly augmented, as few of them must stand for many scanners and patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from viscera.core.config import StageConfig
from viscera.core.geometry import Box
from viscera.model.bundle import Stage
from viscera.synthesis.fields import smooth_maps
from viscera.training.cache import TrainingCase
from viscera.training.config import RealConfig, TrainConfig
from viscera.training.patches import Patch, training_sample

# A slab shows at least this much of the organs' height.
_LEAST_ORGANS_MM = 20.0


def real_sample(
    case: TrainingCase,
    stage: Stage,
    config: TrainConfig,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Patch:
    """Return an image and its labels as `training_sample` does, with `config.real` deciding on the augmentation.

    A part of the scans is cut to a slab; blur and noise are added to all of them.
    """
    real = config.real
    settings: StageConfig = getattr(config.model, stage)
    if rng.uniform() < real.slab_probability:
        case = _slab(case, real, rng)
    image, labels = training_sample(case, stage, replace(config, augment=real.augment), rng, device)
    sigma_vox, noise_hu = rng.uniform(*real.blur_vox), rng.uniform(*real.noise_hu)
    if sigma_vox > 0.2:  # less than this changes nothing
        image = smooth_maps(image[0], sigma_vox)[None]
    # The generator of torch is the step's; noise comes from this sample's own.
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)).to(image.device)
    noisy = (image + noise * (noise_hu / settings.hu_scale)).clamp_(-1, 1)
    # Where the scan has no data there is no noise either.
    return torch.where(image <= -0.499, image, noisy), labels


def _slab(case: TrainingCase, real: RealConfig, rng: np.random.Generator) -> TrainingCase:
    """Return the case as a scan of a part of its height would show it."""
    if case.organs is None:
        return case
    low, high = case.organs.lower_zyx_mm[0], case.organs.upper_zyx_mm[0]
    height = rng.uniform(*real.slab_mm)
    seen = min(_LEAST_ORGANS_MM, height, high - low)
    start = rng.uniform(low - height + seen, high - seen)
    scan, organs = (_cut(box, start, start + height) for box in (case.scan, case.organs))
    return case if scan is None or organs is None else replace(case, scan=scan, organs=organs)


def _cut(box: Box, start_mm: float, stop_mm: float) -> Box | None:
    """Return the part of the box between two heights, None if there is none."""
    low, high = max(box.lower_zyx_mm[0], start_mm), min(box.upper_zyx_mm[0], stop_mm)
    if low >= high:
        return None
    return Box(lower_zyx_mm=(low, *box.lower_zyx_mm[1:]), upper_zyx_mm=(high, *box.upper_zyx_mm[1:]))
