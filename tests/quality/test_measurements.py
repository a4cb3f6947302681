"""What is measured of labels and of the network's answer, worked by hand."""

import math

import numpy as np
import pytest

from viscera.core.geometry import Grid, Reorientation
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap
from viscera.engines.engine import NetworkOutput
from viscera.quality.measurements import network_signals, organ_signals
from viscera.quality.rules import OrganSignals

SHAPE = (10, 11, 12)
# Voxels of 3 x 2 x 1 mm = 0.006 ml; array axes run to the head, the back and the left.
GRID = Grid.from_axes(
    SHAPE, spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(-5.0, 7.0, 11.0)
)
LIVER, KIDNEY, SPLEEN, PANCREAS = range(4)


def labelled(*blocks, grid=GRID):
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    for label, block in blocks:
        labels[block] = label
    return LabelMap(labels=labels, grid=grid)


def entropy(*probabilities):
    """The mean binary entropy in bits."""
    return np.mean([-p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in probabilities])


def test_volume_place_and_parts_of_an_organ():
    label_map = labelled((3, np.s_[2:4, 3:5, 4:8]), (3, np.s_[8, 9, 2:4]))  # 16 and 2 voxels
    spleen = organ_signals(label_map, ORGANS)[SPLEEN]
    assert spleen.volume_ml == pytest.approx(18 * 0.006)
    assert spleen.parts_ml == pytest.approx((16 * 0.006, 2 * 0.006))
    assert spleen.fragments(1) == pytest.approx(2 / 18)
    assert spleen.border_faces == ()
    # Mean voxel: z (16 * 2.5 + 2 * 8) / 18, y (16 * 3.5 + 2 * 9) / 18, x (16 * 5.5 + 2 * 2.5) / 18.
    z, y, x = 56 / 18, 74 / 18, 93 / 18
    assert spleen.centre_xyz_mm == pytest.approx((-5 + x, 7 + 2 * y, 11 + 3 * z))
    assert (spleen.expected_dsc, spleen.entropy_bits, spleen.disagreement) == (None, None, None)


def test_an_absent_organ_has_no_signals():
    found = organ_signals(labelled((1, np.s_[2, 3, 4])), ORGANS)
    assert found[KIDNEY] == OrganSignals(organ="kidney", volume_ml=0.0)
    assert found[KIDNEY].fragments(2) == 0.0


def test_the_faces_of_the_scan_that_are_touched():
    assert organ_signals(labelled((2, np.s_[0:3, 4, 11])), ORGANS)[KIDNEY].border_faces == ("inferior", "left")


def test_how_the_scan_is_stored_does_not_matter():
    label_map = labelled((3, np.s_[2:4, 3:5, 0:8]), (3, np.s_[8, 9, 2:4]), (1, np.s_[5, 5, 5]))
    turn = Reorientation(axes=(2, 0, 1), flipped=(True, False, True))
    turned = LabelMap(labels=turn.apply(label_map.labels), grid=turn.apply_to_grid(GRID))
    for one, other in zip(organ_signals(turned, ORGANS), organ_signals(label_map, ORGANS), strict=True):
        assert (one.border_faces, one.parts_ml) == (other.border_faces, pytest.approx(other.parts_ml))
        assert one.centre_xyz_mm == (None if other.centre_xyz_mm is None else pytest.approx(other.centre_xyz_mm))


def test_only_the_largest_parts_are_kept():
    blocks = [(1, np.s_[z, 3, 2 : 2 + length]) for z, length in zip(range(0, 10, 2), (6, 2, 5, 1, 4), strict=True)]
    assert organ_signals(labelled(*blocks), ORGANS)[LIVER].parts_ml == pytest.approx(
        tuple(0.006 * length for length in (6, 5, 4, 2))
    )


def answer_of(organ, *, label=1, labels=5, disagreement=None):
    """An answer in which every voxel is that label with the given probability (z, y, x), else background."""
    probability = np.asarray(organ, dtype=np.float32)
    probabilities = np.zeros((labels, *probability.shape), dtype=np.float32)
    probabilities[label], probabilities[0] = probability, 1 - probability
    apart = None if disagreement is None else np.zeros((labels, *disagreement.shape), dtype=np.float32)
    if apart is not None:
        apart[label] = disagreement
    return NetworkOutput(probabilities, apart)


def test_expected_dice_worked_by_hand():
    probability = np.zeros((2, 2, 12))
    probability[0, 0, 3:8] = (0.4, 0.9, 0.8, 0.3, 0.005)
    found = network_signals(answer_of(probability), 1)
    # Labelled are the 0.9 and the 0.8; the truth has 0.4 + 0.9 + 0.8 + 0.3 voxels to expect, the trace left out.
    assert found[1].expected_dsc == pytest.approx(2 * 1.7 / (2 + 2.4))


def test_entropy_is_over_the_organ_and_its_neighbours():
    probability = np.zeros((1, 1, 12))
    probability[0, 0] = (0.4, 0.2, 0.4, 0.9, 0.8, 0.3, 0.2, 0, 0, 0, 0, 0)
    found = network_signals(answer_of(probability), 1)
    assert found[1].entropy_bits == pytest.approx(entropy(0.4, 0.9, 0.8, 0.3), abs=1e-6)


def test_neighbours_at_a_corner_count():
    probability = np.zeros((3, 4, 5))
    probability[1, 1, 1], probability[2, 2, 2], probability[2, 2, 3] = 0.9, 0.4, 0.4
    found = network_signals(answer_of(probability), 1)
    # 27 voxels: the organ, one of 0.4 at a corner, the others certain.
    assert found[1].entropy_bits == pytest.approx((entropy(0.9) + entropy(0.4)) / 27, abs=1e-4)


def test_entropy_of_certain_labels_is_next_to_nothing():
    probability = np.zeros((3, 4, 5))
    probability[1] = 1.0
    assert network_signals(answer_of(probability), 1)[1].entropy_bits == pytest.approx(0, abs=1e-4)


def test_disagreement_is_weighted_by_the_organs_voxels():
    probability, apart = np.zeros((4, 4, 8)), np.zeros((2, 2, 4))
    probability[1, 1, 3:6] = 0.9  # one voxel in block (0, 0, 1), two in block (0, 0, 2)
    probability[2, 3, 5] = 0.9  # one in block (1, 1, 2)
    apart[0, 0, 1], apart[0, 0, 2], apart[1, 1, 2], apart[1, 0, 0] = 0.1, 0.4, 0.7, 1.0
    found = network_signals(answer_of(probability, disagreement=apart), 2)
    assert found[1].disagreement == pytest.approx((0.1 + 2 * 0.4 + 0.7) / 4)


def test_labels_that_are_nowhere_likeliest_have_no_signals():
    probability = np.full((2, 3, 4), 0.4)
    assert network_signals(answer_of(probability), 1) == {}


def test_signals_go_to_the_organ_of_their_label():
    probability = np.zeros((4, 4, 8))
    probability[1, 1, 3:6] = 0.8
    apart = np.full((2, 2, 4), 0.25)
    answer = answer_of(probability, label=3, disagreement=apart)
    found = organ_signals(labelled((3, np.s_[2:4, 3, 4]), (1, np.s_[5, 5, 5])), ORGANS, answer, factor=2)
    assert found[SPLEEN].disagreement == pytest.approx(0.25)
    assert found[SPLEEN].expected_dsc == pytest.approx(2 * 2.4 / 5.4)
    assert (found[LIVER].disagreement, found[LIVER].expected_dsc) == (None, None)


def test_an_answer_without_disagreement():
    probability = np.zeros((4, 4, 8))
    probability[1, 1, 3:6] = 0.8
    found = organ_signals(labelled((1, np.s_[5, 5, 5])), ORGANS, answer_of(probability))[LIVER]
    assert found.disagreement is None
    assert found.expected_dsc is not None


def test_likeliest_is_the_lowest_of_equal_labels():
    probabilities = np.zeros((3, 1, 1, 4), dtype=np.float32)
    probabilities[:, 0, 0] = np.array([[0.4, 0.2, 0.3, 0.1], [0.4, 0.4, 0.3, 0.2], [0.2, 0.4, 0.4, 0.7]])
    found = network_signals(NetworkOutput(probabilities), 1)
    # Background wins the first voxel, label 1 the second, label 2 the others.
    assert found[1].expected_dsc == pytest.approx(2 * 0.4 / (1 + 1.3))
    assert found[2].expected_dsc == pytest.approx(2 * 1.1 / (2 + 1.7))
