"""`gpu.sh train`: one network, until it is told to end; `gpu.sh run` starts one such process for each."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from gpu.data import opened_data
from gpu.pack import STAGES
from viscera.core.interrupts import clean_end
from viscera.training.config import TrainConfig, read_train_config
from viscera.training.train import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gpu.sh train` to `parser`."""
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("work", metavar="WORK", type=Path, help="where a pack was unpacked")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--sample-processes", type=int, default=0, help="processes that draw samples on the CPU")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting; repeatable")


def run(args: argparse.Namespace) -> int:
    """Train; SIGTERM saves a checkpoint and ends it."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        with clean_end(), opened_data(args.work, args.sample_processes) as data:
            real = () if data.real is None else data.real.cache.names_for(args.stage)
            train(
                args.stage,
                data,
                args.work / "runs" / args.stage,
                config_of(args.work, args.stage, args.set),
                names=(*data.files, *real),
                validation=() if data.validation is None else data.validation.names,
                initial=initial_of(args.work, args.stage),
                device=args.device,
            )
    except KeyboardInterrupt:  # Terminated is one, too
        print("stopped; the same command goes on")
    return 0


def config_of(work: Path, stage: str, overrides: list[str]) -> TrainConfig:
    """Return the settings of a stage."""
    return read_train_config(work / f"{stage}.toml", overrides)


def initial_of(work: Path, stage: str) -> Path | None:
    """Return the weights to begin with, None for random ones."""
    path = work / f"{stage}.safetensors"
    return path if path.is_file() else None
