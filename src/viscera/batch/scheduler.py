"""The course of a batch: cases handed out, failed ones tried again, those of other processes waited for."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from viscera.batch.ledger import Ledger
from viscera.batch.tasks import Fate, Order, Outcome, record_death
from viscera.batch.workers import Ended, Pool

# How long a case that another process works on is left alone: doubled each time, up to the second figure.
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 10.0
_TICK_SECONDS = 0.25
# The rate is that of the last so many cases.
_RATE_CASES = 100


@dataclass
class Tally:
    """How far a batch is.

    Attributes:
        total: Cases.
        fates: How many have ended in which way.
        failed: The last outcome of each case that failed, with its number of tries.
        by_worker: Cases done and seconds they took, by worker.
        peak_memory_mib: Largest of all workers.
        ends: When the last cases ended, seconds of a clock.
    """

    total: int
    fates: Counter[Fate] = field(default_factory=Counter)
    failed: list[tuple[Outcome, int]] = field(default_factory=list)
    by_worker: dict[str, tuple[int, float]] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_CASES + 1))

    @property
    def ended(self) -> int:
        """Cases that have ended."""
        return self.fates.total()

    @property
    def rate_per_s(self) -> float | None:
        """Cases in a second; None before there are two."""
        if len(self.ends) < 2 or self.ends[-1] <= self.ends[0]:
            return None
        return (len(self.ends) - 1) / (self.ends[-1] - self.ends[0])

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at the present rate; None where that is not known."""
        rate = self.rate_per_s
        return None if rate is None else (self.total - self.ended) / rate

    def count(self, outcome: Outcome, tries: int, now: float) -> None:
        """Take in a case that has ended."""
        self.fates[outcome.fate] += 1
        self.ends.append(now)
        if outcome.fate is Fate.FAILED:
            self.failed.append((outcome, tries))
        if outcome.fate is Fate.DONE:
            cases, seconds = self.by_worker.get(outcome.worker, (0, 0.0))
            self.by_worker[outcome.worker] = (cases + 1, seconds + outcome.seconds)
        peaks = [peak for peak in (self.peak_memory_mib, outcome.peak_memory_mib) if peak is not None]
        self.peak_memory_mib = max(peaks, default=None)


class Watcher(Protocol):
    """Who is told of a batch's course."""

    def case_ended(self, outcome: Outcome, tally: Tally) -> None:
        """A case has ended, for this run."""
        ...

    def case_retried(self, outcome: Outcome, tally: Tally) -> None:
        """An attempt has failed, and there will be another."""
        ...

    def tick(self, tally: Tally, at_work: Mapping[str, str]) -> None:
        """Some time has passed."""
        ...


@dataclass(order=True)
class _Later:
    """A case to come back to; `death` is why it failed, if that is left to be recorded."""

    due: float
    number: int
    order: Order = field(compare=False)
    death: str = field(default="", compare=False)


class Drive:
    """One run over orders; `run` may be called once.

    Args:
        orders: The cases, with names that differ.
        pool: Where attempts are made.
        retries: How many further attempts a failed case has in this run.
        watcher: Who is told.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        orders: Sequence[Order],
        pool: Pool,
        *,
        retries: int,
        watcher: Watcher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = Tally(total=len(orders))
        self._pool = pool
        self._retries = retries
        self._watcher = watcher
        self._clock = clock
        self._waiting = deque(orders)
        self._later: list[_Later] = []
        self._flying = 0
        self._numbers = 0
        self._tries: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._avoid: dict[str, str] = {}

    def run(self) -> Tally:
        """The tally once every case is done, kept, or failed as often as it may.

        Raises:
            ClusterError, ConfigError: If the pool has gone, or cannot be used.
            WriteError: If this process cannot write to the ledger, at the beginning or any more, as on a full disk.
        """
        for folder in {order.folder for order in self._waiting}:
            Ledger(folder).require_room()
        while self.tally.ended < self.tally.total:
            self._come_back()
            while self._waiting and self._flying < self._pool.slots():
                order = self._waiting.popleft()
                self._pool.submit(order, avoid=self._avoid.get(order.name, ""))
                self._flying += 1
            self._watcher.tick(self.tally, self._pool.at_work())
            if self._flying:
                ended = self._pool.ended(_TICK_SECONDS)
                if ended is not None:
                    self._flying -= 1
                    self._take_in(ended)
            else:
                time.sleep(_TICK_SECONDS)
        return self.tally

    def _take_in(self, ended: Ended) -> None:
        order, outcome = ended.order, ended.outcome
        if outcome.fate is Fate.BUSY:
            self._wait(order)
            return
        if outcome.fate is not Fate.FAILED:
            self._end(outcome)
            return
        if not ended.died:
            Ledger(order.folder).require_room()  # or every case would fail for the one reason
        self._tries[order.name] += 1
        self._avoid[order.name] = ended.place
        if self._tries[order.name] <= self._retries:
            self._watcher.case_retried(outcome, self.tally)
            self._waiting.append(order)
        elif ended.died:
            self._record_death(order, outcome.why)
        else:
            self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        self.tally.count(outcome, self._tries[outcome.name], self._clock())
        self._watcher.case_ended(outcome, self.tally)

    def _record_death(self, order: Order, why: str) -> None:
        outcome = record_death(order, why)
        if outcome.fate is Fate.BUSY:
            self._wait(order, death=why)
        else:
            self._end(outcome)

    def _wait(self, order: Order, *, death: str = "") -> None:
        wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** self._waits[order.name])
        self._waits[order.name] += 1
        self._numbers += 1
        heapq.heappush(self._later, _Later(self._clock() + wait, self._numbers, order, death))

    def _come_back(self) -> None:
        while self._later and self._later[0].due <= self._clock():
            later = heapq.heappop(self._later)
            if later.death:
                self._record_death(later.order, later.death)
            else:
                self._waiting.append(later.order)
