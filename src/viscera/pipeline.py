"""The whole path from a CT to its label map: the stages in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig, StageConfig
from viscera.core.errors import GeometryError, NothingFoundError
from viscera.core.geometry import Box, Grid
from viscera.core.organs import BACKGROUND, ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.crop import region_box, region_grid
from viscera.localise import nothing_found, organ_box
from viscera.postprocess import Removal, clean_notes, stray_parts
from viscera.preprocess import fitted_grid, network_input
from viscera.quality.measurements import organ_signals
from viscera.quality.mirroring import WARNING, MirrorFinding, mirror_finding
from viscera.quality.rules import OrganQuality, assess
from viscera.restore import restore_labels
from viscera.segment import network_answer, segment_answer

if TYPE_CHECKING:
    from viscera.engines.engine import Engine

# A spacing that grew by less than this is not worth a note.
_NOTED_GROWTH_MM = 0.01


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What is noted instead of being refused.

    Attributes:
        empty: No organ is found; the label map is all background then.
        mirrored: The scan is beyond doubt the mirror image of a patient, or of one whose organs lie on exchanged sides.
    """

    empty: bool = False
    mirrored: bool = False


NOTHING_ALLOWED = Allowed()


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The labels of one CT and how they came about.

    Attributes:
        label_map: Labels on exactly the CT's grid, and the same grid object.
        region: The box the segmentation was meant to hold (organs and margin), in mm along the axes of the CT's
            canonical grid (`Grid.to_canonical`); None if no organ was found.
        region_grid: The grid the segmentation network worked on, in canonical axes; None if no organ was found.
        notes: What a reader of the result should know, one sentence each: the volume's notes, then the stages'.
        warnings: Those of the notes that put the result in doubt.
        quality: The verdict on every organ, in order, on the labels as they are here.
        removed: What cleaning took from every organ, in order; None if the labels were not cleaned.
        seconds: Wall-clock seconds by stage, in order: preprocess, localise, crop, segment, restore, clean (if asked
            for), assess.
    """

    label_map: LabelMap
    region: Box | None
    region_grid: Grid | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    quality: tuple[OrganQuality, ...] = ()
    removed: tuple[Removal, ...] | None = None
    seconds: dict[str, float]


def segment_volume(
    volume: Volume,
    engine: Engine,
    model: ModelConfig,
    *,
    organs: Sequence[Organ] = ORGANS,
    allowed: Allowed = NOTHING_ALLOWED,
    on_stage: Callable[[str], None] | None = None,
) -> Segmentation:
    """The organs of one abdominal CT, on exactly its own grid.

    The CT is turned to canonical axes (z to the head, y to the back, x to the left) without touching its voxels, and
    the labels are turned back.

    Args:
        volume: Any orientation and spacing; oblique and sheared grids are worked on along their own axes.
        engine: Runs the two networks.
        model: Sampling, margin and networks, as the engine's bundle states them; `model.clean` decides on cleaning.
        organs: What the labels mean.
        allowed: What is noted instead of being refused.
        on_stage: Called with each stage's name as it begins.

    Raises:
        NothingFoundError: If either network finds no organ, unless allowed.
        GeometryError: If whole organs agree that the scan is the mirror image of a patient, unless allowed; of a DICOM
            scan, and on less evidence, a warning says so instead.
        BundleError: If a network answers with an unexpected shape or with values that are not finite.
    """
    stages = _Stages(on_stage=on_stage)
    turn = volume.grid.to_canonical()
    hu, grid = turn.apply(volume.hu), turn.apply_to_grid(volume.grid)
    with stages.run("preprocess"):
        scout_grid = fitted_scout(grid, model)
        scout = network_input(hu, grid, scout_grid, model.localise)
    notes = volume.notes + _growth_note("localisation", scout_grid, model.localise)

    try:
        with stages.run("localise"):
            box = _located(scout, (scout_grid, grid), engine, model)
    except NothingFoundError:
        if not allowed.empty:
            raise
        return _empty(volume, notes, organs, model, stages.seconds)

    with stages.run("crop"):
        target = region_grid(grid, box, model)
        region = network_input(hu, grid, target, model.segment)
    notes += _growth_note("segmentation", target, model.segment)

    with stages.run("segment"):
        answer = segment_answer(engine, region, model.scn)
        again = partial(segment_answer, engine, config=model.scn)
        found = mirror_finding(region, answer, organs, again, voxel_ml=target.voxel_ml, quality=model.quality)
    warnings = _side_warnings(found, certain=volume.sides_certain, allowed=allowed.mirrored)
    with stages.run("restore"):
        # Turned back while still small: the labels are then written once, in the scan's own order.
        back = turn.inverse()
        labels = restore_labels(back.apply(answer.output), back.apply_to_grid(target), volume.grid)
    if not labels.any():
        if not allowed.empty:
            raise nothing_found("a region in which no voxel is more likely organ than background")
        return _empty(volume, notes, organs, model, stages.seconds)

    label_map, removed = LabelMap(labels=labels, grid=volume.grid), None
    if model.clean:
        with stages.run("clean"):
            removed = _cleaned(labels, volume, organs, model)
    with stages.run("assess"):
        quality = assess(organ_signals(label_map, organs, answer, factor=model.scn.spatial_factor), model.quality)
    return Segmentation(
        label_map=label_map,
        region=region_box(grid, box, model.margin_mm),
        region_grid=target,
        notes=notes + warnings + clean_notes(removed or ()),
        warnings=warnings,
        quality=quality,
        removed=removed,
        seconds=stages.seconds,
    )


def _cleaned(
    labels: NDArray[np.uint8], volume: Volume, organs: Sequence[Organ], model: ModelConfig
) -> tuple[Removal, ...]:
    """What cleaning took, from `labels` themselves: they were just made, and a copy of them may be large."""
    strays = stray_parts(LabelMap(labels=labels, grid=volume.grid), volume, organs, model.cleaning)
    for _, voxels in strays:
        labels[voxels] = BACKGROUND
    return tuple(removal for removal, _ in strays)


def fitted_scout(grid: Grid, model: ModelConfig) -> Grid:
    """The grid of the scout image that the localisation of a scan on the canonical `grid` reads."""
    return fitted_grid(grid, grid.box(), model.localise)


def _located(scout: NDArray[np.float32], grids: tuple[Grid, Grid], engine: Engine, model: ModelConfig) -> Box:
    """The organs' box in mm of the scan's grid, the second of `grids`, from the image on the first."""
    logits = network_answer(engine, "localise", scout, model.localiser.outputs)
    return organ_box(logits, *grids, least_ml=model.least_organs_ml)


def _side_warnings(found: MirrorFinding | None, *, certain: bool, allowed: bool) -> tuple[str, ...]:
    """A warning if the scan looks mirrored.

    Raises GeometryError if that is beyond doubt, neither `allowed` nor, as left and right are `certain`, impossible.
    """
    if found is None:
        return ()
    if found.overwhelming and not certain and not allowed:
        raise GeometryError(
            "telling left from right",
            expected="a scan in which the liver is on the patient's right",
            got=f"{found.evidence}, as if the header exchanged left and right",
            remedy="Correct the orientation in the header, or label the scan as it is with --allow-mirrored, "
            "as for a patient with situs inversus",
        )
    why = "its DICOM positions say that it is none" if certain else "its header may have exchanged left and right"
    return (f"{WARNING}: {found.evidence}; {why}. Look whether the organs lie on exchanged sides (situs inversus).",)


def _empty(
    volume: Volume, notes: tuple[str, ...], organs: Sequence[Organ], model: ModelConfig, seconds: dict[str, float]
) -> Segmentation:
    label_map = LabelMap(labels=np.zeros(volume.grid.shape_zyx, dtype=np.uint8), grid=volume.grid)
    return Segmentation(
        label_map=label_map,
        region=None,
        region_grid=None,
        notes=(*notes, "No organ was found; the label map is empty."),
        quality=assess(organ_signals(label_map, organs), model.quality),
        seconds=seconds,
    )


def _growth_note(stage: str, grid: Grid, config: StageConfig) -> tuple[str, ...]:
    spacing_mm = grid.spacing_zyx_mm[0]
    if spacing_mm - config.spacing_mm < _NOTED_GROWTH_MM:
        return ()
    return (f"The {stage} worked at {spacing_mm:.2f} mm instead of {config.spacing_mm:g} mm, to hold the extent.",)


@dataclass(frozen=True, kw_only=True)
class _Stages:
    """Announces and times the stages of one case."""

    on_stage: Callable[[str], None] | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def run(self, name: str) -> Iterator[None]:
        if self.on_stage is not None:
            self.on_stage(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start
