"""Augmentation: nothing when nothing is asked, and image and labels always move together."""

import numpy as np
import pytest
import torch

from viscera.core.errors import ConfigError
from viscera.core.geometry import Grid
from viscera.synthesis.fields import smooth_maps
from viscera.training.augment import (
    beyond,
    draw_warp,
    jitter_intensity,
    position_bounds,
    sample,
    sampling_positions,
)
from viscera.training.config import IDENTITY, AugmentConfig

SOURCE = Grid.from_axes(
    (20, 24, 30), spacing_zyx_mm=(3.0, 2.0, 2.5), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(5.0, -7.0, 11.0)
)
TARGET = SOURCE.centred(SOURCE.box(), (16, 12, 14), 4.0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rng(seed=4):
    return np.random.default_rng(seed)


def only(**ranges):
    return AugmentConfig(**{name: ranges.get(name, 0.0) for name in vars(IDENTITY)})


def in_mm(positions):
    return positions * torch.tensor(SOURCE.spacing_zyx_mm)


def test_no_augmentation_reads_at_the_positions_of_inference():
    positions = sampling_positions(draw_warp(IDENTITY, rng()), SOURCE, TARGET)
    offset, step = TARGET.positions_in(SOURCE)
    expected = np.indices(TARGET.shape_zyx).transpose(1, 2, 3, 0) * step + offset
    np.testing.assert_allclose(positions, expected, atol=1e-4)


def test_positions_are_those_of_the_formula():
    warp = draw_warp(AugmentConfig(), rng())
    positions = sampling_positions(warp, SOURCE, TARGET)
    offset, step = (np.array(values) for values in TARGET.positions_in(SOURCE))
    middle = (np.array(TARGET.shape_zyx) - 1) / 2
    for voxel in [(0, 0, 0), (15, 3, 7), (8, 11, 13)]:
        bend = sum(
            warp.nodes_mm[:, i, j, k] * cubic(voxel[0], 16, i) * cubic(voxel[1], 12, j) * cubic(voxel[2], 14, k)
            for i, j, k in np.ndindex(8, 8, 8)
        )
        moved_mm = warp.matrix_zyx @ ((voxel - middle) * 4.0) + warp.shift_zyx_mm + bend
        np.testing.assert_allclose(positions[voxel], (moved_mm / 4.0 + middle) * step + offset, atol=1e-3)


def cubic(voxel, count, node):
    """The weight of a node by the cubic B-spline's own formula; nodes beyond the ends are the end's."""
    place = (voxel + 0.5) / count * 7
    total = 0.0
    for at in range(-3, 11):
        if np.clip(at, 0, 7) == node:
            d = abs(place - at)
            total += (4 - 6 * d**2 + 3 * d**3) / 6 if d < 1 else max(0.0, 2 - d) ** 3 / 6
    return total


def test_translation_moves_by_the_drawn_distance():
    warp = draw_warp(only(translation_mm=20.0), rng())
    moved = sampling_positions(warp, SOURCE, TARGET) - sampling_positions(draw_warp(IDENTITY, rng()), SOURCE, TARGET)
    np.testing.assert_allclose(
        in_mm(moved).reshape(-1, 3), np.broadcast_to(warp.shift_zyx_mm, (16 * 12 * 14, 3)), atol=1e-3
    )
    assert np.abs(warp.shift_zyx_mm).max() <= 20


def test_rotation_keeps_distances_to_the_middle():
    still = sampling_positions(draw_warp(IDENTITY, rng()), SOURCE, TARGET)
    turned = sampling_positions(draw_warp(only(rotation_rad=0.35), rng()), SOURCE, TARGET)
    middle = still.reshape(-1, 3).mean(0)
    before, after = (in_mm(p - middle).norm(dim=-1) for p in (still, turned))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert (turned - still).abs().max() > 0.5


def test_elastic_displacement_stays_within_its_range():
    still = sampling_positions(draw_warp(IDENTITY, rng()), SOURCE, TARGET)
    bent = sampling_positions(draw_warp(only(elastic_mm=15.0), rng()), SOURCE, TARGET)
    assert 2 < in_mm(bent - still).abs().max() <= 15


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_all_positions_and_not_much_more(seed):
    warp = draw_warp(AugmentConfig(), rng(seed))
    positions = sampling_positions(warp, SOURCE, TARGET).reshape(-1, 3).numpy()
    low, high = position_bounds(warp, SOURCE, TARGET)
    assert (low <= positions.min(0)).all()
    assert (high >= positions.max(0)).all()
    assert (np.array(SOURCE.spacing_zyx_mm) * (positions.min(0) - low) < 2 * 15).all()


def test_image_and_labels_move_together():
    ball = ((np.indices(SOURCE.shape_zyx).T - (9.0, 12.0, 16.0)) ** 2 * (9, 4, 6.25)).sum(-1).T < 15**2
    truth = torch.from_numpy(ball)[None].float()
    positions = sampling_positions(draw_warp(AugmentConfig(), rng()), SOURCE, TARGET)
    image = sample(truth, positions)[0]
    labels = sample(truth, positions, nearest=True)[0]
    assert labels.sum() > 30
    assert (image[labels == 1] >= 0.12).all()  # a linear read at a nearest voxel that is 1 keeps at least 1/8 of it
    assert (image[labels == 0] <= 0.88).all()


def test_a_part_of_an_array_reads_as_the_whole():
    whole = torch.rand(2, 20, 24, 30)
    positions = sampling_positions(draw_warp(only(rotation_rad=0.3), rng()), SOURCE, TARGET) * 0.3 + 6
    part = whole[:, 2:17, 3:22, 1:27]
    expected = sample(whole, positions)
    torch.testing.assert_close(sample(part, positions, start_zyx=(2, 3, 1)), expected, atol=1e-4, rtol=0)


def test_linear_reading_by_hand():
    array = torch.tensor([[[[1.0, 3.0, 11.0]]]])
    places = torch.tensor([[[[0.0, 0.0, 0.25], [0.0, 0.0, 1.75], [0.0, 0.0, 2.25]]]])
    assert sample(array, places).ravel().tolist() == pytest.approx([1.5, 9.0, 11.0])
    assert sample(array, places, edge=False).ravel().tolist() == pytest.approx([1.5, 9.0, 8.25])
    assert sample(array, places, nearest=True).ravel().tolist() == [1.0, 11.0, 11.0]


def test_beyond_are_positions_outside_the_limits_on_any_axis():
    places = torch.tensor([[[[1.0, 1, 1], [0.4, 1, 1], [1, 2.6, 1], [1, 1, 3.0]]]])
    assert beyond(places, (0.5, 0.5, 0.5), (2.5, 2.5, 3.0)).ravel().tolist() == [False, True, True, False]


def test_intensities_shift_then_scale_then_clip():
    image = torch.tensor([-1.0, 0.0, 0.9])
    changed = jitter_intensity(image, only(shift=0.2, gain=0.2), rng())
    shift, gain, _ = rng().uniform(-1, 1, 3) * 0.2
    np.testing.assert_allclose(changed, np.clip((image.numpy() + shift) * (1 + gain), -1, 1), atol=1e-6)


def test_gamma_bends_and_keeps_the_ends():
    image = torch.tensor([-1.0, 0.0, 1.0])
    bent = jitter_intensity(image, only(gamma=0.2), rng(), gamma=True)
    power = 1 + rng().uniform(-1, 1, 3)[2] * 0.2
    np.testing.assert_allclose(bent, [-1, 2 * 0.5**power - 1, 1], atol=1e-6)
    assert torch.equal(jitter_intensity(image, only(gamma=0.2), rng()), image)


def test_no_intensity_change_leaves_the_image():
    image = torch.rand(3, 4, 5) * 2 - 1
    assert torch.equal(jitter_intensity(image, IDENTITY, rng(), gamma=True), image)


def test_smoothing_maps_keeps_their_sum_and_spreads_by_sigma():
    maps = torch.zeros(1, 21, 23, 25)
    maps[0, 10, 11, 12] = 1.0
    smoothed = smooth_maps(maps, 1.5)[0]
    assert smoothed.sum().item() == pytest.approx(1, abs=1e-5)
    for axis, middle in enumerate((10, 11, 12)):
        along = smoothed.sum([other for other in range(3) if other != axis])
        variance = (along * (torch.arange(len(along)) - float(middle)) ** 2).sum().item()
        assert variance == pytest.approx(1.5**2, rel=0.03)  # the kernel is cut at 3 sigma


def test_smoothing_repeats_edges():
    maps = torch.ones(2, 5, 6, 7)
    torch.testing.assert_close(smooth_maps(maps, 1.0), maps)


def test_no_smoothing_returns_the_maps():
    maps = torch.rand(2, 3, 4, 5)
    assert smooth_maps(maps, 0.0) is maps


@pytest.mark.parametrize("ranges", [{"elastic_mm": -1.0}, {"scale": 1.0}, {"gamma": 1.0}])
def test_impossible_ranges_are_refused(ranges):
    with pytest.raises(ConfigError, match=next(iter(ranges))):
        AugmentConfig(**ranges)
