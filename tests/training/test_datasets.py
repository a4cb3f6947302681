"""Data sets: every layout is found, what has no counterpart is named, labels mean what the mapping says."""

import json

import nibabel
import numpy as np
import pytest

from viscera.core.errors import ConfigError, ReadError
from viscera.core.geometry import Grid
from viscera.training.cache import LabelRule
from viscera.training.datasets import find_dataset
from viscera.training.label_mapping import LabelMapping, id_counts, read_ids, read_mapping


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def named(dataset):
    return [
        (case.name, str(case.image.relative_to(dataset.folder)), str(case.labels.relative_to(dataset.folder)))
        for case in dataset.cases
    ]


def test_images_and_labels(tmp_path):
    touch(tmp_path / "images" / "b.nii.gz", tmp_path / "images" / "a.mha")
    touch(tmp_path / "labels" / "a.nii.gz", tmp_path / "labels" / "b.nii")
    found = find_dataset(tmp_path)
    assert named(found) == [("a", "images/a.mha", "labels/a.nii.gz"), ("b", "images/b.nii.gz", "labels/b.nii")]
    assert (found.layout, found.refused) == ("images/ + labels/", ())


def test_flare_2021(tmp_path):
    touch(tmp_path / "TrainingImg" / "train_007_0000.nii.gz", tmp_path / "TrainingMask" / "train_007.nii.gz")
    assert named(find_dataset(tmp_path)) == [
        ("train_007", "TrainingImg/train_007_0000.nii.gz", "TrainingMask/train_007.nii.gz")
    ]


def test_abdomenct_1k_in_parts(tmp_path):
    for part, number in ((1, 1), (2, 400)):
        touch(tmp_path / f"AbdomenCT-1K-ImagePart{part}" / f"Case_{number:05d}_0000.nii.gz")
        touch(tmp_path / "Mask" / f"Case_{number:05d}.nii.gz")
    found = find_dataset(tmp_path)
    assert [case.name for case in found.cases] == ["Case_00001", "Case_00400"]
    assert found.layout == "AbdomenCT-1K"


def nnunet(folder, labels):
    touch(folder / "imagesTr" / "liver_1_0000.nii.gz", folder / "labelsTr" / "liver_1.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


@pytest.mark.parametrize(
    "labels", [{"background": 0, "spleen": 1, "liver": 2}, {"0": "background", "1": "spleen", "2": "liver"}]
)
def test_nnunet_says_itself_what_its_labels_are(tmp_path, labels):
    found = find_dataset(nnunet(tmp_path, labels))
    assert named(found) == [("liver_1", "imagesTr/liver_1_0000.nii.gz", "labelsTr/liver_1.nii.gz")]
    np.testing.assert_array_equal(found.mapping.apply(np.arange(3, dtype=np.uint8)[None, None]), [[[0, 3, 1]]])


def test_nnunet_with_other_names_asks_for_a_mapping(tmp_path):
    nnunet(tmp_path, {"background": 0, "left kidney": 1})
    with pytest.raises(ConfigError, match="--labels"):
        find_dataset(tmp_path)
    mapping = LabelMapping(rules=(LabelRule(id=1, label=2),))
    assert find_dataset(tmp_path, mapping).mapping == mapping


def test_totalsegmentator(tmp_path):
    for name in ("s0001", "s0002"):
        touch(tmp_path / name / "ct.nii.gz", tmp_path / name / "segmentations" / "kidney_left.nii.gz")
    touch(tmp_path / "s0003" / "ct.nii.gz", tmp_path / "s0003" / "segmentations" / "heart.nii.gz")
    touch(tmp_path / "s0004" / "segmentations" / "liver.nii.gz", tmp_path / "meta.csv")
    found = find_dataset(tmp_path)
    assert named(found) == [(name, f"{name}/ct.nii.gz", f"{name}/segmentations") for name in ("s0001", "s0002")]
    assert found.layout == "TotalSegmentator"
    assert [case.name for case in found.refused] == ["s0003", "s0004"]


def test_files_in_folders_of_their_own_names(tmp_path):
    """As data sets come from Kaggle."""
    touch(tmp_path / "images" / "a_0000.nii" / "a_0000.nii", tmp_path / "images" / "b.nii.gz" / "b.nii")
    touch(tmp_path / "labels" / "a.nii" / "a.nii", tmp_path / "labels" / "b.nii")
    assert named(find_dataset(tmp_path)) == [
        ("a", "images/a_0000.nii/a_0000.nii", "labels/a.nii/a.nii"),
        ("b", "images/b.nii.gz/b.nii", "labels/b.nii"),
    ]


def test_label_files_with_the_usual_endings(tmp_path):
    touch(*(tmp_path / "images" / name for name in ("a.nii", "b.nii", "c_seg.nii", "._a.nii")))
    touch(*(tmp_path / "labels" / name for name in ("a.seg.nrrd", "b_seg.nii", "c_seg.nii", "._a.nii")))
    assert [case.labels.name for case in find_dataset(tmp_path).cases] == ["a.seg.nrrd", "b_seg.nii", "c_seg.nii"]


def test_two_label_files_for_one_ct_are_refused(tmp_path):
    touch(tmp_path / "images" / "a.nii", tmp_path / "images" / "b.nii")
    touch(tmp_path / "labels" / "a_seg.nii", tmp_path / "labels" / "a.seg.nrrd", tmp_path / "labels" / "b.nii")
    found = find_dataset(tmp_path)
    assert [case.name for case in found.cases] == ["b"]
    assert any("for one CT" in refusal.reason for refusal in found.refused)


def test_a_second_channel_is_refused_by_name(tmp_path):
    nnunet(tmp_path, {"background": 0, "liver": 1})
    touch(tmp_path / "imagesTr" / "liver_1_0001.nii.gz")
    assert [case.name for case in find_dataset(tmp_path).refused] == ["liver_1_0001"]


def test_a_table(tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("name,image,labels\nanna,ct/a.nii,seg/a.nii\n,b.x.nii.gz,b.nii\n,c.nii,\n")
    found = find_dataset(table)
    assert [(case.name, case.image, case.labels) for case in found.cases] == [
        ("anna", tmp_path / "ct/a.nii", tmp_path / "seg/a.nii"),
        ("b", tmp_path / "b.x.nii.gz", tmp_path / "b.nii"),
    ]
    assert [(case.name, case.reason) for case in found.refused] == [("c", "line 4 lacks the CT or the labels")]


def test_a_table_without_its_columns(tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("ct,mask\na,b\n")
    with pytest.raises(ReadError, match="columns"):
        find_dataset(table)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a:b"])
def test_names_that_cannot_be_files_are_refused(tmp_path, name):
    table = tmp_path / "cases.csv"
    table.write_text(f"name,image,labels\n{name},a.nii,b.nii\ngood,a.nii,b.nii\n")
    found = find_dataset(table)
    assert ([case.name for case in found.cases], [case.name for case in found.refused]) == (["good"], [name])


def test_one_name_twice_is_refused(tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("name,image,labels\nA,a.nii,b.nii\na,c.nii,d.nii\n")
    found = find_dataset(table)
    assert ([case.name for case in found.cases], [case.name for case in found.refused]) == (["A"], ["a"])


def test_what_has_no_counterpart_is_named(tmp_path):
    touch(*(tmp_path / "images" / f"{name}.nii" for name in "abx"))
    touch(*(tmp_path / "labels" / f"{name}.nii" for name in "aby"))
    found = find_dataset(tmp_path)
    assert [case.name for case in found.cases] == ["a", "b"]
    assert [case.name for case in found.refused] == ["x", "y"]
    assert "no labels" in found.refused[0].reason
    assert "no CT" in found.refused[1].reason


@pytest.mark.parametrize("make", ["nothing", "folder", "file"])
def test_no_data_set_says_which_layouts_there_are(tmp_path, make):
    path = tmp_path / "data"
    if make == "folder":
        path.mkdir()
    if make == "file":
        path.write_text("x")
    with pytest.raises(ReadError, match="imagesTr"):
        find_dataset(path)


def mapping_file(folder, text):
    path = folder / "labels.toml"
    path.write_text(text)
    return path


def test_a_mapping_joins_ids_and_knows_lesions(tmp_path):
    text = 'lesions = [6]\n[labels]\n1 = "liver"\n2 = "kidney"\n3 = "kidney"\n4 = "background"\n6 = "liver"\n'
    mapping = read_mapping(mapping_file(tmp_path, text))
    ids = np.array([0, 1, 2, 3, 4, 6], dtype=np.uint8)[None, None]
    np.testing.assert_array_equal(mapping.apply(ids), [[[0, 1, 2, 2, 0, 1]]])
    assert mapping.lesion_ids == (6,)
    assert mapping.organs == ("liver", "kidney", "spleen", "pancreas")


def test_a_mapping_may_name_other_organs(tmp_path):
    mapping = read_mapping(mapping_file(tmp_path, 'organs = ["aorta", "heart"]\n[labels]\n51 = "heart"\n'))
    assert (mapping.organs, mapping.rules) == (("aorta", "heart"), (LabelRule(id=51, label=2),))


@pytest.mark.parametrize(
    "text",
    [
        "[labels]\n1 = 'livr'",
        "[labels]\none = 'liver'",
        "[labels]\n300 = 'liver'",
        "[label]\n1 = 'liver'",
        "lesions = [2]\n[labels]\n1 = 'liver'",
        "organs = ['a', 'a']\n[labels]\n1 = 'a'",
        "organs = [1]\n[labels]\n1 = 'a'",
        "labels = 3",
        "not toml",
    ],
)
def test_a_mapping_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(ConfigError):
        read_mapping(mapping_file(tmp_path, text))


def test_a_mapping_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_mapping(tmp_path / "none.toml")


def test_an_unknown_id_is_named():
    ids = np.array([0, 1, 9], dtype=np.uint8)[None, None]
    with pytest.raises(ReadError, match=r"also \[9\]"):
        LabelMapping().apply(ids)


def test_counts_by_id():
    labels = np.array([[[0, 5]], [[5, 255]]], dtype=np.uint8)
    counts = id_counts(labels)
    assert (counts.shape, counts[0], counts[5], counts[255], counts.sum()) == ((256,), 1, 2, 1, 4)


def test_labels_of_a_case_are_mapped(tmp_path):
    grid = Grid.from_axes(
        (2, 3, 4), spacing_zyx_mm=(3, 2, 1), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(0, 0, 0)
    )
    ids = (np.arange(24) % 3).astype(np.uint8).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(ids.transpose(2, 1, 0), grid.nifti_affine()), tmp_path / "a.nii")
    mapping = LabelMapping(rules=(LabelRule(id=1, label=4), LabelRule(id=2, label=0)))
    found = mapping.apply(read_ids(tmp_path / "a.nii", mapping).labels)
    np.testing.assert_array_equal(found, np.where(ids == 1, 4, 0))


# Cases that annotate some of the organs


def test_a_column_says_which_organs_a_case_annotates(tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text(
        'image,labels,annotated\na.nii,a_l.nii,liver; spleen\nb.nii,b_l.nii,\nc.nii,c_l.nii,"kidney,liver"\n'
    )
    found = find_dataset(table)
    assert [case.annotated for case in found.cases] == [("liver", "spleen"), None, ("kidney", "liver")]
    named = [found.mapping.annotated_by(case.annotated) for case in found.cases]
    assert named == [("liver", "spleen"), None, ("liver", "kidney")]  # in the order of the labels


def test_a_mapping_says_it_for_all_cases_but_those_with_words_of_their_own(tmp_path):
    path = tmp_path / "mapping.toml"
    path.write_text('annotated = ["spleen"]\n[labels]\n1 = "spleen"\n')
    mapping = read_mapping(path)
    assert mapping.annotated == ("spleen",)
    assert mapping.annotated_by(None) == ("spleen",)
    assert mapping.annotated_by(("pancreas", "liver")) == ("liver", "pancreas")
    assert mapping.annotated_by(mapping.organs[::-1]) is None


@pytest.mark.parametrize("named", ['["lung"]', "[]", '"liver"', "[1]"])
def test_a_mapping_that_annotates_what_it_does_not_know_is_refused(named, tmp_path):
    path = tmp_path / "mapping.toml"
    path.write_text(f'annotated = {named}\n[labels]\n1 = "spleen"\n')
    with pytest.raises(ConfigError, match="annotated"):
        read_mapping(path)
