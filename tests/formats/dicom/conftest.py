"""A small CT series in DICOM whose voxels say which organ they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap, Volume
from viscera.formats.dicom.ct_write import write_ct_series
from viscera.formats.dicom.references import SourceImages, source_images
from viscera.read import read_volume

AIR_HU, STEP_HU = -1000, 100


@dataclass(frozen=True, kw_only=True)
class LabelledCt:
    """A series: its folder, its images, its labels as its reader orders them, and where each organ's voxels lie."""

    folder: Path
    source: SourceImages
    label_map: LabelMap
    points: dict[int, set[tuple[float, ...]]]


def organ_labels() -> NDArray[np.uint8]:
    """10 x 11 x 12 voxels without symmetry: a liver with two holes, two kidneys, a spleen of one voxel; no pancreas."""
    labels = np.zeros((10, 11, 12), dtype=np.uint8)
    labels[1:7, 1:9, 1:8] = 1
    labels[2:5, 3:5, 2:4] = 0
    labels[3, 6, 5] = 0
    labels[0:3, 9:11, 3:6] = 2
    labels[4:9, 8:10, 9:11] = 2
    labels[8, 0, 11] = 3
    return labels


def world_points(grid: Grid, mask: NDArray[np.bool_]) -> set[tuple[float, ...]]:
    """The centres of a mask's voxels, to a tenth of a millimetre."""
    return {tuple(point) for point in (grid.world(np.argwhere(mask)).round(1) + 0.0).tolist()}


@pytest.fixture
def labelled_ct(tmp_path: Path) -> Callable[..., LabelledCt]:
    """Makes such a series on the grid of an affine, (z, y, x) to world."""

    def make(affine: NDArray[np.float64], labels: NDArray[np.uint8] | None = None, name: str = "ct") -> LabelledCt:
        labels = organ_labels() if labels is None else labels
        grid = Grid(shape_zyx=labels.shape, affine=affine)
        hu = (AIR_HU + STEP_HU * labels.astype(np.int16)).astype(np.int16)
        write_ct_series(Volume(hu=hu, grid=grid), tmp_path / name, name="A")
        volume = read_volume(tmp_path / name)
        read = ((volume.hu - AIR_HU) // STEP_HU).astype(np.uint8)
        return LabelledCt(
            folder=tmp_path / name,
            source=source_images(tmp_path / name),
            label_map=LabelMap(labels=read, grid=volume.grid),
            points={int(index): world_points(grid, labels == index) for index in np.unique(labels[labels > 0])},
        )

    return make
