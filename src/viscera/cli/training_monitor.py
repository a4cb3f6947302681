"""The monitors of a training started on the command line."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import Console

if TYPE_CHECKING:
    from viscera.cli.progress import Progress
    from viscera.training.monitor import Monitor, StepRecord, ValidationRecord

# Records from which the time left is estimated.
_WINDOW = 64


class TerminalMonitor:
    """One line at a terminal's foot: progress, rate, time left, loss terms, DSC of the averaged weights.

    For one training, from its beginning or from where it is resumed. Where there is no terminal nothing is printed:
    log.jsonl has it all.

    Args:
        progress: The terminal's display.
        print_line: Prints the line that stays at the end.
    """

    def __init__(self, progress: Progress, print_line: Callable[[str], None]) -> None:
        self._progress, self._print_line = progress, print_line
        self._step: StepRecord | None = None
        self._scores: ValidationRecord | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=_WINDOW)

    def step(self, record: StepRecord) -> None:
        """Redraw the line, if it is time."""
        self._recent.append((record.iteration, record.seconds))
        self._step = record
        self._show(now=record.iteration >= record.iterations)

    def validated(self, record: ValidationRecord) -> None:
        """Redraw the line."""
        self._scores = record
        self._show(now=True)

    def close(self) -> None:
        """Leave the last line standing."""
        if self._progress.is_shown and self._step is not None:
            self._progress.pause()
            self._print_line(self._line(self._step))

    def _show(self, *, now: bool) -> None:
        if self._progress.is_shown and self._step is not None:
            self._progress.show(self._line(self._step), now=now)

    def _line(self, record: StepRecord) -> str:
        from viscera.training.monitor import short_status_line, status_line

        left_s = self._left_s(record)
        line = status_line(record, self._scores, left_s=left_s)
        fits = len(line) <= self._progress.columns
        return line if fits else short_status_line(record, self._scores, left_s=left_s)

    def _left_s(self, record: StepRecord) -> float | None:
        """Seconds left at the recent pace, validations and checkpoints included; None if that is not known yet."""
        (first, begun), (last, now) = self._recent[0], self._recent[-1]
        if now <= begun:
            return (record.iterations - last) / record.rate if record.rate > 0 else None
        return (record.iterations - last) * (now - begun) / (last - first)


def run_monitor(run: Path, console: Console, *, tensorboard: bool = False) -> Monitor:
    """Return the monitors of a training in the folder `run`: its picture, a terminal's line unless quiet, TensorBoard.

    Raises:
        MissingExtraError: If TensorBoard is asked for and not installed.
    """
    from viscera.training.curves import CurvesMonitor
    from viscera.training.monitor import Tee, TensorBoardMonitor

    monitors: list[Monitor] = [CurvesMonitor(run), TerminalMonitor(console.progress(), console.remark)]
    if tensorboard:
        monitors.append(TensorBoardMonitor(run / "tensorboard"))
    return Tee(monitors)
