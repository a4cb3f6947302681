"""The inputs of `viscera batch`: folders, DICOM trees, BIDS, lists; parts of them; and what has changed since."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from viscera.batch.tasks import ModelRequest, Task, TaskStatus, attempt
from viscera.case import CaseOptions
from viscera.cli.main import main
from viscera.segmenter import SegmentedCase, Segmenter


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An axial CT series of 14 images over 168 mm."""
    folder = tmp_path_factory.mktemp("series") / "ct"
    size = ["--shape", "14", "24", "28", "--spacing", "12", "11", "10"]
    assert main(["phantom", "-q", "-o", str(folder), "--dicom", "--seed", "4", *size]) == 0
    return folder


def listed(*inputs: Path, to: Path, options: tuple[str, ...] = ()) -> list[dict[str, str]]:
    assert main(["batch", "-q", *map(str, inputs), "-o", str(to.parent / "out"), "--list", str(to), *options]) == 0
    with to.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def batch(*words: object) -> int:
    return main(["batch", "--device", "cpu", *map(str, words)])


def entries(out: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "ledger").glob("*.json"))}


def another_series(series: Path, folder: Path, *, number: int, images: int | None = None) -> None:
    """A copy under identifiers of its own."""
    import pydicom

    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(series.iterdir())[:images]:
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID = f"{image.SeriesInstanceUID}.{number}"
        image.SOPInstanceUID = f"{image.SOPInstanceUID}.{number}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesNumber = number
        image.save_as(folder / f"{number}_{path.name}")


def test_a_tree_of_studies_has_a_case_for_each_series(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "archive"
    shutil.copytree(series, tree / "p1" / "study1")
    another_series(series, tree / "p1" / "study2" / "two in one", number=3)
    another_series(series, tree / "p1" / "study2" / "two in one", number=5)
    another_series(series, tree / "p2" / "topogram", number=7, images=2)
    (tree / "p2" / "report.txt").write_text("no image")
    rows = listed(tree, to=tmp_path / "list.csv")
    assert [(row["name"], Path(row["path"]).name) for row in rows] == [
        ("p1_study1", "study1"),
        ("p1_study2_two in one_s3", "two in one"),
        ("p1_study2_two in one_s5", "two in one"),
    ]
    assert len({row["series"] for row in rows}) == 3
    assert main(["batch", str(tree), "-o", str(tmp_path / "out"), "--list", str(tmp_path / "list.csv")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'list.csv'}: 3 cases\n"
    assert "1 CT series skipped: short, not axial, not in HU, or projections" in err
    assert listed(tmp_path / "list.csv", to=tmp_path / "again.csv") == rows


def test_the_series_of_a_list_are_the_ones_segment_task(series: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    another_series(series, tmp_path / "tree" / "study", number=3)
    another_series(series, tmp_path / "tree" / "study", number=5)
    listed(tmp_path / "tree", to=tmp_path / "list.csv")
    assert batch("-q", tmp_path / "list.csv", "-o", tmp_path / "out", "--bundle", tiny_bundle) == 0
    assert {name: entry["status"] for name, entry in entries(tmp_path / "out").items()} == {
        "study_s3": "done",
        "study_s5": "done",
    }


def test_a_data_set_in_bids_has_a_case_for_each_ct(tiny_scan: Path, tmp_path: Path) -> None:
    for name in ("sub-1/ct/sub-1_ct", "sub-2/ses-a/ct/sub-2_ses-a_ct", "sub-2/ses-a/pet/sub-2_ses-a_pet"):
        path = tmp_path / "raw" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_scan, path)
    (tmp_path / "raw" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    rows = listed(tmp_path / "raw", to=tmp_path / "list.csv")
    assert [row["name"] for row in rows] == ["sub-1_ct", "sub-2_ses-a_ct"]


def test_a_list_names_cases_beside_itself(tiny_scan: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    shutil.copy(tiny_scan, tmp_path / "scans" / "x.nii.gz")
    text = "\ufeffsite,path,name\nA,scans/x.nii.gz, first \n\nB,scans/gone.nii.gz,\n"
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    rows = listed(tmp_path / "list.csv", to=tmp_path / "made.csv")
    assert [(row["path"], row["name"]) for row in rows] == [
        (str(tmp_path / "scans" / "x.nii.gz"), "first"),
        (str(tmp_path / "scans" / "gone.nii.gz"), "gone"),
    ]


def test_a_name_that_is_given_stays_whatever_other_files_are_called(tmp_path: Path) -> None:
    rows = "path,name\nx/a.nii,\ny/b.nii,a\nx/c.nii,x_a\n"
    (tmp_path / "list.csv").write_text(rows, encoding="utf-8")
    assert [row["name"] for row in listed(tmp_path / "list.csv", to=tmp_path / "made.csv")] == ["x_a_2", "a", "x_a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "a first line that names a column `path`, got ''. Name them so, with commas, semicolons or tabs"),
        (b"path,name\n", "at least one row"),
        (b"file\na.nii\n", "column `path`, got 'file'"),
        (b"path name\na.nii a\n", "column `path`, got 'path name'"),
        (b"path,name\na, b.nii,a\n", "at most 2 cells in a row, as in the first line, got more in line 2"),
        (b"path,name\na.nii,a\n\n,b\n", "a path in every row, got '' in line 4"),
        (b"path,name\na.nii,a\nb.nii,A\n", "names that differ, got 'A' again in line 3"),
        (b"path,name\na.nii,../a\n", "names that files can have, of at most 180 bytes, got '../a'"),
        (b"path,name\na.nii," + b"x" * 181 + b"\n", "names that files can have, of at most 180 bytes"),
        ("path\nä.nii\n".encode("cp1252"), "bytes of another encoding in line 2. Save it as UTF-8"),
        (b'path\n"a.nii\n', "a list with whole rows"),
        (b"path\na\0.nii\n", r"a path in every row, got 'a\x00.nii' in line 2"),
    ],
    ids=lambda value: repr(value)[:20] if isinstance(value, bytes) else "",
)
def test_a_bad_list_is_one_line(text: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_bytes(text)
    code = batch(tmp_path / "list.csv", "-o", tmp_path / "out", "--list", tmp_path / "made.csv")
    out, err = capsys.readouterr()
    assert (code in (1, 2), out) == (True, "")
    assert err.startswith("viscera: error: reading the list ")
    assert len(err.splitlines()) == 1
    assert said in err
    assert not (tmp_path / "out").exists()


def test_the_parts_of_a_list_are_disjoint_and_complete(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for name in "abcde":
        shutil.copy(tiny_scan, tmp_path / "scans" / f"{name}.nii.gz")
    parts = []
    for part in (1, 2, 3):
        out = tmp_path / f"out{part}"
        assert batch("-q", tmp_path / "scans", "-o", out, "--bundle", tiny_bundle, "--only", f"{part}/3") == 0
        parts.append(set(entries(out)))
    assert parts == [{"a", "d"}, {"b", "e"}, {"c"}]


def test_a_case_can_be_chosen_by_its_name(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for name in "abc":
        shutil.copy(tiny_scan, tmp_path / "scans" / f"{name}.nii.gz")
    choice = ["--case", "c", "--case", "a"]
    assert batch("-q", tmp_path / "scans", "-o", tmp_path / "out", "--bundle", tiny_bundle, *choice) == 0
    assert list(entries(tmp_path / "out")) == ["a", "c"]


def test_a_case_that_is_not_there_is_one_line(
    tiny_scan: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch(tiny_scan, "-o", tmp_path / "out", "--bundle", tiny_bundle, "--case", "nobody") == 2
    assert capsys.readouterr() == (
        "",
        "viscera: error: choosing cases: expected names of cases of these inputs (--list writes them), got nobody. "
        "Correct --case.\n",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3"])
def test_a_part_that_does_not_exist_is_refused(part: str, tiny_scan: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        batch(tiny_scan, "-o", tmp_path / "out", f"--only={part}")
    assert end.value.code == 2


@pytest.fixture
def begun(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> list[object]:
    """The arguments of a batch of one scan that has been done once, with its own copies of scan and bundle."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    shutil.copy(tiny_scan, tmp_path / "a.nii.gz")
    words: list[object] = [tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--bundle", tmp_path / "bundle"]
    assert batch("-q", *words) == 0
    return words


def new_card(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps(card | {"version": "2"}), encoding="utf-8")


def test_with_another_bundle_a_case_is_done_again(
    begun: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_card(tmp_path / "bundle")
    assert batch(*begun) == 0
    assert "a: done again, as another bundle (" in capsys.readouterr().out
    assert batch(*begun) == 0
    assert "a: kept (" in capsys.readouterr().out


def test_with_other_options_a_case_is_done_again(begun: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert batch(*begun, "--clean") == 0
    assert "a: done again, as other options (" in capsys.readouterr().out


def test_a_scan_that_was_replaced_is_done_again(
    begun: list[object], other_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(other_scan, tmp_path / "a.nii.gz")
    assert batch(*begun) == 0
    assert "a: done again, as the scan has changed (" in capsys.readouterr().out


def test_threads_change_nothing(begun: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert batch(*begun, "--threads", "1", "--memory-limit", "2GB") == 0
    assert "a: kept (" in capsys.readouterr().out


def test_a_bundle_that_was_damaged_ends_the_run(
    begun: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = next(path for path in sorted((tmp_path / "bundle").iterdir()) if path.suffix == ".onnx")
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    before = (tmp_path / "out" / "ledger" / "a.json").read_bytes()
    assert batch(*begun) == 1
    _, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert (tmp_path / "out" / "ledger" / "a.json").read_bytes() == before


@pytest.fixture
def task(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> Task:
    from viscera.batch.digests import card_digest

    (tmp_path / "out").mkdir()
    return Task(
        name="a",
        source=tiny_scan,
        output=tmp_path / "out" / "a.nii.gz",
        folder=tmp_path / "out",
        options=CaseOptions(),
        model=ModelRequest(bundle=tiny_bundle, card_sha256=card_digest(tiny_bundle), device="cpu", threads=1),
    )


def test_a_worker_with_another_bundle_refuses(task: Task) -> None:
    result = attempt(replace(task, model=replace(task.model, card_sha256="0" * 64)))
    assert result.status is TaskStatus.FAILED
    assert "expected the bundle with which the batch was begun, card 0000" in result.why
    assert not task.output.exists()


def test_an_attempt_that_was_overtaken_does_not_write_over_labels(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the lease and writes labels before this one comes to its next stage."""
    segment_file = Segmenter.segment_file

    def overtaken(self: Segmenter, *args: object, **options: object) -> SegmentedCase:
        (task.folder / "ledger" / "claims" / "a.2").touch()
        task.output.write_bytes(b"the other's")
        return segment_file(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, "segment_file", overtaken)
    assert attempt(task).status is TaskStatus.BUSY
    assert task.output.read_bytes() == b"the other's"
