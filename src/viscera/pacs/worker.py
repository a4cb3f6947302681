"""What the listener does with its queue: a worker segments and sends, a monitor completes series and reports health.

Neither knows how a CT is segmented or how objects are sent: both functions are passed in.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from viscera.core.errors import GeometryError, NothingFoundError, ReadError, TransferError, VisceraError, WriteError
from viscera.core.files import write_text
from viscera.pacs.database import unwritable
from viscera.pacs.jobs import Job, State
from viscera.pacs.queue import SeriesQueue
from viscera.pacs.scp import Listener

_LOG = logging.getLogger("viscera.pacs")
_IDLE_SECONDS = 0.2
# How long the worker rests when the queue itself cannot be written, as on a full disk.
_TROUBLE_SECONDS = 2.0
_TICK_SECONDS = 0.5
_HEALTH_SECONDS = 5.0
# Faults of the scan, which a second attempt would meet again.
_HOPELESS = (ReadError, GeometryError, NothingFoundError)

Segment = Callable[[Job], Sequence[Path]]
Send = Callable[[Sequence[Path], str], Iterator[Path]]


class Worker:
    """Segments and sends series, one after the other, in the thread that calls `run`.

    Args:
        queue: Where series come from.
        segment: Makes the results of a job, files in its folder of results, which is there and empty.
        send: Sends files to one of `destinations` and yields each when it has been acknowledged.
        destinations: Where all results go.
    """

    def __init__(self, queue: SeriesQueue, segment: Segment, send: Send, destinations: Sequence[str]) -> None:
        self.queue = queue
        self._segment_job = segment
        self._send_files = send
        self.destinations = tuple(destinations)
        self.job: int | None = None

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            try:
                if not self.step():
                    stop.wait(_IDLE_SECONDS)
            except WriteError as error:
                _LOG.error("the queue cannot be written: %s", error.got)
                stop.wait(_TROUBLE_SECONDS)

    def step(self) -> bool:
        """Make one attempt at a series and return whether there was one.

        Raises:
            WriteError: If the queue cannot be written.
        """
        claimed = self.queue.claim()
        if claimed is None:
            return False
        state, job = claimed
        self.job = job.number
        try:
            if state is State.SENDING:
                self._send(job)
            else:
                self._segment(job)
        except KeyboardInterrupt:
            self.queue.release(job)
            raise
        finally:
            self.job = None
        return True

    def _segment(self, job: Job) -> None:
        begun = time.monotonic()
        try:
            _emptied(job.results)
            results = self._segment_job(job)
        except _HOPELESS as error:
            self.queue.refuse(job, error_kind(error))
            _LOG.warning("series %d: cannot be segmented: %s", job.number, error_kind(error))
        except Exception as error:  # a series that breaks must not end the others
            after = self.queue.retry(job, error_kind(error))
            _LOG.error("series %d: attempt %d failed: %s; %s", job.number, job.attempt, error_kind(error), after)
            # Where, but not what it says: an error's text may quote a scan.
            _LOG.debug("%s", "".join(traceback.format_tb(error.__traceback__)))
        else:
            self.queue.segmented(job, results)
            _LOG.info("series %d: segmented in %.1f s", job.number, time.monotonic() - begun)

    def _send(self, job: Job) -> None:
        left = 0
        for destination in self.destinations:
            unsent = self.queue.unsent(job, destination)
            if not unsent:
                continue
            try:
                for path in self._send_files(unsent, destination):
                    self.queue.acknowledged(job, path, destination)
                    _LOG.info("series %d: sent %s to %s", job.number, path.stem, destination)
            except TransferError as error:
                _LOG.warning("series %d: %s: got %s", job.number, error.doing, error.got)
            left += len(self.queue.unsent(job, destination))
        if left:
            after = self.queue.retry(job, f"{left} results not acknowledged")
            _LOG.warning("series %d: %d results not acknowledged yet; %s", job.number, left, after)
        else:
            self.queue.finish(job)
            _LOG.info("series %d: done", job.number)


def error_kind(error: BaseException) -> str:
    """Return what an error says without any text of a scan: its type and, in the package's own, what was expected."""
    expected = f": expected {error.expected}" if isinstance(error, VisceraError) else ""
    return f"{type(error).__name__}{expected}"


@dataclass(frozen=True, kw_only=True)
class Health:
    """What the health file says; nothing in it is of a patient.

    Attributes:
        status: "running" or "stopped".
        time, started: UTC, ISO 8601.
        aet, port: Of the listener.
        series: How many are in each state.
        disk_bytes: Used by images and results.
        refused_images: Since the start.
        working_on: Number of the series at work, None if there is none.
    """

    status: str
    time: str
    started: str
    aet: str
    port: int
    series: dict[str, int]
    disk_bytes: int
    refused_images: int
    working_on: int | None

    def text(self) -> str:
        """Return it as JSON, schema viscera.pacs-health/1."""
        return json.dumps({"schema": "viscera.pacs-health/1", **asdict(self)}, indent=2) + "\n"


class QueueMonitor(threading.Thread):
    """Takes series as complete when nothing more comes, forgets old ones, and writes the health file.

    Args:
        listener: Whose associations and queue are monitored.
        worker: Whose current series the health file names.
        port: The listener's.
        health: The file, rewritten every few seconds and at once when `stop` is called.
    """

    def __init__(self, listener: Listener, worker: Worker, *, port: int, health: Path) -> None:
        super().__init__(name="viscera-monitor", daemon=True)
        self.listener, self.worker, self.port, self.health = listener, worker, port, health
        self._begun = _utc_now()
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Monitor the queue until `stop` is called."""
        written = -_HEALTH_SECONDS
        while not self._stop_asked.is_set():
            # The worker and the listener report a full disk; the monitor goes on.
            with contextlib.suppress(WriteError):
                self._tick()
            if time.monotonic() - written >= _HEALTH_SECONDS:
                written = time.monotonic()
                self._write_health("running")
            self._stop_asked.wait(_TICK_SECONDS)

    def stop(self) -> None:
        """End the monitor and say so in the health file."""
        self._stop_asked.set()
        self.join()
        self._write_health("stopped")

    def _tick(self) -> None:
        queue = self.listener.queue
        busy, ended = self.listener.rounds()
        queue.touch(ended)
        for number in queue.close_quiet(busy):
            _LOG.info("series %d: complete with %d images", number, queue.image_count(number))
        queue.forget()

    def _write_health(self, status: str) -> None:
        queue = self.listener.queue
        with contextlib.suppress(WriteError):
            health = Health(
                status=status,
                time=_utc_now(),
                started=self._begun,
                aet=self.listener.config.aet,
                port=self.port,
                series=queue.counts(),
                disk_bytes=queue.used_bytes(),
                refused_images=self.listener.refused,
                working_on=self.worker.job,
            )
            write_text(health.text(), self.health)


def _emptied(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
