"""Which engine runs the networks of a bundle: OpenVINO on the CPU (the default) or torch on a CUDA GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from viscera.core.errors import ConfigError
from viscera.engines.engine import Engine
from viscera.model.bundle import Bundle

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "f32", "bf16")

# One of these exists where an NVIDIA driver is loaded: Linux, then Linux within Windows.
_GPU_MARKS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_GPU_MARK_WINDOWS = Path("C:/Windows/System32/nvcuda.dll")


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
            would need more are computed in slabs, with the same output. None is no limit.
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
    return torch_is_installed() and driver_is_loaded()


def torch_is_installed() -> bool:
    """Whether what the torch engine needs is installed, found out without importing it."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "safetensors"))


def driver_is_loaded() -> bool:
    """Whether the machine has a trace of an NVIDIA driver."""
    return any(mark.exists() for mark in _GPU_MARKS) or _GPU_MARK_WINDOWS.exists()


def _torch_finds_a_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _require_one_of(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ConfigError(f"choosing the {name}", expected=" or ".join(words), got=repr(value), remedy="Correct it")
