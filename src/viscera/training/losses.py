"""The published losses (METHOD of the paper, section 2.4; constants from the authors' release)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHT_EPSILON = 1e-4
DICE_EPSILON = 1e-8


def one_hot(labels: Tensor, count: int) -> Tensor:
    """Float maps (b, count, z, y, x) of integer labels (b, z, y, x)."""
    return F.one_hot(labels.long(), count).movedim(-1, 1).float()


def generalised_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """1 - 2 * num / den over all labels, background included; in [0, 1], 0 for a perfect prediction.

    Each label is weighted by 1 / (sum(label)^2 + 1e-4); num sums weight * label * p, den sums
    weight * (label + p^2), each + 1e-8. Per case of the batch, then the mean.

    Args:
        probabilities: (b, labels, z, y, x).
        target: One-hot maps of the same shape.
    """
    axes = (2, 3, 4)
    probabilities = probabilities.float()
    weights = 1.0 / (target.sum(axes) ** 2 + WEIGHT_EPSILON)
    overlap = (weights * (target * probabilities).sum(axes)).sum(1)
    total = (weights * (target + probabilities**2).sum(axes)).sum(1)
    return (1.0 - 2.0 * (overlap + DICE_EPSILON) / (total + DICE_EPSILON)).mean()


def localisation_loss(logits: Tensor, target: Tensor, cross_entropy: float = 0.0) -> Tensor:
    """The generalised Dice loss of the softmax of (b, 2, z, y, x) logits, plus a weighted cross-entropy."""
    loss = generalised_dice_loss(torch.softmax(logits.float(), dim=1), target)
    if cross_entropy > 0:
        loss = loss + cross_entropy * F.cross_entropy(logits.float(), target)
    return loss


def segmentation_loss(output: tuple[Tensor, Tensor, Tensor], target: Tensor, weights: tuple[float, float]) -> Tensor:
    """The generalised Dice loss of the fused probabilities plus weighted sigmoid cross-entropies of both logits.

    Args:
        output: Fused probabilities, local logits, spatial logits, each (b, labels, z, y, x).
        target: One-hot maps of the same shape.
        weights: lambda 1 and 2 of the paper, for the local and the spatial logits.
    """
    probabilities, local_logits, spatial_logits = output
    loss = generalised_dice_loss(probabilities, target)
    for weight, logits in zip(weights, (local_logits, spatial_logits), strict=True):
        loss = loss + weight * F.binary_cross_entropy_with_logits(logits.float(), target)
    return loss
