"""Ctrl-C and SIGTERM in the middle of a batch: a real process, real signals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import viscera

CASES = 20

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture
def scans(tmp_path: Path, tiny_scan: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(CASES):
        shutil.copy(tiny_scan, folder / f"case{number:02d}.nii.gz")
    return folder


# A parent that ignores SIGINT (a shell's background job) hands that down; a terminal does not, so it is undone here.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from viscera.cli.main import main; sys.exit(main())"
)


def start(bundle: Path, scans: Path, output: Path, report: Path) -> "subprocess.Popen[str]":
    paths = ["segment", str(scans), "-o", str(output), "--bundle", str(bundle), "--report", str(report)]
    options = ["--device", "cpu", "--threads", "1", "--skip-existing"]
    command = [sys.executable, "-c", PROGRAM, *paths, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_labels(output: Path, count: int, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while len(list(output.glob("case??.nii.gz"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def reported(err: str) -> list[str]:
    """The lines but the notes on what is to be looked at, of which an untrained network gives many."""
    return [line for line in err.splitlines() if not line.startswith("viscera: note: case")]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_leaves_whole_files_and_the_next_run_goes_on(
    number: signal.Signals, code: int, word: str, tiny_bundle: Path, scans: Path, tmp_path: Path
) -> None:
    output, report = tmp_path / "labels", tmp_path / "report.json"
    process = start(tiny_bundle, scans, output, report)
    wait_for_labels(output, 2, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)

    assert process.returncode == code
    # Behind whatever line the signal came in.
    last = err.splitlines()[-1]
    assert re.search(rf"viscera: {word}: of 20 cases \d+ done, \d+ left; add --skip-existing to continue$", last), err
    assert "Traceback" not in err
    values = json.loads(report.read_text(encoding="utf-8"))
    assert values["status"] == "interrupted"
    statuses = [case["status"] for case in values["cases"]]
    done = [case for case in values["cases"] if case["status"] == "done"]
    assert 1 <= len(done) < CASES
    assert statuses.count("interrupted") <= 1
    assert statuses.count("waiting") >= 1
    # Whole files only, and none under a passing name.
    labels = {path.name for path in output.iterdir()}
    assert labels <= {f"case{number:02d}.nii.gz" for number in range(CASES)}
    unreported = labels - {Path(case["output"]).name for case in done}
    assert len(labels) == len(done) + len(unreported), "a reported label file is missing"
    assert len(unreported) <= statuses.count("interrupted"), "only the case at work may be written and not yet reported"
    for name in labels:
        viscera.read_label_map(output / name)

    second = start(tiny_bundle, scans, output, report)
    _, err = second.communicate(timeout=120)
    assert (second.returncode, reported(err)) == (0, [])
    statuses = [case["status"] for case in json.loads(report.read_text(encoding="utf-8"))["cases"]]
    assert statuses.count("skipped") == len(labels)
    assert statuses.count("done") == CASES - len(labels)
    assert len(list(output.glob("case??.nii.gz"))) == CASES
