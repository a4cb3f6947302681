"""Tensors that say they lie on a GPU, for machines without one: device mistakes show, results are the CPU's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
# What torch does with tensors of two devices; everything else is refused.
_MIXES = {"copy_", "__getitem__", "__setitem__", "index_put_", "__deepcopy__"}
_cpu_generator = torch.Generator


class _OnGpu(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        tensors = list(_tensors((args, kwargs)))
        on_gpu = [_is_on_gpu(tensor) for tensor in tensors]
        if func == torch.Tensor.device.__get__:
            return GPU if on_gpu[0] else func(*args)
        if name in ("to", "cpu") and tensors:
            return _moved(func, args, kwargs, name)
        if name in ("numpy", "__array__") and on_gpu[0]:
            raise TypeError("an array of a tensor on the GPU")
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = "cpu"
        beside = [tuple(one.shape) for one, is_on in zip(tensors, on_gpu, strict=True) if not is_on and one.dim() > 0]
        if any(on_gpu) and beside and (name not in _MIXES or (name.startswith("__get") and not on_gpu[0])):
            raise RuntimeError(f"{name}: a CPU tensor {beside[0]} beside one on the GPU")
        result = func(*args, **kwargs)
        if any(on_gpu) if asked is None else torch.device(asked).type == "cuda":
            place(result)
        return result


@contextmanager
def gpu_stand_in() -> Iterator[None]:
    """While active, `cuda` is a device that computes on the CPU and refuses what torch refuses on a GPU."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # modules that are loaded late must find the true generator
    to_device = torch.nn.Module.to

    def moved(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        if args and isinstance(args[0], torch.device) and args[0].type == "cuda":
            place([*module.parameters(), *module.buffers()])
            args = args[1:]
        return to_device(module, *args, **kwargs) if args or kwargs else module

    torch.Generator, torch.nn.Module.to = (lambda *_: _cpu_generator()), moved  # type: ignore[assignment,misc]
    try:
        with _OnGpu():
            yield
    finally:
        torch.Generator, torch.nn.Module.to = _cpu_generator, to_device  # type: ignore[misc]


def place(values: Any) -> None:
    """Put tensors on the GPU."""
    for tensor in _tensors(values):
        tensor._on_gpu = True


def _is_on_gpu(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "_on_gpu", False)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _moved(func: Any, args: Any, kwargs: Any, name: str) -> Any:
    """The result of `tensor.to` or `tensor.cpu`, a new tensor if the device changes."""
    tensor = args[0]
    devices = [value for value in (*args[1:], kwargs.get("device")) if isinstance(value, (str, torch.device))]
    target = torch.device(devices[0]) if devices else None
    if name == "cpu":
        target = torch.device("cpu")
    args = [torch.device("cpu") if isinstance(value, (str, torch.device)) else value for value in args]
    result = func(*args, **({**kwargs, "device": "cpu"} if "device" in kwargs else kwargs))
    wanted = _is_on_gpu(tensor) if target is None else target.type == "cuda"
    if wanted != _is_on_gpu(tensor) and result is tensor:
        result = result.clone()
    result._on_gpu = wanted
    return result
