"""Attempts on workers of dask.distributed: a cluster of processes on this machine, or a scheduler elsewhere.

What is sent to a worker is an `Order`, paths and options, and what comes back an `Outcome`; dask pickles both, as it
does everything between its own processes. A worker's answer is small, so nothing is lost with it but time.
"""

from __future__ import annotations

import logging
import queue
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any, Self

import dask
from distributed import Client, Future, LocalCluster, get_worker
from distributed.scheduler import KilledWorker

from viscera.batch.tasks import Make, Order, Outcome, attempt
from viscera.batch.workers import Ended, unrecorded
from viscera.core.errors import ClusterError, ConfigError, VisceraError

DIED = "the worker's process died (killed, or out of memory)"
_CONNECT_SECONDS = 10.0
# What dask raises when the scheduler has gone, its time limits and closed connections among them.
_GONE = (OSError, CancelledError)
# Asking the scheduler costs a round trip; people do not look more often.
_LOOK_SECONDS = 1.0
# Above the limit that viscera keeps itself, so that dask's guard acts only where that has failed.
_GUARD = 1.25


class DaskPool:
    """Workers of a scheduler; use it in a `with` block.

    Args:
        address: Of a scheduler, None for a cluster of this machine's own that ends with the block.
        workers: Processes of the own cluster.
        threads: For each of them, as a limit to libraries that count cores.
        memory_limit: For each of them, in bytes; a worker that exceeds it by a quarter is killed. None is no limit.
        make: What segments, for measurements with a stand-in.

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
        make: Make | None = None,
    ) -> None:
        self._make = make
        self._run = secrets.token_hex(4)
        self._count = 0
        self._flying: dict[str, tuple[Order, Future[Any]]] = {}
        self._done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._looked = -_LOOK_SECONDS
        self._slots = 0
        self._at_work: dict[str, str] = {}
        _silence()
        with ExitStack() as opened:
            if address is None:
                with _signals_held():
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
        with _signals_held():
            with suppress(*_GONE):
                self._client.cancel([future for _, future in self._flying.values()], force=True)
            self._open.close()

    def slots(self) -> int:
        """The workers' threads, which should be one for each worker."""
        self._look()
        return self._slots

    def submit(self, order: Order, *, avoid: str = "") -> None:
        """Have a worker make an attempt on `order`."""
        self._count += 1
        key = f"viscera-{self._run}-{self._count}"
        others = [worker for worker in self._workers() if worker != avoid] if avoid else []
        where: dict[str, Any] = {"workers": others, "allow_other_workers": True} if others else {}
        future = self._client.submit(_attempted, order, self._make, key=key, pure=False, retries=0, **where)
        self._flying[key] = (order, future)
        future.add_done_callback(self._done.put)

    def ended(self, timeout: float) -> Ended | None:
        """An attempt that has ended.

        Raises:
            ClusterError: If the scheduler has gone.
            ConfigError: If a worker has several threads.
        """
        try:
            future = self._done.get(timeout=timeout)
        except queue.Empty:
            return None
        order, _ = self._flying.pop(str(future.key))
        try:
            outcome, place = future.result()
        except KilledWorker as error:
            # A case handed to a worker that is not there any more would wait with another's, and die with it.
            self._looked = -_LOOK_SECONDS
            place = str(error.last_worker.address)
            return Ended(order=order, outcome=unrecorded(order, DIED, place), place=place, died=True)
        except CancelledError as error:
            raise _gone() from error
        except ConfigError:
            raise  # every case would say the same
        except VisceraError as error:
            return Ended(order=order, outcome=unrecorded(order, str(error), ""))
        except Exception as error:  # from dask itself, such as a worker with another version of viscera
            return Ended(order=order, outcome=unrecorded(order, f"{type(error).__name__}: {error}", ""))
        return Ended(order=order, outcome=outcome, place=place)

    def at_work(self) -> Mapping[str, str]:
        """The name of the case each worker is at, as of a second ago."""
        self._look()
        return self._at_work

    def _look(self) -> None:
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._slots = sum(self._workers().values())
        try:
            keys = {worker: list(keys) for worker, keys in self._client.processing().items()}
        except _GONE as error:
            raise _gone() from error
        self._at_work = {
            worker: self._flying[own[0]][0].name
            for worker, found in sorted(keys.items())
            if (own := [key for key in found if key in self._flying])
        }
        self._looked = time.monotonic()

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


def _attempted(order: Order, make: Make | None) -> tuple[Outcome, str]:
    """What a worker runs: the outcome, and the worker's address."""
    worker = get_worker()
    if worker.state.nthreads != 1:
        raise ConfigError(
            "working for a batch",
            expected="workers with one thread each, as an engine has all of a worker's cores",
            got=f"{worker.state.nthreads}",
            remedy="Start workers with --nthreads 1, and as many as there is memory for with --nworkers",
        )
    return attempt(order, make), worker.address


def _silence() -> None:
    """Have dask's parts log only what ends them, each of which has a level of its own."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "distributed":
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


@contextmanager
def _signals_held() -> Iterator[None]:
    """While active, Ctrl-C and SIGTERM wait; processes begun meanwhile never see either.

    A terminal sends Ctrl-C to all processes of a command, and a cluster's queue SIGTERM: workers are to be ended by
    this process, which lets them come to an end, and not to speak of it themselves.
    """
    came: list[int] = []
    ends = (signal.SIGINT, signal.SIGTERM)
    own = threading.current_thread() is threading.main_thread()
    before = {number: handler for number in ends if own and callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    mask = None
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # its start would let them through again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            before[signal.Signals(came[0])](came[0], None)


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
                # dask has workers give memory back at once; taking it anew slows passes over a scan several times.
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
