"""Anatomies made from label maps: a host filled and measured, its organs exchanged for those of a donor.

What the maps lack beyond the core (the wall of the abdomen, fat, skin) is drawn later from the distance to the core
that is stored next to the tissues. Needs scipy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from viscera.core.errors import VisceraError
from viscera.core.files import write_bytes
from viscera.core.resample import nearest_labels
from viscera.core.volume import LabelMap
from viscera.synthesis.anatomy import ANATOMIES, DEPTH_UNIT_MM, SPACING_MM, Anatomy, Place
from viscera.synthesis.tissues import DONOR_TISSUES, LIMB_STRUCTURES, ORGANS, Tissue, trunk_tissues

# How far the arrays reach beyond the core in the plane: room for the thickest fat.
_RIM_MM = 60.0
# The core's surface is smoothed by this, as slices are hulled one by one.
_CORE_SIGMA_MM = 6.0
# Unnamed voxels this near to the core's surface are muscle: between ribs, and the innermost layer of the wall.
_WALL_MM = 7.0
# Unnamed voxels this near to a kidney are fat.
_PERIRENAL_MM = 7.0
# The diaphragm covers liver, spleen and stomach where a lung, the heart or the wall lies this near; it is thinner in
# one person than in another. Maps leave it out: they end the lung short of it and name nothing between.
_DIAPHRAGM_REACH_MM = 14.0
_LUNG_GAP_MM = 8.0
_DIAPHRAGM_MM = (2.5, 6.5)
_BELOW_DIAPHRAGM = (Tissue.LIVER, Tissue.SPLEEN, Tissue.STOMACH)
_BEYOND_DIAPHRAGM = (Tissue.LUNG, Tissue.HEART, Tissue.BONE, Tissue.CARTILAGE, Tissue.MUSCLE, Tissue.OUTSIDE)
# A donor's organs end this far within the ring of ribs, which is taken from the bones up to this distance.
_RIBS_MM = 8.0
_RIBS_REACH_MM = 16.0
# Of the core, in slices where the bones are such a ring.
_RING_SHARE = 0.5
# What a donor brings, the largest last: later ones are laid over earlier ones, and small organs are kept whole.
_BROUGHT = (
    Tissue.LIVER,
    Tissue.STOMACH,
    Tissue.SPLEEN,
    Tissue.OESOPHAGUS,
    Tissue.DUODENUM,
    Tissue.PANCREAS,
    Tissue.GALLBLADDER,
    Tissue.KIDNEY_LEFT,
)
# What of the host a donor's organs do not cover.
_KEPT = (Tissue.BONE, Tissue.ARTERY, Tissue.VEIN, Tissue.SPINAL_CORD, Tissue.KIDNEY_RIGHT, Tissue.ADRENAL)
_LEAST_ORGAN_ML = 5.0


class _Plan(NamedTuple):
    """An anatomy to make: its name, the host, the donor, and whether the donor's kidney is mirrored."""

    name: str
    host: NDArray[np.uint8]
    donor: NDArray[np.uint8] | None = None
    mirror_kidney: bool = False


def make_anatomy(name: str, tissues: NDArray[np.uint8]) -> Anatomy:
    """The anatomy of a tissue map whose core is not yet filled: unnamed voxels named, depths and organs measured."""
    thickness_mm = np.random.default_rng(crc32(name.encode())).uniform(*_DIAPHRAGM_MM)
    filled = _with_perirenal_fat(_with_diaphragm(_with_core(tissues), thickness_mm))
    return Anatomy(name=name, tissues=filled, depth=depths(filled), organs=_places(filled))


def trunk_map(label_map: LabelMap, names: Mapping[int, str]) -> NDArray[np.uint8]:
    """The tissues of a whole-trunk map whose structures are called `names`, canonical, at SPACING_MM, with a rim.

    Bones of the shoulders and arms are left out: their place differs most between people.

    Raises:
        KeyError: If a structure is unknown.
    """
    table = np.zeros(256, dtype=np.uint8)
    for number, tissue in trunk_tissues(names).items():
        table[number] = 0 if names[number].startswith(LIMB_STRUCTURES) else tissue
    rim = int(_RIM_MM / SPACING_MM)
    tissues = _canonical(LabelMap(labels=table[label_map.labels], grid=label_map.grid))
    return np.pad(tissues, ((0, 0), (rim, rim), (rim, rim)))


def donor_map(label_map: LabelMap) -> NDArray[np.uint8]:
    """The tissues of a multi-organ map, canonical, at SPACING_MM, cut to its organs."""
    table = np.zeros(256, dtype=np.uint8)
    for number, tissue in DONOR_TISSUES.items():
        table[number] = tissue
    tissues = _canonical(LabelMap(labels=table[label_map.labels], grid=label_map.grid))
    around = ndimage.find_objects((tissues > 0).astype(np.uint8))
    return tissues[around[0]] if around else tissues


def with_donor(host: NDArray[np.uint8], donor: NDArray[np.uint8], *, mirror_kidney: bool) -> NDArray[np.uint8]:
    """Return the host with the donor's organs in place of its own.

    The donor is scaled to the extent of the host's organs along x and y, along z to the height of the liver's dome,
    and laid so that the middle of left kidney and pancreas agree. With `mirror_kidney` the mirror image of its left
    kidney also takes the place of the right one, which the multi-organ maps lack.
    """
    scale = _scale(host, donor)
    moved, shift = _zoomed(donor, scale), _anchor(host)
    result = _emptied(host, _BROUGHT)
    taken = np.isin(result, _KEPT)
    _lay(result, taken, moved, _BROUGHT, np.rint(shift - _anchor(moved)).astype(int))
    if mirror_kidney and (host == Tissue.KIDNEY_RIGHT).any():
        kidney = np.where(moved[:, :, ::-1] == Tissue.KIDNEY_LEFT, Tissue.KIDNEY_RIGHT, 0).astype(np.uint8)
        if kidney.any():
            place = _middle(host == Tissue.KIDNEY_RIGHT) - _middle(kidney > 0)
            result = _emptied(result, (Tissue.KIDNEY_RIGHT,))
            taken = np.isin(result, (Tissue.BONE, Tissue.ARTERY, Tissue.VEIN, Tissue.SPINAL_CORD))
            _lay(result, taken, kidney, (Tissue.KIDNEY_RIGHT,), np.rint(place).astype(int))
    result[_beyond_ribs(result)] = Tissue.OUTSIDE
    return result


def head_map(rng: np.random.Generator) -> NDArray[np.uint8]:
    """The tissues of something like a head: a skull with a brain, a face of bones and hollows, a neck.

    For scans without abdomen; nothing is learnt from it but that there is no organ.
    """
    z, y, x = np.mgrid[-65:66, -75:76, -65:66].astype(np.float32)
    wide, long, high = rng.uniform(32, 40), rng.uniform(40, 50), rng.uniform(36, 46)
    skull = ((z - 20) / high) ** 2 + (y / long) ** 2 + (x / wide) ** 2
    shell = 1 - 2 * rng.uniform(2, 4) / wide
    tissues = np.where(skull < 1, np.where(skull < shell, Tissue.BRAIN, Tissue.BONE), 0).astype(np.uint8)
    face = (((z + 18) / 28) ** 2 + ((y + 14) / 30) ** 2 + (x / 28) ** 2 < 1) & (tissues == 0)
    pattern = ndimage.gaussian_filter(rng.standard_normal(tissues.shape).astype(np.float32), 2.5)
    pattern /= pattern.std()
    tissues[face] = np.select([pattern > 0.7, pattern < -1.2], [Tissue.BONE, Tissue.AIRWAY], Tissue.MUSCLE)[face]
    neck = (z < -15) & (((y - 8) / 26) ** 2 + (x / 26) ** 2 < 1) & (tissues == 0)
    tissues[neck] = Tissue.MUSCLE
    tissues[neck & (((y - 14) / 9) ** 2 + (x / 9) ** 2 < 1)] = Tissue.BONE
    tissues[neck & (((y + 6) / 5) ** 2 + (x / 5) ** 2 < 1)] = Tissue.AIRWAY
    rim = int(_RIM_MM / SPACING_MM)
    return np.pad(tissues, ((0, 0), (rim, rim), (rim, rim)))


def write_anatomies(
    hosts: Mapping[str, NDArray[np.uint8]],
    donors: Mapping[str, NDArray[np.uint8]],
    folder: Path,
    *,
    heads: int = 3,
    workers: int = 1,
) -> Iterator[str]:
    """Write to `folder` each host, each host with each donor, and some heads, and yield each name once it is there.

    What is there already is kept. `ANATOMIES`, written last, lists all of them.

    Raises:
        VisceraError: If a donor could not be laid, as it or a host shows no pancreas or no left kidney.
    """
    if donors:
        for name, tissues in (*hosts.items(), *donors.items()):
            _require_anchor(name, tissues)
    plans = [_Plan(name, host) for name, host in hosts.items()]
    plans += [
        _Plan(f"{name}-{other}", host, donor, mirror_kidney=number % 2 == 0)
        for name, host in hosts.items()
        for number, (other, donor) in enumerate(donors.items())
    ]
    plans += [_Plan(f"head-{seed}", head_map(np.random.default_rng(seed))) for seed in range(heads)]
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_written, plans, [folder] * len(plans))
    names = sorted(plan.name for plan in plans)
    write_bytes((json.dumps(names, indent=1) + "\n").encode(), folder / ANATOMIES)


def _written(plan: _Plan, folder: Path) -> str:
    path = folder / f"{plan.name}.safetensors"
    if not path.exists():
        tissues = plan.host
        if plan.donor is not None:
            tissues = with_donor(plan.host, plan.donor, mirror_kidney=plan.mirror_kidney)
        make_anatomy(plan.name, tissues).save(path)
    return plan.name


def _canonical(label_map: LabelMap) -> NDArray[np.uint8]:
    turn = label_map.grid.to_canonical()
    grid = turn.apply_to_grid(label_map.grid)
    size = [max(1, round(extent / SPACING_MM)) for extent in grid.extent_zyx_mm]
    target = grid.centred(grid.box(), (size[0], size[1], size[2]), SPACING_MM)
    return nearest_labels(np.ascontiguousarray(turn.apply(label_map.labels)), grid, target)


def _with_core(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The tissues with all that is unnamed within the core made interior or muscle."""
    core = _core(tissues > 0)
    unnamed = core & (tissues == Tissue.OUTSIDE)
    result = tissues.copy()
    result[unnamed] = Tissue.INTERIOR
    inward = ndimage.distance_transform_edt(core, sampling=SPACING_MM)
    places = ndimage.distance_transform_edt(tissues == Tissue.OUTSIDE, return_distances=False, return_indices=True)
    beside = tissues[tuple(places)]
    muscle = unnamed & ((inward < _WALL_MM) | np.isin(beside, (Tissue.MUSCLE, Tissue.BONE, Tissue.SPINAL_CORD)))
    result[muscle & (beside != Tissue.LUNG)] = Tissue.MUSCLE
    return result


def _with_diaphragm(tissues: NDArray[np.uint8], thickness_mm: float) -> NDArray[np.uint8]:
    """The tissues with the diaphragm as muscle over the upper organs, and the lung going on down to it."""
    organs = np.isin(tissues, _BELOW_DIAPHRAGM)
    if not organs.any():
        return tissues
    to_organs, to_beyond, to_lung = (
        ndimage.distance_transform_edt(~there, sampling=SPACING_MM)
        for there in (organs, np.isin(tissues, _BEYOND_DIAPHRAGM), tissues == Tissue.LUNG)
    )
    free = np.isin(tissues, (Tissue.INTERIOR, Tissue.LUNG)) & (to_beyond <= _DIAPHRAGM_REACH_MM)
    sheet = free & (to_organs <= thickness_mm)
    lung = free & ~sheet & (to_organs <= 2 * _DIAPHRAGM_REACH_MM) & (to_lung <= np.minimum(to_beyond, _LUNG_GAP_MM))
    result = tissues.copy()
    result[lung] = Tissue.LUNG
    result[sheet] = Tissue.MUSCLE
    return result


def _with_perirenal_fat(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    kidneys = np.isin(tissues, (Tissue.KIDNEY_LEFT, Tissue.KIDNEY_RIGHT))
    if not kidneys.any():
        return tissues
    around = ndimage.find_objects(kidneys.astype(np.uint8))[0]
    rim = int(_PERIRENAL_MM / SPACING_MM) + 1
    part = tuple(slice(max(0, one.start - rim), one.stop + rim) for one in around)
    near = ndimage.distance_transform_edt(~kidneys[part], sampling=SPACING_MM) <= _PERIRENAL_MM
    result = tissues.copy()
    result[part][near & (tissues[part] == Tissue.INTERIOR)] = Tissue.FAT
    return result


def _core(named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The convex hull of what is named, slice by slice, its surface smoothed along z."""
    core = np.zeros(named.shape, dtype=np.float32)
    for index, plane in enumerate(named):
        core[index] = _hull(plane)
    smooth = ndimage.gaussian_filter(core, _CORE_SIGMA_MM / SPACING_MM, mode="nearest")
    result: NDArray[np.bool_] = (smooth > 0.5) | named
    return result


def _hull(plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
    points = np.argwhere(plane)
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError, IndexError):  # too few points for an area
        return plane
    rows, columns = np.indices(plane.shape)
    inside = np.ones(plane.shape, dtype=bool)
    for first, second, offset in hull.equations:
        inside &= first * rows + second * columns + offset <= 0.5
    return inside


def depths(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return how deep each voxel lies in its tissue, uint8 (z, y, x), in the units of `Anatomy.depth`."""
    depth = np.zeros(tissues.shape, dtype=np.float32)
    for tissue, box in enumerate(ndimage.find_objects(tissues.astype(np.int32) + 1)):
        if box is None:
            continue
        around = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)
        inside = tissues[around] == tissue
        # Beyond the array a tissue goes on: the first and last slice are no surface.
        padded = np.pad(inside, ((1, 1), (0, 0), (0, 0)), mode="edge")
        distance = ndimage.distance_transform_edt(padded, sampling=SPACING_MM)[1:-1]
        depth[around][inside] = distance[inside]
    stored: NDArray[np.uint8] = np.clip(np.rint(depth / DEPTH_UNIT_MM), 0, 255).astype(np.uint8)
    return stored


def _places(tissues: NDArray[np.uint8]) -> dict[Tissue, Place]:
    places = {}
    for tissue in ORGANS:
        points = np.argwhere(tissues == tissue)
        if len(points) * SPACING_MM**3 / 1000 >= _LEAST_ORGAN_ML:
            places[tissue] = (points.mean(axis=0), points.std(axis=0) + 1.0)
    return places


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    middle: NDArray[np.float64] = np.argwhere(mask).mean(axis=0)
    return middle


def _require_anchor(name: str, tissues: NDArray[np.uint8]) -> None:
    for tissue in (Tissue.PANCREAS, Tissue.KIDNEY_LEFT):
        if not (tissues == tissue).any():
            raise VisceraError(
                f"laying donors into hosts by pancreas and left kidney: {name}",
                expected="both of them in every map",
                got=f"no {tissue.name.lower().replace('_', ' ')}",
                remedy="Leave the map out",
            )


def _anchor(tissues: NDArray[np.uint8]) -> NDArray[np.float64]:
    anchor: NDArray[np.float64] = (_middle(tissues == Tissue.PANCREAS) + _middle(tissues == Tissue.KIDNEY_LEFT)) / 2
    return anchor


def _scale(host: NDArray[np.uint8], donor: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Factors (z, y, x), at most a quarter up or a fifth down."""
    extents, heights = [], []
    for tissues in (host, donor):
        points = np.argwhere(np.isin(tissues, (Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY_LEFT)))
        extents.append(np.percentile(points, 99, axis=0) - np.percentile(points, 1, axis=0))
        heights.append(np.percentile(points[:, 0], 99) - _anchor(tissues)[0])
    y, x = extents[0][1:] / extents[1][1:]
    # The dome of a whole liver must meet the lungs; of one that the map cuts the height says nothing.
    whole = not (host[-1] == Tissue.LIVER).any()
    z = heights[0] / heights[1] if whole else (y + x) / 2
    factors: NDArray[np.float64] = np.clip([z, y, x], 0.8, 1.25)
    return factors


def _zoomed(tissues: NDArray[np.uint8], scale: NDArray[np.float64]) -> NDArray[np.uint8]:
    size = np.maximum(1, np.rint(np.array(tissues.shape) * scale)).astype(int)
    z, y, x = (((np.arange(n) + 0.5) / n * old).astype(int) for n, old in zip(size, tissues.shape, strict=True))
    return tissues[np.ix_(z, y, x)]


def _emptied(tissues: NDArray[np.uint8], gone: Sequence[Tissue]) -> NDArray[np.uint8]:
    """The tissues without `gone`: lung goes on where it is nearest, the rest is left unnamed."""
    empty = np.isin(tissues, gone)
    result = tissues.copy()
    result[empty] = Tissue.OUTSIDE
    places = ndimage.distance_transform_edt(result == Tissue.OUTSIDE, return_distances=False, return_indices=True)
    result[empty & (result[tuple(places)] == Tissue.LUNG)] = Tissue.LUNG
    return result


def _beyond_ribs(tissues: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where organs of a donor lie between the ribs or beyond them, which no organ of the trunk itself does."""
    bones = np.isin(tissues, (Tissue.BONE, Tissue.CARTILAGE))
    organs = np.isin(tissues, (*_BROUGHT, Tissue.KIDNEY_RIGHT))
    near = ndimage.distance_transform_edt(~bones, sampling=SPACING_MM) <= _RIBS_REACH_MM
    within = np.zeros(tissues.shape, dtype=np.float32)
    for index in np.flatnonzero((organs & near).any(axis=(1, 2))):
        ring = _hull(bones[index])
        # Below the ribs a slice has a vertebra alone; in front of the lowest ones the hull is open, but no bone near.
        if ring.sum() < _RING_SHARE * _hull(tissues[index] > 0).sum():
            near[index] = False
        else:
            within[index] = ndimage.distance_transform_edt(ring, sampling=SPACING_MM)
    beyond: NDArray[np.bool_] = organs & near & (within < _RIBS_MM)
    return beyond


def _lay(
    result: NDArray[np.uint8],
    taken: NDArray[np.bool_],
    moved: NDArray[np.uint8],
    organs: Sequence[Tissue],
    shift: NDArray[np.intp],
) -> None:
    """Lays `organs` of `moved`, shifted, over `result` where nothing is `taken`; in place, cut at the borders."""
    starts = np.maximum(shift, 0)
    stops = np.minimum(shift + moved.shape, result.shape)
    if (stops <= starts).any():
        return
    into = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    part = moved[tuple(slice(a, b) for a, b in zip(starts - shift, stops - shift, strict=True))]
    for organ in organs:
        result[into][(part == organ) & ~taken[into]] = organ
