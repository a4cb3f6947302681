"""Anatomies from label maps: the core filled, depths, donors where they belong, mirrored and missing organs."""

import numpy as np
import pytest

from viscera.core.errors import VisceraError
from viscera.core.geometry import Grid
from viscera.core.volume import LabelMap
from viscera.synthesis.build import donor_map, head_map, make_anatomy, trunk_map, with_donor, write_anatomies
from viscera.synthesis.tissues import DONOR_TISSUES, ORGANS, Tissue

CANONICAL = np.eye(3)[:, ::-1]


def empty(shape=(6, 40, 44)):
    return np.zeros(shape, dtype=np.uint8)


def posts():
    """Four bones at the corners of a square of 33 voxels, in every slice."""
    tissues = empty()
    for y in (3, 33):
        for x in (5, 35):
            tissues[:, y : y + 3, x : x + 3] = Tissue.BONE
    return tissues


def with_middle(tissue):
    tissues = posts()
    tissues[:, 16:23, 18:25] = tissue
    return make_anatomy("posts", tissues).tissues


def test_named_voxels_keep_their_names(small_tissues, small_anatomy):
    named = (small_tissues > 0) & (small_tissues != Tissue.LUNG)
    np.testing.assert_array_equal(small_anatomy.tissues[named], small_tissues[named])
    lung = small_anatomy.tissues[small_tissues == Tissue.LUNG]
    assert set(lung.tolist()) <= {Tissue.LUNG, Tissue.MUSCLE}  # where the diaphragm is


def test_unnamed_voxels_within_the_core_are_filled_and_none_beyond():
    filled = with_middle(Tissue.LIVER)
    assert (filled[:, 5:34, 7:36] != Tissue.OUTSIDE).all()
    assert (filled[:, :2] == Tissue.OUTSIDE).all()
    assert (filled[:, :, 40:] == Tissue.OUTSIDE).all()


def test_beside_an_organ_the_core_is_interior_and_at_its_surface_muscle():
    filled = with_middle(Tissue.LIVER)
    assert (filled[:, 19, 14:18] == Tissue.INTERIOR).all()
    assert (filled[:, 19, 6:8] == Tissue.MUSCLE).all()  # at most 6 mm below the surface


def test_at_a_lung_the_wall_is_no_muscle():
    tissues = posts()
    tissues[:, 8:30, 9:32] = Tissue.LUNG  # 4 voxels below the surface
    filled = make_anatomy("lung", tissues).tissues
    assert (filled[:, 19, 5:9] == Tissue.INTERIOR).all()


def between_liver_and_lung(gap):
    """Along y: eight voxels of liver, `gap` unnamed ones, eight of lung, far from the core's surface."""
    tissues = np.zeros((4, 60, 60), dtype=np.uint8)
    tissues[:, 2:4, 2:58] = tissues[:, 56:58, 2:58] = Tissue.BONE
    tissues[:, 20:28, 15:45] = Tissue.LIVER
    tissues[:, 28 + gap : 36 + gap, 15:45] = Tissue.LUNG
    return make_anatomy("gap", tissues).tissues[2, 28:36, 30]


def test_between_liver_and_lung_lies_the_diaphragm_and_then_lung():
    line = between_liver_and_lung(4).tolist()
    muscle = line.count(Tissue.MUSCLE)
    assert 1 <= muscle <= 3  # 2.5 to 6.5 mm, in voxels of 2 mm
    assert line == [Tissue.MUSCLE] * muscle + [Tissue.LUNG] * (8 - muscle)


def test_a_lung_that_touches_the_liver_gives_way_to_the_diaphragm():
    line = between_liver_and_lung(0).tolist()
    assert line[0] == Tissue.MUSCLE
    assert line[4:] == [Tissue.LUNG] * 4


def test_far_from_lung_and_wall_fat_stays_beside_the_liver():
    assert (with_middle(Tissue.LIVER)[:, 19, 14:18] == Tissue.INTERIOR).all()


def test_beside_bone_the_core_is_muscle():
    filled = with_middle(Tissue.BONE)
    assert (filled[:, 19, 12:18] == Tissue.MUSCLE).all()


def test_kidneys_lie_in_fat():
    filled = with_middle(Tissue.KIDNEY_LEFT)
    # The kidney ends at x = 24: 3 voxels beyond are 6 mm away, 4 are 8 mm.
    assert (filled[:, 19, 25:28] == Tissue.FAT).all()
    assert (filled[:, 19, 28] == Tissue.INTERIOR).all()


def test_depth_counts_half_millimetres_from_the_surface():
    tissues = empty((9, 30, 34))
    tissues[:, 12:17, 11:18] = Tissue.BONE  # 5 x 7 voxels through all slices
    depth = make_anatomy("post", tissues).depth
    # Within: voxel centres to the nearest centre beyond, 1, 2 and 3 voxels of 2 mm; ends of the array are no surface.
    assert depth[0, 12:17, 14].tolist() == depth[4, 12:17, 14].tolist() == [4, 8, 12, 8, 4]
    # Beyond: to the nearest voxel of the core; diagonally sqrt(2) voxels are 2.83 mm, 5.66 halves, stored as 6.
    assert depth[4, 14, 18:22].tolist() == [4, 8, 12, 16]
    assert depth[4, 17, 18] == 6


def test_depth_ends_at_what_a_byte_holds():
    tissues = empty((1, 9, 90))
    tissues[:, 3:6, :4] = Tissue.BONE
    assert make_anatomy("far", tissues).depth[0, 4, [66, 67, 89]].tolist() == [252, 255, 255]  # 126, 128 and 172 mm


def test_the_organs_places(small_tissues, small_anatomy):
    centre, radius = small_anatomy.organs[Tissue.KIDNEY_LEFT]
    np.testing.assert_allclose(centre, (15, 30, 54), atol=1e-9)
    # The deviation of an ellipsoid along an axis is its radius by the root of 5; 1 voxel is added.
    np.testing.assert_allclose(radius, np.array([8, 6, 5]) / np.sqrt(5) + 1, atol=0.15)


def test_remains_of_organs_are_no_organs(small_tissues):
    tissues = small_tissues.copy()
    spleen = np.argwhere(tissues == Tissue.SPLEEN)
    tissues[tuple(spleen[624:].T)] = 0  # 624 voxels of 8 ul are a little less than 5 ml
    organs = make_anatomy("cut", tissues).organs
    assert Tissue.SPLEEN not in organs
    assert len(organs) == len(ORGANS) - 1


def as_donor(tissues):
    """What a multi-organ map of these organs would be: no right kidney, cut to its organs."""
    kept = np.where(np.isin(tissues, list(DONOR_TISSUES.values())), tissues, 0).astype(np.uint8)
    points = np.argwhere(kept)
    return kept[tuple(slice(a, b + 1) for a, b in zip(points.min(0), points.max(0), strict=True))]


def middle(tissues, tissue):
    return np.argwhere(tissues == tissue).mean(axis=0)


def height(tissues, tissue):
    return np.ptp(np.argwhere(tissues == tissue)[:, 0]) + 1


def test_the_own_organs_as_donor_change_nothing(small_tissues):
    result = with_donor(small_tissues, as_donor(small_tissues), mirror_kidney=False)
    np.testing.assert_array_equal(result, small_tissues)


def test_where_the_donor_lies_in_its_own_map_does_not_matter(small_tissues):
    donor = as_donor(small_tissues)
    moved = np.pad(donor, ((3, 1), (7, 0), (2, 9)))
    np.testing.assert_array_equal(
        with_donor(small_tissues, moved, mirror_kidney=False), with_donor(small_tissues, donor, mirror_kidney=False)
    )


def test_a_smaller_donor_is_scaled_to_the_trunk_and_laid_by_pancreas_and_left_kidney(small_tissues):
    donor = as_donor(small_tissues)
    places = [np.rint(np.linspace(0, count - 1, round(count * 0.9))).astype(int) for count in donor.shape]
    result = with_donor(small_tissues, donor[np.ix_(*places)], mirror_kidney=False)
    for organ in (Tissue.LIVER, Tissue.SPLEEN, Tissue.PANCREAS, Tissue.KIDNEY_LEFT):
        np.testing.assert_allclose(middle(result, organ), middle(small_tissues, organ), atol=1.5)
        assert np.count_nonzero(result == organ) == pytest.approx(np.count_nonzero(small_tissues == organ), rel=0.15)


def test_a_donor_is_scaled_by_a_quarter_at_most(small_tissues):
    donor = as_donor(small_tissues)[::2, ::2, ::2]
    result = with_donor(small_tissues, donor, mirror_kidney=False)
    assert height(result, Tissue.LIVER) == pytest.approx(1.25 * height(donor, Tissue.LIVER), abs=1)


def test_the_height_of_a_cut_liver_does_not_squeeze_the_donor(small_tissues):
    host = small_tissues[:23]  # cut through the liver
    assert (host[-1] == Tissue.LIVER).any()
    result = with_donor(host, as_donor(small_tissues), mirror_kidney=False)
    assert result.shape == host.shape
    assert height(result, Tissue.PANCREAS) == pytest.approx(height(host, Tissue.PANCREAS), abs=1)
    assert (result[-1] == Tissue.LIVER).any()


def test_bones_and_vessels_of_the_trunk_are_kept(small_tissues):
    donor = as_donor(small_tissues)
    donor[donor == 0] = Tissue.STOMACH  # as if it filled everything
    result = with_donor(small_tissues, donor, mirror_kidney=False)
    for tissue in (Tissue.BONE, Tissue.ARTERY, Tissue.KIDNEY_RIGHT):
        np.testing.assert_array_equal(result == tissue, small_tissues == tissue)


def test_the_trunks_own_organs_go(small_tissues):
    donor = as_donor(small_tissues)
    donor[donor == Tissue.SPLEEN] = 0
    result = with_donor(small_tissues, donor, mirror_kidney=False)
    assert not (result == Tissue.SPLEEN).any()
    assert (small_tissues == Tissue.SPLEEN).any()


def test_lung_takes_the_place_of_an_organ_beside_it(small_tissues):
    host = small_tissues.copy()
    host[34, 22, 51] = Tissue.SPLEEN  # within the lung
    result = with_donor(host, as_donor(small_tissues), mirror_kidney=False)
    assert result[34, 22, 51] == Tissue.LUNG


def test_the_mirrored_left_kidney_takes_the_place_of_the_right_one(small_tissues):
    host = small_tissues.copy()
    host[12:18, 28:33, 54:60][host[12:18, 28:33, 54:60] == Tissue.KIDNEY_LEFT] = 0  # its hilum, on one side
    result = with_donor(host, as_donor(host), mirror_kidney=True)
    right, left = (np.argwhere(result == tissue) for tissue in (Tissue.KIDNEY_RIGHT, Tissue.KIDNEY_LEFT))
    np.testing.assert_allclose(right.mean(0), middle(host, Tissue.KIDNEY_RIGHT), atol=0.6)
    own, mirrored, same = (part - part.min(0) for part in (right, left * (1, 1, -1), left))
    np.testing.assert_array_equal(sorted(map(tuple, own)), sorted(map(tuple, mirrored)))
    assert sorted(map(tuple, own)) != sorted(map(tuple, same))


def test_without_a_right_kidney_none_is_mirrored(small_tissues):
    host = np.where(small_tissues == Tissue.KIDNEY_RIGHT, 0, small_tissues).astype(np.uint8)
    assert not (with_donor(host, as_donor(small_tissues), mirror_kidney=True) == Tissue.KIDNEY_RIGHT).any()


@pytest.mark.parametrize("organ", [Tissue.PANCREAS, Tissue.KIDNEY_LEFT])
@pytest.mark.parametrize("whose", ["host", "donor"])
def test_a_map_without_what_donors_are_laid_by_is_refused_before_any_work(organ, whose, small_tissues, tmp_path):
    lacking = np.where(small_tissues == organ, 0, small_tissues).astype(np.uint8)
    hosts = {"whole": small_tissues, **({"lacking": lacking} if whose == "host" else {})}
    donors = {"other": small_tissues, **({"lacking": lacking} if whose == "donor" else {})}
    with pytest.raises(VisceraError, match=f"lacking: .* no {organ.name.lower().replace('_', ' ')}"):
        next(write_anatomies(hosts, donors, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_head_has_a_brain_in_a_skull_and_no_organ():
    head = head_map(np.random.default_rng(0))
    assert not np.isin(head, ORGANS).any()
    brain = np.argwhere(head == Tissue.BRAIN)
    assert 300 < len(brain) * 0.008 < 2000  # ml
    z, y, x = brain.mean(0).astype(int)
    assert (head[z, y, :x] == Tissue.BONE).any()
    assert (head[z, y, x:] == Tissue.BONE).any()


def label_map(labels, spacing, direction=CANONICAL):
    grid = Grid.from_axes(labels.shape, spacing_zyx_mm=spacing, direction_zyx=direction, origin_xyz_mm=(5, -9, 30))
    return LabelMap(labels=labels, grid=grid)


def some_labels():
    labels = np.zeros((6, 8, 10), dtype=np.uint8)
    labels[1:5, 2:6, 1:4] = 6
    labels[2:4, 3:7, 6:9] = 1
    labels[0, 0, 0] = 9
    return labels


def test_a_trunk_is_canonical_at_2_mm_with_a_rim_and_without_arms():
    tissues = trunk_map(label_map(some_labels(), (4.0, 2.0, 2.0)), {6: "liver", 1: "spleen", 9: "humerus_left"})
    assert tissues.shape == (12, 8 + 60, 10 + 60)
    assert set(np.unique(tissues)) == {0, Tissue.LIVER, Tissue.SPLEEN}
    assert (tissues[2:10, 32:36, 31:34] == Tissue.LIVER).all()
    assert np.count_nonzero(tissues == Tissue.LIVER) == 8 * 4 * 3


def test_a_map_stored_the_other_way_round_makes_the_same_trunk():
    names = {6: "liver", 1: "spleen", 9: "humerus_left"}
    turned = some_labels()[::-1, :, ::-1]
    tissues = trunk_map(label_map(turned, (4.0, 2.0, 2.0), CANONICAL * (-1, 1, -1)), names)
    np.testing.assert_array_equal(tissues, trunk_map(label_map(some_labels(), (4.0, 2.0, 2.0)), names))


def test_a_donor_is_cut_to_its_organs():
    tissues = donor_map(label_map(some_labels(), (4.0, 2.0, 2.0)))
    assert tissues.shape == (8, 5, 8)
    assert np.count_nonzero(tissues == Tissue.LIVER) == 8 * 4 * 3
    assert np.count_nonzero(tissues == Tissue.SPLEEN) == 4 * 4 * 3


def test_a_donor_without_organs_is_kept_whole():
    assert donor_map(label_map(np.zeros((2, 3, 4), dtype=np.uint8), (2.0, 2.0, 2.0))).shape == (2, 3, 4)
