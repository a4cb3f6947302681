"""Scores over many cases: mean, standard deviation, median, and how sure the mean is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from viscera.core.organs import ORGANS, Organ
from viscera.evaluation.scores import FLARE21, CaseScore, Evaluation, Tolerance, measures_of

MEAN_ROW = "mean"
RESAMPLES = 10_000
# Resamples drawn at a time: a few megabytes for a hundred cases.
_CHUNK = 500
_CONFIDENCE = 0.95

_Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How values over cases lie.

    Attributes:
        mean: Of the finite values; None if there is none.
        sd: Their sample standard deviation (n - 1); None for fewer than two.
        count: Finite values.
        undefined: Values left out of the mean because they are NaN or infinite.
        median: Of all values but NaN; None if there is none, or if it is infinite.
        low, high: The mean's bootstrap 95 % interval; None for fewer than two finite values, or if not asked for.
    """

    mean: float | None
    sd: float | None
    count: int
    undefined: int
    median: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class OrganSummary:
    """One organ over all cases; in the row named "mean", each case's mean over its organs.

    Attributes:
        organ: Its name.
        spreads: By key of the measure, see `scores.measures_of`.
    """

    organ: str
    spreads: Mapping[str, Spread]

    @property
    def dsc(self) -> Spread:
        """Of the DSC."""
        return self.spreads["dsc"]

    @property
    def nsd(self) -> Spread:
        """Of the NSD at the first tolerance."""
        return self.spreads["nsd"]

    @property
    def difference_ml(self) -> Spread:
        """Of predicted minus reference volume."""
        return self.spreads["difference_ml"]


def spread(values: Iterable[float]) -> Spread:
    """How `values` lie, without the interval."""
    given = list(values)
    finite = [value for value in given if math.isfinite(value)]
    ranked = [value for value in given if not math.isnan(value)]
    median = statistics.median(ranked) if ranked else math.nan
    return Spread(
        mean=statistics.fmean(finite) if finite else None,
        sd=statistics.stdev(finite) if len(finite) > 1 else None,
        count=len(finite),
        undefined=len(given) - len(finite),
        median=median if math.isfinite(median) else None,
    )


def summarise(
    scores: Sequence[CaseScore],
    organs: Sequence[Organ] = ORGANS,
    tolerances: Sequence[Tolerance] = (FLARE21,),
    *,
    seed: int = 0,
) -> tuple[OrganSummary, ...]:
    """One summary per scored organ in the order of the table `organs`, then the row "mean".

    The last row first takes each case's mean over its organs, then goes over cases: if every score is defined, its mean
    is the mean of the organs' means. Intervals are `bootstrap_intervals` with `seed`, the cases being drawn
    as a whole.
    """
    measures = measures_of(tolerances)
    names = [*scored_organs(scores, organs), MEAN_ROW]
    table = case_values(scores, names[:-1], [measure.value for measure in measures])
    flat = table.reshape(len(table), len(names) * len(measures))
    intervals = bootstrap_intervals(flat, seed=seed)
    # An organ that a case does not have at all is no undefined value.
    present = np.stack([_has_organ(scores, name) for name in names], axis=1) if len(table) else np.ones((0, len(names)))
    rows = []
    for row, name in enumerate(names):
        spreads = {}
        for column, measure in enumerate(measures):
            low, high = intervals[row * len(measures) + column]
            values = table[:, row, column][present[:, row].astype(bool)]
            spreads[measure.key] = replace(spread(values.tolist()), low=low, high=high)
        rows.append(OrganSummary(organ=name, spreads=spreads))
    return tuple(rows)


def summary_of(evaluation: Evaluation) -> tuple[OrganSummary, ...]:
    """The summaries of an evaluation's scores."""
    return summarise(evaluation.scores, evaluation.organs, evaluation.tolerances)


def scored_organs(scores: Sequence[CaseScore], organs: Sequence[Organ] = ORGANS) -> list[str]:
    """The names of the organs of the table that have scores, in its order."""
    scored = {score.organ for score in scores}
    return [organ.name for organ in organs if organ.name in scored]


def case_values(
    scores: Sequence[CaseScore], organs: Sequence[str], values: Sequence[Callable[[CaseScore], float]]
) -> _Values:
    """(cases, organs + 1, values): of every case, in order, each value of each organ, and its mean over the organs.

    Missing ones are NaN and left out of that mean; it is infinite if a value is.
    """
    cases = {case: place for place, case in enumerate(dict.fromkeys(score.case for score in scores))}
    rows = {organ: row for row, organ in enumerate(organs)}
    table = np.full((len(cases), len(organs) + 1, len(values)), np.nan)
    for score in scores:
        if score.organ in rows:
            table[cases[score.case], rows[score.organ]] = [value(score) for value in values]
    defined = ~np.isnan(table[:, :-1])
    counts = defined.sum(axis=1)
    sums = np.where(defined, table[:, :-1], 0.0).sum(axis=1)
    table[:, -1] = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return table


def bootstrap_intervals(
    values: _Values, *, seed: int = 0, resamples: int = RESAMPLES
) -> list[tuple[float | None, float | None]]:
    """The 95 % interval of each column's mean over its finite values; (None, None) for fewer than two of them.

    The bias-corrected and accelerated (BCa) interval of Efron (1987), "Better bootstrap confidence intervals", J. Am.
    Stat. Assoc. 82, 171-185, with the acceleration from the jackknife. Rows are drawn with replacement, the same ones
    for all columns.

    Args:
        values: (cases, columns); NaN and infinite ones are left out.
        seed: Of the drawing; equal seeds give equal intervals.
        resamples: How many.
    """
    finite = np.isfinite(values)
    filled = np.where(finite, values, 0.0)
    means = np.concatenate([np.empty((0, values.shape[1])), *_resampled_means(filled, finite, seed, resamples)])
    return [
        _bca(filled[rows, column], means[:, column]) if (rows := finite[:, column]).sum() > 1 else (None, None)
        for column in range(values.shape[1])
    ]


def _resampled_means(filled: _Values, finite: NDArray[np.bool_], seed: int, resamples: int) -> Iterator[_Values]:
    """The columns' means, some resamples at a time; NaN where a resample holds no finite value."""
    rng = np.random.default_rng(seed)
    count = len(filled)
    for start in range(0, resamples if count else 0, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
        totals, weights = times @ filled, times @ finite
        yield np.divide(totals, weights, out=np.full(totals.shape, np.nan), where=weights > 0)


def _bca(values: _Values, means: _Values) -> tuple[float, float]:
    mean = values.mean()
    means = np.sort(means[~np.isnan(means)])
    if np.ptp(values) == 0:
        return float(mean), float(mean)
    normal = statistics.NormalDist()
    # Equal means count half, and no share is 0 or 1.
    below = (np.searchsorted(means, mean) + np.searchsorted(means, mean, side="right")) / 2
    bias = normal.inv_cdf(float(np.clip(below / means.size, 1 / means.size, 1 - 1 / means.size)))
    left_out = (mean - values) / (values.size - 1)  # the jackknife's means, seen from the mean
    acceleration = -(left_out**3).sum() / (6 * (left_out**2).sum() ** 1.5)
    ends = []
    for tail in ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2):
        point = bias + normal.inv_cdf(tail)
        ends.append(normal.cdf(bias + point / (1 - acceleration * point)))
    low, high = np.quantile(means, ends)
    return float(low), float(high)


def _has_organ(scores: Sequence[CaseScore], organ: str) -> NDArray[np.bool_]:
    """By case, whether it has a score of the organ; of the mean, always."""
    cases = dict.fromkeys(score.case for score in scores)
    having = {score.case for score in scores if organ in (score.organ, MEAN_ROW)}
    return np.array([case in having for case in cases], dtype=bool)
