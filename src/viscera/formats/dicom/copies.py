"""Copies of slices: images are the same when their voxels are, regardless of what their identifiers say."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ReadError
from viscera.formats.dicom.files import DicomSource
from viscera.formats.dicom.pixels import file_images
from viscera.formats.dicom.series import DICOM_FAULTS, Slice

_BLOCK_BYTES = 2**20
# Of positions in mm, when looking for images of one place.
_DECIMALS = 2


def without_copies(slices: Sequence[Slice]) -> tuple[list[Slice], int]:
    """The slices in their order without copies of earlier ones, of equal place and voxels, and how many those were.

    Where two images of one place differ and do not claim to be the same, the search ends: such a series has several
    phases or reconstructions, and all of them are given back.

    Raises:
        ReadError: If images under one SOP Instance UID differ, or cannot be decoded.
    """
    at_place: dict[tuple[float, ...], list[Slice]] = {}
    for one in slices:
        at_place.setdefault(tuple(round(part, _DECIMALS) for part in one.position_xyz_mm), []).append(one)
    between: dict[tuple[DicomSource, DicomSource], list[tuple[Slice, Slice]]] = {}
    for first, *others in at_place.values():
        for other in others:
            between.setdefault((first.source, other.source), []).append((first, other))
    copies: set[Slice] = set()
    for sources, pairs in between.items():
        with closing(_equal(sources, pairs)) as results:
            for (first, other), equal in zip(pairs, results, strict=True):
                if equal:
                    copies.add(other)
                elif first.instance and (first.instance, first.frame) == (other.instance, other.frame):
                    raise _contradiction(first.source, other.source)
                else:
                    return list(slices), 0
    return [one for one in slices if one not in copies], len(copies)


def undecodable(error: BaseException, source: DicomSource) -> ReadError:
    """The error to raise when the pixels of an object cannot be decoded."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ReadError(
        expected=f"pixels that can be decoded in {source.label}",
        got=lines[0][:200],
        remedy="Copy the series again from its archive",
    )


def _equal(
    sources: tuple[DicomSource, DicomSource], pairs: Sequence[tuple[Slice, Slice]]
) -> Generator[bool, None, None]:
    """Whether the images of each pair are equal in HU; objects that are equal as files need no decoding."""
    if sources[0] is not sources[1] and _same_bytes(*sources):
        yield from (first.frame == other.frame for first, other in pairs)
        return
    with ExitStack() as opened:
        images = []
        for k, source in enumerate(sources):
            file = opened.enter_context(source.opened())
            decoded: Any = file_images(file, [pair[k].frame for pair in pairs])
            images.append(opened.enter_context(closing(decoded)))
        for first, other in pairs:
            one, two = (_next(stream, source) for stream, source in zip(images, sources, strict=True))
            rescale = (first.slope, first.intercept) == (other.slope, other.intercept)
            yield rescale and np.array_equal(one, two)


def _next(images: Iterator[NDArray[Any]], source: DicomSource) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            return next(images)
    except (*DICOM_FAULTS, StopIteration) as error:
        raise undecodable(error, source) from error


def _same_bytes(first: DicomSource, second: DicomSource) -> bool:
    if first.size_bytes != second.size_bytes:
        return False
    with first.opened() as one, second.opened() as other:
        while block := one.read(_BLOCK_BYTES):
            if block != other.read(_BLOCK_BYTES):
                return False
    return True


def _contradiction(first: DicomSource, second: DicomSource) -> ReadError:
    return ReadError(
        expected="one image under each SOP Instance UID",
        got=f"two that differ: {first.label} and {second.label}",
        remedy="Keep one version of the series, and put the other into a folder of its own",
    )
