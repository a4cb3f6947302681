"""Smooth random fields and blurs over a grid."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from viscera.core.geometry import Size, Vector

# Trilinear interpolation between independent nodes leaves this share of their deviation in the mean: sqrt(2/3) cubed.
_LEFT = math.sqrt(2 / 3) ** 3
# A narrower blur changes next to nothing.
_LEAST_SIGMA_VOX = 0.1


class RandomFields:
    """Random numbers of one scan on a device, all from one seed.

    Args:
        shape_zyx, spacing_zyx_mm: Of the grid the fields lie on.
        rng: Gives the seed.
        device: Where they are made.
    """

    def __init__(
        self, shape_zyx: Size, spacing_zyx_mm: Vector, rng: np.random.Generator, device: torch.device | str = "cpu"
    ) -> None:
        self.shape, self.spacing, self.device = shape_zyx, spacing_zyx_mm, torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))

    def smooth(self, scale_mm: float) -> Tensor:
        """A field (z, y, x) of mean 0 and deviation about 1 that changes over `scale_mm`."""
        nodes = [
            max(2, math.ceil((count - 1) * step / scale_mm) + 1)
            for count, step in zip(self.shape, self.spacing, strict=True)
        ]
        values = torch.randn(1, 1, *nodes, generator=self._generator, device=self.device) / _LEFT
        return stretched(values[0], self.shape)[0]

    def white(self) -> Tensor:
        """Independent normal numbers (z, y, x)."""
        return torch.randn(self.shape, generator=self._generator, device=self.device)


def stretched(values: Tensor, shape_zyx: Size) -> Tensor:
    """Maps (c, z, y, x) interpolated linearly to a shape, the first and the last nodes of each axis on its ends.

    A product of one small matrix an axis, which on a CPU takes a fraction of the time of `F.interpolate`.
    """
    for axis, count in enumerate(shape_zyx, start=1):
        weights = _linear_weights(values.shape[axis], count).to(values.device)
        if axis == 3:
            return values @ weights
        values = torch.tensordot(values, weights, dims=([axis], [0])).movedim(-1, axis).contiguous()
    raise AssertionError("three axes")


def _linear_weights(nodes: int, count: int) -> Tensor:
    """(nodes, count) weights of linear interpolation."""
    places = torch.linspace(0, nodes - 1, count, dtype=torch.float64) if count > 1 else torch.zeros(1)
    away = (places[None] - torch.arange(nodes, dtype=torch.float64)[:, None]).abs()
    return (1 - away).clamp_(min=0).float()


def blurred(values: Tensor, sigma_vox: float, axes: tuple[int, ...]) -> Tensor:
    """`values` smoothed along `axes` by a Gaussian cut at three sigmas, edges repeated."""
    if sigma_vox < _LEAST_SIGMA_VOX:
        return values
    for axis in axes:
        weights = smoothing_matrix(values.shape[axis], sigma_vox, values.device)
        values = torch.tensordot(weights, values, dims=([1], [axis])).movedim(0, axis)
    return values


def left_deviation(sigma_vox: float, axes: int) -> float:
    """What blurring along so many axes leaves of the deviation of white noise."""
    if sigma_vox < _LEAST_SIGMA_VOX:
        return 1.0
    reach = math.ceil(3 * sigma_vox)
    kernel = smoothing_matrix(2 * reach + 1, sigma_vox, torch.device("cpu"))[reach]
    return float(kernel.square().sum().sqrt()) ** axes


def smooth_maps(maps: Tensor, sigma_vox: float) -> Tensor:
    """Maps (c, z, y, x) smoothed by a Gaussian of `sigma_vox` voxels, edges repeated."""
    if sigma_vox == 0:
        return maps
    result = maps
    for axis in (1, 2, 3):
        matrix = smoothing_matrix(maps.shape[axis], sigma_vox, maps.device)
        result = torch.tensordot(matrix, result, dims=([1], [axis])).movedim(0, axis)
    return result


def smoothing_matrix(count: int, sigma_vox: float, device: torch.device) -> Tensor:
    """Weights (count, count) of a Gaussian cut at three sigmas; what falls over an end counts for the end."""
    reach = math.ceil(3 * sigma_vox)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_vox) ** 2)
    weights = np.zeros((count, count))
    columns = np.clip(np.arange(count)[:, None] + np.arange(-reach, reach + 1), 0, count - 1)
    np.add.at(weights, (np.arange(count)[:, None], columns), kernel / kernel.sum())
    return torch.from_numpy(weights).float().to(device)
