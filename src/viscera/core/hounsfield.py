"""Stored values to Hounsfield units, and whether the result can be Hounsfield units at all."""

from __future__ import annotations

import math
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
# A GiB of HU: 2000 slices of 512 x 512. Larger volumes must not unfold from next to nothing: CT shrinks two- or
# threefold, tenfold where what surrounds the patient was blanked, and label maps of this size a hundredfold.
LARGEST_UNDOUBTED_VOX = 2**29
LARGEST_RATIO = 200

_SAMPLED_VOX = 4_000_000
_REMEDY = "Give a CT in Hounsfield units; if this one was stored with an offset, name it with --hu-offset"


def allocated(shape_zyx: Size, dtype: type[np.generic], doing: str) -> NDArray[Any]:
    """An array of `shape_zyx`, its values not set, once its size is known to be sensible.

    Raises:
        ReadError: If the shape is larger than any CT.
        MemoryBudgetError: If there is no memory for it.
    """
    if math.prod(shape_zyx) > LARGEST_VOLUME_VOX:
        raise ReadError(
            doing,
            expected=f"at most {LARGEST_VOLUME_VOX} voxels",
            got=f"a header that claims {' x '.join(map(str, shape_zyx))} (z, y, x)",
            remedy="Check the file, or split the scan",
        )
    try:
        return np.empty(shape_zyx, dtype=dtype)
    except MemoryError as error:
        raise MemoryBudgetError(
            doing,
            expected=f"memory for {math.prod(shape_zyx) * np.dtype(dtype).itemsize} bytes",
            got="none left",
            remedy="Close other programs or use a machine with more memory",
        ) from error


def require_likely(shape_zyx: Size, stored_bytes: int, doing: str) -> None:
    """Refuse a very large volume of `shape_zyx` that would unfold from very few bytes, as no scan does.

    Raises:
        ReadError: If so; it is made to use up memory.
    """
    voxels = math.prod(shape_zyx)
    if voxels > LARGEST_UNDOUBTED_VOX and voxels > LARGEST_RATIO * stored_bytes:
        raise ReadError(
            doing,
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


def fill_hu(out: NDArray[np.int16], raw: NDArray[Any], *, slope: float, intercept: float) -> int:
    """The number of voxels of `raw` that are not finite; if none, `out` holds raw * slope + intercept.

    Args:
        out: Written: rounded to the nearest integer (halves to even), clipped to `HU_RANGE`.
        raw: Real numbers of any kind and byte order, of `out`'s shape.
        slope: HU per stored unit.
        intercept: HU of a stored zero.
    """
    if raw.dtype.kind == "f" and (wrong := raw.size - int(np.count_nonzero(np.isfinite(raw)))):
        return wrong
    whole = raw.dtype.kind in "iu" and raw.dtype.itemsize <= 4 and slope == 1
    if whole and float(intercept).is_integer() and abs(intercept) < 2**30:
        if raw.dtype.kind == "i" and raw.dtype.itemsize <= 2 and intercept == 0:
            out[...] = raw
            return 0
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
    return 0


def require_finite(wrong: int, doing: str) -> None:
    """Require that the count `wrong` of NaN and infinite voxels is zero.

    Raises:
        ReadError: Otherwise, saying how many.
    """
    if wrong:
        raise ReadError(
            doing,
            expected="finite values",
            got=f"{wrong} voxels that are NaN or infinite",
            remedy="Replace them, for example by -1024 HU where there is no image",
        )


def require_hu(hu: NDArray[np.int16], doing: str) -> tuple[str, ...]:
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
        raise _not_hu(f"next to none in values from {low} to {high}", low, high, doing)
    dense = float(np.mean(sample >= DENSE_HU))
    if dense > DENSE_SHARE:
        raise ReadError(
            doing,
            expected=f"HU, at most {DENSE_SHARE:.0%} of them denser than {DENSE_HU}",
            got=f"{dense:.0%} in values from {low} to {high}",
            remedy=f"{_REMEDY} (often -1024)",
        )
    if low > GAS_HU:
        return (f"No voxel is below {GAS_HU} HU: the CT seems to be clipped to a window, and results may be worse.",)
    return ()


def _not_hu(got: str, low: int, high: int, doing: str) -> ReadError:
    if low >= 0 and high <= 255:
        got = f"values from {low} to {high}, as in an 8-bit picture or a label map"
        remedy = "Give the CT in Hounsfield units, before it was windowed to 8 bits"
    elif low > HU_RANGE[1] // 2:
        remedy = f"{_REMEDY} (here probably -32768)"
    else:
        remedy = f"{_REMEDY} (often -1024); MR and PET are not supported"
    return ReadError(doing, expected=f"HU, at least {AIR_OR_FAT_SHARE:.0%} of them air or fat", got=got, remedy=remedy)
