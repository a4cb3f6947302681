"""Cases side by side, as in the paper's Fig. 2: the CT, the reference and the prediction, best and worst cases."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.errors import ConfigError, GeometryError, MissingExtraError
from viscera.evaluation.figures import (
    BACK,
    FAINT,
    GAP_PX,
    Cut,
    Scene,
    best_index,
    draw_panel,
    draw_text,
    organ_cuts,
    organ_profiles,
    scene_of,
)
from viscera.evaluation.tables import CaseScore, spread
from viscera.labels import BACKGROUND, ORGANS, Organ
from viscera.volume import LabelMap, Volume

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_Plane = Literal["axial", "coronal"]

COLUMNS = ("CT", "reference", "prediction")

# Each column's room for a panel, and the strip to the left with the case's scores, in pixels.
_CELL_PX: dict[str, tuple[int, int]] = {"axial": (420, 330), "coronal": (420, 420)}
_STRIP_PX = 250
_HEADER_PX = 40
_LINE_PX = 26


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseRow:
    """One row of the figure: a case and what is written beside it.

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
    case's name and its DSC per organ beside the organ's colour. Radiological convention: the patient's right is on
    the image's left. Rows have different scales where the patients' sizes differ; each has a bar of its own.

    Raises:
        ConfigError: If there are no rows.
        GeometryError: If a label map lies on another grid than its volume.
        MissingExtraError: If Pillow is not installed.
    """
    if not rows:
        raise ConfigError("drawing cases", expected="at least one case", got="none", remedy="Score some cases first")
    _require_pillow()
    return _png([(row, _panels(row, plane, organs)) for row in rows], organs, _CELL_PX[plane][0])


def case_png(row: CaseRow, organs: Sequence[Organ] = ORGANS) -> bytes:
    """A PNG of one case in four slices: the CT, the reference on it, and the prediction with the reference's outline.

    The slices are three axial ones from head to foot and a coronal one, where most of the organs is seen in reference
    and prediction together; all have one scale. On the prediction the reference's outlines are drawn in white.

    Raises:
        GeometryError: If a label map lies on another grid than its volume.
        MissingExtraError: If Pillow is not installed.
    """
    _require_pillow()
    scene, (reference, prediction) = _scene(row, ("axial", "coronal"), organs)
    plain = replace(scene, labels=np.zeros_like(scene.labels))
    cuts = [cut for cut in organ_cuts(scene) if cut.plane != "sagittal"]
    drawn = [
        [
            draw_panel(plain, cut, ()),
            draw_panel(replace(scene, labels=reference), cut, ()),
            draw_panel(replace(scene, labels=prediction), cut, (), outlined=reference),
        ]
        for cut in cuts
    ]
    strips = [row, *[None] * (len(cuts) - 1)]
    return _png(list(zip(strips, drawn, strict=True)), organs, max(panels[0].width for panels in drawn))


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "drawing cases",
            expected="the package pillow",
            got="none installed",
            remedy="Install it with: pip install pillow",
        ) from error


def _png(rows: Sequence[tuple[CaseRow | None, list[Image.Image]]], organs: Sequence[Organ], cell_px: int) -> bytes:
    """The picture: a row per case's scores and panels; None continues the case above."""
    from PIL import Image, ImageDraw

    heights = [max(panels[0].height, _strip_height(row)) for row, panels in rows]
    width = _STRIP_PX + len(COLUMNS) * (cell_px + GAP_PX) + GAP_PX
    picture = Image.new("RGB", (width, _HEADER_PX + sum(height + GAP_PX for height in heights)), BACK)
    draw = ImageDraw.Draw(picture)
    lefts = [_STRIP_PX + GAP_PX + column * (cell_px + GAP_PX) for column in range(len(COLUMNS))]
    for left, title in zip(lefts, COLUMNS, strict=True):
        draw_text(draw, (left + cell_px / 2, _HEADER_PX / 2), title, anchor="mm")
    top = _HEADER_PX
    for (row, panels), height in zip(rows, heights, strict=True):
        if row is not None:
            _draw_strip(draw, row, organs, top)
        for left, panel in zip(lefts, panels, strict=True):
            picture.paste(panel, (left + (cell_px - panel.width) // 2, top))
        top += height + GAP_PX
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


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


def _strip_height(row: CaseRow | None) -> int:
    return 0 if row is None else _LINE_PX * (len(row.scores) + 4)


def _draw_strip(draw: ImageDraw.ImageDraw, row: CaseRow, organs: Sequence[Organ], top: int) -> None:
    """The case's title, name and scores, the organs with their colours."""
    left, right = 2 * GAP_PX, _STRIP_PX - GAP_PX
    colours = {organ.name: organ.colour for organ in organs}
    draw_text(draw, (left, top), row.title, anchor="lt")
    draw_text(draw, (left, top + _LINE_PX), _short(row.scores[0].case if row.scores else ""), anchor="lt", colour=FAINT)
    y = top + 2 * _LINE_PX + _LINE_PX // 2
    for score in row.scores:
        draw.rounded_rectangle((left, y, left + 16, y + 16), radius=4, fill=colours.get(score.organ, FAINT))
        draw_text(draw, (left + 26, y + 8), score.organ, anchor="lm")
        draw_text(draw, (right, y + 8), _percent(score.dsc), anchor="rm")
        y += _LINE_PX
    draw_text(draw, (left + 26, y + 8), "mean DSC", anchor="lm")
    mean = mean_dsc(row.scores)
    draw_text(draw, (right, y + 8), "-" if mean is None else _percent(mean), anchor="rm")


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:10]}…{name[-11:]}"


def _percent(dsc: float) -> str:
    return "-" if np.isnan(dsc) else f"{100 * dsc:.1f} %"
