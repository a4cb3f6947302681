"""`viscera segment` and `viscera batch` as processes on small scans: what they said, and what they left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from soak import drawn_scans

from viscera.core.geometry import Grid
from viscera.core.volume import Volume
from viscera.formats.nifti_write import write_volume

Verb = Literal["segment", "batch"]
VERBS: tuple[Verb, ...] = ("segment", "batch")
# Waits for something in the output folder of a process, and tells by which file; the process is stopped then. None if
# it was not caught at that.
Moment = Callable[[subprocess.Popen[str], Path], Path | None]
PASSING = ".viscera-*.part"
LONGEST_SECONDS = 600.0
# A process is caught at work sooner or later; on a busy machine it may be stopped just before or after.
ATTEMPTS = 20
# Slices, rows, columns of a scan that takes tenths of a second to read; noise hardly packs.
LARGE_SHAPE = (100, 256, 256)


class WrongError(Exception):
    """What is not as it should be."""


class SkippedError(Exception):
    """Why a fault cannot be made on this machine."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended and what it said on stderr, notes left out."""

    code: int
    errors: tuple[str, ...]

    def require(self, code: int, *, lines: int | None = None, about: str = "") -> str:
        """The last line of stderr; `WrongError` unless the exit code is `code` and each of the `lines` is a clear one.

        Args:
            code: The exit code it must be.
            lines: How many there must be, None for at least one if the code is not 0.
            about: What one of the lines must contain.
        """
        clear = all(line.startswith(("viscera: error: ", "viscera: interrupted", "viscera: terminated")) or
                    line.endswith(("viscera: interrupted", "viscera: terminated")) for line in self.errors)  # fmt: skip
        count = len(self.errors) == lines if lines is not None else bool(self.errors) == (code != 0)
        if self.code != code or not clear or not count or not any(about in line for line in ("", *self.errors)[-1:]):
            told = " / ".join(self.errors[-4:])
            raise WrongError(f"exit code {self.code} for {code}, {len(self.errors)} lines: {told}")
        return self.errors[-1] if self.errors else ""


class Runs:
    """Runs on one folder of scans, and what an undisturbed one writes.

    Attributes:
        work: A folder that everything is in.
        scans: The folder of small scans.
        large: A scan of tens of megabytes, elsewhere.
        bundle: A folder or name, None for the default bundle.
        expected: The bytes of the label files of `scans`, by name.
    """

    def __init__(self, work: Path, bundle: str | None) -> None:
        self.work, self.bundle = work, bundle
        self.scans = work / "scans"
        self.scans.mkdir(parents=True)
        drawn_scans(self.scans)
        self.large = large_scan(work / "large" / "large.nii.gz")
        self._folders = 0
        undisturbed = self.fresh()
        self.run("segment", undisturbed).require(0)
        self.expected = labels_in(undisturbed)

    def fresh(self) -> Path:
        """A folder's path that is not there yet."""
        self._folders += 1
        return self.work / f"out{self._folders}"

    def command(
        self, verb: Verb, output: Path, *, inputs: Sequence[Path] = (), bundle: Path | None = None
    ) -> list[str]:
        """The command line; what is done is kept, and failed cases are not tried again."""
        chosen = self.bundle if bundle is None else str(bundle)
        options = ["-o", str(output), "--device", "cpu", "--threads", "1", *(["--bundle", chosen] if chosen else [])]
        options += ["--allow-empty", "--allow-mirrored"]
        options += ["--skip-existing"] if verb == "segment" else ["--retries", "0"]
        return [sys.executable, "-c", PROGRAM, verb, *map(str, inputs or [self.scans]), *options]

    def start(self, verb: Verb, output: Path, *, inputs: Sequence[Path] = ()) -> subprocess.Popen[str]:
        """A run in the background."""
        return started(self.command(verb, output, inputs=inputs))

    def run(self, verb: Verb, output: Path, *, inputs: Sequence[Path] = (), bundle: Path | None = None) -> Ended:
        """A run to its end."""
        return ended(started(self.command(verb, output, inputs=inputs, bundle=bundle)))

    def caught(
        self, moment: Moment, verb: Verb, *, output: Path | None = None, inputs: Sequence[Path] = ()
    ) -> tuple[subprocess.Popen[str], Path, Path]:
        """A run that was stopped at a moment, its output folder, and the file it was caught at.

        Raises:
            SkippedError: If it is always quicker.
        """
        for _ in range(ATTEMPTS):
            folder = output or self.fresh()
            process = self.start(verb, folder, inputs=inputs)
            if (path := moment(process, folder)) is not None:
                return process, folder, path
            ended(process)
            shutil.rmtree(folder, ignore_errors=True)
        raise SkippedError("the run was too quick to be caught")

    def require_whole(self, output: Path, *, all_there: bool = False) -> int:
        """How many label files are in `output`.

        Raises:
            WrongError: If one is not that of the undisturbed run, byte for byte, a file bears a passing name, a JSON
                file is not whole, or some are missing that must be `all_there`.
        """
        found = labels_in(output)
        wrong = [name for name, content in found.items() if self.expected.get(name) != content]
        wrong += [path.name for path in output.rglob(PASSING)]
        for path in output.rglob("*.json"):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                wrong.append(path.name)
        if wrong or (all_there and found.keys() != self.expected.keys()):
            raise WrongError(f"wrong or half: {wrong}, there: {sorted(found)}")
        return len(found)

    def finish(self, verb: Verb, output: Path) -> None:
        """Nothing; `WrongError` unless a run of the same command now ends well with all results."""
        self.run(verb, output).require(0)
        self.require_whole(output, all_there=True)


# A shell's background job ignores SIGINT and hands that down; a terminal does not, so it is undone.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from viscera.cli.main import main; sys.exit(main())"
)


def started(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A process whose stderr can be read."""
    together = {**os.environ, **(environment or {})}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=together)


def ended(process: subprocess.Popen[str]) -> Ended:
    """How it ended; `WrongError` if it does not."""
    try:
        _, errors = process.communicate(timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise WrongError(f"no end in {LONGEST_SECONDS:.0f} s") from None
    lines = [line for line in errors.splitlines() if not line.startswith("viscera: note: ")]
    return Ended(code=process.returncode, errors=tuple(lines))


def labels_in(folder: Path) -> dict[str, bytes]:
    """The label files directly in a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz") if path.is_file()}


def large_scan(path: Path, seed: int = 1) -> Path:
    """Writes noise as a CT that takes tenths of a second to read; returns its path."""
    hu = np.random.default_rng(seed).integers(-1000, 400, LARGE_SHAPE).astype(np.int16)
    grid = Grid.from_axes(
        LARGE_SHAPE, spacing_zyx_mm=(3, 1.5, 1.5), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(0, 0, 0)
    )
    write_volume(Volume(hu=hu, grid=grid), path)
    return path


def stopped_after_a_label(process: subprocess.Popen[str], folder: Path) -> Path | None:
    """The one label file of the process, which is stopped; None if it was not caught before the second."""
    while process.poll() is None:
        if any(folder.glob("*.nii.gz")):
            process.send_signal(signal.SIGSTOP)
            if len(labels := list(folder.glob("*.nii.gz"))) == 1:
                return labels[0]
            process.send_signal(signal.SIGCONT)
            return None
    return None


def stopped_while_writing(process: subprocess.Popen[str], folder: Path) -> Path | None:
    """A file half written by the process, which is stopped; None if it ended without being caught at that."""
    while process.poll() is None:
        if any(folder.glob(PASSING)):
            process.send_signal(signal.SIGSTOP)
            if left := list(folder.glob(PASSING)):
                return left[0]
            process.send_signal(signal.SIGCONT)
    return None


def stopped_while_reading(process: subprocess.Popen[str], path: Path) -> bool:
    """Whether the process was caught amid reading `path`; it is stopped then."""
    size = path.stat().st_size
    while process.poll() is None:
        if 0.1 * size < _read_so_far(process.pid, path) < 0.7 * size:
            process.send_signal(signal.SIGSTOP)
            if 0.1 * size < _read_so_far(process.pid, path) < 0.9 * size:
                return True
            process.send_signal(signal.SIGCONT)
    return False


def _read_so_far(pid: int, path: Path) -> int:
    """How far the process is in `path`, which it has open; 0 if it has not."""
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(entry) == str(path):  # noqa: PTH115
                information = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text()
                return int(information.split()[1])
    except OSError:  # closed or ended meanwhile
        pass
    return 0


@contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[Path]:
    """A disk of its own at the new `folder` while the `with` block lasts; `SkippedError` where none can be mounted."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        raise SkippedError("needs root and mount")
    folder.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True
    )
    if done.returncode != 0:
        raise SkippedError("nothing can be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def clock(shift: str) -> dict[str, str]:
    """The environment of a process whose clock is shifted; the times of files stay those of the disk."""
    if shutil.which("faketime") is None:
        raise SkippedError("needs faketime")
    told = subprocess.run(["faketime", "-f", shift, "env"], capture_output=True, text=True, check=True).stdout
    preload = next(line for line in told.splitlines() if line.startswith("LD_PRELOAD="))
    # Files are dated, and their dates read, by the disk's own clock: so it is between machines.
    apart = {"NO_FAKE_STAT": "1", "FAKE_UTIME": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": preload.partition("=")[2], "FAKETIME": shift, **apart}


def unprivileged() -> list[str]:
    """What a command is put behind to run without the rights of root."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        raise SkippedError("needs root and setpriv")
    if subprocess.run([*nobody, sys.executable, "-c", "import viscera"], check=False, capture_output=True).returncode:
        raise SkippedError("this Python is not for everyone")
    return nobody


def fill(disk: Path, spare_kib: int = 0) -> Path:
    """A file that leaves so much free."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - spare_kib * 1024))
    return filler


def remount(folder: Path, how: Literal["ro", "rw"]) -> bool:
    """Whether the disk at `folder` could be made read-only, or writable again."""
    done = subprocess.run(["mount", "-o", f"remount,{how}", folder], check=False, capture_output=True)
    return done.returncode == 0
