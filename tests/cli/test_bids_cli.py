"""`viscera segment --layout bids` with a tiny bundle of random weights, judged by the BIDS project's own validator."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import viscera
from viscera.cli.main import main

NAMED = "sub-07/ses-a/anat/sub-07_ses-a_acq-venous_dseg"
OTHER = "sub-DoeJane/anat/sub-DoeJane_dseg"
COMMON = [".bidsignore", "README.md", "dataset_description.json"]


@pytest.fixture
def scans(tmp_path: Path, tiny_scan: Path) -> Path:
    """A folder with a scan named as in BIDS, one with a name of its own and a file that is no scan."""
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(tiny_scan, folder / "sub-07_ses-a_acq-venous_ct.nii.gz")
    shutil.copy(tiny_scan, folder / "Doe, Jane.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"this is no NIfTI file")
    return folder


def segment(bundle: Path, *argv: object) -> int:
    words = ["segment", "--bundle", bundle, "--device", "cpu", "--threads", "1", "--layout", "bids", *argv]
    return main([*map(str, words)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def faults(program: Callable[[str], str]) -> Callable[[Path], list[Any]]:
    """What the validator calls errors; warnings (no authors, no licence) are for those who publish the data set."""

    def find(folder: Path) -> list[Any]:
        command = [program("bids-validator-deno"), "--format", "json", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        issues = json.loads(done.stdout)["issues"]["issues"]
        assert issues, "the validator says nothing at all"
        return [issue for issue in issues if issue.get("severity") == "error"]

    return find


def test_the_data_set_has_the_files_bids_asks_for(
    tiny_bundle: Path, scans: Path, tiny_scan: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert segment(tiny_bundle, scans, "-o", output) == 1
    beside = [stem + ending for stem in (NAMED, OTHER) for ending in (".json", ".nii.gz", ".tsv")]
    assert sorted(contents(output)) == sorted([*COMMON, *beside])
    labels = viscera.read_label_map(output / f"{NAMED}.nii.gz")
    assert labels.grid.matches(viscera.read_volume(tiny_scan).grid)


def test_a_scan_that_fails_leaves_nothing_of_its_own(tiny_bundle: Path, scans: Path, tmp_path: Path) -> None:
    assert segment(tiny_bundle, scans / "broken.nii.gz", "-o", tmp_path / "out") == 1
    assert sorted(contents(tmp_path / "out")) == COMMON


def test_the_validator_finds_no_fault(
    faults: Callable[[Path], list[Any]], tiny_bundle: Path, scans: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    segment(tiny_bundle, scans, "-o", output, "--preview", "--statistics", "--report", output / "run.json")
    assert main(["labels", "-o", str(output), "--bundle", str(tiny_bundle)]) == 0
    assert faults(output) == []


def test_the_validator_would_find_a_fault(
    faults: Callable[[Path], list[Any]], tiny_bundle: Path, scans: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    segment(tiny_bundle, scans, "-o", output)
    (output / f"{OTHER}.tsv").write_text("index\tcolor\n1\tred\n", encoding="utf-8")
    (output / "sub-DoeJane" / "anat" / "labels.nii.gz").write_bytes(b"")
    assert faults(output)


def test_only_the_report_tells_whose_labels_are_whose(tiny_bundle: Path, scans: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "out", tmp_path / "run.json"
    segment(tiny_bundle, scans, "-o", output, "--statistics", "--report", report)
    assert not [name for name, data in contents(output).items() if b"Doe, Jane" in data]
    rows = (output / "statistics.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == {"sub-DoeJane", "sub-07_ses-a_acq-venous"}
    cases = {case["name"]: case for case in json.loads(report.read_text(encoding="utf-8"))["cases"]}
    assert cases["sub-DoeJane"]["input"] == str(scans / "Doe, Jane.nii.gz")
    assert cases["sub-DoeJane"]["output"] == str(output / f"{OTHER}.nii.gz")


def test_the_same_run_again_changes_nothing(tiny_bundle: Path, scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ["-o", output, "--preview", "--statistics"]
    segment(tiny_bundle, scans, *options)
    before = contents(output)
    segment(tiny_bundle, scans, *options)
    assert contents(output) == before


def test_finished_cases_are_kept_on_request(
    tiny_bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    kept = output / f"{OTHER}.nii.gz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"kept")
    assert segment(tiny_bundle, scans, "-o", output, "--skip-existing") == 1
    assert kept.read_bytes() == b"kept"
    assert (output / f"{NAMED}.nii.gz").is_file()
    assert f"sub-DoeJane: kept {kept}" in capsys.readouterr().out.splitlines()
