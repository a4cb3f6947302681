"""The published losses (METHOD of the paper, section 2.4; constants from the authors' release).

A target is one-hot maps (b, labels, z, y, x). Voxels where all of them are zero have an unknown label and carry no
loss: everything below is computed over the known voxels alone.

Of a case that annotates some organs only, what is labelled background may be any of the others. The loss is then that
of fewer classes, the background and the organs without annotation being one of them (the marginal loss of Shi et al.,
Medical Image Analysis 2021;70:101979).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHT_EPSILON = 1e-4
DICE_EPSILON = 1e-8


def one_hot(labels: Tensor, count: int) -> Tensor:
    """Return float maps (b, count, z, y, x) of integer labels (b, z, y, x); all zero for labels from `count` on."""
    indices = torch.arange(count, device=labels.device, dtype=labels.dtype)
    return (labels[:, None] == indices[:, None, None, None]).float()


def generalised_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return 1 - 2 * num / den over all labels, background included; in [0, 1], 0 for a perfect prediction.

    Each label is weighted by 1 / (sum(label)^2 + 1e-4); num sums weight * label * p, den sums
    weight * (label + p^2), each + 1e-8. Per case of the batch, then the mean.

    Args:
        probabilities: (b, labels, z, y, x).
        target: One-hot maps of the same shape.
    """
    axes = (2, 3, 4)
    probabilities = _at_least_float32(probabilities) * _known(target)
    weights = 1.0 / (target.sum(axes) ** 2 + WEIGHT_EPSILON)
    overlap = (weights * (target * probabilities).sum(axes)).sum(1)
    total = (weights * (target + probabilities**2).sum(axes)).sum(1)
    return (1.0 - 2.0 * (overlap + DICE_EPSILON) / (total + DICE_EPSILON)).mean()


def localisation_terms(logits: Tensor, target: Tensor, cross_entropy: float = 0.0) -> dict[str, Tensor]:
    """Return the terms of the localisation loss for (b, 2, z, y, x) logits: generalised Dice and cross-entropy.

    The cross-entropy is weighted, and present only if its weight is above 0.
    """
    terms = {"dice": generalised_dice_loss(torch.softmax(_at_least_float32(logits), dim=1), target)}
    if cross_entropy > 0:
        surprise = F.cross_entropy(_at_least_float32(logits), target, reduction="sum")  # 0 where all maps are
        terms["cross-entropy"] = cross_entropy * surprise / _known(target).sum().clamp(min=1)
    return terms


def segmentation_terms(
    output: tuple[Tensor, Tensor, Tensor],
    target: Tensor,
    weights: tuple[float, float],
    unannotated: Sequence[int] = (),
) -> dict[str, Tensor]:
    """Return the terms of the segmentation loss: generalised Dice and the weighted cross-entropies of both logits.

    Args:
        output: Fused probabilities, local logits, spatial logits, each (b, labels, z, y, x).
        target: One-hot maps of the same shape.
        weights: lambda 1 and 2 of the paper, for the local and the spatial logits.
        unannotated: Labels of the organs that the cases do not annotate; they and the background are one class.
    """
    probabilities, *logits = output
    if unannotated:
        probabilities, target = (merged_maps(maps, unannotated) for maps in (probabilities, target))
        logits = [merged_logits(values, unannotated) for values in logits]
    terms = {"dice": generalised_dice_loss(probabilities, target)}
    known = _known(target)
    count = known.sum().clamp(min=1) * target.shape[1]
    for name, weight, values in zip(("local", "spatial"), weights, logits, strict=True):
        surprise = F.binary_cross_entropy_with_logits(_at_least_float32(values), target, weight=known, reduction="sum")
        terms[name] = weight * surprise / count
    return terms


def merged_maps(maps: Tensor, unannotated: Sequence[int]) -> Tensor:
    """Return maps (b, classes, z, y, x) of exclusive labels, those of `unannotated` added to the background's."""
    background = maps[:, [0, *unannotated]].sum(1, keepdim=True)
    return torch.cat([background, maps[:, _annotated(maps, unannotated)]], dim=1)


def merged_logits(logits: Tensor, unannotated: Sequence[int]) -> Tensor:
    """Return logits (b, classes, z, y, x), the background's being that of any label of the merged class.

    The sigmoids of different labels do not sum to 1, so they are merged as independent events: the probability of
    any of them is 1 - (1 - p)(1 - q), which is their sum where at most one is not near 0. As logits a and b this is
    log(exp(a) + exp(b) + exp(a + b)).
    """
    logits = _at_least_float32(logits)
    merged = logits[:, 0]
    for label in unannotated:
        other = logits[:, label]
        merged = torch.logsumexp(torch.stack([merged, other, merged + other]), dim=0)
    return torch.cat([merged[:, None], logits[:, _annotated(logits, unannotated)]], dim=1)


def localisation_loss(logits: Tensor, target: Tensor, cross_entropy: float = 0.0) -> Tensor:
    """Return the sum of `localisation_terms`."""
    return torch.stack(list(localisation_terms(logits, target, cross_entropy).values())).sum()


def segmentation_loss(
    output: tuple[Tensor, Tensor, Tensor],
    target: Tensor,
    weights: tuple[float, float],
    unannotated: Sequence[int] = (),
) -> Tensor:
    """Return the sum of `segmentation_terms`."""
    return torch.stack(list(segmentation_terms(output, target, weights, unannotated).values())).sum()


def _annotated(maps: Tensor, unannotated: Sequence[int]) -> list[int]:
    return [label for label in range(1, maps.shape[1]) if label not in unannotated]


def _known(target: Tensor) -> Tensor:
    """Return 1 where the label is known and 0 elsewhere, (b, 1, z, y, x)."""
    return target.sum(1, keepdim=True)


def _at_least_float32(values: Tensor) -> Tensor:
    """Return half precision as float32, as sums over a region overflow it, and float64 as it is."""
    return values if values.dtype == torch.float64 else values.float()
