"""How well a predicted mask agrees with a reference: Dice and surface Dice, with one table for empty masks."""

from __future__ import annotations

import itertools
import math
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.errors import ConfigError, GeometryError, MissingExtraError
from viscera.evaluation.surfels import CODES, surfel_areas_mm2
from viscera.geometry import Grid, Ranges, Size, Vector

EmptyRule = Literal["flare", "nan"]

# The score of both metrics when masks are empty, by rule and by (reference is empty, prediction is empty).
# "flare": FLARE 2021, where an organ found in its absence costs as much as one missed.
# "nan": undefined wherever the reference is empty; such scores are left out of means and counted.
EMPTY_SCORES = MappingProxyType(
    {
        "flare": MappingProxyType({(True, True): 1.0, (True, False): 0.0, (False, True): 0.0}),
        "nan": MappingProxyType({(True, True): math.nan, (True, False): math.nan, (False, True): 0.0}),
    }
)

FLARE_TOLERANCE_MM = 1.0
# Decimals kept of a spacing in mm: headers hold float32, and an affine's column lengths add rounding of about 1e-7.
_SPACING_DECIMALS = 5
# Trying every lattice step within the tolerance is fastest up to about this many in one octant; then a distance
# transform is.
_MOST_STEPS_IN_OCTANT = 250


def dice(reference: NDArray[Any], prediction: NDArray[Any], *, empty: EmptyRule = "flare") -> float:
    """The Dice similarity coefficient (DSC) of two masks, in [0, 1]: twice the overlap by the sum of both sizes.

    Args:
        reference: (z, y, x), inside where not zero.
        prediction: The same, on the same grid.
        empty: How empty masks score, a row of `EMPTY_SCORES`.

    Raises:
        GeometryError: If the shapes differ.
        ConfigError: For an unknown rule.
    """
    reference, prediction = _masks(reference, prediction)
    size, predicted = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    if not (size and predicted):
        return _empty_score(empty, reference_empty=not size, prediction_empty=not predicted)
    return 2 * int(np.count_nonzero(reference & prediction)) / (size + predicted)


def surface_dice(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_zyx_mm: Vector,
    tolerance_mm: float = FLARE_TOLERANCE_MM,
    *,
    empty: EmptyRule = "flare",
) -> float:
    """The normalised surface Dice (NSD) in [0, 1]: the share of both surfaces that lies close to the other one.

    Definition of Nikolov et al. (2018, arXiv 1809.04430), as used by FLARE: surface elements sit between 2x2x2 voxels
    and weigh by their marching cubes area; one is close if its distance to the nearest element of the other surface is
    at most `tolerance_mm`. A mask that reaches the edge of the array has a surface there. The comparison is exact, so a
    spacing of 1.0000001 mm puts a shift by one voxel outside 1 mm: take spacings from `header_spacing`.

    Args:
        reference: (z, y, x), inside where not zero.
        prediction: The same, on the same grid.
        spacing_zyx_mm: Voxel spacing in the order of the array axes.
        tolerance_mm: 0 or more. FLARE 2021: 1 mm for every organ. Large tolerances on fine grids need scipy.
        empty: How empty masks score, a row of `EMPTY_SCORES`.

    Raises:
        GeometryError: If the shapes differ, or a spacing is not above 0.
        ConfigError: For a tolerance below 0 or an unknown rule.
        MissingExtraError: If the tolerance is large and scipy is not installed.
    """
    reference, prediction = _masks(reference, prediction)
    _check_lengths(spacing_zyx_mm, tolerance_mm)
    filled = bool(reference.any()), bool(prediction.any())
    if not all(filled):
        return _empty_score(empty, reference_empty=not filled[0], prediction_empty=not filled[1])
    steps = _steps_within(spacing_zyx_mm, tolerance_mm)
    reach = _reach(steps)
    box = _joint_box(reference, prediction)
    areas = surfel_areas_mm2(spacing_zyx_mm)
    codes = [_cell_codes(mask[box], reach) for mask in (reference, prediction)]
    surfaces = [(code != 0) & (code != CODES - 1) for code in codes]
    close = total = 0.0
    for one, other in ((0, 1), (1, 0)):
        cells = np.flatnonzero(surfaces[one])
        weights = areas[codes[one].ravel()[cells]]
        if steps is None:
            near = _near_by_distance(cells, surfaces[other], spacing_zyx_mm, tolerance_mm)
        else:
            near = _near_by_steps(cells, surfaces[other], steps)
        close += float(weights[near].sum())
        total += float(weights.sum())
    return close / total


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


def _empty_score(rule: EmptyRule, *, reference_empty: bool, prediction_empty: bool) -> float:
    if rule not in EMPTY_SCORES:
        raise ConfigError(
            "scoring an empty mask",
            expected=f"one of the rules {', '.join(EMPTY_SCORES)}",
            got=repr(rule),
            remedy="Choose one of them",
        )
    return EMPTY_SCORES[rule][reference_empty, prediction_empty]


def _check_lengths(spacing_zyx_mm: Vector, tolerance_mm: float) -> None:
    if not all(math.isfinite(step) and step > 0 for step in spacing_zyx_mm) or len(spacing_zyx_mm) != 3:
        raise GeometryError(
            "measuring surfaces",
            expected="three spacings (z, y, x) above 0 mm",
            got=f"{spacing_zyx_mm}",
            remedy="Correct the spacing",
        )
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError(
            "measuring surfaces",
            expected="a tolerance of 0 mm or more",
            got=f"{tolerance_mm}",
            remedy="Correct the tolerance",
        )


def _joint_box(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Ranges:
    """The smallest voxel ranges that hold both masks."""
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(reference.any(axis=others) | prediction.any(axis=others))
        ranges.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]


def _cell_codes(mask: NDArray[np.bool_], reach: Size) -> NDArray[np.uint8]:
    """The code (see `surfels`) of every cell of 2x2x2 voxels; the surface keeps `reach` cells off the array's edge."""
    voxels = np.pad(mask, [(steps + 1, steps + 1) for steps in reach]).view(np.uint8)
    depth, height, width = (count - 1 for count in voxels.shape)
    codes: NDArray[np.uint8] = np.zeros((depth, height, width), dtype=np.uint8)
    for bit, (dz, dy, dx) in enumerate(itertools.product((0, 1), repeat=3)):
        codes |= voxels[dz : dz + depth, dy : dy + height, dx : dx + width] << np.uint8(bit)
    return codes


def _steps_within(spacing_zyx_mm: Vector, tolerance_mm: float) -> NDArray[np.int64] | None:
    """(steps, 3): every lattice step (z, y, x) no longer than the tolerance, shortest first; None if too many."""
    reach = [math.floor(tolerance_mm / step) + 1 for step in spacing_zyx_mm]  # one more than rounding may hide
    if math.prod(reach) > _MOST_STEPS_IN_OCTANT:
        return None
    lattice = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.sqrt(np.add.reduce((lattice * np.asarray(spacing_zyx_mm)).T ** 2, axis=0))
    kept = lengths <= tolerance_mm
    steps: NDArray[np.int64] = lattice[kept][np.argsort(lengths[kept], kind="stable")]
    return steps


def _reach(steps: NDArray[np.int64] | None) -> Size:
    """The longest step along each axis."""
    if steps is None:
        return 0, 0, 0
    z, y, x = steps.max(axis=0)
    return int(z), int(y), int(x)


def _near_by_steps(cells: NDArray[np.int64], surface: NDArray[np.bool_], steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether one of the `steps` leads from each of `cells` (flat indices) to a cell of `surface`."""
    flat = surface.ravel()
    strides = np.array([surface.shape[1] * surface.shape[2], surface.shape[2], 1])
    near = np.zeros(len(cells), dtype=bool)
    far = np.arange(len(cells))
    for step in steps @ strides:
        hit = flat[cells[far] + step]
        near[far[hit]] = True
        far = far[~hit]
    return near


def _near_by_distance(
    cells: NDArray[np.int64], surface: NDArray[np.bool_], spacing_zyx_mm: Vector, tolerance_mm: float
) -> NDArray[np.bool_]:
    """The same by an exact Euclidean distance transform, for any tolerance."""
    try:
        from scipy.ndimage import distance_transform_edt
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"surface Dice with a tolerance of {tolerance_mm:g} mm",
            expected="the package scipy",
            got="none installed",
            remedy="Install it with: pip install 'viscera[metrics]'",
        ) from error
    distances = distance_transform_edt(~surface, sampling=spacing_zyx_mm)
    near: NDArray[np.bool_] = distances.ravel()[cells] <= tolerance_mm
    return near
