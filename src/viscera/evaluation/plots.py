"""Scores of many cases as charts: boxes by organ, DSC against volume, and the agreement of volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.drawing.canvas import COLOURS, FONT_PX, GREY, GRID, INK, Axis, Canvas, Colour, Point, faded
from viscera.evaluation.scores import CaseScore, Evaluation, Measure
from viscera.evaluation.statistics import scored_organs

_Values = NDArray[np.float64]

# All in pixels.
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 30, 64, 92
_HEIGHT, _SMALL_HEIGHT = 400, 270
_BOX, _BOX_GAP, _GROUP_GAP = 46, 12, 52
_SMALL, _DOT = FONT_PX - 3, 2.6
_DOT_SHARE = 0.7
# Charts of scores that may be drawn as boxes, by key of the measure.
_BOXED = ("dsc", "nsd", "hd95_mm")
# Limits of agreement hold 95 % of normally distributed differences (Bland and Altman 1986, Lancet 327, 307-310).
_LIMITS_SD = 1.96


def evaluation_plots(evaluations: Mapping[str, Evaluation]) -> dict[str, bytes]:
    """PNGs by file name: boxes of DSC, NSD and HD95 with all methods side by side, and each method's volumes.

    Without any scored case there are none. Equal input gives equal bytes with one version of Pillow.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """
    scored = {name: evaluation for name, evaluation in evaluations.items() if evaluation.scores}
    pictures: dict[str, bytes] = {}
    if not scored:
        return pictures
    measures = {measure.key: measure for measure in next(iter(scored.values())).measures}
    for key in _BOXED:
        pictures[f"{key.removesuffix('_mm')}.png"] = boxes_png(scored, measures[key])
    for number, (name, evaluation) in enumerate(scored.items(), start=1):
        # Two names may look the same once they are fit for a file.
        end = "" if len(scored) == 1 else f"_{number}_{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-.')}"
        title = "" if len(scored) == 1 else name
        pictures[f"dsc_against_volume{end}.png"] = volumes_png(evaluation, title)
        pictures[f"bland_altman{end}.png"] = bland_altman_png(evaluation, title)
    return pictures


def boxes_png(evaluations: Mapping[str, Evaluation], measure: Measure) -> bytes:
    """A PNG with a box and all cases' values per organ and method.

    A box runs from the first to the third quartile with a line at the median; whiskers reach the farthest value within
    1.5 times its height. Below an organ stands how many values are shown; infinite and undefined ones are counted as
    missing. One method's boxes have the organs' colours, several methods' have their own.
    """
    first = next(iter(evaluations.values()))
    organs = scored_organs(first.scores, first.organs)
    columns = [[_shown_values(evaluation, organ, measure) for evaluation in evaluations.values()] for organ in organs]
    count = len(evaluations)
    group = count * _BOX + (count - 1) * _BOX_GAP
    names = list(evaluations)
    spaces = [max(group + _GROUP_GAP, 138)] * len(organs)
    canvas = Canvas(max(_LEFT + sum(spaces) + _RIGHT, 420), _TOP + _HEIGHT + _BOTTOM)
    panel = _Panel(
        canvas=canvas,
        corner=(_LEFT, _TOP),
        size=(canvas.width_px - _LEFT - _RIGHT, _HEIGHT),
        across=Axis(low=0, high=1),
        up=_score_axis(measure, [values for column in columns for values, _ in column]),
    )
    panel.frame(_axis_title(measure), "")
    if count > 1:
        _legend(canvas, names)
    width = panel.size[0] / len(organs)
    for place, (organ, column) in enumerate(zip(organs, columns, strict=True)):
        middle = _LEFT + (place + 0.5) * width
        colours = _organ_colours(first) if count == 1 else None
        for number, (values, _) in enumerate(column):
            x = middle - group / 2 + number * (_BOX + _BOX_GAP) + _BOX / 2
            _draw_box(panel, x, values, colours[organ] if colours else COLOURS[number % len(COLOURS)])
        bottom = _TOP + _HEIGHT
        canvas.text((middle, bottom + 12), organ, anchor="ma")
        for line, text in enumerate(_counts(column)):
            canvas.text((middle, bottom + 36 + 20 * line), text, anchor="ma", size=_SMALL, colour=GREY)
    return canvas.png()


def volumes_png(evaluation: Evaluation, title: str = "") -> bytes:
    """A PNG with the DSC of every organ of every case against its true volume, which is on a logarithmic axis.

    Organs the reference does not show have no place on it and are left out.
    """
    shown = [score for score in evaluation.scores if score.reference_ml > 0 and not math.isnan(score.dsc)]
    volumes = np.array([score.reference_ml for score in shown] or [1.0])
    canvas = Canvas(760, _TOP + _HEIGHT + _BOTTOM)
    panel = _Panel(
        canvas=canvas,
        corner=(_LEFT, _TOP),
        size=(canvas.width_px - _LEFT - 150, _HEIGHT),
        across=Axis(low=float(volumes.min()) / 1.3, high=float(volumes.max()) * 1.3, log=True),
        up=_score_axis(_dsc(evaluation), [np.array([100 * score.dsc for score in shown])]),
    )
    panel.frame("DSC in %", "reference volume in ml")
    canvas.text((_LEFT, 12), title, anchor="la")
    colours = _organ_colours(evaluation)
    for score in shown:
        panel.dot(score.reference_ml, 100 * score.dsc, colours[score.organ])
    for row, organ in enumerate(scored_organs(evaluation.scores, evaluation.organs)):
        y = _TOP + 10 + 26 * row
        canvas.mark((canvas.width_px - 132, y), colours[organ], 5)
        canvas.text((canvas.width_px - 118, y), _shortened(organ, 13), anchor="lm", size=_SMALL)
    return canvas.png()


def bland_altman_png(evaluation: Evaluation, title: str = "") -> bytes:
    """A PNG with one panel per organ: the difference of both volumes against their mean.

    Lines stand at the mean difference and at the limits of agreement, 1.96 standard deviations from it. Cases in which
    neither label map shows the organ are left out.
    """
    organs = scored_organs(evaluation.scores, evaluation.organs)
    colours = _organ_colours(evaluation)
    columns = min(2, len(organs))
    width, height = 500, _SMALL_HEIGHT + 130
    canvas = Canvas(columns * width, 34 + math.ceil(len(organs) / columns) * height)
    canvas.text((_LEFT, 10), title, anchor="la")
    for place, organ in enumerate(organs):
        shown = [
            score for score in evaluation.scores if score.organ == organ and score.reference_ml + score.prediction_ml
        ]
        corner = (place % columns * width + _LEFT, 34 + place // columns * height + 44)
        _draw_agreement(canvas, corner, shown, (organ, colours[organ]))
    return canvas.png()


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A pair of axes on a canvas: its upper left corner and its size in pixels."""

    canvas: Canvas
    corner: Point
    size: tuple[float, float]
    across: Axis
    up: Axis

    def x(self, value: float) -> float:
        return self.corner[0] + self.size[0] * float(self.across.places(np.array(value)).clip(0, 1))

    def y(self, value: float) -> float:
        return self.corner[1] + self.size[1] * (1 - float(self.up.places(np.array(value)).clip(0, 1)))

    def dot(self, x: float, y: float, colour: Colour) -> None:
        self.canvas.mark((self.x(x), self.y(y)), faded(colour, _DOT_SHARE), _DOT)

    def frame(self, up: str, across: str) -> None:
        """Grid, ticks and titles; without a title, the axis across has no ticks either."""
        (left, top), (width, height) = self.corner, self.size
        self.canvas.text((left - 62, top - 14), up, anchor="ls", size=_SMALL, colour=GREY)
        for tick in self.up.ticks(6):
            self.canvas.line([(left, self.y(tick)), (left + width, self.y(tick))], GRID, 1)
            self.canvas.text((left - 10, self.y(tick)), _number(tick), anchor="rm", size=_SMALL, colour=GREY)
        for tick in self._spaced_ticks() if across else ():
            self.canvas.line([(self.x(tick), top), (self.x(tick), top + height)], GRID, 1)
            self.canvas.text((self.x(tick), top + height + 9), _number(tick), anchor="ma", size=_SMALL, colour=GREY)
        self.canvas.text((left + width / 2, top + height + 36), across, anchor="ma", size=_SMALL, colour=GREY)
        self.canvas.line([(left, top), (left, top + height), (left + width, top + height)], GREY, 1)

    def _spaced_ticks(self) -> Iterator[float]:
        """The ticks across whose labels do not touch."""
        free = -math.inf
        for tick in self.across.ticks(6):
            half = self.canvas.text_width(_number(tick), _SMALL) / 2 + 6
            if self.x(tick) - half >= free:
                free = self.x(tick) + half
                yield tick


def _draw_box(panel: _Panel, x: float, values: _Values, colour: Colour) -> None:
    """The box, its whiskers and every value as a dot, strewn sideways in a pattern that is always the same."""
    if not values.size:
        return
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    reach = 1.5 * (high - low)
    ends = values[(values >= low - reach) & (values <= high + reach)]
    for start, end in ((low, float(ends.min())), (high, float(ends.max()))):
        panel.canvas.line([(x, panel.y(start)), (x, panel.y(end))], GREY, 1.2)
        panel.canvas.line([(x - 8, panel.y(end)), (x + 8, panel.y(end))], GREY, 1.2)
    half = _BOX / 2
    panel.canvas.box(
        (x - half, panel.y(high)), (x + half, panel.y(low)), outline=faded(colour, 0.8), fill=faded(colour, 0.18)
    )
    for index, value in enumerate(values.tolist()):
        # Multiples of the golden ratio lie evenly however many there are.
        aside = (index * 0.6180339887498949 % 1 - 0.5) * (_BOX - 12)
        panel.canvas.mark((x + aside, panel.y(value)), faded(colour, _DOT_SHARE), _DOT)
    panel.canvas.line([(x - half, panel.y(middle)), (x + half, panel.y(middle))], INK, 2)


def _draw_agreement(canvas: Canvas, corner: Point, scores: Sequence[CaseScore], organ: tuple[str, Colour]) -> None:
    name, colour = organ
    means = np.array([(score.reference_ml + score.prediction_ml) / 2 for score in scores])
    differences = np.array([score.difference_ml for score in scores])
    bias = float(differences.mean()) if scores else 0.0
    spread = _LIMITS_SD * float(differences.std(ddof=1)) if len(scores) > 1 else 0.0
    lines = (bias - spread, bias, bias + spread) if spread else (bias,)
    panel = _Panel(
        canvas=canvas,
        corner=corner,
        size=(500 - _LEFT - 96, _SMALL_HEIGHT),
        across=_wide(means, 0.06),
        up=_wide(np.array([*differences, *lines, 0.0]), 0.08),
    )
    panel.frame("prediction - reference in ml", "mean of both volumes in ml")
    right = corner[0] + panel.size[0]
    canvas.text((right, corner[1] - 14), f"{_shortened(name, 20)}, n = {len(scores)}", anchor="rs")
    for x, y in zip(means.tolist(), differences.tolist(), strict=True):
        panel.dot(x, y, colour)
    placed = -math.inf
    for value in sorted(lines, reverse=True):
        y = panel.y(value)
        draw = canvas.dashes if value != bias else lambda start, end, ink, width: canvas.line([start, end], ink, width)
        draw((corner[0], y), (right, y), INK, 1.2)
        placed = max(y, placed + 17)  # labels of close lines stand one below the other
        canvas.text((right + 8, placed), f"{value:+.1f}", anchor="lm", size=_SMALL)


def _wide(values: _Values, room: float) -> Axis:
    """An axis over all values with some room at both ends."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    extra = max(room * (high - low), 0.01 * max(abs(low), abs(high)), 0.05)
    return Axis(low=low - extra, high=high + extra)


def _score_axis(measure: Measure, values: Sequence[_Values]) -> Axis:
    """From 0 upwards for distances; for shares up to 100 %, and down to the next ten below the lowest."""
    given = np.concatenate([*values, np.empty(0)])
    if measure.best == "high":
        low = math.floor(float(given.min()) / 10 - 1e-9) * 10.0 if given.size else 0.0
        return Axis(low=min(90.0, max(0.0, low)) - 0.5, high=100.5)
    return Axis(low=0.0, high=1.06 * float(given.max()) if given.size and given.max() > 0 else 1.0)


def _shown_values(evaluation: Evaluation, organ: str, measure: Measure) -> tuple[_Values, int]:
    """The finite values of an organ as they are shown, and how many there are in all."""
    values = np.array([measure.value(score) for score in evaluation.scores if score.organ == organ])
    return values[np.isfinite(values)] * measure.factor, values.size


def _counts(column: Sequence[tuple[_Values, int]]) -> list[str]:
    """How many values are shown below an organ, and how many are missing."""
    shown = ", ".join(dict.fromkeys(str(values.size) for values, _ in column))
    missing = [count - values.size for values, count in column]
    return [f"n = {shown}", *([f"{', '.join(map(str, missing))} missing"] if any(missing) else [])]


def _organ_colours(evaluation: Evaluation) -> dict[str, Colour]:
    return {organ.name: COLOURS[place % len(COLOURS)] for place, organ in enumerate(evaluation.organs)}


def _legend(canvas: Canvas, names: Sequence[str]) -> None:
    """The methods with their colours, in a line at the top."""
    left: float = _LEFT
    room = (canvas.width_px - _LEFT - _RIGHT) / len(names)
    for number, name in enumerate(names):
        canvas.mark((left + 6, 18), COLOURS[number % len(COLOURS)], 5)
        canvas.text((left + 18, 18), _shortened(name, max(4, int(room / 9) - 3)), anchor="lm", size=_SMALL)
        left += room


def _axis_title(measure: Measure) -> str:
    return f"{measure.title} in {measure.unit}"


def _dsc(evaluation: Evaluation) -> Measure:
    return next(measure for measure in evaluation.measures if measure.key == "dsc")


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _number(value: float) -> str:
    return f"{value:,.6g}"
