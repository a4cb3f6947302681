"""Synthetic scans and samples: labels that belong to the image, fields of view, and inference's own preprocessing."""

import dataclasses

import numpy as np
import pytest
import torch

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import VisceraError
from viscera.core.resample import nearest_labels
from viscera.core.volume import Volume
from viscera.crop import roi_grid
from viscera.preprocess import fitted_grid, network_input
from viscera.synthesis.acquisition import upright_grid
from viscera.synthesis.anatomy import Anatomy
from viscera.synthesis.config import (
    AcquisitionConfig,
    AdditionConfig,
    AppearanceConfig,
    BodyConfig,
    SynthesisConfig,
)
from viscera.synthesis.densities import PHASES
from viscera.synthesis.examples import draw_example, sheet_png
from viscera.synthesis.kidneys import sinus_mask
from viscera.synthesis.scan import box_in, draw_scan, scan_image
from viscera.synthesis.tissues import ORGAN_LABELS, Tissue
from viscera.training import synthetic_patches as module
from viscera.training.config import IDENTITY, TrainConfig
from viscera.training.synthetic_patches import synthetic_sample

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = ModelConfig(
    localise=StageConfig(
        spacing_mm=9.0, sigma_mm=3.0, sizes_x_vox=(16, 32), sizes_y_vox=(16, 32), sizes_z_vox=(8, 16, 32)
    ),
    segment=StageConfig(spacing_mm=5.0, sigma_mm=1.0, sizes_x_vox=(16, 32), sizes_y_vox=(16, 24), sizes_z_vox=(8, 16)),
    margin_mm=12.0,
    localiser=UNetConfig(inputs=1, outputs=2, filters=2, levels=2),
    scn=ScnConfig(local_filters=2, local_levels=2, spatial_filters=2, spatial_levels=2, spatial_factor=2),
)
STAGES = ("localise", "segment")
# Scans are kept in whole HU, and sums of float32 round a little.
HALF_HU = 0.6


def chances(kind, value=0.0):
    return {field.name: value for field in dataclasses.fields(kind) if field.name.endswith("_probability")}


def synthesis(body=None, appearance=None, **acquisition):
    """Nothing seldom happens, the whole anatomy is scanned, but for what is asked."""
    return SynthesisConfig(
        body=BodyConfig(**{**chances(BodyConfig), "fat_mm": (4.0, 8.0), **(body or {})}),
        additions=AdditionConfig(**chances(AdditionConfig)),
        appearance=AppearanceConfig(**{**chances(AppearanceConfig), **(appearance or {})}),
        acquisition=AcquisitionConfig(**{**chances(AcquisitionConfig), "whole_probability": 1.0, **acquisition}),
    )


WHOLE = synthesis()


def settings(config=None, **changes):
    made = dataclasses.replace(config or WHOLE, **{"box_jitter_mm": 0.0, "box_stretch_probability": 0.0, **changes})
    return TrainConfig(model=MODEL, augment=IDENTITY, synthesis=made, label_sigma_vox=0.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def whole_image(scan, voxel_mm=3.0, seed=1):
    return scan_image(scan, scan.lower_zyx_mm, scan.upper_zyx_mm, voxel_mm, rng(seed))


@pytest.fixture
def painted_scans(monkeypatch):
    """What `synthetic_sample` paints, as it is painted: the scan's image, labels and grid."""
    made = []

    def kept(*arguments):
        made.append(scan_image(*arguments))
        return tuple(part.clone() if isinstance(part, torch.Tensor) else part for part in made[-1])

    monkeypatch.setattr(module, "scan_image", kept)
    return made


def sampled(anatomy, stage, config, seed=0):
    """The sample, and the grid it lies on, as it was chosen."""
    grids = []

    def noted(*arguments):
        grids.append(fitted_grid(*arguments))
        return grids[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fitted_grid", noted)
        image, labels = synthetic_sample(anatomy, stage, config, rng(seed))
    return image, labels, grids[-1]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", range(3))
def test_training_reads_what_inference_reads_of_the_same_scan(small_anatomy, painted_scans, stage, seed):
    # The margin makes the region the whole scan, so that all of it is painted, as a scanner would store it.
    config = dataclasses.replace(settings(), model=dataclasses.replace(MODEL, margin_mm=300.0))
    image, _, target = sampled(small_anatomy, stage, config, seed)
    hu, _, grid = painted_scans[0]
    scan = Volume(hu=hu.numpy().astype(np.int16), grid=grid)
    expected = network_input(scan.hu, scan.grid, target, getattr(MODEL, stage))
    assert image.shape == (1, 1, *target.shape_zyx)
    np.testing.assert_allclose(image[0, 0] * 2048, expected * 2048, atol=HALF_HU)
    assert expected.std() * 2048 > 100  # there is something to see
    # And the grid is the one inference would choose, but for what whole slices and voxels leave of the field of view.
    own = fitted_grid(grid, grid.box(), getattr(MODEL, stage))
    assert own.shape_zyx == target.shape_zyx
    middles = [one.world((np.array(one.shape_zyx) - 1) / 2) for one in (own, target)]
    np.testing.assert_allclose(*middles, atol=1.0)
    np.testing.assert_allclose(own.spacing_zyx_mm, target.spacing_zyx_mm, rtol=0.05)


@pytest.mark.parametrize("stage", STAGES)
def test_beyond_what_is_painted_it_goes_on_as_the_path_goes_on_at_borders(small_anatomy, painted_scans, stage):
    image, _, target = sampled(small_anatomy, stage, settings(), 2)
    hu, _, grid = painted_scans[0]
    wide = np.pad(hu.numpy().astype(np.int16), 4, mode="edge")
    more = upright_grid(
        tuple(count + 8 for count in grid.shape_zyx),
        grid.spacing_zyx_mm,
        tuple(float(grid.affine[2 - k, 3]) - 4 * grid.spacing_zyx_mm[k] for k in range(3)),
    )
    expected = network_input(wide, more, target, getattr(MODEL, stage))
    offset, step = target.positions_in(grid)
    places = np.indices(target.shape_zyx).transpose(1, 2, 3, 0) * step + offset
    inside = ((places >= 0) & (places <= np.array(grid.shape_zyx) - 1)).all(-1)
    assert inside.mean() > 0.2
    np.testing.assert_allclose((image[0, 0] * 2048)[inside], (expected * 2048)[inside], atol=HALF_HU)


def test_of_the_region_only_that_and_its_surroundings_are_painted(small_anatomy, painted_scans):
    config = settings(synthesis(body={"fat_mm": (60.0, 60.0)}))
    model = dataclasses.replace(MODEL, margin_mm=0.0)
    _, _, target = sampled(small_anatomy, "segment", dataclasses.replace(config, model=model), 1)
    _, _, grid = painted_scans[0]
    painted, needed = (np.array(one.extent_zyx_mm) for one in (grid, target))
    # Four deviations of the smoothing, 1.5 slices of at most 7 mm, and a voxel.
    assert (painted <= needed + 2 * (4 * 1.0 + 1.5 * 7.0 + 3.1)).all()
    low, high = target.positions_in(grid)[0], np.array(target.positions_in(grid)[1]) * (np.array(target.shape_zyx) - 1)
    covered = (np.array(low)[1:] > 0) & ((np.array(low) + high)[1:] < np.array(grid.shape_zyx)[1:] - 1)
    assert covered.all()


@pytest.mark.parametrize("stage", STAGES)
def test_labels_of_a_sample_are_those_of_the_scan(small_anatomy, painted_scans, stage):
    _, labels, target = sampled(small_anatomy, stage, settings(), 4)
    _, organs, grid = painted_scans[0]
    expected = nearest_labels(organs.numpy(), grid, target)
    if stage == "localise":
        expected = (expected > 0).astype(np.uint8)
    assert (labels[0].numpy() != expected).mean() < 0.02  # halves are settled one way or the other
    assert set(np.unique(expected)) == ({0, 1} if stage == "localise" else {0, 1, 2, 3, 4})


@pytest.mark.parametrize("stage", STAGES)
def test_shapes_types_and_ranges(small_anatomy, stage):
    config = TrainConfig(model=MODEL)
    for seed in range(3):
        image, labels, target = sampled(small_anatomy, stage, config, seed)
        assert (image.shape, image.dtype) == ((1, 1, *target.shape_zyx), torch.float32)
        assert (labels.shape, labels.dtype) == ((1, *target.shape_zyx), torch.uint8)
        assert image.abs().max() <= 1
        assert labels.max() <= (1 if stage == "localise" else 4)


@pytest.mark.parametrize("stage", STAGES)
def test_one_generator_gives_one_sample(small_anatomy, stage):
    config = TrainConfig(model=MODEL)
    first, again, other = (synthetic_sample(small_anatomy, stage, config, rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])


@pytest.mark.parametrize("seed", range(12))
def test_where_organs_are_needed_they_are_in_the_field_of_view(small_anatomy, seed):
    scan = draw_scan(small_anatomy, SynthesisConfig(), rng(seed))
    assert scan.organs is not None
    for (low, high), (lower, upper) in zip(
        zip(*scan.organs, strict=True), zip(scan.lower_zyx_mm, scan.upper_zyx_mm, strict=True), strict=True
    ):
        assert lower - 3 <= low < high <= upper + 3  # to half a voxel of 6 mm
    _, labels, _ = whole_image(scan, 2.0)
    assert labels.any()


def test_an_anatomy_without_organs_is_refused_for_segmentation_by_name(small_anatomy):
    organs = np.isin(small_anatomy.tissues, np.flatnonzero(ORGAN_LABELS))
    tissues = np.where(organs, Tissue.INTERIOR, small_anatomy.tissues).astype(np.uint8)
    thighs = Anatomy(name="thighs", tissues=tissues, depth=small_anatomy.depth, organs={})
    with pytest.raises(VisceraError, match="thighs: expected organs"):
        synthetic_sample(thighs, "segment", settings(), rng())
    image, labels = synthetic_sample(thighs, "localise", settings(), rng())
    assert not labels.any()
    assert image.std() * 2048 > 100


def test_the_boxs_faces_are_moved_at_random(small_anatomy):
    grids = [sampled(small_anatomy, "segment", settings(box_jitter_mm=jitter), 3)[2] for jitter in (0.0, 0.0, 10.0)]
    assert grids[0] == grids[1]
    assert not grids[2].matches(grids[0])


def test_one_face_of_the_box_is_sometimes_moved_far_outwards(small_anatomy):
    scan = draw_scan(small_anatomy, WHOLE, rng())
    # A field of view so wide that no face is cut.
    wide = dataclasses.replace(scan, lower_zyx_mm=(-900.0, -900.0, -900.0), upper_zyx_mm=(900.0, 900.0, 900.0))
    frame = module._frame(wide)
    still = dataclasses.replace(WHOLE, box_jitter_mm=0.0, box_stretch_mm=(100.0, 100.0), box_stretch_probability=0.0)
    far = dataclasses.replace(still, box_stretch_probability=1.0)
    own = np.ravel(dataclasses.astuple(module._jittered(wide.organs, frame, still, rng())))
    moved = {
        tuple(
            np.round(np.ravel(dataclasses.astuple(module._jittered(wide.organs, frame, far, rng(seed)))) - own, 6) + 0.0
        )
        for seed in range(60)
    }
    outwards = np.diag([-100.0] * 3 + [100.0] * 3)
    np.testing.assert_allclose(sorted(moved), sorted(map(tuple, outwards)), atol=1e-9)


def test_the_region_is_the_organs_box_with_the_margin(small_anatomy):
    config = settings()
    scan = draw_scan(small_anatomy, config.synthesis, rng(7))
    _, _, target = sampled(small_anatomy, "segment", config, 7)
    frame = module._frame(scan)
    assert target.matches(roi_grid(frame, box_in(frame, *scan.organs), MODEL))


def test_labels_are_those_of_the_tissues_at_the_slices(small_anatomy):
    scan = draw_scan(small_anatomy, WHOLE, rng())
    _, labels, slices = whole_image(scan)
    seen = scan.patient.tissues(slices)
    expected = torch.tensor(ORGAN_LABELS)[seen.tissue]
    expected[sinus_mask(seen, slices, scan.appearance.kidney)] = 0
    # Slices lie up to half a plane from the nearest plane that was painted.
    assert (labels != expected).float().mean() < 0.03
    assert set(labels.unique().tolist()) == {0, 1, 2, 3, 4}
    overlap = ((labels > 0) & (expected > 0)).sum() / ((labels > 0) | (expected > 0)).sum()
    assert overlap > 0.85


def test_labels_lie_where_the_image_shows_the_organ(small_anatomy):
    config = synthesis(
        appearance={"phase_weights": (0.0, 0.0, 1.0, 0.0, 0.0), "texture_hu": (0.0, 0.0)},
        noise_hu=(1e-6, 1e-6),
        kernel_mm=(0.0, 0.0),
        slice_mm=(2.0, 2.0),
        thickness_share=(1.0, 1.0),
    )
    scan = draw_scan(small_anatomy, config, rng())
    image, labels, _ = whole_image(scan, 2.0)
    spleen = image[labels == 3]
    assert float(spleen.median()) == pytest.approx(float(scan.appearance.means[Tissue.SPLEEN]), abs=1)
    assert (spleen.round() == spleen).all()


def test_the_image_covers_the_field_of_view(small_anatomy):
    scan = draw_scan(small_anatomy, WHOLE, rng())
    _, _, grid = whole_image(scan, 3.0)
    low = np.array([grid.affine[2, 3], grid.affine[1, 3], grid.affine[0, 3]]) - np.array(grid.spacing_zyx_mm) / 2
    high = low + np.array(grid.extent_zyx_mm)
    np.testing.assert_allclose(low[1:], scan.lower_zyx_mm[1:], atol=1.5)
    np.testing.assert_allclose(high[1:], scan.upper_zyx_mm[1:], atol=1.5)
    assert low[0] >= scan.lower_zyx_mm[0] - 1.6
    assert high[0] <= scan.upper_zyx_mm[0] + 1.6
    assert high[0] - low[0] > scan.upper_zyx_mm[0] - scan.lower_zyx_mm[0] - grid.spacing_zyx_mm[0] - 3


def test_a_part_is_cut_to_the_field_of_view(small_anatomy):
    scan = draw_scan(small_anatomy, WHOLE, rng())
    far = tuple(value + 500 for value in scan.upper_zyx_mm)
    _, _, part = scan_image(scan, (0.0, 0.0, 0.0), far, 3.0, rng())
    _, _, whole = whole_image(scan)
    assert part.affine[2, 3] >= -1
    for axis in range(3):
        ends = [
            float(one.affine[2 - axis, 3]) + one.spacing_zyx_mm[axis] * (one.shape_zyx[axis] - 1)
            for one in (part, whole)
        ]
        assert abs(ends[0] - ends[1]) < 8


def test_beyond_the_circle_is_padding_without_labels(small_anatomy):
    config = synthesis(
        circle_probability=1.0, padding_hu=(-2000.0, -2000.0, -2000.0), crop_probability=1.0, crop_share=(0.5, 0.6)
    )
    scan = draw_scan(small_anatomy, config, rng(1))
    image, labels, _ = whole_image(scan)
    padding = image == -2000
    # A rectangle but its ellipse: 1 - pi / 4.
    assert padding.float().mean() == pytest.approx(0.215, abs=0.03)
    assert not labels[padding].any()
    assert labels.any()


def test_a_part_within_the_circle_has_no_padding(small_anatomy):
    scan = draw_scan(small_anatomy, synthesis(circle_probability=1.0, padding_hu=(-2000.0, -2000.0)), rng())
    middle = (np.array(scan.lower_zyx_mm) + scan.upper_zyx_mm) / 2
    half = (np.array(scan.upper_zyx_mm) - scan.lower_zyx_mm) / 4
    image, _, _ = scan_image(scan, tuple(middle - half), tuple(middle + half), 3.0, rng())
    assert image.min() > -1100


def test_cropped_scans_are_narrower_than_the_body_and_show_organs(small_anatomy):
    cropped = synthesis(crop_probability=1.0, crop_share=(0.4, 0.5))
    for seed in range(4):
        widths = []
        for config in (WHOLE, cropped):
            scan = draw_scan(small_anatomy, config, rng(seed))
            assert scan.organs is not None
            widths.append(np.array(scan.upper_zyx_mm) - scan.lower_zyx_mm)
        assert (widths[1][1:] < 0.8 * widths[0][1:]).all()


def test_slabs_are_as_thick_as_asked(small_anatomy):
    config = synthesis(whole_probability=0.0, slab_probability=1.0, slab_mm=(40.0, 40.0))
    for seed in range(4):
        scan = draw_scan(small_anatomy, config, rng(seed))
        assert 24 <= scan.upper_zyx_mm[0] - scan.lower_zyx_mm[0] <= 40.001
        assert scan.organs is not None


def test_the_margin_beside_the_organs_is_as_asked(small_anatomy):
    config = synthesis(whole_probability=0.0, organs_margin_mm=(-6.0, -6.0))
    scan = draw_scan(small_anatomy, config, rng())
    whole = draw_scan(small_anatomy, WHOLE, rng())
    # Both patients are the same, as nothing that was drawn before differs.
    assert scan.lower_zyx_mm[0] == pytest.approx(whole.organs[0][0] + 6)
    assert scan.upper_zyx_mm[0] == pytest.approx(whole.organs[1][0] - 6)


def test_scans_off_the_organs_show_none(small_anatomy):
    tall = np.concatenate([small_anatomy.tissues[:1].repeat(60, 0), small_anatomy.tissues])
    depth = np.concatenate([small_anatomy.depth[:1].repeat(60, 0), small_anatomy.depth])
    tall[:60][np.isin(tall[:60], np.flatnonzero(ORGAN_LABELS))] = Tissue.INTERIOR
    organs = {
        tissue: (centre + np.array([60, 0, 0]), radius) for tissue, (centre, radius) in small_anatomy.organs.items()
    }
    legs = Anatomy(name="legs", tissues=tall, depth=depth, organs=organs)
    config = synthesis(body={"turn_rad": 0.0, "tilt_rad": 0.0, "elastic_mm": (0.0, 0.0)}, off_probability=1.0)
    scan = draw_scan(legs, config, rng(), organs_needed=False)
    assert scan.organs is None
    _, labels, _ = whole_image(scan)
    assert (labels > 0).float().mean() < 0.003  # the overview that organs are looked up in is coarse
    assert draw_scan(legs, config, rng(), organs_needed=True).organs is not None


def test_a_scan_comes_from_its_seed(small_anatomy):
    first, again = (whole_image(draw_scan(small_anatomy, SynthesisConfig(), rng(3))) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2]


def test_an_example_is_a_scan_with_its_labels_and_a_caption(small_anatomy):
    example = draw_example(small_anatomy, WHOLE, 3.0, rng())
    assert example.volume.grid == example.label_map.grid
    assert example.label_map.labels.any()
    assert example.volume.hu.min() >= -1024
    spacing = example.volume.grid.spacing_zyx_mm[0]
    assert f"slices {spacing:.1f} mm" in example.caption
    assert example.caption.split(",")[0] in PHASES


def test_an_example_of_an_anatomy_without_organs_has_no_labels(small_anatomy):
    none = np.where(small_anatomy.tissues > 0, Tissue.BRAIN, 0).astype(np.uint8)
    head = Anatomy(name="head", tissues=none, depth=small_anatomy.depth, organs={})
    assert not draw_example(head, WHOLE, 4.0, rng()).label_map.labels.any()


def test_the_sheet_shows_every_example(small_anatomy):
    import io

    from PIL import Image

    examples = [draw_example(small_anatomy, WHOLE, 4.0, rng(seed)) for seed in range(2)]
    with Image.open(io.BytesIO(sheet_png(examples * 4))) as picture:
        assert picture.size == (6 * 2 * 200, 2 * 216)
        pixels = np.asarray(picture)
    tiles = [pixels[top + 16 : top + 216, left : left + 400] for top, left in ((0, 0), (0, 400), (216, 400))]
    assert all((tile.std() > 20) for tile in tiles)
    assert (tiles[0] != tiles[1]).any()
    np.testing.assert_array_equal(tiles[1], tiles[2])  # the 2nd and the 8th
    assert len(np.unique(pixels[216:, 2 * 400 :].reshape(-1, 3), axis=0)) == 1  # places beyond the 8th stay empty
