"""The U-Net's layers for training on a CPU: the same mathematics with fewer passes over memory.

PyTorch's own layers keep what a convolution gave and what the leaky ReLU made of it, pool and upsample in float32
under autocast, and change the memory layout in between; half of a step goes there. These keep every activation in
one precision and one layout (channels last), and only what a backward pass needs.
"""

from __future__ import annotations

import time
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from viscera.model.networks import Layers, UNet

_CHANNELS_LAST = torch.channels_last_3d
_TRIPLE = [1, 1, 1]
# The weight gradients of a bfloat16 3x3x3 convolution over a depth of 2 come out as garbage up to 1e36 on the CPU (seen
# with torch 2.13 on a processor with avx512_bf16); the deepest level of a thin scan is that flat.
_FLAT_DEPTH_VOX = 2
# Size and time of the convolutions that tell which precision is the faster one.
_PROBE_SIDE_VOX, _PROBE_FILTERS, _PROBE_SECONDS = 48, 32, 0.4


def use_cpu_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Let every U-Net in `network` compute with the layers of this module, its activations in `dtype`."""
    layers = Layers(
        convolution=lambda layer, x, slope: _convolution(layer, x, slope, dtype),
        output=lambda layer, x: _output(layer, x, dtype),
        halve=_halve,
        double=_double,
    )
    for module in network.modules():
        if isinstance(module, UNet):
            module.use_layers(layers)


def faster_precision() -> torch.dtype:
    """Return bfloat16 or float32, whichever trains a convolution faster here; takes about a second.

    What a processor says of itself does not tell: with avx512_bf16 alone float32 is the faster one.
    """
    seconds = {dtype: _seconds_per_pass(dtype) for dtype in (torch.bfloat16, torch.float32)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _seconds_per_pass(dtype: torch.dtype) -> float:
    """Return the shortest time of a convolution and its gradients, so that other work on the machine matters less."""
    layer = nn.Conv3d(_PROBE_FILTERS, _PROBE_FILTERS, 3, padding=1, dtype=dtype)
    x = torch.zeros(1, _PROBE_FILTERS, *[_PROBE_SIDE_VOX] * 3, dtype=dtype).to(memory_format=_CHANNELS_LAST)
    layer.to(memory_format=_CHANNELS_LAST)  # type: ignore[call-overload]
    x.requires_grad_()
    end, shortest = time.perf_counter() + _PROBE_SECONDS, float("inf")
    for run in range(1000):
        start = time.perf_counter()
        layer(x).sum().backward()
        now = time.perf_counter()
        if run:  # the first prepares
            shortest = min(shortest, now - start)
            if now > end:
                break
    return shortest


def _convolution(layer: nn.Conv3d, x: Tensor, slope: float, dtype: torch.dtype) -> Tensor:
    """Return the leaky ReLU of a 3x3x3 convolution, (b, f, z, y, x) in `dtype`."""
    flat = x.shape[2] <= _FLAT_DEPTH_VOX
    function = _ImageConvolution if layer.in_channels == 1 and not x.requires_grad else _Convolution
    y: Tensor = function.apply(
        x.float() if flat and dtype == torch.bfloat16 else x.to(dtype), layer.weight, layer.bias, slope
    )  # type: ignore[no-untyped-call]
    return y.to(dtype)


def _output(layer: nn.Conv3d, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a 1x1x1 convolution as a product of matrices, contiguous and in the weights' precision for the losses."""
    bias = cast(Tensor, layer.bias)  # every convolution has one
    batch, channels, *size = x.shape
    pixels = x.to(dtype).movedim(1, -1).reshape(batch, -1, channels)  # (b, n, f), a view in channels last
    weight = layer.weight.reshape(layer.out_channels, channels).to(dtype)
    logits = torch.matmul(weight, pixels.transpose(1, 2)).to(bias.dtype)  # (b, outputs, n)
    return logits.reshape(batch, layer.out_channels, *size) + bias[:, None, None, None]


def _halve(x: Tensor) -> Tensor:
    y: Tensor = _AveragePooling.apply(x)  # type: ignore[no-untyped-call]
    return y


def _double(x: Tensor) -> Tensor:
    y: Tensor = _LinearUpsampling.apply(x)  # type: ignore[no-untyped-call]
    return y


class _Convolution(torch.autograd.Function):
    """3x3x3 convolution with zero padding, then leaky ReLU in place.

    The sign of the output is that of what went into the ReLU, so the output alone tells its derivative.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = x.contiguous(memory_format=_CHANNELS_LAST)
            kernel = weight.to(dtype=x.dtype, memory_format=_CHANNELS_LAST)
            y = F.leaky_relu_(F.conv3d(x, kernel, bias.to(x.dtype), padding=1), slope)
        context.save_for_backward(x, kernel, y)
        context.slope, context.dtype = slope, weight.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, kernel, y = context.saved_tensors
        gradient = gradient.contiguous(memory_format=_CHANNELS_LAST)
        gradient = torch.ops.aten.leaky_relu_backward(gradient, y, context.slope, True)
        wanted = [context.needs_input_grad[0], True, True]
        dx, dw, db = torch.ops.aten.convolution_backward(
            gradient, x, kernel, [kernel.shape[0]], _TRIPLE, _TRIPLE, _TRIPLE, False, [0, 0, 0], 1, wanted
        )
        return dx, dw.to(context.dtype), db.to(context.dtype), None


class _ImageConvolution(torch.autograd.Function):
    """The same for an image of one channel that needs no gradient, as a product of matrices over its 27 shifts."""

    @staticmethod
    def forward(context: Any, image: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            shifts = _shifts(image)
            kernel = weight.to(image.dtype).reshape(weight.shape[0], 27)
            y = torch.matmul(shifts.transpose(1, 2), kernel.t()).add_(bias.to(image.dtype))  # (b, n, f)
            y = F.leaky_relu_(y, slope).reshape(image.shape[0], *image.shape[2:], -1).movedim(-1, 1)
        context.save_for_backward(shifts, y)
        context.slope, context.shape, context.dtype = slope, weight.shape, weight.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, None]:
        shifts, y = context.saved_tensors
        gradient = gradient.contiguous(memory_format=_CHANNELS_LAST)
        gradient = torch.ops.aten.leaky_relu_backward(gradient, y, context.slope, True)
        pixels = gradient.movedim(1, -1).reshape(len(shifts), -1, gradient.shape[1])  # (b, n, f)
        dw = torch.matmul(shifts, pixels).sum(0).t().reshape(context.shape)
        return None, dw.to(context.dtype), pixels.sum((0, 1), dtype=context.dtype), None


def _shifts(image: Tensor) -> Tensor:
    """Return an image (b, 1, z, y, x) moved by -1, 0 and 1 along each axis, (b, 27, voxels)."""
    padded = F.pad(image, [1] * 6).contiguous()
    b, _, z, y, x = padded.stride()
    size = image.shape[2:]
    moved = padded.as_strided((len(image), 3, 3, 3, *size), (b, z, y, x, z, y, x))
    return moved.reshape(len(image), 27, -1)


class _AveragePooling(torch.autograd.Function):
    """The mean of each 2x2x2 voxels."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            batch, channels, depth, height, width = x.shape
            slices = x.contiguous(memory_format=_CHANNELS_LAST).movedim(2, 1).reshape(-1, channels, height, width)
            slices = F.avg_pool2d(slices, 2).reshape(batch, depth // 2, 2, channels, height // 2, width // 2)
            return (slices[:, :, 0] + slices[:, :, 1]).mul_(0.5).movedim(2, 1).contiguous(memory_format=_CHANNELS_LAST)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        batch, channels, depth, height, width = gradient.shape
        small = (gradient * 0.125).movedim(1, -1)[:, :, None, :, None, :, None]
        size = (batch, depth, 2, height, 2, width, 2, channels)
        spread = small.expand(size).reshape(batch, 2 * depth, 2 * height, 2 * width, channels)
        return spread.movedim(-1, 1)


class _LinearUpsampling(torch.autograd.Function):
    """Linear interpolation to twice the size; voxel faces coincide."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.shape = x.shape
        with torch.autocast("cpu", enabled=False):
            x = x.contiguous(memory_format=_CHANNELS_LAST)
            return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous(memory_format=_CHANNELS_LAST)
        small: Tensor = torch.ops.aten.upsample_trilinear3d_backward(
            gradient, gradient.shape[2:], context.shape, False, 2.0, 2.0, 2.0
        )
        return small
