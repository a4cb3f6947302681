"""A training stopped at any step and continued is the uninterrupted training, bit for bit on the CPU."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from viscera.core.errors import ConfigError, ReadError, VisceraError
from viscera.model.bundle import Stage
from viscera.training import data_sources as data
from viscera.training import train as loop
from viscera.training.cache import Cache
from viscera.training.checkpoint import checkpoint_folder, checkpoint_iterations, newest_checkpoint
from viscera.training.config import TrainConfig
from viscera.training.monitor import Silent, StepRecord, ValidationRecord
from viscera.training.step import StepOutcome, Trainer
from viscera.training.train import train

RunToEnd = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINED, HELD_OUT = ("p31", "p32", "p33"), ("p34",)


@pytest.fixture(scope="module")
def cache(small_cache: Cache) -> Cache:
    return small_cache


@pytest.fixture(scope="module")
def config(small_training: TrainConfig) -> TrainConfig:
    return small_training


@pytest.fixture(scope="module")
def run_to_end(cache: Cache, config: TrainConfig) -> RunToEnd:
    """Trains to the end."""

    def run(stage: Stage, folder: Path, **changes: object) -> Path:
        given = {"names": TRAINED, "validation": HELD_OUT, "device": "cpu"}
        options = {name: changes.pop(name, value) for name, value in given.items()}
        options |= {name: changes.pop(name) for name in ("initial", "resume", "monitor") if name in changes}
        return train(stage, cache, folder, dataclasses.replace(config, **changes), **options)  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="module")
def whole(run_to_end: RunToEnd, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run of each stage."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    runs = {stage: tmp_path_factory.mktemp(stage) for stage in ("localise", "segment")}
    for stage, run in runs.items():
        run_to_end(stage, run)
    torch.set_num_threads(before)
    return runs


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, stop: object) -> None:
    """Lets `stop` happen at the end of a step."""
    original = Trainer.step

    def stepping(trainer: Trainer, *sample: torch.Tensor) -> StepOutcome:
        outcome = original(trainer, *sample)
        if trainer.iteration == step:
            stop()  # type: ignore[operator]
        return outcome

    monkeypatch.setattr(Trainer, "step", stepping)
    monkeypatch.setattr(signal, "raise_signal", ctrl_c)


def ctrl_c(number: int = signal.SIGINT) -> None:
    """What Python does when the signal comes.

    No signal is raised in this process: once OpenVINO and torch have worked in it, the system cannot deliver one.
    Real signals are sent to processes of their own, in the tests of the trainer and of the command line.
    """
    handler = signal.getsignal(number)
    (handler if callable(handler) else signal.default_int_handler)(number, None)


def crash() -> None:
    raise RuntimeError("power cut")


def log_without_clock(run: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in one.items() if name not in ("rate", "seconds")} for one in records]


def final_state(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    return {f"{group}/{name}": one for group, values in checkpoint.tensors.items() for name, one in values.items()}


def assert_same_end(run: Path, whole: Path) -> None:
    states = final_state(run), final_state(whole)
    assert states[0].keys() == states[1].keys()
    assert not [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    numbers = [newest_checkpoint(one).state for one in (run, whole)]  # type: ignore[union-attr]
    for name in ("iteration", "mean_norm", "adam_steps", "best", "sums"):
        assert numbers[0][name] == numbers[1][name]
    assert log_without_clock(run) == log_without_clock(whole)


@pytest.mark.parametrize(("stage", "step"), [("localise", 1), ("localise", 4), ("segment", 3), ("segment", 5)])
def test_interrupted_and_continued_is_uninterrupted(stage, step, run_to_end, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, step, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run_to_end(stage, tmp_path)
    assert checkpoint_iterations(tmp_path)[-1] == step
    assert not (tmp_path / "card.json").exists()
    torch.manual_seed(step)  # what else draws numbers must not matter
    run_to_end(stage, tmp_path)
    assert_same_end(tmp_path, whole[stage])


def test_killed_without_a_word_continues_from_the_last_checkpoint(run_to_end, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 7, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_to_end("segment", tmp_path)
    assert checkpoint_iterations(tmp_path)[-1] == 4
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"iteration": 7, "lo')  # cut off in the middle of a line
    run_to_end("segment", tmp_path)
    assert_same_end(tmp_path, whole["segment"])


def test_a_damaged_checkpoint_is_passed_over(run_to_end, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 5, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run_to_end("localise", tmp_path)
    damaged = checkpoint_folder(tmp_path, 5) / "network.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    run_to_end("localise", tmp_path)
    assert_same_end(tmp_path, whole["localise"])


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_samples_prepared_ahead_by_threads_change_nothing(stage, run_to_end, whole, tmp_path):
    run_to_end(stage, tmp_path, workers=3)
    assert_same_end(tmp_path, whole[stage])


def test_mixed_precision_continues_exactly(run_to_end, tmp_path, monkeypatch):
    config = {"precision": "bf16", "iterations": 4}
    run_to_end("segment", tmp_path / "whole", **config)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run_to_end("segment", tmp_path / "parts", **config)
    run_to_end("segment", tmp_path / "parts", **config)
    assert_same_end(tmp_path / "parts", tmp_path / "whole")


def test_a_longer_training_goes_on_from_a_finished_one(run_to_end, whole, tmp_path):
    run_to_end("localise", tmp_path, iterations=6)
    assert json.loads((tmp_path / "card.json").read_text())["iterations"] == 6
    run_to_end("localise", tmp_path)
    assert json.loads((tmp_path / "card.json").read_text())["iterations"] == 9
    assert (tmp_path / "weights.safetensors").read_bytes() == (whole["localise"] / "weights.safetensors").read_bytes()


def test_a_finished_training_is_not_repeated(run_to_end, whole, monkeypatch):
    stamp = (whole["localise"] / "weights.safetensors").stat().st_mtime_ns
    stop_after(monkeypatch, 1, crash)
    weights = run_to_end("localise", whole["localise"])
    assert weights.stat().st_mtime_ns == stamp
    assert (whole["localise"] / "card.json").exists()


def test_beginning_anew_deletes_what_was_there(run_to_end, whole, tmp_path):
    run_to_end("localise", tmp_path, seed=5, iterations=20)
    run_to_end("localise", tmp_path, resume=False)
    assert_same_end(tmp_path, whole["localise"])
    assert checkpoint_iterations(tmp_path) == checkpoint_iterations(whole["localise"])


@pytest.mark.parametrize(
    ("changes", "options", "name"),
    [
        ({"learning_rate": 2e-3}, {}, "learning_rate"),
        ({"seed": 1}, {}, "seed"),
        ({}, {"names": ("p31", "p32"), "validation": ()}, "names"),
    ],
)
def test_going_on_with_other_settings_is_refused(changes, options, name, run_to_end, whole):
    with pytest.raises(ConfigError, match=f"another {name}"):
        run_to_end("localise", whole["localise"], **changes, **options)


def test_time_and_energy_of_all_parts_are_added(run_to_end, tmp_path):
    run_to_end("localise", tmp_path, iterations=2)
    first = json.loads((tmp_path / "card.json").read_text())
    run_to_end("localise", tmp_path, iterations=3)
    second = json.loads((tmp_path / "card.json").read_text())
    assert second["seconds"] >= first["seconds"]
    assert second["energy"]["kwh"] > first["energy"]["kwh"] > 0


def test_the_newest_and_the_best_checkpoints_are_kept(run_to_end, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.1])
    monkeypatch.setattr(loop, "validate", lambda *_: [next(scores)])
    run_to_end("localise", tmp_path, save_every=1, keep_checkpoints=2)
    assert checkpoint_iterations(tmp_path) == [6, 8, 9]
    assert json.loads((tmp_path / "card.json").read_text())["best"]["iteration"] == 6


def test_a_validation_that_is_the_best_is_saved_at_once(run_to_end, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.1])
    monkeypatch.setattr(loop, "validate", lambda *_: [next(scores)])
    run_to_end("localise", tmp_path, save_every=100, keep_checkpoints=1)
    assert checkpoint_iterations(tmp_path) == [6, 9]


def test_the_best_on_other_cases_does_not_count(run_to_end, tmp_path, monkeypatch):
    scores = iter([0.9, 0.3])
    monkeypatch.setattr(loop, "validate", lambda *_: [next(scores)])
    run_to_end("localise", tmp_path, iterations=1)
    run_to_end("localise", tmp_path, iterations=2, validation=("thighs",))
    assert json.loads((tmp_path / "card.json").read_text())["best"]["iteration"] == 2


def test_a_loss_that_is_not_a_number_names_the_case_and_keeps_the_checkpoint(run_to_end, tmp_path, monkeypatch):
    original, seen = data.training_sample, []

    def spoiled(case, *others):
        image, labels = original(case, *others)
        seen.append(case.name)
        return (image * float("nan") if len(seen) == 6 else image), labels

    monkeypatch.setattr(data, "training_sample", spoiled)
    with pytest.raises(VisceraError, match=r"training step 6 on (p3\d).*a finite loss.*000000004") as caught:
        run_to_end("segment", tmp_path, validation=())
    assert f"on {seen[5]}:" in str(caught.value)
    assert checkpoint_iterations(tmp_path) == [4]
    assert all(torch.isfinite(one).all() for one in final_state(tmp_path).values())
    assert all(np.isfinite(record["loss"]) for record in log_without_clock(tmp_path))


class Watch(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.records: list[object] = []

    def step(self, record: StepRecord) -> None:
        self.records.append(record)

    def validated(self, record: ValidationRecord) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.records.append("closed")


def test_a_monitor_hears_what_the_log_says(run_to_end, tmp_path):
    watch = Watch()
    run_to_end("segment", tmp_path, iterations=3, monitor=watch)
    *records, last = watch.records
    assert last == "closed"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record.as_json() for record in records] == lines
    assert [type(record) for record in records] == [StepRecord, StepRecord, ValidationRecord]
    assert list(records[-1].validation) == ["liver", "kidney", "spleen", "pancreas"]


def test_a_monitor_is_closed_after_an_error(run_to_end, tmp_path, monkeypatch):
    watch = Watch()
    stop_after(monkeypatch, 1, crash)
    with pytest.raises(RuntimeError):
        run_to_end("localise", tmp_path, monitor=watch)
    assert watch.records == ["closed"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"names": ("p31", "p34")}, "p34"),  # held out as well
        ({"names": ("p99",)}, "p99"),
        ({"names": ()}, "none"),
        ({"names": ("thighs",)}, "organs"),
    ],
)
def test_cases_that_cannot_be_trained_on_are_refused(options, match, run_to_end, tmp_path):
    with pytest.raises(ConfigError, match=match):
        run_to_end("segment", tmp_path, **options)


def test_a_cache_for_other_organs_is_refused(run_to_end, config, tmp_path):
    model = dataclasses.replace(config.model, scn=dataclasses.replace(config.model.scn, labels=3))
    with pytest.raises(ConfigError, match="organs"):
        run_to_end("segment", tmp_path, model=model)


def test_training_begins_with_the_weights_it_is_given(run_to_end, whole, tmp_path):
    initial = whole["localise"] / "weights.safetensors"
    config = {"iterations": 1, "learning_rate": 1e-9}
    weights = run_to_end("localise", tmp_path / "a", **config, initial=initial)
    for name, value in load_file(initial).items():
        torch.testing.assert_close(load_file(weights)[name], value, rtol=0, atol=1e-6)
    with pytest.raises(ReadError, match="initial weights"):
        run_to_end("segment", tmp_path / "b", **config, initial=initial)
