"""The charts of an evaluation, looked at through what their figures hold."""

import io
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex

from viscera.core.errors import MissingExtraError
from viscera.drawing.charts import COLOURS, chart_style, figure_png
from viscera.evaluation.plots import bland_altman_figure, boxes_figure, evaluation_plots, volumes_figure
from viscera.evaluation.scores import CaseScore, Evaluation, Measure, measures_of

DSC, NSD, HD95 = (measures_of(Evaluation(scores=()).tolerances)[place] for place in range(3))


def evaluation(*, cases=12, organs=("liver", "kidney", "spleen", "pancreas"), shift=0.0):
    rng = np.random.default_rng(4)
    return Evaluation(
        scores=tuple(
            CaseScore(
                case=f"case{number}",
                organ=organ,
                dsc=float(np.clip(rng.normal(0.9 - shift, 0.03), 0, 1)),
                nsd=float(rng.uniform(0.5, 0.9)),
                hd95_mm=float(rng.uniform(1, 20)),
                reference_ml=float(rng.uniform(80, 1500)),
                prediction_ml=float(rng.uniform(80, 1500)),
            )
            for number in range(cases)
            for organ in organs
        )
    )


def dots(axes):
    """The points of each scatter with its colour, in the order they were drawn."""
    return [
        (to_hex(one.get_facecolor()[0], keep_alpha=False), np.asarray(one.get_offsets())) for one in axes.collections
    ]


class TestBoxes:
    def test_every_organ_has_its_colour_and_its_dots(self):
        axes = boxes_figure({"ours": evaluation()}, DSC).axes[0]
        assert [colour for colour, _ in dots(axes)] == list(COLOURS[:4])
        assert [label.get_text() for label in axes.get_xticklabels()] == [
            f"{organ}\nn = 12" for organ in ("liver", "kidney", "spleen", "pancreas")
        ]
        ours = sorted(100 * score.dsc for score in evaluation().scores if score.organ == "liver")
        assert sorted(dots(axes)[0][1][:, 1]) == pytest.approx(ours)

    def test_the_box_ends_at_the_quartiles(self):
        values = [0.90, 0.92, 0.93, 0.95, 0.99]
        scores = tuple(
            CaseScore(case=str(value), organ="liver", dsc=value, nsd=1.0, reference_ml=1.0, prediction_ml=1.0)
            for value in values
        )
        axes = boxes_figure({"": Evaluation(scores=scores)}, DSC).axes[0]
        heights = axes.patches[0].get_path().vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((92, 95))

    def test_methods_stand_side_by_side_in_colours_of_their_own(self):
        figure = boxes_figure({"ours": evaluation(), "theirs": evaluation(shift=0.3)}, DSC)
        drawn = dots(figure.axes[0])
        assert [colour for colour, _ in drawn] == [*COLOURS[:2]] * 4
        for (_, ours), (_, theirs) in zip(drawn[::2], drawn[1::2], strict=True):
            assert ours[:, 0].max() < theirs[:, 0].min()
            assert np.median(ours[:, 1]) > np.median(theirs[:, 1])
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "theirs"]

    @pytest.mark.parametrize(
        ("values", "counts"),
        [([math.inf, math.inf], "n = 0\n2 missing"), ([math.nan, 3.0], "n = 1\n1 missing"), ([0.0, 0.0], "n = 2")],
    )
    def test_missing_and_equal_values(self, values, counts):
        scores = tuple(
            CaseScore(
                case=str(place), organ="liver", dsc=1.0, nsd=1.0, hd95_mm=value, reference_ml=1.0, prediction_ml=1.0
            )
            for place, value in enumerate(values)
        )
        axes = boxes_figure({"": Evaluation(scores=scores)}, HD95).axes[0]
        assert axes.get_xticklabels()[0].get_text() == f"liver\n{counts}"

    def test_many_methods_with_long_names_fit(self):
        evaluations = {f"a method with quite a long name, {number}": evaluation() for number in range(5)}
        picture = np.asarray(Image.open(io.BytesIO(figure_png(boxes_figure(evaluations, NSD)))).convert("RGB"))
        assert (picture[:, -2:] == 255).all()  # nothing runs out of the picture


class TestVolumes:
    def test_organs_without_a_reference_are_left_out(self):
        scores = tuple(
            replace(score, reference_ml=0.0) if score.organ == "pancreas" else score for score in evaluation().scores
        )
        drawn = dots(volumes_figure(Evaluation(scores=scores)).axes[0])
        assert [len(points) for _, points in drawn] == [12, 12, 12, 0]

    @pytest.mark.parametrize("volumes", [(950.0, 1050.0), (5.0, 80.0), (0.01, 2000.0)])
    def test_the_volumes_have_ticks_however_close_they_are(self, volumes):
        scores = tuple(
            CaseScore(case=str(ml), organ="liver", dsc=0.9, nsd=0.9, reference_ml=ml, prediction_ml=ml)
            for ml in volumes
        )
        axes = volumes_figure(Evaluation(scores=scores)).axes[0]
        low, high = axes.get_xlim()
        assert 1 <= sum(low <= tick <= high for tick in axes.get_xticks()) <= 10

    @pytest.mark.parametrize("cases", [1, 2, 60])
    def test_bland_altman_of_few_and_many_cases(self, cases):
        given = evaluation(cases=cases)
        axes = bland_altman_figure(given).axes[0]
        assert axes.get_title(loc="right") == f"liver, n = {cases}"
        differences = [score.prediction_ml - score.reference_ml for score in given.scores if score.organ == "liver"]
        bias = np.mean(differences)
        reach = 1.96 * np.std(differences, ddof=1) if cases > 1 else 0.0
        expected = [bias + reach, bias, bias - reach] if cases > 1 else [bias]
        assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx(expected)
        assert [text.get_text() for text in axes.texts] == [f"{value:+.1f}" for value in expected]

    def test_bland_altman_leaves_out_what_is_in_neither(self):
        scores = tuple(replace(score, reference_ml=0.0, prediction_ml=0.0) for score in evaluation().scores)
        axes = bland_altman_figure(Evaluation(scores=scores)).axes[0]
        assert axes.get_title(loc="right") == "liver, n = 0"


class TestFiles:
    def test_names_of_one_method_and_of_several(self):
        alone = set(evaluation_plots({"ours": evaluation()}))
        assert alone == {"dsc.png", "nsd.png", "hd95.png", "dsc_against_volume.png", "bland_altman.png"}
        both = set(evaluation_plots({"a/b": evaluation(), "a b": evaluation()}))
        assert {"bland_altman_1_a-b.png", "bland_altman_2_a-b.png", "dsc.png"} <= both

    def test_nothing_scored_gives_no_picture(self):
        assert evaluation_plots({"": Evaluation(scores=())}) == {}

    def test_equal_input_gives_equal_bytes(self):
        assert evaluation_plots({"": evaluation()}) == evaluation_plots({"": evaluation()})


def test_a_measure_says_its_unit():
    measure = Measure(key="x", title="HD95", unit="mm", value=lambda score: score.hd95_mm)
    assert (measure.heading, measure.shown(1.234), measure.shown(math.nan)) == ("HD95 mm", "1.23", "-")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"drawing the charts of an evaluation.*viscera\[plots\]"):
        evaluation_plots({"": evaluation()})


def test_the_users_own_settings_change_nothing():
    from matplotlib import rc_context

    with rc_context({"figure.facecolor": "black", "font.size": 30}), chart_style("drawing"):
        inside = figure_png(boxes_figure({"": evaluation()}, DSC))
    assert inside == figure_png(boxes_figure({"": evaluation()}, DSC))
