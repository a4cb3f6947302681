"""Means, deviations and bootstrap intervals of scores over cases."""

import math
import warnings

import numpy as np
import pytest

from viscera.evaluation.scores import CaseScore
from viscera.evaluation.statistics import bootstrap_intervals, case_values, spread, summarise


def score(case, organ, dsc, nsd, *, reference_ml=100.0, prediction_ml=110.0, hd95_mm=2.0):
    return CaseScore(
        case=case,
        organ=organ,
        dsc=dsc,
        nsd=nsd,
        reference_ml=reference_ml,
        prediction_ml=prediction_ml,
        hd95_mm=hd95_mm,
    )


SCORES = (
    score("a", "liver", 0.9, 0.8, reference_ml=1500.0, prediction_ml=1480.0),
    score("a", "pancreas", 0.5, 0.4),
    score("b", "liver", 0.8, 0.6, reference_ml=1200.0, prediction_ml=1220.0),
    score("b", "pancreas", 0.7, 0.2),
)
WITH_UNDEFINED = (*SCORES, score("c", "liver", 1.0, 1.0), score("c", "pancreas", math.nan, math.nan))


class TestSpread:
    def test_mean_and_sample_deviation(self):
        values = spread([1.0, 2.0, 6.0])
        assert (values.mean, values.sd, values.count, values.undefined) == (3.0, pytest.approx(math.sqrt(7)), 3, 0)
        assert values.median == 2.0

    def test_undefined_values_are_left_out_and_counted(self):
        values = spread([1.0, math.nan, 3.0, math.nan])
        assert (values.mean, values.count, values.undefined) == (2.0, 2, 2)

    def test_infinite_values_are_left_out_of_the_mean_but_not_of_the_median(self):
        values = spread([1.0, 3.0, math.inf])
        assert (values.mean, values.median, values.undefined) == (2.0, 3.0, 1)
        assert spread([1.0, math.inf, math.inf]).median is None

    def test_one_value_has_no_deviation(self):
        assert (spread([4.0]).mean, spread([4.0]).sd) == (4.0, None)

    def test_nothing_defined(self):
        values = spread([math.nan])
        assert (values.mean, values.sd, values.median, values.count) == (None, None, None, 0)


class TestSummarise:
    def test_organs_come_in_the_order_of_the_organ_table_then_the_mean(self):
        assert [row.organ for row in summarise(SCORES[::-1])] == ["liver", "pancreas", "mean"]

    def test_means_of_an_organ(self):
        liver = summarise(SCORES)[0]
        assert (liver.dsc.mean, liver.nsd.mean) == pytest.approx((0.85, 0.7))
        assert liver.difference_ml.mean == pytest.approx(0.0)
        assert liver.difference_ml.sd == pytest.approx(math.sqrt(800))

    def test_the_mean_row_is_over_the_means_of_cases(self):
        mean = summarise(SCORES)[-1]
        assert mean.dsc.mean == pytest.approx((0.7 + 0.75) / 2)
        assert mean.dsc.sd == pytest.approx(0.05 / math.sqrt(2))

    def test_undefined_scores_do_not_enter_a_case_mean(self):
        assert summarise(WITH_UNDEFINED)[-1].dsc.mean == pytest.approx((0.7 + 0.75 + 1.0) / 3)
        assert summarise(WITH_UNDEFINED)[1].dsc.undefined == 1

    def test_an_organ_a_case_was_not_scored_for_is_not_undefined(self):
        pancreas = summarise(SCORES[:3])[1].dsc
        assert (pancreas.count, pancreas.undefined) == (1, 0)

    def test_a_missed_organ_makes_the_cases_mean_distance_infinite(self):
        scores = (*SCORES[:3], score("b", "pancreas", 0.0, 0.0, hd95_mm=math.inf))
        mean = summarise(scores)[-1].spreads["hd95_mm"]
        assert (mean.mean, mean.undefined) == (2.0, 1)

    def test_nothing_scored(self):
        (mean,) = summarise(())
        assert (mean.organ, mean.dsc.mean, mean.dsc.low) == ("mean", None, None)

    def test_values_by_case_and_organ(self):
        table = case_values(SCORES[1:3], ["liver", "pancreas"], [lambda one: one.dsc])
        np.testing.assert_equal(table[..., 0], [[math.nan, 0.5, 0.5], [0.8, math.nan, 0.8]])


class TestIntervals:
    def test_the_interval_of_skewed_values_is_scipys(self):
        stats = pytest.importorskip("scipy.stats")
        values = np.random.default_rng(3).exponential(size=40)
        ((low, high),) = bootstrap_intervals(values[:, np.newaxis], seed=1)
        theirs = stats.bootstrap((values,), np.mean, n_resamples=30_000, method="BCa", rng=4).confidence_interval
        assert (low, high) == pytest.approx(theirs, abs=0.015)
        percentile = stats.bootstrap((values,), np.mean, n_resamples=30_000, method="percentile", rng=4)
        assert high > percentile.confidence_interval.high + 0.02  # what the correction is for

    def test_it_covers_the_true_mean_as_often_as_it_says(self):
        values = np.random.default_rng(5).normal(size=(30, 300))
        held = [low < 0 < high for low, high in bootstrap_intervals(values, resamples=1000)]
        assert 0.88 < np.mean(held) < 0.98

    def test_the_seed_decides(self):
        values = np.random.default_rng(6).normal(size=(12, 2))
        assert bootstrap_intervals(values, seed=1) == bootstrap_intervals(values, seed=1)
        assert bootstrap_intervals(values, seed=1) != bootstrap_intervals(values, seed=2)

    def test_undefined_and_infinite_values_are_left_out(self):
        values = np.array([[1.0], [2.0], [4.0], [math.nan], [math.inf]])
        ((low, high),) = bootstrap_intervals(values)
        assert 1.0 <= low < 7 / 3 < high <= 4.0

    def test_equal_values_have_an_interval_without_width(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert bootstrap_intervals(np.full((5, 1), 0.25)) == [(0.25, 0.25)]

    @pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
    def test_fewer_than_two_values_have_none(self, values):
        assert bootstrap_intervals(np.array(values).reshape(-1, 1)) == [(None, None)]
