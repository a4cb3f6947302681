"""Real CTs as training mixes them in, and the labels a bundle gives those that have none."""

import dataclasses

import numpy as np
import pytest
import torch

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import ConfigError
from viscera.core.geometry import Grid
from viscera.training.cache import UNKNOWN_LABEL, TrainingCase
from viscera.training.config import IDENTITY, RealConfig, TrainConfig
from viscera.training.label_mapping import LabelMapping, read_mapping
from viscera.training.patches import training_sample
from viscera.training.real_samples import real_sample

MODEL = ModelConfig(
    localise=StageConfig(spacing_mm=8.0, sigma_mm=3.0, sizes_x_vox=(16,), sizes_y_vox=(16,), sizes_z_vox=(16,)),
    segment=StageConfig(spacing_mm=4.0, sigma_mm=1.0, sizes_x_vox=(16,), sizes_y_vox=(16,), sizes_z_vox=(16, 32)),
    margin_mm=4.0,
    localiser=UNetConfig(inputs=1, outputs=2, filters=2, levels=2),
    scn=ScnConfig(local_filters=2, local_levels=2, spatial_filters=2, spatial_levels=2),
)
GRID = Grid.from_axes(
    (40, 24, 28), spacing_zyx_mm=(3.0, 2.0, 2.0), direction_zyx=np.eye(3)[[2, 1, 0]], origin_xyz_mm=(5.0, 6.0, 7.0)
)
QUIET = RealConfig(augment=IDENTITY, noise_hu=(0.0, 0.0), blur_vox=(0.0, 0.0), slab_probability=0.0)
PLAIN = TrainConfig(model=MODEL, augment=IDENTITY, label_sigma_vox=0.0, real=QUIET)


def case(unknown=False):
    """An organ of 60 HU in fat; the lower half of its neighbourhood may be unknown."""
    labels = np.zeros(GRID.shape_zyx, np.uint8)
    labels[8:32, 6:18, 6:20] = 1
    image = np.where(labels, 60, -100).astype(np.int16)
    box = GRID.box((slice(8, 32), slice(6, 18), slice(6, 20)))
    if unknown:
        labels[8:20, 6:22, 6:20] = UNKNOWN_LABEL
    return TrainingCase(
        name="a",
        image=image,
        labels=labels,
        grid=GRID,
        scan=GRID.box(),
        organs=box,
        lesion_ml=0.0,
        labelled=(slice(7, 33), slice(5, 23), slice(5, 21)),
    )


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_without_augmentation_a_real_sample_is_a_training_sample(stage):
    image, labels = real_sample(case(), stage, PLAIN, rng())
    expected = training_sample(case(), stage, PLAIN, rng())
    torch.testing.assert_close(image, expected[0])
    torch.testing.assert_close(labels, expected[1])


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_unknown_labels_stay_unknown_and_the_others_as_they_are(stage):
    _, known = training_sample(case(), stage, PLAIN, rng())
    _, partly = training_sample(case(unknown=True), stage, PLAIN, rng())
    unknown = partly == UNKNOWN_LABEL
    assert set(partly.unique().tolist()) == {0, 1, UNKNOWN_LABEL}
    assert 0.3 < unknown.sum() / (known == 1).sum() < 0.9
    assert (partly[~unknown] == known[~unknown]).all()


def test_noise_has_the_deviation_asked_for_and_none_beyond_the_scan():
    config = dataclasses.replace(PLAIN, real=dataclasses.replace(QUIET, noise_hu=(30.0, 30.0)))
    plain, _ = real_sample(case(), "segment", PLAIN, rng())
    noisy, _ = real_sample(case(), "segment", config, rng())
    scanned = plain > -0.49
    assert ((noisy - plain)[scanned] * 2048).std().item() == pytest.approx(30, rel=0.1)
    assert (noisy == plain)[~scanned].all()


def test_a_slab_shows_a_part_of_the_height_and_air_beyond():
    config = dataclasses.replace(PLAIN, real=dataclasses.replace(QUIET, slab_probability=1.0, slab_mm=(40.0, 40.0)))
    for seed in range(5):
        image, labels = real_sample(case(), "segment", config, rng(seed))
        seen = (image[0, 0] > -0.49).flatten(1).any(1)
        assert 5 <= seen.sum() <= 11  # of 4 mm
        assert labels[0].flatten(1).any(1)[~seen].sum() == 0
        assert labels.any()


@pytest.mark.parametrize("change", [{"share": 1.0}, {"noise_hu": (3.0, 1.0)}, {"slab_mm": (0.0, 5.0)}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ConfigError, match=f"RealConfig.{next(iter(change))}"):
        RealConfig(**change)


def test_a_mapping_can_call_an_id_unknown(tmp_path):
    file = tmp_path / "mapping.toml"
    file.write_text('[labels]\n1 = "liver"\n7 = "unknown"\n')
    labels = read_mapping(file).apply(np.array([[[0, 1, 7]]], np.uint8))
    assert labels.tolist() == [[[0, 1, UNKNOWN_LABEL]]]


def test_a_label_beyond_the_organs_is_refused():
    rule = LabelMapping().rules[0]
    with pytest.raises(ConfigError, match="mapping labels"):
        LabelMapping(rules=(dataclasses.replace(rule, label=9),))
