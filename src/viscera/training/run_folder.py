"""What the folder of a finished training says, and the model two trainings make together."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from viscera.core.config import ModelConfig, from_dict, organ_table
from viscera.core.errors import ConfigError, ReadError, reason
from viscera.core.organs import ORGANS, Organ
from viscera.model.bundle import STAGES, WEIGHTS, Bundle, ModelCard, Stage
from viscera.training.config import TrainConfig, current_names


@dataclass(frozen=True, kw_only=True)
class CardFile:
    """What a user may say of a bundle; the rest is known from its runs."""

    name: str | None = None
    version: str = "1"
    description: str | None = None
    licence: str = "not stated"
    metrics: dict = field(default_factory=dict)  # type: ignore[type-arg]  # free fields
    limits: list = field(default_factory=list)  # type: ignore[type-arg]
    organs: list | None = None  # type: ignore[type-arg]


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished training of one network.

    Attributes:
        folder: Of the run.
        stage: Which network.
        config: Its settings.
        weights: The file of the averaged weights.
        card: What the training wrote of data, time and energy.
    """

    folder: Path
    stage: Stage
    config: TrainConfig
    weights: Path
    card: dict[str, Any]

    @property
    def organs(self) -> list[Any] | None:
        """The names of the organs it was trained with, None if the run does not tell."""
        organs = self.card.get("organs")
        return organs if isinstance(organs, list) else None


@dataclass(frozen=True, kw_only=True)
class RunBundle(Bundle):
    """Two trainings used as a bundle is, straight from their folders: weights for torch, no graphs, no checksums."""

    runs: tuple[TrainedRun, TrainedRun]

    def weights(self, stage: Stage) -> Path:
        """Return the file of the averaged weights of a stage."""
        return next(run.weights for run in self.runs if run.stage == stage)


def joint_model(localise: TrainConfig, segment: TrainConfig) -> ModelConfig:
    """Return the settings of both stages together: each stage's sampling and network from its own training's settings.

    All else is the segmentation's: the margin between them, with which its training saw regions, and what is done with
    labels.
    """
    return replace(segment.model, localise=localise.model.localise, localiser=localise.model.localiser)


def run_bundle(localise: TrainedRun, segment: TrainedRun, organs: tuple[Organ, ...]) -> RunBundle:
    """Return both runs as a bundle for the torch engine."""
    card = ModelCard(
        name="run",
        version="0",
        description="Two trainings, not exported.",
        licence="not stated",
        model=joint_model(localise.config, segment.config),
        organs=organs,
    )
    return RunBundle(folder=segment.folder, card=card, runs=(localise, segment))


def read_run(folder: Path, stage: Stage | None = None) -> TrainedRun:
    """Return the finished training of `stage` in `folder`; None takes either stage.

    Raises:
        ReadError: If the folder holds no finished training.
        ConfigError: If it is of the other stage, or its settings are not of this version.
    """
    card, config = (_object(folder / name) for name in ("card.json", "config.json"))
    found = next((one for one in STAGES if card.get("stage") == one), None)
    if found is None or found != (stage or found):
        raise ConfigError(
            f"reading the run {folder}",
            expected=f"a training of stage {stage or ' or '.join(STAGES)}",
            got=str(card.get("stage")),
            remedy="Give the runs in the order localisation, segmentation, or a bundle and a run",
        )
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        raise ReadError(
            f"reading the run {folder}",
            expected=f"a finished training with {weights.name}",
            got="none",
            remedy="Finish the training first",
        )
    return TrainedRun(
        folder=folder, stage=found, config=from_dict(TrainConfig, current_names(config)), weights=weights, card=card
    )


def finished_run(folder: Path, stage: Stage, config: TrainConfig) -> TrainedRun | None:
    """Return the training in `folder` if it is finished and was made with `config`, else None."""
    try:
        run = read_run(folder, stage)
    except (ReadError, ConfigError):
        return None
    return run if run.config == config else None


def training_entry(run: TrainedRun) -> dict[str, Any]:
    """Return what a bundle's card says of a run: what the run's own card says, and its settings without the model's."""
    settings = {name: value for name, value in asdict(run.config).items() if name != "model"}
    return {**run.card, "settings": settings}


def bundle_card(localise: TrainedRun, segment: TrainedRun, *, name: str, file: Path | None = None) -> ModelCard:
    """Return the card of the bundle two runs make.

    Args:
        localise: The run of the localisation network.
        segment: The run of the segmentation network.
        name: Of the bundle, unless `file` says another.
        file: JSON with any of name, version, description, licence, metrics, limits and organs; None for none of them.

    Raises:
        ReadError: If `file` cannot be read.
        ConfigError: If it has other fields or types, or the organs are not as many as the segmentation's labels.
    """
    given = _given_fields(file)
    return ModelCard(
        name=name if given.name is None else given.name,
        version=given.version,
        description=_description(localise, segment) if given.description is None else given.description,
        licence=given.licence,
        model=joint_model(localise.config, segment.config),
        organs=_organs(segment, given.organs),
        training={run.stage: training_entry(run) for run in (localise, segment)},
        metrics=given.metrics,
        limits=tuple(map(str, given.limits)),
    )


def combined_card(base: Bundle, run: TrainedRun, *, name: str, file: Path | None = None) -> ModelCard:
    """The card of the bundle that a run of one network and the other network of `base` make.

    The metrics of `base` are left out, as they were measured with both of its networks.

    Args:
        base: The bundle whose other network is kept, with its settings.
        run: The training of one network.
        name: Of the bundle, unless `file` says another.
        file: As in `bundle_card`.

    Raises:
        ReadError, ConfigError: As in `bundle_card`.
    """
    given, card = _given_fields(file), base.card
    if run.stage == "segment":
        kept: Stage = "localise"
        model = replace(run.config.model, localise=card.model.localise, localiser=card.model.localiser)
        organs = _organs(run, given.organs)
    else:
        kept, organs = "segment", card.organs
        model = replace(card.model, localise=run.config.model.localise, localiser=run.config.model.localiser)
    source = {"bundle": card.name, "version": card.version, "weights_sha256": card.files[WEIGHTS[kept]]}
    description = (
        f"{run.stage}: trained for {run.config.iterations:,} iterations; {kept}: of {card.name} {card.version}."
    )
    return ModelCard(
        name=name if given.name is None else given.name,
        version=given.version,
        description=description if given.description is None else given.description,
        licence=given.licence,
        model=model,
        organs=organs,
        training={run.stage: training_entry(run), kept: source},
        metrics=given.metrics,
        limits=tuple(map(str, given.limits or card.limits)),
    )


def _given_fields(file: Path | None) -> CardFile:
    try:
        return CardFile() if file is None else from_dict(CardFile, _object(file))
    except ConfigError as error:
        raise ConfigError(
            f"{error.doing} from {file}",
            expected=error.expected,
            got=error.got,
            remedy="Correct the card; the rest is taken from the runs",
        ) from error


def _organs(segment: TrainedRun, given: list[Any] | None) -> tuple[Organ, ...]:
    named = given or segment.organs
    organs = ORGANS if named is None else organ_table(named)
    if len(organs) + 1 != segment.config.model.scn.labels:
        raise ConfigError(
            f"naming the labels of {segment.folder}",
            expected=f"{segment.config.model.scn.labels - 1} organs, as the network has",
            got=f"{len(organs)}: {', '.join(organ.name for organ in organs)}",
            remedy='List them under "organs" in the file given with --card',
        )
    return organs


def _description(localise: TrainedRun, segment: TrainedRun) -> str:
    steps = [f"{run.config.iterations:,} iterations" for run in (localise, segment)]
    return f"Localisation trained for {steps[0]}, segmentation for {steps[1]}."


def _object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(
            f"reading {path}", expected="a finished training's folder", got=reason(error), remedy="Finish the training"
        ) from error
    if not isinstance(values, dict):
        raise ReadError(f"reading {path}", expected="a JSON object", got="another value", remedy="Train again")
    return values
