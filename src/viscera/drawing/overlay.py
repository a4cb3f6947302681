"""A picture of a segmentation to judge it at a glance: slices of the CT with coloured organs, as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from viscera.core.organs import ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.drawing.panel import (
    BACK,
    FAINT,
    FONT_PX,
    GAP_PX,
    LEVEL_HU,
    SMALL_FONT_PX,
    TEXT,
    WINDOW_HU,
    Colour,
    draw_panel,
    draw_text,
    require_pillow,
    text_width,
)
from viscera.drawing.scene import organ_cuts, scene_of
from viscera.quality.rules import OrganQuality, QcStatus
from viscera.quality.statistics import OrganStatistics, organ_statistics

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_AXIAL_SLICES = 3
_LEGEND_PX = 380
_INDENT_PX, _STATUS_PX = 32, 20
_LINE_PX, _SMALL_LINE_PX, _BETWEEN_PX = 28, 21, 14

# Of the palette of Okabe and Ito, which readers with colour blindness tell apart; words and shapes say the same.
_STATUS_COLOURS: dict[QcStatus, Colour] = {
    QcStatus.OK: (86, 180, 233),
    QcStatus.CHECK: (240, 175, 30),
    QcStatus.ABSENT: (214, 140, 182),
}
_STATUS_WORDS = "check: review this organ (dashed contour)\nok: no problem detected (no guarantee)"
_CONVENTIONS = f"R, L: the patient's right and left\nwindow {WINDOW_HU} HU, level {LEVEL_HU} HU"


@dataclass(frozen=True, kw_only=True)
class _LegendLine:
    """A line of the legend: text at its left and right end, and what stands before it."""

    left: str
    right: str = ""
    colour: Colour = TEXT
    size: int = FONT_PX
    height_px: int = _LINE_PX
    indent_px: int = 0
    organ: Organ | None = None
    dashed: bool = False
    status: QcStatus | None = None


def preview_png(
    volume: Volume,
    label_map: LabelMap,
    organs: Sequence[Organ] = ORGANS,
    quality: Sequence[OrganQuality] = (),
) -> bytes:
    """Return a PNG with three axial, a coronal and a sagittal slice through the organs, and a legend.

    The legend has each organ's volume and QC status with its reasons, and names absent organs. The slices are those
    where most of the organs is seen, or what is in doubt of those to be checked, whose contours are dashed. Axial
    panels share one scale; so do the others, smaller where the body is too tall for it. Radiological convention: the
    patient's right is on the image's left. Grids of any orientation are shown along the axes nearest to the patient's.
    A label map without organs gives the middle slices and says so. The same input gives the same bytes with one version
    of Pillow. Only labels of the table `organs` are drawn.

    Args:
        volume: The CT.
        label_map: Its labels.
        organs: What they mean.
        quality: The QC status of the organs, empty where they were not assessed.

    Raises:
        GeometryError: If the label map lies on another grid than the volume.
        MissingExtraError: If Pillow is not installed.
    """
    require_pillow("drawing a preview")
    from PIL import Image, ImageDraw

    statistics = organ_statistics(volume, label_map, organs)  # refuses grids that differ
    doubts = {one.organ: one.reasons for one in quality if one.status is QcStatus.CHECK}
    scene = scene_of(volume, label_map, organs, doubts)
    cuts = organ_cuts(scene)
    panels = [draw_panel(scene.scaled_for(cut.plane), cut, cuts) for cut in cuts]
    lines = _legend_lines(organs, statistics, quality)
    legend_height = sum(line.height_px for line in lines)
    rows = [panels[:_AXIAL_SLICES], panels[_AXIAL_SLICES:]]
    size, corner = _layout([_row_size(row) for row in rows], legend_height)
    picture = Image.new("RGB", size, BACK)
    top = GAP_PX
    for row in rows:
        left = GAP_PX
        for panel in row:
            picture.paste(panel, (left, top))
            left += panel.width + GAP_PX
        top += _row_size(row)[1] + GAP_PX
    _draw_legend(ImageDraw.Draw(picture), lines, corner)
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


def _row_size(row: Sequence[Image.Image]) -> tuple[int, int]:
    return sum(panel.width + GAP_PX for panel in row), max(panel.height for panel in row)


def _layout(rows: Sequence[tuple[int, int]], legend_height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the picture's size and the legend's corner: at the lower row's side or at both rows', the smaller."""
    (upper_width, upper_height), (lower_width, lower_height) = rows
    below = (
        max(upper_width, lower_width + _LEGEND_PX) + GAP_PX,
        upper_height + max(lower_height, legend_height) + 3 * GAP_PX,
    )
    widest = max(upper_width, lower_width)
    beside = (
        widest + _LEGEND_PX + GAP_PX,
        max(upper_height + lower_height + GAP_PX, legend_height) + 2 * GAP_PX,
    )
    if below[0] * below[1] <= beside[0] * beside[1]:
        return below, (lower_width + 2 * GAP_PX, upper_height + 2 * GAP_PX)
    return beside, (widest + 2 * GAP_PX, GAP_PX)


def _legend_lines(
    organs: Sequence[Organ], statistics: Sequence[OrganStatistics], quality: Sequence[OrganQuality]
) -> list[_LegendLine]:
    """Return the organs with colour, volume, status and reasons; then what the picture's signs mean."""
    lines = []
    by_name = {one.organ: one for one in quality}
    if not any(row.voxels for row in statistics):
        lines.append(_LegendLine(left="no organ found", size=FONT_PX + 3, height_px=_LINE_PX + 8))
    for organ, row in zip(organs, statistics, strict=True):
        lines += _organ_lines(organ, row, by_name.get(organ.name))
    notes = [*(_STATUS_WORDS.split("\n") if quality else ()), *_CONVENTIONS.split("\n")]
    return lines + [_note(note, colour=FAINT) for note in notes]


def _organ_lines(organ: Organ, row: OrganStatistics, quality: OrganQuality | None) -> Iterator[_LegendLine]:
    volume = f"{row.volume_ml:,.0f} ml" if row.volume_ml >= 100 else f"{row.volume_ml:.1f} ml"
    status = None if quality is None else quality.status
    yield _LegendLine(
        left=organ.name,
        right=volume if row.voxels else "not found",
        colour=TEXT if row.voxels else FAINT,
        indent_px=_INDENT_PX,
        organ=organ if row.voxels else None,
        dashed=status is QcStatus.CHECK,
    )
    if status is not None:
        indent_px = _INDENT_PX + _STATUS_PX
        yield _LegendLine(left=str(status), colour=_STATUS_COLOURS[status], indent_px=indent_px, status=status)
    reasons = () if quality is None else quality.sentences
    if row.touches_border and not reasons:
        reasons = (f"It reaches the scan's edge ({', '.join(row.border_faces)}).",)
    for reason in reasons:
        for words in _wrapped(reason, _LEGEND_PX - _INDENT_PX - 3 * GAP_PX):
            yield _note(words, indent_px=_INDENT_PX)
    yield _LegendLine(left="", height_px=_BETWEEN_PX)


def _note(words: str, *, colour: Colour = TEXT, indent_px: int = 0) -> _LegendLine:
    return _LegendLine(left=words, colour=colour, size=SMALL_FONT_PX, height_px=_SMALL_LINE_PX, indent_px=indent_px)


def _wrapped(text: str, width_px: float) -> Iterator[str]:
    """Yield the lines of `text` in small letters, broken between words; a single longer word stays whole."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and text_width(longer, SMALL_FONT_PX) > width_px:
            yield line
            longer = word
        line = longer
    yield line


def _draw_legend(draw: ImageDraw.ImageDraw, lines: Sequence[_LegendLine], corner: tuple[int, int]) -> None:
    left, top = corner
    right = left + _LEGEND_PX - 3 * GAP_PX
    for line in lines:
        middle = top + line.height_px / 2
        if line.organ is not None:
            _draw_swatch(draw, (left, top + 3), line.organ.colour, dashed=line.dashed)
        if line.status is not None:
            _draw_status(draw, (left + _INDENT_PX + 6, middle), line.status)
        at = (left + line.indent_px, middle)
        draw_text(draw, at, line.left, anchor="lm", size=line.size, colour=line.colour)
        if line.right:
            draw_text(draw, (right, middle), line.right, anchor="rm", size=line.size, colour=line.colour)
        top += line.height_px


def _draw_swatch(draw: ImageDraw.ImageDraw, corner: tuple[int, int], colour: Colour, *, dashed: bool) -> None:
    """Draw a square in the organ's colour, with a dashed rim if its contours have one."""
    left, top = corner
    draw.rectangle((left, top, left + 20, top + 20), fill=colour)
    if dashed:
        for start in range(0, 20, 8):
            for x, y in ((start, 0), (start, 18), (0, start), (18, start)):
                draw.rectangle((left + x, top + y, left + x + 2, top + y + 2), fill=BACK)


def _draw_status(draw: ImageDraw.ImageDraw, middle: tuple[float, float], status: QcStatus) -> None:
    """Draw a disc for ok, a triangle for check, a ring for absent."""
    (x, y), colour = middle, _STATUS_COLOURS[status]
    if status is QcStatus.CHECK:
        draw.polygon([(x, y - 7), (x - 8, y + 6), (x + 8, y + 6)], fill=colour)
        return
    box = (x - 6, y - 6, x + 6, y + 6)
    draw.ellipse(box, fill=colour if status is QcStatus.OK else BACK, outline=colour, width=2)
