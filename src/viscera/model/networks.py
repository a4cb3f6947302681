"""The two networks, every layer of them: the U-Net and the SpatialConfiguration-Net (paper, section 2.2).

Tensors are (batch, channel, z, y, x); the comments give (channels, size) with f filters, s labels and n voxels along
one side of the level at hand. Parameter names are those of the attributes below: `local.contracting.0.first.weight`.
Random numbers (dropout, input noise) come from torch's generator and are drawn in training mode only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viscera.core.config import ScnConfig, UNetConfig
from viscera.model.structure import KERNEL_SIDE, NORMALISATION_EPSILON, cubic_phases, unet_features

# Standard deviation of a standard normal distribution cut off at +-2: sampling with 1/0.8796 of the wanted deviation
# leaves the wanted one after the cut.
TRUNCATED_NORMAL_STD = 0.87962566103423978


class Layers(NamedTuple):
    """How a U-Net computes its layers; training on a CPU has faster ones for the same mathematics.

    Attributes:
        convolution: A 3x3x3 convolution of a tensor, then a leaky ReLU of a slope.
        output: The last, 1x1x1 convolution.
        halve: Average pooling of 2x2x2 voxels.
        double: Linear interpolation to twice the size, voxel faces coinciding.
    """

    convolution: Callable[[nn.Conv3d, Tensor, float], Tensor]
    output: Callable[[nn.Conv3d, Tensor], Tensor]
    halve: Callable[[Tensor], Tensor]
    double: Callable[[Tensor], Tensor]


PLAIN_LAYERS = Layers(
    convolution=lambda layer, x, slope: F.leaky_relu(layer(x), slope),
    output=lambda layer, x: layer(x),
    halve=lambda x: F.avg_pool3d(x, 2),
    double=lambda x: F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False),
)


class Block(nn.Module):
    """Two convolutions 3x3x3 with bias and zero padding, each with a leaky ReLU and element dropout; keeps the size."""

    def __init__(self, inputs: int, config: UNetConfig) -> None:
        super().__init__()
        self.slope = config.slope
        self.dropout = config.dropout
        self.layers = PLAIN_LAYERS
        self.first = nn.Conv3d(inputs, config.filters, KERNEL_SIDE, padding=KERNEL_SIDE // 2)
        self.second = nn.Conv3d(config.filters, config.filters, KERNEL_SIDE, padding=KERNEL_SIDE // 2)

    def forward(self, x: Tensor) -> Tensor:
        """The features (b, f, z, y, x) of `x` (b, inputs, z, y, x)."""
        x = self.layers.convolution(self.first, x, self.slope)  # (inputs, n) -> (f, n)
        x = F.dropout(x, self.dropout, self.training)
        x = self.layers.convolution(self.second, x, self.slope)
        return F.dropout(x, self.dropout, self.training)


class UNet(nn.Module):
    """A U-Net with `levels` resolutions of `filters` filters each and no normalisation, as `structure` has it.

    The last layer is linear. Sides of the input must be divisible by `config.size_multiple_vox`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = PLAIN_LAYERS
        deepest = config.levels - 1
        self.contracting = nn.ModuleList(
            Block(config.inputs if level == 0 else config.filters, config) for level in range(config.levels)
        )
        self.expanding = nn.ModuleList(
            Block(config.filters if level == deepest else 2 * config.filters, config) for level in range(config.levels)
        )
        self.output = nn.Conv3d(config.filters, config.outputs, kernel_size=1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (b, outputs, z, y, x) of `x` (b, inputs, z, y, x)."""
        return self.layers.output(self.output, self.features(x))  # (f, n) -> (outputs, n)

    def use_layers(self, layers: Layers) -> None:
        """Compute with `layers` from now on, in every block."""
        self.layers = layers
        for block in (*self.contracting, *self.expanding):
            block.layers = layers

    def features(self, x: Tensor) -> Tensor:
        """The features (b, f, z, y, x) that the last layer reads, of `x` (b, inputs, z, y, x)."""
        return unet_features(self, x)

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return self.config.levels

    def contract(self, level: int, x: Tensor) -> Tensor:
        """The features (b, f, z, y, x) of a level's contracting block."""
        return self.contracting[level](x)  # type: ignore[no-any-return]

    def pool(self, level: int, x: Tensor) -> Tensor:
        """The features halved, (b, f, z/2, y/2, x/2)."""
        return self.layers.halve(x)

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """The skip and what came up from below, doubled, (b, 2f, z, y, x)."""
        return torch.cat((skip, self.layers.double(below)), dim=1)

    def expand(self, level: int, x: Tensor) -> Tensor:
        """The features (b, f, z, y, x) of a level's expanding block."""
        return self.expanding[level](x)  # type: ignore[no-any-return]


class ScnOutput(NamedTuple):
    """What the SpatialConfiguration-Net computes, each (b, labels, z, y, x)."""

    probabilities: Tensor
    local_logits: Tensor
    spatial_logits: Tensor


class SpatialConfigurationNet(nn.Module):
    """The segmentation network: a local U-Net, one spatial U-Net per label, and their fusion.

    The local U-Net sees the image. Each spatial U-Net sees the image and the local maps of the other organs, all
    coarser by `spatial_factor`, and so learns where its label lies between the others. It never sees its own local
    map nor that of the background, and passes no gradient to the local U-Net. Label 0 is the background.
    """

    def __init__(self, config: ScnConfig) -> None:
        super().__init__()
        self.config = config
        self.local = UNet(config.local)
        self.spatial = nn.ModuleList(UNet(spatial) for spatial in config.spatial)
        self.upsample = CubicUpsampling(config.spatial_factor)

    def forward(self, image: Tensor) -> ScnOutput:
        """Probabilities and both sets of logits, each (b, labels, z, y, x), of `image` (b, 1, z, y, x)."""
        local_logits = self.local(image)  # (1, n) -> (s, n)
        spatial_logits = self.upsample(self.spatial_logits(*self.coarse(image, local_logits)))  # (s, n/4) -> (s, n)
        return ScnOutput(fuse(local_logits, spatial_logits), local_logits, spatial_logits)

    def coarse(self, image: Tensor, local_logits: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the local maps as the spatial U-Nets see them, (b, 1 or labels, z/4, y/4, x/4) for a factor 4.

        No gradient passes back to the local logits.
        """
        factor = self.config.spatial_factor
        maps = torch.sigmoid(local_logits.detach())
        return F.avg_pool3d(image, factor), F.avg_pool3d(maps, factor)  # (1, n), (s, n) -> (1, n/4), (s, n/4)

    def spatial_logits(self, image: Tensor, maps: Tensor) -> Tensor:
        """The coarse logits of the spatial U-Nets, (b, labels, z/4, y/4, x/4), from what `coarse` gives."""
        inputs = self.spatial_inputs(image, maps)
        return torch.cat([net(x) for net, x in zip(self.spatial, inputs, strict=True)], dim=1)  # s x (1, n) -> (s, n)

    def spatial_inputs(self, image: Tensor, maps: Tensor) -> list[Tensor]:
        """What the spatial U-Net of each label reads: the coarse image, then the coarse local maps of other organs.

        Element 0 (background) has as many channels as there are labels, the others one less. In training each carries
        its own noise.
        """
        inputs = []
        for label in range(self.config.labels):
            others = [organ for organ in range(1, self.config.labels) if organ != label]
            seen = torch.cat([maps[:, organ : organ + 1] for organ in others], dim=1) if others else maps[:, :0]
            inputs.append(torch.cat(self._with_noise(image, seen), dim=1))  # (1, n/4), (o, n/4) -> (1 + o, n/4)
        return inputs

    def _with_noise(self, image: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Both tensors as they are in inference, with the authors' training noise in training; dropout rescales."""
        if not self.training:
            return image, maps
        for scale in self.config.noise_scales:
            maps = salt_and_pepper(maps, self.config.noise_ratio, scale)
        for _ in range(2):
            maps = F.dropout3d(maps, self.config.map_dropout)
        return F.dropout3d(image, self.config.image_dropout), maps


def fuse(local_logits: Tensor, spatial_logits: Tensor) -> Tensor:
    """Probabilities that sum to 1 over the labels, where a spatial net decides if certain, else the local one.

    Per label and voxel, with s and l the sigmoids of both logits and u = H(s) / ln 2 in [0, 1] the binary entropy of
    s in bits: l * u + s * (1 - u), then divided by the sum over the labels.
    """
    local = torch.sigmoid(local_logits.float())
    spatial = torch.sigmoid(spatial_logits.float())
    # With a = |logit|, H = ln(1 + exp(-a)) + a * sigmoid(-a): nothing overflows and nothing cancels.
    certainty = spatial_logits.float().abs()
    uncertainty = (F.softplus(-certainty) + certainty * torch.sigmoid(-certainty)) / math.log(2)
    fused = spatial + (local - spatial) * uncertainty
    return fused / (fused.sum(dim=1, keepdim=True) + NORMALISATION_EPSILON)


def disagreement(output: ScnOutput, factor: int) -> Tensor:
    """How far the local and the spatial nets are apart, in [0, 1], (b, labels, z/4, y/4, x/4) for a factor of 4.

    The mean of |sigmoid(local logit) - sigmoid(spatial logit)| over each block of `factor` voxels a side, as coarse as
    the spatial nets work. Sides must be divisible by `factor`.
    """
    local = torch.sigmoid(output.local_logits.float())
    spatial = torch.sigmoid(output.spatial_logits.float())
    return F.avg_pool3d((local - spatial).abs(), factor)  # (s, n) -> (s, n/4)


class CubicUpsampling(nn.Module):
    """Catmull-Rom interpolation to a grid `factor` times finer that covers the same extent.

    Voxel faces coincide (output centre o lies at input position (o + 0.5) / factor - 0.5, "align corners" off).
    Beyond the border the outermost voxels are repeated, so a constant stays that constant everywhere.
    One axis after the other: a convolution gives the `factor` outputs around each input voxel as channels, which are
    then interleaved along the axis.
    """

    weights: Tensor

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("weights", torch.from_numpy(cubic_phases(factor)), persistent=False)  # (factor, 5)

    def forward(self, x: Tensor) -> Tensor:
        """The finer (b, c, f * z, f * y, f * x) of `x` (b, c, z, y, x)."""
        for axis in (4, 3, 2):
            x = self._along(x, axis)
        return x

    def _along(self, x: Tensor, axis: int) -> Tensor:
        batch, channels = x.shape[:2]
        padding = [0] * 6
        padding[2 * (4 - axis) : 2 * (4 - axis) + 2] = [2, 2]
        x = F.pad(x.flatten(0, 1).unsqueeze(1), padding, mode="replicate")  # (c, n) -> (1, n + 4), c joins the batch
        kernel = [self.factor, 1, 1, 1, 1]
        kernel[axis] = 5
        x = F.conv3d(x, self.weights.to(x.dtype).reshape(kernel))  # (1, n + 4) -> (factor, n)
        x = x.movedim(1, axis).flatten(axis - 1, axis)  # (factor, n) -> factor * n along the axis, without channel
        return x.reshape(batch, channels, *x.shape[1:])


def salt_and_pepper(maps: Tensor, ratio: float, scale: int) -> Tensor:
    """`maps` (b, c, z, y, x) with about `ratio` of its cells of `scale` voxels a side set to 0 or 1, half of them each.

    Cells start at the first voxel and are drawn independently in every channel; the last ones are cut at the border.
    """
    size = maps.shape[2:]
    cells = [math.ceil(side / scale) for side in size]
    drawn = torch.rand(*maps.shape[:2], *cells, device=maps.device)
    if scale > 1:
        drawn = F.interpolate(drawn, scale_factor=scale, mode="nearest")[..., : size[0], : size[1], : size[2]]
    peppered = torch.where(drawn < ratio / 2, torch.zeros_like(maps), maps)
    return torch.where(drawn > 1 - ratio / 2, torch.ones_like(maps), peppered)


def parameter_count(module: nn.Module) -> int:
    """The number of trained values in `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def _initialise(module: nn.Module) -> None:
    """He's initialisation, variance 2 / fan-in, from a normal distribution cut at two deviations; zero biases."""
    if isinstance(module, nn.Conv3d):
        fan_in = module.in_channels * math.prod(module.kernel_size)
        std = math.sqrt(2 / fan_in) / TRUNCATED_NORMAL_STD
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
