"""Two methods on the same cases: is the difference between them more than chance, and how large is it?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.evaluation.scores import Evaluation, Measure
from viscera.evaluation.statistics import MEAN_ROW, case_values, scored_organs

# Up to so many differences the null distribution is counted out; beyond, it is normal for all purposes.
_MOST_EXACT = 100
# Parts and percent of volumes tell the same as other measures, so they are not tested as well.
_UNTESTED = ("difference_percent", "false_parts", "false_ml", "missed_parts", "missed_ml")

_Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SignedRank:
    """A Wilcoxon signed-rank test.

    Attributes:
        pairs: Pairs of defined values.
        zeros: Those without a difference.
        p: Two-sided; 1 if there is no difference at all.
        effect: Matched-pairs rank-biserial correlation in [-1, 1]; above 0 if differences are mostly positive.
    """

    pairs: int
    zeros: int
    p: float
    effect: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure of one organ, in two evaluations of the same cases.

    Attributes:
        organ: Its name, or "mean" for each case's mean over its organs.
        measure: What is compared; of signed errors their size.
        first, second: Mean of the finite values over the shared cases, None if there is none.
        median_gain: Median over cases of how much better the first one is, in the measure's own unit: higher by so
            much, or lower where low values are good. None if it is not finite.
        test: Of these gains; its effect is above 0 if the first one is better.
        p_holm: The p-value corrected for testing several organs; None for the row "mean".
    """

    organ: str
    measure: Measure
    first: float | None
    second: float | None
    median_gain: float | None
    test: SignedRank
    p_holm: float | None


def compare(first: Evaluation, second: Evaluation) -> tuple[Comparison, ...]:
    """All comparisons of two evaluations over the cases both have, by measure and then organ, "mean" the last.

    Holm's correction is over the organs of one measure (Holm 1979, "A simple sequentially rejective multiple test
    procedure", Scand. J. Stat. 6, 65-70).
    """
    shared = set(first.cases) & set(second.cases)
    scores = [tuple(score for score in one.scores if score.case in shared) for one in (first, second)]
    organs = scored_organs(scores[0], first.organs)
    measures = [measure for measure in first.measures if measure.key not in _UNTESTED]
    tables = [
        case_values(sorted(some, key=lambda score: score.case), organs, [measure.value for measure in measures])
        for some in scores
    ]
    rows = []
    for column, measure in enumerate(measures):
        pairs = [[table[:, row, column] for table in tables] for row in range(len(organs) + 1)]
        if measure.best == "zero":
            pairs = [[np.abs(values) for values in pair] for pair in pairs]
        gains = [_gain(measure, *pair) for pair in pairs]
        tests = [signed_rank(gain) for gain in gains]
        corrected = [*holm([test.p for test in tests[:-1]]), None]
        for organ, pair, gain, test, p in zip([*organs, MEAN_ROW], pairs, gains, tests, corrected, strict=True):
            rows.append(
                Comparison(
                    organ=organ,
                    measure=measure,
                    first=_finite_mean(pair[0]),
                    second=_finite_mean(pair[1]),
                    median_gain=_median(gain),
                    test=test,
                    p_holm=p,
                )
            )
    return tuple(rows)


def signed_rank(differences: _Values) -> SignedRank:
    """The Wilcoxon signed-rank test of paired differences, NaN left out.

    Zero differences are ranked with the others and then dropped, and equal sizes share their mean rank (Pratt 1959,
    "Remarks on zeros and ties in the Wilcoxon signed rank procedures", J. Am. Stat. Assoc. 54, 655-667). Up to 100
    differences the p-value is exact, ties and all: every pattern of signs is counted; beyond it is the normal
    approximation. The effect is (W+ - W-) / (W+ + W-), W being the sums of ranks (Kerby 2014, "The simple difference
    formula", Compr. Psychol. 3).
    """
    given = differences[~np.isnan(differences)]
    ranks = average_ranks(np.abs(given))
    moved = given != 0
    up, total = float(ranks[given > 0].sum()), float(ranks[moved].sum())
    if not total:
        return SignedRank(pairs=given.size, zeros=given.size, p=1.0, effect=0.0)
    p = _exact_p(ranks[moved], up) if np.count_nonzero(moved) <= _MOST_EXACT else _normal_p(ranks[moved], up)
    zeros = int(given.size - np.count_nonzero(moved))
    return SignedRank(pairs=given.size, zeros=zeros, p=p, effect=(2 * up - total) / total)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down corrected p-values, in the order given."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def average_ranks(values: _Values) -> _Values:
    """The rank of each value from 1 for the smallest; equal ones share the mean of their places."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: _Values = (last - (counts - 1) / 2)[places]
    return ranks


def _exact_p(ranks: _Values, up: float) -> float:
    """The share of all patterns of signs at least as uneven; ranks are multiples of a half."""
    steps = np.rint(2 * ranks).astype(np.int64)
    chances = np.ones(1)
    for step in steps.tolist():  # each rank is positive or negative with equal chance
        grown = np.zeros(chances.size + step)
        grown[: chances.size] += chances / 2
        grown[step:] += chances / 2
        chances = grown
    place = round(2 * up)
    return min(1.0, 2 * min(float(chances[: place + 1].sum()), float(chances[place:].sum())))


def _normal_p(ranks: _Values, up: float) -> float:
    deviation = math.sqrt(float((ranks**2).sum()) / 4)
    return 2 * statistics.NormalDist().cdf(-abs(up - float(ranks.sum()) / 2) / deviation)


def _gain(measure: Measure, first: _Values, second: _Values) -> _Values:
    """How much better the first is, case by case; two infinite values differ by nothing that can be said."""
    sign = 1.0 if measure.best == "high" else -1.0
    gain = np.full(first.shape, np.nan)
    comparable = np.isfinite(first) | np.isfinite(second)
    np.subtract(first, second, out=gain, where=comparable)
    gain[comparable] *= sign
    gain[np.isinf(first) & np.isinf(second)] = 0.0  # both miss the organ
    return gain


def _finite_mean(values: _Values) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _median(values: _Values) -> float | None:
    given = values[~np.isnan(values)]
    middle = float(statistics.median(given.tolist())) if given.size else math.nan
    return middle if math.isfinite(middle) else None
