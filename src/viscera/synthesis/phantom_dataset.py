"""A data set of varied synthetic scans, for trying and testing training without patients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from viscera.core.geometry import Vector
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.synthesis.phantom import HEAD_Z_MM, THIGHS_Z_MM, PhantomConfig, make_phantom

# Shares of the kinds of scan; the last shows a head, thighs or a bit of trunk, mostly without organs.
SCAN_SHARES = {"abdomen": 0.5, "trunk": 0.15, "slab": 0.15, "narrow": 0.1, "elsewhere": 0.1}


def write_phantom_set(folder: Path, seeds: range, *, coarser: float = 1.0) -> Iterator[str]:
    """The name of each phantom scan as it lies in `folder`/images and labels, as NAME.nii.gz.

    A scan whose two files are there is kept; each file appears whole or not at all.

    Args:
        folder: Of the data set.
        seeds: One scan of one person each.
        coarser: Voxels larger by this factor, for quick tries.

    Raises:
        WriteError: If a file cannot be written.
    """
    for seed in seeds:
        name = f"phantom_{seed:05d}"
        image, labels = (folder / kind / f"{name}.nii.gz" for kind in ("images", "labels"))
        if not (image.is_file() and labels.is_file()):
            phantom = make_phantom(seed, config=random_scan(np.random.default_rng([seed, 2]), coarser))
            write_label_map(phantom.label_map, labels)
            write_volume(phantom.volume, image)
        yield name


def random_scan(rng: np.random.Generator, coarser: float = 1.0) -> PhantomConfig:
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
    thick, wide = coarser * rng.uniform(2, 5), coarser * rng.uniform(2, 3)
    steps: Vector = (thick, wide, wide)
    extents = (high - low, width * rng.uniform(0.75, 1.0), width)
    z, y, x = (max(8, round(extent / step)) for extent, step in zip(extents, steps, strict=True))
    return PhantomConfig(shape_zyx=(z, y, x), spacing_zyx_mm=steps, centre_z_mm=(low + high) / 2)
