"""What the command line says: results on stdout, notes, errors and the progress bar on stderr."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any, Self

from viscera.errors import VisceraError

_BAR = "{desc} {percentage:3.0f}%|{bar:24}| {elapsed}"


class Console:
    """Prints for one run.

    Args:
        verbose: Show tracebacks of unexpected errors.
        quiet: Say nothing but errors.
    """

    def __init__(self, *, verbose: bool = False, quiet: bool = False) -> None:
        self.verbose = verbose
        self.quiet = quiet

    def say(self, line: str) -> None:
        """Prints a result line, unless quiet."""
        if not self.quiet:
            print(line, flush=True)

    def note(self, line: str) -> None:
        """Prints what the user should know about a result, unless quiet."""
        if not self.quiet:
            print(f"viscera: note: {line}", file=sys.stderr, flush=True)

    def fail(self, error: BaseException, *, about: str | None = None) -> None:
        """Prints one line for `error`, and its traceback if verbose and it was not raised on purpose."""
        self.complain(error_line(error, verbose=self.verbose), about=about)
        if self.verbose and not isinstance(error, VisceraError):
            traceback.print_exception(error, file=sys.stderr)

    def complain(self, line: str, *, about: str | None = None) -> None:
        """Prints one line about what went wrong."""
        subject = f"{about}: " if about else ""
        print(f"viscera: error: {subject}{line}", file=sys.stderr, flush=True)

    def stopped(self, how: str) -> None:
        """Prints that the run ended before its time."""
        print(f"viscera: {how}", file=sys.stderr, flush=True)

    def progress(self) -> Progress:
        """A progress bar, shown on a terminal only."""
        return Progress(shown=not self.quiet and sys.stderr.isatty())


class Progress:
    """A bar with the present stage's name; `pause` clears it while a line is printed."""

    def __init__(self, *, shown: bool) -> None:
        self._bar: Any = None
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=1, bar_format=_BAR, leave=False, file=sys.stderr)

    def begin(self, stage: str) -> None:
        """Names the stage that begins."""
        if self._bar is not None:
            self._bar.set_description_str(stage)

    def reach(self, step: int, *, of: int) -> None:
        """Moves the bar to `step` of so many."""
        if self._bar is not None:
            self._bar.total = of
            self._bar.n = step
            self._bar.refresh()

    def pause(self) -> None:
        """Clears the bar until the next change, so that a line can be printed."""
        if self._bar is not None:
            self._bar.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def error_line(error: BaseException, *, verbose: bool = False) -> str:
    """One line for `error`: the message of a VisceraError, else type, message and how to see the traceback."""
    message = " ".join(str(error).split())
    if isinstance(error, VisceraError):
        return message
    hint = "" if verbose else " (unexpected; -v shows the traceback)"
    return f"{type(error).__name__}{': ' if message else ''}{message}{hint}"
