"""Reading NIfTI: values, geometry, and every reason to refuse. Files are made with nibabel or byte by byte."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from viscera.core.errors import ConfigError, GeometryError, ReadError
from viscera.read import read_volume

# RAS over (i, j, k): 1 x 2 x 3 mm, oblique in the first two axes (36.87 degrees: cosine 0.8, sine 0.6).
AFFINE = np.array([[0.8, -1.2, 0, -10], [0.6, 1.6, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])


def ct_ijk(dtype=np.int16):
    """A body of 12 x 11 x 10 voxels (i, j, k): air, fat and soft tissue."""
    return np.random.default_rng(3).integers(-1000, 400, (12, 11, 10)).astype(dtype)


def save(tmp_path, array, affine=AFFINE, name="ct.nii.gz", kind=nib.Nifti1Image, change=lambda header: None):
    image = kind(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    change(image.header)
    path = tmp_path / name
    nib.save(image, path)
    return path


def patched(path: Path, offset: int, form: str, *values) -> Path:
    """The same uncompressed file with header bytes overwritten."""
    raw = bytearray(path.read_bytes())
    struct.pack_into("<" + form, raw, offset, *values)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", ">i4", "<f4", ">f4", "<f8", "<i8"])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_values_of_every_type_are_kept(tmp_path, dtype, name):
    array = ct_ijk(dtype)
    image = nib.Nifti1Image(array, AFFINE, header=nib.Nifti1Header(endianness=dtype[0]), dtype=array.dtype)
    nib.save(image, tmp_path / name)
    volume = read_volume(tmp_path / name)
    assert volume.hu.dtype == np.int16
    np.testing.assert_array_equal(volume.hu, ct_ijk().transpose(2, 1, 0))


def test_version_2_is_read(tmp_path):
    volume = read_volume(save(tmp_path, ct_ijk(), kind=nib.Nifti2Image))
    np.testing.assert_array_equal(volume.hu, ct_ijk().transpose(2, 1, 0))
    np.testing.assert_allclose(volume.grid.nifti_affine(), AFFINE, atol=1e-12)


def test_data_inside_a_version_2_header_are_refused(tmp_path):
    path = patched(save(tmp_path, ct_ijk(), kind=nib.Nifti2Image, name="ct.nii"), 168, "q", 352)
    with pytest.raises(ReadError, match="data that begin at byte 352"):
        read_volume(path)


def test_oddities_that_do_not_matter_are_passed_over_in_silence(tmp_path, caplog, capfd):
    path = save(tmp_path, ct_ijk(), name="ct.nii")
    patched(path, 72, "h", 7)  # bits per voxel
    patched(path, 123, "B", 2 + 56)  # millimetres, and a unit of time that does not exist
    np.testing.assert_array_equal(read_volume(path).hu, ct_ijk().transpose(2, 1, 0))
    assert (caplog.records, *capfd.readouterr()) == ([], "", "")


def test_affine_is_turned_to_lps_over_zyx(tmp_path):
    affine = read_volume(save(tmp_path, ct_ijk())).grid.affine
    expected = [[0, 1.2, -0.8, 10], [0, -1.6, -0.6, -20], [3, 0, 0, -30], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected, atol=1e-6)


def test_sheared_affine_is_kept(tmp_path):
    sheared = AFFINE.copy()
    sheared[:3, 2] = [0.0, 0.9, 2.8]
    path = save(tmp_path, ct_ijk(), sheared, change=lambda h: h.set_qform(None, code=0))
    np.testing.assert_allclose(read_volume(path).grid.nifti_affine(), sheared, atol=1e-6)


def qform_only(tmp_path, affine):
    path = save(tmp_path, ct_ijk(), affine, name="ct.nii", change=lambda h: h.set_qform(affine, code=1))
    return patched(path, 254, "h", 0)  # sform_code


def test_qform_alone_is_read_as_nibabel_reads_it(tmp_path):
    mirrored = AFFINE @ np.diag([1, 1, -1, 1])
    path = qform_only(tmp_path, mirrored)
    np.testing.assert_allclose(read_volume(path).grid.nifti_affine(), nib.load(path).affine, atol=1e-6)
    np.testing.assert_allclose(read_volume(path).grid.nifti_affine(), mirrored, atol=1e-5)


def test_qform_a_little_off_the_standard_is_read(tmp_path):
    path = qform_only(tmp_path, AFFINE)
    quaternion = np.array(struct.unpack_from("<3f", path.read_bytes(), 256)) * (1 - 1e-6)
    patched(path, 76, "2f", 0.0, -1.0)  # no handedness, and a negative spacing
    patched(path, 256, "3f", *quaternion)
    np.testing.assert_allclose(read_volume(path).grid.nifti_affine(), AFFINE, atol=1e-5)


def test_half_turn_rounded_upwards_is_read(tmp_path):
    turned = np.diag([-1.0, -2, 3, 1])
    path = qform_only(tmp_path, turned)
    patched(path, 264, "f", 1.000003)
    np.testing.assert_allclose(read_volume(path).grid.nifti_affine(), turned, atol=1e-5)


def test_too_long_quaternion_is_refused(tmp_path):
    path = patched(qform_only(tmp_path, AFFINE), 256, "f", 1.1)
    with pytest.raises(GeometryError, match="a unit quaternion in the qform"):
        read_volume(path)


def test_scaled_values_are_rounded_to_the_nearest_hu(tmp_path):
    array = ct_ijk(np.uint8)
    array[:4, 0, 0] = (0, 10, 11, 255)
    path = patched(save(tmp_path, array, name="ct.nii"), 112, "2f", 2.25, -500.0)
    # -500, -477.5 -> -478 (half to even), -475.25 -> -475, 73.75 -> 74
    np.testing.assert_array_equal(read_volume(path).hu[0, 0, :4], [-500, -478, -475, 74])


@pytest.mark.parametrize("scaling", [(np.inf, 0), (1, np.nan)])
def test_not_finite_scaling_is_refused(tmp_path, scaling):
    path = patched(save(tmp_path, ct_ijk(), name="ct.nii"), 112, "2f", *scaling)
    with pytest.raises(ReadError, match="the scaling"):
        read_volume(path)


def test_values_beyond_int16_are_clipped(tmp_path):
    array = ct_ijk(np.float64)
    array[0, 0, :3] = (-1e6, 1e300, 40000)
    np.testing.assert_array_equal(read_volume(save(tmp_path, array)).hu[:3, 0, 0], [-32768, 32767, 32767])


def test_array_is_read_only(tmp_path):
    assert not read_volume(save(tmp_path, ct_ijk())).hu.flags.writeable


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_voxels_are_counted_and_refused(tmp_path, value):
    array = ct_ijk(np.float32)
    array[1, 2, 3] = array[5, 5, 9] = array[0, 0, 0] = value
    with pytest.raises(ReadError, match="got 3 voxels that are NaN or infinite"):
        read_volume(save(tmp_path, array))


def test_one_volume_in_four_dimensions_is_read(tmp_path):
    volume = read_volume(save(tmp_path, ct_ijk()[..., np.newaxis]))
    np.testing.assert_array_equal(volume.hu, ct_ijk().transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("shape", "text"),
    [((12, 11, 10, 2), "2 volumes"), ((12, 11), "12 x 11 voxels"), ((12, 11, 1), "12 x 11 x 1 voxels")],
)
def test_other_dimensions_are_refused(tmp_path, shape, text):
    with pytest.raises(ReadError, match=text):
        read_volume(save(tmp_path, np.zeros(shape, np.int16)))


def test_unknown_orientation_is_refused(tmp_path):
    path = save(tmp_path, ct_ijk(), name="ct.nii")
    patched(path, 252, "2h", 0, 0)
    with pytest.raises(GeometryError, match="sform_code 0 and qform_code 0"):
        read_volume(path)


@pytest.mark.parametrize("step", [0.0, float("nan"), float("inf")])
def test_missing_spacing_is_refused(tmp_path, step):
    path = patched(save(tmp_path, ct_ijk(), name="ct.nii"), 88, "f", step)
    with pytest.raises(GeometryError, match="spacings above zero"):
        read_volume(path)


def test_sform_without_extent_is_refused(tmp_path):
    path = patched(save(tmp_path, ct_ijk(), name="ct.nii"), 280, "12f", *[0.0] * 12)
    with pytest.raises(GeometryError, match="the same spacing"):
        read_volume(path)


def test_spacing_that_contradicts_the_sform_is_refused(tmp_path):
    path = patched(save(tmp_path, ct_ijk(), name="ct.nii"), 88, "f", 5.0)
    with pytest.raises(GeometryError, match="the same spacing in pixdim and in the sform"):
        read_volume(path)


def test_mirrored_qform_is_refused(tmp_path):
    def contradict(header):
        header.set_sform(AFFINE, code=1)
        header.set_qform(np.diag([-1.0, 1, 1, 1]) @ AFFINE, code=1)

    path = save(tmp_path, ct_ijk(), None, change=contradict)
    with pytest.raises(GeometryError, match="mirror image"):
        read_volume(path)


def test_shifted_qform_is_noted(tmp_path):
    def shift(header):
        moved = AFFINE.copy()
        moved[0, 3] += 7.5
        header.set_sform(AFFINE, code=1)
        header.set_qform(moved, code=1)

    volume = read_volume(save(tmp_path, ct_ijk(), None, change=shift))
    assert volume.notes == ("The header's sform and qform differ by up to 7.5 mm; the sform was used.",)
    np.testing.assert_allclose(volume.grid.nifti_affine(), AFFINE, atol=1e-6)


def test_metres_are_refused(tmp_path):
    with pytest.raises(GeometryError, match="lengths in mm, got metres"):
        read_volume(save(tmp_path, ct_ijk(), change=lambda h: h.set_xyzt_units("meter")))


def test_absurd_spacing_is_refused(tmp_path):
    with pytest.raises(GeometryError, match=r"spacings from 0\.02 to 50\.0 mm"):
        read_volume(save(tmp_path, ct_ijk(), np.diag([0.001, 0.002, 0.003, 1])))


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "RGB colour"),
        (np.complex64, "complex64"),
        (np.complex128, "complex128"),
    ],
)
def test_types_without_one_real_number_are_refused(tmp_path, dtype, text):
    with pytest.raises(ReadError, match=f"one real number per voxel, got {text}"):
        read_volume(save(tmp_path, np.zeros((12, 11, 10), dtype)))


def test_unknown_type_is_refused(tmp_path):
    path = patched(save(tmp_path, ct_ijk(), name="ct.nii"), 70, "h", 777)
    with pytest.raises(ReadError, match="unknown data type 777"):
        read_volume(path)


def test_empty_file_is_refused(tmp_path):
    (tmp_path / "ct.nii").touch()
    with pytest.raises(ReadError, match="an empty file"):
        read_volume(tmp_path / "ct.nii")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ReadError, match="nothing there"):
        read_volume(tmp_path / "ct.nii")


def test_folder_without_ct_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image here")
    with pytest.raises(ReadError, match="expected a CT series, got no DICOM object at all"):
        read_volume(tmp_path)


def test_unknown_kind_is_refused(tmp_path):
    (tmp_path / "ct.tiff").write_bytes(bytes(500))
    with pytest.raises(ReadError, match="got something else"):
        read_volume(tmp_path / "ct.tiff")


@pytest.mark.parametrize("content", [b"hello", bytes(1000), b"\x1f\x8bnot gzip at all"])
def test_other_bytes_are_refused(tmp_path, content):
    (tmp_path / "ct.nii.gz").write_bytes(content)
    with pytest.raises(ReadError):
        read_volume(tmp_path / "ct.nii.gz")


def test_header_pair_is_refused(tmp_path):
    path = patched(save(tmp_path, ct_ijk(), name="ct.nii"), 344, "4s", b"ni1\0")
    with pytest.raises(ReadError, match=r"\.hdr/\.img pair"):
        read_volume(path)


def test_truncated_plain_file_is_refused(tmp_path):
    path = save(tmp_path, ct_ijk(), name="ct.nii")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ReadError, match="that its header claims"):
        read_volume(path)


@pytest.mark.parametrize("cut", [3, 8, 500])
def test_truncated_gzip_is_refused(tmp_path, cut):
    path = save(tmp_path, ct_ijk())
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ReadError, match="cut off"):
        read_volume(path)


def test_short_content_in_whole_gzip_is_refused(tmp_path):
    path = save(tmp_path, ct_ijk())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-2]))
    with pytest.raises(ReadError, match="the end of the file before"):
        read_volume(path)


def test_wrong_checksum_is_refused(tmp_path):
    path = save(tmp_path, ct_ijk())
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ReadError, match="damaged compressed data"):
        read_volume(path)


def test_gzip_of_several_members_is_read(tmp_path):
    path = save(tmp_path, ct_ijk())
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:700]) + gzip.compress(raw[700:]) + bytes(16))
    np.testing.assert_array_equal(read_volume(path).hu, ct_ijk().transpose(2, 1, 0))


def test_compressed_content_without_gz_in_its_name_is_read(tmp_path):
    path = save(tmp_path, ct_ijk()).rename(tmp_path / "ct.nii")
    np.testing.assert_array_equal(read_volume(path).hu, ct_ijk().transpose(2, 1, 0))


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_header_that_claims_gigabytes_is_refused_before_allocation(tmp_path, monkeypatch, name):
    path = save(tmp_path, np.zeros((2, 2, 2), np.int16), name="small.nii")
    raw = bytearray(path.read_bytes()[:377])
    struct.pack_into("<8h", raw, 40, 3, 2100, 2100, 2100, 1, 1, 1, 1)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    monkeypatch.setattr("viscera.core.hounsfield.allocated", lambda *args: pytest.fail("memory was asked for"))
    with pytest.raises(ReadError, match="that its header claims"):
        read_volume(tmp_path / name)


def test_volume_larger_than_any_ct_is_refused(tmp_path):
    path = save(tmp_path, np.zeros((2, 2, 2), np.int16), name="ct.nii")
    patched(path, 40, "8h", 3, 32767, 32767, 3, 1, 1, 1, 1)
    with path.open("r+b") as file:  # a sparse file of the claimed length
        file.truncate(32767 * 32767 * 3 * 2 + 352)
    with pytest.raises(ReadError, match="at most 2147483648 voxels"):
        read_volume(path)


def test_asked_offset_is_added_and_noted(tmp_path):
    path = save(tmp_path, (ct_ijk() + 1024).astype(np.uint16))
    volume = read_volume(path, hu_offset=-1024)
    np.testing.assert_array_equal(volume.hu, ct_ijk().transpose(2, 1, 0))
    assert volume.notes == ("An offset of -1024 HU was added to the stored values on request.",)


def test_absurd_offset_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="hu_offset"):
        read_volume(save(tmp_path, ct_ijk()), hu_offset=10**9)


def test_series_of_a_single_volume_is_refused(tmp_path):
    with pytest.raises(ReadError, match="Leave out --series"):
        read_volume(save(tmp_path, ct_ijk()), series="2")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (ct_ijk() + 1024, r"--hu-offset \(often -1024\)"),
        (ct_ijk(np.int32) + 32768, r"--hu-offset \(here probably -32768\)"),
        (np.abs(ct_ijk()) % 256, "8-bit picture"),
        (np.abs(ct_ijk()) % 5, "label map"),
        (np.abs(ct_ijk()) - 40, "MR and PET are not supported"),
        (ct_ijk(np.float32) / 1000, "air or fat"),
        (np.where(ct_ijk() < -900, -2000, ct_ijk() + 1024), "denser than 700"),
        (np.zeros((12, 11, 10), np.int16), "air or fat"),
    ],
    ids=["offset 1024", "offset 32768", "8 bit", "labels", "mr", "scaled to 1", "offset and padding", "empty"],
)
def test_values_that_cannot_be_hu_are_refused(tmp_path, array, text):
    with pytest.raises(ReadError, match=text):
        read_volume(save(tmp_path, array))


def test_windowed_ct_is_noted(tmp_path):
    volume = read_volume(save(tmp_path, ct_ijk().clip(-160, 240)))
    assert len(volume.notes) == 1
    assert "No voxel is below -200 HU" in volume.notes[0]


def test_narrow_crop_with_little_fat_is_accepted(tmp_path):
    array = np.full((12, 11, 10), 45, np.int16)
    array[0, 0, :] = array[0, 1, :] = -100  # 20 of 1320 voxels
    assert read_volume(save(tmp_path, array)).hu.min() == -100


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_memory_is_the_volume_and_little_more(tmp_path, dtype):
    array = np.full((256, 256, 160), -1000, dtype)
    path = save(tmp_path, array)
    del array
    tracemalloc.start()
    try:
        volume = read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < volume.hu.nbytes + 16 * 2**20  # 20 MiB and slabs; a second copy would be 20 or 40 MiB more


def test_gigabytes_out_of_next_to_nothing_are_refused_before_they_unfold(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((1024, 1024, 1024))
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    # 2 MiB could hold 2 GiB, as far as deflate goes.
    (tmp_path / "ct.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)) + bytes(2**21))
    with pytest.raises(ReadError, match="at most 200 voxels for each stored byte"):
        read_volume(tmp_path / "ct.nii.gz")


def test_voxels_that_begin_far_behind_the_header_are_refused(tmp_path):
    path = patched(save(tmp_path, ct_ijk(), name="ct.nii"), 108, "f", 2.0**29)
    with pytest.raises(ReadError, match="begin at byte"):
        read_volume(path)
