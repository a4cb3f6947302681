"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from viscera.core.errors import WriteError, reason

# What a temporary file is called until it is whole, and after how long without a write its process must be dead.
_TEMPORARY = ".viscera-{}.part"
_STALE_SECONDS = 3600.0
# How a file system says that it cannot flush (fsync(2), and what FUSE, SMB, 9P and shared folders of virtual machines
# answer besides). EIO, ENOSPC and EDQUOT are failures.
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_log = logging.getLogger(__name__)


def write_text(text: str, path: Path, *, durable: bool = False) -> None:
    r"""Write `text` in UTF-8 with \n line ends, all of it or nothing, as `write_bytes` does.

    Raises:
        WriteError: If the file cannot be written.
    """
    write_bytes(text.encode(), path, durable=durable)


def write_bytes(data: bytes, path: Path, *, durable: bool = False) -> None:
    """Write `data`, all of it or nothing, also after a power cut; missing parent folders are made.

    Args:
        data: The content.
        path: The file.
        durable: Whether to return only when a power cut would leave all of it.

    Raises:
        WriteError: If the file cannot be written.
    """
    with whole_file(Path(path), durable=durable) as file:
        file.write(data)


def flush_to_disk(path: Path) -> bool:
    """Whether a file, or the names in a folder, would outlive a power cut now; folders are flushed on POSIX only.

    Where flushing is not supported, as on many shares, a warning says so once, and what was written counts as written.

    Raises:
        OSError: If it is supported and fails.
    """
    folder = path.is_dir()
    if folder and os.name != "posix":
        return False
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except OSError as error:
        if not folder or error.errno not in (*_NOT_SUPPORTED, errno.EACCES, errno.EPERM, errno.EISDIR):
            raise  # whoever may write into a folder need not be allowed to open it
        return _not_flushed("a folder", error)
    try:
        return _flushed(handle, "a folder" if folder else "a file")
    finally:
        os.close(handle)


def _flushed(handle: int, what: str) -> bool:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        return _not_flushed(what, error)
    return True


@cache  # reported once
def _report_not_flushed(what: str, reason: str) -> None:
    _log.warning("%s cannot be flushed here (%s): a power cut may undo what was written just before it", what, reason)


def _not_flushed(what: str, error: OSError) -> bool:
    _report_not_flushed(what, reason(error))
    return False


def remove_stale_temporaries(folders: Iterable[Path]) -> None:
    """Remove from `folders` the temporary files of killed processes, those not written to for an hour.

    A file that is being written is touched by every write. One that cannot be removed is left.
    Ages are by the clock that dates the files, as this process's may be hours ahead of a writer's.
    """
    for folder in set(folders):
        with contextlib.suppress(OSError):
            if found := list(folder.glob(_TEMPORARY.format("*"))):
                now = filesystem_time(folder)
                for path in found:
                    with contextlib.suppress(OSError):
                        if now - path.stat().st_mtime > _STALE_SECONDS:
                            path.unlink()


def filesystem_time(folder: Path) -> float:
    """Return the time by the clock that dates the files of `folder`, seconds since 1970.

    Raises:
        OSError: If the folder cannot be written.
    """
    path = folder / _TEMPORARY.format(secrets.token_hex(8))
    try:
        path.touch(exist_ok=False)
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` only if all goes well."""
    # In the same folder, as only a rename within one disk is atomic.
    temporary = path.parent / _TEMPORARY.format(secrets.token_hex(8))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            # A power cut after the rename would else leave an empty file of that name.
            _flushed(file.fileno(), "a file")
        temporary.replace(path)
        if durable:
            flush_to_disk(path.parent)
    except OSError as error:
        raise WriteError(
            f"writing {path}",
            expected="a folder that can be written to",
            got="a file in its place" if isinstance(error, FileExistsError | NotADirectoryError) else reason(error),
            remedy="Check the folder's permissions and the free space",
        ) from error
    finally:
        # Gone already if it has taken its place; removed on any failure and on an interrupt.
        with contextlib.suppress(OSError):
            temporary.unlink()
