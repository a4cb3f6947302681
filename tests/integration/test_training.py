"""The training loop on small phantoms and small networks."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from viscera.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.crop import region_grid
from viscera.errors import ReadError, VisceraError
from viscera.phantom import THIGHS_Z_MM, PhantomConfig, make_phantom
from viscera.preprocess import network_input
from viscera.training.augment import IDENTITY
from viscera.training.cases import TrainingCase, read_case, shuffled, write_phantom_case
from viscera.training.loop import TrainConfig, Trainer, train, training_grid, training_sample

SMALL = ModelConfig(
    localise=StageConfig(
        spacing_mm=14.0, sigma_mm=3.0, sizes_x_vox=(16, 32), sizes_y_vox=(16, 32), sizes_z_vox=(16, 32)
    ),
    segment=StageConfig(spacing_mm=12.0, sigma_mm=1.0, sizes_x_vox=(32,), sizes_y_vox=(32,), sizes_z_vox=(32,)),
    localiser=UNetConfig(inputs=1, outputs=2, filters=4, levels=3),
    scn=ScnConfig(local_filters=4, local_levels=3, spatial_filters=2, spatial_levels=3),
)
CONFIG = TrainConfig(model=SMALL, iterations=4, learning_rate=1e-3, save_every=2, bfloat16=False, label_sigma_vox=0.5)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slowest when threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def case():
    phantom = make_phantom(21, config=PhantomConfig(shape_zyx=(45, 40, 48), spacing_zyx_mm=(6.0, 8.0, 9.0)))
    return TrainingCase(name="p21", hu=phantom.volume.hu, labels=phantom.label_map.labels, grid=phantom.volume.grid)


@pytest.fixture(scope="module")
def case_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    return [write_phantom_case(folder, seed) for seed in (31, 33)]


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_without_augmentation_training_reads_what_inference_reads(case, stage):
    config = dataclasses.replace(CONFIG, augment=IDENTITY)
    image, _ = training_sample(case, stage, config, np.random.default_rng(0))
    settings = getattr(SMALL, stage)
    expected = network_input(case.hu, case.grid, training_grid(case, stage, SMALL), settings)
    np.testing.assert_allclose(image[0, 0] * 2048, expected * 2048, atol=0.1)  # HU


def test_segmentation_trains_on_the_region_inference_would_crop(case):
    expected = region_grid(case.grid, case.organ_box(), SMALL)
    assert training_grid(case, "segment", SMALL) == expected


def test_labels_keep_their_volume_on_the_networks_grid(case):
    config = dataclasses.replace(CONFIG, augment=IDENTITY, label_sigma_vox=0.0)
    _, labels = training_sample(case, "segment", config, np.random.default_rng(0))
    grid = training_grid(case, "segment", SMALL)
    for organ in (1, 3):
        sampled = int((labels == organ).sum()) * grid.voxel_ml
        true = int((case.labels == organ).sum()) * case.grid.voxel_ml
        assert sampled == pytest.approx(true, rel=0.2)


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_the_loss_falls(case, stage):
    config = dataclasses.replace(CONFIG, augment=IDENTITY, learning_rate=3e-3)
    trainer = Trainer(stage, config)
    image, labels = training_sample(case, stage, config, np.random.default_rng(0))
    losses = [trainer.step(image, labels) for _ in range(25)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


def test_a_run_leaves_weights_settings_and_a_log(case_files, tmp_path):
    config = dataclasses.replace(CONFIG, iterations=10)
    weights = train("localise", case_files, tmp_path / "run", config)
    assert set(load_file(weights)) == set(Trainer("localise", config).network.state_dict())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["iterations"] == 10
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["iteration"] == 10


def test_one_seed_gives_one_result(case_files, tmp_path):
    first, again = (load_file(train("segment", case_files, tmp_path / name, CONFIG)) for name in ("a", "b"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_average_follows_the_weights(case):
    trainer = Trainer("localise", CONFIG)
    before = {name: value.clone() for name, value in trainer.average.state_dict().items()}
    trainer.step(*training_sample(case, "localise", CONFIG, np.random.default_rng(0)))
    decay = 2 / 11  # (1 + 1) / (10 + 1) after the first step
    for name, value in trainer.network.state_dict().items():
        expected = decay * before[name] + (1 - decay) * value
        torch.testing.assert_close(trainer.average.state_dict()[name], expected)


def test_a_loss_that_is_not_a_number_stops_with_the_case_and_keeps_the_weights(case, tmp_path):
    trainer = Trainer("localise", CONFIG)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    before = trainer.average.state_dict()["output.bias"].clone()
    with pytest.raises(FloatingPointError):
        trainer.step(*training_sample(case, "localise", CONFIG, np.random.default_rng(0)))
    assert torch.equal(trainer.average.state_dict()["output.bias"], before)


def test_flat_bfloat16_convolutions_have_finite_gradients(case):
    config = dataclasses.replace(CONFIG, bfloat16=True)
    trainer = Trainer("localise", config)
    image, labels = torch.rand(1, 1, 8, 16, 16) - 0.5, torch.randint(0, 2, (1, 8, 16, 16))  # depth 2 at level 3
    for _ in range(3):
        assert np.isfinite(trainer.step(image, labels))
    assert trainer.mean_norm < 100


def test_segmenting_a_case_without_organs_is_refused_by_name():
    scan = PhantomConfig(shape_zyx=(12, 20, 24), spacing_zyx_mm=(12, 16, 18), centre_z_mm=THIGHS_Z_MM)
    phantom = make_phantom(1, config=scan)
    empty = TrainingCase(name="thighs", hu=phantom.volume.hu, labels=phantom.label_map.labels, grid=phantom.volume.grid)
    with pytest.raises(VisceraError, match="thighs"):
        training_grid(empty, "segment", SMALL)


def test_a_stored_case_comes_back(tmp_path):
    path = write_phantom_case(tmp_path, 41)
    stamp = path.stat().st_mtime_ns
    assert write_phantom_case(tmp_path, 41).stat().st_mtime_ns == stamp  # not made again
    stored = read_case(path)
    assert stored.hu.shape == stored.labels.shape == stored.grid.shape_zyx
    assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]


def test_a_broken_case_is_named(tmp_path):
    path = tmp_path / "phantom_00001.npz"
    path.write_bytes(b"not a case")
    with pytest.raises(ReadError, match="phantom_00001"):
        read_case(path)


def test_every_case_comes_once_a_round(tmp_path):
    paths = [tmp_path / str(number) for number in range(5)]
    order = shuffled(paths, np.random.default_rng(0))
    rounds = [[next(order) for _ in range(5)] for _ in range(3)]
    assert all(sorted(r) == paths for r in rounds)
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]
