"""Time and memory of whole cases as the FLARE challenges count them, against baselines in the same run.

Run `python benchmarks/efficiency.py [--cases x100 x200 ...] [--methods NAME ...] [--repeats 5] [--json FILE]
[--figure FILE.png]`. It needs `pip install -e '.[bench]'`.

One case per fresh process: the wall clock runs from the start of the process to its exit, so starting Python, imports,
loading the model, reading and writing are counted. Memory is the largest resident memory of the process and its
children together. GPU memory, where there is a GPU, is the largest value of the device's used memory that is held in
more than 2 % of samples taken every 0.1 s (FLARE 2021). Methods take turns within each repeat, so that a machine that
slows down slows all of them; the figures are medians.

Scans are synthetic, drawn again from fixed seeds. "viscera" uses the shipped networks with the largest region of the
paper, 160 x 128 x 160 voxels, for every scan; "viscera-shipped" is what an installation does. The phantom's organs
look simpler than what the networks learned from; their logits are multiplied here, so that no organ is doubted and
nothing is looked at twice. That changes no computation.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from efficiency_figure import figure

from viscera.core.geometry import Grid
from viscera.engines.export import export_bundle
from viscera.formats.nifti_write import write_volume
from viscera.model.bundle import WEIGHTS, load_bundle
from viscera.synthesis.phantom import make_phantom

# Slices and their distance in mm; 512 x 512 voxels of 0.8 mm each, but "small" with 128 x 128 of 3.2 mm.
CASES = {"small": (64, 5.0), "x100": (100, 5.0), "x200": (200, 2.5), "x400": (400, 1.25), "x1000": (1000, 0.7)}
PLANE = {"small": (128, 3.2)}
FULL_PLANE = (512, 0.8)

BASELINES = Path(__file__).with_name("efficiency_baselines.py")
# A bundle of the largest region, and the options of `viscera segment`.
VISCERA: dict[str, tuple[str, tuple[str, ...]]] = {
    "viscera": ("largest", ()),
    "viscera-f32": ("largest", ("--precision", "f32")),
    "viscera-600MB": ("largest", ("--memory-limit", "600MB")),
    "viscera-2GB": ("largest", ("--memory-limit", "2GB")),
    "viscera-shipped": ("fast", ()),
}
OTHERS = ("plain", "onnxruntime", "monai")
NAMES = {
    "viscera": "viscera, largest region",
    "viscera-f32": "the same in float32",
    "viscera-600MB": "the same within 600 MB",
    "viscera-2GB": "the same, 2 GB allowed",
    "viscera-shipped": "viscera as installed",
    "plain": "SimpleITK, torch float32, full-size floats",
    "onnxruntime": "viscera's path on ONNX Runtime",
    "monai": "MONAI sliding window, nnU-Net's default size",
}
# Methods that take minutes are run once, on the case that the goals are stated for.
ONCE = {"monai": "x200"}
STAGES = ("start", "read", "preprocess", "localise", "crop", "segment", "restore", "clean", "assess", "write", "end")

SAMPLE_S = 0.01
GPU_SAMPLE_S = 0.1
GPU_SHARE = 0.02
_SHARPENED = 3.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one fresh process took.

    Attributes:
        seconds: From its start to its exit.
        peak_mb: Resident memory of it and its children at most, in 10**6 bytes.
        gpu_mb: As FLARE counts it; None without a GPU.
        stages: Seconds by stage where the method tells, "start" before and "end" after them.
    """

    seconds: float
    peak_mb: float
    gpu_mb: float | None
    stages: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=[*VISCERA, *OTHERS], default=[*VISCERA, *OTHERS])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="of viscera: cpu, cuda or auto")
    parser.add_argument("--json", type=Path, help="keep what was measured")
    parser.add_argument("--figure", type=Path, help="draw it")
    parser.add_argument("--draw-only", type=Path, metavar="JSON", help="draw what was measured before")
    options = parser.parse_args()
    if options.draw_only:
        found = from_json(options.draw_only.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(options, Path(folder).resolve())
    print(table(found))
    if options.json:
        options.json.write_text(to_json(found), encoding="utf-8")
    if options.figure:
        options.figure.write_bytes(figure(found, NAMES))


def measured(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[Run]]]:
    """The runs by case and method."""
    largest = make_largest_bundle(folder)
    found: dict[str, dict[str, list[Run]]] = {}
    for case in options.cases:
        scan = folder / f"{case}.nii.gz"
        write_volume(make_phantom(1, grid=grid_of(case)).volume, scan)
        for repeat in range(options.repeats):
            for method in options.methods:
                if method in ONCE and (case != ONCE[method] or repeat):
                    continue
                run = run_once(command(method, scan, largest, options.device), scan)
                found.setdefault(case, {}).setdefault(method, []).append(run)
                print(f"{case} {method}: {run.seconds:.2f} s, {run.peak_mb:.0f} MB", file=sys.stderr)
        scan.unlink()
    return found


def make_largest_bundle(folder: Path) -> Path:
    """The shipped networks in a bundle with no other region than the paper's largest, and sharper logits."""
    from safetensors.torch import load_file, save_file

    shipped = load_bundle()
    model = shipped.card.model
    segment = dataclasses.replace(model.segment, sizes_x_vox=(160,), sizes_y_vox=(128,), sizes_z_vox=(160,))
    weights = load_file(shipped.weights("segment"))
    for name in weights:
        if name.startswith("local.output.") or (name.startswith("spatial.") and ".output." in name):
            weights[name] = weights[name] * _SHARPENED
    sharpened = folder / WEIGHTS["segment"]
    save_file(weights, sharpened)
    card = dataclasses.replace(shipped.card, name="largest", model=dataclasses.replace(model, segment=segment))
    return export_bundle(
        folder / "largest", card, localise_weights=shipped.weights("localise"), segment_weights=sharpened
    ).folder


def grid_of(case: str) -> Grid:
    slices, step_mm = CASES[case]
    side, pixel_mm = PLANE.get(case, FULL_PLANE)
    first_mm = -(side - 1) * pixel_mm / 2
    return Grid.from_axes(
        (slices, side, side),
        spacing_zyx_mm=(step_mm, pixel_mm, pixel_mm),
        direction_zyx=np.eye(3)[:, ::-1],
        origin_xyz_mm=(first_mm, first_mm, 10 - (slices - 1) * step_mm / 2),
    )


def command(method: str, scan: Path, largest: Path, device: str) -> list[str]:
    output, report = scan.with_name("labels.nii.gz"), scan.with_name("report.json")
    if method not in VISCERA:
        return [sys.executable, str(BASELINES), method, str(scan), str(output), "--bundle", str(largest)]
    bundle, given = VISCERA[method]
    named = str(largest) if bundle == "largest" else bundle
    arguments = ["segment", str(scan), "-o", str(output), "--bundle", named, "--device", device]
    return [sys.executable, "-m", "viscera", *arguments, "--report", str(report), "--quiet", *given]


def run_once(arguments: list[str], scan: Path) -> Run:
    """One case in a fresh process."""
    report = scan.with_name("report.json")
    report.unlink(missing_ok=True)
    gpu = GpuSamples()
    begun = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process, gpu:
        start, peak = _watched(process, scan)
        seconds = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}")
    stages = {}
    if report.exists():
        stages = json.loads(report.read_text(encoding="utf-8"))["cases"][0]["seconds"]
        end = seconds - start - sum(stages.values())
        stages = {"start": start, **stages, "end": max(0.0, end)}
    return Run(seconds=seconds, peak_mb=peak / 1e6, gpu_mb=gpu.held_mb(), stages=stages)


def _watched(process: subprocess.Popen[bytes], scan: Path) -> tuple[float, int]:
    """When it opened the scan, in seconds, and the largest resident memory of it and its children together."""
    begun, start, peak = time.perf_counter(), 0.0, 0
    while True:
        if not start and _has_open(process.pid, scan):
            start = time.perf_counter() - begun
        # The kernel's own record of the process's peak misses none between two samples.
        peak = max(peak, _peak(process.pid), sum(_resident(pid) for pid in (process.pid, *_children(process.pid))))
        if process.poll() is not None:
            return start, peak
        time.sleep(SAMPLE_S)


def _has_open(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return direct + [below for child in direct for below in _children(child)]
    return []


def _peak(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    return 0


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class GpuSamples:
    """The used memory of the first GPU every 0.1 s while it is on; nothing without a GPU or nvidia-ml-py."""

    def __init__(self) -> None:
        self._used: list[int] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            device = pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:  # no package, no driver, no device: each is an error of its own there
            return

        def sample() -> None:
            while not self._stop.wait(GPU_SAMPLE_S):
                self._used.append(pynvml.nvmlDeviceGetMemoryInfo(device).used)

        self._thread = threading.Thread(target=sample)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def held_mb(self) -> float | None:
        """The largest value that, rounded to MB, is held in more than 2 % of the samples."""
        rounded = [round(used / 1e6) for used in self._used]
        held = [value for value in set(rounded) if sum(one >= value for one in rounded) > GPU_SHARE * len(rounded)]
        return max(held, default=None)


def median(runs: Sequence[Run], name: str) -> float:
    return float(statistics.median(getattr(run, name) for run in runs))


def table(found: dict[str, dict[str, list[Run]]]) -> str:
    """Medians as Markdown: by case and method with ratios to viscera, then viscera's seconds by stage."""
    lines = [
        "| case | method | seconds | memory MB | times the seconds | times the memory |",
        "|---|---|---|---|---|---|",
    ]
    for case, methods in found.items():
        base = methods.get("viscera") or next(iter(methods.values()))
        for method, runs in methods.items():
            seconds, peak = median(runs, "seconds"), median(runs, "peak_mb")
            ratios = f"{seconds / median(base, 'seconds'):.2f} | {peak / median(base, 'peak_mb'):.2f}"
            lines.append(f"| {case} | {NAMES[method]} | {seconds:.2f} | {peak:.0f} | {ratios} |")
    gpu = [run.gpu_mb for methods in found.values() for runs in methods.values() for run in runs if run.gpu_mb]
    lines += ["", f"GPU memory held: {max(gpu)} MB" if gpu else "GPU: none in this machine, not measured", ""]
    lines += ["| case | method | " + " | ".join(STAGES) + " |", "|" + "---|" * (len(STAGES) + 2)]
    for case, methods in found.items():
        for method, runs in methods.items():
            if runs[0].stages:
                values = [statistics.median(run.stages.get(stage, 0.0) for run in runs) for stage in STAGES]
                lines.append(f"| {case} | {NAMES[method]} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def to_json(found: dict[str, dict[str, list[Run]]]) -> str:
    plain = {
        case: {method: [dataclasses.asdict(run) for run in runs] for method, runs in methods.items()}
        for case, methods in found.items()
    }
    return json.dumps(plain, indent=1) + "\n"


def from_json(text: str) -> dict[str, dict[str, list[Run]]]:
    plain: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(text)
    return {
        case: {method: [Run(**run) for run in runs] for method, runs in methods.items()}
        for case, methods in plain.items()
    }


if __name__ == "__main__":
    main()
