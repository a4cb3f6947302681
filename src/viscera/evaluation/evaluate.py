"""Scoring predicted label maps against references, in memory or file by file, in one process or several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.components import label_boxes
from viscera.core.errors import GeometryError, MemoryBudgetError, ReadError, VisceraError
from viscera.core.geometry import Grid, Ranges
from viscera.core.interrupts import ignore_interrupts
from viscera.core.organs import BACKGROUND, Organ
from viscera.core.volume import LabelMap
from viscera.evaluation.false_components import components_apart
from viscera.evaluation.metrics import header_spacing, mask_agreement
from viscera.evaluation.pairing import Files, Pairs, pair_files
from viscera.evaluation.scores import CaseScore, Evaluation, ScoringConfig, UnscoredCase
from viscera.formats.label_grids import ORIENTATIONS, joint_grid

if TYPE_CHECKING:
    from viscera.formats.label_maps import LabelFile

_LOGGER = logging.getLogger(__name__)

_Pair = tuple[Path, Path | None]


@dataclass(frozen=True, kw_only=True)
class CaseOutcome:
    """What became of a case: its scores, one per organ, or the error that kept it from being scored.

    Attributes:
        case: Its name.
        scores: In the order of the organ table.
        error: None if it was scored.
        notes: On how the two were read, one sentence each.
    """

    case: str
    scores: tuple[CaseScore, ...] = ()
    error: VisceraError | None = None
    notes: tuple[str, ...] = ()


def evaluate_label_maps(
    reference: LabelMap, prediction: LabelMap, *, case: str = "case", config: ScoringConfig | None = None
) -> tuple[CaseScore, ...]:
    """The scores of one prediction, one per organ in the order of the organ table.

    Args:
        reference: What is taken to be right.
        prediction: On the reference's voxels, stored along whichever axes.
        case: Name to put into the scores.
        config: None is FLARE 2021's scoring.

    Raises:
        GeometryError: If they are not on the same voxels.
        ReadError: If a label is not in the organ table and no mapping is given.
    """
    config = config or ScoringConfig()
    prediction = stored_along(reference.grid, prediction, f"the prediction of {case}")
    expected = _organ_labels(reference.labels, config.reference_labels, config, f"the reference of {case}")
    predicted = _organ_labels(prediction.labels, config.prediction_labels, config, f"the prediction of {case}")
    boxes = label_boxes(expected), label_boxes(predicted)
    scores = []
    for organ in config.organs:
        # Nothing outside the box around both masks matters to any score.
        box = _joint_box([own[organ.index] for own in boxes if organ.index in own])
        masks = expected[box] == organ.index, predicted[box] == organ.index
        scores.append(_organ_score(masks, organ, reference.grid, case, config))
    return tuple(scores)


def evaluate_cases(
    references: Files,
    predictions: Files,
    *,
    config: ScoringConfig | None = None,
    workers: int = 1,
    keep_going: bool = False,
    on_outcome: Callable[[CaseOutcome, int], None] | None = None,
) -> Evaluation:
    """The scores of every reference's prediction, cases sorted by name.

    Args:
        references: A folder of label maps, one file, or files by case name. In a folder, a case's name is the file name
            without its format suffix and without one ending such as `_seg` or `_labels`.
        predictions: The same. One file is paired with one file regardless of their names.
        config: None is FLARE 2021's scoring.
        workers: Processes at the same time. With more than one, a script must guard its entry with
            `if __name__ == "__main__"`, as for every use of multiprocessing.
        keep_going: Whether a case that cannot be scored is listed in the result, instead of ending the evaluation.
        on_outcome: Called with each case as soon as it and all before it are done, and how many cases there are.

    Raises:
        ReadError: If there are no references, two files of a folder have one case name, or (unless `keep_going`) a
            prediction is missing, a file cannot be read, or a label is unknown.
        GeometryError: Unless `keep_going`, if the two of a pair are not on the same voxels.
        MemoryBudgetError: Unless `keep_going`, if the system ended a worker.
    """
    config = config or ScoringConfig()
    pairs = pair_files(references, predictions)
    if pairs.missing and not keep_going:
        raise _missing(pairs.missing, len(pairs.files))
    if pairs.without_reference:
        _LOGGER.warning("%d predictions have no reference and are not scored", len(pairs.without_reference))
    scores: list[CaseScore] = []
    failures: list[UnscoredCase] = []
    for outcome in _outcomes(pairs, config, min(workers, len(pairs.files))):
        if outcome.error is not None:
            if not keep_going:
                raise outcome.error
            failures.append(UnscoredCase(case=outcome.case, message=str(outcome.error)))
        scores += outcome.scores
        if on_outcome is not None:
            on_outcome(outcome, len(pairs.files))
    return Evaluation(
        scores=tuple(scores),
        tolerances=config.tolerances,
        empty=config.empty,
        without_reference=pairs.without_reference,
        organs=config.organs,
        failures=tuple(failures),
    )


def _outcomes(pairs: Pairs, config: ScoringConfig, workers: int) -> Iterator[CaseOutcome]:
    """Every case's outcome in order, each as soon as it and all before it are known."""
    score = partial(_scored_files, config=config)
    if workers == 1:
        yield from (score(case, *files) for case, files in pairs.files.items())
    else:
        yield from _recovered(score, pairs.files, workers)


def _recovered(score: Callable[..., CaseOutcome], cases: Mapping[str, _Pair], workers: int) -> Iterator[CaseOutcome]:
    """The outcomes in order, of several processes, even if some of these die."""
    left = dict(cases)
    while left:
        try:
            for outcome in _pooled(score, left, workers):
                del left[outcome.case]
                yield outcome
        except BrokenProcessPool:
            # The system ended a process, and with it the pool. Whichever case was to blame, the next one now gets a
            # process to itself; the others start again.
            case = next(iter(left))
            alone = {case: left.pop(case)}
            try:
                yield from _pooled(score, alone, 1)
            except BrokenProcessPool:
                yield CaseOutcome(case=case, error=_worker_lost(case))


def _pooled(score: Callable[..., CaseOutcome], cases: Mapping[str, _Pair], workers: int) -> Iterator[CaseOutcome]:
    """The outcomes in order, of new processes; raises BrokenProcessPool if one of them is ended from outside."""
    # Processes begun afresh: a copy of this one could hold a lock of one of its threads for ever.
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=ignore_interrupts)
    try:
        futures = [executor.submit(score, case, *files) for case, files in cases.items()]
        for future in futures:
            yield future.result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _scored_files(case: str, reference: Path, prediction: Path | None, *, config: ScoringConfig) -> CaseOutcome:
    try:
        if prediction is None:
            raise _missing((case,), 1)
        files = _read_pair(reference, prediction, config)
        mappings = config.reference_labels, config.prediction_labels
        expected, found = (_mapped(file, mapping, config) for file, mapping in zip(files, mappings, strict=True))
        own = replace(config, reference_labels=None, prediction_labels=None)
        notes = [*(f"Reference: {note}" for note in expected.notes), *(f"Prediction: {note}" for note in found.notes)]
        scores = evaluate_label_maps(expected, found, case=case, config=own)
        return CaseOutcome(case=case, scores=scores, notes=tuple(notes))
    except VisceraError as error:
        return CaseOutcome(case=case, error=error)


def _read_pair(reference: Path, prediction: Path, config: ScoringConfig) -> tuple[LabelFile, LabelFile]:
    """Both label files, those that hold a part of the scan on the grid of the other one, or on a common one."""
    from viscera.formats.label_maps import read_label_file

    expected, found = read_label_file(reference, config.organs), read_label_file(prediction, config.organs)
    grids = expected.label_map.grid, found.label_map.grid
    if expected.partial and found.partial and (joint := joint_grid(*grids)) is not None:
        return expected.placed_on(joint), found.placed_on(joint)
    return expected.placed_on(grids[1]), found.placed_on(grids[0])


def _mapped(file: LabelFile, mapping: Mapping[int, int] | None, config: ScoringConfig) -> LabelMap:
    """Organ indices by the names in the file, or by a mapping where one is given and the file has its own labels."""
    if mapping is None or not file.stored:
        return file.by_name(config.organs)
    label_map = file.by_mapping(mapping, config.organs)
    return replace(label_map, labels=_organ_labels(label_map.labels, mapping, config, f"reading {file.path}"))


def _organ_score(
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]], organ: Organ, grid: Grid, case: str, config: ScoringConfig
) -> CaseScore:
    """The score of one organ from its masks, reference and prediction, cut to a box around both."""
    reference, prediction = masks
    tolerances_mm = [tolerance.of(organ.name) for tolerance in config.tolerances]
    agreement = mask_agreement(reference, prediction, header_spacing(grid), tolerances_mm, empty=config.empty)
    false, missed = components_apart(prediction, reference), components_apart(reference, prediction)
    return CaseScore(
        case=case,
        organ=organ.name,
        dsc=agreement.dsc,
        nsd=agreement.nsd[0],
        further_nsd=agreement.nsd[1:],
        hd95_mm=agreement.hd95_mm,
        assd_mm=agreement.assd_mm,
        reference_ml=int(np.count_nonzero(reference)) * grid.voxel_ml,
        prediction_ml=int(np.count_nonzero(prediction)) * grid.voxel_ml,
        difference_percent=agreement.difference_percent,
        false_parts=false.count,
        false_ml=false.voxels * grid.voxel_ml,
        missed_parts=missed.count,
        missed_ml=missed.voxels * grid.voxel_ml,
    )


def _joint_box(boxes: list[Ranges]) -> Ranges:
    """The smallest ranges that hold all of `boxes`; empty ones if there are none."""
    if not boxes:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    z, y, x = (
        slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in zip(*boxes, strict=True)
    )
    return z, y, x


def _missing(cases: tuple[str, ...], count: int) -> ReadError:
    return ReadError(
        f"pairing {count} reference{'' if count == 1 else 's'} with predictions",
        expected="a prediction for every reference",
        got=f"none for {', '.join(cases)}",
        remedy="Add the missing predictions, named like their references, or take those references away",
    )


def _worker_lost(case: str) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"scoring {case}",
        expected="a process that works to its end",
        got="one that was ended from outside, probably for want of memory",
        remedy="Score the case on a machine with more memory",
    )


def stored_along(grid: Grid, label_map: LabelMap, what: str = "a label map") -> LabelMap:
    """The same labels stored along the axes of `grid`, and on that very grid; nothing is resampled.

    Programs store one scan's voxels in different orders: `label_map` may have its axes permuted and reversed.

    Args:
        grid: The grid to store along.
        label_map: On the same voxels in space.
        what: What to call it in the error.

    Raises:
        GeometryError: If no permutation and reversal of axes takes its grid to `grid`.
    """
    for turn in ORIENTATIONS:
        if turn.apply_to_grid(label_map.grid).matches(grid):
            return LabelMap(labels=turn.apply(label_map.labels), grid=grid)
    grids = [
        f"{one.shape_zyx} voxels at {[round(step, 4) for step in one.spacing_zyx_mm]} mm"
        f" from {[round(at, 2) for at in one.origin_xyz_mm]}"
        for one in (grid, label_map.grid)
    ]
    raise GeometryError(
        f"comparing {what} with its reference",
        expected=f"{what} on the reference's grid, {grids[0]}, along whichever axes",
        got=grids[1] if grids[0] != grids[1] else f"{grids[1]} with other directions",
        remedy="Bring it onto the reference's grid",
    )


def _organ_labels(
    labels: NDArray[np.uint8], mapping: Mapping[int, int] | None, config: ScoringConfig, what: str
) -> NDArray[Any]:
    """The labels in terms of the organ table."""
    if mapping is not None:
        table = np.full(256, BACKGROUND, dtype=np.uint8)
        for source, target in mapping.items():
            table[source] = target
        return table[labels]
    if int(labels.max()) > config.largest_label:
        unknown = np.unique(labels[labels > config.largest_label]).tolist()
        raise ReadError(
            f"reading the labels of {what}",
            expected=f"labels 0 to {config.largest_label}",
            got=", ".join(map(str, unknown)),
            remedy="Give a mapping from its labels to those of the organ table",
        )
    return labels
