"""One training loop for both networks."""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from viscera.config import ModelConfig
from viscera.crop import region_grid
from viscera.errors import ConfigError, VisceraError
from viscera.geometry import Grid
from viscera.networks import SpatialConfigurationNet, UNet
from viscera.preprocess import fitted_grid
from viscera.resample import resample
from viscera.training.augment import (
    AugmentConfig,
    air,
    draw_warp,
    jitter_intensity,
    sample,
    sampling_positions,
    smooth_maps,
)
from viscera.training.cases import TrainingCase, read_case, shuffled
from viscera.training.losses import localisation_loss, one_hot, segmentation_loss
from viscera.write import write_bytes, write_text

Stage = Literal["localise", "segment"]
Sample = tuple[Tensor, Tensor]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained; the defaults are the paper's (section 3), else the authors' release.

    Attributes:
        model: Sampling and networks.
        augment: Ranges of the augmentation.
        iterations: Steps of batch size 1.
        learning_rate: Adam's.
        schedule: The rate stays, or falls along half a cosine to a hundredth after 100 steps of warm-up.
        lambdas: Weights of the cross-entropies of the local and the spatial logits.
        localise_cross_entropy: Weight of an added cross-entropy in localisation. The generalised Dice loss has next to
            no gradient on scans without organs, so without this nothing is learnt from them; 0 as published.
        l2: Weight of the squared 3x3x3 kernels in the loss.
        clip_factor, clip_start, clip_alpha: The gradient's norm is cut at this factor times its running mean, which
            starts at `clip_start` and follows with weight `clip_alpha`.
        ema_decay: Of the moving average of the weights, which are the ones used.
        label_sigma_vox: Gaussian over the one-hot labels of the region before the argmax, in its voxels.
        bfloat16: Mixed precision.
        save_every: Steps between weights on disk.
        seed: Of weights, order, augmentation and dropout.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    iterations: int = 100_000
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    lambdas: tuple[float, float] = (1.0, 1.0)
    localise_cross_entropy: float = 0.0
    l2: float = 1e-6
    clip_factor: float = 5.0
    clip_start: float = 10.0
    clip_alpha: float = 0.01
    ema_decay: float = 0.999
    label_sigma_vox: float = 1.0
    bfloat16: bool = True
    save_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "iterations": self.iterations >= 1,
            "learning_rate": self.learning_rate > 0,
            "schedule": self.schedule in ("constant", "cosine"),
            "ema_decay": 0 <= self.ema_decay < 1,
            "label_sigma_vox": self.label_sigma_vox >= 0,
            "save_every": self.save_every >= 1,
        }
        for name, holds in checks.items():
            if not holds:
                raise ConfigError(
                    f"setting TrainConfig.{name}",
                    expected="a value in its range",
                    got=repr(getattr(self, name)),
                    remedy="Correct the value",
                )


def training_grid(case: TrainingCase, stage: Stage, model: ModelConfig) -> Grid:
    """The grid inference would sample this case on: the scout grid, or the region around the true organs."""
    if stage == "localise":
        return fitted_grid(case.grid, case.grid.box(), model.localise)
    box = case.organ_box()
    if box is None:
        raise VisceraError(
            f"training on {case.name}", expected="organs in the labels", got="none", remedy="Leave the case out"
        )
    return region_grid(case.grid, box, model)


def training_sample(case: TrainingCase, stage: Stage, config: TrainConfig, rng: np.random.Generator) -> Sample:
    """An augmented image (1, 1, z, y, x) in [-1, 1] and its labels, uint8 (1, z, y, x).

    Labels are 0 and 1 (any organ) for localisation, organ indices for segmentation. Without augmentation the image is
    what inference computes for the same grid.
    """
    settings = config.model.localise if stage == "localise" else config.model.segment
    target = training_grid(case, stage, config.model)
    positions = sampling_positions(draw_warp(config.augment, rng), case.grid, target)
    smoothed = torch.from_numpy(resample(case.hu, case.grid, case.grid, sigma_mm=settings.sigma_mm, outside=0.0))
    image = sample(smoothed[None] / settings.hu_scale, positions, nearest=False, outside=air(settings.hu_scale))
    image = jitter_intensity(image, config.augment, rng)
    labels = torch.tensor(case.labels)
    if stage == "localise":
        truth = sample((labels > 0)[None], positions, nearest=True, outside=0)
        return image[None], truth.to(torch.uint8)
    maps = one_hot(labels[None], config.model.scn.labels)[0]
    warped = sample(maps, positions, nearest=False, outside=0)
    warped[0] = 1 - warped[1:].sum(0)
    return image[None], smooth_maps(warped, config.label_sigma_vox).argmax(0, keepdim=True).to(torch.uint8)


def make_network(stage: Stage, model: ModelConfig) -> nn.Module:
    """The untrained network of a stage."""
    return UNet(model.localiser) if stage == "localise" else SpatialConfigurationNet(model.scn)


class Trainer:
    """The state of one training run: network, moving average, optimiser, running gradient norm."""

    def __init__(self, stage: Stage, config: TrainConfig, initial: Path | None = None) -> None:
        torch.manual_seed(config.seed)
        self.stage, self.config = stage, config
        self.network = make_network(stage, config.model).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if initial is not None:
            self.network.load_state_dict(load_file(initial))
        self.average = copy.deepcopy(self.network).eval()
        if config.bfloat16:
            _guard_flat_convolutions(self.network)
        self.kernels = [p for p in self.network.parameters() if p.ndim == 5 and p.shape[-1] == 3]
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.mean_norm = config.clip_start
        self.iteration = 0

    def step(self, image: Tensor, labels: Tensor) -> float:
        """Trains on one sample and returns its loss (without the L2 term)."""
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        target = one_hot(labels, 2 if self.stage == "localise" else self.config.model.scn.labels)
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16):
            output = self.network(image.to(memory_format=torch.channels_last_3d))
        if self.stage == "localise":
            loss = localisation_loss(output, target, self.config.localise_cross_entropy)
        else:
            loss = segmentation_loss(output, target, self.config.lambdas)
        penalty = sum((kernel**2).sum() for kernel in self.kernels)
        self.optimiser.zero_grad(set_to_none=True)
        (loss + self.config.l2 * penalty).backward()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_factor * self.mean_norm))
        if not math.isfinite(norm):
            raise FloatingPointError(f"loss {float(loss.detach())}, gradient norm {norm}")
        self.mean_norm += self.config.clip_alpha * (
            min(norm, self.config.clip_factor * self.mean_norm) - self.mean_norm
        )
        self.optimiser.step()
        self.iteration += 1
        self._follow()
        return float(loss.detach())

    def _rate(self) -> float:
        config = self.config
        if config.schedule == "constant":
            return config.learning_rate
        progress = self.iteration / config.iterations
        return (
            config.learning_rate
            * min(1.0, (self.iteration + 1) / 100)
            * max(0.01, 0.5 + 0.5 * math.cos(math.pi * progress))
        )

    @torch.no_grad()
    def _follow(self) -> None:
        # Early on the average follows faster, so that it forgets the initial weights.
        decay = min(self.config.ema_decay, (1 + self.iteration) / (10 + self.iteration))
        for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def save(self, run: Path) -> None:
        """Writes the averaged weights to `run`/weights.safetensors."""
        state = {name: value.detach().contiguous() for name, value in self.average.state_dict().items()}
        write_bytes(save(state), run / "weights.safetensors")


def _guard_flat_convolutions(network: nn.Module) -> None:
    """Keeps convolutions over one or two slices on the CPU out of bfloat16.

    The weight gradients of a bfloat16 3x3x3 convolution over a depth of 2 come out as garbage up to 1e36 on the CPU
    (seen with torch 2.13 on a processor with avx512_bf16); the deepest level of a thin scan is that flat.
    """

    def forward(layer: nn.Conv3d, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.shape[2] <= 2:
            with torch.autocast("cpu", enabled=False):
                return nn.Conv3d.forward(layer, x.float())
        return nn.Conv3d.forward(layer, x)

    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.forward = functools.partial(forward, layer)  # type: ignore[method-assign]


def train(
    stage: Stage,
    paths: list[Path],
    run: Path,
    config: TrainConfig,
    *,
    initial: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Trains one network on the cases at `paths` and returns the file of its averaged weights.

    Writes config.json, log.jsonl (every 10 steps the mean loss and the rate of steps) and weights.safetensors to `run`.
    Cases without organs are used for localisation only.

    Raises:
        VisceraError: If the loss is no longer a finite number; the message names the case.
    """
    rng = np.random.default_rng([config.seed, 3])
    trainer = Trainer(stage, config, initial)
    write_text(json.dumps(asdict(config), indent=2) + "\n", run / "config.json")
    recent: list[float] = []
    lines: list[str] = []
    begun = time.monotonic()
    for case in _cases(stage, paths, rng):
        image, labels = training_sample(case, stage, config, rng)
        try:
            recent.append(trainer.step(image, labels))
        except FloatingPointError as error:
            raise VisceraError(
                f"training step {trainer.iteration} on {case.name}",
                expected="a finite loss",
                got=str(error),
                remedy=f"Check the case; the last good weights are in {run}",
            ) from error
        if on_step is not None:
            on_step(trainer.iteration, recent[-1])
        if trainer.iteration % 10 == 0:
            record = {"iteration": trainer.iteration, "loss": round(float(np.mean(recent)), 5)}
            lines.append(json.dumps({**record, "seconds": round(time.monotonic() - begun, 1)}))
            write_text("\n".join(lines) + "\n", run / "log.jsonl")
            recent = []
        done = trainer.iteration >= config.iterations
        if done or trainer.iteration % config.save_every == 0:
            trainer.save(run)
        if done:
            break
    return run / "weights.safetensors"


def _cases(stage: Stage, paths: list[Path], rng: np.random.Generator) -> Iterator[TrainingCase]:
    """Cases without end; those without organs are passed over for segmentation, and named once."""
    passed: set[str] = set()
    for path in shuffled(paths, rng):
        case = read_case(path)
        if stage == "localise" or case.organ_box() is not None:
            yield case
        elif case.name not in passed:
            passed.add(case.name)
            _log.info("%s shows no organs and is left out of segmentation", case.name)
