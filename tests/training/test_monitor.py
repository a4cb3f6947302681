"""What a training says while it runs."""

import io
import json
import sys
import types
from typing import Any

import pytest

from viscera.core.errors import MissingExtraError
from viscera.training.monitor import (
    Silent,
    StepRecord,
    Tee,
    TensorBoardMonitor,
    TerminalMonitor,
    ValidationRecord,
    duration_text,
    short_status_line,
    status_line,
)


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


SCORES = ValidationRecord(iteration=200, validation={"liver": 0.951, "pancreas": 0.7123}, seconds=60.0)


def last_line(terminal: io.StringIO) -> str:
    return terminal.getvalue().split("\r")[-1].removesuffix("\x1b[K")


def test_the_line_has_progress_rate_time_left_terms_and_scores() -> None:
    line = status_line(record(250), SCORES, left_s=187.5)
    assert line == (
        "segment 250/1,000 (25 %) | 4 it/s | 3 min 08 s left | loss 0.410 = dice 0.300 local 0.060 spatial 0.050"
        " | DSC at 200: liver 0.951 pancreas 0.712"
    )


def test_a_loss_of_one_term_is_said_once() -> None:
    assert status_line(record(1, terms={"dice": 0.41})).endswith("loss 0.410")


def test_slow_steps_are_said_in_seconds() -> None:
    assert "2.5 s/it" in status_line(record(1, rate=0.4))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (18_420, "5 h 07 min"),
        (86_399, "1 d 00 h"),
        (183_600, "2 d 03 h"),
        (-5, "0 s"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_nothing_is_written_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    monitor = TerminalMonitor(stream, columns=80)
    monitor.step(record(10))
    monitor.validated(SCORES)
    monitor.close()
    assert stream.getvalue() == ""


def test_one_line_is_written_over() -> None:
    terminal, clock = Terminal(), Clock()
    monitor = TerminalMonitor(terminal, columns=300, clock=clock)
    monitor.step(record(10, seconds=2.0))
    clock.now = 1.0
    monitor.step(record(20, seconds=4.0))
    assert "\n" not in terminal.getvalue()
    assert last_line(terminal).startswith("segment 20/1,000")
    monitor.close()
    assert terminal.getvalue().endswith("\n")


def test_the_line_is_written_five_times_a_second_at_most_but_always_at_the_end() -> None:
    terminal, clock = Terminal(), Clock()
    monitor = TerminalMonitor(terminal, columns=300, clock=clock)
    for iteration in range(1, 101):
        clock.now = iteration * 0.01
        monitor.step(record(iteration, iterations=100, seconds=clock.now))
    assert terminal.getvalue().count("\r") in (5, 6, 7)
    assert last_line(terminal).startswith("segment 100/100 (100 %)")
    assert "left" not in last_line(terminal)


def test_the_line_is_shorter_than_the_terminal_is_wide() -> None:
    terminal = Terminal()
    TerminalMonitor(terminal, columns=38).step(record(10))
    assert last_line(terminal) == "10/1,000 | 4 it/s | 4 min 08 s | los…"


def test_a_narrow_terminal_shows_the_scores_too() -> None:
    terminal = Terminal()
    monitor = TerminalMonitor(terminal, columns=80)
    monitor.step(record(250))
    monitor.validated(SCORES)
    assert last_line(terminal) == "250/1,000 | 4 it/s | 3 min 08 s | loss .30+.06+.05 | DSC .95 .71"


def test_the_short_line_of_a_long_training_fits_80_columns() -> None:
    scores = ValidationRecord(iteration=1, validation=dict.fromkeys("abcd", 0.5), seconds=0.0)
    assert len(short_status_line(record(99_990, iterations=100_000), scores, left_s=20_000)) < 80


def test_time_left_counts_what_happens_between_the_steps() -> None:
    # 4 iterations per second while it trains, but 10 take 5 s with the validations between them.
    terminal, clock = Terminal(), Clock()
    monitor = TerminalMonitor(terminal, columns=300, clock=clock)
    for iteration in range(10, 60, 10):
        clock.now += 1.0
        monitor.step(record(iteration, iterations=170, seconds=iteration * 0.5))
    assert "| 4 it/s | 1 min 00 s left |" in last_line(terminal)


def test_time_left_is_reckoned_from_the_rate_of_the_first_record() -> None:
    terminal = Terminal()
    TerminalMonitor(terminal, columns=300).step(record(400, seconds=4.0))
    assert "2 min 30 s left" in last_line(terminal)


def test_scores_stay_on_the_line() -> None:
    terminal = Terminal()
    monitor = TerminalMonitor(terminal, columns=300)
    monitor.step(record(200))
    monitor.validated(SCORES)
    assert last_line(terminal).endswith("DSC at 200: liver 0.951 pancreas 0.712")


def test_a_tee_tells_all_in_order() -> None:
    told: list[str] = []

    class Noting(Silent):
        def __init__(self, name: str) -> None:
            self.name = name

        def step(self, record: StepRecord) -> None:
            told.append(f"{self.name} {record.iteration}")

        def validated(self, record: ValidationRecord) -> None:
            told.append(f"{self.name} validated")

        def close(self) -> None:
            told.append(f"{self.name} closed")

    tee = Tee([Noting("a"), Noting("b")])
    tee.step(record(7))
    tee.validated(SCORES)
    tee.close()
    assert told == ["a 7", "b 7", "a validated", "b validated", "a closed", "b closed"]


def test_records_are_lines_of_json() -> None:
    step = record(7, seconds=1.26, rate=3.14159, loss=0.12345678, terms={"dice": 1 / 3})
    assert json.loads(json.dumps(step.as_json())) == {
        "iteration": 7,
        "loss": 0.123457,
        "terms": {"dice": 0.333333},
        "learning_rate": 1e-4,
        "rate": 3.142,
        "seconds": 1.3,
    }
    assert SCORES.as_json() == {
        "iteration": 200,
        "validation": {"liver": 0.951, "pancreas": 0.7123},
        "seconds": 60.0,
    }


def test_tensorboard_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"viscera\[tensorboard\]"):
        TensorBoardMonitor(tmp_path)


def test_tensorboard_gets_every_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    written: dict[tuple[str, int], float] = {}

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, iteration: int) -> None:
            written[name, iteration] = value

        def close(self) -> None:
            written["closed", 0] = 1.0

    stand_in = types.ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    monitor = TensorBoardMonitor(tmp_path)
    monitor.step(record(7))
    monitor.validated(SCORES)
    monitor.close()
    assert written == {
        ("loss/all", 7): 0.41,
        ("loss/dice", 7): 0.3,
        ("loss/local", 7): 0.06,
        ("loss/spatial", 7): 0.05,
        ("learning rate", 7): 1e-4,
        ("iterations per second", 7): 4.0,
        ("validation DSC/liver", 200): 0.951,
        ("validation DSC/pancreas", 200): 0.7123,
        ("closed", 0): 1.0,
    }
