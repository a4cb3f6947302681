"""A volume or label map as the bytes of an uncompressed NIfTI file, made slice by slice and never held as a whole."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.geometry import Grid
from viscera.formats.nifti_header import packed_header


@dataclass(frozen=True, kw_only=True, eq=False)
class NiftiImage:
    """An image to be sent.

    Attributes:
        array: (z, y, x); int16 or uint8.
        grid: Where its voxels lie.
    """

    array: NDArray[Any]
    grid: Grid

    @property
    def size_bytes(self) -> int:
        """How many bytes `chunks` gives."""
        return len(self._header()) + self.array.nbytes

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes in order: the header, then slice by slice."""
        yield self._header()
        for one in self.array:  # may be a turned view
            yield np.ascontiguousarray(one, dtype=self._dtype()).data.cast("B")

    def packed(self) -> bytes:
        """The gzip-compressed bytes; equal images give equal bytes."""
        return gzip.compress(b"".join(self.chunks()), compresslevel=6, mtime=0)

    def _header(self) -> bytes:
        return packed_header(self.grid, self._dtype())

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype).newbyteorder("<")
