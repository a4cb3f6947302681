"""What all charts share: one style of matplotlib's, its colours, and PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from viscera.core.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GREY, GRID = "#20232a", "#6e7480", "#e2e5ea"
# Colours that stay apart for readers with red-green colour blindness (from the Okabe-Ito palette, its yellow darkened
# to be seen on white).
COLOURS = ("#d55e00", "#2e91cd", "#be6296", "#b09600", "#008c66", "#00549e", "#8c5a3c", "#808080")

_STYLE = {
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
}


def require_matplotlib(doing: str) -> None:
    """Do nothing if matplotlib is installed.

    Args:
        doing: What is drawn, for the error's message.

    Raises:
        MissingExtraError: If it is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            doing, expected="matplotlib", got=str(error), remedy="Run pip install 'viscera[plots]'"
        ) from error


@contextmanager
def chart_style(doing: str) -> Iterator[None]:
    """Have figures drawn in the charts' style, regardless of the user's own settings; a decorator, too.

    Args:
        doing: What is drawn, for the error's message.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    require_matplotlib(doing)
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def figure_png(figure: Figure, dpi: int = 100) -> bytes:
    """Return the figure as PNG; equal figures give equal bytes with one version of matplotlib."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, facecolor="white")
    return picture.getvalue()
