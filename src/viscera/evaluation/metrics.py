"""How well a predicted mask agrees with a reference: overlap, surfaces, volume, with one table for empty masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError, GeometryError
from viscera.core.geometry import Grid, Vector, mask_ranges
from viscera.evaluation.surface_distances import surface_distances

EmptyRule = Literal["flare", "nan"]


@dataclass(frozen=True, kw_only=True)
class EmptyScores:
    """What metrics are where a mask is empty.

    Attributes:
        share: DSC and NSD.
        distance_mm: HD95 and ASSD.
        percent: The volume's error in percent of the reference's volume.
    """

    share: float
    distance_mm: float
    percent: float


_AGREED = EmptyScores(share=1.0, distance_mm=0.0, percent=0.0)
_FALSE = EmptyScores(share=0.0, distance_mm=math.inf, percent=math.inf)
_MISSED = EmptyScores(share=0.0, distance_mm=math.inf, percent=-100.0)
_UNDEFINED = EmptyScores(share=math.nan, distance_mm=math.nan, percent=math.nan)

# By rule and by (reference is empty, prediction is empty).
# "flare": FLARE 2021, where an organ found in its absence costs as much as one missed. FLARE scores no distances; to
# an empty surface they are infinite here, which ranks last, is left out of means and counted.
# "nan": undefined wherever the reference is empty; such scores are left out of means and counted.
EMPTY_SCORES = MappingProxyType(
    {
        "flare": MappingProxyType({(True, True): _AGREED, (True, False): _FALSE, (False, True): _MISSED}),
        "nan": MappingProxyType({(True, True): _UNDEFINED, (True, False): _UNDEFINED, (False, True): _MISSED}),
    }
)

FLARE_TOLERANCE_MM = 1.0
# Decimals kept of a spacing in mm: headers hold float32, and an affine's column lengths add rounding of about 1e-7.
_SPACING_DECIMALS = 5
_PERCENT = 95.0


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The scores of one mask against a reference; where one is empty, those of `EMPTY_SCORES`.

    Attributes:
        dsc: Dice similarity coefficient in [0, 1].
        nsd: Normalised surface Dice in [0, 1], one for each tolerance.
        hd95_mm: The distance within which 95 % of a surface's area lies from the other surface, of both directions
            the larger one.
        assd_mm: The mean distance over the area of both surfaces.
        difference_percent: Predicted minus reference volume in percent of the reference volume.
    """

    dsc: float
    nsd: tuple[float, ...]
    hd95_mm: float
    assd_mm: float
    difference_percent: float


def mask_agreement(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_zyx_mm: Vector,
    tolerances_mm: Sequence[float] = (FLARE_TOLERANCE_MM,),
    *,
    empty: EmptyRule = "flare",
) -> Agreement:
    """All scores of a mask; its surface is measured once for all of them.

    Surfaces are those of Nikolov et al. (2018, arXiv 1809.04430), as used by FLARE: surface elements sit between 2x2x2
    voxels and weigh by their marching cubes area, and a mask that reaches the edge of the array has a surface there. An
    element is close if its distance to the nearest element of the other surface is at most the tolerance. The
    comparison is exact, so a spacing of 1.0000001 mm puts a shift by one voxel outside 1 mm: take spacings from
    `header_spacing`.

    Args:
        reference: (z, y, x), inside where not zero.
        prediction: The same, on the same grid.
        spacing_zyx_mm: Voxel spacing in the order of the array axes.
        tolerances_mm: 0 or more each.
        empty: How empty masks score, a row of `EMPTY_SCORES`.

    Raises:
        GeometryError: If the shapes differ, or a spacing is not above 0.
        ConfigError: For a tolerance below 0 or an unknown rule.
    """
    reference, prediction = _masks(reference, prediction)
    _check_lengths(spacing_zyx_mm, tolerances_mm)
    size, predicted = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    box = mask_ranges(reference | prediction)
    if box is None or not (size and predicted):
        scores = _empty_scores(empty, reference_empty=not size, prediction_empty=not predicted)
        return Agreement(
            dsc=scores.share,
            nsd=(scores.share,) * len(tolerances_mm),
            hd95_mm=scores.distance_mm,
            assd_mm=scores.distance_mm,
            difference_percent=scores.percent,
        )
    surfaces = surface_distances(reference[box], prediction[box], spacing_zyx_mm)
    return Agreement(
        dsc=2 * int(np.count_nonzero(reference[box] & prediction[box])) / (size + predicted),
        nsd=tuple(surfaces.share_within(tolerance_mm) for tolerance_mm in tolerances_mm),
        hd95_mm=surfaces.percentile_mm(_PERCENT),
        assd_mm=surfaces.mean_mm(),
        difference_percent=100 * (predicted - size) / size,
    )


def dice(reference: NDArray[Any], prediction: NDArray[Any], *, empty: EmptyRule = "flare") -> float:
    """The Dice similarity coefficient (DSC) of two masks, in [0, 1]: twice the overlap by the sum of both sizes.

    Args:
        reference: (z, y, x), inside where not zero.
        prediction: The same, on the same grid.
        empty: How empty masks score, a row of `EMPTY_SCORES`.

    Raises:
        GeometryError: If the shapes differ.
        ConfigError: For an unknown rule.

    Example:
        Two voxels each, one of them shared; then an organ that only one of them shows:

        >>> dice(np.array([[[1, 1, 0]]]), np.array([[[0, 1, 1]]]))
        0.5
        >>> dice(np.array([[[0, 0, 0]]]), np.array([[[0, 1, 1]]]))
        0.0
    """
    reference, prediction = _masks(reference, prediction)
    size, predicted = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    if not (size and predicted):
        return _empty_scores(empty, reference_empty=not size, prediction_empty=not predicted).share
    return 2 * int(np.count_nonzero(reference & prediction)) / (size + predicted)


def surface_dice(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_zyx_mm: Vector,
    tolerance_mm: float = FLARE_TOLERANCE_MM,
    *,
    empty: EmptyRule = "flare",
) -> float:
    """The normalised surface Dice (NSD) in [0, 1]; see `mask_agreement`, which gives it with the other scores."""
    return mask_agreement(reference, prediction, spacing_zyx_mm, (tolerance_mm,), empty=empty).nsd[0]


def header_spacing(grid: Grid) -> Vector:
    """The spacing (z, y, x) in mm that a file's header states for `grid`, as float32 like the zooms FLARE scores with.

    Lengths of affine columns carry rounding noise, which `<=` in surface Dice would turn into other scores; they are
    rounded to 1e-5 mm, then to float32. Spacings are lengths along the axes; the shear of a grid is left out.
    """
    z, y, x = (float(np.float32(round(step, _SPACING_DECIMALS))) for step in grid.spacing_zyx_mm)
    return z, y, x


def _masks(reference: NDArray[Any], prediction: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise GeometryError(
            "scoring a prediction",
            expected=f"two masks (z, y, x) of one shape, the reference's {reference.shape}",
            got=f"{prediction.shape}",
            remedy="Bring the prediction onto the reference's grid",
        )
    return reference.astype(bool, copy=False), prediction.astype(bool, copy=False)


def _empty_scores(rule: EmptyRule, *, reference_empty: bool, prediction_empty: bool) -> EmptyScores:
    if rule not in EMPTY_SCORES:
        raise ConfigError(
            "scoring an empty mask",
            expected=f"one of the rules {', '.join(EMPTY_SCORES)}",
            got=repr(rule),
            remedy="Choose one of them",
        )
    return EMPTY_SCORES[rule][reference_empty, prediction_empty]


def _check_lengths(spacing_zyx_mm: Vector, tolerances_mm: Sequence[float]) -> None:
    if not all(math.isfinite(step) and step > 0 for step in spacing_zyx_mm) or len(spacing_zyx_mm) != 3:
        raise GeometryError(
            "measuring surfaces",
            expected="three spacings (z, y, x) above 0 mm",
            got=f"{spacing_zyx_mm}",
            remedy="Correct the spacing",
        )
    if odd := [one for one in tolerances_mm if not (math.isfinite(one) and one >= 0)]:
        raise ConfigError(
            "measuring surfaces",
            expected="a tolerance of 0 mm or more",
            got=f"{odd[0]}",
            remedy="Correct the tolerance",
        )
