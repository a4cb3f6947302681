"""The errors viscera raises, each with the exit code the command line ends with.

Every message is one line made of four parts, and the constructor asks for all of them: what was being done, what was
expected, what came, and what the reader can do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any


class VisceraError(Exception):
    """The root of all errors raised on purpose.

    Args:
        doing: What was being done, with the file or setting it was done to; left out where only the caller knows,
            who adds it with `during`.
        expected: What would have been right.
        got: What came instead (a value, a path, a shape).
        remedy: What to do about it, as a sentence without its full stop.
    """

    exit_code = 1

    def __init__(self, doing: str = "", *, expected: str, got: str, remedy: str) -> None:
        self.doing = doing
        self.expected = expected
        self.got = got
        self.remedy = remedy
        super().__init__(self._line())

    def _line(self) -> str:
        prefix = f"{self.doing}: " if self.doing else ""
        return " ".join(f"{prefix}expected {self.expected}, got {self.got}. {self.remedy}.".split())

    def add_context(self, doing: str) -> None:
        """Say what was being done, unless the error says it already."""
        if not self.doing:
            self.doing = doing
            self.args = (self._line(),)

    def __reduce__(self) -> tuple[Any, ...]:
        """How to make it again in another process: from its four parts, not from the line."""
        parts = {"expected": self.expected, "got": self.got, "remedy": self.remedy}
        return partial(type(self), self.doing, **parts), ()


class ReadError(VisceraError):
    """A file or folder that cannot be read as what it was given for."""


class WriteError(VisceraError):
    """An output that cannot be written."""


class TransferError(VisceraError):
    """A PACS that cannot be reached, refuses what is asked, or answers with something else."""


class ClusterError(VisceraError):
    """A scheduler of worker processes that cannot be reached, or has gone."""


class GeometryError(VisceraError):
    """Missing, degenerate or inconsistent geometry."""


class ConfigError(VisceraError):
    """A setting with an unknown name or a value out of range."""

    exit_code = 2


class BundleError(VisceraError):
    """A model bundle that is incomplete, altered or of another kind than asked for."""


class NothingFoundError(VisceraError):
    """A scan in which the localisation finds no organ."""


class MemoryBudgetError(VisceraError):
    """Work that cannot fit into the memory it was given."""


class MissingExtraError(VisceraError):
    """An optional package is needed and not installed."""

    exit_code = 2


def reason(error: BaseException) -> str:
    """What went wrong, for `got`: of an error of the system its words without number and path, else the error's own."""
    words = error.strerror if isinstance(error, OSError) else None
    return words or str(error) or type(error).__name__


@contextmanager
def during(doing: str) -> Iterator[None]:
    """Say in the package's errors from the block what was being done, if they do not say it themselves.

    Example:
        >>> with during("reading ct.nii"):
        ...     raise ReadError(expected="a volume", got="a picture", remedy="Give a volume")
        Traceback (most recent call last):
            ...
        viscera.core.errors.ReadError: reading ct.nii: expected a volume, got a picture. Give a volume.
    """
    try:
        yield
    except VisceraError as error:
        error.add_context(doing)
        raise


def reading(path: Path) -> AbstractContextManager[None]:
    """Say in the package's errors from the block that `path` was being read; see `during`."""
    return during(f"reading {path}")
