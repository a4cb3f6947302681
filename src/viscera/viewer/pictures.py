"""Still pictures of the organs for a report: one PNG for each slice, so that they fit a page of any width."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viscera.core.organs import Organ
from viscera.core.volume import LabelMap, Volume
from viscera.drawing.overlay import LEVEL_HU, WINDOW_HU, draw_panel, organ_cuts, scene_of

# Screens with fine pixels show the rest.
_SHRINK = 0.64
PICTURE_WINDOW = f"window {WINDOW_HU} HU, level {LEVEL_HU} HU"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG, the width it is to have on a wide page, and what is seen on it in words."""

    png: bytes
    width_px: int
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
        panel, data = draw_panel(scene, cut, cuts), io.BytesIO()
        panel.save(data, format="PNG")
        seen = np.unique(scene.labels.take(cut.index, axis=cut.axis))
        names = ", ".join(organ.name for organ in organs if organ.index in seen) or "no organ"
        words = f"{cut.plane} slice of the CT with {names} outlined"
        pictures.append(Picture(png=data.getvalue(), width_px=round(panel.width * _SHRINK), words=words))
    return tuple(pictures)
