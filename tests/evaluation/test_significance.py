"""Paired tests and rankings of methods: values worked out by hand, and scipy as oracle."""

import itertools
import math

import numpy as np
import pytest

from viscera.core.errors import ConfigError
from viscera.evaluation.ranking import rank_methods
from viscera.evaluation.scores import CaseScore, Evaluation
from viscera.evaluation.significance import average_ranks, compare, holm, signed_rank


def evaluation(**organs):
    """One case per value of each organ: a DSC, or a pair of DSC and HD95."""
    scores = []
    for number in range(max(map(len, organs.values()))):
        for organ, values in organs.items():
            dsc, hd95_mm = values[number] if isinstance(values[number], tuple) else (values[number], 1.0)
            scores.append(
                CaseScore(
                    case=f"case{number}",
                    organ=organ,
                    dsc=dsc,
                    nsd=dsc,
                    hd95_mm=hd95_mm,
                    assd_mm=hd95_mm,
                    reference_ml=100.0,
                    prediction_ml=90.0 + 10 * dsc,
                )
            )
    return Evaluation(scores=tuple(scores))


def row(rows, measure, organ):
    return next(one for one in rows if (one.measure.key, one.organ) == (measure, organ))


class TestSignedRank:
    def test_by_hand(self):
        # Ranks 1 (-), 2, 3, 4: W- = 1. Of 16 patterns of signs, {} and {1} have a sum of at most 1: p = 2 * 2 / 16.
        test = signed_rank(np.array([-1.0, 2.0, 3.0, 4.0]))
        assert (test.p, test.effect) == (pytest.approx(0.25), pytest.approx((9 - 1) / 10))

    def test_zeros_are_ranked_and_dropped(self):
        # Pratt: the zeros hold ranks 1 and 2 (1.5 each), so 3 and 4 are left; both positive: p = 2 / 4.
        test = signed_rank(np.array([0.0, 0.0, 5.0, 7.0]))
        assert (test.p, test.effect, test.zeros, test.pairs) == (0.5, 1.0, 2, 4)
        # A negative one of rank 3 beside positive ones of rank 4 and 5 has a larger share than without the zeros.
        assert signed_rank(np.array([0.0, 0.0, -1.0, 2.0, 3.0])).effect == pytest.approx((9 - 3) / 12)

    def test_equal_sizes_share_their_rank(self):
        # Ranks 1.5, 1.5, 3 with W- = 1.5: sums of at most 1.5 are {}, {1.5}, {1.5}: p = 2 * 3 / 8.
        assert signed_rank(np.array([1.0, -1.0, 2.0])).p == pytest.approx(0.75)

    @pytest.mark.parametrize("values", [[], [0.0, 0.0], [math.nan]])
    def test_without_a_difference(self, values):
        test = signed_rank(np.array(values))
        assert (test.p, test.effect) == (1.0, 0.0)

    def test_undefined_pairs_are_left_out_and_infinite_ones_are_largest(self):
        test = signed_rank(np.array([math.nan, math.inf, -1.0, 2.0]))
        assert (test.pairs, test.effect) == (3, pytest.approx((5 - 1) / 6))

    @pytest.mark.parametrize("count", [5, 12, 24])
    def test_the_exact_p_is_scipys(self, count):
        stats = pytest.importorskip("scipy.stats")
        differences = np.random.default_rng(count).normal(0.4, 1, size=count)
        assert signed_rank(differences).p == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)

    def test_with_ties_and_zeros_it_is_that_of_all_patterns_of_signs(self):
        differences = np.array([0.0, 1.0, 1.0, -2.0, 3.0, 3.0, -0.5, 0.0, 4.0])
        ranks = average_ranks(np.abs(differences))[differences != 0]
        up = average_ranks(np.abs(differences))[differences > 0].sum()
        sums = np.array([np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=len(ranks))])
        expected = 2 * min((sums >= up).mean(), (sums <= up).mean())
        assert signed_rank(differences).p == pytest.approx(expected)

    def test_many_pairs_are_scipys_normal_approximation(self):
        stats = pytest.importorskip("scipy.stats")
        differences = np.round(np.random.default_rng(9).normal(0.1, 1, size=300), 1)
        theirs = stats.wilcoxon(differences, zero_method="pratt", method="asymptotic").pvalue
        assert signed_rank(differences).p == pytest.approx(theirs, rel=1e-3)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1, and never below the one before.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.01, 0.011]) == pytest.approx([0.02, 0.02])
    assert holm([]) == []


def test_average_ranks_by_hand():
    assert average_ranks(np.array([30.0, 10.0, 10.0, math.inf])).tolist() == [3.0, 1.5, 1.5, 4.0]


class TestCompare:
    def test_a_better_method_has_gains_and_a_positive_effect_whatever_is_best(self):
        better, worse = [(0.9, 2.0)] * 6, [(0.8, 3.0 + place) for place in range(6)]
        rows = compare(evaluation(liver=better), evaluation(liver=worse))
        for key, gain in (("dsc", 0.1), ("hd95_mm", 3.5), ("difference_ml", 1.0)):
            found = row(rows, key, "liver")
            assert found.median_gain == pytest.approx(gain)
            assert (found.test.effect, found.test.p) == (1.0, pytest.approx(2 / 64))
        assert [row(rows, "dsc", "liver").first, row(rows, "dsc", "liver").second] == pytest.approx([0.9, 0.8])

    def test_the_correction_is_over_the_organs(self):
        first = evaluation(liver=[0.9] * 6, spleen=[0.5, 0.6, 0.7, 0.5, 0.6, 0.7])
        second = evaluation(liver=[0.8] * 6, spleen=[0.6, 0.5, 0.8, 0.4, 0.7, 0.6])
        rows = compare(first, second)
        liver = row(rows, "dsc", "liver")
        assert liver.p_holm == pytest.approx(2 * liver.test.p)
        assert row(rows, "dsc", "mean").p_holm is None

    def test_only_cases_of_both_are_compared(self):
        rows = compare(evaluation(liver=[0.9, 0.8, 0.7]), evaluation(liver=[0.9, 0.9]))
        found = row(rows, "dsc", "liver")
        assert (found.test.pairs, found.test.zeros, found.first) == (2, 1, pytest.approx(0.85))

    def test_an_organ_one_method_misses_counts_against_it(self):
        rows = compare(evaluation(liver=[(0.9, 2.0)] * 3), evaluation(liver=[(0.9, 2.0), (0.9, 2.0), (0.0, math.inf)]))
        assert row(rows, "hd95_mm", "liver").test.effect == 1.0
        assert row(rows, "hd95_mm", "liver").second == 2.0

    def test_an_organ_both_miss_is_no_difference(self):
        missed = evaluation(liver=[(0.0, math.inf), (0.9, 2.0)])
        assert row(compare(missed, missed), "hd95_mm", "liver").test.zeros == 2


class TestRanking:
    def test_by_hand(self):
        # DSC ranks of a, b, c in the two cases: 1, 2.5, 2.5 and 2, 1, 3; NSD has the same.
        ranks = rank_methods(
            {
                "c": evaluation(liver=[0.8, 0.5]),
                "b": evaluation(liver=[0.8, 0.9]),
                "a": evaluation(liver=[0.9, 0.7]),
            }
        )
        assert [(one.method, one.rank, one.place) for one in ranks] == [("a", 1.5, 1), ("b", 1.75, 2), ("c", 2.75, 3)]
        assert ranks[0].by_measure == {"dsc": 1.5, "nsd": 1.5}
        assert ranks[1].firsts == 0.5

    def test_equal_methods_share_a_place(self):
        same = evaluation(liver=[0.8, 0.5])
        assert [(one.rank, one.place) for one in rank_methods({"a": same, "b": same})] == [(1.5, 1.5), (1.5, 1.5)]

    def test_small_distances_are_best_and_a_missing_case_is_last(self):
        near, far = evaluation(liver=[(0.5, 1.0), (0.5, 1.0)]), evaluation(liver=[(0.5, 9.0)])
        ranks = rank_methods({"far": far, "near": near}, ("hd95_mm",))
        assert [(one.method, one.rank) for one in ranks] == [("near", 1.0), ("far", 2.0)]

    def test_an_undefined_score_is_no_first_place(self):
        ranks = rank_methods({"a": evaluation(liver=[0.5]), "b": evaluation(liver=[math.nan])})
        assert [(one.method, one.rank, one.firsts) for one in ranks] == [("a", 1.0, 1.0), ("b", 2.0, 0.0)]

    @pytest.mark.parametrize(("methods", "keys"), [(("a",), ("dsc",)), (("a", "b"), ("speed",))])
    def test_what_cannot_be_ranked(self, methods, keys):
        with pytest.raises(ConfigError, match="ranking methods"):
            rank_methods({name: evaluation(liver=[0.5]) for name in methods}, keys)
