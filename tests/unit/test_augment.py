"""Augmentation: nothing when nothing is asked, and image and labels always move together."""

import numpy as np
import pytest
import torch

from viscera.errors import ConfigError
from viscera.geometry import Grid
from viscera.training.augment import (
    IDENTITY,
    AugmentConfig,
    draw_warp,
    jitter_intensity,
    sample,
    sampling_positions,
    smooth_maps,
)

SOURCE = Grid.from_axes(
    (20, 24, 30), spacing_zyx_mm=(3.0, 2.0, 2.5), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(5.0, -7.0, 11.0)
)
TARGET = SOURCE.centred(SOURCE.box(), (16, 12, 14), 4.0)


def rng():
    return np.random.default_rng(4)


def only(**ranges):
    return AugmentConfig(**{name: ranges.get(name, 0.0) for name in vars(IDENTITY)})


def test_no_augmentation_reads_at_the_positions_of_inference():
    positions = sampling_positions(draw_warp(IDENTITY, rng()), SOURCE, TARGET)
    offset, step = TARGET.positions_in(SOURCE)
    for axis in range(3):
        expected = offset[axis] + step[axis] * np.arange(TARGET.shape_zyx[axis])
        line = positions.movedim(axis, 0)[:, 3, 5, axis]
        np.testing.assert_allclose(line, expected, atol=1e-4)


def test_translation_moves_by_the_drawn_distance():
    warp = draw_warp(only(translation_mm=20.0), rng())
    moved = sampling_positions(warp, SOURCE, TARGET) - sampling_positions(draw_warp(IDENTITY, rng()), SOURCE, TARGET)
    in_mm = moved * torch.tensor(SOURCE.spacing_zyx_mm)
    np.testing.assert_allclose(in_mm.reshape(-1, 3), np.broadcast_to(warp.shift_zyx_mm, (16 * 12 * 14, 3)), atol=1e-3)
    assert np.abs(warp.shift_zyx_mm).max() <= 20


def test_rotation_keeps_distances_to_the_middle():
    still = sampling_positions(draw_warp(IDENTITY, rng()), SOURCE, TARGET)
    turned = sampling_positions(draw_warp(only(rotation_rad=0.35), rng()), SOURCE, TARGET)
    spacing = torch.tensor(SOURCE.spacing_zyx_mm)
    middle = still.reshape(-1, 3).mean(0)
    before, after = (((p - middle) * spacing).norm(dim=-1) for p in (still, turned))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert (turned - still).abs().max() > 0.5


def test_elastic_displacement_stays_within_its_range():
    still = sampling_positions(draw_warp(IDENTITY, rng()), SOURCE, TARGET)
    bent = sampling_positions(draw_warp(only(elastic_mm=15.0), rng()), SOURCE, TARGET)
    distance = ((bent - still) * torch.tensor(SOURCE.spacing_zyx_mm)).abs().max()
    assert 2 < distance <= 15


def test_image_and_labels_move_together():
    ball = ((np.indices(SOURCE.shape_zyx).T - (9.0, 12.0, 16.0)) ** 2 * (9, 4, 6.25)).sum(-1).T < 15**2
    truth = torch.from_numpy(ball)[None].float()
    positions = sampling_positions(draw_warp(AugmentConfig(), rng()), SOURCE, TARGET)
    image = sample(truth, positions, nearest=False, outside=0.0)[0]
    labels = sample(truth, positions, nearest=True, outside=0.0)[0]
    assert labels.sum() > 30
    assert (image[labels == 1] >= 0.12).all()  # a linear read at a nearest voxel that is 1 keeps at least 1/8 of it
    assert (image[labels == 0] <= 0.88).all()


def test_reading_beyond_the_outer_faces_gives_the_value_for_outside():
    array = torch.ones(1, 4, 5, 6)
    places = torch.tensor([[-0.6, 2.0, 2.0], [-0.4, 2.0, 2.0], [3.4, 2.0, 2.0], [3.6, 2.0, 2.0]])
    read = sample(array, places[:, None, None], nearest=False, outside=-0.5)
    assert read.ravel().tolist() == [-0.5, 1.0, 1.0, -0.5]


def test_intensities_shift_then_scale_then_clip():
    image = torch.tensor([-1.0, 0.0, 0.9])
    changed = jitter_intensity(image, only(shift=0.2, gain=0.2), rng())
    generator = rng()
    shift, gain = generator.uniform(-1, 1) * 0.2, 1 + generator.uniform(-1, 1) * 0.2
    np.testing.assert_allclose(changed, np.clip((image.numpy() + shift) * gain, -1, 1), atol=1e-6)


def test_smoothing_maps_keeps_their_sum_and_spreads_by_sigma():
    maps = torch.zeros(1, 21, 23, 25)
    maps[0, 10, 11, 12] = 1.0
    smoothed = smooth_maps(maps, 1.5)[0]
    assert smoothed.sum().item() == pytest.approx(1, abs=1e-5)
    along = smoothed.sum((1, 2))
    variance = (along * (torch.arange(21) - 10.0) ** 2).sum().item()
    assert variance == pytest.approx(1.5**2, rel=0.03)  # the kernel is cut at 3 sigma


def test_no_smoothing_returns_the_maps():
    maps = torch.rand(2, 3, 4, 5)
    assert smooth_maps(maps, 0.0) is maps


def test_negative_ranges_are_refused():
    with pytest.raises(ConfigError, match="elastic_mm"):
        AugmentConfig(elastic_mm=-1.0)
