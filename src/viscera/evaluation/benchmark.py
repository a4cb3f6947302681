"""What a segmentation of one scan is worth: scores against a reference, what the localised box held, and volumes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig, QualityConfig
from viscera.core.errors import NothingFoundError
from viscera.core.geometry import Box, Grid, Ranges, mask_ranges
from viscera.core.organs import BACKGROUND, ORGANS, Organ
from viscera.core.volume import LabelMap, Volume
from viscera.engines.engine import Engine
from viscera.evaluation.evaluate import evaluate_label_maps, stored_along
from viscera.evaluation.metrics import FLARE_TOLERANCE_MM
from viscera.evaluation.scores import CaseScore, ScoringConfig, Tolerance
from viscera.localise import organ_box
from viscera.preprocess import fitted_grid, network_input
from viscera.quality.rules import implausible_volume
from viscera.quality.statistics import OrganStatistics, organ_statistics
from viscera.result import Segmentation
from viscera.segment import network_output

Group = Literal["labelled", "unlabelled", "no abdominal CT"]

# Scores below this are listed by themselves.
LOW_DSC = 0.7


@dataclass(frozen=True, kw_only=True)
class ScoredCase:
    """What is known of a case before it is segmented.

    Attributes:
        name: Its name.
        reference: What kind of reference it has, in words, for example "experts".
        group: "labelled" cases make the means; "unlabelled" ones show organs, of which some may have a reference; in
            those with "no abdominal CT" nothing should be found, or they should be refused.
    """

    name: str
    reference: str = "none"
    group: Group = "labelled"


@dataclass(frozen=True, kw_only=True)
class OrganAccuracy:
    """One organ of one case; what needs a reference is None for an organ the reference does not show.

    Attributes:
        organ: Its name.
        prediction_ml: The volume found.
        reference_ml: The true volume.
        dsc: Dice in [0, 1].
        nsd: Surface Dice in [0, 1], one for each tolerance asked for.
        in_box: The share of the reference's voxels inside the localised box, without margin; None if it is not known.
        in_region: The same for the box with its margin.
        doubt: "too small" or "too large" where the volume found is hardly one of an adult's whole organ; one that
            reaches the scan's edge is not called too small.
    """

    organ: str
    prediction_ml: float
    reference_ml: float | None = None
    dsc: float | None = None
    nsd: tuple[float, ...] = ()
    in_box: float | None = None
    in_region: float | None = None
    doubt: str | None = None


@dataclass(frozen=True, kw_only=True)
class CaseAccuracy:
    """One case.

    Attributes:
        case: What was known of it.
        organs: One record per organ, in the order of the table; none if the scan was refused.
        localise_mm, segment_mm: The spacings the networks worked at, None where one did not or it is not known.
        seconds: Wall-clock seconds from the volume to its labels, None if refused.
        notes: Of the volume and the stages.
        refusal: The one line with which the scan was refused, None if it was not.
    """

    case: ScoredCase
    organs: tuple[OrganAccuracy, ...] = ()
    localise_mm: float | None = None
    segment_mm: float | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    refusal: str | None = None


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """How cases are scored.

    Attributes:
        tolerances_mm: Of the surface Dice.
        organs: The organ table of reference and prediction.
    """

    tolerances_mm: tuple[float, ...] = (FLARE_TOLERANCE_MM,)
    organs: tuple[Organ, ...] = ORGANS


@dataclass(frozen=True, kw_only=True)
class Localised:
    """What the localisation said of a scan.

    Attributes:
        box: Around the organs, without margin, in mm of the scan's canonical grid; None if it found none.
        spacing_mm: At which it worked.
    """

    box: Box | None
    spacing_mm: float


@dataclass(frozen=True, kw_only=True)
class AccuracyRun:
    """All cases through one bundle, one way.

    Attributes:
        bundle: Its name and version.
        setting: How it was run, by name: margin, engine, what was replaced.
        cases: In order.
        config: How they were scored.
    """

    bundle: str
    setting: dict[str, str | float]
    cases: tuple[CaseAccuracy, ...]
    config: AccuracyConfig

    def scored(self, organ: str) -> tuple[OrganAccuracy, ...]:
        """The records of an organ in the labelled cases whose reference shows it."""
        labelled = [one for case in self.cases if case.case.group == "labelled" for one in case.organs]
        return tuple(one for one in labelled if one.organ == organ and one.dsc is not None)

    def mean_dsc(self, organ: str) -> float | None:
        """The mean DSC of an organ over the labelled cases whose reference shows it, None if there is none."""
        return _mean(one.dsc for one in self.scored(organ) if one.dsc is not None)

    def mean_nsd(self, organ: str, tolerance: int = 0) -> float | None:
        """The same of the NSD at one of the tolerances, counted from 0."""
        return _mean(one.nsd[tolerance] for one in self.scored(organ))

    def low(self) -> tuple[tuple[str, str, float], ...]:
        """(case, organ, DSC) of the labelled cases where the DSC is below `LOW_DSC`."""
        return tuple(
            (case.case.name, one.organ, one.dsc)
            for case in self.cases
            if case.case.group == "labelled"
            for one in case.organs
            if one.dsc is not None and one.dsc < LOW_DSC
        )


def score_case(
    volume: Volume,
    reference: LabelMap | None,
    segmentation: Segmentation,
    *,
    case: ScoredCase | None = None,
    localised: Localised | None = None,
    config: AccuracyConfig | None = None,
) -> CaseAccuracy:
    """The scores of one segmentation.

    Args:
        volume: The scan.
        reference: On its voxels, stored along whichever axes; an organ it does not show is not scored. None: none is.
        segmentation: Of the volume.
        case: What is known of the case.
        localised: From `localised_organs`; None leaves out what needs it.
        config: Tolerances and organ table.

    Raises:
        GeometryError: If the reference is not on the volume's voxels.
        ReadError: If a label of the reference is not in the organ table.
    """
    case, config = case or ScoredCase(name="case"), config or AccuracyConfig()
    rows = organ_statistics(volume, segmentation.label_map, config.organs)
    organs = [OrganAccuracy(organ=row.organ, prediction_ml=row.volume_ml, doubt=volume_doubt(row)) for row in rows]
    if reference is not None:
        reference = stored_along(volume.grid, reference, f"the reference of {case.name}")
        tolerances = tuple(Tolerance(mm=mm) for mm in config.tolerances_mm)
        scoring = ScoringConfig(tolerances=tolerances, organs=config.organs)
        scores = evaluate_label_maps(reference, segmentation.label_map, case=case.name, config=scoring)
        for place, organ in enumerate(config.organs):
            mask = reference.labels == organ.index
            if mask.any():
                found = replace(organs[place], in_region=share_inside(mask, volume.grid, segmentation.roi))
                if localised is not None:
                    found = replace(found, in_box=share_inside(mask, volume.grid, localised.box))
                organs[place] = _scored(found, scores[place])
    region = segmentation.roi_grid
    return CaseAccuracy(
        case=case,
        organs=tuple(organs),
        localise_mm=None if localised is None else localised.spacing_mm,
        segment_mm=None if region is None else region.spacing_zyx_mm[0],
        seconds=sum(segmentation.seconds.values()),
        notes=segmentation.notes,
    )


def case_scores(result: CaseAccuracy) -> tuple[CaseScore, ...]:
    """The scores of a case as pictures and tables take them; those without reference are NaN and its volume 0."""
    return tuple(
        CaseScore(
            case=result.case.name,
            organ=one.organ,
            dsc=math.nan if one.dsc is None else one.dsc,
            nsd=one.nsd[0] if one.nsd else math.nan,
            reference_ml=one.reference_ml or 0.0,
            prediction_ml=one.prediction_ml,
        )
        for one in result.organs
    )


def localised_organs(volume: Volume, engine: Engine, model: ModelConfig) -> Localised:
    """What the localisation finds, by the path's own steps; the pipeline keeps only the box with its margin."""
    turn = volume.grid.to_canonical()
    hu, grid = turn.apply(volume.hu), turn.apply_to_grid(volume.grid)
    low_grid = fitted_grid(grid, grid.box(), model.localise)
    spacing_mm = low_grid.spacing_zyx_mm[0]
    logits = network_output(engine, "localise", network_input(hu, grid, low_grid, model.localise), 2)
    try:
        return Localised(box=organ_box(logits, low_grid, grid, least_ml=model.least_organs_ml), spacing_mm=spacing_mm)
    except NothingFoundError:
        return Localised(box=None, spacing_mm=spacing_mm)


def share_inside(mask: NDArray[np.bool_], grid: Grid, box: Box | None) -> float | None:
    """The share of a mask's voxels whose centres lie in `box`; 0 without a box, None for an empty mask.

    Args:
        mask: (z, y, x) on `grid`.
        grid: Of any orientation.
        box: In mm of the canonical grid (`Grid.to_canonical`).
    """
    total = int(np.count_nonzero(mask))
    if not total:
        return None
    if box is None:
        return 0.0
    turn = grid.to_canonical()
    inside = _centred_in(turn.apply_to_grid(grid), box)
    return int(np.count_nonzero(turn.apply(mask)[inside])) / total


def labelled_box(label_map: LabelMap) -> Box | None:
    """The box around every organ of a label map, in mm of its canonical grid; None if there is no organ."""
    turn = label_map.grid.to_canonical()
    ranges = mask_ranges(turn.apply(label_map.labels) != BACKGROUND)
    return None if ranges is None else turn.apply_to_grid(label_map.grid).box(ranges)


def volume_doubt(row: OrganStatistics) -> str | None:
    """What makes the volume of an organ implausible, None if nothing does or nothing is known of the organ."""
    found = implausible_volume(row.volume_ml, QualityConfig().limits(row.organ), cut=row.touches_border)
    return None if found is None else str(found).replace("_", " ")


def _scored(found: OrganAccuracy, score: CaseScore) -> OrganAccuracy:
    nsd = (score.nsd, *score.further_nsd)
    return replace(found, reference_ml=score.reference_ml, dsc=score.dsc, nsd=nsd)


def _centred_in(grid: Grid, box: Box) -> Ranges:
    """The voxels of `grid` whose centres lie in `box`."""
    starts, stops = (
        [math.ceil(bound / step - 0.5) for bound, step in zip(bounds, grid.spacing_zyx_mm, strict=True)]
        for bounds in (box.lower_zyx_mm, box.upper_zyx_mm)
    )
    z, y, x = (slice(max(0, start), max(0, stop)) for start, stop in zip(starts, stops, strict=True))
    return z, y, x


def _mean(values: Iterable[float]) -> float | None:
    given = list(values)
    return statistics.fmean(given) if given else None
