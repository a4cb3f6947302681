"""`viscera bundle`: a model bundle from two finished trainings."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.cli.console import Console

HELP = "make a model bundle from two trainings"
DESCRIPTION = """\
Makes a bundle, as `viscera segment --bundle` takes it, from the folders of a localisation and a segmentation training.
Its card holds both trainings' settings, data, time and energy, and what CARD.json adds: name, version, description,
licence, metrics, limits, organs. Needs viscera[train]."""
EXAMPLE = "viscera bundle runs/localise runs/segment -o bundle/ --card card.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("localise", metavar="RUN_LOC", type=Path, help="folder of the localisation's training")
    parser.add_argument("segment", metavar="RUN_SEG", type=Path, help="folder of the segmentation's training")
    parser.add_argument("-o", "--output", metavar="BUNDLE", required=True, type=Path, help="folder of the new bundle")
    parser.add_argument("--card", metavar="CARD.json", type=Path, help="further entries of the card")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the bundle and return the exit code."""
    from viscera.engines.torch_engine import import_torch

    import_torch()
    from viscera.engines.export import export_bundle
    from viscera.training.run_folder import bundle_card, read_run

    localise, segment = read_run(args.localise, "localise"), read_run(args.segment, "segment")
    card = bundle_card(localise, segment, name=args.output.absolute().name, file=args.card)
    bundle = export_bundle(
        args.output,
        card,
        localise_weights=localise.weights,
        segment_weights=segment.weights,
        overwrite=args.overwrite,
    )
    console.say(f"wrote {bundle.card.name} {bundle.card.version} to {bundle.folder}")
    return 0
