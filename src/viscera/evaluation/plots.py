"""Scores of many cases as charts: boxes by organ, DSC against volume, and the agreement of volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscera.drawing.charts import COLOURS, GREY, INK, chart_style, figure_png
from viscera.evaluation.scores import CaseScore, Evaluation, Measure
from viscera.evaluation.statistics import scored_organs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Values = NDArray[np.float64]

# Keys of the measures that are drawn as boxes.
_BOXED = ("dsc", "nsd", "hd95_mm")
# Limits of agreement hold 95 % of normally distributed differences (Bland and Altman 1986, Lancet 327, 307-310).
_LIMITS_SD = 1.96
_DOING = "drawing the charts of an evaluation"
_LONGEST_NAME = 28


def evaluation_plots(evaluations: Mapping[str, Evaluation]) -> dict[str, bytes]:
    """Return PNGs by file name: boxes of DSC, NSD and HD95 with all methods side by side, and each method's volumes.

    Without any scored case there are none. Equal input gives equal bytes with one version of matplotlib.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    scored = {name: evaluation for name, evaluation in evaluations.items() if evaluation.scores}
    figures: dict[str, Figure] = {}
    if not scored:
        return {}
    measures = {measure.key: measure for measure in next(iter(scored.values())).measures}
    for key in _BOXED:
        figures[key.removesuffix("_mm")] = boxes_figure(scored, measures[key])
    for number, (name, evaluation) in enumerate(scored.items(), start=1):
        # Two names may be equal once they are fit for a file.
        end = "" if len(scored) == 1 else f"_{number}_{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-.')}"
        title = "" if len(scored) == 1 else name
        figures[f"dsc_against_volume{end}"] = volumes_figure(evaluation, title)
        figures[f"bland_altman{end}"] = bland_altman_figure(evaluation, title)
    return {f"{name}.png": figure_png(figure) for name, figure in figures.items()}


@chart_style(_DOING)
def boxes_figure(evaluations: Mapping[str, Evaluation], measure: Measure) -> Figure:
    """Draw a box and all cases' values per organ and method.

    A box runs from the first to the third quartile with a line at the median; whiskers reach the farthest value within
    1.5 times its height. Below an organ stands how many values are shown; infinite and undefined ones are counted as
    missing. One method's boxes have the organs' colours, several methods' have their own.
    """
    from matplotlib.figure import Figure

    first = next(iter(evaluations.values()))
    organs = scored_organs(first.scores, first.organs)
    columns = [[_shown_values(evaluation, organ, measure) for evaluation in evaluations.values()] for organ in organs]
    count = len(evaluations)
    figure = Figure((max(4.2, 1.2 + len(organs) * max(1.4, 0.6 * count)), 5.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / (count + 0.5)
    colours = _organ_colours(first)
    for place, (organ, column) in enumerate(zip(organs, columns, strict=True)):
        for number, (values, _) in enumerate(column):
            colour = colours[organ] if count == 1 else COLOURS[number % len(COLOURS)]
            _draw_box(axes, place + (number - (count - 1) / 2) * width * 1.1, values, colour, width=min(width, 0.45))
    labels = ["\n".join([organ, *_counts(column)]) for organ, column in zip(organs, columns, strict=True)]
    axes.set_xticks(range(len(organs)), labels, color=INK)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.6, len(organs) - 0.4)
    axes.set_ylabel(f"{measure.title} in {measure.unit}")
    axes.set_ylim(*_score_limits(measure, [values for column in columns for values, _ in column]))
    if count > 1:
        _add_legend(figure, list(evaluations))
    return figure


@chart_style(_DOING)
def volumes_figure(evaluation: Evaluation, title: str = "") -> Figure:
    """Draw the DSC of every organ of every case against its true volume, which is on a logarithmic axis.

    Organs the reference does not show have no place on it and are left out.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    shown = [score for score in evaluation.scores if score.reference_ml > 0 and not math.isnan(score.dsc)]
    volumes = np.array([score.reference_ml for score in shown] or [1.0])
    low, high = float(volumes.min()) / 1.3, float(volumes.max()) * 1.3
    figure = Figure((7.6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.set_xscale("log")
    mantissas = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 1000 * low else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=mantissas))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.set_xlim(low, high)
    axes.set_ylim(*_score_limits(_dsc(evaluation), [np.array([100 * score.dsc for score in shown])]))
    axes.set_xlabel("reference volume in ml")
    axes.set_ylabel("DSC in %")
    for organ in scored_organs(evaluation.scores, evaluation.organs):
        own = [score for score in shown if score.organ == organ]
        xs, ys = [score.reference_ml for score in own], [100 * score.dsc for score in own]
        _draw_dots(axes, np.array(xs), np.array(ys), _organ_colours(evaluation)[organ], label=_shortened(organ))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), markerscale=1.5)
    return figure


@chart_style(_DOING)
def bland_altman_figure(evaluation: Evaluation, title: str = "") -> Figure:
    """Draw one panel per organ: the difference of both volumes against their mean.

    Lines stand at the mean difference and at the limits of agreement, 1.96 standard deviations from it. Cases in which
    neither label map shows the organ are left out.
    """
    from matplotlib.figure import Figure

    organs = scored_organs(evaluation.scores, evaluation.organs)
    columns = min(2, len(organs))
    rows = math.ceil(len(organs) / columns)
    figure = Figure((5.2 * columns, 3.8 * rows + 0.3), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for organ, axes in zip(organs, panels, strict=False):
        shown = [
            score for score in evaluation.scores if score.organ == organ and score.reference_ml + score.prediction_ml
        ]
        axes.set_title(f"{_shortened(organ)}, n = {len(shown)}", loc="right", fontsize="medium")
        _draw_agreement(axes, shown, _organ_colours(evaluation)[organ])
    for axes in panels[len(organs) :]:
        axes.set_visible(False)
    return figure


def _draw_box(axes: Axes, x: float, values: _Values, colour: str, *, width: float) -> None:
    """Draw the box, its whiskers and every value as a dot, strewn sideways in a pattern that is always the same."""
    if not values.size:
        return
    axes.boxplot(
        [values],
        positions=[x],
        widths=width,
        whis=1.5,
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": (colour, 0.18), "edgecolor": (colour, 0.8)},
        whiskerprops={"color": GREY},
        capprops={"color": GREY},
        medianprops={"color": INK, "linewidth": 1.8},
    )
    # Multiples of the golden ratio lie evenly however many there are.
    aside = (np.arange(values.size) * 0.6180339887498949 % 1 - 0.5) * 0.8 * width
    _draw_dots(axes, np.asarray(x + aside, dtype=np.float64), values, colour)


def _draw_dots(axes: Axes, xs: _Values, ys: _Values, colour: str, *, label: str | None = None) -> None:
    axes.scatter(xs, ys, s=16, color=colour, alpha=0.7, linewidths=0, label=label, clip_on=False, zorder=3)


def _draw_agreement(axes: Axes, scores: Sequence[CaseScore], colour: str) -> None:
    means = np.array([(score.reference_ml + score.prediction_ml) / 2 for score in scores])
    differences = np.array([score.difference_ml for score in scores])
    bias = float(differences.mean()) if scores else 0.0
    spread = _LIMITS_SD * float(differences.std(ddof=1)) if len(scores) > 1 else 0.0
    lines = (bias + spread, bias, bias - spread) if spread else (bias,)
    _draw_dots(axes, means, differences, colour)
    axes.set_xlim(*_widened(means, 0.06))
    low, high = _widened(np.array([*differences, *lines, 0.0]), 0.08)
    axes.set_ylim(low, high)
    axes.set_xlabel("mean of both volumes in ml")
    axes.set_ylabel("prediction - reference in ml")
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.yaxis.set_major_formatter("{x:,.6g}")
    free = math.inf
    for value in lines:
        axes.axhline(value, color=INK, linewidth=1.2, linestyle="-" if value == bias else "--")
        # Labels of close lines stand one below the other.
        free = min((value - low) / (high - low), free - 0.065)
        axes.text(1.02, free, f"{value:+.1f}", transform=axes.transAxes, verticalalignment="center")


def _widened(values: _Values, room: float) -> tuple[float, float]:
    """Return the ends of an axis over all values with some room at both."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    extra = max(room * (high - low), 0.01 * max(abs(low), abs(high)), 0.05)
    return low - extra, high + extra


def _score_limits(measure: Measure, values: Sequence[_Values]) -> tuple[float, float]:
    """Return limits from 0 upwards for distances; for shares up to 100 %, and down to the next ten below the lowest."""
    given = np.concatenate([*values, np.empty(0)])
    if measure.best == "high":
        low = math.floor(float(given.min()) / 10 - 1e-9) * 10.0 if given.size else 0.0
        return min(90.0, max(0.0, low)) - 0.5, 100.5
    return 0.0, 1.06 * float(given.max()) if given.size and given.max() > 0 else 1.0


def _shown_values(evaluation: Evaluation, organ: str, measure: Measure) -> tuple[_Values, int]:
    """Return the finite values of an organ as they are shown, and how many there are in all."""
    values = np.array([measure.value(score) for score in evaluation.scores if score.organ == organ])
    return values[np.isfinite(values)] * measure.factor, values.size


def _counts(column: Sequence[tuple[_Values, int]]) -> list[str]:
    """Return how many values are shown of an organ, and how many are missing."""
    shown = ", ".join(dict.fromkeys(str(values.size) for values, _ in column))
    missing = [count - values.size for values, count in column]
    return [f"n = {shown}", *([f"{', '.join(map(str, missing))} missing"] if any(missing) else [])]


def _organ_colours(evaluation: Evaluation) -> dict[str, str]:
    return {organ.name: COLOURS[place % len(COLOURS)] for place, organ in enumerate(evaluation.organs)}


def _add_legend(figure: Figure, names: Sequence[str]) -> None:
    """Add the methods with their colours above the panels."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=COLOURS[number % len(COLOURS)], marker="o", linestyle="none", label=_shortened(name))
        for number, name in enumerate(names)
    ]
    columns = max(1, int(figure.get_figwidth() / 2.8))
    figure.legend(handles=marks, loc="outside upper left", ncols=min(columns, len(names)))


def _dsc(evaluation: Evaluation) -> Measure:
    return next(measure for measure in evaluation.measures if measure.key == "dsc")


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
