"""One attempt on a case, with a stand-in for the networks: what is kept, what is done again, and what is recorded."""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from viscera.batch.digests import options_digest
from viscera.batch.leases import Leases
from viscera.batch.ledger import Ledger
from viscera.batch.scheduler import Scheduler, Tally
from viscera.batch.tasks import (
    LEASES,
    ModelRequest,
    Task,
    TaskOutputs,
    TaskResult,
    TaskStatus,
    attempt,
    is_permanent,
    record_worker_death,
)
from viscera.batch.workers import InProcessPool
from viscera.case import CaseOptions
from viscera.core.errors import GeometryError, MemoryBudgetError, ReadError, WriteError
from viscera.core.files import write_bytes


def stand_in(task: Task, identity: str) -> TaskOutputs:
    """Labels that are the scan's own bytes, and a text beside them."""
    beside = task.output.with_name(f"{task.name}.txt")
    write_bytes(task.source.read_bytes(), task.output)
    write_bytes(identity.encode(), beside)
    return TaskOutputs(outputs={"nifti": task.output}, side_files=(beside,))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "a.nii").write_bytes(b"scan")
    (tmp_path / "out").mkdir()
    return Task(
        name="a",
        source=tmp_path / "a.nii",
        output=tmp_path / "out" / "a.nii.gz",
        folder=tmp_path / "out",
        options=CaseOptions(),
        model=ModelRequest(card_sha256="0" * 64),
    )


def entry(task: Task) -> dict[str, object]:
    values: dict[str, object] = json.loads(Ledger(task.folder).path(task.name).read_text(encoding="utf-8"))
    return values


def test_an_attempt_is_recorded_and_then_kept(task: Task) -> None:
    assert attempt(task, stand_in).status is TaskStatus.DONE
    written = Ledger(task.folder).path("a").read_bytes()
    assert attempt(task, stand_in).status is TaskStatus.KEPT
    assert Ledger(task.folder).path("a").read_bytes() == written
    assert entry(task)["attempts"] == 1


def another_card(task: Task) -> Task:
    return replace(task, model=replace(task.model, card_sha256="1" * 64))


def other_options(task: Task) -> Task:
    return replace(task, options=replace(task.options, clean=True))


def another_scan(task: Task) -> Task:
    task.source.write_bytes(b"another scan")
    return task


def removed_labels(task: Task) -> Task:
    task.output.unlink()
    return task


def altered_side_file(task: Task) -> Task:
    task.output.with_name("a.txt").write_bytes(b"by hand")
    return task


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (another_card, "another bundle"),
        (other_options, "other options"),
        (another_scan, "the scan has changed"),
        (removed_labels, "a.nii.gz is missing"),
        (altered_side_file, "a.txt was altered"),
    ],
)
def test_what_has_changed_is_done_again(task: Task, change: Callable[[Task], Task], why: str) -> None:
    attempt(task, stand_in)
    result = attempt(change(task), stand_in)
    assert (result.status, result.why, entry(task)["attempts"]) == (TaskStatus.DONE, why, 2)
    assert (
        attempt(change(task) if change in (another_card, other_options) else task, stand_in).status is TaskStatus.KEPT
    )


def test_what_does_not_change_the_labels_does_not_count(task: Task) -> None:
    attempt(task, stand_in)
    model = replace(task.model, threads=3, memory_limit=10**9)
    assert attempt(replace(task, model=model), stand_in).status is TaskStatus.KEPT


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "another"}', '{"schema": "viscera.ledger/1"}'])
def test_an_entry_nobody_understands_is_made_again(task: Task, text: str) -> None:
    attempt(task, stand_in)
    Ledger(task.folder).path("a").write_text(text, encoding="utf-8")
    assert attempt(task, stand_in).status is TaskStatus.DONE
    assert entry(task)["status"] == "done"


@pytest.mark.parametrize("field", [{"attempts": "many"}, {"files": 3}, {"basis": "none"}, {"more": 1}])
def test_an_entry_with_fields_nobody_understands_is_made_again(task: Task, field: dict[str, object]) -> None:
    attempt(task, stand_in)
    Ledger(task.folder).path("a").write_text(json.dumps(entry(task) | field), encoding="utf-8")
    assert attempt(task, stand_in).status is TaskStatus.DONE


def test_a_failure_is_recorded_with_its_reason(task: Task) -> None:
    def fail(task: Task, identity: str) -> TaskOutputs:
        raise RuntimeError("no such thing")

    result = attempt(task, fail)
    assert (result.status, result.why) == (TaskStatus.FAILED, "RuntimeError: no such thing")
    assert entry(task)["error"] == {"type": "RuntimeError", "message": "no such thing"}
    assert attempt(task, stand_in).status is TaskStatus.DONE
    assert (entry(task)["attempts"], entry(task)["error"]) == (2, None)


def test_an_entry_of_an_earlier_version_is_kept(task: Task) -> None:
    attempt(task, stand_in)
    earlier = {name: value for name, value in entry(task).items() if name not in ("permanent", "series")}
    Ledger(task.folder).path("a").write_text(json.dumps(earlier), encoding="utf-8")
    assert attempt(task, stand_in).status is TaskStatus.KEPT


def test_options_that_came_later_do_not_change_the_digests_in_ledgers() -> None:
    # Computed by version 0.1.0 for the flat layout.
    assert options_digest(CaseOptions()) == "5c51d9fe0217ff3f04f9acdfd94ff9914465f843cb28d461276989f66fcb5995"
    assert options_digest(CaseOptions(roi_subset=("liver",))) != options_digest(CaseOptions())


READING = {"expected": "a CT", "got": "an MR", "remedy": "Give a CT"}


def caused(error: Exception, cause: Exception | None) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (ReadError("reading a", **READING), True),
        (GeometryError("reading a", **READING), True),
        (caused(ReadError("reading a", **READING), gzip.BadGzipFile("not a gzip file")), True),
        (caused(ReadError("reading a", **READING), OSError(5, "Input/output error")), False),
        (caused(ReadError("reading a", **READING), FileNotFoundError(2, "No such file")), False),
        (MemoryBudgetError("reading a", **READING), False),
        (WriteError("writing a", **READING), False),
        (RuntimeError("anything"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_is_wrong_with_the_scan_itself_is_permanent(error: Exception, permanent: bool) -> None:
    assert is_permanent(error) == permanent


def test_a_hopeless_scan_is_tried_once_and_not_in_later_runs(task: Task) -> None:
    tries = []

    def refuse(task: Task, identity: str) -> TaskOutputs:
        tries.append(task.name)
        raise ReadError("reading a.nii", **READING)

    for _ in range(2):
        heard = Heard()
        tally = Scheduler([task], InProcessPool(refuse), retries=2, observer=heard).run()
        assert heard.lines == [("ended", "failed")]
        assert [result.why for result, _ in tally.failed] == ["reading a.nii: expected a CT, got an MR. Give a CT."]
    assert (tries, entry(task)["attempts"]) == (["a"], 1)
    task.source.write_bytes(b"a CT after all")
    assert attempt(task, stand_in).status is TaskStatus.DONE
    assert entry(task)["permanent"] is False


def test_with_other_options_or_another_version_a_hopeless_scan_is_tried_again(task: Task) -> None:
    def refuse(task: Task, identity: str) -> TaskOutputs:
        raise ReadError("reading a.nii", **READING)

    attempt(task, refuse)
    assert attempt(other_options(task), stand_in).status is TaskStatus.DONE
    attempt(another_scan(task), refuse)
    text = json.dumps(entry(task) | {"versions": {"viscera": "0.0.1"}})
    Ledger(task.folder).path("a").write_text(text, encoding="utf-8")
    assert attempt(task, stand_in).status is TaskStatus.DONE


def test_a_leased_case_is_left_alone(task: Task) -> None:
    lease = Leases(Ledger(task.folder).folder / LEASES).take("a", lambda: 0)
    assert lease is not None
    with lease:
        assert attempt(task, stand_in).status is TaskStatus.BUSY
    assert not task.output.exists()


def test_an_attempt_whose_lease_was_taken_records_nothing(task: Task) -> None:
    def overtaken(task: Task, identity: str) -> TaskOutputs:
        (Ledger(task.folder).folder / LEASES / "a.2").touch()  # as the process does that takes the lease
        return stand_in(task, identity)

    assert attempt(task, overtaken).status is TaskStatus.BUSY
    assert not Ledger(task.folder).path("a").exists()


def test_a_case_whose_workers_died_is_recorded_with_the_attempts_that_left_a_lease(task: Task) -> None:
    folder = Ledger(task.folder).folder / LEASES
    folder.mkdir(parents=True)
    for number in (1, 2):
        (folder / f"a.{number}").touch()
        os.utime(folder / f"a.{number}", (0, 0))
    assert record_worker_death(task, "it died").status is TaskStatus.FAILED
    found = entry(task)
    assert (found["status"], found["attempts"]) == ("failed", 2)
    assert found["error"] == {"type": "WorkerDied", "message": "it died"}
    assert [path.name for path in folder.iterdir() if path.name[0] != "."] == []


def test_a_death_after_which_another_process_did_the_case_is_no_failure(task: Task) -> None:
    attempt(task, stand_in)
    assert record_worker_death(task, "it died").status is TaskStatus.KEPT
    assert entry(task)["status"] == "done"


def test_a_machine_without_the_folder_of_the_outputs_makes_none(task: Task) -> None:
    task.folder.rmdir()
    with pytest.raises(WriteError, match="leasing the case a"):
        attempt(task, stand_in)
    assert not task.folder.exists()


class Heard:
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def case_ended(self, result: TaskResult, tally: Tally) -> None:
        self.lines.append(("ended", str(result.status)))

    def case_retried(self, result: TaskResult, tally: Tally) -> None:
        self.lines.append(("retried", str(result.status)))

    def tick(self, tally: Tally, running: object) -> None:
        pass


def test_a_failed_case_is_tried_again_as_often_as_asked(task: Task) -> None:
    tries = []

    def fail_twice(task: Task, identity: str) -> TaskOutputs:
        tries.append(task.name)
        if len(tries) < 3:
            raise RuntimeError("not yet")
        return stand_in(task, identity)

    heard = Heard()
    tally = Scheduler([task], InProcessPool(fail_twice), retries=2, observer=heard).run()
    assert heard.lines == [("retried", "failed"), ("retried", "failed"), ("ended", "done")]
    assert (tally.counts, tally.failed) == ({TaskStatus.DONE: 1}, [])
    assert entry(task)["attempts"] == 3


def test_a_case_that_fails_each_time_is_listed_with_its_tries(task: Task) -> None:
    def fail(task: Task, identity: str) -> TaskOutputs:
        raise RuntimeError("never")

    tally = Scheduler([task], InProcessPool(fail), retries=1, observer=Heard()).run()
    assert [(result.name, result.why, tries) for result, tries in tally.failed] == [("a", "RuntimeError: never", 2)]


def test_a_case_of_another_process_is_waited_for(task: Task) -> None:
    lease = Leases(Ledger(task.folder).folder / LEASES).take("a", lambda: 0)
    assert lease is not None
    lease.__enter__()

    class GivesBack(Heard):
        """The other process ends its attempt while this one waits."""

        ticks = 0

        def tick(self, tally: Tally, running: object) -> None:
            self.ticks += 1
            if self.ticks == 2:
                lease.__exit__(None, None, None)

    heard = GivesBack()
    assert Scheduler([task], InProcessPool(stand_in), retries=0, observer=heard).run().counts == {TaskStatus.DONE: 1}
    assert heard.ticks > 2


def test_a_run_that_cannot_write_its_ledger_ends_at_once(task: Task) -> None:
    (task.folder / "ledger").write_bytes(b"a file where the folder is to be")
    with pytest.raises(WriteError, match=r"writing .*ledger/\.room: expected a folder .* got a file in its place"):
        Scheduler([task], InProcessPool(stand_in), retries=2, observer=Heard()).run()
