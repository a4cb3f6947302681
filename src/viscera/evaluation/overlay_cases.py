"""Cases side by side, as in the paper's Fig. 2: the CT, the reference and the prediction, best and worst cases."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError, GeometryError
from viscera.core.organs import BACKGROUND, ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.drawing.panel import BACK, FAINT, GAP_PX, TEXT, draw_panel, draw_text, panel_size_px, require_pillow
from viscera.drawing.scene import Cut, Scene, best_index, organ_cuts, organ_profiles, scene_of
from viscera.evaluation.scores import CaseScore
from viscera.evaluation.statistics import spread

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_Plane = Literal["axial", "coronal"]

COLUMNS = ("CT", "reference", "prediction")

# Each column's room for a slice, and the strip to the left with the case's scores, in pixels.
_CELL_PX: dict[str, tuple[int, int]] = {"axial": (420, 330), "coronal": (420, 420)}
_STRIP_PX = 250
_HEADER_PX = 40
_LINE_PX = 26
_TITLE_LENGTH = 25
# A coronal slice lower than this shows nothing.
_THINNEST_PX = 60


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line next to a case: text at the left and right end, and a mark in an organ's colour before it."""

    left: str = ""
    right: str = ""
    mark: tuple[int, int, int] | None = None
    colour: tuple[int, int, int] = TEXT
    indented: bool = False
    height_px: int = _LINE_PX


_Strip = tuple[_Line, ...]
# A case's strip and its rows of panels, those of one row of one size.
_Case = tuple[_Strip, Sequence[Sequence["Image.Image"]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseRow:
    """One row of the figure: a case and what is written next to it.

    Attributes:
        title: For example "best" or "worst".
        volume: The CT.
        reference, prediction: Label maps on its grid.
        scores: Of the prediction, one per organ.
    """

    title: str
    volume: Volume
    reference: LabelMap
    prediction: LabelMap
    scores: tuple[CaseScore, ...]


def mean_dsc(scores: Sequence[CaseScore]) -> float | None:
    """The mean DSC over the organs it is defined for, None if there is none."""
    return spread(score.dsc for score in scores).mean


def ranked_cases(scores: Sequence[CaseScore]) -> tuple[str, ...]:
    """The names of the cases that show organs, from the best to the worst mean DSC; equal ones by name.

    Left out are cases whose reference is empty, as there is nothing to see, and those without any defined DSC.
    """
    by_case: dict[str, list[CaseScore]] = {}
    for score in scores:
        by_case.setdefault(score.case, []).append(score)
    shown = {name: own for name, own in by_case.items() if any(score.reference_ml for score in own)}
    means = [(mean, name) for name, own in shown.items() if (mean := mean_dsc(own)) is not None]
    return tuple(name for _, name in sorted(means, key=lambda entry: (-entry[0], entry[1])))


def cases_png(rows: Sequence[CaseRow], *, plane: _Plane = "axial", organs: Sequence[Organ] = ORGANS) -> bytes:
    """A PNG with one row per case: the CT, the reference on it and the prediction on it, in one slice.

    The slice is the one where most of the organs is seen in reference and prediction together. To the left stand the
    case's name and its DSC per organ next to the organ's colour. Radiological convention: the patient's right is on
    the image's left. Rows have different scales where the patients' sizes differ; each has a bar of its own.

    Raises:
        ConfigError: If there are no rows.
        GeometryError: If a label map lies on another grid than its volume.
        MissingExtraError: If Pillow is not installed.
    """
    if not rows:
        raise ConfigError("drawing cases", expected="at least one case", got="none", remedy="Score some cases first")
    require_pillow("drawing cases")
    cases = [(_strip(row, organs, volumes=False), [_panels(row, plane, organs)]) for row in rows]
    return _png(COLUMNS, cases, panel_size_px(*_CELL_PX[plane])[0])


def case_png(row: CaseRow, organs: Sequence[Organ] = ORGANS) -> bytes:
    """A PNG of one case in four slices: the CT, the reference on it, and the prediction with the reference's outline.

    The slices are three axial ones from head to foot and a coronal one, where most of the reference's organs is seen;
    all have one scale. Of a scan that is thin from head to foot the coronal one is left out. To the left stand the DSC
    and the volumes.

    Raises:
        GeometryError: If a label map lies on another grid than its volume.
        MissingExtraError: If Pillow is not installed.
    """
    require_pillow("drawing cases")
    scene, (reference, prediction) = _scene(row, ("axial", "coronal"), organs)
    plain, truth = replace(scene, labels=np.zeros_like(scene.labels)), replace(scene, labels=reference)
    thin = scene.size_px(0) < _THINNEST_PX
    cuts = [cut for cut in organ_cuts(truth) if cut.plane == "axial" or (cut.plane == "coronal" and not thin)]
    panels = [
        [
            draw_panel(plain, cut, ()),
            draw_panel(truth, cut, ()),
            draw_panel(replace(scene, labels=prediction), cut, (), outlined=reference),
        ]
        for cut in cuts
    ]
    columns = (*COLUMNS[:2], f"{COLUMNS[2]} (white: reference)")
    return _png(columns, [(_strip(row, organs, volumes=True), panels)], panels[0][0].width)


def _png(columns: Sequence[str], cases: Sequence[_Case], cell_px: int) -> bytes:
    """The picture: every case with its strip and next to it its rows of panels, below the columns' titles."""
    from PIL import Image, ImageDraw

    heights = [_height_px(case) for case in cases]
    width = _STRIP_PX + len(columns) * (cell_px + GAP_PX) + GAP_PX
    picture = Image.new("RGB", (width, _HEADER_PX + sum(heights)), BACK)
    draw = ImageDraw.Draw(picture)
    lefts = [_STRIP_PX + GAP_PX + column * (cell_px + GAP_PX) for column in range(len(columns))]
    for left, title in zip(lefts, columns, strict=True):
        draw_text(draw, (left + cell_px / 2, _HEADER_PX / 2), title, anchor="mm")
    below = _HEADER_PX
    for (strip, rows), height in zip(cases, heights, strict=True):
        _draw_strip(draw, strip, below)
        top = below
        for row in rows:
            for left, panel in zip(lefts, row, strict=True):
                picture.paste(panel, (left + (cell_px - panel.width) // 2, top))
            top += row[0].height + GAP_PX
        below += height
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


def _height_px(case: _Case) -> int:
    strip, rows = case
    return max(sum(row[0].height + GAP_PX for row in rows), sum(line.height_px for line in strip) + GAP_PX)


def _panels(row: CaseRow, plane: _Plane, organs: Sequence[Organ]) -> list[Image.Image]:
    """The three panels of one case, of one size that fits the cell."""
    scene, turned = _scene(row, (plane,), organs)
    cut = Cut(plane=plane, index=best_index(organ_profiles(scene)[0 if plane == "axial" else 1]))
    plain = np.zeros_like(scene.labels)
    return [draw_panel(replace(scene, labels=labels), cut, ()) for labels in (plain, *turned)]


def _scene(row: CaseRow, planes: Sequence[_Plane], organs: Sequence[Organ]) -> tuple[Scene, list[NDArray[np.uint8]]]:
    """The scene of both label maps together, scaled to the planes' cells, and each of them in its orientation."""
    maps = (row.reference, row.prediction)
    if not all(one.grid.matches(row.volume.grid) for one in maps):
        raise GeometryError(
            f"drawing the case {row.title}",
            expected=f"label maps on the CT's grid of {row.volume.grid.shape_zyx} voxels",
            got=", ".join(str(one.grid.shape_zyx) for one in maps),
            remedy="Bring the label maps onto the CT's grid",
        )
    either = np.where(row.reference.labels == BACKGROUND, row.prediction.labels, row.reference.labels)
    scene = scene_of(row.volume, LabelMap(labels=either, grid=row.volume.grid), organs)
    shrink = 1.0
    for plane in planes:
        wide, tall = _CELL_PX[plane]
        shrink = min(shrink, wide / scene.size_px(2), tall / scene.size_px(1 if plane == "axial" else 0))
    turn = row.volume.grid.to_canonical()
    scaled = replace(scene, px_per_mm=scene.px_per_mm * shrink)
    return scaled, [turn.apply(one.labels) for one in maps]


def _strip(row: CaseRow, organs: Sequence[Organ], *, volumes: bool) -> _Strip:
    """What stands next to a case: its title and name, then its scores, the organs with their colours."""
    colours = {organ.name: organ.colour for organ in organs}
    lines = [_Line(left=part) for part in textwrap.wrap(row.title, _TITLE_LENGTH)]
    lines.append(_Line(left=_short(row.scores[0].case if row.scores else ""), colour=FAINT))
    lines.append(_Line(height_px=_LINE_PX // 2))
    for score in row.scores:
        lines.append(_Line(left=score.organ, right=_percent(score.dsc), mark=colours.get(score.organ, FAINT)))
        if volumes:
            lines.append(_Line(right=_volumes(score), colour=FAINT))
    mean = mean_dsc(row.scores)
    lines.append(_Line(left="mean DSC", right="-" if mean is None else _percent(mean), indented=True))
    return tuple(lines)


def _draw_strip(draw: ImageDraw.ImageDraw, strip: _Strip, top: int) -> None:
    left, right = 2 * GAP_PX, _STRIP_PX - GAP_PX
    for line in strip:
        middle = top + 8
        if line.mark is not None:
            draw.rounded_rectangle((left, top, left + 16, top + 16), radius=4, fill=line.mark)
        inset = 26 if line.indented or line.mark is not None else 0
        draw_text(draw, (left + inset, middle), line.left, anchor="lm", colour=line.colour)
        draw_text(draw, (right, middle), line.right, anchor="rm", colour=line.colour)
        top += line.height_px


def _volumes(score: CaseScore) -> str:
    """The volume found and, for an organ the reference shows, the true one."""
    if not score.reference_ml:
        return f"found {score.prediction_ml:.0f} ml"
    return f"found {score.prediction_ml:.0f} of {score.reference_ml:.0f} ml"


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:10]}…{name[-11:]}"


def _percent(dsc: float) -> str:
    return "-" if np.isnan(dsc) else f"{100 * dsc:.1f} %"
