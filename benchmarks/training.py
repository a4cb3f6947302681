"""Iterations per second of both trainings and where their time goes, next to plain loops, on the device at hand.

Run `python benchmarks/training.py [--quick] [--device auto|cpu|cuda] [--stage localise|segment] [--iterations N]`.
Phantoms are prepared as any data set is, at the published sizes or, with `--quick`, at small ones with small networks.
An iteration of each loop takes turns with one of the other, with the device waited for after every part; the table has
the medians. "together" is the rate of the same steps as `viscera train` makes them, samples prepared ahead by threads.

The plain loop does the same work as it is often written: NumPy and SciPy warp image and labels on the CPU, the network
runs in float32 in the default memory layout, the optimiser and the moving average are those of a textbook. On a CPU a
third loop is ours with torch's own layers instead of those of `viscera.training.cpu_layers`.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from viscera.core.config import ModelConfig, ScnConfig, UNetConfig
from viscera.core.geometry import AIR_HU, Grid
from viscera.model.bundle import STAGES, Stage
from viscera.model.networks import PLAIN_LAYERS, UNet
from viscera.training.cache import Cache, TrainingCase
from viscera.training.config import AugmentConfig, TrainConfig
from viscera.training.datasets import find_dataset
from viscera.training.distributed import World
from viscera.training.losses import localisation_terms, one_hot, segmentation_terms
from viscera.training.patches import training_grid, training_sample
from viscera.training.prepare import PrepareConfig, prepare_dataset
from viscera.training.sampler import Sample, prepared, sample_generator
from viscera.training.step import Trainer, make_network

PARTS = ("data", "augmentation", "forward", "backward", "optimiser")
WARM_UP = 1
NODES = 8


class Clock:
    """Seconds by part; the device is waited for at the end of each."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.counting = device, True
        self.begin()

    def begin(self) -> None:
        """Forgets all and begins."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._wait()
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Counts the time since the last lap for `part`."""
        if self.counting:
            self._wait()
            now = time.perf_counter()
            self.seconds[part] += now - self.last
            self.last = now

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class TimedTrainer(Trainer):
    """The trainer itself, with a lap after the network and after the gradients."""

    clock: Clock

    def backward(self, image: Tensor, labels: Tensor, unannotated: Sequence[int] = ()) -> dict[str, Tensor]:
        """As the trainer's, timed."""
        terms = super().backward(image, labels, unannotated)
        self.clock.lap("backward")
        return terms


class Ours:
    """Steps as `viscera train` makes them."""

    name = "viscera"

    def __init__(self, stage: Stage, cache: Cache, config: TrainConfig, device: torch.device) -> None:
        self.stage, self.cache, self.config = stage, cache, config
        self.clock = Clock(device)
        self.trainer = TimedTrainer(stage, config, world=World(device=device))
        self.trainer.clock = self.clock
        self.trainer.network.register_forward_hook(lambda *_: self.clock.lap("forward"))
        self.names = cache.names_for(stage)

    def made(self, place: int) -> Sample:
        """The sample at `place`."""
        name = self.names[place % len(self.names)]
        case = self.cache.load(name, self.stage)
        self.clock.lap("data")
        rng = sample_generator(self.config.seed, place)
        image, labels = training_sample(case, self.stage, self.config, rng, self.clock.device)
        self.clock.lap("augmentation")
        return Sample(name, image, labels)

    def iteration(self, place: int) -> dict[str, float]:
        """Seconds of one step by part."""
        self.clock.begin()
        sample = self.made(place)
        self.trainer.step(sample.image, sample.labels)
        self.clock.lap("optimiser")
        self.size = tuple(sample.image.shape[2:])
        return self.clock.seconds

    def together(self, iterations: int) -> float:
        """Iterations per second with samples prepared ahead; nobody waits for the device between the parts."""
        self.clock.counting = False
        places = range(iterations + WARM_UP)
        samples = prepared(self.made, places, workers=self.config.workers, device=self.clock.device)
        for done, sample in enumerate(samples):
            if done == WARM_UP:
                self.clock.begin()
            self.trainer.step(sample.image, sample.labels)
        self.clock.counting = True
        self.clock.lap("optimiser")
        return iterations / self.clock.seconds["optimiser"]


class TorchLayers(Ours):
    """The same with torch's own layers."""

    name = "torch layers"

    def __init__(self, stage: Stage, cache: Cache, config: TrainConfig, device: torch.device) -> None:
        super().__init__(stage, cache, config, device)
        for module in self.trainer.network.modules():
            if isinstance(module, UNet):
                module.use_layers(PLAIN_LAYERS)


class Plain:
    """The same training as a plain loop."""

    name = "plain"

    def __init__(self, stage: Stage, cache: Cache, config: TrainConfig, device: torch.device) -> None:
        self.stage, self.cache, self.config = stage, cache, config
        self.clock = Clock(device)
        torch.manual_seed(config.seed)
        self.network = make_network(stage, config.model).to(device)
        self.average = copy.deepcopy(self.network)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.mean_norm = config.clip_start
        self.names = cache.names_for(stage)

    def iteration(self, place: int) -> dict[str, float]:
        """Seconds of one step by part."""
        config, clock = self.config, self.clock
        clock.begin()
        case = self.cache.load(self.names[place % len(self.names)], self.stage)
        clock.lap("data")
        image, labels = self.sample(case, sample_generator(config.seed, place))
        clock.lap("augmentation")
        output = self.network.train()(image)
        clock.lap("forward")
        self.loss(output, labels).backward()  # type: ignore[no-untyped-call]
        clock.lap("backward")
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_factor * self.mean_norm))
        self.mean_norm += config.clip_alpha * (min(norm, config.clip_factor * self.mean_norm) - self.mean_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.mul_(config.ema_decay).add_(value, alpha=1 - config.ema_decay)
        clock.lap("optimiser")
        return clock.seconds

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        """The same loss, L2 as a term of it."""
        if self.stage == "localise":
            terms = localisation_terms(output, one_hot(labels, 2), self.config.localise_cross_entropy)
        else:
            terms = segmentation_terms(output, one_hot(labels, self.config.model.scn.labels), self.config.loss_weights)
        kernels = [p for p in self.network.parameters() if p.ndim == 5 and p.shape[-1] == 3]
        penalty = torch.stack([(kernel**2).sum() for kernel in kernels]).sum()
        return torch.stack(list(terms.values())).sum() + self.config.l2_penalty * penalty

    def sample(self, case: TrainingCase, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """An augmented image and its labels."""
        model = self.config.model
        settings = model.localise if self.stage == "localise" else model.segment
        target = training_grid(case, self.stage, model)
        positions = warped_positions(case.grid, target, self.config.augment, rng)
        image = ndimage.map_coordinates(case.image.astype(np.float32), positions, order=1, cval=AIR_HU)
        shift, gain = rng.uniform(-1, 1, 2) * (self.config.augment.shift, self.config.augment.gain)
        image = np.clip((image / settings.hu_scale + shift) * (1 + gain), -1, 1).astype(np.float32)
        if self.stage == "localise":
            labels = ndimage.map_coordinates((case.labels > 0).astype(np.uint8), positions, order=0)
        else:
            maps = [
                ndimage.map_coordinates((case.labels == label).astype(np.float32), positions, order=1)
                for label in range(1, model.scn.labels)
            ]
            maps = [1 - np.sum(maps, axis=0), *maps]
            sigma = self.config.label_sigma_vox
            labels = np.argmax([ndimage.gaussian_filter(one, sigma) for one in maps], axis=0).astype(np.uint8)
        device = self.clock.device
        return torch.from_numpy(image)[None, None].to(device), torch.from_numpy(labels)[None].to(device)


def warped_positions(
    source: Grid, target: Grid, augment: AugmentConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Where each voxel of `target` reads in `source`, (3, z, y, x) voxels, after a random warp."""
    offset, step = target.positions_in(source)
    spacing, shape = np.asarray(target.spacing_zyx_mm), target.shape_zyx
    middle = (np.asarray(shape) - 1) / 2
    matrix = np.diag((1 + rng.uniform(-1, 1) * augment.scale) * (1 + rng.uniform(-1, 1, 3) * augment.axis_scale))
    for axis, angle in enumerate(rng.uniform(-1, 1, 3) * augment.rotation_rad):
        turn = np.eye(3)
        first, second = (other for other in range(3) if other != axis)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    points = (np.moveaxis(np.indices(shape), 0, -1) - middle) * spacing
    points = points @ matrix.T + rng.uniform(-1, 1, 3) * augment.translation_mm
    nodes = rng.uniform(-1, 1, (3, NODES, NODES, NODES)) * augment.elastic_mm
    for axis in range(3):
        points[..., axis] += ndimage.zoom(
            nodes[axis], np.asarray(shape) / NODES, order=3, grid_mode=True, mode="nearest"
        )
    voxels = (points / spacing + middle) * np.asarray(step) + np.asarray(offset)
    positions: NDArray[np.float32] = np.moveaxis(voxels, -1, 0).astype(np.float32)
    return positions


def main() -> None:
    options = parsed_options()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    iterations = options.iterations or (50 if device.type == "cuda" else 5)
    config = quick_config() if options.quick else TrainConfig()
    config = replace(config, precision=options.precision, workers=options.workers)
    describe_machine(device)
    with prepared_cache(options, config) as cache:
        for stage in STAGES:
            if options.stage in (None, stage):
                print_stage(stage, cache, config, device, iterations)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and networks")
    parser.add_argument("--stage", choices=STAGES, help="one network only")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto", choices=("auto", "f32", "bf16", "f16"), help="of our loop")
    parser.add_argument("--iterations", type=int, help="measured per loop (default: 50 on a GPU, else 5)")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--workers", type=int, default=1, help="threads that prepare samples ahead")
    parser.add_argument("--cases", type=int, default=2, help="phantoms")
    parser.add_argument("--cache", type=Path, help="a prepared data set instead of phantoms")
    return parser.parse_args()


def quick_config() -> TrainConfig:
    published = ModelConfig()
    sizes = {"sizes_x_vox": (32, 48, 64), "sizes_y_vox": (32, 48), "sizes_z_vox": (32, 48, 64)}
    model = ModelConfig(
        localise=replace(published.localise, spacing_mm=10.0, sizes_x_vox=(32, 48), sizes_y_vox=(32, 48)),
        segment=replace(published.segment, spacing_mm=5.0, **sizes),  # type: ignore[arg-type]
        localiser=UNetConfig(inputs=1, outputs=2, filters=8, levels=4),
        scn=ScnConfig(local_filters=8, local_levels=4, spatial_filters=4, spatial_levels=3),
    )
    return TrainConfig(model=model)


@contextmanager
def prepared_cache(options: argparse.Namespace, config: TrainConfig) -> Iterator[Cache]:
    """The cache to train on: the one that was given, or phantoms prepared in a temporary folder."""
    if options.cache:
        yield Cache.open(options.cache)
        return
    with tempfile.TemporaryDirectory() as folder:
        data, cache = Path(folder, "data"), Path(folder, "cache")
        write_phantoms(data, options.cases, quick=options.quick)
        prepare_dataset(find_dataset(data), cache, PrepareConfig(model=config.model))
        yield Cache.open(cache)


def write_phantoms(folder: Path, count: int, *, quick: bool) -> None:
    from viscera.formats.nifti_write import write_label_map, write_volume
    from viscera.synthesis.phantom import PhantomConfig, make_phantom

    steps = (5.0, 4.0, 4.0) if quick else (2.5, 1.5, 1.5)
    z, y, x = (round(extent / step) for extent, step in zip((340, 330, 440), steps, strict=True))
    for seed in range(count):
        phantom = make_phantom(seed, config=PhantomConfig(shape_zyx=(z, y, x), spacing_zyx_mm=steps))
        write_volume(phantom.volume, folder / "images" / f"{seed}.nii.gz")
        write_label_map(phantom.label_map, folder / "labels" / f"{seed}.nii.gz")


def describe_machine(device: torch.device) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"{name}; torch {torch.__version__}, Python {sys.version.split()[0]}{load}", flush=True)


def print_stage(stage: Stage, cache: Cache, config: TrainConfig, device: torch.device, iterations: int) -> None:
    ours, plain = Ours(stage, cache, config, device), Plain(stage, cache, config, device)
    loops: tuple[Ours | Plain, ...] = (ours, plain)
    if device.type == "cpu":
        loops += (TorchLayers(stage, cache, config, device),)
    measured = measured_in_turn(loops, iterations)
    together = ours.together(iterations)
    sizes = "x".join(map(str, ours.size))
    print(f"\n{stage}, {sizes} voxels (z, y, x), {ours.trainer.precision}, {iterations} iterations each")
    print(f"{'loop':14}{'it/s':>9}" + "".join(f"{part:>20}" for part in PARTS))
    totals = {}
    for loop, parts in measured.items():
        totals[loop] = sum(parts.values())
        cells = (f"{1000 * parts[part]:9.1f} ms ({100 * parts[part] / totals[loop]:4.1f} %)" for part in PARTS)
        print(f"{loop:14}{1 / totals[loop]:9.3f}" + "".join(f"{cell:>20}" for cell in cells))
    print(f"{'together':14}{together:9.3f}")
    plain_rate = 1 / totals["plain"]
    ratios = [f"{part} {measured['plain'][part] / max(measured['viscera'][part], 1e-9):.1f}" for part in PARTS]
    print(f"plain / viscera: {', '.join(ratios)}, all {totals['plain'] / totals['viscera']:.2f}", end="; ")
    print(f"together {together / plain_rate:.2f} times as fast as plain", flush=True)
    if "torch layers" in totals:
        ratios = [f"{part} {measured['torch layers'][part] / measured['viscera'][part]:.2f}" for part in PARTS[2:]]
        print(f"torch layers / viscera: {', '.join(ratios)}", flush=True)


def measured_in_turn(loops: tuple[Ours | Plain, ...], iterations: int) -> dict[str, dict[str, float]]:
    """The median seconds of each part by loop."""
    times: dict[str, list[dict[str, float]]] = {loop.name: [] for loop in loops}
    for place in range(WARM_UP + iterations):
        for loop in loops:
            seconds = loop.iteration(place)
            if place >= WARM_UP:
                times[loop.name].append(seconds)
    return {
        loop: {part: statistics.median(seconds[part] for seconds in all_of_it) for part in PARTS}
        for loop, all_of_it in times.items()
    }


if __name__ == "__main__":
    main()
