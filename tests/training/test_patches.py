"""Training samples: what inference reads, image and labels always together, labels as the method says."""

import dataclasses

import numpy as np
import pytest
import torch

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import ConfigError, VisceraError
from viscera.core.geometry import Grid
from viscera.core.resample import nearest_labels
from viscera.crop import roi_grid
from viscera.formats.nifti_write import write_label_map, write_volume
from viscera.preprocess import fitted_grid, network_input
from viscera.synthesis.phantom import PhantomConfig, make_phantom
from viscera.training.cache import Cache, TrainingCase
from viscera.training.config import IDENTITY, AugmentConfig, TrainConfig
from viscera.training.datasets import find_dataset
from viscera.training.patches import require_sampling, sampling_weights, training_grid, training_sample
from viscera.training.prepare import PrepareConfig, occupied, prepare_dataset

SMALL = ModelConfig(
    localise=StageConfig(
        spacing_mm=13.0, sigma_mm=3.0, sizes_x_vox=(16, 32), sizes_y_vox=(16, 32), sizes_z_vox=(16, 32)
    ),
    # The organs do not fit 24 voxels of 9 mm, so that the spacing grows.
    segment=StageConfig(
        spacing_mm=9.0, sigma_mm=1.0, sizes_x_vox=(24,), sizes_y_vox=(16, 24), sizes_z_vox=(16, 24, 32)
    ),
    margin_mm=20.0,
    localiser=UNetConfig(inputs=1, outputs=2, filters=4, levels=3),
    scn=ScnConfig(local_filters=4, local_levels=3, spatial_filters=2, spatial_levels=2),
)
PLAIN = TrainConfig(model=SMALL, augment=IDENTITY, label_sigma_vox=0.0)
STAGES = ("localise", "segment")
HALF_HU = 0.51  # the stored image is rounded to whole HU


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rng(seed=0):
    return np.random.default_rng(seed)


def upright():
    return PhantomConfig(shape_zyx=(46, 40, 50), spacing_zyx_mm=(6.0, 8.0, 9.0)).grid()


def oblique():
    """Turned by 15 degrees, stored from the feet and the left."""
    turn, spacing, shape = np.deg2rad(15), (7.0, 9.0, 7.3), (44, 36, 56)
    direction = np.array([[0, np.sin(turn), -np.cos(turn)], [0, np.cos(turn), np.sin(turn)], [-1, 0, 0]])
    middle = direction @ ((np.array(shape) - 1) / 2 * np.array(spacing))
    origin = tuple(np.array([0.0, 0.0, 20.0]) - middle)
    return Grid.from_axes(shape, spacing_zyx_mm=spacing, direction_zyx=direction, origin_xyz_mm=origin)


@pytest.fixture(scope="module", params=[upright, oblique], ids=["upright", "oblique"])
def scan(request, tmp_path_factory):
    """A phantom in canonical axes, and its cache."""
    folder = tmp_path_factory.mktemp("scan")
    phantom = make_phantom(21, grid=request.param())
    write_volume(phantom.volume, folder / "images" / "p.nii.gz")
    write_label_map(phantom.label_map, folder / "labels" / "p.nii.gz")
    prepare_dataset(find_dataset(folder), folder / "cache", PrepareConfig(model=SMALL))
    turn = phantom.volume.grid.to_canonical()
    grid = turn.apply_to_grid(phantom.volume.grid)
    return turn.apply(phantom.volume.hu), turn.apply(phantom.label_map.labels), grid, Cache.open(folder / "cache")


def inference_grid(labels, grid, stage):
    if stage == "localise":
        return fitted_grid(grid, grid.box(), SMALL.localise)
    return roi_grid(grid, grid.box(occupied(labels > 0)), SMALL)


@pytest.mark.parametrize("stage", STAGES)
def test_the_grid_is_inferences(scan, stage):
    _, labels, grid, cache = scan
    mine, expected = training_grid(cache.load("p", stage), stage, SMALL), inference_grid(labels, grid, stage)
    assert mine.shape_zyx == expected.shape_zyx
    np.testing.assert_allclose(mine.affine, expected.affine, atol=1e-4)  # files keep affines in float32


def test_the_margin_ends_at_the_scan(scan):
    _, labels, grid, cache = scan
    wide = dataclasses.replace(SMALL, margin_mm=80.0)
    mine = training_grid(cache.load("p", "segment"), "segment", wide)
    expected = roi_grid(grid, grid.box(occupied(labels > 0)), wide)
    np.testing.assert_allclose(mine.affine, expected.affine, atol=1e-4)


def test_the_grids_spacing_grows_with_the_organs(scan):
    case = scan[3].load("p", "segment")
    narrow = dataclasses.replace(SMALL, segment=dataclasses.replace(SMALL.segment, sizes_x_vox=(16,)))
    extent = case.organs.grown(20.0).clipped(case.scan).extent_zyx_mm[2]
    assert training_grid(case, "segment", narrow).spacing_zyx_mm == pytest.approx([extent / 16] * 3)
    assert extent / 16 > 9.0


@pytest.mark.parametrize("stage", STAGES)
def test_without_augmentation_training_reads_what_inference_reads(scan, stage):
    hu, labels, grid, cache = scan
    image, _ = training_sample(cache.load("p", stage), stage, PLAIN, rng())
    expected = network_input(hu, grid, inference_grid(labels, grid, stage), getattr(SMALL, stage))
    np.testing.assert_allclose(image[0, 0] * 2048, expected * 2048, atol=HALF_HU)
    assert (expected == -0.5).mean() > 0.01  # some of it lies beyond the scan


def test_another_spacing_than_prepared_for_reads_nearly_what_inference_reads(scan):
    hu, labels, grid, cache = scan
    coarser = dataclasses.replace(SMALL.segment, spacing_mm=13.0)
    model = dataclasses.replace(SMALL, segment=coarser)
    image, _ = training_sample(cache.load("p", "segment"), "segment", dataclasses.replace(PLAIN, model=model), rng())
    expected = network_input(hu, grid, roi_grid(grid, grid.box(occupied(labels > 0)), model), coarser)
    body = expected > -0.1
    assert (
        np.abs(image[0, 0].numpy() - expected)[body].mean() * 2048 < 20
    )  # HU; the phantom's noise is blurred once more


@pytest.mark.parametrize("stage", STAGES)
def test_labels_without_augmentation_are_the_nearest(scan, stage):
    _, labels, grid, cache = scan
    _, sampled = training_sample(cache.load("p", stage), stage, PLAIN, rng())
    target = inference_grid(labels, grid, stage)
    expected = nearest_labels(labels, grid, target)
    if stage == "localise":
        expected = expected > 0
    offset, step = target.positions_in(grid)
    places = np.indices(target.shape_zyx).transpose(1, 2, 3, 0) * step + offset
    inside = ((places >= -0.5) & (places <= np.array(grid.shape_zyx) - 0.5)).all(-1)
    clear = (np.abs(places - np.floor(places) - 0.5) > 1e-3).all(-1)  # no two voxels are equally near
    assert clear.mean() > 0.3
    np.testing.assert_array_equal(sampled[0].numpy()[clear], np.where(inside, expected, 0)[clear])


def test_smoothed_labels_are_the_largest_of_the_smoothed_maps(scan):
    from scipy.ndimage import gaussian_filter

    case = scan[3].load("p", "segment")
    _, sharp = training_sample(case, "segment", PLAIN, rng())
    _, smooth = training_sample(case, "segment", dataclasses.replace(PLAIN, label_sigma_vox=1.0), rng())
    maps = np.stack([gaussian_filter((sharp[0].numpy() == k).astype(float), 1.0, truncate=3.0) for k in range(5)])
    maps.sort(axis=0)
    clear = maps[-1] - maps[-2] > 1e-4
    maps = np.stack([gaussian_filter((sharp[0].numpy() == k).astype(float), 1.0, truncate=3.0) for k in range(5)])
    np.testing.assert_array_equal(smooth[0].numpy()[clear], maps.argmax(0)[clear])
    assert (sharp != smooth).sum() > 20


def drawn(case):
    """The case with an image drawn from its labels: 0 HU in organs, -1024 elsewhere."""
    return dataclasses.replace(case, image=np.where(case.labels > 0, 0, -1024).astype(np.int16))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", range(3))
def test_image_and_labels_move_together(scan, stage, seed):
    case = drawn(scan[3].load("p", stage))
    # A shift of intensities would move the threshold; everything else may happen.
    augment = AugmentConfig(shift=0, gain=0, gamma=0)
    config = dataclasses.replace(PLAIN, augment=augment, lesion_probability=0.0)
    image, labels = training_sample(case, stage, config, rng(seed))
    share = (image[0, 0] + 0.5) * 2  # of organ among the voxels that were read
    organ = labels[0] > 0
    assert organ.sum() > 50
    assert (share[organ] > 0.1).all()
    assert (share[~organ] < 0.9).all()
    still = training_sample(case, stage, PLAIN, rng())[1]
    assert ((still[0] > 0) != organ).float().mean() > 0.005  # it did move


@pytest.mark.parametrize("stage", STAGES)
def test_beyond_the_scan_is_air_without_labels(scan, stage):
    case = scan[3].load("p", stage)
    full = dataclasses.replace(
        case, image=np.zeros_like(case.image), labels=np.ones_like(case.labels), organs=case.scan, labelled=None
    )
    augment = dataclasses.replace(IDENTITY, translation_mm=300.0)
    image, labels = training_sample(full, stage, dataclasses.replace(PLAIN, augment=augment), rng(1))
    air = image[0, 0] == -0.5
    assert 0.05 < air.float().mean() < 0.99
    assert (image[0, 0][~air] == 0).all()
    assert not labels[0][air].any()
    assert (labels[0][~air] == 1).float().mean() > 0.3  # none beyond what is stored either


def test_only_what_is_needed_is_read(scan):
    """Values beyond the region on one side change nothing without augmentation."""
    case = scan[3].load("p", "segment")
    small = dataclasses.replace(SMALL, margin_mm=0.0)
    config = dataclasses.replace(PLAIN, model=small)
    target = training_grid(case, "segment", small)
    reach = target.box_from(case.grid, case.grid.box())
    assert reach.lower_zyx_mm[2] < target.box().lower_zyx_mm[2]
    before = training_sample(case, "segment", config, rng())[0]
    beyond_x = case.image.copy()
    offset, step = target.positions_in(case.grid)
    last = int(np.ceil(offset[2] + step[2] * (target.shape_zyx[2] - 1))) + 2
    beyond_x[:, :, last:] = 3000
    assert torch.equal(training_sample(dataclasses.replace(case, image=beyond_x), "segment", config, rng())[0], before)


@pytest.mark.parametrize("seed", range(6))
def test_reading_a_part_of_the_case_changes_nothing(scan, monkeypatch, seed):
    case = scan[3].load("p", "segment")
    # A shift alone takes the region away from the lesion's middle, from which tissue is then read.
    augment = AugmentConfig() if seed < 3 else dataclasses.replace(IDENTITY, translation_mm=150.0)
    config = TrainConfig(model=SMALL, augment=augment, lesion_probability=1.0, lesion_radius_mm=(60.0, 60.0))
    part = training_sample(case, "segment", config, rng(seed))
    everything = tuple(slice(0, count) for count in case.grid.shape_zyx)
    monkeypatch.setattr("viscera.training.patches._needed", lambda *_: everything)
    whole = training_sample(case, "segment", config, rng(seed))
    torch.testing.assert_close(part[0], whole[0], atol=1e-4, rtol=0)
    assert torch.equal(part[1], whole[1])


def test_one_generator_gives_one_sample(scan):
    case, config = scan[3].load("p", "segment"), TrainConfig(model=SMALL, lesion_probability=0.5)
    first, again, other = (training_sample(case, "segment", config, rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("stage", STAGES)
def test_shapes_types_and_ranges(scan, stage):
    image, labels = training_sample(scan[3].load("p", stage), stage, TrainConfig(model=SMALL), rng())
    shape = training_grid(scan[3].load("p", stage), stage, SMALL).shape_zyx
    assert (image.shape, image.dtype) == ((1, 1, *shape), torch.float32)
    assert (labels.shape, labels.dtype) == ((1, *shape), torch.uint8)
    assert image.abs().max() <= 1
    assert set(labels.unique().tolist()) <= ({0, 1} if stage == "localise" else {0, 1, 2, 3, 4})


def test_labels_keep_their_volume(scan):
    _, labels, grid, cache = scan
    case = cache.load("p", "segment")
    _, sampled = training_sample(case, "segment", PLAIN, rng())
    voxel_ml = training_grid(case, "segment", SMALL).voxel_ml
    true = np.count_nonzero(labels) * grid.voxel_ml
    assert np.count_nonzero(sampled) * voxel_ml == pytest.approx(true, rel=0.1)


def test_segmenting_a_case_without_organs_is_refused_by_name(scan):
    case: TrainingCase = dataclasses.replace(scan[3].load("p", "localise"), organs=None, name="thighs")
    with pytest.raises(VisceraError, match="thighs"):
        training_grid(case, "segment", SMALL)
    _, labels = training_sample(case, "localise", PLAIN, rng())
    assert not labels.any()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("localise.sigma_mm", {"localise": dataclasses.replace(SMALL.localise, sigma_mm=2.0)}),
        ("segment.spacing_mm", {"segment": dataclasses.replace(SMALL.segment, spacing_mm=4.0)}),
        ("margin_mm", {"margin_mm": 80.0}),
        ("organs", {"scn": dataclasses.replace(SMALL.scn, labels=3)}),
    ],
)
def test_a_cache_for_another_sampling_is_refused(scan, name, change):
    settings = scan[3].manifest.settings
    require_sampling(settings, SMALL)
    with pytest.raises(ConfigError, match=name):
        require_sampling(settings, dataclasses.replace(SMALL, **change))


def with_lesions(cache, volumes):
    entry = cache.manifest.cases[0]
    organ = entry.organs[0]
    cases = tuple(
        dataclasses.replace(entry, name=f"c{ml}", organs=(dataclasses.replace(organ, lesion_ml=float(ml)),))
        for ml in volumes
    )
    return Cache(folder=cache.folder, manifest=dataclasses.replace(cache.manifest, cases=cases))


def test_cases_weigh_alike_by_default(scan):
    np.testing.assert_allclose(sampling_weights(with_lesions(scan[3], (0, 5, 100)), PLAIN), 1 / 3)


def test_large_lesions_weigh_more(scan):
    config = dataclasses.replace(PLAIN, lesion_weight=3.0, lesion_large_ml=20.0)
    weights = sampling_weights(with_lesions(scan[3], (0, 10, 20, 100)), config)
    np.testing.assert_allclose(weights, np.array([1, 2.5, 4, 4]) / 11.5)


def test_weights_are_not_for_another_sampling(scan):
    model = dataclasses.replace(SMALL, margin_mm=80.0)
    with pytest.raises(ConfigError, match="margin"):
        sampling_weights(scan[3], dataclasses.replace(PLAIN, model=model))
