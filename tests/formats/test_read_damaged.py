"""Whatever bytes are changed or cut, reading ends in a volume or in one clear line, never in another exception."""

import gzip
import io

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset

from viscera.core.errors import VisceraError
from viscera.core.geometry import Grid
from viscera.core.volume import Volume
from viscera.formats.inputs import find_inputs
from viscera.formats.nifti_write import write_volume
from viscera.read import read_label_map, read_volume

HU = np.random.default_rng(11).integers(-1000, 400, (4, 5, 6)).astype(np.int16)


@pytest.fixture(scope="module")
def nifti(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "ct.nii"
    grid = Grid.from_axes(HU.shape, spacing_zyx_mm=(3, 2, 1), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(1, 2, 3))
    write_volume(Volume(hu=HU, grid=grid), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def slices():
    encoded = []
    for k, one in enumerate(HU):
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        item.SOPClassUID, item.SOPInstanceUID = pydicom.uid.CTImageStorage, f"1.2.{k}"
        item.SeriesInstanceUID, item.Modality, item.ImageType = "1.3", "CT", ["ORIGINAL", "PRIMARY"]
        item.ImageOrientationPatient, item.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3 * k]
        item.PixelSpacing, item.Rows, item.Columns = [2, 1], *one.shape
        item.SamplesPerPixel, item.PhotometricInterpretation, item.PixelRepresentation = 1, "MONOCHROME2", 1
        item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
        item.RescaleSlope, item.RescaleIntercept = 1, 0
        item.PixelData = one.tobytes()
        buffer = io.BytesIO()
        item.save_as(buffer, enforce_file_format=True)
        encoded.append(buffer.getvalue())
    return encoded


# Places count from the front, where headers are; the cut is a number of bytes left, if any.
damages = st.tuples(
    st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 255)), max_size=4), st.none() | st.integers(1, 1100)
)


def damaged(raw, damage):
    changes, left = damage
    out = bytearray(raw)
    for place, value in changes:
        out[place % len(out)] = value
    return bytes(out[:left])


def message(reader, path):
    try:
        reader(path)
    except VisceraError as error:
        return str(error)
    return ""


def read_without_surprise(path):
    for reader in (read_volume, read_label_map, lambda one: find_inputs([one])):
        assert "\n" not in message(reader, path)


@given(damage=damages, compressed=st.booleans())
@example(damage=([], None), compressed=True)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_nifti(tmp_path, nifti, damage, compressed):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(damaged(gzip.compress(nifti, mtime=0) if compressed else nifti, damage))
    read_without_surprise(path)


@given(damage=damages, which=st.integers(0, 3))
@example(damage=([], None), which=0)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_dicom(tmp_path, slices, damage, which):
    for k, raw in enumerate(slices):
        (tmp_path / str(k)).write_bytes(damaged(raw, damage) if k == which else raw)
    read_without_surprise(tmp_path)


def test_undamaged_files_are_read(tmp_path, nifti, slices):
    (tmp_path / "ct.nii").write_bytes(nifti)
    (tmp_path / "series").mkdir()
    for k, raw in enumerate(slices):
        (tmp_path / "series" / str(k)).write_bytes(raw)
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.nii").hu, HU)
    np.testing.assert_array_equal(read_volume(tmp_path / "series").hu, HU)
