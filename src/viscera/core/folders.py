"""The files below a folder, links followed, in an order that does not depend on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from viscera.core.errors import ReadError

# More than any study has.
LARGEST_FILE_COUNT = 100_000


def files_below(folder: Path) -> Iterator[Path]:
    """All files in `folder` and its sub-folders, sorted by name, those directly in a folder before deeper ones.

    Linked folders are followed, each once.

    Raises:
        ReadError: If a folder cannot be listed, or there are more files than any study has.
    """
    count = 0
    for parent, names in folders_below(folder):
        for name in names:
            count += 1
            if count > LARGEST_FILE_COUNT:
                raise ReadError(
                    f"reading {folder}",
                    expected=f"at most {LARGEST_FILE_COUNT} files",
                    got="more",
                    remedy="Give the folder of one study",
                )
            yield Path(parent, name)


def folders_below(folder: Path, on_unlisted: Callable[[Path], None] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """`folder` and all folders below it with the sorted names of their files, links followed but no folder twice.

    Args:
        folder: Where to begin.
        on_unlisted: Called with each folder that cannot be listed, instead of raising.

    Raises:
        ReadError: If one cannot be listed.
    """

    def refuse(error: OSError) -> None:
        if on_unlisted is not None:
            on_unlisted(Path(error.filename))
            return
        raise ReadError(
            f"reading {folder}",
            expected="folders that can be listed",
            got=f"{error.strerror or 'an error'} for {error.filename}",
            remedy="Ask for the right to read it, or give another folder",
        ) from error

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders.sort()
        seen.add(os.path.realpath(parent))
        # A linked folder within itself would never end, and one within its own tree is walked anyway.
        folders[:] = [name for name in folders if not _walked(Path(parent, name), seen)]
        yield Path(parent), sorted(names)


def _walked(folder: Path, seen: set[str]) -> bool:
    return folder.is_symlink() and os.path.realpath(folder) in seen
