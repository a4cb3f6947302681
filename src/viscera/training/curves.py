"""A picture of a training: loss terms and validation DSC against the iteration, drawn from its log.jsonl."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import MissingExtraError, VisceraError
from viscera.core.files import write_bytes
from viscera.training.log_reader import LOG_NAME, Curve, read_curves
from viscera.training.monitor import StepRecord, ValidationRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE_NAME = "curves.png"

_WIDTH_INCHES, _LOSS_INCHES, _SCORES_INCHES = 12.0, 5.0, 3.8
_INK = "#20232a"
# Colours that stay apart for readers with red-green colour blindness (from the Okabe-Ito palette, its yellow darkened
# to be seen on white).
_COLOURS = ("#d55e00", "#2e91cd", "#be6296", "#b09600", "#008c66", "#00549e", "#8c5a3c", "#808080")
# A line with more points than this is drawn without marks.
_MARKED = 60
# How much of its colour a line keeps that is not smoothed.
_RAW_ALPHA = 0.28

_log = logging.getLogger(__name__)


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
    """Draw `run`/curves.png from `run`/log.jsonl and return its path.

    Raises:
        ReadError: If the log cannot be read or has no records.
        MissingExtraError: If matplotlib is not installed.
    """
    loss, validation = read_curves(run / LOG_NAME)
    folder = run.resolve()
    options = CurveOptions(title=f"{folder.parent.name}/{folder.name}") if options is None else options
    write_bytes(curves_png(loss, validation, options), run / PICTURE_NAME)
    return run / PICTURE_NAME


def smoothed(values: NDArray[np.float64], span: float) -> NDArray[np.float64]:
    """Return the exponential moving average whose weights fall to 1/e over `span` values.

    The first values are not favoured. A span of 1 or less gives the values back.
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
    """Return the picture as PNG; equal input gives equal bytes.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    picture = io.BytesIO()
    curves_figure(loss, validation, options).savefig(picture, format="png", dpi="figure", facecolor="white")
    return picture.getvalue()


def curves_figure(loss: Sequence[Curve], validation: Sequence[Curve], options: CurveOptions) -> Figure:
    """Return the figure: the loss above, the validation below if there is any.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "drawing the curves of a training",
            expected="matplotlib",
            got=str(error),
            remedy="Run pip install 'viscera[plots]'",
        ) from error
    heights = [_LOSS_INCHES, _SCORES_INCHES] if validation else [_LOSS_INCHES]
    with style.context("default"):  # not the user's own settings
        figure = Figure((_WIDTH_INCHES, sum(heights)), options.width_px / _WIDTH_INCHES, layout="constrained")
        figure.suptitle(options.title)
        panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        _draw_loss(panels[0], loss, options)
        if validation:
            _draw_scores(panels[1], validation)
        _set_iterations(panels[-1], [*loss, *validation], options)
    return figure


def _draw_loss(panel: Axes, curves: Sequence[Curve], options: CurveOptions) -> None:
    log = options.loss == "log" and any((curve.values > 0).any() for curve in curves)
    shown = [curve.values[curve.values > 0] if log else curve.values for curve in curves]
    if log:
        from matplotlib.ticker import LogLocator, NullLocator

        panel.set_yscale("log", nonpositive="mask")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter("{x:.6g}")
    panel.set_title("loss, logarithmic" if log else "loss", loc="left")
    panel.set_ylim(*_loss_limits([values for values in shown if values.size], options.smoothing, log=log))
    for index, (curve, colour) in enumerate(zip(curves, [_INK, *_colours(len(curves) - 1)], strict=True)):
        # The first curve, their sum, lies above the others.
        if options.smoothing > 0:
            panel.plot(curve.iterations, curve.values, color=colour, alpha=_RAW_ALPHA, linewidth=0.7, zorder=2)
        mean = smoothed(curve.values, options.smoothing * curve.values.size)
        _plot(panel, curve.iterations, mean, colour, f"{curve.name}  {mean[-1]:.3g}", zorder=4 - index / len(curves))
    _finish(panel)


def _draw_scores(panel: Axes, curves: Sequence[Curve]) -> None:
    # Good scores differ in their last tenths.
    low = math.floor(min(float(curve.values.min()) for curve in curves) * 10 + 1e-9) / 10
    panel.set_ylim(min(0.9, low), 1.0)
    panel.set_title("DSC of the averaged weights on held-out cases", loc="left")
    mean = _mean(curves) if len(curves) > 1 else None
    if mean is not None:
        _plot(panel, mean.iterations, mean.values, _INK, f"mean  {mean.values[-1]:.3f}", zorder=4)
    for curve, colour in zip(curves, _colours(len(curves)), strict=True):
        _plot(panel, curve.iterations, curve.values, colour, f"{curve.name}  {curve.values[-1]:.3f}", zorder=3)
    if mean is not None:
        best = int(mean.values.argmax())
        label = f"best mean  {mean.values[best]:.3f}\nat {mean.iterations[best]:,.0f}"
        panel.plot([], [], linestyle="none", label=label)
    _finish(panel)


def _plot(
    panel: Axes, x: NDArray[np.float64], y: NDArray[np.float64], colour: str, label: str, *, zorder: float
) -> None:
    marker = "o" if len(x) <= _MARKED else ""
    panel.plot(x, y, color=colour, label=label, marker=marker, markersize=3, linewidth=1.6, zorder=zorder)


def _finish(panel: Axes) -> None:
    panel.grid(color="#e2e5ea", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False)


def _set_iterations(panel: Axes, curves: Sequence[Curve], options: CurveOptions) -> None:
    first = min(float(curve.iterations[0]) for curve in curves)
    last = max(float(curve.iterations[-1]) for curve in curves)
    if options.iterations == "log":
        panel.set_xscale("log")
        panel.set_xlim(max(1.0, first), max(last, 2 * first, 2.0))
    else:
        panel.set_xlim(0.0, max(last, 1.0))
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_xlabel("iteration")


def _loss_limits(curves: Sequence[NDArray[np.float64]], smoothing: float, *, log: bool) -> tuple[float, float]:
    """Return limits wide enough for the smoothed lines and all but the wildest records."""
    values: list[float] = []
    for shown in curves:
        values += [*np.percentile(shown, (1, 99)), *smoothed(shown, smoothing * shown.size)]
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.04, 1.05)
        return low / room, high * room
    room = max(0.04 * (high - low), 0.01 * abs(high), 1e-9)
    return (0.0 if low >= 0 else low - room), high + room


def _colours(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def _mean(curves: Sequence[Curve]) -> Curve | None:
    """Return the mean over the organs where all of them have a value; None if that is nowhere."""
    by_iteration = [dict(zip(c.iterations.tolist(), c.values.tolist(), strict=True)) for c in curves]
    shared = [iteration for iteration in by_iteration[0] if all(iteration in other for other in by_iteration)]
    if not shared:
        return None
    means = [float(np.mean([values[iteration] for values in by_iteration])) for iteration in shared]
    return Curve(name="mean", iterations=np.array(shared), values=np.array(means))


class CurvesMonitor:
    """A monitor that keeps the picture in a run's folder up to date: after validations, and at the end.

    A picture that cannot be drawn or written is no reason to end a training: it is logged, and training continues.

    Args:
        run: The folder of the training.
        pause_s: Least time between two pictures, but for the last.
        clock: Seconds that only grow.
    """

    def __init__(self, run: Path, *, pause_s: float = 120.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._pause_s, self._clock = run, pause_s, clock
        self._next = -math.inf
        self._has_records = False

    def step(self, record: StepRecord) -> None:
        """Note that there is something to draw."""
        self._has_records = True

    def validated(self, record: ValidationRecord) -> None:
        """Draw the picture again, if the last one is old enough."""
        if self._has_records and self._clock() >= self._next:
            self._draw()
            self._next = self._clock() + self._pause_s

    def close(self) -> None:
        """Draw the last picture."""
        if self._has_records:
            self._draw()

    def _draw(self) -> None:
        try:
            write_curves(self._run)
        except VisceraError as error:
            _log.warning("%s", error)
