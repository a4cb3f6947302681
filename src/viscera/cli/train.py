"""`viscera train`: one of the two networks, on prepared cases."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import Console
from viscera.cli.options import positive
from viscera.cli.training_monitor import run_monitor
from viscera.cli.training_options import add_config, add_hardware, add_run, requiring_train, use_threads
from viscera.core.errors import ConfigError
from viscera.core.interrupts import clean_end

if TYPE_CHECKING:
    from viscera.training.cache import Cache
    from viscera.training.data_sources import SyntheticData
    from viscera.training.splits import Fold

HELP = "train a network on prepared cases or on synthetic CTs"
DESCRIPTION = """\
Trains the localisation or the segmentation network on cases that `viscera prepare` stored in CASES, or on new synthetic
CTs of the virtual patients that `viscera anatomies` stored there; needs viscera[train]. Writes averaged weights,
settings, a log and checkpoints to RUN. After any interruption, the same command resumes from the newest checkpoint.
Under torchrun several GPUs share the work."""
EXAMPLE = "viscera train segment cache/ -o runs/segment --config segment.toml --fold-file splits.json --fold 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("stage", choices=("localise", "segment"), help="which network")
    parser.add_argument("cache", metavar="CASES", type=Path, help="folder of prepared cases, or of anatomies")
    add_run(parser)
    settings = parser.add_argument_group("settings")
    add_config(settings, help_config="settings (default: the published ones)")
    settings.add_argument(
        "--initial",
        metavar="FILE.safetensors",
        type=Path,
        help="weights to start from; for localise also a segmentation network's",
    )
    settings.add_argument("--restart", action="store_true", help="start again, deleting the checkpoints in RUN")
    cases = parser.add_argument_group("cases (default: all of CASES, none for validation)")
    cases.add_argument("--fold-file", metavar="FILE.json", type=Path, help="folds as viscera crossval writes them")
    cases.add_argument("--fold", metavar="K", type=positive, help="which of them, counted from 1")
    cases.add_argument("--names", metavar="NAME", nargs="+", help="cases to train on")
    cases.add_argument("--validation", metavar="NAME", nargs="+", help="cases held out for validation")
    cases.add_argument(
        "--validation-cache", metavar="CACHE", type=Path, help="prepared cases to validate a training on anatomies"
    )
    cases.add_argument("--real", metavar="CACHE", type=Path, help="prepared real CTs to mix with those of anatomies")
    add_hardware(parser)
    parser.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard to RUN/tensorboard")


def run(args: argparse.Namespace, console: Console) -> int:
    """Train and return the exit code."""
    from viscera.training.config import read_train_config

    with requiring_train("training"):
        from viscera.training.train import train
    use_threads(args)
    config = read_train_config(args.config, args.overrides)
    cases, fold = opened_cases(args)
    first = os.environ.get("RANK", "0") == "0"  # torchrun numbers its processes; the first one prints
    try:
        with clean_end():
            weights = train(
                args.stage,
                cases,
                args.output,
                config,
                names=fold.train,
                validation=fold.val,
                initial=args.initial,
                resume=not args.restart,
                device=args.device,
                monitor=run_monitor(args.output, console, tensorboard=args.tensorboard) if first else None,
            )
    except KeyboardInterrupt:
        if first:
            _say_where(args.output, console)
        raise
    if first:
        console.say(f"wrote {weights}")
    return 0


def opened_cases(args: argparse.Namespace) -> tuple[Cache | SyntheticData, Fold]:
    """Return the cases in the folder the arguments name, and which of them to train on and to hold out.

    Raises:
        ConfigError, ReadError: As `chosen_cases`, or if the folder holds neither cases nor anatomies.
    """
    from viscera.synthesis.anatomy import ANATOMIES
    from viscera.training.cache import Cache
    from viscera.training.data_sources import SyntheticData
    from viscera.training.splits import Fold

    if not (args.cache / ANATOMIES).is_file():
        if args.validation_cache is not None or args.real is not None:
            raise ConfigError(
                "choosing cases",
                expected="--validation-cache and --real only with anatomies",
                got=f"prepared cases in {args.cache}",
                remedy="Name cases of it with --validation",
            )
        cache = Cache.open(args.cache)
        return cache, chosen_cases(args, cache)
    if args.fold_file is not None or args.fold is not None or args.validation:
        raise ConfigError(
            "choosing cases",
            expected="--validation-cache with anatomies",
            got="--fold-file, --fold or --validation",
            remedy="Anatomies have no folds; leave them out",
        )
    held_out = None if args.validation_cache is None else Cache.open(args.validation_cache)
    real = None if args.real is None else Cache.open(args.real)
    data = SyntheticData.open(args.cache, held_out, real=real)
    trained = (*data.files, *(() if real is None else real.names_for(args.stage)))
    return data, Fold(train=tuple(args.names or trained), val=() if held_out is None else held_out.names)


def chosen_cases(args: argparse.Namespace, cache: Cache) -> Fold:
    """Return the cases to train on and those held out, as the arguments say.

    Raises:
        ConfigError: If the arguments contradict each other or name what is not there.
        ReadError: If the file of folds cannot be read.
    """
    from viscera.training.splits import Fold, read_splits

    if args.fold_file is None:
        if args.fold is not None:
            raise ConfigError("choosing cases", expected="--fold-file with --fold", got="none", remedy="Give the file")
        held_out = tuple(args.validation or ())
        rest = tuple(name for name in cache.names if name not in held_out)
        return Fold(train=tuple(args.names or rest), val=held_out)
    if args.fold is None or args.names or args.validation:
        raise ConfigError(
            "choosing cases",
            expected="--fold with --fold-file, and neither --names nor --validation",
            got="other arguments",
            remedy="Give either folds or names",
        )
    folds = read_splits(args.fold_file, cache.names).folds
    if args.fold > len(folds):
        raise ConfigError(
            f"choosing fold {args.fold} of {args.fold_file}",
            expected=f"a number up to {len(folds)}",
            got=str(args.fold),
            remedy="Correct --fold",
        )
    chosen: Fold = folds[args.fold - 1]
    return chosen


def _say_where(run: Path, console: Console) -> None:
    from viscera.training.checkpoint import checkpoint_iterations

    if iterations := checkpoint_iterations(run):
        console.note(f"saved at iteration {iterations[-1]}; run the same command to resume")
