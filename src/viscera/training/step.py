"""The state of one training and its step: network, moving average, optimiser, running gradient norm."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from viscera.core.config import ModelConfig
from viscera.core.errors import ReadError, reason
from viscera.core.files import write_bytes
from viscera.model.bundle import Stage
from viscera.model.networks import SpatialConfigurationNet, UNet
from viscera.training.config import Precision, TrainConfig
from viscera.training.cpu_layers import faster_precision, use_cpu_layers
from viscera.training.distributed import World
from viscera.training.losses import localisation_terms, one_hot, segmentation_terms

# Keeps the seeds of dropout apart from those of weights, sampler and samples.
_DROPOUT_STREAM = 6

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class StepOutcome(NamedTuple):
    """What one step did.

    `loss` is the sum of `terms`, without L2; `norm` is the gradient's before clipping, NaN if the step was left out
    because float16 overflowed.
    """

    loss: float
    terms: dict[str, float]
    norm: float


class NotFiniteError(FloatingPointError):
    """A loss or gradient that is no finite number; `losses` are those of all processes, by rank."""

    def __init__(self, losses: list[float], norm: float) -> None:
        super().__init__(f"loss {', '.join(f'{loss:g}' for loss in losses)}, gradient norm {norm:g}")
        self.losses = losses


def make_network(stage: Stage, model: ModelConfig) -> nn.Module:
    """Return the untrained network of a stage."""
    return UNet(model.localiser) if stage == "localise" else SpatialConfigurationNet(model.scn)


def chosen_precision(precision: Precision, device: torch.device) -> Literal["f32", "bf16", "f16"]:
    """Return the precision on `device`: auto is bfloat16 where it is fast, else float16 (GPU) or float32 (CPU).

    On a CPU both are timed.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "f16"
    return "bf16" if faster_precision() == torch.bfloat16 else "f32"


class Trainer:
    """One training run's state.

    Dropout and input noise are drawn from torch's generator, which is seeded before every step from seed, step and
    rank: so a step depends on nothing but the state below, whichever process or thread drew numbers in between.

    Args:
        stage: Which network.
        config: Every setting.
        initial: Weights to begin with (safetensors); random ones otherwise. For localisation also those of a
            segmentation network, see `localiser_weights`.
        world: The processes that share the training, and the device.
    """

    def __init__(
        self, stage: Stage, config: TrainConfig, initial: Path | None = None, *, world: World | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.stage, self.config, self.world = stage, config, world or World()
        self.device = self.world.device
        self.precision = chosen_precision(config.precision, self.device)
        network = make_network(stage, config.model)
        if initial is not None:
            _load_initial(network, initial)
        self.network: nn.Module = network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval()
        if self.device.type == "cpu":
            use_cpu_layers(self.network, _DTYPES[self.precision])
        self.parameters = dict(self.network.named_parameters())
        self.kernels = [p for p in self.parameters.values() if p.ndim == 5 and p.shape[-1] == 3]
        self.optimiser = torch.optim.Adam(
            self.parameters.values(), lr=config.learning_rate, fused=self.device.type == "cuda"
        )
        self.mean_norm = config.clip_start
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "f16")
        self.iteration = 0

    def step(self, image: Tensor, labels: Tensor, unannotated: Sequence[int] = ()) -> StepOutcome:
        """Train on one sample.

        Args:
            image: (b, 1, z, y, x) in [-1, 1].
            labels: (b, z, y, x), uint8.
            unannotated: Labels of the organs that are not annotated, see `segmentation_terms`.

        Raises:
            NotFiniteError: If loss or gradient is not finite; weights, moments and average are as before then.
        """
        config = self.config
        terms = self.backward(image, labels, unannotated)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm_tensor = nn.utils.get_total_norm(gradients)
        # The one moment at which the processor waits for the device.
        norm, *values = torch.stack([norm_tensor, *terms.values()]).tolist()
        loss, named = sum(values), dict(zip(terms, values, strict=True))
        if not math.isfinite(norm):
            self._refuse(loss, norm)
            return StepOutcome(loss, named, math.nan)
        limit = config.clip_factor * self.mean_norm
        if norm > limit:
            torch._foreach_mul_(gradients, limit / norm)
        self.mean_norm += config.clip_alpha * (min(norm, limit) - self.mean_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.iteration += 1
        self._follow()
        return StepOutcome(loss, named, norm)

    def backward(self, image: Tensor, labels: Tensor, unannotated: Sequence[int] = ()) -> dict[str, Tensor]:
        """Return the loss terms of one sample; leave the gradient of their sum plus L2, the mean over all processes."""
        self.network.train()
        torch.manual_seed(_seed(self.config.seed, self.iteration, self.world.rank))
        target = one_hot(labels, 2 if self.stage == "localise" else self.config.model.scn.labels)
        with self.autocast():
            output = self.network(image.to(memory_format=torch.channels_last_3d))
        if self.stage == "localise":
            terms = localisation_terms(output, target, self.config.localise_cross_entropy)
        else:
            terms = segmentation_terms(output, target, self.config.loss_weights, unannotated)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()  # type: ignore[no-untyped-call]
        # Averaged before the scaler looks for overflow, so that all processes see the same.
        self.world.average([p.grad for p in self.parameters.values() if p.grad is not None])
        self.scaler.unscale_(self.optimiser)
        # The gradient of the penalty, l2_penalty * sum(kernel^2).
        torch._foreach_add_(
            [k.grad for k in self.kernels], [k.detach() for k in self.kernels], alpha=2 * self.config.l2_penalty
        )
        return {name: term.detach() for name, term in terms.items()}

    def autocast(self) -> torch.autocast:
        """Return the context in which convolutions run in the chosen precision."""
        dtype = _DTYPES[self.precision]
        enabled = self.precision != "f32"
        return torch.autocast(self.device.type, dtype=dtype if enabled else None, enabled=enabled)

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        config = self.config
        if config.schedule == "constant":
            return config.learning_rate
        progress = self.iteration / config.iterations
        warm_up = min(1.0, (self.iteration + 1) / 100)
        return config.learning_rate * warm_up * max(0.01, 0.5 + 0.5 * math.cos(math.pi * progress))

    def save(self, path: Path) -> None:
        """Write the averaged weights to a safetensors file."""
        write_bytes(save(_on_cpu(dict(self.average.named_parameters()))), path)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors of the state on the CPU, by group (network, average, first and second moment) and name."""
        state = self.optimiser.state
        moments = {
            group: {name: state[p][key] for name, p in self.parameters.items() if p in state}
            for group, key in (("first", "exp_avg"), ("second", "exp_avg_sq"))
        }
        weights = {"network": dict(self.parameters), "average": dict(self.average.named_parameters())}
        return {group: _on_cpu(values) for group, values in (weights | moments).items()}

    def numbers(self) -> dict[str, Any]:
        """Return every number of the state, as plain values."""
        steps = [float(state["step"]) for state in self.optimiser.state.values()]
        scaler = self.scaler.state_dict()  # empty unless the precision is float16
        return {
            "iteration": self.iteration,
            "mean_norm": self.mean_norm,
            "loss_scale": [scaler["scale"], scaler["_growth_tracker"]] if scaler else None,
            "adam_steps": max(steps, default=0.0),
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Any]) -> None:
        """Take over the state that `tensors` and `numbers` gave.

        Raises:
            KeyError: If something is missing; ValueError: If a shape differs.
        """
        averages = dict(self.average.named_parameters())
        for name, parameter in self.parameters.items():
            _fill(parameter, tensors["network"][name])
            _fill(averages[name], tensors["average"][name])
            if numbers["adam_steps"] > 0:
                device = parameter.device if self.device.type == "cuda" else torch.device("cpu")
                state = {"step": torch.tensor(numbers["adam_steps"], dtype=torch.float32, device=device)}
                for group, key in (("first", "exp_avg"), ("second", "exp_avg_sq")):
                    # In the parameter's memory layout, as the optimiser itself would have made it.
                    state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    _fill(state[key], tensors[group][name])
                self.optimiser.state[parameter] = state
        self.iteration, self.mean_norm = int(numbers["iteration"]), float(numbers["mean_norm"])
        if self.scaler.is_enabled() and numbers["loss_scale"] is not None:
            scale, good_steps = numbers["loss_scale"]
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": good_steps})

    def _refuse(self, loss: float, norm: float) -> None:
        """Count a step that float16 spoiled and halve the scale; raise NotFiniteError if float16 is not at fault."""
        losses = [values[0] for values in self.world.gather([loss])]
        before = self.scaler.get_scale()
        self.scaler.update()  # halves it after an overflow in float16
        if not all(math.isfinite(one) for one in losses) or not 1 < before > self.scaler.get_scale():
            raise NotFiniteError(losses, norm)
        self.iteration += 1

    @torch.no_grad()
    def _follow(self) -> None:
        # Early on the average follows faster, so that it forgets the initial weights.
        decay = min(self.config.ema_decay, (1 + self.iteration) / (10 + self.iteration))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.parameters.values()), 1 - decay)


def _seed(seed: int, iteration: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, _DROPOUT_STREAM, iteration, rank]).generate_state(1)[0])


def _fill(target: Tensor, source: Tensor) -> None:
    if target.shape != source.shape:
        raise ValueError(f"shape {tuple(source.shape)} instead of {tuple(target.shape)}")
    target.copy_(source)


def _on_cpu(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in values.items()}


def _load_initial(network: nn.Module, path: Path) -> None:
    try:
        weights = load_file(path)
        if isinstance(network, UNet) and "local.output.weight" in weights:
            weights = localiser_weights(weights)
        network.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: names or shapes differ
        raise ReadError(
            f"reading initial weights {path}",
            expected="a safetensors file with this network's weights",
            got=reason(error),
            remedy="Give weights of the same stage and model settings",
        ) from error


def localiser_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a localiser's weights, made from those of the local U-Net of a segmentation network.

    Of the local net's outputs only the background's logit b is kept; the localiser's logits are b / 2 and -b / 2, so
    that its softmax is the sigmoid of b.
    """
    local = {name.removeprefix("local."): value for name, value in weights.items() if name.startswith("local.")}
    for name in ("output.weight", "output.bias"):
        half = local[name][:1] / 2
        local[name] = torch.cat([half, -half])
    return local
