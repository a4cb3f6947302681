"""What runs the networks of a bundle: OpenVINO on the CPU (the default) or torch on a CUDA GPU, behind one protocol."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from viscera.bundle import Bundle, Stage
from viscera.complexity import require_size
from viscera.config import ModelConfig
from viscera.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "f32", "bf16")

# One of these exists where an NVIDIA driver is loaded: Linux, then Linux within Windows.
_GPU_MARKS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_GPU_MARK_WINDOWS = Path("C:/Windows/System32/nvcuda.dll")


class Answer(NamedTuple):
    """What a stage's network answers to an image (b, 1, z, y, x), float32.

    Attributes:
        output: Stage "localise" gives logits (b, 2, z, y, x), "segment" probabilities (b, labels, z, y, x) that sum
            to 1.
        disagreement: Of the segmentation's local and spatial nets (`networks.disagreement`), in [0, 1],
            (b, labels, z/f, y/f, x/f) for a spatial factor f; None for the localisation, and where the bundle's graph
            is from before it was there.
    """

    output: NDArray[np.float32]
    disagreement: NDArray[np.float32] | None = None


class Engine(Protocol):
    """Runs both stages' networks. `prepare` and `run` may be called from any thread; one `run` at a time."""

    @property
    def name(self) -> str:
        """What computes: "openvino", "torch-cuda" or "torch-cpu"."""

    @property
    def precision(self) -> str:
        """The precision of the convolutions, "f32" or "bf16"."""

    def prepare(self) -> None:
        """Starts loading libraries and networks in the background; optional, errors appear in the first `run`."""

    def announce(self, stage: Stage, shape: tuple[int, ...], *, beside: int = 0) -> None:
        """Starts compiling the stage's network for images of `shape` (b, 1, z, y, x) in the background; optional.

        Args:
            stage: The network.
            shape: Of the image it will be run on.
            beside: Bytes that will be in use then beside those in use now.

        Raises:
            MemoryBudgetError: If the network cannot run on it within the memory limit.
        """

    def run(self, stage: Stage, image: NDArray[np.float32]) -> Answer:
        """The network's answer to `image` (b, 1, z, y, x) in [-1, 1].

        Raises:
            ConfigError: For an image of another kind, or a side the network cannot halve often enough.
            MemoryBudgetError: If the network cannot run within the memory limit, or the device has too little.
        """


def make_engine(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    memory_limit: int | None = None,
    cache: Path | None = None,
) -> Engine:
    """The engine that runs the networks of `bundle`.

    Args:
        bundle: The verified bundle.
        device: "cpu" is OpenVINO, "cuda" is torch on the GPU, "auto" is the GPU if torch is installed and finds one.
            Where nothing hints at an NVIDIA driver, "auto" does not import torch, which takes seconds.
        precision: "f32", "bf16", or "auto": bf16 where the device computes in it, else f32.
        threads: Of the CPU; None leaves the number to the library.
        memory_limit: Bytes: on the CPU of the whole process, on the GPU of the networks' tensors there. Networks that
            would need more are computed in windows, with the same answer. None is no limit.
        cache: Folder where the CPU engine keeps compiled networks; it may be deleted at any time. None keeps none.

    Raises:
        ConfigError: For an unknown word, a GPU that is not there, or bf16 on a device without it.
        MissingExtraError: For "cuda" without torch or safetensors installed.
    """
    _require_one_of("device", device, DEVICES)
    _require_one_of("precision", precision, PRECISIONS)
    for name, number in (("threads", threads), ("a memory limit", memory_limit)):
        if number is not None and number < 1:
            raise ConfigError(f"choosing {name}", expected="at least 1", got=str(number), remedy="Correct the number")
    if device == "auto":
        device = "cuda" if gpu_may_exist() and _torch_finds_a_gpu() else "cpu"
    if device == "cuda":
        from viscera.engines.torch_engine import TorchEngine

        return TorchEngine(bundle, device="cuda", precision=precision, threads=threads, memory_limit=memory_limit)
    from viscera.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(bundle, precision=precision, threads=threads, memory_limit=memory_limit, cache=cache)


def gpu_may_exist() -> bool:
    """Whether torch is installed and the machine has a trace of an NVIDIA driver, found out without importing torch."""
    packages = all(importlib.util.find_spec(name) is not None for name in ("torch", "safetensors"))
    return packages and (any(mark.exists() for mark in _GPU_MARKS) or _GPU_MARK_WINDOWS.exists())


def require_image(model: ModelConfig, stage: Stage, image: NDArray[np.float32]) -> None:
    """Raises ConfigError unless `image` is float32 (b, 1, z, y, x) with sides that the stage's network can halve."""
    if stage not in get_args(Stage):
        raise ConfigError("running a network", expected=" or ".join(get_args(Stage)), got=stage, remedy="Correct it")
    if image.dtype != np.float32 or image.ndim != 5 or image.shape[0] < 1 or image.shape[1] != 1:
        raise ConfigError(
            f"running the network of stage {stage}",
            expected="a float32 image (b, 1, z, y, x)",
            got=f"{image.dtype} of shape {image.shape}",
            remedy="Add the batch and channel axes, convert to float32",
        )
    network = model.localiser if stage == "localise" else model.scn
    require_size(image.shape[2:], network.size_multiple_vox)


def _torch_finds_a_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _require_one_of(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ConfigError(f"choosing the {name}", expected=" or ".join(words), got=repr(value), remedy="Correct it")
