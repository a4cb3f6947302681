"""The networks computed plane by plane along z, exactly, without ever holding a fine feature map as a whole.

At full resolution one feature map of the published region is 210 MB in half precision, and a network that holds three
of them needs a large GPU for small weights. A convolution of three planes needs just that: the plane, the one before
and the one behind. So the planes of the image flow through all convolutions of a level in small groups, each keeping
the last two planes it has read, and nothing is computed twice for the sake of a border (the layer-by-layer sliding
window of R. Alwani et al., "Fused-layer CNN accelerators", 2016, along one axis).

A U-Net's level is passed twice. The first pass pools the contracting block's features for the level below, which is a
tensor of an eighth of the size; the second computes the same features again, joins them with what came up from below
and runs the expanding block. Computing them again costs a fifth of the network and no memory; keeping them would cost
the memory this is for.

Tensors are (batch, channel, z, y, x); a stream is an iterator over groups of neighbouring planes, in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viscera.core.config import UNetConfig
from viscera.model.networks import CubicUpsampling, ScnOutput, SpatialConfigurationNet, UNet, disagreement, fuse
from viscera.model.structure import unet_features

Stream = Iterator[Tensor]

# Tensors held at the peak, counted in feature maps of the finest level (as a whole), and in planes of such a map for
# each plane that flows at once and for any number of them (streamed); a test counts them.
_WHOLE_MAPS = 5
_PLANES_HELD = 7
_PLANES_KEPT = 16
# Coarse planes on either side that a cubic interpolation reads.
_CUBIC_HALO = 2


def streamed_output(network: UNet | SpatialConfigurationNet, image: Tensor, planes: int) -> tuple[Tensor, ...]:
    """The network's output for `image`, on the CPU: a U-Net's logits, or probabilities and disagreement of an SCN.

    All are (b, c, z, y, x), the disagreement coarser by the spatial factor.

    Args:
        network: A `UNet` or a `SpatialConfigurationNet`, in evaluation mode.
        image: (b, inputs, z, y, x), with sides that the network can halve.
        planes: How many planes of the finest level flow at once, at least 1; memory grows with it.
    """
    if isinstance(network, SpatialConfigurationNet):
        return _streamed_scn(network, image, planes)
    return (torch.cat([logits.cpu() for logits in _logits(network, image, planes)], dim=2),)


def whole_bytes(unet: UNetConfig, shape: Sequence[int], itemsize: int) -> int:
    """The bytes of tensors that a network around `unet` holds at its peak for an image of `shape`, not streamed.

    `itemsize` is that of its features, 4 or 2 bytes.
    """
    return _WHOLE_MAPS * unet.filters * math.prod(shape) * itemsize + 4 * math.prod(shape)


def streamed_bytes(unet: UNetConfig, shape: Sequence[int], planes: int, itemsize: int) -> int:
    """The bytes of tensors that it holds on the device at its peak with `planes` planes at once."""
    image, plane = 4 * math.prod(shape), unet.filters * math.prod(shape) // shape[2] * itemsize
    flowing = _PLANES_HELD * min(planes, shape[2]) + _PLANES_KEPT
    below = plane * shape[2] // 8  # half as many planes of a quarter of the size
    return image + max(below + plane * flowing, 2 * below + plane // 4 * flowing)


def least_bytes(unet: UNetConfig, shape: Sequence[int], itemsize: int) -> int:
    """The least bytes it can do with."""
    return min(streamed_bytes(unet, shape, 2, itemsize), whole_bytes(unet, shape, itemsize))


def fitting_planes(unet: UNetConfig, shape: Sequence[int], budget: int, itemsize: int) -> int:
    """The most planes with which at most `budget` bytes are held, an even number of at least 2."""
    fitting = (p for p in range(shape[2], 2, -2) if streamed_bytes(unet, shape, p, itemsize) <= budget)
    return next(fitting, 2)


@dataclass(frozen=True, kw_only=True)
class _Planes:
    """Features as streams: each call of `groups` computes them again, `depth` planes in order."""

    depth: int
    groups: Callable[[], Stream]


class _StreamedUNet:
    """A U-Net's operations on streams of `planes` planes of each level at once."""

    def __init__(self, unet: UNet, planes: int) -> None:
        self._unet = unet
        self._planes = planes
        self.levels = unet.levels

    def read(self, x: Tensor) -> _Planes:
        """The planes of a tensor that is there as a whole."""
        return _Planes(depth=x.shape[2], groups=partial(_groups, x, self._planes))

    def contract(self, level: int, image: _Planes) -> _Planes:
        return _Planes(depth=image.depth, groups=lambda: self._block(self._unet.contracting[level], image.groups()))

    def pool(self, level: int, features: _Planes) -> _Planes:
        pooled = (self._unet.pool(level, group) for group in _regrouped(features.groups(), 2))
        return self.read(_gathered(pooled, features.depth // 2))  # (f, n) -> (f, n/2)

    def join(self, level: int, skip: _Planes, below: _Planes) -> _Planes:
        coarse = _gathered(below.groups(), below.depth)  # what it is computed from goes with `below`
        return _Planes(depth=skip.depth, groups=lambda: _joined(skip.groups(), coarse))

    def expand(self, level: int, features: _Planes) -> _Planes:
        return _Planes(depth=features.depth, groups=lambda: self._block(self._unet.expanding[level], features.groups()))

    def _block(self, block: nn.Module, groups: Stream) -> Stream:
        first, second, slope = (getattr(block, name) for name in ("first", "second", "slope"))
        return _convolved(second, slope, _convolved(first, slope, groups))


def _logits(unet: UNet, image: Tensor, planes: int) -> Stream:
    """The logits (b, outputs, *, y, x) of `image` (b, inputs, z, y, x)."""
    streamed = _StreamedUNet(unet, planes)
    for group in unet_features(streamed, streamed.read(image)).groups():
        yield unet.output(group)  # (f, n) -> (outputs, n)


def _streamed_scn(network: SpatialConfigurationNet, image: Tensor, planes: int) -> tuple[Tensor, Tensor]:
    """Probabilities and disagreement; what lies between the nets at full resolution waits on the CPU, too."""
    factor = network.config.spatial_factor
    kept, coarse = _local_pass(network, image, planes)
    spatial_logits = network.spatial_logits(*coarse)  # -> (s, n/4)
    fused, apart = [], []
    start = 0
    for waiting in kept:
        local = waiting.to(image.device)
        stop = start + local.shape[2]
        spatial = _upsampled(network.upsample, spatial_logits, start // factor, stop // factor)  # (s, n/4) -> (s, n)
        probabilities = fuse(local, spatial)
        fused.append(probabilities.float().cpu())
        apart.append(disagreement(ScnOutput(probabilities, local, spatial), factor).float().cpu())
        start = stop
    return torch.cat(fused, dim=2), torch.cat(apart, dim=2)


def _local_pass(
    network: SpatialConfigurationNet, image: Tensor, planes: int
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """The local logits in groups of whole blocks on the CPU, and what the spatial nets read, on the device."""
    kept, images, maps = [], [], []
    start = 0
    for logits in _regrouped(_logits(network.local, image, planes), network.config.spatial_factor):
        stop = start + logits.shape[2]
        coarse_image, coarse_maps = network.coarse(image[:, :, start:stop], logits)
        images.append(coarse_image)
        maps.append(coarse_maps)
        kept.append(logits.cpu())
        start = stop
    return kept, (torch.cat(images, dim=2), torch.cat(maps, dim=2))


def _joined(skips: Stream, below: Tensor) -> Stream:
    """The skips, each joined with the same planes of what came up from below."""
    start = 0
    for skip in skips:
        stop = start + skip.shape[2]
        yield torch.cat((skip, _doubled(below, start, stop).to(skip.dtype)), dim=1)  # -> (2f, n)
        start = stop


def _convolved(convolution: nn.Conv3d, slope: float, groups: Stream) -> Stream:
    """Each group through a 3x3x3 convolution and a leaky ReLU; what comes out lags one plane behind.

    Beyond both ends lies one plane of zeros, as in the whole network, whose convolutions are padded with zeros.
    """
    rows = F.pad(next(groups), (0, 0, 0, 0, 1, 0))
    while True:
        if rows.shape[2] > 2:
            x = _activated(convolution, slope, rows)
            rows = rows[:, :, -2:].clone()
            yield x
            del x
        group = next(groups, None)
        if group is None:
            break
        rows = torch.cat((rows, group), dim=2)
        del group  # nothing but the last two planes is held while the result is worked on
    yield _activated(convolution, slope, F.pad(rows, (0, 0, 0, 0, 0, 1)))


def _activated(convolution: nn.Conv3d, slope: float, rows: Tensor) -> Tensor:
    x = F.conv3d(rows, convolution.weight, convolution.bias, padding=(0, 1, 1))  # (c, n + 2 planes) -> (f, n)
    return F.leaky_relu_(x, slope)


def _gathered(groups: Stream, depth: int) -> Tensor:
    """All groups of a stream of `depth` planes as one tensor, which is made before they come."""
    group: Tensor | None = (first := next(groups))
    whole = first.new_empty((*first.shape[:2], depth, *first.shape[3:]))
    del first
    start = 0
    while group is not None:
        stop = start + group.shape[2]
        whole[:, :, start:stop] = group
        start = stop
        group = next(groups, None)
    return whole


def _groups(x: Tensor, planes: int) -> Stream:
    for start in range(0, x.shape[2], planes):
        yield x[:, :, start : start + planes]


def _regrouped(groups: Stream, multiple: int) -> Stream:
    """The same planes in groups of a multiple of `multiple`; there must be such a number of planes in all."""
    waiting: Tensor | None = None
    for group in groups:
        waiting = group if waiting is None else torch.cat((waiting, group), dim=2)
        whole = waiting.shape[2] // multiple * multiple
        if whole:
            yield waiting[:, :, :whole]
            waiting = waiting[:, :, whole:] if whole < waiting.shape[2] else None
    if waiting is not None:
        raise ValueError(f"the planes do not make groups of {multiple}")


def _doubled(coarse: Tensor, start: int, stop: int) -> Tensor:
    """The planes from `start` to `stop` of `coarse` upsampled linearly by 2, as the whole of it would be."""
    low, high = max(start // 2 - 1, 0), min((stop + 1) // 2 + 1, coarse.shape[2])
    fine = F.interpolate(coarse[:, :, low:high], scale_factor=2, mode="trilinear", align_corners=False)
    return fine[:, :, start - 2 * low : stop - 2 * low]


def _upsampled(upsample: CubicUpsampling, coarse: Tensor, start: int, stop: int) -> Tensor:
    """The fine planes of the coarse ones from `start` to `stop`, as the whole of them would have them."""
    low, high = max(start - _CUBIC_HALO, 0), min(stop + _CUBIC_HALO, coarse.shape[2])
    fine: Tensor = upsample(coarse[:, :, low:high])
    return fine[:, :, (start - low) * upsample.factor : (stop - low) * upsample.factor]
