"""The samples of a training: everything kept in memory once it was read, drawn by threads or by other processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from viscera.model.bundle import Stage
from viscera.synthesis.anatomy import Anatomy
from viscera.training.cache import MANIFEST, Cache, TrainingCase
from viscera.training.config import TrainConfig
from viscera.training.data_sources import Device, SyntheticData
from viscera.training.patches import Patch
from viscera.training.synthetic_patches import synthetic_sample


class KeptCache(Cache):
    """A cache whose arrays are read once."""

    def load(self, name: str, stage: Stage) -> TrainingCase:
        """The arrays of one case; they must not be written to."""
        kept: dict[tuple[str, str], TrainingCase] = self.__dict__.setdefault("kept", {})
        if (name, stage) not in kept:
            kept[name, stage] = super().load(name, stage)
        return kept[name, stage]


@dataclass(frozen=True, kw_only=True)
class KeptData(SyntheticData):
    """Anatomies that are read once, and other processes, if there are any, that draw the samples.

    Attributes:
        pool: Of processes that draw samples on the CPU; None draws them where the training runs.
        anatomies: Those read so far.
    """

    pool: ProcessPoolExecutor | None = None
    anatomies: dict[str, Anatomy] = field(default_factory=dict)

    @classmethod
    def of(cls, work: Path, pool: ProcessPoolExecutor | None = None) -> Self:
        """What was unpacked to `work`."""
        folders = (work / "real", work / "validation")
        real, validation = (KeptCache.open(one) if (one / MANIFEST).is_file() else None for one in folders)
        opened = SyntheticData.open(work / "anatomies", validation, real=real)
        return cls(files=opened.files, real=opened.real, validation=opened.validation, pool=pool)

    def sample(self, name: str, stage: Stage, config: TrainConfig, rng: np.random.Generator, device: Device) -> Patch:
        """As `SyntheticData.sample`."""
        if self.pool is not None:
            image, labels = self.pool.submit(_drawn, name, stage, config, rng).result()
            return torch.from_numpy(image).to(device), torch.from_numpy(labels).to(device)
        if name not in self.files:
            return super().sample(name, stage, config, rng, device)
        if name not in self.anatomies:
            self.anatomies[name] = Anatomy.load(self.files[name])
        return synthetic_sample(self.anatomies[name], stage, config, rng, device)


@contextmanager
def opened_data(work: Path, processes: int) -> Iterator[KeptData]:
    """What was unpacked to `work`, with so many processes that draw samples; 0 for none."""
    if processes == 0:
        yield KeptData.of(work)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin, initargs=(work,)) as pool:
        yield KeptData.of(work, pool)


# The data of a process that draws samples for another one, which it opens once.
_own: list[KeptData] = []


def _begin(work: Path) -> None:
    torch.set_num_threads(1)
    _own.append(KeptData.of(work))


def _drawn(name: str, stage: Stage, config: TrainConfig, rng: np.random.Generator) -> tuple[Any, Any]:
    with torch.no_grad():
        image, labels = _own[0].sample(name, stage, config, rng, "cpu")
    return image.numpy(), labels.numpy()
