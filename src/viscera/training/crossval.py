"""Cross-validation as published: per fold both networks trained, held-out cases predicted by the whole path, scored.

    RUN/splits.json                        which fold trains on and holds out what
    RUN/fold1/localise/  fold1/segment/    the trainings
    RUN/fold1/labels/NAME.nii.gz           predictions on the scans' own grids
    RUN/fold1/scores/NAME.json             their scores, with the hashes of weights and sources
    RUN/table.txt .csv .md  scores.csv     of all folds finished so far; crossval.json holds the same and what it took
    RUN/cases_axial.png  cases_coronal.png the best and the worst cases

Whatever is there already is kept: a training goes on from its checkpoint, a scored case is not predicted again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.core.config import ModelConfig, organ_table
from viscera.core.errors import ConfigError, ReadError
from viscera.core.files import write_bytes
from viscera.core.geometry import Grid
from viscera.core.organs import Organ
from viscera.core.volume import LabelMap, Volume
from viscera.evaluation.evaluate import evaluate_label_maps
from viscera.evaluation.scores import CaseScore, Evaluation, ScoringConfig
from viscera.formats.nifti_write import write_label_map
from viscera.model.bundle import STAGES, Stage
from viscera.pipeline import segment_volume
from viscera.read import read_label_map, read_volume
from viscera.training.cache import Cache, CaseEntry, file_sha256
from viscera.training.config import TrainConfig
from viscera.training.crossval_results import Effort, efforts, label_file, read_score, write_score, write_tables
from viscera.training.datasets import LabelMapping, read_ids
from viscera.training.run_folder import TrainedRun, finished_run, joint_model, read_run, run_bundle
from viscera.training.splits import Fold, Splits, kept_splits, read_splits, seeded_splits

if TYPE_CHECKING:
    from viscera.engines.engine import Engine
    from viscera.evaluation.overlay_cases import CaseRow
    from viscera.training.monitor import Monitor

# So many held-out cases show how a training goes; no choice is made by them.
_WATCHED_CASES = 8


@dataclass(frozen=True, kw_only=True)
class CrossValidationOptions:
    """What a cross-validation does beside the trainings' own settings.

    Attributes:
        folds: How many, if they are drawn.
        seed: Of the draw.
        splits: A file with the folds, instead of drawing them.
        only: Work on this fold alone, counted from 1; None for all.
        device: Of training and prediction: "auto", "cpu" or "cuda".
        shown: Best cases, and as many worst ones, in the figures.
        predict: Whether to predict and score; without, only networks are trained, for which the cache is enough.
    """

    folds: int = 4
    seed: int = 0
    splits: Path | None = None
    only: int | None = None
    device: str = "auto"
    shown: int = 2
    predict: bool = True


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Whom to tell how a cross-validation goes; nobody by default.

    Attributes:
        monitor: Makes who watches the training of a fold and stage.
        on_case: Called before each prediction with fold, case, its number from 0 and how many there are.
    """

    monitor: Callable[[int, Stage], Monitor | None] = lambda fold, stage: None
    on_case: Callable[[int, str, int, int], None] = lambda fold, case, number, count: None


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """The folds, the scores of those finished so far by number from 1, and what their trainings took."""

    splits: Splits
    evaluations: Mapping[int, Evaluation]
    trainings: tuple[Effort, ...]


def cross_validate(
    cache: Cache,
    run: Path,
    configs: Mapping[Stage, TrainConfig],
    *,
    options: CrossValidationOptions | None = None,
    watch: Watch | None = None,
) -> CrossValidation:
    """The scores of every finished fold, after working on the chosen ones; tables and figures are written to `run`.

    Predictions are made by the path itself (`viscera.pipeline.segment_volume`) from the source files named in the
    cache's manifest, on their own grids, and scored there. A case in which nothing is found counts as an empty label
    map.

    Raises:
        ConfigError: If the settings do not fit each other, the cache or what `run` was begun with.
        ReadError: If a source file cannot be read.
        VisceraError: What training raises.
    """
    options, watch = options or CrossValidationOptions(), watch or Watch()
    work = _Work(cache=cache, run=run, configs=configs, options=options, watch=watch)
    work.check()
    splits = kept_splits(run, work.wanted_splits())
    numbers = range(1, len(splits.folds) + 1)
    if options.only is not None and options.only not in numbers:
        raise ConfigError(
            "choosing a fold",
            expected=f"1 to {len(splits.folds)}",
            got=str(options.only),
            remedy="Choose one of these",
        )
    for number in numbers if options.only is None else [options.only]:
        work.finish_fold(number, splits.folds[number - 1])
        result = work.result(splits)
        write_tables(run, result.evaluations, result.trainings)
    work.draw_figures(result.evaluations)
    return result


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One call of `cross_validate`."""

    cache: Cache
    run: Path
    configs: Mapping[Stage, TrainConfig]
    options: CrossValidationOptions
    watch: Watch

    @property
    def organs(self) -> tuple[Organ, ...]:
        return organ_table(self.cache.manifest.settings.organs)

    @property
    def model(self) -> ModelConfig:
        return joint_model(self.configs["localise"], self.configs["segment"])

    @property
    def scoring(self) -> ScoringConfig:
        return ScoringConfig(organs=self.organs)

    def check(self) -> None:
        """Raise ConfigError if the network has not one label per organ of the cache."""
        labels = len(self.organs) + 1
        for stage, config in self.configs.items():
            if config.model.scn.labels != labels:
                raise ConfigError(
                    f"cross-validating with {self.cache.folder}",
                    expected=f"{labels} labels, as the cache has {labels - 1} organs",
                    got=f"model.scn.labels = {config.model.scn.labels} in the settings to {stage}",
                    remedy=f"Set labels = {labels} under [model.scn] in the settings of both stages",
                )

    def wanted_splits(self) -> Splits:
        """The folds asked for."""
        if self.options.splits is not None:
            return read_splits(self.options.splits, self.cache.names)
        return seeded_splits(self.cache.names, self.options.folds, self.options.seed)

    def finish_fold(self, number: int, fold: Fold) -> None:
        """Train both networks of a fold, then predicts and scores what is not scored yet."""
        from viscera.engines.torch_engine import TorchEngine

        folder = self.run / f"fold{number}"
        if self.options.predict:
            require_sources([self.cache.entry(name) for name in fold.val])
        localise, segment = (self._trained(number, stage, fold) for stage in STAGES)
        if not self.options.predict:
            return
        weights = {trained.stage: file_sha256(trained.weights) for trained in (localise, segment)}
        missing = [name for name in fold.val if read_score(folder, name, self._made_of(name, weights)) is None]
        if not missing:
            return
        bundle = run_bundle(localise, segment, self.organs)
        engine = TorchEngine(bundle, device=self._engine_device())
        for count, name in enumerate(missing):
            self.watch.on_case(number, name, count, len(missing))
            scores = self._predicted(self.cache.entry(name), folder, engine)
            write_score(folder, name, self._made_of(name, weights), scores)

    def _made_of(self, name: str, weights: Mapping[Stage, str]) -> dict[str, str]:
        """The hashes of what a case's scores come from: both networks, the source files, and the meaning of labels."""
        entry = self.cache.entry(name)
        sources = {"image": entry.image_sha256, "labels": entry.labels_sha256, "settings": entry.settings_sha256}
        return {**{f"{stage} weights": digest for stage, digest in weights.items()}, **sources}

    def _trained(self, number: int, stage: Stage, fold: Fold) -> TrainedRun:
        from viscera.training.train import train

        config, folder = self.configs[stage], self.run / f"fold{number}" / stage
        if (finished := finished_run(folder, stage, config)) is not None:
            return finished
        usable = set(self.cache.names_for(stage))
        train(
            stage,
            self.cache,
            folder,
            config,
            names=[name for name in fold.train if name in usable],
            validation=[name for name in fold.val if name in usable][:_WATCHED_CASES],
            device=self.options.device,
            monitor=self.watch.monitor(number, stage),
        )
        return read_run(folder, stage)

    def _engine_device(self) -> str:
        import torch

        if self.options.device != "auto":
            return self.options.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def _predicted(self, entry: CaseEntry, folder: Path, engine: Engine) -> tuple[CaseScore, ...]:
        """The scores of a case, whose labels are written to the fold's folder."""
        volume = read_unchanged(entry)
        reference = self._reference(entry, volume.grid)
        # Every case is scored, also an empty one.
        segmentation = segment_volume(
            volume, engine, self.model, organs=self.organs, allow_empty=True, allow_mirrored=True
        )
        write_label_map(segmentation.label_map, label_file(folder, entry.name), self.organs)
        return evaluate_label_maps(reference, segmentation.label_map, case=entry.name, config=self.scoring)

    def _reference(self, entry: CaseEntry, grid: Grid) -> LabelMap:
        """The source's labels on `grid`, the CT's, as organ indices by the rules the cache was made with."""
        settings = self.cache.manifest.settings
        mapping = LabelMapping(organs=settings.organs, rules=settings.rules)
        source = read_ids(Path(entry.labels), mapping, within=grid)
        labels = mapping.apply(source.labels, f"reading the labels of {entry.name}")
        # Preparing has made sure that both lie at one place; their files may still run along other axes.
        turn, back = source.grid.to_canonical(), grid.to_canonical().inverse()
        return LabelMap(labels=back.apply(turn.apply(labels)), grid=grid)

    def result(self, splits: Splits) -> CrossValidation:
        """What is finished by now."""
        evaluations = self._evaluations(splits)
        runs = [read_run(self.run / f"fold{number}" / stage, stage) for number in evaluations for stage in STAGES]
        return CrossValidation(splits=splits, evaluations=evaluations, trainings=efforts(runs))

    def _evaluations(self, splits: Splits) -> dict[int, Evaluation]:
        """The scores of every fold all of whose cases are scored with one pair of weights."""
        found = {number: self._fold_scores(number, fold) for number, fold in enumerate(splits.folds, start=1)}
        scoring = self.scoring
        return {
            number: Evaluation(scores=scores, tolerances=scoring.tolerances, empty=scoring.empty, organs=self.organs)
            for number, scores in found.items()
            if scores is not None
        }

    def _fold_scores(self, number: int, fold: Fold) -> tuple[CaseScore, ...] | None:
        folder = self.run / f"fold{number}"
        files = {stage: folder / stage / "weights.safetensors" for stage in STAGES}
        if not all(path.is_file() and path.with_name("card.json").is_file() for path in files.values()):
            return None
        weights = {stage: file_sha256(path) for stage, path in files.items()}
        scores: list[CaseScore] = []
        for name in fold.val:
            own = read_score(folder, name, self._made_of(name, weights))
            if own is None:
                return None
            scores += own
        return tuple(scores)

    def draw_figures(self, evaluations: Mapping[int, Evaluation]) -> None:
        """Draw the best and the worst cases of all finished folds."""
        from viscera.evaluation.overlay_cases import cases_png, ranked_cases

        scores = [score for evaluation in evaluations.values() for score in evaluation.scores]
        fold_of = {case: number for number, evaluation in evaluations.items() for case in evaluation.cases}
        ranked = ranked_cases(scores)
        best = ranked[: self.options.shown]
        worst = ranked[len(best) :][-self.options.shown :] if self.options.shown else ()
        rows = [
            self._figure_row(f"{title}, fold {fold_of[case]}", case, fold_of[case], scores)
            for title, cases in (("best", best), ("worst", worst))
            for case in cases
        ]
        if rows:
            write_bytes(cases_png(rows, plane="axial", organs=self.organs), self.run / "cases_axial.png")
            write_bytes(cases_png(rows, plane="coronal", organs=self.organs), self.run / "cases_coronal.png")

    def _figure_row(self, title: str, case: str, fold: int, scores: Sequence[CaseScore]) -> CaseRow:
        from viscera.evaluation.overlay_cases import CaseRow

        entry = self.cache.entry(case)
        volume = read_unchanged(entry)
        return CaseRow(
            title=title,
            volume=volume,
            reference=self._reference(entry, volume.grid),
            prediction=read_label_map(label_file(self.run / f"fold{fold}", case), self.organs),
            scores=tuple(score for score in scores if score.case == case),
        )


def require_sources(entries: Sequence[CaseEntry]) -> None:
    """Raise ReadError if a source is not in its place, before hours are spent on training.

    One case is read, which shows that whatever reads its format is installed.
    """
    for entry in entries:
        for source in (entry.image, entry.labels):
            if not Path(source).exists():
                raise _source_error(entry, Path(source), "nothing there")
    read_unchanged(entries[0])


def read_unchanged(entry: CaseEntry) -> Volume:
    """The CT of a case from its source file.

    Raises:
        ReadError: If the CT or its labels are no longer the files that were prepared, or cannot be read.
    """
    for source, digest in ((entry.image, entry.image_sha256), (entry.labels, entry.labels_sha256)):
        path = Path(source)
        if not path.exists() or file_sha256(path) != digest:
            raise _source_error(entry, path, "another one" if path.exists() else "nothing there")
    return read_volume(Path(entry.image))


def _source_error(entry: CaseEntry, path: Path, got: str) -> ReadError:
    return ReadError(
        f"reading {path} of {entry.name}",
        expected="the file that was prepared",
        got=got,
        remedy="Put the data set back where it was, or run viscera prepare again",
    )
