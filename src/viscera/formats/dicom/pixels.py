"""The images in a DICOM object, as stored numbers.

Where the pixels begin and whether they are compressed is read from the object itself: its transfer syntax is a claim of
the file's first part, which archives and conversions leave behind when they change the rest.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options, iter_pixels
from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRBigEndian, ExplicitVRLittleEndian

from viscera.formats.dicom.jpeg_headers import CHECKED_SYNTAXES, require_codestream

_ITEM = b"\xfe\xff\x00\xe0"
_UNDEFINED_LENGTH = 0xFFFFFFFF
# Value representations of pixels. No length of an implicit element looks like one: their first byte is odd, pixels have
# an even number of bytes.
_PIXEL_VRS = (b"OB", b"OW", b"UN")
# What a decoder needs to know of one image, and of all.
_IMAGE_FIELDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_PIXEL_FIELDS = (*_IMAGE_FIELDS, "NumberOfFrames")
# Decoders that clear bits do so for some syntaxes only.
_ALL_BITS: Mapping[str, Any] = {"correct_unused_bits": False}


def file_images(file: BinaryIO, frames: Iterable[int]) -> Iterator[NDArray[Any]]:
    """The images (rows, columns) of the DICOM object in `file`, which is at its beginning, for each of `frames`.

    Uncompressed ones are read one by one; of compressed ones the whole object is held in memory.

    Raises:
        One of `viscera.formats.dicom.series.DICOM_FAULTS`: If the object is damaged.
    """
    header = pydicom.dcmread(
        file, specific_tags=[*_PIXEL_FIELDS, "NumberOfFrames"], stop_before_pixels=True, force=True
    )
    pixels = _pixel_element(file)
    if _compressed(header, pixels):
        file.seek(0)
        yield from dataset_images(pydicom.dcmread(file, force=True), frames)
        return
    _require_bytes(header, pixels)
    file.seek(pixels.place)
    yield from _uncompressed(file, header, pixels, frames)


def dataset_images(dataset: Any, frames: Iterable[int]) -> Iterator[NDArray[Any]]:
    """The images (rows, columns) of a pydicom data set with its pixels, for each of `frames`; raises as `file_images`.

    What is decoded is exactly what was checked: each compressed image is taken out and given to the decoder alone.
    """
    syntax = _declared_syntax(dataset)
    value = dataset.PixelData
    pixels = _Pixels(
        place=0,
        held=len(value),
        length=None if dataset["PixelData"].is_undefined_length else len(value),
        vr=dataset["PixelData"].VR,
        big_endian=syntax == ExplicitVRBigEndian,
        begins_with_item=value.startswith(_ITEM),
    )
    if not _compressed(dataset, pixels):
        _require_bytes(dataset, pixels)
        yield from _uncompressed(value, dataset, pixels, frames)
    elif syntax in CHECKED_SYNTAXES:
        yield from _checked_images(dataset, syntax, frames)
    else:
        for image in iter_pixels(dataset, indices=frames, raw=True, **_ALL_BITS):
            yield _stored_values(image, dataset)


@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """Where the pixels are, as the object's own bytes say.

    Attributes:
        place: Of their first byte.
        held: The bytes from there to the end of the file.
        length: What their element says of its length; None if it says none, as for compressed ones.
        vr: Their value representation; empty if it is implicit.
        big_endian: The order of their bytes.
        begins_with_item: Whether they begin as compressed ones do.
    """

    place: int
    held: int
    length: int | None
    vr: str
    big_endian: bool
    begins_with_item: bool


def _pixel_element(file: BinaryIO) -> _Pixels:
    """What the element that `file` is at says of the pixels; ValueError if it is another one, or the file's end."""
    head = file.read(12)
    if len(head) < 12 or head[:4] not in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
        raise ValueError("no pixels, as whole numbers")
    order = ">" if head[0] == 0x7F else "<"
    explicit = head[4:6] in _PIXEL_VRS
    (length,) = struct.unpack_from(f"{order}I", head, 8 if explicit else 4)
    place = file.tell() - (0 if explicit else 4)
    file.seek(place)
    begins_with_item = file.read(len(_ITEM)) == _ITEM
    return _Pixels(
        place=place,
        held=file.seek(0, io.SEEK_END) - place,
        length=None if length == _UNDEFINED_LENGTH else length,
        vr=head[4:6].decode() if explicit else "",
        big_endian=order == ">",
        begins_with_item=begins_with_item,
    )


def _declared_syntax(header: Any) -> UID:
    """The transfer syntax that the file's first part declares, empty if none; ValueError if nobody knows it."""
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID") or ""))
    if syntax and syntax not in AllTransferSyntaxes:
        raise ValueError(f"the unknown transfer syntax {syntax[:64]}")
    return syntax


def _compressed(header: Any, pixels: _Pixels) -> bool:
    """Whether the pixels are compressed, declared or not; ValueError if they are and it is not known how."""
    syntax, wanted = _declared_syntax(header), _wanted_bytes(header)
    if not pixels.begins_with_item or pixels.length in (wanted, wanted + wanted % 2):
        return False
    if not syntax or not syntax.is_compressed:
        raise ValueError("compressed pixels, in a file that declares them as uncompressed")
    return True


def _wanted_bytes(header: Any) -> int:
    """How many bytes the pixels take uncompressed."""
    bits = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated)
    bits *= int(header.get("SamplesPerPixel") or 1) * int(header.get("NumberOfFrames") or 1)
    return math.ceil(bits / 8)


def _require_bytes(header: Any, pixels: _Pixels) -> None:
    """Raise ValueError if there are fewer pixels than the header says: what follows them would be read as pixels."""
    wanted = _wanted_bytes(header)
    if pixels.held < wanted:
        raise ValueError(f"{pixels.held} of {wanted} bytes of pixels, as the file is cut off")
    if pixels.length is not None and pixels.length < wanted:
        raise ValueError(f"{pixels.length} of {wanted} bytes of pixels")


def _uncompressed(
    source: BinaryIO | bytes, header: Any, pixels: _Pixels, frames: Iterable[int]
) -> Iterator[NDArray[Any]]:
    """The images of `source`, which is at the first pixel's first byte."""
    decoder = get_decoder(ExplicitVRBigEndian if pixels.big_endian else ExplicitVRLittleEndian)
    options = as_pixel_options(
        header, pixel_keyword="PixelData", pixel_vr=pixels.vr or "OW", view_only=True, **_ALL_BITS
    )
    for image, _ in decoder.iter_array(source, indices=frames, raw=True, **options):
        yield _stored_values(image, header)


def _checked_images(dataset: Any, syntax: str, frames: Iterable[int]) -> Iterator[NDArray[Any]]:
    """Compressed images, each of which is checked before a decoder gets it."""
    single = pydicom.Dataset()
    single.file_meta = dataset.file_meta
    for name in _IMAGE_FIELDS:
        if name in dataset:
            setattr(single, name, dataset[name].value)
    if int(dataset.get("HighBit") or 0) >= int(dataset.BitsStored):
        single.BitsStored = dataset.BitsAllocated  # else a decoder may clear the bits that tell where the numbers are
    shape = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    extended = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        extended = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    count = int(dataset.get("NumberOfFrames") or 1)
    decoder = get_decoder(syntax)
    for number in frames:
        image = get_frame(dataset.PixelData, number, number_of_frames=count, extended_offsets=extended)
        require_codestream(image, syntax, shape)
        single.PixelData = encapsulate([image], has_bot=False)
        decoded, _ = decoder.as_array(single, raw=True, **_ALL_BITS)
        yield _stored_values(decoded, dataset)


def _stored_values(image: NDArray[Any], header: Any) -> NDArray[Any]:
    """The numbers in the lowest `BitsStored` bits of `image`, signed or not as its type is.

    The bits above may hold anything (DICOM PS3.5, 8.1.1): overlays, or a sign that was not extended. Encoders pack them
    with the rest, and decoders differ in whether they give them back.

    Raises:
        ValueError: If the header has the numbers in other bits than the lowest and bits above them are set. The
            standard has not allowed that since 2014, and readers disagree on what the numbers are.
    """
    width, stored = 8 * image.dtype.itemsize, int(header.BitsStored)
    if image.dtype.kind not in "iu" or int(header.BitsAllocated) == 1 or stored >= width:
        return image
    values: NDArray[Any]
    if image.dtype.kind == "u":
        values = image & image.dtype.type((1 << stored) - 1)
    else:
        values = np.left_shift(image, width - stored)
        np.right_shift(values, width - stored, out=values)
    high = header.get("HighBit")
    if high is not None and stored <= int(high) < width and not np.array_equal(values, image):
        raise ValueError(f"pixels of {stored} bits up to bit {high}, not in the lowest bits")
    return values
