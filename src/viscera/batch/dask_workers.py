"""Attempts on workers of dask.distributed: a cluster of processes on this machine, or a scheduler elsewhere.

What is sent to a worker is a `Task`, paths and options, and what comes back a `TaskResult`; dask pickles both, as it
does everything between its own processes. Both are small, so a worker that is lost costs nothing but time.
"""

from __future__ import annotations

import logging
import queue
import secrets
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import dask
from distributed import Client, Future, LocalCluster, get_worker
from distributed.scheduler import KilledWorker

from viscera.batch.tasks import SegmentFn, Task, TaskResult, attempt
from viscera.batch.workers import FinishedAttempt, unrecorded
from viscera.core.errors import ClusterError, ConfigError, VisceraError
from viscera.core.interrupts import hidden_from_children

DIED = "the worker's process died (killed, or out of memory)"
_CONNECT_SECONDS = 10.0
# What dask raises when the scheduler has gone, its time limits and closed connections among them.
_GONE = (OSError, CancelledError)
# Asking the scheduler costs a round trip; people do not look more often.
_REFRESH_SECONDS = 1.0
# Above the limit that viscera keeps itself, so that dask's guard acts only where that has failed.
_GUARD = 1.25


class DaskPool:
    """Workers of a scheduler; use it in a `with` block.

    Args:
        address: Of a scheduler, None for a cluster of this machine's own that ends with the block.
        workers: Processes of the own cluster.
        threads: For each of them, as a limit to libraries that count cores.
        memory_limit: For each of them, in bytes; a worker that exceeds it by a quarter is killed. None is no limit.
        segment: What segments, for measurements with a stand-in.

    Raises:
        ClusterError: If there is no scheduler at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int = 1,
        threads: int = 1,
        memory_limit: int | None = None,
        segment: SegmentFn | None = None,
    ) -> None:
        self._segment = segment
        self._run = secrets.token_hex(4)
        self._count = 0
        self._in_flight: dict[str, tuple[Task, Future[Any]]] = {}
        self._done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._refreshed = -_REFRESH_SECONDS
        self._slots = 0
        self._running: dict[str, str] = {}
        _silence()
        with ExitStack() as opened:
            if address is None:
                with hidden_from_children():
                    cluster = opened.enter_context(_own_cluster(opened, workers, threads, memory_limit))
                address = cluster.scheduler_address
            self._client = opened.enter_context(_connected(address))
            self._open = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C would leave workers behind; this takes a few seconds at most.
        with hidden_from_children():
            with suppress(*_GONE):
                self._client.cancel([future for _, future in self._in_flight.values()], force=True)
            self._open.close()

    def slots(self) -> int:
        """Return the number of the workers' threads, which should be one for each worker."""
        self._refresh()
        return self._slots

    def submit(self, task: Task, *, avoid: str = "") -> None:
        """Have a worker make an attempt on `task`."""
        self._count += 1
        key = f"viscera-{self._run}-{self._count}"
        others = [worker for worker in self._workers() if worker != avoid] if avoid else []
        where: dict[str, Any] = {"workers": others, "allow_other_workers": True} if others else {}
        future = self._client.submit(_attempted, task, self._segment, key=key, pure=False, retries=0, **where)
        self._in_flight[key] = (task, future)
        future.add_done_callback(self._done.put)

    def finished(self, timeout: float) -> FinishedAttempt | None:
        """Wait for an attempt to end, at most `timeout` seconds; None if none has.

        Raises:
            ClusterError: If the scheduler has gone.
            ConfigError: If a worker has several threads.
        """
        try:
            future = self._done.get(timeout=timeout)
        except queue.Empty:
            return None
        task, _ = self._in_flight.pop(str(future.key))
        try:
            result, worker = future.result()
        except KilledWorker as error:
            # A case handed to a worker that is not there any more would wait with another's, and die with it.
            self._refreshed = -_REFRESH_SECONDS
            worker = str(error.last_worker.address)
            return FinishedAttempt(task=task, result=unrecorded(task, DIED, worker), worker=worker, died=True)
        except CancelledError as error:
            raise _gone() from error
        except ConfigError:
            raise  # every case would say the same
        except VisceraError as error:
            return FinishedAttempt(task=task, result=unrecorded(task, str(error), ""))
        except Exception as error:  # from dask itself, such as a worker with another version of viscera
            return FinishedAttempt(task=task, result=unrecorded(task, f"{type(error).__name__}: {error}", ""))
        return FinishedAttempt(task=task, result=result, worker=worker)

    def running(self) -> Mapping[str, str]:
        """Return the name of the case each worker is at, as of a second ago."""
        self._refresh()
        return self._running

    def _refresh(self) -> None:
        if time.monotonic() - self._refreshed < _REFRESH_SECONDS:
            return
        self._slots = sum(self._workers().values())
        try:
            keys = {worker: list(keys) for worker, keys in self._client.processing().items()}
        except _GONE as error:
            raise _gone() from error
        self._running = {
            worker: self._in_flight[own[0]][0].name
            for worker, found in sorted(keys.items())
            if (own := [key for key in found if key in self._in_flight])
        }
        self._refreshed = time.monotonic()

    def _workers(self) -> Mapping[str, int]:
        """The threads of each worker, by its address."""
        try:
            return dict(self._client.nthreads())
        except _GONE as error:
            raise _gone() from error


def _gone() -> ClusterError:
    return ClusterError(
        "waiting for cases",
        expected="an answer from the scheduler",
        got="nothing, as the connection has ended",
        remedy="Start the scheduler again and run the same command; what is done is kept",
    )


def _attempted(task: Task, segment: SegmentFn | None) -> tuple[TaskResult, str]:
    """What a worker runs: the result, and the worker's address."""
    worker = get_worker()
    if worker.state.nthreads != 1:
        raise ConfigError(
            "working for a batch",
            expected="workers with one thread each, as an engine has all of a worker's cores",
            got=f"{worker.state.nthreads}",
            remedy="Start workers with --nthreads 1, and as many as there is memory for with --nworkers",
        )
    return attempt(task, segment), worker.address


def _silence() -> None:
    """Have dask's parts log only what ends them, each of which has a level of its own.

    On a busy machine Ctrl-C within one of its calls has tornado, on which it runs, log a fault of dask's own.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _connected(address: str) -> Client:
    try:
        return Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:  # dask's time limit is an OSError, a malformed address a ValueError
        raise ClusterError(
            f"connecting to the scheduler {address}",
            expected="a scheduler of dask.distributed, of the same version",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy="Check the address, and that `dask scheduler` runs there",
        ) from error


def _own_cluster(opened: ExitStack, workers: int, threads: int, memory_limit: int | None) -> LocalCluster:
    """Processes on this machine that nobody else can reach, and nothing that serves pages."""
    scratch = opened.enter_context(tempfile.TemporaryDirectory(prefix="viscera-batch-", ignore_cleanup_errors=True))
    opened.enter_context(
        dask.config.set(
            {
                # viscera's results are small; a worker is neither to pause nor to write anything of a case to the disk.
                "distributed.worker.memory.target": False,
                "distributed.worker.memory.spill": False,
                "distributed.worker.memory.pause": False,
                "distributed.worker.memory.terminate": 1.0,
                "distributed.scheduler.http.routes": [],
                "distributed.worker.http.routes": [],
                "distributed.admin.tick.limit": "1h",  # a busy machine is no news
                # dask has workers give memory back at once; taking it again slows passes over a scan several times.
                "distributed.nanny.pre-spawn-environ": {},
            }
        )
    )
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        memory_limit=0 if memory_limit is None else int(memory_limit * _GUARD),
        local_directory=scratch,
        silence_logs=logging.CRITICAL,
        env=environment,
        # A case that kills its worker is the batch's to count, not to be tried again by dask three times.
        scheduler_kwargs={"allowed_failures": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
    )
