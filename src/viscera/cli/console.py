"""What the command line says: results on stdout, notes, errors and the progress display on stderr.

There may be neither: a service or a program with windows has no console (`sys.stdout` is None), a shell may have
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
from typing import TextIO

from viscera.cli.progress import Progress
from viscera.core.errors import VisceraError, WriteError, reason


class Console:
    """Prints for one run.

    Args:
        verbose: Show tracebacks of unexpected errors.
        quiet: Print nothing but errors.

    Attributes:
        lost: Why a result line could not be printed, None if all were.
        if_stopped: What has been done and how to continue, for the line that says that the run was ended.
    """

    def __init__(self, *, verbose: bool = False, quiet: bool = False) -> None:
        self.verbose = verbose
        self.quiet = quiet
        self.lost: OSError | None = None
        self.if_stopped = ""

    def say(self, line: str) -> None:
        """Print a result line, unless quiet; `require_printed` reports one that cannot be printed."""
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

    def remark(self, line: str) -> None:
        """Print a line on stderr as it is, unless quiet."""
        if not self.quiet:
            self._print_error(line)

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
        """Print that the run was ended, what has been done and how to continue."""
        self._complain(f"{how}: {self.if_stopped}" if self.if_stopped else how)

    def progress(self) -> Progress:
        """Return a progress display, which is shown on a terminal only."""
        return Progress(shown=not self.quiet and is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb")

    def _complain(self, line: str) -> None:
        self._print_error(f"viscera: {line}")

    def _print_error(self, line: str) -> None:
        try:
            print(line, file=sys.stderr, flush=True)
        except BrokenPipeError:
            raise  # the reader has seen enough
        except OSError:  # nobody reads it, which is no reason to end the work
            return


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
