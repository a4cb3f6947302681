"""One attempt on a case, with a stand-in for the networks: what is kept, what is done again, and what is recorded."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from viscera.batch.leases import Claims
from viscera.batch.ledger import Ledger
from viscera.batch.scheduler import Drive, Tally
from viscera.batch.tasks import CLAIMS, Fate, Made, Model, Order, Outcome, attempt, record_death
from viscera.batch.workers import OwnProcess
from viscera.case import CaseOptions
from viscera.core.errors import WriteError
from viscera.core.files import write_bytes


def stand_in(order: Order, identity: str) -> Made:
    """Labels that are the scan's own bytes, and a text beside them."""
    beside = order.output.with_name(f"{order.name}.txt")
    write_bytes(order.source.read_bytes(), order.output)
    write_bytes(identity.encode(), beside)
    return Made(outputs={"nifti": order.output}, others=(beside,))


@pytest.fixture
def order(tmp_path: Path) -> Order:
    (tmp_path / "a.nii").write_bytes(b"scan")
    (tmp_path / "out").mkdir()
    return Order(
        name="a",
        source=tmp_path / "a.nii",
        output=tmp_path / "out" / "a.nii.gz",
        folder=tmp_path / "out",
        options=CaseOptions(),
        model=Model(card_sha256="0" * 64),
    )


def entry(order: Order) -> dict[str, object]:
    values: dict[str, object] = json.loads(Ledger(order.folder).path(order.name).read_text(encoding="utf-8"))
    return values


def test_an_attempt_is_recorded_and_then_kept(order: Order) -> None:
    assert attempt(order, stand_in).fate is Fate.DONE
    written = Ledger(order.folder).path("a").read_bytes()
    assert attempt(order, stand_in).fate is Fate.KEPT
    assert Ledger(order.folder).path("a").read_bytes() == written
    assert entry(order)["attempts"] == 1


def another_card(order: Order) -> Order:
    return replace(order, model=replace(order.model, card_sha256="1" * 64))


def other_options(order: Order) -> Order:
    return replace(order, options=replace(order.options, clean=True))


def another_scan(order: Order) -> Order:
    order.source.write_bytes(b"another scan")
    return order


def removed_labels(order: Order) -> Order:
    order.output.unlink()
    return order


def altered_side_file(order: Order) -> Order:
    order.output.with_name("a.txt").write_bytes(b"by hand")
    return order


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
def test_what_has_changed_is_done_again(order: Order, change: Callable[[Order], Order], why: str) -> None:
    attempt(order, stand_in)
    outcome = attempt(change(order), stand_in)
    assert (outcome.fate, outcome.why, entry(order)["attempts"]) == (Fate.DONE, why, 2)
    assert attempt(change(order) if change in (another_card, other_options) else order, stand_in).fate is Fate.KEPT


def test_what_does_not_change_the_labels_does_not_count(order: Order) -> None:
    attempt(order, stand_in)
    model = replace(order.model, threads=3, memory_limit=10**9)
    assert attempt(replace(order, model=model), stand_in).fate is Fate.KEPT


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "another"}', '{"schema": "viscera.ledger/1"}'])
def test_an_entry_nobody_understands_is_made_anew(order: Order, text: str) -> None:
    attempt(order, stand_in)
    Ledger(order.folder).path("a").write_text(text, encoding="utf-8")
    assert attempt(order, stand_in).fate is Fate.DONE
    assert entry(order)["status"] == "done"


@pytest.mark.parametrize("field", [{"attempts": "many"}, {"files": 3}, {"basis": "none"}, {"more": 1}])
def test_an_entry_with_fields_nobody_understands_is_made_anew(order: Order, field: dict[str, object]) -> None:
    attempt(order, stand_in)
    Ledger(order.folder).path("a").write_text(json.dumps(entry(order) | field), encoding="utf-8")
    assert attempt(order, stand_in).fate is Fate.DONE


def test_a_failure_is_recorded_with_its_reason(order: Order) -> None:
    def fail(order: Order, identity: str) -> Made:
        raise RuntimeError("no such thing")

    outcome = attempt(order, fail)
    assert (outcome.fate, outcome.why) == (Fate.FAILED, "RuntimeError: no such thing")
    assert entry(order)["error"] == {"type": "RuntimeError", "message": "no such thing"}
    assert attempt(order, stand_in).fate is Fate.DONE
    assert (entry(order)["attempts"], entry(order)["error"]) == (2, None)


def test_a_claimed_case_is_left_alone(order: Order) -> None:
    claim = Claims(Ledger(order.folder).folder / CLAIMS).take("a", lambda: 0)
    assert claim is not None
    with claim:
        assert attempt(order, stand_in).fate is Fate.BUSY
    assert not order.output.exists()


def test_an_attempt_whose_claim_was_taken_records_nothing(order: Order) -> None:
    def overtaken(order: Order, identity: str) -> Made:
        (Ledger(order.folder).folder / CLAIMS / "a.2").touch()  # as the process does that takes the claim
        return stand_in(order, identity)

    assert attempt(order, overtaken).fate is Fate.BUSY
    assert not Ledger(order.folder).path("a").exists()


def test_a_case_whose_workers_died_is_recorded_with_the_attempts_that_left_a_claim(order: Order) -> None:
    folder = Ledger(order.folder).folder / CLAIMS
    folder.mkdir(parents=True)
    for number in (1, 2):
        (folder / f"a.{number}").touch()
        os.utime(folder / f"a.{number}", (0, 0))
    assert record_death(order, "it died").fate is Fate.FAILED
    found = entry(order)
    assert (found["status"], found["attempts"]) == ("failed", 2)
    assert found["error"] == {"type": "WorkerDied", "message": "it died"}
    assert [path.name for path in folder.iterdir() if path.name[0] != "."] == []


def test_a_death_after_which_another_process_did_the_case_is_no_failure(order: Order) -> None:
    attempt(order, stand_in)
    assert record_death(order, "it died").fate is Fate.KEPT
    assert entry(order)["status"] == "done"


def test_a_machine_without_the_folder_of_the_outputs_makes_none(order: Order) -> None:
    order.folder.rmdir()
    with pytest.raises(WriteError, match="claiming the case a"):
        attempt(order, stand_in)
    assert not order.folder.exists()


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def case_ended(self, outcome: Outcome, tally: Tally) -> None:
        self.lines.append(("ended", str(outcome.fate)))

    def case_retried(self, outcome: Outcome, tally: Tally) -> None:
        self.lines.append(("retried", str(outcome.fate)))

    def tick(self, tally: Tally, at_work: object) -> None:
        pass


def test_a_failed_case_is_tried_again_as_often_as_asked(order: Order) -> None:
    tries = []

    def fail_twice(order: Order, identity: str) -> Made:
        tries.append(order.name)
        if len(tries) < 3:
            raise RuntimeError("not yet")
        return stand_in(order, identity)

    heard = Heard()
    tally = Drive([order], OwnProcess(fail_twice), retries=2, watcher=heard).run()
    assert heard.lines == [("retried", "failed"), ("retried", "failed"), ("ended", "done")]
    assert (tally.fates, tally.failed) == ({Fate.DONE: 1}, [])
    assert entry(order)["attempts"] == 3


def test_a_case_that_fails_each_time_is_listed_with_its_tries(order: Order) -> None:
    def fail(order: Order, identity: str) -> Made:
        raise RuntimeError("never")

    tally = Drive([order], OwnProcess(fail), retries=1, watcher=Heard()).run()
    assert [(outcome.name, outcome.why, tries) for outcome, tries in tally.failed] == [("a", "RuntimeError: never", 2)]


def test_a_case_of_another_process_is_waited_for(order: Order) -> None:
    claim = Claims(Ledger(order.folder).folder / CLAIMS).take("a", lambda: 0)
    assert claim is not None
    claim.__enter__()

    class GivesBack(Heard):
        """The other process ends its attempt while this one waits."""

        ticks = 0

        def tick(self, tally: Tally, at_work: object) -> None:
            self.ticks += 1
            if self.ticks == 2:
                claim.__exit__(None, None, None)

    heard = GivesBack()
    assert Drive([order], OwnProcess(stand_in), retries=0, watcher=heard).run().fates == {Fate.DONE: 1}
    assert heard.ticks > 2


def test_a_run_that_cannot_write_its_ledger_ends_at_once(order: Order) -> None:
    (order.folder / "ledger").write_bytes(b"a file where the folder is to be")
    with pytest.raises(WriteError, match=r"writing .*ledger/\.room: expected a folder .* got a file in its place"):
        Drive([order], OwnProcess(stand_in), retries=2, watcher=Heard()).run()
