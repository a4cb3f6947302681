"""What finished trainings tell, and the model they make together."""

import dataclasses
import json

import pytest

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import ConfigError, ReadError
from viscera.training.config import TrainConfig
from viscera.training.crossval_results import TrainingCost, read_score, training_costs, write_score
from viscera.training.run_folder import TrainedRun, finished_run, joint_model, read_run, training_entry

STAGE = StageConfig(spacing_mm=9.0, sigma_mm=3.0, sizes_x_vox=(32,), sizes_y_vox=(32,), sizes_z_vox=(32,))


def model(value):
    """A model every part of which shows the whole number `value`."""
    return ModelConfig(
        localise=dataclasses.replace(STAGE, spacing_mm=float(value)),
        segment=dataclasses.replace(STAGE, sigma_mm=float(value)),
        margin_mm=float(value),
        localiser=UNetConfig(inputs=1, outputs=2, filters=value, levels=2),
        scn=ScnConfig(local_filters=value, local_levels=2, spatial_levels=2),
    )


@pytest.fixture
def folder(tmp_path):
    config = TrainConfig(model=model(3), iterations=7)
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    (tmp_path / "card.json").write_text(json.dumps({"stage": "segment", "organs": ["liver"], "cases": 5}))
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    return tmp_path


def test_each_stage_of_the_joint_model_is_its_own_trainings():
    joint = joint_model(TrainConfig(model=model(3)), TrainConfig(model=model(5)))
    assert (joint.localise, joint.localiser) == (model(3).localise, model(3).localiser)
    assert (joint.segment, joint.scn, joint.margin_mm) == (model(5).segment, model(5).scn, 5.0)


def test_a_finished_run_is_read(folder):
    run = read_run(folder, "segment")
    assert run.config == TrainConfig(model=model(3), iterations=7)
    assert run.organs == ["liver"]
    entry = training_entry(run)
    assert (entry["cases"], entry["settings"]["iterations"]) == (5, 7)
    assert "model" not in entry["settings"]


def test_a_run_is_finished_for_its_own_settings_only(folder):
    config = TrainConfig(model=model(3), iterations=7)
    assert finished_run(folder, "segment", config) == read_run(folder, "segment")
    assert finished_run(folder, "segment", dataclasses.replace(config, learning_rate=1.0)) is None
    assert finished_run(folder, "localise", config) is None
    (folder / "card.json").unlink()
    assert finished_run(folder, "segment", config) is None


def test_a_run_of_the_other_stage_is_refused(folder):
    with pytest.raises(ConfigError, match="a training of stage localise, got segment"):
        read_run(folder, "localise")


@pytest.mark.parametrize("name", ["card.json", "config.json", "weights.safetensors"])
def test_a_run_without_all_its_files_is_not_finished(folder, name):
    (folder / name).unlink()
    with pytest.raises(ReadError, match="finished training"):
        read_run(folder, "segment")


def run_with(stage, **energy):
    card = {"stage": stage, "energy": energy}
    return TrainedRun(folder=None, stage=stage, config=TrainConfig(), weights=None, card=card)


def test_what_trainings_took_is_summed_by_stage():
    runs = [
        run_with("segment", seconds=100, kwh=1.5, co2eq_g=600, source="NVML"),
        run_with("localise", seconds=5, kwh=0.1, co2eq_g=1, source="estimate"),
        run_with("segment", seconds=3600, kwh=0.5, co2eq_g=900, source="RAPL"),
    ]
    localise, segment = training_costs(runs)
    assert (localise.stage, localise.trainings, localise.seconds) == ("localise", 1, 5)
    expected = TrainingCost(stage="segment", trainings=2, seconds=3700, kwh=2.0, co2eq_g=1500, source="NVML, RAPL")
    assert segment == expected
    assert segment.text() == "segment: 2 trainings, 1 h 02 min, 2.00 kWh (NVML, RAPL), 1,500 g CO2-equivalent"
    assert training_costs([]) == ()


def test_a_damaged_file_of_scores_is_named(tmp_path):
    write_score(tmp_path, "a", {"segment": "1"}, [])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.nii.gz").write_bytes(b"")
    assert read_score(tmp_path, "a", {"segment": "1"}) == ()
    assert read_score(tmp_path, "a", {"segment": "2"}) is None
    (tmp_path / "scores" / "a.json").write_text("{")
    with pytest.raises(ReadError, match=r"a\.json"):
        read_score(tmp_path, "a", {"segment": "1"})
