"""A picture of a segmentation to judge it at a glance: slices of the CT with coloured organs, as PNG."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import MissingExtraError
from viscera.core.geometry import Grid, Ranges
from viscera.core.organs import BACKGROUND, ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.quality.statistics import OrganStatistics, organ_statistics

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Plane = Literal["axial", "coronal", "sagittal"]
_Colour = tuple[int, int, int]

# The usual abdominal soft-tissue window.
WINDOW_HU = 400
LEVEL_HU = 40

# The array axis (z, y, x in canonical orientation) each plane is cut across, and the letters at its left, right, top
# and bottom edge. Radiological convention: the patient's right is on the image's left; coronal and sagittal head up.
_PLANE_AXIS: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
_EDGE_LETTERS: dict[Plane, str] = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
# The name of each canonical axis in captions, as its world coordinate.
_AXIS_LETTER = "zyx"

_AXIAL_SLICES = 3
# Air outside the body is cut away where HU stay below this, but for a margin; far above and below the organs likewise.
_BODY_HU = -300
_BODY_MARGIN_MM = 10.0
_ORGAN_MARGIN_MM = 45.0

# Largest size of a panel in pixels along the world's axes, and of the picture's other parts.
_PANEL_PX: dict[str, int] = {"x": 520, "y": 430, "z": 560}
GAP_PX = 10
_LEGEND_PX = 330
_FONT_PX = 17
_NOTE_PX = 48
_SMOOTHING = 2  # panels are drawn this much larger, then reduced, for smooth contours
_CONTOUR_PX = 3  # on the enlarged panel
_OUTLINE_PX = 2  # likewise, of outlines laid over them
_FILL = 0.22  # opacity inside the contours

BACK: _Colour = (16, 18, 22)
TEXT: _Colour = (232, 234, 237)
FAINT: _Colour = (150, 156, 166)
_OUTLINE: _Colour = (255, 255, 255)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The scan in canonical orientation, what of it is shown, and how large.

    Attributes:
        hu, labels: Views (z, y, x).
        grid: Their grid.
        organs: The organs to draw.
        ranges: The voxels shown along each axis.
        px_per_mm: One scale for all panels.
    """

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    grid: Grid
    organs: Sequence[Organ]
    ranges: Ranges
    px_per_mm: float

    def size_px(self, axis: int) -> int:
        """How many pixels the shown range of an axis takes."""
        part = self.ranges[axis]
        count = int(part.stop) - int(part.start)
        return max(1, round(count * self.grid.spacing_zyx_mm[axis] * self.px_per_mm))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A plane at a voxel index along its axis."""

    plane: Plane
    index: int

    @property
    def axis(self) -> int:
        """The array axis the plane is cut across."""
        return _PLANE_AXIS[self.plane]


def preview_png(volume: Volume, label_map: LabelMap, organs: Sequence[Organ] = ORGANS) -> bytes:
    """A PNG with three axial, a coronal and a sagittal slice through the organs, and a legend with their volumes.

    All panels share one scale in mm. The slices are those where most of the organs is seen. Radiological convention:
    the patient's right is on the image's left. Window 400 HU wide around 40 HU. Grids of any orientation are shown
    along the axes nearest to the patient's. A label map without organs gives the middle slices and says so. The same
    input gives the same bytes with one version of Pillow. Only labels of the table `organs` are drawn.

    Raises:
        GeometryError: If the label map lies on another grid than the volume.
        MissingExtraError: If Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "drawing a preview",
            expected="the package pillow",
            got="none installed",
            remedy="Install it with: pip install pillow",
        ) from error

    statistics = organ_statistics(volume, label_map, organs)  # refuses grids that differ
    scene = scene_of(volume, label_map, organs)
    cuts = organ_cuts(scene)
    rows = [[draw_panel(scene, cut, cuts) for cut in row] for row in (cuts[:_AXIAL_SLICES], cuts[_AXIAL_SLICES:])]
    widths = [sum(panel.width + GAP_PX for panel in row) for row in rows]
    width = max(widths[0], widths[1] + _LEGEND_PX) + GAP_PX
    heights = [max(panel.height for panel in row) for row in rows]
    height = max(sum(heights), heights[0] + _legend_height(statistics)) + 3 * GAP_PX
    picture = Image.new("RGB", (width, height), BACK)
    top = GAP_PX
    for row, row_height in zip(rows, heights, strict=True):
        left = GAP_PX
        for panel in row:
            picture.paste(panel, (left, top))
            left += panel.width + GAP_PX
        top += row_height + GAP_PX
    _draw_legend(ImageDraw.Draw(picture), statistics, organs, (widths[1] + 2 * GAP_PX, heights[0] + 2 * GAP_PX))
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


def scene_of(volume: Volume, label_map: LabelMap, organs: Sequence[Organ] = ORGANS) -> Scene:
    """The scan and its labels as they are drawn: in canonical orientation, cut to the body and around the organs."""
    turn = volume.grid.to_canonical()
    hu, labels, grid = turn.apply(volume.hu), turn.apply(label_map.labels), turn.apply_to_grid(volume.grid)
    ranges = _shown(hu, labels, grid)
    extents_mm = [(part.stop - part.start) * step for part, step in zip(ranges, grid.spacing_zyx_mm, strict=True)]
    scale = min(_PANEL_PX[letter] / extent for letter, extent in zip(_AXIS_LETTER, extents_mm, strict=True))
    return Scene(hu=hu, labels=labels, grid=grid, organs=organs, ranges=ranges, px_per_mm=scale)


def _shown(hu: NDArray[np.int16], labels: NDArray[np.uint8], grid: Grid) -> Ranges:
    """The voxels to show: across, the body; along the body, the organs and some more. All if nothing is found."""
    step_z, step_y, step_x = grid.spacing_zyx_mm
    organs = labels != BACKGROUND
    along = np.flatnonzero(_profile(organs, 0))
    z = _widened(along, round(_ORGAN_MARGIN_MM / step_z), labels.shape[0])
    body = hu[z] > _BODY_HU
    third = labels.shape[2] // 3
    # Front to back, the middle third tells the body from the table: a table bends towards the body at its sides only.
    across_y = _widest(_profile(body[..., third : labels.shape[2] - third], 1)) | (_profile(organs, 1) > 0)
    y = _widened(np.flatnonzero(across_y), round(_BODY_MARGIN_MM / step_y), labels.shape[1])
    across_x = _widest(_profile(body[:, y], 2)) | (_profile(organs, 2) > 0)
    x = _widened(np.flatnonzero(across_x), round(_BODY_MARGIN_MM / step_x), labels.shape[2])
    return z, y, x


def _widest(profile: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The run of neighbouring slices with the most voxels, among those that hold more than a few."""
    filled = profile > 0.05 * max(1, int(profile.max()))
    run = np.cumsum(np.diff(filled, prepend=False))
    weights = np.bincount(run, weights=profile * filled)
    widest: NDArray[np.bool_] = filled & (run == weights.argmax())
    return widest


def _profile(mask: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """How many voxels of `mask` each slice across `axis` holds."""
    others = tuple(other for other in range(3) if other != axis)
    counts: NDArray[np.int64] = np.count_nonzero(mask, axis=others)
    return counts


def _widened(indices: NDArray[np.int64], margin: int, count: int) -> slice:
    if not len(indices):
        return slice(0, count)
    return slice(max(0, int(indices[0]) - margin), min(count, int(indices[-1]) + 1 + margin))


def organ_cuts(scene: Scene) -> list[Cut]:
    """Three axial cuts from head to foot, then a coronal and a sagittal one, where most of the organs is seen."""
    scores = organ_profiles(scene)
    spans = [np.flatnonzero(score) for score in scores]
    low, high = (int(spans[0][0]), int(spans[0][-1])) if len(spans[0]) else (0, len(scores[0]) - 1)
    # Around these parts of the organs' height, each moved to the best place nearby.
    axial = [best_index(scores[0], low + (high - low) * part, 0.06 * (high - low)) for part in (0.78, 0.52, 0.26)]
    planes: list[tuple[Plane, int]] = [("axial", index) for index in axial]
    planes += [(plane, best_index(scores[_PLANE_AXIS[plane]])) for plane in ("coronal", "sagittal")]
    return [Cut(plane=plane, index=index) for plane, index in planes]


def organ_profiles(scene: Scene) -> list[NDArray[np.float64]]:
    """How much of the organs each slice across z, y and x shows.

    Each organ counts by its area relative to its own largest one, so that a small organ counts as much as the liver.
    """
    scores = [np.zeros(count) for count in scene.labels.shape]
    for organ in scene.organs:
        mask = scene.labels == organ.index
        for axis in range(3):
            profile = _profile(mask, axis)
            scores[axis] += profile / max(1, int(profile.max()))
    return scores


def best_index(score: NDArray[np.float64], about: float | None = None, reach: float = 0.0) -> int:
    """The index of the largest score, within `reach` of `about` if given; the middle one where all are equal."""
    about = (len(score) - 1) / 2 if about is None else about
    first, last = (round(about - reach), round(about + reach)) if reach else (0, len(score) - 1)
    part = score[first : last + 1]
    best = np.flatnonzero(part == part.max()) + first
    return int(best[np.argmin(np.abs(best - about))])


def draw_panel(
    scene: Scene, cut: Cut, cuts: Sequence[Cut], *, outlined: NDArray[np.uint8] | None = None
) -> Image.Image:
    """One slice with the organs' contours, letters, a scale bar, and ticks where the other planes cut it.

    Args:
        scene: What is drawn.
        cut: The slice.
        cuts: All of the picture's slices.
        outlined: Other labels (z, y, x) of the scene, whose outlines are laid over its own in white.
    """
    from PIL import Image, ImageDraw

    rows, columns = (axis for axis in range(3) if axis != cut.axis)
    size = scene.size_px(columns), scene.size_px(rows)
    large = size[0] * _SMOOTHING, size[1] * _SMOOTHING
    grey = np.clip((_slice(scene.hu, scene, cut).astype(np.float32) - LEVEL_HU) / WINDOW_HU + 0.5, 0, 1) * 255
    image = Image.fromarray(grey.round().astype(np.uint8)).resize(large, Image.Resampling.BICUBIC)
    coloured = np.repeat(np.asarray(image, dtype=np.float32)[..., None], 3, axis=2)
    labels = _slice(scene.labels, scene, cut)
    for organ in scene.organs:
        if (labels == organ.index).any():
            _paint(coloured, labels == organ.index, organ)
    if outlined is not None:
        others = _slice(outlined, scene, cut)
        for organ in scene.organs:
            coloured[_outline(others == organ.index, large)] = _OUTLINE
    panel = Image.fromarray(coloured.round().astype(np.uint8)).reduce(_SMOOTHING)
    draw = ImageDraw.Draw(panel)
    _draw_ticks(draw, scene, cut, cuts)
    _draw_marks(draw, scene, cut, size)
    return panel


def _slice(array: NDArray[Any], scene: Scene, cut: Cut) -> NDArray[Any]:
    """The shown part of a slice, as rows from top to bottom: anterior first, or head first."""
    part = [scene.ranges[axis] if axis != cut.axis else cut.index for axis in range(3)]
    picture = array[tuple(part)]
    return np.ascontiguousarray(picture if cut.plane == "axial" else picture[::-1])


def _paint(coloured: NDArray[np.float32], mask: NDArray[np.bool_], organ: Organ) -> None:
    """Paints the organ onto `coloured`, light inside and full on its contour."""
    filled, core = _filled(mask, (coloured.shape[1], coloured.shape[0]), _CONTOUR_PX)
    colour = np.array(organ.colour, dtype=np.float32)
    coloured[core] = (1 - _FILL) * coloured[core] + _FILL * colour
    coloured[filled & ~core] = colour


def _outline(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels along the inner edge of the mask, enlarged to `size`."""
    filled, core = _filled(mask, size, _OUTLINE_PX)
    return filled & ~core


def _filled(
    mask: NDArray[np.bool_], size: tuple[int, int], contour_px: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The mask smoothly enlarged to `size` (width, height), and what of it lies within its contour."""
    from PIL import Image

    smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
    filled = core = np.asarray(smooth) > 127
    for _ in range(contour_px):  # Pillow's MinFilter gives the same and takes most of a picture's time
        around = np.pad(core, 1, mode="edge")
        rows = around[:-2] & around[1:-1] & around[2:]
        core = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return filled, core


def _draw_ticks(draw: ImageDraw.ImageDraw, scene: Scene, cut: Cut, cuts: Sequence[Cut]) -> None:
    """Short lines at the panel's edges where the other planes run."""
    rows, columns = (axis for axis in range(3) if axis != cut.axis)
    width, height = scene.size_px(columns), scene.size_px(rows)
    for other in cuts:
        if other.axis == cut.axis:
            continue
        step_px = scene.grid.spacing_zyx_mm[other.axis] * scene.px_per_mm
        at = round((other.index + 0.5 - scene.ranges[other.axis].start) * step_px)
        if other.axis == columns:
            lines = [((at, 0), (at, 8)), ((at, height - 9), (at, height - 1))]
        else:
            at = height - at if other.axis == 0 else at
            lines = [((0, at), (8, at)), ((width - 9, at), (width - 1, at))]
        for line in lines:
            draw.line(line, fill=FAINT, width=1)


def _draw_marks(draw: ImageDraw.ImageDraw, scene: Scene, cut: Cut, size: tuple[int, int]) -> None:
    """The caption, the letters at the edges and a scale bar."""
    width, height = size
    inset = 13
    edges = (
        (inset, height / 2, "lm"),
        (width - inset, height / 2, "rm"),
        (width / 2, inset, "mt"),
        (width / 2, height - inset, "mb"),
    )
    for letter, (x, y, anchor) in zip(_EDGE_LETTERS[cut.plane], edges, strict=True):
        draw_text(draw, (x, y), letter, anchor=anchor)
    middle = (np.array(scene.grid.shape_zyx) - 1) / 2
    middle[cut.axis] = cut.index
    position_mm = float(scene.grid.world(middle)[2 - cut.axis])
    caption = f"{cut.plane}  {_AXIS_LETTER[cut.axis]} {position_mm:.0f} mm"
    draw_text(draw, (inset, 8), caption, anchor="lt", size=_FONT_PX - 3, colour=FAINT)
    length_cm = 5 if 50 * scene.px_per_mm < width / 3 else 1
    left, bottom = width - inset - round(10 * length_cm * scene.px_per_mm), height - inset
    draw.rectangle((left - 1, bottom - 4, width - inset + 1, bottom), fill=BACK)
    draw.rectangle((left, bottom - 3, width - inset, bottom - 1), fill=TEXT)
    draw_text(draw, (width - inset, bottom - 8), f"{length_cm} cm", anchor="rb", size=_FONT_PX - 3)


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    statistics: Sequence[OrganStatistics],
    organs: Sequence[Organ],
    corner: tuple[int, int],
) -> None:
    """The organs found with colour and volume; below a volume, at which faces of the scan the organ may be cut."""
    left, top = corner
    right = left + _LEGEND_PX - 3 * GAP_PX
    colours = {organ.name: organ.colour for organ in organs}
    if not any(row.voxels for row in statistics):
        draw_text(draw, (left, top), "no organ found", anchor="lt", size=_FONT_PX + 3)
    for row in statistics:
        if row.voxels:
            draw.rounded_rectangle((left, top, left + 20, top + 20), radius=4, fill=colours[row.organ])
            draw_text(draw, (left + 32, top + 10), row.organ, anchor="lm")
            volume = f"{row.volume_ml:,.0f} ml" if row.volume_ml >= 100 else f"{row.volume_ml:.1f} ml"
            draw_text(draw, (right, top + 10), volume, anchor="rm")
        if row.touches_border:
            note = "reaches the scan's edge:\n" + ", ".join(row.border_faces)
            draw_text(draw, (left + 32, top + 27), note, anchor="la", size=_FONT_PX - 3, colour=FAINT)
        top += _entry_height(row)
    top = corner[1] + _legend_height(statistics) - _NOTE_PX
    note = f"window {WINDOW_HU} HU, level {LEVEL_HU} HU\nR: the patient's right"
    draw_text(draw, (left, top), note, anchor="la", size=_FONT_PX - 3, colour=FAINT)


def _entry_height(row: OrganStatistics) -> int:
    return 0 if not row.voxels else 75 if row.touches_border else 36


def _legend_height(statistics: Sequence[OrganStatistics]) -> int:
    return max(48, sum(map(_entry_height, statistics))) + _NOTE_PX


def draw_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    *,
    anchor: str,
    size: int = _FONT_PX,
    colour: _Colour = TEXT,
) -> None:
    """Write `text` at a point, placed there as Pillow's `anchor` says, with a dark rim."""
    draw.text(at, text, font=_font(size), fill=colour, anchor=anchor, stroke_width=2, stroke_fill=BACK)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
