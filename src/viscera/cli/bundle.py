"""`viscera bundle`: a model bundle from two trainings, or from one and the other network of a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import Console
from viscera.cli.export import say_differences

if TYPE_CHECKING:
    from viscera.model.bundle import Bundle, Stage

HELP = "make a model bundle from two trainings, or from a bundle and one training"
DESCRIPTION = """\
Makes a bundle, as `viscera segment --bundle` takes it, from the folders of a localisation and a segmentation training,
or from a bundle and one training: the other network and its settings are then taken from that bundle.
The card holds the trainings' settings, data, time and energy, and what CARD.json adds: name, version, description,
licence, metrics, limits, organs. Needs viscera[train]."""
EXAMPLE = "viscera bundle fast runs/segment -o bundle/ --card card.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument(
        "first", metavar="BUNDLE_OR_RUN", help="folder of the localisation's training, or a bundle (folder or name)"
    )
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="folder of the segmentation's training; after a bundle, of either"
    )
    parser.add_argument("-o", "--output", metavar="BUNDLE", required=True, type=Path, help="folder of the new bundle")
    parser.add_argument(
        "--card", metavar="CARD.json", type=Path, help="what the card says in addition to what the trainings know"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is in that folder")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the bundle and return the exit code."""
    from viscera.engines.torch_engine import import_torch

    import_torch()
    from viscera.engines.export import export_bundle
    from viscera.model.bundle import STAGES
    from viscera.training.run_folder import bundle_card, combined_card, read_run

    name, base = args.output.absolute().name, _bundle_named(args.first)
    if base is None:
        runs = [read_run(folder, stage) for folder, stage in zip((Path(args.first), args.run), STAGES, strict=True)]
        card = bundle_card(*runs, name=name, file=args.card)
    else:
        runs = [read_run(args.run)]
        card = combined_card(base, runs[0], name=name, file=args.card)
    weights: dict[Stage, Path] = {} if base is None else {stage: base.weights(stage) for stage in STAGES}
    weights |= {trained.stage: trained.weights for trained in runs}
    bundle = export_bundle(
        args.output,
        card,
        localise_weights=weights["localise"],
        segment_weights=weights["segment"],
        overwrite=args.overwrite,
    )
    console.say(f"wrote {bundle.card.name} {bundle.card.version} to {bundle.folder}")
    if base is not None:
        say_differences(bundle, base, console)
    return 0


def _bundle_named(text: str) -> Bundle | None:
    """The bundle in the folder or of the shipped name `text`; None if it is the folder of a training, or nothing."""
    from viscera.model.bundle import CARD, list_bundles, load_bundle

    folder = Path(text)
    if (folder / "config.json").exists():  # a training has one, a bundle has not
        return None
    if (folder / CARD).exists():
        return load_bundle(folder)
    return load_bundle(text) if text in list_bundles() else None
