"""Reading one input under watch: what came out, how long it took, how much memory, and which files were touched."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from seeds import Reader, Seed

from viscera.core.errors import VisceraError
from viscera.formats.inputs import find_inputs
from viscera.read import read_label_map, read_volume

LONGEST_SECONDS = 10.0
LARGEST_BYTES = 2**30
# A file beside the input's folder that nothing may read: its voxels would be these.
CANARY = "outside.raw"
CANARY_VALUE = 0x1555
# Address space of a process that reads: beyond it memory cannot be had, and that must be one clear line too.
ADDRESS_BYTES = 6 * 2**30
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = (
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.exec",
    "os.fork", "os.posix_spawn", "os.system", "shutil.", "subprocess.", "socket.", "ctypes.", "pickle.",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What came of one input.

    Attributes:
        outcome: "read", the name of a VisceraError, or what went wrong, beginning with "!".
        seconds: Of the wall clock.
        peak_bytes: Resident memory at its highest while reading, beyond what was resident before.
        trace: Of an exception that is none of viscera's.
    """

    outcome: str
    seconds: float
    peak_bytes: int
    trace: str = ""


class Watcher:
    """Reads inputs in a folder of its own and notes every file or socket that Python code touches meanwhile.

    What native code opens is not seen by Python's audit hook; for it there are the canary, and the listing of the
    folder and of its parent. Make one in a process, as an audit hook stays for ever.
    """

    def __init__(self, work: Path) -> None:
        self.work = work.resolve()
        self.inputs = self.work / "in"
        self.inputs.mkdir(exist_ok=True)
        canary = np.full(2**16, CANARY_VALUE, dtype="<i2")
        (self.work / CANARY).write_bytes(canary.tobytes())
        self._touched: list[str] = []
        self._watching = False
        self._own = tuple(map(str, {sys.prefix, sys.base_prefix, "/proc", "/sys", *map(str, _code_folders())}))
        sys.addaudithook(self._hook)

    def read(self, seed: Seed) -> Reading:
        """What comes of `seed`, written to the folder for it."""
        self._lay_out(seed)
        before = sorted(os.listdir(self.work)), sorted(os.listdir(self.inputs))  # noqa: PTH208
        reading = self.read_path(self.inputs / seed.entry, seed.reader)
        if (sorted(os.listdir(self.work)), sorted(os.listdir(self.inputs))) != before:  # noqa: PTH208
            return Reading(outcome="!files changed", seconds=reading.seconds, peak_bytes=reading.peak_bytes)
        return reading

    def read_path(self, path: Path, reader: Reader) -> Reading:
        """What comes of the file or folder at `path`."""
        self._touched.clear()
        resident = reset_peak()
        start = time.perf_counter()
        self._watching, trace = True, ""
        try:
            find_inputs([path])
            result: Any = read_volume(path) if reader == "volume" else read_label_map(path)
            values = result.hu if reader == "volume" else result.labels
            outcome = "!the file outside was read" if (values == CANARY_VALUE).mean() > 0.2 else "read"
        except VisceraError as error:
            outcome = type(error).__name__ if "\n" not in str(error) else "!a message of several lines"
        except BaseException as error:
            outcome, trace = f"!{type(error).__name__}", traceback.format_exc()
        finally:
            self._watching = False
        seconds, peak = time.perf_counter() - start, peak_bytes() - resident
        if self._touched and not outcome.startswith("!"):
            outcome = f"!touched {self._touched[0]}"
        elif peak > LARGEST_BYTES:
            outcome = f"!{peak / 2**20:.0f} MiB of memory"
        return Reading(outcome=outcome, seconds=seconds, peak_bytes=peak, trace=trace)

    def _lay_out(self, seed: Seed) -> None:
        for path in self.inputs.iterdir():
            if path.name not in seed.files:
                path.unlink()
        for name, content in seed.files.items():
            (self.inputs / name).write_bytes(content)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            name = os.path.realpath(os.fsdecode(path))
            inside = name.startswith((str(self.inputs), *self._own))
            if not inside or (flags & _WRITING and not name.startswith("/proc")):
                self._touched.append(f"{name} by {event}")
        elif event.startswith(_FORBIDDEN) and not event.startswith(("ctypes.", "pickle.find_class")):
            self._touched.append(f"{event} {arguments}")


def _code_folders() -> Iterator[Path]:
    import viscera

    yield Path(viscera.__file__).parent
    yield Path(__file__).parent
    yield from (Path(one).resolve() for one in sys.path if one)


def reset_peak() -> int:
    """The resident bytes now, from which on the peak counts (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_bytes() -> int:
    """The highest resident bytes since `reset_peak`."""
    return status_bytes("VmHWM")


def status_bytes(field: str) -> int:
    """A field of /proc/self/status that is a size."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def limit_address_space() -> None:
    """Makes more memory than `ADDRESS_BYTES` impossible to have in this process and its children."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in memory where there is one, as a disk would be worn for nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="viscera-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)
