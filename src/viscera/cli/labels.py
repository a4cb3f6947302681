"""`viscera labels`: names and colours of the labels, for 3D Slicer and ITK-SNAP."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.cli.console import Console

HELP = "write the labels' names and colours for 3D Slicer and ITK-SNAP"
DESCRIPTION = """\
Writes the organs of a bundle, with names, colours and codes, as 3D Slicer (organs.ctbl, organs.labels.csv) and ITK-SNAP
(organs_itksnap.txt) read them. One set of files serves all label maps of a bundle."""
EXAMPLE = "viscera labels -o labels/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("-o", "--output", metavar="DIR", required=True, type=Path, help="the folder for the files")
    parser.add_argument("--bundle", metavar="DIR_OR_NAME", help="another model bundle than the default")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the files and return the exit code."""
    from viscera.core.files import write_text
    from viscera.formats.colour_tables import all_label_files
    from viscera.model.bundle import load_bundle
    from viscera.segmenter import bundle_source

    bundle = load_bundle(None if args.bundle is None else bundle_source(args.bundle))
    for name, text in all_label_files(bundle.card.organs).items():
        write_text(text, args.output / name)
        console.say(str(args.output / name))
    return 0
