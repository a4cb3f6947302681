"""Reading DICOM: synthetic series in every shape they come in, and every reason to refuse."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from viscera.core.errors import GeometryError, ReadError
from viscera.formats.dicom.read import read_dicom
from viscera.read import read_volume

# Slices of 11 rows x 12 columns, 2 mm between rows, 1 mm between columns, every 3 mm.
ROWS, COLUMNS, SLICES = 11, 12, 10
PATIENT = "Secret^Person"


def ct(slices=SLICES, seed=3):
    return np.random.default_rng(seed).integers(-1000, 400, (slices, ROWS, COLUMNS)).astype(np.int16)


def dataset(hu, position, *, uid="1.2.3", orientation=(1, 0, 0, 0, 1, 0), **changes):
    """A CT slice, stored unsigned with slope 1 and intercept -1024 unless changed."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
    one.PatientName, one.PatientID = PATIENT, "4711"
    one.SeriesInstanceUID, one.SeriesNumber, one.SeriesDescription = uid, "2", "Abdomen"
    one.Modality, one.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    one.ImageOrientationPatient = [float(part) for part in orientation]
    one.ImagePositionPatient = [round(float(part), 4) for part in position]
    one.PixelSpacing = [2.0, 1.0]
    one.Rows, one.Columns, one.SamplesPerPixel = *hu.shape, 1
    one.PhotometricInterpretation, one.PixelRepresentation = "MONOCHROME2", 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
    one.RescaleSlope, one.RescaleIntercept = "1", "-1024"
    one.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    for name, value in changes.items():
        setattr(one, name, value)
    return one


def series(hu=None, *, step=(0.0, 0.0, 3.0), origin=(-10.0, 20.0, -30.0), **changes):
    hu = ct() if hu is None else hu
    return [dataset(one, np.add(origin, np.multiply(step, k)), **changes) for k, one in enumerate(hu)]


def save(folder: Path, datasets, seed=0) -> Path:
    """The data sets under meaningless names in another order."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, place in enumerate(np.random.default_rng(seed).permutation(len(datasets))):
        datasets[place].save_as(folder / f"X{seed}_{k}", enforce_file_format=True)
    return folder


def test_unsorted_series_without_suffixes(tmp_path):
    volume = read_dicom(save(tmp_path, series()))
    np.testing.assert_array_equal(volume.hu, ct())
    # Columns: slices +3 mm along z, rows 2 mm along y, columns 1 mm along x.
    expected = [[0, 0, 1, -10], [0, 2, 0, 20], [3, 0, 0, -30], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.grid.affine, expected, atol=1e-9)
    assert volume.notes == ()


def test_slices_stored_downwards_run_along_the_normal(tmp_path):
    volume = read_dicom(save(tmp_path, series(step=(0, 0, -3.0))))
    np.testing.assert_array_equal(volume.hu, ct()[::-1])
    assert volume.grid.origin_xyz_mm == (-10, 20, -57)


def test_coronal_series(tmp_path):
    volume = read_dicom(save(tmp_path, series(orientation=(1, 0, 0, 0, 0, -1), step=(0, 3.0, 0))))
    np.testing.assert_array_equal(volume.hu, ct())
    expected = [[0, 0, 1, -10], [3, 0, 0, 20], [0, -2, 0, -30], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.grid.affine, expected, atol=1e-9)


def test_gantry_tilt_is_kept_as_shear(tmp_path):
    tilt = np.radians(15)
    orientation = (1, 0, 0, 0, np.cos(tilt), -np.sin(tilt))
    volume = read_dicom(save(tmp_path, series(orientation=orientation)))
    np.testing.assert_array_equal(volume.hu, ct())
    np.testing.assert_allclose(volume.grid.affine[:3, 0], (0, 0, 3), atol=1e-9)
    np.testing.assert_allclose(volume.grid.affine[:3, 1], (0, 2 * np.cos(tilt), -2 * np.sin(tilt)), atol=1e-6)
    assert volume.notes == ("The gantry was tilted by 15.0 degrees; the shear is kept in the geometry.",)


def test_rle_series(tmp_path):
    datasets = series()
    for one in datasets:
        one.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(read_dicom(save(tmp_path, datasets)).hu, ct())


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (JPEGLSLossless, "JPEGLSLossless"),
        (JPEG2000Lossless, "JPEG2000Lossless"),
        (JPEGLosslessSV1, "JPEGLosslessProcess14_1"),
    ],
)
def test_compressed_series(tmp_path, syntax, name):
    gdcm = pytest.importorskip("gdcm")
    save(tmp_path / "plain", series())
    (tmp_path / "packed").mkdir()
    for path in (tmp_path / "plain").iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(tmp_path / "packed" / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert pydicom.dcmread(tmp_path / "packed" / "X0_0").file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_dicom(tmp_path / "packed").hu, ct())


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_plain_encodings(tmp_path, syntax):
    datasets = series()
    for one in datasets:
        one.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
        one["PixelData"].VR = "OW"
    np.testing.assert_array_equal(read_dicom(save(tmp_path, datasets)).hu, ct())


def test_objects_without_preamble(tmp_path):
    for k, one in enumerate(series()):
        del one.file_meta
        one.save_as(tmp_path / f"{k}", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert (tmp_path / "0").read_bytes()[:2] == b"\x08\x00"
    np.testing.assert_array_equal(read_dicom(tmp_path).hu, ct())


def test_signed_values_and_a_slope_per_slice(tmp_path):
    datasets = series()
    for k, one in enumerate(datasets):
        one.PixelRepresentation, one.BitsStored, one.HighBit = 1, 16, 15
        one.RescaleSlope, one.RescaleIntercept = ("1", "0") if k % 2 else ("0.5", "-10")
        stored = ct()[k].astype(np.int32) if k % 2 else 2 * (ct()[k].astype(np.int32) + 10)
        one.PixelData = stored.astype("<i2").tobytes()
    np.testing.assert_array_equal(read_dicom(save(tmp_path, datasets)).hu, ct())


def test_localiser_and_other_objects_are_passed_over(tmp_path):
    save(tmp_path, series())
    scout = series(ct(3, seed=9), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], orientation=(0, 1, 0, 0, 0, -1))
    save(tmp_path, scout, seed=1)
    seg = dataset(ct()[0], (0, 0, 0), uid="1.9", Modality="SEG")
    save(tmp_path / "deeper", [seg], seed=2)
    (tmp_path / "README.txt").write_text("not DICOM")
    volume = read_dicom(tmp_path)
    np.testing.assert_array_equal(volume.hu, ct())
    assert volume.notes == ()


def two_series(folder):
    save(folder, series(ct(4, seed=5), uid="1.2.77", SeriesNumber="3", SeriesDescription="Thorax"))
    return save(folder, series(), seed=1)


def test_of_two_series_the_longer_is_read_and_noted(tmp_path):
    volume = read_dicom(two_series(tmp_path))
    np.testing.assert_array_equal(volume.hu, ct())
    assert volume.notes == (
        "Of 2 CT series, series 2 (Abdomen), 10 slices, was read; the next best, series 3 (Thorax), 4 slices, has "
        "fewer than 10 places.",
    )


def test_axial_is_preferred_to_longer(tmp_path):
    save(tmp_path, series(ct(30), uid="1.2.9", orientation=(1, 0, 0, 0, 0, -1), step=(0, 3.0, 0)))
    np.testing.assert_array_equal(read_dicom(save(tmp_path, series(), seed=1)).hu, ct())


def test_short_axial_series_is_not_preferred(tmp_path):
    coronal = series(uid="1.2.9", orientation=(1, 0, 0, 0, 0, -1), step=(0, 3.0, 0))
    save(tmp_path, coronal)
    np.testing.assert_array_equal(read_dicom(save(tmp_path, series(ct(9, seed=6)), seed=1)).hu, ct())


def test_abdomen_breaks_ties(tmp_path):
    save(tmp_path, series(ct(seed=8), uid="1.2.1", SeriesNumber="1", SeriesDescription="Thorax"))
    np.testing.assert_array_equal(read_dicom(save(tmp_path, series(), seed=1)).hu, ct())


def test_one_place_imaged_often_is_no_long_series(tmp_path):
    save(tmp_path, series(ct(30), uid="1.2.1", SeriesNumber="1", step=(0, 0, 0)))
    np.testing.assert_array_equal(read_dicom(save(tmp_path, series(), seed=1)).hu, ct())


@pytest.mark.parametrize("asked", ["3", "1.2.77", "1.2.7"])
def test_asked_series_is_read(tmp_path, asked):
    volume = read_volume(two_series(tmp_path), series=asked)
    np.testing.assert_array_equal(volume.hu, ct(4, seed=5))
    assert volume.notes == ("On request, series 3 (Thorax), 4 slices, was read.",)


@pytest.mark.parametrize(("asked", "count"), [("9", 0), ("1.2.", 2)])
def test_unknown_or_ambiguous_series_lists_what_is_there(tmp_path, asked, count):
    with pytest.raises(ReadError) as caught:
        read_dicom(two_series(tmp_path), series=asked)
    text = f"got {count} among: series 2 (Abdomen), 10 slices; series 3 (Thorax), 4 slices."
    assert text in str(caught.value)


def test_series_of_one_number_are_listed_with_uid(tmp_path):
    save(tmp_path, series(ct(4), uid="1.2.77"))
    with pytest.raises(ReadError, match=r"series 2 \(Abdomen\) with UID 1\.2\.77, 4 slices"):
        read_dicom(save(tmp_path, series(), seed=1), series="2")


def test_parts_of_one_series_with_other_sizes_are_kept_apart(tmp_path):
    small = [dataset(one[:5, :6], (0, 0, 3 * k)) for k, one in enumerate(ct(4))]
    save(tmp_path, small)
    np.testing.assert_array_equal(read_dicom(save(tmp_path, series(), seed=1)).hu, ct())


@pytest.mark.parametrize("lost", [1, 5, 8])
def test_missing_slice_is_refused(tmp_path, lost):
    datasets = series()
    del datasets[lost]
    with pytest.raises(GeometryError, match=f"got 1 missing \\(the first after slice {lost} of 9"):
        read_dicom(save(tmp_path, datasets))


def test_uneven_gaps_are_refused(tmp_path):
    datasets = series()
    datasets[4].ImagePositionPatient = [-10, 20, -30 + 12.9]
    with pytest.raises(GeometryError, match="evenly spaced slices"):
        read_dicom(save(tmp_path, datasets))


def test_slowly_changing_gaps_are_refused(tmp_path):
    datasets = series()
    for k, one in enumerate(datasets):
        one.ImagePositionPatient = [-10, 20, 3 * k + 0.05 * k * k]
    with pytest.raises(GeometryError, match="evenly spaced slices"):
        read_dicom(save(tmp_path, datasets))


def test_slice_shifted_sideways_is_refused(tmp_path):
    datasets = series()
    datasets[4].ImagePositionPatient = [-10 + 4, 20, -30 + 12]
    # Of the 4 mm, least squares over 10 places leave 1 - 1/10 - 0.25/82.5 parts.
    with pytest.raises(GeometryError, match=r"slice 5 is 3\.59 mm from its place"):
        read_dicom(save(tmp_path, datasets))


def test_rounded_positions_are_accepted(tmp_path):
    datasets = series(step=(0, 0, 0.625))
    for one in datasets:
        one.ImagePositionPatient = [round(float(part), 1) for part in one.ImagePositionPatient]
    assert read_dicom(save(tmp_path, datasets)).grid.spacing_zyx_mm[0] == pytest.approx(0.625, abs=0.01)


def test_two_images_at_one_place_are_refused(tmp_path):
    save(tmp_path, [series(ct(seed=4))[3]])
    with pytest.raises(GeometryError, match="got 1 of 11 at the place of another"):
        read_dicom(save(tmp_path, series(), seed=1))


def test_copies_of_one_object_are_passed_over(tmp_path):
    datasets = series()
    save(tmp_path, datasets[2:4])
    volume = read_dicom(save(tmp_path, datasets, seed=1))
    np.testing.assert_array_equal(volume.hu, ct())
    assert volume.notes == ("2 repeated copies of slices were passed over.",)


def test_one_slice_is_refused(tmp_path):
    folder = save(tmp_path, series())
    with pytest.raises(ReadError, match="the folder that holds the whole series"):
        read_volume(folder / "X0_0")


def test_other_modality_is_refused_by_name(tmp_path):
    with pytest.raises(ReadError, match="expected a CT series, got only MR"):
        read_dicom(save(tmp_path, series(Modality="MR")))


def test_localiser_alone_is_refused(tmp_path):
    with pytest.raises(ReadError, match="got only 10 localisers"):
        read_dicom(save(tmp_path, series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])))


def test_images_without_position_are_refused(tmp_path):
    datasets = series()
    for one in datasets:
        del one.ImagePositionPatient
    with pytest.raises(ReadError, match="got only 10 images without position"):
        read_dicom(save(tmp_path, datasets))


def test_other_units_are_refused(tmp_path):
    with pytest.raises(ReadError, match="in units 'Z_EFF'"):
        read_dicom(save(tmp_path, series(RescaleType="Z_EFF")))


@pytest.mark.parametrize("change", [{"PixelSpacing": [0.0, 1.0]}, {"RescaleSlope": "0"}, {"Rows": 60000}])
def test_senseless_header_is_refused(tmp_path, change):
    with pytest.raises(ReadError, match="expected a whole DICOM object"):
        read_dicom(save(tmp_path, series(**change)))


def test_forgotten_rescale_is_refused(tmp_path):
    with pytest.raises(ReadError, match="--hu-offset"):
        read_dicom(save(tmp_path, series(RescaleIntercept="0")))


def test_offset_on_request(tmp_path):
    volume = read_volume(save(tmp_path, series(RescaleIntercept="0")), hu_offset=-1024)
    np.testing.assert_array_equal(volume.hu, ct())
    assert "-1024 HU was added" in volume.notes[-1]


@pytest.mark.parametrize("left", [100, 400, 900])
def test_truncated_object_is_refused(tmp_path, left):
    folder = save(tmp_path, series())
    raw = (folder / "X0_4").read_bytes()
    (folder / "X0_4").write_bytes(raw[: max(left, 200)] if left < 900 else raw[:-40])
    with pytest.raises((ReadError, GeometryError)):
        read_dicom(folder)


def test_header_that_claims_much_is_refused_before_allocation(tmp_path, monkeypatch):
    datasets = series(Rows=4096, Columns=4096)
    for one in datasets:
        one.PixelData = b"\0\0"
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    monkeypatch.setattr("viscera.formats.dicom.read.allocated", lambda *args: pytest.fail("memory was asked for"))
    with pytest.raises(ReadError, match="voxels that the headers claim"):
        read_dicom(save(tmp_path, datasets))


def test_messages_and_notes_carry_no_names(tmp_path):
    folder = two_series(tmp_path / "ok")
    texts = list(read_dicom(folder).notes)
    broken = [series()[:4] + series()[5:], series(Modality="PT"), series(PixelSpacing=[0, 1]), series(PixelData=b"\0")]
    for k, datasets in enumerate(broken):
        with pytest.raises((ReadError, GeometryError)) as caught:
            read_dicom(save(tmp_path / str(k), datasets))
        texts.append(str(caught.value))
    with pytest.raises(ReadError) as caught:
        read_dicom(folder, series="none")
    assert all("Secret" not in text and "4711" not in text for text in [*texts, str(caught.value)])


def enhanced(order, *, slope=1.0, intercepts=None):
    """An enhanced multi-frame object: frame k is slice `order[k]`, each with its own rescale."""
    hu = ct()
    one = dataset(hu[0], (0, 0, 0))
    for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(one, name)
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = EnhancedCTImageStorage
    one.NumberOfFrames = len(order)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, plane.ImageOrientationPatient = [2.0, 1.0], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    one.SharedFunctionalGroupsSequence = [shared]
    frames, pixels = [], []
    for k in order:
        frame, position, values = Dataset(), Dataset(), Dataset()
        intercept = -1024 - 10 * k
        position.ImagePositionPatient = [-10, 20, -30 + 3 * k]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = str(slope), str(intercept), "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [values]
        frames.append(frame)
        pixels.append(((hu[k].astype(np.int32) - intercept) / slope).astype("<u2").tobytes())
    one.PerFrameFunctionalGroupsSequence = frames
    one.PixelData = b"".join(pixels)
    return one


SHUFFLED = (3, 0, 7, 1, 9, 8, 2, 6, 5, 4)


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_shuffled_enhanced_frames_with_their_own_rescale(tmp_path, syntax):
    one = enhanced(SHUFFLED, slope=0.5)
    if syntax:
        one.compress(syntax, generate_instance_uid=False)
    one.save_as(tmp_path / "frames.dcm", enforce_file_format=True)
    for path in (tmp_path / "frames.dcm", tmp_path):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.hu, ct())
        expected = [[0, 0, 1, -10], [0, 2, 0, 20], [3, 0, 0, -30], [0, 0, 0, 1]]
        np.testing.assert_allclose(volume.grid.affine, expected, atol=1e-9)


def test_missing_frame_is_refused(tmp_path):
    enhanced(SHUFFLED[1:]).save_as(tmp_path / "frames.dcm", enforce_file_format=True)
    with pytest.raises(GeometryError, match="1 missing"):
        read_volume(tmp_path / "frames.dcm")


def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def encoded(one):
    buffer = io.BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_zip_is_read_in_memory_whatever_its_names(tmp_path):
    names = ["../../evil", "/etc/evil", "C:\\evil", "a/../../evil2", "con", *(f"d/{k}" for k in range(5))]
    entries = [(name, encoded(one)) for name, one in zip(names, series(), strict=True)]
    (tmp_path / "in").mkdir()
    path = zipped(tmp_path / "in" / "series.zip", [*entries, ("notes.txt", b"hello")])
    np.testing.assert_array_equal(read_volume(path).hu, ct())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "series.zip"]


def test_zip_bomb_is_refused(tmp_path):
    path = zipped(tmp_path / "bomb.zip", [("x", bytes(128) + b"DICM" + bytes(30_000_000))])
    with pytest.raises(ReadError, match="times the zip's own size"):
        read_volume(path)


def test_zip_with_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("viscera.formats.dicom.files.LARGEST_FILE_COUNT", 9)
    path = zipped(tmp_path / "many.zip", [(str(k), encoded(one)) for k, one in enumerate(series())])
    with pytest.raises(ReadError, match="got 10 files"):
        read_volume(path)


def test_zip_that_unfolds_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("viscera.formats.dicom.files.LARGEST_ZIP_BYTES", 5000)
    path = zipped(tmp_path / "large.zip", [(str(k), encoded(one)) for k, one in enumerate(series())])
    with pytest.raises(ReadError, match="5000 bytes"):
        read_volume(path)


def test_zip_member_that_lies_about_its_size_is_refused(tmp_path):
    path = zipped(tmp_path / "lie.zip", [(str(k), encoded(one)) for k, one in enumerate(series())])
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02") + 24  # the first member's unfolded size in the directory
    raw[at : at + 4] = (300).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(ReadError, match="zip of DICOM files"):
        read_volume(path)


def test_zip_of_another_method_is_refused(tmp_path):
    path = zipped(tmp_path / "b.zip", [("0", encoded(series()[0]))], zipfile.ZIP_BZIP2)
    with pytest.raises(ReadError, match="another method than deflate"):
        read_volume(path)


@pytest.mark.parametrize("cut", [30, 2000])
def test_truncated_zip_is_refused(tmp_path, cut):
    path = zipped(tmp_path / "series.zip", [(str(k), encoded(one)) for k, one in enumerate(series())])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ReadError, match="got a damaged one"):
        read_volume(path)


def test_zip_without_dicom_is_refused(tmp_path):
    with pytest.raises(ReadError, match="no DICOM object at all"):
        read_volume(zipped(tmp_path / "text.zip", [("a.txt", b"hello")]))


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("viscera.core.folders.LARGEST_FILE_COUNT", 9)
    with pytest.raises(ReadError, match="at most 9 files"):
        read_volume(save(tmp_path, series()))


def test_deflated_ct_is_refused_before_inflating(tmp_path):
    one = series()[0]
    one.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    with pytest.raises(ReadError, match="deflated transfer syntax"):
        read_dicom(save(tmp_path, [one]))


def test_a_compressed_image_of_another_size_is_refused(tmp_path):
    one = series()[0]
    one.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    sized = b"\xff\xd8\xff\xc3\x00\x0b\x10\xff\xff\xff\xff\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"
    one.PixelData = pydicom.encaps.encapsulate([sized + b"\0\xff\xd9"])
    one["PixelData"].VR = "OB"
    with pytest.raises(ReadError, match="header says"):
        read_dicom(save(tmp_path, [one, *series()[1:]]))


def test_a_zip_with_a_member_without_a_name_is_read(tmp_path):
    save(tmp_path / "series", series())
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, path.name)
        nameless = zipfile.ZipInfo("x")
        nameless.filename = ""
        archive.writestr(nameless, b"")
    np.testing.assert_array_equal(read_dicom(tmp_path / "ct.zip").hu, ct())


def test_a_zip_with_a_directory_of_many_megabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("viscera.formats.dicom.files._ZipFile.largest_read", 100)
    save(tmp_path / "series", series())
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, path.name)
    with pytest.raises(ReadError, match="a damaged one"):
        read_dicom(tmp_path / "ct.zip")


def test_a_large_member_of_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "ct.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("0", bytes(11 * 2**20))  # so that the ratio is no reason
        archive.writestr("1", b"")
        archive.infolist()[-1].file_size = 2**30 + 1
    with pytest.raises(ReadError, match="in the zip, got a larger one"):
        read_dicom(tmp_path / "ct.zip")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_a_pipe_in_the_folder_is_passed_over(tmp_path):
    os.mkfifo(save(tmp_path, series()) / "A_pipe")
    np.testing.assert_array_equal(read_dicom(tmp_path).hu, ct())
