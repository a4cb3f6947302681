"""Scoring against the package surface-distance: seconds for the same masks, and whether the scores are the same.

Run `python benchmarks/evaluation.py [--repeats N]`; it needs `viscera[dev]`. References are labels of phantoms;
predictions are the same labels deformed by a few millimetres, with a false-positive piece of liver far off. In the row
"exchanged" the organs' numbers are exchanged, so that surfaces lie far apart: the worst case for either program.

Both work on one thread, on masks in memory, in the same process, in turn; the fastest of N runs counts. The package
gives, of four organs, surface Dice at 1 and 2 mm, HD95, mean distances and Dice; viscera gives these, the volumes, and
false-positive and false-negative components. "surfaces" are viscera's scores of each organ's whole masks, without
components.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import surface_distance
from numpy.typing import NDArray

from viscera.core.geometry import Size, Vector
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap
from viscera.evaluation.evaluate import evaluate_label_maps
from viscera.evaluation.metrics import header_spacing, mask_agreement
from viscera.evaluation.scores import CaseScore, ScoringConfig, Tolerance
from viscera.synthesis.phantom import PhantomConfig, make_phantom

SCANS: dict[str, tuple[Size, Vector]] = {
    "full size": ((200, 512, 512), (2.5, 0.8, 0.8)),
    "half": ((100, 256, 256), (5.0, 1.6, 1.6)),
    "small": ((48, 88, 112), (6.0, 4.0, 4.0)),
}
TOLERANCES_MM = (1.0, 2.0)
DEFORMATION_MM = 3.0
FALSE_MM = 8.0
# Each organ takes the number of the next: liver, kidney, spleen, pancreas.
EXCHANGED = np.array([0, 3, 4, 1, 2], dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs per row, the fastest counts")
    parser.add_argument("--seed", type=int, default=3, help="of the phantom")
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # the package uses names scipy is about to drop
    print("case        voxels z, y, x    viscera   surfaces    package   ratio   largest difference")
    for name, (shape, spacing) in SCANS.items():
        reference = make_phantom(options.seed, config=PhantomConfig(shape_zyx=shape, spacing_zyx_mm=spacing)).label_map
        print_row(name, reference, deformed(reference, options.seed), options.repeats)
        if name != "small":
            exchanged = LabelMap(labels=EXCHANGED[reference.labels], grid=reference.grid)
            print_row("exchanged", reference, exchanged, options.repeats)


def print_row(name: str, reference: LabelMap, prediction: LabelMap, repeats: int) -> None:
    seconds = [np.inf, np.inf, np.inf]
    for _ in range(repeats):
        for place, score in enumerate((ours, our_surfaces, theirs)):
            seconds[place] = min(seconds[place], timed(score, reference, prediction))
    shape = " ".join(str(count) for count in reference.grid.shape_zyx)
    cells = " ".join(f"{one:8.3f} s" for one in seconds)
    ratio = seconds[2] / seconds[0]
    print(f"{name:10} {shape:>15} {cells} {ratio:6.1f}x   {difference(reference, prediction):.1e}", flush=True)


def timed(score: Callable[[LabelMap, LabelMap], Any], reference: LabelMap, prediction: LabelMap) -> float:
    start = time.perf_counter()
    score(reference, prediction)
    return time.perf_counter() - start


def ours(reference: LabelMap, prediction: LabelMap) -> tuple[CaseScore, ...]:
    tolerances = tuple(Tolerance(mm=mm) for mm in TOLERANCES_MM)
    return evaluate_label_maps(reference, prediction, config=ScoringConfig(tolerances=tolerances))


def our_surfaces(reference: LabelMap, prediction: LabelMap) -> None:
    for organ in ORGANS:
        expected, found = (label_map.labels == organ.index for label_map in (reference, prediction))
        mask_agreement(expected, found, header_spacing(reference.grid), TOLERANCES_MM)


def theirs(reference: LabelMap, prediction: LabelMap) -> list[tuple[float, ...]]:
    rows = []
    for organ in ORGANS:
        masks = reference.labels == organ.index, prediction.labels == organ.index
        distances = surface_distance.compute_surface_distances(*masks, header_spacing(reference.grid))
        sides = surface_distance.compute_average_surface_distance(distances)
        areas = [distances[key].sum() for key in ("surfel_areas_gt", "surfel_areas_pred")]
        rows.append(
            (
                float(surface_distance.compute_dice_coefficient(*masks)),
                *(float(surface_distance.compute_surface_dice_at_tolerance(distances, mm)) for mm in TOLERANCES_MM),
                float(surface_distance.compute_robust_hausdorff(distances, 95)),
                float(np.average(sides, weights=areas)),
            )
        )
    return rows


def difference(reference: LabelMap, prediction: LabelMap) -> float:
    """The largest difference of any score, in shares and millimetres."""
    found = [
        (score.dsc, score.nsd, *score.further_nsd, score.hd95_mm, score.assd_mm)
        for score in ours(reference, prediction)
    ]
    return float(np.abs(np.array(found) - np.array(theirs(reference, prediction))).max())


def deformed(label_map: LabelMap, seed: int) -> LabelMap:
    """The labels seen through a smooth deformation of a few millimetres, and a false cube of liver in a corner."""
    labels, spacing = label_map.labels, label_map.grid.spacing_zyx_mm
    rng = np.random.default_rng(seed)
    places = [np.arange(count) * step for count, step in zip(labels.shape, spacing, strict=True)]
    # One wave of 60 to 120 mm along each axis, for the shift along each axis.
    waves = [
        [np.sin(2 * np.pi * place / rng.uniform(60, 120) + rng.uniform(0, 2 * np.pi)) for place in places]
        for _ in range(3)
    ]
    found = np.empty_like(labels)
    for z in range(labels.shape[0]):
        shifts_mm: list[NDArray[np.float64]] = [DEFORMATION_MM * (a[z] + b[:, np.newaxis] + c) / 3 for a, b, c in waves]
        starts = (np.full(labels.shape[1:], z), *np.indices(labels.shape[1:]))
        indices = [
            np.clip(start + np.rint(shift / step).astype(int), 0, count - 1)
            for start, shift, step, count in zip(starts, shifts_mm, spacing, labels.shape, strict=True)
        ]
        found[z] = labels[tuple(indices)]
    edges = [max(1, round(FALSE_MM / step)) for step in spacing]
    found[tuple(slice(2, 2 + edge) for edge in edges)] = ORGANS[0].index
    return LabelMap(labels=found, grid=label_map.grid)


if __name__ == "__main__":
    main()
