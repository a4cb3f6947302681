"""Labels on the scan's grid against values worked by hand and a float64 reference."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

import viscera.restore
from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid, Reorientation
from viscera.restore import restore_labels

UPRIGHT = np.eye(3)[:, ::-1]
SCAN = Grid.from_axes((40, 50, 60), spacing_zyx_mm=(3, 2, 1), direction_zyx=UPRIGHT, origin_xyz_mm=(5, 6, 7))


def upright(shape, spacing, origin):
    return Grid.from_axes(shape, spacing_zyx_mm=spacing, direction_zyx=UPRIGHT, origin_xyz_mm=origin)


def noise(shape, seed=0):
    values = np.random.default_rng(seed).random((5, *shape), dtype=np.float32)
    return values / values.sum(axis=0)


def organ_like(shape):
    """Smooth blobs in sure background: what a network answers."""
    places = np.indices(shape)
    probabilities = np.zeros((5, *shape), dtype=np.float32)
    for label in range(1, 5):
        middle = np.array(shape) * (0.25 + 0.125 * label)
        distance = np.sqrt(((places - middle[:, None, None, None]) ** 2).sum(axis=0))
        probabilities[label] = 1 / (1 + np.exp(2 * (distance - 2.5 - 0.3 * label)))
    probabilities[0] = 1 - probabilities[1:].max(axis=0)
    return probabilities / probabilities.sum(axis=0)


def reference(probabilities, region, grid):
    """Labels and the lead of the likeliest over the next, from float64 probabilities at full size."""
    offset, step = grid.positions_in(region)
    axes = [offset[k] + step[k] * np.arange(grid.shape_zyx[k]) for k in range(3)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    full = np.stack(
        [ndimage.map_coordinates(p.astype(np.float64), places, order=1, mode="nearest") for p in probabilities]
    )
    limits = np.reshape(region.shape_zyx, (3, 1, 1, 1)) - 0.5
    inside = ((places >= -0.5) & (places <= limits)).all(axis=0)
    ordered = np.sort(full, axis=0)
    return np.where(inside, full.argmax(axis=0), 0), np.where(inside, ordered[-1] - ordered[-2], 1.0)


def test_the_border_lies_where_probabilities_cross():
    # Region voxels of 2 mm along x; label 1 rises from 0.1 to 0.9 between the second and the third.
    probabilities = np.zeros((2, 2, 3, 4), dtype=np.float32)
    probabilities[1] = (0.1, 0.1, 0.9, 0.9)
    probabilities[0] = 1 - probabilities[1]
    region = upright((2, 3, 4), (2, 2, 2), (1.0, 1.0, 1.0))
    grid = upright((1, 1, 16), (1, 1, 0.5), (0.25, 1.0, 1.0))
    # Centres run 0.25, 0.75, ... 7.75 mm; the crossing lies at 4 mm, halfway between the centres 3 and 5 mm.
    assert restore_labels(probabilities, region, grid).ravel().tolist() == [0] * 8 + [1] * 8


def test_label_is_the_likeliest_after_interpolation_not_before():
    # Halfway between two voxels with winners 1 and 2, label 3 is likeliest: 0.4 against 0.3 and 0.3.
    probabilities = np.zeros((4, 1, 1, 2), dtype=np.float32)
    probabilities[:, 0, 0, 0] = (0.0, 0.6, 0.0, 0.4)
    probabilities[:, 0, 0, 1] = (0.0, 0.0, 0.6, 0.4)
    region = upright((1, 1, 2), (2, 2, 2), (0, 0, 0))
    grid = upright((1, 1, 3), (2, 2, 1), (0, 0, 0))
    assert restore_labels(probabilities, region, grid).ravel().tolist() == [1, 3, 2]


@pytest.mark.parametrize(("values", "label"), [((0.5, 0.5, 0, 0), 0), ((0.2, 0.4, 0.4, 0), 1), ((0, 0, 0.5, 0.5), 2)])
def test_ties_go_to_the_lower_label(values, label):
    probabilities = np.broadcast_to(np.reshape(values, (4, 1, 1, 1)), (4, 2, 3, 4)).astype(np.float32)
    region = upright((2, 3, 4), (2, 2, 2), (0, 0, 0))
    np.testing.assert_array_equal(restore_labels(probabilities, region, region), label)


def test_beyond_the_outer_faces_is_background():
    probabilities = np.zeros((5, 4, 5, 6), dtype=np.float32)
    probabilities[2] = 1.0
    region = SCAN.centred(SCAN.box((slice(8, 16), slice(10, 20), slice(20, 40))), (4, 5, 6), 4.0)
    labels = restore_labels(probabilities, region, SCAN)
    # 16, 20 and 24 mm around the middle of the box at 36, 30 and 30 mm: faces at 28-44, 20-40 and 18-42 mm.
    expected = np.zeros(SCAN.shape_zyx, dtype=np.uint8)
    expected[9:15, 10:20, 18:42] = 2  # centres at 3 k + 1.5, 2 k + 1 and k + 0.5 mm
    np.testing.assert_array_equal(labels, expected)


def test_a_region_wholly_outside_the_scan_leaves_background():
    probabilities = np.zeros((5, 4, 5, 6), dtype=np.float32)
    probabilities[2] = 1.0
    labels = restore_labels(probabilities, upright((4, 5, 6), (2, 2, 2), (900, 0, 0)), SCAN)
    assert labels.shape == SCAN.shape_zyx
    assert not labels.any()


@pytest.mark.parametrize("make", [noise, organ_like])
@pytest.mark.parametrize("spacing_mm", [2.0, 3.7, 9.0], ids=["fitting", "reaching out", "far out"])
def test_equals_interpolating_all_probabilities_in_float64(make, spacing_mm):
    region = SCAN.centred(SCAN.box((slice(4, 33), slice(5, 45), slice(10, 50))), (16, 17, 18), spacing_mm)
    probabilities = make(region.shape_zyx)
    expected, lead = reference(probabilities, region, SCAN)
    labels = restore_labels(probabilities, region, SCAN)
    clear = lead > 1e-5
    assert clear.mean() > 0.99
    assert len(np.unique(labels)) == 5
    np.testing.assert_array_equal(labels[clear], expected[clear])


def test_sure_background_is_skipped_without_a_difference(monkeypatch):
    region = SCAN.centred(SCAN.box(), (20, 21, 22), 5.0)
    probabilities = organ_like(region.shape_zyx)
    skipping = restore_labels(probabilities, region, SCAN)
    monkeypatch.setattr(viscera.restore, "_SURE_LEAD", np.inf)  # nothing is ever sure
    np.testing.assert_array_equal(skipping, restore_labels(probabilities, region, SCAN))


def test_values_that_are_not_numbers_are_not_taken_for_sure_background():
    probabilities = np.zeros((5, 4, 5, 6), dtype=np.float32)
    probabilities[0] = np.nan
    probabilities[3] = 1.0
    assert viscera.restore._unsure(probabilities).all()


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flipped", [(False, False, True), (True, True, False)])
def test_turning_everything_turns_the_labels(axes, flipped):
    turn = Reorientation(axes=axes, flipped=flipped)
    region = SCAN.centred(SCAN.box(), (20, 21, 22), 5.0)
    probabilities = organ_like(region.shape_zyx)
    expected = turn.apply(restore_labels(probabilities, region, SCAN))
    turned = restore_labels(turn.apply(probabilities), turn.apply_to_grid(region), turn.apply_to_grid(SCAN))
    assert turned.flags.c_contiguous
    # Turned arrays are summed in another order, which may decide a voxel on the very border.
    assert (turned != expected).mean() < 1e-4


def test_the_result_is_bytes_in_c_order():
    labels = restore_labels(noise((4, 5, 6)), upright((4, 5, 6), (9, 9, 9), (5, 6, 7)), SCAN)
    assert labels.dtype == np.uint8
    assert labels.flags.c_contiguous


def test_threads_do_not_change_a_bit(monkeypatch):
    region = SCAN.centred(SCAN.box(), (20, 21, 22), 5.0)
    results = []
    for workers in (1, 3):
        monkeypatch.setattr(viscera.restore, "worker_count", lambda workers=workers: workers)
        results.append(restore_labels(noise(region.shape_zyx), region, SCAN))
    np.testing.assert_array_equal(*results)


def test_memory_holds_no_probability_map_of_the_scans_size():
    grid = upright((150, 160, 192), (1, 1, 1), (0, 0, 0))
    region = grid.centred(grid.box(), (16, 17, 18), 12.0)
    probabilities = noise(region.shape_zyx)
    restore_labels(probabilities, region, grid)
    tracemalloc.start()
    restore_labels(probabilities, region, grid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    voxels = 150 * 160 * 192
    assert peak < 2 * voxels  # the labels are one byte each; one float map would be four


def test_probabilities_not_on_the_region_are_refused():
    with pytest.raises(GeometryError, match="restoring labels"):
        restore_labels(noise((4, 5, 6)), upright((4, 5, 7), (2, 2, 2), (0, 0, 0)), SCAN)


def test_grids_that_are_not_parallel_are_refused():
    region = SCAN.centred(SCAN.box(), (4, 5, 6), 5.0)
    mirrored = Reorientation(axes=(0, 1, 2), flipped=(False, True, False)).apply_to_grid(region)
    with pytest.raises(GeometryError, match="parallel axes"):
        restore_labels(noise((4, 5, 6)), mirrored, SCAN)
