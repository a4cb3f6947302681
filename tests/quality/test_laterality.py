"""Left and right kidney: by components and the body's midline, on any grid, and what is unusual said in words."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from viscera.core.components import label_boxes
from viscera.core.geometry import AIR_HU, Grid, Reorientation
from viscera.core.organs import ORGANS, sided_table
from viscera.core.volume import LabelMap, Volume
from viscera.postprocess import split_sides
from viscera.quality.laterality import organ_sides
from viscera.quality.statistics import organ_statistics, statistics_csv

KIDNEY = ORGANS[1]
# 24 x 40 x 60 voxels; the middle of the image is at x = 0, the patient's left at positive x.
UPRIGHT = Grid.from_axes(
    (24, 40, 60),
    spacing_zyx_mm=(6.0, 7.0, 7.5),
    direction_zyx=np.eye(3)[::-1],
    origin_xyz_mm=(-221.25, -136.5, -69.0),
)
# The body's own middle is well beside the image's.
MIDDLE_MM = 45.0
# World (x, y, z) and radius in mm.
RIGHT = ((MIDDLE_MM - 60, 40.0, 5.0), 27.0)
LEFT = ((MIDDLE_MM + 60, 35.0, -5.0), 33.0)


def turned(grid, angles):
    """The grid rotated in space about the origin, by angles about x, y and z."""
    rotation = np.eye(3)
    for angle, (a, b) in zip(angles, ((1, 2), (0, 2), (0, 1)), strict=True):
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    affine = np.eye(4)
    affine[:3, :3] = rotation @ grid.affine[:3, :3]
    affine[:3, 3] = rotation @ grid.affine[:3, 3]
    return Grid(shape_zyx=grid.shape_zyx, affine=affine)


def world_of(grid):
    return grid.world(np.stack(np.indices(grid.shape_zyx), axis=-1))


def ball(grid, centre, radius):
    return ((world_of(grid) - centre) ** 2).sum(axis=-1) <= radius**2


def scan(grid, *kidneys, bridge=False, middle=MIDDLE_MM, spine=False):
    """An elliptic body around `middle` with balls of kidney, on `grid`."""
    world = world_of(grid)
    x, y = world[..., 0] - middle, world[..., 1]
    hu = np.where((x / 150) ** 2 + (y / 100) ** 2 <= 1, 40, AIR_HU).astype(np.int16)
    if spine:
        hu[x**2 + (y - 60) ** 2 <= 18**2] = 600
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    for kidney in kidneys:
        labels[ball(grid, *kidney)] = KIDNEY.index
    if bridge:
        labels[(abs(x) <= 60) & (abs(y - 35) <= 10) & (abs(world[..., 2]) <= 10)] = KIDNEY.index
    return Volume(hu=hu, grid=grid), LabelMap(labels=labels, grid=grid)


def sides_of(volume, label_map):
    return organ_sides(volume, label_map, KIDNEY, label_boxes(label_map.labels)[KIDNEY.index])


ORIENTATIONS = [
    Reorientation(axes=axes, flipped=flipped)
    for axes in itertools.permutations(range(3))
    for flipped in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize("turn", ORIENTATIONS[::5], ids=str)
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.25, -0.2, 0.3)], ids=["upright", "oblique"])
def test_each_kidney_is_on_its_side_in_every_orientation(turn, angles):
    grid = turn.apply_to_grid(turned(UPRIGHT, angles))
    volume, label_map = scan(grid, RIGHT, LEFT)
    sides = sides_of(volume, label_map)
    assert sides.left_vox == np.count_nonzero(ball(grid, *LEFT))
    assert sides.right_vox == np.count_nonzero(ball(grid, *RIGHT))
    assert (sides.finding, sides.doubtful) == ("", False)
    np.testing.assert_array_equal(sides.left, ball(grid, *LEFT)[sides.box])


def test_the_middle_is_the_bodys_and_not_the_images():
    """The right kidney of a body far to one side lies on the left of the image's middle."""
    volume, label_map = scan(UPRIGHT, ((80.0 - 55, 40.0, 0.0), 30.0), ((80.0 + 55, 40.0, 0.0), 30.0), middle=80.0)
    sides = sides_of(volume, label_map)
    assert sides.left_vox == pytest.approx(sides.right_vox, rel=0.05)


@pytest.mark.parametrize(("kidney", "side"), [(LEFT, "left"), (RIGHT, "right")])
def test_a_single_kidney_is_said(kidney, side):
    sides = sides_of(*scan(UPRIGHT, kidney))
    assert sides.finding == f"Only a {side} kidney was found."
    assert min(sides.left_vox, sides.right_vox) == 0
    assert not sides.doubtful


def test_a_horseshoe_kidney_is_divided_at_the_midline_and_said():
    volume, label_map = scan(UPRIGHT, RIGHT, LEFT, bridge=True)
    sides = sides_of(volume, label_map)
    assert "horseshoe kidney" in sides.finding
    assert sides.doubtful
    x = world_of(UPRIGHT)[sides.box][..., 0]
    kidney = label_map.labels[sides.box] == KIDNEY.index
    assert x[sides.left].min() > MIDDLE_MM - 7.5
    assert x[kidney & ~sides.left].max() < MIDDLE_MM + 7.5
    assert sides.left_vox + sides.right_vox == np.count_nonzero(kidney)


def test_a_kidney_that_reaches_a_little_across_the_midline_stays_whole():
    near = ((MIDDLE_MM + 26, 40.0, 0.0), 34.0)
    volume, label_map = scan(UPRIGHT, ((MIDDLE_MM - 75, 40.0, 0.0), 28.0), near)
    sides = sides_of(volume, label_map)
    assert sides.left_vox == np.count_nonzero(ball(UPRIGHT, *near))
    assert sides.finding == ""


def test_where_the_scan_cuts_the_body_the_spine_is_the_middle():
    """A narrow scan from the spine to the left: its middle is right of nothing but the left kidney's outer half."""
    narrow = Grid(shape_zyx=(24, 22, 26), affine=UPRIGHT.affine.copy())
    affine = narrow.affine.copy()
    affine[:3, 3] = narrow.world(np.array([0, 9, 31]))  # x from 11 to 199 mm
    narrow = Grid(shape_zyx=narrow.shape_zyx, affine=affine)
    kidney = ((MIDDLE_MM + 40, 30.0, 0.0), 25.0)
    sides = sides_of(*scan(narrow, kidney, spine=True))
    assert sides.finding == "Only a left kidney was found."


def test_kidneys_far_apart_on_one_side_of_a_wrong_midline_are_told_apart():
    volume, label_map = scan(UPRIGHT, ((MIDDLE_MM + 15, 40.0, 0.0), 25.0), ((MIDDLE_MM + 95, 30.0, 0.0), 25.0))
    sides = sides_of(volume, label_map)
    assert "far apart" in sides.finding
    assert sides.doubtful
    assert sides.left_vox == pytest.approx(sides.right_vox, rel=0.1)


def test_two_pieces_close_together_on_one_side_are_one_kidney():
    upper, lower = ((MIDDLE_MM + 60, 40.0, 30.0), 22.0), ((MIDDLE_MM + 60, 40.0, -30.0), 22.0)
    sides = sides_of(*scan(UPRIGHT, upper, lower))
    assert "All 2 large components of the kidney lie on the left" in sides.finding
    assert sides.right_vox == 0


def test_statistics_have_the_volume_of_each_kidney():
    volume, label_map = scan(UPRIGHT, RIGHT, LEFT)
    liver, kidney, *_ = organ_statistics(volume, label_map)
    assert (liver.left_ml, liver.right_ml) == (None, None)
    assert kidney.left_ml == pytest.approx(4 / 3 * math.pi * 33**3 / 1000, rel=0.05)
    assert kidney.left_ml + kidney.right_ml == pytest.approx(kidney.volume_ml)
    header, *rows = statistics_csv([liver, kidney]).splitlines()
    assert header.endswith(",left_ml,right_ml")
    assert rows[1].endswith(f",{kidney.left_ml:.3f},{kidney.right_ml:.3f}")
    assert rows[0].endswith(",,")


def test_of_an_absent_kidney_both_volumes_are_0():
    kidney = organ_statistics(*scan(UPRIGHT))[1]
    assert (kidney.voxels, kidney.left_ml, kidney.right_ml) == (0, 0.0, 0.0)


def test_split_labels_keep_the_right_kidney_and_all_other_organs():
    volume, label_map = scan(UPRIGHT, RIGHT, LEFT)
    labels = label_map.labels.copy()
    labels[0, 0, :3] = (1, 3, 4)
    before = LabelMap(labels=labels, grid=UPRIGHT)
    split, (sides,) = split_sides(before, volume, ORGANS)
    np.testing.assert_array_equal(split.labels == 5, ball(UPRIGHT, *LEFT))
    np.testing.assert_array_equal(split.labels == 2, ball(UPRIGHT, *RIGHT))
    np.testing.assert_array_equal(np.where(split.labels == 5, 2, split.labels), labels)
    assert sides.finding == ""


def test_a_table_of_other_organs_has_the_left_kidney_behind_its_last():
    organs = tuple(dataclasses.replace(organ, index=index) for index, organ in enumerate(ORGANS[1:3], start=1))
    assert [(one.index, one.name, one.laterality) for one in sided_table(organs)] == [
        (1, "right kidney", "right"),
        (2, "spleen", None),
        (3, "left kidney", "left"),
    ]
