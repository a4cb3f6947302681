"""Fills the pictures of two-stages.svg: a made-up person on the path of the shipped bundle, stage by stage.

The drawing itself is written by hand. `python docs/images/fill_two_stages.py` computes each `<image id="...">` of it
from a phantom of fixed seed and puts it in as a small PNG; it needs `viscera[train]`, as it looks into the networks.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from viscera.core.geometry import Box, Grid
from viscera.core.organs import ORGANS
from viscera.crop import roi_box, roi_grid
from viscera.localise import organ_box
from viscera.model.bundle import Bundle, load_bundle
from viscera.model.networks import ScnOutput, SpatialConfigurationNet, UNet
from viscera.pipeline import low_resolution_grid
from viscera.preprocess import network_input
from viscera.restore import restore_labels
from viscera.synthesis.phantom import PhantomConfig, make_phantom

FILE = Path(__file__).with_name("two-stages.svg")
PERSON = PhantomConfig(shape_zyx=(140, 150, 176), spacing_zyx_mm=(4.0, 2.5, 2.5), phase="portal", noise_hu=8.0)
SEED = 1
PLANE_Y_MM = 20.0  # of the coronal slice: it meets every organ
WINDOW = (-160.0, 240.0)
HEIGHT_PX = {"ct": 210, "scout": 210, "found": 210, "labels": 210}
REGION_PX = 132
COLOURS = np.array([(0, 0, 0), *(organ.colour for organ in ORGANS)], dtype=np.float32)

Pixels = NDArray[np.float32]


def pictures() -> dict[str, str]:
    """Data addresses of the pictures by their id in the drawing."""
    bundle = load_bundle()
    model = bundle.card.model
    volume = make_phantom(SEED, config=PERSON).volume
    grid, hu = volume.grid, volume.hu
    low_grid = low_resolution_grid(grid, model)
    low_image = network_input(hu, grid, low_grid, model.localise)
    logits = located(bundle, low_image)
    box = organ_box(logits, low_grid, grid, least_ml=model.least_organs_ml)
    region = roi_grid(grid, box, model)
    region_image = network_input(hu, grid, region, model.segment)
    output = answered(bundle, region_image)
    local, spatial = (torch.sigmoid(one[0]).numpy() for one in (output.local_logits, output.spatial_logits))
    fused = output.probabilities[0].numpy()
    labels = restore_labels(fused, region, grid)
    ct = grey(coronal(hu.astype(np.float32), grid))
    found = np.stack([np.zeros_like(logits[0]), (logits[1] > logits[0]).astype(np.float32)])
    low_picture = grey(coronal(low_image, low_grid) * 2048)
    within = grey(coronal(region_image, region) * 2048)
    edge = framed(ct, grid, roi_box(grid, box, model.margin_mm))
    found_map = tinted(low_picture, coronal(found, low_grid), np.array([(0, 0, 0), (0, 158, 115)], dtype=np.float32))
    one_hot = np.eye(len(COLOURS), dtype=np.float32)[labels].transpose(3, 0, 1, 2)
    shown = {
        "ct": ct,
        "scout": low_picture,
        "found": framed(found_map, low_grid, low_grid.box_from(grid, roi_box(grid, box, model.margin_mm))),
        "region": within,
        "local": tinted(within, coronal(local, region), COLOURS),
        "spatial": tinted(within * 0.45, coronal(spatial, region), COLOURS),
        "fused": tinted(within, coronal(fused, region), COLOURS),
        "labels": tinted(edge, coronal(one_hot, grid), COLOURS),
    }
    steps = {"scout": low_grid, "found": low_grid} | dict.fromkeys(("region", "local", "spatial", "fused"), region)
    return {
        name: address(pixels, steps.get(name, grid), HEIGHT_PX.get(name, REGION_PX)) for name, pixels in shown.items()
    }


def located(bundle: Bundle, image: Pixels) -> Pixels:
    """The localisation's logits (2, z, y, x)."""
    network = UNet(bundle.card.model.localiser).eval()
    network.load_state_dict(load_file(bundle.weights("localise")))
    with torch.no_grad():
        logits: Pixels = network(torch.from_numpy(image)[None, None])[0].numpy()
    return logits


def answered(bundle: Bundle, image: Pixels) -> ScnOutput:
    """What the segmentation network computes, its two kinds of nets told apart."""
    network = SpatialConfigurationNet(bundle.card.model.scn).eval()
    network.load_state_dict(load_file(bundle.weights("segment")))
    with torch.no_grad():
        output: ScnOutput = network(torch.from_numpy(image)[None, None])
    return output


def coronal(array: Pixels, grid: Grid) -> Pixels:
    """The slice (..., rows from the head down, columns from the patient's right) at `PLANE_Y_MM`."""
    origin, step = grid.origin_xyz_mm[1], grid.spacing_zyx_mm[1]
    row = round((PLANE_Y_MM - origin) / step)
    return np.flip(array[..., row, :], axis=-2)


def grey(hu: Pixels) -> Pixels:
    """HU as colours 0 to 255, (rows, columns, 3)."""
    low, high = WINDOW
    return np.repeat(np.clip((hu - low) / (high - low), 0, 1)[..., None] * 255, 3, axis=-1)


def tinted(pixels: Pixels, maps: Pixels, colours: Pixels) -> Pixels:
    """Colours over a picture, as strong as the maps (labels, rows, columns) say; the background's map is left out."""
    strength = maps[1:].clip(0, 1)
    total = np.maximum(strength.sum(axis=0), 1e-6)
    mixed = np.tensordot(strength, colours[1:], axes=(0, 0)) / total[..., None]
    share = 0.75 * np.minimum(total, 1)[..., None]
    return pixels * (1 - share) + mixed * share


def framed(pixels: Pixels, grid: Grid, box: Box) -> Pixels:
    """The picture with the box's outline."""
    z, _, x = grid.voxels(box)
    frame = pixels.copy()
    rows = pixels.shape[0] - z.stop, pixels.shape[0] - z.start - 1
    for row in rows:
        frame[row, x] = 255
    for column in (x.start, x.stop - 1):
        frame[rows[0] : rows[1] + 1, column] = 255
    return frame


def address(pixels: Pixels, grid: Grid, height_px: int) -> str:
    """The picture as the address of a PNG of that height with square pixels, coarse voxels staying visible."""
    extent = grid.extent_zyx_mm
    width_px = round(height_px * extent[2] / extent[0])
    picture = Image.fromarray(np.rint(pixels).astype(np.uint8)).resize(
        (2 * width_px, 2 * height_px), Image.Resampling.BOX
    )
    file = io.BytesIO()
    picture.quantize(48).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def filled(drawing: str) -> str:
    """The drawing with its pictures.

    Raises:
        ValueError: If it lacks one.
    """
    for name, data in pictures().items():
        drawing, count = re.subn(rf'(<image id="{name}"[^>]* href=")[^"]*"', rf'\g<1>{data}"', drawing)
        if count != 1:
            raise ValueError(f'the drawing has {count} times <image id="{name}" ... href="...">')
    return drawing


if __name__ == "__main__":
    FILE.write_text(filled(FILE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
