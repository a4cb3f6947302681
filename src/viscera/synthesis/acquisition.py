"""What the scanner makes of a body: slices, blur, noise, streaks, the circle of reconstruction, whole HU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viscera.core.geometry import AIR_HU, Grid, Size, Vector
from viscera.synthesis.config import AcquisitionConfig
from viscera.synthesis.fields import RandomFields, blurred, left_deviation

_HIGHEST_HU = 3071
# How wide the edges are that sharp kernels raise.
_EDGE_MM = 2.0
_THIN_SLICES = 1 / 3
# In-plane voxels at which noise is told.
NOISE_VOXEL_MM = 0.8


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one scan was made; see `AcquisitionConfig` for units.

    Attributes:
        slice_mm, thickness_mm: Distance and thickness of slices.
        kernel_mm, sharpening: Blur in the plane, and by how much edges are raised then.
        noise_hu, grain_mm: Noise at voxels of NOISE_VOXEL_MM in the plane, and its grain there.
        streak_hu: Amplitude of streaks, 0 for none.
        padding_hu: What voxels beyond the circle of reconstruction measure, None if they show what is there.
        table: Whether the table is seen.
        window_hu: Clipped to these, or None.
    """

    slice_mm: float
    thickness_mm: float
    kernel_mm: float
    sharpening: float
    noise_hu: float
    grain_mm: float
    streak_hu: float
    padding_hu: float | None
    table: bool
    window_hu: tuple[float, float] | None


def draw_protocol(config: AcquisitionConfig, rng: np.random.Generator) -> Protocol:
    """A random protocol."""
    low, high = config.slice_mm
    distance = low if rng.uniform() < _THIN_SLICES else rng.uniform(low, high)
    if rng.uniform() < config.thick_probability:
        distance = rng.uniform(*config.thick_slice_mm)
    quiet, loud = np.log(config.noise_hu)
    windowed = rng.uniform() < config.window_probability
    return Protocol(
        slice_mm=distance,
        thickness_mm=distance * rng.uniform(*config.thickness_share),
        kernel_mm=rng.uniform(*config.kernel_mm),
        sharpening=rng.uniform(*config.sharpening) if rng.uniform() < config.sharp_probability else 0.0,
        noise_hu=float(np.exp(rng.uniform(quiet, loud))),
        grain_mm=rng.uniform(*config.noise_grain_mm),
        streak_hu=rng.uniform(*config.streak_hu) if rng.uniform() < config.streak_probability else 0.0,
        padding_hu=float(rng.choice(config.padding_hu)) if rng.uniform() < config.circle_probability else None,
        table=bool(rng.uniform() < config.table_probability),
        window_hu=(rng.uniform(-250, -120), rng.uniform(200, 350)) if windowed else None,
    )


def slice_grid(fine: Grid, protocol: Protocol) -> Grid:
    """The grid of the scan's slices over an upright `fine` grid that they are averaged from."""
    step = max(protocol.slice_mm, fine.spacing_zyx_mm[0])
    count = max(1, int(fine.extent_zyx_mm[0] / step))
    return upright_grid(
        (count, *fine.shape_zyx[1:]),
        (step, *fine.spacing_zyx_mm[1:]),
        (_middle_z(fine) - step * (count - 1) / 2, float(fine.affine[1, 3]), float(fine.affine[0, 3])),
    )


def scanned(hu: Tensor, fine: Grid, slices: Grid, protocol: Protocol, rng: np.random.Generator) -> Tensor:
    """Whole HU (z, y, x) of `slices`, float32, of a body `hu` on a `fine` grid with the same columns and rows."""
    profile = _slice_profile(fine, slices, protocol.thickness_mm).to(hu.device)
    image = torch.tensordot(profile, hu, dims=([1], [0]))
    in_plane_mm = slices.spacing_zyx_mm[1]
    image = blurred(image, protocol.kernel_mm / in_plane_mm, (1, 2))
    fields = RandomFields(slices.shape_zyx, slices.spacing_zyx_mm, rng, hu.device)
    grain = protocol.grain_mm / in_plane_mm
    if protocol.sharpening > 0:
        image += protocol.sharpening * (image - blurred(image, _EDGE_MM / in_plane_mm, (1, 2)))
        grain = 0.0  # such kernels leave the noise fine
    noise = blurred(fields.white(), grain, (1, 2)) / left_deviation(grain, 2)
    deviation = protocol.noise_hu * averaged_share(grain * in_plane_mm, in_plane_mm)
    image += noise * (deviation * (1 + 0.3 * fields.smooth(120.0)).clamp_(min=0.3))
    if protocol.streak_hu > 0:
        image += _streaks(slices, protocol.streak_hu, rng, hu.device)
    if protocol.window_hu is not None:
        low, high = protocol.window_hu
        image = torch.where(image < -800, -1000.0, image.clamp(low, high))
    return image.clamp_(AIR_HU, _HIGHEST_HU).round_()


def averaged_share(grain_mm: float, voxel_mm: float) -> float:
    """What voxels of this size leave of noise that voxels of NOISE_VOXEL_MM show, with this grain in both; roughly.

    A voxel averages over its square, whose side has the deviation side / sqrt(12); white noise blurred by a deviation
    in two dimensions falls by its inverse.
    """
    fine, wide = (grain_mm**2 + side**2 / 12 for side in (NOISE_VOXEL_MM, voxel_mm))
    return float(np.sqrt(fine / wide))


def upright_grid(shape_zyx: Size, spacing_zyx_mm: Vector, first_zyx_mm: Vector) -> Grid:
    """A canonical grid from the centre (z, y, x) of its first voxel."""
    direction = np.zeros((3, 3))
    direction[2, 0] = direction[1, 1] = direction[0, 2] = 1.0
    z, y, x = first_zyx_mm
    return Grid.from_axes(shape_zyx, spacing_zyx_mm=spacing_zyx_mm, direction_zyx=direction, origin_xyz_mm=(x, y, z))


def beyond_circle(grid: Grid, lower_zyx_mm: Vector, upper_zyx_mm: Vector) -> NDArray[np.bool_]:
    """Where columns of an upright grid lie outside of the ellipse that touches the field of view's sides: (y, x).

    Args:
        grid: Of the whole scan or a part of it.
        lower_zyx_mm: Lower faces of the whole field of view.
        upper_zyx_mm: Upper faces.
    """
    away = []
    for axis in (1, 2):
        places = float(grid.affine[2 - axis, 3]) + grid.spacing_zyx_mm[axis] * np.arange(grid.shape_zyx[axis])
        low, high = lower_zyx_mm[axis], upper_zyx_mm[axis]
        away.append(((places - (low + high) / 2) / ((high - low) / 2)) ** 2)
    beyond: NDArray[np.bool_] = away[0][:, None] + away[1][None] > 1
    return beyond


def _middle_z(grid: Grid) -> float:
    return float(grid.affine[2, 3]) + grid.spacing_zyx_mm[0] * (grid.shape_zyx[0] - 1) / 2


def _slice_profile(fine: Grid, slices: Grid, thickness_mm: float) -> Tensor:
    """(slices, fine) weights: what part of each slice each fine plane fills; rows sum to 1."""
    planes = fine.affine[2, 3] + fine.spacing_zyx_mm[0] * np.arange(fine.shape_zyx[0])
    middles = slices.affine[2, 3] + slices.spacing_zyx_mm[0] * np.arange(slices.shape_zyx[0])
    half_plane, half_slice = fine.spacing_zyx_mm[0] / 2, max(thickness_mm, fine.spacing_zyx_mm[0]) / 2
    away = np.abs(planes[None] - middles[:, None])
    weights = np.clip(half_slice + half_plane - away, 0, 2 * half_plane)
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True)).float()


def _streaks(grid: Grid, amplitude_hu: float, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Rays of too high and too low values around a point, over some slices."""
    depth, height, width = grid.shape_zyx
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None] - rng.uniform(0.2, 0.8) * height
    x = torch.arange(width, device=device, dtype=torch.float32)[None] - rng.uniform(0.2, 0.8) * width
    angle = torch.atan2(y, x)
    rays = sum(
        torch.cos(float(rng.integers(2, 14)) * angle + rng.uniform(0, 6.28)) * rng.uniform(0.3, 1) for _ in range(4)
    )
    distance = (y.square() + x.square()).sqrt() * grid.spacing_zyx_mm[1]
    plane = rays * torch.exp(-distance / rng.uniform(40, 150))
    slices = torch.arange(depth, device=device, dtype=torch.float32) * grid.spacing_zyx_mm[0]
    along = torch.exp(-0.5 * ((slices - rng.uniform(0, float(slices[-1]) + 1)) / rng.uniform(8, 60)).square())
    return amplitude_hu * along[:, None, None] * plane
