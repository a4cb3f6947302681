"""Which case comes when, and samples prepared ahead by threads.

Both depend on nothing but the seed and the step's number: a training can resume at any step, on any number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Keep the random numbers of sampler and samples apart from those of weights and dropout.
_ORDER_STREAM = 4
_SAMPLE_STREAM = 5


class Sample(NamedTuple):
    """The case's name, its image (1, 1, z, y, x) in [-1, 1] and its labels, uint8 (1, z, y, x)."""

    name: str
    image: Tensor
    labels: Tensor


class CaseSampler:
    """The endless sequence of the cases.

    It consists of rounds of as many samples as there are cases. With equal weights each case comes once a round; with
    others, w times as heavy as the mean, floor(w) or ceil(w) times. Every round has its own order.

    Args:
        names: The cases.
        weights: 0 or more each, not all 0.
        seed: Of the sequence.
    """

    def __init__(self, names: Sequence[str], weights: NDArray[np.float64], seed: int) -> None:
        self.names, self._seed = tuple(names), seed
        self._edges = np.cumsum(weights / weights.sum()) * len(self.names)

    def __getitem__(self, index: int) -> str:
        """The name of the case at `index`, from 0 on."""
        turn, index = divmod(index, len(self.names))
        rng = np.random.default_rng([self._seed, _ORDER_STREAM, turn])
        # Systematic sampling: points one apart along the cases laid out by weight.
        drawn = np.searchsorted(self._edges, rng.uniform() + np.arange(len(self.names)), side="right")
        return self.names[int(rng.permutation(np.minimum(drawn, len(self.names) - 1))[index])]


def sample_generator(seed: int, index: int) -> np.random.Generator:
    """Return the random numbers of the sample at `index` of the sequence."""
    return np.random.default_rng([seed, _SAMPLE_STREAM, index])


def prepared(
    make: Callable[[int], Sample], indices: Sequence[int], *, workers: int, device: torch.device
) -> Generator[Sample]:
    """Yield the samples `make` gives for `indices`, in their order; `workers` threads work ahead of the reader.

    On a GPU each thread queues its work in a stream of its own; the training waits for the sample only.
    """
    if workers == 0:
        for index in indices:
            yield make(index)
        return
    waiting: deque[Future[tuple[Sample, torch.cuda.Event | None]]] = deque()
    with ThreadPoolExecutor(workers, "samples", initializer=_take_own_stream, initargs=(device,)) as pool:
        try:
            for index in indices:
                waiting.append(pool.submit(_made, make, index, device))
                if len(waiting) > workers:
                    yield _taken(*waiting.popleft().result())
            while waiting:
                yield _taken(*waiting.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _take_own_stream(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # of this thread


@torch.no_grad()
def _made(make: Callable[[int], Sample], index: int, device: torch.device) -> tuple[Sample, torch.cuda.Event | None]:
    sample = make(index)
    return sample, torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _taken(sample: Sample, ready: torch.cuda.Event | None) -> Sample:
    if ready is not None:
        stream = torch.cuda.current_stream(sample.image.device)
        stream.wait_event(ready)
        for tensor in (sample.image, sample.labels):
            tensor.record_stream(stream)
    return sample
