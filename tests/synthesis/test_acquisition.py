"""The scanner: slices where they belong, profiles that keep constants, noise as loud as asked, windows and circles."""

import dataclasses

import numpy as np
import pytest
import torch

from viscera.core.errors import ConfigError
from viscera.synthesis.acquisition import (
    _slice_profile,
    averaged_share,
    beyond_circle,
    draw_protocol,
    scanned,
    slice_grid,
    upright_grid,
)
from viscera.synthesis.config import AcquisitionConfig, AppearanceConfig, BodyConfig, SynthesisConfig
from viscera.synthesis.fields import RandomFields, blurred, left_deviation, stretched

pytestmark = pytest.mark.usefixtures("one_thread")

# Nothing beside slices: no blur, next to no noise, no chance of anything.
QUIET = AcquisitionConfig(
    slice_mm=(5.0, 5.0),
    thickness_share=(1.0, 1.0),
    kernel_mm=(0.0, 0.0),
    noise_hu=(1e-6, 1e-6),
    **{field.name: 0.0 for field in dataclasses.fields(AcquisitionConfig) if field.name.endswith("_probability")},
)
FINE = upright_grid((40, 30, 34), (1.0, 2.0, 2.0), (100.0, -30.0, 20.0))


def rng(seed=0):
    return np.random.default_rng(seed)


def protocol(**changes):
    return dataclasses.replace(draw_protocol(QUIET, rng()), **changes)


def constant(grid, value):
    return torch.full(grid.shape_zyx, float(value))


def test_an_upright_grid_is_canonical_and_begins_where_asked():
    np.testing.assert_array_equal(
        upright_grid((4, 5, 6), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0)).affine,
        [[0, 0, 1, 30], [0, 2, 0, 20], [3, 0, 0, 10], [0, 0, 0, 1]],
    )


def test_slices_lie_in_the_middle_of_what_they_are_made_from():
    grid = slice_grid(FINE, protocol(slice_mm=3.0))
    # 40 mm hold 13 slices of 3 mm; from 99.5 to 139.5 mm the middle is 119.5, so they begin at 119.5 - 6 * 3.
    assert grid.shape_zyx == (13, 30, 34)
    assert grid.spacing_zyx_mm == pytest.approx((3.0, 2.0, 2.0))
    assert grid.affine[2, 3] == pytest.approx(101.5)
    np.testing.assert_array_equal(grid.affine[:2], np.array(FINE.affine)[:2] @ np.diag([3, 1, 1, 1]))


def test_slices_are_no_thinner_than_what_they_are_made_from():
    assert slice_grid(FINE, protocol(slice_mm=0.4)).spacing_zyx_mm[0] == 1.0


def test_even_a_flat_part_has_a_slice():
    flat = upright_grid((2, 5, 6), (1.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    grid = slice_grid(flat, protocol(slice_mm=7.0))
    assert grid.shape_zyx[0] == 1
    assert grid.affine[2, 3] == pytest.approx(0.5)


@pytest.mark.parametrize("thickness_mm", [0.3, 2.0, 3.7, 9.0])
def test_a_profiles_rows_sum_to_one(thickness_mm):
    profile = _slice_profile(FINE, slice_grid(FINE, protocol(slice_mm=3.0)), thickness_mm)
    torch.testing.assert_close(profile.sum(1), torch.ones(13))


def test_a_profile_by_hand():
    # A slice of 2 mm in the middle of a plane holds that plane and half of each beside it.
    profile = _slice_profile(FINE, slice_grid(FINE, protocol(slice_mm=3.0)), 2.0)
    middle = profile[6]  # at 119.5 mm, between the planes at 119 and 120 mm: two whole planes
    assert middle.nonzero().flatten().tolist() == [19, 20]
    torch.testing.assert_close(middle[19:21], torch.tensor([0.5, 0.5]))
    on_plane = upright_grid((1, 30, 34), (3.0, 2.0, 2.0), (119.0, -30.0, 20.0))
    torch.testing.assert_close(_slice_profile(FINE, on_plane, 2.0)[0, 18:21], torch.tensor([0.25, 0.5, 0.25]))


@pytest.mark.parametrize(
    "changes",
    [{}, {"thickness_mm": 8.0}, {"thickness_mm": 1.0}, {"kernel_mm": 1.4}, {"sharpening": 1.5}],
    ids=["plain", "thick", "thin", "blurred", "sharpened"],
)
def test_a_constant_stays(changes):
    one = protocol(**changes)
    image = scanned(constant(FINE, 57), FINE, slice_grid(FINE, one), one, rng())
    assert (image == 57).all()


def test_slices_show_the_planes_they_lie_in():
    ramp = torch.arange(40.0)[:, None, None].expand(FINE.shape_zyx) * 2  # 2 HU each mm
    one = protocol(slice_mm=4.0, thickness_mm=4.0)
    grid = slice_grid(FINE, one)
    image = scanned(ramp, FINE, grid, one, rng())
    expected = (grid.affine[2, 3] + 4.0 * np.arange(10) - 100.0) * 2
    np.testing.assert_allclose(image[:, 3, 5], expected, atol=0.5)


@pytest.mark.parametrize("noise_hu", [4.0, 30.0])
@pytest.mark.parametrize("grain_mm", [0.0, 3.0])
def test_noise_is_as_loud_as_asked(noise_hu, grain_mm):
    one = protocol(noise_hu=noise_hu, grain_mm=grain_mm, slice_mm=1.0)
    wide = upright_grid((24, 80, 90), (1.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    image = scanned(constant(wide, 50), wide, slice_grid(wide, one), one, rng(3))
    # White noise of voxels of 0.8 mm loses by averaging over 2 mm what their sides say, coarse noise next to nothing.
    expected = noise_hu * (0.8 / 2.0 if grain_mm == 0 else np.sqrt((9 + 0.64 / 12) / (9 + 4 / 12)))
    # It is louder here and quieter there by a third; apart from that the deviation is this.
    assert float(image.std()) == pytest.approx(expected, rel=0.15)
    assert float(image.mean()) == pytest.approx(50, abs=noise_hu / 10)


@pytest.mark.parametrize("grain_mm", [0.0, 0.5])
def test_larger_voxels_average_noise_as_summing_small_ones_does(grain_mm):
    fine = RandomFields((4, 400, 400), (1.0, 0.8, 0.8), rng(), "cpu").white()
    fine = blurred(fine, grain_mm / 0.8, (1, 2))
    wide = fine.reshape(4, 100, 4, 100, 4).mean((2, 4))  # voxels of 3.2 mm
    assert averaged_share(grain_mm, 3.2) == pytest.approx(float(wide.std() / fine.std()), rel=0.2)
    assert averaged_share(grain_mm, 0.8) == 1.0


def test_slices_are_very_thick_as_often_as_asked():
    config = AcquisitionConfig(slice_mm=(2.0, 5.0), thick_probability=0.25, thick_slice_mm=(8.0, 10.0))
    steps = np.array([draw_protocol(config, rng(seed)).slice_mm for seed in range(200)])
    assert np.mean(steps >= 8) == pytest.approx(0.25, abs=0.08)
    assert steps.max() <= 10
    assert not ((steps > 5) & (steps < 8)).any()


def test_grain_joins_neighbours_within_slices_and_none_across():
    one = protocol(noise_hu=20.0, grain_mm=3.0, slice_mm=1.0)
    image = scanned(constant(FINE, 0), FINE, slice_grid(FINE, one), one, rng())

    def joined(first, second):
        return np.corrcoef(first.flatten(), second.flatten())[0, 1]

    # Two Gaussians of 1.5 voxels, one voxel apart, overlap by exp(-1 / (4 * 1.5**2)) = 0.89.
    assert joined(image[:, :, 1:], image[:, :, :-1]) == pytest.approx(0.89, abs=0.05)
    assert abs(joined(image[1:], image[:-1])) < 0.1


def test_a_window_clips_and_leaves_air_as_such_data_have_it():
    hu = constant(FINE, 0)
    hu[:, 0], hu[:, 1], hu[:, 2], hu[:, 3] = -950, -500, 1200, 40
    one = protocol(window_hu=(-160.0, 240.0))
    image = scanned(hu, FINE, slice_grid(FINE, one), one, rng())
    assert [image[:, row].unique().tolist() for row in range(4)] == [[-1000], [-160], [240], [40]]


def test_values_are_whole_and_no_scanner_goes_beyond():
    hu = constant(FINE, 20.3)
    hu[:, 0], hu[:, 1] = -5000, 5000
    image = scanned(hu, FINE, slice_grid(FINE, protocol()), protocol(), rng())
    assert image.unique().tolist() == [-1024, 20, 3071]


def test_streaks_take_as_much_as_they_give_and_fade():
    one = protocol(streak_hu=50.0, slice_mm=1.0)
    image = scanned(constant(FINE, 0), FINE, slice_grid(FINE, one), one, rng(2))
    assert image.abs().max() > 10
    assert image.abs().max() <= 4 * 50
    assert image.min() < 0 < image.max()


def test_the_circle_touches_the_sides_of_the_field_of_view():
    grid = upright_grid((2, 9, 13), (5.0, 2.0, 2.0), (0.0, -8.0, -12.0))
    beyond = beyond_circle(grid, (-2.5, -9.0, -13.0), (7.5, 9.0, 13.0))
    assert beyond.shape == (9, 13)
    assert beyond[0].tolist() == [True] * 4 + [False] * 5 + [True] * 4  # (8/9)**2 + (x/13)**2 > 1 from |x| = 6 on
    assert not beyond[4].any()
    np.testing.assert_array_equal(beyond, beyond[:, ::-1])
    np.testing.assert_array_equal(beyond, beyond[::-1])


def test_the_circle_of_a_part_is_that_of_the_whole():
    sides = (-2.5, -9.0, -13.0), (7.5, 9.0, 13.0)
    whole = beyond_circle(upright_grid((2, 9, 13), (5.0, 2.0, 2.0), (0.0, -8.0, -12.0)), *sides)
    part = beyond_circle(upright_grid((1, 4, 5), (5.0, 2.0, 2.0), (0.0, -8.0, -12.0)), *sides)
    np.testing.assert_array_equal(part, whole[:4, :5])


def test_protocols_stay_in_their_ranges():
    config = AcquisitionConfig(thick_probability=0.0)
    drawn = [draw_protocol(config, rng(seed)) for seed in range(300)]
    for low, high, values in (
        (*config.slice_mm, [one.slice_mm for one in drawn]),
        (*config.noise_hu, [one.noise_hu for one in drawn]),
        (*config.kernel_mm, [one.kernel_mm for one in drawn]),
        (*config.thickness_share, [one.thickness_mm / one.slice_mm for one in drawn]),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    thin = np.mean([one.slice_mm == config.slice_mm[0] for one in drawn])
    assert thin == pytest.approx(1 / 3, abs=0.1)
    # As many below the middle of the logarithmic scale as above it.
    assert np.mean([one.noise_hu < np.sqrt(np.prod(config.noise_hu)) for one in drawn]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("streak_probability", "streak_hu"),
        ("circle_probability", "padding_hu"),
        ("table_probability", "table"),
        ("window_probability", "window_hu"),
        ("sharp_probability", "sharpening"),
    ],
)
def test_what_is_seldom_comes_as_often_as_asked(name, attribute):
    for chance in (0.0, 1.0, 0.4):
        config = dataclasses.replace(QUIET, **{name: chance})
        values = [getattr(draw_protocol(config, rng(seed)), attribute) for seed in range(200)]
        there = [value not in (None, 0.0, False) for value in values]
        assert np.mean(there) == pytest.approx(chance, abs=0.1)


def test_a_range_the_wrong_way_round_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"AcquisitionConfig\.noise_hu"):
        AcquisitionConfig(noise_hu=(30.0, 3.0))


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (AcquisitionConfig, "noise_hu", (0.0, 3.0)),
        (AcquisitionConfig, "slice_mm", (0.0, 3.0)),
        (BodyConfig, "scale", (-1.0, 1.0)),
        (BodyConfig, "depth_scale", (0.0, 1.0)),
        (BodyConfig, "kidney_scale", (0.0, 1.0)),
        (BodyConfig, "enlargement_spleen", (-1.0, 1.0)),
        (AcquisitionConfig, "thick_slice_mm", (0.0, 9.0)),
        (BodyConfig, "elastic_spacing_mm", (36.0, 0.0)),
        (AppearanceConfig, "lesion_radius_mm", (0.0, 9.0)),
        (SynthesisConfig, "paint_share", 0.0),
    ],
)
def test_what_must_be_positive_is_refused_by_name_if_not(kind, name, value):
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.{name}: expected more than 0"):
        kind(**{name: value})


def test_two_elastic_deviations_are_no_range():
    assert BodyConfig(elastic_mm=(7.0, 3.0)).elastic_mm == (7.0, 3.0)


@pytest.mark.parametrize("value", [(1.0, 2.0), (1.0, -1.0, 1.0)], ids=["two", "negative"])
def test_shifts_of_kidneys_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match="kidney_shift_mm"):
        BodyConfig(kidney_shift_mm=value)


def test_a_chance_above_one_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"AcquisitionConfig\.table_probability"):
        AcquisitionConfig(table_probability=1.2)


def test_smooth_fields_have_mean_0_and_deviation_1_and_are_smooth():
    grid = upright_grid((60, 64, 70), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    field = RandomFields(grid.shape_zyx, grid.spacing_zyx_mm, rng(), "cpu").smooth(12.0)
    assert field.shape == grid.shape_zyx
    assert float(field.mean()) == pytest.approx(0, abs=0.06)
    assert float(field.std()) == pytest.approx(1, abs=0.06)
    assert float((field[1:] - field[:-1]).std()) < 0.35


def test_stretching_is_linear_interpolation_from_end_to_end():
    values = torch.from_numpy(rng().standard_normal((2, 3, 4, 5)).astype(np.float32))
    expected = torch.nn.functional.interpolate(values[None], size=(7, 9, 1), mode="trilinear", align_corners=True)[0]
    torch.testing.assert_close(stretched(values, (7, 9, 1)), expected)


def test_fields_come_from_the_seed():
    def made(seed):
        fields = RandomFields((4, 5, 6), (1.0, 1.0, 1.0), rng(seed), "cpu")
        return torch.stack([fields.smooth(3.0), fields.white()])

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))
    assert not torch.equal(*made(1))


@pytest.mark.parametrize("sigma_vox", [0.05, 0.7, 2.0])
def test_blurring_keeps_constants_and_leaves_of_noise_what_is_told(sigma_vox):
    torch.testing.assert_close(blurred(torch.full((5, 6, 7), 3.0), sigma_vox, (1, 2)), torch.full((5, 6, 7), 3.0))
    white = RandomFields((20, 80, 80), (1.0, 1.0, 1.0), rng(), "cpu").white()
    inner = blurred(white, sigma_vox, (1, 2))[:, 8:-8, 8:-8]
    assert float(inner.std()) == pytest.approx(left_deviation(sigma_vox, 2), rel=0.05)


def test_blurring_is_what_scipy_does():
    from scipy.ndimage import gaussian_filter1d

    values = torch.from_numpy(rng().standard_normal((5, 30, 7)).astype(np.float32))
    expected = gaussian_filter1d(values.numpy(), 1.5, axis=1, mode="nearest", radius=5)
    np.testing.assert_allclose(blurred(values, 1.5, (1,)), expected, atol=1e-5)
