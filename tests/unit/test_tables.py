"""Means, deviations and their tables."""

import csv
import io
import json
import math

import pytest

from viscera.evaluation.tables import (
    CaseScore,
    Evaluation,
    cases_text,
    evaluation_json,
    scores_csv,
    spread,
    summarise,
    summary_text,
)


def score(case, organ, dsc, nsd, *, reference_ml=100.0, prediction_ml=110.0):
    return CaseScore(case=case, organ=organ, dsc=dsc, nsd=nsd, reference_ml=reference_ml, prediction_ml=prediction_ml)


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

    def test_undefined_values_are_left_out_and_counted(self):
        values = spread([1.0, math.nan, 3.0, math.nan])
        assert (values.mean, values.count, values.undefined) == (2.0, 2, 2)

    def test_one_value_has_no_deviation(self):
        assert (spread([4.0]).mean, spread([4.0]).sd) == (4.0, None)

    def test_nothing_defined(self):
        assert (spread([math.nan]).mean, spread([math.nan]).sd, spread([math.nan]).count) == (None, None, 0)


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


class TestText:
    def test_the_summary_in_full(self):
        assert summary_text(Evaluation(scores=SCORES)) == (
            "2 cases, mean ± standard deviation\n"
            "\n"
            "organ             DSC %  NSD % at 1 mm  volume difference ml\n"
            "------------------------------------------------------------\n"
            "liver     85.00 ±  7.07  70.00 ± 14.14         +0.0 ±   28.3\n"
            "pancreas  60.00 ± 14.14  30.00 ± 14.14        +10.0 ±    0.0\n"
            "------------------------------------------------------------\n"
            "mean      72.50 ±  3.54  50.00 ± 14.14         +5.0 ±   14.1\n"
        )

    def test_columns_are_aligned(self):
        lines = summary_text(Evaluation(scores=SCORES)).splitlines()[2:]
        assert len({len(line) for line in lines}) == 1

    def test_cases_in_percent_with_their_means(self):
        text = cases_text(Evaluation(scores=SCORES))
        assert "90.00 /  80.00" in text
        assert text.splitlines()[-1].endswith("80.00 /  60.00  70.00 /  20.00  75.00 /  40.00")

    def test_undefined_scores_are_said(self):
        text = summary_text(Evaluation(scores=WITH_UNDEFINED, empty="nan"))
        assert "pancreas: 1 of 3 cases undefined" in text
        assert "- /      -" in cases_text(Evaluation(scores=WITH_UNDEFINED, empty="nan"))

    def test_predictions_without_reference_are_said(self):
        assert "no reference: x, y." in summary_text(Evaluation(scores=SCORES, without_reference=("x", "y")))

    def test_the_tolerance_is_said(self):
        assert "NSD % at 2.5 mm" in summary_text(Evaluation(scores=SCORES, tolerance_mm=2.5))

    def test_no_case(self):
        assert summary_text(Evaluation(scores=())).startswith("no cases")


class TestFiles:
    def test_csv_has_a_row_per_case_and_organ_in_full_precision(self):
        third = score("c, left", "spleen", 1 / 3, math.nan)
        rows = list(csv.DictReader(io.StringIO(scores_csv([*SCORES, third]))))
        assert len(rows) == 5
        assert rows[0] == {
            "case": "a",
            "organ": "liver",
            "dsc": "0.9",
            "nsd": "0.8",
            "reference_ml": "1500.0",
            "prediction_ml": "1480.0",
        }
        assert (rows[4]["case"], float(rows[4]["dsc"]), rows[4]["nsd"]) == ("c, left", 1 / 3, "nan")

    def test_json_holds_settings_summary_and_scores(self):
        content = json.loads(evaluation_json(Evaluation(scores=WITH_UNDEFINED, tolerance_mm=2.0, empty="nan")))
        assert (content["tolerance_mm"], content["empty"]) == (2.0, "nan")
        assert content["summary"][1]["dsc"] == {
            "mean": pytest.approx(0.6),
            "sd": pytest.approx(0.1 * math.sqrt(2)),
            "count": 2,
            "undefined": 1,
        }
        assert content["scores"][-1]["dsc"] is None
