"""What running many cases costs: throughput by workers, the engine's own time per case, and ten thousand cases.

    python benchmarks/batch.py throughput    synthetic CTs of full size, really segmented, with 1 and 2 workers
    python benchmarks/batch.py overhead      time per case without the work, with a stand-in for the networks
    python benchmarks/batch.py many          10,000 cases through the scheduler with the stand-in, then once more

Ledger entries, leases and hashes are real in all of them. Each prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from viscera.batch.dask_workers import DaskPool
from viscera.batch.scheduler import Scheduler, Tally
from viscera.batch.tasks import ModelRequest, Task, TaskOutputs, TaskResult
from viscera.batch.workers import InProcessPool, Pool
from viscera.case import CaseOptions
from viscera.core.files import write_bytes
from viscera.core.memory import peak_bytes

# Of an abdominal CT, 200 slices of 512 x 512 voxels; a few are drawn, and each is several cases.
SHAPE, SPACING_MM, DRAWN = ("200", "512", "512"), ("2", "0.75", "0.75"), 3
STAND_IN_BYTES = 4096


def stand_in(task: Task, identity: str) -> TaskOutputs:
    """What a case of no work writes."""
    write_bytes(identity.encode()[:16] * (STAND_IN_BYTES // 16), task.output)
    return TaskOutputs(outputs={"nifti": task.output})


class Silent:
    """Watches without a word."""

    def case_ended(self, result: TaskResult, tally: Tally) -> None:
        pass

    def case_retried(self, result: TaskResult, tally: Tally) -> None:
        pass

    def tick(self, tally: Tally, running: Mapping[str, str]) -> None:
        pass


def throughput(folder: Path, cases: int) -> list[str]:
    scans = drawn_scans(folder / "scans", cases)
    lines = [
        "| workers | cases | seconds for all | of which start, end | seconds a case, in its ledger | cases an hour |",
        "|---|---|---|---|---|---|",
    ]
    for workers in (1, 2):
        out = folder / f"out{workers}"
        command = ["batch", "-q", str(folder / "scans"), "-o", str(out), "--workers", str(workers)]
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "viscera", *command], check=True)
        whole = time.perf_counter() - begun
        took: list[float] = [
            sum(entry["seconds"].values()) for entry in map(entry_of, sorted((out / "ledger").glob("*.json")))
        ]
        idle = whole - sum(took) / workers
        lines.append(
            f"| {workers} | {cases} | {whole:.1f} | {idle:.1f} | {statistics.median(took):.2f} "
            f"| {3600 * cases / (whole - idle):.0f} |"
        )
    entries = [entry_of(path) for path in (folder / "out1" / "ledger").glob("*.json")]
    stages = {name: statistics.median(entry["seconds"][name] for entry in entries) for name in entries[0]["seconds"]}
    read, written = (statistics.mean(path.stat().st_size for path in paths) for paths in (
        scans, list((folder / "out1").glob("*.nii.gz"))
    ))  # fmt: skip
    return [
        *lines,
        "",
        "One worker, median seconds by stage: " + ", ".join(f"{name} {value:.2f}" for name, value in stages.items()),
        f"A scan has {read / 1e6:.1f} MB, its labels have {written / 1e3:.0f} kB.",
    ]


def drawn_scans(folder: Path, cases: int) -> list[Path]:
    """Synthetic CTs, so many files."""
    paths = [folder / f"p{number:03d}.nii.gz" for number in range(cases)]
    for number, path in enumerate(paths):
        if number >= DRAWN:
            shutil.copy(paths[number % DRAWN], path)
            continue
        command = [sys.executable, "-m", "viscera", "phantom", "-q", "-o", str(path), "--seed", str(number)]
        subprocess.run([*command, "--shape", *SHAPE, "--spacing", *SPACING_MM], check=True)
    return paths


def overhead(folder: Path, cases: int) -> list[str]:
    alone = timed(folder / "alone", cases, nullcontext(InProcessPool(stand_in)))
    engine = timed(folder / "engine", cases, DaskPool(workers=1, segment=stand_in))
    return [
        "| | ms a case |",
        "|---|---|",
        f"| ledger, lease and hashes, in this process | {1000 * alone / cases:.2f} |",
        f"| the same through the scheduler and one worker | {1000 * engine / cases:.2f} |",
        f"| the scheduler's part | {1000 * (engine - alone) / cases:.2f} |",
    ]


def many(folder: Path, cases: int) -> list[str]:
    lines = [f"| run of {cases} cases, 2 workers | seconds | ms a case | cases a second |", "|---|---|---|---|"]
    for name in ("all done", "again: all verified by hash and kept"):
        seconds = timed(folder, cases, DaskPool(workers=2, segment=stand_in))
        lines.append(f"| {name} | {seconds:.1f} | {1000 * seconds / cases:.2f} | {cases / seconds:.0f} |")
    entries = list((folder / "out" / "ledger").glob("*.json"))
    sizes = [path.stat().st_size for path in entries]
    assert len(entries) == cases
    assert all(entry_of(path)["status"] == "done" for path in entries)
    memory = (peak_bytes() or 0) / 2**20
    lines += ["", f"{len(entries)} entries, {statistics.mean(sizes):.0f} bytes each; the driver held {memory:.0f} MiB."]
    return lines


def timed(folder: Path, cases: int, opened: AbstractContextManager[Pool]) -> float:
    """Seconds for all cases, the start and the end of the pool left out."""
    tasks = [task(folder, number) for number in range(cases)]
    with opened as pool:
        begun = time.perf_counter()
        tally = Scheduler(tasks, pool, retries=0, observer=Silent()).run()
        seconds = time.perf_counter() - begun
    assert not tally.failed, tally.failed[0]
    return seconds


def task(folder: Path, number: int) -> Task:
    source, out = folder / "scans" / f"{number % 100:02d}" / f"c{number:05d}", folder / "out"
    if not source.exists():
        write_bytes(number.to_bytes(4, "little") * (STAND_IN_BYTES // 4), source)
    return Task(
        name=f"c{number:05d}",
        source=source,
        output=out / f"c{number:05d}.nii.gz",
        folder=out,
        options=CaseOptions(),
        model=ModelRequest(card_sha256="0" * 64),
    )


def entry_of(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def machine() -> str:
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"))
    name = cpu[1] if cpu else platform.processor()
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {name}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "overhead", "many"))
    parser.add_argument("--cases", type=int, help="default: 12, 500 and 10000")
    args = parser.parse_args()
    measure, usual = {"throughput": (throughput, 12), "overhead": (overhead, 500), "many": (many, 10_000)}[args.what]
    with tempfile.TemporaryDirectory(prefix="viscera-benchmark-") as folder:
        lines = measure(Path(folder), args.cases or usual)
    print(machine(), "", *lines, sep="\n")


if __name__ == "__main__":
    main()
