"""`viscera finetune`: a training that begins with a bundle's weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import DEVICES, device, positive
from viscera.cli.training_monitor import run_monitor
from viscera.core.errors import ConfigError, MissingExtraError
from viscera.core.interrupts import clean_end

HELP = "fine-tune a network of a bundle, also for other organs"
DESCRIPTION = """\
Trains a network on the cases in CACHE, starting from a bundle's weights and its sampling and network settings. If the
cache has other organs than the bundle, the local network is kept except for its last layer, and the spatial networks
start from random weights; which weights are kept is reported. Needs viscera[train]."""
EXAMPLE = "viscera finetune fast segment cache/ -o runs/mine --set iterations=20000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle, or the name of a shipped one")
    parser.add_argument("stage", choices=("localise", "segment"), help="which network")
    parser.add_argument("cache", metavar="CACHE", type=Path, help="folder of prepared cases")
    parser.add_argument("-o", "--output", metavar="RUN", required=True, type=Path, help="folder of the run")
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        type=Path,
        help="settings of the training; the model's come from the bundle",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change a setting, e.g. learning_rate=1e-5",
    )
    parser.add_argument(
        "--device", type=device, choices=DEVICES, default="auto", help="where to train (default: %(default)s)"
    )
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads (default: one per core)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Train and return the exit code."""
    try:
        import torch

        from viscera.training.initial_weights import fitted_model, write_beginning
        from viscera.training.train import train
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "fine-tuning", expected="torch and safetensors", got=str(error), remedy="Run pip install 'viscera[train]'"
        ) from error
    from dataclasses import replace

    from viscera.core.config import ModelConfig
    from viscera.model.bundle import load_bundle
    from viscera.segmenter import bundle_source
    from viscera.training.cache import Cache
    from viscera.training.config import read_train_config

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    bundle, cache = load_bundle(bundle_source(args.bundle)), Cache.open(args.cache)
    organs = cache.manifest.settings.organs
    config = read_train_config(args.config, args.overrides)
    if config.model != ModelConfig():
        raise ConfigError(
            "fine-tuning",
            expected="the bundle's sampling and networks",
            got="settings of the model",
            remedy="Take [model] out of the settings, or train from the start",
        )
    config = replace(config, model=fitted_model(bundle, organs))
    beginning = write_beginning(
        bundle, args.stage, config.model, organs, args.output / "initial.safetensors", seed=config.seed
    )
    console.say(f"{bundle.card.name} {bundle.card.version}, {args.stage}: {beginning.summary()}")
    with clean_end():
        weights = train(
            args.stage,
            cache,
            args.output,
            config,
            names=cache.names_for(args.stage),
            initial=beginning.file,
            device=args.device,
            monitor=run_monitor(args.output, console),
        )
    console.say(f"wrote {weights}")
    return 0
