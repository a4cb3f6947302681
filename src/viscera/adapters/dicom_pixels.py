"""The images in a DICOM object, as stored numbers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from viscera.adapters.codestream import CHECKED_SYNTAXES, require_codestream


def file_images(file: BinaryIO, frames: Iterable[int]) -> Iterator[NDArray[Any]]:
    """The images (rows, columns) of the DICOM object in `file`, which is at its beginning, for each of `frames`.

    Uncompressed ones are read one by one; of compressed ones the whole object is held in memory.

    Raises:
        One of `viscera.adapters.dicom_series.DICOM_FAULTS`: If the object is damaged.
    """
    if file.read(132)[128:] != b"DICM":
        # Without the file's first part there is no transfer syntax: it is uncompressed then.
        file.seek(0)
        image = pydicom.dcmread(file, force=True)
        implicit = image.original_encoding[0]
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        yield from iter_pixels(image, indices=frames, raw=True)
        return
    file.seek(0)
    header = pydicom.dcmread(file, specific_tags=_SIZES, stop_before_pixels=True)
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID")))
    if syntax.is_transfer_syntax and not syntax.is_compressed:
        _require_pixels(file, header)
    file.seek(0)
    if syntax in CHECKED_SYNTAXES:
        yield from dataset_images(pydicom.dcmread(file), frames)
    else:
        yield from iter_pixels(file, indices=frames, raw=True)


def _require_pixels(file: BinaryIO, header: Any) -> None:
    """Raises ValueError if less of `file` is left than its pixels take, as pydicom's words for that are obscure."""
    wanted = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
    wanted *= int(header.get("SamplesPerPixel") or 1) * int(header.get("NumberOfFrames") or 1)
    place = file.tell()
    left = file.seek(0, io.SEEK_END) - place
    if left < wanted:
        raise ValueError(f"{left} of {wanted} bytes of pixels, as the file is cut off")


def dataset_images(dataset: Any, frames: Iterable[int]) -> Iterator[NDArray[Any]]:
    """The images (rows, columns) of a pydicom data set with its pixels, for each of `frames`; raises as `file_images`.

    What is decoded is exactly what was checked: each compressed image is taken out and given to the decoder alone.
    """
    syntax = str(dataset.file_meta.get("TransferSyntaxUID"))
    if syntax not in CHECKED_SYNTAXES:
        yield from iter_pixels(dataset, indices=frames, raw=True)
        return
    single = pydicom.Dataset()
    single.file_meta = dataset.file_meta
    for name in _PIXEL_FIELDS:
        if name in dataset:
            setattr(single, name, dataset[name].value)
    shape = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    extended = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        extended = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    count = int(dataset.get("NumberOfFrames") or 1)
    for number in frames:
        image = get_frame(dataset.PixelData, number, number_of_frames=count, extended_offsets=extended)
        require_codestream(image, syntax, shape)
        single.PixelData = encapsulate([image], has_bot=False)
        yield get_decoder(single.file_meta.TransferSyntaxUID).as_array(single, raw=True)[0]


_SIZES = ["Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames"]
# What a decoder needs to know.
_PIXEL_FIELDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
