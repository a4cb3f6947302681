"""The table of a cross-validation against hand-worked values, and the figure of its cases."""

import csv
import io
import math

import numpy as np
import pytest

from viscera.core.errors import ConfigError, GeometryError
from viscera.core.volume import LabelMap
from viscera.evaluation.crossval_tables import crossval_csv, crossval_markdown, crossval_text, fold_rows
from viscera.evaluation.evaluate import evaluate_label_maps
from viscera.evaluation.overlay_cases import CaseRow, cases_png, mean_dsc, ranked_cases
from viscera.evaluation.scores import CaseScore, Evaluation
from viscera.synthesis.phantom import PhantomConfig, make_phantom


def score(case, organ, dsc, nsd):
    return CaseScore(case=case, organ=organ, dsc=dsc, nsd=nsd, reference_ml=1.0, prediction_ml=1.0)


# Fold 2 has one case, and that one no pancreas.
FOLDS = {
    2: Evaluation(scores=(score("c", "liver", 0.6, 0.5), score("c", "pancreas", math.nan, math.nan))),
    1: Evaluation(
        scores=(
            score("a", "liver", 0.9, 0.8),
            score("a", "pancreas", 0.5, 0.3),
            score("b", "liver", 0.7, 0.6),
            score("b", "pancreas", 0.3, 0.1),
        )
    ),
}


def test_rows_are_the_folds_in_order_then_all_cases_together():
    rows = fold_rows(FOLDS)
    assert [(row.fold, row.cases) for row in rows] == [("1", 2), ("2", 1), ("all", 3)]
    assert [organ.organ for organ in rows[0].organs] == ["liver", "pancreas", "mean"]


def test_values_are_means_and_deviations_over_cases():
    first, second, pooled = fold_rows(FOLDS)
    assert first.organs[0].dsc.mean == pytest.approx(0.8)
    assert first.organs[0].dsc.sd == pytest.approx(math.sqrt(0.02))
    assert second.organs[1].dsc.mean is None
    assert pooled.organs[0].dsc.mean == pytest.approx((0.9 + 0.7 + 0.6) / 3)  # not the mean of the folds' means
    assert pooled.organs[2].dsc.mean == pytest.approx((0.7 + 0.5 + 0.6) / 3)


def test_text():
    assert crossval_text(FOLDS) == (
        "Cross-validation, mean ± standard deviation over cases, NSD at 1 mm\n"
        "\n"
        "fold  cases    %          liver       pancreas           mean\n"
        "-------------------------------------------------------------\n"
        "1         2  DSC  80.00 ± 14.14  40.00 ± 14.14  60.00 ± 14.14\n"
        "             NSD  70.00 ± 14.14  20.00 ± 14.14  45.00 ± 14.14\n"
        "2         1  DSC          60.00              -          60.00\n"
        "             NSD          50.00              -          50.00\n"
        "-------------------------------------------------------------\n"
        "all       3  DSC  73.33 ± 15.28  40.00 ± 14.14  60.00 ± 10.00\n"
        "             NSD  63.33 ± 15.28  20.00 ± 14.14  46.67 ± 10.41\n"
        "\n"
        "Left out of the means, as the reference is empty: pancreas in 1 of 3 cases.\n"
    )


def test_markdown_has_a_row_per_fold_and_two_columns_per_organ():
    lines = crossval_markdown(FOLDS).splitlines()
    assert lines[2].startswith("| fold | cases | liver DSC | liver NSD | pancreas DSC |")
    assert [len(line.split("|")) for line in lines[2:7]] == [10] * 5
    assert lines[4].startswith("| 1 | 2 | 80.00 ± 14.14 | 70.00 ± 14.14 | 40.00 ± 14.14 |")
    assert lines[6].startswith("| **all** | **3** | **73.33 ± 15.28** |")


def test_csv_has_a_row_per_fold_organ_and_score():
    rows = list(csv.DictReader(io.StringIO(crossval_csv(FOLDS))))
    assert len(rows) == 3 * 3 * 2
    row = next(row for row in rows if (row["fold"], row["organ"], row["score"]) == ("1", "pancreas", "nsd"))
    assert float(row["mean"]) == pytest.approx(0.2)
    assert (row["count"], row["undefined"]) == ("2", "0")
    empty = next(row for row in rows if (row["fold"], row["organ"], row["score"]) == ("2", "pancreas", "dsc"))
    assert (empty["mean"], empty["sd"], empty["undefined"]) == ("", "", "1")


def test_without_a_finished_fold_there_is_nothing_to_show():
    assert crossval_text({}) == "no fold is finished\n"
    assert crossval_markdown({}) == "No fold is finished.\n"
    assert len(crossval_csv({}).splitlines()) == 1


def test_cases_are_ranked_by_the_mean_of_their_defined_organs():
    scores = [score for fold in FOLDS.values() for score in fold.scores]
    assert ranked_cases([*scores, score("d", "liver", math.nan, math.nan)]) == ("a", "c", "b")
    assert mean_dsc(FOLDS[2].scores) == 0.6


def test_a_case_without_organs_is_not_shown_as_the_best():
    empty = CaseScore(case="e", organ="liver", dsc=1.0, nsd=1.0, reference_ml=0.0, prediction_ml=0.0)
    assert ranked_cases([empty, score("a", "liver", 0.2, 0.2)]) == ("a",)


class TestFigure:
    @pytest.fixture(scope="class")
    @staticmethod
    def row():
        phantom = make_phantom(5, config=PhantomConfig(shape_zyx=(24, 40, 52), spacing_zyx_mm=(12.0, 8.0, 7.0)))
        moved = LabelMap(labels=np.roll(phantom.label_map.labels, 2, axis=2), grid=phantom.volume.grid)
        scores = evaluate_label_maps(phantom.label_map, moved, case="case_with_quite_a_long_name")
        return CaseRow(
            title="best", volume=phantom.volume, reference=phantom.label_map, prediction=moved, scores=scores
        )

    @staticmethod
    def pixels(data):
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    @pytest.mark.parametrize("plane", ["axial", "coronal"])
    def test_the_ct_is_bare_and_both_label_maps_are_drawn(self, row, plane):
        picture = self.pixels(cases_png([row], plane=plane))
        coloured = (np.ptp(picture, axis=2) > 60)[:, 250:]
        thirds = np.array_split(coloured.sum(axis=0), 3)
        counts = [int(part.sum()) for part in thirds]
        assert counts[0] == 0
        assert min(counts[1:]) > 500
        columns = [np.flatnonzero(part).mean() for part in thirds[1:]]
        assert columns[1] > columns[0] + 5  # the prediction was moved to the patient's left

    def test_every_case_is_a_row(self, row):
        one, two = (self.pixels(cases_png([row] * count)).shape[0] for count in (1, 2))
        assert two > 1.8 * one

    def test_no_case_is_refused(self):
        with pytest.raises(ConfigError, match="drawing cases"):
            cases_png([])

    def test_label_maps_on_another_grid_are_refused(self, row):
        other = make_phantom(5, config=PhantomConfig(shape_zyx=(11, 12, 13), spacing_zyx_mm=(12.0, 8.0, 7.0)))
        wrong = CaseRow(
            title="best", volume=row.volume, reference=row.reference, prediction=other.label_map, scores=row.scores
        )
        with pytest.raises(GeometryError, match="best"):
            cases_png([wrong])
