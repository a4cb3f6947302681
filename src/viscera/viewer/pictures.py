"""Still pictures of the organs for a report: one PNG for each slice, so that they fit a page of any width."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viscera.evaluation.figures import LEVEL_HU, WINDOW_HU, draw_panel, organ_cuts, scene_of
from viscera.labels import Organ
from viscera.volume import LabelMap, Volume

PICTURE_WINDOW = f"window {WINDOW_HU} HU, level {LEVEL_HU} HU"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG, and what is seen on it in words."""

    png: bytes
    words: str


def organ_pictures(volume: Volume, label_map: LabelMap, organs: Sequence[Organ]) -> tuple[Picture, ...]:
    """Three axial, a coronal and a sagittal slice through the organs, as `evaluation.figures.preview_png` shows them.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """
    scene = scene_of(volume, label_map, organs)
    cuts = organ_cuts(scene)
    pictures = []
    for cut in cuts:
        data = io.BytesIO()
        draw_panel(scene, cut, cuts).save(data, format="PNG")
        seen = np.unique(scene.labels.take(cut.index, axis=cut.axis))
        names = ", ".join(organ.name for organ in organs if organ.index in seen) or "no organ"
        pictures.append(Picture(png=data.getvalue(), words=f"{cut.plane} slice of the CT with {names} outlined"))
    return tuple(pictures)
