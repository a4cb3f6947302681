"""One slice of a CT with its organs' contours; everything written about it stands around the slice, not on it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import MissingExtraError
from viscera.core.organs import Organ
from viscera.drawing.scene import Cut, Plane, Scene

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# The usual abdominal soft-tissue window.
WINDOW_HU = 400
LEVEL_HU = 40

# The letters at the left, right, top and bottom edge. Radiological convention: the patient's right is on the image's
# left; coronal and sagittal head up.
_EDGE_LETTERS: dict[Plane, str] = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
# The name of each canonical axis in captions, as its world coordinate.
_AXIS_LETTER = "zyx"

FONT_PX = 18
SMALL_FONT_PX = FONT_PX - 2
_SIDE_FONT_PX = FONT_PX + 4  # of R and L

# Room around the slice for the caption, the letters and the scale bar, and what they need across at the least.
SIDE_PX, TOP_PX, BOTTOM_PX = 28, 50, 30
_NARROWEST_PX, _LOWEST_PX = 200, 24
GAP_PX = 10  # between panels
_TICK_PX = 5
# Lengths a scale bar may have; the longest that fits is drawn.
_BAR_LENGTHS_MM = (100, 50, 20, 10, 5, 2, 1)

_SMOOTHING = 2  # slices are drawn this much larger, then reduced, for smooth contours
_CONTOUR_PX = 3  # on the enlarged slice
_OUTLINE_PX = 2  # likewise, of outlines laid over them
_DASH_PX = 14  # likewise, of the contours of organs in doubt
_FILL = 0.22  # opacity inside the contours

BACK: Colour = (16, 18, 22)
TEXT: Colour = (232, 234, 237)
FAINT: Colour = (150, 156, 166)
_OUTLINE: Colour = (255, 255, 255)


def require_pillow(doing: str) -> None:
    """Do nothing if Pillow is installed.

    Raises:
        MissingExtraError: If it is not.
    """
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            doing, expected="the package pillow", got="none installed", remedy="Install it with: pip install pillow"
        ) from error


def panel_size_px(width_px: int, height_px: int) -> tuple[int, int]:
    """Return the width and height of the panel around a slice of this size."""
    return max(_NARROWEST_PX, width_px) + 2 * SIDE_PX, max(_LOWEST_PX, height_px) + TOP_PX + BOTTOM_PX


def draw_panel(
    scene: Scene, cut: Cut, cuts: Sequence[Cut], *, outlined: NDArray[np.uint8] | None = None
) -> Image.Image:
    """Draw one slice with the organs' contours, and around it a caption, letters, a scale bar and ticks.

    The contours of organs to be checked are dashed. Ticks stand where the other planes cut this one.

    Args:
        scene: What is drawn.
        cut: The slice.
        cuts: All of the picture's slices.
        outlined: Other labels (z, y, x) of the scene, whose outlines are laid over its own in white.
    """
    from PIL import Image, ImageDraw

    picture = _slice_image(scene, cut, outlined)
    size = panel_size_px(*picture.size)
    panel = Image.new("RGB", size, BACK)
    # A slice smaller than its captions lies in the middle of the room that they need.
    left = (size[0] - picture.width) // 2
    top = TOP_PX + (size[1] - TOP_PX - BOTTOM_PX - picture.height) // 2
    panel.paste(picture, (left, top))
    box = (left, top, left + picture.width, top + picture.height)
    draw = ImageDraw.Draw(panel)
    for line in _ticks(scene, cut, cuts, box):
        draw.line(line, fill=FAINT, width=1)
    _draw_marks(draw, scene, cut, box)
    return panel


def _slice_image(scene: Scene, cut: Cut, outlined: NDArray[np.uint8] | None) -> Image.Image:
    """Return the slice alone, with contours."""
    from PIL import Image

    rows, columns = (axis for axis in range(3) if axis != cut.axis)
    large = scene.size_px(columns) * _SMOOTHING, scene.size_px(rows) * _SMOOTHING
    grey = np.clip((_slice(scene.hu, scene, cut).astype(np.float32) - LEVEL_HU) / WINDOW_HU + 0.5, 0, 1) * 255
    image = Image.fromarray(grey.round().astype(np.uint8)).resize(large, Image.Resampling.BICUBIC)
    coloured = np.repeat(np.asarray(image, dtype=np.float32)[..., None], 3, axis=2)
    labels = _slice(scene.labels, scene, cut)
    for organ in scene.organs:
        if (labels == organ.index).any():
            _paint(coloured, labels == organ.index, organ, dashed=organ.name in scene.doubts)
    if outlined is not None:
        others = _slice(outlined, scene, cut)
        for organ in scene.organs:
            filled, core = _filled(others == organ.index, large, _OUTLINE_PX)
            coloured[filled & ~core] = _OUTLINE
    return Image.fromarray(coloured.round().astype(np.uint8)).reduce(_SMOOTHING)


def _slice(array: NDArray[Any], scene: Scene, cut: Cut) -> NDArray[Any]:
    """Return the shown part of a slice, as rows from top to bottom: anterior first, or head first."""
    part = [scene.ranges[axis] if axis != cut.axis else cut.index for axis in range(3)]
    picture = array[tuple(part)]
    return np.ascontiguousarray(picture if cut.plane == "axial" else picture[::-1])


def _paint(coloured: NDArray[np.float32], mask: NDArray[np.bool_], organ: Organ, *, dashed: bool) -> None:
    """Paint the organ onto `coloured`, light inside and full on its contour."""
    filled, core = _filled(mask, (coloured.shape[1], coloured.shape[0]), _CONTOUR_PX)
    colour = np.array(organ.colour, dtype=np.float32)
    coloured[core] = (1 - _FILL) * coloured[core] + _FILL * colour
    contour = filled & ~core
    coloured[contour] = colour
    if dashed:
        rows, columns = np.nonzero(contour)
        gaps = (rows + columns) // _DASH_PX % 2 == 1
        coloured[rows[gaps], columns[gaps]] = BACK


def _filled(
    mask: NDArray[np.bool_], size: tuple[int, int], contour_px: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the mask smoothly enlarged to `size` (width, height), and what of it lies within its contour."""
    from PIL import Image

    smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
    filled = core = np.asarray(smooth) > 127
    for _ in range(contour_px):  # Pillow's MinFilter gives the same and takes most of a picture's time
        around = np.pad(core, 1, mode="edge")
        rows = around[:-2] & around[1:-1] & around[2:]
        core = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return filled, core


_Box = tuple[int, int, int, int]
_Line = tuple[tuple[int, int], tuple[int, int]]


def _ticks(scene: Scene, cut: Cut, cuts: Sequence[Cut], box: _Box) -> Iterator[_Line]:
    """Yield short lines around the slice where the other planes run."""
    left, top, right, bottom = box
    _, columns = (axis for axis in range(3) if axis != cut.axis)
    for other in cuts:
        if other.axis == cut.axis:
            continue
        step_px = scene.grid.spacing_zyx_mm[other.axis] * scene.px_per_mm
        at = round((other.index + 0.5 - scene.ranges[other.axis].start) * step_px)
        if other.axis == columns:
            yield (left + at, top - _TICK_PX - 1), (left + at, top - 2)
            yield (left + at, bottom + 1), (left + at, bottom + _TICK_PX)
        else:
            y = bottom - at if other.axis == 0 else top + at
            yield (left - _TICK_PX - 1, y), (left - 2, y)
            yield (right + 1, y), (right + _TICK_PX, y)


def _draw_marks(draw: ImageDraw.ImageDraw, scene: Scene, cut: Cut, box: _Box) -> None:
    """Draw the caption, the letters around the slice and a scale bar."""
    left, top, right, bottom = box
    panel = draw.im.size
    gap = _TICK_PX + 4
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    edges = (
        (left - gap, middle_y, "rm"),
        (right + gap, middle_y, "lm"),
        (middle_x, top - gap, "mb"),
        (middle_x, bottom + gap, "mt"),
    )
    for letter, (x, y, anchor) in zip(_EDGE_LETTERS[cut.plane], edges, strict=True):
        sides = letter in "RL"
        size, colour = (_SIDE_FONT_PX, TEXT) if sides else (SMALL_FONT_PX, FAINT)
        draw_text(draw, (x, y), letter, anchor=anchor, size=size, colour=colour)
    middle = (np.array(scene.grid.shape_zyx) - 1) / 2
    middle[cut.axis] = cut.index
    position_mm = float(scene.grid.world(middle)[2 - cut.axis])
    caption = f"{cut.plane}  {_AXIS_LETTER[cut.axis]} {position_mm:.0f} mm"
    draw_text(draw, (SIDE_PX, 6), caption, anchor="lt", size=SMALL_FONT_PX, colour=FAINT)
    _draw_scale_bar(draw, scene.px_per_mm, (panel[0] - SIDE_PX, bottom + gap), panel[0] / 2 - SIDE_PX - 24)


def _draw_scale_bar(draw: ImageDraw.ImageDraw, px_per_mm: float, corner: tuple[int, int], room_px: float) -> None:
    """Draw a bar and its length to the left of `corner`, in at most `room_px` pixels."""
    right, top = corner
    for length_mm in _BAR_LENGTHS_MM:
        words = f"{length_mm // 10} cm" if length_mm >= 10 else f"{length_mm} mm"
        length_px = round(length_mm * px_per_mm)
        if length_px + text_width(words, SMALL_FONT_PX) + 6 <= room_px:
            break
    middle = top + 6
    draw.rectangle((right - length_px, middle - 1, right, middle + 1), fill=TEXT)
    draw_text(draw, (right - length_px - 6, middle), words, anchor="rm", size=SMALL_FONT_PX)


def draw_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    *,
    anchor: str,
    size: int = FONT_PX,
    colour: Colour = TEXT,
) -> None:
    """Write `text` at a point, placed there as Pillow's `anchor` says, with a dark rim."""
    draw.text(at, text, font=_font(size), fill=colour, anchor=anchor, stroke_width=2, stroke_fill=BACK)


def text_width(text: str, size: int = FONT_PX) -> float:
    """Return how many pixels wide `text` is."""
    return float(_font(size).getlength(text))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
