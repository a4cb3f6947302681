"""Reading label maps: whole numbers from 0 to 255 in any type, nothing else."""

import nibabel as nib
import numpy as np
import pytest

from viscera.core.errors import ReadError
from viscera.read import read_label_map

AFFINE = np.array([[-1.0, 0, 0, 5], [0, 2, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]])


def labels_ijk(dtype=np.uint8):
    return np.random.default_rng(4).integers(0, 118, (12, 11, 10)).astype(dtype)


def save(tmp_path, array):
    nib.save(nib.Nifti1Image(array, AFFINE, dtype=array.dtype), tmp_path / "labels.nii.gz")
    return tmp_path / "labels.nii.gz"


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_whole_numbers_of_every_type_are_read(tmp_path, dtype):
    label_map = read_label_map(save(tmp_path, labels_ijk(dtype)))
    assert label_map.labels.dtype == np.uint8
    np.testing.assert_array_equal(label_map.labels, labels_ijk().transpose(2, 1, 0))
    np.testing.assert_allclose(label_map.grid.nifti_affine(), AFFINE)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(0.5, np.float32), (-1, np.int16), (256, np.uint16), (np.nan, np.float32), (np.inf, np.float64)],
)
def test_other_values_are_refused(tmp_path, value, dtype):
    array = labels_ijk(dtype)
    array[3, 4, 5] = value
    with pytest.raises(ReadError, match="whole numbers from 0 to 255"):
        read_label_map(save(tmp_path, array))


def test_a_folder_without_a_dicom_seg_is_refused(tmp_path):
    with pytest.raises(ReadError, match=r"expected one DICOM segmentation \(SEG\), got no DICOM object"):
        read_label_map(tmp_path)


def scaled(path, stored, slope, intercept):
    """A file with a scale factor; nibabel is the independent reader of what it means."""
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    assert nib.load(path).dataobj.slope == pytest.approx(slope)
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize(
    ("largest", "dtype", "steps"),
    [(4, np.int16, 65535), (4, np.int16, 4000), (117, np.int16, 65535), (255, np.uint16, 65535), (4, np.uint8, 255)],
)
def test_labels_that_a_scale_factor_has_rounded_are_read(tmp_path, largest, dtype, steps):
    """Writers that spread the labels over all numbers of a type give 1.000015 and 2.99998."""
    labels = np.random.default_rng(1).integers(0, largest + 1, (12, 11, 10))
    low = np.iinfo(dtype).min
    slope = largest / steps
    stored = (np.rint(labels / slope) + low).astype(dtype)
    values = scaled(tmp_path / "a.nii.gz", stored, slope, -low * slope)
    assert (values != labels).any()
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.nii.gz").labels, labels.transpose(2, 1, 0))


def test_labels_that_float32_has_rounded_are_read(tmp_path):
    values = labels_ijk(np.float32) + np.float32(2e-5)
    np.testing.assert_array_equal(read_label_map(save(tmp_path, values)).labels, labels_ijk().transpose(2, 1, 0))


@pytest.mark.parametrize("slope", [1 / 255, 0.1, 0.5])
def test_probabilities_with_a_scale_factor_are_no_labels(tmp_path, slope):
    scaled(tmp_path / "a.nii.gz", np.random.default_rng(1).integers(0, 255, (12, 11, 10)).astype(np.uint8), slope, 0)
    with pytest.raises(ReadError, match="whole numbers from 0 to 255"):
        read_label_map(tmp_path / "a.nii.gz")
