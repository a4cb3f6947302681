"""A volume as a DICOM series: what is written is read again, and is what the standard asks for."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from viscera.cli.main import main
from viscera.core.errors import GeometryError, WriteError
from viscera.core.geometry import Grid
from viscera.core.volume import Volume
from viscera.formats.dicom.ct_write import write_ct_series
from viscera.formats.dicom.read import read_dicom
from viscera.formats.dicom.uids import named_uid

SHAPE = (5, 6, 7)


def volume(affine: np.ndarray) -> Volume:
    hu = np.random.default_rng(1).integers(-1024, 500, SHAPE).astype(np.int16)
    return Volume(hu=hu, grid=Grid(shape_zyx=SHAPE, affine=affine))


def oblique() -> np.ndarray:
    """Columns of (z, y, x): 3, 2 and 1 mm, turned by 30 degrees about the patient's long axis."""
    cosine, sine = np.cos(np.radians(30)), np.sin(np.radians(30))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = (0, 0, 3), (-2 * sine, 2 * cosine, 0), (cosine, sine, 0)
    affine[:3, 3] = (-10.5, 20.25, -30)
    return affine


def test_a_series_reads_as_it_was_written(tmp_path: Path) -> None:
    written = volume(oblique())
    write_ct_series(written, tmp_path / "ct", name="A")
    read = read_dicom(tmp_path / "ct")
    np.testing.assert_array_equal(read.hu, written.hu)
    np.testing.assert_allclose(read.grid.affine, written.grid.affine, atol=1e-5)


def test_identifiers_follow_from_the_name_and_are_all_different(tmp_path: Path) -> None:
    first = write_ct_series(volume(oblique()), tmp_path / "a", name="A")
    again = write_ct_series(volume(oblique()), tmp_path / "b", name="A")
    other = write_ct_series(volume(oblique()), tmp_path / "c", name="B")
    assert first == again
    assert len({*first, *other}) == 2 * SHAPE[0]
    assert (tmp_path / "a" / "0001.dcm").read_bytes() == (tmp_path / "b" / "0001.dcm").read_bytes()


def test_a_named_uid_is_one() -> None:
    uid = pydicom.uid.UID(named_uid("a", "b"))
    assert uid.is_valid
    assert named_uid("a", "b") != named_uid("ab")


def test_the_standards_checker_finds_no_error(program: Callable[[str], str], tmp_path: Path) -> None:
    write_ct_series(volume(oblique()), tmp_path / "ct", name="A")
    command = [program("dciodvfy"), str(tmp_path / "ct" / "0003.dcm")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert "CTImage" in done.stderr + done.stdout
    assert "Error" not in done.stderr + done.stdout


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(WriteError, match="new or empty folder"):
        write_ct_series(volume(oblique()), tmp_path, name="A")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_shear_in_the_plane_is_refused(tmp_path: Path) -> None:
    affine = oblique()
    affine[:3, 1] += affine[:3, 2]
    with pytest.raises(GeometryError, match="right angle"):
        write_ct_series(volume(affine), tmp_path / "ct", name="A")


def test_the_phantom_as_dicom_is_the_phantom(tmp_path: Path) -> None:
    size = ["--shape", "6", "30", "40", "--spacing", "50", "14", "12", "-q"]
    assert main(["phantom", "-o", str(tmp_path / "ct"), "--dicom", *size]) == 0
    assert main(["phantom", "-o", str(tmp_path / "ct.nii"), *size]) == 0
    from viscera.read import read_volume

    np.testing.assert_array_equal(read_dicom(tmp_path / "ct").hu, read_volume(tmp_path / "ct.nii").hu)
