"""Optional packages: one way to say which extra of viscera to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from viscera.core.errors import MissingExtraError


@contextmanager
def needs(packages: str, extra: str, *, doing: str) -> Iterator[None]:
    """Import optional packages in the block, and say what to install if one of them is missing.

    Args:
        packages: What is imported, in words.
        extra: The extra of viscera that brings it.
        doing: What it is needed for.

    Raises:
        MissingExtraError: If an import in the block fails.

    Example:
        >>> with needs("the package nowhere", "train", doing="training"):
        ...     import nowhere
        Traceback (most recent call last):
            ...
        viscera.core.errors.MissingExtraError: training: expected the package nowhere, got No module named 'nowhere'. Run: pip install 'viscera[train]'.
    """  # noqa: E501
    try:
        yield
    except ImportError as error:
        remedy = f"Run: pip install 'viscera[{extra}]'"
        raise MissingExtraError(doing, expected=packages, got=str(error), remedy=remedy) from error
