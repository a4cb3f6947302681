"""The bundle that ships: it loads, it finds the organs of people it never saw, and nothing where there are none."""

import numpy as np
import pytest

from viscera.bundle import load_bundle
from viscera.case import Segmenter
from viscera.errors import NothingFoundError
from viscera.evaluation.evaluate import evaluate_label_maps
from viscera.geometry import Reorientation
from viscera.phantom import HEAD_Z_MM, PhantomConfig, make_phantom
from viscera.volume import Volume

SCAN = PhantomConfig(shape_zyx=(64, 108, 136), spacing_zyx_mm=(5.0, 3.0, 3.0))
UNSEEN_SEEDS = (900_001, 900_002, 900_003, 900_004)


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.load(threads=2)


@pytest.fixture(scope="module")
def unseen(segmenter):
    phantoms = [make_phantom(seed, config=SCAN) for seed in UNSEEN_SEEDS]
    return [(phantom, segmenter.segment_volume(phantom.volume)) for phantom in phantoms]


@pytest.mark.parametrize("organ", ["liver", "kidney", "spleen"])
def test_organs_of_unseen_phantoms_are_found(unseen, organ):
    scores = [
        score.dsc
        for phantom, result in unseen
        for score in evaluate_label_maps(phantom.label_map, result.label_map)
        if score.organ == organ
    ]
    assert np.mean(scores) >= 0.90, scores


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


def test_the_card_says_that_it_is_a_starter():
    card = load_bundle().card
    assert "starter" in card.description.lower()
    assert card.limits
    assert {"liver", "kidney", "spleen", "pancreas"} <= set(card.metrics["phantoms"]["dsc"])
