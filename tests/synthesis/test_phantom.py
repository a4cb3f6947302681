"""The phantom: seeded, the same person on every grid, anatomically placed."""

import numpy as np
import pytest

from viscera.core.errors import ConfigError
from viscera.core.geometry import Grid
from viscera.core.organs import ORGANS
from viscera.synthesis.phantom import HEAD_Z_MM, THIGHS_Z_MM, PhantomConfig, make_phantom

COARSE = PhantomConfig(shape_zyx=(50, 38, 46), spacing_zyx_mm=(6.0, 8.0, 9.0))


def centres(phantom):
    labels, grid = phantom.label_map.labels, phantom.label_map.grid
    return {organ.name: grid.world(np.argwhere(labels == organ.index)).mean(axis=0) for organ in ORGANS}


def test_one_seed_gives_one_phantom_and_another_seed_another():
    first, again, other = (make_phantom(seed, config=COARSE) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.volume.hu, again.volume.hu)
    np.testing.assert_array_equal(first.label_map.labels, again.label_map.labels)
    assert (first.volume.hu != other.volume.hu).any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_organs_lie_where_they_belong(seed):
    place = centres(make_phantom(seed, config=COARSE))
    assert place["liver"][0] < -10 < 60 < place["spleen"][0]  # x runs to the left, the liver lies right
    assert place["kidney"][1] > place["pancreas"][1]  # kidneys lie behind the pancreas
    assert place["kidney"][2] < place["liver"][2]  # and below the liver


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_organ_volumes_are_those_of_people(seed):
    phantom = make_phantom(seed, config=PhantomConfig(shape_zyx=(70, 65, 75), spacing_zyx_mm=(4.0, 4.5, 5.0)))
    counts = np.bincount(phantom.label_map.labels.ravel(), minlength=5)
    volumes_ml = counts[1:] * phantom.label_map.grid.voxel_ml
    ranges = {"liver": (600, 3500), "kidney": (120, 600), "spleen": (60, 700), "pancreas": (25, 220)}
    for organ, volume in zip(ORGANS, volumes_ml, strict=True):
        low, high = ranges[organ.name]
        assert low < volume < high, (organ.name, volume)


def test_the_same_person_appears_on_an_oblique_mirrored_grid():
    upright = make_phantom(5, config=COARSE)
    turn, spacing = np.deg2rad(20), (7.0, 5.0, 8.0)
    direction = np.array([[0, np.sin(turn), -np.cos(turn)], [0, np.cos(turn), np.sin(turn)], [1, 0, 0]])
    shape = (44, 70, 60)
    middle = direction @ ((np.array(shape) - 1) / 2 * np.array(spacing))
    centre = np.array([0.0, 0.0, COARSE.centre_z_mm])
    oblique = Grid.from_axes(
        shape, spacing_zyx_mm=spacing, direction_zyx=direction, origin_xyz_mm=tuple(centre - middle)
    )
    turned = make_phantom(5, grid=oblique)
    for name, place in centres(upright).items():
        np.testing.assert_allclose(centres(turned)[name], place, atol=3.0, err_msg=name)


def test_hu_are_those_of_the_tissues():
    phantom = make_phantom(6, config=PhantomConfig(shape_zyx=(40, 60, 70), spacing_zyx_mm=(5, 5, 5.5), phase="portal"))
    hu, labels = phantom.volume.hu, phantom.label_map.labels
    assert hu[0, 0, 0] < -900
    assert 80 < np.median(hu[labels == 1]) < 150  # enhanced liver
    assert 120 < np.median(hu[labels == 2]) < 230  # enhanced kidneys


def test_noise_has_the_asked_level():
    quiet, loud = (
        make_phantom(7, config=PhantomConfig(shape_zyx=(6, 50, 60), spacing_zyx_mm=(2, 5, 6), noise_hu=noise))
        for noise in (0.0, 20.0)
    )
    difference = loud.volume.hu.astype(float) - quiet.volume.hu
    assert difference[quiet.volume.hu > -500].std() == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("height", [HEAD_Z_MM, THIGHS_Z_MM])
def test_a_scan_elsewhere_shows_a_body_without_organs(height):
    scan = PhantomConfig(shape_zyx=(30, 45, 50), spacing_zyx_mm=(6, 8, 9), centre_z_mm=height)
    phantom = make_phantom(8, config=scan)
    assert not phantom.label_map.labels.any()
    assert (phantom.volume.hu > 0).mean() > 0.01


@pytest.mark.parametrize("setting", [{"phase": "venous"}, {"noise_hu": -1.0}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        PhantomConfig(**setting)
