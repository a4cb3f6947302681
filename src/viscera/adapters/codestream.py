"""JPEG, JPEG-LS and JPEG 2000 images, checked before a decoder sees them.

Decoders are C libraries that believe what an image says of its own size, and take memory for it; some oddities between
its segments end the whole process.
"""

from __future__ import annotations

import math
import struct

from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

CHECKED_SYNTAXES = frozenset((*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes))

_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Some writers wrap JPEG 2000 into boxes, which DICOM does not allow; they are short.
_BOXES_BYTES = 4096
_START_OF_SCAN = 0xDA
# Start-of-frame segments of JPEG (ISO 10918-1, table B.1, without DHT, JPG and DAC) and of JPEG-LS (ISO 14495-1).
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, none of which belongs between the segments before the scan.
_ALONE = {0x01, *range(0xD0, 0xDA)}
# JPEG 2000 numbers tiles with 16 bits.
_MOST_TILES = 65535


def require_codestream(image: bytes, syntax: str, shape: tuple[int, int, int]) -> None:
    """Nothing, if `image` is of the size that its DICOM header says.

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
    """Rows, columns, samples of a JPEG or JPEG-LS image, whose segments follow each other without a gap."""
    shape: tuple[int, int, int] | None = None
    place = len(_JPEG_START)
    if not image.startswith(_JPEG_START):
        raise ValueError("a compressed image without its first mark")
    while True:
        while image[place : place + 2] == b"\xff\xff":  # filling is allowed
            place += 1
        if image[place : place + 1] != b"\xff" or len(image) < place + 4:
            raise ValueError("a compressed image with other bytes between its segments")
        marker, length = image[place + 1], int.from_bytes(image[place + 2 : place + 4], "big")
        if marker in _ALONE or marker == 0 or length < 2 or place + 2 + length > len(image):
            raise ValueError("a compressed image with a damaged segment")
        if marker in _FRAMES:
            if shape is not None or length < 8:
                raise ValueError("a compressed image with two sizes")
            _, rows, columns, samples = struct.unpack_from(">BHHB", image, place + 4)
            shape = (rows, columns, samples)
        if marker == _START_OF_SCAN:
            if shape is None:
                raise ValueError("a compressed image without a size")
            return shape
        place += 2 + length


def _jpeg_2000_shape(image: bytes) -> tuple[int, int, int]:
    """Rows, columns, samples of a JPEG 2000 image (ISO 15444-1, A.5.1: the SIZ segment)."""
    start = image.find(_JPEG_2000_START, 0, _BOXES_BYTES)
    if start < 0 or len(image) < start + 42:
        raise ValueError("a compressed image without its first mark")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, samples = struct.unpack_from(
        ">8IH", image, start + 8
    )
    if not (tile_width > 0 and tile_height > 0 and tile_left <= left < width and tile_top <= top < height):
        raise ValueError("a compressed image with damaged sizes")
    tiles = math.ceil((width - tile_left) / tile_width) * math.ceil((height - tile_top) / tile_height)
    if tiles > _MOST_TILES:
        raise ValueError("a compressed image with too many tiles")
    return height - top, width - left, samples
