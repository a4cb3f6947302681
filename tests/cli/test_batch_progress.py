"""What is reported of a batch: values worked by hand, and a terminal left as it was."""

import io
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from viscera.batch.scheduler import Tally
from viscera.batch.tasks import TaskResult, TaskStatus
from viscera.cli.batch_progress import BatchDisplay, WorkerNames, closing_table, course, duration, summary, worker_lines
from viscera.cli.console import Console


def result(name: str, status: TaskStatus, *, why: str = "", seconds: float = 0.0, worker: str = "") -> TaskResult:
    return TaskResult(name=name, status=status, why=why, seconds=seconds, worker=worker)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (172799, "48.0 h"),
        (172800, "2.0 days"),
        (950400, "11.0 days"),
    ],
)
def test_seconds_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def tally_of(*results: TaskResult, total: int, recorded: int = 0, slots: int = 1) -> Tally:
    """Of cases c0, c1, ..., the first `recorded` of them with an entry, after `results`."""
    names = [f"c{number}" for number in range(total)]
    tally = Tally(names, names[:recorded])
    tally.slots = slots
    for one in results:
        tally.count(one, 1)
    return tally


def test_the_course_before_there_is_a_rate() -> None:
    kept = result("c0", TaskStatus.KEPT, seconds=1.0)
    assert course(tally_of(kept, total=7, recorded=1)) == "1 of 7"


def test_the_course_says_rate_and_rest_of_slow_cases() -> None:
    # Two workers take 40 s a case: 3 a minute; 94 are left, which take 1880 s.
    done = [result(f"c{number}", TaskStatus.DONE, seconds=20.0 + 10 * number) for number in range(5)]
    failed = result("c5", TaskStatus.FAILED, seconds=40.0)
    tally = tally_of(*done, failed, total=100, slots=2)
    assert course(tally) == "6 of 100, 1 failed, 3 a minute, 31 min left"


def test_the_course_says_rate_and_rest_of_quick_cases() -> None:
    kept = [result(f"c{number}", TaskStatus.KEPT, seconds=0.8) for number in range(10)]
    assert course(tally_of(*kept, total=50, recorded=50)) == "10 of 50, 1.2 a second, 32 s left"


def test_the_time_left_is_that_of_the_cases_left() -> None:
    # Of 100 cases 90 are only checked, 0.1 s each: after all of these, 10 of 60 s are left, of which one is done.
    kept = [result(f"c{number}", TaskStatus.KEPT, seconds=0.1) for number in range(90)]
    done = result("c90", TaskStatus.DONE, seconds=60.0)
    assert tally_of(*kept, total=100, recorded=90).left_s is None
    assert tally_of(*kept, done, total=100, recorded=90).left_s == pytest.approx(540.0)
    assert tally_of(*kept[:40], done, total=100, recorded=90).left_s == pytest.approx(540.0 + 5.0)


def test_a_finished_batch_has_no_time_left() -> None:
    done = [result(f"c{number}", TaskStatus.DONE, seconds=2.0) for number in range(3)]
    assert course(tally_of(*done, total=3)) == "3 of 3"


def test_the_rate_is_that_of_the_last_hundred_cases() -> None:
    seconds = [10.0] * 200 + [1.0] * 60  # of the last hundred 40 take 10 s and 60 take 1 s
    done = [result(f"c{number}", TaskStatus.DONE, seconds=value) for number, value in enumerate(seconds)]
    assert tally_of(*done, total=1000).rate_per_s == pytest.approx(100 / 460)


def test_there_is_a_line_for_each_worker_with_a_short_name() -> None:
    lines = worker_lines(
        {"tcp://127.0.0.1:4000": ("case1", 3.4), "tcp://127.0.0.1:5000": ("case2", 61.0)}, WorkerNames()
    )
    assert lines == ["  worker 1: case1 (3 s)", "  worker 2: case2 (61 s)"]


def test_workers_of_several_hosts_are_named_with_them() -> None:
    names = WorkerNames()
    assert names["node7:411"] == "worker 1"
    names.see(["node8:400", "node7:500"])
    assert [names[one] for one in ("node7:411", "node8:400", "node7:500")] == [
        "node7 worker 1",
        "node8 worker 1",
        "node7 worker 2",
    ]


def test_the_lines_of_many_workers_are_few() -> None:
    lines = worker_lines({f"w{number}": ("case", 0.0) for number in range(11)}, WorkerNames())
    assert len(lines) == 9
    assert lines[-1] == "  and 3 more workers"


def test_what_a_run_that_is_ended_has_done() -> None:
    done, kept = result("c0", TaskStatus.DONE), result("c1", TaskStatus.KEPT)
    assert summary(tally_of(done, kept, total=9)) == "of 9 cases 1 done, 1 kept, 7 left"
    assert summary(tally_of(total=9)) == "of 9 cases none done, 9 left"


def test_the_closing_table() -> None:
    tally = Tally("abcde")
    for one, tries in (
        (result("a", TaskStatus.DONE, seconds=10.0, worker="host:1"), 0),
        (result("b", TaskStatus.DONE, seconds=20.0, worker="host:1"), 1),
        (result("c", TaskStatus.DONE, seconds=15.0, worker="host:2"), 0),
        (result("d", TaskStatus.KEPT, seconds=1.0), 0),
        (result("e", TaskStatus.FAILED, why="no abdomen"), 3),
        (result("f", TaskStatus.FAILED, why="no file"), 1),
    ):
        tally.count(one, tries)
    tally.peak_memory_mib = 431.6
    assert closing_table(tally, 40.0) == [
        "done         3",
        "kept         1",
        "failed       2",
        "time         40 s",
        "rate         270 cases an hour",  # 3 in 40 s
        "peak memory  432 MiB",
        "  worker 1   2 cases, 15 s each, busy 75 %",
        "  worker 2   1 case, 15 s each, busy 38 %",
        "failed cases:",
        "  e (3 tries): no abdomen",
        "  f (1 try): no file",
    ]


def test_of_many_failures_the_first_are_listed() -> None:
    tally = Tally(map(str, range(60)))
    for number in range(60):
        tally.count(result(f"c{number}", TaskStatus.FAILED, why="why"), 1)
    lines = closing_table(tally, 1.0)
    assert sum("why" in line for line in lines) == 50
    assert lines[-1] == "  and 10 more, in the ledger"


class Terminal(io.StringIO):
    """Keeps what is written to it, and says it is a terminal."""

    def isatty(self) -> bool:
        return True


def connected(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 40 columns that stdout and stderr go to from now on."""
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_a_terminal_is_left_clean(screen: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = connected(monkeypatch)
    with BatchDisplay(Console()) as display:
        display.tick(Tally("abcd"), {"tcp://127.0.0.1:4000": "a case with a name too long for the terminal", "w": "b"})
        drawn = screen(terminal.getvalue())
        display.tick(Tally("abcd"), {"w": "c"})  # too early to draw again
        assert screen(terminal.getvalue()) == drawn
    assert drawn[0].endswith(" 0 of 4")
    assert drawn[1].startswith("  127.0.0.1 worker 1: a case with")
    assert max(map(len, drawn)) <= 40
    assert set(screen(terminal.getvalue())) == {""}


def test_what_moves_a_terminals_cursor_is_not_drawn(
    screen: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = connected(monkeypatch)
    with BatchDisplay(Console()) as display:
        display.tick(Tally("a"), {"w": "a\x1b[2J\r[red]b"})
        assert screen(terminal.getvalue())[1] == "  worker 1: a?[2J?[red]b (0 s)"


def test_lines_stand_above_the_foot(screen: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = connected(monkeypatch)
    tally = Tally("ab")
    with BatchDisplay(Console()) as display:
        display.tick(tally, {"w": "a"})
        tally.count(result("a", TaskStatus.DONE, seconds=1.5), 0)
        display.case_ended(result("a", TaskStatus.DONE, seconds=1.5), tally)
        display.tick(tally, {"w": "b"})
        shown = [row.lstrip("━╸╺ ") for row in screen(terminal.getvalue())]
        assert shown[0] == "a: done (1.5 s)"
        assert shown[1].startswith("1 of 2, 40 a minute")
        assert shown[2] == "worker 1: b (0 s)"
    assert [row for row in screen(terminal.getvalue()) if row] == ["a: done (1.5 s)"]


def test_without_a_terminal_each_line_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally("ab")
    with BatchDisplay(Console()) as display:
        display.tick(tally, {"w": "a"})
        tally.count(result("a", TaskStatus.DONE), 0)
        display.case_ended(result("a", TaskStatus.DONE, why="the scan has changed", seconds=1.5), tally)
        display.case_retried(result("b", TaskStatus.FAILED, why="no file"), tally)
        display.case_ended(result("b", TaskStatus.FAILED, why="no file"), tally)
    out, err = capsys.readouterr()
    assert out == "a: done again, as the scan has changed (1.5 s)  [1 of 2]\n"
    assert err == "viscera: note: b: will be tried again: no file\nviscera: error: b: no file\n"


def test_of_the_notes_of_a_case_the_one_that_it_looks_mirrored_is_always_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notes = ("Of 2 CT series, one was read.", "The scan looks like the mirror image of a patient: liver 0.7 and 0.9.")
    with BatchDisplay(Console()) as display:
        display.case_ended(replace(result("a", TaskStatus.DONE), notes=notes), Tally("a"))
    assert capsys.readouterr().err == f"viscera: note: a: {notes[1]}\n"


def test_why_a_case_is_tried_again_is_said_once_for_each_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with BatchDisplay(Console()) as display:
        for name, why in (("a", "no file"), ("b", "no file"), ("a", "no file"), ("a", "its worker died")):
            display.case_retried(result(name, TaskStatus.FAILED, why=why), Tally("ab"))
    again = "will be tried again"
    told = [f"a: {again}: no file", f"b: {again}: no file", f"a: {again}: its worker died"]
    assert capsys.readouterr().err.splitlines() == [f"viscera: note: {line}" for line in told]


def test_what_is_waited_for_is_said_once_after_half_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("viscera.cli.batch_progress.time", SimpleNamespace(monotonic=lambda: now[0]))

    def told(*ticks: tuple[float, dict[str, str]]) -> str:
        for now[0], running in ticks:
            display.tick(Tally("a"), running)
        return capsys.readouterr().err

    line = "viscera: note: waiting for workers, or for cases that other runs are at\n"
    with BatchDisplay(Console()) as display:
        assert told((1029.0, {})) == ""
        assert told((1031.0, {}), (1090.0, {})) == line
        assert told((1091.0, {"w": "a"}), (1110.0, {})) == ""
        assert told((1122.0, {})) == line


def test_quiet_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = connected(monkeypatch)
    with BatchDisplay(Console(quiet=True)) as display:
        display.tick(Tally("a"), {"w": "a"})
    assert terminal.getvalue() == ""
