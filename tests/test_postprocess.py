"""Which components of organs stay, that what goes is reported, and the left and the right of a pair."""

import numpy as np
import pytest

from viscera.core.config import PostprocessConfig
from viscera.core.errors import ConfigError, GeometryError
from viscera.core.geometry import AIR_HU, Grid, Reorientation
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap, Volume
from viscera.postprocess import Removal, removal_notes, small_components

SHAPE = (10, 11, 24)
# Voxels of 3 x 2 x 1 mm = 0.006 ml.
GRID = Grid.from_axes(
    SHAPE, spacing_zyx_mm=(3.0, 2.0, 1.0), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(-5.0, 7.0, 11.0)
)
CONFIG = PostprocessConfig(keep_share=0.25)
BODY = np.s_[:, 1:10, 2:22]  # its middle along x is 11.5


def scan(*blocks, grid=GRID, body=BODY):
    """A body in air, and a label for each (label, block)."""
    hu, labels = np.full(SHAPE, AIR_HU, dtype=np.int16), np.zeros(SHAPE, dtype=np.uint8)
    hu[body] = 40
    for label, block in blocks:
        labels[block] = label
    return LabelMap(labels=labels, grid=grid), Volume(hu=hu, grid=grid)


def clean_labels(label_map, volume, organs, config):
    """The label map without what cleaning takes, and the record of it."""
    labels, strays = label_map.labels.copy(), small_components(label_map, volume, organs, config)
    for _, voxels in strays:
        labels[voxels] = 0
    return LabelMap(labels=labels, grid=label_map.grid), tuple(removal for removal, _ in strays)


def cleaned(*blocks, config=CONFIG, body=BODY):
    label_map, removals = clean_labels(*scan(*blocks, body=body), ORGANS, config)
    return label_map.labels, {removal.organ: removal for removal in removals}


def kept(*blocks):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for label, block in blocks:
        labels[block] = label
    return labels


LARGE = (1, np.s_[1:5, 2:6, 3:8])  # 80 voxels
QUARTER = (1, np.s_[7, 2:6, 3:8])  # 20 voxels
SMALLER = (1, np.s_[7, 2:6, 12:16])  # 16 voxels


def test_parts_from_the_share_on_stay_and_smaller_ones_go():
    labels, removed = cleaned(LARGE, QUARTER, SMALLER)
    np.testing.assert_array_equal(labels, kept(LARGE, QUARTER))
    assert removed["liver"] == Removal(organ="liver", components=1, volume_ml=pytest.approx(16 * 0.006))


def test_each_organ_is_judged_by_its_own_largest_part():
    spleen = (3, np.s_[8, 9, 20:22])  # 2 voxels, less than a quarter of the liver's
    labels, removed = cleaned(LARGE, spleen)
    np.testing.assert_array_equal(labels, kept(LARGE, spleen))
    assert [removal.components for removal in removed.values()] == [0, 0, 0, 0]


def test_parts_that_touch_at_a_corner_are_one():
    tip = (1, np.s_[5, 6, 8])  # diagonally beyond the last voxel of LARGE
    labels, _ = cleaned(LARGE, tip)
    np.testing.assert_array_equal(labels, kept(LARGE, tip))


def test_organs_that_touch_are_parts_of_their_own():
    stray = (4, np.s_[5, 2:4, 3])  # lies on the liver, apart from the pancreas
    pancreas = (4, np.s_[8, 2:8, 10:16])
    labels, removed = cleaned(LARGE, stray, pancreas)
    np.testing.assert_array_equal(labels, kept(LARGE, pancreas))
    assert removed["pancreas"].components == 1


RIGHT, LEFT = (2, np.s_[2:6, 7:9, 5:8]), (2, np.s_[3:6, 7:9, 16:19])  # 24 and 18 voxels
RIGHT_TOO = (2, np.s_[8:10, 7:9, 5:10])  # 20 voxels
LEFT_TOO = (2, np.s_[8, 7:9, 16:19])  # 6 voxels


def test_one_kidney_stays_on_each_side():
    labels, removed = cleaned(RIGHT, LEFT, RIGHT_TOO, LEFT_TOO)
    np.testing.assert_array_equal(labels, kept(RIGHT, LEFT))
    assert (removed["kidney"].components, removed["kidney"].volume_ml) == (2, pytest.approx(26 * 0.006))


def test_a_second_part_on_the_same_side_is_no_kidney():
    labels, removed = cleaned(RIGHT, RIGHT_TOO)
    np.testing.assert_array_equal(labels, kept(RIGHT))
    assert removed["kidney"].components == 1


def test_too_small_a_part_across_is_no_kidney():
    speck = (2, np.s_[4, 7, 16:19])  # 3 of 24 voxels
    labels, _ = cleaned(RIGHT, speck)
    np.testing.assert_array_equal(labels, kept(RIGHT))


def test_sides_are_the_bodys_not_the_images():
    pair = (2, np.s_[2:6, 7:9, 13:15]), (2, np.s_[3:6, 7:9, 18:20])
    labels, _ = cleaned(*pair, body=np.s_[:, 1:10, 12:24])  # a body at the image's left border
    np.testing.assert_array_equal(labels, kept(*pair))
    labels, _ = cleaned(*pair, body=BODY)  # both left of its middle
    np.testing.assert_array_equal(labels, kept(pair[0]))


def test_the_middle_is_taken_where_the_kidneys_are():
    pair = RIGHT, (2, np.s_[3:6, 7:9, 13:15])
    label_map, volume = scan(*pair)
    hu = np.full(SHAPE, AIR_HU, dtype=np.int16)
    hu[2:6] = volume.hu[2:6]  # its middle is at 12
    hu[:2, :, 20:] = hu[6:, :, 20:] = 40  # with these it would be at 15
    found, _ = clean_labels(label_map, Volume(hu=hu, grid=GRID), ORGANS, CONFIG)
    np.testing.assert_array_equal(found.labels, kept(*pair))


def test_without_a_body_the_images_middle_divides():
    labels, _ = cleaned(RIGHT, LEFT, RIGHT_TOO, body=np.s_[:0])
    np.testing.assert_array_equal(labels, kept(RIGHT, LEFT))


def test_other_organs_can_be_paired():
    config = PostprocessConfig(keep_share=0.25, paired=("liver",))
    labels, _ = cleaned(LARGE, QUARTER, RIGHT, RIGHT_TOO, config=config)
    np.testing.assert_array_equal(labels, kept(LARGE, RIGHT, RIGHT_TOO))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flipped", [(False, False, True), (True, True, False)])
def test_the_stored_orientation_does_not_matter(axes, flipped):
    label_map, volume = scan(LARGE, SMALLER, RIGHT, LEFT, RIGHT_TOO)
    expected, removals = clean_labels(label_map, volume, ORGANS, CONFIG)
    turn = Reorientation(axes=axes, flipped=flipped)
    grid = turn.apply_to_grid(GRID)
    stored = (
        LabelMap(labels=turn.apply(label_map.labels), grid=grid),
        Volume(hu=np.ascontiguousarray(turn.apply(volume.hu)), grid=grid),
    )
    found, others = clean_labels(*stored, ORGANS, CONFIG)
    np.testing.assert_array_equal(turn.undo(found.labels), expected.labels)
    assert [removal.components for removal in others] == [removal.components for removal in removals] == [1, 1, 0, 0]


def test_the_given_labels_are_left_as_they_are():
    label_map, volume = scan(LARGE, SMALLER)
    before = label_map.labels.copy()
    clean_labels(label_map, volume, ORGANS, CONFIG)
    np.testing.assert_array_equal(label_map.labels, before)


def test_labels_outside_the_table_stay():
    other = (9, np.s_[0, 0, 0])
    labels, _ = cleaned(LARGE, other, (9, np.s_[5:9, 5, 5]))
    assert labels[0, 0, 0] == 9


def test_an_empty_label_map_stays_empty():
    labels, removed = cleaned()
    assert not labels.any()
    assert [removal.volume_ml for removal in removed.values()] == [0.0] * 4


def test_notes_name_what_was_removed_and_nothing_else():
    removals = [
        Removal(organ="liver", components=0, volume_ml=0.0),
        Removal(organ="kidney", components=1, volume_ml=0.126),
        Removal(organ="spleen", components=3, volume_ml=12.0),
        Removal(organ="pancreas", components=1, volume_ml=0.004),  # would be shown as 0.00 ml
    ]
    assert removal_notes(removals) == (
        "Post-processing removed 0.13 ml of kidney in 1 small component.",
        "Post-processing removed 12.00 ml of spleen in 3 small components.",
    )


def test_grids_that_differ():
    label_map, volume = scan(LARGE)
    moved = Grid.from_axes(SHAPE, spacing_zyx_mm=(3, 2, 1), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(0, 0, 0))
    with pytest.raises(GeometryError, match="post-processing labels"):
        clean_labels(LabelMap(labels=label_map.labels, grid=moved), volume, ORGANS, CONFIG)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share):
    with pytest.raises(ConfigError, match="keep_share"):
        PostprocessConfig(keep_share=share)
