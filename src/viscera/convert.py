"""From what users hold (a path, an image of another library, an array) to a `Volume`."""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viscera.core.errors import ConfigError
from viscera.core.geometry import Grid
from viscera.core.volume import Volume
from viscera.read import read_volume

if TYPE_CHECKING:
    import nibabel.spatialimages
    import SimpleITK
    import torch

    CtInput: TypeAlias = (
        str
        | os.PathLike[str]
        | Volume
        | NDArray[Any]
        | nibabel.spatialimages.SpatialImage
        | SimpleITK.Image
        | torch.Tensor
    )

# Counts or spacings that differ by less than this share of themselves are equal.
_SAME_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """A CT from whatever held it.

    Attributes:
        volume: The CT.
        source: Its path, None if it was in memory.
        index_order: "xyz" for a nibabel image, whose indices run the other way than the volume's; else "zyx".
    """

    volume: Volume
    source: Path | None = None
    index_order: Literal["zyx", "xyz"] = "zyx"


def converted(
    ct: CtInput,
    *,
    affine: ArrayLike | None = None,
    series: str | None = None,
    hu_offset: int = 0,
    on_grid: Callable[[Grid], None] | None = None,
) -> Converted:
    """Convert what holds a CT to a `Volume`.

    Args:
        ct: A path, a `Volume`, a nibabel or SimpleITK image, a numpy array or a torch tensor, in HU.
        affine: For an array or a tensor: 4x4, from its own indices, in their order, to RAS+ in mm. A tensor that
            carries one, such as MONAI's MetaTensor, needs none.
        series: For a path: which of several DICOM series.
        hu_offset: For a path: added to the stored values.
        on_grid: Called with the grid of a file once it is known.

    Raises:
        ConfigError: For something else, an array without affine, or an option that does not go with it.
        ReadError, GeometryError: As `read_volume` and `Volume.from_array` raise them.
    """
    is_path = isinstance(ct, str | os.PathLike)
    array = None if is_path else _array(ct)
    if array is None:
        _require(affine is None, "no affine, as it says itself where its voxels lie", f"an affine for {_kind(ct)}")
    _require(is_path or (series is None and not hu_offset), "a path, to choose a series or an offset", _kind(ct))
    if isinstance(ct, str | os.PathLike):
        path = Path(ct)
        volume = read_volume(path, series=series, hu_offset=hu_offset, on_grid=on_grid)
        return Converted(volume=volume, source=path)
    if isinstance(ct, Volume):
        return Converted(volume=ct)
    if array is not None:
        affine = _carried_affine(ct) if affine is None else affine
        _require(affine is not None, "affine=, the 4x4 matrix from the array's indices to RAS+ in mm", "none")
        volume = Volume.from_array(array, affine_ras=affine)
        notes = swapped_axes_note(volume.grid)
        for note in notes:
            warnings.warn(note, stacklevel=3)
        return Converted(volume=replace(volume, notes=volume.notes + notes))
    if _is_a(ct, "nibabel.spatialimages", "SpatialImage"):
        return Converted(volume=Volume.from_nibabel(ct), index_order="xyz")
    _require(
        _is_a(ct, "SimpleITK", "Image"),
        "a path, a Volume, a nibabel or SimpleITK image, a numpy array or a torch tensor",
        _kind(ct),
    )
    return Converted(volume=Volume.from_sitk(ct))


def swapped_axes_note(grid: Grid) -> tuple[str, ...]:
    """Warn if an array's affine seems to have its columns in another order than the array its axes.

    Slices of a CT are square pictures of square pixels: two axes have equal counts and equal spacings. Where exactly
    two counts and exactly two spacings are equal, but of different axes, (z, y, x) and (x, y, z) were likely mixed.
    """
    counts, spacings = _equal_pair(grid.shape_zyx), _equal_pair(grid.spacing_zyx_mm)
    if counts is None or spacings is None or counts == spacings:
        return ()
    sizes, steps = " x ".join(map(str, grid.shape_zyx)), " x ".join(f"{step:g}" for step in grid.spacing_zyx_mm)
    return (
        f"An array of {sizes} voxels has by its affine spacings of {steps} mm along the same axes: check that the "
        "affine's columns have the order of the array's axes.",
    )


def _equal_pair(values: tuple[float, float, float]) -> tuple[int, int] | None:
    """The two axes whose values are equal; None if no two or all three are."""
    pairs = [
        (one, other)
        for one, other in itertools.combinations(range(3), 2)
        if abs(values[one] - values[other]) <= _SAME_SHARE * max(values[one], values[other])
    ]
    return pairs[0] if len(pairs) == 1 else None


def _array(ct: Any) -> NDArray[Any] | None:
    """The numbers of an array or a tensor, of a tensor without its channel; None for anything else."""
    if isinstance(ct, np.ndarray):
        return ct
    if not _is_a(ct, "torch", "Tensor"):
        return None
    tensor = ct.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # numpy has no such type
        tensor = tensor.float()
    array: NDArray[Any] = np.asarray(tensor)
    return array[0] if array.ndim == 4 and len(array) == 1 else array


def _carried_affine(ct: Any) -> ArrayLike | None:
    affine = getattr(ct, "affine", None)
    return None if affine is None else np.asarray(affine, dtype=np.float64)


def _is_a(ct: Any, module: str, name: str) -> bool:
    """Whether it is of that class; of a module nobody has imported nothing can be."""
    return module in sys.modules and isinstance(ct, getattr(sys.modules[module], name))


def _kind(ct: Any) -> str:
    return f"{type(ct).__module__}.{type(ct).__qualname__}"


def _require(holds: bool, expected: str, got: str) -> None:
    if not holds:
        raise ConfigError(
            "taking a CT", expected=expected, got=got, remedy="See the documentation of viscera.Segmenter"
        )
