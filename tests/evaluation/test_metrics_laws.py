"""Laws of Dice and surface Dice on any masks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from viscera.evaluation.metrics import dice, surface_dice

SPACING_ZYX_MM = (3.0, 2.0, 1.0)
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 8))
TOLERANCES_MM = st.sampled_from([0.0, 1.0, 2.2, 3.0, 25.0])
quick = settings(max_examples=60, deadline=None)


@st.composite
def mask_pairs(draw):
    shape = draw(SHAPES)
    masks = arrays.arrays(bool, shape)
    return draw(masks), draw(masks)


@quick
@given(mask_pairs(), TOLERANCES_MM)
def test_scores_are_shares(masks, tolerance_mm):
    assert 0 <= dice(*masks) <= 1
    assert 0 <= surface_dice(*masks, SPACING_ZYX_MM, tolerance_mm) <= 1


@quick
@given(mask_pairs(), TOLERANCES_MM)
def test_symmetry(masks, tolerance_mm):
    first, second = masks
    assert dice(first, second) == dice(second, first)
    there = surface_dice(first, second, SPACING_ZYX_MM, tolerance_mm)
    assert there == pytest.approx(surface_dice(second, first, SPACING_ZYX_MM, tolerance_mm))


@quick
@given(mask_pairs(), TOLERANCES_MM)
def test_a_mask_agrees_with_itself(masks, tolerance_mm):
    assert dice(masks[0], masks[0]) == 1
    assert surface_dice(masks[0], masks[0], SPACING_ZYX_MM, tolerance_mm) == 1


@quick
@given(mask_pairs(), st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3))
def test_padding_changes_nothing(masks, widths):
    padded = [np.pad(mask, widths) for mask in masks]
    assert dice(*padded) == dice(*masks)
    assert surface_dice(*padded, SPACING_ZYX_MM) == pytest.approx(surface_dice(*masks, SPACING_ZYX_MM))


@quick
@given(mask_pairs(), st.sets(st.integers(0, 2)), TOLERANCES_MM)
def test_flipping_both_changes_nothing(masks, axes, tolerance_mm):
    flipped = [np.flip(mask, tuple(axes)) for mask in masks]
    assert dice(*flipped) == dice(*masks)
    score = surface_dice(*flipped, SPACING_ZYX_MM, tolerance_mm)
    assert score == pytest.approx(surface_dice(*masks, SPACING_ZYX_MM, tolerance_mm))


@quick
@given(mask_pairs(), st.sampled_from(list(itertools.permutations(range(3)))), TOLERANCES_MM)
def test_permuting_the_axes_with_their_spacings_changes_nothing(masks, axes, tolerance_mm):
    turned = [mask.transpose(axes) for mask in masks]
    score = surface_dice(*turned, tuple(SPACING_ZYX_MM[axis] for axis in axes), tolerance_mm)
    assert score == pytest.approx(surface_dice(*masks, SPACING_ZYX_MM, tolerance_mm))


@quick
@given(mask_pairs())
def test_a_larger_tolerance_never_lowers_the_score(masks):
    scores = [surface_dice(*masks, SPACING_ZYX_MM, tolerance_mm) for tolerance_mm in (0.0, 1.0, 2.0, 3.7, 40.0)]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(scores))
