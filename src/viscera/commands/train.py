"""`viscera train`: one of the two networks, on phantoms."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from viscera.commands.console import Console
from viscera.commands.options import positive
from viscera.errors import ConfigError, MissingExtraError, VisceraError

HELP = "train a network on synthetic CTs"
DESCRIPTION = (
    "Trains the localisation or the segmentation network on phantoms, which are made in CASES if not there yet; needs "
    "viscera[train]. Writes averaged weights, settings and a log to RUN; `viscera export` makes a bundle of two runs."
)
EXAMPLE = "viscera train segment cases/ -o runs/segment --phantoms 400 --config starter.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments to `parser`."""
    parser.add_argument("stage", choices=("localise", "segment"), help="which network")
    parser.add_argument("cases", metavar="CASES", type=Path, help="folder of training cases")
    parser.add_argument("-o", "--output", metavar="RUN", required=True, type=Path, help="folder of the run")
    parser.add_argument("--phantoms", metavar="N", type=positive, default=400, help="cases (default: %(default)s)")
    parser.add_argument("--first-seed", metavar="N", type=int, default=1000, help="of the cases (default: %(default)s)")
    parser.add_argument("--config", metavar="FILE.json", type=Path, help="settings (default: the published ones)")
    parser.add_argument("--initial", metavar="FILE.safetensors", type=Path, help="weights to begin with")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads (default: one per core)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Trains and returns the exit code."""
    try:
        import torch

        from viscera.training.cases import write_phantom_case
        from viscera.training.loop import train
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "training", expected="torch and safetensors", got=str(error), remedy="Run pip install 'viscera[train]'"
        ) from error
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    config = read_config(args.config)
    with console.progress() as progress:
        paths = []
        for index in range(args.phantoms):
            progress.begin("making phantoms")
            progress.reach(index, of=args.phantoms)
            paths.append(write_phantom_case(args.cases, args.first_seed + index))

        def on_step(iteration: int, loss: float) -> None:
            progress.begin(f"{args.stage}: iteration {iteration}, loss {loss:.3f}")
            progress.reach(iteration, of=config.iterations)

        weights = train(args.stage, paths, args.output, config, initial=args.initial, on_step=on_step)
    console.say(f"wrote {weights}")
    return 0


def read_config(path: Path | None) -> Any:
    """The `TrainConfig` in a JSON file, or the published one.

    Raises:
        VisceraError: If the file cannot be read.
        ConfigError: If it is not JSON, or a field is unknown or out of range.
    """
    from viscera.config import from_dict
    from viscera.training.loop import TrainConfig

    if path is None:
        return TrainConfig()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VisceraError(
            f"reading {path}", expected="a JSON file", got=error.strerror or str(error), remedy="Check the path"
        ) from error
    except ValueError as error:
        raise ConfigError(f"reading {path}", expected="JSON", got=str(error), remedy="Correct the file") from error
    return from_dict(TrainConfig, values)
