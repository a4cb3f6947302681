"""Names and codes of labels, matched with organs, in every kind of file that has them."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from viscera.core.errors import ReadError
from viscera.core.label_names import LabelName, label_meaning, organ_by_code, organ_by_name
from viscera.core.organs import ORGANS, Code, named_organ
from viscera.evaluation.evaluate import evaluate_cases
from viscera.evaluation.scores import ScoringConfig
from viscera.read import read_label_map
from viscera.training.cache import LabelRule
from viscera.training.label_mapping import LabelMapping, read_ids

AFFINE = np.array([[-1.0, 0, 0, 5], [0, 2, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]])
# As TotalSegmentator numbers them (version 2).
NAMES = {1: "spleen", 2: "kidney_right", 3: "kidney_left", 4: "gallbladder", 5: "liver", 7: "pancreas"}
ORGAN_OF = np.array([0, 3, 2, 2, 0, 1, 0, 4], dtype=np.uint8)


def ids_ijk():
    return np.random.default_rng(2).choice([0, *NAMES], (12, 11, 10)).astype(np.uint8)


def save(path, array=None, *, extension=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(ids_ijk() if array is None else array, AFFINE)
    if extension is not None:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, extension.encode()))
    nibabel.save(image, path)
    return path


def label_table(names, form="<![CDATA[{}]]>"):
    """The header extension of TotalSegmentator."""
    labels = "\n".join(
        f'<Label Key="{key}" Red="0.1" Green="0.2" Blue="0.3" Alpha="1">{form.format(name)}</Label>'
        for key, name in names.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>\n'
        f'<VolumeInformation Index="0"><LabelTable>{labels}</LabelTable></VolumeInformation></CaretExtension>'
    )


@pytest.mark.parametrize(
    ("name", "organ"),
    [
        ("Liver", "liver"),
        ("LIVER_", "liver"),
        ("kidney_left", "kidney"),
        ("Right Kidney", "kidney"),
        ("kidneys", "kidney"),
        ("Kidney (L)", "kidney"),
        ("pancreas", "pancreas"),
        ("spleen structure", "spleen"),
        ("liver tumour", None),
        ("liver segment 4", None),
        ("kidney cyst left", None),
        ("left", None),
        ("", None),
    ],
)
def test_names_of_organs(name, organ):
    found = organ_by_name(name, ORGANS)
    assert (found and found.name) == organ


def test_a_table_that_tells_sides():
    sides = [named_organ(1, "left kidney"), named_organ(2, "right kidney")]
    assert organ_by_name("kidney_right", sides) == sides[1]
    assert organ_by_name("kidney", sides) is None


@pytest.mark.parametrize(
    ("code", "organ"),
    [
        (("SCT", "64033007"), "kidney"),
        (("SCT", "18639004"), "kidney"),
        (("SRT", "T-71010"), "kidney"),
        (("99SDM", "T-C3000"), "spleen"),
        (("SCT", "28231008"), None),
    ],
)
def test_codes_of_organs(code, organ):
    found = organ_by_code(Code(scheme=code[0], value=code[1], meaning=""), ORGANS)
    assert (found and found.name) == organ


KIDNEYS = (
    ORGANS[0],
    replace(ORGANS[1], name="right kidney", laterality="right"),
    replace(ORGANS[1], index=3, name="left kidney", laterality="left"),
)
KIDNEY = ORGANS[1].code


@pytest.mark.parametrize(
    ("label", "organ"),
    [
        (LabelName(name="Segment 1", code=KIDNEY, laterality="left"), "left kidney"),
        (LabelName(name="Segment 1", code=KIDNEY, laterality="right"), "right kidney"),
        (LabelName(name="Kidney, L", code=KIDNEY), "left kidney"),
        (LabelName(name="x", code=Code(value="18639004", meaning="Left kidney structure")), "left kidney"),
        (LabelName(name="x", code=Code(value="T-71010", meaning="Right kidney", scheme="SRT")), "right kidney"),
        (LabelName(name="kidney", code=KIDNEY), None),
        (LabelName(name="kidney"), None),
    ],
)
def test_the_side_of_a_code_in_a_table_that_tells_sides(label, organ):
    meaning = label_meaning({1: LabelName(name="liver"), 2: label}, KIDNEYS)
    assert [one.name for one in KIDNEYS if one.index == meaning.indices[2]] == ([organ] if organ else [])
    assert meaning.passed_over == (() if organ else ("kidney",))


def test_a_name_and_a_code_of_two_sides_are_refused():
    label = LabelName(name="right kidney", code=KIDNEY, laterality="left")
    with pytest.raises(ReadError, match="the name 'right kidney' with the code of 'Kidney', left"):
        label_meaning({1: label}, KIDNEYS)


@pytest.mark.parametrize("names", [["Segment_1", "segment 2"], ["label1", "label2"], ["1", "2"], ["", ""]])
def test_names_that_say_nothing(names):
    assert label_meaning({k: LabelName(name=name) for k, name in enumerate(names, 1)}, ORGANS) is None


@pytest.mark.parametrize("form", ["<![CDATA[{}]]>", "{}"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_the_table_in_a_nifti_header_counts(tmp_path, name, form):
    path = save(tmp_path / name, extension=label_table(NAMES, form))
    read = read_label_map(path)
    np.testing.assert_array_equal(read.labels, ORGAN_OF[ids_ijk()].transpose(2, 1, 0))
    assert "gallbladder" in read.notes[0]


def test_labels_of_totalsegmentator_are_scored_by_their_names(tmp_path):
    save(tmp_path / "ours.nii.gz", ORGAN_OF[ids_ijk()])
    path = save(tmp_path / "theirs.nii.gz", extension=label_table(NAMES))
    assert [score.dsc for score in evaluate_cases(tmp_path / "ours.nii.gz", path).scores] == [1.0] * 4


def test_a_mapping_must_agree_with_the_names(tmp_path):
    path = save(tmp_path / "a.nii.gz", extension=label_table(NAMES))
    fitting = ScoringConfig(reference_labels={1: 3, 5: 1, 2: 2, 3: 2, 7: 4})
    save(tmp_path / "b.nii.gz", ORGAN_OF[ids_ijk()])
    scores = evaluate_cases(path, tmp_path / "b.nii.gz", config=fitting).scores
    assert [score.dsc for score in scores] == [1.0] * 4
    with pytest.raises(ReadError, match="label 1 to be liver, as the mapping says, got spleen as the file's own name"):
        evaluate_cases(path, tmp_path / "b.nii.gz", config=ScoringConfig(reference_labels={1: 1}))


def test_training_reads_the_names(tmp_path):
    path = save(tmp_path / "a.nii.gz", extension=label_table(NAMES))
    np.testing.assert_array_equal(read_ids(path, LabelMapping()).labels, ORGAN_OF[ids_ijk()].transpose(2, 1, 0))
    rules = [LabelRule(id=key, label=int(ORGAN_OF[key])) for key in NAMES]
    mapping = LabelMapping(rules=tuple(rules))
    ids = read_ids(path, mapping)
    np.testing.assert_array_equal(ids.labels, ids_ijk().transpose(2, 1, 0))
    wrong = LabelMapping(rules=(LabelRule(id=1, label=1), *rules[1:]))
    with pytest.raises(ReadError, match="got spleen as the file's own name"):
        read_ids(path, wrong)


def bids(folder, table, *, at="sub-1/anat/sub-1_dseg.tsv"):
    save(folder / "sub-1" / "anat" / "sub-1_dseg.nii.gz")
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    (folder / at).write_text(table, encoding="utf-8")
    return folder / "sub-1" / "anat" / "sub-1_dseg.nii.gz"


TABLE = "index\tname\tcolor\n" + "".join(
    f"{key}\t{name}\t#000000\n" for key, name in {0: "Background", **NAMES}.items()
)


@pytest.mark.parametrize("at", ["sub-1/anat/sub-1_dseg.tsv", "sub-1/sub-1_dseg.tsv", "dseg.tsv"])
def test_the_table_of_a_bids_data_set_counts(tmp_path, at):
    read = read_label_map(bids(tmp_path, TABLE, at=at))
    np.testing.assert_array_equal(read.labels, ORGAN_OF[ids_ijk()].transpose(2, 1, 0))


def test_the_table_of_another_file_does_not(tmp_path):
    path = bids(tmp_path, TABLE, at="sub-1/anat/sub-1_desc-other_dseg.tsv")
    np.testing.assert_array_equal(read_label_map(path).labels, ids_ijk().transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("number\tname\n1\tliver\n", "the columns index and name"),
        ("index\tname\n1\tliver\n1\tspleen\n", "whole numbers as index, each once"),
        ("index\tname\none\tliver\n", "whole numbers as index"),
        ("index\tname\n1\tspleen\n", "voxels of the label 2, 3, 4, 5, 7 without one"),
        ("index\tname\n1\tHeart\n", "got Heart"),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused(tmp_path, table, said):
    with pytest.raises(ReadError, match=said):
        read_label_map(bids(tmp_path, table))


def test_two_tables_that_contradict_each_other_are_refused(tmp_path):
    path = bids(tmp_path, TABLE)
    save(path, extension=label_table({**NAMES, 1: "liver", 5: "spleen"}))
    with pytest.raises(ReadError, match="the file's own name for it"):
        read_label_map(path)


def test_a_folder_of_masks_is_one_label_map(tmp_path):
    for key, name in NAMES.items():
        save(tmp_path / "s1" / "segmentations" / f"{name}.nii.gz", (ids_ijk() == key).astype(np.uint8))
    save(tmp_path / "s1" / "segmentations" / "._liver.nii.gz")
    folder = tmp_path / "s1" / "segmentations"
    np.testing.assert_array_equal(read_label_map(folder).labels, ORGAN_OF[ids_ijk()].transpose(2, 1, 0))
    save(tmp_path / "ours" / "s1.nii.gz", ORGAN_OF[ids_ijk()])
    for pair in ((folder, tmp_path / "ours" / "s1.nii.gz"), (tmp_path, tmp_path / "ours")):
        scores = evaluate_cases(*pair, keep_going=True).scores
        assert [(score.case, score.dsc) for score in scores if score.case == "s1"] == [("s1", 1.0)] * 4
    save(folder / "spleen.nii.gz", np.ones((12, 11, 10), np.uint8))
    with pytest.raises(ReadError, match="at most one organ in a voxel"):
        read_label_map(folder)
