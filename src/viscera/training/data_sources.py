"""Where samples come from: cases prepared from labelled CTs, or scans drawn from anatomies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from viscera.core.errors import ConfigError, ReadError, reason
from viscera.core.organs import LABEL_COUNT, ORGANS
from viscera.model.bundle import Stage
from viscera.synthesis.anatomy import ANATOMIES, Anatomy, stored_organs
from viscera.training.cache import Cache
from viscera.training.config import TrainConfig, without_augmentation
from viscera.training.patches import Patch, require_sampling, sampling_weights, training_sample
from viscera.training.real_samples import real_sample
from viscera.training.synthetic_patches import synthetic_sample

Device = torch.device | str


class TrainingData(Protocol):
    """Named cases that give samples of both stages."""

    @property
    def names(self) -> tuple[str, ...]:
        """All cases, those to train on and those held out."""

    @property
    def organs(self) -> tuple[str, ...]:
        """The names of the labels 1, 2, ..."""

    def require(self, config: TrainConfig) -> None:
        """Raise ConfigError if the data cannot serve to train with these settings."""

    def shows(self, name: str, stage: Stage) -> bool:
        """Return whether a case can be used for a stage: for segmentation it must show organs."""

    def weights(self, names: Sequence[str], config: TrainConfig) -> NDArray[np.float64]:
        """Return how often each of `names` is drawn, in any unit."""

    def unannotated(self, name: str) -> tuple[int, ...]:
        """Return the labels of the organs that a case does not annotate."""

    def sample(self, name: str, stage: Stage, config: TrainConfig, rng: np.random.Generator, device: Device) -> Patch:
        """Return a sample of the case to train on."""

    def held_out(self, name: str, stage: Stage, config: TrainConfig, device: Device) -> Patch:
        """Return the case as inference sees it, to validate on."""


@dataclass(frozen=True)
class PreparedData:
    """The cases of a cache; see `viscera.training.patches`."""

    cache: Cache

    @property
    def names(self) -> tuple[str, ...]:
        """The cases of the cache."""
        return self.cache.names

    @property
    def organs(self) -> tuple[str, ...]:
        """The organs the cache was prepared for."""
        return self.cache.manifest.settings.organs

    def require(self, config: TrainConfig) -> None:
        """Raise ConfigError if the cache was prepared for another sampling."""
        require_sampling(self.cache.manifest.settings, config.model)

    def shows(self, name: str, stage: Stage) -> bool:
        """Return whether arrays of the stage are stored."""
        return self.cache.entry(name).stored(stage) is not None

    def weights(self, names: Sequence[str], config: TrainConfig) -> NDArray[np.float64]:
        """Return the weights by the cases' lesions."""
        weights = dict(zip(self.cache.names, sampling_weights(self.cache, config), strict=True))
        return np.array([weights[name] for name in names])

    def unannotated(self, name: str) -> tuple[int, ...]:
        """Return the labels of the organs that a case does not annotate."""
        return self.cache.unannotated(name)

    def sample(self, name: str, stage: Stage, config: TrainConfig, rng: np.random.Generator, device: Device) -> Patch:
        """Return the case, augmented."""
        return training_sample(self.cache.load(name, stage), stage, config, rng, device)

    def held_out(self, name: str, stage: Stage, config: TrainConfig, device: Device) -> Patch:
        """Return the case without augmentation."""
        return self.sample(name, stage, without_augmentation(config), np.random.default_rng(0), device)


@dataclass(frozen=True, kw_only=True)
class SyntheticData:
    """New scans drawn from anatomies at every step, real cases mixed in, and others to validate on.

    Attributes:
        files: The file of each anatomy, by name.
        real: Prepared cases to train on as well, or None.
        validation: Cases held out, or None.
    """

    files: Mapping[str, Path]
    real: PreparedData | None = None
    validation: PreparedData | None = None

    @classmethod
    def open(cls, folder: Path, validation: Cache | None = None, *, real: Cache | None = None) -> Self:
        """Return the anatomies that `viscera anatomies` wrote to `folder`.

        Raises:
            ReadError: If there are none, or one is missing.
            ConfigError: If the organs of the prepared cases are others than the anatomies', or a name occurs twice.
        """
        doing, remedy = f"reading the anatomies in {folder}", "Make them with viscera anatomies"
        try:
            names = json.loads((folder / ANATOMIES).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReadError(doing, expected=f"the list {ANATOMIES}", got=reason(error), remedy=remedy) from error
        if not isinstance(names, list) or not names:
            raise ReadError(doing, expected=f"names in {ANATOMIES}", got=str(names), remedy=remedy)
        files = {str(name): folder / f"{name}.safetensors" for name in names}
        if lost := [name for name, file in files.items() if not file.is_file()]:
            raise ReadError(doing, expected="every listed file", got=f"no {lost[0]}", remedy=remedy)
        prepared = [None if cache is None else PreparedData(cache) for cache in (real, validation)]
        for data in prepared:
            if data is not None and data.organs != tuple(organ.name for organ in ORGANS):
                raise ConfigError(
                    doing,
                    expected="prepared cases with the same organs",
                    got=str(data.organs),
                    remedy="Prepare others",
                )
        opened = cls(files=files, real=prepared[0], validation=prepared[1])
        if twice := sorted({name for name in opened.names if opened.names.count(name) > 1}):
            raise ConfigError(
                doing,
                expected="anatomies, real and validation cases with names of their own",
                got=f"{', '.join(twice)} twice",
                remedy="Leave a case out of training or of validation",
            )
        return opened

    @property
    def names(self) -> tuple[str, ...]:
        """The anatomies, then the real cases, then the cases held out."""
        prepared = [data.names for data in (self.real, self.validation) if data is not None]
        return (*self.files, *(name for names in prepared for name in names))

    @property
    def organs(self) -> tuple[str, ...]:
        """Those of the method."""
        return tuple(organ.name for organ in ORGANS)

    def require(self, config: TrainConfig) -> None:
        """Raise ConfigError if the network has other labels, or the cases held out were prepared otherwise."""
        if config.model.scn.labels != LABEL_COUNT:
            raise ConfigError(
                "training on anatomies",
                expected=f"{LABEL_COUNT} labels, the method's organs and the background",
                got=f"model.scn.labels = {config.model.scn.labels}",
                remedy="Correct the setting",
            )
        for data in (self.real, self.validation):
            if data is not None:
                data.require(config)

    def shows(self, name: str, stage: Stage) -> bool:
        """Return whether the anatomy has organs, or the case held out is stored for the stage.

        Raises:
            ConfigError: If there is neither.
        """
        for data in (self.real, self.validation):
            if data is not None and name in data.names:
                return data.shows(name, stage)
        if name not in self.files:
            raise ConfigError(
                "choosing anatomies", expected=f"one of {len(self.files)} names", got=name, remedy="Correct the name"
            )
        return stage == "localise" or bool(stored_organs(self.files[name]))

    def weights(self, names: Sequence[str], config: TrainConfig) -> NDArray[np.float64]:
        """Return equal weights for all anatomies and for all real cases, which together have their share."""
        real = np.array([name not in self.files for name in names])
        if real.all() or not real.any():
            return np.ones(len(names))
        weights: NDArray[np.float64] = np.where(
            real, config.real.share / real.sum(), (1 - config.real.share) / (~real).sum()
        )
        return weights

    def unannotated(self, name: str) -> tuple[int, ...]:
        """Return the labels that a real case does not annotate; anatomies show every organ."""
        for data in (self.real, self.validation):
            if data is not None and name in data.names:
                return data.unannotated(name)
        return ()

    def sample(self, name: str, stage: Stage, config: TrainConfig, rng: np.random.Generator, device: Device) -> Patch:
        """Return a new scan of a virtual patient with this anatomy, or a real case, augmented."""
        if name not in self.files and self.real is not None:
            return real_sample(self.real.cache.load(name, stage), stage, config, rng, device)
        return synthetic_sample(Anatomy.load(self.files[name]), stage, config, rng, device)

    def held_out(self, name: str, stage: Stage, config: TrainConfig, device: Device) -> Patch:
        """Return a real case without augmentation."""
        if self.validation is None:
            raise ConfigError(
                f"validating on {name}",
                expected="prepared cases held out",
                got="anatomies alone",
                remedy="Open the anatomies with a cache of cases to validate on",
            )
        return self.validation.held_out(name, stage, config, device)
