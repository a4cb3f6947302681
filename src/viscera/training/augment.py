"""Spatial and intensity augmentation in torch: one sampling of the smoothed CT composes every transformation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viscera.errors import ConfigError
from viscera.geometry import AIR_HU, Grid

_NODES = 8


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges, all uniform around no change (paper, section 3; authors' release).

    Attributes:
        translation_mm: Per axis, to both sides.
        rotation_rad: About each axis, to both sides.
        scale: Isotropic factor 1 +- this.
        axis_scale: Further factor per axis 1 +- this.
        elastic_mm: Displacement of each of 8x8x8 B-spline nodes per axis, to both sides.
        shift: Added to intensities (HU / 2048), to both sides.
        gain: Intensities are multiplied by 1 +- this.
    """

    translation_mm: float = 20.0
    rotation_rad: float = 0.35
    scale: float = 0.2
    axis_scale: float = 0.1
    elastic_mm: float = 15.0
    shift: float = 0.2
    gain: float = 0.2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ConfigError(
                    f"setting AugmentConfig.{name}", expected="0 or more", got=str(value), remedy="Correct the value"
                )


IDENTITY = AugmentConfig(translation_mm=0, rotation_rad=0, scale=0, axis_scale=0, elastic_mm=0, shift=0, gain=0)


@dataclass(frozen=True, kw_only=True)
class Warp:
    """One drawn spatial transformation: from points of the network's grid to points of the CT, both in mm.

    Attributes:
        matrix_zyx: Rotation and scales, about the middle of the network's grid.
        shift_zyx_mm: Translation.
        nodes_mm: (3, 8, 8, 8) displacements (z, y, x) of B-spline nodes spread over the network's grid.
    """

    matrix_zyx: NDArray[np.float64]
    shift_zyx_mm: NDArray[np.float64]
    nodes_mm: NDArray[np.float64]


def draw_warp(config: AugmentConfig, rng: np.random.Generator) -> Warp:
    """A random spatial transformation."""
    matrix = np.diag((1 + rng.uniform(-1, 1) * config.scale) * (1 + rng.uniform(-1, 1, 3) * config.axis_scale))
    for axis, angle in enumerate(rng.uniform(-1, 1, 3) * config.rotation_rad):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    shift = rng.uniform(-1, 1, 3) * config.translation_mm
    nodes = rng.uniform(-1, 1, (3, _NODES, _NODES, _NODES)) * config.elastic_mm
    return Warp(matrix_zyx=matrix, shift_zyx_mm=shift, nodes_mm=nodes)


def sampling_positions(warp: Warp, source: Grid, target: Grid) -> Tensor:
    """Where each voxel of `target` reads in `source`: float32 (z, y, x, 3) voxel positions (z, y, x).

    The grids are parallel. Without transformation these are exactly the positions inference reads at.
    """
    offset, step = target.positions_in(source)
    spacing = torch.tensor(target.spacing_zyx_mm)
    axes = [
        (torch.arange(count) - (count - 1) / 2) * float(mm) for count, mm in zip(target.shape_zyx, spacing, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    moved = points @ torch.from_numpy(warp.matrix_zyx).float().T + torch.from_numpy(warp.shift_zyx_mm).float()
    if np.any(warp.nodes_mm):
        moved = moved + _spline(warp.nodes_mm, target.shape_zyx)
    # Back from mm about the middle to voxels of the target, then of the source.
    middle = torch.tensor([(count - 1) / 2 for count in target.shape_zyx])
    voxels = moved / spacing + middle
    return voxels * torch.tensor(step) + torch.tensor(offset)


def sample(array: Tensor, positions: Tensor, *, nearest: bool, outside: float) -> Tensor:
    """`array` (c, z, y, x) read at voxel `positions` (z, y, x, 3): float32 (c, z, y, x).

    Linear or nearest; within half a voxel beyond the outer voxel centres the edge value, further out `outside`.
    """
    sizes = torch.tensor(array.shape[1:])
    normalised = (2 * positions + 1) / sizes - 1  # -1 and 1 at the outer voxel faces
    mode = "nearest" if nearest else "bilinear"
    grid = normalised.flip(-1)[None]
    read = F.grid_sample(array[None].float(), grid, mode=mode, padding_mode="border", align_corners=False)[0]
    beyond = (normalised.abs() > 1 + 1e-6).any(-1)
    return read.masked_fill(beyond, outside)


def jitter_intensity(image: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """The image (HU / scale) with a random shift, then a random gain, clipped to [-1, 1]."""
    shift, gain = rng.uniform(-1, 1) * config.shift, 1 + rng.uniform(-1, 1) * config.gain
    return ((image + shift) * gain).clamp(-1, 1)


def smooth_maps(maps: Tensor, sigma_vox: float) -> Tensor:
    """Maps (c, z, y, x) smoothed by a Gaussian of `sigma_vox` voxels, edges repeated."""
    if sigma_vox == 0:
        return maps
    reach = math.ceil(3 * sigma_vox)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma_vox) ** 2)
    kernel /= kernel.sum()
    result = maps[:, None]
    for axis in range(3):
        shape, padding = [1, 1, 1], [0, 0, 0, 0, 0, 0]
        shape[axis] = 2 * reach + 1
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = reach
        result = F.conv3d(F.pad(result, padding, mode="replicate"), kernel.reshape(1, 1, *shape))
    return result[:, 0]


def air(hu_scale: float) -> float:
    """The network's intensity of air."""
    return AIR_HU / hu_scale


def _spline(nodes_mm: NDArray[np.float64], shape_zyx: tuple[int, int, int]) -> Tensor:
    """Displacements (z, y, x, 3) of a uniform cubic B-spline whose nodes reach from face to face of the grid."""
    field = torch.from_numpy(nodes_mm).float()
    z, y, x = (_spline_weights(count) for count in shape_zyx)
    return torch.einsum("cijk,zi,yj,xk->zyxc", field, z, y, x)


def _spline_weights(count: int) -> Tensor:
    """(count, nodes) weights of a uniform cubic B-spline at voxel centres; rows sum to 1 by repeating edge nodes."""
    positions = (np.arange(count) + 0.5) / count * (_NODES - 1)
    weights = np.zeros((count, _NODES))
    first = np.floor(positions).astype(int)
    t = positions - first
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for place, part in enumerate(parts):
        np.add.at(weights, (np.arange(count), np.clip(first - 1 + place, 0, _NODES - 1)), part / 6)
    return torch.from_numpy(weights).float()
