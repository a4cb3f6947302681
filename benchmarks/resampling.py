"""Resampling against SimpleITK: seconds, extra memory and agreement, on one full-size volume.

Run `python benchmarks/resampling.py [--repeats N]`. Each row is measured in its own fresh process. The tasks "localise"
and "region" are a network's input from an int16 CT of 512 x 512 x 200 voxels; "labels" is the way back of 5
probabilities and their argmax. SimpleITK smooths with SmoothingRecursiveGaussian (the region cropped first, with four
sigmas of surroundings) and resamples linearly, on as many threads as it likes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig, StageConfig
from viscera.core.geometry import AIR_HU, Box, Grid
from viscera.core.resample import resample
from viscera.preprocess import fitted_grid
from viscera.restore import restore_labels

TASKS = ("localise", "region", "labels")
SCAN = Grid.from_axes(
    (200, 512, 512),
    spacing_zyx_mm=(2.5, 0.8, 0.8),
    direction_zyx=np.eye(3)[:, ::-1],
    origin_xyz_mm=(-204.4, -204.4, -248.75),
)
REGION = SCAN.box((slice(50, 170), slice(80, 390), slice(60, 450)))
MODEL = ModelConfig()

Task = Callable[[], NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs per row, the fastest counts")
    parser.add_argument("--row", nargs=2, metavar=("TASK", "TOOL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        task, tool = options.row
        print(json.dumps(measured(task, tool, options.repeats)))
        return
    print(f"{'task':8} {'viscera':>18} {'SimpleITK':>18} {'faster':>8}   agreement")
    for task in TASKS:
        ours, theirs = (in_a_fresh_process(task, tool, options.repeats) for tool in ("viscera", "simpleitk"))
        cells = [f"{row['seconds']:7.3f} s {row['mib']:4.0f} MiB" for row in (ours, theirs)]
        print(f"{task:8} {' '.join(cells)} {theirs['seconds'] / ours['seconds']:7.1f}x   {agreement(task)}")


def in_a_fresh_process(task: str, tool: str, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--row", task, tool, "--repeats", str(repeats)]
    row: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return row


def measured(task: str, tool: str, repeats: int) -> dict[str, float]:
    run = made(task, tool)
    before = memory_mib("VmRSS")
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "mib": memory_mib("VmHWM") - before}


def made(task: str, tool: str) -> Task:
    if task == "labels":
        target = fitted_grid(SCAN, REGION, MODEL.segment)
        probabilities = blobs(target.shape_zyx)
        if tool == "viscera":
            return lambda: restore_labels(probabilities, target, SCAN)
        return lambda: simpleitk_labels(probabilities, target)
    hu = np.random.default_rng(0).integers(-1000, 1000, SCAN.shape_zyx, dtype=np.int16)
    box, stage = (SCAN.box(), MODEL.localise) if task == "localise" else (REGION, MODEL.segment)
    target = fitted_grid(SCAN, box, stage)
    if tool == "viscera":
        return lambda: resample(hu, SCAN, target, sigma_mm=stage.sigma_mm, outside=AIR_HU)
    return lambda: simpleitk_input(hu, box, target, stage)


def agreement(task: str) -> str:
    ours, theirs = made(task, "viscera")(), made(task, "simpleitk")()
    if task == "labels":
        return f"{100 * (ours == theirs).mean():.4f} % of voxels equal"
    return f"{np.abs(ours - theirs).mean():.2f} HU mean difference"


def blobs(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Four smooth balls in sure background: the size and kind of output a network gives."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    probabilities = np.zeros((5, *shape), dtype=np.float32)
    balls = ((80, 60, 50, 32), (70, 80, 110, 20), (90, 60, 120, 20), (60, 60, 80, 14))
    for label, (middle_z, middle_y, middle_x, radius) in enumerate(balls, start=1):
        distance = np.sqrt((z - middle_z) ** 2 + (y - middle_y) ** 2 + (x - middle_x) ** 2)
        probabilities[label] = 1 / (1 + np.exp(np.clip(distance - radius, -30, 30)))
    probabilities[0] = np.clip(1 - probabilities[1:].sum(axis=0), 0, 1)
    probabilities /= probabilities.sum(axis=0)
    return probabilities


def simpleitk_input(hu: NDArray[np.int16], box: Box, target: Grid, stage: StageConfig) -> NDArray[Any]:
    sitk = simpleitk()
    around = SCAN.voxels(SCAN.box_from(target, target.box()).grown(4 * stage.sigma_mm).clipped(SCAN.box()))
    image = sitk.GetImageFromArray(hu[around])
    image.SetSpacing(SCAN.spacing_zyx_mm[::-1])
    image.SetOrigin(SCAN.world(np.array([part.start for part in around])).tolist())
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), stage.sigma_mm)
    array: NDArray[Any] = sitk.GetArrayFromImage(simpleitk_resampled(smooth, target, float(AIR_HU)))
    return array


def simpleitk_labels(probabilities: NDArray[np.float32], region: Grid) -> NDArray[Any]:
    sitk = simpleitk()
    best, labels = np.full(SCAN.shape_zyx, -1, dtype=np.float32), np.zeros(SCAN.shape_zyx, dtype=np.uint8)
    for label, channel in enumerate(probabilities):
        image = sitk.GetImageFromArray(channel)
        image.SetSpacing(region.spacing_zyx_mm[::-1])
        image.SetOrigin(region.origin_xyz_mm)
        full = sitk.GetArrayFromImage(simpleitk_resampled(image, SCAN, 0.0))
        labels[full > best] = label
        np.maximum(best, full, out=best)
    return labels


def simpleitk() -> Any:
    return importlib.import_module("SimpleITK")  # it has no types


def simpleitk_resampled(image: Any, grid: Grid, outside: float) -> Any:
    sitk = simpleitk()
    return sitk.Resample(
        image,
        grid.shape_zyx[::-1],
        sitk.Transform(),
        sitk.sitkLinear,
        grid.origin_xyz_mm,
        grid.spacing_zyx_mm[::-1],
        np.eye(3).ravel().tolist(),
        outside,
    )


def memory_mib(field: str) -> float:
    """A field of the process's status (Linux): VmRSS is memory now, VmHWM its highest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field))) / 1024


if __name__ == "__main__":
    main()
