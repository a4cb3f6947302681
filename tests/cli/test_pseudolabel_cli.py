"""From CTs without labels to cases to train on."""

import csv

import pytest

from viscera.cli.main import main
from viscera.formats.nifti_write import write_volume
from viscera.read import read_label_map
from viscera.synthesis.phantom import PhantomConfig, make_phantom
from viscera.training.cache import UNKNOWN_LABEL, Cache

SHAPE = PhantomConfig(shape_zyx=(48, 80, 96), spacing_zyx_mm=(6.0, 4.5, 4.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pseudo-labels of one phantom; a second CT is none."""
    folder = tmp_path_factory.mktemp("pseudo")
    write_volume(make_phantom(5, config=SHAPE).volume, folder / "scans" / "person.nii.gz")
    (folder / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    code = main(["pseudolabel", str(folder / "scans"), "-o", str(folder / "out"), "--quiet"])
    return folder, code


def test_a_scan_that_cannot_be_read_fails_and_the_others_are_labelled(folder):
    path, code = folder
    assert code == 1
    with (path / "out" / "cases.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["person"]


def test_labels_are_organs_and_unknown(folder):
    path, _ = folder
    labels = read_label_map(path / "out" / "labels" / "person.nii.gz").labels
    assert {0, 1, UNKNOWN_LABEL} <= set(labels.ravel().tolist()) <= {0, 1, 2, 3, 4, UNKNOWN_LABEL}


def test_prepare_reads_what_was_written(folder):
    path, _ = folder
    out = path / "out"
    arguments = ["prepare", str(out / "cases.csv"), "--labels", str(out / "mapping.toml"), "-o", str(path / "cache")]
    assert main([*arguments, "--workers", "1", "--quiet"]) == 0
    cache = Cache.open(path / "cache")
    assert cache.names == ("person",)
    assert UNKNOWN_LABEL in cache.load("person", "segment").labels
    assert all(organ.label != UNKNOWN_LABEL for organ in cache.entry("person").organs)
