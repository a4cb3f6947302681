"""`viscera segment` from the command line's arguments to its files, with a tiny bundle of random weights."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viscera
from viscera.case import STAGES, CaseOptions
from viscera.cli.main import main
from viscera.core.config import PostprocessConfig, from_dict
from viscera.core.errors import NothingFoundError
from viscera.core.organs import ORGANS
from viscera.model.bundle import load_bundle
from viscera.quality.rules import OrganSignals, Reason, assess
from viscera.segmenter import Segmenter

NOTHING = NothingFoundError("localising", expected="organs", got="none", remedy="Give an abdomen")


@pytest.fixture
def scans(tmp_path: Path, tiny_scan: Path) -> Path:
    """A folder with two CTs and, between them, a file that is none."""
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(tiny_scan, folder / "a.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"this is no NIfTI file")
    shutil.copy(tiny_scan, folder / "c.nii.gz")
    return folder


def segment(bundle: Path, *argv: object) -> int:
    return main(["segment", "--bundle", str(bundle), "--device", "cpu", "--threads", "1", *map(str, argv)])


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_file_gives_labels_on_its_own_grid(
    tiny_bundle: Path, tiny_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "organs.nii.gz"
    assert segment(tiny_bundle, tiny_scan, "-o", output) == 0
    labels = viscera.read_label_map(output)
    assert labels.grid.matches(viscera.read_volume(tiny_scan).grid)
    out, err = capsys.readouterr()
    assert out.startswith("ct: liver ")
    assert len(out.splitlines()) == 1
    (line,) = err.splitlines()  # the labels of random weights are to be looked at
    assert line.startswith("viscera: note: ct: Check ")
    assert files(output.parent) == ["organs.nii.gz"]


def test_the_python_interface_gives_the_same_labels(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    output = tmp_path / "organs.nii.gz"
    segment(tiny_bundle, tiny_scan, "-o", output)
    segmentation = viscera.segment_volume(viscera.read_volume(tiny_scan), bundle=tiny_bundle, device="cpu")
    assert np.array_equal(segmentation.label_map.labels, viscera.read_label_map(output).labels)
    again = viscera.segment_file(tiny_scan, tmp_path / "again.nii.gz", bundle=tiny_bundle, device="cpu")
    assert (tmp_path / "again.nii.gz").read_bytes() == output.read_bytes()
    assert [organ.organ for organ in again.statistics] == [organ.name for organ in ORGANS]


def test_one_bad_case_is_told_and_the_others_are_done(
    tiny_bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels"
    assert segment(tiny_bundle, scans, "-o", output) == 1
    assert files(output) == ["a.nii.gz", "c.nii.gz"]
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["a", "c"]
    assert out.splitlines()[-1] == "2 done, 1 failed"
    (line,) = (line for line in err.splitlines() if ": note: " not in line)
    assert line.startswith("viscera: error: broken: ")
    assert "Traceback" not in err


def test_a_missing_path_is_one_failed_case(
    tiny_bundle: Path, tiny_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels"
    report = tmp_path / "report.json"
    assert segment(tiny_bundle, tmp_path / "gone.nii.gz", tiny_scan, "-o", output, "--report", report) == 1
    assert files(output) == ["ct.nii.gz"]
    assert "gone.nii.gz" in capsys.readouterr().err
    assert {case["input"]: case["status"] for case in read_json(report)["cases"]} == {
        str(tmp_path / "gone.nii.gz"): "failed",
        str(tiny_scan): "done",
    }


def test_when_every_input_is_missing_the_model_is_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(tmp_path / "no-bundle", tmp_path / "gone.nii.gz", "-o", tmp_path / "organs.nii.gz") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("viscera: error: gone.nii.gz: ")


def test_the_report_tells_what_ran_and_what_became_of_each_case(tiny_bundle: Path, scans: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    output = tmp_path / "labels"
    segment(tiny_bundle, scans, "-o", output, "--report", path)
    report = read_json(path)
    assert report["status"] == "failed"
    assert report["viscera"] == viscera.__version__
    assert report["started"] <= report["finished"]
    assert report["machinery"]["bundle"] == "tiny"
    assert report["machinery"]["device"] == "cpu"
    assert len(report["machinery"]["card_sha256"]) == 64
    assert report["options"]["threads"] == 1
    assert report["options"]["series_chosen"] is False
    first, second, third = report["cases"]
    assert [first["status"], second["status"], third["status"]] == ["done", "failed", "done"]
    assert first["output"] == str(output / "a.nii.gz")
    assert first["preview"] is None
    assert first["shape_zyx_vox"] == [20, 24, 28]
    assert first["spacing_zyx_mm"] == pytest.approx([12, 11, 10])
    assert list(first["seconds"]) == [
        "read",
        "preprocess",
        "localise",
        "crop",
        "segment",
        "restore",
        "assess",
        "write",
    ]
    assert [organ["organ"] for organ in first["organs"]] == [organ.name for organ in ORGANS]
    assert [organ["removed_ml"] for organ in first["organs"]] == [None] * len(ORGANS)
    assert second["error"]["type"] == "ReadError"
    assert second["output"] is None
    assert first["error"] is None


def test_the_report_tells_what_is_to_be_checked_and_why(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    segment(tiny_bundle, tiny_scan, "-o", tmp_path / "organs.nii", "--report", report, "--statistics")
    (case,) = read_json(report)["cases"]
    organ = next(organ for organ in case["organs"] if organ["quality"] == "check")
    assert set(organ["quality_reasons"]) <= {reason.value for reason in Reason}
    assert len(organ["quality_sentences"]) >= len(organ["quality_reasons"]) > 0
    # Every figure the verdict rests on is there, so that other limits can be tried without the networks.
    signals = [from_dict(OrganSignals, organ["signals"]) for organ in case["organs"]]
    again = assess(signals, load_bundle(tiny_bundle).card.model.quality)
    assert [quality.reasons for quality in again] == [tuple(organ["quality_reasons"]) for organ in case["organs"]]
    assert organ["signals"]["disagreement"] > 0
    rows = read_json(tmp_path / "organs_statistics.json")[0]["organs"]
    assert [row["quality"] for row in rows] == [organ["quality"] for organ in case["organs"]]


def test_verbose_says_every_reason(
    tiny_bundle: Path, tiny_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    segment(tiny_bundle, tiny_scan, "-o", tmp_path / "organs.nii", "--report", report, "-v")
    lines = [line for line in capsys.readouterr().err.splitlines() if ": note: " in line]
    organs = read_json(report)["cases"][0]["organs"]
    said = [f"{organ['organ']}: {sentence}" for organ in organs for sentence in organ["quality_sentences"]]
    assert [line.removeprefix("viscera: note: ct: ") for line in lines[-len(said) :]] == said


def test_cleaning_is_asked_for_and_told(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    reports = {}
    for name, option in {"card": (), "yes": ("--clean",), "no": ("--no-clean",)}.items():
        output, report = tmp_path / f"{name}.nii", tmp_path / f"{name}.json"
        segment(tiny_bundle, tiny_scan, "-o", output, "--report", report, *option)
        reports[name] = read_json(report)
    assert [report["options"]["clean"] for report in reports.values()] == [None, True, False]
    cases = {name: report["cases"][0] for name, report in reports.items()}
    assert ["clean" in case["seconds"] for case in cases.values()] == [False, True, False]
    assert (tmp_path / "card.nii").read_bytes() == (tmp_path / "no.nii").read_bytes()
    for before, after in zip(cases["no"]["organs"], cases["yes"]["organs"], strict=True):
        assert before["removed_ml"] is None
        assert before["volume_ml"] - after["volume_ml"] == pytest.approx(after["removed_ml"], abs=1e-3)
        told = [note for note in cases["yes"]["notes"] if f"of {after['organ']} in" in note]
        assert len(told) == (after["removed_ml"] >= 0.005)


def test_a_bundle_may_ask_for_cleaning(tiny_bundle: Path, tiny_scan: Path) -> None:
    segmenter = Segmenter.load(tiny_bundle, device="cpu", threads=1)
    card = segmenter.bundle.card
    model = dataclasses.replace(card.model, postprocessing=PostprocessConfig(enabled=True))
    cleaning = dataclasses.replace(card, model=model)
    asked = dataclasses.replace(segmenter, bundle=dataclasses.replace(segmenter.bundle, card=cleaning))
    volume = viscera.read_volume(tiny_scan)
    assert segmenter.segment_volume(volume).removed is None
    assert segmenter.segment_volume(volume, clean=True).removed is not None
    assert asked.segment_volume(volume).removed is not None
    assert asked.segment_volume(volume, clean=False).removed is None


def test_the_report_does_not_hold_a_chosen_series_uid(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert segment(tiny_bundle, tiny_scan, "-o", tmp_path / "o", "--series", "1.2.3.4.5", "--report", report) == 1
    assert "1.2.3.4.5" not in report.read_text(encoding="utf-8")
    assert read_json(report)["options"]["series_chosen"] is True


def test_finished_cases_are_kept_on_request(
    tiny_bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels"
    report = tmp_path / "report.json"
    segment(tiny_bundle, scans / "a.nii.gz", "-o", output)
    before = (output / "a.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    assert segment(tiny_bundle, scans, "-o", output, "--skip-existing", "--report", report) == 1
    assert (output / "a.nii.gz").stat().st_mtime_ns == before
    assert [case["status"] for case in read_json(report)["cases"]] == ["skipped", "failed", "done"]
    assert capsys.readouterr().out.splitlines()[-1] == "1 done, 1 skipped, 1 failed"


def test_without_the_request_they_are_replaced(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    output = tmp_path / "organs.nii.gz"
    output.write_bytes(b"old")
    assert segment(tiny_bundle, tiny_scan, "-o", output) == 0
    assert output.read_bytes() != b"old"


def test_statistics_are_of_all_cases_the_kept_ones_too(tiny_bundle: Path, scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels"
    segment(tiny_bundle, scans / "a.nii.gz", "-o", output)
    segment(tiny_bundle, scans, "-o", output, "--skip-existing", "--statistics")
    with (output / "statistics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["organ"]) for row in rows] == [(case, o.name) for case in "ac" for o in ORGANS]
    assert [row["volume_ml"] for row in rows[:4]] == [row["volume_ml"] for row in rows[4:]]
    # Labels measured again tell nothing of the networks, so they have no verdict.
    assert {row["quality"] for row in rows[:4]} == {""}
    assert {row["quality"] for row in rows[4:]} <= {"ok", "check", "absent"}
    tables = read_json(output / "statistics.json")
    assert [entry["case"] for entry in tables] == ["a", "c"]
    assert tables[0]["organs"][0]["organ"] == "liver"


def test_statistics_and_preview_of_a_single_file_carry_its_name(
    tiny_bundle: Path, tiny_scan: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    output = tmp_path / "o" / "x.nii"
    segment(tiny_bundle, tiny_scan, "-o", output, "--statistics", "--preview", "--report", report)
    assert files(tmp_path / "o") == ["x.nii", "x_preview.png", "x_statistics.csv", "x_statistics.json"]
    assert (tmp_path / "o" / "x_preview.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(report)["cases"][0]["preview"] == str(tmp_path / "o" / "x_preview.png")
    assert "preview" in read_json(report)["cases"][0]["seconds"]


def test_files_of_one_name_from_two_folders_do_not_replace_each_other(
    tiny_bundle: Path, tiny_scan: Path, tmp_path: Path
) -> None:
    sources = [tmp_path / part / "ct.nii.gz" for part in ("first", "second")]
    for source in sources:
        source.parent.mkdir()
        shutil.copy(tiny_scan, source)
    assert segment(tiny_bundle, *sources, "-o", tmp_path / "labels") == 0
    assert len(files(tmp_path / "labels")) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems demand names that are text")
def test_a_file_name_need_not_be_text(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    scan = tmp_path / os.fsdecode(b"M\xfcller.nii.gz")
    shutil.copy(tiny_scan, scan)
    output, report = tmp_path / "labels", tmp_path / "report.json"
    command = [sys.executable, "-m", "viscera", "segment", scan, "-o", output, "--bundle", tiny_bundle]
    done = subprocess.run(
        [*command, "--report", report, "--statistics", "--device", "cpu"], capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0
    assert done.stderr.startswith(b"viscera: note: M\\udcfcller: Check ")
    assert done.stdout.startswith(b"M\\udcfcller: liver")
    assert os.fsencode(read_json(report)["cases"][0]["output"]) == os.fsencode(output) + b"/M\xfcller.nii.gz"
    assert (output / "statistics.csv").read_text(encoding="utf-8").splitlines()[1].startswith("M\\udcfcller,liver")


def test_an_unforeseen_error_in_a_case_is_one_line_and_the_others_go_on(
    tiny_bundle: Path,
    tiny_scan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(tiny_scan, tmp_path / "bad.nii.gz")
    right = Segmenter.segment_file

    def wrong(self: Segmenter, source: Path, output: Path, **options: Any) -> Any:
        if source.name == "bad.nii.gz":
            raise ZeroDivisionError("by zero")
        return right(self, source, output, **options)

    monkeypatch.setattr(Segmenter, "segment_file", wrong)
    report = tmp_path / "report.json"
    assert segment(tiny_bundle, tmp_path / "bad.nii.gz", tiny_scan, "-o", tmp_path / "o", "--report", report) == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "viscera: error: bad: ZeroDivisionError: by zero (unexpected; -v shows the traceback)"
    )
    assert [case["status"] for case in read_json(report)["cases"]] == ["failed", "done"]
    assert read_json(report)["cases"][0]["error"] == {"type": "ZeroDivisionError", "message": "by zero"}


def test_a_scan_without_organs_fails_unless_allowed(
    empty_bundle: Path, tiny_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "organs.nii.gz"
    assert segment(empty_bundle, tiny_scan, "-o", output) == 1
    assert not output.exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert segment(empty_bundle, tiny_scan, "-o", output, "--allow-empty", "-v") == 0
    assert not viscera.read_label_map(output).labels.any()
    out, err = capsys.readouterr()
    assert "liver not found" in out
    assert "viscera: note: ct: No organ was found" in err


@pytest.mark.parametrize("target", ["a.nii.gz", "."])
def test_an_output_never_replaces_an_input(
    target: str, tiny_bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (scans / name).read_bytes() for name in files(scans)}
    assert segment(tiny_bundle, scans / "a.nii.gz", "-o", scans / target) == 2
    assert "which is an input" in capsys.readouterr().err
    assert {name: (scans / name).read_bytes() for name in files(scans)} == before


def test_an_input_is_known_behind_a_link(tiny_bundle: Path, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "link.nii.gz").symlink_to(scans / "a.nii.gz")
    assert segment(tiny_bundle, scans / "a.nii.gz", "-o", tmp_path / "link.nii.gz") == 2


def test_labels_are_not_written_among_the_scans_of_an_input_folder(tiny_bundle: Path, scans: Path) -> None:
    (scans / "a.nii.gz").rename(scans / "a.nii")  # so that no label file bears an input's name
    (scans / "c.nii.gz").unlink()
    (scans / "broken.nii.gz").unlink()
    assert segment(tiny_bundle, scans, "-o", scans) == 2


@pytest.mark.parametrize("name", ["a.nii.gz", "labels/a.nii.gz"])
def test_the_report_replaces_neither_input_nor_output(name: str, tiny_bundle: Path, scans: Path) -> None:
    report = scans / name
    assert segment(tiny_bundle, scans / "a.nii.gz", "-o", scans / "labels", "--report", report) == 2
    assert not (scans / "labels").exists()


def test_two_scans_into_one_file_are_refused(
    tiny_bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(tiny_bundle, scans / "a.nii.gz", scans / "c.nii.gz", "-o", tmp_path / "one.nii.gz") == 2
    assert "Give a folder with -o" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["organs.nrrd", "organs.mha", "organs.dcm", "organs.gz"])
def test_another_format_as_output_is_refused(name: str, tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    assert segment(tiny_bundle, tiny_scan, "-o", tmp_path / name) == 2
    assert not (tmp_path / name).exists()


def test_a_bundle_that_is_not_there_ends_the_run(
    tiny_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert segment(tmp_path / "no-bundle", tiny_scan, "-o", tmp_path / "o", "--report", report) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("viscera: error: ")
    values = read_json(report)
    assert values["status"] == "failed"
    assert values["error"]["type"] == "BundleError"
    assert values["cases"][0]["status"] == "waiting"


def test_a_report_that_cannot_be_written_ends_the_run_before_work(
    tiny_bundle: Path, tiny_scan: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    report = tmp_path / "file" / "report.json"
    assert segment(tiny_bundle, tiny_scan, "-o", tmp_path / "o", "--report", report) == 1
    assert not (tmp_path / "o").exists()


def test_an_output_folder_that_cannot_be_made_is_one_line(
    tiny_bundle: Path, tiny_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert segment(tiny_bundle, tiny_scan, "-o", tmp_path / "file" / "o") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_quiet_says_nothing(
    tiny_bundle: Path, tiny_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(tiny_bundle, tiny_scan, "-o", tmp_path / "organs.nii", "-q") == 0
    assert capsys.readouterr() == ("", "")


def test_the_order_of_cases_does_not_matter(tiny_bundle: Path, scans: Path, other_scan: Path, tmp_path: Path) -> None:
    pair = [scans / "a.nii.gz", other_scan]
    segment(tiny_bundle, *pair, "-o", tmp_path / "forth")
    segment(tiny_bundle, *reversed(pair), "-o", tmp_path / "back")
    assert files(tmp_path / "forth") == ["a.nii.gz", "other.nii.gz"]
    for name in files(tmp_path / "forth"):
        assert (tmp_path / "forth" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()


def test_each_stage_is_named_as_it_begins(tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    segmenter = Segmenter.load(tiny_bundle, device="cpu", threads=1)
    segmenter.segment_file(tiny_scan, tmp_path / "organs.nii", on_stage=stages.append)
    assert stages == ["read", "preprocess", "localise", "crop", "segment", "restore", "assess", "write"]
    stages.clear()
    options = CaseOptions(clean=True, preview=True)
    segmenter.segment_file(tiny_scan, tmp_path / "organs.nii", options=options, on_stage=stages.append)
    assert stages == list(STAGES)


def test_phantom_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan, truth = tmp_path / "ct.nii.gz", tmp_path / "truth.nii.gz"
    argv = ["--shape", "10", "30", "40", "--spacing", "30", "12", "10", "--phase", "portal", "--noise", "10"]
    assert main(["phantom", "-o", str(scan), "--labels", str(truth), "--seed", "3", *argv]) == 0
    assert viscera.read_volume(scan).grid.shape_zyx == (10, 30, 40)
    assert viscera.read_label_map(truth).grid.spacing_zyx_mm == pytest.approx((30, 12, 10))
    capsys.readouterr()
    scores = tmp_path / "scores.csv"
    assert main(["evaluate", str(truth), str(truth), "--csv", str(scores), "-o", str(tmp_path / "s.json")]) == 0
    assert "liver" in capsys.readouterr().out
    with scores.open(encoding="utf-8", newline="") as file:
        assert {(row["dsc"], row["nsd"]) for row in csv.DictReader(file)} == {("1.0", "1.0")}
    assert read_json(tmp_path / "s.json")["methods"]["truth.nii.gz"]["tolerances"][0]["mm"]["liver"] == 1.0


def test_evaluate_refuses_label_maps_of_different_scans(tmp_path: Path) -> None:
    for seed, shape in ((1, "10"), (2, "11")):
        labels = tmp_path / f"{seed}.nii.gz"
        argv = ["--seed", str(seed), "--shape", shape, "12", "13", "--spacing", "30", "31", "32"]
        main(["phantom", "-o", str(tmp_path / "ct.nii"), "--labels", str(labels), *argv])
    assert main(["evaluate", str(tmp_path / "1.nii.gz"), str(tmp_path / "2.nii.gz")]) == 1


def test_info_shows_bundle_engine_and_networks(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_bundle), "--device", "cpu", "--networks"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"viscera {viscera.__version__}, Python ")
    for word in ("tiny", "openvino", "liver", "contracting.0.first", "total"):
        assert word in out


def test_the_demo_leaves_everything_it_speaks_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # With the bundle that ships: the noise that an untrained one makes of a real CT takes longer to measure.
    folder = tmp_path / "demo"
    assert main(["demo", "-o", str(folder), "--device", "cpu", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert files(folder) == [
        "ct.nii.gz",
        "labels.nii.gz",
        "labels_preview.png",
        "phantom.nii.gz",
        "phantom_labels.nii.gz",
        "phantom_labels_preview.png",
        "phantom_truth.nii.gz",
        "reference.nii.gz",
        "report.json",
        "statistics.csv",
        "statistics.json",
    ]
    for name in ("reference", "phantom_truth"):
        assert set(np.unique(viscera.read_label_map(folder / f"{name}.nii.gz").labels)) == {0, 1, 2, 3, 4}
    assert out.index("real CT, compared with") < out.index("synthetic CT, compared with")
    assert out.count("DSC") == 2
    assert out.count("seconds: read ") == 2
    for picture in ("labels_preview.png", "phantom_labels_preview.png"):
        assert str(folder / picture) in out


def test_scans_that_must_be_refused_are_one_line_each(
    shared_data: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert segment(tiny_bundle, shared_data / "robustness", "-o", tmp_path / "labels", "--report", report) == 1
    cases = {case["name"]: case for case in read_json(report)["cases"]}
    err = capsys.readouterr().err
    told = [line for line in err.splitlines() if line.startswith("viscera: error: ")]
    failed = [name for name, case in cases.items() if case["status"] == "failed"]
    assert [line.split(": ")[2] for line in told] == failed
    assert "Traceback" not in err
    assert "unexpected" not in err
    for name in ("head_gantry_tilt_uneven_gaps", "mr_coronal_by_mistake", "mr_abdomen_by_mistake"):
        assert cases[name]["status"] == "failed", name
    assert cases["non_orthonormal_affine_head_neck"]["status"] == "done", "its geometry is unusual, not wrong"
