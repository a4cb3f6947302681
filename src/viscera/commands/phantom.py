"""`viscera phantom`: a synthetic CT with known organs."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.commands.console import Console
from viscera.errors import ConfigError

HELP = "write a synthetic CT with known organs"
DESCRIPTION = "Writes a synthetic abdominal CT, and the labels it was drawn from, to try viscera and other programs on."
EXAMPLE = "viscera phantom -o ct.nii.gz --labels truth.nii.gz --seed 7 --phase portal"

PHASES = ("native", "arterial", "portal", "late")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments to `parser`."""
    parser.add_argument("-o", "--output", metavar="FILE", required=True, type=Path, help="the CT (.nii or .nii.gz)")
    parser.add_argument("--labels", metavar="FILE", type=Path, help="the labels it was drawn from (.nii or .nii.gz)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="which person (default: %(default)s)")
    parser.add_argument("--phase", choices=PHASES, help="contrast phase (default: drawn by the seed)")
    parser.add_argument("--noise", metavar="HU", type=float, help="standard deviation of the noise (default: drawn)")
    parser.add_argument("--shape", metavar=("Z", "Y", "X"), nargs=3, type=int, help="voxels")
    parser.add_argument("--spacing", metavar=("Z", "Y", "X"), nargs=3, type=float, help="spacing in mm")


def run(args: argparse.Namespace, console: Console) -> int:
    """Writes the phantom and returns the exit code."""
    from viscera.phantom import PhantomConfig, make_phantom
    from viscera.write import write_label_map, write_volume

    chosen = {
        "shape_zyx": args.shape and tuple(args.shape),
        "spacing_zyx_mm": args.spacing and tuple(args.spacing),
        "phase": args.phase,
        "noise_hu": args.noise,
    }
    config = PhantomConfig(**{name: value for name, value in chosen.items() if value is not None})
    if args.labels is not None and args.labels.absolute() == args.output.absolute():
        raise ConfigError(
            "planning the outputs",
            expected="two files",
            got=f"{args.output} twice",
            remedy="Give --labels another name",
        )
    phantom = make_phantom(args.seed, config=config)
    write_volume(phantom.volume, args.output)
    console.say(f"wrote {args.output}")
    if args.labels is not None:
        write_label_map(phantom.label_map, args.labels)
        console.say(f"wrote {args.labels}")
    return 0
