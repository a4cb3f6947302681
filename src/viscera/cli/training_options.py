"""Arguments that the subcommands which train share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viscera.cli.options import DEVICES, positive
from viscera.core.errors import MissingExtraError


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the folder that a training writes to."""
    parser.add_argument("-o", "--output", metavar="RUN", required=True, type=Path, help="folder of the run")


def add_config(parser: argparse._ActionsContainer, *, help_config: str) -> None:
    """Add the file with the settings of one training, and changes of single settings."""
    parser.add_argument("--config", metavar="FILE.toml", type=Path, help=help_config)
    add_overrides(parser)


def add_overrides(parser: argparse._ActionsContainer) -> None:
    """Add changes of single settings."""
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="one setting, e.g. augment.gain=0.1; repeatable",
    )


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """Add where a training computes."""
    group = parser.add_argument_group("hardware")
    group.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: %(default)s)")
    group.add_argument("--threads", metavar="N", type=positive, help="CPU threads (default: one per core)")


def use_threads(args: argparse.Namespace) -> None:
    """Let torch use as many threads as the arguments of `add_hardware` say."""
    import torch

    if args.threads is not None:
        torch.set_num_threads(args.threads)


@contextmanager
def requiring_train(doing: str, packages: str = "torch and safetensors") -> Iterator[None]:
    """Raise MissingExtraError if an import in the block fails because the extra `train` is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            doing, expected=packages, got=str(error), remedy="Run pip install 'viscera[train]'"
        ) from error
