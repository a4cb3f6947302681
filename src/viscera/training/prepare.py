"""Preparing a data set: every case checked, then stored as arrays that training reads without any further work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig, StageConfig
from viscera.core.errors import ConfigError, GeometryError, ReadError, VisceraError, during, reading
from viscera.core.files import write_bytes, write_text
from viscera.core.geometry import Box, Grid, Ranges, Size
from viscera.core.interrupts import ignore_interrupts
from viscera.core.resample import axis_maps, nearest_labels, resample
from viscera.core.volume import LabelMap, Volume
from viscera.crop import roi_box, roi_grid
from viscera.model.bundle import STAGES, Stage
from viscera.preprocess import fitted_grid
from viscera.read import read_volume
from viscera.training.array_files import deflated_arrays
from viscera.training.cache import (
    CASES,
    FORMAT,
    MANIFEST,
    UNKNOWN_LABEL,
    CacheSettings,
    Manifest,
    OrganEntry,
    PreparedCase,
    Refusal,
    StoredArrays,
    file_sha256,
    read_record,
)
from viscera.training.datasets import Dataset, DatasetCase
from viscera.training.label_mapping import LabelMapping, id_counts, read_ids

# How far a CT and its labels may lie apart: headers round orientations, which moves far corners a little.
SAME_PLACE_MM = 0.1
# Voxels kept around the organs' labels, so that interpolation finds the zeros next to them.
_RIM_VOX = 1


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What is stored.

    Attributes:
        model: Its stages' spacing, smoothing and sizes, and the margin.
        padding_mm: Kept around the region of interest for augmentation, as far as the scan reaches. A voxel in the
            middle of a face of the largest region is moved by up to 86 mm, at the corners more; what is not kept
            continues with its edge.
        oversampling: How many times finer than the network's spacing arrays are stored, so that augmentation, the
            second interpolation, blurs little.
        allow_empty: Keep scans whose labels show no organ, for localisation.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    padding_mm: float = 48.0
    oversampling: int = 2
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if self.padding_mm < 0 or self.oversampling < 1:
            raise ConfigError(
                "setting PrepareConfig",
                expected="a padding of 0 mm or more and an oversampling of 1 or more",
                got=f"{self.padding_mm} and {self.oversampling}",
                remedy="Correct the values",
            )

    def settings(self, mapping: LabelMapping) -> CacheSettings:
        """Return what the manifest keeps of this."""
        return CacheSettings(
            localise=self.model.localise,
            segment=self.model.segment,
            margin_mm=self.model.margin_mm,
            padding_mm=self.padding_mm,
            oversampling=self.oversampling,
            organs=mapping.organs,
            rules=mapping.rules,
        )


@dataclass(frozen=True, kw_only=True)
class PrepareOutcome:
    """The result of preparing one case: its entry, or why it was refused; `kept` if it had been prepared before."""

    name: str
    entry: PreparedCase | None = None
    reason: str = ""
    kept: bool = False


def prepare_dataset(
    dataset: Dataset,
    folder: Path,
    config: PrepareConfig,
    *,
    workers: int = 1,
    on_case: Callable[[PrepareOutcome], None] | None = None,
) -> Manifest:
    """Prepare a data set and return the manifest of the cache, which lists the cases prepared and those refused.

    A case prepared before with the same settings from the same files is kept if its files are whole. Files appear
    whole or not at all; the manifest is written last. The result does not depend on `workers`.

    Args:
        dataset: From `find_dataset`; its mapping says what the labels mean.
        folder: Of the cache.
        config: What to store.
        workers: Processes at the same time.
        on_case: Called with each case as it is done, in any order.

    Raises:
        WriteError: If the manifest cannot be written.
    """
    settings = config.settings(dataset.mapping)
    work = partial(_prepared, folder=folder / CASES, mapping=dataset.mapping, config=config)
    outcomes = {}
    # Closed at once on an interrupt, so that no more cases are begun.
    with closing(_parallel(work, dataset.cases, workers)) as done:
        for outcome in done:
            outcomes[outcome.name] = outcome
            if on_case is not None:
                on_case(outcome)
    ordered = [outcomes[case.name] for case in dataset.cases]
    manifest = Manifest(
        format=FORMAT,
        settings=settings,
        cases=tuple(outcome.entry for outcome in ordered if outcome.entry is not None),
        refused=dataset.refused + tuple(Refusal(name=o.name, reason=o.reason) for o in ordered if o.entry is None),
    )
    write_text(_json(manifest), folder / MANIFEST)
    return manifest


def checked_case(case: DatasetCase, mapping: LabelMapping, *, allow_empty: bool = False) -> tuple[Volume, LabelMap]:
    """Return CT and label file of a case in canonical axes, the labels still with the ids of their file.

    Raises:
        ReadError: If a file cannot be read, the CT cannot be HU, an id is unknown, or no organ is labelled.
        GeometryError: If the two do not lie on one grid.
    """
    volume = read_volume(case.image)
    label_map = read_ids(case.labels, mapping, within=volume.grid)
    turn, label_turn = volume.grid.to_canonical(), label_map.grid.to_canonical()
    grid, label_grid = turn.apply_to_grid(volume.grid), label_turn.apply_to_grid(label_map.grid)
    if not grid.matches(label_grid, SAME_PLACE_MM):
        raise GeometryError(
            f"comparing {case.image.name} and {case.labels}",
            expected=f"one grid, to {SAME_PLACE_MM} mm",
            got=_grid_difference(grid, label_grid),
            remedy="Resample the labels onto the CT's grid, or give the labels of this CT",
        )
    labels = label_turn.apply(label_map.labels)
    with reading(case.labels):
        organs = mapping.apply(labels)
    if not allow_empty and not shown(organs).any():
        raise ReadError(
            f"reading {case.labels}",
            expected=f"at least one of {', '.join(mapping.organs)}",
            got="background only",
            remedy="Leave the case out, or keep it for localisation with --allow-empty",
        )
    hu: NDArray[np.int16] = turn.apply(volume.hu)
    return Volume(hu=hu, grid=grid, notes=(*volume.notes, *label_map.notes)), LabelMap(labels=labels, grid=grid)


def stored_grid(grid: Grid, organs: Box | None, stage: Stage, config: PrepareConfig) -> Grid:
    """Return the grid on which a stage's arrays of a scan on `grid` (canonical) are stored.

    Its voxel centres include those the network's grid has without augmentation, so that sampling these again changes
    nothing. It holds the scan for localisation; for segmentation the region of interest and its padding, as far as the
    scan goes.

    Args:
        grid: The scan's.
        organs: Their box in mm of `grid`; needed for segmentation.
        stage: Whose sampling.
        config: What to store.
    """
    if stage == "segment" and organs is not None:
        target = roi_grid(grid, organs, config.model)
        wanted = roi_box(grid, organs, config.model.margin_mm + config.padding_mm)
    else:
        target, wanted = fitted_grid(grid, grid.box(), config.model.localise), grid.box()
    within = target.box_from(grid, wanted)
    step = target.spacing_zyx_mm[0] / config.oversampling
    first_mm = target.spacing_zyx_mm[0] / 2  # the centre of the target's first voxel
    starts = np.floor((np.asarray(within.lower_zyx_mm) - first_mm) / step).astype(int)
    stops = np.ceil((np.asarray(within.upper_zyx_mm) - first_mm) / step).astype(int) + 1
    affine = target.affine.copy()
    affine[:3, :3] /= config.oversampling
    affine[:3, 3] = target.origin_xyz_mm + affine[:3, :3] @ starts
    z, y, x = (int(count) for count in stops - starts)
    return Grid(shape_zyx=(z, y, x), affine=affine)


def _prepared(case: DatasetCase, *, folder: Path, mapping: LabelMapping, config: PrepareConfig) -> PrepareOutcome:
    """Write the files and the entry of one case to `folder`; runs in any process."""
    try:
        with during(f"reading what {case.name} annotates"):
            annotated = mapping.annotated_by(case.annotated)
        settings = config.settings(mapping)
        settings_sha256 = settings.sha256()
        sources = [_source_sha256(path) for path in (case.image, case.labels)]
        path = folder / f"{case.name}.json"
        entry = _kept(path, [*sources, settings_sha256, annotated])
        if entry is not None and (entry.organs or config.allow_empty):
            return PrepareOutcome(name=case.name, entry=entry, kept=True)
        volume, ids = checked_case(case, mapping, allow_empty=config.allow_empty)
        labels = LabelMap(labels=mapping.apply(ids.labels), grid=volume.grid)  # every id has a rule by now
        organs = _organ_entries(ids, labels, mapping)
        _require_annotated(case, [mapping.organs[organ.label - 1] for organ in organs], annotated)
        stages: tuple[Stage, ...] = STAGES if annotated is None else ("segment",)
        arrays = tuple(_stored(case.name, stage, volume, labels, folder=folder, config=config) for stage in stages)
        entry = PreparedCase(
            name=case.name,
            image=str(case.image.absolute()),
            labels=str(case.labels.absolute()),
            image_sha256=sources[0],
            labels_sha256=sources[1],
            settings_sha256=settings_sha256,
            shape_zyx=volume.grid.shape_zyx,
            spacing_zyx_mm=volume.grid.spacing_zyx_mm,
            organs=organs,
            arrays=tuple(stored for stored in arrays if stored is not None),
            notes=volume.notes,
            annotated=annotated,
        )
        write_text(_json(entry), path)
    except VisceraError as error:
        return PrepareOutcome(name=case.name, reason=str(error))
    return PrepareOutcome(name=case.name, entry=entry)


def _source_sha256(path: Path) -> str:
    if not path.exists():
        raise ReadError(f"reading {path}", expected="a file or folder", got="nothing there", remedy="Check the path")
    return file_sha256(path)


def _require_annotated(case: DatasetCase, shown: Sequence[str], annotated: tuple[str, ...] | None) -> None:
    if annotated is not None and (others := [organ for organ in shown if organ not in annotated]):
        raise ReadError(
            f"reading {case.labels}",
            expected=f"labels of {', '.join(annotated)} alone, as the case is said to annotate no other organ",
            got=f"labels of {', '.join(others)}",
            remedy="Name all organs that are annotated, or map the others' ids to background",
        )


def _kept(path: Path, made_of: list[str | tuple[str, ...] | None]) -> PreparedCase | None:
    """Return the entry at `path` if it was made of the same, hashes and annotated organs, and its arrays are whole."""
    if not path.is_file():
        return None
    try:
        entry = read_record(PreparedCase, path, remedy="")
    except ReadError:
        return None  # made again
    if [entry.image_sha256, entry.labels_sha256, entry.settings_sha256, entry.annotated] != made_of:
        return None
    files = [(path.parent / stored.file, stored.sha256) for stored in entry.arrays]
    whole = all(file.is_file() and file_sha256(file) == sha256 for file, sha256 in files)
    return entry if whole else None


def _stored(
    name: str, stage: Stage, volume: Volume, labels: LabelMap, *, folder: Path, config: PrepareConfig
) -> StoredArrays | None:
    """Write one stage's arrays of a case and return where they are, None for segmentation without organs."""
    ranges = occupied(shown(labels.labels))
    organs = None if ranges is None else volume.grid.box(ranges)
    if stage == "segment" and organs is None:
        return None
    settings: StageConfig = getattr(config.model, stage)
    grid = stored_grid(volume.grid, organs, stage, config)
    image = np.rint(extended(volume.hu, volume.grid, grid, settings.sigma_mm)).astype(np.int16)
    start, rimmed = _without_rim(nearest_labels(labels.labels, volume.grid, grid))
    data = deflated_arrays(image, rimmed)
    file = f"{name}.{stage}.safetensors"
    write_bytes(data, folder / file)
    return StoredArrays(
        stage=stage,
        file=file,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        shape_zyx=grid.shape_zyx,
        affine=tuple(float(value) for value in grid.affine.ravel()),
        scan=grid.box_from(volume.grid, volume.grid.box()),
        organs=None if organs is None else grid.box_from(volume.grid, organs),
        labels_start_zyx=start,
        deflated_labels_zyx=rimmed.shape,
    )


def extended(hu: NDArray[np.int16], source: Grid, target: Grid, sigma_mm: float) -> NDArray[np.float32]:
    """Return the scan smoothed and sampled on `target`, float32 (z, y, x); beyond the scan its edge continues."""
    image = resample(hu, source, target, sigma_mm=sigma_mm, outside=0.0)
    z, y, x = (axis.inside for axis in axis_maps(source, target))
    rim = [(part.start, count - part.stop) for part, count in zip((z, y, x), target.shape_zyx, strict=True)]
    return np.pad(image[z, y, x], rim, mode="edge")


def shown(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where any organ is labelled: neither background nor unknown."""
    mask: NDArray[np.bool_] = (labels > 0) & (labels != UNKNOWN_LABEL)
    return mask


def occupied(mask: NDArray[np.bool_]) -> Ranges | None:
    """Return the smallest voxel ranges that hold all true voxels of a (z, y, x) mask, None if there are none."""
    lines = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not lines[0].size:
        return None
    z, y, x = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
    return z, y, x


def _without_rim(labels: NDArray[np.uint8]) -> tuple[Size, NDArray[np.uint8]]:
    """Return where the labelled part of an array starts, and a copy of it."""
    ranges = occupied(labels > 0)
    if ranges is None:
        return (0, 0, 0), np.zeros((1, 1, 1), dtype=np.uint8)
    z, y, x = (
        slice(max(0, part.start - _RIM_VOX), min(count, part.stop + _RIM_VOX))
        for part, count in zip(ranges, labels.shape, strict=True)
    )
    return (z.start, y.start, x.start), np.ascontiguousarray(labels[z, y, x])


def _organ_entries(ids: LabelMap, labels: LabelMap, mapping: LabelMapping) -> tuple[OrganEntry, ...]:
    counts, ml = id_counts(ids.labels), ids.grid.voxel_ml
    entries = []
    for label in range(1, len(mapping.organs) + 1):
        ranges = occupied(labels.labels == label)
        if ranges is not None:
            rules = [rule for rule in mapping.rules if rule.label == label]
            entries.append(
                OrganEntry(
                    label=label,
                    box=ids.grid.box(ranges),
                    ml=float(sum(counts[rule.id] for rule in rules) * ml),
                    lesion_ml=float(sum(counts[rule.id] for rule in rules if rule.lesion) * ml),
                )
            )
    return tuple(entries)


def _grid_difference(one: Grid, other: Grid) -> str:
    if one.shape_zyx != other.shape_zyx:
        return f"shapes {one.shape_zyx} and {other.shape_zyx} (z, y, x)"
    corners = [np.array([0, 0, 0]), np.array(one.shape_zyx) - 1]
    apart = max(float(np.abs(one.world(corner) - other.world(corner)).max()) for corner in corners)
    return f"corners {apart:.2f} mm apart"


def _parallel(
    work: Callable[[DatasetCase], PrepareOutcome], cases: Sequence[DatasetCase], workers: int
) -> Generator[PrepareOutcome]:
    """Yield the outcomes as they come; on an interrupt those begun are finished, the others left."""
    executor: Executor
    if workers == 1:
        executor = ThreadPoolExecutor(1)
    else:
        # Processes begun afresh: a copy of this one could hold a lock of one of its threads for ever.
        executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=ignore_interrupts)
    futures: dict[Future[PrepareOutcome], str] = {}
    try:
        futures = {executor.submit(work, case): case.name for case in cases}
        for future in as_completed(futures):
            error = future.exception()
            if error is None:
                yield future.result()
            else:  # a broken case, or a process the system has ended, must not take the others with it
                yield PrepareOutcome(name=futures[future], reason=f"{type(error).__name__}: {error}")
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _json(record: Any) -> str:
    return json.dumps(asdict(record), indent=1, allow_nan=False) + "\n"
