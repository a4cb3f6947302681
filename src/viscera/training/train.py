"""One training loop for both networks: sampling of cases, validation, log, checkpoints, and resuming."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from viscera.core.errors import ConfigError, ReadError, VisceraError
from viscera.core.files import write_text
from viscera.core.interrupts import HeldSignals, held_signals
from viscera.model.bundle import Stage
from viscera.training.cache import Cache
from viscera.training.checkpoint import (
    Checkpoint,
    checkpoint_folder,
    checkpoint_iterations,
    drop_checkpoints,
    forget_after,
    newest_checkpoint,
    write_checkpoint,
)
from viscera.training.config import TrainConfig, current_names
from viscera.training.data_sources import PreparedData, TrainingData
from viscera.training.distributed import World, joined_world
from viscera.training.energy import EnergyMeter, EnergyReport
from viscera.training.log import append_record, cut_back
from viscera.training.monitor import Monitor, Silent, StepRecord, ValidationRecord
from viscera.training.sampler import CaseSampler, Sample, prepared, sample_generator
from viscera.training.step import NotFiniteError, StepOutcome, Trainer
from viscera.training.validation import validate

# What may change when a training resumes: none of it alters a step but the precision, as it may resume elsewhere.
FREE_SETTINGS = ("save_every", "keep_checkpoints", "validation_every", "log_every", "workers", "precision", "energy")

# Of the model, what is done with labels only: training does not see it.
LABEL_SETTINGS = ("postprocessing", "quality")

_log = logging.getLogger(__name__)


class TrainOptions(TypedDict, total=False):
    """The keyword arguments of `train`.

    Attributes:
        names: Cases to train on. Those without organs are used for localisation only.
        validation: Cases held out for the DSC in the log and the choice of the best checkpoint.
        initial: Weights to start from.
        resume: Resume from the newest checkpoint in the run's folder if there is one; otherwise start again.
        device: auto, cpu or cuda.
        monitor: Gets every record of the log; closed at the end.
    """

    names: Required[Sequence[str]]
    validation: Sequence[str]
    initial: Path | None
    resume: bool
    device: str
    monitor: Monitor | None


def train(
    stage: Stage, cases: Cache | TrainingData, run: Path, config: TrainConfig, **options: Unpack[TrainOptions]
) -> Path:
    """Train one network on `cases` and return the file of its averaged weights, RUN/weights.safetensors.

    Writes to `run`: config.json, log.jsonl (see `StepRecord` and `ValidationRecord`), checkpoints/, weights.safetensors
    and, at the end, card.json with time and energy. Stopped at any step and started again, it ends with the same
    weights, on a CPU bit for bit. Under `torchrun` the processes share the work. The first Ctrl-C or SIGTERM saves a
    checkpoint and is then raised again.

    Raises:
        VisceraError: If the loss is no longer a finite number; the message names the case.
        ConfigError: If there is no case to train on, or the run's checkpoint was made with other settings.
        ReadError: If a case or the initial weights cannot be read.
        WriteError: If the run's files cannot be written.
    """
    monitor = options.get("monitor") or Silent()
    data = PreparedData(cases) if isinstance(cases, Cache) else cases
    try:
        with joined_world(options.get("device", "auto")) as world, held_signals() as held:
            return _Run(stage, data, config, world, _Plan.of(stage, data, run, options)).finish(monitor, held)
    finally:
        monitor.close()


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Where a run lies, what it trains on and where it begins."""

    run: Path
    names: tuple[str, ...]
    validation: tuple[str, ...]
    initial: Path | None
    resume: bool

    @classmethod
    def of(cls, stage: Stage, data: TrainingData, run: Path, options: TrainOptions) -> _Plan:
        names, validation = tuple(options["names"]), tuple(options.get("validation", ()))
        if shared := sorted(set(names) & set(validation)):
            raise ConfigError(
                f"training {stage}",
                expected="validation cases that are not trained on",
                got=", ".join(shared),
                remedy="Leave them out of one of both",
            )
        return cls(
            run=Path(run),
            names=_usable(stage, data, names, of="training"),
            validation=_usable(stage, data, validation, of="validation") if validation else (),
            initial=options.get("initial"),
            resume=options.get("resume", True),
        )


def _usable(stage: Stage, data: TrainingData, names: Sequence[str], *, of: str) -> tuple[str, ...]:
    usable = tuple(name for name in names if data.shows(name, stage))
    if left_out := [name for name in names if name not in usable]:
        why = "not all organs annotated" if stage == "localise" else "no organs"
        _log.info("left out of %s (%s): %s", of, why, ", ".join(left_out))
    if not usable:
        raise ConfigError(
            f"training {stage}", expected=f"{of} cases that show organs", got="none", remedy="Name other cases"
        )
    return usable


class _Run:
    """One run from its beginning, or its newest checkpoint, to its end."""

    def __init__(self, stage: Stage, data: TrainingData, config: TrainConfig, world: World, plan: _Plan) -> None:
        self.stage, self.data, self.config, self.world, self.plan = stage, data, config, world, plan
        data.require(config)
        self.log = plan.run / "log.jsonl"
        self.trainer = Trainer(stage, config, plan.initial, world=world)
        self.sampler = CaseSampler(plan.names, data.weights(plan.names, config), config.seed)
        self.sums: dict[str, float] = {}
        self.summed = 0
        self.best: dict[str, Any] | None = None
        self.before: dict[str, Any] | None = None
        self.seconds_before = 0.0
        self.settings = _settings(stage, config, plan, world)
        self._resume(newest_checkpoint(plan.run) if plan.resume else None)
        self.clock = self.since_record = time.monotonic()
        self.meter = EnergyMeter(config.energy, devices=world.gpus, processes=world.size).start()

    def finish(self, monitor: Monitor, held: HeldSignals) -> Path:
        """Train to the end, or until a signal comes, and return the file of the averaged weights."""
        trainer, world = self.trainer, self.world
        first, last = trainer.iteration, self.config.iterations
        indices = range(first * world.size + world.rank, last * world.size, world.size)
        with closing(prepared(self._sample, indices, workers=self.config.workers, device=world.device)) as samples:
            for sample in samples:
                self._step(sample, monitor)
                better = self._validate(monitor) if self._due(self.config.validation_every) else False
                held.number = world.highest(held.number)
                if better or held.number or self._due(self.config.save_every):
                    self._save()
                if held.number:
                    break
        return self.plan.run / "weights.safetensors"

    def _due(self, every: int) -> bool:
        return self.trainer.iteration % every == 0 or self.trainer.iteration >= self.config.iterations

    def _sample(self, index: int) -> Sample:
        name, rng = self.sampler[index], sample_generator(self.config.seed, index)
        return Sample(name, *self.data.sample(name, self.stage, self.config, rng, self.world.device))

    def _held_out(self, name: str) -> Sample:
        return Sample(name, *self.data.held_out(name, self.stage, self.config, self.world.device))

    def _step(self, sample: Sample, monitor: Monitor) -> None:
        rate = self.trainer.rate()
        try:
            outcome = self.trainer.step(sample.image, sample.labels, self.data.unannotated(sample.name))
        except NotFiniteError as error:
            raise self._stopped(error) from error
        self._count(outcome)
        if self._due(self.config.log_every):
            self._record(rate, monitor)

    def _count(self, outcome: StepOutcome) -> None:
        if math.isnan(outcome.norm):
            return  # left out, as float16 overflowed
        self.summed += 1
        for name, value in {"loss": outcome.loss, **outcome.terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def _record(self, rate: float, monitor: Monitor) -> None:
        now, steps = time.monotonic(), max(1, self.summed)
        shares = self.world.gather(list(self.sums.values()))
        means = [sum(of_rank) / self.world.size / steps for of_rank in zip(*shares, strict=True)]
        named = dict(zip(self.sums, means, strict=True))
        record = StepRecord(
            stage=self.stage,
            iteration=self.trainer.iteration,
            iterations=self.config.iterations,
            loss=named.pop("loss", math.nan),
            terms=named,
            learning_rate=rate,
            rate=steps / max(1e-9, now - self.since_record),
            seconds=self._seconds(),
        )
        self.sums, self.summed, self.since_record = {}, 0, now
        self._log_record(record, monitor)

    def _log_record(self, record: StepRecord | ValidationRecord, monitor: Monitor) -> None:
        if not self.world.writes:
            return
        append_record(self.log, record.as_json())
        if isinstance(record, StepRecord):
            monitor.step(record)
        else:
            monitor.validated(record)

    def _validate(self, monitor: Monitor) -> bool:
        """Return whether the averaged weights are the best so far, by the mean DSC of the cases held out."""
        if not self.plan.validation:
            return False
        scores = validate(self.trainer, self.plan.validation, self._held_out, self.data.unannotated)
        organs = ("organs",) if self.stage == "localise" else self.data.organs
        named = {organ: score for organ, score in zip(organs, scores, strict=True) if not math.isnan(score)}
        iteration, mean = self.trainer.iteration, sum(named.values()) / len(named)
        self._log_record(ValidationRecord(iteration=iteration, validation=named, seconds=self._seconds()), monitor)
        self.since_record = time.monotonic()
        if self.best is not None and mean <= self.best["mean"]:
            return False
        self.best = {"iteration": iteration, "mean": mean, "dsc": named}
        return True

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.clock

    def _save(self) -> None:
        sums = self.world.gather(list(self.sums.values()))  # of every process, so all of them come here
        if not self.world.writes:
            return
        energy = self.meter.report()
        if self.before is not None:
            energy = energy.after(EnergyReport(**self.before))
        progress = {
            "best": self.best,
            "validation": list(self.plan.validation),
            "seconds": self._seconds(),
            "energy": asdict(energy),
            "summed": self.summed,
            "terms": list(self.sums),
            "sums": sums,
        }
        state = {"settings": self.settings, **self.trainer.numbers(), **progress}
        write_checkpoint(self.plan.run, Checkpoint(tensors=self.trainer.tensors(), state=state))
        best = None if self.best is None else self.best["iteration"]
        drop_checkpoints(self.plan.run, newest=self.config.keep_checkpoints, best=best)
        self.trainer.save(self.plan.run / "weights.safetensors")
        if self.trainer.iteration >= self.config.iterations:
            self._write_card(energy)
        self.since_record = time.monotonic()

    def _write_card(self, energy: EnergyReport) -> None:
        card = {
            "stage": self.stage,
            "organs": list(self.data.organs),
            "iterations": self.trainer.iteration,
            "cases": len(self.plan.names),
            "validation_cases": len(self.plan.validation),
            "best": self.best,
            "seconds": round(self._seconds(), 1),
            "energy": asdict(energy),
            "device": self.world.device.type,
            "processes": self.world.size,
            "precision": self.trainer.precision,
        }
        write_text(json.dumps(card, indent=2) + "\n", self.plan.run / "card.json")

    def _resume(self, checkpoint: Checkpoint | None) -> None:
        """Resume from `checkpoint`, or start; the run's files then hold nothing later."""
        run, iteration = self.plan.run, 0
        if checkpoint is not None:
            _require_same(self.settings, current_names(checkpoint.state["settings"]), run)
            iteration = self._restore(checkpoint)
        if self.world.writes:
            forget_after(run, iteration)
            if iteration < self.config.iterations:
                (run / "card.json").unlink(missing_ok=True)
            write_text(json.dumps(asdict(self.config), indent=2) + "\n", run / "config.json")
            cut_back(self.log, iteration)

    def _restore(self, checkpoint: Checkpoint) -> int:
        state = checkpoint.state
        try:
            self.trainer.restore(checkpoint.tensors, state)
            self.before, self.seconds_before = state["energy"], float(state["seconds"])
            # What was best on other cases says nothing about these.
            self.best = state["best"] if state["validation"] == list(self.plan.validation) else None
            self.summed = int(state["summed"])
            self.sums = dict(zip(state["terms"], state["sums"][self.world.rank], strict=True))
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ReadError(
                f"resuming {self.plan.run}",
                expected="a checkpoint of this version",
                got=str(error),
                remedy="Start again in another folder",
            ) from error
        return self.trainer.iteration

    def _stopped(self, error: NotFiniteError) -> VisceraError:
        """Return the error that names the cases at fault: those with a bad loss, or all of the step."""
        step, run = self.trainer.iteration, self.plan.run
        names = [self.sampler[step * self.world.size + rank] for rank in range(self.world.size)]
        bad = [name for name, loss in zip(names, error.losses, strict=True) if not math.isfinite(loss)]
        saved = checkpoint_iterations(run)
        kept = f"the last good checkpoint is {checkpoint_folder(run, saved[-1])}" if saved else "nothing was saved yet"
        return VisceraError(
            f"training step {step + 1} on {', '.join(bad or names)}",
            expected="a finite loss",
            got=str(error),
            remedy=f"Check the case; {kept}",
        )


def _settings(stage: Stage, config: TrainConfig, plan: _Plan, world: World) -> dict[str, Any]:
    """Return what must be the same for a training to resume, as plain values."""
    free = FREE_SETTINGS if config.schedule == "cosine" else (*FREE_SETTINGS, "iterations")
    values = {name: value for name, value in asdict(config).items() if name not in free}
    values["model"] = {name: value for name, value in values["model"].items() if name not in LABEL_SETTINGS}
    initial = None if plan.initial is None or not plan.initial.is_file() else _sha256(plan.initial)
    settings = {"stage": stage, "names": plan.names, "initial": initial, "processes": world.size, **values}
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _require_same(settings: dict[str, Any], saved: dict[str, Any], run: Path) -> None:
    names = sorted(name for name in settings.keys() | saved.keys() if settings.get(name) != saved.get(name))
    if names:
        raise ConfigError(
            f"resuming {run}",
            expected="the settings and cases it was started with",
            got=f"another {', another '.join(names)}",
            remedy="Give the same ones, train in another folder, or start again with --restart",
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
