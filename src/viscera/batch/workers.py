"""What runs attempts on cases: this process alone, or (in `viscera.batch.dask_workers`) workers of dask.distributed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from viscera.batch.leases import worker_name
from viscera.batch.tasks import SegmentFn, Task, TaskResult, TaskStatus, attempt
from viscera.core.errors import VisceraError


@dataclass(frozen=True, kw_only=True)
class FinishedAttempt:
    """An attempt that has ended.

    Attributes:
        task: The case.
        result: How it ended.
        worker: The worker's address, for `Pool.submit` to avoid; empty where there is no choice.
        died: Whether the worker died, so that nothing is recorded.
    """

    task: Task
    result: TaskResult
    worker: str = ""
    died: bool = False


class Pool(Protocol):
    """Runs attempts, as many at a time as it has slots."""

    def slots(self) -> int:
        """Return how many attempts can run at once at present."""
        ...

    def submit(self, task: Task, *, avoid: str = "") -> None:
        """Have `attempt` run on `task`, preferably on another worker than `avoid`."""
        ...

    def finished(self, timeout: float) -> FinishedAttempt | None:
        """Wait for an attempt to end, at most `timeout` seconds; None if none has."""
        ...

    def running(self) -> Mapping[str, str]:
        """Return the name of the case each worker is at, by worker."""
        ...


class InProcessPool:
    """This process, one case after the other; what kills it ends the run, and the next run continues."""

    def __init__(self, segment: SegmentFn | None = None) -> None:
        self._segment = segment
        self._task: Task | None = None

    def slots(self) -> int:
        """Return 1."""
        return 1

    def submit(self, task: Task, *, avoid: str = "") -> None:
        """Keep `task` until `finished` is called, which works on it."""
        self._task = task

    def finished(self, timeout: float) -> FinishedAttempt | None:
        """Make the attempt on the task submitted."""
        if (task := self._task) is None:
            return None
        self._task = None
        try:
            return FinishedAttempt(task=task, result=attempt(task, self._segment))
        except VisceraError as error:
            return FinishedAttempt(task=task, result=unrecorded(task, str(error), worker_name()))

    def running(self) -> Mapping[str, str]:
        """Return the task submitted."""
        return {} if self._task is None else {worker_name(): self._task.name}


def unrecorded(task: Task, why: str, worker: str) -> TaskResult:
    """Return the result of an attempt that failed and could not be recorded."""
    return TaskResult(name=task.name, status=TaskStatus.FAILED, why=why, worker=worker)
