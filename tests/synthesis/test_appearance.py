"""CT numbers: each tissue within its phase's range, contents where they belong, organs that nothing else touches."""

import dataclasses

import numpy as np
import pytest
import torch

from viscera.core.errors import ConfigError
from viscera.synthesis.acquisition import upright_grid
from viscera.synthesis.appearance import Effusion, draw_appearance, painted, with_table
from viscera.synthesis.config import AppearanceConfig, BodyConfig
from viscera.synthesis.densities import HU, PHASES
from viscera.synthesis.kidneys import KidneyAppearance, paint_kidneys, sinus_mask
from viscera.synthesis.lesions import SyntheticLesion, draw_lesions, paint_lesion
from viscera.synthesis.patient import Patient, Tissues, corners_zyx_mm
from viscera.synthesis.tissues import HOLLOW, ORGAN_LABELS, ORGANS, Tissue

pytestmark = pytest.mark.usefixtures("one_thread")

NEVER = {field.name: 0.0 for field in dataclasses.fields(AppearanceConfig) if field.name.endswith("_probability")}
# Means alone: no lesions, no texture, no scatter of the means.
PLAIN = AppearanceConfig(
    spread_hu=0.0, texture_hu=(0.0, 0.0), mixing_hu=(0.0, 0.0), spleen_bands_hu=(0.0, 0.0), **NEVER
)
STILL = BodyConfig(
    turn_rad=0.0,
    tilt_rad=0.0,
    scale=(1.0, 1.0),
    axis_scale=(1.0, 1.0),
    depth_scale=(1.0, 1.0),
    elastic_mm=(0.0, 0.0),
    **{field.name: 0.0 for field in dataclasses.fields(BodyConfig) if field.name.endswith("_probability")},
)
AIR = -1000.0


def rng(seed=0):
    return np.random.default_rng(seed)


def only_phase(phase, config=PLAIN):
    weights = tuple(float(other == phase) for other in PHASES)
    return dataclasses.replace(config, phase_weights=weights)


def an_appearance(phase="portal", seed=0, body=STILL, config=PLAIN, lesions=()):
    return draw_appearance(body, only_phase(phase, config), lesions, rng(seed))


@pytest.fixture(scope="module")
def patient(small_anatomy):
    return Patient.draw(small_anatomy, STILL, rng())


@pytest.fixture(scope="module")
def scene(patient):
    """What lies at the voxels of the unbent small anatomy, with room around, and their grid."""
    z, y, x = (float(value) for value in -2.0 * (patient.centre + np.array([0, 30, 30])))
    depth, height, width = patient.anatomy.tissues.shape
    grid = upright_grid((depth, height + 60, width + 60), (2.0, 2.0, 2.0), (z, y, x))
    return patient.tissues(grid), grid


def is_organ(seen):
    return torch.from_numpy(ORGAN_LABELS.astype(bool))[seen.tissue]


@pytest.mark.parametrize("number", range(len(PHASES)))
def test_means_lie_in_the_range_of_their_phase(number):
    for seed in range(30):
        appearance = an_appearance(PHASES[number], seed)
        assert appearance.phase == PHASES[number]
        for tissue, ranges in HU.items():
            low, high = ranges[number]
            assert low - 1e-3 <= appearance.means[tissue] <= high + 1e-3, tissue.name
        assert appearance.means[Tissue.KIDNEY_LEFT] == appearance.means[Tissue.KIDNEY_RIGHT]


def test_every_tissue_has_a_range():
    assert set(HU) == set(Tissue) - {Tissue.KIDNEY_LEFT}


def test_contrast_makes_vessels_and_organs_brighter():
    for tissue in (Tissue.LIVER, Tissue.KIDNEY_RIGHT, Tissue.SPLEEN, Tissue.PANCREAS, Tissue.ARTERY):
        native, _, portal, nephrographic, excretory = HU[tissue]
        assert native[1] < portal[0], tissue.name
        assert portal[0] >= nephrographic[0] >= excretory[0] > native[0]
    assert HU[Tissue.ARTERY][1][0] > HU[Tissue.ARTERY][2][1]


def test_phases_come_as_often_as_weighted():
    config = dataclasses.replace(PLAIN, phase_weights=(1.0, 0.0, 3.0, 0.0, 0.0))
    phases = [draw_appearance(STILL, config, (), rng(seed)).phase for seed in range(200)]
    assert set(phases) == {"native", "portal"}
    assert phases.count("portal") == pytest.approx(150, abs=25)


def test_a_fatty_liver_is_darker_by_what_fat_takes():
    fatty = dataclasses.replace(PLAIN, fatty_liver_probability=1.0, fatty_liver_hu=(40.0, 40.0))
    for seed in range(5):
        usual, dark = an_appearance(seed=seed), an_appearance(seed=seed, config=fatty)
        assert dark.means[Tissue.LIVER] == pytest.approx(usual.means[Tissue.LIVER] - 40)
        assert dark.means[Tissue.SPLEEN] == usual.means[Tissue.SPLEEN]


def test_a_fatty_pancreas_is_darker_and_less_even_by_what_fat_takes():
    fatty = dataclasses.replace(
        PLAIN, fatty_pancreas_probability=1.0, fatty_pancreas_hu=(30.0, 30.0), fatty_pancreas_texture_hu=(12.0, 12.0)
    )
    for seed in range(5):
        usual, dark = an_appearance(seed=seed), an_appearance(seed=seed, config=fatty)
        assert dark.means[Tissue.PANCREAS] == pytest.approx(usual.means[Tissue.PANCREAS] - 30)
        assert dark.textures[Tissue.PANCREAS] == pytest.approx(12)
        assert dark.textures[Tissue.SPLEEN] == 0


@pytest.mark.parametrize("phase", PHASES)
def test_painted_organs_measure_what_was_drawn(scene, phase):
    seen, grid = scene
    appearance = an_appearance(phase)
    hu = painted(seen, grid, appearance, rng())
    for tissue in (
        Tissue.PANCREAS,
        Tissue.ARTERY,
        *([Tissue.SPLEEN] if phase != "arterial" else []),
    ):
        there = seen.tissue == tissue
        torch.testing.assert_close(hu[there], torch.full((int(there.sum()),), float(appearance.means[tissue])))
    liver = hu[seen.tissue == Tissue.LIVER]  # with its vessels
    assert float(liver.median()) == pytest.approx(float(appearance.means[Tissue.LIVER]), abs=2)
    cortex = (seen.tissue == Tissue.KIDNEY_LEFT) & (seen.depth_mm <= 2)
    assert float(hu[cortex].median()) == pytest.approx(float(appearance.means[Tissue.KIDNEY_LEFT]), rel=0.02)


def a_ball_of_kidney(tissue=Tissue.KIDNEY_RIGHT):
    """A kidney of 40 mm radius, voxels of 2 mm, and fields that make nothing uneven."""
    grid = upright_grid((41, 41, 41), (2.0, 2.0, 2.0), (-40.0, -40.0, -40.0))
    z, y, x = (place - 20.0 for place in torch.meshgrid(*[torch.arange(41.0)] * 3, indexing="ij"))
    away = 2 * (z.square() + y.square() + x.square()).sqrt()
    seen = Tissues(torch.where(away < 40, int(tissue), int(Tissue.FAT)), (40 - away).abs())
    return seen, grid, {"coarse": torch.zeros(grid.shape_zyx), "fine": torch.zeros(grid.shape_zyx)}


def test_the_medulla_lies_deeper_than_the_cortex_and_measures_its_share():
    seen, grid, fields = a_ball_of_kidney()
    hu = torch.full(grid.shape_zyx, 200.0)
    paint_kidneys(
        hu, seen, grid, KidneyAppearance(medulla=0.4, cortex_mm=7.0, sinus=0.0, pelvis=0.0, pelvis_hu=0.0), **fields
    )
    kidney = seen.tissue == Tissue.KIDNEY_RIGHT
    assert hu[kidney & (seen.depth_mm <= 7)].unique().tolist() == [200.0]
    assert hu[kidney & (seen.depth_mm >= 10)].unique().tolist() == pytest.approx([80.0])
    assert (hu[~kidney] == 200).all()


def test_between_the_pyramids_lie_columns_of_cortex():
    seen, grid, fields = a_ball_of_kidney()
    hu = torch.full(grid.shape_zyx, 200.0)
    appearance = KidneyAppearance(medulla=0.4, cortex_mm=7.0, sinus=0.0, pelvis=0.0, pelvis_hu=0.0)
    paint_kidneys(hu, seen, grid, appearance, coarse=fields["coarse"], fine=torch.full(grid.shape_zyx, 1.0))
    assert hu[20, 20, 20] == 200


@pytest.mark.parametrize(("tissue", "inwards"), [(Tissue.KIDNEY_RIGHT, 1), (Tissue.KIDNEY_LEFT, -1)])
def test_the_sinus_lies_towards_the_middle_and_the_front_and_holds_the_pelvis(tissue, inwards):
    seen, grid, fields = a_ball_of_kidney(tissue)
    hu = torch.full(grid.shape_zyx, 200.0)
    paint_kidneys(
        hu, seen, grid, KidneyAppearance(medulla=1.0, cortex_mm=7.0, sinus=0.8, pelvis=0.5, pelvis_hu=500.0), **fields
    )
    bright, dark = ((hu == value).nonzero().double().mean(0).numpy() - 20 for value in (500, -75))
    for place in (bright, dark):
        assert abs(place[0]) < 0.5
        assert place[1] < -2
        assert inwards * place[2] > 2
    assert (seen.tissue[hu != 200] == tissue).all()


def test_what_is_painted_as_sinus_is_its_mask():
    seen, grid, fields = a_ball_of_kidney()
    hu = torch.full(grid.shape_zyx, 200.0)
    appearance = KidneyAppearance(medulla=1.0, cortex_mm=7.0, sinus=0.8, pelvis=0.5, pelvis_hu=500.0)
    paint_kidneys(hu, seen, grid, appearance, **fields)
    mask = sinus_mask(seen, grid, appearance)
    assert mask[(hu == 500) | (hu == -75)].all()
    assert not mask[hu == 200].any()
    assert not sinus_mask(seen, grid, dataclasses.replace(appearance, sinus=0.0)).any()


def test_contrast_leaves_the_kidney_by_its_pelvis():
    for phase, low, high in (("native", -5, 20), ("excretory", 100, 900)):
        values = [an_appearance(phase, seed).kidney.pelvis_hu for seed in range(20)]
        assert low <= min(values) <= max(values) <= high


def test_the_arterial_spleen_is_striped(scene):
    seen, grid = scene
    striped = dataclasses.replace(PLAIN, spleen_bands_hu=(30.0, 30.0))
    deviations = [
        float(painted(seen, grid, an_appearance(phase, config=striped), rng())[seen.tissue == Tissue.SPLEEN].std())
        for phase in ("arterial", "portal")
    ]
    assert 10 < deviations[0] < 30  # of a wave 30 / sqrt(2), of less than a wavelength less
    assert deviations[1] < 0.01


def test_texture_is_as_strong_as_asked(scene):
    seen, grid = scene
    appearance = an_appearance(config=dataclasses.replace(PLAIN, texture_hu=(6.0, 6.0)))
    spleen = painted(seen, grid, appearance, rng())[seen.tissue == Tissue.SPLEEN]
    assert 3 < float(spleen.std()) < 9


def test_liver_vessels_are_thin(scene):
    seen, grid = scene
    appearance = an_appearance()
    liver = painted(seen, grid, appearance, rng())[seen.tissue == Tissue.LIVER]
    changed = (liver - float(appearance.means[Tissue.LIVER])).abs() > 5
    assert 0.005 < changed.float().mean() < 0.25


def test_liver_vessels_are_those_of_the_portal_and_of_the_hepatic_veins(scene):
    seen, grid = scene
    appearance = an_appearance("arterial")
    means = appearance.means.copy()
    means[[Tissue.LIVER, Tissue.PORTAL_VEIN, Tissue.VEIN]] = (60.0, 160.0, 20.0)
    liver = painted(seen, grid, dataclasses.replace(appearance, means=means), rng())[seen.tissue == Tissue.LIVER]
    assert float(liver.max()) > 130
    assert float(liver.min()) < 40
    assert 20 <= float(liver.min()) <= float(liver.max()) <= 160


def test_bile_fills_the_gallbladder_within_its_wall(scene):
    seen, grid = scene
    appearance = an_appearance()
    walls = np.full(len(Tissue), 2.0, dtype=np.float32)
    hu = painted(seen, grid, dataclasses.replace(appearance, walls_mm=walls), rng())
    bladder = seen.tissue == Tissue.GALLBLADDER
    assert hu[bladder & (seen.depth_mm <= 2)].unique().tolist() == [appearance.means[Tissue.GALLBLADDER]]
    assert hu[bladder & (seen.depth_mm > 2)].unique().tolist() == [appearance.lumen[Tissue.GALLBLADDER]]
    assert appearance.lumen[Tissue.GALLBLADDER] < 24


def test_an_effusion_lies_behind_in_the_lungs_of_its_side(scene):
    seen, grid = scene
    appearance = an_appearance()
    one = Effusion(sides=(True, False), depth_mm=10.0, hu=5.0, collapsed_mm=6.0, collapsed_hu=70.0)
    dry, wet = (painted(seen, grid, dataclasses.replace(appearance, effusion=which), rng()) for which in (None, one))
    changed = wet != dry
    assert (seen.tissue[changed] == Tissue.LUNG).all()
    assert sorted(wet[changed].unique().tolist()) == [5.0, 70.0]
    _, y, x = (place.float() for place in torch.meshgrid(*map(torch.arange, grid.shape_zyx), indexing="ij"))
    assert (x[changed] * 2 + float(grid.affine[0, 3]) < 0).all()
    back = y[seen.tissue == Tissue.LUNG].max()
    assert y[wet == 5.0].min() >= back - 5  # 10 mm
    assert back - 8 <= y[changed].min() < back - 5


def test_sheets_and_strands_cross_the_fat_of_the_kidneys(scene):
    seen, grid = scene
    fat = seen.tissue == Tissue.FAT
    clean, crossed = (
        painted(seen, grid, dataclasses.replace(an_appearance(), strands_hu=strands), rng())[fat]
        for strands in (0.0, 60.0)
    )
    assert ((crossed - clean) >= 0).all()
    assert 5 < float((crossed - clean).mean()) < 40


def test_gas_lies_in_hollow_organs_only(scene):
    seen, grid = scene
    appearance = an_appearance()
    gas = appearance.gas.copy()
    gas[list(HOLLOW)] = 0.9
    walls = np.full(len(Tissue), 3.0, dtype=np.float32)
    hu = painted(seen, grid, dataclasses.replace(appearance, gas=gas, walls_mm=walls), rng())
    hollow = torch.zeros(len(Tissue), dtype=torch.bool)
    hollow[list(HOLLOW)] = True
    inner = seen.tissue != Tissue.OUTSIDE
    gassy = inner & (hu < -500) & (seen.tissue != Tissue.LUNG)
    assert gassy.sum() > 50
    assert hollow[seen.tissue][gassy].all()
    assert (seen.depth_mm[gassy] > 3).all()


def test_without_gas_there_is_none(scene):
    seen, grid = scene
    appearance = an_appearance()
    hu = painted(seen, grid, dataclasses.replace(appearance, gas=np.zeros_like(appearance.gas)), rng())
    assert not ((hu < -500) & (seen.tissue != Tissue.OUTSIDE) & (seen.tissue != Tissue.LUNG)).any()


def test_oral_contrast_fills_the_lumen_and_leaves_the_wall(scene):
    seen, grid = scene
    appearance = an_appearance()
    lumen = appearance.lumen.copy()
    lumen[Tissue.STOMACH] = 300
    walls = np.full(len(Tissue), 3.0, dtype=np.float32)
    walls[Tissue.STOMACH] = 5.0
    appearance = dataclasses.replace(appearance, lumen=lumen, gas=np.zeros_like(appearance.gas), walls_mm=walls)
    hu = painted(seen, grid, appearance, rng())
    stomach = seen.tissue == Tissue.STOMACH
    wall = stomach & (seen.depth_mm <= 5)
    inside = hu[stomach & ~wall]
    assert float(inside.median()) == pytest.approx(300, abs=40)
    torch.testing.assert_close(hu[wall], torch.full((int(wall.sum()),), float(appearance.means[Tissue.STOMACH])))


def test_from_the_core_outwards_come_muscle_fat_skin_and_air(scene):
    seen, grid = scene
    appearance = dataclasses.replace(an_appearance(), muscle_mm=8.0, fat_mm=20.0, skin_mm=3.0, fat_unevenness=0.0)
    hu = painted(seen, grid, appearance, rng())
    outside = seen.tissue == Tissue.OUTSIDE
    muscle, fat = float(appearance.means[Tissue.MUSCLE]), float(appearance.means[Tissue.OUTSIDE])

    def median(low, high):
        return float(hu[outside & (seen.depth_mm >= low) & (seen.depth_mm <= high)].median())

    assert median(1, 2) == pytest.approx(muscle, abs=10)
    assert median(14, 20) == pytest.approx(fat, abs=10)
    assert median(40, 60) == AIR
    shells = [float((hu[outside & (seen.depth_mm == depth)] > -300).float().mean()) for depth in (22.0, 40.0)]
    assert shells == [1.0, 0.0]


def test_ascites_is_fluid_between_the_organs(scene):
    seen, grid = scene
    appearance = dataclasses.replace(an_appearance(), soft_share=0.0, strands_hu=0.0)
    interior = seen.tissue == Tissue.INTERIOR
    dry, wet = (painted(seen, grid, dataclasses.replace(appearance, ascites=one), rng()) for one in (0.0, 1.0))
    assert float(dry[interior].median()) < -70
    assert ((wet[interior] - 8).abs() < 3).float().mean() > 0.1
    assert torch.equal(wet[~interior], dry[~interior])


@pytest.mark.parametrize(
    "changes", [{"arms": True}, {"ascites": 1.0}, {"strands_hu": 80.0}, {"dilated": True}, {"soft_share": 0.35}]
)
def test_what_lies_around_changes_no_organ(scene, changes):
    seen, grid = scene
    appearance = an_appearance()
    before, after = (
        painted(seen, grid, one, rng()) for one in (appearance, dataclasses.replace(appearance, **changes))
    )
    assert not torch.equal(before, after)
    assert torch.equal(before[is_organ(seen)], after[is_organ(seen)])


def test_arms_lie_in_the_air_beside_the_body(scene):
    seen, grid = scene
    appearance = dataclasses.replace(an_appearance(), fat_mm=4.0, muscle_mm=3.0)
    without, arms = (painted(seen, grid, dataclasses.replace(appearance, arms=one), rng()) for one in (False, True))
    changed = arms != without
    assert changed.any()
    assert (without[changed] < -500).all()
    columns = changed.any(0).any(0).nonzero().flatten()
    body = (without > -300).any(0).any(0).nonzero().flatten()
    assert columns[0] < body[0]
    assert columns[-1] > body[-1]


def test_the_table_lies_behind_the_body_in_the_air(scene):
    seen, grid = scene
    appearance = dataclasses.replace(an_appearance(), fat_mm=4.0, muscle_mm=3.0)
    body = painted(seen, grid, appearance, rng())
    for seed in range(8):
        hu = with_table(body, grid, rng(seed))
        changed = hu != body
        assert changed.any(), seed
        assert (body[changed] < -500).all()
        assert (seen.tissue[changed] == Tissue.OUTSIDE).all()
        assert (hu[changed] >= -980).all()
    last = (body > -300).any(0).any(1).nonzero().max()
    assert changed.nonzero()[:, 1].float().median() > last


def test_in_air_alone_there_is_no_table_and_there_are_no_arms():
    grid = upright_grid((3, 10, 12), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    air = torch.full(grid.shape_zyx, AIR)
    assert torch.equal(with_table(air, grid, rng()), air)
    nothing = Tissues(torch.zeros(grid.shape_zyx, dtype=torch.int64), torch.full(grid.shape_zyx, 127.5))
    assert (painted(nothing, grid, dataclasses.replace(an_appearance(), arms=True), rng()) == AIR).all()


def ball(scene, radius_mm=8.0, hu=-40.0, added=True, tissue=Tissue.LIVER):
    seen, grid = scene
    places = (seen.tissue == tissue).nonzero().double().mean(0).numpy()
    z, y, x = (float(value) for value in np.array(corners_zyx_mm(grid)[0]) + 2.0 * places)
    return SyntheticLesion(tissue=tissue, centre_zyx_mm=(z, y, x), radius_mm=radius_mm, hu=hu, added=added)


def test_a_lesion_is_painted_in_its_organ_only(scene):
    seen, grid = scene
    appearance = an_appearance()
    lesion = ball(scene, radius_mm=30.0)  # wider than the organ
    healthy = painted(seen, grid, appearance, rng())
    ill = painted(seen, grid, dataclasses.replace(appearance, lesions=(lesion,)), rng())
    liver = seen.tissue == Tissue.LIVER
    assert torch.equal(ill[~liver], healthy[~liver])
    difference = (ill - healthy)[liver]
    assert float(difference.min()) == pytest.approx(-40, abs=1e-3)
    assert (difference < -39).float().mean() > 0.8


@pytest.mark.parametrize(("added", "expected"), [(True, 60.0), (False, 10.0)])
def test_a_lesions_hu_are_a_difference_or_its_own(scene, added, expected):
    seen, grid = scene
    hu = torch.full(grid.shape_zyx, 50.0)
    paint_lesion(hu, seen.tissue, ball(scene, hu=10.0, added=added), grid, torch.zeros(grid.shape_zyx))
    assert hu.unique().numpy()[[0, -1] if added else [-1, 0]] == pytest.approx([50.0, expected])


def test_a_lesions_volume_is_that_of_a_ball(scene):
    seen, grid = scene
    hu = torch.zeros(grid.shape_zyx)
    paint_lesion(hu, torch.full_like(seen.tissue, 1), ball(scene, 11.0, 1.0), grid, torch.zeros(grid.shape_zyx))
    # Its rim is soft over the outer 2 mm: as large as a ball a millimetre smaller.
    assert float(hu.sum()) * 8 == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.05)


def test_a_lesion_beyond_the_image_changes_nothing(scene):
    seen, grid = scene
    hu = torch.zeros(grid.shape_zyx)
    far = dataclasses.replace(ball(scene), centre_zyx_mm=(1000.0, 0.0, 0.0))
    paint_lesion(hu, seen.tissue, far, grid, torch.zeros(grid.shape_zyx))
    assert not hu.any()


def test_lesions_are_drawn_within_their_organs_and_ranges(scene, patient):
    seen, grid = scene
    config = dataclasses.replace(PLAIN, lesion_probability=1.0, lesion_count=(2, 3), lesion_radius_mm=(5.0, 9.0))
    lesions = draw_lesions(patient, seen, grid, config, rng())
    assert {lesion.tissue for lesion in lesions} == set(ORGANS)
    first = np.array(corners_zyx_mm(grid)[0])
    for lesion in lesions:
        z, y, x = np.rint((np.array(lesion.centre_zyx_mm) - first) / 2).astype(int)
        assert seen.tissue[z, y, x] == lesion.tissue
        assert 5 <= lesion.radius_mm <= 9
        assert (-70 <= lesion.hu <= 40) if lesion.added else (-5 <= lesion.hu <= 20)
    assert 2 * len(ORGANS) <= len(lesions) <= 3 * len(ORGANS)


def test_stones_lie_in_kidneys_and_gallbladder(scene, patient):
    config = dataclasses.replace(PLAIN, stone_probability=1.0, stone_hu=(500.0, 600.0))
    stones = draw_lesions(patient, *scene, config, rng())
    assert {stone.tissue for stone in stones} == {Tissue.KIDNEY_LEFT, Tissue.KIDNEY_RIGHT, Tissue.GALLBLADDER}
    assert all(500 <= stone.hu <= 600 and not stone.added for stone in stones)


def test_organs_that_are_not_there_have_no_lesions(scene, patient):
    seen, grid = scene
    config = dataclasses.replace(PLAIN, lesion_probability=1.0, stone_probability=1.0)
    nothing = Tissues(torch.zeros_like(seen.tissue), seen.depth_mm)
    assert draw_lesions(patient, nothing, grid, config, rng()) == ()


def test_an_inflated_lesion_lies_where_the_organ_bulges(small_anatomy, scene):
    body = dataclasses.replace(STILL, inflation_probability=1.0)
    patients = (Patient.draw(small_anatomy, body, rng(seed)) for seed in range(50))
    patient = next(one for one in patients if len(one.inflations) == 1)  # two that overlap move each other's middle
    lesions = draw_lesions(patient, *scene, PLAIN, rng())
    assert len(lesions) == len(patient.inflations)
    for lesion, inflation in zip(lesions, patient.inflations, strict=True):
        assert (lesion.tissue, lesion.radius_mm) == (inflation.tissue, inflation.radius_mm)
        # The middle of an inflation stays where it is.
        expected = (inflation.centre - patient.centre) * 2
        np.testing.assert_allclose(lesion.centre_zyx_mm, expected, atol=6)


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0, 1.0), (0.0,) * 5, (1.0, -1.0, 1.0, 1.0, 1.0)], ids=["three", "none", "negative"]
)
def test_phase_weights_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError, match="phase_weights"):
        AppearanceConfig(phase_weights=weights)
