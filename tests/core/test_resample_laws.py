"""Laws of resampling: linear, keeps constants and straight lines, does not care how an array lies in memory."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from viscera.core.geometry import Grid, Reorientation
from viscera.core.resample import axis_map, resample

spacings = st.floats(0.4, 6.0)
sigmas = st.floats(0.0, 4.0)
turns = st.builds(
    Reorientation,
    axes=st.permutations(range(3)).map(tuple),
    flipped=st.tuples(*[st.booleans()] * 3),
)


@st.composite
def scans(draw):
    """A source grid, a parallel target and noise on the source."""
    shape = tuple(draw(st.integers(1, 17)) for _ in range(3))
    affine = np.eye(4)
    shear = np.eye(3)
    shear[1, 0] = draw(st.floats(-0.3, 0.3))
    affine[:3, :3] = np.eye(3)[:, ::-1] @ shear * [draw(spacings) for _ in range(3)]
    source = Grid(shape_zyx=shape, affine=affine)
    target = source.centred(source.box(), tuple(draw(st.integers(1, 12)) for _ in range(3)), draw(spacings))
    seed = draw(st.integers(0, 2**32 - 1))
    return source, target, np.random.default_rng(seed).integers(-1000, 1000, shape, dtype=np.int16)


@settings(max_examples=50, deadline=None)
@given(scan=scans(), sigma_mm=sigmas, level=st.integers(-1024, 3000))
def test_a_constant_stays_that_constant(scan, sigma_mm, level):
    source, target, noise = scan
    flat = np.full_like(noise, level)
    result = resample(flat, source, target, sigma_mm=sigma_mm, outside=level)
    np.testing.assert_allclose(result, level, atol=2e-3)


@settings(max_examples=50, deadline=None)
@given(scan=scans(), sigma_mm=sigmas)
def test_values_stay_within_the_arrays_range(scan, sigma_mm):
    source, target, noise = scan
    result = resample(noise, source, target, sigma_mm=sigma_mm, outside=0.0)
    assert result.min() >= min(noise.min(), 0) - 2e-3
    assert result.max() <= max(noise.max(), 0) + 2e-3


@settings(max_examples=50, deadline=None)
@given(scan=scans(), sigma_mm=sigmas, turn=turns)
def test_turning_commutes_with_resampling(scan, sigma_mm, turn):
    source, target, noise = scan
    turned = resample(
        turn.apply(noise), turn.apply_to_grid(source), turn.apply_to_grid(target), sigma_mm=sigma_mm, outside=-1024
    )
    expected = resample(noise, source, target, sigma_mm=sigma_mm, outside=-1024)
    np.testing.assert_allclose(turn.undo(turned), expected, atol=2e-3)


@given(
    count=st.integers(30, 60),
    sigma_vox=st.floats(0.0, 2.0),
    places=st.lists(st.floats(10.0, 19.0), min_size=1, max_size=8).map(sorted),
)
def test_a_straight_line_stays_straight_away_from_the_edges(count, sigma_vox, places):
    weights = axis_map(np.array(places), count, sigma_vox).weights
    np.testing.assert_allclose(weights @ np.arange(count), places, rtol=1e-5)


@given(
    count=st.integers(1, 40),
    sigma_vox=st.floats(0.0, 5.0),
    start=st.floats(-5.0, 20.0),
    step=st.floats(0.1, 7.0),
    targets=st.integers(1, 30),
)
def test_rows_of_weights_are_averages(count, sigma_vox, start, step, targets):
    weights = axis_map(start + step * np.arange(targets), count, sigma_vox).weights
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)


@given(
    count=st.integers(2, 40),
    sigma_vox=st.floats(0.0, 5.0),
    step=st.floats(0.1, 3.0),
    targets=st.integers(2, 50),
    rows=st.integers(1, 20),
)
def test_blocks_put_together_are_the_whole_matrix(count, sigma_vox, step, targets, rows):
    mapped = axis_map(step * np.arange(targets), count, sigma_vox)
    whole = np.zeros_like(mapped.weights)
    for block in mapped.blocks(rows):
        whole[block.targets, block.sources] = block.weights
    np.testing.assert_array_equal(whole, mapped.weights)
