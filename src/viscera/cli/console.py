"""What the command line says: results on stdout, notes, errors and the progress bar on stderr.

There need be neither: a service or a program with windows has no console (`sys.stdout` is None), a shell may have
closed it (`>&-`), and a terminal may go while work goes on. What was to be printed is lost then; the work is not.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from viscera.core.errors import VisceraError, WriteError, reason

_BAR = "{desc} {percentage:3.0f}%|{bar:24}| {elapsed}"


class Console:
    """Prints for one run.

    Args:
        verbose: Show tracebacks of unexpected errors.
        quiet: Say nothing but errors.

    Attributes:
        lost: Why a result line could not be printed, None if all were.
    """

    def __init__(self, *, verbose: bool = False, quiet: bool = False) -> None:
        self.verbose = verbose
        self.quiet = quiet
        self.lost: OSError | None = None

    def say(self, line: str) -> None:
        """Print a result line, unless quiet; one that cannot be printed is told of by `require_printed`."""
        if self.quiet:
            return
        try:
            print(line, flush=True)
        except BrokenPipeError:
            raise  # the reader has seen enough
        except OSError as error:  # a full disk, a terminal that is gone
            self.lost = self.lost or error

    def require_printed(self) -> None:
        """Raise WriteError if a result line could not be printed."""
        if self.lost is not None:
            raise WriteError(
                "printing the results",
                expected="a terminal or file that takes them",
                got=reason(self.lost),
                remedy="The files are written; print to another place",
            )

    def note(self, line: str) -> None:
        """Print what the user should know about a result, unless quiet."""
        if not self.quiet:
            self._complain(f"note: {line}")

    def fail(self, error: BaseException, *, about: str | None = None) -> None:
        """Print one line for `error`, and its traceback if verbose and it was not raised on purpose."""
        self.complain(error_line(error, verbose=self.verbose), about=about)
        if self.verbose and not isinstance(error, VisceraError):
            with contextlib.suppress(OSError):
                traceback.print_exception(error, file=sys.stderr)

    def complain(self, line: str, *, about: str | None = None) -> None:
        """Print one line about what went wrong."""
        subject = f"{about}: " if about else ""
        self._complain(f"error: {subject}{line}")

    def stopped(self, how: str) -> None:
        """Print that the run ended before its time."""
        self._complain(how)

    def progress(self) -> Progress:
        """A progress bar, shown on a terminal only."""
        return Progress(shown=not self.quiet and is_terminal(sys.stderr))

    def _complain(self, line: str) -> None:
        try:
            print(f"viscera: {line}", file=sys.stderr, flush=True)
        except BrokenPipeError:
            raise  # the reader has seen enough
        except OSError:  # nobody can be told, which is no reason to end the work
            return


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
        """Move the bar to `step` of so many."""
        if self._bar is not None:
            self._bar.total = of
            self._bar.n = step
            self._bar.refresh()

    def pause(self) -> None:
        """Clear the bar until the next change, so that a line can be printed."""
        if self._bar is not None:
            self._bar.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal; a program that replaced it may have left that out."""
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # a stand-in without the method, a closed stream
        return False


@contextmanager
def some_console() -> Iterator[None]:
    """While active, `sys.stdout` and `sys.stderr` take what is printed, into nothing where there is no console.

    The three standard descriptors are taken, too, if they are closed: the next file that is opened would get one of
    them, and what a library prints would land in a label file.
    """
    _take_standard_descriptors()
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or getattr(stream, "closed", False):
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.callback(setattr, sys, name, stream)
                setattr(sys, name, nowhere)
        yield


def _take_standard_descriptors() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            if taken == descriptor:
                os.set_inheritable(taken, True)
            else:  # another thread was quicker
                os.close(taken)


def error_line(error: BaseException, *, verbose: bool = False) -> str:
    """One line for `error`: the message of a VisceraError, else type, message and how to see the traceback."""
    message = " ".join(str(error).split())
    if isinstance(error, VisceraError):
        return message
    hint = "" if verbose else " (unexpected; -v shows the traceback)"
    return f"{type(error).__name__}{': ' if message else ''}{message}{hint}"
