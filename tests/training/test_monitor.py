"""What a training says while it runs."""

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
    ValidationRecord,
    duration_text,
    short_status_line,
    status_line,
)


def record(iteration: int, *, seconds: float = 0.0, rate: float = 4.0, **others: Any) -> StepRecord:
    terms = {"dice": 0.3, "local": 0.06, "spatial": 0.05}
    given = {"stage": "segment", "iterations": 1000, "loss": 0.41, "terms": terms, "learning_rate": 1e-4, **others}
    return StepRecord(iteration=iteration, seconds=seconds, rate=rate, **given)


SCORES = ValidationRecord(iteration=200, validation={"liver": 0.951, "pancreas": 0.7123}, seconds=60.0)


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


def test_the_short_line_of_a_long_training_fits_80_columns() -> None:
    scores = ValidationRecord(iteration=1, validation=dict.fromkeys("abcd", 0.5), seconds=0.0)
    assert len(short_status_line(record(99_990, iterations=100_000), scores, left_s=20_000)) < 80


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
