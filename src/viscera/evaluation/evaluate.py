"""Scoring predicted label maps against references, in memory or file by file."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viscera.errors import ConfigError, GeometryError, ReadError
from viscera.evaluation.metrics import EMPTY_SCORES, FLARE_TOLERANCE_MM, EmptyRule, dice, header_spacing, surface_dice
from viscera.evaluation.tables import CaseScore, Evaluation
from viscera.geometry import Grid, Reorientation
from viscera.labels import BACKGROUND, ORGANS, Organ
from viscera.volume import LabelMap

_LOGGER = logging.getLogger(__name__)

_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
# A file may end in one of these without it being part of the case's name.
_ROLES = ("_labels", "_label", "_seg", "_segmentation", "_dseg")

# Every way to store one scan's voxels, as it is first. All are tried where two grids are compared: none has to be
# guessed from the axes' directions, which may be oblique to any degree.
_ORIENTATIONS = tuple(
    Reorientation(axes=(first, second, third), flipped=(z, y, x))
    for first, second, third in itertools.permutations(range(3))
    for z, y, x in itertools.product((False, True), repeat=3)
)

Files = Path | Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How label maps are scored; the defaults are FLARE 2021's.

    Attributes:
        tolerance_mm: Tolerance of the surface Dice, for every organ.
        empty: Rule for empty masks, a row of `metrics.EMPTY_SCORES`.
        reference_labels: Where references use other labels: their label to index in the organ table; labels not listed
            become background. None: labels must be those of the organ table.
        prediction_labels: The same for predictions.
        organs: The organ table.
    """

    tolerance_mm: float = FLARE_TOLERANCE_MM
    empty: EmptyRule = "flare"
    reference_labels: Mapping[int, int] | None = None
    prediction_labels: Mapping[int, int] | None = None
    organs: tuple[Organ, ...] = ORGANS

    @property
    def largest_label(self) -> int:
        """The largest index in the organ table."""
        return max(organ.index for organ in self.organs)

    def __post_init__(self) -> None:
        largest = self.largest_label
        targets = {*(self.reference_labels or {}).values(), *(self.prediction_labels or {}).values()}
        sources = {*(self.reference_labels or {}), *(self.prediction_labels or {})}
        for holds, name, expected, got in (
            (self.tolerance_mm >= 0, "tolerance_mm", "a tolerance of 0 mm or more", self.tolerance_mm),
            (self.empty in EMPTY_SCORES, "empty", f"one of {', '.join(EMPTY_SCORES)}", self.empty),
            (targets <= set(range(largest + 1)), "labels", f"labels mapped to 0..{largest}", sorted(targets)),
            (sources <= set(range(256)), "labels", "labels of 0..255 to map from", sorted(sources)),
        ):
            if not holds:
                raise ConfigError(
                    f"setting ScoringConfig.{name}", expected=expected, got=repr(got), remedy="Correct the value"
                )


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
    spacing_zyx_mm = header_spacing(reference.grid)
    scores = []
    for organ in config.organs:
        masks = expected == organ.index, predicted == organ.index
        reference_ml, prediction_ml = (int(np.count_nonzero(mask)) * reference.grid.voxel_ml for mask in masks)
        scores.append(
            CaseScore(
                case=case,
                organ=organ.name,
                dsc=dice(*masks, empty=config.empty),
                nsd=surface_dice(*masks, spacing_zyx_mm, config.tolerance_mm, empty=config.empty),
                reference_ml=reference_ml,
                prediction_ml=prediction_ml,
            )
        )
    return tuple(scores)


def evaluate_cases(
    references: Files,
    predictions: Files,
    *,
    config: ScoringConfig | None = None,
    on_case: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """The scores of every reference's prediction, cases sorted by name.

    Args:
        references: A folder of label maps, one file, or files by case name. In a folder, a case's name is the file name
            without its format suffix and without one ending such as `_seg` or `_labels`.
        predictions: The same. One file is paired with one file whatever their names.
        config: None is FLARE 2021's scoring.
        on_case: Called before each case with its name, its number from 0, and how many cases there are.

    Raises:
        ReadError: If there are no references, a prediction is missing, two files of a folder have one case name, a file
            cannot be read, or a label is unknown.
        GeometryError: If the two of a pair are not on the same voxels.
    """
    from viscera.read import read_label_map

    config = config or ScoringConfig()
    pairs, without_reference = _pairs(references, predictions)
    if without_reference:
        _LOGGER.warning("%d predictions have no reference and are not scored", len(without_reference))
    scores: list[CaseScore] = []
    for number, (case, (reference, prediction)) in enumerate(pairs.items()):
        if on_case is not None:
            on_case(case, number, len(pairs))
        maps = read_label_map(reference), read_label_map(prediction)
        scores += evaluate_label_maps(*maps, case=case, config=config)
    return Evaluation(
        scores=tuple(scores),
        tolerance_mm=config.tolerance_mm,
        empty=config.empty,
        without_reference=without_reference,
        organs=config.organs,
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
    for turn in _ORIENTATIONS:
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


def case_name(path: Path) -> str:
    """The name of the case a label map belongs to: `case7` for `case7.nii.gz` and `case7_seg.nrrd`."""
    suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), "")
    stem = path.name.removesuffix(path.name[len(path.name) - len(suffix) :]) if suffix else path.name
    role = next((role for role in _ROLES if stem.endswith(role) and stem != role), "")
    return stem.removesuffix(role)


def _pairs(references: Files, predictions: Files) -> tuple[dict[str, tuple[Path, Path]], tuple[str, ...]]:
    """(reference, prediction) by case name, sorted; and the names of predictions without reference."""
    files = [path for path in (references, predictions) if isinstance(path, Path) and not path.is_dir()]
    if len(files) == 2:
        return {case_name(files[0]): (files[0], files[1])}, ()
    expected, found = _by_case(references, "references"), _by_case(predictions, "predictions")
    if missing := sorted(set(expected) - set(found)):
        raise ReadError(
            f"pairing {len(expected)} references with predictions",
            expected="a prediction for every reference",
            got=f"none for {', '.join(missing)}",
            remedy="Add the missing predictions, named like their references, or take those references away",
        )
    pairs = {case: (expected[case], found[case]) for case in sorted(expected)}
    return pairs, tuple(sorted(set(found) - set(expected)))


def _by_case(files: Files, what: str) -> dict[str, Path]:
    if isinstance(files, Mapping):
        listed = [(name, Path(path)) for name, path in files.items()]
    elif files.is_dir():
        listed = [(case_name(path), path) for path in sorted(files.iterdir()) if path.name.lower().endswith(_SUFFIXES)]
    else:
        listed = [(case_name(files), files)]
    by_case: dict[str, Path] = {}
    for name, path in listed:
        if name in by_case:
            raise ReadError(
                f"listing {what}",
                expected="one file per case",
                got=f"{by_case[name].name} and {path.name}, both for case {name}",
                remedy="Move one of them away, or give the files by case name",
            )
        by_case[name] = path
    if not by_case:
        raise ReadError(
            f"listing {what} in {files}",
            expected=f"files ending in {', '.join(_SUFFIXES)}",
            got="none",
            remedy="Give the folder the label maps lie in",
        )
    return by_case


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
