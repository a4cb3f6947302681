"""Leases on cases, so that of any number of processes on any number of machines one works on a case.

A lease is a file that can only be created where there is none (O_EXCL), named after the case and the number of the
attempt. Its owner touches it every few seconds. An attempt whose owner is gone stays behind as a file that is no longer
touched, and the next process creates the file of the next number: of several that find a dead lease, one succeeds.
A lease is never taken away from under its owner's name, so at no moment can two processes believe that they own it.

Clocks of different machines need not agree: ages are differences of modification times, which the machine that keeps
the files sets, for the lease and for a file made for comparison alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from viscera.core.errors import WriteError, reason
from viscera.core.files import filesystem_time

# A lease is touched this often, and counts as dead when it has not been touched for the other time: several touches are
# missed by then. On the same machine a process that has ended is seen at once.
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0

_State = Literal["free", "live", "dead"]


class Leases:
    """The leases in a folder, which is created if necessary.

    Args:
        folder: The same for all processes; on a shared disk for several machines.
        heartbeat_seconds: How often a lease is touched.
        stale_seconds: After how long without it the lease is dead; the same for all processes.
    """

    def __init__(
        self, folder: Path, *, heartbeat_seconds: float = HEARTBEAT_SECONDS, stale_seconds: float = STALE_SECONDS
    ) -> None:
        self.folder = folder
        self.heartbeat_seconds = heartbeat_seconds
        self.stale_seconds = stale_seconds

    def take(self, name: str, attempts: Callable[[], int]) -> Lease | None:
        """Take the lease on the case `name` for its next attempt; None while another process has it.

        Args:
            name: The case's.
            attempts: How many attempts are recorded; asked again once the lease is made, as another process may have
                ended one in between.

        Raises:
            WriteError: If the folder cannot be written, or the one two above it is not there: a machine that lacks the
                shared disk is not to begin a ledger of its own.
        """
        try:
            self.folder.parent.mkdir(exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            while True:
                recorded = attempts()
                number = recorded + 1
                while (state := self._state(self._path(name, number))) == "dead":
                    number += 1
                if state == "live" or not self._created(self._path(name, number)):
                    return None
                # The recorded one is there if its process ended before it could give it back.
                paths = [self._path(name, one) for one in range(max(1, recorded), number + 1)]
                if attempts() < number:
                    return Lease(paths, number=number, after=self._path(name, number + 1), beat=self.heartbeat_seconds)
                paths[-1].unlink()
        except OSError as error:
            raise WriteError(
                f"leasing the case {name}",
                expected=f"a folder {self.folder} that can be written to",
                got=reason(error),
                remedy="Check the folder's permissions and the free space",
            ) from error

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.{number}"

    def _created(self, path: Path) -> bool:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(handle, json.dumps(_owner()).encode())
        except OSError:
            path.unlink()  # on a full disk; nobody is to wait for it
            raise
        finally:
            os.close(handle)
        return True

    def _state(self, path: Path) -> _State:
        try:
            # Opened first: on a network's disk times may be old until a file is.
            with path.open(encoding="utf-8") as file:
                text, touched = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return "free"
        try:
            owner = json.loads(text)
        except ValueError:  # created, but not written yet
            owner = {}
        if owner and _has_ended(owner):
            return "dead"
        return "dead" if filesystem_time(self.folder) - touched > self.stale_seconds else "live"


class Lease:
    """The right to work on a case while the `with` block lasts; it is touched meanwhile, and given back at the end.

    Attributes:
        number: Of the attempt, from 1 over all runs.
    """

    def __init__(self, paths: list[Path], *, number: int, after: Path, beat: float) -> None:
        self.number = number
        self._paths = paths
        self._after = after
        self._beat = beat
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="viscera-lease", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another process took this one for dead, as after it was stopped for a long time."""
        return self._after.exists() or not self._paths[-1].exists()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._thread.join()
        # Dead ones first: while the own one is there, nobody begins.
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()

    def _touch(self) -> None:
        while not self._released.wait(self._beat):
            with contextlib.suppress(OSError):
                os.utime(self._paths[-1])


def worker_name() -> str:
    """Return this process as people find it: host and process number."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _owner() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "machine": _machine(), "started": _process_start(pid)}


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine and is no more; False where that cannot be known."""
    machine = _machine()
    if not machine or owner.get("machine") != machine:
        return False
    pid = int(owner["pid"])
    return _process_start(pid) != owner.get("started") and not _hidden(pid)


def _machine() -> str:
    """What two processes have in common that see each other's numbers: boot and namespace; empty where unknown.

    Hosts' names do not tell: containers may share one.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _hidden(pid: int) -> bool:
    """Whether there is a process that /proc does not show, as of another person where it is so mounted."""
    if Path(f"/proc/{pid}").exists():
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _process_start(pid: int) -> int | None:
    """When a process began, in ticks since boot; None if there is none (a dead one not yet reaped included)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # After the name in brackets, which may hold anything: the state, then fields 4 to 22 (man 5 proc).
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
