"""Accuracy of a case and of a run against hand-worked values, and its tables, JSON and card figures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from viscera.core.config import QualityConfig
from viscera.core.errors import GeometryError
from viscera.core.geometry import Box, Grid, Reorientation
from viscera.core.volume import LabelMap, Volume
from viscera.evaluation.benchmark import (
    AccuracyConfig,
    AccuracyRun,
    CaseAccuracy,
    Localised,
    OrganAccuracy,
    ScoredCase,
    labelled_box,
    score_case,
    share_inside,
    volume_doubt,
)
from viscera.evaluation.benchmark_tables import card_metrics, run_markdown, runs_json
from viscera.quality.rules import OrganSignals, assess
from viscera.quality.statistics import OrganStatistics
from viscera.result import Segmentation

SHAPE = (10, 11, 12)
GRID = Grid.from_axes(SHAPE, spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(-5, 7, 11))
TURN = Reorientation(axes=(2, 0, 1), flipped=(True, False, True))
LIVER, KIDNEY, SPLEEN, PANCREAS = range(4)


def label_map(*, shift=0, kidney=True):
    """A liver of 4 x 3 x 2 voxels of 0.006 ml, moved by `shift` along x, and a kidney of one voxel."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:7, 4:7, 5 + shift : 7 + shift] = 1
    labels[8, 9, 10] = 2 * kidney
    return LabelMap(labels=labels, grid=GRID)


def turned(labels):
    return LabelMap(labels=TURN.apply(labels.labels), grid=TURN.apply_to_grid(labels.grid))


def segmentation(labels, region=None):
    return Segmentation(
        label_map=labels,
        roi=region,
        roi_grid=None if region is None else GRID.centred(region, (8, 8, 16), 2.5),
        notes=("A note.",),
        seconds={"localise": 1.5, "segment": 2.0},
    )


def scored(reference, prediction, **settings):
    volume = Volume(hu=np.zeros(SHAPE, dtype=np.int16), grid=prediction.label_map.grid)
    return score_case(volume, reference, prediction, **settings)


BOX = Box(lower_zyx_mm=(9.0, 8.0, 5.0), upper_zyx_mm=(21.0, 14.0, 6.0))  # the liver without its last column


class TestShareInside:
    LIVER_MASK = label_map().labels == 1

    @pytest.mark.parametrize(
        ("lower", "upper", "share"),
        [
            ((9.0, 8.0, 5.0), (21.0, 14.0, 7.0), 1.0),
            ((9.0, 8.0, 5.0), (21.0, 14.0, 6.0), 1 / 2),
            ((12.0, 8.0, 5.0), (21.0, 14.0, 7.0), 3 / 4),
            ((9.0, 10.0, 5.0), (21.0, 12.0, 7.0), 1 / 3),
            # Centres count: the slice from 9 to 12 mm is in until the box begins above 10.5 mm.
            ((10.4, 8.0, 5.0), (21.0, 14.0, 7.0), 1.0),
            ((10.6, 8.0, 5.0), (21.0, 14.0, 7.0), 3 / 4),
            ((0.0, 0.0, 0.0), (3.0, 2.0, 1.0), 0.0),
        ],
    )
    def test_by_hand(self, lower, upper, share):
        box = Box(lower_zyx_mm=lower, upper_zyx_mm=upper)
        assert share_inside(self.LIVER_MASK, GRID, box) == pytest.approx(share)
        # The box is along canonical axes, however the mask is stored.
        assert share_inside(TURN.apply(self.LIVER_MASK), TURN.apply_to_grid(GRID), box) == pytest.approx(share)

    def test_without_box_and_without_organ(self):
        assert share_inside(self.LIVER_MASK, GRID, None) == 0.0
        assert share_inside(np.zeros(SHAPE, dtype=bool), GRID, BOX) is None


def test_the_box_of_labels_is_along_canonical_axes():
    expected = Box(lower_zyx_mm=(9.0, 8.0, 5.0), upper_zyx_mm=(27.0, 20.0, 11.0))
    assert labelled_box(label_map()) == expected
    assert labelled_box(turned(label_map())) == expected
    assert labelled_box(LabelMap(labels=np.zeros(SHAPE, dtype=np.uint8), grid=GRID)) is None


@pytest.mark.parametrize(
    ("organ", "volume_ml", "faces", "doubt"),
    [
        ("liver", 1500.0, (), None),
        ("liver", 100.0, (), "too small"),
        ("liver", 100.0, ("superior",), None),  # it may go on beyond the scan
        ("liver", 9000.0, ("superior",), "too large"),
        ("pancreas", 0.0, (), "too small"),
        ("gallbladder", 9000.0, (), None),  # nothing is known of it
    ],
)
def test_doubts_about_volumes(organ, volume_ml, faces, doubt):
    row = OrganStatistics(organ=organ, voxels=1, volume_ml=volume_ml, mean_hu=None, sd_hu=None, border_faces=faces)
    assert volume_doubt(row) == doubt


@pytest.mark.parametrize("organ", ["liver", "kidney", "spleen", "pancreas"])
def test_a_volume_is_doubted_exactly_where_the_quality_check_doubts_it(organ):
    limits = QualityConfig().limits(organ)
    for volume in (limits.volume_min_ml, limits.volume_max_ml):
        for volume_ml in (volume - 1, volume, volume + 1):
            row = OrganStatistics(organ=organ, voxels=1, volume_ml=volume_ml, mean_hu=None, sd_hu=None, border_faces=())
            (judged,) = assess([OrganSignals(organ=organ, volume_ml=volume_ml)], QualityConfig())
            found = {reason.replace("_", " ") for reason in judged.reasons} & {"too small", "too large"}
            assert {volume_doubt(row)} - {None} == found


class TestScoreCase:
    def test_organs_by_hand(self):
        result = scored(
            label_map(),
            segmentation(label_map(shift=1), BOX.grown(1.0)),
            localised=Localised(box=BOX, spacing_mm=6.25),
            config=AccuracyConfig(tolerances_mm=(0.5, 1.0)),
        )
        liver = result.organs[LIVER]
        assert (liver.dsc, liver.nsd[1]) == (0.5, 1.0)
        assert liver.nsd[0] < 1.0
        assert (liver.reference_ml, liver.prediction_ml) == pytest.approx((0.144, 0.144))
        assert (liver.in_box, liver.in_region) == (0.5, 1.0)
        assert (result.organs[KIDNEY].in_box, result.organs[KIDNEY].in_region) == (0.0, 0.0)
        assert (result.localise_mm, result.segment_mm, result.seconds) == (6.25, 2.5, 3.5)
        assert result.notes == ("A note.",)

    def test_an_organ_the_reference_does_not_show_has_a_volume_and_no_score(self):
        kidney = scored(label_map(kidney=False), segmentation(label_map())).organs[KIDNEY]
        assert kidney == OrganAccuracy(organ="kidney", prediction_ml=pytest.approx(0.006), doubt="too small")

    def test_an_organ_that_was_missed_scores_0(self):
        kidney = scored(label_map(), segmentation(label_map(kidney=False))).organs[KIDNEY]
        assert (kidney.dsc, kidney.nsd, kidney.prediction_ml, kidney.in_region) == (0.0, (0.0,), 0.0, 0.0)

    def test_without_reference_and_without_localisation(self):
        result = scored(None, segmentation(label_map()))
        assert [one.dsc for one in result.organs] == [None] * 4
        assert result.organs[LIVER].prediction_ml == pytest.approx(0.144)
        assert (result.localise_mm, result.segment_mm) == (None, None)

    def test_a_reference_stored_along_other_axes(self):
        found = segmentation(label_map(shift=1), BOX)
        assert scored(turned(label_map()), found) == scored(label_map(), found)

    def test_a_reference_of_another_scan(self):
        moved = Grid(shape_zyx=SHAPE, affine=GRID.affine + np.diag([0, 0, 0, 0.0]) + np.eye(4)[[0]].T * [0, 0, 0, 1.0])
        other = LabelMap(labels=label_map().labels, grid=moved)
        with pytest.raises(GeometryError, match="the reference of head"):
            scored(other, segmentation(label_map()), case=ScoredCase(name="head"))


def organ(name, dsc, *, ml=100.0, **settings):
    if dsc is not None:
        settings |= {"reference_ml": 90.0, "dsc": dsc, "nsd": (dsc / 2,), "in_box": 0.9, "in_region": 1.0}
    return OrganAccuracy(organ=name, prediction_ml=ml, **settings)


CASES = (
    CaseAccuracy(
        case=ScoredCase(name="a", reference="experts"),
        organs=(organ("liver", 0.9), organ("kidney", 0.2), organ("spleen", None, doubt="too large")),
        seconds=2.0,
        localise_mm=6.0,
        segment_mm=2.125,
    ),
    CaseAccuracy(
        case=ScoredCase(name="b", reference="another model"),
        organs=(organ("liver", 0.6), organ("kidney", None), organ("spleen", 0.8)),
    ),
    CaseAccuracy(
        case=ScoredCase(name="c", group="unlabelled"),
        organs=(organ("liver", None, ml=1480.06), organ("kidney", None, doubt="too large"), organ("spleen", 0.0)),
    ),
    CaseAccuracy(
        case=ScoredCase(name="head", group="no abdominal CT"),
        organs=(organ("liver", None, ml=3.0, doubt="too small"), organ("kidney", None, ml=0.0)),
    ),
    CaseAccuracy(case=ScoredCase(name="mr", group="no abdominal CT"), refusal="expected | a CT"),
)
RUN = AccuracyRun(
    bundle="small 1.0",
    setting={"margin_mm": 32.0, "engine": "torch-cpu"},
    cases=CASES,
    config=replace(AccuracyConfig(), organs=AccuracyConfig().organs[:3]),
)


class TestRun:
    def test_means_are_of_labelled_cases_that_show_the_organ(self):
        assert RUN.mean_dsc("liver") == pytest.approx(0.75)
        assert RUN.mean_dsc("kidney") == pytest.approx(0.2)
        assert RUN.mean_dsc("spleen") == pytest.approx(0.8)
        assert RUN.mean_nsd("liver") == pytest.approx(0.375)
        assert RUN.mean_dsc("pancreas") is None

    def test_low_scores_are_named(self):
        assert RUN.low() == (("a", "kidney", 0.2), ("b", "liver", 0.6))


def cells(text, *beginning):
    """The cells of the one table row that begins with these."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    (found,) = [row for row in rows if tuple(row[: len(beginning)]) == beginning]
    return found


class TestMarkdown:
    TEXT = run_markdown(RUN)

    def test_rows(self):
        shown = ["a", "liver", "0.900", "0.450", "90.0", "100.0", "90.0%", "100.0%", ""]
        assert cells(self.TEXT, "a", "liver") == shown
        not_shown = ["a", "spleen", "", "", "not in reference", "100.0", "", "", ""]
        assert cells(self.TEXT, "a", "spleen") == not_shown
        assert cells(self.TEXT, "a", "labelled") == ["a", "labelled", "experts", "2.0", "6.00", "2.12", ""]
        assert cells(self.TEXT, "liver") == ["liver", "2", "0.750", "0.375"]

    def test_volumes_are_judged_only_where_nothing_else_tells(self):
        assert cells(self.TEXT, "c", "liver")[-1] == "plausible"
        assert cells(self.TEXT, "c", "kidney")[-1] == "too large"
        assert cells(self.TEXT, "c", "spleen")[-1] == ""
        assert cells(self.TEXT, "head", "liver")[-1] == ""

    def test_title_refusal_and_low_scores(self):
        assert self.TEXT.startswith("## small 1.0, margin mm 32, engine torch-cpu\n")
        assert cells(self.TEXT, "mr")[-1] == "refused: expected / a CT"
        assert "DSC below 0.7: kidney of a 0.20; liver of b 0.60." in self.TEXT

    def test_columns_are_of_one_width(self):
        first = self.TEXT.split("\n\n")[1].splitlines()
        assert len({line.rindex("|", 0, len(line) - 1) for line in first}) == 1


def test_json_says_what_is_unknown():
    (run,) = json.loads(runs_json([RUN]))
    assert run["setting"] == {"margin_mm": 32.0, "engine": "torch-cpu"}
    assert run["mean"]["liver"] == {"cases": 2, "DSC": pytest.approx(0.75), "NSD 1 mm": pytest.approx(0.375)}
    assert run["dsc_below_0.7"][0] == {"case": "a", "organ": "kidney", "dsc": 0.2}
    first = run["cases"][0]
    assert (first["name"], first["reference"], first["group"]) == ("a", "experts", "labelled")
    assert first["organs"][0]["nsd"] == {"1 mm": 0.45}
    assert (first["organs"][2]["in_reference"], first["organs"][2]["dsc"]) == (False, None)
    assert run["cases"][4]["refusal"] == "expected | a CT"
    assert run["card_metrics"] == card_metrics(RUN)


def test_the_figures_of_a_card():
    metrics = card_metrics(RUN)
    assert metrics == {
        "real CTs": "margin mm 32, engine torch-cpu",
        "real CTs, mean DSC": {"liver": 0.75, "kidney": 0.2, "spleen": 0.8},
        "real CTs, DSC": {
            "a (reference: experts)": {"liver": 0.9, "kidney": 0.2},
            "b (reference: another model)": {"liver": 0.6, "spleen": 0.8},
        },
        "real CTs, NSD at 1 mm": {
            "a (reference: experts)": {"liver": 0.45, "kidney": 0.1},
            "b (reference: another model)": {"liver": 0.3, "spleen": 0.4},
        },
        "real CTs without reference, ml found": {"c": {"liver": 1480.1, "kidney": 100.0, "spleen": 100.0}},
        "no abdominal CT, ml found": {"head": {"liver": 3.0, "kidney": 0.0}, "mr": "refused"},
    }
    json.dumps(metrics, allow_nan=False)


def test_figures_of_cases_that_were_not_run_are_left_out():
    assert "no abdominal CT, ml found" not in card_metrics(replace(RUN, cases=CASES[:1]))
