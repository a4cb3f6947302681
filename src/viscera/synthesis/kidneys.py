"""What lies within a kidney: cortex with its columns, medulla, and the sinus with its fat and collecting system.

Maps name a kidney as a whole; where its inside begins is known from the depth below its surface, where its hilum lies
from its side. All of it is painted on the kidney's own voxels, which are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from viscera.core.geometry import Grid
from viscera.synthesis.patient import Tissues, axes_mm
from viscera.synthesis.tissues import Tissue

# Towards the body's middle along x, by kidney.
_MEDIAL = {Tissue.KIDNEY_RIGHT: 1.0, Tissue.KIDNEY_LEFT: -1.0}
# The hilum looks inwards and forwards: in (y, x), x as on the right side.
_HILUM_YX = (-0.6, 0.8)
# Deviation of a coordinate within an ellipsoid, by its half axis: 1 / sqrt(5).
_DEVIATION = 0.447
# Half axes of the largest sinus by those of the kidney: along the body, towards the hilum, across; and how far its
# middle lies towards the hilum.
_SINUS = (0.6, 0.65, 0.45)
_SINUS_OFF = 0.5
# Half of what is painted this far from its middle is the sinus's own.
_SINUS_BORDER = 0.9
# Smaller parts of a kidney, as a slab may hold, are painted as cortex.
_LEAST_VOXELS = 30


@dataclass(frozen=True, kw_only=True)
class KidneyAppearance:
    """What a kidney measures beyond its cortex.

    Attributes:
        medulla: Share of the cortex's HU deep inside.
        cortex_mm: Thickness of the cortex.
        sinus: Size of the sinus by the largest, per axis; 0 for none.
        pelvis: Share of the sinus, per axis, that the collecting system fills.
        pelvis_hu: What that holds.
    """

    medulla: float
    cortex_mm: float
    sinus: float
    pelvis: float
    pelvis_hu: float


def paint_kidneys(
    hu: Tensor, seen: Tissues, grid: Grid, appearance: KidneyAppearance, *, coarse: Tensor, fine: Tensor
) -> None:
    """Paints the inside of both kidneys into `hu` (z, y, x), in place, which holds the cortex's everywhere.

    Args:
        hu: Changed.
        seen: Tissues of every voxel.
        grid: The upright grid they lie on.
        appearance: What to paint.
        coarse: A smooth random field on the grid that makes borders uneven.
        fine: A finer one.
    """
    for kidney, medial in _MEDIAL.items():
        places = (seen.tissue == kidney).nonzero(as_tuple=True)
        if len(places[0]) < _LEAST_VOXELS:
            continue
        broad, narrow = coarse[places], fine[places]
        sinus = _sinus_distance(places, grid, medial, appearance.sinus)
        # Towards the sinus there is no cortex: there pyramids end.
        cortex_mm = appearance.cortex_mm * (2.0 * (sinus - 1.0)).clamp(0, 1)
        deep = ((seen.depth_mm[places] - cortex_mm + 1.2 * broad) / 2.5).clamp(0, 1)
        # Columns of cortex between the pyramids.
        deep *= (2.0 - 2.0 * narrow).clamp(0, 1)
        own = hu[places] * (1 + deep * (appearance.medulla - 1))
        if appearance.sinus > 0:
            fat = -75.0 + 20.0 * narrow
            pelvis = ((appearance.pelvis - sinus) * 6 + 0.5).clamp(0, 1)
            own = torch.lerp(own, fat + pelvis * (appearance.pelvis_hu - fat), ((1 - sinus) * 5).clamp(0, 1))
        hu[places] = own


def sinus_mask(seen: Tissues, grid: Grid, appearance: KidneyAppearance) -> Tensor:
    """Return where (z, y, x) the sinus of either kidney is painted: its fat and its pelvis are not labelled kidney."""
    mask = torch.zeros_like(seen.tissue, dtype=torch.bool)
    for kidney, medial in _MEDIAL.items():
        places = (seen.tissue == kidney).nonzero(as_tuple=True)
        if len(places[0]) >= _LEAST_VOXELS:
            mask[places] = _sinus_distance(places, grid, medial, appearance.sinus) < _SINUS_BORDER
    return mask


def _sinus_distance(places: tuple[Tensor, ...], grid: Grid, medial: float, size: float) -> Tensor:
    """How far each voxel lies from the middle of its kidney's sinus; 1 is its border."""
    z, y, x = (axis.flatten()[place] for axis, place in zip(axes_mm(grid, places[0].device), places, strict=True))
    if size <= 0:
        return torch.full_like(z, 1e3)
    z, y, x = z - z.mean(), y - y.mean(), medial * (x - x.mean())
    front, inner = _HILUM_YX
    towards, across = front * y + inner * x, inner * y - front * x
    total = torch.zeros_like(z)
    for axis, share, off in ((z, _SINUS[0], 0.0), (towards, _SINUS[1], _SINUS_OFF), (across, _SINUS[2], 0.0)):
        half = axis.std() / _DEVIATION + 1e-3
        total += ((axis - off * half) / (share * size * half)).square()
    return total.sqrt()
