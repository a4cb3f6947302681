"""The tables of scores, summaries, comparisons and rankings, in every form."""

import csv
import io
import json
import math

import pytest

from viscera.core.errors import ConfigError
from viscera.evaluation.results import FORMS, Results
from viscera.evaluation.scores import FLARE22, CaseScore, Evaluation, Tolerance, UnscoredCase
from viscera.evaluation.tables import Table, case_line, cases_text, p_text, scores_csv, summary_table, summary_text


def score(case, organ, dsc, nsd, *, reference_ml=100.0, prediction_ml=110.0, **further):
    values = {"hd95_mm": 4.0, "assd_mm": 1.0, "difference_percent": 100 * (prediction_ml / reference_ml - 1)} | further
    return CaseScore(
        case=case, organ=organ, dsc=dsc, nsd=nsd, reference_ml=reference_ml, prediction_ml=prediction_ml, **values
    )


SCORES = (
    score("a", "liver", 0.9, 0.8, reference_ml=1500.0, prediction_ml=1485.0),
    score("a", "pancreas", 0.5, 0.4),
    score("b", "liver", 0.8, 0.6, reference_ml=1200.0, prediction_ml=1224.0),
    score("b", "pancreas", 0.7, 0.2),
)
UNDEFINED = {"hd95_mm": math.nan, "assd_mm": math.nan, "difference_percent": math.nan}
WITH_UNDEFINED = (
    *SCORES,
    score("c", "liver", 1.0, 1.0),
    score("c", "pancreas", math.nan, math.nan, **UNDEFINED),
)


class TestText:
    def test_the_summary_of_a_case_in_full(self):
        assert summary_text(Evaluation(scores=SCORES[:2])) == (
            "1 case\n"
            "\n"
            "organ     DSC %  NSD 1 mm %  HD95 mm  ASSD mm  volume error ml  volume error %\n"
            "------------------------------------------------------------------------------\n"
            "liver     90.00       80.00     4.00     1.00            -15.0            -1.0\n"
            "pancreas  50.00       40.00     4.00     1.00            +10.0           +10.0\n"
            "------------------------------------------------------------------------------\n"
            "mean      70.00       60.00     4.00     1.00             -2.5            +4.5\n"
        )

    def test_several_cases_have_three_lines_per_organ(self):
        lines = summary_text(Evaluation(scores=SCORES)).splitlines()
        assert lines[0] == "2 cases"
        assert [line.split("  ")[0] for line in lines[4:7]] == ["liver", "", ""]
        assert "mean ± SD      85.00 ±  7.07" in lines[4]
        assert "median                 85.00" in lines[5]
        assert "95 % of mean  80.00 to 90.00" in lines[6]

    def test_columns_are_aligned(self):
        lines = summary_text(Evaluation(scores=SCORES)).splitlines()[2:]
        assert len({len(line) for line in lines}) == 1

    def test_cases_in_percent_with_their_means(self):
        text = cases_text(Evaluation(scores=SCORES))
        assert "90.00 /  80.00" in text
        assert text.splitlines()[-1].endswith("80.00 /  60.00   70.00 /  20.00   75.00 /  40.00")

    def test_an_organ_without_a_score_leaves_its_place_empty(self):
        both = case_line(SCORES[:2], ["liver", "spleen", "pancreas"], 4)
        assert both == "a      90.00 /  80.00                    50.00 /  40.00   70.00 /  60.00"

    def test_undefined_scores_are_said(self):
        text = summary_text(Evaluation(scores=WITH_UNDEFINED, empty="nan"))
        assert "as the reference is empty: pancreas in 1 of 3 cases." in text
        assert "- /      -" in cases_text(Evaluation(scores=WITH_UNDEFINED, empty="nan"))

    def test_an_infinite_distance_is_said_and_left_out(self):
        scores = (*SCORES[:3], score("b", "pancreas", 0.0, 0.0, hd95_mm=math.inf, assd_mm=math.inf))
        text = summary_text(Evaluation(scores=scores))
        assert "only one label map shows the organ: pancreas in 1 of 2 cases." in text
        assert "inf" not in text.replace("infinite", "")

    def test_false_positive_and_false_negative_components_are_said(self):
        scores = (*SCORES[:3], score("b", "pancreas", 0.7, 0.2, false_parts=2, false_ml=3.25, missed_parts=1))
        text = summary_text(Evaluation(scores=scores))
        assert "False-positive components: pancreas 2 in 1 case (3.2 ml)." in text
        assert "False-negative components: pancreas 1 in 1 case (0.0 ml)." in text

    def test_what_was_not_scored_is_said(self):
        text = summary_text(
            Evaluation(scores=SCORES, without_reference=("x", "y"), failures=(UnscoredCase(case="z", message="bad"),))
        )
        assert "no reference: x, y." in text
        assert "something is wrong: z." in text

    def test_every_tolerance_has_a_column(self):
        scores = tuple(score(one.case, one.organ, one.dsc, one.nsd, further_nsd=(0.95, 0.85)) for one in SCORES)
        tolerances = (Tolerance(mm=2.5), Tolerance(mm=4.0), FLARE22)
        text = summary_text(Evaluation(scores=scores, tolerances=tolerances))
        assert "NSD 2.5 mm %" in text
        assert text.index("NSD 4 mm %") < text.index("NSD FLARE22 %")
        assert "95.00 ±  0.00" in text

    def test_no_case(self):
        assert summary_text(Evaluation(scores=())).startswith("no cases")

    @pytest.mark.parametrize(("p", "text"), [(0.0004, "<0.001"), (0.001, "0.001"), (0.25, "0.250"), (1.0, "1.000")])
    def test_p_values(self, p, text):
        assert p_text(p) == text


TABLE = Table(
    title="50 % & more",
    header=("a|b", "x_1"),
    rows=(("one", "1 ±  2"), ("two", "3")),
    rules=frozenset({0}),
    notes=("A note.",),
)


class TestForms:
    def test_markdown(self):
        assert TABLE.markdown() == (
            "**50 % & more**\n\n| a\\|b | x_1 |\n| --- | ---: |\n| one | 1 ± 2 |\n| two | 3 |\n\nA note.\n"
        )

    def test_latex(self):
        assert TABLE.latex().splitlines() == [
            r"\begin{table}",
            r"  \centering",
            r"  \caption{50 \% \& more. A note.}",
            r"  \begin{tabular}{lr}",
            r"    \toprule",
            r"    a|b & x\_1 \\",
            r"    \midrule",
            r"    one & 1 $\pm$ 2 \\",
            r"    \midrule",
            r"    two & 3 \\",
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]

    @pytest.mark.parametrize("form", FORMS)
    def test_all_tables_of_two_methods_in_every_form(self, form):
        other = tuple(score(one.case, one.organ, one.dsc - 0.1, one.nsd) for one in SCORES)
        evaluations = {"ours": Evaluation(scores=SCORES), "theirs": Evaluation(scores=other)}
        text = Results.of(evaluations, versus=True, ranked=True).rendered(form)
        assert "ours" in text
        assert "theirs" in text
        assert ("ranking" in text.lower()) == (form != ".csv")

    def test_an_unknown_form(self):
        with pytest.raises(ConfigError, match=r"got \.pdf"):
            Results.of({"a": Evaluation(scores=SCORES)}).rendered(".pdf")

    def test_a_comparison_needs_two_methods(self):
        with pytest.raises(ConfigError, match="two"):
            Results.of({"a": Evaluation(scores=SCORES)}, versus=True)

    def test_the_name_of_a_method_is_said(self):
        assert summary_table(Evaluation(scores=SCORES), name="ours").title == "ours: 2 cases"


class TestFiles:
    def test_csv_has_a_row_per_case_and_organ_in_full_precision(self):
        third = score("c, left", "spleen", 1 / 3, math.nan, hd95_mm=math.inf)
        rows = list(csv.DictReader(io.StringIO(scores_csv({"": Evaluation(scores=(*SCORES, third))}))))
        assert len(rows) == 5
        assert (rows[0]["case"], rows[0]["organ"], rows[0]["dsc"], rows[0]["nsd"]) == ("a", "liver", "0.9", "0.8")
        assert (rows[0]["difference_ml"], rows[0]["reference_ml"]) == ("-15.0", "1500.0")
        assert "method" not in rows[0]
        assert (rows[4]["case"], float(rows[4]["dsc"]), rows[4]["nsd"]) == ("c, left", 1 / 3, "nan")
        assert rows[4]["hd95_mm"] == "inf"

    def test_csv_of_several_methods_names_them(self):
        evaluations = {name: Evaluation(scores=SCORES[:1]) for name in ("ours", "theirs")}
        rows = list(csv.DictReader(io.StringIO(scores_csv(evaluations))))
        assert [row["method"] for row in rows] == ["ours", "theirs"]

    def test_csv_of_the_summary_has_a_row_per_organ_and_measure(self):
        text = Results.of({"ours": Evaluation(scores=SCORES)}).rendered(".csv")
        rows = [row for row in csv.DictReader(io.StringIO(text)) if row["measure"] == "dsc"]
        assert [row["organ"] for row in rows] == ["liver", "pancreas", "mean"]
        assert (float(rows[0]["mean"]), float(rows[0]["low"]), rows[0]["count"]) == pytest.approx((0.85, 0.8, "2"))

    def test_json_holds_settings_summary_and_scores(self):
        infinite = score("d", "liver", 0.0, 0.0, hd95_mm=math.inf)
        evaluation = Evaluation(scores=(*WITH_UNDEFINED, infinite), tolerances=(Tolerance(mm=2.0),), empty="nan")
        content = json.loads(Results.of({"ours": evaluation}).rendered(".json"))["methods"]["ours"]
        assert content["tolerances"][0]["mm"]["spleen"] == 2.0
        assert content["empty"] == "nan"
        pancreas = content["summary"][1]["dsc"]
        assert (pancreas["mean"], pancreas["count"], pancreas["undefined"]) == (pytest.approx(0.6), 2, 1)
        assert content["scores"][-2]["dsc"] is None
        assert content["scores"][-1]["hd95_mm"] == "inf"

    def test_a_score_comes_back_from_json(self):
        infinite = score("d", "liver", 0.0, math.nan, hd95_mm=math.inf, further_nsd=(0.5, math.nan))
        back = CaseScore.from_json(json.loads(json.dumps(infinite.as_json(), allow_nan=False)))
        assert repr(back) == repr(infinite)  # NaN is not equal to itself
