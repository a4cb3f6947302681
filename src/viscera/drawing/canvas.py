"""What charts are drawn with: a white canvas in pixels of the finished picture, and axes with round ticks."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL import ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

# Pictures are drawn so much larger and then reduced, for smooth lines.
ENLARGED = 2
FONT_PX = 17

WHITE: Colour = (255, 255, 255)
INK: Colour = (32, 35, 42)
GREY: Colour = (110, 116, 128)
GRID: Colour = (226, 229, 234)
# Colours that stay apart for readers with red-green colour blindness (from the Okabe-Ito palette, its yellow darkened
# to be seen on white).
COLOURS: tuple[Colour, ...] = (
    (213, 94, 0),
    (46, 145, 205),
    (190, 98, 150),
    (176, 150, 0),
    (0, 140, 102),
    (0, 84, 158),
    (140, 90, 60),
    (128, 128, 128),
)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range of values and whether equal ratios (`log`), not differences, are equally long on it."""

    low: float
    high: float
    log: bool = False

    def places(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where values lie: 0 at the low end, 1 at the high end."""
        if self.log:
            low, high, values = math.log(self.low), math.log(self.high), np.log(values)
        else:
            low, high = self.low, self.high
        return (values - low) / (high - low)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values within the range, at least two of them."""
        if self.log:
            for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
                found = self._log_ticks(mantissas)
                if len(found) >= min(4, count):
                    every = math.ceil(len(found) / (2 * count))
                    return found[::every]
        rough = (self.high - self.low) / count
        scale = 10.0 ** math.floor(math.log10(rough))
        step = next(scale * nice for nice in (1, 2, 2.5, 5, 10) if scale * nice >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]

    def _log_ticks(self, mantissas: Sequence[float]) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [float(f"{mantissa}e{decade}") for decade in decades for mantissa in mantissas]
        return [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]


class Canvas:
    """A white picture; all measures are in pixels of the finished one.

    Args:
        width_px: Its width.
        height_px: Its height.

    Raises:
        MissingExtraError: If Pillow is not installed.
    """

    def __init__(self, width_px: int, height_px: int) -> None:
        try:
            from PIL import Image, ImageDraw
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "drawing a chart",
                expected="the package pillow",
                got=str(error),
                remedy="Run pip install pillow",
            ) from error
        self.width_px, self.height_px = width_px, height_px
        self._image = Image.new("RGB", (width_px * ENLARGED, height_px * ENLARGED), WHITE)
        self._draw = ImageDraw.Draw(self._image)
        self._fonts: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}

    def text(self, at: Point, text: str, *, colour: Colour = INK, size: int = FONT_PX, anchor: str = "la") -> None:
        """Write `text` at a point, placed there as Pillow's `anchor` says."""
        place = (at[0] * ENLARGED, at[1] * ENLARGED)
        self._draw.text(place, text, fill=colour, font=self._font(size), anchor=anchor)

    def text_width(self, text: str, size: int = FONT_PX) -> float:
        """How wide `text` is."""
        return float(self._font(size).getlength(text)) / ENLARGED

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """Draw a line through points."""
        larger = [(x * ENLARGED, y * ENLARGED) for x, y in points]
        self._draw.line(larger, fill=colour, width=max(1, round(width * ENLARGED)), joint="curve")

    def dashes(self, start: Point, end: Point, colour: Colour, width: float) -> None:
        """Draw a dashed line."""
        length = math.dist(start, end)
        for index in range(0, max(1, math.ceil(length / 6)), 2):
            one, other = (min(1.0, 6 * part / length) if length else 0.0 for part in (index, index + 1))
            ends = [(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t) for t in (one, other)]
            self.line(ends, colour, width)

    def mark(self, at: Point, colour: Colour, radius: float = 3.2) -> None:
        """Draw a dot."""
        x, y, larger = at[0] * ENLARGED, at[1] * ENLARGED, radius * ENLARGED
        self._draw.ellipse((x - larger, y - larger, x + larger, y + larger), fill=colour)

    def box(self, corner: Point, opposite: Point, *, outline: Colour, fill: Colour, width: float = 1.4) -> None:
        """Draw a filled rectangle."""
        left, right = sorted((corner[0] * ENLARGED, opposite[0] * ENLARGED))
        top, bottom = sorted((corner[1] * ENLARGED, opposite[1] * ENLARGED))
        self._draw.rectangle((left, top, right, bottom), fill=fill, outline=outline, width=round(width * ENLARGED))

    def png(self) -> bytes:
        """The finished picture; equal drawing gives equal bytes with one version of Pillow."""
        from PIL import Image

        data = io.BytesIO()
        self._image.resize((self.width_px, self.height_px), Image.Resampling.BOX).save(data, format="PNG")
        return data.getvalue()

    def _font(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        from PIL import ImageFont

        if size not in self._fonts:
            self._fonts[size] = ImageFont.load_default(size * ENLARGED)
        return self._fonts[size]


def faded(colour: Colour, share: float) -> Colour:
    """The colour with only `share` of it kept on white."""
    red, green, blue = (round(255 + (channel - 255) * share) for channel in colour)
    return red, green, blue
