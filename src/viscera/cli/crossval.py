"""`viscera crossval`: both networks trained and scored fold by fold."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import positive
from viscera.cli.training_monitor import run_monitor
from viscera.cli.training_options import add_hardware, add_overrides, add_run, requiring_train, use_threads
from viscera.core.errors import ConfigError
from viscera.core.interrupts import clean_end

HELP = "cross-validate: train both networks on each fold, segment and score the cases held out"
DESCRIPTION = """\
Cross-validates on the cases `viscera prepare` stored in CACHE: for each fold both networks are trained, the cases held
out are segmented on their own grids from their source files, and scored. Needs viscera[train]. RUN gets the trainings,
the label maps, a table (text, CSV, Markdown) and pictures of the best and worst cases. After any interruption the same
command resumes; with --fold each fold can be a run of its own, and the table shows all that are finished."""
EXAMPLE = "viscera crossval cache/ -o runs/cv --folds 4 --localise-config localise.toml --segment-config segment.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("cache", metavar="CACHE", type=Path, help="folder of prepared cases")
    add_run(parser)
    parser.add_argument("--folds", metavar="N", type=positive, default=4, help="how many (default: %(default)s)")
    parser.add_argument("--fold", metavar="K", type=positive, help="work on this fold alone, counted from 1")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the folds (default: %(default)s)")
    parser.add_argument(
        "--splits", metavar="FILE.json", type=Path, help='predefined folds, a list of {"train": [...], "val": [...]}'
    )
    for stage, network in (("localise", "localisation"), ("segment", "segmentation")):
        parser.add_argument(
            f"--{stage}-config",
            metavar="FILE.toml",
            type=Path,
            help=f"settings of the {network}'s training (default: as published)",
        )
    parser.add_argument(
        "--train-only", action="store_true", help="only train; segment and score later, possibly on another machine"
    )
    add_overrides(parser)
    add_hardware(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Cross-validate, print the table and return the exit code."""
    with requiring_train("cross-validating"):
        from viscera.training.crossval import CrossValidationCallbacks, CrossValidationOptions, cross_validate
    from viscera.evaluation.crossval_tables import crossval_text
    from viscera.model.bundle import Stage
    from viscera.training.cache import Cache
    from viscera.training.config import TrainConfig, read_train_config
    from viscera.training.monitor import Monitor

    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError(
            "cross-validating under torchrun",
            expected="one process",
            got=processes,
            remedy="Run one viscera crossval --fold K per GPU, or train with torchrun and viscera train --fold-file",
        )
    use_threads(args)
    configs: dict[Stage, TrainConfig] = {
        "localise": read_train_config(args.localise_config, args.overrides),
        "segment": read_train_config(args.segment_config, args.overrides),
    }
    options = CrossValidationOptions(
        folds=args.folds,
        seed=args.seed,
        splits=args.splits,
        only=args.fold,
        device=args.device,
        predict=not args.train_only,
    )

    def monitor(fold: int, stage: Stage) -> Monitor:
        console.say(f"fold {fold}: training to {stage}")
        return run_monitor(args.output / f"fold{fold}" / stage, console)

    with clean_end(), console.progress() as progress:

        def on_case(fold: int, case: str, number: int, count: int) -> None:
            progress.begin(f"fold {fold}: {case}")
            progress.reach(number, of=count)

        callbacks = CrossValidationCallbacks(monitor=monitor, on_case=on_case)
        result = cross_validate(Cache.open(args.cache), args.output, configs, options=options, callbacks=callbacks)
    console.say("\n" + crossval_text(result.evaluations))
    for effort in result.trainings:
        console.say(effort.text())
    left = len(result.splits.folds) - len(result.evaluations)
    if left:
        console.say(f"{left} of {len(result.splits.folds)} folds are not finished")
    return 0
