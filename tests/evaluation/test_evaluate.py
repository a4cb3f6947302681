"""Pairing and scoring label maps, in memory and from files."""

import importlib
import itertools

import nibabel
import numpy as np
import pytest

from viscera.core.errors import ConfigError, GeometryError, ReadError
from viscera.core.geometry import Grid, Reorientation
from viscera.core.organs import ORGANS, named_organ
from viscera.core.volume import LabelMap
from viscera.evaluation import evaluate
from viscera.evaluation.evaluate import CaseOutcome, evaluate_cases, evaluate_label_maps, stored_along
from viscera.evaluation.scores import FLARE22, ScoringConfig, Tolerance
from viscera.formats.inputs import case_name
from viscera.read import read_label_map, read_volume

SHAPE = (10, 11, 12)
GRID = Grid.from_axes(SHAPE, spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(-5, 7, 11))
LIVER, KIDNEY, SPLEEN, PANCREAS = range(4)


def label_map(*, shift=0, grid=GRID, liver=1, kidney=2):
    """A liver of 4x3x2 voxels, moved by `shift` along x, and a kidney of one voxel that stays."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:7, 4:7, 5 + shift : 7 + shift] = liver
    labels[8, 9, 10] = kidney
    return LabelMap(labels=labels, grid=grid)


def save(path, labels):
    path.parent.mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(labels.labels.transpose(2, 1, 0), labels.grid.nifti_affine())
    nibabel.save(image, path)
    return path


class TestInMemory:
    def test_scores_and_volumes_of_every_organ(self):
        scores = evaluate_label_maps(label_map(), label_map(shift=1), case="a")
        assert [score.organ for score in scores] == ["liver", "kidney", "spleen", "pancreas"]
        liver = scores[LIVER]
        assert (liver.case, liver.dsc, liver.nsd) == ("a", 0.5, 1.0)
        assert (liver.reference_ml, liver.prediction_ml) == pytest.approx((0.144, 0.144))
        assert (scores[KIDNEY].dsc, scores[KIDNEY].nsd, scores[KIDNEY].reference_ml) == (1.0, 1.0, pytest.approx(0.006))

    def test_the_tolerance_is_used(self):
        config = ScoringConfig(tolerances=(Tolerance(mm=0.5),))
        assert evaluate_label_maps(label_map(), label_map(shift=1), config=config)[LIVER].nsd < 1.0

    def test_every_tolerance_is_scored(self):
        config = ScoringConfig(tolerances=(Tolerance(mm=0.5), Tolerance(mm=1.0), FLARE22))
        liver = evaluate_label_maps(label_map(), label_map(shift=1), config=config)[LIVER]
        assert liver.nsd < 1.0
        assert liver.further_nsd == (1.0, 1.0)

    def test_flare22_has_a_tolerance_of_its_own_for_each_organ(self):
        assert [FLARE22.of(organ.name) for organ in ORGANS] == [5.0, 3.0, 3.0, 5.0]
        with pytest.raises(ConfigError, match="scoring tonsil"):
            ScoringConfig(tolerances=(FLARE22,), organs=(named_organ(1, "tonsil"),))

    @pytest.mark.parametrize("mm", [-1.0, float("nan"), float("inf")])
    def test_a_tolerance_out_of_range(self, mm):
        with pytest.raises(ConfigError, match="tolerance"):
            Tolerance(mm=mm)

    def test_false_positive_and_false_negative_components_and_their_volume(self):
        labels = label_map().labels.copy()
        labels[0, 0, 0:3] = 1  # a false piece of liver of 3 voxels of 6 mm3
        labels[8, 9, 10] = 0  # the kidney is missed
        scores = evaluate_label_maps(label_map(), LabelMap(labels=labels, grid=GRID))
        assert (scores[LIVER].false_parts, scores[LIVER].false_ml) == (1, pytest.approx(0.018))
        assert (scores[KIDNEY].missed_parts, scores[KIDNEY].missed_ml) == (1, pytest.approx(0.006))
        assert (scores[LIVER].missed_parts, scores[KIDNEY].false_parts) == (0, 0)
        assert scores[LIVER].difference_percent == pytest.approx(100 * 3 / 24)
        assert scores[KIDNEY].hd95_mm == float("inf")

    def test_organs_absent_in_both(self):
        assert evaluate_label_maps(label_map(), label_map())[SPLEEN].dsc == 1.0
        undefined = evaluate_label_maps(label_map(), label_map(), config=ScoringConfig(empty="nan"))[SPLEEN]
        assert np.isnan([undefined.dsc, undefined.nsd]).all()

    def test_noise_in_an_oblique_affine_does_not_change_the_score(self):
        noisy = Grid(shape_zyx=SHAPE, affine=GRID.affine * np.array([[1 + 1e-7] * 3 + [1.0]]))
        scores = evaluate_label_maps(label_map(grid=noisy), label_map(shift=1, grid=noisy))
        assert scores[LIVER].nsd == 1.0

    def test_grids_that_differ(self):
        moved = Grid.from_axes(SHAPE, spacing_zyx_mm=(3, 2, 1), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0))
        with pytest.raises(GeometryError, match="the reference's grid"):
            evaluate_label_maps(label_map(), label_map(grid=moved))

    def test_an_unknown_label(self):
        with pytest.raises(ReadError, match=r"prediction of a.*got 6\."):
            evaluate_label_maps(label_map(), label_map(liver=6), case="a")

    def test_labels_of_another_table_are_mapped_and_the_rest_is_background(self):
        config = ScoringConfig(reference_labels={6: 1})
        liver, kidney, *_ = evaluate_label_maps(label_map(liver=6, kidney=2), label_map(), config=config)
        assert (liver.dsc, kidney.dsc) == (1.0, 0.0)

    @pytest.mark.parametrize(
        "settings",
        [
            {"tolerances": ()},
            {"tolerances": (Tolerance(mm=1.0), Tolerance(mm=1.0))},
            {"empty": "skip"},
            {"reference_labels": {1: 5}},
            {"prediction_labels": {300: 1}},
        ],
    )
    def test_settings_out_of_range(self, settings):
        with pytest.raises(ConfigError, match="ScoringConfig"):
            ScoringConfig(**settings)


ORIENTATIONS = [
    Reorientation(axes=axes, flipped=flipped)
    for axes, flipped in itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))
]
# At 45 degrees no axis is nearer to the patient's left than another.
OBLIQUE = Grid.from_axes(
    SHAPE,
    spacing_zyx_mm=(3.0, 2.0, 1.0),
    direction_zyx=np.array([[0.0, 1.0, 1.0], [0.0, 1.0, -1.0], [2**0.5, 0.0, 0.0]]) / 2**0.5,
    origin_xyz_mm=(-5.0, 7.0, 11.0),
)
SHEARED = Grid(shape_zyx=SHAPE, affine=GRID.affine + np.array([[0, 0, 0, 0], [0.7, 0, 0, 0], [0] * 4, [0] * 4]))


def turned(labels, turn):
    return LabelMap(labels=turn.apply(labels.labels), grid=turn.apply_to_grid(labels.grid))


class TestOtherAxes:
    @pytest.mark.parametrize("grid", [GRID, OBLIQUE, SHEARED], ids=["straight", "oblique", "sheared"])
    def test_labels_come_back_to_their_places_from_all_48_orientations(self, grid):
        expected = label_map(grid=grid)
        for turn in ORIENTATIONS:
            back = stored_along(grid, turned(expected, turn))
            assert back.grid is grid
            np.testing.assert_array_equal(back.labels, expected.labels)

    @pytest.mark.parametrize("turn", ORIENTATIONS[1::7])
    def test_scores_do_not_depend_on_how_the_prediction_is_stored(self, turn):
        config = ScoringConfig(tolerances=(Tolerance(mm=0.5),))
        upright = evaluate_label_maps(label_map(), label_map(shift=1), config=config)
        assert evaluate_label_maps(label_map(), turned(label_map(shift=1), turn), config=config) == upright
        assert (upright[LIVER].dsc, upright[KIDNEY].dsc) == (0.5, 1.0)

    def test_from_files(self, tmp_path):
        reference = save(tmp_path / "reference.nii", label_map())
        prediction = save(tmp_path / "prediction.nii", turned(label_map(shift=1), ORIENTATIONS[29]))
        scores = evaluate_cases(reference, prediction).scores
        assert [score.dsc for score in scores[:2]] == [0.5, 1.0]

    @pytest.mark.parametrize("turn", [ORIENTATIONS[0], ORIENTATIONS[29]], ids=["as it is", "turned"])
    @pytest.mark.parametrize(
        "change",
        [
            np.array([[0, 0, 0, 1.0], [0] * 4, [0] * 4, [0] * 4]),  # moved by one voxel
            np.array([[0, 0, 0.01, 0], [0] * 4, [0] * 4, [0] * 4]),  # a spacing of 1.01 mm
            np.array([[0, 0.02, 0, 0], [0] * 4, [0] * 4, [0] * 4]),  # sheared by 0.2 mm at the far end
        ],
        ids=["moved", "stretched", "sheared"],
    )
    def test_other_voxels_are_still_refused(self, change, turn):
        moved = Grid(shape_zyx=SHAPE, affine=GRID.affine + change)
        with pytest.raises(GeometryError, match="comparing the prediction of case with its reference"):
            evaluate_label_maps(label_map(), turned(label_map(grid=moved), turn))

    def test_another_shape_is_refused(self):
        part = LabelMap(labels=label_map().labels[1:], grid=Grid(shape_zyx=(9, 11, 12), affine=GRID.affine))
        with pytest.raises(GeometryError, match=r"got \(9, 11, 12\) voxels"):
            evaluate_label_maps(label_map(), part)

    def test_a_mirrored_scan_is_not_taken_for_a_flipped_array(self):
        # The same header with the array reversed: other voxels in space, and the labels stay where the header says.
        mirrored = LabelMap(labels=label_map().labels[:, :, ::-1], grid=GRID)
        assert evaluate_label_maps(label_map(), mirrored)[KIDNEY].dsc == 0.0

    def test_the_real_labels_of_a_dicom_series(self, shared_data):
        labels = read_label_map(shared_data / "real" / "ts_dicom_labels.nii.gz")
        volume = read_volume(shared_data / "real" / "ts_dicom")
        assert not labels.grid.matches(volume.grid)
        liver = stored_along(volume.grid, labels).labels == 1
        # A liver with contrast is denser than fat and air all over; the rows in the file's order hold much of both.
        assert (volume.hu[liver] > 0).mean() > 0.95
        assert (volume.hu[labels.labels == 1] > 0).mean() < 0.9


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("case7.nii.gz", "case7"),
        ("case7_seg.NII", "case7"),
        ("case.7_labels.nrrd", "case.7"),
        ("_seg.mha", "_seg"),
        ("x_seg_dseg.mhd", "x_seg"),
    ],
)
def test_case_names(tmp_path, name, case):
    assert case_name(tmp_path / name) == case


# A case whose process dies, as the system ends one that takes too much memory.
FRAGILE = """
import os, signal
from viscera.evaluation.evaluate import CaseOutcome

def work(case, reference, prediction):
    if case == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return CaseOutcome(case=case)
"""


class TestFiles:
    @pytest.fixture
    def folders(self, tmp_path):
        for case in ("b", "a"):
            save(tmp_path / "references" / f"{case}_labels.nii.gz", label_map())
            save(tmp_path / "predictions" / f"{case}.nii", label_map(shift=int(case == "b")))
        return tmp_path / "references", tmp_path / "predictions"

    def test_folder_against_folder_in_the_order_of_names(self, folders):
        evaluation = evaluate_cases(*folders)
        assert evaluation.cases == ("a", "b")
        assert [score.dsc for score in evaluation.scores if score.organ == "liver"] == [1.0, 0.5]

    def test_files_by_case_name(self, folders):
        references = {"one": folders[0] / "a_labels.nii.gz"}
        evaluation = evaluate_cases(references, {"one": folders[1] / "b.nii"})
        assert (evaluation.cases, evaluation.scores[LIVER].dsc) == (("one",), 0.5)

    def test_file_against_file_whatever_the_names(self, folders):
        evaluation = evaluate_cases(folders[0] / "a_labels.nii.gz", folders[1] / "b.nii")
        assert (evaluation.cases, evaluation.scores[LIVER].dsc) == (("a",), 0.5)

    def test_missing_predictions_are_named_and_nothing_is_scored(self, folders):
        save(folders[0] / "c.nii.gz", label_map())
        (folders[1] / "a.nii").unlink()
        with pytest.raises(ReadError, match="none for a, c"):
            evaluate_cases(*folders)

    def test_predictions_without_reference_are_reported(self, folders):
        save(folders[1] / "z.nii.gz", label_map())
        assert evaluate_cases(*folders).without_reference == ("z",)

    def test_two_files_for_one_case(self, folders):
        save(folders[0] / "a.nii.gz", label_map())
        with pytest.raises(ReadError, match="both for case a"):
            evaluate_cases(*folders)

    def test_a_folder_without_label_maps(self, folders, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ReadError, match="listing references"):
            evaluate_cases(tmp_path / "empty", folders[1])

    def test_progress(self, folders):
        seen: list[tuple[CaseOutcome, int]] = []
        evaluation = evaluate_cases(*folders, on_outcome=lambda *done: seen.append(done))
        assert [(outcome.case, count) for outcome, count in seen] == [("a", 2), ("b", 2)]
        assert evaluation.scores == (*seen[0][0].scores, *seen[1][0].scores)

    def test_settings_reach_the_scores(self, folders):
        evaluation = evaluate_cases(*folders, config=ScoringConfig(tolerances=(Tolerance(mm=0.5),), empty="nan"))
        assert (evaluation.tolerances[0].mm, evaluation.empty) == (0.5, "nan")
        assert evaluation.scores[4 + LIVER].nsd < 1.0

    def test_processes_give_the_same_scores_in_the_same_order(self, folders):
        seen = []
        evaluation = evaluate_cases(*folders, workers=2, on_outcome=lambda outcome, _: seen.append(outcome.case))
        assert evaluation == evaluate_cases(*folders)
        assert seen == ["a", "b"]

    def test_a_process_that_is_ended_from_outside_takes_no_other_case_with_it(self, tmp_path, monkeypatch):
        (tmp_path / "fragile.py").write_text(FRAGILE)
        monkeypatch.syspath_prepend(tmp_path)
        work = importlib.import_module("fragile").work
        outcomes = list(evaluate._recovered(work, dict.fromkeys("abc", (tmp_path, None)), 2))
        assert [(outcome.case, outcome.error is None) for outcome in outcomes] == [
            ("a", True),
            ("b", False),
            ("c", True),
        ]
        assert "ended from outside" in str(outcomes[1].error)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_one_bad_pair_does_not_stop_the_others(self, folders, workers):
        (folders[1] / "a.nii").write_bytes(b"no image")
        save(folders[0] / "c.nii.gz", label_map())
        evaluation = evaluate_cases(*folders, workers=workers, keep_going=True)
        assert evaluation.cases == ("b",)
        assert [failure.case for failure in evaluation.failures] == ["a", "c"]
        assert "none for c" in evaluation.failures[1].message

    @pytest.mark.parametrize("workers", [1, 2])
    def test_unless_told_to_go_on_it_ends_with_the_bad_pairs_error(self, folders, workers):
        (folders[1] / "a.nii").write_bytes(b"no image")
        with pytest.raises(ReadError, match=r"a\.nii") as caught:
            evaluate_cases(*folders, workers=workers)
        assert caught.value.got
