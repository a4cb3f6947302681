"""Scores against other programs, on smooth random organs with false pieces: SimpleITK, MONAI, surface-distance.

surface-distance is the definition's own program, see also test_metrics.py. SimpleITK measures overlap the same way and
distances from the centres of the masks' own voxels, so its HausdorffDistance is compared where both must be equal.
"""

import itertools
import warnings

import numpy as np
import pytest

from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.core.volume import LabelMap
from viscera.evaluation.evaluate import evaluate_label_maps
from viscera.evaluation.metrics import mask_agreement
from viscera.evaluation.scores import ScoringConfig, Tolerance
from viscera.evaluation.surface_distances import surface_distances

SHAPE = (14, 22, 26)
SPACINGS_ZYX_MM = ((1.0, 1.0, 1.0), (5.0, 0.7, 0.8), (1.5, 2.25, 3.0))


def organs(seed):
    """Labels 0 to 4: smooth blobs, of which some reach the array's edge."""
    noise = np.random.default_rng(seed).normal(size=(5, *SHAPE))
    for axis, _ in itertools.product(range(1, 4), range(3)):
        noise = noise + np.roll(noise, 1, axis)
    noise[0] += 0.6 * noise.std()
    return noise.argmax(axis=0).astype(np.uint8)


def disturbed(labels, seed):
    moved = np.roll(labels, (0, 1, -1), axis=(0, 1, 2))
    moved[np.random.default_rng(seed).random(SHAPE) < 0.004] = 1
    return moved


def pairs():
    return [(organs(seed), disturbed(organs(seed), seed)) for seed in (1, 2)]


def grid_of(spacing_zyx_mm):
    return Grid.from_axes(
        SHAPE, spacing_zyx_mm=spacing_zyx_mm, direction_zyx=np.eye(3)[::-1], origin_xyz_mm=(0.0, 0.0, 0.0)
    )


@pytest.mark.parametrize("spacing", SPACINGS_ZYX_MM)
def test_simpleitk_overlap_and_volumes(spacing):
    sitk = pytest.importorskip("SimpleITK")
    for reference, prediction in pairs():
        filters = sitk.LabelOverlapMeasuresImageFilter()
        filters.Execute(*(sitk.GetImageFromArray(labels) for labels in (prediction, reference)))
        maps = (LabelMap(labels=labels, grid=grid_of(spacing)) for labels in (reference, prediction))
        for organ, score in zip(ORGANS, evaluate_label_maps(*maps), strict=True):
            assert score.dsc == pytest.approx(filters.GetDiceCoefficient(organ.index))
            # ITK's error is of the first image against the second, in shares of the second.
            missed = filters.GetFalseNegativeError(organ.index)
            assert (reference == organ.index)[prediction != organ.index].sum() == pytest.approx(
                missed * (reference == organ.index).sum()
            )
            similarity = 2 * (score.prediction_ml - score.reference_ml) / (score.prediction_ml + score.reference_ml)
            assert abs(similarity) == pytest.approx(abs(filters.GetVolumeSimilarity(organ.index)))


@pytest.mark.parametrize("spacing", SPACINGS_ZYX_MM)
def test_simpleitk_hausdorff_of_blocks(spacing):
    # Between blocks moved against each other the farthest corner is as far in voxels as in surface cells.
    sitk = pytest.importorskip("SimpleITK")
    reference, prediction = np.zeros((2, *SHAPE), dtype=np.uint8)
    reference[3:7, 4:9, 5:12] = 1
    prediction[5:11, 4:12, 9:20] = 1
    images = [sitk.GetImageFromArray(mask) for mask in (reference, prediction)]
    for image in images:
        image.SetSpacing(tuple(reversed(spacing)))
    filters = sitk.HausdorffDistanceImageFilter()
    filters.Execute(*images)
    distances = surface_distances(reference > 0, prediction > 0, spacing)
    assert distances.percentile_mm(100) == pytest.approx(filters.GetHausdorffDistance())


@pytest.mark.parametrize("spacing", SPACINGS_ZYX_MM)
def test_surface_distance_with_all_scores_at_once(spacing):
    package = pytest.importorskip("surface_distance")
    config = ScoringConfig(tolerances=(Tolerance(mm=1.0), Tolerance(mm=3.0)))
    for reference, prediction in pairs():
        maps = (LabelMap(labels=labels, grid=grid_of(spacing)) for labels in (reference, prediction))
        for organ, score in zip(ORGANS, evaluate_label_maps(*maps, config=config), strict=True):
            masks = reference == organ.index, prediction == organ.index
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                distances = package.compute_surface_distances(*masks, [float(np.float32(step)) for step in spacing])
            assert score.dsc == pytest.approx(package.compute_dice_coefficient(*masks))
            assert (score.nsd, *score.further_nsd) == pytest.approx(
                tuple(package.compute_surface_dice_at_tolerance(distances, mm) for mm in (1.0, 3.0))
            )
            assert score.hd95_mm == pytest.approx(package.compute_robust_hausdorff(distances, 95))


@pytest.mark.parametrize("spacing", SPACINGS_ZYX_MM)
def test_monai_with_subvoxels(spacing):
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_surface_dice

        for reference, prediction in pairs():
            one_hot = [
                torch.from_numpy(np.stack([labels == organ.index for organ in ORGANS])[np.newaxis])
                for labels in (prediction, reference)
            ]
            # No step of these grids is as long as a tolerance: in float32, as MONAI measures, ties fall otherwise.
            for tolerance_mm in (0.93, 2.37, 4.77):
                theirs = compute_surface_dice(
                    *one_hot,
                    class_thresholds=[tolerance_mm] * len(ORGANS),
                    include_background=True,
                    spacing=list(spacing),
                    use_subvoxels=True,
                )
                ours = [
                    mask_agreement(reference == organ.index, prediction == organ.index, spacing, (tolerance_mm,)).nsd[0]
                    for organ in ORGANS
                ]
                assert ours == pytest.approx(theirs[0].tolist(), abs=1e-6)
