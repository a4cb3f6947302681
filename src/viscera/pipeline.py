"""The whole path from a CT to its label map: the stages in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig, StageConfig
from viscera.core.errors import GeometryError, NothingFoundError
from viscera.core.geometry import Grid
from viscera.core.organs import BACKGROUND, ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.crop import roi_box, roi_grid
from viscera.localise import nothing_found, organ_box
from viscera.postprocess import removal_notes, small_components
from viscera.preprocess import fitted_grid, network_input
from viscera.quality.measurements import organ_signals
from viscera.quality.mirroring import WARNING, MirrorFinding, mirror_finding
from viscera.quality.rules import assess
from viscera.restore import restore_labels
from viscera.result import Probabilities, Segmentation
from viscera.segment import network_output, segmentation_output

if TYPE_CHECKING:
    from viscera.engines.engine import Answer, Engine

# A spacing that grew by less than this is not worth a note.
_NOTED_GROWTH_MM = 0.01


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What is noted instead of being refused, as version 0.2 took it; to be removed after 0.3.

    Attributes:
        empty: No organ is found; the label map is all background then.
        mirrored: The scan is certainly the mirror image of a patient, or of one whose organs lie on exchanged sides.
    """

    empty: bool = False
    mirrored: bool = False


def segment_volume(
    volume: Volume,
    engine: Engine,
    model: ModelConfig,
    *,
    organs: Sequence[Organ] = ORGANS,
    allow_empty: bool = False,
    allow_mirrored: bool = False,
    keep_probabilities: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> Segmentation:
    """Segment the organs of one abdominal CT, on exactly its own grid.

    The CT is turned to canonical axes (z to the head, y to the back, x to the left) without touching its voxels, and
    the labels are turned back.

    Args:
        volume: Any orientation and spacing; oblique and sheared grids are worked on along their own axes.
        engine: Runs the two networks.
        model: Sampling, margin, networks and post-processing, as the engine's bundle states them.
        organs: What the labels mean.
        allow_empty: Return an all-background label map where no organ is found.
        allow_mirrored: Segment a scan that is certainly a mirror image, with a warning.
        keep_probabilities: Keep the network's output in the result.
        on_stage: Called with each stage's name as it begins.

    Raises:
        NothingFoundError: If either network finds no organ, unless allowed.
        GeometryError: If whole organs agree that the scan is the mirror image of a patient, unless allowed; of a DICOM
            scan, and on less evidence, a warning says so instead.
        BundleError: If a network's output has an unexpected shape or values that are not finite.
    """
    run = _Run(on_stage=on_stage, notes=list(volume.notes))
    try:
        return _segmented(volume, engine, model, organs, run, allow_mirrored, keep_probabilities)
    except NothingFoundError:
        if not allow_empty:
            raise
        return _empty(volume, organs, model, run)


def _segmented(
    volume: Volume,
    engine: Engine,
    model: ModelConfig,
    organs: Sequence[Organ],
    run: _Run,
    allow_mirrored: bool,
    keep_probabilities: bool,
) -> Segmentation:
    """The path itself; raises NothingFoundError where no organ is found."""
    turn = volume.grid.to_canonical()
    hu, grid = turn.apply(volume.hu), turn.apply_to_grid(volume.grid)
    with run.stage("preprocess"):
        low_grid = low_resolution_grid(grid, model)
        low_image = network_input(hu, grid, low_grid, model.localise)
    run.notes.extend(_growth_note("localisation", low_grid, model.localise))
    with run.stage("localise"):
        logits = network_output(engine, "localise", low_image, model.localiser.outputs)
        box = organ_box(logits, low_grid, grid, least_ml=model.least_organs_ml)

    with run.stage("crop"):
        target = roi_grid(grid, box, model)
        image = network_input(hu, grid, target, model.segment)
    run.notes.extend(_growth_note("segmentation", target, model.segment))
    with run.stage("segment"):
        output = segmentation_output(engine, image, model.scn)
        again = partial(segmentation_output, engine, config=model.scn)
        found = mirror_finding(image, output, organs, again, voxel_ml=target.voxel_ml, quality=model.quality)
    warnings = _side_warnings(found, certain=volume.sides_certain, allowed=allow_mirrored)

    with run.stage("restore"):
        # Turned back while still small: the labels are then written once, in the scan's own order.
        back = turn.inverse()
        labels = restore_labels(back.apply(output.output), back.apply_to_grid(target), volume.grid)
    if not labels.any():
        raise nothing_found("an ROI in which no voxel is more likely organ than background")
    run.notes.extend(warnings)
    return replace(
        _finished(volume, labels, output, organs, model, run),
        roi=roi_box(grid, box, model.margin_mm),
        roi_grid=target,
        warnings=warnings,
        probabilities=Probabilities(values=output.output, grid=target) if keep_probabilities else None,
    )


def _finished(
    volume: Volume,
    labels: NDArray[np.uint8],
    output: Answer,
    organs: Sequence[Organ],
    model: ModelConfig,
    run: _Run,
) -> Segmentation:
    """Post-process the labels, if the model says so, and assess them."""
    label_map, removed = LabelMap(labels=labels, grid=volume.grid), None
    if model.postprocessing.enabled:
        with run.stage("clean"):
            small = small_components(label_map, volume, organs, model.postprocessing)
            for _, voxels in small:
                labels[voxels] = BACKGROUND  # in place: they were just made, and a copy of them may be large
            removed = tuple(removal for removal, _ in small)
    with run.stage("assess"):
        quality = assess(organ_signals(label_map, organs, output, factor=model.scn.spatial_factor), model.quality)
    return Segmentation(
        label_map=label_map,
        organ_table=tuple(organs),
        volume=volume,
        input_notes=volume.notes,
        notes=(*run.notes, *removal_notes(removed or ())),
        quality=quality,
        removed=removed,
        seconds=run.seconds,
    )


def low_resolution_grid(grid: Grid, model: ModelConfig) -> Grid:
    """Return the grid of the low-resolution image that the localisation of a scan on the canonical `grid` reads."""
    return fitted_grid(grid, grid.box(), model.localise)


def _side_warnings(found: MirrorFinding | None, *, certain: bool, allowed: bool) -> tuple[str, ...]:
    """Return a warning if the scan looks mirrored.

    Raises:
        GeometryError: If that is certain, neither `allowed` nor, as left and right are `certain`, impossible.
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
    return (f"{WARNING}: {found.evidence}; {why}. Check whether the organs lie on exchanged sides (situs inversus).",)


def _empty(volume: Volume, organs: Sequence[Organ], model: ModelConfig, run: _Run) -> Segmentation:
    label_map = LabelMap(labels=np.zeros(volume.grid.shape_zyx, dtype=np.uint8), grid=volume.grid)
    return Segmentation(
        label_map=label_map,
        organ_table=tuple(organs),
        volume=volume,
        input_notes=volume.notes,
        notes=(*run.notes, "No organ was found; the label map is empty."),
        quality=assess(organ_signals(label_map, organs), model.quality),
        seconds=run.seconds,
    )


def _growth_note(stage: str, grid: Grid, config: StageConfig) -> tuple[str, ...]:
    spacing_mm = grid.spacing_zyx_mm[0]
    if spacing_mm - config.spacing_mm < _NOTED_GROWTH_MM:
        return ()
    return (f"The {stage} worked at {spacing_mm:.2f} mm instead of {config.spacing_mm:g} mm, to hold the extent.",)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Announces and times the stages of one case, and collects its notes."""

    on_stage: Callable[[str], None] | None
    notes: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self.on_stage is not None:
            self.on_stage(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start
