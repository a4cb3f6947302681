"""Laws of grids, boxes and reorientations, over every orientation and any oblique or sheared grid."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from viscera.core.geometry import Grid, Reorientation

numbers = st.floats(-1.0, 1.0)
sizes = st.tuples(*[st.integers(1, 6)] * 3)
turns = st.builds(
    Reorientation,
    axes=st.permutations(range(3)).map(tuple),
    flipped=st.tuples(*[st.booleans()] * 3),
)


@st.composite
def grids(draw, reach=1.0, shapes=sizes):
    """Grids of any orientation, rotated, sheared by up to 0.3 and placed anywhere."""
    angles = [draw(st.floats(-math.pi, math.pi)) * reach for _ in range(3)]
    rotation = np.eye(3)
    for angle, (a, b) in zip(angles, ((0, 1), (1, 2), (0, 2)), strict=True):
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    shear = np.eye(3)
    shear[1, 0] = draw(numbers) * 0.3
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.eye(3)[:, ::-1] @ shear * [draw(st.floats(0.5, 5.0)) for _ in range(3)]
    affine[:3, 3] = [draw(numbers) * 500 for _ in range(3)]
    return draw(turns).apply_to_grid(Grid(shape_zyx=draw(shapes), affine=affine))


@st.composite
def grids_and_ranges(draw):
    grid = draw(grids())
    ranges = []
    for count in grid.shape_zyx:
        start = draw(st.integers(0, count - 1))
        ranges.append(slice(start, draw(st.integers(start + 1, count))))
    return grid, tuple(ranges)


def voxel_positions(shape):
    return np.stack(np.meshgrid(*(np.arange(count) for count in shape), indexing="ij"), axis=-1)


@given(turn=turns, shape=sizes)
def test_undo_takes_apply_back(turn, shape):
    array = np.arange(math.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)


@given(turn=turns, shape=sizes)
def test_inverse_of_the_inverse_is_the_reorientation(turn, shape):
    assert turn.inverse().inverse() == turn


@given(turn=turns, grid=grids())
def test_a_reoriented_grid_turned_back_is_the_grid(turn, grid):
    back = turn.inverse().apply_to_grid(turn.apply_to_grid(grid))
    assert back.shape_zyx == grid.shape_zyx
    np.testing.assert_allclose(back.affine, grid.affine, atol=1e-9)


@given(turn=turns, grid=grids())
def test_every_voxel_keeps_its_place_in_the_world(turn, grid):
    places = grid.world(voxel_positions(grid.shape_zyx))
    turned = turn.apply_to_grid(grid)
    moved = np.stack([turn.apply(places[..., k]) for k in range(3)], axis=-1)
    np.testing.assert_allclose(turned.world(voxel_positions(turned.shape_zyx)), moved, atol=1e-9)


@given(grid=grids())
def test_a_canonical_grid_is_already_canonical(grid):
    canonical = grid.to_canonical().apply_to_grid(grid)
    assert canonical.to_canonical() == Reorientation(axes=(0, 1, 2), flipped=(False, False, False))


@given(grid=grids(reach=0.1), turn=turns)
def test_canonical_form_does_not_depend_on_the_stored_order(grid, turn):
    turned = turn.apply_to_grid(grid)
    one, other = grid.to_canonical().apply_to_grid(grid), turned.to_canonical().apply_to_grid(turned)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-9)


@given(case=grids_and_ranges())
def test_voxels_of_a_box_are_the_range_it_was_made_from(case):
    grid, ranges = case
    assert grid.voxels(grid.box(ranges)) == ranges


@given(case=grids_and_ranges(), spacing_mm=st.floats(0.5, 7.0), size=sizes)
def test_a_box_seen_from_another_grid_and_back_is_the_box(case, spacing_mm, size):
    grid, ranges = case
    box = grid.box(ranges)
    other = grid.centred(box, size, spacing_mm)
    back = grid.box_from(other, other.box_from(grid, box))
    np.testing.assert_allclose(back.lower_zyx_mm + back.upper_zyx_mm, box.lower_zyx_mm + box.upper_zyx_mm, atol=1e-8)


@given(case=grids_and_ranges(), spacing_mm=st.floats(0.5, 7.0), size=sizes)
def test_corners_of_a_box_seen_from_another_grid_are_one_point_in_the_world(case, spacing_mm, size):
    grid, ranges = case
    box = grid.box(ranges)
    other = grid.centred(box, size, spacing_mm)
    seen = other.box_from(grid, box)
    for here, there in ((box.lower_zyx_mm, seen.lower_zyx_mm), (box.upper_zyx_mm, seen.upper_zyx_mm)):
        ours = grid.world(np.array(here) / grid.spacing_zyx_mm - 0.5)
        theirs = other.world(np.array(there) / other.spacing_zyx_mm - 0.5)
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


@given(case=grids_and_ranges(), spacing_mm=st.floats(0.5, 7.0), size=sizes)
def test_a_centred_grid_is_parallel_and_shares_the_middle(case, spacing_mm, size):
    grid, ranges = case
    box = grid.box(ranges)
    centred = grid.centred(box, size, spacing_mm)
    np.testing.assert_allclose(centred.direction_zyx, grid.direction_zyx, atol=1e-9)
    np.testing.assert_allclose(grid.box_from(centred, centred.box()).centre_zyx_mm, box.centre_zyx_mm, atol=1e-8)


@given(grid=grids())
def test_nifti_affine_and_back_is_the_grid(grid):
    back = Grid.from_nifti(grid.shape_zyx[::-1], grid.nifti_affine())
    assert back.matches(grid, tolerance_mm=1e-9)


@settings(max_examples=20)
@given(grid=grids())
def test_positions_of_a_grid_in_itself_are_its_own(grid):
    offset, step = grid.positions_in(grid)
    np.testing.assert_allclose(offset + step, (0, 0, 0, 1, 1, 1), atol=1e-9)


def test_there_are_48_reorientations():
    shape = (2, 3, 4)
    array = np.arange(24).reshape(shape)
    made = {
        (turned.shape, turned.tobytes())
        for axes in itertools.permutations(range(3))
        for flipped in itertools.product((False, True), repeat=3)
        for turned in [Reorientation(axes=axes, flipped=flipped).apply(array)]
    }
    assert len(made) == 48
