"""Seconds by stage and peak memory of one full-size case, 512 x 512 x 200 voxels at 0.8 x 0.8 x 2.5 mm.

Run `python benchmarks/stages.py [--seed N] [--device auto|cpu|cuda] [--precision auto|f32|bf16] [--stand-in]`. The
phantom is drawn in one process; each row is measured in its own fresh one: once as it comes (canonical axes), once
mirrored and with its axes permuted, as a scan may be stored. With `--stand-in` the networks are left out and fixed
blobs are their output: what remains is the path around them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig
from viscera.core.geometry import Grid, Reorientation
from viscera.core.volume import Volume
from viscera.engines.engine import NetworkOutput
from viscera.pipeline import segment_volume

STAGES = ("preprocess", "localise", "crop", "segment", "restore")
STORED = {
    "canonical": Reorientation(axes=(0, 1, 2), flipped=(False, False, False)),
    "mirrored": Reorientation(axes=(0, 1, 2), flipped=(True, False, True)),
    "permuted": Reorientation(axes=(2, 1, 0), flipped=(False, True, False)),
}


class StandIn:
    """An engine that gives at once: a box of foreground, four balls of organs."""

    name, precision = "stand-in", "f32"

    def prepare(self) -> None:
        """Nothing to load."""

    def compile_ahead(self, stage: str, shape: tuple[int, ...], *, extra_bytes: int = 0) -> None:
        """Nothing to compile."""

    def run(self, stage: str, image: NDArray[np.float32]) -> NetworkOutput:
        """Logits or probabilities in the middle of any image."""
        shape = image.shape[2:]
        if stage == "localise":
            logits = np.zeros((1, 2, *shape), dtype=np.float32)
            z, y, x = (slice(count // 4, count - count // 4) for count in shape)
            logits[0, 1, z, y, x] = 1.0
            return NetworkOutput(logits)
        planes, rows, columns = np.ogrid[: shape[0], : shape[1], : shape[2]]
        probabilities = np.zeros((1, 5, *shape), dtype=np.float32)
        for label, (share, radius) in enumerate(((0.3, 32), (0.7, 20), (0.5, 20), (0.6, 12)), start=1):
            distance = np.sqrt(
                (planes - share * shape[0]) ** 2
                + (rows - 0.5 * shape[1]) ** 2
                + (columns - (1 - share) * shape[2]) ** 2
            )
            probabilities[0, label] = 1 / (1 + np.exp(np.clip(distance - radius, -30, 30)))
        probabilities[0, 0] = np.clip(1 - probabilities[0].sum(axis=0), 0, 1)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return NetworkOutput(probabilities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the phantom")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--stand-in", action="store_true", help="leave the networks out")
    parser.add_argument("--draw", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--row", nargs=2, metavar=("FILE", "STORED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        np.save(options.draw, drawn_hu(options.seed))
    elif options.row:
        print(json.dumps(measured(Path(options.row[0]), STORED[options.row[1]], options)))
    else:
        print_table()


def print_table() -> None:
    print(f"{'stored':10}" + "".join(f"{stage:>11}" for stage in (*STAGES, "all")) + f"{'scan':>10}{'peak':>10}")
    with tempfile.TemporaryDirectory() as folder:
        scan = str(Path(folder, "hu.npy"))
        in_a_fresh_process("--draw", scan)
        for stored in STORED:
            row = json.loads(in_a_fresh_process("--row", scan, stored))
            seconds = [*(row["seconds"][stage] for stage in STAGES), row["wall"]]
            print(
                f"{stored:10}" + "".join(f"{value:9.3f} s" for value in seconds),
                f"{row['scan_mib']:5.0f} MiB {row['peak_mib']:5.0f} MiB",
            )
    print(f"engine {row['engine']}, {row['precision']}; region {row['region']} voxels; peak: the whole process")


def in_a_fresh_process(*arguments: str) -> str:
    command = [sys.executable, __file__, *sys.argv[1:], *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def full_size_grid() -> Grid:
    return Grid.from_axes(
        (200, 512, 512),
        spacing_zyx_mm=(2.5, 0.8, 0.8),
        direction_zyx=np.eye(3)[:, ::-1],
        origin_xyz_mm=(-204.4, -204.4, -238.75),
    )


def drawn_hu(seed: int) -> NDArray[np.int16]:
    from viscera.synthesis.phantom import make_phantom

    return make_phantom(seed, grid=full_size_grid()).volume.hu


def measured(scan: Path, stored: Reorientation, options: argparse.Namespace) -> dict[str, Any]:
    hu = np.ascontiguousarray(stored.apply(np.load(scan, mmap_mode="r")))
    volume = Volume(hu=hu, grid=stored.apply_to_grid(full_size_grid()))
    engine, model = made_engine(options)
    start = time.perf_counter()
    result = segment_volume(volume, engine, model)
    wall = time.perf_counter() - start
    return {
        "seconds": result.seconds,
        "wall": wall,
        "scan_mib": hu.nbytes / 2**20,
        "peak_mib": peak_mib(),
        "engine": engine.name,
        "precision": engine.precision,
        "region": result.roi_grid.shape_zyx if result.roi_grid else None,
    }


def made_engine(options: argparse.Namespace) -> tuple[Any, ModelConfig]:
    if options.stand_in:
        return StandIn(), ModelConfig()
    from viscera.engines.choice import make_engine
    from viscera.model.bundle import load_bundle

    bundle = load_bundle()
    return make_engine(bundle, device=options.device, precision=options.precision), bundle.card.model


def peak_mib() -> float:
    """The process's highest resident memory so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


if __name__ == "__main__":
    main()
