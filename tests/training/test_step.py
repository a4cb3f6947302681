"""One step of training against plain formulas, and the parts around it: order, samples ahead, checkpoints, settings."""

import dataclasses
import hashlib
import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import ConfigError, ReadError, WriteError
from viscera.training import checkpoint as checkpoints
from viscera.training.checkpoint import (
    Checkpoint,
    checkpoint_folder,
    checkpoint_iterations,
    drop_checkpoints,
    forget_after,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from viscera.training.config import IDENTITY, TrainConfig, read_train_config, without_augmentation
from viscera.training.log import append_record, cut_back
from viscera.training.losses import localisation_loss, one_hot, segmentation_loss
from viscera.training.sampler import CaseSampler, Sample, prepared, sample_generator
from viscera.training.step import NotFiniteError, Trainer, chosen_precision
from viscera.training.validation import label_dice

SMALL = ModelConfig(
    localise=StageConfig(spacing_mm=14.0, sigma_mm=3.0, sizes_x_vox=(16,), sizes_y_vox=(16,), sizes_z_vox=(16,)),
    segment=StageConfig(spacing_mm=12.0, sigma_mm=1.0, sizes_x_vox=(32,), sizes_y_vox=(32,), sizes_z_vox=(32,)),
    localiser=UNetConfig(inputs=1, outputs=2, filters=4, levels=3, dropout=0.0),
    scn=ScnConfig(local_filters=4, local_levels=3, spatial_filters=2, spatial_levels=2),
)
CONFIG = TrainConfig(model=SMALL, learning_rate=1e-3, precision="f32")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(stage: str = "localise", shape: tuple[int, int, int] = (8, 16, 24)) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    image = torch.rand(1, 1, *shape, generator=rng) - 0.5
    labels = torch.randint(0, 2 if stage == "localise" else 5, (1, *shape), generator=rng, dtype=torch.uint8)
    return image, labels


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in trainer.parameters.items()}


# Where it begins


def test_a_file_of_before_may_say_clean_for_postprocessing(tmp_path):
    (tmp_path / "old.toml").write_text("[model]\nclean = true\n")
    assert read_train_config(tmp_path / "old.toml").model.postprocessing.enabled
    assert not read_train_config(None).model.postprocessing.enabled


def test_a_localiser_begins_as_the_local_net_of_a_segmentation_network(tmp_path):
    segment = Trainer("segment", CONFIG)
    segment.save(tmp_path / "segment.safetensors")
    localise = Trainer("localise", CONFIG, tmp_path / "segment.safetensors")
    image = sample()[0]
    with torch.inference_mode():
        background = segment.average.local(image)[0, 0]
        foreground = localise.average(image).softmax(1)[0, 1]
    torch.testing.assert_close(foreground, torch.sigmoid(-background), atol=1e-6, rtol=1e-5)


def test_a_segmentation_network_does_not_begin_with_a_localisers_weights(tmp_path):
    Trainer("localise", CONFIG).save(tmp_path / "localise.safetensors")
    with pytest.raises(ReadError, match="reading initial weights"):
        Trainer("segment", CONFIG, tmp_path / "localise.safetensors")


# The step


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_loss_is_the_sum_of_its_terms(stage):
    config = dataclasses.replace(CONFIG, localise_cross_entropy=0.5, loss_weights=(0.3, 0.7))
    trainer = Trainer(stage, config)
    outcome = trainer.step(*sample(stage))
    assert list(outcome.terms) == (["dice", "cross-entropy"] if stage == "localise" else ["dice", "local", "spatial"])
    assert outcome.loss == pytest.approx(sum(outcome.terms.values()))


def test_localisations_gradient_is_that_of_the_published_loss_and_l2():
    trainer = Trainer("localise", dataclasses.replace(CONFIG, l2_penalty=0.01))
    image, labels = sample()
    trainer.backward(image, labels)
    found = gradients(trainer)
    loss = localisation_loss(trainer.network(image), one_hot(labels, 2))
    penalty = sum((p**2).sum() for p in trainer.parameters.values() if p.shape[2:] == (3, 3, 3))
    expected = torch.autograd.grad(loss + 0.01 * penalty, list(trainer.parameters.values()))
    for name, value in zip(found, expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_segmentations_gradient_is_that_of_the_published_loss():
    scn = dataclasses.replace(SMALL.scn, dropout=0, map_dropout=0, image_dropout=0, noise_ratio=0)
    config = dataclasses.replace(
        CONFIG, l2_penalty=0, loss_weights=(0.3, 0.7), model=dataclasses.replace(SMALL, scn=scn)
    )
    trainer = Trainer("segment", config)
    image, labels = sample("segment")
    trainer.backward(image, labels)
    found = gradients(trainer)
    loss = segmentation_loss(trainer.network(image), one_hot(labels, 5), (0.3, 0.7))
    expected = torch.autograd.grad(loss, list(trainer.parameters.values()))
    for name, value in zip(found, expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_a_case_with_some_organs_annotated_has_a_loss_of_its_own():
    config = dataclasses.replace(CONFIG, l2_penalty=0)
    image, labels = sample("segment")
    trainer = Trainer("segment", config)
    usual = trainer.step(image, labels)
    partly = Trainer("segment", config).step(image, labels.where(labels < 3, 0), (3, 4))
    same = Trainer("segment", config).step(image, labels, ())
    assert usual == same
    assert usual.terms.keys() == partly.terms.keys()
    assert usual.loss != partly.loss


def test_a_step_on_fully_annotated_labels_does_not_depend_on_how_that_is_said():
    image, labels = sample("segment")
    one, other = (Trainer("segment", CONFIG) for _ in range(2))
    one.step(image, labels)
    other.step(image, labels, unannotated=())
    assert all(torch.equal(p, other.parameters[name]) for name, p in one.parameters.items())


def test_steps_are_those_of_plain_adam():
    trainer = Trainer("localise", dataclasses.replace(CONFIG, clip_factor=1e9))
    weights = {name: p.detach().double() for name, p in trainer.parameters.items()}
    first = {name: torch.zeros_like(p) for name, p in weights.items()}
    second = {name: torch.zeros_like(p) for name, p in weights.items()}
    for step in (1, 2, 3):
        trainer.step(*sample())
        for name, gradient in gradients(trainer).items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            weights[name] -= 1e-3 * mean / (square.sqrt() + 1e-8)
    for name, value in trainer.parameters.items():
        torch.testing.assert_close(value.detach().double(), weights[name], rtol=1e-5, atol=1e-6)


def test_gradient_is_cut_at_a_multiple_of_its_running_mean_norm():
    config = dataclasses.replace(CONFIG, clip_start=1e-3, clip_factor=2.0, clip_alpha=0.25)
    trainer = Trainer("localise", config)
    outcome = trainer.step(*sample())
    after = math.sqrt(sum(float((g**2).sum()) for g in gradients(trainer).values()))
    assert outcome.norm > 2e-3
    assert after == pytest.approx(2e-3, rel=1e-4)
    assert trainer.mean_norm == pytest.approx(1e-3 + 0.25 * (2e-3 - 1e-3))


def test_a_small_gradient_is_left_as_it_is_and_moves_the_mean():
    trainer = Trainer("localise", dataclasses.replace(CONFIG, clip_start=10.0, clip_alpha=0.5))
    outcome = trainer.step(*sample())
    after = math.sqrt(sum(float((g**2).sum()) for g in gradients(trainer).values()))
    assert after == pytest.approx(outcome.norm, rel=1e-4)
    assert trainer.mean_norm == pytest.approx(10 + 0.5 * (outcome.norm - 10))


def test_average_follows_the_weights():
    trainer = Trainer("localise", dataclasses.replace(CONFIG, ema_decay=0.3))
    for step in (1, 2, 3, 4):
        before = {name: value.clone() for name, value in trainer.average.state_dict().items()}
        trainer.step(*sample())
        decay = min(0.3, (1 + step) / (10 + step))  # 2/11, 3/12, then 0.3 from 4/13 on
        for name, value in trainer.network.state_dict().items():
            torch.testing.assert_close(trainer.average.state_dict()[name], decay * before[name] + (1 - decay) * value)


def test_the_rate_stays_or_falls_along_a_cosine():
    constant = Trainer("localise", dataclasses.replace(CONFIG, iterations=1000))
    cosine = Trainer("localise", dataclasses.replace(CONFIG, iterations=1000, schedule="cosine"))
    rates = []
    for iteration in (0, 49, 500, 1000):
        constant.iteration = cosine.iteration = iteration
        assert constant.rate() == 1e-3
        rates.append(cosine.rate())
    early = 0.5 * (0.5 + 0.5 * math.cos(math.pi * 0.049))
    assert rates == pytest.approx([1e-5, 1e-3 * early, 5e-4, 1e-5])


def test_dropout_depends_on_seed_step_and_rank_alone():
    def losses(seed: int) -> list[float]:
        dropping = dataclasses.replace(SMALL, localiser=dataclasses.replace(SMALL.localiser, dropout=0.5))
        trainer = Trainer("localise", dataclasses.replace(CONFIG, model=dropping, seed=seed))
        found = []
        for _ in range(3):
            torch.rand(7)  # whoever else draws numbers
            found.append(trainer.step(*sample()).loss)
        return found

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_a_loss_that_is_not_a_number_stops_and_changes_nothing(precision):
    trainer = Trainer("localise", dataclasses.replace(CONFIG, precision=precision))
    before = {f"{group}/{name}": one.clone() for group, v in trainer.tensors().items() for name, one in v.items()}
    image, labels = sample()
    with pytest.raises(NotFiniteError, match="nan"):
        trainer.step(image * math.nan, labels)
    after = {f"{group}/{name}": one for group, v in trainer.tensors().items() for name, one in v.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (trainer.iteration, trainer.mean_norm) == (0, 10.0)


def test_flat_bfloat16_convolutions_have_finite_gradients():
    trainer = Trainer("localise", dataclasses.replace(CONFIG, precision="bf16"))
    exact = Trainer("localise", CONFIG)
    image, labels = sample(shape=(8, 16, 16))  # depth 2 at level 3
    for _ in range(3):
        outcome = trainer.step(image, labels)
        assert math.isfinite(outcome.loss)
        assert outcome.norm == pytest.approx(exact.step(image, labels).norm, rel=0.2)
    assert trainer.mean_norm < 100


# Precision


def test_precision_is_what_is_asked_for_and_never_slower_than_needed_by_itself():
    assert chosen_precision("f16", CPU) == "f16"
    assert chosen_precision("auto", CPU) in ("bf16", "f32")


def test_float16_with_loss_scaling_has_the_gradients_of_float32():
    half, full = (Trainer("localise", dataclasses.replace(CONFIG, precision=p)) for p in ("f16", "f32"))
    half.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for trainer in (half, full):
        trainer.backward(*sample())
    found, expected = (torch.cat([g.flatten() for g in gradients(trainer).values()]) for trainer in (half, full))
    assert float((found - expected).norm() / expected.norm()) < 0.06


def test_a_step_that_overflows_float16_is_left_out_and_the_scale_halved():
    trainer = Trainer("localise", dataclasses.replace(CONFIG, precision="f16"))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    outcome = trainer.step(*sample())
    assert math.isfinite(outcome.loss)
    assert math.isnan(outcome.norm)
    assert (trainer.scaler.get_scale(), trainer.iteration, trainer.mean_norm) == (2.0**59, 1, 10.0)
    assert all(torch.equal(p, before[name]) for name, p in trainer.parameters.items())


def test_a_loss_scale_of_one_is_not_at_fault():
    trainer = Trainer("localise", dataclasses.replace(CONFIG, precision="f16"))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    next(iter(trainer.parameters.values())).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NotFiniteError):
        trainer.step(*sample())


# State


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_a_restored_trainer_goes_on_alike(precision):
    config = dataclasses.replace(CONFIG, precision=precision)
    trainer = Trainer("segment", config)
    if precision == "f16":
        trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 512.0, "_growth_tracker": 7})
    for _ in range(2):
        trainer.step(*sample("segment"))
    tensors = {group: {name: one.clone() for name, one in v.items()} for group, v in trainer.tensors().items()}
    numbers = json.loads(json.dumps(trainer.numbers()))
    other = Trainer("segment", dataclasses.replace(config, seed=config.seed))
    other.restore(tensors, numbers)
    assert other.scaler.state_dict() == trainer.scaler.state_dict()
    assert numbers["loss_scale"] == ([512.0, 9] if precision == "f16" else None)
    for _ in range(2):
        assert other.step(*sample("segment")) == trainer.step(*sample("segment"))
    ends = [{f"{g}/{n}": one for g, v in t.tensors().items() for n, one in v.items()} for t in (trainer, other)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_state_of_another_network_is_refused():
    wide = dataclasses.replace(SMALL, localiser=dataclasses.replace(SMALL.localiser, filters=5))
    state = Trainer("localise", dataclasses.replace(CONFIG, model=wide))
    with pytest.raises(ValueError, match="shape"):
        Trainer("localise", CONFIG).restore(state.tensors(), state.numbers())


def test_saved_weights_are_the_average(tmp_path):
    trainer = Trainer("localise", CONFIG)
    trainer.step(*sample())
    trainer.save(tmp_path / "w.safetensors")
    stored = load_file(tmp_path / "w.safetensors")
    assert stored.keys() == trainer.network.state_dict().keys()
    assert all(torch.equal(stored[name], value) for name, value in trainer.average.state_dict().items())


# Checkpoints


def example(iteration: int, value: float = 1.0) -> Checkpoint:
    tensors = {"network": {"a.b": torch.full((2, 3), value), "c": torch.arange(5.0)}, "first": {}}
    return Checkpoint(tensors=tensors, state={"iteration": iteration, "note": [1, None, 0.1]})


def test_a_checkpoint_comes_back(tmp_path):
    back = read_checkpoint(write_checkpoint(tmp_path, example(12)))
    assert (back.state["iteration"], back.state["note"]) == (12, [1, None, 0.1])
    assert back.tensors.keys() == {"network", "first"}
    for name, value in example(12).tensors["network"].items():
        assert torch.equal(back.tensors["network"][name], value)


def test_a_group_is_one_file(tmp_path):
    folder = write_checkpoint(tmp_path, example(12))
    assert {path.name for path in folder.iterdir()} == {"state.json", "network.safetensors", "first.safetensors"}
    assert torch.equal(load_file(folder / "network.safetensors")["c"], torch.arange(5.0))


def test_checkpoints_written_in_pieces_are_still_read(tmp_path):
    """As an earlier version wrote them: flat pieces, `name@number`, in files that are numbered."""
    whole = {"a": torch.arange(26.0).reshape(2, 13), "b.c": torch.arange(3.0), "none": torch.empty(0)}
    flat = whole["a"].reshape(-1)
    pieces = {f"a@{number}": flat[2 * number : 2 * number + 2].clone() for number in range(12)}  # 10 comes after 9
    files = {
        "network_00": pieces,
        "network_01": {"a@12": flat[24:].clone(), "b.c@0": whole["b.c"], "none@0": whole["none"]},
    }
    folder = checkpoint_folder(tmp_path, 7)
    folder.mkdir(parents=True)
    for name, values in files.items():
        save_file(values, folder / f"{name}.safetensors")
    shapes = {"network": {name: list(value.shape) for name, value in whole.items()}, "first": {}}
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    state = {"iteration": 7, "format": 1, "shapes": shapes, "files": digests}
    (folder / "state.json").write_text(json.dumps(state))
    back = newest_checkpoint(tmp_path)
    assert back is not None
    assert back.tensors.keys() == {"network", "first"}
    assert all(torch.equal(back.tensors["network"][name], value) for name, value in whole.items())


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_the_published_networks_weights_fit_one_small_file(stage, tmp_path):
    trainer = Trainer(stage, TrainConfig(precision="f32"))
    trainer.save(tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < 16_000_000


@pytest.mark.parametrize("damage", ["missing", "changed", "state"])
def test_a_damaged_checkpoint_is_named_and_passed_over(damage, tmp_path):
    write_checkpoint(tmp_path, example(1))
    folder = write_checkpoint(tmp_path, example(2))
    file = folder / ("state.json" if damage == "state" else "network.safetensors")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ReadError, match="000000002"):
        read_checkpoint(folder)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["iteration"] == 1


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, example(1))

    def full(part: dict[str, Tensor]) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(WriteError, match="No space left"):
        write_checkpoint(tmp_path, example(2))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000001"]


def test_a_checkpoint_of_the_same_iteration_is_replaced(tmp_path):
    for value in (1.0, 2.0):
        folder = write_checkpoint(tmp_path, example(3, value))
    assert float(read_checkpoint(folder).tensors["network"]["a.b"][0, 0]) == 2.0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000003"]


def test_the_newest_and_the_best_stay(tmp_path):
    for iteration in (1, 2, 3, 10, 11):
        write_checkpoint(tmp_path, example(iteration))
    drop_checkpoints(tmp_path, newest=2, best=2)
    assert checkpoint_iterations(tmp_path) == [2, 10, 11]
    drop_checkpoints(tmp_path, newest=3)
    assert checkpoint_iterations(tmp_path) == [2, 10, 11]


def test_what_comes_later_is_forgotten_and_leftovers_are_cleared(tmp_path):
    for iteration in (1, 2):
        write_checkpoint(tmp_path, example(iteration))
    (tmp_path / "checkpoints" / ".part-killed").mkdir()
    forget_after(tmp_path, 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000001"]
    assert newest_checkpoint(tmp_path / "elsewhere") is None
    assert checkpoint_folder(tmp_path, 1).name == "000000001"


# Order and samples


def test_every_case_comes_once_a_round_in_a_new_order():
    order = CaseSampler("abcdefg", np.full(7, 0.3), seed=1)
    rounds = [[order[7 * turn + place] for place in range(7)] for turn in range(40)]
    assert all(sorted(one) == list("abcdefg") for one in rounds)
    assert len({tuple(one) for one in rounds}) > 35
    assert [CaseSampler("abcdefg", np.ones(7), seed=2)[place] for place in range(7)] != rounds[0]


def test_heavier_cases_come_more_often():
    order = CaseSampler("abcd", np.array([1.0, 2.0, 0.0, 0.5]), seed=0)
    counts = Counter(order[place] for place in range(4 * 200))
    assert counts["c"] == 0
    assert counts["b"] == pytest.approx(800 * 2 / 3.5, rel=0.05)
    assert counts["d"] == pytest.approx(800 * 0.5 / 3.5, rel=0.2)


def test_each_place_has_its_own_random_numbers():
    first, second, again = (sample_generator(3, place).random() for place in (0, 1, 0))
    assert first == again != second


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_samples_come_in_their_order(workers):
    def make(place: int) -> Sample:
        time.sleep(0.003 * (place % 3))
        return Sample(str(place), torch.tensor(place), torch.tensor(place))

    names = [one.name for one in prepared(make, range(1, 14, 2), workers=workers, device=CPU)]
    assert names == ["1", "3", "5", "7", "9", "11", "13"]


def test_few_samples_wait_and_threads_end_with_the_reader():
    made: list[int] = []

    def make(place: int) -> Sample:
        made.append(place)
        return Sample(str(place), torch.tensor(place), torch.tensor(place))

    samples = prepared(make, range(1000), workers=2, device=CPU)
    next(samples)
    time.sleep(0.05)
    assert len(made) <= 3
    samples.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("samples")]


def test_an_error_in_a_thread_reaches_the_reader():
    def make(place: int) -> Sample:
        raise ReadError("reading case p7", expected="a file", got="none", remedy="Look")

    with pytest.raises(ReadError, match="p7"):
        next(prepared(make, range(3), workers=1, device=CPU))


# Validation


def test_dice_of_labels_by_hand():
    labels = torch.tensor([0, 1, 1, 2, 0, 0]).reshape(1, 1, 2, 3)
    predicted = torch.tensor([0, 1, 2, 2, 2, 0]).reshape(1, 1, 2, 3)
    logits = one_hot(predicted, 5)
    logits[:, 4, 0, 0, 0] = 2  # label 4 is predicted once, and is not there
    assert label_dice(logits, labels) == pytest.approx([2 / 3, 2 / 4, 1.0, 0.0])


# Log and signals


def test_the_log_is_cut_back_to_an_iteration(tmp_path):
    log = tmp_path / "log.jsonl"
    cut_back(log, 5)
    assert not log.exists()
    for iteration in (2, 4, 4, 6):
        append_record(log, {"iteration": iteration})
    with log.open("a") as file:
        file.write('{"iteration": 4, "lo')
    cut_back(log, 4)
    assert [json.loads(line)["iteration"] for line in log.read_text().splitlines()] == [2, 4, 4]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(WriteError, match="log"):
        append_record(tmp_path / "missing" / "log.jsonl", {})


def said_by(body: str) -> str:
    """What `body` prints in a process of its own: signals are for nothing else that the tests have loaded."""
    script = f"""
import signal
from viscera.core.interrupts import held_signals
signal.signal(signal.SIGINT, signal.default_int_handler)
{body}
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_a_signal_waits_for_the_end_of_the_step():
    said = said_by("""
try:
    with held_signals() as held:
        signal.raise_signal(signal.SIGINT)
        print("step ended with", held.number)
except KeyboardInterrupt:
    print("then stopped")
""")
    assert said == f"step ended with {int(signal.SIGINT)}\nthen stopped"


def test_a_second_signal_does_not_wait():
    said = said_by("""
try:
    with held_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        print("went on")
except KeyboardInterrupt:
    print("stopped")
""")
    assert said == "stopped"


def test_an_error_is_not_hidden_by_a_signal():
    said = said_by("""
try:
    with held_signals():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("at fault")
except ValueError as error:
    print(error)
""")
    assert said == "at fault"


# Settings


def test_settings_come_from_toml_and_single_values_replace_them(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text(
        'iterations = 500\nlambdas = [1, 0.5]\nschedule = "cosine"\n[augment]\ngain = 0.1\nscale = 0\n'
        "[model.segment]\nspacing_mm = 4.0\nsigma_mm = 1\nsizes_x_vox = [32]\nsizes_y_vox = [32]\nsizes_z_vox = [32]\n"
    )
    config = read_train_config(path, ["augment.gain = 0.15", "precision=f32", "seed=7"])
    assert (config.iterations, config.loss_weights, config.schedule) == (
        500,
        (1.0, 0.5),
        "cosine",
    )  # under their earlier name
    assert (config.augment.gain, config.augment.scale, config.augment.shift) == (0.15, 0.0, 0.2)
    assert (config.precision, config.seed) == ("f32", 7)
    assert config.model.segment.sizes_x_vox == (32,)
    assert read_train_config(None) == TrainConfig()


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("iteratons=3", "iteratons"),
        ("iterations=0", "iterations"),
        ("iterations=many", "iterations"),
        ("schedule=linear", "schedule"),
        ("lambdas=[1.0]", "loss_weights"),
        ("augment.gain=-1", "gain"),
        ("keep_checkpoints=0", "keep_checkpoints"),
        ("iterations", "name=value"),
        ("=3", "name=value"),
    ],
)
def test_wrong_settings_are_named(override, match):
    with pytest.raises(ConfigError, match=match):
        read_train_config(None, [override])


def test_a_settings_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.toml").write_text("iterations: 3")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        read_train_config(tmp_path / "bad.toml")
    with pytest.raises(ReadError, match=r"none\.toml"):
        read_train_config(tmp_path / "none.toml")


def test_settings_keep_their_earlier_names(tmp_path):
    (tmp_path / "f.toml").write_text("l2 = 0.5\n")
    config = read_train_config(tmp_path / "f.toml", ["lambdas=[0.25, 2.0]"])
    assert (config.l2_penalty, config.loss_weights) == (0.5, (0.25, 2.0))
    assert read_train_config(None, ["loss_weights=[0.25, 2.0]", "l2_penalty=0.5"]) == config


def test_settings_of_a_run_come_back_from_its_json(tmp_path):
    from viscera.core.config import from_dict

    config = dataclasses.replace(CONFIG, schedule="cosine", iterations=7)
    assert from_dict(TrainConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_without_augmentation_nothing_is_drawn():
    config = without_augmentation(dataclasses.replace(CONFIG, lesion_probability=0.5))
    assert (config.augment, config.lesion_probability) == (IDENTITY, 0.0)


def test_the_settings_are_the_published_ones():
    config = TrainConfig()
    assert (config.iterations, config.learning_rate, config.loss_weights, config.l2_penalty) == (
        100_000,
        1e-4,
        (1.0, 1.0),
        1e-6,
    )
    assert (config.clip_factor, config.clip_start, config.clip_alpha, config.ema_decay) == (5.0, 10.0, 0.01, 0.999)
