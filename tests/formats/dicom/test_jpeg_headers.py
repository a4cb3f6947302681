"""Compressed images are looked at before a decoder sees them; the images are put together here by hand."""

import struct

import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from viscera.formats.dicom.jpeg_headers import require_codestream

SHAPE = (9, 10, 1)  # rows, columns, samples
COMMENT = b"\xff\xfe\x00\x04hi"
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + b"data" + b"\xff\xd9"


def frame(marker=0xC3, precision=16, rows=9, columns=10):
    return struct.pack(">BBHBHHBBBB", 0xFF, marker, 11, precision, rows, columns, 1, 1, 0x11, 0)


def jpeg(*segments):
    return b"\xff\xd8" + b"".join(segments) + SCAN


def jpeg_2000(size=(10, 9, 0, 0), tile=(10, 9, 0, 0), component=(15, 1, 1), more=b"\xff\x64\x00\x04hi"):
    siz = struct.pack(">HHH8IH3B", 0xFF51, 41, 0, *size, *tile, 1, *component)
    return b"\xff\x4f" + siz + more + struct.pack(">HHHIBB", 0xFF90, 10, 0, 14, 0, 1)


def boxes(*kinds_and_contents):
    """A JPEG 2000 file: its first box, which is always the same, and more."""
    packed = (struct.pack(">I4s", 8 + len(content), kind) + content for kind, content in kinds_and_contents)
    return b"\0\0\0\x0cjP  \r\n\x87\n" + b"".join(packed)


HUGE = (60000, 60000, 0, 0)


@pytest.mark.parametrize(
    ("image", "syntax"),
    [
        (jpeg(frame()), JPEGLosslessSV1),
        (jpeg(COMMENT, b"\xff\xff", frame(), COMMENT), JPEGLosslessSV1),
        (jpeg(frame(marker=0xF7, precision=12)), JPEGLSLossless),
        (jpeg_2000(), JPEG2000Lossless),
        (jpeg_2000(size=(15, 12, 5, 3), tile=(4, 4, 1, 1)), JPEG2000Lossless),
        (jpeg_2000(size=(10, 9, 0, 0), tile=(1, 1, 0, 0)), JPEG2000Lossless),
        (boxes((b"ftyp", b"jp2 "), (b"jp2c", jpeg_2000())), JPEG2000Lossless),
        (boxes() + struct.pack(">I4sQ", 1, b"jp2c", 16 + len(jpeg_2000())) + jpeg_2000(), JPEG2000Lossless),
        (boxes() + struct.pack(">I4s", 0, b"jp2c") + jpeg_2000(), JPEG2000Lossless),
    ],
    ids=[
        "JPEG",
        "filling and comments",
        "JPEG-LS",
        "JPEG 2000",
        "tiles and offsets",
        "a tile for each pixel",
        "in boxes",
        "in a box of a long length",
        "in a box to the end",
    ],
)
def test_images_of_the_right_size_pass(image, syntax):
    require_codestream(image, syntax, SHAPE)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "first mark"),
        (jpeg(frame(rows=65535)), "header says"),
        (jpeg(frame(columns=11)), "header says"),
        (jpeg(frame(), frame()), "2 sizes"),
        (jpeg(), "0 sizes"),
        (jpeg(frame(precision=17)), "17 bits"),
        (jpeg(b"odd", frame()), "between its segments"),
        (jpeg(frame(), b"\xff\xd0\x00\x02"), "damaged segment"),
        (jpeg(frame(), b"\xff\xfe\xff\xff"), "damaged segment"),
        (jpeg(frame())[:12], "damaged segment"),
        (jpeg(b"\xff\xc3\x00\x02", frame()), "damaged segment"),
        (b"\xff\xd8\xff\xc3\x00\x02", "damaged segment"),
        (jpeg(frame()[:-3].replace(b"\x00\x0b", b"\x00\x08")), "damaged segment"),
        (jpeg(frame().replace(b"\x00\x0b", b"\x00\x0a")), "damaged segment"),
        (jpeg(frame(precision=1)), "1 bits"),
        (jpeg(frame(), b"\xff\xfe\x00\x01"), "damaged segment"),
        (jpeg(frame())[:-2][:18], "between its segments"),
        (jpeg(frame(rows=0)), "header says"),
    ],
)
def test_jpegs_that_lie_are_refused(image, reason):
    with pytest.raises(ValueError, match=reason):
        require_codestream(image, JPEGLosslessSV1, SHAPE)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (jpeg(frame()), "first mark"),
        (jpeg_2000(size=(60000, 60000, 0, 0), tile=(60000, 60000, 0, 0)), "header says"),
        (jpeg_2000(size=(10, 9, 0, 9)), "damaged sizes"),
        (jpeg_2000(tile=(0, 9, 0, 0)), "damaged sizes"),
        (jpeg_2000(size=(2**31, 2**31, 0, 0), tile=(1, 1, 0, 0)), "tiles"),
        (jpeg_2000(component=(127, 1, 1)), "128 bits"),
        (jpeg_2000(component=(15, 2, 1)), "several sizes"),
        (jpeg_2000(more=b"odd!"), "between its segments"),
        (jpeg_2000(more=jpeg_2000()[2:45]), "several sizes"),
        (b"", "first mark"),
        (jpeg_2000()[:30], "first mark"),
        (jpeg_2000()[:44], "damaged segment|between its segments"),
        (jpeg_2000(component=(128, 1, 1)), "1 bits"),
        (jpeg_2000().replace(b"\xff\x51\x00\x29", b"\xff\x51\x00\x2c"), "damaged segment"),
        (jpeg_2000(size=(1025, 1, 0, 0), tile=(1, 1, 0, 0)), "too many tiles"),
        # The first is looked at by nobody but us; decoders take what is in the box for it.
        (boxes((b"uuid", jpeg_2000()), (b"jp2c", jpeg_2000(size=HUGE, tile=HUGE))), "header says"),
        (boxes((b"uuid", jpeg_2000())), "first mark"),
        (boxes((b"jp2c", b"no codestream" + jpeg_2000())), "first mark"),
        (boxes((b"uuid", bytes(5000)), (b"jp2c", jpeg_2000())), "first mark"),
        (boxes() + struct.pack(">I4s", 0, b"uuid") + jpeg_2000(), "first mark"),
        (b"junk" + jpeg_2000(), "first mark"),
    ],
)
def test_jpeg_2000_that_lies_is_refused(image, reason):
    with pytest.raises(ValueError, match=reason):
        require_codestream(image, JPEG2000Lossless, SHAPE)
