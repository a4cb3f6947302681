"""Stored values to Hounsfield units, and whether the result can be Hounsfield units at all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError, MemoryBudgetError, ReadError
from viscera.core.geometry import Size

# Values outside are clipped to it: int16 holds every HU a scanner stores.
HU_RANGE = (-32768, 32767)
# Offsets somebody may ask for: what separates unsigned from signed 16-bit storage, either way.
LARGEST_OFFSET_HU = 65536
# Fat is about -100 HU and air -1000. In every CT of a body some voxels are one or the other, however narrow the crop.
AIR_OR_FAT_HU = -50
AIR_OR_FAT_SHARE = 0.01
# Only dense bone, metal and contrast agent are above this: a few percent of a body, far more if values are shifted.
DENSE_HU = 700
DENSE_SHARE = 0.25
# Lungs, bowel gas and the air around a patient lie below this.
GAS_HU = -200
# More voxels than any scanner's volume; a header that claims them is wrong.
LARGEST_VOLUME_VOX = 2**31
# A GiB of HU: 2000 slices of 512 x 512. Larger volumes must not come out of next to nothing: CT shrinks two- or
# threefold, tenfold where what surrounds the patient was blanked, and label maps of this size a hundredfold.
LARGEST_UNDOUBTED_VOX = 2**29
LARGEST_RATIO = 200

# Slabs of about this size stay in a processor's cache while they are converted.
SLAB_BYTES = 2**21

_SAMPLED_VOX = 4_000_000
_REMEDY = "Give a CT in Hounsfield units; if this one was stored with an offset, name it with --hu-offset"


def allocated(shape_zyx: Size, dtype: type[np.generic]) -> NDArray[Any]:
    """An array of `shape_zyx`, its values not set, once its size is known to be sensible.

    Raises:
        ReadError: If the shape is larger than any CT.
        MemoryBudgetError: If there is no memory for it.
    """
    if math.prod(shape_zyx) > LARGEST_VOLUME_VOX:
        raise ReadError(
            expected=f"at most {LARGEST_VOLUME_VOX} voxels",
            got=f"a header that claims {' x '.join(map(str, shape_zyx))} (z, y, x)",
            remedy="Check the file, or split the scan",
        )
    try:
        return np.empty(shape_zyx, dtype=dtype)
    except MemoryError as error:
        raise MemoryBudgetError(
            expected=f"memory for {math.prod(shape_zyx) * np.dtype(dtype).itemsize} bytes",
            got="none left",
            remedy="Close other programs or use a machine with more memory",
        ) from error


def require_likely(shape_zyx: Size, stored_bytes: int) -> None:
    """Refuse a very large volume of `shape_zyx` that would be decompressed from very few bytes, as no scan is.

    Raises:
        ReadError: If so; such a file is made to exhaust memory.
    """
    voxels = math.prod(shape_zyx)
    if voxels > LARGEST_UNDOUBTED_VOX and voxels > LARGEST_RATIO * stored_bytes:
        raise ReadError(
            expected=f"at most {LARGEST_RATIO} voxels for each stored byte in a volume of this size",
            got=f"{' x '.join(map(str, shape_zyx))} (z, y, x) in {stored_bytes} bytes",
            remedy="Check where the file comes from; if you trust it, store it uncompressed",
        )


def require_offset(hu_offset: int) -> None:
    """Require that `hu_offset` can be an offset between stored values and HU.

    Raises:
        ConfigError: If it cannot.
    """
    if abs(hu_offset) > LARGEST_OFFSET_HU:
        raise ConfigError(
            "setting hu_offset",
            expected=f"an offset between {-LARGEST_OFFSET_HU} and {LARGEST_OFFSET_HU} HU",
            got=f"{hu_offset}",
            remedy="Give the value to add to the stored numbers, usually -1024",
        )


def fill_hu(out: NDArray[np.int16], raw: NDArray[Any], *, slope: float, intercept: float) -> None:
    """Set `out` to raw * slope + intercept, rounded to the nearest integer (halves to even), clipped to `HU_RANGE`.

    Args:
        out: The HU.
        raw: Real numbers of any kind and byte order, of `out`'s shape.
        slope: HU per stored unit.
        intercept: HU of a stored zero.

    Raises:
        ReadError: If a number is not finite.
    """
    if wrong := _not_finite(raw):
        raise _not_finite_error(wrong)
    _convert(out, raw, slope=slope, intercept=intercept)


def _convert(out: NDArray[np.int16], raw: NDArray[Any], *, slope: float, intercept: float) -> None:
    whole = raw.dtype.kind in "iu" and raw.dtype.itemsize <= 4 and slope == 1
    if whole and float(intercept).is_integer() and abs(intercept) < 2**30:
        if raw.dtype.kind == "i" and raw.dtype.itemsize <= 2 and intercept == 0:
            out[...] = raw
            return
        values: NDArray[Any] = raw.astype(np.int64 if raw.dtype.itemsize == 4 else np.int32)
        values += int(intercept)
    else:
        with np.errstate(over="ignore"):  # an infinite product is clipped
            values = raw.astype(np.float64)
            values *= slope
            values += intercept
        np.rint(values, out=values)
    np.clip(values, *HU_RANGE, out=values)
    out[...] = values


def hu_from_slabs(
    slabs: Iterable[NDArray[Any]], shape_zyx: Size, *, slope: float, intercept: float
) -> NDArray[np.int16]:
    """The HU of a whole volume from consecutive slabs of its stored numbers; see `fill_hu`.

    Raises:
        ReadError: If the shape is larger than any CT, or numbers are not finite: of all slabs, how many.
        MemoryBudgetError: If there is no memory for it.
    """
    hu: NDArray[np.int16] = allocated(shape_zyx, np.int16)
    start = 0
    remaining = iter(slabs)
    for slab in remaining:
        if wrong := _not_finite(slab):
            raise _not_finite_error(wrong + sum(map(_not_finite, remaining)))
        _convert(hu[start : start + len(slab)], slab, slope=slope, intercept=intercept)
        start += len(slab)
    return hu


def slab_slices(shape_zyx: Size, dtype: np.dtype[Any]) -> int:
    """How many z slices make a slab of about `SLAB_BYTES`, at least 1."""
    return max(1, SLAB_BYTES // (shape_zyx[1] * shape_zyx[2] * dtype.itemsize))


def _not_finite(raw: NDArray[Any]) -> int:
    return raw.size - int(np.count_nonzero(np.isfinite(raw))) if raw.dtype.kind == "f" else 0


def _not_finite_error(count: int) -> ReadError:
    return ReadError(
        expected="finite values",
        got=f"{count} voxels that are NaN or infinite",
        remedy="Replace them, for example by -1024 HU where there is no image",
    )


def require_hu(hu: NDArray[np.int16]) -> tuple[str, ...]:
    """Notes on `hu`, once its values are known to be possible Hounsfield units of a body.

    A CT shows air or fat, and little that is denser than bone. Magnetic resonance, 8-bit pictures, label maps and
    CT stored with an offset fail one of the two. Judged on an evenly spaced sample of large volumes.

    Raises:
        ReadError: If the values cannot be HU.
    """
    step = max(1, math.ceil((hu.size / _SAMPLED_VOX) ** (1 / 3)))
    sample = hu[::step, ::step, ::step]
    low, high = int(sample.min()), int(sample.max())
    if np.mean(sample <= AIR_OR_FAT_HU) < AIR_OR_FAT_SHARE:
        raise _not_hu(f"next to none in values from {low} to {high}", low, high)
    dense = float(np.mean(sample >= DENSE_HU))
    if dense > DENSE_SHARE:
        raise ReadError(
            expected=f"HU, at most {DENSE_SHARE:.0%} of them denser than {DENSE_HU}",
            got=f"{dense:.0%} in values from {low} to {high}",
            remedy=f"{_REMEDY} (often -1024)",
        )
    if low > GAS_HU:
        return (f"No voxel is below {GAS_HU} HU: the CT seems to be clipped to a window, and results may be worse.",)
    return ()


def _not_hu(got: str, low: int, high: int) -> ReadError:
    if low >= 0 and high <= 255:
        got = f"values from {low} to {high}, as in an 8-bit picture or a label map"
        remedy = "Give the CT in Hounsfield units, before it was windowed to 8 bits"
    elif low > HU_RANGE[1] // 2:
        remedy = f"{_REMEDY} (here probably -32768)"
    else:
        remedy = f"{_REMEDY} (often -1024); MR and PET are not supported"
    return ReadError(expected=f"HU, at least {AIR_OR_FAT_SHARE:.0%} of them air or fat", got=got, remedy=remedy)
