"""Smoothing with interpolation against hand-worked values, a float64 reference and SimpleITK on real CTs."""

import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

import viscera.core.resample
from viscera.core.config import ModelConfig
from viscera.core.errors import GeometryError
from viscera.core.geometry import AIR_HU, Grid, Reorientation
from viscera.core.resample import axis_map, resample
from viscera.preprocess import fitted_grid

UPRIGHT = np.eye(3)[:, ::-1]


def scan_grid(shape=(10, 11, 12), spacing=(3.0, 2.0, 1.0)):
    return Grid.from_axes(shape, spacing_zyx_mm=spacing, direction_zyx=UPRIGHT, origin_xyz_mm=(5.0, 6.0, 7.0))


def ct_noise(shape, seed=0):
    return np.random.default_rng(seed).integers(-1024, 1500, shape, dtype=np.int16)


def reference(array, source, target, *, sigma_mm, outside):
    """Smoothing the whole volume, then interpolating it, in float64 with SciPy."""
    smooth = array.astype(np.float64)
    for axis, spacing in enumerate(source.spacing_zyx_mm):
        sigma = sigma_mm / spacing
        if sigma > 0:
            radius = int(np.ceil(4 * sigma))
            smooth = ndimage.gaussian_filter1d(smooth, sigma, axis=axis, mode="nearest", radius=radius)
    offset, step = target.positions_in(source)
    axes = [offset[k] + step[k] * np.arange(target.shape_zyx[k]) for k in range(3)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    values = ndimage.map_coordinates(smooth, places, order=1, mode="nearest")
    limits = np.reshape(array.shape, (3, 1, 1, 1)) - 0.5
    return np.where(((places >= -0.5) & (places <= limits)).all(axis=0), values, outside)


def test_weights_of_interpolation_alone():
    weights = axis_map(np.array([0.25, 1.0, 2.5]), 4, 0.0).weights
    np.testing.assert_allclose(weights, [[0.75, 0.25, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5]])


def test_between_outer_centre_and_face_the_edge_value_holds():
    mapped = axis_map(np.array([-0.6, -0.5, -0.1, 3.1, 3.5, 3.6]), 4, 0.0)
    assert mapped.inside == slice(1, 5)
    np.testing.assert_allclose(mapped.weights, [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]])


def test_weights_of_smoothing_are_sampled_gaussians():
    weights = axis_map(np.array([5.0]), 11, 1.0).weights[0]
    gauss = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    np.testing.assert_allclose(weights, np.pad(gauss / gauss.sum(), 1), atol=1e-7)


def test_smoothing_beyond_the_edge_sees_the_edge_value():
    weights = axis_map(np.array([0.0]), 9, 1.0).weights[0]
    gauss = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    gauss /= gauss.sum()
    np.testing.assert_allclose(weights[:5], [gauss[:5].sum(), *gauss[5:]], atol=1e-7)


def test_smoothing_fades_out_on_an_axis_coarser_than_sigma():
    weights = axis_map(np.array([2.0]), 5, 0.2).weights[0]
    np.testing.assert_allclose(weights, [0, 0, 1, 0, 0], atol=1e-5)


def test_smoothing_has_the_variance_asked_for():
    places = np.arange(41)
    weights = axis_map(np.array([20.0]), 41, 2.5).weights[0]
    assert (weights * (places - 20) ** 2).sum() == pytest.approx(2.5**2, rel=2e-3)


def test_all_targets_outside_give_an_empty_map():
    mapped = axis_map(np.array([-9.0, -8.0]), 5, 1.0)
    assert mapped.inside == slice(0, 0)
    assert mapped.count == 0


def test_the_same_grid_without_smoothing_is_the_array():
    hu = ct_noise((10, 11, 12))
    np.testing.assert_array_equal(resample(hu, scan_grid(), scan_grid(), sigma_mm=0.0, outside=AIR_HU), hu)


def test_halfway_between_two_voxels_is_their_mean():
    hu = np.zeros((2, 3, 4), dtype=np.int16)
    hu[1] = 100
    source = scan_grid(shape=(2, 3, 4))
    target = Grid.from_axes(
        (1, 3, 4), spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=UPRIGHT, origin_xyz_mm=(5.0, 6.0, 8.5)
    )
    np.testing.assert_allclose(resample(hu, source, target, sigma_mm=0.0, outside=AIR_HU), np.full((1, 3, 4), 50.0))


def test_voxels_beyond_the_scan_take_the_outside_value():
    hu = np.full((10, 11, 12), 40, dtype=np.int16)
    grid = scan_grid()
    target = grid.centred(grid.box(), (8, 8, 8), 7.0)  # 56 mm against 30 x 22 x 12 mm
    result = resample(hu, grid, target, sigma_mm=1.0, outside=-7.0)
    inside = np.zeros((8, 8, 8), dtype=bool)
    inside[2:6, 2:6, 3:5] = True  # centres 3.5 and 10.5 mm from the middle against half extents of 15, 11 and 6 mm
    np.testing.assert_allclose(result[inside], 40, atol=1e-4)
    np.testing.assert_array_equal(result[~inside], -7)


def test_a_target_wholly_outside_is_all_outside():
    grid = scan_grid()
    far = Grid.from_axes((4, 5, 6), spacing_zyx_mm=(6, 6, 6), direction_zyx=UPRIGHT, origin_xyz_mm=(900, 0, 0))
    result = resample(ct_noise((10, 11, 12)), grid, far, sigma_mm=1.0, outside=AIR_HU)
    np.testing.assert_array_equal(result, np.full((4, 5, 6), AIR_HU))


@pytest.mark.parametrize("sigma_mm", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("spacing_mm", [0.7, 2.3, 6.0], ids=["finer", "like", "coarser"])
def test_equals_smoothing_then_interpolating_in_float64(sigma_mm, spacing_mm):
    source = scan_grid(shape=(21, 34, 55))
    target = source.centred(source.box((slice(3, 21), slice(5, 20), slice(10, 50))), (22, 26, 30), spacing_mm)
    hu = ct_noise(source.shape_zyx)
    expected = reference(hu, source, target, sigma_mm=sigma_mm, outside=AIR_HU)
    result = resample(hu, source, target, sigma_mm=sigma_mm, outside=AIR_HU)
    np.testing.assert_allclose(result, expected, atol=2e-3)


def test_an_oblique_and_sheared_grid_is_resampled_along_its_own_axes():
    affine = np.array([[0.1, -0.9, 0.8, 3], [0.6, 1.7, 0.5, 4], [2.9, 0.2, 0.1, 5], [0, 0, 0, 1.0]])
    source = Grid(shape_zyx=(20, 21, 32), affine=affine)
    target = source.centred(source.box(), (16, 17, 18), 2.0)
    hu = ct_noise(source.shape_zyx)
    expected = reference(hu, source, target, sigma_mm=1.5, outside=AIR_HU)
    np.testing.assert_allclose(resample(hu, source, target, sigma_mm=1.5, outside=AIR_HU), expected, atol=2e-3)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("flipped", [(False, False, True), (True, True, False), (True, False, True)])
def test_a_view_gives_what_its_copy_gives(axes, flipped):
    turn = Reorientation(axes=axes, flipped=flipped)
    stored = turn.undo(ct_noise((20, 31, 42))).copy()
    source = scan_grid(shape=(20, 31, 42))
    target = source.centred(source.box(), (9, 10, 11), 5.0)
    view = turn.apply(stored)
    assert not view.flags.c_contiguous
    expected = resample(view.copy(), source, target, sigma_mm=3.0, outside=AIR_HU)
    np.testing.assert_allclose(
        resample(view, source, target, sigma_mm=3.0, outside=AIR_HU), expected, rtol=0, atol=2e-3
    )


def test_the_array_is_left_as_it_is():
    hu = ct_noise((10, 11, 12))
    hu.flags.writeable = False
    before = hu.copy()
    grid = scan_grid()
    resample(hu, grid, grid.centred(grid.box(), (4, 5, 6), 4.0), sigma_mm=1.0, outside=AIR_HU)
    np.testing.assert_array_equal(hu, before)


def test_extreme_hu_do_not_overflow():
    hu = np.full((10, 11, 12), 32767, dtype=np.int16)
    grid = scan_grid()
    result = resample(hu, grid, grid.centred(grid.box(), (3, 4, 5), 2.0), sigma_mm=2.0, outside=AIR_HU)
    np.testing.assert_allclose(result, 32767, rtol=1e-5)


def test_a_volume_of_one_slice():
    hu = ct_noise((1, 11, 12))
    source = scan_grid(shape=(1, 11, 12))
    target = source.centred(source.box(), (4, 5, 6), 2.0)
    expected = reference(hu, source, target, sigma_mm=1.0, outside=AIR_HU)
    np.testing.assert_allclose(resample(hu, source, target, sigma_mm=1.0, outside=AIR_HU), expected, atol=2e-3)


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(viscera.core.resample, "_SLAB_BYTES", 10_000)
    source = scan_grid(shape=(40, 50, 60))
    target = source.centred(source.box(), (20, 21, 22), 5.0)
    results = []
    for workers in (1, 3):
        monkeypatch.setattr(viscera.core.resample, "worker_count", lambda workers=workers: workers)
        results.append(resample(ct_noise((40, 50, 60)), source, target, sigma_mm=3.0, outside=AIR_HU))
    np.testing.assert_array_equal(*results)


def test_slab_size_does_not_change_the_result(monkeypatch):
    source = scan_grid(shape=(40, 50, 60))
    target = source.centred(source.box(), (20, 21, 22), 5.0)
    whole = resample(ct_noise((40, 50, 60)), source, target, sigma_mm=3.0, outside=AIR_HU)
    monkeypatch.setattr(viscera.core.resample, "_SLAB_BYTES", 1)
    slices = resample(ct_noise((40, 50, 60)), source, target, sigma_mm=3.0, outside=AIR_HU)
    np.testing.assert_allclose(slices, whole, atol=2e-3)


def test_memory_does_not_grow_with_the_number_of_slices():
    peaks = []
    for slices in (60, 600):
        source = scan_grid(shape=(slices, 160, 192), spacing=(600 / slices, 2.0, 1.0))
        hu = ct_noise(source.shape_zyx)
        target = source.centred(source.box(), (40, 30, 20), 10.0)
        resample(hu, source, target, sigma_mm=3.0, outside=AIR_HU)
        tracemalloc.start()
        resample(hu, source, target, sigma_mm=3.0, outside=AIR_HU)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    float_copy = 600 * 160 * 192 * 4
    assert peaks[1] < min(peaks[0] + float_copy / 10, float_copy / 2)


def test_an_array_not_on_its_grid_is_refused():
    with pytest.raises(GeometryError, match=r"shape \(10, 11, 12\)"):
        resample(ct_noise((12, 11, 10)), scan_grid(), scan_grid(), sigma_mm=1.0, outside=AIR_HU)


def test_grids_that_are_not_parallel_are_refused():
    mirrored = Reorientation(axes=(0, 1, 2), flipped=(True, False, False)).apply_to_grid(scan_grid())
    with pytest.raises(GeometryError, match="parallel axes"):
        resample(ct_noise((10, 11, 12)), scan_grid(), mirrored, sigma_mm=1.0, outside=AIR_HU)


def simpleitk_resampled(hu, grid, target, sigma_mm):
    """SimpleITK's recursive Gaussian over the whole volume, then its linear resampling, along the grid's own axes."""
    image = SimpleITK.Cast(SimpleITK.GetImageFromArray(hu), SimpleITK.sitkFloat32)
    image.SetSpacing(grid.spacing_zyx_mm[::-1])
    offset, _ = target.positions_in(grid)
    origin_xyz_mm = [place * step for place, step in zip(offset[::-1], grid.spacing_zyx_mm[::-1], strict=True)]
    resampled = SimpleITK.Resample(
        SimpleITK.SmoothingRecursiveGaussian(image, sigma_mm),
        target.shape_zyx[::-1],
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        origin_xyz_mm,
        target.spacing_zyx_mm[::-1],
        np.eye(3).ravel().tolist(),
        float(AIR_HU),
    )
    return SimpleITK.GetArrayFromImage(resampled)


@pytest.mark.parametrize("stage", ["localise", "segment"])
@pytest.mark.parametrize("name", ["ts_example_ct", "ts_s0009_ct", "ts_slab_ct", "amos_0018_ct"])
def test_real_cts_agree_with_simpleitk_within_one_hu(shared_data, name, stage):
    image = nib.load(shared_data / "real" / f"{name}.nii.gz")
    stored = Grid.from_nifti(image.shape, image.affine)
    turn = stored.to_canonical()
    hu = turn.apply(np.asarray(image.dataobj).astype(np.int16).T)
    grid = turn.apply_to_grid(stored)
    config = getattr(ModelConfig(), stage)
    middle = grid.box(tuple(slice(count // 5, count - count // 5) for count in grid.shape_zyx))
    target = fitted_grid(grid, grid.box() if stage == "localise" else middle, config)
    expected = simpleitk_resampled(hu, grid, target, config.sigma_mm)
    result = resample(hu, grid, target, sigma_mm=config.sigma_mm, outside=AIR_HU)
    body = expected > -300
    assert body.sum() > 1000
    assert np.abs(result - expected)[body].mean() < 1.0
