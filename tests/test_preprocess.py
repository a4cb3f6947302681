"""The grid a stage samples and the image on it, against values worked by hand from the method's tables."""

import numpy as np
import pytest

from viscera.core.config import ModelConfig
from viscera.core.geometry import Box, Grid
from viscera.preprocess import fitted_grid, network_input

LOCALISE, SEGMENT = ModelConfig().localise, ModelConfig().segment
UPRIGHT = np.eye(3)[:, ::-1]
GRID = Grid.from_axes((120, 300, 400), spacing_zyx_mm=(3, 2, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(5, 6, 7))


def box(extent_zyx_mm, lower_zyx_mm=(10.0, 20.0, 30.0)):
    upper = tuple(low + extent for low, extent in zip(lower_zyx_mm, extent_zyx_mm, strict=True))
    return Box(lower_zyx_mm=lower_zyx_mm, upper_zyx_mm=upper)


@pytest.mark.parametrize(
    ("extent_zyx_mm", "shape_zyx"),
    [
        ((190.0, 180.0, 200.0), (96, 96, 128)),
        ((64.0, 64.0, 64.0), (32, 32, 32)),  # exactly held
        ((64.1, 65.0, 70.0), (64, 64, 64)),
        ((1.0, 2.0, 3.0), (32, 32, 32)),
        ((320.0, 256.0, 320.0), (160, 128, 160)),  # the largest at 2 mm
    ],
)
def test_region_takes_the_smallest_sizes_that_hold_it(extent_zyx_mm, shape_zyx):
    grid = fitted_grid(GRID, box(extent_zyx_mm), SEGMENT)
    assert grid.shape_zyx == shape_zyx
    assert grid.spacing_zyx_mm == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    ("extent_zyx_mm", "shape_zyx"),
    [
        ((192.0, 250.0, 480.0), (32, 48, 80)),
        ((193.0, 289.0, 385.0), (48, 64, 80)),
        ((1536.0, 480.0, 480.0), (256, 80, 80)),
    ],
)
def test_scout_takes_the_smallest_sizes_that_hold_the_scan(extent_zyx_mm, shape_zyx):
    grid = fitted_grid(GRID, box(extent_zyx_mm), LOCALISE)
    assert grid.shape_zyx == shape_zyx
    assert grid.spacing_zyx_mm == pytest.approx((6.0, 6.0, 6.0))


def test_spacing_grows_on_all_axes_until_the_longest_just_fits():
    # Median training region: 280 + 2 * 32 mm in x against 160 voxels: 2.15 mm. 230 mm in y are then 106.98 voxels.
    grid = fitted_grid(GRID, box((150.0, 230.0, 344.0)), SEGMENT)
    assert grid.spacing_zyx_mm == pytest.approx((2.15, 2.15, 2.15))
    assert grid.shape_zyx == (96, 128, 160)


def test_the_axis_that_needs_most_sets_the_spacing():
    # y holds 128 voxels only: 300 / 128 = 2.34375 mm is more than x's 330 / 160.
    grid = fitted_grid(GRID, box((150.0, 300.0, 330.0)), SEGMENT)
    assert grid.spacing_zyx_mm == pytest.approx((2.34375,) * 3)
    assert grid.shape_zyx == (64, 128, 160)


@pytest.mark.parametrize("extent", [320.0000000001, 333.3, 351.7, 399.99, 411.1])
def test_a_grown_grid_still_holds_the_box(extent):
    grid = fitted_grid(GRID, box((100.0, 100.0, extent)), SEGMENT)
    assert grid.shape_zyx[2] == 160
    assert grid.extent_zyx_mm[2] >= extent - 1e-6


def test_a_large_scan_leaves_no_trace_on_the_next():
    small = box((190.0, 250.0, 400.0))
    before = fitted_grid(GRID, small, LOCALISE)
    fitted_grid(GRID, box((190.0, 600.0, 600.0)), LOCALISE)
    assert fitted_grid(GRID, small, LOCALISE) == before


def test_the_grid_is_centred_on_the_box():
    region = box((190.0, 180.0, 200.0))
    target = fitted_grid(GRID, region, SEGMENT)
    assert GRID.box_from(target, target.box()).centre_zyx_mm == pytest.approx(region.centre_zyx_mm)


def test_the_grid_keeps_the_scans_axes():
    tilted = Grid(shape_zyx=(10, 11, 12), affine=GRID.affine @ np.array(np.eye(4) + np.eye(4, k=1) * 0.2))
    target = fitted_grid(tilted, tilted.box(), SEGMENT)
    np.testing.assert_allclose(target.direction_zyx, tilted.direction_zyx, atol=1e-12)


def test_a_spacing_of_one_millimetre_is_taken_at_its_word():
    ones = Grid.from_axes((100, 110, 120), spacing_zyx_mm=(1, 1, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(0, 0, 0))
    target = fitted_grid(ones, ones.box(), SEGMENT)
    assert target.shape_zyx == (64, 64, 64)  # 50, 55 and 60 voxels of 2 mm
    assert ones.box_from(target, target.box()).extent_zyx_mm == pytest.approx((128.0, 128.0, 128.0))


def test_hu_are_scaled_and_clipped():
    hu = np.full((40, 50, 60), 1024, dtype=np.int16)
    grid = Grid.from_axes((40, 50, 60), spacing_zyx_mm=(3, 2, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(0, 0, 0))
    target = grid.centred(grid.box(), (4, 5, 6), 2.0)
    np.testing.assert_allclose(network_input(hu, grid, target, SEGMENT), 0.5, atol=1e-6)
    np.testing.assert_array_equal(network_input(hu * np.int16(3), grid, target, SEGMENT), 1.0)
    np.testing.assert_array_equal(network_input(hu * np.int16(-4), grid, target, SEGMENT), -1.0)


def test_padding_is_air():
    hu = np.zeros((4, 5, 6), dtype=np.int16)
    grid = Grid.from_axes((4, 5, 6), spacing_zyx_mm=(3, 2, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(0, 0, 0))
    image = network_input(hu, grid, fitted_grid(grid, grid.box(), SEGMENT), SEGMENT)
    assert image[0, 0, 0] == -0.5
    assert image[16, 16, 16] == 0.0


def test_the_image_is_what_engines_take():
    hu = np.zeros((40, 50, 60), dtype=np.int16)[::-1, :, ::-1]
    grid = Grid.from_axes((40, 50, 60), spacing_zyx_mm=(3, 2, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(0, 0, 0))
    image = network_input(hu, grid, fitted_grid(grid, grid.box(), LOCALISE), LOCALISE)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous


def test_smoothing_is_the_stages_own():
    hu = np.zeros((31, 33, 35), dtype=np.int16)
    hu[15, 16, 17] = 2048
    grid = Grid.from_axes((31, 33, 35), spacing_zyx_mm=(2, 2, 2), direction_zyx=UPRIGHT, origin_xyz_mm=(0, 0, 0))
    # The middle weight of a sampled Gaussian of 1.5 voxels (3 mm) and of 0.5 voxels (1 mm), cubed.
    for stage, sigma_vox in ((LOCALISE, 1.5), (SEGMENT, 0.5)):
        middle = 1 / np.exp(-0.5 * (np.arange(-6, 7) / sigma_vox) ** 2).sum()
        image = network_input(hu, grid, grid, stage)
        assert image[15, 16, 17] == pytest.approx(middle**3, rel=1e-3)
