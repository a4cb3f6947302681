"""Links and pointers as git-annex, DataLad and Git LFS leave them: named as given, and never left out in silence."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from viscera.batch.discover import list_scans
from viscera.cli.segment_plan import plan_cases
from viscera.core.errors import ReadError
from viscera.core.folders import files_below
from viscera.evaluation.pairing import pair_files
from viscera.formats.dicom.files import dicom_sources
from viscera.formats.inputs import find_inputs, list_inputs
from viscera.formats.nifti_write import write_volume
from viscera.read import read_volume
from viscera.synthesis.phantom import PhantomConfig, make_phantom

DICOM = bytes(128) + b"DICM" + bytes(20)
POINTER = b"/annex/objects/MD5E-s1234--0123456789abcdef.nii.gz\n"
# What a Windows checkout without links has in the place of one.
LINK_TEXT = b"../.git/annex/objects/xX/3M/MD5E-s1234--0123456789abcdef.nii.gz/MD5E-s1234--0123456789abcdef.nii.gz"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n"


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


@pytest.fixture
def annex(tmp_path):
    """A folder of four links: two to one object, two to objects that were not fetched."""
    phantom = make_phantom(3, config=PhantomConfig(shape_zyx=(12, 20, 26), spacing_zyx_mm=(24.0, 16.0, 14.0)))
    write_volume(phantom.volume, tmp_path / "objects" / "MD5E-1.nii.gz")
    for name, target in (("a", "MD5E-1"), ("b", "MD5E-2"), ("c", "MD5E-1"), ("d", "MD5E-3")):
        link(tmp_path / "scans" / f"{name}.nii.gz", tmp_path / "objects" / f"{target}.nii.gz")
    return tmp_path / "scans"


def test_every_link_is_a_case_named_as_it_was_given(annex):
    assert [case.name for case in find_inputs([annex])] == ["a", "b", "c", "d"]
    assert [scan.name for scan in list_scans([annex]).scans] == ["a", "b", "c", "d"]
    assert [case.name for case in plan_cases([annex], annex.parent / "out").cases] == ["a", "b", "c", "d"]
    assert list(pair_files(annex, annex).files) == ["a", "b", "c", "d"]


def test_what_was_not_fetched_fails_in_one_line(annex):
    np.testing.assert_array_equal(read_volume(annex / "a.nii.gz").hu, read_volume(annex / "c.nii.gz").hu)
    for name in "bd":
        with pytest.raises(ReadError, match=r"got a link to a file that is not there. Fetch it \(datalad get"):
            read_volume(annex / f"{name}.nii.gz")


@pytest.mark.parametrize("content", [POINTER, LINK_TEXT, LFS])
def test_a_pointer_is_not_the_file(tmp_path, content):
    path = touch(tmp_path / "a.nii.gz", content)
    assert [case.name for case in find_inputs([tmp_path])] == ["a"]
    with pytest.raises(ReadError, match="a pointer to content that was not fetched"):
        read_volume(path)


@pytest.mark.parametrize("found", [find_inputs, lambda paths: list_scans(paths).scans])
def test_linked_folders_keep_their_own_names(tmp_path, found):
    touch(tmp_path / "store" / "series1" / "IM1", DICOM)
    touch(tmp_path / "store" / "series2" / "IM1", DICOM)
    for name, target in (("anna", "series1"), ("berta", "series2"), ("clara", "series1")):
        link(tmp_path / "scans" / name, tmp_path / "store" / target)
    names = [case.name for case in find_inputs([tmp_path / "scans"])]
    assert names == ["anna", "berta", "clara"]
    given = [tmp_path / "scans" / name for name in ("anna", "berta")]
    assert [case.name for case in found(given)] == ["anna", "berta"]
    assert [case.path for case in found(given)] == given


def test_the_present_folder_has_its_name(tmp_path, monkeypatch):
    touch(tmp_path / "study" / "IM1", DICOM)
    monkeypatch.chdir(tmp_path / "study")
    assert [case.name for case in find_inputs([Path()])] == ["study"]


def test_a_series_with_an_image_that_was_not_fetched_is_refused(tmp_path):
    touch(tmp_path / "IM1", DICOM)
    for broken in (link(tmp_path / "IM2", tmp_path / "gone"), touch(tmp_path / "IM3", POINTER)):
        with pytest.raises(ReadError, match=r"IM[23]"), dicom_sources(tmp_path):
            pass
        broken.unlink() if broken.name == "IM2" else None
    (tmp_path / "IM3").unlink()
    link(tmp_path / "README.md", tmp_path / "gone")
    link(tmp_path / ".git", tmp_path / "gone")
    with dicom_sources(tmp_path) as sources:
        assert [source.label for source in sources] == ["IM1"]


def test_a_series_of_which_nothing_was_fetched_is_one_case(tmp_path):
    for number in range(5):
        link(tmp_path / "scans" / "anna" / f"IM{number}", tmp_path / "gone")
    touch(tmp_path / "scans" / "berta.nii.gz")
    assert [case.name for case in find_inputs([tmp_path / "scans"])] == ["anna", "berta"]
    assert [scan.name for scan in list_scans([tmp_path / "scans"]).scans] == ["berta", "anna"]
    with pytest.raises(ReadError, match="IM0, a link to a file that is not there"):
        read_volume(tmp_path / "scans" / "anna")


def test_linked_folders_within_are_followed_once(tmp_path):
    touch(tmp_path / "store" / "IM1", DICOM)
    touch(tmp_path / "study" / "IM0", DICOM)
    link(tmp_path / "study" / "more", tmp_path / "store")
    link(tmp_path / "study" / "loop", tmp_path / "study")
    link(tmp_path / "store" / "back", tmp_path / "study")
    assert [path.name for path in files_below(tmp_path / "study")] == ["IM0", "IM1"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_a_case(tmp_path):
    touch(tmp_path / "scans" / "a.nii.gz")
    locked = touch(tmp_path / "scans" / "locked" / "IM1", DICOM).parent
    locked.chmod(0)
    try:
        assert [case.name for case in find_inputs([tmp_path / "scans"])] == ["a", "locked"]
        assert [scan.name for scan in list_scans([tmp_path / "scans"]).scans] == ["a", "locked"]
        with pytest.raises(ReadError, match="folders that can be listed"):
            read_volume(locked)
    finally:
        locked.chmod(0o700)


def nifti(path, *, intent=0):
    """Enough of a NIfTI header to say what its values are."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<h", head, 68, intent)
    return touch(path, bytes(head))


def test_scans_in_sub_folders_are_cases_too(tmp_path):
    nifti(tmp_path / "top.nii")
    nifti(tmp_path / "p1" / "ct.nii")
    nifti(tmp_path / "p2" / "visit 1" / "abdomen.nii")
    nifti(tmp_path / "x.nii" / "x.nii")  # as Kaggle unpacks
    touch(tmp_path / "p3" / "series" / "IM1", DICOM)
    found = {case.name: case.path for case in find_inputs([tmp_path])}
    assert found == {
        "p1": tmp_path / "p1" / "ct.nii",
        "p2_visit 1_abdomen": tmp_path / "p2" / "visit 1" / "abdomen.nii",
        "p3": tmp_path / "p3",
        "top": tmp_path / "top.nii",
        "x": tmp_path / "x.nii" / "x.nii",
    }
    listed = list_scans([tmp_path]).scans
    assert {scan.name for scan in listed} == set(found) - {"p3"}  # whose one image is no series


def test_labels_in_sub_folders_are_passed_over_with_a_note(tmp_path):
    nifti(tmp_path / "a.nii")
    nifti(tmp_path / "labels" / "a.nii", intent=1002)
    nifti(tmp_path / "s1" / "ct.nii")
    nifti(tmp_path / "s1" / "segmentations" / "liver.nii")
    nifti(tmp_path / "k1" / "imaging.nii")
    nifti(tmp_path / "k1" / "segmentation.nii")
    touch(tmp_path / "a.seg.nrrd")
    inputs = list_inputs([tmp_path])
    assert [case.name for case in inputs.cases] == ["a", "k1", "s1"]
    (note,) = inputs.notes
    assert "4 were passed over as labels, not CTs" in note
    assert all(name in note for name in ("a.seg.nrrd", "k1/segmentation.nii", "labels/a.nii", "s1/segmentations"))
    assert plan_cases([tmp_path], tmp_path / "out").notes == inputs.notes
    assert list_scans([tmp_path]).notes == inputs.notes


def test_images_beside_dicom_are_passed_over_with_a_note(tmp_path):
    touch(tmp_path / "study" / "IM1", DICOM)
    nifti(tmp_path / "study" / "derived" / "ct.nii")
    inputs = list_inputs([tmp_path / "study"])
    assert [case.name for case in inputs.cases] == ["study"]
    assert inputs.notes == (
        f"{tmp_path / 'study'}: 1 was passed over as images next to a DICOM series: derived/ct.nii.",
    )


def test_a_folder_of_labels_alone_says_so(tmp_path):
    touch(tmp_path / "a.seg.nrrd")
    with pytest.raises(ReadError, match=r"got labels only: a\.seg\.nrrd"):
        find_inputs([tmp_path])


def test_what_macos_leaves_is_no_case(tmp_path):
    for name in ("a.nii", "._a.nii", ".DS_Store", "b_seg.nii.gz", "._b_seg.nii.gz", "._c_seg.dcm"):
        touch(tmp_path / name)
    assert [case.name for case in find_inputs([tmp_path])] == ["a", "b_seg"]
    assert list(pair_files(tmp_path, tmp_path).files) == ["a", "b"]
    for name in ("sub-1_ct.nii.gz", "._sub-1_ct.nii.gz"):
        touch(tmp_path / "bids" / "sub-1" / "ct" / name)
    (tmp_path / "bids" / "dataset_description.json").write_text("{}")
    assert [scan.name for scan in list_scans([tmp_path / "bids"]).scans] == ["sub-1_ct"]


def test_label_files_of_other_layouts_are_paired(tmp_path):
    nifti(tmp_path / "truth" / "case1.nii" / "case1.nii")
    nifti(tmp_path / "truth" / "s2" / "ct.nii")
    nifti(tmp_path / "truth" / "s2" / "segmentations" / "liver.nii")
    nifti(tmp_path / "truth" / "k3" / "imaging.nii")
    nifti(tmp_path / "truth" / "k3" / "segmentation.nii")
    nifti(tmp_path / "truth" / "sub-4" / "anat" / "sub-4_dseg.nii")
    touch(tmp_path / "truth" / "case5.seg.nrrd")
    for name in ("case1", "s2", "k3", "sub-4", "case5"):
        nifti(tmp_path / "ours" / f"{name}.nii")
    pairs = pair_files(tmp_path / "truth", tmp_path / "ours")
    assert (sorted(pairs.files), pairs.missing) == (["case1", "case5", "k3", "s2", "sub-4"], ())
    assert pairs.files["s2"][0] == tmp_path / "truth" / "s2" / "segmentations"
