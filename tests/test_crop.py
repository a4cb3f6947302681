"""The region around the organs: margin, scan border, sampling."""

import dataclasses

import numpy as np
import pytest

from viscera.core.config import ModelConfig
from viscera.core.geometry import Box, Grid
from viscera.crop import roi_box, roi_grid

# Extent 360 x 300 x 400 mm (z, y, x).
SCAN = Grid.from_axes(
    (120, 150, 400), spacing_zyx_mm=(3, 2, 1), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(5, 6, 7)
)
MODEL = ModelConfig()


def test_margin_is_added_on_every_side():
    box = roi_box(SCAN, Box(lower_zyx_mm=(60.0, 50.0, 100.0), upper_zyx_mm=(160.0, 150.0, 300.0)), 32.0)
    assert box == Box(lower_zyx_mm=(28.0, 18.0, 68.0), upper_zyx_mm=(192.0, 182.0, 332.0))


def test_margin_ends_at_the_scans_border():
    box = roi_box(SCAN, Box(lower_zyx_mm=(10.0, 0.0, 100.0), upper_zyx_mm=(350.0, 290.0, 300.0)), 32.0)
    assert box == Box(lower_zyx_mm=(0.0, 0.0, 68.0), upper_zyx_mm=(360.0, 300.0, 332.0))


def test_region_grid_holds_box_and_margin():
    box = Box(lower_zyx_mm=(60.0, 50.0, 100.0), upper_zyx_mm=(160.0, 150.0, 300.0))
    grid = roi_grid(SCAN, box, MODEL)
    assert grid.shape_zyx == (96, 96, 160)  # 164, 164 and 264 mm at 2 mm
    assert SCAN.box_from(grid, grid.box()).centre_zyx_mm == pytest.approx((110.0, 100.0, 200.0))


def test_a_cut_margin_moves_the_centre():
    box = Box(lower_zyx_mm=(0.0, 50.0, 100.0), upper_zyx_mm=(100.0, 150.0, 300.0))
    grid = roi_grid(SCAN, box, MODEL)
    assert SCAN.box_from(grid, grid.box()).centre_zyx_mm[0] == pytest.approx(66.0)  # of 0 to 132 mm


def test_margin_is_the_models():
    box = Box(lower_zyx_mm=(60.0, 50.0, 100.0), upper_zyx_mm=(160.0, 150.0, 300.0))
    grid = roi_grid(SCAN, box, dataclasses.replace(MODEL, margin_mm=10.0))
    assert grid.shape_zyx == (64, 64, 128)  # 120, 120 and 220 mm at 2 mm
