"""DICOM SEG and RTSTRUCT from `viscera segment`, read back and validated by programs of others."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")
image_draw = pytest.importorskip("PIL.ImageDraw")

from viscera.cli.main import main  # noqa: E402
from viscera.read import read_label_map, read_volume  # noqa: E402

CODES = {"10200004", "64033007", "78961009", "15776009"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The series a phantom was written as, and its labels in every format."""
    folder = tmp_path_factory.mktemp("dicom")
    size = ["--shape", "40", "64", "72", "--spacing", "7", "6", "5"]
    assert main(["phantom", "-q", "--dicom", *size, "-o", str(folder / "series")]) == 0
    formats = ["-f", "nifti", "-f", "dicom-seg", "-f", "rtstruct"]
    assert main(["segment", "-q", str(folder / "series"), "-o", str(folder / "out"), *formats, "--device", "cpu"]) == 0
    return folder


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_the_seg_read_back_is_the_nifti(results: Path) -> None:
    seg, nifti = (read_label_map(only(results / "out", name)) for name in ("*_seg.dcm", "*.nii.gz"))
    assert seg.grid.matches(nifti.grid)
    assert nifti.labels.any()
    np.testing.assert_array_equal(seg.labels, nifti.labels)


def test_a_seg_as_labelmap_reads_back_alike(results: Path, tmp_path: Path) -> None:
    arguments = ["-f", "dicom-seg", "--seg-type", "labelmap", "--device", "cpu"]
    assert main(["segment", "-q", str(results / "series"), "-o", str(tmp_path), *arguments]) == 0
    found = read_label_map(only(tmp_path, "*_seg.dcm")).labels
    np.testing.assert_array_equal(found, read_label_map(only(results / "out", "*_seg.dcm")).labels)


def test_the_seg_names_organs_by_their_codes_and_its_images(results: Path) -> None:
    seg = pydicom.dcmread(only(results / "out", "*_seg.dcm"))
    assert {one.SegmentedPropertyTypeCodeSequence[0].CodeValue for one in seg.SegmentSequence} <= CODES
    referenced = {one.ReferencedSOPInstanceUID for one in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    series = {pydicom.dcmread(path).SOPInstanceUID for path in (results / "series").rglob("*") if path.is_file()}
    assert referenced == series


def test_the_contours_filled_are_the_labels(results: Path) -> None:
    labels = read_label_map(only(results / "out", "*.nii.gz"))
    volume = read_volume(results / "series")
    structures = pydicom.dcmread(only(results / "out", "*_rtstruct.dcm"))
    to_voxel = np.linalg.inv(volume.grid.affine)
    names = {roi.ROINumber: roi.ROIName for roi in structures.StructureSetROISequence}
    for contours in structures.ROIContourSequence:
        label = ["liver", "kidney", "spleen", "pancreas"].index(names[contours.ReferencedROINumber]) + 1
        expected = labels.labels == label
        filled = np.zeros(expected.shape, dtype=bool)
        for contour in contours.get("ContourSequence", ()):
            world = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            z, y, x = (to_voxel[:3, :3] @ world.T + to_voxel[:3, 3:])[:3]
            place = round(float(z.mean()))
            filled[place] ^= inside(expected.shape[1:], y, x)
        assert 2 * (filled & expected).sum() / (filled.sum() + expected.sum()) >= 0.99


def inside(shape: tuple[int, int], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Voxel centres within a polygon, by the even-odd rule: a ray crosses its edges an odd number of times."""
    rows, columns = np.indices(shape)
    odd = np.zeros(shape, dtype=bool)
    for y0, x0, y1, x1 in zip(y, x, np.roll(y, -1), np.roll(x, -1), strict=True):
        if y0 != y1:
            crosses = (y0 > rows) != (y1 > rows)
            odd ^= crosses & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
    return odd


@pytest.mark.parametrize("name", ["*_seg.dcm", "*_rtstruct.dcm"])
def test_the_validator_finds_no_error(program: Callable[[str], str], results: Path, name: str) -> None:
    command = [program("dciodvfy"), only(results / "out", name)]
    told = subprocess.run(command, check=False, capture_output=True, text=True).stderr
    assert [line for line in told.splitlines() if line.startswith("Error")] == []


def test_a_scan_that_is_no_dicom_is_refused_in_one_line(
    tiny_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(tiny_scan), "-o", str(tmp_path / "out"), "-f", "dicom-seg"]) == 1
    message = capsys.readouterr().err
    assert "DICOM" in message
    assert not list((tmp_path / "out").glob("*.dcm"))
