"""Connected parts against worked examples and against SciPy; boxes and faces of labels."""

import itertools

import numpy as np
import pytest

from viscera.core.components import connected_components, label_boxes, touched_faces
from viscera.core.geometry import Grid, Reorientation

SHAPE = (10, 11, 12)


def mask_of(*voxels, shape=SHAPE):
    mask = np.zeros(shape, dtype=np.bool_)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def numbered(components):
    """The parts as one array: 1 for the largest, 2 for the next."""
    found = np.zeros(components.shape_zyx, dtype=np.int64)
    for part in range(components.count):
        found[components.voxels(np.arange(components.count) == part)] = part + 1
    return found


def test_parts_come_largest_first_with_sizes_and_centres():
    small, large = np.s_[1, 2, 3:5], np.s_[4:6, 5, 7:10]
    components = connected_components(mask_of(small, large))
    assert components.sizes_vox.tolist() == [6, 2]
    assert components.centres_zyx_vox().tolist() == [[4.5, 5.0, 8.0], [1.0, 2.0, 3.5]]
    expected = mask_of(large).astype(int) + 2 * mask_of(small)
    np.testing.assert_array_equal(numbered(components), expected)


def test_of_equal_parts_the_first_in_scan_order_comes_first():
    components = connected_components(mask_of((7, 1, 1), (2, 9, 9), (2, 3, 4)))
    assert components.centres_zyx_vox().tolist() == [[2, 3, 4], [2, 9, 9], [7, 1, 1]]


@pytest.mark.parametrize(
    "step", [step for step in itertools.product((-2, -1, 0, 1, 2), repeat=3) if any(step)], ids=str
)
def test_which_voxels_are_neighbours(step):
    mask = mask_of((4, 5, 6), tuple(np.add((4, 5, 6), step)))
    apart = np.abs(step)
    assert connected_components(mask).count == (1 if apart.max() <= 1 else 2)
    assert connected_components(mask, corners=False).count == (1 if apart.sum() <= 1 else 2)


@pytest.mark.parametrize(
    "pair", [((0, 0, 11), (0, 1, 0)), ((0, 10, 3), (1, 0, 3)), ((0, 10, 11), (1, 0, 0)), ((3, 0, 0), (3, 10, 11))]
)
def test_nothing_is_joined_across_the_border(pair):
    assert connected_components(mask_of(*pair)).count == 2


def test_a_winding_part_is_one():
    # A path that doubles back in every row: the joins of one round do not reach its end.
    mask = np.zeros((1, 41, 30), dtype=np.bool_)
    mask[0, ::2] = True
    mask[0, 1::4, -1] = mask[0, 3::4, 0] = True
    assert connected_components(mask, corners=False).sizes_vox.tolist() == [21 * 30 + 20]


@pytest.mark.parametrize("shape", [(1, 1, 1), SHAPE])
def test_an_empty_mask_has_no_part(shape):
    components = connected_components(np.zeros(shape, dtype=np.bool_))
    assert (components.count, components.centres_zyx_vox().shape) == (0, (0, 3))
    assert all(axis.size == 0 for axis in components.voxels(np.zeros(0, dtype=np.bool_)))


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.12, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [SHAPE, (1, 17, 9), (13, 1, 8), (9, 14, 1)])
def test_parts_are_scipys(shape, share, corners):
    ndimage = pytest.importorskip("scipy.ndimage")
    mask = np.random.default_rng(5).random(shape) < share
    structure = ndimage.generate_binary_structure(3, 3 if corners else 1)
    expected, count = ndimage.label(mask, structure)
    components = connected_components(mask, corners=corners)
    found = numbered(components)
    # Both number the same parts, each in its own order.
    pairs = {(int(one), int(other)) for one, other in zip(found[mask], expected[mask], strict=True)}
    assert len(pairs) == components.count == count
    assert (found > 0).tolist() == mask.tolist()
    assert components.sizes_vox.tolist() == sorted(np.bincount(expected.ravel())[1:].tolist(), reverse=True)
    for part, label in pairs:
        expected_centre = ndimage.center_of_mass(expected == label)
        assert components.centres_zyx_vox()[part - 1] == pytest.approx(expected_centre)


def test_the_memory_layout_does_not_matter():
    mask = np.random.default_rng(6).random(SHAPE) < 0.2
    turned = np.ascontiguousarray(mask.transpose(2, 0, 1)[::-1]).transpose(1, 2, 0)
    straight = np.ascontiguousarray(turned)
    one, other = connected_components(turned), connected_components(straight)
    np.testing.assert_array_equal(numbered(one), numbered(other))


def test_boxes_of_labels():
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:5, 7, 1:9] = 3
    labels[9, 10, 11] = labels[0, 0, 0] = 1
    boxes = label_boxes(labels)
    assert list(boxes) == [1, 3]
    assert boxes[3] == (slice(2, 5), slice(7, 8), slice(1, 9))
    assert boxes[1] == (slice(0, 10), slice(0, 11), slice(0, 12))


def test_a_map_without_labels_has_no_boxes():
    assert label_boxes(np.zeros(SHAPE, dtype=np.uint8)) == {}


GRID = Grid.from_axes(SHAPE, spacing_zyx_mm=(3, 2, 1), direction_zyx=np.eye(3)[:, ::-1], origin_xyz_mm=(5, 6, 7))
REACHING = {
    (): (slice(1, 9), slice(1, 10), slice(1, 11)),
    ("inferior",): (slice(0, 9), slice(1, 10), slice(1, 11)),
    ("superior",): (slice(1, 10), slice(1, 10), slice(1, 11)),
    ("anterior", "right"): (slice(1, 9), slice(0, 10), slice(0, 11)),
    ("posterior", "left"): (slice(1, 9), slice(1, 11), slice(1, 12)),
}


@pytest.mark.parametrize("faces", REACHING, ids=str)
def test_faces_that_are_reached(faces):
    assert touched_faces(REACHING[faces], GRID) == faces


@pytest.mark.parametrize("faces", REACHING, ids=str)
def test_faces_do_not_depend_on_how_the_array_is_stored(faces):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[REACHING[faces]] = 1
    turn = Reorientation(axes=(2, 0, 1), flipped=(True, False, True))
    (box,) = label_boxes(turn.apply(labels)).values()
    assert touched_faces(box, turn.apply_to_grid(GRID)) == faces


def test_the_parts_of_one_label_are_those_of_its_mask() -> None:
    labels = np.random.default_rng(2).integers(0, 4, size=(5, 6, 7), dtype=np.uint8)
    found, expected = connected_components(labels, value=3), connected_components(labels == 3)
    assert found.sizes_vox.tolist() == expected.sizes_vox.tolist()
    np.testing.assert_array_equal(found.starts_vox, expected.starts_vox)


def test_parts_go_on_from_one_slab_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(3).random((9, 5, 6)) < 0.3
    expected = connected_components(mask)
    monkeypatch.setattr("viscera.core.components._SLAB_VOXELS", 2 * 6 * 8)  # two padded slices
    found = connected_components(mask)
    np.testing.assert_array_equal(found.parts, expected.parts)
    np.testing.assert_array_equal(found.starts_vox, expected.starts_vox)
