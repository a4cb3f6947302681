"""Weights to start a training from, taken from a bundle, also where the new data have other organs.

What fits is kept. A network for other organs keeps the layers of the local U-Net, which know what a CT looks like; its
last layer and the spatial U-Nets, whose channels are organs, are initialised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.core.config import ModelConfig
from viscera.core.files import write_bytes
from viscera.model.bundle import Bundle, Stage

if TYPE_CHECKING:
    from torch import Tensor

# Parts of the segmentation network whose channels stand for organs.
_BY_ORGAN = ("local.output.", "spatial.")


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Weights to start from.

    Attributes:
        file: safetensors, every weight of the network.
        kept: Names of the weights taken from the bundle.
        fresh: Names of those initialised at random.
    """

    file: Path
    kept: tuple[str, ...]
    fresh: tuple[str, ...]

    def summary(self) -> str:
        """Return one sentence that says what was kept and which parts of the network are initialised."""
        count = len(self.kept) + len(self.fresh)
        if not self.fresh:
            return f"all {count} weights are the bundle's"
        parts = ", ".join(_parts(self.fresh, self.kept))
        return f"{len(self.kept)} of {count} weights are the bundle's; initialised: {parts}"


def fitted_model(bundle: Bundle, organs: Sequence[str]) -> ModelConfig:
    """Return the bundle's settings with one label for each of `organs`."""
    model = bundle.card.model
    return replace(model, scn=replace(model.scn, labels=len(organs) + 1))


def write_initial_weights(
    bundle: Bundle, stage: Stage, model: ModelConfig, organs: Sequence[str], file: Path, *, seed: int = 0
) -> InitialWeights:
    """Write weights of the `stage` network of `model` for `organs` to `file`, the bundle's where they fit.

    Kept is what has the same name and shape. For segmentation with other organs than the bundle's, or in another
    order, the local U-Net's last layer and all spatial U-Nets are initialised even where their shapes fit. That is done
    as for a training from the start, by `seed`; torch's own random numbers are left as they were.

    Raises:
        BundleError: If the bundle's weights cannot be read.
        WriteError: If `file` cannot be written.
    """
    import torch
    from safetensors.torch import save

    from viscera.engines.torch_engine import read_weights
    from viscera.model.networks import SpatialConfigurationNet, UNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(model.localiser) if stage == "localise" else SpatialConfigurationNet(model.scn)
    weights: dict[str, Tensor] = dict(network.state_dict())
    own = read_weights(bundle.weights(stage))
    same = stage == "localise" or list(organs) == [organ.name for organ in bundle.card.organs]
    kept = tuple(
        name
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape and (same or not name.startswith(_BY_ORGAN))
    )
    weights |= {name: own[name] for name in kept}
    write_bytes(save({name: value.contiguous() for name, value in weights.items()}), file)
    return InitialWeights(file=file, kept=kept, fresh=tuple(name for name in weights if name not in kept))


def _parts(fresh: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Return the largest parts of the network's tree, by name, that hold no kept weight, in order."""
    parts: dict[str, None] = {}
    for name in fresh:
        steps = name.split(".")
        heads = [".".join(steps[:length]) for length in range(1, len(steps) + 1)]
        parts[next(head for head in heads if not any(_is_below(other, head) for other in kept))] = None
    return list(parts)


def _is_below(name: str, head: str) -> bool:
    return name == head or name.startswith(f"{head}.")
