"""Every setting of training as frozen records, and how they are read from a TOML file; needs no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from viscera.core.config import ModelConfig, current_model_names, from_dict
from viscera.core.errors import ConfigError, ReadError, reason
from viscera.synthesis.config import SynthesisConfig
from viscera.training.energy import EnergyConfig

Precision = Literal["auto", "f32", "bf16", "f16"]

# Of settings in TOML files, in the folders of runs and in checkpoints.
_EARLIER_NAMES = {"lambdas": "loss_weights", "l2": "l2_penalty"}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges, all uniform around no change (paper, section 3; authors' release).

    Attributes:
        translation_mm: Per axis, to both sides.
        rotation_rad: About each axis, to both sides.
        scale: Isotropic factor 1 +- this.
        axis_scale: Further factor per axis 1 +- this.
        elastic_mm: Displacement of each of 8x8x8 B-spline nodes per axis, to both sides.
        shift: Added to intensities (HU / 2048), to both sides.
        gain: Intensities are multiplied by 1 +- this.
        gamma: For localisation, intensities are raised to the power 1 +- this, after mapping [-1, 1] to [0, 1].
    """

    translation_mm: float = 20.0
    rotation_rad: float = 0.35
    scale: float = 0.2
    axis_scale: float = 0.1
    elastic_mm: float = 15.0
    shift: float = 0.2
    gain: float = 0.2
    gamma: float = 0.2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            # At 1 a scale or a power could come out as 0.
            if value < 0 or (name in ("scale", "axis_scale", "gamma") and value >= 1):
                raise ConfigError(
                    f"setting AugmentConfig.{name}",
                    expected="0 or more, and for scales and powers less than 1",
                    got=str(value),
                    remedy="Correct the value",
                )


IDENTITY = AugmentConfig(
    translation_mm=0, rotation_rad=0, scale=0, axis_scale=0, elastic_mm=0, shift=0, gain=0, gamma=0
)


@dataclass(frozen=True, kw_only=True)
class RealConfig:
    """How prepared real CTs are mixed with synthetic ones.

    Attributes:
        share: Of the samples that show a real CT.
        augment: Ranges of their augmentation. Stronger in intensity than the synthetic ones need, as few CTs must
            stand for many.
        noise_hu: Range of the standard deviation of the noise added.
        blur_vox: Range of the sigma of the Gaussian that smooths them, in voxels of the network's grid.
        slab_probability: How often all but a slab is cut off.
        slab_mm: Range of its height.
    """

    share: float = 0.3
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(
            rotation_rad=0.2, scale=0.15, elastic_mm=10.0, shift=0.015, gain=0.1, gamma=0.1
        )
    )
    noise_hu: tuple[float, float] = (0.0, 20.0)
    blur_vox: tuple[float, float] = (0.0, 0.6)
    slab_probability: float = 0.2
    slab_mm: tuple[float, float] = (60.0, 200.0)

    def __post_init__(self) -> None:
        checks = {
            "share": 0 <= self.share < 1,
            "noise_hu": 0 <= self.noise_hu[0] <= self.noise_hu[1],
            "blur_vox": 0 <= self.blur_vox[0] <= self.blur_vox[1],
            "slab_probability": 0 <= self.slab_probability <= 1,
            "slab_mm": 0 < self.slab_mm[0] <= self.slab_mm[1],
        }
        for name, holds in checks.items():
            if not holds:
                raise ConfigError(
                    f"setting RealConfig.{name}",
                    expected="a value in its range",
                    got=repr(getattr(self, name)),
                    remedy="Correct the value",
                )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained; the defaults are the paper's (section 3), else the authors' release.

    The batch is one case per process.

    Attributes:
        model: Sampling and networks.
        augment: Ranges of the augmentation.
        synthesis: Ranges of synthetic scans, for training on anatomies.
        real: How real CTs are mixed with these.
        energy: What turns work into energy and energy into CO2-equivalent for the run's card.
        iterations: Steps.
        learning_rate: Adam's.
        schedule: The rate stays, or falls along half a cosine to a hundredth after 100 steps of warm-up.
        loss_weights: Of the cross-entropies of the local and the spatial logits (lambda 1 and 2 of the paper).
        localise_cross_entropy: Weight of an added cross-entropy in localisation. The generalised Dice loss has next to
            no gradient on scans without organs, so without this nothing is learnt from them; 0 as published.
        l2_penalty: Weight of the squared 3x3x3 kernels in the loss.
        clip_factor, clip_start, clip_alpha: The gradient's norm is cut at this factor times its running mean, which
            starts at `clip_start` and follows with weight `clip_alpha`.
        ema_decay: Of the moving average of the weights, which are the ones used.
        label_sigma_vox: Gaussian over the one-hot labels of the region of interest before the argmax, in its voxels.
        precision: Of the convolutions: float32, bfloat16, or float16 with loss scaling; auto is bfloat16 where the
            device has it, else float16 on a GPU and float32 on a CPU. Weights, losses and moments are always float32.
        lesion_probability: How often a lesion is added to a random organ of a sample, by local inflation (paper,
            section 5); 0 as published.
        lesion_radius_mm: Range of its radius.
        lesion_hu: Range of its difference to the organ.
        lesion_texture_hu: Unevenness of that difference inside, to both sides.
        lesion_inflation: Largest share by which the tissue at its middle is stretched, in [0, 1).
        lesion_weight: A case with large lesions is drawn up to 1 + this times as often as one without (paper, section
            5); 0 as published.
        lesion_large_ml: Volume of marked lesions from which a case has the full weight.
        save_every: Steps between checkpoints.
        keep_checkpoints: So many of the newest checkpoints are kept, and the best one.
        validation_every: Steps between validations of the averaged weights, on the network's grid.
        log_every: Steps that one line of the log sums up.
        workers: Threads that prepare samples ahead; 0 prepares each when it is needed. The result is the same.
        seed: Of weights, sampler, augmentation and dropout.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    real: RealConfig = field(default_factory=RealConfig)
    energy: EnergyConfig = field(default_factory=EnergyConfig)
    iterations: int = 100_000
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    loss_weights: tuple[float, float] = (1.0, 1.0)
    localise_cross_entropy: float = 0.0
    l2_penalty: float = 1e-6
    clip_factor: float = 5.0
    clip_start: float = 10.0
    clip_alpha: float = 0.01
    ema_decay: float = 0.999
    label_sigma_vox: float = 1.0
    precision: Precision = "auto"
    lesion_probability: float = 0.0
    lesion_radius_mm: tuple[float, float] = (5.0, 25.0)
    lesion_hu: tuple[float, float] = (-70.0, 30.0)
    lesion_texture_hu: float = 15.0
    lesion_inflation: float = 0.6
    lesion_weight: float = 0.0
    lesion_large_ml: float = 20.0
    save_every: int = 250
    keep_checkpoints: int = 2
    validation_every: int = 1000
    log_every: int = 10
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "iterations": self.iterations >= 1,
            "learning_rate": self.learning_rate > 0,
            "schedule": self.schedule in ("constant", "cosine"),
            "loss_weights": min(self.loss_weights) >= 0,
            "localise_cross_entropy": self.localise_cross_entropy >= 0,
            "l2_penalty": self.l2_penalty >= 0,
            "clip_factor": self.clip_factor > 0,
            "clip_start": self.clip_start > 0,
            "clip_alpha": 0 <= self.clip_alpha <= 1,
            "ema_decay": 0 <= self.ema_decay < 1,
            "label_sigma_vox": self.label_sigma_vox >= 0,
            "precision": self.precision in ("auto", "f32", "bf16", "f16"),
            "lesion_probability": 0 <= self.lesion_probability <= 1,
            "lesion_radius_mm": 0 < self.lesion_radius_mm[0] <= self.lesion_radius_mm[1],
            "lesion_hu": self.lesion_hu[0] <= self.lesion_hu[1],
            "lesion_texture_hu": self.lesion_texture_hu >= 0,
            "lesion_inflation": 0 <= self.lesion_inflation < 1,
            "lesion_weight": self.lesion_weight >= 0,
            "lesion_large_ml": self.lesion_large_ml > 0,
            "save_every": self.save_every >= 1,
            "keep_checkpoints": self.keep_checkpoints >= 1,
            "validation_every": self.validation_every >= 1,
            "log_every": self.log_every >= 1,
            "workers": self.workers >= 0,
            "seed": self.seed >= 0,
        }
        for name, holds in checks.items():
            if not holds:
                raise ConfigError(
                    f"setting TrainConfig.{name}",
                    expected="a value in its range",
                    got=repr(getattr(self, name)),
                    remedy="Correct the value",
                )


def without_augmentation(config: TrainConfig) -> TrainConfig:
    """Return the settings with nothing drawn at random in a sample."""
    return replace(config, augment=IDENTITY, lesion_probability=0.0)


def read_train_config(path: Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Return the settings in a TOML file, or the published ones, with single values replaced.

    Args:
        path: Tables as the records are nested: `[augment]`, `[model.segment]`; missing fields keep their defaults.
        overrides: `name=value` each, the name dotted (`augment.gain=0.1`), the value as in TOML; text needs no quotes.

    Raises:
        ReadError: If the file cannot be read.
        ConfigError: If it is not TOML, or a field is unknown, of another type or out of range.
    """
    # Over all of the defaults, as a table such as [model.segment] may change one field of a record without any.
    values = _merged(asdict(TrainConfig()), {} if path is None else current_names(_read_toml(path)))
    for override in overrides:
        values = _merged(values, current_names(_parsed(override)))
    return from_dict(TrainConfig, values)


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training under the names of this version; earlier ones are still read."""
    current = {_EARLIER_NAMES.get(name, name): value for name, value in settings.items()}
    if isinstance(current.get("model"), Mapping):
        current["model"] = current_model_names(current["model"])
    return current


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReadError(
            f"reading {path}", expected="a TOML file", got=reason(error), remedy="Check the path"
        ) from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError(f"reading {path}", expected="TOML", got=reason(error), remedy="Correct the file") from error


def _parsed(override: str) -> dict[str, Any]:
    name, sign, value = override.partition("=")
    for text in (value, f'"{value}"'):
        try:
            parsed = tomllib.loads(f"{name.strip()} = {text.strip()}") if sign and "\n" not in override else {}
        except tomllib.TOMLDecodeError:
            continue
        if parsed:
            return parsed
    raise ConfigError(
        f"setting {override!r}", expected="name=value", got=override, remedy="Write for example augment.gain=0.1"
    )


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for name, change in changes.items():
        before = result.get(name)
        nested = isinstance(before, Mapping) and isinstance(change, Mapping)
        result[name] = _merged(before, change) if nested else change  # type: ignore[arg-type]
    return result
