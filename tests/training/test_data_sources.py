"""Anatomies, and prepared cases beside them, as one source of samples."""

import dataclasses

import numpy as np
import pytest

from viscera.core.config import ModelConfig
from viscera.core.errors import ConfigError, ReadError
from viscera.synthesis.anatomy import ANATOMIES, Anatomy
from viscera.synthesis.tissues import Tissue
from viscera.training.cache import FORMAT, Cache, CacheSettings, Manifest, PreparedCase
from viscera.training.config import RealConfig, TrainConfig
from viscera.training.data_sources import PreparedData, SyntheticData

ORGAN_NAMES = ("liver", "kidney", "spleen", "pancreas")


@pytest.fixture
def folder(small_anatomy, tmp_path):
    """A person and a head."""
    small_anatomy.save(tmp_path / "person.safetensors")
    none = np.full((2, 3, 4), Tissue.BRAIN, dtype=np.uint8)
    Anatomy(name="head", tissues=none, depth=none, organs={}).save(tmp_path / "head.safetensors")
    (tmp_path / ANATOMIES).write_text('["person", "head"]')
    return tmp_path


def cache(folder, organs=ORGAN_NAMES, margin_mm=32.0):
    model = ModelConfig()
    settings = CacheSettings(
        localise=model.localise,
        segment=model.segment,
        margin_mm=margin_mm,
        padding_mm=0.0,
        oversampling=1,
        organs=organs,
        rules=(),
    )
    return Cache(folder=folder, manifest=Manifest(format=FORMAT, settings=settings, cases=()))


def named(cache, name):
    entry = PreparedCase(
        name=name,
        image="",
        labels="",
        image_sha256="",
        labels_sha256="",
        settings_sha256="",
        shape_zyx=(3, 4, 5),
        spacing_zyx_mm=(1.0, 2.0, 3.0),
        organs=(),
        arrays=(),
    )
    return Cache(folder=cache.folder, manifest=dataclasses.replace(cache.manifest, cases=(entry,)))


def test_anatomies_are_read_by_name(folder, small_anatomy):
    data = SyntheticData.open(folder)
    assert data.names == ("person", "head")
    assert data.organs == ORGAN_NAMES
    np.testing.assert_array_equal(Anatomy.load(data.files["person"]).tissues, small_anatomy.tissues)


def test_only_anatomies_with_organs_serve_for_segmentation(folder):
    data = SyntheticData.open(folder)
    assert [data.shows(name, "segment") for name in data.names] == [True, False]
    assert [data.shows(name, "localise") for name in data.names] == [True, True]


def test_anatomies_weigh_alike(folder):
    data = SyntheticData.open(folder)
    assert data.weights(("head", "person", "head"), TrainConfig()).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (None, "the list anatomies.json"),
        ("{", "the list anatomies.json"),
        ("[]", r"names in anatomies.json, got \[\]"),
        ("7", "names in anatomies.json, got 7"),
        ('["person", "ghost"]', "no ghost"),
    ],
    ids=["missing", "no JSON", "empty", "no list", "a file too few"],
)
def test_a_folder_without_all_its_anatomies_is_refused(listed, words, folder):
    (folder / ANATOMIES).unlink()
    if listed is not None:
        (folder / ANATOMIES).write_text(listed)
    with pytest.raises(ReadError, match=words):
        SyntheticData.open(folder)


def test_real_cases_share_their_part_of_the_samples(folder):
    data = dataclasses.replace(SyntheticData.open(folder), real=OneCase())
    assert data.names == ("person", "head", "real")
    config = TrainConfig(real=RealConfig(share=0.25))
    assert data.weights(("person", "real", "head"), config).tolist() == [0.375, 0.25, 0.375]


def test_a_case_that_is_trained_on_cannot_be_held_out(folder, tmp_path):
    validation = named(cache(folder), "real")
    with pytest.raises(ConfigError, match="real twice"):
        SyntheticData.open(folder, validation, real=named(cache(folder), "real"))


def test_cases_held_out_with_other_organs_are_refused(folder):
    with pytest.raises(ConfigError, match="gallbladder"):
        SyntheticData.open(folder, cache(folder, organs=("liver", "gallbladder")))


def test_cases_held_out_for_another_sampling_are_refused(folder):
    SyntheticData.open(folder, cache(folder)).require(TrainConfig())
    with pytest.raises(ConfigError, match="margin_mm"):
        SyntheticData.open(folder, cache(folder, margin_mm=5.0)).require(TrainConfig())


def test_a_network_with_other_labels_is_refused(folder):
    model = dataclasses.replace(ModelConfig(), scn=dataclasses.replace(ModelConfig().scn, labels=3))
    with pytest.raises(ConfigError, match=r"model\.scn\.labels = 3"):
        SyntheticData.open(folder).require(TrainConfig(model=model))


class OneCase:
    """Stands in for prepared cases: knows one, and tells what it is asked for."""

    names, organs = ("real",), ORGAN_NAMES

    def shows(self, name, stage):
        assert name == "real"
        return stage == "localise"

    def held_out(self, name, stage, config, device):
        return name, stage, device


def test_cases_held_out_come_after_the_anatomies_and_from_their_cache(folder):
    data = dataclasses.replace(SyntheticData.open(folder), validation=OneCase())
    assert data.names == ("person", "head", "real")
    assert data.shows("real", "localise")
    assert not data.shows("real", "segment")
    assert data.held_out("real", "segment", TrainConfig(), "cpu") == ("real", "segment", "cpu")


def test_without_cases_held_out_no_other_name_is_known(folder):
    with pytest.raises(ConfigError, match="got real"):
        SyntheticData.open(folder).shows("real", "localise")


def test_a_cache_is_opened_as_prepared_data(folder):
    held_out = cache(folder)
    assert SyntheticData.open(folder, held_out).validation == PreparedData(held_out)
