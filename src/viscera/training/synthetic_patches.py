"""What a network is trained on, drawn for each step: a part of a synthetic scan on the grid inference would use."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from viscera.core.config import StageConfig
from viscera.core.geometry import AIR_HU, Box, Grid, Vector
from viscera.core.resample import axis_maps
from viscera.model.bundle import Stage
from viscera.preprocess import fitted_grid
from viscera.synthesis.acquisition import upright_grid
from viscera.synthesis.anatomy import Anatomy
from viscera.synthesis.config import SynthesisConfig
from viscera.synthesis.fields import smooth_maps
from viscera.synthesis.patient import as_vector
from viscera.synthesis.scan import SyntheticScan, box_in, draw_scan, scan_image
from viscera.training.augment import jitter_intensity
from viscera.training.config import TrainConfig
from viscera.training.patches import Patch

# A box moved by a bad localiser keeps at least this extent.
_LEAST_BOX_MM = 20.0
# The smoothing before sampling reaches so many standard deviations.
_SIGMAS = 4.0


def synthetic_sample(
    anatomy: Anatomy,
    stage: Stage,
    config: TrainConfig,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Patch:
    """Return an image (1, 1, z, y, x) in [-1, 1] and its labels, uint8 (1, z, y, x), of a new scan, both on `device`.

    The scan is smoothed, sampled and padded as in inference (`fitted_grid`, `axis_maps`). For segmentation the
    region of interest is the box of the organs seen, each face moved at random, with the margin. Labels are as in
    `training_sample`.

    Raises:
        VisceraError: For segmentation, if the anatomy shows no organs.
    """
    settings: StageConfig = getattr(config.model, stage)
    scan = draw_scan(anatomy, config.synthesis, rng, organs_needed=stage == "segment", device=device)
    frame = _frame(scan)
    if stage == "segment" and scan.organs is not None:
        box = _jittered(scan.organs, frame, config.synthesis, rng)
        target = fitted_grid(frame, box.grown(config.model.margin_mm).clipped(frame.box()), settings)
    else:
        target = fitted_grid(frame, frame.box(), settings)
    voxel_mm = config.synthesis.paint_share * target.spacing_zyx_mm[0]
    lower, upper = _needed(target, _SIGMAS * settings.sigma_mm + voxel_mm, scan.protocol.slice_mm)
    hu, organs, grid = scan_image(scan, lower, upper, voxel_mm, rng)
    image = _sampled(hu[None], grid, target, settings.sigma_mm, outside=AIR_HU)[0].div_(settings.hu_scale)
    image = jitter_intensity(image.clamp_(-1, 1), config.augment, rng, gamma=stage == "localise")
    if stage == "localise":
        labels = _nearest(organs, grid, target).clamp_(max=1)
    else:
        labels = _argmax(organs, grid, target, config)
    return image[None, None].contiguous(), labels[None].contiguous()


def _frame(scan: SyntheticScan) -> Grid:
    """Return an upright grid of 1 mm over the whole field of view, in whose mm boxes are given."""
    extent = np.maximum(1, np.rint(np.array(scan.upper_zyx_mm) - scan.lower_zyx_mm)).astype(int)
    z, y, x = (value + 0.5 for value in scan.lower_zyx_mm)
    return upright_grid((int(extent[0]), int(extent[1]), int(extent[2])), (1.0, 1.0, 1.0), (z, y, x))


def _jittered(organs: tuple[Vector, Vector], frame: Grid, config: SynthesisConfig, rng: np.random.Generator) -> Box:
    """Return the box of the organs seen (lower and upper corner in mm), each face moved as a localiser might."""
    lower, upper = (np.array(side) + rng.standard_normal(3) * config.box_jitter_mm for side in organs)
    if rng.uniform() < config.box_stretch_probability:
        face = int(rng.integers(6))
        far = rng.uniform(*config.box_stretch_mm)
        if face < 3:
            lower[face] -= far
        else:
            upper[face - 3] += far
    middle, half = (lower + upper) / 2, np.maximum(upper - lower, _LEAST_BOX_MM) / 2
    box = box_in(frame, as_vector(middle - half), as_vector(middle + half))
    return box.clipped(frame.box()) if box.overlaps(frame.box()) else box_in(frame, *organs).clipped(frame.box())


def _needed(target: Grid, in_plane_mm: float, slice_mm: float) -> tuple[Vector, Vector]:
    """Return faces of what must be painted for the target: its own, and the reach of smoothing and slices."""
    first = np.array([target.affine[2, 3], target.affine[1, 3], target.affine[0, 3]])
    step = np.array(target.spacing_zyx_mm)
    reach = np.array([in_plane_mm + 1.5 * slice_mm, in_plane_mm, in_plane_mm])
    return as_vector(first - step / 2 - reach), as_vector(first + step * (np.array(target.shape_zyx) - 0.5) + reach)


def _sampled(maps: Tensor, grid: Grid, target: Grid, sigma_mm: float, *, outside: float) -> Tensor:
    """Return maps (c, z, y, x) on `grid` smoothed and interpolated at `target` by the path's own matrices."""
    axes = axis_maps(grid, target, sigma_mm)
    result = torch.full((len(maps), *target.shape_zyx), float(outside), device=maps.device)
    for axis, one in enumerate(axes, start=1):
        weights = torch.from_numpy(np.ascontiguousarray(one.weights)).to(maps.device)
        maps = torch.tensordot(weights, maps, dims=([1], [axis])).movedim(0, axis)
    result[:, axes[0].inside, axes[1].inside, axes[2].inside] = maps
    return result


def _argmax(organs: Tensor, grid: Grid, target: Grid, config: TrainConfig) -> Tensor:
    """Return the label whose smoothed map is largest, uint8 (z, y, x) on `target`."""
    indices = torch.arange(1, config.model.scn.labels, device=organs.device, dtype=torch.uint8)
    maps = (organs == indices[:, None, None, None]).float()
    maps = smooth_maps(_sampled(maps, grid, target, 0.0, outside=0.0), config.label_sigma_vox)
    strongest, label = maps.max(0)
    return torch.where(strongest > 1 - maps.sum(0), label + 1, 0).to(torch.uint8)


def _nearest(organs: Tensor, grid: Grid, target: Grid) -> Tensor:
    """Return the label of the voxel that each voxel centre of `target` lies in, background beyond the grid."""
    offset, step = target.positions_in(grid)
    places, inside = [], []
    for first, ratio, count, size in zip(offset, step, target.shape_zyx, grid.shape_zyx, strict=True):
        place = np.rint(first + ratio * np.arange(count)).astype(np.int64)
        inside.append(torch.from_numpy((place >= 0) & (place < size)).to(organs.device))
        places.append(torch.from_numpy(np.clip(place, 0, size - 1)).to(organs.device))
    seen = inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None]
    values = organs[places[0]][:, places[1]][:, :, places[2]]
    return torch.where(seen, values, torch.zeros_like(values))
