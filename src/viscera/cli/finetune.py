"""`viscera finetune`: a training that starts from a bundle's weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.training_monitor import run_monitor
from viscera.cli.training_options import add_config, add_hardware, add_run, requiring_train, use_threads
from viscera.core.errors import ConfigError
from viscera.core.interrupts import clean_end

HELP = "fine-tune a bundle's network, also for other organs"
DESCRIPTION = """\
Trains a network on the cases in CACHE, starting from a bundle's weights, with its sampling and network settings. If the
cache has other organs than the bundle, the local network is kept except for its last layer, and the spatial networks
are initialised again; what was kept is printed. Needs viscera[train]."""
EXAMPLE = "viscera finetune fast segment cache/ -o runs/mine --set iterations=20000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle, or the name of a shipped one")
    parser.add_argument("stage", choices=("localise", "segment"), help="which network")
    parser.add_argument("cache", metavar="CACHE", type=Path, help="folder of prepared cases")
    add_run(parser)
    add_config(parser, help_config="settings of the training; the model's are the bundle's")
    add_hardware(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Train and return the exit code."""
    with requiring_train("fine-tuning"):
        from viscera.training.initial_weights import fitted_model, write_initial_weights
        from viscera.training.train import train
    from dataclasses import replace

    from viscera.core.config import ModelConfig
    from viscera.model.bundle import load_bundle
    from viscera.segmenter import bundle_source
    from viscera.training.cache import Cache
    from viscera.training.config import read_train_config

    use_threads(args)
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
    initial = write_initial_weights(
        bundle, args.stage, config.model, organs, args.output / "initial.safetensors", seed=config.seed
    )
    console.say(f"{bundle.card.name} {bundle.card.version}, {args.stage}: {initial.summary()}")
    with clean_end():
        weights = train(
            args.stage,
            cache,
            args.output,
            config,
            names=cache.names_for(args.stage),
            initial=initial.file,
            device=args.device,
            monitor=run_monitor(args.output, console),
        )
    console.say(f"wrote {weights}")
    return 0
