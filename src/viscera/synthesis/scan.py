"""One synthetic scan: a patient, what of it the scanner shows, and the image with its labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viscera.core.errors import VisceraError
from viscera.core.geometry import Box, Grid, Vector
from viscera.synthesis.acquisition import (
    Protocol,
    beyond_circle,
    draw_protocol,
    scanned,
    slice_grid,
    upright_grid,
)
from viscera.synthesis.additions import Addition, draw_additions, with_additions
from viscera.synthesis.anatomy import Anatomy
from viscera.synthesis.appearance import Appearance, draw_appearance, painted, with_table
from viscera.synthesis.config import AcquisitionConfig, SynthesisConfig
from viscera.synthesis.kidneys import sinus_mask
from viscera.synthesis.lesions import draw_lesions
from viscera.synthesis.patient import Patient, Tissues
from viscera.synthesis.tissues import ORGAN_LABELS, Tissue

_OVERVIEW_MM = 6.0
_OVERVIEW_WIDTH_MM = 690.0
# A scan at its least shows so much of an axis.
_LEAST_EXTENT_MM = 24.0
# Scans are drawn again until they show organs where they must; nearly always at once.
_TRIES = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticScan:
    """A drawn scan before it is painted.

    Attributes:
        patient: The deformed anatomy.
        additions: What is laid over it.
        appearance: What it looks like.
        protocol: How it is scanned.
        lower_zyx_mm, upper_zyx_mm: Faces of the field of view in the patient's mm.
        organs: Lower and upper face of the organs seen, to 6 mm; None if none is.
    """

    patient: Patient
    additions: tuple[Addition, ...]
    appearance: Appearance
    protocol: Protocol
    lower_zyx_mm: Vector
    upper_zyx_mm: Vector
    organs: tuple[Vector, Vector] | None

    def tissues(self, grid: Grid) -> Tissues:
        """What lies at the voxel centres of an upright `grid`."""
        return with_additions(self.patient.tissues(grid), grid, self.additions)


def draw_scan(
    anatomy: Anatomy,
    config: SynthesisConfig,
    rng: np.random.Generator,
    *,
    organs_needed: bool = True,
    device: torch.device | str = "cpu",
) -> SyntheticScan:
    """A random scan of a random patient with this anatomy.

    Args:
        anatomy: To be deformed.
        config: Every range.
        rng: Source of all that is drawn.
        organs_needed: Whether the field of view must show organs; without, some show other parts of the body.
        device: Where images are made.

    Raises:
        VisceraError: If organs are needed and the anatomy shows none.
    """
    for _ in range(_TRIES):
        patient = Patient.draw(anatomy, config.body, rng, device)
        low_z, high_z = patient.covered_z_mm()
        overview = _overview_grid(low_z, high_z)
        seen = patient.tissues(overview)
        additions = draw_additions(seen, overview, config.additions, rng)
        lesions = draw_lesions(patient, seen, overview, config.appearance, rng)
        appearance = draw_appearance(config.body, config.appearance, (*additions.lesions, *lesions), rng)
        seen = with_additions(seen, overview, additions.capsules)
        body = _body(seen, appearance).cpu().numpy()
        organs = torch.tensor(ORGAN_LABELS).to(seen.tissue.device)[seen.tissue].cpu().numpy() > 0
        if not body.any():
            continue
        lower, upper = _field_of_view(body, organs, overview, config.acquisition, rng, off=not organs_needed)
        protocol = draw_protocol(config.acquisition, rng)
        if protocol.padding_hu is not None:
            organs = organs & ~beyond_circle(overview, lower, upper)
        box = _bounds(organs, overview, lower, upper)
        if box is not None or not organs_needed:
            return SyntheticScan(
                patient=patient,
                additions=additions.capsules,
                appearance=appearance,
                protocol=protocol,
                lower_zyx_mm=lower,
                upper_zyx_mm=upper,
                organs=box,
            )
    raise VisceraError(
        f"drawing a scan of {anatomy.name}",
        expected="organs in the field of view",
        got=f"none in {_TRIES} tries",
        remedy="Leave the anatomy out",
    )


def scan_image(
    scan: SyntheticScan, lower_zyx_mm: Vector, upper_zyx_mm: Vector, voxel_mm: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Grid]:
    """A part of the scan: whole HU (float32) and labels (uint8), both (z, y, x), and their upright grid.

    Beyond the circle of reconstruction, if the scan has one, is padding without labels.

    Args:
        scan: What to paint.
        lower_zyx_mm: Lower faces of the part; it is cut to the field of view.
        upper_zyx_mm: Upper faces.
        voxel_mm: In-plane spacing, and the least distance of slices.
        rng: Source of texture and noise.
    """
    lower = np.maximum(lower_zyx_mm, scan.lower_zyx_mm)
    upper = np.minimum(upper_zyx_mm, scan.upper_zyx_mm)
    counts = np.maximum(1, np.rint((upper - lower) / voxel_mm)).astype(int)
    first = (lower + upper) / 2 - voxel_mm * (counts - 1) / 2
    fine = upright_grid(
        (int(counts[0]), int(counts[1]), int(counts[2])),
        (voxel_mm, voxel_mm, voxel_mm),
        (float(first[0]), float(first[1]), float(first[2])),
    )
    seen = scan.tissues(fine)
    hu = painted(seen, fine, scan.appearance, rng)
    if scan.protocol.table:
        hu = with_table(hu, fine, rng)
    slices = slice_grid(fine, scan.protocol)
    image = scanned(hu, fine, slices, scan.protocol, rng)
    planes = torch.from_numpy(_nearest_planes(fine, slices)).to(hu.device)
    table = torch.tensor(ORGAN_LABELS).to(hu.device)
    tissue = seen.tissue.masked_fill(sinus_mask(seen, fine, scan.appearance.kidney), Tissue.FAT)
    labels = table[tissue[planes]]
    if scan.protocol.padding_hu is not None:
        beyond = torch.from_numpy(beyond_circle(slices, scan.lower_zyx_mm, scan.upper_zyx_mm)).to(hu.device)
        image.masked_fill_(beyond, scan.protocol.padding_hu)
        labels.masked_fill_(beyond, 0)
    return image, labels, slices


def box_in(grid: Grid, lower_zyx_mm: Vector, upper_zyx_mm: Vector) -> Box:
    """The box between two faces of the patient's space, in mm of an upright grid."""
    start = np.array([grid.affine[2, 3], grid.affine[1, 3], grid.affine[0, 3]]) - np.array(grid.spacing_zyx_mm) / 2
    low, high = (tuple(float(v) for v in np.array(side) - start) for side in (lower_zyx_mm, upper_zyx_mm))
    return Box(lower_zyx_mm=(low[0], low[1], low[2]), upper_zyx_mm=(high[0], high[1], high[2]))


def _overview_grid(low_z: float, high_z: float) -> Grid:
    count = max(2, int((high_z - low_z) / _OVERVIEW_MM))
    wide = int(_OVERVIEW_WIDTH_MM / _OVERVIEW_MM)
    middle = (low_z + high_z) / 2 - _OVERVIEW_MM * (count - 1) / 2
    side = -_OVERVIEW_MM * (wide - 1) / 2
    return upright_grid((count, wide, wide), (_OVERVIEW_MM,) * 3, (middle, side, side))


def _body(seen: Tissues, appearance: Appearance) -> Tensor:
    return (seen.tissue != Tissue.OUTSIDE) | (
        seen.depth_mm < appearance.muscle_mm + appearance.fat_mm + appearance.skin_mm
    )


def _field_of_view(
    body: NDArray[np.bool_],
    organs: NDArray[np.bool_],
    grid: Grid,
    config: AcquisitionConfig,
    rng: np.random.Generator,
    *,
    off: bool,
) -> tuple[Vector, Vector]:
    reach = _faces(np.ones(grid.shape_zyx[0], dtype=bool), grid, 0)
    along = _faces(organs.any(axis=(1, 2)), grid, 0) if organs.any() else reach
    low, high = _reach_along(reach, along, config, rng, off=off and rng.uniform() < config.off_probability)
    heights = float(grid.affine[2, 3]) + grid.spacing_zyx_mm[0] * np.arange(grid.shape_zyx[0])
    shown = (heights >= low - _OVERVIEW_MM) & (heights <= high + _OVERVIEW_MM)
    slab, organ_slab = (mask[shown] if mask[shown].any() else mask for mask in (body, organs))
    cropped = rng.uniform() < config.crop_probability
    sides = []
    for axis in (1, 2):
        others = tuple(other for other in range(3) if other != axis)
        start, stop = _faces(slab.any(axis=others), grid, axis)
        if cropped:
            near = _faces(organ_slab.any(axis=others), grid, axis) if organ_slab.any() else (start, stop)
            width = (stop - start) * rng.uniform(*config.crop_share)
            middle = rng.uniform(near[0] + 0.25 * (near[1] - near[0]), near[1] - 0.25 * (near[1] - near[0]))
            start, stop = max(start - 10, middle - width / 2), min(stop + 10, middle + width / 2)
        else:
            start, stop = start - rng.uniform(0, 50), stop + rng.uniform(0, 50)
        sides.append(_at_least(start, stop))
    (y0, y1), (x0, x1) = sides
    z0, z1 = _at_least(low, high)
    return (z0, y0, x0), (z1, y1, x1)


def _reach_along(
    reach: tuple[float, float],
    organs: tuple[float, float],
    config: AcquisitionConfig,
    rng: np.random.Generator,
    *,
    off: bool,
) -> tuple[float, float]:
    """From where to where a scan goes along the body."""
    bottom, top = reach
    if off:
        # Below the organs or above them, whichever is longer.
        low, high = (bottom, organs[0]) if organs[0] - bottom > top - organs[1] else (organs[1], top)
        if high - low > 2 * _LEAST_EXTENT_MM:
            return low, high
    kind = rng.uniform()
    if kind < config.whole_probability:
        return bottom, top
    if kind < config.whole_probability + config.slab_probability:
        middle, half = rng.uniform(*organs), rng.uniform(*config.slab_mm) / 2
        return max(bottom, middle - half), min(top, middle + half)
    low, high = organs[0] - rng.uniform(*config.organs_margin_mm), organs[1] + rng.uniform(*config.organs_margin_mm)
    return max(bottom, low), min(top, high)


def _at_least(low: float, high: float) -> tuple[float, float]:
    missing = max(0.0, _LEAST_EXTENT_MM - (high - low)) / 2
    return low - missing, high + missing


def _faces(line: Any, grid: Grid, axis: int) -> tuple[float, float]:
    """The faces of the first and the last true voxel along an axis of an upright grid, in the patient's mm."""
    places = np.flatnonzero(line)
    first, step = float(grid.affine[2 - axis, 3]), grid.spacing_zyx_mm[axis]
    return first + step * (places[0] - 0.5), first + step * (places[-1] + 0.5)


def _bounds(mask: NDArray[np.bool_], grid: Grid, lower: Vector, upper: Vector) -> tuple[Vector, Vector] | None:
    """The faces of what is true within the field of view; None if nothing is."""
    inside = np.ones(mask.shape, dtype=bool)
    for axis, (low, high) in enumerate(zip(lower, upper, strict=True)):
        centres = float(grid.affine[2 - axis, 3]) + grid.spacing_zyx_mm[axis] * np.arange(mask.shape[axis])
        shape = [1, 1, 1]
        shape[axis] = -1
        inside &= ((centres >= low) & (centres <= high)).reshape(shape)
    seen = mask & inside
    if not seen.any():
        return None
    sides = [_faces(seen.any(axis=tuple(o for o in range(3) if o != axis)), grid, axis) for axis in range(3)]
    (z0, z1), (y0, y1), (x0, x1) = sides
    return (z0, y0, x0), (z1, y1, x1)


def _nearest_planes(fine: Grid, slices: Grid) -> NDArray[np.int64]:
    middles = slices.affine[2, 3] + slices.spacing_zyx_mm[0] * np.arange(slices.shape_zyx[0])
    places = np.rint((middles - fine.affine[2, 3]) / fine.spacing_zyx_mm[0])
    clipped: NDArray[np.int64] = np.clip(places, 0, fine.shape_zyx[0] - 1).astype(np.int64)
    return clipped
