"""NIfTI files, plain or compressed, read as one stream that never holds more than a slab."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ReadError
from viscera.core.hounsfield import require_likely, slab_slices
from viscera.formats.gzip import FAULTS, gzip_decompressor
from viscera.formats.label_tables import LARGEST_TABLE_BYTES, label_table_names
from viscera.formats.nifti_header import HEADER_1_BYTES, HEADER_2_BYTES, NiftiHeader, parsed_header
from viscera.formats.raster import Raster

GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot shrink anything further than this (zlib's technical details).
DEFLATE_LARGEST_RATIO = 1032
_CHUNK_BYTES = 2**18
# What may follow the voxels and still be read, so that the checksum at the end of the stream is seen.
_TRAILING_BYTES = 2**20


def open_nifti(path: Path, *, labels: bool = False) -> Raster:
    """The image of a .nii or .nii.gz file; the file is opened now and read while the slabs are taken.

    Args:
        path: The file.
        labels: Whether to look for the names of labels in the header's extensions.

    Raises:
        ReadError: If the file is no NIfTI image of one real-valued 3-D volume, or shorter than its header claims;
            while slabs are taken, if its compressed data are cut off or damaged.
        GeometryError: If the header does not say where the voxels lie.
    """
    stream = _Stream(path)
    head = stream.taken(HEADER_2_BYTES)
    header = parsed_header(head)
    _require_room(header, path)
    extensions = header.first_byte - HEADER_1_BYTES
    if labels and 0 < extensions <= LARGEST_TABLE_BYTES:
        head += stream.taken(max(0, header.first_byte - len(head)))
    return Raster(
        grid=header.grid,
        slope=header.slope,
        intercept=header.intercept,
        slabs=_slabs(stream, header, head),
        names=label_table_names(head[HEADER_1_BYTES : header.first_byte]) if labels else {},
        notes=header.notes,
    )


def _require_room(header: NiftiHeader, path: Path) -> None:
    claimed = header.first_byte + math.prod(header.grid.shape_zyx) * header.dtype.itemsize
    size = path.stat().st_size
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    if claimed > size * (DEFLATE_LARGEST_RATIO if compressed else 1):
        kind = "compressed bytes, which can never unfold to that" if compressed else "bytes"
        raise ReadError(
            expected=f"the {claimed} bytes that its header claims",
            got=f"a file of {size} {kind}",
            remedy="The file is cut off or damaged: copy or convert it again",
        )
    require_likely(header.grid.shape_zyx, size)


def _slabs(stream: _Stream, header: NiftiHeader, head: bytes) -> Iterator[NDArray[Any]]:
    # Voxels may begin inside the bytes already taken for the longer, version 2 header.
    stream.give_back(head[header.first_byte :])
    stream.skip(header.first_byte - len(head))
    depth, height, width = header.grid.shape_zyx
    step = slab_slices(header.grid.shape_zyx, header.dtype)
    for start in range(0, depth, step):
        slab = np.empty((min(step, depth - start), height, width), dtype=header.dtype)
        stream.fill(slab)
        yield slab
    stream.drain()


class _Stream:
    """The uncompressed bytes of a file, in order."""

    def __init__(self, path: Path) -> None:
        self._chunks = _chunks(path)
        self._pending = memoryview(b"")

    def taken(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        parts = bytearray()
        while len(parts) < count and self._refilled():
            part = self._pending[: count - len(parts)]
            parts += part
            self._pending = self._pending[len(part) :]
        return bytes(parts)

    def give_back(self, front: bytes) -> None:
        """Put bytes before those to come."""
        self._pending = memoryview(front + bytes(self._pending))

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        while count > 0 and (part := self.taken(min(count, _CHUNK_BYTES))):
            count -= len(part)

    def fill(self, array: NDArray[Any]) -> None:
        """Overwrites a contiguous array with the next bytes."""
        view = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            if not self._refilled():
                raise ReadError(
                    expected="as many voxels as its header claims",
                    got="the end of the file before",
                    remedy="The file is cut off: copy or convert it again",
                )
            part = self._pending[: len(view) - done]
            view[done : done + len(part)] = part
            self._pending = self._pending[len(part) :]
            done += len(part)

    def drain(self) -> None:
        """Read what follows the voxels, for the checksum behind it, up to a limit."""
        self.skip(_TRAILING_BYTES)

    def _refilled(self) -> bool:
        while not self._pending:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._pending = memoryview(chunk)
        return True


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            plain = iter(lambda: file.read(_CHUNK_BYTES), b"")
            yield from _inflated(plain) if compressed else plain
    except OSError as error:
        raise ReadError(
            expected="a readable file", got=error.strerror or "an error", remedy="Check the file and its disk"
        ) from error


def _inflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes of a gzip file of one or more members; no piece is longer than a few chunks."""
    try:
        member = gzip_decompressor()
        started = False
        for chunk in chunks:
            data = chunk
            while data:
                if member.eof:
                    if not data.strip(b"\0"):  # zero padding after the last member is allowed
                        data = b""
                        continue
                    member = gzip_decompressor()
                yield member.decompress(data, 4 * _CHUNK_BYTES)
                data = member.unused_data if member.eof else member.unconsumed_tail
                started = True
    except FAULTS as error:
        raise _damaged("damaged compressed data") from error
    if started and not member.eof:
        raise _damaged("compressed data that are cut off")


def _damaged(got: str) -> ReadError:
    return ReadError(expected="a whole gzip stream", got=got, remedy="Copy or convert the file again")
