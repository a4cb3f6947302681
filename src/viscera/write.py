"""Label maps, volumes and other outputs to files: whole or not at all, and equal bytes for equal content."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from viscera.adapters.deflate import gzip_packed
from viscera.adapters.nifti_header import packed_header
from viscera.errors import WriteError, reason
from viscera.geometry import Grid
from viscera.labels import BACKGROUND, ORGANS, Organ
from viscera.volume import LabelMap, Volume

# NIfTI-1 keeps sizes in signed 16-bit integers.
LARGEST_SIZE_VOX = 32767
# The standard's intent code of images whose values are labels.
_LABEL_INTENT = 1002
# What a file is called until it is whole, and after how long without a write its process must have been killed.
_PASSING = ".viscera-{}.part"
_LEFT_SECONDS = 3600.0
# How a file system says that it cannot flush (fsync(2), and what FUSE, SMB, 9P and shared folders of virtual machines
# answer besides). EIO, ENOSPC and EDQUOT are failures.
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

_log = logging.getLogger(__name__)


def write_label_map(label_map: LabelMap, path: Path, organs: Sequence[Organ] = ORGANS) -> None:
    """Nothing; writes uint8 labels on exactly the label map's grid to a .nii or .nii.gz file.

    The names and colours of `organs` are in a header extension (the `LabelTable` that Connectome Workbench and others
    read). Missing parent folders are made.

    Raises:
        WriteError: If the file cannot be written; nothing is left behind then.
    """
    extension = _label_table(organs).encode()
    _write_nifti(label_map.labels, label_map.grid, Path(path), extension=extension, intent=_LABEL_INTENT)


def write_volume(volume: Volume, path: Path) -> None:
    """Nothing; writes int16 HU on exactly the volume's grid to a .nii or .nii.gz file, as `write_label_map` does."""
    _write_nifti(volume.hu, volume.grid, Path(path))


def write_text(text: str, path: Path, *, durable: bool = False) -> None:
    r"""Nothing; writes `text` in UTF-8 with \n line ends, all of it or nothing, as `write_bytes` does.

    Raises:
        WriteError: If the file cannot be written.
    """
    write_bytes(text.encode(), path, durable=durable)


def write_bytes(data: bytes, path: Path, *, durable: bool = False) -> None:
    """Nothing; writes `data`, all of it or nothing, also after a power cut; missing parent folders are made.

    Args:
        data: The content.
        path: The file.
        durable: Whether to return only when a power cut would leave all of it.

    Raises:
        WriteError: If the file cannot be written.
    """
    with _whole_file(Path(path), durable=durable) as file:
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


@cache  # told once
def _tell_not_flushed(what: str, reason: str) -> None:
    _log.warning("%s cannot be flushed here (%s): a power cut may undo what was written just before it", what, reason)


def _not_flushed(what: str, error: OSError) -> bool:
    _tell_not_flushed(what, reason(error))
    return False


def remove_left_files(folders: Iterable[Path]) -> None:
    """Nothing; removes from `folders` the passing files of killed processes, those not written to for an hour.

    A file that is being written is touched by every write. One that cannot be removed stays; it is in nobody's way.
    Ages are by the clock that dates the files, as this process's may be hours ahead of a writer's.
    """
    for folder in set(folders):
        with contextlib.suppress(OSError):
            if left := list(folder.glob(_PASSING.format("*"))):
                now = disk_time(folder)
                for path in left:
                    with contextlib.suppress(OSError):
                        if now - path.stat().st_mtime > _LEFT_SECONDS:
                            path.unlink()


def disk_time(folder: Path) -> float:
    """The time by the clock that dates the files of `folder`, seconds since 1970; OSError if it cannot be written."""
    path = folder / _PASSING.format(secrets.token_hex(8))
    try:
        path.touch(exist_ok=False)
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def _write_nifti(array: NDArray[Any], grid: Grid, path: Path, *, extension: bytes = b"", intent: int = 0) -> None:
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise WriteError(
            f"writing {path}",
            expected="a name that ends in .nii or .nii.gz",
            got=path.name,
            remedy="Give the output such a name",
        )
    if max(grid.shape_zyx) > LARGEST_SIZE_VOX:
        raise WriteError(
            f"writing {path}",
            expected=f"at most {LARGEST_SIZE_VOX} voxels along each axis",
            got=f"{grid.shape_zyx} (z, y, x)",
            remedy="Split the volume",
        )
    dtype = np.dtype(array.dtype).newbyteorder("<")
    header = packed_header(grid, dtype, extension=extension, intent=intent)
    with _whole_file(path) as file:
        if name.endswith(".gz"):
            with gzip_packed(file) as packed:
                _write_image(packed, header, array, dtype)
        else:
            _write_image(file, header, array, dtype)


def _write_image(file: BinaryIO, header: bytes, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    file.write(header)
    for one in array:  # slice by slice, as the array may be a turned view
        file.write(np.ascontiguousarray(one, dtype=dtype).data)


@contextmanager
def _whole_file(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` only if all goes well."""
    # In the same folder, as only a rename within one disk is atomic.
    temporary = path.parent / _PASSING.format(secrets.token_hex(8))
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


def _label_table(organs: Sequence[Organ]) -> str:
    rows = [(BACKGROUND, "background", (0, 0, 0), 0)] + [(o.index, o.name, o.colour, 1) for o in organs]
    labels = "".join(
        f"<Label Key={quoteattr(str(index))} "
        + " ".join(
            f'{channel}="{value / 255:.6f}"' for channel, value in zip(("Red", "Green", "Blue"), colour, strict=True)
        )
        + f' Alpha="{alpha}"><![CDATA[{name}]]></Label>'
        for index, name, colour, alpha in rows
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0">'
        f"<LabelTable>{labels}</LabelTable><VolumeType><![CDATA[Label]]></VolumeType>"
        "</VolumeInformation></CaretExtension>"
    )
