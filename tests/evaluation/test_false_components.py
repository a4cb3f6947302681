"""False-positive and false-negative components of organs, counted by hand and against scipy."""

import numpy as np
import pytest

from viscera.evaluation.false_components import ComponentCount, components_apart

SHAPE = (6, 7, 8)


def boxes(*corners):
    mask = np.zeros(SHAPE, dtype=bool)
    for z, y, x in corners:
        mask[z : z + 2, y : y + 2, x : x + 2] = True
    return mask


def test_a_part_that_meets_the_other_mask_in_one_voxel_is_none_of_them():
    assert components_apart(boxes((0, 0, 0), (4, 5, 6)), boxes((1, 1, 1))) == ComponentCount(count=1, voxels=8)
    assert components_apart(boxes((1, 1, 1)), boxes((0, 0, 0), (4, 5, 6))) == ComponentCount()


def test_a_part_that_only_touches_the_other_mask_shares_no_voxel_with_it():
    assert components_apart(boxes((0, 0, 2)), boxes((0, 0, 0))) == ComponentCount(count=1, voxels=8)


def test_the_end_of_a_row_is_no_neighbour_of_the_next_ones_beginning():
    mask, other = np.zeros((2, *SHAPE), dtype=bool)
    mask[0, 0, 5:] = True
    mask[0, 1, 0] = other[0, 1, 0] = True
    assert components_apart(mask, other) == ComponentCount(count=1, voxels=3)


def test_voxels_that_touch_at_a_corner_are_one_part():
    assert components_apart(boxes((0, 0, 0), (2, 2, 2)), boxes((1, 1, 1)) & boxes((0, 0, 0))) == ComponentCount()


@pytest.mark.parametrize("other", [boxes(), boxes((0, 0, 0))])
def test_an_empty_mask_has_no_components(other):
    assert components_apart(boxes(), other) == ComponentCount()


def test_without_the_other_mask_all_components_count():
    assert components_apart(boxes((0, 0, 0), (0, 4, 0), (4, 0, 4)), boxes()) == ComponentCount(count=3, voxels=24)


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_have_scipys_components(seed):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(seed)
    mask, other = rng.random((12, 14, 17)) < 0.05, rng.random((12, 14, 17)) < 0.1
    numbers, count = ndimage.label(mask, np.ones((3, 3, 3)))
    apart = set(range(1, count + 1)) - set(np.unique(numbers[other]))
    assert components_apart(mask, other) == ComponentCount(
        count=len(apart), voxels=int(np.isin(numbers, list(apart)).sum())
    )
