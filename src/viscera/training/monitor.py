"""What a training reports as it runs: records, lines that say where it is, TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from viscera.core.extras import needs

# Decimal places in the log; more say nothing about a training.
_LOSS_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What one record of log.jsonl says about the steps since the record before.

    Attributes:
        stage: `localise` or `segment`.
        iteration: Steps done so far.
        iterations: Steps planned.
        loss: What is minimised, without the L2 term; the mean over these steps.
        terms: Its parts by name, likewise.
        learning_rate: Of the last step.
        rate: Iterations per second over these steps.
        seconds: Training time so far; that before a resumed checkpoint is counted in.
    """

    stage: str
    iteration: int
    iterations: int
    loss: float
    terms: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float
    rate: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the record's line of log.jsonl as plain values, numbers rounded."""
        return {
            "iteration": self.iteration,
            "loss": round(self.loss, _LOSS_DIGITS),
            "terms": {name: round(value, _LOSS_DIGITS) for name, value in self.terms.items()},
            "learning_rate": self.learning_rate,
            "rate": round(self.rate, 3),
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, kw_only=True)
class ValidationRecord:
    """How well the averaged weights do on the cases held out.

    Attributes:
        iteration: Steps done so far.
        validation: DSC in [0, 1] by organ, the mean over the cases.
        seconds: Training time so far.
    """

    iteration: int
    validation: Mapping[str, float]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the record's line of log.jsonl as plain values, numbers rounded."""
        scores = {organ: round(value, 4) for organ, value in self.validation.items()}
        return {"iteration": self.iteration, "validation": scores, "seconds": round(self.seconds, 1)}


class Monitor(Protocol):
    """Receives the records of a training; called between steps, so it must be quick."""

    def step(self, record: StepRecord) -> None:
        """Take note of the steps since the last record."""

    def validated(self, record: ValidationRecord) -> None:
        """Take note of a validation."""

    def close(self) -> None:
        """Finish, also after an error or an interrupt."""


class Silent:
    """A monitor that does nothing."""

    def step(self, record: StepRecord) -> None:
        """Ignore the record."""

    def validated(self, record: ValidationRecord) -> None:
        """Ignore the record."""

    def close(self) -> None:
        """Have nothing to close."""


class Tee:
    """Several monitors as one, called in the order given."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self.monitors = tuple(monitors)

    def step(self, record: StepRecord) -> None:
        """Pass the record to all of them."""
        for monitor in self.monitors:
            monitor.step(record)

    def validated(self, record: ValidationRecord) -> None:
        """Pass the record to all of them."""
        for monitor in self.monitors:
            monitor.validated(record)

    def close(self) -> None:
        """Close all of them."""
        for monitor in self.monitors:
            monitor.close()


class TensorBoardMonitor:
    """The records as TensorBoard events in a folder, for `tensorboard --logdir FOLDER`.

    Raises:
        MissingExtraError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        with needs("the package tensorboard", "tensorboard", doing="writing TensorBoard events"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer: Any = SummaryWriter(str(folder))

    def step(self, record: StepRecord) -> None:
        """Write loss, terms, learning rate and iterations per second."""
        values = {"loss/all": record.loss, "learning rate": record.learning_rate, "iterations per second": record.rate}
        values |= {f"loss/{name}": value for name, value in record.terms.items()}
        self._add(values, record.iteration)

    def validated(self, record: ValidationRecord) -> None:
        """Write the DSC of each organ."""
        self._add({f"validation DSC/{organ}": value for organ, value in record.validation.items()}, record.iteration)

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()

    def _add(self, values: Mapping[str, float], iteration: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)


def status_line(record: StepRecord, scores: ValidationRecord | None = None, *, left_s: float | None = None) -> str:
    """Say on one line where a training is."""
    share = 100 * record.iteration / record.iterations
    parts = [f"{record.stage} {record.iteration:,}/{record.iterations:,} ({share:.0f} %)", _rate_text(record.rate)]
    if record.iteration < record.iterations:
        parts.append("time left unknown" if left_s is None else f"{duration_text(left_s)} left")
    terms = " ".join(f"{name} {value:.3f}" for name, value in record.terms.items())
    parts.append(f"loss {record.loss:.3f}" + (f" = {terms}" if len(record.terms) > 1 else ""))
    if scores is not None:
        organs = " ".join(f"{organ} {value:.3f}" for organ, value in scores.validation.items())
        parts.append(f"DSC at {scores.iteration:,}: {organs}")
    return " | ".join(parts)


def short_status_line(
    record: StepRecord, scores: ValidationRecord | None = None, *, left_s: float | None = None
) -> str:
    """Say the same for narrow terminals, the most important first: terms and scores in order, without their names."""
    parts = [f"{record.iteration:,}/{record.iterations:,}", _rate_text(record.rate)]
    if record.iteration < record.iterations and left_s is not None:
        parts.append(duration_text(left_s))
    terms = list(record.terms.values())
    parts.append("loss " + "+".join(map(_short, terms if len(terms) > 1 else [record.loss])))
    if scores is not None:
        parts.append("DSC " + " ".join(map(_short, scores.validation.values())))
    return " | ".join(parts)


def duration_text(seconds: float) -> str:
    """Say seconds in words, two units at most: 42 s, 3 min 05 s, 5 h 07 min, 2 d 03 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24:02d} h"


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _rate_text(rate: float) -> str:
    if 0 < rate < 1:
        return f"{1 / rate:.3g} s/it"
    return f"{rate:.3g} it/s" if rate < 100 else f"{rate:.0f} it/s"
