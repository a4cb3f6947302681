"""The charts of an evaluation, looked at through their pixels."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from viscera.drawing.canvas import COLOURS, Axis, Canvas, faded
from viscera.evaluation.plots import bland_altman_png, boxes_png, evaluation_plots, volumes_png
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


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def count_of(picture, colour):
    return int((np.abs(picture - np.array(colour)).max(axis=-1) <= 2).sum())


DOTS = [faded(colour, 0.7) for colour in COLOURS]


class TestBoxes:
    def test_every_organ_has_its_colour_and_its_dots(self):
        picture = pixels(boxes_png({"ours": evaluation()}, DSC))
        assert all(count_of(picture, colour) > 100 for colour in DOTS[:4])
        assert not count_of(picture, DOTS[4])

    def test_methods_stand_side_by_side_in_colours_of_their_own(self):
        picture = pixels(boxes_png({"ours": evaluation(), "theirs": evaluation(shift=0.3)}, DSC))
        assert not count_of(picture, DOTS[2])
        heights = [np.flatnonzero((np.abs(picture - np.array(dot)).max(axis=-1) <= 2).any(axis=1)) for dot in DOTS[:2]]
        # Below the legend, the worse method's dots lie lower.
        assert np.median(heights[0][heights[0] > 40]) < np.median(heights[1][heights[1] > 40])

    def test_a_value_stands_at_its_height(self):
        one = Evaluation(
            scores=(CaseScore(case="a", organ="liver", dsc=0.95, nsd=1.0, reference_ml=1.0, prediction_ml=1.0),)
        )
        rows = np.flatnonzero((np.abs(pixels(boxes_png({"": one}, DSC)) - np.array(DOTS[0])).max(-1) <= 40).any(axis=1))
        # The axis runs from 89.5 to 100.5 over 400 pixels that begin at 64: 95 lies in its middle.
        assert abs(rows.mean() - 264) < 3

    @pytest.mark.parametrize("values", [[math.inf, math.inf], [math.nan, 3.0], [0.0, 0.0]])
    def test_missing_and_equal_values(self, values):
        scores = tuple(
            CaseScore(
                case=str(place), organ="liver", dsc=1.0, nsd=1.0, hd95_mm=value, reference_ml=1.0, prediction_ml=1.0
            )
            for place, value in enumerate(values)
        )
        assert pixels(boxes_png({"": Evaluation(scores=scores)}, HD95)).shape[2] == 3

    def test_many_methods_with_long_names_fit(self):
        evaluations = {f"a method with quite a long name, {number}": evaluation() for number in range(5)}
        picture = pixels(boxes_png(evaluations, NSD))
        assert (picture[:, -8:] == 255).all()  # nothing runs out of the picture


class TestVolumes:
    def test_organs_without_a_reference_are_left_out(self):
        scores = tuple(
            replace(score, reference_ml=0.0) if score.organ == "pancreas" else score for score in evaluation().scores
        )
        picture = pixels(volumes_png(Evaluation(scores=scores)))
        assert count_of(picture, DOTS[0]) > 100
        assert not count_of(picture, DOTS[3])

    @pytest.mark.parametrize("cases", [1, 2, 60])
    def test_bland_altman_of_few_and_many_cases(self, cases):
        picture = pixels(bland_altman_png(evaluation(cases=cases)))
        assert all(count_of(picture, colour) > 5 for colour in DOTS[:4])

    def test_bland_altman_leaves_out_what_is_in_neither(self):
        scores = tuple(replace(score, reference_ml=0.0, prediction_ml=0.0) for score in evaluation().scores)
        picture = pixels(bland_altman_png(Evaluation(scores=scores)))
        assert not count_of(picture, DOTS[0])


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


def test_dashes_cover_about_half_of_the_way():
    canvas = Canvas(200, 20)
    canvas.dashes((10, 10), (190, 10), (0, 0, 0), 2)
    inked = (pixels(canvas.png())[10, :, 0] < 128).mean()
    assert 0.35 < inked < 0.55


def test_ticks_are_round_and_inside():
    assert Axis(low=89.5, high=100.5).ticks(6) == [90, 92, 94, 96, 98, 100]
