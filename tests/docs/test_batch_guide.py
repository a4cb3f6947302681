"""What docs/how-to/batch.md shows: the list of failed cases, the tasks of an array, the Snakefile; a tiny bundle."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from viscera.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "batch.md"


def here_document(name: str) -> str:
    """The text that the page writes into the file `name`."""
    found = re.search(rf"cat > {re.escape(name)} <<'END'\n(.*?)^END$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture
def folder(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a list of three cases, of which the last cannot be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    (tmp_path / "scans").mkdir()
    for name in ("a b", "c"):
        shutil.copy(tiny_scan, tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "scans" / "damaged.nii.gz").write_bytes(b"\x1f\x8b damaged")
    assert main(["batch", "-q", "scans", "-o", "labels", "--list", "cases.csv"]) == 0
    return tmp_path


def entries(folder: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "labels" / "ledger").glob("*.json"))}


def test_the_failed_cases_become_a_list(folder: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["batch", "-q", "-o", "labels", "--bundle", str(tiny_bundle), "--device", "cpu", "--retries", "0"]
    assert main([*words, "cases.csv"]) == 1
    capsys.readouterr()
    *_, program = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    exec(compile(program, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.startswith("damaged reading ")
    with (folder / "failed.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["damaged"]
    assert main([*words, "failed.csv"]) == 1
    assert {name: entry["attempts"] for name, entry in entries(folder).items()} == {"a b": 1, "c": 1, "damaged": 1}


def test_the_tasks_of_an_array_do_every_case_once(folder: Path, tiny_bundle: Path) -> None:
    script = here_document("viscera.sbatch").replace(
        "viscera batch", f"viscera batch --device cpu --bundle {tiny_bundle}"
    )
    (folder / "viscera.sbatch").write_text(script)
    codes = []
    for task in ("1", "2"):
        slurm = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_CPUS_PER_TASK": "1"}
        done = subprocess.run(["bash", "viscera.sbatch"], env={**os.environ, **slurm}, check=False, timeout=120)
        codes.append(done.returncode)
    assert codes == [1, 0]  # the damaged one is the first task's
    found = entries(folder)
    assert {name: (entry["status"], entry["attempts"]) for name, entry in found.items()} == {
        "a b": ("done", 1),
        "c": ("done", 1),
        "damaged": ("failed", 1),  # a damaged file stays damaged
    }


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="Snakemake is not installed")
def test_snakemake_makes_every_label_file_and_only_what_is_missing(folder: Path, tiny_bundle: Path) -> None:
    rules = here_document("Snakefile").replace("viscera batch", f"viscera batch --device cpu --bundle {tiny_bundle}")
    (folder / "Snakefile").write_text(rules)
    snakemake = ["snakemake", "--cores", "1", "--keep-going", "--quiet"]
    assert subprocess.run(snakemake, check=False, timeout=240).returncode == 1
    found = entries(folder)
    assert {name: entry["status"] for name, entry in found.items()} == {
        "a b": "done",
        "c": "done",
        "damaged": "failed",
    }
    (folder / "labels" / "c.nii.gz").unlink()
    shutil.copy(folder / "scans" / "c.nii.gz", folder / "scans" / "damaged.nii.gz")
    assert subprocess.run(snakemake, check=False, timeout=240).returncode == 0
    after = entries(folder)
    assert after["a b"] == found["a b"]
    assert {name: (entry["status"], entry["attempts"]) for name, entry in after.items()} == {
        "a b": ("done", 1),
        "c": ("done", 2),
        "damaged": ("done", 2),
    }
