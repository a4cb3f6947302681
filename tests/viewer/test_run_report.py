"""The run report as a record and as a file."""

import json
import math
from pathlib import Path

import pytest

from viscera.core.errors import NothingFoundError, WriteError
from viscera.viewer.run_report import SCHEMA, CaseEntry, Failure, RunReport, Status, peak_memory_mib, utc_now


def a_report() -> RunReport:
    cases = (CaseEntry(name="a", input="in/a.nii"), CaseEntry(name="b", input="in/b"), CaseEntry(name="c", input="c"))
    return RunReport(viscera="1.2.3", options={"device": "cpu"}, started="2026-01-02T03:04:05+00:00", cases=cases)


def test_a_new_report_waits_for_all_cases() -> None:
    report = a_report()
    assert report.status is Status.RUNNING
    assert report.finished is None
    assert report.count(Status.WAITING) == 3


def test_one_case_changes_and_the_others_stay() -> None:
    report = a_report().with_case(1, status=Status.DONE, seconds={"read": 0.5})
    assert [case.status for case in report.cases] == [Status.WAITING, Status.DONE, Status.WAITING]
    assert report.cases[1].seconds == {"read": 0.5}
    assert report.cases[1].input == "in/b"


def test_a_run_without_failures_is_done() -> None:
    report = a_report()
    for index, status in enumerate((Status.DONE, Status.SKIPPED, Status.DONE)):
        report = report.with_case(index, status=status)
    assert report.ended().status is Status.DONE


def test_one_failed_case_makes_the_run_failed() -> None:
    assert a_report().with_case(2, status=Status.FAILED).ended().status is Status.FAILED


def test_an_interrupt_marks_the_running_case_and_leaves_the_waiting() -> None:
    report = a_report().with_case(0, status=Status.DONE).with_case(1, status=Status.RUNNING).ended(interrupted=True)
    assert report.status is Status.INTERRUPTED
    assert [case.status for case in report.cases] == [Status.DONE, Status.INTERRUPTED, Status.WAITING]
    assert report.finished is not None


def test_an_error_of_the_run_is_told() -> None:
    error = NothingFoundError("doing", expected="organs", got="none", remedy="Look")
    report = a_report().ended(error=error)
    assert report.status is Status.FAILED
    assert report.error == Failure(type="NothingFoundError", message="doing: expected organs, got none. Look.")


def test_a_failure_is_one_line_and_never_empty() -> None:
    assert Failure.of(ValueError("two\n  lines")).message == "two lines"
    assert Failure.of(MemoryError()).message == "MemoryError"


def test_the_text_is_json_with_its_schema() -> None:
    values = json.loads(a_report().text())
    assert values["schema"] == SCHEMA
    assert values["status"] == "running"
    assert values["options"] == {"device": "cpu"}
    assert values["cases"][0] == {
        "name": "a",
        "input": "in/a.nii",
        "status": "waiting",
        "output": None,
        "outputs": {},
        "preview": None,
        "error": None,
        "notes": [],
        "shape_zyx_vox": None,
        "spacing_zyx_mm": None,
        "seconds": {},
        "organs": [],
        "peak_memory_mib": None,
    }


def test_numbers_that_are_not_finite_become_null() -> None:
    report = a_report().with_case(0, organs=({"organ": "liver", "mean_hu": math.nan, "sd_hu": math.inf},))
    organ = json.loads(report.text())["cases"][0]["organs"][0]
    assert organ == {"organ": "liver", "mean_hu": None, "sd_hu": None}


def test_saving_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    a_report().save(path)
    a_report().ended().save(path)
    assert json.loads(path.read_text(encoding="utf-8"))["status"] == "done"
    assert list(tmp_path.iterdir()) == [path]


def test_saving_nowhere_does_nothing() -> None:
    a_report().save(None)


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        a_report().save(tmp_path / "file" / "report.json")


def test_times_are_utc() -> None:
    assert utc_now().endswith("+00:00")


def test_peak_memory_is_that_of_a_python_process() -> None:
    peak = peak_memory_mib()
    assert peak is None or 5 < peak < 100_000
