"""The whole path with an engine that thresholds HU: labels must come back where the voxels are."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from viscera.core.config import ModelConfig
from viscera.core.errors import BundleError, GeometryError, NothingFoundError
from viscera.core.geometry import AIR_HU, Grid, Reorientation
from viscera.core.organs import ORGANS
from viscera.core.volume import Volume
from viscera.engines.engine import Answer
from viscera.pipeline import segment_volume
from viscera.quality.mirroring import MirrorFinding

MODEL = ModelConfig()
STAGES = ["preprocess", "localise", "crop", "segment", "restore", "assess"]
UPRIGHT = np.eye(3)[:, ::-1]
ALL_48 = [
    Reorientation(axes=axes, flipped=flipped)
    for axes in itertools.permutations(range(3))
    for flipped in itertools.product((False, True), repeat=3)
]
# Two balls of different size off the middle: (world x, y, z), radius in mm, HU, label. Fixed in the world.
BALLS = (((-18.0, 11.0, 25.0), 24.0, 400, 1), ((25.0, -14.0, -20.0), 17.0, -400, 3))
SCAN = Grid.from_axes(
    (40, 58, 80), spacing_zyx_mm=(3.1, 2.2, 1.6), direction_zyx=UPRIGHT, origin_xyz_mm=(-63.0, -62.0, -60.0)
)


class ThresholdEngine:
    """Calls what is brighter or darker than water by 200 HU an organ; air is background."""

    name, precision = "threshold", "f32"

    def __init__(self):
        self.shapes = []

    def run(self, stage, image):
        self.shapes.append((stage, image.shape))
        hu = image[:, 0] * 2048.0
        bright = np.clip(hu / 400.0, 0, 1)
        dark = np.where(hu > -800, np.clip(-hu / 400.0, 0, 1), 0)
        if stage == "localise":
            return Answer(np.stack([np.full_like(hu, 0.5), np.maximum(bright, dark)], axis=1).astype(np.float32))
        probabilities = np.zeros((len(hu), 5, *hu.shape[1:]), dtype=np.float32)
        probabilities[:, 1], probabilities[:, 3] = bright, dark
        probabilities[:, 0] = 1 - bright - dark
        return Answer(probabilities)


class Altered(ThresholdEngine):
    """The same with one stage's output replaced."""

    def __init__(self, stage, change):
        super().__init__()
        self.stage, self.change = stage, change

    def run(self, stage, image):
        answer = super().run(stage, image)
        return answer._replace(output=self.change(answer.output)) if stage == self.stage else answer


def places(grid):
    return grid.world(np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij"), axis=-1))


def ball_labels(grid, balls=BALLS):
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    for centre, radius, _, label in balls:
        labels[((places(grid) - centre) ** 2).sum(axis=-1) <= radius**2] = label
    return labels


def ball_volume(grid, balls=BALLS):
    hu = np.zeros(grid.shape_zyx, dtype=np.int16)
    labels = ball_labels(grid, balls)
    for _, _, value, label in balls:
        hu[labels == label] = value
    return Volume(hu=hu, grid=grid)


def dsc(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def assert_in_place(grid):
    labels = segment_volume(ball_volume(grid), ThresholdEngine(), MODEL).label_map.labels
    drawn = ball_labels(grid)
    for label in (1, 3):
        assert dsc(labels == label, drawn == label) > 0.95
    assert set(np.unique(labels)) == {0, 1, 3}


def oblique():
    rotation = np.eye(3)
    for angle, (a, b) in zip((0.3, -0.2, 0.4), ((0, 1), (1, 2), (0, 2)), strict=True):
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    affine = np.eye(4)
    affine[:3, :3] = rotation @ SCAN.affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SCAN.shape_zyx) - 1) / 2)
    return Grid(shape_zyx=SCAN.shape_zyx, affine=affine)


def sheared():
    shear = np.eye(4)
    shear[1, 0] = 0.5  # every slice lies half a row further: a gantry tilted by 20 degrees
    affine = SCAN.affine @ shear
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SCAN.shape_zyx) - 1) / 2)
    return Grid(shape_zyx=SCAN.shape_zyx, affine=affine)


@pytest.mark.parametrize("turn", ALL_48, ids=str)
def test_labels_stay_in_place_in_every_orientation(turn):
    assert_in_place(turn.apply_to_grid(SCAN))


@pytest.mark.parametrize("turn", ALL_48[::9], ids=str)
@pytest.mark.parametrize("make", [oblique, sheared])
def test_labels_stay_in_place_on_tilted_grids(make, turn):
    assert_in_place(turn.apply_to_grid(make()))


def test_labels_lie_on_exactly_the_volumes_grid():
    grid = ALL_48[29].apply_to_grid(oblique())
    label_map = segment_volume(ball_volume(grid), ThresholdEngine(), MODEL).label_map
    assert label_map.grid is grid
    assert label_map.labels.flags.c_contiguous


def test_orientation_of_the_file_does_not_change_a_label():
    expected = segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL).label_map.labels
    turn = Reorientation(axes=(2, 0, 1), flipped=(True, False, True))
    stored = Volume(hu=np.ascontiguousarray(turn.apply(ball_volume(SCAN).hu)), grid=turn.apply_to_grid(SCAN))
    labels = segment_volume(stored, ThresholdEngine(), MODEL).label_map.labels
    assert (turn.undo(labels) != expected).mean() < 1e-5


def test_networks_see_canonical_axes():
    seen = []

    class Watching(ThresholdEngine):
        def run(self, stage, image):
            seen.append(image)
            return super().run(stage, image)

    hu = ball_volume(SCAN).hu
    for turn in (ALL_48[0], ALL_48[29]):
        segment_volume(Volume(hu=turn.apply(hu), grid=turn.apply_to_grid(SCAN)), Watching(), MODEL)
    np.testing.assert_allclose(seen[2], seen[0], atol=1e-5)
    np.testing.assert_allclose(seen[3], seen[1], atol=1e-5)


def test_networks_get_allowed_sizes_one_case_at_a_time():
    engine = ThresholdEngine()
    segment_volume(ball_volume(SCAN), engine, MODEL)
    assert engine.shapes == [("localise", (1, 1, 32, 32, 32)), ("segment", (1, 1, 64, 64, 64))]


def test_region_is_the_organs_box_with_margin_in_canonical_mm():
    turned = ALL_48[29].apply_to_grid(SCAN)
    model = dataclasses.replace(MODEL, margin_mm=10.0)
    result = segment_volume(ball_volume(turned), ThresholdEngine(), model)
    # The balls span -37 to 49, -31 to 35 and -42 to 42 mm (z, y, x); the scan's outer corner lies at -61.55, -63.1
    # and -63.8 mm. The localiser sees them to a voxel of 6 mm.
    assert result.roi.lower_zyx_mm == pytest.approx((14.55, 22.1, 11.8), abs=7)
    assert result.roi.upper_zyx_mm == pytest.approx((120.55, 108.1, 115.8), abs=7)


def test_region_grid_holds_the_region():
    result = segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL)
    held = SCAN.box_from(result.roi_grid, result.roi_grid.box())
    assert held.clipped(result.roi) == result.region


def test_stages_are_announced_in_order():
    announced = []
    segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL, on_stage=announced.append)
    assert announced == STAGES


def test_stages_are_timed():
    seconds = segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL).seconds
    assert list(seconds) == STAGES
    assert all(value > 0 for value in seconds.values())


def test_stages_are_announced_before_they_fail():
    announced = []
    with pytest.raises(NothingFoundError):
        segment_volume(ball_volume(SCAN, balls=()), ThresholdEngine(), MODEL, on_stage=announced.append)
    assert announced == ["preprocess", "localise"]


def test_nothing_found_is_an_error():
    with pytest.raises(NothingFoundError, match="no foreground voxel"):
        segment_volume(ball_volume(SCAN, balls=()), ThresholdEngine(), MODEL)


def test_nothing_found_never_reaches_the_segmentation():
    engine = ThresholdEngine()
    segment_volume(ball_volume(SCAN, balls=()), engine, MODEL, allow_empty=True)
    assert [stage for stage, _ in engine.shapes] == ["localise"]


def only_background(answer):
    empty = np.zeros_like(answer)
    empty[:, 0] = 1
    return empty


def test_a_region_without_organs_is_an_error_too():
    with pytest.raises(NothingFoundError, match="no voxel is more likely organ"):
        segment_volume(ball_volume(SCAN), Altered("segment", only_background), MODEL)
    allowed = segment_volume(ball_volume(SCAN), Altered("segment", only_background), MODEL, allow_empty=True)
    assert not allowed.label_map.labels.any()
    assert allowed.roi is None
    assert allowed.notes[-1].startswith("No organ was found")


def test_allowed_empty_result_is_all_background_with_a_note():
    result = segment_volume(ball_volume(SCAN, balls=()), ThresholdEngine(), MODEL, allow_empty=True)
    assert result.label_map.grid is SCAN
    assert result.label_map.labels.shape == SCAN.shape_zyx
    assert not result.label_map.labels.any()
    assert result.notes == ("No organ was found; the label map is empty.",)
    assert (result.roi, result.roi_grid) == (None, None)


def test_allow_empty_changes_nothing_when_organs_are_found():
    one = segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL)
    other = segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL, allow_empty=True)
    np.testing.assert_array_equal(other.label_map.labels, one.label_map.labels)
    assert other.notes == ()


def test_notes_of_the_volume_come_first():
    volume = Volume(hu=np.zeros(SCAN.shape_zyx, dtype=np.int16), grid=SCAN, notes=("Two series were found.",))
    result = segment_volume(volume, ThresholdEngine(), MODEL, allow_empty=True)
    assert result.notes[0] == "Two series were found."
    assert len(result.notes) == 2


def wide_scan():
    return Grid.from_axes(
        (40, 50, 60), spacing_zyx_mm=(5, 6, 9), direction_zyx=UPRIGHT, origin_xyz_mm=(-266.0, -147.0, -98.0)
    )


WIDE_BALLS = (((-160.0, 11.0, 25.0), 50.0, 400, 1), ((160.0, -14.0, -20.0), 40.0, -400, 3))


def test_grown_spacings_are_noted():
    result = segment_volume(ball_volume(wide_scan(), WIDE_BALLS), ThresholdEngine(), MODEL)
    # The scan is 540 mm wide against 80 voxels of the scout: 6.75 mm.
    assert result.notes[0] == "The localisation worked at 6.75 mm instead of 6 mm, to hold the extent."
    assert result.notes[1].startswith("The segmentation worked at 2.9")
    assert len(result.notes) == 2


def test_cases_do_not_change_each_other():
    engine = ThresholdEngine()
    cases = [ball_volume(SCAN), ball_volume(wide_scan(), WIDE_BALLS), ball_volume(sheared())]
    alone = [segment_volume(case, ThresholdEngine(), MODEL) for case in cases]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 1)):
        for index in order:
            result = segment_volume(cases[index], engine, MODEL)
            np.testing.assert_array_equal(result.label_map.labels, alone[index].label_map.labels)
            assert result.roi_grid == alone[index].roi_grid
            assert result.notes == alone[index].notes


def test_an_empty_case_leaves_no_trace_on_the_next():
    engine = ThresholdEngine()
    before = segment_volume(ball_volume(SCAN), engine, MODEL)
    segment_volume(ball_volume(SCAN, balls=()), engine, MODEL, allow_empty=True)
    after = segment_volume(ball_volume(SCAN), engine, MODEL)
    np.testing.assert_array_equal(after.label_map.labels, before.label_map.labels)
    assert list(after.seconds) == STAGES


def test_the_volume_is_left_as_it_is():
    volume = ball_volume(SCAN)
    before = volume.hu.copy()
    segment_volume(volume, ThresholdEngine(), MODEL)
    np.testing.assert_array_equal(volume.hu, before)


def test_spacing_of_one_millimetre_is_not_replaced():
    grid = Grid.from_axes(
        (100, 110, 120), spacing_zyx_mm=(1, 1, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(-60.0, -55.0, -50.0)
    )
    result = segment_volume(ball_volume(grid), ThresholdEngine(), MODEL)
    ball = result.label_map.labels == 1
    assert ball.sum() == pytest.approx(4 / 3 * math.pi * 24**3, rel=0.03)


def test_a_scan_thinner_than_the_networks_smallest_input():
    grid = Grid.from_axes(
        (5, 70, 80), spacing_zyx_mm=(5, 2.2, 1.6), direction_zyx=UPRIGHT, origin_xyz_mm=(-63, -76, 15)
    )
    labels = segment_volume(ball_volume(grid), ThresholdEngine(), MODEL).label_map.labels
    assert dsc(labels == 1, ball_labels(grid) == 1) > 0.95


def test_air_around_the_scan_is_never_an_organ():
    hu = np.full(SCAN.shape_zyx, AIR_HU, dtype=np.int16)
    with pytest.raises(NothingFoundError):
        segment_volume(Volume(hu=hu, grid=SCAN), ThresholdEngine(), MODEL)


@pytest.mark.parametrize("stage", ["localise", "segment"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answers_that_are_not_finite_are_refused(stage, value):
    def spoil(answer):
        answer[0, 1, 3, 4, 5] = value
        return answer

    with pytest.raises(BundleError, match="expected finite values"):
        segment_volume(ball_volume(SCAN), Altered(stage, spoil), MODEL)


@pytest.mark.parametrize(
    "change", [lambda p: p[:, :4], lambda p: p[:, :, 1:], lambda p: p[0]], ids=["labels", "size", "batch"]
)
def test_probabilities_of_another_shape_are_refused(change):
    with pytest.raises(BundleError, match="running the segment network"):
        segment_volume(ball_volume(SCAN), Altered("segment", change), MODEL)


class Disputing(ThresholdEngine):
    """Answers with a disagreement that is given its shape and its value."""

    def __init__(self, shape, value):
        super().__init__()
        self.apart = np.full(shape, value, dtype=np.float32)

    def run(self, stage, image):
        answer = super().run(stage, image)
        return answer._replace(disagreement=self.apart) if stage == "segment" else answer


def test_a_disagreement_of_another_shape_is_refused():
    with pytest.raises(BundleError, match=r"shape \(1, 5, 16, 16, 16\) .* got \(1, 5, 16, 16, 15\)"):
        segment_volume(ball_volume(SCAN), Disputing((1, 5, 16, 16, 15), 0.5), MODEL)


def test_a_disagreement_that_is_not_finite_is_refused():
    with pytest.raises(BundleError, match="expected finite values"):
        segment_volume(ball_volume(SCAN), Disputing((1, 5, 16, 16, 16), np.nan), MODEL)


def test_logits_of_another_shape_are_refused():
    with pytest.raises(BundleError, match="running the localise network"):
        segment_volume(ball_volume(SCAN), Altered("localise", lambda answer: answer[:, :1]), MODEL)


# Quality


def test_every_organ_has_a_qc_status():
    result = segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL)
    assert [quality.organ for quality in result.quality] == [organ.name for organ in ORGANS]
    assert [str(quality.status) for quality in result.quality] == ["check", "absent", "check", "absent"]
    liver, kidney, spleen, _ = result.quality
    assert liver.reasons[-1] == spleen.reasons[-1] == "too_small"  # a ball of 58 ml and one of 21
    assert liver.signals.volume_ml == pytest.approx(4 / 3 * math.pi * 24**3 / 1000, rel=0.03)
    assert liver.signals.centre_xyz_mm == pytest.approx(BALLS[0][0], abs=1.0)
    assert kidney.reasons == ("missing",)


def test_the_networks_doubts_are_measured_in_the_region():
    sure = segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL).quality[0].signals
    assert sure.disagreement is None
    assert sure.expected_dsc > 0.9
    disputed = segment_volume(ball_volume(SCAN), Disputing((1, 5, 16, 16, 16), 0.625), MODEL).quality[0]
    assert disputed.signals.disagreement == pytest.approx(0.625)
    assert "disagreement" in disputed.reasons


def test_quality_does_not_depend_on_how_the_scan_is_stored():
    turned = ALL_48[29].apply_to_grid(SCAN)
    one, other = (segment_volume(ball_volume(grid), ThresholdEngine(), MODEL).quality for grid in (SCAN, turned))
    for here, there in zip(one, other, strict=True):
        assert (here.verdict, here.reasons) == (there.verdict, there.reasons)
        assert here.signals.centre_xyz_mm == (
            None if there.signals.centre_xyz_mm is None else pytest.approx(there.signals.centre_xyz_mm, abs=0.5)
        )


def test_the_limits_are_the_models():
    limits = dataclasses.replace(MODEL.quality.liver, volume_min_ml=10.0)
    model = dataclasses.replace(MODEL, quality=dataclasses.replace(MODEL.quality, liver=limits))
    assert "too_small" not in segment_volume(ball_volume(SCAN), ThresholdEngine(), model).quality[0].reasons


@pytest.mark.parametrize("empty", [ThresholdEngine(), Altered("segment", only_background)], ids=["first", "second"])
def test_of_an_empty_result_every_organ_is_absent(empty):
    balls = () if type(empty) is ThresholdEngine else BALLS
    result = segment_volume(ball_volume(SCAN, balls=balls), empty, MODEL, allow_empty=True)
    assert [str(quality.status) for quality in result.quality] == ["absent"] * 4
    assert {quality.reasons for quality in result.quality} == {("not_found",)}


# Cleaning


STRAY = (((-18.0, 11.0, 25.0), 24.0, 400, 1), ((30.0, 30.0, -30.0), 6.0, 400, 1), BALLS[1])


def test_labels_are_not_cleaned_unless_the_model_says_so():
    result = segment_volume(ball_volume(SCAN, balls=STRAY), ThresholdEngine(), MODEL)
    assert result.removed is None
    assert "clean" not in result.seconds
    assert result.quality[0].signals.parts_ml[1] > 0.5


def test_cleaning_removes_stray_parts_and_tells():
    model = dataclasses.replace(MODEL, clean=True)
    before = segment_volume(ball_volume(SCAN, balls=STRAY), ThresholdEngine(), MODEL)
    result = segment_volume(ball_volume(SCAN, balls=STRAY), ThresholdEngine(), model)
    assert list(result.seconds) == [*STAGES[:-1], "clean", "assess"]
    liver = result.removed[0]
    assert (liver.organ, liver.components) == ("liver", 1)
    assert liver.volume_ml == pytest.approx(before.quality[0].signals.parts_ml[1])
    assert result.notes == (f"Post-processing removed {liver.volume_ml:.2f} ml of liver in 1 small component.",)
    gone = before.label_map.labels != result.label_map.labels
    assert gone.sum() * SCAN.voxel_ml == pytest.approx(liver.volume_ml)
    assert set(result.label_map.labels[gone]) == {0}
    # The QC status is of the labels as they are given.
    assert len(result.quality[0].signals.parts_ml) == 1


class SureOfTheRight(ThresholdEngine):
    """Surer of a liver the further it lies to the patient's right."""

    def run(self, stage, image):
        answer = super().run(stage, image)
        if stage == "localise":
            return answer
        share = np.linspace(0.95, 0.51, image.shape[-1], dtype=np.float32)
        liver = answer.output[:, 1] * share
        answer.output[:, 0] += answer.output[:, 1] - liver
        answer.output[:, 1] = liver
        return answer


LIVER_LEFT = (((25.0, 0.0, 0.0), 22.0, 400, 1), ((-25.0, 0.0, 0.0), 15.0, -400, 3))
LIVER_RIGHT = tuple(((-x, y, z), *rest) for (x, y, z), *rest in LIVER_LEFT)


def test_a_liver_that_looks_better_in_the_mirror_image_is_labelled_with_a_warning():
    result = segment_volume(ball_volume(SCAN, balls=LIVER_LEFT), SureOfTheRight(), MODEL)
    (warning,) = result.warnings
    assert warning.startswith("The scan looks like the mirror image of a patient: expected Dice coefficients")
    assert "its header may have exchanged left and right" in warning
    assert warning in result.notes
    assert result.label_map.labels.any()
    assert segment_volume(ball_volume(SCAN, balls=LIVER_RIGHT), SureOfTheRight(), MODEL).warnings == ()


@pytest.fixture
def beyond_doubt(monkeypatch):
    found = MirrorFinding(evidence="liver 0.10 and 0.90", overwhelming=True)
    monkeypatch.setattr("viscera.pipeline.mirror_finding", lambda *_, **__: found)


@pytest.mark.usefixtures("beyond_doubt")
def test_a_scan_that_is_beyond_doubt_mirrored_is_refused():
    with pytest.raises(GeometryError, match=r"telling left from right.*--allow-mirrored, as for a patient with situs"):
        segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL)


@pytest.mark.usefixtures("beyond_doubt")
def test_it_is_labelled_with_a_warning_if_allowed():
    result = segment_volume(ball_volume(SCAN), ThresholdEngine(), MODEL, allow_mirrored=True)
    assert "looks like the mirror image" in result.warnings[0]


@pytest.mark.usefixtures("beyond_doubt")
def test_it_is_never_refused_where_left_and_right_are_certain():
    scan = dataclasses.replace(ball_volume(SCAN), sides_certain=True)
    result = segment_volume(scan, ThresholdEngine(), MODEL)
    (warning,) = result.warnings
    assert "its DICOM positions say that it is none" in warning
    assert "situs inversus" in warning
    assert result.label_map.labels.any()
