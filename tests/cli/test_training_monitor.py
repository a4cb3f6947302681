"""The line at a terminal's foot while a training runs."""

import io
from collections.abc import Callable
from typing import Any

import pytest

from viscera.cli.progress import Progress
from viscera.cli.training_monitor import TerminalMonitor
from viscera.training.monitor import StepRecord, ValidationRecord

SCORES = ValidationRecord(iteration=200, validation={"liver": 0.951, "pancreas": 0.7123}, seconds=60.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(iteration: int, *, seconds: float = 0.0, rate: float = 4.0, **others: Any) -> StepRecord:
    terms = {"dice": 0.3, "local": 0.06, "spatial": 0.05}
    given = {"stage": "segment", "iterations": 1000, "loss": 0.41, "terms": terms, "learning_rate": 1e-4, **others}
    return StepRecord(iteration=iteration, seconds=seconds, rate=rate, **given)


class Watched:
    """A monitor, its terminal of so many columns, its clock and what it printed."""

    def __init__(self, screen: Callable[[str], list[str]], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        self.terminal, self.clock, self._screen = Terminal(), Clock(), screen
        self.printed: list[str] = []
        progress = Progress(shown=True, stream=self.terminal, clock=self.clock)
        self.monitor = TerminalMonitor(progress, self.printed.append)

    @property
    def line(self) -> str:
        return self._screen(self.terminal.getvalue())[0]


@pytest.fixture
def watch(screen: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Watched]:
    return lambda columns: Watched(screen, columns, monkeypatch)


def test_nothing_is_written_where_there_is_no_terminal() -> None:
    printed: list[str] = []
    monitor = TerminalMonitor(Progress(shown=False), printed.append)
    monitor.step(record(10))
    monitor.validated(SCORES)
    monitor.close()
    assert printed == []


def test_one_line_is_drawn_over_and_the_last_one_stays(watch: Callable[[int], Watched]) -> None:
    watched = watch(300)
    watched.monitor.step(record(10, seconds=2.0))
    watched.clock.now = 1.0
    watched.monitor.step(record(20, seconds=4.0))
    assert watched.line.startswith("segment 20/1,000")
    watched.monitor.close()
    assert watched.line == ""
    assert [line[:16] for line in watched.printed] == ["segment 20/1,000"]


def test_the_line_is_drawn_five_times_a_second_at_most_but_always_at_the_end(watch: Callable[[int], Watched]) -> None:
    watched = watch(300)
    for iteration in range(1, 101):
        watched.clock.now = iteration * 0.01
        watched.monitor.step(record(iteration, iterations=100, seconds=watched.clock.now))
    assert watched.terminal.getvalue().count("segment") in (5, 6, 7)
    assert watched.line.startswith("segment 100/100 (100 %)")
    assert "left" not in watched.line


def test_the_line_is_no_longer_than_the_terminal_is_wide(watch: Callable[[int], Watched]) -> None:
    watched = watch(38)
    watched.monitor.step(record(10))
    assert watched.line == "10/1,000 | 4 it/s | 4 min 08 s | loss…"


def test_a_narrow_terminal_shows_the_scores_too(watch: Callable[[int], Watched]) -> None:
    watched = watch(80)
    watched.monitor.step(record(250))
    watched.monitor.validated(SCORES)
    assert watched.line == "250/1,000 | 4 it/s | 3 min 08 s | loss .30+.06+.05 | DSC .95 .71"


def test_time_left_counts_what_happens_between_the_steps(watch: Callable[[int], Watched]) -> None:
    # 4 iterations per second while it trains, but 10 take 5 s with the validations between them.
    watched = watch(300)
    for iteration in range(10, 60, 10):
        watched.clock.now += 1.0
        watched.monitor.step(record(iteration, iterations=170, seconds=iteration * 0.5))
    assert "| 4 it/s | 1 min 00 s left |" in watched.line


def test_time_left_follows_from_the_rate_of_the_first_record(watch: Callable[[int], Watched]) -> None:
    watched = watch(300)
    watched.monitor.step(record(400, seconds=4.0))
    assert "2 min 30 s left" in watched.line


def test_scores_stay_on_the_line(watch: Callable[[int], Watched]) -> None:
    watched = watch(300)
    watched.monitor.step(record(200))
    watched.monitor.validated(SCORES)
    assert watched.line.endswith("DSC at 200: liver 0.951 pancreas 0.712")
