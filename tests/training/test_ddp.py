"""Data-parallel training under torchrun: two processes on the CPU do what one does with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import viscera

# What each of the two processes runs; it is a program of its own, as torchrun starts files.
PROGRAM = """
import dataclasses, json, signal, sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from viscera.core.config import ModelConfig, ScnConfig, StageConfig, UNetConfig
from viscera.core.errors import VisceraError
from viscera.synthesis.phantom import PhantomConfig, make_phantom
from viscera.training import data_sources as data
from viscera.training.cache import Cache
from viscera.training.checkpoint import checkpoint_iterations
from viscera.training.config import TrainConfig
from viscera.training.datasets import find_dataset
from viscera.training.distributed import joined_world
from viscera.training.train import train
from viscera.training.prepare import PrepareConfig, prepare_dataset
from viscera.training.step import Trainer
from viscera.formats.nifti_write import write_label_map, write_volume

torch.set_num_threads(1)
folder = Path(sys.argv[1])
stage = StageConfig(spacing_mm=20.0, sigma_mm=5.0, sizes_x_vox=(16, 24), sizes_y_vox=(16,), sizes_z_vox=(8, 16))
model = ModelConfig(
    localise=stage, segment=stage, margin_mm=20.0,
    localiser=UNetConfig(inputs=1, outputs=2, filters=4, levels=3, dropout=0.0),
    scn=ScnConfig(local_filters=4, local_levels=2, spatial_filters=2, spatial_levels=2, spatial_factor=2, dropout=0.0,
                  map_dropout=0.0, image_dropout=0.0, noise_ratio=0.0),
)
config = TrainConfig(model=model, iterations=4, learning_rate=1e-3, precision="f32", save_every=2, log_every=2,
                     validation_every=4, workers=1)


def sample(kind, labels, seed):
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 1, 8, 16, 24, generator=rng) - 0.5
    return image, torch.randint(0, labels, (1, 8, 16, 24), generator=rng, dtype=torch.uint8)


with joined_world("cpu") as world:
    said = {"size": world.size}
    for kind, labels in (("localise", 2), ("segment", 5)):
        trainer = Trainer(kind, config, world=world)
        trainer.backward(*sample(kind, labels, world.rank))
        shared = {name: p.grad for name, p in trainer.parameters.items()}
        alone = Trainer(kind, config)
        images, truths = zip(*(sample(kind, labels, seed) for seed in (0, 1)))
        alone.backward(torch.cat(images), torch.cat(truths))
        if world.writes:
            save_file({n: g.contiguous() for n, g in shared.items()}, folder / f"{kind}_shared.safetensors")
            single = {n: p.grad.contiguous() for n, p in alone.parameters.items()}
            save_file(single, folder / f"{kind}_single.safetensors")

    if world.writes:
        for seed in (31, 32, 33):
            scan = PhantomConfig(shape_zyx=(24, 20, 22), spacing_zyx_mm=(12.0, 16.0, 18.0))
            phantom = make_phantom(seed, config=scan)
            write_volume(phantom.volume, folder / "set" / "images" / f"p{seed}.nii")
            write_label_map(phantom.label_map, folder / "set" / "labels" / f"p{seed}.nii")
        prepare_dataset(find_dataset(folder / "set"), folder / "cache", PrepareConfig(model=model))
    torch.distributed.barrier()
    cache = Cache.open(folder / "cache")
    cases = {"names": cache.names[:2], "validation": cache.names[2:], "device": "cpu"}
    train("segment", cache, folder / "whole", config, **cases)

    original = Trainer.step

    def interrupted(trainer, *sample):
        outcome = original(trainer, *sample)
        if trainer.iteration == 3 and world.rank == 1:
            signal.raise_signal(signal.SIGINT)  # the other process hears of it from this one
        return outcome

    Trainer.step = interrupted
    try:
        train("segment", cache, folder / "parts", config, **cases)
    except KeyboardInterrupt:
        torch.distributed.barrier()
        said["interrupted at"] = checkpoint_iterations(folder / "parts")[-1]
    Trainer.step = original
    train("segment", cache, folder / "parts", config, **cases)

    sampling, drawn = data.training_sample, []

    def spoiled(case, *others):
        image, labels = sampling(case, *others)
        drawn.append(case.name)
        return (image * float("nan") if world.rank == 1 and len(drawn) == 1 else image), labels

    data.training_sample = spoiled
    try:
        train("localise", cache, folder / "nan", dataclasses.replace(config, workers=0), **cases)
    except VisceraError as error:
        said["error"], said["drawn"] = str(error), drawn
    torch.distributed.barrier()
    (folder / f"said{world.rank}.json").write_text(json.dumps(said))

threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
(folder / f"threads{world.rank}.json").write_text(json.dumps(threads))
"""


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left their results."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "program.py").write_text(PROGRAM)
    addresses = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *addresses]
    environment = {**os.environ, "PYTHONPATH": str(Path(viscera.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(folder / "program.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def said(outcome: Path, rank: int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((outcome / f"said{rank}.json").read_text())
    return values


@pytest.mark.parametrize("stage", ["localise", "segment"])
def test_gradients_are_those_of_one_process_with_both_cases(stage: str, outcome: Path) -> None:
    shared, single = (load_file(outcome / f"{stage}_{kind}.safetensors") for kind in ("shared", "single"))
    assert said(outcome, 0)["size"] == 2
    for name, value in single.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-6)


def test_one_process_writes_the_run(outcome: Path) -> None:
    run = outcome / "whole"
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [2, 4, 4]
    assert json.loads((run / "card.json").read_text())["processes"] == 2


def test_a_signal_to_one_process_stops_both_and_they_go_on_exactly(outcome: Path) -> None:
    assert [said(outcome, rank)["interrupted at"] for rank in (0, 1)] == [3, 3]
    weights = [(outcome / run / "weights.safetensors").read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]
    logs = [
        [
            {name: value for name, value in json.loads(line).items() if name not in ("rate", "seconds")}
            for line in (outcome / run / "log.jsonl").read_text().splitlines()
        ]
        for run in ("whole", "parts")
    ]
    assert logs[0] == logs[1]


def test_both_processes_name_the_case_whose_loss_is_not_a_number(outcome: Path) -> None:
    both = [said(outcome, rank) for rank in (0, 1)]
    assert both[0]["error"] == both[1]["error"]
    assert f"training step 1 on {both[1]['drawn'][0]}:" in both[0]["error"]
    assert both[0]["drawn"][0] != both[1]["drawn"][0]  # each process has its own case


@pytest.mark.skipif(sys.platform != "linux", reason="threads are looked for in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_no_thread_of_the_group_outlives_it(outcome: Path, rank: int) -> None:
    threads = json.loads((outcome / f"threads{rank}.json").read_text())
    assert "python" in " ".join(threads)
    assert not [name for name in threads if "gloo" in name]
