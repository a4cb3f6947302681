"""The files a cross-validation leaves: scores of cases, tables of folds, and what the trainings took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from viscera.core.errors import ConfigError, ReadError, reason
from viscera.core.files import write_text
from viscera.evaluation.crossval_tables import Folds, crossval_csv, crossval_markdown, crossval_text, fold_rows
from viscera.evaluation.scores import CaseScore, Evaluation
from viscera.evaluation.tables import scores_csv
from viscera.model.bundle import STAGES, Stage
from viscera.training.monitor import duration_text
from viscera.training.run_folder import TrainedRun


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What the trainings of one network took in all folds together, as far as they tell.

    Attributes:
        stage: Which network.
        trainings: How many.
        seconds: By the clock on the wall.
        kwh: Energy.
        co2eq_g: CO2-equivalent in grams.
        source: What the energy is from, as the trainings say.
    """

    stage: Stage
    trainings: int
    seconds: float
    kwh: float
    co2eq_g: float
    source: str

    def text(self) -> str:
        """Return one line such as "localise: 4 trainings, 11 h 00 min, 2.66 kWh (NVML), 1,183 g CO2-equivalent"."""
        count = f"{self.trainings} training{'' if self.trainings == 1 else 's'}"
        energy = f"{self.kwh:.3g} kWh ({self.source}), {self.co2eq_g:,.3g} g CO2-equivalent"
        if self.co2eq_g >= 1000:
            energy = f"{self.kwh:.2f} kWh ({self.source}), {self.co2eq_g:,.0f} g CO2-equivalent"
        return f"{self.stage}: {count}, {duration_text(self.seconds)}, {energy}"


def training_costs(runs: Sequence[TrainedRun]) -> tuple[TrainingCost, ...]:
    """Return what `runs` took, by stage; stages without a run are left out."""
    found = []
    for stage in STAGES:
        reports: list[Mapping[str, Any]] = [run.card.get("energy", {}) for run in runs if run.stage == stage]
        if reports:
            found.append(
                TrainingCost(
                    stage=stage,
                    trainings=len(reports),
                    seconds=sum(float(report.get("seconds", 0.0)) for report in reports),
                    kwh=sum(float(report.get("kwh", 0.0)) for report in reports),
                    co2eq_g=sum(float(report.get("co2eq_g", 0.0)) for report in reports),
                    source=", ".join(sorted({str(report.get("source", "not stated")) for report in reports})),
                )
            )
    return tuple(found)


def label_file(folder: Path, name: str) -> Path:
    """Return where the predicted labels of a case are in a fold's folder."""
    return folder / "labels" / f"{name}.nii.gz"


def write_score(folder: Path, name: str, made_of: Mapping[str, str], scores: Sequence[CaseScore]) -> None:
    """Keep the scores of a case with the hashes of all that made them."""
    content = {"made_of": dict(made_of), "scores": [score.as_json() for score in scores]}
    write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", folder / "scores" / f"{name}.json")


def read_score(folder: Path, name: str, made_of: Mapping[str, str]) -> tuple[CaseScore, ...] | None:
    """Return the kept scores of a case, None if there are none yet or what made them is another by now.

    Raises:
        ReadError: If the file of scores is damaged.
    """
    path = folder / "scores" / f"{name}.json"
    if not path.is_file() or not label_file(folder, name).is_file():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["made_of"] != dict(made_of):
            return None
        return tuple(CaseScore.from_json(values) for values in content["scores"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise ReadError(
            f"reading {path}",
            expected="the scores of a case",
            got=reason(error),
            remedy="Delete the file and run again",
        ) from error


def write_tables(run: Path, folds: Folds, trainings: Sequence[TrainingCost]) -> None:
    """Write table.txt, .csv and .md, scores.csv and crossval.json to `run`."""
    scores = tuple(score for number in sorted(folds) for score in folds[number].scores)
    write_text(crossval_text(folds) + "".join(f"{effort.text()}\n" for effort in trainings), run / "table.txt")
    write_text(crossval_csv(folds), run / "table.csv")
    write_text(crossval_markdown(folds), run / "table.md")
    pooled = replace(next(iter(folds.values()), Evaluation(scores=())), scores=scores)
    write_text(scores_csv({"": pooled}), run / "scores.csv")
    content = {"folds": [asdict(row) for row in fold_rows(folds)], "trainings": [asdict(one) for one in trainings]}
    write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", run / "crossval.json")
