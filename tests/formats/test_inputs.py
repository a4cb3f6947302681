"""Which cases paths stand for, and how they are named."""

import pytest

from viscera.core.errors import ReadError
from viscera.formats.inputs import find_inputs

DICOM = bytes(128) + b"DICM" + bytes(20)


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_files_are_cases_named_by_their_stems(tmp_path):
    names = ["a.nii", "b.nii.gz", "c.NRRD", "d.mha", "e.mhd"]
    paths = [touch(tmp_path / name) for name in names]
    cases = find_inputs(paths)
    assert [case.name for case in cases] == ["a", "b", "c", "d", "e"]
    assert [case.path for case in cases] == paths


def test_zip_and_multi_frame_file_are_cases(tmp_path):
    paths = [touch(tmp_path / "s.zip", b"PK\x03\x04"), touch(tmp_path / "frames.dcm", DICOM)]
    assert [case.name for case in find_inputs(paths)] == ["s", "frames"]


def test_folder_with_dicom_in_it_is_one_case(tmp_path):
    touch(tmp_path / "study" / "IM1", DICOM)
    touch(tmp_path / "study" / "deeper" / "IM2", DICOM)
    touch(tmp_path / "study" / "report.txt")
    (case,) = find_inputs([tmp_path / "study"])
    assert (case.path, case.name) == (tmp_path / "study", "study")


def test_folder_of_cts_is_expanded(tmp_path):
    touch(tmp_path / "b.nii.gz")
    touch(tmp_path / "a.nii")
    touch(tmp_path / "readme.txt")
    touch(tmp_path / ".hidden.nii")
    touch(tmp_path / "person 7" / "series 2" / "0001", DICOM)
    touch(tmp_path / "tables" / "ages.csv")
    assert [case.name for case in find_inputs([tmp_path])] == ["a", "b", "person 7"]


def test_equal_names_get_their_parent_folder(tmp_path):
    paths = [touch(tmp_path / "p1" / "ct.nii.gz"), touch(tmp_path / "p2" / "ct.nii.gz"), touch(tmp_path / "x.nii")]
    assert [case.name for case in find_inputs(paths)] == ["p1_ct", "p2_ct", "x"]


def test_names_equal_with_their_parents_are_numbered(tmp_path):
    paths = [touch(tmp_path / "p" / "ct.nii.gz"), touch(tmp_path / "p" / "ct.nii"), touch(tmp_path / "p" / "CT.nrrd")]
    assert [case.name for case in find_inputs(paths)] == ["p_ct", "p_ct_2", "p_CT_3"]


def test_a_case_given_twice_is_one(tmp_path):
    path = touch(tmp_path / "a.nii")
    assert len(find_inputs([path, tmp_path, path])) == 1


def test_missing_path_is_refused(tmp_path):
    with pytest.raises(ReadError, match="nothing there"):
        find_inputs([tmp_path / "none"])


def test_folder_without_ct_is_refused(tmp_path):
    touch(tmp_path / "a.txt")
    with pytest.raises(ReadError, match="looking for CTs in"):
        find_inputs([tmp_path])


def test_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ReadError, match="got something else"):
        find_inputs([touch(tmp_path / "a.txt", bytes(200))])
