"""What of a scan a page shows: where it lies, how large it is, and where the organs are."""

import io

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from viscera.core.errors import GeometryError
from viscera.core.geometry import Grid, Reorientation
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap, Volume
from viscera.viewer.display_images import MARGIN_MM, around_organs, fitted, on_grid
from viscera.viewer.nifti_image import NiftiImage
from viscera.viewer.organs import known_labels, organ_rows
from viscera.viewer.provenance import shape_notes

# Voxels run to the feet, to the front and to the left, a little oblique.
GRID = Grid(
    shape_zyx=(40, 50, 60),
    affine=np.array([[0.1, 0, 2, -70], [0, -3, 0.1, 60], [-4, 0, 0, 90], [0, 0, 0, 1.0]]),
)
# A cuboid of liver and one of spleen: half-open voxel ranges (z, y, x).
LIVER = (slice(12, 20), slice(20, 30), slice(18, 33))
SPLEEN = (slice(14, 18), slice(22, 27), slice(40, 46))


def labelled(grid: Grid = GRID) -> LabelMap:
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    labels[LIVER], labels[SPLEEN] = 1, 3
    return LabelMap(labels=labels, grid=grid)


def scan(grid: Grid = GRID) -> Volume:
    """HU that say where a voxel lies: a linear function of its world position."""
    index = np.stack(np.indices(grid.shape_zyx), axis=-1)
    return Volume(hu=hu_at(grid.world(index)).astype(np.int16), grid=grid, notes=("a note",))


def hu_at(points_xyz_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.rint(points_xyz_mm @ (1.0, -2.0, 1.5))


def test_a_small_scan_is_shown_as_it_is() -> None:
    volume, label_map = scan(), labelled()
    shown = fitted(volume, label_map, 40 * 50 * 60)
    assert shown.volume is volume
    assert shown.label_map is label_map
    assert not shown.coarsened


def test_a_large_scan_is_coarsened_over_the_same_extent_and_stays_in_place() -> None:
    shown = fitted(scan(), labelled(), 20_000)
    grid = shown.volume.grid
    assert shown.coarsened
    assert 10_000 < np.prod(grid.shape_zyx) <= 20_000
    assert sorted(grid.extent_zyx_mm) == pytest.approx(sorted(GRID.extent_zyx_mm))
    # Linear HU stay what they are at every place, but for the rounding and the smoothed edges.
    inner = np.stack(np.indices(grid.shape_zyx), axis=-1)[3:-3, 3:-3, 3:-3]
    assert np.abs(hu_at(grid.world(inner)) - shown.volume.hu[3:-3, 3:-3, 3:-3]).max() < 3


@pytest.mark.parametrize("most", [40_000, 90_000])
def test_coarsened_labels_keep_their_place_and_volume(most: int) -> None:
    label_map = labelled()
    shown = fitted(scan(), label_map, most)
    assert shown.label_map is not None
    for index in (1, 3):
        before, after = (np.argwhere(one.labels == index) for one in (label_map, shown.label_map))
        centres = [
            one.grid.world(points.mean(axis=0)) for one, points in ((label_map, before), (shown.label_map, after))
        ]
        assert np.linalg.norm(centres[0] - centres[1]) < np.linalg.norm(shown.volume.grid.spacing_zyx_mm) / 2
        volumes_ml = len(before) * GRID.voxel_ml, len(after) * shown.label_map.grid.voxel_ml
        assert volumes_ml[1] == pytest.approx(volumes_ml[0], rel=0.35)


def test_thick_slices_are_kept_while_pixels_are_coarsened() -> None:
    thick = Grid(shape_zyx=(10, 80, 80), affine=np.diag([1.0, 1.0, 8.0, 1.0])[:, [2, 1, 0, 3]])
    hu = np.zeros(thick.shape_zyx, dtype=np.int16)
    shape = fitted(Volume(hu=hu, grid=thick), None, 4000).volume.grid.shape_zyx
    assert shape[0] == 10
    assert shape[1] == shape[2] < 30


def test_the_region_holds_the_organs_and_the_margin_and_keeps_voxels_where_they_are() -> None:
    volume, label_map = around_organs(scan(), labelled())
    # 30 mm are 7.5 voxels of 4 mm, 10 of 3 mm and 15 of 2 mm; axes are hardly longer than these.
    assert volume.grid.shape_zyx == (8 + 2 * 8, 10 + 2 * 10, 60 - 3)
    assert MARGIN_MM == 30
    places = volume.grid.world(np.stack(np.indices(volume.hu.shape), axis=-1))
    np.testing.assert_allclose(volume.hu, hu_at(places), atol=1)  # halves are rounded either way
    assert (label_map.labels == 1).sum() == 8 * 10 * 15
    assert volume.notes == ("a note",)


def test_the_zoom_brings_the_farthest_corner_of_the_organs_to_where_the_scans_was() -> None:
    # The organs reach from voxel 12 to 20 of 40, 20 to 30 of 50, 18 to 46 of 60, at 4, 3 and 2 mm.
    shown = fitted(scan(), labelled(), 40 * 50 * 60)
    steps_mm = GRID.spacing_zyx_mm
    farthest_mm = np.linalg.norm(np.array([8, 5, 16]) * steps_mm)
    assert shown.zoom() == pytest.approx(np.linalg.norm(np.array([20, 25, 30]) * steps_mm) / farthest_mm)
    assert fitted(scan(), None, 40 * 50 * 60).zoom() == 1


def test_without_organs_the_region_is_the_whole_scan() -> None:
    volume = scan()
    none = LabelMap(labels=np.zeros(GRID.shape_zyx, dtype=np.uint8), grid=GRID)
    assert around_organs(volume, none)[0] is volume


def test_labels_stored_along_other_axes_are_laid_over_the_ct() -> None:
    turn = Reorientation(axes=(2, 0, 1), flipped=(True, False, True))
    turned = LabelMap(labels=turn.apply(labelled().labels), grid=turn.apply_to_grid(GRID))
    laid = on_grid(turned, GRID)
    np.testing.assert_array_equal(laid.labels, labelled().labels)
    assert laid.grid is GRID


@pytest.mark.parametrize("change", ["shape", "shift", "spacing"])
def test_labels_of_other_voxels_are_refused(change: str) -> None:
    affine = GRID.affine.copy()
    affine[0, 3] += 0.5 * (change == "shift")
    affine[:3, 0] *= 1.001 if change == "spacing" else 1
    grid = Grid(shape_zyx=(40, 50, 61 if change == "shape" else 60), affine=affine)
    with pytest.raises(GeometryError, match="labels of the CT's own voxels"):
        on_grid(labelled(grid), GRID)


def test_an_organs_point_lies_within_it_in_the_viewers_world() -> None:
    liver, kidney, spleen, _ = organ_rows(scan(), labelled(), ORGANS)
    assert kidney.inside_ras_mm is None
    for row, voxels in ((liver, LIVER), (spleen, SPLEEN)):
        assert row.inside_ras_mm is not None
        inverse = np.linalg.inv(GRID.nifti_affine())
        i, j, k = np.rint((inverse @ (*row.inside_ras_mm, 1))[:3]).astype(int)
        assert all(part.start <= index < part.stop for part, index in zip(voxels, (k, j, i), strict=True))


def test_an_organ_in_two_parts_is_shown_in_one_of_them() -> None:
    labels = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    labels[10:14, 20:24, 10:20] = labels[10:14, 20:24, 40:48] = 2
    row = organ_rows(scan(), LabelMap(labels=labels, grid=GRID), ORGANS)[1]
    assert row.inside_ras_mm is not None
    i, j, k = np.rint((np.linalg.inv(GRID.nifti_affine()) @ (*row.inside_ras_mm, 1))[:3]).astype(int)
    assert (k, j, i) == (10, 20, 14)  # the middle of the longer part


def test_labels_that_are_no_organ_are_left_out_and_named() -> None:
    labels = labelled().labels.copy()
    labels[0, 0, :7], labels[0, 1, 0] = 200, 9
    known, note = known_labels(LabelMap(labels=labels, grid=GRID), ORGANS)
    np.testing.assert_array_equal(known.labels, labelled().labels)
    assert note == "Labels that are no organ of the table are not shown: 9 (1 voxels), 200 (7 voxels)."


def test_labels_that_are_all_organs_are_left_as_they_are() -> None:
    label_map = labelled()
    assert known_labels(label_map, ORGANS) == (label_map, None)


def test_packed_images_are_read_by_nibabel_and_equal_each_time() -> None:
    image = NiftiImage(array=scan().hu, grid=GRID)
    assert image.packed() == image.packed()
    read = nib.Nifti1Image.from_bytes(b"".join(image.chunks()))
    assert image.size_bytes == len(b"".join(image.chunks()))
    np.testing.assert_array_equal(np.asarray(read.dataobj).T, scan().hu)
    np.testing.assert_allclose(read.affine, GRID.nifti_affine(), atol=1e-4)
    assert io.BytesIO(image.packed()).read(2) == b"\x1f\x8b"


def test_only_oblique_scans_get_a_note() -> None:
    upright = Grid(shape_zyx=(3, 4, 5), affine=np.diag([1.0, -2.0, 3.0, 1.0])[:, [2, 1, 0, 3]])
    assert shape_notes(upright) == ()
    assert "oblique" in shape_notes(GRID)[0]
