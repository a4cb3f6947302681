"""What is told of a batch: values worked by hand, and a terminal left as it was."""

import io
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from viscera.batch.scheduler import Tally
from viscera.batch.tasks import Fate, Outcome
from viscera.cli.batch_progress import Board, closing_table, course, duration, foot
from viscera.cli.console import Console


def outcome(name: str, fate: Fate, *, why: str = "", seconds: float = 0.0, worker: str = "") -> Outcome:
    return Outcome(name=name, fate=fate, why=why, seconds=seconds, worker=worker)


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


def test_the_course_before_there_is_a_rate() -> None:
    assert course(Tally(total=7, fates=Counter({Fate.DONE: 1}), ends=deque([5.0]))) == "1 of 7"


def test_the_course_tells_rate_and_rest_of_slow_cases() -> None:
    # 5 cases in 100 s after the first are 3 a minute; 94 are left, which take 1880 s.
    tally = Tally(total=100, fates=Counter({Fate.DONE: 4, Fate.KEPT: 1, Fate.FAILED: 1}))
    tally.ends.extend([0.0, 10.0, 30.0, 40.0, 70.0, 100.0])
    assert course(tally) == "6 of 100, 1 failed, 3 a minute, 31 min left"


def test_the_course_tells_rate_and_rest_of_quick_cases() -> None:
    tally = Tally(total=50, fates=Counter({Fate.KEPT: 10}), ends=deque([1.0, 2.0, 3.0, 3.5]))
    assert course(tally) == "10 of 50, 1.2 a second, 33 s left"


def test_the_rate_is_that_of_the_last_hundred_cases() -> None:
    tally = Tally(total=1000)
    for number in range(300):  # first one each 10 s, then one a second
        end = 10.0 * number if number < 200 else 2000.0 + number
        tally.count(outcome(f"c{number}", Fate.DONE), 0, end)
    assert tally.rate_per_s == pytest.approx(100 / (2299 - 1990))


def test_the_foot_has_a_bar_and_a_line_for_each_worker() -> None:
    tally = Tally(total=8, fates=Counter({Fate.DONE: 2}))
    lines = foot(tally, {"tcp://a": ("case1", 3.4), "tcp://b": ("case2", 61.0)})
    assert lines == [
        "[######..................] 2 of 8",
        "  tcp://a: case1 (3 s)",
        "  tcp://b: case2 (61 s)",
    ]


def test_the_foot_of_many_workers_stays_short() -> None:
    lines = foot(Tally(total=0), {f"w{number}": ("case", 0.0) for number in range(11)})
    assert len(lines) == 10
    assert lines[-1] == "  and 3 more workers"


def test_the_closing_table() -> None:
    tally = Tally(total=5)
    for one, tries in (
        (outcome("a", Fate.DONE, seconds=10.0, worker="host:1"), 0),
        (outcome("b", Fate.DONE, seconds=20.0, worker="host:1"), 1),
        (outcome("c", Fate.DONE, seconds=15.0, worker="host:2"), 0),
        (outcome("d", Fate.KEPT, seconds=1.0), 0),
        (outcome("e", Fate.FAILED, why="no abdomen"), 3),
        (outcome("f", Fate.FAILED, why="no file"), 1),
    ):
        tally.count(one, tries, 0.0)
    tally.peak_memory_mib = 431.6
    assert closing_table(tally, 40.0) == [
        "done         3",
        "kept         1",
        "failed       2",
        "time         40 s",
        "rate         270 cases an hour",  # 3 in 40 s
        "peak memory  432 MiB",
        "  host:1     2 cases, 15 s each, busy 75 %",
        "  host:2     1 case, 15 s each, busy 38 %",
        "failed cases:",
        "  e (3 tries): no abdomen",
        "  f (1 try): no file",
    ]


def test_of_many_failures_the_first_are_listed() -> None:
    tally = Tally(total=60)
    for number in range(60):
        tally.count(outcome(f"c{number}", Fate.FAILED, why="why"), 1, 0.0)
    lines = closing_table(tally, 1.0)
    assert sum("why" in line for line in lines) == 50
    assert lines[-1] == "  and 10 more, in the ledger"


class Terminal(io.StringIO):
    """Keeps what is written to it, and says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_left_clean(screen: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    tally = Tally(total=4)
    with Board(Console(quiet=False), stream) as board:
        board.tick(tally, {"tcp://127.0.0.1:4000": "a case with a name too long for the terminal", "w": "b"})
        drawn = screen(stream.getvalue())
        board.tick(tally, {"w": "c"})  # too early to draw again
        assert screen(stream.getvalue()) == drawn
    assert [len(row) for row in drawn] == [29, 29, 12, 0]
    assert drawn[0].startswith("[....")
    assert set(screen(stream.getvalue())) == {""}


def test_lines_stand_above_the_foot(screen: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    tally = Tally(total=2)
    with Board(Console(), stream) as board:
        board.tick(tally, {"w": "a"})
        tally.count(outcome("a", Fate.DONE, seconds=1.5), 0, 0.0)
        board.case_ended(outcome("a", Fate.DONE, seconds=1.5), tally)
        board.tick(tally, {"w": "b"})
        shown = [row.split("]")[-1].strip() for row in screen(stream.getvalue())]
        assert shown == ["a: done (1.5 s)", "1 of 2", "w: b (0 s)", ""]
    assert [row for row in screen(stream.getvalue()) if row] == ["a: done (1.5 s)"]


def test_without_a_terminal_each_line_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(total=2)
    with Board(Console(), io.StringIO()) as board:
        board.tick(tally, {"w": "a"})
        tally.count(outcome("a", Fate.DONE), 0, 0.0)
        board.case_ended(outcome("a", Fate.DONE, why="the scan has changed", seconds=1.5), tally)
        board.case_retried(outcome("b", Fate.FAILED, why="no file"), tally)
        board.case_ended(outcome("b", Fate.FAILED, why="no file"), tally)
    out, err = capsys.readouterr()
    assert out == "a: done again, as the scan has changed (1.5 s)  [1 of 2]\n"
    assert err == "viscera: note: b: will be tried again: no file\nviscera: error: b: no file\n"


def test_of_the_notes_of_a_case_the_one_that_it_looks_mirrored_is_always_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notes = ("Of 2 CT series, one was read.", "The scan looks like the mirror image of a patient: liver 0.7 and 0.9.")
    with Board(Console(), io.StringIO()) as board:
        board.case_ended(replace(outcome("a", Fate.DONE), notes=notes), Tally(total=1))
    assert capsys.readouterr().err == f"viscera: note: a: {notes[1]}\n"


def test_why_a_case_is_tried_again_is_said_once_for_each_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with Board(Console(), io.StringIO()) as board:
        for name, why in (("a", "no file"), ("b", "no file"), ("a", "no file"), ("a", "its worker died")):
            board.case_retried(outcome(name, Fate.FAILED, why=why), Tally(total=2))
    again = "will be tried again"
    told = [f"a: {again}: no file", f"b: {again}: no file", f"a: {again}: its worker died"]
    assert capsys.readouterr().err.splitlines() == [f"viscera: note: {line}" for line in told]


def test_what_is_waited_for_is_said_once_after_half_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("viscera.cli.batch_progress.time", SimpleNamespace(monotonic=lambda: now[0]))

    def told(*ticks: tuple[float, dict[str, str]]) -> str:
        for now[0], at_work in ticks:
            board.tick(Tally(total=1), at_work)
        return capsys.readouterr().err

    line = "viscera: note: waiting for workers, or for cases that other runs are at\n"
    with Board(Console(), io.StringIO()) as board:
        assert told((1029.0, {})) == ""
        assert told((1031.0, {}), (1090.0, {})) == line
        assert told((1091.0, {"w": "a"}), (1110.0, {})) == ""
        assert told((1122.0, {})) == line


def test_quiet_draws_nothing() -> None:
    stream = Terminal()
    with Board(Console(quiet=True), stream) as board:
        board.tick(Tally(total=1), {"w": "a"})
    assert stream.getvalue() == ""
