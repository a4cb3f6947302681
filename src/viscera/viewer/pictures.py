"""Still pictures of the organs for a report: one PNG for each slice, so that they fit a page of any width."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viscera.core.volume import LabelMap, Volume
from viscera.drawing.panel import LEVEL_HU, WINDOW_HU, draw_panel
from viscera.drawing.scene import organ_cuts, scene_of
from viscera.quality.rules import QcStatus
from viscera.viewer.organs import OrganRow

PICTURE_WINDOW = f"window {WINDOW_HU} HU, level {LEVEL_HU} HU"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG, its width, and what is seen on it in words."""

    png: bytes
    width_px: int
    words: str


def organ_pictures(volume: Volume, label_map: LabelMap, rows: Sequence[OrganRow]) -> tuple[Picture, ...]:
    """Return three axial, a coronal and a sagittal slice, as `drawing.overlay.preview_png` shows them.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """
    organs = [row.organ for row in rows]
    doubts = {row.organ.name: row.qc.reasons for row in rows if row.qc and row.qc.status is QcStatus.CHECK}
    scene = scene_of(volume, label_map, organs, doubts)
    cuts = organ_cuts(scene)
    pictures = []
    for cut in cuts:
        panel, data = draw_panel(scene.scaled_for(cut.plane), cut, cuts), io.BytesIO()
        panel.save(data, format="PNG")
        seen = np.unique(scene.labels.take(cut.index, axis=cut.axis))
        names = ", ".join(organ.name for organ in organs if organ.index in seen) or "no organ"
        words = f"{cut.plane} slice of the CT with {names} outlined"
        pictures.append(Picture(png=data.getvalue(), width_px=panel.width, words=words))
    return tuple(pictures)
