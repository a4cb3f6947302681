"""One object, one call: what users hold goes in, labels on exactly its grid come out, in its own order."""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest

import viscera
from viscera.core.errors import ConfigError, ReadError
from viscera.core.geometry import Grid
from viscera.engines.engine import NetworkOutput
from viscera.formats.nifti_write import write_volume
from viscera.model.bundle import Bundle, ModelCard
from viscera.result import Segmentation
from viscera.segmenter import CaseOptions, Segmenter

# RAS, (i, j, k) = (x, y, z): 34 x 30 x 22 voxels, pairwise different, at 3 x 4 x 5 mm.
SHAPE_IJK = (34, 30, 22)
AFFINE_RAS = np.array([[3.0, 0, 0, -50], [0, 4.0, 0, -60], [0, 0, 5.0, -55], [0, 0, 0, 1]])
LIVER_IJK, SPLEEN_IJK = (24, 14, 12), (8, 13, 9)


class BrightEngine:
    """Calls what is brighter than water liver and what is darker spleen; air is background."""

    name, precision = "bright", "f32"

    def prepare(self):
        pass

    def compile_ahead(self, stage, shape, *, extra_bytes=0):
        self.announced = shape

    def run(self, stage, image):
        hu = image[:, 0] * 2048.0
        bright = np.clip(hu / 400.0, 0, 1)
        dark = np.where(hu > -800, np.clip(-hu / 400.0, 0, 1), 0)
        if stage == "localise":
            return NetworkOutput(np.stack([np.full_like(hu, 0.5), np.maximum(bright, dark)], axis=1).astype(np.float32))
        output = np.zeros((len(hu), 5, *hu.shape[1:]), dtype=np.float32)
        output[:, 1], output[:, 3] = bright, dark
        output[:, 0] = 1 - bright - dark
        return NetworkOutput(output)


@pytest.fixture
def segmenter(tmp_path):
    card = ModelCard(name="bright", version="1", description="", licence="")
    return Segmenter(bundle=Bundle(folder=tmp_path, card=card), engine=BrightEngine())


@pytest.fixture(scope="module")
def hu_ijk():
    """A CT as nibabel's users hold it, (i, j, k): a bright ball and a smaller dark one."""
    hu = np.zeros(SHAPE_IJK, dtype=np.int16)
    mm = np.stack(np.indices(SHAPE_IJK), axis=-1) * (3, 4, 5)
    for centre, radius, value in ((LIVER_IJK, 24, 400), (SPLEEN_IJK, 17, -400)):
        hu[((mm - np.array(centre) * (3, 4, 5)) ** 2).sum(axis=-1) <= radius**2] = value
    return hu


@pytest.fixture
def image(hu_ijk):
    return nibabel.Nifti1Image(hu_ijk, AFFINE_RAS)


def agree(labels, hu):
    """The share of voxels whose label is what their HU say."""
    return float((labels == np.where(hu > 200, 1, np.where(hu < -200, 3, 0))).mean())


def test_a_nibabel_image_gives_labels_in_its_own_order(segmenter, image, hu_ijk):
    result = segmenter(image)
    assert result.labels.shape == image.shape
    assert result.labels.dtype == np.uint8
    assert agree(result.labels, hu_ijk) > 0.98
    np.testing.assert_allclose(result.affine_ras, image.affine)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_an_array_gives_labels_in_its_own_order(segmenter, image, hu_ijk, dtype):
    expected = segmenter(image)
    result = segmenter(hu_ijk.astype(dtype), affine=AFFINE_RAS)
    assert agree(result.labels, hu_ijk) > 0.98
    assert (result.labels != expected.labels).mean() < 1e-3  # canonical axes are the same; rounding may differ
    np.testing.assert_allclose(result.affine_ras, AFFINE_RAS)


@pytest.mark.parametrize("axes", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_an_array_of_any_axis_order_needs_only_the_affines_columns_alike(segmenter, hu_ijk, axes):
    affine = AFFINE_RAS[:, [*axes, 3]]
    result = segmenter(np.ascontiguousarray(hu_ijk.transpose(axes)), affine=affine)
    assert agree(result.labels, hu_ijk.transpose(axes)) > 0.98
    np.testing.assert_allclose(result.affine_ras, affine)


def test_all_kinds_of_input_give_the_same_labels(segmenter, image, hu_ijk, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    torch = pytest.importorskip("torch")
    nibabel.save(image, tmp_path / "ct.nii")
    path = tmp_path / "ct.nii"
    expected = segmenter(str(path)).labels
    assert expected.shape == SHAPE_IJK[::-1]
    for given in (path, viscera.read_volume(path), sitk.ReadImage(str(path))):
        np.testing.assert_array_equal(segmenter(given).labels, expected)
    np.testing.assert_array_equal(segmenter(nibabel.load(path)).labels, expected.T)
    for tensor in (
        torch.from_numpy(hu_ijk),
        torch.from_numpy(hu_ijk)[None].float(),
        torch.from_numpy(hu_ijk).bfloat16(),
    ):
        assert (segmenter(tensor, affine=AFFINE_RAS).labels != expected.T).mean() < 1e-3


def test_a_tensor_that_carries_its_affine_needs_none(segmenter, hu_ijk):
    monai = pytest.importorskip("monai.data")
    torch = pytest.importorskip("torch")
    tensor = monai.MetaTensor(torch.from_numpy(hu_ijk)[None], affine=torch.from_numpy(AFFINE_RAS))
    result = segmenter(tensor)
    assert agree(result.labels, hu_ijk) > 0.98
    np.testing.assert_allclose(result.affine_ras, AFFINE_RAS)


def test_an_array_without_an_affine_is_refused(segmenter, hu_ijk):
    with pytest.raises(ConfigError, match=r"expected affine=, the 4x4 matrix from the array's indices"):
        segmenter(hu_ijk)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda image: image, {"affine": AFFINE_RAS}, "no affine, as it says itself"),
        (lambda image: image, {"series": "2"}, "a path, to choose a series"),
        (lambda image: [1, 2, 3], {}, "a path, a Volume, a nibabel or SimpleITK image"),
        (lambda image: None, {}, "got builtins.NoneType"),
    ],
)
def test_what_does_not_go_together_is_refused(segmenter, image, make, options, words):
    with pytest.raises(ConfigError, match=words):
        segmenter(make(image), **options)


def test_an_affine_with_its_columns_in_another_order_than_the_array_gives_a_warning(segmenter):
    hu = np.full((20, 30, 30), -1000, dtype=np.int16)  # (z, y, x), square slices
    hu[2:18, 4:26, 4:26] = 0
    hu[5:15, 8:22, 8:22] = 400
    affine = np.diag([2.0, 2.0, 5.0, 1.0])  # of (x, y, z)
    with pytest.warns(UserWarning, match="check that the affine's columns have the order of the array's axes"):
        result = segmenter(hu, affine=affine)
    assert any("columns" in note for note in result.urgent_notes)
    segmenter(hu, affine=affine[:, [2, 1, 0, 3]])  # as it should be: no warning, which would be an error here


# The result


def test_organs_by_name(segmenter, image, hu_ijk):
    result = segmenter(image)
    assert list(result.organs) == ["liver", "kidney", "spleen", "pancreas"]
    liver = result.organs["liver"]
    assert liver.volume_ml == pytest.approx(4 / 3 * np.pi * 24**3 / 1000, rel=0.1)
    assert liver.mask.shape == image.shape
    assert liver.mask.sum() * 0.06 == pytest.approx(liver.volume_ml)
    assert liver.mean_hu > 300
    assert (str(liver.status), str(result.organs["pancreas"].status)) == ("check", "absent")
    assert any("less than an adult's" in finding for finding in liver.findings)
    assert (result.organs["kidney"].left_ml, liver.left_ml) == (0.0, None)


def test_reprs_are_short(segmenter, image):
    result = segmenter(image, probabilities=True)
    for one in (segmenter, result, result.organs["liver"], result.probabilities):
        assert len(repr(one)) < 200
        assert "array(" not in repr(one)
    assert "liver 5" in repr(result)


def test_a_result_goes_to_the_other_libraries(segmenter, image, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    result = segmenter(image)
    as_nibabel = result.to_nibabel()
    np.testing.assert_array_equal(np.asarray(as_nibabel.dataobj), result.labels)
    np.testing.assert_allclose(as_nibabel.affine, image.affine)
    as_sitk = result.to_sitk()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(as_sitk), result.labels.T)
    result.save(str(tmp_path / "organs.nii.gz"))
    saved = sitk.ReadImage(str(tmp_path / "organs.nii.gz"))
    assert as_sitk.GetSize() == saved.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(as_sitk, name)() == pytest.approx(getattr(saved, name)(), abs=1e-5)


def test_an_oblique_grid_goes_to_simpleitk(segmenter, hu_ijk):
    pytest.importorskip("SimpleITK")
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    result = segmenter(nibabel.Nifti1Image(hu_ijk, turn @ AFFINE_RAS))
    image, grid = result.to_sitk(), result.label_map.grid
    for ijk in ((0, 0, 0), (33, 2, 5), (4, 29, 21)):
        assert image.TransformIndexToPhysicalPoint(ijk) == pytest.approx(grid.world(np.array(ijk)[[2, 1, 0]]))
        assert image[ijk] == result.label_map.labels[ijk[2], ijk[1], ijk[0]]


def test_a_result_is_a_table(segmenter, image):
    pytest.importorskip("pandas")
    table = segmenter(image).to_dataframe()
    assert list(table.index) == ["liver", "kidney", "spleen", "pancreas"]
    assert table.loc["liver", "label"] == 1
    assert table.loc["liver", "volume_ml"] > 50
    assert table.loc["pancreas", "quality"] == "absent"


def test_probabilities_are_kept_on_request_only(segmenter, image):
    assert segmenter(image).probabilities is None
    found = segmenter(image, probabilities=True).probabilities
    assert found.values.shape == (5, *found.grid.shape_zyx)
    np.testing.assert_allclose(found.values.sum(axis=0), 1, atol=1e-5)
    entropy = found.entropy()
    assert entropy.shape == found.grid.shape_zyx
    assert 0 <= entropy.min() < 0.01
    assert 0.2 < entropy.max() <= 1


def test_the_uncertainty_of_known_probabilities():
    grid = Grid(shape_zyx=(1, 1, 2), affine=np.eye(4))
    values = np.array([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]], dtype=np.float32).reshape(4, 1, 1, 2)
    np.testing.assert_allclose(viscera.Probabilities(values=values, grid=grid).entropy(), [[[0, 1]]], atol=1e-6)


def test_files_have_what_the_result_in_memory_has(segmenter, image, tmp_path):
    nibabel.save(image, tmp_path / "ct.nii.gz")
    options = CaseOptions(probabilities=True, uncertainty=True)
    case = segmenter.segment_file(str(tmp_path / "ct.nii.gz"), str(tmp_path / "organs.nii.gz"), options=options)
    assert isinstance(case, Segmentation)
    memory = segmenter(tmp_path / "ct.nii.gz")
    assert case.statistics == memory.statistics
    assert case.output == tmp_path / "organs.nii.gz"
    np.testing.assert_array_equal(viscera.read_label_map(case.output).labels, memory.labels)
    written = nibabel.load(tmp_path / "organs_probabilities.nii.gz")
    assert written.get_data_dtype() == np.int16  # two bytes, as NIfTI has no float16
    np.testing.assert_allclose(written.get_fdata(), case.probabilities.values.transpose(3, 2, 1, 0), atol=2e-5)
    np.testing.assert_allclose(written.affine, case.probabilities.grid.nifti_affine(), atol=1e-4)
    uncertain = nibabel.load(tmp_path / "organs_uncertainty.nii.gz")
    np.testing.assert_allclose(uncertain.get_fdata(), case.probabilities.entropy().transpose(2, 1, 0), atol=2e-5)
    # What version 0.2 called it.
    assert case.segmentation is case
    assert case.region == case.roi


def test_nothing_more_is_written_unless_asked_for(segmenter, image, tmp_path):
    nibabel.save(image, tmp_path / "ct.nii")
    segmenter.segment_file(tmp_path / "ct.nii", tmp_path / "out" / "organs.nii")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["organs.nii"]


# Many


def test_map_gives_results_in_order_and_keeps_no_ct(segmenter, image, tmp_path):
    paths = [tmp_path / name for name in ("b.nii", "a.nii")]
    for path in paths:
        nibabel.save(image, path)
    results = list(segmenter.map(map(str, paths)))
    assert [result.source for result in results] == paths
    assert all(result.volume is None and result.statistics[0].volume_ml > 50 for result in results)


def test_map_stops_at_the_first_error_unless_it_is_handled(segmenter, image, tmp_path):
    nibabel.save(image, tmp_path / "good.nii")
    (tmp_path / "bad.nii").write_bytes(b"nothing")
    paths = [tmp_path / "bad.nii", tmp_path / "good.nii"]
    with pytest.raises(ReadError):
        list(segmenter.map(paths))
    failed: list[tuple[Path, str]] = []
    results = list(segmenter.map(paths, on_error=lambda path, error: failed.append((path, type(error).__name__))))
    assert [result.source for result in results] == paths[1:]
    assert failed == [(paths[0], "ReadError")]


def test_an_error_of_the_callers_own_loop_is_not_taken_for_a_scans(segmenter, image, tmp_path):
    nibabel.save(image, tmp_path / "good.nii")
    caught = []
    results = segmenter.map([tmp_path / "good.nii"], on_error=lambda path, error: caught.append(path))
    next(results)
    with pytest.raises(ReadError):
        results.throw(ReadError("x", expected="a", got="b", remedy="c"))
    assert caught == []


# Kidneys


def test_kidneys_apart(segmenter, tmp_path, image):
    """The dark ball is called kidney by another table; on the patient's left, its label is the first free one."""
    organs = tuple(
        dataclasses.replace(organ, name={2: "spleen", 3: "kidney"}.get(organ.index, organ.name))
        for organ in segmenter.bundle.card.organs
    )
    card = dataclasses.replace(segmenter.bundle.card, organs=organs)
    segmenter = dataclasses.replace(segmenter, bundle=dataclasses.replace(segmenter.bundle, card=card))
    whole, apart = segmenter(image), segmenter(image, split_kidneys=True)
    assert list(apart.organs) == ["liver", "spleen", "right kidney", "pancreas", "left kidney"]
    # i runs to the right (RAS): the ball at i = 8 is on the left.
    np.testing.assert_array_equal(apart.labels == 5, whole.labels == 3)
    assert apart.organs["left kidney"].volume_ml == pytest.approx(whole.organs["kidney"].left_ml)
    assert str(apart.organs["right kidney"].status) == "absent"
    assert "Only a left kidney was found." in apart.notes
    assert apart.organs["left kidney"].organ.laterality == "left"
    write_volume(viscera.Volume.from_nibabel(image), tmp_path / "ct.nii")
    options = CaseOptions(split_kidneys=True, layout="bids")
    case = segmenter.segment_file(tmp_path / "ct.nii", tmp_path / "organs.nii.gz", options=options)
    assert [row.organ for row in case.statistics] == list(apart.organs)
    assert "5\tleft kidney" in (tmp_path / "organs.tsv").read_text()


def test_another_layout_is_refused():
    with pytest.raises(ConfigError, match="flat or bids"):
        CaseOptions(layout="heap")


def test_shipped_bundles_are_listed():
    assert "fast" in viscera.list_bundles()
