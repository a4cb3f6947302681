"""The figure of `efficiency.py`: seconds and memory of each method, on logarithmic scales, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from viscera.drawing.canvas import COLOURS, GREY, GRID, INK, Axis, Canvas, faded

if TYPE_CHECKING:
    from efficiency import Run

ROW_PX, BAR_PX = 25, 17
TITLE_PX, HEAD_PX, LEFT_PX, RIGHT_PX, BETWEEN_PX = 44, 34, 372, 86, 96
PANEL_PX = 330
SMALL_PX = 14


def figure(found: Mapping[str, Mapping[str, Sequence[Run]]], names: Mapping[str, str]) -> bytes:
    """A PNG with one row for each case and method: a bar of seconds, a bar of memory, both medians."""
    rows = sum(len(methods) for methods in found.values())
    height = TITLE_PX + HEAD_PX * len(found) + ROW_PX * rows + 40
    canvas = Canvas(LEFT_PX + 2 * PANEL_PX + BETWEEN_PX + RIGHT_PX, height)
    seconds = [median(run.seconds for run in runs) for methods in found.values() for runs in methods.values()]
    memory = [median(run.peak_mb for run in runs) for methods in found.values() for runs in methods.values()]
    panels = [
        (LEFT_PX, "seconds, process start to exit", Axis(low=0.5, high=1.3 * max(seconds), log=True), "{:.3g} s"),
        (
            LEFT_PX + PANEL_PX + BETWEEN_PX,
            "peak resident memory",
            Axis(low=100, high=1.3 * max(memory), log=True),
            "{:,.0f} MB",
        ),
    ]
    for left, title, axis, _ in panels:
        canvas.text((left, 14), title, colour=INK)
        for tick in axis.ticks(5):
            x = left + PANEL_PX * float(axis.places(np.array([tick]))[0])
            canvas.line([(x, TITLE_PX), (x, height - 30)], GRID, 1)
            canvas.text((x, height - 26), f"{tick:,g}", colour=GREY, size=SMALL_PX, anchor="ma")
    y = float(TITLE_PX)
    values = iter(zip(seconds, memory, strict=True))
    for case, methods in found.items():
        canvas.text((16, y + 8), case, colour=INK)
        y += HEAD_PX
        for method in methods:
            colour = COLOURS[4] if method.startswith("viscera") else COLOURS[7]
            canvas.text((LEFT_PX - 10, y + 1), names[method], colour=INK, size=SMALL_PX, anchor="ra")
            for (left, _, axis, form), value in zip(panels, next(values), strict=True):
                end = left + PANEL_PX * float(axis.places(np.array([value]))[0])
                canvas.box((left, y), (end, y + BAR_PX), outline=colour, fill=faded(colour, 0.75), width=1)
                canvas.text((end + 6, y + 1), form.format(value), colour=INK, size=SMALL_PX)
            y += ROW_PX
    return canvas.png()
