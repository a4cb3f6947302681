"""JPEG, JPEG-LS and JPEG 2000 images, checked before a decoder sees them.

Decoders are C libraries that believe what an image says of its own size, and take memory for it; some oddities between
its segments end the whole process.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

CHECKED_SYNTAXES = frozenset((*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes))

_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Some writers wrap JPEG 2000 into boxes, which DICOM does not allow; they are short.
_BOXES_START, _BOXES_BYTES = b"\0\0\0\x0cjP  ", 4096
_START_OF_SCAN = 0xDA
_SIZ, _START_OF_TILE = 0x51, 0x90
# Of the first mark and the SIZ segment, up to what follows for each component: three bytes.
_SIZ_BYTES = 42
# Of a start-of-frame segment after its mark, likewise.
_FRAME_BYTES = 8
# Start-of-frame segments of JPEG (ISO 10918-1, table B.1, without DHT, JPG and DAC) and of JPEG-LS (ISO 14495-1).
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, none of which belongs between the segments before the scan.
_ALONE = {0x00, 0x01, *range(0xD0, 0xDA)}
# JPEG 2000 allows 65535; a decoder takes 10 kB for each, and CTs have one or a few.
_MOST_TILES = 1024
_MOST_BITS = 16


def require_codestream(image: bytes, syntax: str, shape: tuple[int, int, int]) -> None:
    """Require that `image` is of the size that its DICOM header says.

    Args:
        image: One compressed image.
        syntax: Its transfer syntax, one of `CHECKED_SYNTAXES`.
        shape: Rows, columns, samples per pixel, from the DICOM header.

    Raises:
        ValueError: If it is of another size, or no image.
    """
    found = _jpeg_2000_shape(image) if syntax in JPEG2000TransferSyntaxes else _jpeg_shape(image)
    if found != shape:
        raise ValueError(f"a compressed image of {found} where the header says {shape} (rows, columns, samples)")


def _jpeg_shape(image: bytes) -> tuple[int, int, int]:
    """Rows, columns, samples of a JPEG or JPEG-LS image."""
    if not image.startswith(_JPEG_START):
        raise ValueError("a compressed image without its first mark")
    shapes = []
    for marker, place in _segments(image, len(_JPEG_START), last=_START_OF_SCAN):
        if marker in _FRAMES:
            if (length := _length(image, place)) < _FRAME_BYTES:
                raise ValueError("a compressed image with a damaged segment")
            precision, rows, columns, samples = struct.unpack_from(">BHHB", image, place + 4)
            if length != _FRAME_BYTES + 3 * samples:
                raise ValueError("a compressed image with a damaged segment")
            _require_precision(precision)
            shapes.append((rows, columns, samples))
    if len(shapes) != 1:
        raise ValueError(f"a compressed image of {len(shapes)} sizes")
    return shapes[0]


def _jpeg_2000_shape(image: bytes) -> tuple[int, int, int]:
    """Rows, columns, samples of a JPEG 2000 image (ISO 15444-1, A.5.1: the SIZ segment)."""
    start = _codestream_start(image)
    if not image.startswith(_JPEG_2000_START, start) or len(image) < start + _SIZ_BYTES:
        raise ValueError("a compressed image without its first mark")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, samples = struct.unpack_from(
        ">8IH", image, start + 8
    )
    if not (tile_left <= left < width and tile_top <= top < height and min(tile_width, tile_height) > 0):
        raise ValueError("a compressed image with damaged sizes")
    tiles = math.ceil((width - tile_left) / tile_width) * math.ceil((height - tile_top) / tile_height)
    if tiles > _MOST_TILES:
        raise ValueError("a compressed image with too many tiles")
    if _length(image, start + 2) != _SIZ_BYTES - 4 + 3 * samples:
        raise ValueError("a compressed image with a damaged segment")
    components = image[start + _SIZ_BYTES :][: 3 * samples]
    for depth, across, down in zip(*[iter(components)] * 3, strict=False):
        _require_precision((depth & 0x7F) + 1)  # the first bit is the sign
        if (across, down) != (1, 1):
            raise ValueError("a compressed image whose samples are of several sizes")
    if [marker for marker, _ in _segments(image, start + 2, last=_START_OF_TILE)].count(_SIZ) != 1:
        raise ValueError("a compressed image of several sizes")
    return height - top, width - left, samples


def _codestream_start(image: bytes) -> int:
    """Where a JPEG 2000 codestream begins: at once, or in the first box of its kind (ISO 15444-1, annex I)."""
    place = 0
    if image.startswith(_BOXES_START):
        while place < min(_BOXES_BYTES, len(image) - 8):
            length, kind = struct.unpack_from(">I4s", image, place)
            if kind == b"jp2c":
                return place + (16 if length == 1 else 8)
            if length < 8:  # to the end, or of more than 4 GiB
                break
            place += length
    return place


def _length(image: bytes, place: int) -> int:
    """The length of the segment whose mark is at `place`, its own two bytes included."""
    return int.from_bytes(image[place + 2 : place + 4], "big")


def _segments(image: bytes, place: int, *, last: int) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment from `place` to the one marked `last`; they must follow without a gap."""
    marker = -1
    while marker != last:
        while image[place : place + 2] == b"\xff\xff":  # filling is allowed
            place += 1
        if image[place : place + 1] != b"\xff" or len(image) < place + 4:
            raise ValueError("a compressed image with other bytes between its segments")
        marker, length = image[place + 1], _length(image, place)
        if marker in _ALONE or length < 2 or place + 2 + length > len(image):
            raise ValueError("a compressed image with a damaged segment")
        yield marker, place
        place += 2 + length


def _require_precision(bits: int) -> None:
    if not 1 < bits <= _MOST_BITS:
        raise ValueError(f"a compressed image of {bits} bits")
