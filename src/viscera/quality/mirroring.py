"""Left and right: whether a scan looks like the mirror image of a patient, as a wrong header makes it.

The labels alone cannot say: the network knows organs by their place, too, and finds a liver on the right of any body.
But it is surer of the organs in a patient than in a mirror image. Where it is not sure of the liver the mirror image is
looked at as well, at the cost of a second run of the network. The measure is the
Dice coefficient expected of each organ, given its probabilities (`measurements.expected_dscs`).

One organ is no proof: a liver whose left lobe dominates looks better in the mirror image, and so does any organ that
the scan cuts. Nor are all of them: organs lie on exchanged sides in one of some ten thousand people (situs inversus).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import QualityConfig
from viscera.core.organs import Organ
from viscera.quality.measurements import ExpectedDsc, expected_dsc, expected_dscs

if TYPE_CHECKING:
    from viscera.engines.engine import NetworkOutput

# The organ that weighs more on one side than all others on the other.
_SIDED = "liver"
# A liver expected to be as good as this is a patient's.
SURE_DSC = 0.88
# By how much the liver must be expected to be better in the mirror image: in 28 of 29 real CTs it is worse by 0.04 to
# 0.27, in one, whose left lobe dominates, better by 0.04.
SUSPICIOUS_GAIN = 0.02
# By how much all organs together must be: of these CTs the largest such sum is -0.14.
SUSPICIOUS_SUM = 0.1
# By how much an organ must be to be a witness for the mirror image.
_WITNESS_GAIN = 0.04
# What an organ may be worse by in the mirror image without speaking against it.
_SLACK = 0.02
# An organ that is not found this well in both is no witness: it may be cut, or hardly visible.
_WITNESS_DSC = 0.5
# How many witnesses must speak for the mirror image, the liver among them, before it counts as certain.
_WITNESSES = 3

WARNING = "The scan looks like the mirror image of a patient"


@dataclass(frozen=True, kw_only=True)
class MirrorFinding:
    """That a scan looks like a mirror image.

    Attributes:
        evidence: By what, in words.
        overwhelming: Whether whole organs agree on it, and none disagrees.
    """

    evidence: str
    overwhelming: bool


def mirror_finding(
    image: NDArray[np.float32],
    output: NetworkOutput,
    organs: Sequence[Organ],
    segment: Callable[[NDArray[np.float32]], NetworkOutput],
    *,
    voxel_ml: float,
    quality: QualityConfig,
) -> MirrorFinding | None:
    """What makes the scan look mirrored; None if nothing does, or the model knows no liver.

    Args:
        image: The ROI (z, y, x) in canonical axes: x to the left.
        output: The segmentation network's, without the batch axis.
        organs: What its labels mean.
        segment: Runs the network on another image of that shape; called only if the liver is uncertain.
        voxel_ml: Of the image.
        quality: Which volumes a whole organ has.
    """
    label = next((organ.index for organ in organs if organ.name == _SIDED), None)
    if label is None or expected_dsc(output.output, label) >= SURE_DSC:
        return None
    here = expected_dscs(output.output)
    there = expected_dscs(segment(np.flip(image, axis=2).copy()).output)
    gains = {organ.index: _dsc(there, organ) - _dsc(here, organ) for organ in organs}
    if gains[label] <= SUSPICIOUS_GAIN or sum(gains.values()) <= SUSPICIOUS_SUM:
        return None
    witnesses = [
        organ.index
        for organ in organs
        if min(_dsc(here, organ), _dsc(there, organ)) >= _WITNESS_DSC
        and here[organ.index].voxels * voxel_ml >= quality.limits(organ.name).volume_min_ml
        and gains[organ.index] > _WITNESS_GAIN
    ]
    agreed = label in witnesses and len(witnesses) >= _WITNESSES and min(gains.values()) >= -_SLACK
    return MirrorFinding(evidence=_evidence(here, there, organs), overwhelming=agreed)


def _dsc(found: Mapping[int, ExpectedDsc], organ: Organ) -> float:
    return found[organ.index].dsc if organ.index in found else 0.0


def _evidence(here: Mapping[int, ExpectedDsc], there: Mapping[int, ExpectedDsc], organs: Sequence[Organ]) -> str:
    pairs = ", ".join(f"{organ.name} {_dsc(here, organ):.2f} and {_dsc(there, organ):.2f}" for organ in organs)
    return f"expected Dice coefficients of the organs as they lie and in the mirror image: {pairs}"
