"""The figure of `efficiency.py`: seconds and memory of each method, on logarithmic scales, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from viscera.drawing.charts import COLOURS, INK, chart_style, figure_png

if TYPE_CHECKING:
    from efficiency import Run
    from matplotlib.axes import Axes


@chart_style("drawing the efficiency")
def figure(found: Mapping[str, Mapping[str, Sequence[Run]]], names: Mapping[str, str]) -> bytes:
    """Return a PNG with one row for each case and method: a bar of seconds, a bar of memory, both medians."""
    from matplotlib.figure import Figure

    rows = [(case, method, runs) for case, methods in found.items() for method, runs in methods.items()]
    drawing = Figure((12.5, 0.9 + 0.28 * len(rows) + 0.3 * len(found)), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    heights, height = [], 0.0
    for case, methods in found.items():
        left.text(-0.02, height, case, transform=left.get_yaxis_transform(), ha="right", va="center", weight="bold")
        heights += [height + 1 + place for place in range(len(methods))]
        height += len(methods) + 1.2
    colours = [COLOURS[4] if method.startswith("viscera") else COLOURS[7] for _, method, _ in rows]
    seconds = [median(run.seconds for run in runs) for *_, runs in rows]
    memory = [median(run.peak_mb for run in runs) for *_, runs in rows]
    _draw_bars(left, heights, seconds, colours, "{:.3g} s")
    _draw_bars(right, heights, memory, colours, "{:,.0f} MB")
    left.set_title("seconds, process start to exit", loc="left")
    right.set_title("peak resident memory", loc="left")
    left.set_xlim(left=min(0.5, 0.8 * min(seconds)))
    right.set_xlim(left=min(100, 0.8 * min(memory)))
    left.set_yticks(heights, [names[method] for _, method, _ in rows], color=INK)
    left.set_ylim(height, -0.8)
    return figure_png(drawing)


def _draw_bars(axes: Axes, heights: list[float], values: list[float], colours: list[str], words: str) -> None:
    axes.set_xscale("log")
    bars = axes.barh(heights, values, height=0.7, color=colours, alpha=0.75)
    axes.bar_label(bars, [words.format(value) for value in values], padding=4)
    axes.set_xlim(right=2.2 * max(values))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
