"""The pictures of realism.py, drawn with Pillow: histograms, noise power, every figure, and slices side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]
Array = NDArray[Any]

BACK, INK, FAINT, GRID = (255, 255, 255), (32, 35, 42), (110, 116, 128), (226, 229, 234)
BAND, DOT = (205, 212, 222), (150, 158, 172)
# Okabe and Ito's, the yellow darkened; one colour for each labelled real case.
COLOURS: tuple[Colour, ...] = (
    (213, 94, 0),
    (46, 145, 205),
    (190, 98, 150),
    (0, 140, 102),
    (176, 150, 0),
    (0, 84, 158),
    (140, 90, 60),
)
BIG, SMALL = 18, 14


class Scan(Protocol):
    """What realism.py measured; see `Measured` there."""

    @property
    def name(self) -> str:
        """Of the case."""

    @property
    def kind(self) -> str:
        """Phase, "real" or "labels"."""

    @property
    def figures(self) -> dict[str, float]:
        """By what they are."""

    @property
    def histograms(self) -> dict[str, list[float]]:
        """Counts of HU by organ."""

    @property
    def noise_power(self) -> list[float]:
        """By frequency."""

    @property
    def slices(self) -> Array | None:
        """One of them."""


def figures(real: Sequence[Scan], synthetic: Sequence[Scan], edges_hu: Array, frequencies: Array) -> dict[str, bytes]:
    """PNGs by name."""
    scans = [one for one in real if one.kind == "real"]
    return {
        "histograms": histogram_png(scans, synthetic, edges_hu),
        "noise_power": noise_png(scans, synthetic, frequencies),
        "figures": strip_png(real, synthetic),
        "slices": slice_png(scans, synthetic),
    }


def font(size: int) -> Font:
    return ImageFont.load_default(size)


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


class Panel:
    """Axes with a frame, ticks and a title on a picture."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, place: tuple[int, int, int, int], x: Sequence[float], y: Sequence[float]
    ) -> None:
        self.draw, self.place = draw, place
        self.x, self.y = (float(x[0]), float(x[-1])), (float(y[0]), float(y[-1]))
        left, top, right, bottom = place
        for tick in x:
            at = self.point(float(tick), self.y[0])[0]
            draw.line([(at, top), (at, bottom)], fill=GRID)
            draw.text((at, bottom + 4), f"{tick:g}", fill=FAINT, font=font(SMALL), anchor="mt")
        for tick in y:
            at = self.point(self.x[0], float(tick))[1]
            draw.line([(left, at), (right, at)], fill=GRID)
            draw.text((left - 6, at), f"{tick:g}", fill=FAINT, font=font(SMALL), anchor="rm")

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where values lie on the picture."""
        left, top, right, bottom = self.place
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (min(max(y, self.y[0]), self.y[1]) - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def title(self, text: str) -> None:
        """Writes above the frame."""
        self.draw.text((self.place[0], self.place[1] - 26), text, fill=INK, font=font(BIG))

    def line(self, x: Array, y: Array, colour: Colour, width: int = 3) -> None:
        """Draws a curve; NaN are left out."""
        points = [self.point(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True) if np.isfinite(b)]
        if len(points) > 1:
            self.draw.line(points, fill=colour, width=width)

    def band(self, x: Array, low: Array, high: Array) -> None:
        """Fills between two curves."""
        there = np.isfinite(low) & np.isfinite(high)
        upper = [self.point(a, b) for a, b in zip(x[there].tolist(), high[there].tolist(), strict=True)]
        lower = [self.point(a, b) for a, b in zip(x[there].tolist(), low[there].tolist(), strict=True)]
        if len(upper) > 1:
            self.draw.polygon(upper + lower[::-1], fill=BAND)


def legend(draw: ImageDraw.ImageDraw, place: tuple[int, int], rows: Sequence[tuple[str, Colour]]) -> None:
    left, top = place
    for index, (text, colour) in enumerate(rows):
        y = top + index * 22
        draw.rectangle([left, y + 3, left + 22, y + 13], fill=colour)
        draw.text((left + 30, y), text, fill=INK, font=font(SMALL))


def real_rows(real: Sequence[Scan]) -> list[tuple[str, Colour]]:
    """The names that have a colour: labelled cases first, as far as colours go."""
    labelled_first = sorted(real, key=lambda one: not one.histograms)
    return [(one.name, colour) for one, colour in zip(labelled_first, COLOURS, strict=False)]


def histogram_png(real: Sequence[Scan], synthetic: Sequence[Scan], edges_hu: Array) -> bytes:
    """For each organ the density of HU in every real case over that of the synthetic ones."""
    names = sorted(
        {name for one in real for name in one.histograms}, key=["liver", "kidney", "spleen", "pancreas"].index
    )
    picture = Image.new("RGB", (1560, 980), BACK)
    draw = ImageDraw.Draw(picture)
    middles = (edges_hu[:-1] + edges_hu[1:]) / 2
    colours = dict(real_rows(real))
    for index, name in enumerate(names):
        left, top = 70 + index % 2 * 640, 60 + index // 2 * 470
        drawn = np.array([densities(one.histograms[name]) for one in synthetic if name in one.histograms])
        high = max(2.0, *(densities(one.histograms[name]).max() for one in real if name in one.histograms))
        ticks = [float(tick) for tick in range(int(high) + 2)]
        panel = Panel(draw, (left, top, left + 560, top + 360), range(-100, 301, 50), ticks)
        shown = (middles >= -100) & (middles <= 300)
        panel.band(middles[shown], *np.percentile(drawn[:, shown], (5, 95), axis=0))
        panel.line(middles[shown], drawn[:, shown].mean(axis=0), INK, 4)
        for one in real:
            if name in one.histograms:
                panel.line(middles[shown], densities(one.histograms[name])[shown], colours.get(one.name, INK))
        panel.title(f"{name}: % of voxels per HU, by HU")
    rows = [(one.name, colours.get(one.name, INK)) for one in real if one.histograms]
    legend(draw, (1330, 60), [("all synthetic", INK), ("5 to 95 % of them", BAND), *rows])
    return encoded(picture)


def densities(counts: Sequence[float]) -> Array:
    values = np.array(counts, dtype=float)
    shares: Array = values / values.sum() * 100 / 5.0
    return shares


def noise_png(real: Sequence[Scan], synthetic: Sequence[Scan], frequencies: Array) -> bytes:
    """The liver's noise power by frequency, logarithmic."""
    picture = Image.new("RGB", (1100, 620), BACK)
    draw = ImageDraw.Draw(picture)
    middles = (frequencies[:-1] + frequencies[1:]) / 2
    panel = Panel(draw, (90, 60, 840, 540), [tick / 10 for tick in range(7)], range(-1, 6))
    drawn = np.log10(np.maximum([one.noise_power for one in synthetic if one.noise_power], 1e-3))
    there = ~np.isnan(drawn).all(axis=0)
    panel.band(middles[there], *np.nanpercentile(drawn[:, there], (5, 95), axis=0))
    panel.line(middles[there], np.nanmedian(drawn[:, there], axis=0), INK, 4)
    colours = dict(real_rows(real))
    for one in real:
        if one.noise_power:
            panel.line(middles, np.log10(np.maximum(one.noise_power, 1e-3)), colours.get(one.name, INK))
    panel.title("liver: log10 of the noise power (HU^2 mm^2), by spatial frequency (1/mm)")
    rows = [(one.name, colours.get(one.name, INK)) for one in real if one.noise_power]
    legend(draw, (870, 60), [("synthetic, median", INK), ("5 to 95 % of them", BAND), *rows])
    return encoded(picture)


def strip_png(real: Sequence[Scan], synthetic: Sequence[Scan]) -> bytes:
    """A row for each figure: every synthetic scan a grey dot, every real one a coloured mark."""
    names = sorted({name for one in real for name in one.figures} & {name for one in synthetic for name in one.figures})
    left, right, row = 470, 1250, 27
    picture = Image.new("RGB", (1620, 60 + row * len(names)), BACK)
    draw = ImageDraw.Draw(picture)
    colours = dict(real_rows([one for one in real if one.kind == "real"]))
    for index, name in enumerate(names):
        y = 40 + index * row
        drawn = np.array([value for one in synthetic if np.isfinite(value := one.figures.get(name, np.nan))])
        seen = [(one, value) for one in real if np.isfinite(value := one.figures.get(name, np.nan))]
        ends = [*drawn, *(value for _, value in seen)]
        low, high = min(ends), max(ends)
        scale = (right - left) / ((high - low) or 1)
        draw.text((left - 14, y), name, fill=INK, font=font(SMALL), anchor="rm")
        draw.text((right + 14, y), f"{low:.3g} to {high:.3g}", fill=FAINT, font=font(SMALL), anchor="lm")
        one, five, nine, last = (left + (value - low) * scale for value in np.percentile(drawn, (1, 25, 75, 99)))
        draw.rectangle([one, y - 9, last, y + 9], fill=GRID)
        draw.rectangle([five, y - 9, nine, y + 9], fill=BAND)
        for value in drawn:
            x = left + (value - low) * scale
            draw.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill=DOT)
        for scan, value in seen:
            x = left + (value - low) * scale
            size = 6 if scan.kind == "real" else 3
            draw.ellipse([x - size, y - size, x + size, y + size], fill=colours.get(scan.name, INK))
    draw.text((10, 8), "grey: synthetic, 1 to 99 % and quartiles; colours: real", fill=INK, font=font(SMALL))
    legend(draw, (1400 - 20, 40), [*colours.items(), ("label maps", INK)])
    return encoded(picture)


def slice_png(real: Sequence[Scan], synthetic: Sequence[Scan]) -> bytes:
    """Slices as the segmentation network reads them: the real ones, then as many rows of synthetic ones."""
    tile, columns = 220, 6
    shown: list[tuple[str, Array | None]] = [(one.name, one.slices) for one in real if one.slices is not None]
    shown += [("", None)] * (-len(shown) % columns)
    shown += [(f"{one.name} {one.kind}", one.slices) for one in synthetic if one.slices is not None][: 4 * columns]
    picture = Image.new("RGB", (columns * tile, -(-len(shown) // columns) * (tile + 20)), BACK)
    draw = ImageDraw.Draw(picture)
    for index, (name, plane) in enumerate(shown):
        left, top = index % columns * tile, index // columns * (tile + 20)
        draw.text((left + 4, top + 2), name, fill=INK, font=font(SMALL))
        if plane is not None:
            part = Image.fromarray(plane)
            scale = min((tile - 4) / part.width, (tile - 4) / part.height)
            part = part.resize((int(part.width * scale), int(part.height * scale)), Image.Resampling.BILINEAR)
            picture.paste(part.convert("RGB"), (left + 2, top + 20))
    return encoded(picture)
