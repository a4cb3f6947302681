"""Writing: the grid and values arrive exactly, and a file is whole or absent."""

import errno
import os
import re
import stat
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from viscera.core import files as write
from viscera.core.errors import WriteError
from viscera.core.files import remove_stale_temporaries, write_bytes, write_text
from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap, Volume
from viscera.formats import nifti_write
from viscera.formats.nifti_write import write_label_map, write_volume

OBLIQUE = np.array([[0.0, 0.6, 0.8], [0.0, 0.8, -0.6], [1.0, 0.0, 0.0]])  # columns: z, y, x


def grid(shape=(10, 11, 12), direction=OBLIQUE):
    return Grid.from_axes(shape, spacing_zyx_mm=(3, 2, 1), direction_zyx=direction, origin_xyz_mm=(-10, 20, 30))


def label_map():
    labels = np.random.default_rng(6).integers(0, 5, (10, 11, 12)).astype(np.uint8)
    return LabelMap(labels=labels, grid=grid())


def volume():
    hu = np.random.default_rng(7).integers(-1024, 1500, (10, 11, 12)).astype(np.int16)
    return Volume(hu=hu, grid=grid())


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_label_map_as_nibabel_reads_it(tmp_path, name):
    write_label_map(label_map(), tmp_path / name)
    image = nib.load(tmp_path / name)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), label_map().labels.transpose(2, 1, 0))
    np.testing.assert_allclose(image.affine, grid().nifti_affine(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(image.header.get_zooms(), (1, 2, 3), rtol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_intent()[0] == "label"


def test_volume_as_nibabel_reads_it(tmp_path):
    write_volume(volume(), tmp_path / "ct.nii.gz")
    image = nib.load(tmp_path / "ct.nii.gz")
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume().hu.transpose(2, 1, 0))
    assert not image.header.extensions


def test_qform_says_the_same_where_it_can(tmp_path):
    write_label_map(label_map(), tmp_path / "out.nii.gz")
    qform, code = nib.load(tmp_path / "out.nii.gz").header.get_qform(coded=True)
    assert code == 1
    np.testing.assert_allclose(qform, grid().nifti_affine(), atol=1e-5)


def test_qform_is_left_out_where_axes_are_sheared(tmp_path):
    sheared = OBLIQUE.copy()
    sheared[:, 0] = (0.0, 0.1, np.sqrt(0.99))
    target = grid(direction=sheared)
    write_label_map(LabelMap(labels=label_map().labels, grid=target), tmp_path / "out.nii.gz")
    header = nib.load(tmp_path / "out.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    np.testing.assert_allclose(header.get_sform(), target.nifti_affine(), rtol=1e-6, atol=1e-6)


def test_turned_view_is_written_in_its_own_order(tmp_path):
    turned = label_map().labels[::-1, :, ::-1].transpose(1, 0, 2)
    write_label_map(LabelMap(labels=turned, grid=grid((11, 10, 12))), tmp_path / "out.nii")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out.nii").dataobj).transpose(2, 1, 0), turned)


def test_extension_names_the_organs(tmp_path):
    write_label_map(label_map(), tmp_path / "out.nii.gz")
    (extension,) = nib.load(tmp_path / "out.nii.gz").header.extensions
    assert extension.get_code() == 0
    labels = ET.fromstring(extension.get_content().rstrip(b"\0")).findall(".//LabelTable/Label")
    named = {int(label.attrib["Key"]): label.text for label in labels}
    assert named == {0: "background", 1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"}
    assert float(labels[1].attrib["Red"]) == pytest.approx(213 / 255, abs=1e-5)


def test_equal_content_makes_equal_bytes(tmp_path):
    write_label_map(label_map(), tmp_path / "a.nii.gz")
    write_label_map(label_map(), tmp_path / "other name.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "other name.nii.gz").read_bytes()
    assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == bytes(4)  # no time


def test_missing_folders_are_made(tmp_path):
    write_text("a\nb é", tmp_path / "x" / "y" / "t.txt")
    assert (tmp_path / "x" / "y" / "t.txt").read_bytes() == "a\nb é".encode()


def test_bytes_replace_what_was_there(tmp_path):
    write_bytes(b"long content", tmp_path / "f")
    write_bytes(b"new", tmp_path / "f")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"new"]


def test_other_suffix_is_refused(tmp_path):
    with pytest.raises(WriteError, match=r"ends in \.nii or \.nii\.gz"):
        write_label_map(label_map(), tmp_path / "out.nrrd")
    assert not list(tmp_path.iterdir())


def test_size_beyond_the_format_is_refused(tmp_path):
    long = grid((32768, 2, 3))
    with pytest.raises(WriteError, match="at most 32767"):
        write_label_map(LabelMap(labels=np.zeros((32768, 2, 3), np.uint8), grid=long), tmp_path / "out.nii")


def test_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="a folder that can be written to"):
        write_bytes(b"x", tmp_path / "file" / "out")


def test_folder_in_the_way_is_refused(tmp_path):
    (tmp_path / "out" / "inside").mkdir(parents=True)
    with pytest.raises(WriteError):
        write_bytes(b"x", tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), WriteError)],
)
def test_nothing_is_left_when_writing_stops(tmp_path, monkeypatch, fault, raised):
    path = tmp_path / "out.nii.gz"
    path.write_bytes(b"what was there")

    def stop(file, header, array, dtype):
        file.write(header)
        raise fault

    monkeypatch.setattr(nifti_write, "_write_image", stop)
    with pytest.raises(raised):
        write_label_map(label_map(), path)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"what was there"]


@pytest.mark.skipif(os.name != "posix", reason="folders are flushed on POSIX systems only")
@pytest.mark.parametrize("durable", [False, True])
def test_content_is_on_the_disk_before_its_name_and_a_durable_name_before_the_return(tmp_path, monkeypatch, durable):
    path, flushed = tmp_path / "entry.json", []

    def fsync(handle):
        kind = "name" if stat.S_ISDIR(os.fstat(handle).st_mode) else os.fstat(handle).st_size
        flushed.append((kind, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(b"a" * 100_000, path, durable=durable)
    assert flushed == [(100_000, False), *([("name", True)] if durable else [])]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EIO, errno.ENOSPC])
def test_what_cannot_be_flushed_is_written_and_noted_once_what_fails_to_be_is_not(
    tmp_path, monkeypatch, caplog, number
):
    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    write._report_not_flushed.cache_clear()
    if number in (errno.EIO, errno.ENOSPC):
        with pytest.raises(WriteError, match=re.escape(os.strerror(number))):
            write_bytes(b"x", tmp_path / "out")
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            write.flush_to_disk(tmp_path)
        return
    for name in ("1", "2"):
        write_bytes(b"x", tmp_path / name, durable=True)
        assert (tmp_path / name).read_bytes() == b"x"
    assert not write.flush_to_disk(tmp_path)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"{what} cannot be flushed here ({os.strerror(number)}): a power cut may undo what was written just before it"
        for what in ("a file", "a folder")
    ]
    write._report_not_flushed.cache_clear()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: real(Path("/dev/full"), "wb", buffering=0))
    with pytest.raises(WriteError, match="No space left on device"):
        write_bytes(b"x", tmp_path / "out")


def test_files_of_killed_processes_are_removed_after_an_hour(tmp_path):
    ages = {".viscera-aa.part": 3700, ".viscera-bb.part": 3500, ".viscera-cc.part": -86400, "mine.part": 86400}
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_stale_temporaries([tmp_path, tmp_path, tmp_path / "not there"])
    assert {path.name for path in tmp_path.iterdir()} == ages.keys() - {".viscera-aa.part"}


def test_a_clock_that_is_ahead_removes_nothing_that_is_being_written(tmp_path, monkeypatch):
    (tmp_path / ".viscera-aa.part").touch()
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 5 * 3600)
    remove_stale_temporaries([tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == [".viscera-aa.part"]
