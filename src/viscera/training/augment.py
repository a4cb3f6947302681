"""Spatial and intensity augmentation in torch: one sampling of the smoothed CT composes every transformation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viscera.core.geometry import Grid, Size, Vector
from viscera.training.config import AugmentConfig

_NODES = 8


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
    """Return a random spatial transformation."""
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


def sampling_positions(warp: Warp, source: Grid, target: Grid, device: torch.device | str = "cpu") -> Tensor:
    """Return where each voxel of `target` reads in `source`: voxel positions (z, y, x), float32 (z, y, x, 3).

    The grids are parallel. Without transformation these are exactly the positions inference reads at.
    """
    linear, constant = _affine_part(warp, source, target)
    columns = torch.from_numpy(linear.T.copy()).float().to(device)
    counts = [torch.arange(count, device=device, dtype=torch.float32) for count in target.shape_zyx]
    z, y, x = (count[:, None] * column for count, column in zip(counts, columns, strict=True))
    rows = z[:, None] + y + torch.from_numpy(constant).float().to(device)
    # In memory (z, y, 3, x): long lines along x make both this sum and the spline's product fast.
    positions: Tensor = rows[..., None] + x.T
    if np.any(warp.nodes_mm):
        positions += _spline(warp.nodes_mm / np.reshape(source.spacing_zyx_mm, (3, 1, 1, 1)), target.shape_zyx, device)
    return positions.movedim(2, 3)


def position_bounds(warp: Warp, source: Grid, target: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and highest voxel positions (z, y, x) among `source` that `sampling_positions` may give."""
    linear, constant = _affine_part(warp, source, target)
    ends = linear[:, :, None] * np.stack([np.zeros(3), np.array(target.shape_zyx) - 1.0], axis=-1)
    # A B-spline stays among its nodes.
    bend = np.abs(warp.nodes_mm).max(axis=(1, 2, 3)) / source.spacing_zyx_mm
    low: NDArray[np.float64] = constant + ends.min(axis=2).sum(axis=1) - bend
    high: NDArray[np.float64] = constant + ends.max(axis=2).sum(axis=1) + bend
    return low, high


def sample(
    array: Tensor, positions: Tensor, *, nearest: bool = False, edge: bool = True, start_zyx: Size = (0, 0, 0)
) -> Tensor:
    """`array` (c, z, y, x) read at voxel `positions` (z, y, x, 3): float32 (c, z, y, x).

    Args:
        array: Any real type; converted to float32.
        positions: Among the voxels of the whole of which `array` is a part.
        nearest: Take the nearest voxel instead of interpolating linearly.
        edge: Beyond the array its edge continues; otherwise zeros follow.
        start_zyx: Where the array's first voxel lies in the whole.
    """
    grid = torch.empty(positions.movedim(3, 2).shape, device=positions.device)
    for axis, (count, start) in enumerate(zip(array.shape[1:], start_zyx, strict=True)):
        # -1 and 1 are the outer faces; the last axis is (x, y, z).
        torch.mul(positions[..., axis], 2 / count, out=grid[:, :, 2 - axis]).add_((1 - 2 * start) / count - 1)
    mode, padding = "nearest" if nearest else "bilinear", "border" if edge else "zeros"
    places = grid.movedim(2, 3)[None]
    return F.grid_sample(array[None].float(), places, mode=mode, padding_mode=padding, align_corners=False)[0]


def beyond(positions: Tensor, low_zyx: Vector, high_zyx: Vector) -> Tensor:
    """Return which of the `positions` (z, y, x, 3) are less than `low_zyx` or more than `high_zyx`: bool (z, y, x)."""
    outside = torch.zeros(positions.shape[:3], dtype=torch.bool, device=positions.device)
    for axis, (low, high) in enumerate(zip(low_zyx, high_zyx, strict=True)):
        outside |= (positions[..., axis] < low) | (positions[..., axis] > high)
    return outside


def jitter_intensity(image: Tensor, config: AugmentConfig, rng: np.random.Generator, *, gamma: bool = False) -> Tensor:
    """Return the image (HU / scale) with a random shift and gain, clipped to [-1, 1], then, if so, a gamma."""
    shift, gain, power = rng.uniform(-1, 1, 3) * (config.shift, config.gain, config.gamma) + (0.0, 1.0, 1.0)
    changed = (image + float(shift)).mul_(float(gain)).clamp_(-1, 1)
    if gamma and power != 1:
        # Of [-1, 1] mapped to [0, 1], so that the ends stay where they are.
        changed = (changed + 1).mul_(0.5).pow_(float(power)).mul_(2).sub_(1)
    return changed


def _affine_part(warp: Warp, source: Grid, target: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix and constant that turn voxels of `target` into positions in `source`, without the spline."""
    offset, step = (np.array(values) for values in target.positions_in(source))
    spacing, middle = np.array(target.spacing_zyx_mm), (np.array(target.shape_zyx) - 1) / 2
    to_source = step / spacing
    linear = to_source[:, None] * warp.matrix_zyx * spacing
    constant = to_source * warp.shift_zyx_mm + middle * step + offset - linear @ middle
    return linear, constant


def _spline(nodes: NDArray[np.float64], shape_zyx: Size, device: torch.device | str) -> Tensor:
    """Return displacements (z, y, 3, x) of a uniform cubic B-spline whose nodes reach from face to face of the grid."""
    z, y, x = (_spline_weights(count).to(device) for count in shape_zyx)
    field = torch.from_numpy(nodes).float().to(device)
    planes = torch.einsum("cijk,zi,yj->zyck", field, z, y)
    return planes @ x.T


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
