"""Segmentations for 3D Slicer: SimpleITK and pynrrd are the oracles for voxels, geometry and fields."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from viscera.core.errors import ReadError, WriteError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS, named_organ
from viscera.core.volume import LabelMap
from viscera.formats.seg_nrrd_write import write_seg_nrrd
from viscera.read import read_label_map, read_volume
from viscera.write import LabelOutputs, require_formats

# Oblique: (z, y, x) to LPS, 3 x 2 x 1 mm.
AFFINE = np.array([[0, -1.2, 0.8, -7.1], [0, 1.6, 0.6, 5.2], [-3, 0, 0, 9.3], [0, 0, 0, 1]])
GRID = Grid(shape_zyx=(10, 11, 12), affine=AFFINE)


def label_map():
    labels = np.random.default_rng(3).integers(0, 5, GRID.shape_zyx).astype(np.uint8)
    return LabelMap(labels=labels, grid=GRID)


def written(path, organs=ORGANS):
    write_seg_nrrd(label_map(), path, organs)
    return path


def test_it_is_read_back_as_it_was(tmp_path):
    read = read_label_map(written(tmp_path / "case.seg.nrrd"))
    np.testing.assert_array_equal(read.labels, label_map().labels)
    np.testing.assert_array_equal(read.grid.affine, AFFINE)
    assert read.notes == ()


def test_simpleitk_reads_the_same_voxels_in_the_same_places(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(written(tmp_path / "case.seg.nrrd")))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), label_map().labels)
    for x, y, z in [(0, 0, 0), (11, 0, 0), (0, 10, 0), (3, 4, 9)]:
        expected = image.TransformIndexToPhysicalPoint((x, y, z))
        np.testing.assert_allclose(GRID.world(np.array([z, y, x])), expected, atol=1e-9)


def test_pynrrd_reads_the_fields_that_3d_slicer_asks_for(tmp_path):
    nrrd = pytest.importorskip("nrrd")
    data, header = nrrd.read(str(written(tmp_path / "case.seg.nrrd")), index_order="C")
    np.testing.assert_array_equal(data, label_map().labels)
    assert header["space"] == "left-posterior-superior"
    assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert header["Segmentation_MasterRepresentation"] == header["Segmentation_SourceRepresentation"]
    for number, organ in enumerate(ORGANS):
        segment = {key.partition("_")[2]: value for key, value in header.items() if key.startswith(f"Segment{number}_")}
        assert (segment["ID"], segment["Name"]) == (f"Segment_{organ.index}", organ.name)
        assert (segment["LabelValue"], segment["Layer"]) == (str(organ.index), "0")
        assert segment["Extent"] == "0 11 0 10 0 9"
        np.testing.assert_allclose([255 * float(one) for one in segment["Color"].split()], organ.colour, atol=1e-3)
        assert f"~SCT^{organ.code.value}^{organ.code.meaning}~^^~" in segment["Tags"]
        assert segment["Tags"].startswith("TerminologyEntry:")
        assert segment["Tags"].endswith("|")


def test_a_side_is_a_modifier_of_the_type(tmp_path):
    kidney = replace(ORGANS[1], index=1, name="kidney_left", laterality="left")
    text = written(tmp_path / "case.seg.nrrd", [kidney]).read_bytes().partition(b"\n\n")[0].decode()
    assert "~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes" in text


def test_a_bundles_own_organs_are_read_back(tmp_path):
    organs = [
        named_organ(1, "spleen"),
        named_organ(2, "gall bladder"),
        named_organ(3, "Ösophagus"),
        named_organ(4, "x"),
    ]
    read = read_label_map(written(tmp_path / "case.seg.nrrd", organs), organs)
    np.testing.assert_array_equal(read.labels, label_map().labels)


def test_it_is_no_ct_and_equal_content_gives_equal_bytes(tmp_path):
    one, other = written(tmp_path / "one.seg.nrrd"), written(tmp_path / "deeper" / "other.seg.nrrd")
    assert one.read_bytes() == other.read_bytes()
    with pytest.raises(ReadError, match="got a segmentation"):
        read_volume(one)


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        written(tmp_path / "file" / "case.seg.nrrd")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_it_is_one_of_the_formats():
    require_formats(["seg-nrrd"])
    outputs = LabelOutputs(labels=Path("out/case.nii.gz"), formats=("seg-nrrd", "nifti"))
    assert {kind: path.name for kind, path in outputs.paths.items()} == {
        "seg-nrrd": "case.seg.nrrd",
        "nifti": "case.nii.gz",
    }
