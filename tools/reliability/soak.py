"""Many cases in one process: does memory grow, are files or threads left open?

Run `python tools/reliability/soak.py [--cases N] [--bundle B]`; it needs Linux. One `Segmenter` works on small
phantoms of different shapes in turn, from file to file with picture; every tenth case is a damaged file. After each
case resident memory, open files and threads are counted. The slope of memory is that of a straight line through the
means of blocks of cases after the first fifth, with its 95 % interval; blocks, as neighbouring cases are not
independent. The exit code is 1 if memory surely grows by more than 10 KiB a case, or more files or threads are open at
the end than after the first fifth.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from tables import print_table
from watching import status_bytes

from viscera.case import CaseOptions
from viscera.core.errors import ReadError
from viscera.formats.nifti_write import write_volume
from viscera.segmenter import Segmenter
from viscera.synthesis.phantom import PhantomConfig, make_phantom

# Slices, rows, columns; spacings show the same part of the body in each.
SHAPES = ((20, 24, 28), (31, 23, 27), (26, 40, 44), (40, 52, 60))
BLOCKS = 20
GROWTH_KIB = 10.0


@dataclass(frozen=True, kw_only=True)
class Slope:
    """KiB per case, and half of its 95 % interval."""

    kib: float
    margin: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--bundle", help="folder or name of a bundle (default: the one that ships)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        counts = soaked(Path(name), options.cases, options.bundle)
        seconds = time.perf_counter() - start
    settled = counts[len(counts) // 5 :]
    slope = memory_slope(settled[:, 0])
    files, threads = settled[:, 1], settled[:, 2]
    cells = [
        str(options.cases), f"{seconds / options.cases:.2f} s",
        *(f"{megabytes / 2**20:.0f} MiB" for megabytes in (settled[0, 0], settled[-1, 0])),
        f"{slope.kib:+.1f} ± {slope.margin:.1f} KiB", f"{files[0]} to {files[-1]}", f"{threads[0]} to {threads[-1]}",
    ]  # fmt: skip
    head = ["cases", "each", "memory after a fifth", "at the end", "slope per case, 95 %", "open files", "threads"]
    print_table(head, [cells])
    grows = slope.kib - slope.margin > GROWTH_KIB
    return int(grows or files[-1] > files[0] or threads[-1] > threads[0])


def soaked(folder: Path, cases: int, bundle: str | None) -> NDArray[np.int64]:
    """Resident bytes, open files and threads after each case, one row each."""
    scans = drawn_scans(folder)
    damaged = folder / "damaged.nii.gz"
    damaged.write_bytes(scans[0].read_bytes()[:-100])
    segmenter = Segmenter.load(bundle, device="cpu")
    options = CaseOptions(preview=True, allow_empty=True)
    counts = np.zeros((cases, 3), dtype=np.int64)
    for case in track(range(cases), "cases", disable=not sys.stderr.isatty()):
        if case % 10 == 9:
            try:
                segmenter.segment_file(damaged, folder / "none.nii.gz", options=options)
            except ReadError:
                pass
            else:
                raise SystemExit("a damaged scan was read")
        else:
            segmenter.segment_file(scans[case % len(scans)], folder / "labels.nii.gz", options=options)
        counts[case] = status_bytes("VmRSS"), *map(entries, ("fd", "task"))
    return counts


def entries(folder: str) -> int:
    """How many there are of what /proc lists of this process: "fd", open files, or "task", threads of any kind."""
    return len(list(Path("/proc/self", folder).iterdir()))


def drawn_scans(folder: Path) -> list[Path]:
    """Small synthetic CTs, one of each shape."""
    paths = []
    for seed, shape in enumerate(SHAPES, 1):
        spacing = (240 / shape[0], 264 / shape[1], 280 / shape[2])
        phantom = make_phantom(seed, config=PhantomConfig(shape_zyx=shape, spacing_zyx_mm=spacing))
        paths.append(folder / f"scan{seed}.nii.gz")
        write_volume(phantom.volume, paths[-1])
    return paths


def memory_slope(resident: NDArray[np.int64]) -> Slope:
    """The slope of resident bytes over cases."""
    blocks = min(BLOCKS, len(resident) // 4)
    size = len(resident) // blocks
    means = resident[-blocks * size :].reshape(blocks, size).mean(axis=1) / 1024
    places = size * (np.arange(blocks) - (blocks - 1) / 2)
    slope = float(places @ means / (places @ places))
    rest = means - means.mean() - slope * places
    error = math.sqrt(float(rest @ rest) / (blocks - 2) / float(places @ places))
    return Slope(kib=slope, margin=student_t(blocks - 2) * error)


def student_t(degrees: int) -> float:
    """The 97.5 % point of Student's t, by its series in 1 / degrees (within 2 % from 4 degrees up)."""
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


if __name__ == "__main__":
    raise SystemExit(main())
