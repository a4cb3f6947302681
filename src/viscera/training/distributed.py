"""Data-parallel training under `torchrun`: every process trains on its own case and all take the mean gradient.

The gradients are 5 MB at the published sizes, so they travel as one tensor after the backward pass; nothing wraps the
network. Without `torchrun` there is a single process and nothing is exchanged.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from viscera.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of one training.

    Attributes:
        rank: Of this process; 0 writes all files.
        size: Number of processes.
        device: Of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs of this machine that the training uses, as torch names them; other machines' are not among them."""
        if self.device.type != "cuda":
            return ()
        if self.size == 1:
            return (str(self.device),)
        return tuple(f"cuda:{index}" for index in range(min(self.size, torch.cuda.device_count())))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors, of one dtype, by their means over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])  # type: ignore[no-untyped-call]
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Return the `values` of every process, by rank; all must give equally many."""
        if self.size == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        result = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(result, own)
        return [one.tolist() for one in result]

    def highest(self, value: int) -> int:
        """Return the largest `value` any process gave."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Enter the world of this process: that of `torchrun` or of a process group already there, else itself alone.

    Args:
        device: auto, cpu or cuda; on GPUs each process of a machine takes its own.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    chosen = _chosen(device)
    begun = False
    if not dist.is_initialized() and dist.is_torchelastic_launched():
        # Loaded later, as by an optimiser, it would keep the group for the defaults of its functions; the threads of
        # the group would outlive it, and end the process with an abort if they are at work when Python ends.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if chosen == "cuda" else "gloo")
        begun = True
    if not dist.is_initialized():
        # With its number, as the threads that prepare samples must choose it for themselves.
        number = torch.cuda.current_device() if chosen == "cuda" else None
        yield World(device=torch.device(chosen, number) if number is not None else torch.device(chosen))
        return
    own = torch.device(chosen)
    if chosen == "cuda":
        own = torch.device("cuda", dist.get_node_local_rank(0) % torch.cuda.device_count())
        torch.cuda.set_device(own)
    try:
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=own)
    finally:
        if begun:
            dist.destroy_process_group()


def _chosen(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("choosing a device", expected="a GPU", got="none", remedy="Use --device cpu")
    if device not in ("cpu", "cuda"):
        raise ConfigError("choosing a device", expected="auto, cpu or cuda", got=device, remedy="Correct the value")
    return device
