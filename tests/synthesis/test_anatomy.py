"""Tissues and anatomies: which structure is which tissue, and files that come back whole or are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from viscera.core.errors import ReadError
from viscera.synthesis.anatomy import Anatomy, stored_organs
from viscera.synthesis.tissues import HOLLOW, ORGAN_LABELS, ORGANS, Tissue, trunk_tissues


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("liver", Tissue.LIVER),
        ("kidney_left", Tissue.KIDNEY_LEFT),
        ("kidney_cyst_left", Tissue.CYST),
        ("lung_lower_lobe_right", Tissue.LUNG),
        ("vertebrae_L1", Tissue.BONE),
        ("rib_left_12", Tissue.BONE),
        ("hip_right", Tissue.BONE),
        ("portal_vein_and_splenic_vein", Tissue.PORTAL_VEIN),
        ("pulmonary_vein", Tissue.VEIN),
        ("iliac_artery_left", Tissue.ARTERY),
        ("iliopsoas_right", Tissue.MUSCLE),
    ],
)
def test_a_structures_tissue(name, tissue):
    assert trunk_tissues({7: name}) == {7: tissue}


def test_an_unknown_structure_is_named():
    with pytest.raises(KeyError, match="tentacle"):
        trunk_tissues({1: "liver", 2: "tentacle"})


def test_every_structure_of_the_real_maps_is_known(shared_data):
    names = json.loads((shared_data / "labels" / "ts_classes.json").read_text())
    tissues = trunk_tissues({int(number): name for number, name in names.items()})
    assert len(tissues) == 117
    assert set(ORGANS) <= set(tissues.values())


def test_the_labels_of_tissues():
    assert {tissue.name: int(ORGAN_LABELS[tissue]) for tissue in Tissue if ORGAN_LABELS[tissue]} == {
        "LIVER": 1,
        "KIDNEY_RIGHT": 2,
        "KIDNEY_LEFT": 2,
        "SPLEEN": 3,
        "PANCREAS": 4,
        "CYST": 2,  # of the kidney
    }
    assert {*ORGANS, Tissue.CYST} == {tissue for tissue in Tissue if ORGAN_LABELS[tissue]}
    assert not set(ORGANS) & set(HOLLOW)


def test_an_anatomy_comes_back_from_its_file(small_anatomy, tmp_path):
    path = tmp_path / "a.safetensors"
    small_anatomy.save(path)
    read = Anatomy.load(path)
    assert read.name == "small"
    np.testing.assert_array_equal(read.tissues, small_anatomy.tissues)
    np.testing.assert_array_equal(read.depth, small_anatomy.depth)
    assert read.organs.keys() == small_anatomy.organs.keys() == set(ORGANS)
    for tissue, place in small_anatomy.organs.items():
        np.testing.assert_array_equal(read.organs[tissue], place)


def test_the_organs_of_a_file_without_its_arrays(small_anatomy, tmp_path):
    path = tmp_path / "a.safetensors"
    small_anatomy.save(path)
    assert set(stored_organs(path)) == set(ORGANS)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def text(path: Path) -> None:
    path.write_text("no anatomy")


def missing(path: Path) -> None:
    path.unlink()


def other_arrays(path: Path) -> None:
    save_file({"weights": np.zeros(3, dtype=np.float32)}, path)


def rewritten(path: Path, tissues: np.ndarray, organs: str) -> None:
    save_file({"tissues": tissues, "depth": np.zeros((2, 3, 4), dtype=np.uint8)}, path, {"name": "a", "organs": organs})


def other_shape(path: Path) -> None:
    rewritten(path, np.zeros((2, 3, 5), dtype=np.uint8), "{}")


def other_type(path: Path) -> None:
    rewritten(path, np.zeros((2, 3, 4), dtype=np.float32), "{}")


def other_organs(path: Path) -> None:
    rewritten(path, np.zeros((2, 3, 4), dtype=np.uint8), '{"GILL": [[0, 0, 0], [1, 1, 1]]}')


def organs_as_list(path: Path) -> None:
    rewritten(path, np.zeros((2, 3, 4), dtype=np.uint8), "[1]")


DAMAGES = (cut, text, missing, other_arrays, other_shape, other_type, other_organs, organs_as_list)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_refused_by_name(damage, small_anatomy, tmp_path):
    path = tmp_path / "a.safetensors"
    small_anatomy.save(path)
    damage(path)
    with pytest.raises(ReadError, match=r"a\.safetensors: expected a file that viscera anatomies wrote"):
        Anatomy.load(path)


@pytest.mark.parametrize("damage", [text, missing, other_arrays, other_organs, organs_as_list])
def test_of_a_damaged_file_no_organs_are_told(damage, small_anatomy, tmp_path):
    path = tmp_path / "a.safetensors"
    small_anatomy.save(path)
    damage(path)
    with pytest.raises(ReadError, match="Make it again"):
        stored_organs(path)
