"""Which formats are certain of left and right: DICOM, whose images are right-handed however they are stored."""

import numpy as np
import pytest

from viscera.core.geometry import Grid
from viscera.core.volume import Volume
from viscera.formats.dicom.ct_write import write_ct_series
from viscera.formats.nifti_write import write_volume
from viscera.read import read_volume

sitk = pytest.importorskip("SimpleITK")

# Affines from (z, y, x): upright; slices from the head; feet first, the table side up; sagittal.
AFFINES = {
    "upright": [[0, 0, 1, -7], [0, 2, 0, 5], [3, 0, 0, 9], [0, 0, 0, 1]],
    "downwards": [[0, 0, 1, -7], [0, 2, 0, 5], [-3, 0, 0, 9], [0, 0, 0, 1]],
    "turned": [[0, 0, -1, -7], [0, -2, 0, 5], [3, 0, 0, 9], [0, 0, 0, 1]],
    "sagittal": [[3, 0, 0, -7], [0, 0, 1, 5], [0, -2, 0, 9], [0, 0, 0, 1]],
}


def volume(affine):
    hu = np.random.default_rng(3).integers(-1000, 400, (10, 11, 12)).astype(np.int16)
    return Volume(hu=hu, grid=Grid(shape_zyx=hu.shape, affine=np.array(affine, dtype=np.float64)))


@pytest.mark.parametrize("name", AFFINES)
def test_dicom_is_certain_of_left_and_right_as_it_is_always_right_handed(name, tmp_path):
    write_ct_series(volume(AFFINES[name]), tmp_path / "ct", name="A")
    read = read_volume(tmp_path / "ct")
    assert read.sides_certain
    assert np.linalg.det(read.grid.affine[:3, 2::-1]) > 0
    theirs = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    assert np.linalg.det(np.reshape(theirs.GetDirection(), (3, 3))) == pytest.approx(1)


def test_an_offset_on_request_does_not_make_it_uncertain(tmp_path):
    write_ct_series(volume(AFFINES["upright"]), tmp_path / "ct", name="A")
    assert read_volume(tmp_path / "ct", hu_offset=7).sides_certain


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_another_header_may_have_exchanged_them(suffix, tmp_path):
    write_volume(volume(AFFINES["upright"]), tmp_path / f"ct{suffix}")
    assert not read_volume(tmp_path / f"ct{suffix}").sides_certain
