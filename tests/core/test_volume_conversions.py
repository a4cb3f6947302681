"""Volumes from arrays, nibabel images and SimpleITK images; both libraries are the oracles for where voxels lie."""

import nibabel
import numpy as np
import pytest

from viscera.core.errors import GeometryError, ReadError
from viscera.core.geometry import RAS_TO_LPS
from viscera.core.volume import Volume
from viscera.read import read_volume

sitk = pytest.importorskip("SimpleITK")

# Oblique, with three spacings: (i, j, k) to RAS.
ROTATION = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.array(
    [[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]
)
AFFINE_RAS = np.eye(4)
AFFINE_RAS[:3, :3] = ROTATION * (1.0, 2.0, 3.0)
AFFINE_RAS[:3, 3] = (-40, 25, 310)
VOXELS_IJK = [(0, 0, 0), (11, 0, 0), (0, 10, 0), (3, 4, 9)]


def hu_ijk(dtype=np.int16):
    return np.random.default_rng(5).integers(-1000, 400, (12, 11, 10)).astype(dtype)


def sitk_image(array_zyx=None):
    image = sitk.GetImageFromArray(hu_ijk().T if array_zyx is None else array_zyx)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection(ROTATION.ravel().tolist())
    return image


def assert_placed_as(volume, world_of):
    """Every voxel of `VOXELS_IJK` lies, LPS, where `world_of` says."""
    for i, j, k in VOXELS_IJK:
        np.testing.assert_allclose(volume.grid.world(np.array([k, j, i])), world_of((i, j, k)), atol=1e-4)


def lps(ijk):
    return (RAS_TO_LPS @ AFFINE_RAS @ (*ijk, 1))[:3]


def test_nibabel_image_made_in_memory():
    volume = Volume.from_nibabel(nibabel.Nifti1Image(hu_ijk(), AFFINE_RAS))
    np.testing.assert_array_equal(volume.hu, hu_ijk().T)
    assert_placed_as(volume, lps)
    assert volume.notes == ()
    assert not volume.sides_certain


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize(("slope", "inter"), [(1, 0), (1, -1024), (0.37, -900.25)])
def test_nibabel_file_is_as_it_is_read_from_the_path(tmp_path, name, slope, inter):
    image = nibabel.Nifti1Image(hu_ijk(np.float32), AFFINE_RAS)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, tmp_path / name)
    expected = read_volume(tmp_path / name)
    volume = Volume.from_nibabel(nibabel.load(tmp_path / name))
    np.testing.assert_array_equal(volume.hu, expected.hu)
    assert volume.grid == expected.grid
    assert type(volume.hu) is np.ndarray  # not the mapped file, which may change


def test_nibabel_image_of_another_format():
    image = nibabel.MGHImage(hu_ijk(np.float32), AFFINE_RAS.astype(np.float32))
    assert_placed_as(Volume.from_nibabel(image), lps)


def test_an_affine_changed_after_the_image_was_made_counts_as_when_it_is_saved(tmp_path):
    image = nibabel.Nifti1Image(hu_ijk(), np.diag([2.0, 2, 2, 1]))
    image.affine[:] = AFFINE_RAS
    volume = Volume.from_nibabel(image)
    assert_placed_as(volume, lps)
    nibabel.save(image, tmp_path / "ct.nii")
    assert volume.grid.matches(read_volume(tmp_path / "ct.nii").grid)


def test_nibabel_image_without_orientation_is_refused():
    image = nibabel.Nifti1Image(hu_ijk(), None)
    with pytest.raises(GeometryError, match="converting a nibabel image: expected a sform or qform"):
        Volume.from_nibabel(image)


def test_nibabel_image_in_metres_is_refused():
    image = nibabel.Nifti1Image(hu_ijk(), AFFINE_RAS)
    image.header.set_xyzt_units("meter")
    with pytest.raises(GeometryError, match="got metres"):
        Volume.from_nibabel(image)


def test_nibabel_image_whose_sform_mirrors_its_qform_is_refused():
    image = nibabel.Nifti1Image(hu_ijk(), AFFINE_RAS)
    image.set_qform(AFFINE_RAS @ np.diag([-1, 1, 1, 1]), code=1)
    with pytest.raises(GeometryError, match="mirror image"):
        Volume.from_nibabel(image)


def test_identity_affine_of_nibabel_and_sitk_is_noted():
    for volume in (
        Volume.from_nibabel(nibabel.Nifti1Image(hu_ijk(), np.eye(4))),
        Volume.from_sitk(sitk.GetImageFromArray(hu_ijk().T)),
    ):
        assert "never set" in volume.notes[0]


def test_trailing_axes_of_one_are_left_out():
    image = nibabel.Nifti1Image(hu_ijk()[..., np.newaxis], AFFINE_RAS)
    np.testing.assert_array_equal(Volume.from_nibabel(image).hu, hu_ijk().T)


def test_sitk_image():
    image = sitk_image()
    volume = Volume.from_sitk(image)
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(image))
    assert_placed_as(volume, image.TransformIndexToPhysicalPoint)
    assert volume.notes == ()


def test_sitk_image_may_change_and_go_afterwards():
    image = sitk_image()
    volume = Volume.from_sitk(image)
    image[0, 0, 0] = 300
    del image
    np.testing.assert_array_equal(volume.hu, hu_ijk().T)


def test_sitk_image_as_its_file_is_read(tmp_path):
    image = sitk_image(np.round(hu_ijk().T + 0.4, 1).astype(np.float32))
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    expected = read_volume(tmp_path / "ct.mha")
    volume = Volume.from_sitk(image)
    np.testing.assert_array_equal(volume.hu, expected.hu)
    np.testing.assert_allclose(volume.grid.affine, expected.grid.affine, atol=1e-9)


def test_sitk_image_of_colours_is_refused():
    image = sitk.GetImageFromArray(np.zeros((10, 11, 12, 3), np.uint8), isVector=True)
    with pytest.raises(ReadError, match=r"converting a SimpleITK image: .* got 3 numbers in each voxel"):
        Volume.from_sitk(image)


def test_sitk_slice_is_refused():
    with pytest.raises(ReadError, match="12 x 11 voxels"):
        Volume.from_sitk(sitk.GetImageFromArray(hu_ijk().T[0]))


def test_array_zyx_with_an_lps_affine_is_the_grids_own():
    affine = np.array([[0, 0, 1, -6], [0, 2, 0, -11], [3, 0, 0, 40], [0, 0, 0, 1]])
    volume = Volume.from_array(hu_ijk().T, affine_lps=affine)
    np.testing.assert_array_equal(volume.grid.affine, affine)
    np.testing.assert_array_equal(volume.hu, hu_ijk().T)


def test_nibabels_array_and_affine_are_the_same_scan_as_the_image():
    image = nibabel.Nifti1Image(hu_ijk(), AFFINE_RAS)
    volume = Volume.from_array(image.get_fdata(), affine_ras=image.affine)
    np.testing.assert_array_equal(volume.hu, hu_ijk())
    turn, expected = volume.grid.to_canonical(), Volume.from_nibabel(image)
    assert turn.apply_to_grid(volume.grid).matches(expected.grid.to_canonical().apply_to_grid(expected.grid))


def test_int16_array_is_kept_without_a_copy_and_stays_writeable_for_its_owner():
    array = hu_ijk().T
    volume = Volume.from_array(array, affine_lps=np.diag([3, 2, 1, 1]))
    assert np.shares_memory(volume.hu, array)
    assert array.flags.writeable
    assert not volume.hu.flags.writeable


@pytest.mark.parametrize("dtype", [">i2", np.int32, np.int64, np.float32, np.float64])
def test_arrays_of_other_types_are_converted(dtype):
    volume = Volume.from_array(hu_ijk(dtype), affine_lps=np.diag([3, 2, 1, 1]))
    np.testing.assert_array_equal(volume.hu, hu_ijk())


def test_floats_are_rounded_halves_to_even_and_clipped():
    array = hu_ijk(np.float64)
    array[0, 0, :5] = (-3.4, 7.6, 0.5, 1.5, 1e9)
    volume = Volume.from_array(array, affine_lps=np.diag([3, 2, 1, 1]))
    assert volume.hu[0, 0, :5].tolist() == [-3, 8, 0, 2, 32767]


def test_nan_is_counted_over_the_whole_array():
    array = np.full((40, 200, 200), -1000.0)  # several slabs
    array[0, 0, 0] = array[39, 0, 0] = np.nan
    with pytest.raises(ReadError, match="converting an array: expected finite values, got 2 voxels"):
        Volume.from_array(array, affine_lps=np.diag([3, 2, 1, 1]))


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((1, 10, 11, 12), np.int16), "1 x 10 x 11 x 12"),
        (np.zeros((10, 11), np.int16), "10 x 11"),
        (np.zeros((1, 11, 12), np.int16), "1 x 11 x 12"),
        (np.zeros((0, 11, 12), np.int16), "0 x 11 x 12"),
        (np.zeros((10, 11, 12), bool), "bool"),
        (np.zeros((10, 11, 12), complex), "complex128"),
        ([["a"]], "<U1"),
    ],
)
def test_what_is_no_volume_is_refused(array, got):
    with pytest.raises(ReadError, match=got):
        Volume.from_array(array, affine_lps=np.eye(4))


def test_values_that_cannot_be_hu_are_refused():
    with pytest.raises(ReadError, match="air or fat"):
        Volume.from_array(np.random.default_rng(0).random((10, 11, 12)), affine_lps=np.diag([3, 2, 1, 1]))


@pytest.mark.parametrize(
    ("affines", "message"),
    [
        ({}, "expected one affine, affine_ras or affine_lps, got none"),
        ({"affine_ras": np.eye(4), "affine_lps": np.eye(4)}, "got both"),
        ({"affine_ras": np.eye(3)}, r"a 4x4 affine, got an array of shape \(3, 3\)"),
        ({"affine_lps": np.diag([0.003, 0.002, 0.001, 1])}, "spacings from 0.02 to 50.0 mm"),
        ({"affine_lps": np.diag([3.0, 0, 1, 1])}, "three independent axes"),
        ({"affine_lps": np.diag([3.0, np.nan, 1, 1])}, "a finite 4x4 affine"),
    ],
)
def test_affines_that_place_no_scan_are_refused(affines, message):
    with pytest.raises(GeometryError, match=message):
        Volume.from_array(hu_ijk(), **affines)
