"""What is laid over a deformed anatomy: capsules where they belong, over nothing else, and labels that go with them."""

import dataclasses

import numpy as np
import pytest
import torch

from viscera.core.errors import ConfigError
from viscera.synthesis.acquisition import upright_grid
from viscera.synthesis.additions import Addition, draw_additions, with_additions
from viscera.synthesis.config import (
    AcquisitionConfig,
    AdditionConfig,
    AppearanceConfig,
    BodyConfig,
    SynthesisConfig,
)
from viscera.synthesis.lesions import SyntheticLesion, draw_lesions, paint_lesion
from viscera.synthesis.patient import Patient, Tissues
from viscera.synthesis.scan import draw_scan, scan_image
from viscera.synthesis.tissues import Tissue

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = upright_grid((40, 50, 60), (2.0, 2.0, 2.0), (-39.0, -49.0, -59.0))
CHANCES = [field.name for field in dataclasses.fields(AdditionConfig) if field.name.endswith("_probability")]
NONE = AdditionConfig(**dict.fromkeys(CHANCES, 0.0))


def rng(seed=0):
    return np.random.default_rng(seed)


def never(kind):
    return {field.name: 0.0 for field in dataclasses.fields(kind) if field.name.endswith("_probability")}


def only(**changes):
    return dataclasses.replace(NONE, **changes)


def a_ball(tissue=Tissue.SPLEEN, radius_mm=20.0):
    """An organ in the middle of fat, and depths."""
    z, y, x = (2.0 * torch.arange(count) - count + 1 for count in GRID.shape_zyx)
    away = (z[:, None, None].square() + y[None, :, None].square() + x[None, None].square()).sqrt()
    return Tissues(
        torch.where(away < radius_mm, int(tissue), int(Tissue.INTERIOR)), (radius_mm - away).abs().clamp(max=60)
    )


def middles(seen, tissue):
    return (seen.tissue == tissue).nonzero().double().mean(0).numpy() * 2 - (39, 49, 59)


def capsule(tissue, start, end, radius_mm, over=(Tissue.INTERIOR,)):
    return Addition(tissue=tissue, start_zyx_mm=start, end_zyx_mm=end, radius_mm=radius_mm, over=over)


def test_a_capsules_volume_place_and_depth_are_those_of_a_ball_and_a_cylinder():
    seen = Tissues(torch.full(GRID.shape_zyx, int(Tissue.INTERIOR)), torch.zeros(GRID.shape_zyx))
    after = with_additions(seen, GRID, [capsule(Tissue.COLON, (0.0, -10.0, -30.0), (0.0, -10.0, 10.0), 12.0)])
    colon = after.tissue == Tissue.COLON
    assert int(colon.sum()) * 8 == pytest.approx(np.pi * 12**2 * (40 + 4 / 3 * 12), rel=0.03)
    np.testing.assert_allclose(middles(after, Tissue.COLON), (0, -10, -10), atol=0.2)
    assert float(after.depth_mm.max()) == pytest.approx(12, abs=2)
    assert (after.depth_mm[colon] > 0).all()
    assert not after.depth_mm[~colon].any()


def test_a_capsule_replaces_only_what_it_may():
    seen = a_ball()
    before = seen.tissue.clone()
    after = with_additions(seen, GRID, [capsule(Tissue.LIVER, (0.0, 0.0, 10.0), (0.0, 0.0, 30.0), 15.0)])
    assert torch.equal(after.tissue[before == Tissue.SPLEEN], before[before == Tissue.SPLEEN])
    assert (before[after.tissue == Tissue.LIVER] == Tissue.INTERIOR).all()


def test_a_capsule_beyond_the_grid_changes_nothing():
    seen = a_ball()
    before = seen.tissue.clone()
    after = with_additions(seen, GRID, [capsule(Tissue.LIVER, (500.0, 0.0, 0.0), (500.0, 0.0, 9.0), 15.0)])
    assert torch.equal(after.tissue, before)


def test_nothing_is_added_where_nothing_is_drawn():
    assert draw_additions(a_ball(), GRID, NONE, rng()) == ((), ())


def test_fat_surrounds_a_kidney_as_far_as_asked_instead_of_bowel():
    seen = a_ball(Tissue.KIDNEY_LEFT)
    seen.tissue[:, :, 40:] = torch.where(
        seen.tissue[:, :, 40:] == Tissue.INTERIOR, int(Tissue.COLON), seen.tissue[:, :, 40:]
    )
    config = only(perirenal_fat_probability=1.0, perirenal_fat_mm=(10.0, 10.0))
    ((one,), _) = draw_additions(seen, GRID, config, rng())
    after = with_additions(seen, GRID, [one])
    z, y, x = (2.0 * torch.arange(count) - count + 1 for count in GRID.shape_zyx)
    away = (y[None, :, None].square() + x[None, None].square()).sqrt().expand(GRID.shape_zyx)
    level = z.abs()[:, None, None].expand(GRID.shape_zyx) < 18
    # A ball of 20 mm is 20 mm wide; of its surface's points a tenth lies furthest out.
    assert (after.tissue[level & (away > 20) & (away < 27)] == Tissue.FAT).all()
    assert not (after.tissue[level & (away > 31)] == Tissue.FAT).any()
    assert (a_ball(Tissue.KIDNEY_LEFT).tissue[after.tissue == Tissue.KIDNEY_LEFT] == Tissue.KIDNEY_LEFT).all()


def test_bowel_lies_against_its_organ_and_beyond_it():
    config = only(bowel_probability=1.0, bowel_radius_mm=(10.0, 12.0), bowel_length_mm=(0.0, 0.0), bowel_count=(2, 3))
    for seed in range(10):
        capsules, lesions = draw_additions(a_ball(Tissue.KIDNEY_LEFT), GRID, config, rng(seed))
        assert lesions == ()
        assert 2 <= len(capsules) <= 3
        for one in capsules:
            assert one.tissue in (Tissue.COLON, Tissue.SMALL_BOWEL)
            assert 10 <= one.radius_mm <= 12
            gap = np.linalg.norm(one.start_zyx_mm) - 20 - one.radius_mm
            assert -4.5 <= gap <= 4.5  # within 2 mm of the surface's voxels, or 4 mm away


def test_growths_belong_to_their_organ_and_their_lesions_fill_them():
    config = only(kidney_growth_probability=1.0, kidney_growth_radius_mm=(15.0, 15.0), growth_count=(1, 1))
    for seed in range(8):
        seen = a_ball(Tissue.KIDNEY_RIGHT)
        before = seen.tissue.clone()
        (one,), (lesion,) = draw_additions(seen, GRID, config, rng(seed))
        assert (one.tissue, lesion.tissue, lesion.radius_mm) == (Tissue.KIDNEY_RIGHT, Tissue.KIDNEY_RIGHT, 15.0)
        after = with_additions(seen, GRID, [one])
        grown = (after.tissue == Tissue.KIDNEY_RIGHT) & (before != Tissue.KIDNEY_RIGHT)
        assert grown.any()
        hu = torch.full(GRID.shape_zyx, 500.0)
        paint_lesion(hu, after.tissue, dataclasses.replace(lesion, hu=0.0, added=False), GRID, torch.zeros_like(hu))
        assert (hu[grown] == 0).all()
        assert (hu[after.tissue != Tissue.KIDNEY_RIGHT] == 500).all()


def test_a_liver_does_not_grow_over_the_fat_of_kidneys():
    config = only(growth_probability=1.0, lobe_probability=1.0)
    for seed in range(5):
        seen = a_ball(Tissue.LIVER)
        fat = seen.tissue[:, 25:] == Tissue.INTERIOR
        seen.tissue[:, 25:].masked_fill_(fat, int(Tissue.FAT))
        after = with_additions(seen, GRID, draw_additions(seen, GRID, config, rng(seed)).capsules)
        assert (after.tissue[:, 25:][fat] == Tissue.FAT).all()


def test_accessory_spleens_lie_apart_and_count_as_spleen():
    config = only(accessory_probability=1.0, accessory_radius_mm=(6.0, 6.0))
    for seed in range(5):
        seen = a_ball()
        before = int((seen.tissue == Tissue.SPLEEN).sum())
        ((one,), _) = draw_additions(seen, GRID, config, rng(seed))
        assert np.linalg.norm(one.start_zyx_mm) - 6 > 20
        more = int((with_additions(seen, GRID, [one]).tissue == Tissue.SPLEEN).sum()) - before
        assert 0 < more * 8 <= 1.1 * 4 / 3 * np.pi * 6**3


def test_a_long_spleen_reaches_down_and_forwards():
    config = only(long_spleen_probability=1.0, long_spleen_mm=(60.0, 60.0))
    ((one,), _) = draw_additions(a_ball(), GRID, config, rng(1))
    down, forwards, _ = np.subtract(one.end_zyx_mm, one.start_zyx_mm)
    assert down < -30
    assert forwards < 0


def test_a_lobe_of_the_liver_reaches_left_or_down():
    config = only(lobe_probability=1.0, lobe_mm=(50.0, 50.0))
    ways = []
    for seed in range(30):
        ((one,), _) = draw_additions(a_ball(Tissue.LIVER), GRID, config, rng(seed))
        assert np.linalg.norm(one.start_zyx_mm) < 22
        ways.append(np.subtract(one.end_zyx_mm, one.start_zyx_mm))
    leftwards = [way for way in ways if way[2] > 25]
    assert all(way[0] < -25 for way in ways if way[2] <= 25)
    assert len(leftwards) == pytest.approx(21, abs=8)


def test_labels_show_what_was_added(small_anatomy):
    quiet = SynthesisConfig(
        body=BodyConfig(**never(BodyConfig)),
        additions=NONE,
        appearance=AppearanceConfig(**never(AppearanceConfig)),
        acquisition=AcquisitionConfig(**{**never(AcquisitionConfig), "whole_probability": 1.0}),
    )
    scan = draw_scan(small_anatomy, quiet, rng())
    assert scan.additions == ()
    over = tuple(Tissue)
    ball = capsule(Tissue.SPLEEN, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 20.0, over)
    labels = [
        scan_image(one, (-30.0,) * 3, (30.0,) * 3, 3.0, rng())[1]
        for one in (scan, dataclasses.replace(scan, additions=(ball,)))
    ]
    changed = labels[0] != labels[1]
    assert changed.any()
    assert (labels[1][changed] == 3).all()
    assert labels[1][tuple(count // 2 for count in labels[1].shape)] == 3


def test_deposits_lie_in_the_liver_and_metal_anywhere(small_anatomy):
    config = AppearanceConfig(**{**never(AppearanceConfig), "lipiodol_probability": 1.0})
    patient = Patient.draw(small_anatomy, BodyConfig(**never(BodyConfig)), rng())
    seen = Tissues(torch.full(GRID.shape_zyx, int(Tissue.LIVER)), torch.zeros(GRID.shape_zyx))
    deposits = draw_lesions(patient, seen, GRID, config, rng())
    assert deposits
    assert all(one.tissue == Tissue.LIVER and 100 <= one.hu <= 1200 for one in deposits)
    hu = torch.zeros(GRID.shape_zyx)
    metal = SyntheticLesion(tissue=None, centre_zyx_mm=(0.0, 0.0, 0.0), radius_mm=6.0, hu=2000.0, added=False)
    tissue = torch.from_numpy(rng().integers(0, len(Tissue), GRID.shape_zyx))
    paint_lesion(hu, tissue, metal, GRID, torch.zeros_like(hu))
    assert float(hu.max()) == 2000
    assert int((hu > 1000).sum()) * 8 == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.15)  # soft over the outer 2 mm


@pytest.mark.parametrize("name", ["bowel_radius_mm", "growth_radius_mm", "accessory_radius_mm"])
def test_radii_that_are_none_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=rf"AdditionConfig\.{name}: expected more than 0"):
        AdditionConfig(**{name: (0.0, 9.0)})
