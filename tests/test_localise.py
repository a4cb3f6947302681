"""The box around what the localiser finds."""

import numpy as np
import pytest

from viscera.core.errors import GeometryError, NothingFoundError
from viscera.core.geometry import Box, Grid
from viscera.localise import organ_box

UPRIGHT = np.eye(3)[:, ::-1]
# Outer corner at world 0, 0, 0; extent 120 x 96 x 84 mm (z, y, x).
SCAN = Grid.from_axes((40, 48, 84), spacing_zyx_mm=(3, 2, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(0.5, 1.0, 1.5))
# 192 x 192 x 192 mm around the scan's middle: its outer corner lies 36, 48 and 54 mm outside the scan's.
SCOUT = SCAN.centred(SCAN.box(), (32, 32, 32), 6.0)


def logits(*voxels):
    answer = np.zeros((2, 32, 32, 32), dtype=np.float32)
    for voxel in voxels:
        answer[(1, *voxel)] = 1.0
    return answer


def test_one_voxel_gives_its_faces():
    box = organ_box(logits((10, 12, 14)), SCOUT, SCAN)
    assert box.lower_zyx_mm == pytest.approx((60 - 36, 72 - 48, 84 - 54))
    assert box.upper_zyx_mm == pytest.approx((66 - 36, 78 - 48, 90 - 54))


def test_every_foreground_voxel_counts():
    box = organ_box(logits((10, 12, 14), (12, 15, 10)), SCOUT, SCAN)
    assert box.lower_zyx_mm == pytest.approx((24, 24, 60 - 54))
    assert box.upper_zyx_mm == pytest.approx((78 - 36, 96 - 48, 36))


def test_box_ends_where_the_scan_ends():
    box = organ_box(logits((0, 12, 14), (31, 12, 14)), SCOUT, SCAN)
    assert box.lower_zyx_mm == pytest.approx((0, 24, 30))
    assert box.upper_zyx_mm == pytest.approx((120, 30, 36))


def test_less_than_half_a_voxel_of_the_scan_is_not_left_beyond_the_box():
    # A scan of 46 mm along z: the centres of the scout image within it lie at 5, 11, ... 41 mm, so beyond the faces of
    # these voxels 2 mm are left on both sides.
    scan = Grid.from_axes((23, 48, 84), spacing_zyx_mm=(2, 2, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(0.5, 1.0, 1.0))
    scout = scan.centred(scan.box(), (31, 32, 32), 6.0)
    answer = np.zeros((2, *scout.shape_zyx), dtype=np.float32)
    answer[1, 13:18, 16, 16] = 1.0  # 11 to 35 mm
    box = organ_box(answer, scout, scan)
    assert (box.lower_zyx_mm[0], box.upper_zyx_mm[0]) == pytest.approx((8.0, 38.0))
    answer[1, 12:19, 16, 16] = 1.0  # 5 to 41 mm
    box = organ_box(answer, scout, scan)
    assert (box.lower_zyx_mm[0], box.upper_zyx_mm[0]) == pytest.approx((0.0, 46.0))


def test_equal_logits_are_background():
    answer = logits((10, 12, 14))
    answer[:, 0, 0, 0] = 5.0
    assert organ_box(answer, SCOUT, SCAN).extent_zyx_mm == pytest.approx((6, 6, 6))


def test_negative_logits_compare_too():
    answer = np.full((2, 32, 32, 32), -9.0, dtype=np.float32)
    answer[0, 10, 12, 14] = -9.5
    assert organ_box(answer, SCOUT, SCAN).extent_zyx_mm == pytest.approx((6, 6, 6))


def test_nothing_found_is_an_error_not_the_whole_image():
    with pytest.raises(NothingFoundError, match="got no foreground voxel"):
        organ_box(logits(), SCOUT, SCAN)


def test_too_little_foreground_is_nothing_found():
    two = logits((10, 12, 14), (12, 15, 10))  # of 0.216 ml each
    assert organ_box(two, SCOUT, SCAN, least_ml=0.43) == organ_box(two, SCOUT, SCAN)
    with pytest.raises(NothingFoundError, match=r"got 0\.4 ml of foreground, less than the 0\.5 ml"):
        organ_box(two, SCOUT, SCAN, least_ml=0.5)


def test_foreground_in_the_padding_alone_is_nothing_found():
    with pytest.raises(NothingFoundError, match="only in the padding"):
        organ_box(logits((0, 0, 0)), SCOUT, SCAN)


def test_logits_must_lie_on_the_scout():
    with pytest.raises(GeometryError, match=r"\(2, 32, 32, 32\)"):
        organ_box(np.zeros((2, 32, 32, 16), dtype=np.float32), SCOUT, SCAN)


def test_box_of_a_sheared_scan_is_along_its_own_axes():
    shear = np.eye(4)
    shear[1, 0] = 0.4
    tilted = Grid(shape_zyx=SCAN.shape_zyx, affine=SCAN.affine @ shear)
    scout = tilted.centred(tilted.box(), (32, 32, 32), 6.0)
    box = organ_box(logits((15, 15, 15)), scout, tilted)
    half = tilted.extent_zyx_mm[0] / 2
    assert isinstance(box, Box)
    assert (box.lower_zyx_mm[0], box.upper_zyx_mm[0]) == pytest.approx((half - 6, half))
