"""The bundle that ships: it loads, it finds organs in scans it never saw, and nothing where there are none."""

import dataclasses

import numpy as np
import pytest

from viscera.core.errors import NothingFoundError
from viscera.core.geometry import Grid, Reorientation
from viscera.core.volume import Volume
from viscera.evaluation.evaluate import evaluate_label_maps, stored_along
from viscera.model.bundle import load_bundle
from viscera.read import read_label_map, read_volume
from viscera.segmenter import Segmenter
from viscera.synthesis.phantom import HEAD_Z_MM, PhantomConfig, make_phantom

SCAN = PhantomConfig(shape_zyx=(64, 108, 136), spacing_zyx_mm=(5.0, 3.0, 3.0))
UNSEEN_SEEDS = (900_001, 900_002, 900_003, 900_004)
# Below what was measured (docs/explanation/accuracy.md), by the little that another processor may change.
PHANTOM_DSC = {"liver": 0.85, "kidney": 0.80, "spleen": 0.80}
REAL_DSC = {
    "amos_0018": {"liver": 0.90, "kidney": 0.90, "spleen": 0.88, "pancreas": 0.50},
    "ts_example": {"liver": 0.90, "kidney": 0.87, "spleen": 0.90},
    "ts_slab": {"liver": 0.90, "kidney": 0.84, "spleen": 0.90},
}


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.load(threads=2)


@pytest.fixture(scope="module")
def unseen(segmenter):
    phantoms = [make_phantom(seed, config=SCAN) for seed in UNSEEN_SEEDS]
    return [(phantom, segmenter.segment_volume(phantom.volume)) for phantom in phantoms]


@pytest.mark.parametrize("organ", PHANTOM_DSC)
def test_organs_of_unseen_phantoms_are_found(unseen, organ):
    scores = [
        score.dsc
        for phantom, result in unseen
        for score in evaluate_label_maps(phantom.label_map, result.label_map)
        if score.organ == organ
    ]
    assert np.mean(scores) >= PHANTOM_DSC[organ], scores


@pytest.mark.parametrize("case", REAL_DSC)
def test_organs_of_real_scans_are_found(segmenter, shared_data, case):
    volume = read_volume(shared_data / "real" / f"{case}_ct.nii.gz")
    labels = read_label_map(shared_data / "real" / f"{case}_labels.nii.gz")
    reference = stored_along(volume.grid, labels, case)
    result = segmenter.segment_volume(volume)
    scores = {score.organ: score.dsc for score in evaluate_label_maps(reference, result.label_map)}
    assert {organ: scores[organ] for organ, least in REAL_DSC[case].items() if scores[organ] < least} == {}


def test_a_real_scan_whose_header_mirrors_it_is_warned_of(segmenter, shared_data):
    volume = read_volume(shared_data / "robustness" / "msd_spleen_8_mirrored_ct.nii.gz")
    # Liver and kidneys speak for the mirror image; spleen and pancreas do not say enough for a refusal.
    assert "looks like the mirror image" in segmenter.segment_volume(volume).warnings[0]
    labelled = segmenter.segment_volume(dataclasses.replace(volume, sides_certain=True))
    assert "looks like the mirror image" in labelled.warnings[0]


# Of all 30 real CTs these are the ones in which the liver is in doubt, so that the mirror image is looked at.
@pytest.mark.parametrize("case", ["tcga_bc_a10x", "hcc008_arterial", "hcc007_posttace_portal"])
def test_a_patient_with_an_unusual_liver_is_not_taken_for_a_mirror_image(segmenter, shared_data, case):
    result = segmenter.segment_volume(read_volume(shared_data / "real2" / f"{case}_ct.nii.gz"))
    assert result.warnings == ()
    assert result.label_map.labels.any()


@pytest.mark.parametrize("cut", ["right", "upper"])
def test_a_part_of_a_real_scan_is_never_refused_as_mirrored(segmenter, shared_data, cut):
    """What a scan cuts looks like anything; each of these looks better in the mirror image."""
    volume = read_volume(shared_data / "real2" / "tcga_bc_a10x_ct.nii.gz")
    turn = volume.grid.to_canonical()
    grid, hu = turn.apply_to_grid(volume.grid), turn.apply(volume.hu)
    depth, _, width = hu.shape
    part = hu[:, :, : int(0.6 * width)] if cut == "right" else hu[6 : 6 + int(100 / grid.spacing_zyx_mm[0])]
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world(np.array([0 if cut == "right" else 6, 0, 0]))
    assert depth > 30
    scan = Volume(hu=np.ascontiguousarray(part), grid=Grid(shape_zyx=part.shape, affine=affine))
    result = segmenter.segment_volume(scan)
    assert "looks like the mirror image" in result.warnings[0]


@pytest.mark.parametrize("case", ["amos_0018", "ts_slab"])
def test_the_mirror_image_of_a_real_scan_is_told(segmenter, shared_data, case):
    volume = read_volume(shared_data / "real" / f"{case}_ct.nii.gz")
    turn = volume.grid.to_canonical()
    hu = np.ascontiguousarray(np.flip(turn.apply(volume.hu), axis=2))
    result = segmenter.segment_volume(Volume(hu=hu, grid=turn.apply_to_grid(volume.grid)), allow_mirrored=True)
    assert "looks like the mirror image" in result.warnings[0]


def test_the_same_scan_with_its_header_put_right_is_not(segmenter, shared_data):
    volume, reference = (
        read(shared_data / "robustness" / f"msd_spleen_8_mirrored_{name}.nii.gz")
        for read, name in ((read_volume, "ct"), (read_label_map, "labels"))
    )
    turn = volume.grid.to_canonical()
    grid = turn.apply_to_grid(volume.grid)
    hu, spleen = (np.ascontiguousarray(np.flip(turn.apply(array), axis=2)) for array in (volume.hu, reference.labels))
    labels = segmenter.segment_volume(Volume(hu=hu, grid=grid)).label_map.labels
    overlap = 2 * np.sum((labels == 3) & (spleen == 3)) / (np.sum(labels == 3) + np.sum(spleen == 3))
    assert overlap > 0.7


def test_a_real_scan_without_abdomen_has_no_organs(segmenter, shared_data):
    volume = read_volume(shared_data / "robustness" / "non_orthonormal_affine_head_neck.nii.gz")
    with pytest.raises(NothingFoundError):
        segmenter.segment_volume(volume)


def test_the_stored_orientation_changes_next_to_nothing(segmenter, unseen):
    phantom, upright = unseen[0]
    turn = Reorientation(axes=(2, 0, 1), flipped=(True, False, True))
    turned = Volume(
        hu=np.ascontiguousarray(turn.apply(phantom.volume.hu)), grid=turn.apply_to_grid(phantom.volume.grid)
    )
    labels = turn.undo(segmenter.segment_volume(turned).label_map.labels)
    assert (labels == upright.label_map.labels).mean() > 0.9999


@pytest.mark.parametrize("seed", [900_005, 900_006, 900_007])
def test_a_head_has_no_organs(segmenter, seed):
    scan = PhantomConfig(shape_zyx=(44, 80, 90), spacing_zyx_mm=(5.0, 3.0, 3.0), centre_z_mm=HEAD_Z_MM)
    with pytest.raises(NothingFoundError):
        segmenter.segment_volume(make_phantom(seed, config=scan).volume)


def test_the_card_says_how_good_it_is_and_where_it_ends():
    card = load_bundle().card
    assert "without a labelled CT" in card.description
    assert card.limits
    scored = " ".join(card.metrics["real CTs, DSC"])
    assert all(case in scored for case in ("amos_0018", "ts_example", "ts_slab", "ts_dicom", "ts_s0009"))
