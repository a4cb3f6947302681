"""Dice and surface Dice: values worked out by hand, empty masks, and the surface-distance package as oracle."""

import itertools
import math
import warnings

import nibabel
import numpy as np
import pytest

from viscera.core.errors import ConfigError, GeometryError
from viscera.core.geometry import Grid
from viscera.evaluation import surface_distances as surfaces
from viscera.evaluation.metrics import dice, header_spacing, mask_agreement, surface_dice
from viscera.evaluation.surface_areas import surfel_areas_mm2
from viscera.evaluation.surface_distances import surface_distances

SHAPE = (10, 11, 12)
SPACING_ZYX_MM = (3.0, 2.0, 1.0)
EMPTY = np.zeros(SHAPE, dtype=bool)


def block(*starts_and_stops):
    return block_in(SHAPE, *starts_and_stops)


def block_in(shape, *starts_and_stops):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(start, stop) for start, stop in starts_and_stops)] = True
    return mask


def blob(seed, shape, smoothing):
    """Smooth random islands, which meet in every kind of 2x2x2 neighbourhood and reach the array's edge."""
    noise = np.random.default_rng(seed).normal(size=shape)
    for axis, _ in itertools.product(range(3), range(smoothing)):
        noise = noise + np.roll(noise, 1, axis)
    return noise > np.quantile(noise, 0.7)


# The cells a voxel is a corner of, as steps from the first of them.
CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))
VOXEL = block((4, 5), (5, 6), (6, 7))
BLOCK = block((3, 7), (4, 7), (5, 7))


class TestDice:
    def test_block_shifted_by_half_its_width(self):
        assert dice(BLOCK, np.roll(BLOCK, 1, axis=2)) == 0.5

    def test_a_third_of_the_reference_is_found(self):
        # 24 voxels against 8 of them: 2 * 8 / (24 + 8).
        assert dice(BLOCK, BLOCK & block((0, 10), (4, 5), (0, 12))) == 0.5

    def test_masks_of_numbers_count_as_inside_where_not_zero(self):
        assert dice(BLOCK.astype(np.uint8) * 3, BLOCK) == 1.0

    def test_apart(self):
        assert dice(BLOCK, block((0, 2), (0, 2), (0, 2))) == 0.0


class TestSurfaceDice:
    def test_area_round_a_single_voxel(self):
        # Each of its 8 cells cuts off one corner: a triangle with normal (2*1, 3*1, 3*2) / 8, of length 7/8 mm2.
        areas = surfel_areas_mm2(SPACING_ZYX_MM)
        assert [areas[1 << bit] for bit in range(8)] == pytest.approx([7 / 8] * 8)

    @pytest.mark.parametrize(("axis", "across"), [(0, 2 * 1), (1, 3 * 1), (2, 3 * 2)])
    def test_area_of_a_flat_face(self, axis, across):
        lower = sum(1 << bit for bit, corner in enumerate(itertools.product((0, 1), repeat=3)) if corner[axis] == 0)
        assert surfel_areas_mm2(SPACING_ZYX_MM)[lower] == pytest.approx(across)

    @pytest.mark.parametrize(
        ("axis", "tolerance_mm", "expected"),
        # The cells of two neighbouring voxels coincide at one face each: half of the area is at distance 0.
        [(2, 0.5, 0.5), (2, 1.0, 1.0), (1, 1.0, 0.5), (1, 2.0, 1.0), (0, 2.9, 0.5), (0, 3.0, 1.0)],
    )
    def test_voxel_against_its_neighbour(self, axis, tolerance_mm, expected):
        shifted = np.roll(VOXEL, 1, axis=axis)
        assert surface_dice(VOXEL, shifted, SPACING_ZYX_MM, tolerance_mm) == pytest.approx(expected)

    def test_spacing_is_in_the_order_of_the_axes(self):
        shifted = np.roll(VOXEL, 1, axis=2)
        assert surface_dice(VOXEL, shifted, (1.0, 2.0, 3.0)) == pytest.approx(0.5)

    def test_parallel_plates(self):
        # Plates one voxel thick, 3 mm apart face to face: the surfaces that face each other are 1 voxel (3 mm) away
        # from each other's, the far ones 2 voxels (6 mm) from the nearest.
        first, second = block((2, 3), (0, 11), (0, 12)), block((4, 5), (0, 11), (0, 12))
        assert surface_dice(first, second, SPACING_ZYX_MM, 2.9) == 0.0
        assert surface_dice(first, second, SPACING_ZYX_MM, 3.0) == pytest.approx(0.5)
        assert surface_dice(first, second, SPACING_ZYX_MM, 6.0) == 1.0

    def test_a_mask_at_the_edge_of_the_array_has_a_surface_there(self):
        full = np.ones(SHAPE, dtype=bool)
        assert surface_dice(full, full, SPACING_ZYX_MM) == 1.0
        assert surface_dice(full, block((0, 10), (0, 11), (0, 6)), SPACING_ZYX_MM) < 1.0

    def test_the_comparison_with_the_tolerance_is_exact(self):
        shifted = np.roll(BLOCK, 1, axis=2)
        assert surface_dice(BLOCK, shifted, (3.0, 2.0, 1.0)) == 1.0
        assert surface_dice(BLOCK, shifted, (3.0, 2.0, 1.0000001)) < 1.0

    def test_steps_and_blocks_agree(self, monkeypatch):
        masks = blob(1, (14, 15, 17), 2), block_in((14, 15, 17), (0, 4), (0, 5), (0, 6))
        by_steps = surface_distances(*masks, (0.9, 0.7, 0.5))
        monkeypatch.setattr(surfaces, "_STEPS", 1)
        by_blocks = surface_distances(*masks, (0.9, 0.7, 0.5))
        np.testing.assert_array_equal(by_blocks.reference_mm, by_steps.reference_mm)
        np.testing.assert_array_equal(by_blocks.prediction_mm, by_steps.prediction_mm)
        assert np.unique(by_steps.reference_mm).size > 20


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING_ZYX_MM, (0.7, 0.9, 4.1)])
@pytest.mark.parametrize("seed", range(3))
def test_sparse_voxels_have_the_distances_of_all_pairs(spacing, seed):
    # So few voxels that their distances are spread from none to beyond the reach of steps.
    masks = np.random.default_rng(seed).random((2, 15, 16, 18)) < 0.0015
    cells = [np.unique((np.argwhere(mask)[:, np.newaxis] + CORNERS).reshape(-1, 3), axis=0) for mask in masks]
    apart = np.linalg.norm((cells[0][:, np.newaxis] - cells[1]) * spacing, axis=-1)
    found = surface_distances(*masks, spacing)
    np.testing.assert_allclose(np.sort(found.reference_mm), np.sort(apart.min(axis=1)))
    np.testing.assert_allclose(np.sort(found.prediction_mm), np.sort(apart.min(axis=0)))


class TestDistances:
    """Of masks whose surfaces' cells can be counted: a cell lies half a voxel before the first voxel it touches."""

    def test_plates_apart(self):
        # 3 mm voxels: the plates' surfaces lie at 2 and 3, and at 6 and 7 voxels: of each, one is 9 and one 12 mm away.
        plates = block((2, 3), (0, 11), (0, 12)), block((6, 7), (0, 11), (0, 12))
        agreement = mask_agreement(*plates, SPACING_ZYX_MM)
        assert (agreement.hd95_mm, agreement.dsc) == (12.0, 0.0)
        assert agreement.assd_mm == pytest.approx(10.5)

    @pytest.mark.parametrize(("axis", "step_mm"), [(0, 3.0), (1, 2.0), (2, 1.0)])
    def test_a_voxel_against_its_neighbour(self, axis, step_mm):
        # Half of the area lies on the other surface, half one voxel from it.
        agreement = mask_agreement(VOXEL, np.roll(VOXEL, 1, axis=axis), SPACING_ZYX_MM)
        assert (agreement.hd95_mm, agreement.assd_mm) == (step_mm, pytest.approx(step_mm / 2))

    def test_hd95_leaves_out_the_farthest_twentieth_and_takes_the_worse_direction(self):
        # A false voxel far off has 8 corners of 7/8 mm2; the reference's surface lies on the prediction's.
        reference = block((0, 5), (0, 11), (0, 12))
        prediction = reference | block((9, 10), (0, 1), (0, 1))
        distances = surface_distances(reference, prediction, SPACING_ZYX_MM)
        share = distances.prediction_mm2[distances.prediction_mm > 0].sum() / distances.prediction_mm2.sum()
        assert share == pytest.approx(7 / (7 + distances.reference_mm2.sum()))
        assert share < 0.05
        assert distances.percentile_mm(95) == 0.0
        assert distances.percentile_mm(100) == 15.0  # from 5 to 10 voxels of 3 mm
        assert distances.percentile_mm(100 * (1 - share / 2)) >= 12.0

    def test_the_mean_is_weighted_by_area(self):
        reference = block((0, 5), (0, 11), (0, 12))
        distances = surface_distances(reference, reference | block((9, 10), (0, 1), (0, 1)), SPACING_ZYX_MM)
        far = distances.prediction_mm > 0
        expected = (distances.prediction_mm[far] * distances.prediction_mm2[far]).sum()
        total = distances.prediction_mm2.sum() + distances.reference_mm2.sum()
        assert distances.mean_mm() == pytest.approx(expected / total)

    def test_all_tolerances_from_one_measurement(self):
        shifted = np.roll(BLOCK, 1, axis=2)
        nsd = mask_agreement(BLOCK, shifted, SPACING_ZYX_MM, (0.5, 1.0)).nsd
        assert nsd == (surface_dice(BLOCK, shifted, SPACING_ZYX_MM, 0.5), 1.0)

    def test_the_volume_error_in_percent(self):
        assert mask_agreement(BLOCK, BLOCK & block((0, 10), (0, 11), (5, 6)), SPACING_ZYX_MM).difference_percent == -50


class TestEmptyMasks:
    @pytest.mark.parametrize(
        ("rule", "reference", "prediction", "expected"),
        [
            ("flare", EMPTY, EMPTY, 1.0),
            ("flare", EMPTY, BLOCK, 0.0),
            ("flare", BLOCK, EMPTY, 0.0),
            ("nan", EMPTY, EMPTY, math.nan),
            ("nan", EMPTY, BLOCK, math.nan),
            ("nan", BLOCK, EMPTY, 0.0),
        ],
    )
    def test_both_metrics_follow_the_table(self, rule, reference, prediction, expected):
        scores = dice(reference, prediction, empty=rule), surface_dice(reference, prediction, (3, 2, 1), empty=rule)
        assert scores == pytest.approx((expected, expected), nan_ok=True)

    @pytest.mark.parametrize(
        ("rule", "reference", "prediction", "distance_mm", "percent"),
        [
            ("flare", EMPTY, EMPTY, 0.0, 0.0),
            ("flare", EMPTY, BLOCK, math.inf, math.inf),
            ("flare", BLOCK, EMPTY, math.inf, -100.0),
            ("nan", EMPTY, EMPTY, math.nan, math.nan),
            ("nan", EMPTY, BLOCK, math.nan, math.nan),
            ("nan", BLOCK, EMPTY, math.inf, -100.0),
        ],
    )
    def test_distances_and_volumes_follow_the_table(self, rule, reference, prediction, distance_mm, percent):
        agreement = mask_agreement(reference, prediction, SPACING_ZYX_MM, empty=rule)
        found = agreement.hd95_mm, agreement.assd_mm, agreement.difference_percent
        assert found == pytest.approx((distance_mm, distance_mm, percent), nan_ok=True)

    def test_flare_is_the_default(self):
        assert (dice(EMPTY, EMPTY), surface_dice(EMPTY, EMPTY, SPACING_ZYX_MM)) == (1.0, 1.0)

    def test_an_unknown_rule(self):
        with pytest.raises(ConfigError, match="flare, nan"):
            dice(EMPTY, EMPTY, empty="skip")


class TestRefusals:
    @pytest.mark.parametrize("metric", [dice, lambda *masks: surface_dice(*masks, SPACING_ZYX_MM)])
    def test_shapes_that_differ(self, metric):
        with pytest.raises(GeometryError, match="one shape"):
            metric(BLOCK, BLOCK[:, :, :-1])

    @pytest.mark.parametrize("spacing", [(3.0, 0.0, 1.0), (3.0, -2.0, 1.0), (3.0, math.nan, 1.0), (3.0, 2.0)])
    def test_spacings_that_are_none(self, spacing):
        with pytest.raises(GeometryError, match="spacings"):
            surface_dice(BLOCK, BLOCK, spacing)

    @pytest.mark.parametrize("tolerance_mm", [-1.0, math.nan, math.inf])
    def test_tolerances_that_are_none(self, tolerance_mm):
        with pytest.raises(ConfigError, match="tolerance"):
            surface_dice(BLOCK, BLOCK, SPACING_ZYX_MM, tolerance_mm)


class TestHeaderSpacing:
    def test_rounding_noise_of_an_oblique_affine_is_taken_away(self):
        angle = math.radians(17)
        turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
        affine = np.eye(4)
        affine[:3, :3] = (turn * (3.0, 2.0, 1.0)).astype(np.float32)
        affine[:3, :3] *= 1 + 3e-7
        grid = Grid(shape_zyx=SHAPE, affine=affine)
        assert grid.spacing_zyx_mm != (3.0, 2.0, 1.0)
        assert header_spacing(grid) == (3.0, 2.0, 1.0)

    def test_spacings_are_the_float32_of_the_header(self):
        grid = Grid.from_axes(
            SHAPE, spacing_zyx_mm=(2.5, 0.8, 0.6), direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0, 0, 0)
        )
        assert header_spacing(grid) == tuple(float(np.float32(step)) for step in (2.5, 0.8, 0.6))


class TestAgainstSurfaceDistance:
    """The package of the definition's authors (non-empty masks only; it uses names scipy is about to drop)."""

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING_ZYX_MM, (0.7, 0.9, 5.0), (1.3, 2.4, 0.61)])
    def test_areas_of_all_256_codes(self, spacing):
        tables = pytest.importorskip("surface_distance.lookup_tables")
        theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
        mirrored = [int(f"{code:08b}"[::-1], 2) for code in range(256)]  # they count the corners from the last
        assert surfel_areas_mm2(spacing) == pytest.approx(theirs[mirrored], abs=1e-12)

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING_ZYX_MM, (5.0, 0.8, 0.7), (0.5, 0.61, 0.7)])
    @pytest.mark.parametrize("tolerance_mm", [0.0, 1.0, 2.5, 9.0])
    @pytest.mark.parametrize(("shape", "smoothing"), [((9, 14, 17), 1), ((18, 12, 7), 3)])
    def test_random_blobs(self, spacing, tolerance_mm, shape, smoothing):
        reference, prediction = blob(7, shape, smoothing), blob(8, shape, smoothing) | blob(7, shape, smoothing + 1)
        score = surface_dice(reference, prediction, spacing, tolerance_mm)
        assert score == pytest.approx(_theirs(reference, prediction, spacing, tolerance_mm), abs=1e-6)

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING_ZYX_MM, (5.0, 0.8, 0.7), (0.5, 0.61, 0.7)])
    @pytest.mark.parametrize("apart", [False, True])
    def test_distances_of_random_blobs(self, spacing, apart):
        shape = (30, 25, 40)
        first, second = blob(7, shape, 3), blob(8, shape, 3)
        if apart:  # in opposite corners, beyond the reach of steps
            first, second = (
                first & block_in(shape, (0, 5), (0, 9), (0, 9)),
                second & block_in(shape, (20, 30), (9, 25), (25, 40)),
            )
        ours = surface_distances(first, second, spacing)
        package, theirs = _their_distances(first, second, spacing)
        for percent in (50, 95, 100):
            expected = package.compute_robust_hausdorff(theirs, percent)
            assert ours.percentile_mm(percent) == pytest.approx(expected, abs=1e-9)
        for own, name in ((ours.reference_mm, "distances_gt_to_pred"), (ours.prediction_mm, "distances_pred_to_gt")):
            np.testing.assert_allclose(np.sort(own), theirs[name], atol=1e-9)
        sides = package.compute_average_surface_distance(theirs)
        areas = [theirs[name].sum() for name in ("surfel_areas_gt", "surfel_areas_pred")]
        assert ours.mean_mm() == pytest.approx(np.average(sides, weights=areas))

    def test_masks_far_apart(self):
        reference, prediction = block((0, 3), (0, 2), (0, 4)), block((8, 10), (9, 11), (7, 12))
        for tolerance_mm in (1.0, 17.0, 30.0):
            score = surface_dice(reference, prediction, SPACING_ZYX_MM, tolerance_mm)
            theirs = _theirs(reference, prediction, SPACING_ZYX_MM, tolerance_mm)
            assert score == pytest.approx(theirs, abs=1e-6)

    def test_a_real_pancreas_against_itself_moved(self, shared_data):
        image = nibabel.load(shared_data / "real" / "amos_0018_labels.nii.gz")
        pancreas = np.asarray(image.dataobj).transpose(2, 1, 0) == 4
        moved = np.roll(pancreas, (1, 2), axis=(0, 2))
        zooms = tuple(float(step) for step in image.header.get_zooms()[::-1])
        spacing = header_spacing(Grid.from_nifti(image.shape, image.affine))
        assert spacing == pytest.approx(zooms, abs=5e-6)
        assert surface_dice(pancreas, moved, spacing) == pytest.approx(_theirs(pancreas, moved, zooms, 1.0), abs=1e-6)


def _theirs(reference, prediction, spacing, tolerance_mm):
    package, distances = _their_distances(reference, prediction, spacing)
    return package.compute_surface_dice_at_tolerance(distances, tolerance_mm)


def _their_distances(reference, prediction, spacing):
    package = pytest.importorskip("surface_distance")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return package, package.compute_surface_distances(reference, prediction, spacing)
