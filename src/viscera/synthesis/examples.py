"""Synthetic scans to look at and to use elsewhere: as files, and many on one picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap, Volume
from viscera.drawing.panel import BACK, TEXT
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.synthesis.anatomy import Anatomy
from viscera.synthesis.config import SynthesisConfig
from viscera.synthesis.scan import SyntheticScan, draw_scan, scan_image

_WINDOW_HU = (-160.0, 240.0)
_PX_MM = 2.0
_TILE_PX = 200
_CAPTION_PX = 16
_COLUMNS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A whole synthetic scan: its image, its labels, and what was drawn, in a few words."""

    volume: Volume
    label_map: LabelMap
    caption: str


def draw_example(anatomy: Anatomy, config: SynthesisConfig, voxel_mm: float, rng: np.random.Generator) -> Example:
    """Draw a whole scan of a virtual patient, with organs unless the anatomy has none.

    Args:
        anatomy: To be deformed.
        config: Every range.
        voxel_mm: In-plane spacing, and the least distance of slices.
        rng: Source of all that is drawn.
    """
    scan = draw_scan(anatomy, config, rng, organs_needed=bool(anatomy.organs))
    hu, labels, grid = scan_image(scan, scan.lower_zyx_mm, scan.upper_zyx_mm, voxel_mm, rng)
    return Example(
        volume=Volume(hu=hu.numpy().astype(np.int16), grid=grid),
        label_map=LabelMap(labels=labels.numpy(), grid=grid),
        caption=_caption(scan, grid),
    )


def write_examples(folder: Path, examples: Sequence[tuple[str, Example]]) -> Iterator[str]:
    """Write each example to `folder`/images and labels as NAME.nii.gz, and yield its name.

    Raises:
        WriteError: If a file cannot be written.
    """
    for name, example in examples:
        write_label_map(example.label_map, folder / "labels" / f"{name}.nii.gz")
        write_volume(example.volume, folder / "images" / f"{name}.nii.gz")
        yield name


def sheet_png(examples: Sequence[Example]) -> bytes:
    """A PNG of an axial and a coronal slice of each example, side by side, with the organs' contours."""
    from PIL import Image, ImageDraw

    rows = -(-len(examples) // _COLUMNS)
    height = _TILE_PX + _CAPTION_PX
    picture = Image.new("RGB", (_COLUMNS * 2 * _TILE_PX, rows * height), BACK)
    draw = ImageDraw.Draw(picture)
    for number, example in enumerate(examples):
        left, top = number % _COLUMNS * 2 * _TILE_PX, number // _COLUMNS * height
        for place, tile in enumerate(_tiles(example)):
            picture.paste(Image.fromarray(tile), (left + place * _TILE_PX, top + _CAPTION_PX))
        draw.text((left + 4, top + 2), example.caption, fill=TEXT)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _caption(scan: SyntheticScan, grid: Grid) -> str:
    protocol = scan.protocol
    return (
        f"{scan.appearance.phase}, slices {grid.spacing_zyx_mm[0]:.1f} mm, noise {protocol.noise_hu:.0f} HU, "
        f"fat {scan.appearance.fat_mm:.0f} mm"
    )


def _tiles(example: Example) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The axial and the coronal slice that show most of the pancreas, else of all organs: uint8 (y, x, 3)."""
    hu, labels, grid = example.volume.hu, example.label_map.labels, example.volume.grid
    wanted = labels == 4 if (labels == 4).any() else labels > 0
    z, y = (int(np.argmax(wanted.sum(axis=others))) for others in ((1, 2), (0, 2)))
    if not wanted.any():
        z, y = hu.shape[0] // 2, hu.shape[1] // 2
    step_z, step_y, step_x = grid.spacing_zyx_mm
    coronal = (np.flipud(hu[:, y]), np.flipud(labels[:, y]))  # head up
    return _tile((hu[z], labels[z]), (step_y, step_x)), _tile(coronal, (step_z, step_x))


def _tile(plane: tuple[NDArray[np.int16], NDArray[np.uint8]], steps_mm: tuple[float, float]) -> NDArray[np.uint8]:
    tile = np.zeros((_TILE_PX, _TILE_PX, 3), dtype=np.uint8)
    places = [
        np.minimum((np.arange(min(_TILE_PX, max(1, int(n * step / _PX_MM)))) + 0.5) * _PX_MM / step, n - 1).astype(int)
        for n, step in zip(plane[0].shape, steps_mm, strict=True)
    ]
    hu, labels = (part[np.ix_(*places)] for part in plane)
    low, high = _WINDOW_HU
    grey = np.clip((hu - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, axis=2)
    inner = np.zeros(labels.shape, dtype=bool)
    same = [
        labels[1:-1, 1:-1] == labels[1 + dy : labels.shape[0] - 1 + dy, 1 + dx : labels.shape[1] - 1 + dx]
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
    ]
    inner[1:-1, 1:-1] = np.logical_and.reduce(same)
    for organ in ORGANS:
        shown[(labels == organ.index) & ~inner] = organ.colour
    tile[: shown.shape[0], : shown.shape[1]] = shown
    return tile
