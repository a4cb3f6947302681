"""`viscera synthesise`: synthetic CTs of anatomies, to look at what training sees."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import positive
from viscera.cli.training_options import add_config, requiring_train
from viscera.core.errors import ConfigError
from viscera.core.interrupts import clean_end

HELP = "write synthetic CTs of anatomies, and a contact sheet"
DESCRIPTION = """\
Draws CTs of virtual patients from the anatomies that `viscera anatomies` wrote to ANATOMIES, as training does: images/
and labels/ in a folder, and with --sheet a picture of all of them. Needs viscera[train]."""
EXAMPLE = "viscera synthesise anatomies/ -o examples/ --count 24 --sheet examples/sheet.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("anatomies", metavar="ANATOMIES", type=Path, help="folder of anatomies")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="folder for images/ and labels/")
    parser.add_argument("--sheet", metavar="FILE.png", type=Path, help="picture of all scans")
    parser.add_argument("--count", metavar="N", type=positive, default=24, help="scans (default: %(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="which scans (default: %(default)s)")
    parser.add_argument(
        "--voxel", metavar="MM", type=float, default=2.0, help="in-plane spacing, least slice distance (default: 2)"
    )
    add_config(parser, help_config="settings of a training; [synthesis] is used")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the scans and return the exit code."""
    if (args.output is None and args.sheet is None) or args.seed < 0 or not args.voxel > 0:
        raise ConfigError(
            "synthesising CTs",
            expected="-o or --sheet, a seed of 0 or more and a voxel size above 0",
            got=f"-o {args.output} --sheet {args.sheet} --seed {args.seed} --voxel {args.voxel}",
            remedy="Correct the arguments",
        )
    with requiring_train("synthesising CTs", "torch"):
        from viscera.synthesis.examples import draw_example, sheet_png, write_examples
        from viscera.training.data_sources import SyntheticData
    import numpy as np

    from viscera.core.files import write_bytes
    from viscera.synthesis.anatomy import Anatomy
    from viscera.training.config import read_train_config

    config = read_train_config(args.config, args.overrides).synthesis
    files = list(SyntheticData.open(args.anatomies).files.values())
    shown = []
    with clean_end(), console.progress() as progress:
        for number in range(args.seed, args.seed + args.count):
            name = f"synthetic_{number:05d}"
            progress.begin(name)
            rng = np.random.default_rng([number, 3])
            anatomy = Anatomy.load(files[int(rng.integers(len(files)))])
            example = draw_example(anatomy, config, args.voxel, rng)
            if args.output is not None:
                list(write_examples(args.output, [(name, example)]))
            if args.sheet is not None:
                shown.append(example)
            progress.reach(number - args.seed + 1, of=args.count)
    if args.sheet is not None:
        write_bytes(sheet_png(shown), args.sheet)
        console.say(f"wrote {args.sheet}")
    if args.output is not None:
        console.say(f"wrote {args.count} scans to {args.output}")
    return 0
