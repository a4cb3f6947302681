"""Several methods in order, by the rule of the FLARE challenges: rank in every case and metric, then average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viscera.core.errors import ConfigError
from viscera.evaluation.scores import Evaluation, Measure
from viscera.evaluation.significance import average_ranks
from viscera.evaluation.statistics import case_values, scored_organs

RANKED = ("dsc", "nsd")


@dataclass(frozen=True, kw_only=True)
class MethodRank:
    """A method's place.

    Attributes:
        method: Its name.
        place: From 1; equal mean ranks share the mean of their places.
        rank: Its mean rank over all cases and metrics.
        by_measure: Its mean rank over the cases in each metric, by key.
        firsts: The share of cases and metrics in which it is first, alone or with others.
    """

    method: str
    place: float
    rank: float
    by_measure: Mapping[str, float]
    firsts: float


def rank_methods(evaluations: Mapping[str, Evaluation], keys: Sequence[str] = RANKED) -> tuple[MethodRank, ...]:
    """The methods from the best to the worst; equal ones by name.

    In each case and metric the methods are ranked by the case's mean over its organs, 1 the best; equal ones share the
    mean of their ranks. A method without a result in a case is last there. Cases that no method has are left out.

    Args:
        evaluations: By the method's name, all against the same references.
        keys: The metrics to rank by, see `scores.measures_of`.

    Raises:
        ConfigError: For fewer than two methods, or a metric that is not measured.
    """
    measures = _measures(evaluations, keys)
    cases = sorted({case for evaluation in evaluations.values() for case in evaluation.cases})
    # (methods, cases, metrics), larger being worse
    badness = np.stack([_badness(evaluation, measures, cases) for evaluation in evaluations.values()])
    ranks = np.apply_along_axis(average_ranks, 0, badness)
    means = ranks.mean(axis=(1, 2)) if cases else np.ones(len(evaluations))
    places = average_ranks(means)
    found = [
        MethodRank(
            method=name,
            place=float(places[index]),
            rank=float(means[index]),
            by_measure={measure.key: float(ranks[index, :, column].mean()) for column, measure in enumerate(measures)},
            firsts=float((badness[index] == badness.min(axis=0)).mean()),
        )
        for index, name in enumerate(evaluations)
    ]
    return tuple(sorted(found, key=lambda one: (one.place, one.method)))


def _badness(evaluation: Evaluation, measures: Sequence[Measure], cases: Sequence[str]) -> NDArray[np.float64]:
    """(cases, metrics) of one method; infinite where it has no result."""
    organs = scored_organs(evaluation.scores, evaluation.organs)
    values = case_values(evaluation.scores, organs, [measure.value for measure in measures])[:, -1]
    own = dict(zip(evaluation.cases, values, strict=True))
    table = np.full((len(cases), len(measures)), np.inf)
    for place, case in enumerate(cases):
        if case in own:
            for column, measure in enumerate(measures):
                table[place, column] = measure.badness(float(own[case][column]))
    table[np.isnan(table)] = np.inf
    return table


def _measures(evaluations: Mapping[str, Evaluation], keys: Sequence[str]) -> list[Measure]:
    if len(evaluations) < 2:
        raise ConfigError(
            "ranking methods",
            expected="at least two methods",
            got=str(len(evaluations)),
            remedy="Give another method",
        )
    measures = {measure.key: measure for measure in next(iter(evaluations.values())).measures}
    if unknown := [key for key in keys if key not in measures]:
        raise ConfigError(
            "ranking methods",
            expected=f"metrics among {', '.join(measures)}",
            got=", ".join(unknown),
            remedy="Choose among them",
        )
    return [measures[key] for key in keys]
