"""How a batch is going: the foot of a terminal, or plain lines, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from viscera.batch.scheduler import Tally
from viscera.batch.tasks import TaskResult, TaskStatus
from viscera.cli.console import Console
from viscera.quality.mirroring import WARNING

# After so long without a case at work it is said what is waited for.
_IDLE_SECONDS = 30.0
# Of more workers the first are shown.
_SHOWN_WORKERS = 8
# Of more failures the rest is in the ledger.
_SHOWN_FAILURES = 50


class WorkerNames:
    """Short names for workers, in the order in which they are seen: "worker 1", or with a host where there are several.

    An address is tcp://HOST:PORT, or HOST:PROCESS.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, tuple[str, int]] = {}

    def see(self, addresses: Sequence[str]) -> None:
        """Give those a number that have none."""
        for address in addresses:
            if address not in self._numbers:
                host = address.rpartition("/")[2].rpartition(":")[0]
                number = 1 + sum(known == host for known, _ in self._numbers.values())
                self._numbers[address] = host, number

    def __getitem__(self, address: str) -> str:
        self.see([address])
        host, number = self._numbers[address]
        several = len({known for known, _ in self._numbers.values()}) > 1
        return f"{host} worker {number}" if several and host else f"worker {number}"


class BatchDisplay:
    """Reports a batch's course on `console`; use it in a `with` block, which leaves a terminal clean."""

    def __init__(self, console: Console) -> None:
        self.worker_names = WorkerNames()
        self._console = console
        self._progress = console.progress()
        self._busy: float | None = time.monotonic()
        self._since: dict[str, tuple[str, float]] = {}
        self._reported: dict[str, str] = {}

    def __enter__(self) -> BatchDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.pause()

    def case_ended(self, result: TaskResult, tally: Tally) -> None:
        """Print how a case ended."""
        self._progress.pause()
        self._reported.pop(result.name, None)
        if result.status is TaskStatus.FAILED:
            self._console.complain(result.why, about=result.name)
            return
        why = f" again, as {result.why}" if result.why and result.status is TaskStatus.DONE else ""
        far = "" if self._progress.is_shown else f"  [{course(tally)}]"
        self._console.say(f"{result.name}: {result.status}{why} ({result.seconds:.1f} s){far}")
        for note in result.notes:
            if self._console.verbose or note.startswith(WARNING):
                self._console.note(f"{result.name}: {note}")

    def case_retried(self, result: TaskResult, tally: Tally) -> None:
        """Print that an attempt failed, and why, unless that was printed of the one before."""
        if self._reported.get(result.name) != result.why:
            self._reported[result.name] = result.why
            self._progress.pause()
            self._console.note(f"{result.name}: will be tried again: {result.why}")

    def tick(self, tally: Tally, running: Mapping[str, str]) -> None:
        """Redraw the terminal's foot, if it is time, and print once if nothing is at work for long."""
        now = time.monotonic()
        self._note_idle(bool(running), now)
        if not self._progress.is_shown:
            return
        self._since = {
            worker: (case, self._since[worker][1] if self._since.get(worker, ("",))[0] == case else now)
            for worker, case in running.items()
        }
        seconds = {worker: (case, now - since) for worker, (case, since) in self._since.items()}
        share = tally.ended / tally.total if tally.total else 0.0
        self._progress.show(course(tally), *worker_lines(seconds, self.worker_names), share=share)

    def _note_idle(self, busy: bool, now: float) -> None:
        if busy:
            self._busy = now
        elif self._busy is not None and now - self._busy > _IDLE_SECONDS:
            self._busy = None
            self._progress.pause()
            self._console.note("waiting for workers, or for cases that other runs are at")


def course(tally: Tally) -> str:
    """Say how far a batch is in a few words: "12 of 100, 1 failed, 3.4 a minute, 26 min left"."""
    parts = [f"{tally.ended} of {tally.total}"]
    if failed := tally.counts[TaskStatus.FAILED]:
        parts.append(f"{failed} failed")
    if tally.ended < tally.total and (rate := tally.rate_per_s) is not None and (left := tally.left_s) is not None:
        parts.append(f"{60 * rate:.3g} a minute" if rate < 1 else f"{rate:.1f} a second")
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def worker_lines(running: Mapping[str, tuple[str, float]], names: WorkerNames) -> list[str]:
    """Return for each worker a line with its case and for how many seconds it has been at it."""
    names.see(list(running))
    shown = list(running.items())[:_SHOWN_WORKERS]
    lines = [f"  {names[worker]}: {case} ({seconds:.0f} s)" for worker, (case, seconds) in shown]
    if (more := len(running) - len(shown)) > 0:
        lines.append(f"  and {more} more workers")
    return lines


def summary(tally: Tally) -> str:
    """Say in one line what has been done and what is left, for a run that is ended before its time."""
    counts = tally.counts
    parts = [f"{counts[status]} {status}" for status in (TaskStatus.DONE, TaskStatus.KEPT, TaskStatus.FAILED)]
    text = ", ".join(part for part in parts if not part.startswith("0 ")) or "none done"
    return f"of {tally.total} cases {text}, {tally.total - tally.ended} left"


def closing_table(tally: Tally, seconds: float, names: WorkerNames | None = None) -> list[str]:
    """Return the lines of the table at the end: what became of the cases, the workers, failures and their reasons."""
    counts, names = tally.counts, names or WorkerNames()
    rows = [
        ("done", str(counts[TaskStatus.DONE])),
        ("kept", str(counts[TaskStatus.KEPT])),
        ("failed", str(counts[TaskStatus.FAILED])),
        ("time", duration(seconds)),
    ]
    if counts[TaskStatus.DONE]:
        rows.append(("rate", f"{3600 * counts[TaskStatus.DONE] / seconds:.4g} cases an hour"))
    if tally.peak_memory_mib is not None:
        rows.append(("peak memory", f"{tally.peak_memory_mib:.0f} MiB"))
    names.see(list(tally.by_worker))
    workers = sorted((names[worker], work) for worker, work in tally.by_worker.items())
    for worker, (cases, busy) in workers[:_SHOWN_WORKERS]:
        count = "1 case" if cases == 1 else f"{cases} cases"
        rows.append((f"  {worker}", f"{count}, {busy / cases:.3g} s each, busy {100 * busy / seconds:.0f} %"))
    return [*_columns(rows), *_failures(tally)]


def duration(seconds: float) -> str:
    """Say seconds as people do: "40 s", "12 min", "3.2 h", "4.1 days"."""
    for size, unit, below in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < size * below:
            return f"{seconds / size:.{1 if size == 3600 or seconds < 10 else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def _failures(tally: Tally) -> list[str]:
    lines = [
        f"  {result.name} ({tries} {'try' if tries == 1 else 'tries'}): {result.why}"
        for result, tries in tally.failed[:_SHOWN_FAILURES]
    ]
    if (more := len(tally.failed) - len(lines)) > 0:
        lines.append(f"  and {more} more, in the ledger")
    return ["failed cases:", *lines] if lines else []
