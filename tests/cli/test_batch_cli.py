"""`viscera batch`: the ledger, going on from it, and worker processes."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from viscera.cli.main import main


@pytest.fixture
def scans(tiny_scan: Path, other_scan: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, scan in (("a", tiny_scan), ("b", other_scan)):
        (folder / f"{name}.nii.gz").write_bytes(scan.read_bytes())
    return folder


def batch(scans: Path, out: Path, bundle: Path, *options: str) -> int:
    return main(["batch", str(scans), "-o", str(out), "--bundle", str(bundle), "--device", "cpu", "-q", *options])


def entries(out: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "ledger").glob("*.json"))}


def test_every_case_has_labels_and_an_entry(scans: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert batch(scans, out, tiny_bundle) == 0
    found = entries(out)
    assert {name: entry["status"] for name, entry in found.items()} == {"a": "done", "b": "done"}
    assert (out / "a.nii.gz").is_file()
    assert (out / "b.nii.gz").is_file()


def test_what_is_done_is_kept_and_what_was_altered_is_done_again(
    scans: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert batch(scans, out, tiny_bundle) == 0
    kept, before = out / "a.nii.gz", (out / "b.nii.gz").read_bytes()
    untouched = kept.stat().st_mtime_ns
    (out / "b.nii.gz").write_bytes(b"altered")
    assert batch(scans, out, tiny_bundle) == 0
    assert kept.stat().st_mtime_ns == untouched
    assert (out / "b.nii.gz").read_bytes() == before


def test_a_case_that_fails_is_listed_and_the_others_are_done(scans: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (scans / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    out = tmp_path / "out"
    assert batch(scans, out, tiny_bundle, "--retries", "1") == 1
    assert {name: entry["status"] for name, entry in entries(out).items()} == {
        "a": "done",
        "b": "done",
        "broken": "failed",
    }


def test_worker_processes_do_the_same(scans: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    assert batch(scans, tmp_path / "one", tiny_bundle) == 0
    assert batch(scans, tmp_path / "two", tiny_bundle, "--workers", "2") == 0
    for name in ("a", "b"):
        one, two = ((tmp_path / out / f"{name}.nii.gz").read_bytes() for out in ("one", "two"))
        assert one == two


def test_statistics_are_one_table_of_all_cases_also_of_those_of_earlier_runs(
    scans: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (scans / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    out = tmp_path / "out"
    assert batch(scans, out, tiny_bundle, "--case", "a") == 0
    assert batch(scans, out, tiny_bundle, "--statistics", "--case", "b", "--case", "broken") == 1
    with (out / "statistics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    organs = ["liver", "kidney", "spleen", "pancreas"]
    assert [(row["case"], row["organ"]) for row in rows[:8]] == [(name, organ) for name in "ab" for organ in organs]
    assert [(row["case"], row["status"]) for row in rows[8:]] == [("broken", "failed")]
    found = {(row["case"], row["organ"]): row for row in rows}
    for name in "ab":
        for organ in entries(out)[name]["organs"]:  # type: ignore[attr-defined]
            row = found[name, organ["organ"]]
            assert (row["voxels"], row["quality"]) == (str(organ["voxels"]), organ["quality"])


@pytest.mark.parametrize("subcommand", ["segment", "batch"])
def test_of_a_subset_of_organs_only_these_are_written_and_measured(
    subcommand: str, scans: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    common = [subcommand, str(scans), "--bundle", str(tiny_bundle), "--device", "cpu", "-q", "--statistics"]
    assert main([*common, "-o", str(tmp_path / "all")]) == 0
    assert main([*common, "-o", str(tmp_path / "some"), "--roi-subset", "pancreas", "liver"]) == 0
    for name in ("a.nii.gz", "b.nii.gz"):
        whole, some = (np.asarray(nib.load(tmp_path / out / name).dataobj) for out in ("all", "some"))
        np.testing.assert_array_equal(some, np.where(np.isin(whole, [1, 4]), whole, 0))
    with (tmp_path / "some" / "statistics.csv").open(encoding="utf-8", newline="") as file:
        assert [row["organ"] for row in csv.DictReader(file)] == ["liver", "pancreas"] * 2


@pytest.mark.parametrize("subcommand", ["segment", "batch"])
def test_an_unknown_organ_ends_the_run_with_the_known_names(
    subcommand: str, scans: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [subcommand, str(scans), "-o", str(tmp_path / "out"), "--bundle", str(tiny_bundle), "--roi-subset", "lung"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "expected names out of liver, kidney, spleen, pancreas, got lung" in err
