"""The region of interest: the organs' box with a margin, on the grid the segmentation network reads."""

from __future__ import annotations

from viscera.core.config import ModelConfig
from viscera.core.geometry import Box, Grid
from viscera.preprocess import fitted_grid


def roi_box(grid: Grid, box: Box, margin_mm: float) -> Box:
    """Return the box with a margin on each side, as far as the scan reaches (paper, section 2.1); in mm of `grid`."""
    return box.grown(margin_mm).clipped(grid.box())


def roi_grid(grid: Grid, box: Box, model: ModelConfig) -> Grid:
    """Return the ROI's grid around `box`: margin added up to the scan's border, then the segmentation's sampling.

    Args:
        grid: The scan's grid, along whose axes the box is given.
        box: Around the organs, without margin, in mm of `grid`.
        model: Margin and sampling.
    """
    return fitted_grid(grid, roi_box(grid, box, model.margin_mm), model.segment)
