"""From a CT to what a network reads: the grid a stage samples, and the image on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import StageConfig
from viscera.core.geometry import AIR_HU, Box, Grid
from viscera.core.resample import resample

# Part of a voxel by which rounding may make an extent look too long for a size.
_ROUNDING_VOX = 1e-6


def fitted_grid(grid: Grid, box: Box, stage: StageConfig) -> Grid:
    """The grid a stage samples `box` on: the smallest allowed sizes that hold it, centred on it, parallel to `grid`.

    The spacing is the stage's, isotropic. If the box does not fit the largest allowed sizes, the spacing grows on all
    axes alike until it just fits (paper, section 2.1); then the sizes are picked for the grown spacing.

    Args:
        grid: The grid along whose axes the box is given.
        box: What the result must hold, in mm of `grid`.
        stage: Spacing and allowed sizes.
    """
    sizes = (stage.sizes_z_vox, stage.sizes_y_vox, stage.sizes_x_vox)
    extents = box.extent_zyx_mm
    spacing_mm = max(stage.spacing_mm, *(extent / axis[-1] for extent, axis in zip(extents, sizes, strict=True)))
    z, y, x = (
        next((size for size in axis if size >= extent / spacing_mm - _ROUNDING_VOX), axis[-1])
        for extent, axis in zip(extents, sizes, strict=True)
    )
    return grid.centred(box, (z, y, x), spacing_mm)


def network_input(hu: NDArray[np.int16], grid: Grid, target: Grid, stage: StageConfig) -> NDArray[np.float32]:
    """The image a network reads: float32 (z, y, x) on `target`, in [-1, 1], air (-1024 HU) beyond the scan.

    Smoothed with the stage's sigma, interpolated linearly, divided by the stage's HU scale and clipped (paper, section
    2.1; the scale from the authors' release).

    Args:
        hu: int16 (z, y, x) on `grid`, any view.
        grid: The scan's grid.
        target: A grid parallel to it, from `fitted_grid`.
        stage: Smoothing and intensity scale.

    Raises:
        GeometryError: If the grids are not parallel.
    """
    image = resample(hu, grid, target, sigma_mm=stage.sigma_mm, outside=AIR_HU)
    image /= stage.hu_scale
    np.clip(image, -1.0, 1.0, out=image)
    return image
