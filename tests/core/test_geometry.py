"""Grid, Box and Reorientation against values worked by hand and against nibabel."""

import itertools
import math

import nibabel as nib
import numpy as np
import pytest

from viscera.core.errors import GeometryError
from viscera.core.geometry import Box, Grid, Reorientation, mask_ranges

UPRIGHT = np.eye(3)[:, ::-1]  # array axes z, y, x along the world's z, y, x
ALL_48 = [
    Reorientation(axes=axes, flipped=flipped)
    for axes in itertools.permutations(range(3))
    for flipped in itertools.product((False, True), repeat=3)
]


def upright_grid(shape=(10, 11, 12), spacing=(3.0, 2.0, 1.0), origin=(5.0, 6.0, 7.0)):
    return Grid.from_axes(shape, spacing_zyx_mm=spacing, direction_zyx=UPRIGHT, origin_xyz_mm=origin)


def turned_30_degrees_about_z():
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return Grid.from_axes(
        (10, 11, 12), spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=turn @ UPRIGHT, origin_xyz_mm=(5.0, 6.0, 7.0)
    )


def test_spacing_is_derived_from_the_affine():
    assert upright_grid().spacing_zyx_mm == (3.0, 2.0, 1.0)


def test_spacing_of_an_oblique_grid():
    assert turned_30_degrees_about_z().spacing_zyx_mm == pytest.approx((3.0, 2.0, 1.0))


def test_spacing_of_a_sheared_grid_is_the_length_along_the_tilted_axis():
    affine = upright_grid().affine.copy()
    affine[1, 0] = 4.0  # each slice lies 4 mm further back: a tilted gantry
    assert Grid(shape_zyx=(10, 11, 12), affine=affine).spacing_zyx_mm == pytest.approx((5.0, 2.0, 1.0))


def test_volume_of_a_sheared_voxel_is_that_of_the_upright_one():
    affine = upright_grid().affine.copy()
    affine[1, 0] = 4.0
    assert Grid(shape_zyx=(10, 11, 12), affine=affine).voxel_ml == pytest.approx(0.006)


def test_extent_runs_from_face_to_face():
    assert upright_grid().extent_zyx_mm == (30.0, 22.0, 12.0)


def test_origin_is_the_first_voxel_centre():
    assert upright_grid().origin_xyz_mm == (5.0, 6.0, 7.0)


def test_world_of_a_voxel_is_in_x_y_z():
    np.testing.assert_allclose(upright_grid().world(np.array([1, 2, 3])), (8.0, 10.0, 10.0))


def test_world_of_an_oblique_voxel():
    along_x = turned_30_degrees_about_z().world(np.array([0, 0, 2]))
    np.testing.assert_allclose(along_x, (5 + 2 * math.cos(math.pi / 6), 6 + 2 * 0.5, 7))


def test_direction_columns_are_array_axes():
    np.testing.assert_allclose(upright_grid().direction_zyx[:, 0], (0, 0, 1))


def test_nifti_grid_negates_the_first_two_world_axes():
    affine_ras = np.array([[1.0, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    grid = Grid.from_nifti((12, 11, 10), affine_ras)
    assert grid.shape_zyx == (10, 11, 12)
    np.testing.assert_allclose(grid.world(np.array([[0, 0, 0], [1, 1, 1]])), [[-10, -20, 30], [-11, -22, 33]])


def test_nifti_affine_is_the_one_read():
    affine_ras = np.array([[1.0, 0.1, 0, 10], [0.2, 2, 0, 20], [0, 0.3, 3, 30], [0, 0, 0, 1]])
    np.testing.assert_allclose(Grid.from_nifti((12, 11, 10), affine_ras).nifti_affine(), affine_ras)


@pytest.mark.parametrize("shape", [(10, 11), (10, 11, 0), (10, -1, 12), (1, 10, 11, 12)])
def test_shape_must_be_three_counts(shape):
    with pytest.raises(GeometryError, match="three positive voxel counts"):
        Grid(shape_zyx=shape, affine=np.eye(4))


@pytest.mark.parametrize(
    "affine",
    [np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 1, 1, 2]), np.diag([np.inf, 1, 1, 1])],
    ids=["3x3", "nan", "last row", "infinite"],
)
def test_affine_must_be_finite_4x4(affine):
    with pytest.raises(GeometryError, match="finite 4x4 affine"):
        Grid(shape_zyx=(10, 11, 12), affine=affine)


@pytest.mark.parametrize("spacing", [(0.0, 2.0, 1.0), (3.0, 2.0, 0.0)])
def test_spacing_of_zero_is_refused(spacing):
    with pytest.raises(GeometryError, match="three independent axes"):
        upright_grid(spacing=spacing)


def test_parallel_columns_are_refused():
    direction = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0]])
    with pytest.raises(GeometryError, match="three independent axes"):
        Grid.from_axes((10, 11, 12), spacing_zyx_mm=(3, 2, 1), direction_zyx=direction, origin_xyz_mm=(0, 0, 0))


def test_affine_is_copied():
    affine = np.diag([3.0, 2, 1, 1])
    grid = Grid(shape_zyx=(10, 11, 12), affine=affine)
    affine[0, 0] = 99
    assert grid.spacing_zyx_mm == (3.0, 2.0, 1.0)


def test_affine_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        upright_grid().affine[0, 0] = 1.0


def test_equal_grids():
    assert upright_grid() == upright_grid()


def test_unequal_shapes():
    assert upright_grid() != upright_grid(shape=(10, 11, 13))


def test_unequal_origins():
    assert upright_grid() != upright_grid(origin=(5.0, 6.0, 7.1))


def test_grid_is_not_equal_to_other_things():
    assert upright_grid() != "grid"


@pytest.mark.parametrize(("shift", "same"), [(0.0009, True), (0.0011, False)])
def test_grids_match_within_a_thousandth_of_a_millimetre(shift, same):
    assert upright_grid().matches(upright_grid(origin=(5.0 + shift, 6.0, 7.0))) is same


def test_match_looks_at_the_far_corner():
    other = upright_grid(spacing=(3.0, 2.0, 1.0002))  # 11 steps of 0.0002 mm
    assert not upright_grid().matches(other)


def test_grids_of_other_shapes_do_not_match():
    assert not upright_grid().matches(upright_grid(shape=(10, 11, 13)))


@pytest.mark.parametrize("turn", ALL_48, ids=str)
def test_every_orientation_has_its_canonical_form(turn):
    grid = upright_grid()
    turned = turn.apply_to_grid(grid)
    restored = turned.to_canonical().apply_to_grid(turned)
    assert restored.shape_zyx == grid.shape_zyx
    np.testing.assert_allclose(restored.affine, grid.affine, atol=1e-12)


@pytest.mark.parametrize("turn", ALL_48[::5], ids=str)
def test_an_oblique_grid_is_turned_to_its_nearest_axes(turn):
    grid = turned_30_degrees_about_z()
    turned = turn.apply_to_grid(grid)
    np.testing.assert_allclose(turned.to_canonical().apply_to_grid(turned).affine, grid.affine, atol=1e-12)


@pytest.mark.parametrize("turn", ALL_48, ids=str)
def test_canonical_array_is_nibabels(turn):
    affine_ras = turn.apply_to_grid(upright_grid()).nifti_affine()
    shape_zyx = turn.apply_to_grid(upright_grid()).shape_zyx
    array = np.arange(math.prod(shape_zyx), dtype=np.int32).reshape(shape_zyx)
    image = nib.as_closest_canonical(nib.Nifti1Image(array.T, affine_ras))
    grid = Grid.from_nifti(array.T.shape, affine_ras)
    # nibabel's canonical axes run to the right, the front and the head; ours to the left, the back and the head.
    expected = np.asarray(image.dataobj).T[:, ::-1, ::-1]
    np.testing.assert_array_equal(grid.to_canonical().apply(array), expected)


def test_reorientation_moves_a_voxel_where_it_says():
    array = np.zeros((2, 3, 4))
    array[1, 0, 2] = 7
    turned = Reorientation(axes=(2, 0, 1), flipped=(False, True, True)).apply(array)
    assert turned.shape == (4, 2, 3)
    assert turned[2, 0, 2] == 7  # x 2 kept; z 1 of 2 reversed; y 0 of 3 reversed


def test_reoriented_grid_starts_at_the_old_far_end():
    turned = Reorientation(axes=(2, 0, 1), flipped=(False, True, True)).apply_to_grid(upright_grid())
    assert turned.shape_zyx == (12, 10, 11)
    # x first as it was; z reversed from its last centre 7 + 9 * 3; y reversed from 6 + 10 * 2.
    assert turned.origin_xyz_mm == (5.0, 26.0, 34.0)
    np.testing.assert_allclose(turned.world(np.array([1, 2, 3])), (5 + 1, 26 - 3 * 2, 34 - 2 * 3))


def test_reorientation_leaves_leading_axes_in_place():
    array = np.arange(5 * 2 * 3 * 4).reshape(5, 2, 3, 4)
    turn = Reorientation(axes=(1, 2, 0), flipped=(True, False, True))
    np.testing.assert_array_equal(turn.apply(array)[3], turn.apply(array[3]))


def test_reorientation_copies_nothing():
    array = np.zeros((2, 3, 4))
    assert np.shares_memory(Reorientation(axes=(2, 0, 1), flipped=(True, True, False)).apply(array), array)


def test_box_of_a_voxel_range_runs_over_faces():
    box = upright_grid().box((slice(2, 5), slice(1, 4), slice(3, 9)))
    assert box == Box(lower_zyx_mm=(6.0, 2.0, 3.0), upper_zyx_mm=(15.0, 8.0, 9.0))


def test_box_of_the_whole_grid():
    assert upright_grid().box() == Box(lower_zyx_mm=(0.0, 0.0, 0.0), upper_zyx_mm=(30.0, 22.0, 12.0))


def test_voxels_are_all_those_a_box_touches():
    box = Box(lower_zyx_mm=(5.9, 2.0, 3.5), upper_zyx_mm=(15.1, 8.0, 9.0))
    assert upright_grid().voxels(box) == (slice(1, 6), slice(1, 4), slice(3, 9))


def test_voxels_are_clipped_to_the_grid():
    box = Box(lower_zyx_mm=(-5.0, -5.0, -5.0), upper_zyx_mm=(99.0, 99.0, 99.0))
    assert upright_grid().voxels(box) == (slice(0, 10), slice(0, 11), slice(0, 12))


def test_extent_and_centre_of_a_box():
    box = Box(lower_zyx_mm=(6.0, 2.0, 3.0), upper_zyx_mm=(15.0, 8.0, 9.0))
    assert box.extent_zyx_mm == (9.0, 6.0, 6.0)
    assert box.centre_zyx_mm == (10.5, 5.0, 6.0)


def test_grown_box():
    box = Box(lower_zyx_mm=(6.0, 2.0, 3.0), upper_zyx_mm=(15.0, 8.0, 9.0)).grown(4.0)
    assert box == Box(lower_zyx_mm=(2.0, -2.0, -1.0), upper_zyx_mm=(19.0, 12.0, 13.0))


def test_clipped_box():
    box = Box(lower_zyx_mm=(-2.0, 2.0, 3.0), upper_zyx_mm=(15.0, 80.0, 9.0)).clipped(upright_grid().box())
    assert box == Box(lower_zyx_mm=(0.0, 2.0, 3.0), upper_zyx_mm=(15.0, 22.0, 9.0))


def test_clipping_away_everything_is_refused():
    with pytest.raises(GeometryError, match="making a box"):
        Box(lower_zyx_mm=(40.0, 2.0, 3.0), upper_zyx_mm=(50.0, 8.0, 9.0)).clipped(upright_grid().box())


@pytest.mark.parametrize(("lower_z", "overlaps"), [(29.9, True), (30.0, False), (31.0, False)])
def test_boxes_that_share_only_a_face_do_not_overlap(lower_z, overlaps):
    box = Box(lower_zyx_mm=(lower_z, 2.0, 3.0), upper_zyx_mm=(50.0, 8.0, 9.0))
    assert box.overlaps(upright_grid().box()) is overlaps


@pytest.mark.parametrize("upper", [(6.0, 8.0, 9.0), (5.0, 8.0, 9.0), (math.nan, 8.0, 9.0), (math.inf, 8.0, 9.0)])
def test_box_bounds_must_be_finite_and_ordered(upper):
    with pytest.raises(GeometryError, match="lower < upper"):
        Box(lower_zyx_mm=(6.0, 2.0, 3.0), upper_zyx_mm=upper)


def test_box_of_a_coarse_grid_in_the_mm_of_a_fine_one():
    # Coarse voxels of 6 mm; the coarse grid's outer corner lies 9, 4 and 2 mm inside the fine one's.
    fine = upright_grid(origin=(0.5, 1.0, 1.5))  # outer corner at world 0, 0, 0
    coarse = upright_grid(shape=(2, 3, 4), spacing=(6.0, 6.0, 6.0), origin=(2 + 3.0, 4 + 3.0, 9 + 3.0))
    box = fine.box_from(coarse, coarse.box((slice(1, 2), slice(0, 2), slice(1, 3))))
    assert box.lower_zyx_mm == pytest.approx((15.0, 4.0, 8.0))
    assert box.upper_zyx_mm == pytest.approx((21.0, 16.0, 20.0))


def test_positions_of_a_parallel_grid():
    coarse = upright_grid(shape=(2, 3, 4), spacing=(6.0, 6.0, 6.0), origin=(8.0, 8.0, 13.0))
    offset, step = coarse.positions_in(upright_grid())
    assert offset == pytest.approx((2.0, 1.0, 3.0))
    assert step == pytest.approx((2.0, 3.0, 6.0))


@pytest.mark.parametrize(
    "other",
    [
        turned_30_degrees_about_z(),
        Reorientation(axes=(0, 1, 2), flipped=(False, False, True)).apply_to_grid(upright_grid()),
        Reorientation(axes=(0, 2, 1), flipped=(False, False, False)).apply_to_grid(upright_grid()),
    ],
    ids=["rotated", "reversed", "permuted"],
)
def test_positions_need_parallel_axes(other):
    with pytest.raises(GeometryError, match="parallel axes with the same directions"):
        other.positions_in(upright_grid())


def test_centred_grid_shares_its_middle_with_the_box():
    grid = turned_30_degrees_about_z()
    box = grid.box((slice(2, 5), slice(1, 4), slice(3, 9)))
    centred = grid.centred(box, (4, 6, 8), 1.5)
    assert centred.spacing_zyx_mm == pytest.approx((1.5, 1.5, 1.5))
    # The box's middle lies at voxel (3, 2, 5.5): the middle of the ranges, counted from voxel centres.
    np.testing.assert_allclose(centred.world(np.array([1.5, 2.5, 3.5])), grid.world(np.array([3.0, 2.0, 5.5])))


def test_mask_ranges():
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert mask_ranges(mask) is None
    assert mask_ranges(mask[:, 2:2]) is None
    mask[1, 2, 5] = mask[3, 0, 4] = True
    assert mask_ranges(mask) == (slice(1, 4), slice(0, 3), slice(4, 6))
