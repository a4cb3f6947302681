"""Training on small phantoms with small networks, from prepared cases to weights."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from viscera.core.errors import ReadError, VisceraError
from viscera.crop import roi_grid
from viscera.preprocess import network_input
from viscera.read import read_label_map, read_volume
from viscera.training.cache import CASES, Cache
from viscera.training.config import without_augmentation
from viscera.training.patches import training_grid, training_sample
from viscera.training.step import Trainer
from viscera.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def source(small_dataset):
    """The CT of p31 and its labels, in canonical axes."""
    volume = read_volume(small_dataset / "images" / "p31.nii")
    labels = read_label_map(small_dataset / "labels" / "p31.nii")
    turn = volume.grid.to_canonical()
    return turn.apply(volume.hu), turn.apply(labels.labels), turn.apply_to_grid(volume.grid)


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_without_augmentation_training_reads_what_inference_reads(stage, source, small_cache, small_training):
    case, model = small_cache.load("p31", stage), small_training.model
    image, _ = training_sample(case, stage, without_augmentation(small_training), np.random.default_rng(0))
    hu, labels, grid = source
    if stage == "localise":
        target = training_grid(case, stage, model)
        expected = network_input(hu, grid, target, model.localise)
    else:
        lines = [np.flatnonzero((labels > 0).any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        z, y, x = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
        expected = network_input(hu, grid, roi_grid(grid, grid.box((z, y, x)), model), model.segment)
    assert image.shape[2:] == expected.shape
    np.testing.assert_allclose(image[0, 0] * 2048, expected * 2048, atol=1.0)  # HU; stored ones are whole numbers


def test_labels_keep_their_volume_on_the_networks_grid(source, small_cache, small_training):
    config = dataclasses.replace(without_augmentation(small_training), label_sigma_vox=0.0)
    case = small_cache.load("p31", "segment")
    _, labels = training_sample(case, "segment", config, np.random.default_rng(0))
    _, true, grid = source
    sampled = int((labels == 1).sum()) * training_grid(case, "segment", config.model).voxel_ml
    assert sampled == pytest.approx(int((true == 1).sum()) * grid.voxel_ml, rel=0.2)


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_the_loss_falls(stage, small_cache, small_training):
    config = dataclasses.replace(without_augmentation(small_training), learning_rate=3e-3)
    trainer = Trainer(stage, config)
    image, labels = training_sample(small_cache.load("p31", stage), stage, config, np.random.default_rng(0))
    losses = [trainer.step(image, labels).loss for _ in range(25)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


def test_a_run_leaves_weights_settings_a_log_and_a_card(small_cache, small_training, tmp_path):
    config = dataclasses.replace(small_training, iterations=4)
    weights = train("localise", small_cache, tmp_path / "run", config, names=small_cache.names)
    assert weights == tmp_path / "run" / "weights.safetensors"
    assert set(load_file(weights)) == set(Trainer("localise", config).network.state_dict())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["iterations"] == 4
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["iteration"] == 4
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (card["stage"], card["iterations"], card["cases"]) == ("localise", 4, 5)
    assert card["organs"] == ["liver", "kidney", "spleen", "pancreas"]
    assert card["energy"]["seconds"] > 0


def test_one_seed_gives_one_result(small_cache, small_training, tmp_path):
    config = dataclasses.replace(small_training, iterations=3)
    names = small_cache.names_for("segment")
    runs = [
        load_file(train("segment", small_cache, tmp_path / run, dataclasses.replace(config, seed=seed), names=names))
        for run, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_cases_without_organs_are_named_and_left_out_of_segmentation(small_cache, small_training, tmp_path, caplog):
    config = dataclasses.replace(small_training, iterations=1)
    with caplog.at_level(logging.INFO, "viscera"):
        train("segment", small_cache, tmp_path, config, names=small_cache.names)
    assert "thighs" in caplog.text
    assert json.loads((tmp_path / "card.json").read_text())["cases"] == 4


def test_segmenting_a_case_without_organs_is_refused_by_name(small_cache, small_training):
    case = small_cache.load("thighs", "localise")
    with pytest.raises(VisceraError, match="thighs"):
        training_grid(case, "segment", small_training.model)


def test_a_stored_case_comes_back(small_cache):
    for stage in ("localise", "segment"):
        stored = small_cache.load("p31", stage)
        assert stored.image.shape == stored.labels.shape == stored.grid.shape_zyx
        assert (stored.image.dtype, stored.labels.dtype) == (np.int16, np.uint8)
        assert set(np.unique(stored.labels)) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_case_stops_the_training_and_is_named(workers, small_cache, small_training, tmp_path):
    files = {path.name: path for path in (small_cache.folder / CASES).iterdir()}
    (tmp_path / CASES).mkdir()
    (tmp_path / "manifest.json").write_bytes((small_cache.folder / "manifest.json").read_bytes())
    stored = small_cache.entry("p32").stored("localise")
    for name, path in files.items():
        data = path.read_bytes()
        (tmp_path / CASES / name).write_bytes(data[:-100] if name == stored.file else data)
    config = dataclasses.replace(small_training, workers=workers)
    with pytest.raises(ReadError, match="p32"):
        train("localise", Cache.open(tmp_path), tmp_path / "run", config, names=("p31", "p32"))
