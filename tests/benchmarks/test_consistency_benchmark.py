"""The benchmark of volumes over phases: pairs of one person alone, whole organs alone, and its tables from files."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from viscera.core.errors import ReadError
from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap, Volume
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.quality.statistics import OrganStatistics

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "consistency.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("consistency_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def liver(volume_ml, *faces):
    return [
        OrganStatistics(
            organ="liver", voxels=1, volume_ml=volume_ml, mean_hu=60.0, sd_hu=1.0, border_faces=tuple(faces)
        )
    ]


def test_pairs_of_one_person_are_compared_by_their_mean(benchmark):
    scans = [("a", liver(100)), ("a", liver(110)), ("b", liver(50)), ("a", liver(90))]
    found = benchmark.agreements(scans)["liver"]
    # 10 of 105, 10 of 95 and 20 of 100; b has no partner.
    assert found.pairs == 3
    assert found.median_percent == pytest.approx(100 * 10 / 95)
    assert found.largest_percent == pytest.approx(20)


def test_cut_and_absent_organs_are_left_out(benchmark):
    scans = [("a", liver(100)), ("a", liver(50, "superior")), ("b", liver(0)), ("b", liver(0))]
    assert benchmark.agreements(scans)["liver"] == benchmark.Agreement(
        pairs=0, median_percent=None, largest_percent=None
    )


def test_an_organ_missing_in_one_phase_differs_by_all(benchmark):
    assert benchmark.agreements([("a", liver(0)), ("a", liver(80))])["liver"].median_percent == 200


def test_tables_from_files(benchmark, tmp_path, capsys):
    grid = Grid(shape_zyx=(10, 11, 12), affine=np.diag([1.0, 2.0, 3.0, 1.0])[:, [2, 1, 0, 3]])
    for name, stop in (("one", 5), ("two", 7)):
        labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
        labels[2:stop, 2:8, 2:8] = 1
        hu = np.where(labels == 1, 60, -1000).astype(np.int16)
        write_volume(Volume(hu=hu, grid=grid), tmp_path / f"{name}.nii.gz")
        write_label_map(LabelMap(labels=labels, grid=grid), tmp_path / f"{name}_labels.nii.gz")
    rows = ["p,one.nii.gz,one_labels.nii.gz", "p,two.nii.gz,two_labels.nii.gz"]
    (tmp_path / "cases.csv").write_text("\n".join(["person,image,labels", *rows]))
    assert benchmark.main([str(tmp_path / "cases.csv")]) == 0
    printed = capsys.readouterr().out
    assert "| p | one.nii.gz | 1 | 0 | 0 | 0 |" in printed
    assert "| liver | 1 | 50.0 % | 50.0 % |" in printed  # 3 and 5 slices
    assert "| spleen | 0 | - | - |" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("person,image\n", "no row"),
        ("person,image\na,x.nii\n", "one scan of a"),
        ("name,image\na,x.nii\na,y.nii\n", "person"),
    ],
)
def test_a_broken_list_is_one_clear_error(benchmark, tmp_path, text, message):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(ReadError, match=message):
        benchmark.read_cases(tmp_path / "cases.csv")
