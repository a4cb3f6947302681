"""The course of a batch: cases handed out, failed ones tried again, those of other processes waited for."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from viscera.batch.ledger import Ledger
from viscera.batch.tasks import Task, TaskResult, TaskStatus, record_worker_death
from viscera.batch.workers import FinishedAttempt, Pool

# How long a case that another process works on is left alone: doubled each time, up to the second figure.
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 10.0
_TICK_SECONDS = 0.25
# Rate and time left follow from the last so many cases.
_RATE_CASES = 100


class _Pace:
    """How many cases of one kind are left, and how long the last ones took."""

    def __init__(self, names: Iterable[str]) -> None:
        self.left = set(names)
        self._seconds: deque[float] = deque(maxlen=_RATE_CASES)

    @property
    def mean_s(self) -> float | None:
        return sum(self._seconds) / len(self._seconds) if self._seconds else None

    def count(self, result: TaskResult) -> None:
        self.left.discard(result.name)
        self._seconds.append(result.seconds)


class Tally:
    """How far a batch is.

    Args:
        names: Of all cases.
        recorded: Of those that have a ledger entry at the beginning: most of these are only checked, which is quick.

    Attributes:
        total: Cases.
        counts: How many have ended in which way.
        failed: The last result of each case that failed, with its number of tries.
        by_worker: Cases done and the seconds they took, by worker.
        peak_memory_mib: Largest of all workers.
        slots: How many cases are worked on at once.
    """

    def __init__(self, names: Iterable[str], recorded: Collection[str] = ()) -> None:
        names = list(names)
        self.total = len(names)
        self.counts: Counter[TaskStatus] = Counter()
        self.failed: list[tuple[TaskResult, int]] = []
        self.by_worker: dict[str, tuple[int, float]] = {}
        self.peak_memory_mib: float | None = None
        self.slots = 1
        self._new = _Pace(name for name in names if name not in recorded)
        self._recorded = _Pace(name for name in names if name in recorded)

    @property
    def ended(self) -> int:
        """Cases that have ended."""
        return self.counts.total()

    @property
    def rate_per_s(self) -> float | None:
        """Cases in a second, of those that are not only checked where there are any; None before the first."""
        mean = self._new.mean_s if self._new.left or self._new.mean_s is not None else self._recorded.mean_s
        return max(1, self.slots) / mean if mean else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, of what is left alone; None where that is not known yet."""
        if self._new.left and self._new.mean_s is None:
            return None
        seconds = sum(len(pace.left) * (pace.mean_s or 0.0) for pace in (self._new, self._recorded))
        return seconds / max(1, self.slots)

    def count(self, result: TaskResult, tries: int, worker: str = "") -> None:
        """Take in a case that has ended, after so many tries that failed, on `worker` if not the result's own."""
        self.counts[result.status] += 1
        (self._recorded if result.name in self._recorded.left else self._new).count(result)
        if result.status is TaskStatus.FAILED:
            self.failed.append((result, tries))
        if result.status is TaskStatus.DONE:
            worker = worker or result.worker
            cases, seconds = self.by_worker.get(worker, (0, 0.0))
            self.by_worker[worker] = (cases + 1, seconds + result.seconds)
        peaks = [peak for peak in (self.peak_memory_mib, result.peak_memory_mib) if peak is not None]
        self.peak_memory_mib = max(peaks, default=None)


class BatchObserver(Protocol):
    """Follows a batch's course."""

    def case_ended(self, result: TaskResult, tally: Tally) -> None:
        """A case has ended, for this run."""
        ...

    def case_retried(self, result: TaskResult, tally: Tally) -> None:
        """An attempt has failed, and there will be another."""
        ...

    def tick(self, tally: Tally, running: Mapping[str, str]) -> None:
        """Some time has passed."""
        ...


@dataclass(order=True)
class _Deferred:
    """A case to come back to; `death` is why its worker died, if that is left to be recorded."""

    due: float
    number: int
    task: Task = field(compare=False)
    death: str = field(default="", compare=False)


class Scheduler:
    """One run over tasks; `run` may be called once.

    Args:
        tasks: The cases, with names that differ.
        pool: Where attempts are made.
        retries: How many further attempts a failed case has in this run, unless its failure is permanent.
        observer: Whom to report to.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        pool: Pool,
        *,
        retries: int,
        observer: BatchObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        recorded = {name for folder in {task.folder for task in tasks} for name in Ledger(folder).names()}
        self.tally = Tally((task.name for task in tasks), recorded)
        self._pool = pool
        self._retries = retries
        self._observer = observer
        self._clock = clock
        self._waiting = deque(tasks)
        self._deferred: list[_Deferred] = []
        self._in_flight = 0
        self._numbers = 0
        self._tries: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._avoid: dict[str, str] = {}

    def run(self) -> Tally:
        """Work until every case is done, kept, or failed as often as it may, and return the tally.

        Raises:
            ClusterError, ConfigError: If the pool has gone, or cannot be used.
            WriteError: If this process cannot write to the ledger, at the beginning or any more, as on a full disk.
        """
        for folder in {task.folder for task in self._waiting}:
            Ledger(folder).require_room()
        while self.tally.ended < self.tally.total:
            self._come_back()
            self.tally.slots = self._pool.slots()
            while self._waiting and self._in_flight < self.tally.slots:
                task = self._waiting.popleft()
                self._pool.submit(task, avoid=self._avoid.get(task.name, ""))
                self._in_flight += 1
            self._observer.tick(self.tally, self._pool.running())
            if self._in_flight:
                finished = self._pool.finished(_TICK_SECONDS)
                if finished is not None:
                    self._in_flight -= 1
                    self._take_in(finished)
            else:
                time.sleep(_TICK_SECONDS)
        return self.tally

    def _take_in(self, finished: FinishedAttempt) -> None:
        task, result = finished.task, finished.result
        if result.status is TaskStatus.BUSY:
            self._wait(task)
            return
        if result.status is not TaskStatus.FAILED:
            self._end(result, finished.worker)
            return
        if not finished.died:
            Ledger(task.folder).require_room()  # or every case would fail for the one reason
        self._tries[task.name] += 1
        self._avoid[task.name] = finished.worker
        if self._tries[task.name] <= self._retries and not result.permanent:
            self._observer.case_retried(result, self.tally)
            self._waiting.append(task)
        elif finished.died:
            self._record_worker_death(task, result.why)
        else:
            self._end(result)

    def _end(self, result: TaskResult, worker: str = "") -> None:
        self.tally.count(result, self._tries[result.name], worker)
        self._observer.case_ended(result, self.tally)

    def _record_worker_death(self, task: Task, why: str) -> None:
        result = record_worker_death(task, why)
        if result.status is TaskStatus.BUSY:
            self._wait(task, death=why)
        else:
            self._end(result)

    def _wait(self, task: Task, *, death: str = "") -> None:
        wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** self._waits[task.name])
        self._waits[task.name] += 1
        self._numbers += 1
        heapq.heappush(self._deferred, _Deferred(self._clock() + wait, self._numbers, task, death))

    def _come_back(self) -> None:
        while self._deferred and self._deferred[0].due <= self._clock():
            later = heapq.heappop(self._deferred)
            if later.death:
                self._record_worker_death(later.task, later.death)
            else:
                self._waiting.append(later.task)
