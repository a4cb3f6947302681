"""`gpu.sh check`: whether a device computes what the CPU does, before it trains for minutes.

Both networks, the losses, a training step, the torch engine and streamed inference, each on a part of a sample with
unknown voxels, and the samples themselves. Figures are norms of differences over norms, ||device - CPU|| / ||CPU||.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from gpu.data import KeptData
from gpu.pack import STAGES
from gpu.train import config_of, initial_of
from viscera.core.errors import VisceraError
from viscera.core.files import write_bytes
from viscera.engines.torch_engine import TorchEngine, as_outputs, load_network
from viscera.engines.torch_tiled import streamed_output
from viscera.model.bundle import Bundle, ModelCard, Stage
from viscera.training.cache import UNKNOWN_LABEL
from viscera.training.config import TrainConfig
from viscera.training.distributed import World
from viscera.training.losses import localisation_terms, one_hot, segmentation_terms
from viscera.training.run_folder import joint_model
from viscera.training.step import Trainer, make_network

# Single precision rounds to 6e-8; many layers and sums in another order leave less than this, TF32 would leave 1e-3.
_SINGLE = 5e-4
# A gradient goes through all layers twice, and leaky ReLUs near zero may take their other side.
_GRADIENT = 5e-3
# bfloat16 rounds to 4e-3.
_HALF = 5e-2
_LABELS_APART = 0.02
# A few voxels at the scan's faces may fall to their other side.
_IMAGE = 2e-2
_PLANES = 4
_PACE_SECONDS = 3.0


class Result(NamedTuple):
    """A comparison: what of, by how much both differ, and by how much they may."""

    name: str
    apart: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the device computes what the CPU does; not if anything is no number."""
        return self.apart <= self.limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gpu.sh check` to `parser`."""
    parser.add_argument("work", metavar="WORK", type=Path, help="where a pack was unpacked")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting; repeatable")


def run(args: argparse.Namespace) -> int:
    """Compare, and print a table; raise VisceraError if anything differs."""
    start = time.monotonic()
    device = chosen_device(args.device)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    failed = []
    for result in comparisons(args.work, device, args.set):
        print(f"  {result.name:44s} {result.apart:9.2e}  limit {result.limit:.0e}{'' if result.holds else '  DIFFERS'}")
        failed += [] if result.holds else [result]
    if failed:
        raise VisceraError(
            f"checking {device_name(device)}",
            expected=f"the CPU's results, {failed[0].name} to {failed[0].limit:.0e}",
            got=", ".join(f"{one.name} {one.apart:.1e} apart" for one in failed),
            remedy="Do not train on it; --anyway trains all the same",
        )
    for stage in STAGES:
        print("  " + pace(args.work, stage, device, args.set))
    print(f"{device_name(device)} computes what the CPU does; checked in {time.monotonic() - start:.0f} s")
    return 0


def chosen_device(name: str) -> torch.device:
    """Return the device, auto being a GPU if there is one; raise VisceraError if it is not there."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise VisceraError("choosing a device", expected="a GPU", got="none", remedy="Use --device cpu")
    return torch.device("cuda", torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    """Return what the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def comparisons(work: Path, device: torch.device, overrides: Sequence[str]) -> Iterator[Result]:
    """Yield every comparison of `device` with the CPU."""
    data = KeptData.of(work)
    configs = {stage: config_of(work, stage, list(overrides)) for stage in STAGES}
    for stage in STAGES:
        yield from _samples(data, stage, configs[stage], device)
    _write_weights(work, configs)
    for stage in STAGES:
        image, labels = _part(data, stage, configs[stage])
        yield from _network(work, stage, configs[stage], image, device)
        yield from _losses(stage, configs[stage], labels, device)
        yield from _step(stage, configs[stage], (image, labels), initial_of(work, stage), device)
    yield from _engine(work, data, configs, device)


def apart(one: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference over the norm of the reference, both in double precision on the CPU."""
    difference, whole = one.detach().cpu().double() - reference.detach().cpu().double(), reference.detach().double()
    return float(difference.norm() / whole.norm().cpu().clamp(min=1e-30))


def _samples(data: KeptData, stage: Stage, config: TrainConfig, device: torch.device) -> Iterator[Result]:
    """Labels of synthetic samples, whose shape comes from the same numbers everywhere, and whole real samples."""
    cases = [(name, "synthetic") for name in list(data.files)[:1]]
    if data.real is not None:
        cases += [(name, "real") for name in data.real.cache.names_for(stage)[:1]]
    for name, kind in cases:
        (image, labels), (other, others) = (
            data.sample(name, stage, config, np.random.default_rng(3), place) for place in (device, "cpu")
        )
        differing = (labels.cpu() != others).sum() / max(1, int((others > 0).sum()))
        yield Result(f"{stage}: labels of a {kind} sample", float(differing), _LABELS_APART)
        if kind == "real":
            yield Result(f"{stage}: image of a real sample", apart(image, other), _IMAGE)
        elif not (image.abs() <= 1).all():
            yield Result(f"{stage}: image of a synthetic sample", float("nan"), 0.0)


def _part(data: KeptData, stage: Stage, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Return the middle of a synthetic sample, and its labels, of which some are unknown."""
    image, labels = data.sample(next(iter(data.files)), stage, config, np.random.default_rng(4), "cpu")
    settings = getattr(config.model, stage)
    sizes = [sizes[:2][-1] for sizes in (settings.sizes_z_vox, settings.sizes_y_vox, settings.sizes_x_vox)]
    for axis, most in enumerate(sizes, start=2):
        size = min(most, image.shape[axis])
        start = (image.shape[axis] - size) // 2
        image, labels = image.narrow(axis, start, size), labels.narrow(axis - 1, start, size)
    image, labels = image.contiguous(), labels.contiguous()
    labels[:, : labels.shape[1] // 4, : labels.shape[2] // 2] = UNKNOWN_LABEL
    return image, labels


def _weights(work: Path, stage: Stage) -> Path:
    return work / "check" / f"{stage}.safetensors"


def _write_weights(work: Path, configs: dict[Stage, TrainConfig]) -> None:
    """Write the weights that are compared: those to begin with, or random ones."""
    for stage, config in configs.items():
        initial = initial_of(work, stage)
        weights = initial.read_bytes() if initial else save(make_network(stage, config.model).state_dict())
        write_bytes(weights, _weights(work, stage))


@torch.inference_mode()
def _network(work: Path, stage: Stage, config: TrainConfig, image: Tensor, device: torch.device) -> Iterator[Result]:
    network = load_network(stage, config.model, _weights(work, stage))
    expected = as_outputs(stage, network(image), config.model)
    network.to(device)
    for name, values in {
        "network": as_outputs(stage, network(image.to(device)), config.model),
        "network, streamed": streamed_output(network, image.to(device), _PLANES),
    }.items():
        yield Result(f"{stage}: {name}", max(map(apart, values, expected)), _SINGLE)
    trained = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    with torch.autocast(device.type, torch.bfloat16):
        values = as_outputs(stage, trained(image.to(device)), config.model)
    yield Result(f"{stage}: network in bfloat16", apart(values[0], expected[0]), _HALF)


def _losses(stage: Stage, config: TrainConfig, labels: Tensor, device: torch.device) -> Iterator[Result]:
    count = 2 if stage == "localise" else config.model.scn.labels
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(1, count, *labels.shape[1:], generator=generator) for _ in range(3)]

    def terms(place: torch.device | str) -> Tensor:
        target, on_place = one_hot(labels.to(place), count), [one.to(place) for one in maps]
        if stage == "localise":
            found = localisation_terms(on_place[0], target, 1.0)
        else:
            found = segmentation_terms((on_place[0].softmax(1), on_place[1], on_place[2]), target, config.loss_weights)
        return torch.stack(list(found.values()))

    yield Result(f"{stage}: losses", apart(terms(device), terms("cpu")), _SINGLE)


def _step(
    stage: Stage, config: TrainConfig, sample: tuple[Tensor, Tensor], initial: Path | None, device: torch.device
) -> Iterator[Result]:
    """One step without anything random: loss, gradients and what became of the weights."""
    model = config.model
    still = dataclasses.replace(
        model,
        localiser=dataclasses.replace(model.localiser, dropout=0.0),
        scn=dataclasses.replace(model.scn, dropout=0.0, map_dropout=0.0, image_dropout=0.0, noise_ratio=0.0),
    )

    def trained(place: torch.device, precision: str) -> tuple[Tensor, Tensor, Tensor]:
        settings = dataclasses.replace(config, model=still, precision=precision)  # type: ignore[arg-type]
        trainer = Trainer(stage, settings, initial, world=World(device=place))
        before = _flat(trainer.network)
        outcome = trainer.step(*(tensor.to(place) for tensor in sample))
        gradients = torch.cat([p.grad.flatten().cpu() for p in trainer.parameters.values() if p.grad is not None])
        return torch.tensor(outcome.loss), gradients, _flat(trainer.network) - before

    loss, gradients, change = trained(torch.device("cpu"), "f32")
    found = trained(device, "f32")
    yield Result(f"{stage}: loss of a step", apart(found[0], loss), _SINGLE)
    yield Result(f"{stage}: gradients of a step", apart(found[1], gradients), _GRADIENT)
    # Adam's first step is about the gradient's sign, which rounding decides where it is next to nothing.
    yield Result(f"{stage}: change of the weights", apart(found[2], change), 0.1)
    yield Result(f"{stage}: loss of a step in bfloat16", apart(trained(device, "bf16")[0], loss), _HALF)


def _flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().cpu().clone() for parameter in network.parameters()])


def _engine(work: Path, data: KeptData, configs: dict[Stage, TrainConfig], device: torch.device) -> Iterator[Result]:
    """The engine that `viscera segment` uses, in single precision and in that which it chooses itself."""
    model = joint_model(configs["localise"], configs["segment"])
    card = ModelCard(name="check", version="0", description="", licence="", model=model)
    bundle = Bundle(folder=work / "check", card=card)
    kinds = {"cpu": ("cpu", "f32"), "f32": (device.type, "f32"), "auto": (device.type, "auto")}
    engines = {name: TorchEngine(bundle, device=place, precision=kind) for name, (place, kind) in kinds.items()}
    for stage in STAGES:
        image = _part(data, stage, configs[stage])[0].numpy()
        answers = {name: engine.run(stage, image) for name, engine in engines.items()}
        cpu, f32, auto = (torch.from_numpy(answers[name].output) for name in ("cpu", "f32", "auto"))
        yield Result(f"{stage}: torch engine", apart(f32, cpu), _SINGLE)
        differing = (auto.argmax(1) != cpu.argmax(1)).float().mean()
        yield Result(f"{stage}: torch engine's labels, {engines['auto'].precision}", float(differing), _LABELS_APART)


def pace(work: Path, stage: Stage, device: torch.device, overrides: Sequence[str]) -> str:
    """Return what a step takes, and a sample drawn by one thread: which of both the training waits for."""
    data, config = KeptData.of(work), config_of(work, stage, list(overrides))
    trainer = Trainer(stage, config, initial_of(work, stage), world=World(device=device))
    names, rng = list(data.files), np.random.default_rng(6)

    def draw() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return data.sample(names[int(rng.integers(len(names)))], stage, config, rng, device)

    image, labels = draw()
    step = _seconds(lambda: trainer.step(image, labels), device)
    sample = _seconds(draw, device)
    size = " x ".join(map(str, image.shape[:1:-1]))
    return f"{stage}: {step:.3f} s a step ({size} voxels, {trainer.precision}), {sample:.3f} s a sample in one thread"


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, the first left out where there is time for more."""
    times: list[float] = []
    while not times or (sum(times) < _PACE_SECONDS and len(times) < 20):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:] or times))
