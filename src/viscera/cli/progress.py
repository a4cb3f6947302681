"""The progress display: a bar and some lines at the foot of a terminal, drawn by rich and gone in the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_BAR_COLUMNS = 24
# A terminal is redrawn this often at most by `show`.
_REDRAW_SECONDS = 0.2


class Progress:
    """Shows how far a command is; use it in a `with` block, which leaves the terminal clean.

    rich, which takes a while to import, is imported for the first picture.

    Args:
        shown: Whether anything is drawn.
        stream: The terminal, None for `sys.stderr`.
        clock: Seconds that only grow.
    """

    def __init__(
        self, *, shown: bool, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = _LostTerminal(sys.stderr if stream is None else stream) if shown else None
        self._clock = clock
        self._begun = clock()
        self._console: Console | None = None
        self._live: Live | None = None
        self._stage = ""
        self._share = 0.0
        self._drawn: float | None = None

    @property
    def is_shown(self) -> bool:
        """Whether anything is drawn; False once the terminal has gone."""
        return self._stream is not None and not self._stream.lost

    @property
    def columns(self) -> int:
        """The terminal's width; 0 if there is none."""
        return self._terminal().width if self.is_shown else 0

    def begin(self, stage: str) -> None:
        """Name the stage that begins."""
        self._stage = stage
        self._draw_stage()

    def reach(self, step: int, *, of: int) -> None:
        """Move the bar to `step` of so many."""
        self._share = step / of if of else 0.0
        self._draw_stage()

    def show(self, *lines: str, share: float | None = None, now: bool = False) -> None:
        """Show `lines`, the first one after a bar that is full at a `share` of 1, unless it is too early to redraw.

        Args:
            lines: Each is cut to the terminal's width.
            share: None for no bar.
            now: Draw in any case.
        """
        if not self.is_shown or not (now or self._drawn is None or self._clock() - self._drawn >= _REDRAW_SECONDS):
            return
        if self._live is None:
            from rich.live import Live

            # Without a thread that redraws: nothing is to run next to the work.
            self._live = Live(
                console=self._terminal(),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(_picture(lines, share), refresh=True)
        self._drawn = self._clock()

    def pause(self) -> None:
        """Clear the display until the next change, so that a line can be printed."""
        if self._live is not None:
            self._live.stop()
            # A new one next time: this one would move the cursor up over what is printed meanwhile.
            self._live = self._drawn = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pause()

    def _draw_stage(self) -> None:
        minutes, seconds = divmod(int(self._clock() - self._begun), 60)
        self.show(f"{100 * self._share:3.0f} %  {minutes}:{seconds:02d}  {self._stage}", share=self._share, now=True)

    def _terminal(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self._stream, force_terminal=True, force_jupyter=False)  # type: ignore[arg-type]
        return self._console


class _LostTerminal:
    """A terminal that takes nothing once it has gone, which is no reason to end the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if not self.lost:
            try:
                act()
            except (OSError, ValueError):  # gone, or closed
                self.lost = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _picture(lines: tuple[str, ...], share: float | None) -> Any:
    """The lines as rich draws them, without markup, one row each."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    # A file's name may have anything in it, also what moves a terminal's cursor.
    texts = ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
    drawn: list[Any] = [Text(text, no_wrap=True, overflow="ellipsis") for text in texts]
    if share is not None:
        first = Table.grid(padding=(0, 1))
        first.add_column(width=_BAR_COLUMNS)
        first.add_column(no_wrap=True, overflow="ellipsis")
        first.add_row(ProgressBar(total=1.0, completed=share, width=_BAR_COLUMNS), drawn[0])
        drawn[0] = first
    return Group(*drawn)
