"""`viscera evaluate` on folders of label maps: what it prints, writes and answers."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscera.cli.main import main
from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap
from viscera.formats.nifti_write import write_label_map

GRID = Grid.from_axes(
    (12, 14, 16), spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0)
)

MOVED = Grid.from_axes(
    GRID.shape_zyx, spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(5, 0, 0)
)


def save(path: Path, *, shift: int = 0, grid: Grid = GRID) -> None:
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    for label, start in enumerate((1, 4, 7, 10), start=1):
        labels[start : start + 2, 3:9, 2 + shift : 8 + shift] = label
    write_label_map(LabelMap(labels=labels, grid=grid), path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`truth`, `good` (off by one voxel in every third case) and `poor` (off by three and more) of six cases."""
    for case in range(6):
        save(tmp_path / "truth" / f"case{case}.nii.gz")
        save(tmp_path / "good" / f"case{case}_seg.nii.gz", shift=int(case % 3 == 0))
        save(tmp_path / "poor" / f"case{case}.nii.gz", shift=3 + case % 2)
    return tmp_path


def evaluate(folder: Path, *arguments: str) -> int:
    places = ("truth", "good", "poor")
    return main(["evaluate", *(str(folder / part) if part in places else part for part in arguments)])


def test_cases_are_printed_as_they_come_then_the_summary(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(folders, "truth", "good", "--workers", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[4:10]] == [f"case{case}" for case in range(6)]
    assert lines[11] == "6 cases"
    assert any(line.startswith("liver     mean ± SD") for line in lines)


def test_all_files(folders: Path) -> None:
    files = [folders / f"table{form}" for form in (".txt", ".csv", ".md", ".tex", ".json")]
    outputs = [part for path in files for part in ("-o", str(path))]
    plots, scores = folders / "plots", folders / "scores.csv"
    tolerances = ("--tolerance", "1", "--tolerance", "flare22")
    assert evaluate(folders, "truth", "good", *tolerances, *outputs, "--csv", str(scores), "--plots", str(plots)) == 0
    assert all(path.stat().st_size for path in files)
    content = json.loads(files[-1].read_text(encoding="utf-8"))["methods"]["good"]
    assert content["summary"][0]["nsd_flare22"]["mean"] == 1.0
    rows = list(csv.DictReader(io.StringIO(scores.read_text(encoding="utf-8"))))
    assert len(rows) == 24
    for name in ("dsc", "nsd", "hd95", "dsc_against_volume", "bland_altman"):
        with Image.open(plots / f"{name}.png") as picture:
            assert picture.format == "PNG"


def test_two_predictions_are_compared(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folders / "table.json"
    assert evaluate(folders, "truth", "good", "--versus", str(folders / "poor"), "-o", str(table)) == 0
    out = capsys.readouterr().out
    assert "good against poor" in out
    assert "good: 6 cases" in out
    first = json.loads(table.read_text(encoding="utf-8"))["comparison"][0]
    assert (first["measure"], first["organ"], first["test"]["effect"]) == ("dsc", "liver", 1.0)
    assert first["test"]["p"] == pytest.approx(2 / 64)


def test_methods_are_ranked(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = [part for name in ("good", "poor", "truth") for part in ("--method", f"{name}={folders / name}")]
    assert evaluate(folders, "truth", *methods) == 0
    ranking = capsys.readouterr().out.split("Ranking")[1].splitlines()
    assert [line.split()[1] for line in ranking[4:7]] == ["truth", "good", "poor"]


def test_a_bad_pair_is_one_line_and_the_others_are_scored(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "good" / "case1_seg.nii.gz").unlink()
    save(folders / "good" / "case2_seg.nii.gz", grid=MOVED)
    assert evaluate(folders, "truth", "good", "--workers", "1") == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[2].strip() for line in err.splitlines()] == ["case1", "case2"]
    assert "4 cases" in out
    assert "something is wrong: case1, case2." in out


def test_an_organ_the_reference_lacks_may_be_left_out(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_label_map(LabelMap(labels=np.zeros(GRID.shape_zyx, np.uint8), grid=GRID), folders / "truth" / "case0.nii.gz")
    assert evaluate(folders, "truth", "good", "--empty", "nan") == 0
    assert "as the reference is empty: liver in 1 of 6 cases" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("truth",),
        ("truth", "--versus", "poor"),
        ("truth", "good", "-o", "table.pdf"),
        ("truth", "--method", "a=good", "--method", "a=poor"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_wrong_usage(
    folders: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(folders, *arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", ["--tolerance=-1", "--tolerance=flare", "--method=good", "--method==x", "--empty=0"])
def test_values_that_are_none(folders: Path, option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate(folders, "truth", "good", option)
    assert ended.value.code == 2


def test_charts_without_matplotlib_are_refused_before_anything_is_scored(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert evaluate(folders, "truth", "good", "--plots", str(folders / "plots")) == 2
    output = capsys.readouterr()
    assert "pip install 'viscera[plots]'" in output.err
    assert "liver" not in output.out
