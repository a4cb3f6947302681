"""A picture of a training: loss terms and validation DSC against the iteration, drawn from its log.jsonl."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import VisceraError
from viscera.core.files import write_bytes
from viscera.drawing.canvas import COLOURS, ENLARGED, GREY, GRID, INK, Axis, Canvas, Colour, faded
from viscera.training.log_reader import LOG_NAME, Curve, read_curves
from viscera.training.monitor import StepRecord, ValidationRecord

_Points = NDArray[np.float64]

PICTURE_NAME = "curves.png"

_log = logging.getLogger(__name__)

# All in pixels of the finished picture.
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 92, 268, 58, 66, 62
_LOSS_HEIGHT, _SCORE_HEIGHT = 380, 300
_TITLE_FONT, _ROW = 21, 27
_LINE, _RAW_LINE = 2.4, 1.0
# A line with more points than this is shown without marks.
_MARKED = 60

_RAW_SHARE = 0.28  # how much of its colour an unsmoothed line keeps on white


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """How the curves are drawn.

    Attributes:
        title: Above the picture.
        iterations: Axis of the iterations.
        loss: Axis of the loss terms.
        smoothing: Share of a curve's records that its moving average spans; 0 draws the records as they are.
        width_px: Of the picture.
    """

    title: str = ""
    iterations: Literal["linear", "log"] = "linear"
    loss: Literal["linear", "log"] = "log"
    smoothing: float = 0.02
    width_px: int = 1200


def write_curves(run: Path, options: CurveOptions | None = None) -> Path:
    """The file of the picture, `run`/curves.png, drawn from `run`/log.jsonl.

    Raises:
        ReadError: If the log cannot be read or has no records.
        MissingExtraError: If Pillow is not installed.
    """
    loss, validation = read_curves(run / LOG_NAME)
    place = run.resolve()
    options = CurveOptions(title=f"{place.parent.name}/{place.name}") if options is None else options
    write_bytes(curves_png(loss, validation, options), run / PICTURE_NAME)
    return run / PICTURE_NAME


def smoothed(values: _Points, span: float) -> _Points:
    """The exponential moving average whose weights fall to 1/e over `span` values; the first values are not favoured.

    A span of 1 or less gives the values back.
    """
    if span <= 1:
        return values
    keep = math.exp(-1 / span)
    result, total, weight = np.empty_like(values), 0.0, 0.0
    for index, value in enumerate(values.tolist()):
        total, weight = keep * total + value, keep * weight + 1
        result[index] = total / weight
    return result


def curves_png(loss: Sequence[Curve], validation: Sequence[Curve], options: CurveOptions) -> bytes:
    """The picture as PNG: the loss above, the validation below if there is any; equal input gives equal bytes.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """
    height = _TOP + _LOSS_HEIGHT + _BOTTOM + (_GAP + _SCORE_HEIGHT if validation else 0)
    sheet = Canvas(options.width_px, height)
    sheet.text((_LEFT, 14), options.title, size=_TITLE_FONT)
    across = _iteration_axis([*loss, *validation], options)
    _draw_loss(sheet, loss, across, options, last=not validation)
    if validation:
        _draw_scores(sheet, validation, across)
    return sheet.png()


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One pair of axes on the sheet."""

    sheet: Canvas
    top: int
    height: int
    across: Axis
    up: Axis

    @property
    def width(self) -> int:
        return self.sheet.width_px - _LEFT - _RIGHT

    def points(self, iterations: _Points, values: _Points) -> list[tuple[float, float]]:
        """Places on the sheet, clipped to the panel."""
        x = _LEFT + self.width * self.across.places(iterations).clip(0, 1)
        y = self.top + self.height * (1 - self.up.places(values).clip(0, 1))
        return list(zip(x.tolist(), y.tolist(), strict=True))

    def frame(self, title: str, *, last: bool) -> None:
        """Grid, ticks and titles; iterations are labelled under the last panel only."""
        right, bottom = _LEFT + self.width, self.top + self.height
        self.sheet.text((_LEFT, self.top - 8), title, colour=GREY, anchor="ls")
        for tick in self.up.ticks(6):
            y = bottom - self.height * float(self.up.places(np.array(tick)))
            self.sheet.line([(_LEFT, y), (right, y)], GRID, 1)
            self.sheet.text((_LEFT - 10, y), f"{tick:.6g}", colour=GREY, anchor="rm")
        for tick in self.across.ticks(6):
            x = _LEFT + self.width * float(self.across.places(np.array(tick)))
            self.sheet.line([(x, self.top), (x, bottom)], GRID, 1)
            if last:
                self.sheet.text((x, bottom + 8), f"{tick:,.0f}", colour=GREY, anchor="ma")
        self.sheet.line([(_LEFT, self.top), (_LEFT, bottom), (right, bottom)], GREY, 1)
        if last:
            self.sheet.text((_LEFT + self.width / 2, bottom + 34), "iteration", colour=GREY, anchor="ma")

    def records(self, curve: Curve, colour: Colour) -> None:
        """The records as they are, as a faint line."""
        self.sheet.line(_thinned(self.points(*self._drawable(curve))), faded(colour, _RAW_SHARE), _RAW_LINE)

    def curve(self, curve: Curve, colour: Colour, *, smoothing: float = 0.0) -> None:
        """One line; few records that are not smoothed are marked."""
        iterations, values = self._drawable(curve)
        points = self.points(iterations, smoothed(values, smoothing * values.size))
        self.sheet.line(_thinned(points), colour, _LINE)
        if len(points) == 1 or (smoothing == 0 and len(points) <= _MARKED):
            for point in points:
                self.sheet.mark(point, colour)

    def _drawable(self, curve: Curve) -> tuple[_Points, _Points]:
        shown = curve.values > 0 if self.up.log else np.ones(curve.values.shape, dtype=bool)
        return curve.iterations[shown], curve.values[shown]

    def legend(self, rows: Sequence[tuple[str, str, Colour | None]]) -> None:
        """Name and value by row, right of the panel, with a dash of its colour if it has a line."""
        left, right = _LEFT + self.width + 22, self.sheet.width_px - 18
        for index, (name, value, colour) in enumerate(rows):
            y = self.top + 10 + index * _ROW
            if colour is not None:
                self.sheet.line([(left, y), (left + 24, y)], colour, 2 * _LINE)
            self.sheet.text((left + 34, y), name, anchor="lm", colour=INK if colour is not None else GREY)
            self.sheet.text((right, y), value, anchor="rm", colour=INK if colour is not None else GREY)


def _draw_loss(sheet: Canvas, curves: Sequence[Curve], across: Axis, options: CurveOptions, *, last: bool) -> None:
    axis = _loss_axis(curves, options)
    panel = _Panel(sheet=sheet, top=_TOP + 22, height=_LOSS_HEIGHT - 22, across=across, up=axis)
    panel.frame("loss, logarithmic" if axis.log else "loss", last=last)
    smoothing = options.smoothing
    pairs = list(zip(curves, [INK, *_colours(len(curves) - 1)], strict=True))
    for curve, colour in reversed(pairs) if smoothing > 0 else ():
        panel.records(curve, colour)
    for curve, colour in reversed(pairs):
        panel.curve(curve, colour, smoothing=smoothing)
    ends = [smoothed(curve.values, smoothing * curve.values.size)[-1] for curve in curves]
    panel.legend([(curve.name, f"{end:.3g}", colour) for (curve, colour), end in zip(pairs, ends, strict=True)])


def _draw_scores(sheet: Canvas, curves: Sequence[Curve], across: Axis) -> None:
    low = min(float(curve.values.min()) for curve in curves)
    # Good scores are told apart by their last tenths.
    axis = Axis(low=min(0.9, math.floor(low * 10 + 1e-9) / 10), high=1.0)
    panel = _Panel(sheet=sheet, top=_TOP + _LOSS_HEIGHT + _GAP, height=_SCORE_HEIGHT, across=across, up=axis)
    panel.frame("DSC of the averaged weights on held-out cases", last=True)
    colours = _colours(len(curves))
    rows: list[tuple[str, str, Colour | None]] = []
    for curve, colour in zip(curves, colours, strict=True):
        panel.curve(curve, colour)
        rows.append((curve.name, f"{curve.values[-1]:.3f}", colour))
    if len(curves) > 1 and (mean := _mean(curves)) is not None:
        panel.curve(mean, INK)
        best = int(mean.values.argmax())
        rows.insert(0, (mean.name, f"{mean.values[-1]:.3f}", INK))
        rows.append((f"best mean ({mean.iterations[best]:,.0f})", f"{mean.values[best]:.3f}", None))
    panel.legend(rows)


def _iteration_axis(curves: Sequence[Curve], options: CurveOptions) -> Axis:
    first = min(float(curve.iterations[0]) for curve in curves)
    last = max(float(curve.iterations[-1]) for curve in curves)
    if options.iterations == "log":
        return Axis(low=max(1.0, first), high=max(last, 2 * first, 2.0), log=True)
    return Axis(low=0.0, high=max(last, 1.0))


def _loss_axis(curves: Sequence[Curve], options: CurveOptions) -> Axis:
    """Wide enough for the smoothed lines and all but the wildest records."""
    log = options.loss == "log" and any((curve.values > 0).any() for curve in curves)
    values = []
    for curve in curves:
        shown = curve.values[curve.values > 0] if log else curve.values
        if shown.size:
            values += [*np.percentile(shown, (1, 99)), *smoothed(shown, options.smoothing * shown.size)]
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.04, 1.05)
        return Axis(low=low / room, high=high * room, log=True)
    room = max(0.04 * (high - low), 0.01 * abs(high), 1e-9)
    return Axis(low=0.0 if low >= 0 else low - room, high=high + room)


def _colours(count: int) -> list[Colour]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _mean(curves: Sequence[Curve]) -> Curve | None:
    """The mean over the organs where all of them have a value; None if that is nowhere."""
    by_iteration = [dict(zip(c.iterations.tolist(), c.values.tolist(), strict=True)) for c in curves]
    shared = [iteration for iteration in by_iteration[0] if all(iteration in other for other in by_iteration)]
    if not shared:
        return None
    means = [float(np.mean([values[iteration] for values in by_iteration])) for iteration in shared]
    return Curve(name="mean", iterations=np.array(shared), values=np.array(means))


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The line with at most four points (first, lowest, highest, last) in each column of pixels."""
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int(point[0] * ENLARGED), []).append(point)
    result: list[tuple[float, float]] = []
    for inside in columns.values():
        extremes = [min(inside, key=lambda point: point[1]), max(inside, key=lambda point: point[1])]
        chosen = [inside[0], *extremes, inside[-1]] if len(inside) > 4 else inside
        result += chosen
    return result


class CurvesMonitor:
    """A monitor that keeps the picture in a run's folder up to date: after validations, and at the end.

    A picture that cannot be drawn or written is no reason to end a training: it is logged and passed over.

    Args:
        run: The folder of the training.
        pause_s: Least time between two pictures, but for the last.
        clock: Seconds that only grow.
    """

    def __init__(self, run: Path, *, pause_s: float = 120.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._pause_s, self._clock = run, pause_s, clock
        self._next = -math.inf
        self._told = False

    def step(self, record: StepRecord) -> None:
        """Remembers that there is something to draw."""
        self._told = True

    def validated(self, record: ValidationRecord) -> None:
        """Draws, if the last picture is old enough."""
        if self._told and self._clock() >= self._next:
            self._draw()
            self._next = self._clock() + self._pause_s

    def close(self) -> None:
        """Draw the last picture."""
        if self._told:
            self._draw()

    def _draw(self) -> None:
        try:
            write_curves(self._run)
        except VisceraError as error:
            _log.warning("%s", error)
