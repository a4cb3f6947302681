"""CT series in DICOM: one series chosen, its slices put in order and checked, decoded into one array."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import GeometryError, ReadError, reading
from viscera.core.geometry import Grid
from viscera.core.hounsfield import allocated, fill_hu, require_hu, require_likely, require_offset
from viscera.core.volume import Volume
from viscera.formats.dicom.copies import undecodable, without_copies
from viscera.formats.dicom.files import DicomSource, dicom_sources
from viscera.formats.dicom.pixels import file_images
from viscera.formats.dicom.series import DICOM_FAULTS, Series, Slice, ct_series

# A slice may lie this part of the spacing away from where equal steps put it: scanners round positions to 0.1 mm at
# worst, which is a tenth of the thinnest usual slice, while a missing slice is off by a quarter at least.
SLICE_TOLERANCE = 0.1
# Slices closer than this lie at one place.
SAME_PLACE_MM = 1e-2
# A gap this many times the usual one has room for a missing slice.
MISSING_GAP = 1.5
# Of a millimetre; scanners give six at most, and the rest is what sums in floating point leave.
_DECIMALS = 9
# No codec in use packs an image further than this.
LARGEST_IMAGE_RATIO = 20_000
# A tilt below is rounding.
TILT_DEGREES = 0.1


def read_dicom(
    path: Path, *, series: str | None = None, hu_offset: int = 0, on_grid: Callable[[Grid], None] | None = None
) -> Volume:
    """The CT in a DICOM folder, zip or file: int16 HU (slice, row, column), slices along their normal.

    The affine follows from the slices' positions, so the shear of a tilted gantry is in it. Of several series the best
    one is taken, see `viscera.formats.dicom.series_ranking`, unless `series` says otherwise, and a note says why.

    Args:
        path: A folder (all below it is looked at, regardless of its name), a zip, or one file with all slices.
        series: A series number, or a Series Instance UID or the beginning of one.
        hu_offset: Added to all values.
        on_grid: Called with the grid before memory is taken for the voxels.

    Raises:
        ReadError: If there is no such CT series, or its images are damaged or cannot be HU.
        GeometryError: If slices are missing, doubled or unevenly spaced.
        MemoryBudgetError: If there is no memory for it.
    """
    require_offset(hu_offset)
    with reading(path), dicom_sources(path) as sources:
        stack = chosen_stack(sources, series)
        if on_grid is not None:
            on_grid(stack.grid)
        hu = _decoded(stack.slices, stack.grid, hu_offset)
        return Volume(hu=hu, grid=stack.grid, notes=stack.notes + require_hu(hu), sides_certain=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The slices of one series, one at each place.

    Attributes:
        slices: Along their normal.
        grid: Of all their voxels, (slice, row, column).
        notes: How they were chosen and what is odd about them.
    """

    slices: tuple[Slice, ...]
    grid: Grid
    notes: tuple[str, ...]


def chosen_stack(sources: Sequence[DicomSource], series: str | None) -> Stack:
    """The stack that `read_dicom` takes from `sources`, its pixels not yet read; raises what `read_dicom` does."""
    chosen, notes = _chosen(ct_series(sources), series)
    if not chosen.traits.kind.in_hu:
        raise ReadError(
            expected="Hounsfield units",
            got=f"{chosen.text(with_uid=False)}, in units {chosen.units}",
            remedy="Choose another series with --series",
        )
    if chosen.traits.kind.projection:
        notes += ("The images are projections or renderings (MIP, MinIP): organs are not shown as large as they are.",)
    normal = chosen.slices[0].normal
    distinct, copies = without_copies(chosen.slices)
    ordered = sorted(distinct, key=lambda one: float(np.dot(one.position_xyz_mm, normal)))
    grid, tilt = _stacked(ordered)
    if copies:
        notes += (f"{copies} repeated copies of slices were passed over.",)
    if tilt > TILT_DEGREES:
        notes += (f"The gantry was tilted by {tilt:.1f} degrees; the shear is kept in the geometry.",)
    return Stack(slices=tuple(ordered), grid=grid, notes=notes)


def _chosen(candidates: list[Series], wanted: str | None) -> tuple[Series, tuple[str, ...]]:
    if wanted is None:
        if len(candidates) == 1:
            return candidates[0], ()
        best, second = candidates[:2]
        drawback = f"{second.text(with_uid=False)}, {second.traits.drawback(best.traits)}"
        taken = f"Of {len(candidates)} CT series, {best.text(with_uid=False)}, was read"
        return best, (f"{taken}; the next best, {drawback}.",)
    by_uid = [one for one in candidates if one.uid == wanted]
    by_number = [one for one in candidates if one.number == wanted]
    by_prefix = [one for one in candidates if wanted and one.uid.startswith(wanted)]
    matches = by_uid or by_number or by_prefix
    if matches and len({one.uid for one in matches}) == 1:  # parts of one series: the best comes first
        return matches[0], (f"On request, {matches[0].text(with_uid=False)}, was read.",)
    numbers = [one.number for one in candidates]
    listing = "; ".join(one.text(with_uid=not one.number or numbers.count(one.number) > 1) for one in candidates)
    raise ReadError(
        expected=f"one series that matches {wanted!r}",
        got=f"{len(matches)} among: {listing}",
        remedy="Give the number or the UID of one of them with --series",
    )


def _stacked(ordered: Sequence[Slice]) -> tuple[Grid, float]:
    """The grid of evenly spaced slices, and the angle in degrees between their normal and the way they advance."""
    if len(ordered) < 2:
        raise ReadError(
            expected="a series of at least 2 slices",
            got="one slice",
            remedy="Give the folder that holds the whole series",
        )
    first = ordered[0]
    positions = np.array([one.position_xyz_mm for one in ordered])
    along = positions @ first.normal
    _require_even(along)
    origin, step = line_through(positions, np.arange(len(ordered)))
    astray = np.linalg.norm(positions - origin - np.arange(len(ordered))[:, None] * step, axis=1)
    if astray.max() > SLICE_TOLERANCE * np.linalg.norm(step):
        raise _uneven(f"slice {astray.argmax() + 1} is {astray.max():.2f} mm from its place")
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.asarray(first.orientation[3:]) * first.spacing_mm[0]
    affine[:3, 2] = np.asarray(first.orientation[:3]) * first.spacing_mm[1]
    affine[:3, 3] = origin
    cosine = float(step @ first.normal / np.linalg.norm(step))
    grid = Grid(shape_zyx=(len(ordered), *first.size_vox), affine=affine)
    return grid, float(np.degrees(np.arccos(min(1.0, cosine))))


def line_through(
    positions: NDArray[np.float64], places: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Origin and step of the straight line nearest to `positions` (slices, axes) at its `places`: least squares."""
    centred = places - places.mean()
    step = centred @ positions / (centred @ centred)
    origin = positions.mean(axis=0) - places.mean() * step
    return origin.round(_DECIMALS), step.round(_DECIMALS)


def _require_even(along: NDArray[np.float64]) -> None:
    gaps = np.diff(along)
    if gaps.min() < SAME_PLACE_MM:
        raise GeometryError(
            expected="one slice at each place",
            got=f"{int((gaps < SAME_PLACE_MM).sum())} of {len(along)} at the place of another",
            remedy="Keep one phase or reconstruction, or choose another series with --series",
        )
    usual = float(np.median(gaps))
    if np.abs(gaps - usual).max() <= 2 * SLICE_TOLERANCE * usual:  # slow drifts are for the caller to see
        return
    wide = np.flatnonzero(gaps > MISSING_GAP * usual)
    rest = np.abs(gaps / usual - np.rint(gaps / usual)).max()
    if len(wide) and rest <= 2 * SLICE_TOLERANCE:
        lost = int(np.rint(gaps[wide] / usual - 1).sum())
        raise GeometryError(
            expected=f"a slice every {usual:.2f} mm",
            got=f"{lost} missing (the first after slice {wide[0] + 1} of {len(along)})",
            remedy="Copy the whole series again from its archive",
        )
    raise _uneven(f"gaps from {gaps.min():.2f} to {gaps.max():.2f} mm")


def _uneven(got: str) -> GeometryError:
    return GeometryError(
        expected="evenly spaced slices",
        got=got,
        remedy="Reconstruct the scan with even spacing, or choose another series with --series",
    )


def _decoded(ordered: Sequence[Slice], grid: Grid, hu_offset: int) -> NDArray[np.int16]:
    _require_room(ordered)
    hu: NDArray[np.int16] = allocated(grid.shape_zyx, np.int16)
    members_of: dict[DicomSource, list[int]] = {}
    for place, one in enumerate(ordered):
        members_of.setdefault(one.source, []).append(place)
    for source, members in members_of.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's warnings quote values
                pixels = _pixels(source, [ordered[place].frame for place in members])
                for place, image in zip(members, pixels, strict=True):
                    one = ordered[place]
                    if image.shape != one.size_vox or image.dtype.kind not in "iu":
                        raise ValueError(f"an image of {image.shape}")
                    fill_hu(hu[place], image, slope=one.slope, intercept=one.intercept + hu_offset)
        except DICOM_FAULTS as error:
            raise undecodable(error, source) from error
    return hu


def _require_room(ordered: Sequence[Slice]) -> None:
    """Refuse objects too short to hold any image of their size, before memory is taken for it."""
    size = sum(source.size_bytes for source in {one.source for one in ordered})
    voxels = len(ordered) * ordered[0].size_vox[0] * ordered[0].size_vox[1]
    if voxels > size * LARGEST_IMAGE_RATIO:
        raise ReadError(
            expected=f"pixels for the {voxels} voxels that the headers claim",
            got=f"{size} bytes",
            remedy="Copy the series again from its archive",
        )
    require_likely((len(ordered), *ordered[0].size_vox), size)


def _pixels(source: DicomSource, frames: list[int]) -> Iterator[NDArray[Any]]:
    with source.opened() as file:
        yield from file_images(file, frames)
