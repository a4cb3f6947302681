"""Training cases: a CT and its labels, drawn from phantoms and kept as compact arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.errors import ReadError
from viscera.geometry import Box, Grid, Vector
from viscera.phantom import HEAD_Z_MM, THIGHS_Z_MM, PhantomConfig, make_phantom

# Shares of the kinds of scan a phantom case shows; organs must be found in all but the last.
SCAN_SHARES = {"abdomen": 0.5, "trunk": 0.15, "slab": 0.15, "narrow": 0.1, "elsewhere": 0.1}


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCase:
    """One labelled CT in canonical axes.

    Attributes:
        name: For messages.
        hu: int16 (z, y, x).
        labels: uint8 (z, y, x).
        grid: Of both.
    """

    name: str
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    grid: Grid

    def organ_box(self) -> Box | None:
        """The box of all organ voxels in mm of the grid, None if the scan shows none."""
        occupied = self.labels > 0
        if not occupied.any():
            return None
        lines = [np.flatnonzero(occupied.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        z, y, x = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
        return self.grid.box((z, y, x))


def write_phantom_case(folder: Path, seed: int) -> Path:
    """The file of phantom case `seed` in `folder`, made if it is not there yet (atomically)."""
    path = folder / f"phantom_{seed:05d}.npz"
    if not path.exists():
        phantom = make_phantom(seed, config=_random_scan(np.random.default_rng([seed, 2])))
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, hu=phantom.volume.hu, labels=phantom.label_map.labels, affine=phantom.volume.grid.affine)
        part.replace(path)
    return path


def read_case(path: Path) -> TrainingCase:
    """The case stored at `path`; raises ReadError if the file is not a complete case."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            hu, labels, affine = arrays["hu"], arrays["labels"], arrays["affine"]
    except (OSError, KeyError, ValueError) as error:
        raise ReadError(
            f"reading training case {path}",
            expected="an .npz file with hu, labels and affine",
            got=str(error),
            remedy="Delete the file and make the case again",
        ) from error
    return TrainingCase(name=path.stem, hu=hu, labels=labels, grid=Grid(shape_zyx=hu.shape, affine=affine))


def shuffled(paths: list[Path], rng: np.random.Generator) -> Iterator[Path]:
    """The paths without end, each once in every round, every round in a new order."""
    while True:
        for index in rng.permutation(len(paths)):
            yield paths[index]


def _random_scan(rng: np.random.Generator) -> PhantomConfig:
    """A scan as it comes from the wild: whole abdomen, trunk, thin slab, narrow crop, or no abdomen at all."""
    kind = rng.choice(list(SCAN_SHARES), p=list(SCAN_SHARES.values()))
    width: Any = rng.uniform(360, 480)
    low, high = rng.uniform(-230, -90), rng.uniform(120, 200)
    if kind == "trunk":
        low, high = rng.uniform(-330, -200), rng.uniform(200, 400)
    elif kind == "slab":
        middle, half = rng.uniform(-50, 100), rng.uniform(18, 60)
        low, high = middle - half, middle + half
    elif kind == "narrow":
        width = rng.uniform(160, 260)
    elif kind == "elsewhere":
        middle = rng.choice([HEAD_Z_MM, 300.0, -300.0, THIGHS_Z_MM]) + rng.uniform(-40, 40)
        low, high = (middle - 100, middle + 100) if abs(middle) > 380 else (middle - 60, middle + 60)
    steps: Vector = (rng.uniform(2, 5), rng.uniform(2, 3), 0.0)
    steps = (steps[0], steps[1], steps[1])
    extents = (high - low, width * rng.uniform(0.75, 1.0), width)
    z, y, x = (max(8, round(extent / step)) for extent, step in zip(extents, steps, strict=True))
    return PhantomConfig(shape_zyx=(z, y, x), spacing_zyx_mm=steps, centre_z_mm=(low + high) / 2)
