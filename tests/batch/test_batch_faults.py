"""What `viscera batch` promises when processes are killed, interrupted or many, or a disk is full: real processes.

Where a case has to be in the middle of its work, tests/batch/batch_stand_in.py stands for the networks; leases,
ledger, workers, signals and exit codes are the real ones.
"""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

STAND_IN = Path(__file__).with_name("batch_stand_in.py")
DEADLINE_S = 120.0
Start = Callable[..., "subprocess.Popen[str]"]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `viscera batch scans -o out` with the stand-in, in a session of its own; what is left of it is ended."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*options: str, **streams: Any) -> "subprocess.Popen[str]":
        (tmp_path / "signs").mkdir(exist_ok=True)
        command = [sys.executable, str(STAND_IN), str(tmp_path / "scans"), "-o", str(tmp_path / "out"), *options]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        pipes["env"] = os.environ | {"TMPDIR": str(tmp_path)}  # a killed process leaves its workers' folder there
        begun.append(subprocess.Popen(command, text=True, start_new_session=True, **(pipes | streams)))
        return begun[-1]

    yield begin
    for process in begun:
        for pid in session(process):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def session(process: "subprocess.Popen[str]") -> list[int]:
    """The processes begun by `process`, itself included, that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == process.pid and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def scans(tmp_path: Path, **texts: str) -> None:
    (tmp_path / "scans").mkdir(exist_ok=True)
    for name, text in texts.items():
        (tmp_path / "scans" / f"{name}.nii").write_text(text, encoding="utf-8")


def running(tmp_path: Path, name: str) -> list[int]:
    """The processes that have begun the case."""
    return [int(path.suffix[1:]) for path in (tmp_path / "signs").glob(f"{name}.*")]


def go(tmp_path: Path) -> None:
    """Lets waiting cases go on."""
    (tmp_path / "signs" / "go").touch()


def entries(out: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "ledger").glob("*.json"))}


def attempts(out: Path) -> dict[str, int]:
    return {name: entry["attempts"] for name, entry in entries(out).items()}


def row(table: str, name: str) -> int:
    """A number of the closing table."""
    found = re.search(rf"^{name} +(\d+)$", table, flags=re.MULTILINE)
    assert found, table
    return int(found[1])


def left_over(out: Path) -> list[str]:
    """Leases, and files that are not whole."""
    found = [*out.rglob("*.part"), *(out / "ledger" / "claims").iterdir()]
    return sorted(path.name for path in found)


def test_cases_that_kill_their_workers_are_counted_and_the_others_are_done(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    scans(tmp_path, a="a", b="die", c="grow", d="d")
    process = start("--workers", "2", "--retries", "1", "--memory-limit", "300MB")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, err
    assert (row(out, "done"), row(out, "failed")) == (2, 2)
    assert "b (2 tries): the worker's process died (killed, or out of memory)" in out
    found = entries(tmp_path / "out")
    assert {name: entry["status"] for name, entry in found.items() if entry["error"]} == {"b": "failed", "c": "failed"}
    assert {found[name]["error"]["type"] for name in "bc"} == {"WorkerDied"}
    assert attempts(tmp_path / "out") == {"a": 1, "b": 2, "c": 2, "d": 1}
    assert left_over(tmp_path / "out") == []
    assert "Traceback" not in err


def test_a_case_whose_worker_is_killed_is_done_by_another(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    scans(tmp_path, a="wait", b="wait", c="c")
    process = start("--workers", "2")
    until(lambda: running(tmp_path, "a") and running(tmp_path, "b"))
    os.kill(running(tmp_path, "a")[0], signal.SIGKILL)
    until(lambda: len(running(tmp_path, "a")) == 2)
    go(tmp_path)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, row(out, "done"), row(out, "failed")) == (0, 3, 0), err
    assert attempts(tmp_path / "out") == {"a": 2, "b": 1, "c": 1}
    assert left_over(tmp_path / "out") == []


def test_after_the_driver_is_killed_the_next_run_goes_on(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    scans(tmp_path, a="a", b="b", c="wait", d="wait")
    first = start("--workers", "2")
    until(lambda: running(tmp_path, "c") and running(tmp_path, "d") and len(entries(tmp_path / "out")) == 2)
    first.kill()
    until(lambda: session(first) == [])
    passing = tmp_path / "out" / ".viscera-0123456789abcdef.part"
    passing.touch()
    os.utime(passing, (0, 0))  # hours ago

    go(tmp_path)
    second = start()
    out, err = second.communicate(timeout=DEADLINE_S)
    assert (second.returncode, row(out, "done"), row(out, "kept")) == (0, 2, 2), err
    assert attempts(tmp_path / "out") == {"a": 1, "b": 1, "c": 2, "d": 2}
    assert left_over(tmp_path / "out") == []


@pytest.mark.parametrize("options", [[], ["--workers", "1"]], ids=["alone", "with a worker"])
def test_two_drivers_do_each_case_once(options: list[str], tiny_bundle: Path, tiny_scan: Path, tmp_path: Path) -> None:
    if options:
        pytest.importorskip("distributed")
    (tmp_path / "scans").mkdir()
    for number in range(12):
        shutil.copy(tiny_scan, tmp_path / "scans" / f"c{number:02d}.nii.gz")
    command = [sys.executable, "-m", "viscera", "batch", tmp_path / "scans", "-o", tmp_path / "out", "--device", "cpu"]
    both = [
        subprocess.Popen([*command, "--bundle", tiny_bundle, *more], stdout=subprocess.PIPE, text=True)
        for more in ([], options)
    ]
    tables = [process.communicate(timeout=DEADLINE_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(row(table, "done") for table in tables) == 12
    assert set(attempts(tmp_path / "out").values()) == {1}
    assert left_over(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("options", "number", "code", "word"),
    [
        ([], signal.SIGINT, 130, "interrupted"),
        ([], signal.SIGTERM, 143, "terminated"),
        (["--workers", "2"], signal.SIGINT, 130, "interrupted"),
    ],
    ids=["Ctrl-C alone", "SIGTERM alone", "Ctrl-C with workers"],
)
def test_a_signal_to_all_processes_ends_them_with_one_line(
    options: list[str], number: signal.Signals, code: int, word: str, start: Start, tmp_path: Path
) -> None:
    if options:
        pytest.importorskip("distributed")
    scans(tmp_path, a="a", b="wait", c="wait")
    process = start(*options)
    until(lambda: running(tmp_path, "b") and "a" in entries(tmp_path / "out"))
    os.killpg(process.pid, number)  # as a terminal and a cluster's queue do
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    # The driver may not have heard yet of what a worker has just recorded.
    done = "(1 done, 2 left|none done, 3 left)" if options else "1 done, 2 left"
    assert re.fullmatch(f"viscera: {word}: of 3 cases {done}; run the same command again to continue\n", err), err
    until(lambda: session(process) == [])
    out = tmp_path / "out"
    assert attempts(out) == {"a": 1}
    assert [path.name for path in out.iterdir() if path.is_file()] == ["a.nii.gz"]
    # Of workers that are killed leases stay, which the next run finds dead.
    assert options or left_over(out) == []


def test_ctrl_c_while_workers_start_ends_all_with_one_line(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    scans(tmp_path, a="wait")
    process = start("--workers", "2")
    until(lambda: len(session(process)) >= 3)
    for _ in range(3):  # as impatient people do
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert re.fullmatch(r"viscera: interrupted(: of 1 cases none done, 1 left; run the same command .*)?\n", err)
    until(lambda: session(process) == [])


def test_a_process_that_was_stopped_and_overtaken_does_not_record(start: Start, tmp_path: Path) -> None:
    scans(tmp_path, a="wait")
    process = start()
    until(lambda: running(tmp_path, "a"))
    process.send_signal(signal.SIGSTOP)
    lease = tmp_path / "out" / "ledger" / "claims" / "a.1"
    lease.write_text("{}", encoding="utf-8")  # seen from another machine, a minute later
    os.utime(lease, (0, 0))
    go(tmp_path)
    other = start()
    out, err = other.communicate(timeout=DEADLINE_S)
    assert (other.returncode, row(out, "done")) == (0, 1), err
    recorded = entries(tmp_path / "out")
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, row(out, "kept")) == (0, 1), err
    assert entries(tmp_path / "out") == recorded
    assert (recorded["a"]["attempts"], left_over(tmp_path / "out")) == (2, [])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Mounts a small disk at `out`, with options."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("a disk of its own needs root and mount")
    (tmp_path / "out").mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path / "out")]
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("this system lets nothing be mounted")

    yield mount
    subprocess.run(["umount", "--lazy", tmp_path / "out"], check=False)


@pytest.mark.parametrize(
    ("options", "reason"), [("ro", "Read-only file system"), ("size=600k", "No space left on device")]
)
def test_a_folder_that_cannot_be_written_is_one_line(
    options: str, reason: str, disk: Callable[[str], None], start: Start, tmp_path: Path
) -> None:
    scans(tmp_path, a="a", b="b")
    disk(options)
    process = start()
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert re.fullmatch(rf"viscera: error: writing .*ledger/\.room: expected .*, got {reason}\. .*\n", err)
    assert running(tmp_path, "a") == []


def test_a_disk_that_fills_up_ends_the_run_and_with_more_room_it_goes_on(
    disk: Callable[[str], None], start: Start, tmp_path: Path
) -> None:
    scans(tmp_path, **{name: name * 900_000 for name in "abcdef"})
    disk("size=4m")
    first = start()
    _, err = first.communicate(timeout=DEADLINE_S)
    out = tmp_path / "out"
    assert first.returncode == 1
    assert len(err.splitlines()) == 1, err
    assert "No space left on device" in err
    done = [name for name, entry in entries(out).items() if entry["status"] == "done"]
    assert 1 <= len(done) < 6
    assert left_over(out) == []

    subprocess.run(["mount", "-o", "remount,size=40m", out], check=True)
    second = start()
    table, err = second.communicate(timeout=DEADLINE_S)
    assert (second.returncode, row(table, "kept"), row(table, "done")) == (0, len(done), 6 - len(done)), err


def test_a_terminal_is_left_with_the_lines_alone(
    start: Start, screen: Callable[[str], list[str]], tmp_path: Path
) -> None:
    scans(tmp_path, a="a", b="wait", c="c")
    outer, inner = pty.openpty()
    process = start(stdout=inner, stderr=inner)
    os.close(inner)
    text, end = b"", time.monotonic() + DEADLINE_S
    while True:
        assert select.select([outer], [], [], DEADLINE_S)[0], text
        assert time.monotonic() < end, text
        try:
            piece = os.read(outer, 4096)
        except OSError:  # what Linux says at the end of a terminal
            break
        if not piece:
            break
        text += piece
        if b": b (" in text:
            go(tmp_path)
    os.close(outer)
    assert process.wait(DEADLINE_S) == 0
    left = screen(text.decode())
    assert [line.split(" (")[0] for line in left[:3]] == ["a: done", "b: done", "c: done"]
    assert left[3].split() == ["done", "3"]
    assert not any("━" in line for line in left)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The address of a scheduler with two workers of one thread, or of as many as the parameter, and its process."""
    threads = str(getattr(request, "param", 1))
    pytest.importorskip("distributed")
    place = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    log = (tmp_path / "dask.log").open("wb")
    where = {"cwd": tmp_path, "stdout": log, "stderr": log, "start_new_session": True}
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", place], **where
    )
    workers = subprocess.Popen(
        [*dask, "worker", "--scheduler-file", place, "--nthreads", threads, "--nworkers", "2", "--no-dashboard"],
        **where,
    )
    try:
        until(place.is_file)
        yield json.loads(place.read_text(encoding="utf-8"))["address"], scheduler
    finally:
        for process in (scheduler, workers):
            for pid in session(process):
                os.kill(pid, signal.SIGKILL)
            process.wait()
        log.close()


def test_the_workers_of_a_scheduler_started_by_hand_do_the_cases_until_it_goes(
    cluster: tuple[str, "subprocess.Popen[bytes]"], start: Start, tmp_path: Path
) -> None:
    address, scheduler = cluster
    scans(tmp_path, a="a", b="wait", c="wait", d="d")
    process = start("--scheduler", address)
    until(lambda: running(tmp_path, "b") and running(tmp_path, "c") and "a" in entries(tmp_path / "out"))
    assert running(tmp_path, "b") != running(tmp_path, "c")
    scheduler.kill()
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert re.fullmatch(r"viscera: error: waiting for cases: .* Start the scheduler again and run the same .*\n", err)


@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_workers_of_several_threads_end_the_run(
    cluster: tuple[str, "subprocess.Popen[bytes]"], start: Start, tmp_path: Path
) -> None:
    scans(tmp_path, a="a", b="b", c="c", d="d", e="e")
    process = start("--scheduler", cluster[0])
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert re.fullmatch(r"viscera: error: working for a batch: .*, got 2\. Start workers with --nthreads 1, .*\n", err)
    assert entries(tmp_path / "out") == {}
