"""The bytes of an image file in order, decompressed as they are read, and gzip files to write to.

gzip is done by Intel's ISA-L where it is installed: twice as fast as the standard library, twenty times for labels. On
processors without a build of it the standard library does the same. What is written decompresses to the same bytes
everywhere; the compressed bytes may differ between the two, and between kinds of processors.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ReadError, reason
from viscera.core.geometry import Size
from viscera.core.hounsfield import slab_slices

igzip: Any = None
_FAULTS: tuple[type[Exception], ...] = (zlib.error,)
with contextlib.suppress(ImportError):  # there is no build for some processors
    igzip = import_module("isal.igzip")
    _FAULTS = (zlib.error, import_module("isal.isal_zlib").error)

Compression = Literal["gzip", "zlib", "bzip2"]

_GZIP_MAGIC = b"\x1f\x8b"
# zlib cannot shrink anything further than this (its technical details), nor can gzip, which is zlib with another frame.
_LARGEST_ZLIB_RATIO = 1032
_CHUNK_BYTES = 2**18
# What may follow the voxels and still be read, so that the checksum at the end of the stream is seen.
_TRAILING_BYTES = 2**20
# Of ISA-L's 0 to 3 and of the standard library's 0 to 9: above these, CT and labels hardly shrink further.
_ISAL_LEVEL = 2
_ZLIB_LEVEL = 4


def gzip_writer(file: BinaryIO) -> BinaryIO:
    """A file whose bytes go compressed to `file`; without a name and a time, so equal bytes are compressed equally."""
    kind: Any = gzip.GzipFile if igzip is None else igzip.IGzipFile
    level = _ZLIB_LEVEL if igzip is None else _ISAL_LEVEL
    return cast(BinaryIO, kind(filename="", mode="wb", compresslevel=level, fileobj=file, mtime=0))


class VoxelStream:
    """The decompressed bytes of a file.

    What it raises is a ReadError: if the file cannot be read, or its compressed data are damaged or cut off.

    Attributes:
        stored_bytes: The size of the file.
    """

    def __init__(
        self, path: Path, compression: Compression | None, *, perhaps_gzip: bool = False, first_byte: int = 0
    ) -> None:
        """Open a file.

        Args:
            path: The file.
            compression: None if its bytes are as they are.
            perhaps_gzip: Whether a file that begins as gzip does is gzip, regardless of `compression`.
            first_byte: Where to begin in what is stored.
        """
        self._compression = compression
        with _explained(compression):
            self._file = path.open("rb")
            self.stored_bytes = os.fstat(self._file.fileno()).st_size
            self._file.seek(first_byte)
            if perhaps_gzip and self._file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC:
                self._compression = "gzip"
            self._file.seek(first_byte)
            self._bytes = _decompressed(self._file, self._compression)
            # A gzip file's own readinto makes bytes and copies them; the buffer behind it does not.
            buffered: Any = getattr(self._bytes, "_buffer", self._bytes)
            self._read_into: Callable[[memoryview], int] = buffered.readinto

    @property
    def compressed(self) -> bool:
        """Whether what is read is more than what is stored."""
        return self._compression is not None

    def __del__(self) -> None:
        """Close the file, which nothing else does if the reading is given up."""
        if hasattr(self, "_file"):
            self._file.close()

    @property
    def largest_bytes(self) -> float:
        """More bytes than this cannot be in the file."""
        ratios = {None: 1.0, "gzip": _LARGEST_ZLIB_RATIO, "zlib": _LARGEST_ZLIB_RATIO}
        return self.stored_bytes * ratios.get(self._compression, float("inf"))

    def read(self, count: int = -1) -> bytes:
        """The next `count` bytes, fewer at the end; all if it is negative."""
        with _explained(self._compression):
            return self._bytes.read(count)

    def read_line(self) -> bytes:
        """The next bytes up to a line's end."""
        with _explained(self._compression):
            return self._bytes.readline()

    def seek(self, first_byte: int) -> None:
        """Go to a byte of a file that was opened at its beginning."""
        with _explained(self._compression):
            self._bytes.seek(first_byte)

    def slabs(self, shape_zyx: Size, dtype: np.dtype[Any], *, layers: int = 1) -> Iterator[NDArray[Any]]:
        """The voxels from here on, some slices at a time: (z, y, x), or (z, y, x, layer) of several layers.

        Raises:
            ReadError: If the file ends before the last voxel, or its checksum is wrong.
        """
        depth, height, width = shape_zyx
        step = slab_slices((depth, height, width * layers), dtype)
        for start in range(0, depth, step):
            count = min(step, depth - start)
            slab = np.empty((count, height, width, layers) if layers > 1 else (count, height, width), dtype=dtype)
            self._fill(slab)
            yield slab
        self._drain()

    def _fill(self, array: NDArray[Any]) -> None:
        view = array.reshape(-1).view(np.uint8).data
        done = 0
        with _explained(self._compression):
            while done < len(view) and (count := self._read_into(view[done:])):
                done += count
        if done < len(view):
            raise ReadError(
                expected="as many voxels as its header claims",
                got="the end of the file before",
                remedy="The file is cut off: copy or convert it again",
            )

    def _drain(self) -> None:
        """Read what follows the voxels, for the checksum behind them, up to a limit."""
        remaining = _TRAILING_BYTES
        while remaining > 0 and (part := self.read(min(remaining, _CHUNK_BYTES))):
            remaining -= len(part)


class _ZlibReader(io.RawIOBase):
    """The decompressed bytes of a zlib stream in a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while not self._stream.eof:
            data = self._stream.unconsumed_tail or self._file.read(_CHUNK_BYTES)
            part = self._stream.decompress(data, len(view))
            view[: len(part)] = part
            if part:
                return len(part)
            if not data:
                raise EOFError("no end of the stream")
        return 0


def _decompressed(file: BinaryIO, compression: Compression | None) -> BinaryIO:
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file) if igzip is None else igzip.IGzipFile(fileobj=file))
    if compression == "zlib":
        return cast(BinaryIO, io.BufferedReader(_ZlibReader(file), _CHUNK_BYTES))
    return cast(BinaryIO, bz2.BZ2File(file)) if compression == "bzip2" else file


@contextmanager
def _explained(compression: Compression | None) -> Iterator[None]:
    """Say what was found in the file instead of what a library raises."""
    try:
        yield
    except EOFError as error:
        raise _damaged(compression, "compressed data that are cut off") from error
    except _FAULTS as error:
        raise _damaged(compression, "damaged compressed data") from error
    except OSError as error:
        if error.errno is None:  # not the system's: gzip and bz2 say so what is damaged
            raise _damaged(compression, "damaged compressed data") from error
        remedy = "Check the file and its disk"
        raise ReadError(expected="a readable file", got=reason(error), remedy=remedy) from error


def _damaged(compression: Compression | None, got: str) -> ReadError:
    return ReadError(expected=f"a whole {compression} stream", got=got, remedy="Copy or convert the file again")
