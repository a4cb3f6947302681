"""`viscera view` and `viscera report` from the command line: files in, what is said, how it ends."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from viscera.cli.main import main
from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.read import read_label_map
from viscera.synthesis.phantom import PhantomConfig, make_phantom

# A patient's name and HTML in one, as a file's name.
HOSTILE = "ROE^JANE <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp(HOSTILE)
    phantom = make_phantom(7, config=PhantomConfig(shape_zyx=(24, 26, 30), spacing_zyx_mm=(12.0, 11.0, 10.0)))
    ct, labels = folder / f"{HOSTILE}.nii.gz", folder / f"{HOSTILE} labels.nii.gz"
    write_volume(phantom.volume, ct)
    write_label_map(phantom.label_map, labels)
    return ct, labels


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_view_serves_until_it_is_ended(end: signal.Signals, code: int, scan: tuple[Path, Path]) -> None:
    # Where the tests run in the background, a shell has their processes pass over Ctrl-C.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from viscera.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "view", "--no-browser", *map(str, scan)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        page = urllib.request.urlopen(url, timeout=20).read().decode()
        labels = urllib.request.urlopen(url + "labels.nii", timeout=20).read()
        os.kill(process.pid, end)
        _, errors = process.communicate(timeout=20)
    assert "not a medical device" in page
    assert "ROE^JANE" not in page
    np.testing.assert_array_equal(
        np.frombuffer(labels[352:], dtype=np.uint8).reshape(24, 26, 30), read_label_map(scan[1]).labels
    )
    assert process.returncode == code
    assert "Traceback" not in errors


@pytest.mark.parametrize("verb", ["view", "report"])
def test_labels_of_another_grid_are_one_clear_line(
    verb: str, scan: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = read_label_map(scan[1]).grid
    moved = Grid(shape_zyx=grid.shape_zyx, affine=grid.affine + np.array([[0, 0, 0, 1.0]] + [[0.0] * 4] * 3))
    write_label_map(LabelMap(labels=np.ones(grid.shape_zyx, dtype=np.uint8), grid=moved), tmp_path / "other.nii")
    end = ["--no-browser"] if verb == "view" else ["-o", str(tmp_path / "report.html")]
    assert main([verb, str(scan[0]), str(tmp_path / "other.nii"), *end]) == 1
    assert "expected labels of the CT's own voxels" in said(capsys)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("content", [b"", b"not a CT"])
def test_an_unreadable_ct_is_one_clear_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ct.nii").write_bytes(content)
    assert main(["view", str(tmp_path / "ct.nii"), "--no-browser"]) == 1
    assert said(capsys).startswith(f"viscera: error: reading {tmp_path / 'ct.nii'}: expected ")


def test_an_image_given_for_labels_is_one_clear_line(
    scan: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(scan[0]), str(scan[0]), "--no-browser"]) == 1
    assert "expected labels, whole numbers from 0 to 255" in said(capsys)


def test_unknown_labels_are_noted_and_reported(
    scan: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = read_label_map(scan[1])
    labels = known.labels.copy()
    labels[0, 0, :3] = 77
    write_label_map(LabelMap(labels=labels, grid=known.grid), tmp_path / "more.nii")
    assert main(["report", str(scan[0]), str(tmp_path / "more.nii"), "-o", str(tmp_path / "r.html")]) == 0
    note = "Labels that are no organ of the table are not shown: 77 (3 voxels)."
    assert note in capsys.readouterr().err
    assert note in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report.pdf", "report", ".nii.gz"])
def test_a_report_has_an_html_name(
    name: str, scan: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *map(str, scan), "-o", str(tmp_path / name)]) == 2
    assert "expected a file ending in .html" in said(capsys)


def test_a_report_replaces_no_input(
    scan: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.html").write_text("{}", encoding="utf-8")
    run = str(tmp_path / "run.html")
    assert main(["report", *map(str, scan), "-o", run, "--run", run]) == 2
    assert "which is an input" in said(capsys)


def test_a_run_report_needs_labels(scan: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(scan[0]), "--run", "run.json", "--no-browser"]) == 2
    assert "expected labels with --run" in said(capsys)


@pytest.mark.parametrize("port", ["0", "-1", "65536", "x", "8e3"])
def test_a_port_that_is_none_is_wrong_usage(port: str, scan: tuple[Path, Path]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["view", str(scan[0]), "--port", port])
    assert ended.value.code == 2


def test_a_report_says_nothing_of_the_patient(
    scan: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    organs = [
        {"organ": organ, "voxels": int((read_label_map(scan[1]).labels == index).sum()), "quality": "check"}
        for index, organ in enumerate(("liver", "kidney", "spleen", "pancreas"), start=1)
    ]
    organs[0]["quality_sentences"] = ["It is <b>small</b>."]
    case = {"name": HOSTILE, "input": str(scan[0]), "output": str(scan[1]), "organs": organs, "notes": []}
    run = {"schema": "viscera.report/1", "viscera": "9", "started": "2026", "machinery": None, "cases": [case]}
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    output = tmp_path / f"{HOSTILE}.html"
    assert main(["report", *map(str, scan), "-o", str(output), "--run", str(tmp_path / "run.json")]) == 0
    page = output.read_text(encoding="utf-8")
    assert "ROE^JANE" not in page
    assert "It is &lt;b&gt;small&lt;/b&gt;." in page
    assert "<b>small" not in page
    assert capsys.readouterr().out == f"wrote {output}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, "run.json"])
