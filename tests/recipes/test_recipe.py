"""The recipe of the shipped bundle: its settings are valid and are those of the bundle."""

from pathlib import Path

import pytest

from viscera.model.bundle import load_bundle
from viscera.training.config import read_train_config
from viscera.training.run_folder import joint_model

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "fast"


@pytest.mark.parametrize("name", ["localise", "segment-5mm", "segment-3mm"])
def test_its_settings_are_valid(name):
    assert read_train_config(RECIPE / f"{name}.toml").iterations > 0


def test_its_model_is_the_bundles():
    localise, segment = (read_train_config(RECIPE / f"{name}.toml") for name in ("localise", "segment-3mm"))
    assert joint_model(localise, segment) == load_bundle().card.model


def test_every_part_of_the_shipped_training_has_its_log_and_settings():
    training = load_bundle().card.training
    logs = [part["log"] for stage in ("localise", "segment") for part in training[stage]]
    assert len(logs) == len(set(logs)) == 14
    for log in logs:
        folder, name = RECIPE.parents[1] / Path(log).parent, Path(log).name
        assert (folder / f"{name}.jsonl").read_text(encoding="utf-8").count("\n") > 1
        assert (folder / f"{name}.config.json").is_file()
