"""Left and right: whether a scan looks like the mirror image of a patient, as a wrong header makes it.

The labels alone cannot tell: the network knows organs by their place, too, and finds a liver on the right of any body.
But it is surer of the liver in a patient than in a mirror image. Where it is not sure the mirror image is looked at as
well, at the cost of a second run of the network. The measure is the Dice coefficient that the liver's probabilities let
expect (`signals.expected_dsc`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscera.labels import Organ
from viscera.signals import expected_dsc

if TYPE_CHECKING:
    from viscera.engines import Answer

# The organ that weighs more on one side than all others on the other.
_SIDED = "liver"
# A liver expected to be as good as this is a patient's.
SURE_DSC = 0.85
# By how much the mirror image's liver must be expected to be better.
SUSPICIOUS_GAIN = 0.04


def mirror_doubt(
    region: NDArray[np.float32],
    answer: Answer,
    organs: Sequence[Organ],
    segment: Callable[[NDArray[np.float32]], Answer],
) -> str | None:
    """What makes the scan look mirrored, in words; None if nothing does, or the model knows no liver.

    Args:
        region: The image (z, y, x) in canonical axes: x to the left.
        answer: The segmentation network's, without the batch axis.
        organs: What its labels mean.
        segment: Answers another image of that shape; called only if the liver is in doubt.
    """
    label = next((organ.index for organ in organs if organ.name == _SIDED), None)
    if label is None:
        return None
    here = expected_dsc(answer.output, label)
    if here >= SURE_DSC:
        return None
    there = expected_dsc(segment(np.flip(region, axis=2).copy()).output, label)
    if there <= here + SUSPICIOUS_GAIN:
        return None
    return f"an expected Dice coefficient of the liver of {here:.2f}, and of {there:.2f} in the mirror image"
