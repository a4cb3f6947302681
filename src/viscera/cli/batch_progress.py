"""How a batch is going: lines that stay on a terminal's foot, or plain lines, and a table at the end."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from viscera.batch.scheduler import Tally
from viscera.batch.tasks import Fate, Outcome
from viscera.cli.console import Console, is_terminal
from viscera.quality.mirroring import WARNING

# A terminal is redrawn this often at most.
_DRAW_SECONDS = 0.25
# After so long without a case at work it is said what is waited for.
_IDLE_SECONDS = 30.0
_BAR_CELLS = 24
# Of more workers the first are shown.
_SHOWN_WORKERS = 8
# Of more failures the rest is in the ledger.
_SHOWN_FAILURES = 50
_ABOVE_AND_CLEAR = "\x1b[1A\x1b[2K"


class Board:
    """Tells of a batch's course on `console`; use it in a `with` block, which leaves a terminal clean."""

    def __init__(self, console: Console, stream: TextIO | None = None) -> None:
        self._console = console
        self._stream = sys.stderr if stream is None else stream
        self._live = not console.quiet and is_terminal(self._stream)
        self._lines = 0
        self._drawn = 0.0
        self._busy: float | None = time.monotonic()
        self._since: dict[str, tuple[str, float]] = {}
        self._told: dict[str, str] = {}

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def case_ended(self, outcome: Outcome, tally: Tally) -> None:
        """Say how a case ended."""
        self._clear()
        self._told.pop(outcome.name, None)
        far = "" if self._live else f"  [{course(tally)}]"
        if outcome.fate is Fate.FAILED:
            self._console.complain(outcome.why, about=outcome.name)
            return
        why = f" again, as {outcome.why}" if outcome.why and outcome.fate is Fate.DONE else ""
        self._console.say(f"{outcome.name}: {outcome.fate}{why} ({outcome.seconds:.1f} s){far}")
        for note in outcome.notes:
            if self._console.verbose or note.startswith(WARNING):
                self._console.note(f"{outcome.name}: {note}")

    def case_retried(self, outcome: Outcome, tally: Tally) -> None:
        """Say that an attempt failed, and why, unless that was said of the one before."""
        if self._told.get(outcome.name) != outcome.why:
            self._told[outcome.name] = outcome.why
            self._clear()
            self._console.note(f"{outcome.name}: will be tried again: {outcome.why}")

    def tick(self, tally: Tally, at_work: Mapping[str, str]) -> None:
        """Redraws the terminal's foot, if it is time, and says once if nothing is at work for long."""
        now = time.monotonic()
        self._tell_idle(bool(at_work), now)
        if not self._live or now - self._drawn < _DRAW_SECONDS:
            return
        self._since = {
            worker: (case, self._since[worker][1] if self._since.get(worker, ("",))[0] == case else now)
            for worker, case in at_work.items()
        }
        width = self._columns() - 1
        lines = foot(tally, {worker: (case, now - since) for worker, (case, since) in self._since.items()})
        self._clear()
        self._draw("".join(line[:width] + "\n" for line in lines))
        self._lines, self._drawn = len(lines) if self._live else 0, now

    def _tell_idle(self, busy: bool, now: float) -> None:
        if busy:
            self._busy = now
        elif self._busy is not None and now - self._busy > _IDLE_SECONDS:
            self._busy = None
            self._clear()
            self._console.note("waiting for workers, or for cases that other runs are at")

    def _columns(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):  # no terminal after all
            columns = 0
        return columns or shutil.get_terminal_size().columns  # some terminals do not know their size

    def _draw(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # the terminal is gone, which is no reason to end the batch
            self._live = False

    def _clear(self) -> None:
        if self._lines:
            self._draw(_ABOVE_AND_CLEAR * self._lines)
            self._lines, self._drawn = 0, 0.0


def course(tally: Tally) -> str:
    """How far it is in a few words: "12 of 100, 1 failed, 3.4 a minute, 26 min left"."""
    parts = [f"{tally.ended} of {tally.total}"]
    if failed := tally.fates[Fate.FAILED]:
        parts.append(f"{failed} failed")
    if (rate := tally.rate_per_s) is not None and (left := tally.left_s) is not None:
        parts.append(f"{60 * rate:.3g} a minute" if rate < 1 else f"{rate:.1f} a second")
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def foot(tally: Tally, at_work: Mapping[str, tuple[str, float]]) -> list[str]:
    """The lines at the foot of a terminal: a bar, and for each worker its case and for how many seconds."""
    full = _BAR_CELLS * tally.ended // max(1, tally.total)
    lines = [f"[{'#' * full}{'.' * (_BAR_CELLS - full)}] {course(tally)}"]
    shown = list(at_work.items())[:_SHOWN_WORKERS]
    lines += [f"  {worker}: {case} ({seconds:.0f} s)" for worker, (case, seconds) in shown]
    if (more := len(at_work) - len(shown)) > 0:
        lines.append(f"  and {more} more workers")
    return lines


def closing_table(tally: Tally, seconds: float) -> list[str]:
    """The lines of the table at the end: what became of the cases, the workers, and the failures with their reasons."""
    fates = tally.fates
    rows = [
        ("done", str(fates[Fate.DONE])),
        ("kept", str(fates[Fate.KEPT])),
        ("failed", str(fates[Fate.FAILED])),
        ("time", duration(seconds)),
    ]
    if fates[Fate.DONE]:
        rows.append(("rate", f"{3600 * fates[Fate.DONE] / seconds:.4g} cases an hour"))
    if tally.peak_memory_mib is not None:
        rows.append(("peak memory", f"{tally.peak_memory_mib:.0f} MiB"))
    for worker, (cases, busy) in sorted(tally.by_worker.items())[:_SHOWN_WORKERS]:
        count = "1 case" if cases == 1 else f"{cases} cases"
        rows.append((f"  {worker}", f"{count}, {busy / cases:.3g} s each, busy {100 * busy / seconds:.0f} %"))
    return [*_columns(rows), *_failures(tally)]


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "12 min", "3.2 h", "4.1 days"."""
    for size, unit, below in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < size * below:
            return f"{seconds / size:.{1 if size == 3600 or seconds < 10 else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def _failures(tally: Tally) -> list[str]:
    lines = [
        f"  {outcome.name} ({tries} {'try' if tries == 1 else 'tries'}): {outcome.why}"
        for outcome, tries in tally.failed[:_SHOWN_FAILURES]
    ]
    if (more := len(tally.failed) - len(lines)) > 0:
        lines.append(f"  and {more} more, in the ledger")
    return ["failed cases:", *lines] if lines else []
