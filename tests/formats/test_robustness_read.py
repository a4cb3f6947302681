"""Real files: the good ones read as independent readers read them, each bad one refused for its own reason."""

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from viscera.core.errors import GeometryError, ReadError
from viscera.formats.inputs import find_inputs
from viscera.read import read_label_map, read_volume

# What the reader says about each file of robustness/: an error and its reason, or the shape (z, y, x) it is read in.
OUTCOMES = {
    # Slices 1.08 to 7 mm apart have no one grid; the tilt would be no reason.
    "head_gantry_tilt_uneven_gaps": (GeometryError, "gaps from 1.08 to 7.00 mm"),
    "mr_coronal_by_mistake": (ReadError, "expected a CT series, got only MR"),
    "mr_abdomen_by_mistake.nii.gz": (ReadError, "MR and PET are not supported"),
    "oblique_head_uint8.nii.gz": (ReadError, "8-bit picture"),
    "truncated_stream_offset_1024.nrrd": (ReadError, "cut off"),
    # A valid CT on a sheared grid: it has no abdomen, which is not for the reader to say.
    "non_orthonormal_affine_head_neck.nii.gz": (101, 128, 185),
    # A header that mirrors the patient cannot be told from a patient with mirrored organs.
    "msd_spleen_8_mirrored_ct.nii.gz": (32, 512, 512),
    "dicom_seg_liver_3slice": (3, 512, 512),
}
REAL_CT = {
    "acrin_flt_001": (99, 512, 512),
    "cptac_pda_c3l_00189": (35, 512, 512),
    "ts_dicom": (20, 512, 512),
    "amos_0018_ct.nii.gz": (63, 512, 512),
    "ts_example_ct.nii.gz": (112, 101, 122),
    "ts_s0009_ct.nii.gz": (185, 119, 119),
    "ts_slab_ct.nii.gz": (30, 101, 122),
}
SERIES = ["acrin_flt_001", "cptac_pda_c3l_00189", "ts_dicom"]


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_file_has_its_outcome(shared_data, name):
    outcome = OUTCOMES[name]
    if isinstance(outcome[0], int):
        assert read_volume(shared_data / "robustness" / name).hu.shape == outcome
        return
    if name.endswith(".nrrd"):
        pytest.importorskip("SimpleITK")
    with pytest.raises(outcome[0]) as caught:
        read_volume(shared_data / "robustness" / name)
    assert outcome[1] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_is_without_an_outcome(shared_data):
    names = {path.name for path in (shared_data / "robustness").iterdir()}
    assert names - {"msd_spleen_8_mirrored_labels.nii.gz"} == set(OUTCOMES)


@pytest.mark.parametrize("name", REAL_CT)
def test_real_ct_is_read_without_remarks(shared_data, name):
    volume = read_volume(shared_data / "real" / name)
    assert volume.hu.shape == REAL_CT[name]
    assert volume.notes == ()


@pytest.mark.parametrize(
    "name", ["real/amos_0018_ct", "real/ts_s0009_ct", "robustness/non_orthonormal_affine_head_neck"]
)
def test_nifti_as_nibabel_reads_it(shared_data, name):
    path = shared_data / f"{name}.nii.gz"
    volume, image = read_volume(path), nib.load(path)
    np.testing.assert_array_equal(volume.hu, np.asarray(image.dataobj).transpose(2, 1, 0))
    np.testing.assert_allclose(volume.grid.nifti_affine(), image.affine, atol=1e-6)


@pytest.mark.parametrize("name", ["amos_0018", "ts_dicom", "ts_example", "ts_s0009", "ts_slab"])
def test_labels_lie_on_their_ct(shared_data, name):
    ct = shared_data / "real" / (name if name == "ts_dicom" else f"{name}_ct.nii.gz")
    label_map = read_label_map(shared_data / "real" / f"{name}_labels.nii.gz")
    volume = read_volume(ct)
    assert label_map.labels.max() <= 4
    if name == "ts_dicom":  # its labels were drawn on the series converted to NIfTI, whose rows are turned
        ours, theirs = volume.grid.to_canonical(), label_map.grid.to_canonical()
        assert ours.apply_to_grid(volume.grid).matches(theirs.apply_to_grid(label_map.grid), tolerance_mm=0.01)
    else:
        assert label_map.grid.matches(volume.grid, tolerance_mm=0.01)


@pytest.mark.parametrize("name", SERIES)
def test_dicom_as_simpleitk_reads_it(shared_data, name):
    sitk = pytest.importorskip("SimpleITK")
    if (sitk.Version_MajorVersion(), sitk.Version_MinorVersion(), sitk.Version_PatchVersion()) < (2, 5, 7):
        pytest.skip("SimpleITK before 2.5.7 turns series over whose slices run from head to feet")
    folder = shared_data / "real" / name
    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(folder)) or sorted(map(str, folder.iterdir()))
    reader.SetFileNames(names)
    image, volume = reader.Execute(), read_volume(folder)
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(image))
    for x, y, z in [(0, 0, 0), (511, 0, 0), (0, 511, 0), (5, 7, volume.hu.shape[0] - 1)]:
        expected = image.TransformIndexToPhysicalPoint((x, y, z))
        np.testing.assert_allclose(volume.grid.world(np.array([z, y, x])), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["cptac_pda_c3l_00189", "ts_dicom"])
def test_dicom_as_dcm2niix_reads_it(shared_data, tmp_path, name):
    dcm2niix = pytest.importorskip("dcm2niix")
    options = ["-f", "o", "-z", "n", "-b", "n", "-o", str(tmp_path)]
    subprocess.run([dcm2niix.bin, *options, str(shared_data / "real" / name)], check=True, capture_output=True)
    (path,) = tmp_path.glob("*.nii")
    theirs, ours = nib.load(path), read_volume(shared_data / "real" / name)
    turn, back = ours.grid.to_canonical(), read_volume(path).grid.to_canonical()
    np.testing.assert_array_equal(turn.apply(ours.hu), back.apply(np.asarray(theirs.dataobj).transpose(2, 1, 0)))
    ours_turned, theirs_turned = turn.apply_to_grid(ours.grid), back.apply_to_grid(read_volume(path).grid)
    assert ours_turned.matches(theirs_turned, tolerance_mm=0.01)


def test_folders_of_real_cts_are_found(shared_data):
    names = {case.name for case in find_inputs([shared_data / "real"])}
    assert names == {path.name.removesuffix(".nii.gz") for path in (shared_data / "real").iterdir()}


def test_messages_carry_no_identifiers(shared_data):
    with pytest.raises(ReadError) as caught:
        read_volume(shared_data / "robustness" / "mr_coronal_by_mistake")
    text = str(caught.value)
    header = pydicom.dcmread(next(Path(shared_data / "robustness" / "mr_coronal_by_mistake").iterdir()))
    assert str(header.PatientID) not in text
    assert str(header.PatientName) not in text
