"""What the benchmark of synthetic CTs measures, on scans whose measures are known beforehand."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from viscera.core.volume import LabelMap, Volume
from viscera.synthesis.acquisition import upright_grid
from viscera.synthesis.tissues import Tissue

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def realism():
    """The script, as a module, next to those it imports."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("realism")
    sys.path.remove(str(FOLDER))
    for name in {"realism", "realism_figures", "accuracy"} - before:
        sys.modules.pop(name, None)


def volume(hu, spacing_zyx_mm):
    grid = upright_grid(hu.shape, spacing_zyx_mm, (0.0, 0.0, 0.0))
    return Volume(hu=np.rint(hu).astype(np.int16), grid=grid)


def test_white_noise_has_a_flat_spectrum_of_its_variance(realism):
    hu = 60 + 20 * np.random.default_rng(0).standard_normal((8, 130, 130))
    scan = volume(hu, (5.0, 1.0, 1.0))
    liver = LabelMap(labels=np.ones(hu.shape, dtype=np.uint8), grid=scan.grid)
    power, figures = realism.noise_power(scan, liver)
    assert figures["liver: SD of detrended patches of 32 mm (HU)"] == pytest.approx(20, rel=0.03)
    # White noise has its variance times the voxel's area at every frequency, up to half a cycle a voxel.
    np.testing.assert_allclose(power[2:12], 400, rtol=0.1)
    assert np.isnan(power[13:]).all()


def test_a_slope_is_no_noise(realism):
    y, x = np.mgrid[:32, :32]
    patches = np.array([3.0 * x - 0.1 * y**2 + 0.02 * x * y, 40.0 + 0 * x])
    np.testing.assert_allclose(realism.without_trend(patches), 0, atol=1e-9)


def test_patches_lie_wholly_in_the_liver(realism):
    liver = np.zeros((2, 40, 50), dtype=bool)
    liver[1, 5:25, 10:31] = True
    places = realism.patch_places(liver, 8)
    assert places
    assert all(liver[z, y : y + 8, x : x + 8].all() for z, y, x in places)
    assert realism.patch_places(liver, 25) == []


def test_steps_of_white_noise_are_its_deviation(realism):
    image = 7 * np.random.default_rng(1).standard_normal((10, 20, 30)) + 50
    assert realism.step_hu(image, np.ones(image.shape, dtype=bool)) == pytest.approx(7, rel=0.05)


def test_a_cylinders_size_layers_and_even_outline(realism):
    _, y, x = np.mgrid[:20, :80, :100].astype(float)
    away = np.hypot((y - 40) / 30, (x - 50) / 40)  # of 4 mm: 240 by 320 mm
    hu = np.select([away < 0.8, away < 1], [55.0, -100.0], -1000.0)
    figures = realism.body_figures(volume(hu, (4.0, 4.0, 4.0)), None)
    assert figures["body: height (mm)"] == pytest.approx(240, abs=9)
    assert figures["body: width (mm)"] == pytest.approx(320, abs=9)
    assert figures["body: fat (share)"] == pytest.approx(0.36, abs=0.08)  # less what is mixed at its borders
    assert figures["body: fat, mode (HU)"] == pytest.approx(-100, abs=3)
    assert figures["body: muscle of the wall, mode (HU)"] == pytest.approx(55, abs=3)
    even = figures["body: unevenness of the outline (mm)"]
    wavy = np.where(away + 0.06 * np.sin(0.9 * (x + y)) < 1, hu.clip(-100), -1000.0)
    assert realism.body_figures(volume(wavy, (4.0, 4.0, 4.0)), None)["body: unevenness of the outline (mm)"] > 2 * even


def test_a_body_that_is_cut_has_no_width(realism):
    hu = np.full((20, 40, 60), 40.0)
    hu[:, 30:] = -1000
    figures = realism.body_figures(volume(hu, (4.0, 4.0, 4.0)), None)
    assert not any("width" in name or "height" in name or "outline" in name for name in figures)


def test_volumes_and_distances_of_whole_organs(realism):
    tissues = np.zeros((20, 30, 40), dtype=np.uint8)
    tissues[5:10, 5:15, 2:12] = Tissue.LIVER
    tissues[5:10, 5:15, 26:36] = Tissue.SPLEEN
    tissues[15:, 5:15, 26:36] = Tissue.PANCREAS  # goes on beyond the top
    figures = realism.tissue_figures(tissues, 2.0)
    assert figures == {
        "anatomy: liver (ml)": pytest.approx(4.0),
        "anatomy: spleen (ml)": pytest.approx(4.0),
        "anatomy: liver to spleen (mm)": pytest.approx(48.0),
    }


def test_an_organ_and_what_lies_around_it(realism):
    organs = np.zeros((30, 40, 44), dtype=np.uint8)
    organs[10:20, 10:30, 12:32] = 3
    image = np.where(organs == 3, 90.0, -100.0)
    image[:, :, 22:] = np.where(organs[:, :, 22:] == 3, 90.0, 40.0)
    figures, histograms = realism.organ_figures(image, organs, 2.0)
    assert figures["spleen: mean (HU)"] == 90
    assert figures["spleen: SD (HU)"] == 0
    assert figures["around the spleen: fat (share)"] == pytest.approx(0.5, abs=0.01)
    assert figures["spleen: mean above the soft tissue around (HU)"] == 50
    assert np.sum(histograms["spleen"]) == 8 * 18 * 18  # a voxel within the surface
    assert "liver: mean (HU)" not in figures


def test_the_distance_of_shifted_histograms_is_their_shift(realism):
    one, other = np.zeros((2, len(realism.EDGES_HU) - 1))
    one[40], other[46] = 7, 3
    assert realism.distance(one, other) == pytest.approx(30)
