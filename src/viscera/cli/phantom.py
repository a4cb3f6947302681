"""`viscera phantom`: a synthetic CT with known organs, or a whole data set of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import positive
from viscera.core.errors import ConfigError
from viscera.core.interrupts import clean_end

HELP = "write a synthetic CT with known organs"
DESCRIPTION = """\
Writes a synthetic abdominal CT, and the labels it was drawn from, to try viscera and other programs on. With --count,
a data set of varied scans for `viscera prepare`: images/ and labels/ in a folder, one virtual patient each, some scans
cut off at the organs and some without any."""
EXAMPLE = "viscera phantom -o ct.nii.gz --labels truth.nii.gz --seed 7 --phase portal"

PHASES = ("native", "arterial", "portal", "late")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        type=Path,
        help="the CT (.nii or .nii.gz), or a folder",
    )
    parser.add_argument("--labels", metavar="FILE", type=Path, help="its labels (.nii or .nii.gz)")
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="which virtual patient, of many the first (default: %(default)s)",
    )
    parser.add_argument("--phase", choices=PHASES, help="contrast phase (default: drawn by the seed)")
    parser.add_argument("--noise", metavar="HU", type=float, help="standard deviation of the noise (default: drawn)")
    parser.add_argument("--shape", metavar=("Z", "Y", "X"), nargs=3, type=int, help="voxels")
    parser.add_argument("--spacing", metavar=("Z", "Y", "X"), nargs=3, type=float, help="spacing in mm")
    parser.add_argument("--dicom", action="store_true", help="write a DICOM series into the folder given with -o")
    many = parser.add_argument_group("a data set")
    many.add_argument("--count", metavar="N", type=positive, help="number of varied scans to write to the folder OUT")
    many.add_argument(
        "--coarser", metavar="FACTOR", type=float, help="with --count: enlarge voxels by this factor, for quick trials"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the phantom or the data set and return the exit code."""
    if args.count is not None:
        return _write_many(args, console)
    return _write_one(args, console)


def _write_one(args: argparse.Namespace, console: Console) -> int:
    from viscera.formats.nifti_write import write_label_map, write_volume
    from viscera.synthesis.phantom import PhantomConfig, make_phantom

    chosen = {
        "shape_zyx": args.shape and tuple(args.shape),
        "spacing_zyx_mm": args.spacing and tuple(args.spacing),
        "phase": args.phase,
        "noise_hu": args.noise,
    }
    config = PhantomConfig(**{name: value for name, value in chosen.items() if value is not None})
    if args.coarser is not None:
        raise _conflict("--count with --coarser", "--coarser alone", "Add --count, or give --shape and --spacing")
    if args.labels is not None and args.labels.absolute() == args.output.absolute():
        raise _conflict("two files", f"{args.output} twice", "Give --labels another name")
    phantom = make_phantom(args.seed, config=config)
    if args.dicom:
        from viscera.formats.dicom.ct_write import write_ct_series

        write_ct_series(phantom.volume, args.output, name=f"Phantom{args.seed}")
    else:
        write_volume(phantom.volume, args.output)
    console.say(f"wrote {args.output}")
    if args.labels is not None:
        write_label_map(phantom.label_map, args.labels)
        console.say(f"wrote {args.labels}")
    return 0


def _write_many(args: argparse.Namespace, console: Console) -> int:
    from viscera.synthesis.phantom_dataset import write_phantom_set

    single = [f"--{name}" for name in ("labels", "phase", "noise", "shape", "spacing", "dicom") if getattr(args, name)]
    coarser = 1.0 if args.coarser is None else args.coarser
    if single or args.seed < 0 or not coarser > 0:
        got = " ".join(single) or f"--seed {args.seed} --coarser {coarser}"
        raise _conflict(
            "with --count a seed of 0 or more, a factor above 0 and nothing of a single scan", got, "Leave it out"
        )
    seeds = range(args.seed, args.seed + args.count)
    with clean_end(), console.progress() as progress:
        for done, name in enumerate(write_phantom_set(args.output, seeds, coarser=coarser), start=1):
            progress.begin(name)
            progress.reach(done, of=args.count)
    console.say(f"wrote {args.count} scans to {args.output}")
    return 0


def _conflict(expected: str, got: str, remedy: str) -> ConfigError:
    return ConfigError("planning the outputs", expected=expected, got=got, remedy=remedy)
