"""The networks with torch, on a CUDA GPU or the CPU, read from the bundle's safetensors weights."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viscera.core.config import ModelConfig
from viscera.core.errors import BundleError, ConfigError, MemoryBudgetError, MissingExtraError, VisceraError
from viscera.core.memory import require_memory
from viscera.engines.engine import NetworkOutput, require_image
from viscera.engines.forks import require_process
from viscera.model.bundle import STAGES, Bundle, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from viscera.model.networks import SpatialConfigurationNet, UNet

    Network = UNet | SpatialConfigurationNet

Shape = tuple[int, ...]


class TorchEngine:
    """torch in inference mode; bf16 is torch's autocast, f32 is kept free of TF32.

    A process forked from the one that made it cannot use it: neither CUDA nor the threads of OpenMP outlive a fork. A
    copy that pickle makes is as good as a new one.

    Args:
        bundle: The verified bundle.
        device: "cuda" or "cpu".
        precision: "f32", "bf16" or "auto", which is bf16 on a GPU that computes in it and f32 on the CPU.
        threads: Of the CPU, for the whole process; None leaves torch's setting.
        memory_limit: Bytes the networks' tensors may take on the device; None is no limit.

    Raises:
        MissingExtraError: If torch or safetensors is not installed.
        ConfigError: If there is no CUDA GPU, or bf16 is asked of one without it.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cuda",
        precision: str = "auto",
        threads: int | None = None,
        memory_limit: int | None = None,
    ) -> None:
        torch = import_torch()
        self.name = f"torch-{device}"
        self._bundle = bundle
        self._memory_limit = memory_limit
        self._device = torch.device(device)
        self._process = os.getpid()
        self._make_again = partial(
            TorchEngine, bundle, device=device, precision=precision, threads=threads, memory_limit=memory_limit
        )
        self._loading = threading.Lock()
        self._running = threading.Lock()
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "choosing the device cuda",
                expected="an NVIDIA GPU and a torch built for it",
                got=f"torch {torch.__version__} without a usable GPU",
                remedy="Use the device cpu, or install a driver and a torch build with CUDA",
            )
        # Emulated bf16 would be slower than f32.
        has_bf16 = device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not has_bf16:
            name = torch.cuda.get_device_name()
            raise ConfigError("choosing the precision bf16", expected="a GPU with it", got=name, remedy="Use f32")
        self.precision = ("bf16" if has_bf16 and device == "cuda" else "f32") if precision == "auto" else precision
        if threads is not None:
            torch.set_num_threads(threads)

    def __reduce__(self) -> tuple[Callable[[], TorchEngine], tuple[()]]:
        """How to make it again in another process: locks and what lies on a GPU cannot be taken there."""
        return self._make_again, ()

    def prepare(self) -> None:
        """Start reading both networks in the background; errors appear in the first `run`."""
        threading.Thread(target=self._prepare, name="viscera-prepare").start()

    def compile_ahead(self, stage: Stage, shape: tuple[int, ...], *, extra_bytes: int = 0) -> None:
        """Raise MemoryBudgetError for what cannot fit; nothing is compiled, and `extra_bytes` lie on the host."""
        require_process(self._process, has="has loaded torch")
        self._planes(stage, shape)

    def run(self, stage: Stage, image: NDArray[np.float32]) -> NetworkOutput:
        """The network's output for `image`; see `Engine.run`."""
        import torch

        require_process(self._process, has="has loaded torch")
        require_image(self._bundle.card.model, stage, image)
        planes = self._planes(stage, image.shape)
        with self._running:
            try:
                return self._infer(stage, torch.from_numpy(np.ascontiguousarray(image)), planes)
            except torch.OutOfMemoryError as error:
                raise MemoryBudgetError(
                    f"running the network of stage {stage} on {image.shape}",
                    expected="enough free GPU memory",
                    got=str(error),
                    remedy="Close other programs on the GPU, lower --memory-limit, or use the device cpu",
                ) from error

    def _planes(self, stage: Stage, shape: tuple[int, ...]) -> int | None:
        """How many planes of the image may flow through the network at once for the limit; None for all of it."""
        from viscera.engines.torch_tiled import fitting_planes, least_bytes, whole_bytes

        model, itemsize = self._bundle.card.model, 2 if self.precision == "bf16" else 4
        unet = model.localiser if stage == "localise" else model.scn.local
        if self._memory_limit is None or whole_bytes(unet, shape, itemsize) <= self._memory_limit:
            return None
        doing = f"running the {stage} network on an image of {shape[2:]} voxels (z, y, x)"
        require_memory(doing, least_bytes(unet, shape, itemsize), self._memory_limit)
        return fitting_planes(unet, shape, self._memory_limit, itemsize)

    def _infer(self, stage: Stage, image: Tensor, planes: int | None) -> NetworkOutput:
        import torch

        from viscera.engines.torch_tiled import streamed_output

        network = self._networks[stage]
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), autocast, exact:
            on_device = image.to(self._device)
            if planes is not None:
                return NetworkOutput(*(_array(values) for values in streamed_output(network, on_device, planes)))
            output = network(on_device)
            return NetworkOutput(*(_array(values) for values in as_outputs(stage, output, self._bundle.card.model)))

    def _prepare(self) -> None:
        try:
            _ = self._networks
        except VisceraError:
            return  # the first `run` meets it again, where it can be reported

    @property
    def _networks(self) -> dict[Stage, Network]:
        with self._loading:
            return self._read_networks

    @cached_property
    def _read_networks(self) -> dict[Stage, Network]:
        model = self._bundle.card.model
        return {stage: load_network(stage, model, self._bundle.weights(stage)).to(self._device) for stage in STAGES}


def as_outputs(stage: Stage, output: Any, model: ModelConfig) -> tuple[Tensor, ...]:
    """What `Engine.run` gives of a stage's network's `output`: logits, or probabilities and disagreement."""
    from viscera.model.networks import disagreement

    if stage == "localise":
        return (output,)
    return output.probabilities, disagreement(output, model.scn.spatial_factor)


def _array(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array


def load_network(stage: Stage, model: ModelConfig, weights: Path) -> Network:
    """A stage's network in evaluation mode on the CPU, with its weights from a safetensors file.

    "localise" gives a `UNet`, "segment" a `SpatialConfigurationNet`.

    Raises:
        BundleError: If the file is no safetensors file or does not hold exactly the network's weights.
        MissingExtraError: If torch or safetensors is not installed.
    """
    import_torch()
    from viscera.model.networks import SpatialConfigurationNet, UNet

    network: Network = UNet(model.localiser) if stage == "localise" else SpatialConfigurationNet(model.scn)
    tensors = read_weights(weights)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if different := sorted({name for name, _ in expected.items() ^ found.items()}):
        raise BundleError(
            f"loading the weights {weights}",
            expected=f"the weights of the network of stage {stage}",
            got=_differences(different, expected, found),
            remedy="Use the weights and the settings of one and the same training",
        )
    network.load_state_dict(tensors)
    return network.eval()


def _differences(names: Sequence[str], expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> str:
    """How the first few of `names` differ, and how many there are."""
    lines = []
    for name in names[:3]:
        if name not in found:
            lines.append(f"no {name}")
        elif name not in expected:
            lines.append(f"{name}, which the settings do not have")
        else:
            lines.append(f"{name} of shape {found[name]} where the settings have {expected[name]}")
    return "; ".join([*lines, *([f"{len(names)} differences in all"] if len(names) > 3 else [])])


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, as float32 on the CPU.

    Raises:
        BundleError: If the file cannot be read as safetensors.
        MissingExtraError: If torch or safetensors is not installed.
    """
    import_torch()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"loading the weights {path}",
            expected="a safetensors file",
            got=str(error),
            remedy="Pass the weights as written by the training",
        ) from error


def import_torch() -> Any:
    """The module `torch`, after `safetensors`; raises MissingExtraError if one is not installed."""
    try:
        import safetensors  # noqa: F401
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "loading torch",
            expected="the packages torch and safetensors",
            got=str(error),
            remedy="Run: pip install 'viscera[gpu]' to compute on a GPU, 'viscera[train]' to train",
        ) from error
    return torch
