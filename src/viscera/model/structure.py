"""The U-Net's structure, written once: the torch module, its streaming, the graph and the count of FLOPs follow it.

Every level has a contracting and an expanding block of two convolutions, the deepest one included. A block's features
go down to the next level pooled, and come up from there upsampled; the expanding block reads both concatenated. Here is
also what the SpatialConfiguration-Net's module and graph share: the cubic interpolation between its nets.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

# Of each convolution of a block, in voxels; the network's last one has a kernel of 1.
KERNEL_SIDE = 3
# The convolutions of a block, in order: names in the state dict and in the graphs.
BLOCK_CONVOLUTIONS = ("first", "second")
# Planes on either side of a plane that its features depend on, after a block.
BLOCK_HALO = len(BLOCK_CONVOLUTIONS) * (KERNEL_SIDE // 2)

# Keeps the normalised probabilities finite where every fused value is zero (authors' release).
NORMALISATION_EPSILON = 1e-8
# A Catmull-Rom spline is the cubic convolution with this coefficient.
CATMULL_ROM_A = -0.5

Value = TypeVar("Value")


class Operations(Protocol[Value]):
    """What a U-Net does, for one kind of value: a tensor, a stream of planes, a name in a graph, a layer's shape."""

    @property
    def levels(self) -> int:
        """How many resolutions there are."""

    def contract(self, level: int, image: Value, /) -> Value:
        """The features the contracting block of `level` computes."""

    def pool(self, level: int, features: Value, /) -> Value:
        """The means of 2x2x2 voxels, from the level above to `level`."""

    def join(self, level: int, skip: Value, below: Value, /) -> Value:
        """The skip of `level` and after it the features from below, upsampled linearly by 2, as channels."""

    def expand(self, level: int, features: Value, /) -> Value:
        """The features the expanding block of `level` computes."""


def unet_features(operations: Operations[Value], features: Value, level: int = 0) -> Value:
    """The features before the last convolution, from the image; of a deeper `level`, from what its first block reads.

    Nothing is held for longer than needed, as `features` may be the largest tensors there are.
    """
    features = operations.contract(level, features)  # (inputs or f, n) -> (f, n)
    if level < operations.levels - 1:
        below = unet_features(operations, operations.pool(level + 1, features), level + 1)  # (f, n) -> (f, n/2)
        features = operations.join(level, features, below)  # (f, n), (f, n/2) -> (2f, n)
        del below
    return operations.expand(level, features)  # (f or 2f, n) -> (f, n)


def contracting_name(level: int) -> str:
    """The contracting block of `level` in the state dict and in the graphs."""
    return f"contracting.{level}"


def expanding_name(level: int) -> str:
    """The expanding block of `level` in the state dict and in the graphs."""
    return f"expanding.{level}"


def pool_name(level: int) -> str:
    """The pooling that leads down to `level`."""
    return f"{contracting_name(level)}.pool"


def upsample_name(level: int) -> str:
    """The upsampling that leads up to `level`."""
    return f"{expanding_name(level)}.upsample"


def cubic_phases(factor: int) -> NDArray[np.float32]:
    """The weights (factor, 5) of input voxels k-2 .. k+2 in the outputs factor * k + phase, by phase; rows sum to 1.

    The cubic convolution kernel is R. Keys', "Cubic convolution interpolation for digital image processing", 1981.
    """
    offset = (np.arange(factor) + 0.5) / factor - 0.5
    distance = np.abs(np.arange(-2, 3) - offset[:, None])
    a = CATMULL_ROM_A
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0)).astype(np.float32)
