"""Parameters and floating-point operations of the networks, layer by layer, from their configuration alone.

The counting rule is the one that reproduces the paper's figures to the last digit (paper, table 2): a multiply-add of a
convolution counts 2 and each bias addition 1, zero padding counts like image; interpolation runs one axis after the
other and counts 3 per output of a linear and 7 per output of a cubic step, plus 15 per upsampling operator; pooling,
activations and fusion count 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from viscera.core.config import ScnConfig, UNetConfig
from viscera.core.errors import ConfigError
from viscera.core.geometry import Size
from viscera.model.structure import (
    BLOCK_CONVOLUTIONS,
    KERNEL_SIDE,
    contracting_name,
    expanding_name,
    pool_name,
    unet_features,
    upsample_name,
)

LINEAR_FLOPS_PER_OUTPUT = 3
CUBIC_FLOPS_PER_OUTPUT = 7
FLOPS_PER_UPSAMPLING = 15


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: its name as in the state dict, the channels and size it puts out, its parameters and operations."""

    name: str
    channels: int
    size_zyx_vox: Size
    parameters: int = 0
    flops: int = 0


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """The layers of one network in the order of computation, for one image (batch 1) of `size_zyx_vox`."""

    size_zyx_vox: Size
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """The number of trained values."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def flops(self) -> int:
        """The number of floating-point operations of one inference."""
        return sum(layer.flops for layer in self.layers)


def unet_complexity(config: UNetConfig, size_zyx_vox: Size) -> Complexity:
    """The layers of a U-Net for an image of `size_zyx_vox`.

    Raises:
        ConfigError: If a side is not a positive multiple of `config.size_multiple_vox`.
    """
    require_size(size_zyx_vox, config.size_multiple_vox)
    return Complexity(size_zyx_vox=size_zyx_vox, layers=tuple(_unet_layers(config, size_zyx_vox)))


def scn_complexity(config: ScnConfig, size_zyx_vox: Size) -> Complexity:
    """The layers of a SpatialConfiguration-Net for an image of `size_zyx_vox`.

    Raises:
        ConfigError: If a side is not a positive multiple of `config.size_multiple_vox`.
    """
    require_size(size_zyx_vox, config.size_multiple_vox)
    return Complexity(size_zyx_vox=size_zyx_vox, layers=tuple(_scn_layers(config, size_zyx_vox)))


def complexity_rows(complexity: Complexity) -> list[tuple[str, str, int, int]]:
    """Rows (layer, output shape as "channels x z x y x x", parameters, FLOPs) for a table, the total last."""
    rows = [
        (layer.name, _shape(layer.channels, layer.size_zyx_vox), layer.parameters, layer.flops)
        for layer in complexity.layers
    ]
    last = complexity.layers[-1]
    total = ("total", _shape(last.channels, last.size_zyx_vox), complexity.parameters, complexity.flops)
    return [*rows, total]


def require_size(size_zyx_vox: Sequence[int], multiple: int) -> None:
    """Raise ConfigError unless every side is a positive multiple of `multiple`."""
    if any(side < 1 or side % multiple for side in size_zyx_vox):
        raise ConfigError(
            "passing an image to a network",
            expected=f"sides that are positive multiples of {multiple} voxels",
            got=" x ".join(map(str, size_zyx_vox)) + " (z, y, x)",
            remedy="Pad the image or choose one of the sizes the model card lists",
        )


class _Counter:
    """A U-Net's operations on layers: each is listed with its size, its parameters and its FLOPs."""

    def __init__(self, config: UNetConfig) -> None:
        self._filters = config.filters
        self.levels = config.levels
        self.layers: list[Layer] = []

    def contract(self, level: int, image: Layer) -> Layer:
        return self._block(contracting_name(level), image)

    def pool(self, level: int, features: Layer) -> Layer:
        coarse = _coarser(features.size_zyx_vox, 2)
        return self.add(Layer(name=pool_name(level), channels=features.channels, size_zyx_vox=coarse))

    def join(self, level: int, skip: Layer, below: Layer) -> Layer:
        name, size = upsample_name(level), skip.size_zyx_vox
        upsampled = self.add(_upsampling(name, below.channels, size, 2, LINEAR_FLOPS_PER_OUTPUT))
        return replace(upsampled, channels=skip.channels + upsampled.channels)

    def expand(self, level: int, features: Layer) -> Layer:
        return self._block(expanding_name(level), features)

    def add(self, layer: Layer) -> Layer:
        self.layers.append(layer)
        return layer

    def _block(self, name: str, layer: Layer) -> Layer:
        for convolution in BLOCK_CONVOLUTIONS:
            layer = self.add(_convolution(f"{name}.{convolution}", layer, self._filters, KERNEL_SIDE))
        return layer


def _unet_layers(config: UNetConfig, size: Size) -> list[Layer]:
    counter = _Counter(config)
    features = unet_features(counter, Layer(name="image", channels=config.inputs, size_zyx_vox=size))
    counter.add(_convolution("output", features, config.outputs, 1))
    return counter.layers


def _scn_layers(config: ScnConfig, size: Size) -> Iterator[Layer]:
    coarse = _coarser(size, config.spatial_factor)
    for layer in _unet_layers(config.local, size):
        yield replace(layer, name=f"local.{layer.name}")
    yield Layer(name="spatial.pool", channels=config.labels, size_zyx_vox=coarse)
    for label, spatial in enumerate(config.spatial):
        for layer in _unet_layers(spatial, coarse):
            yield replace(layer, name=f"spatial.{label}.{layer.name}")
    yield _upsampling("upsample", config.labels, size, config.spatial_factor, CUBIC_FLOPS_PER_OUTPUT)
    yield Layer(name="fuse", channels=config.labels, size_zyx_vox=size)


def _convolution(name: str, source: Layer, outputs: int, kernel_side: int) -> Layer:
    size = source.size_zyx_vox
    weights = source.channels * kernel_side**3 * outputs
    flops = (2 * weights + outputs) * math.prod(size)
    return Layer(name=name, channels=outputs, size_zyx_vox=size, parameters=weights + outputs, flops=flops)


def _upsampling(name: str, channels: int, size: Size, factor: int, flops_per_output: int) -> Layer:
    # One axis after the other: each coarse voxel becomes f, then f**2, then f**3 outputs.
    outputs = channels * math.prod(_coarser(size, factor)) * (factor + factor**2 + factor**3)
    return Layer(
        name=name,
        channels=channels,
        size_zyx_vox=size,
        flops=flops_per_output * outputs + FLOPS_PER_UPSAMPLING,
    )


def _coarser(size: Size, factor: int) -> Size:
    z, y, x = size
    return z // factor, y // factor, x // factor


def _shape(channels: int, size: Size) -> str:
    return " x ".join(map(str, (channels, *size)))
