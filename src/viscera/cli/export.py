"""`viscera export`: a model bundle from trained weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import Console
from viscera.core.errors import ReadError

if TYPE_CHECKING:
    from viscera.model.bundle import ModelCard

HELP = "make a model bundle from trained weights"
DESCRIPTION = (
    "Makes a model bundle (weights, graphs, model card, checksums) from trained weights; needs viscera[train]."
)
EXAMPLE = "viscera export --localiser localise.safetensors --segmenter segment.safetensors --card card.json -o bundle/"

# Fields of a bundle's card that are written by the export itself.
_WRITTEN = {"format", "files"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    for name, network in (("localiser", "localisation"), ("segmenter", "segmentation")):
        parser.add_argument(
            f"--{name}",
            metavar="FILE.safetensors",
            required=True,
            type=Path,
            help=f"weights of the {network} network",
        )
    parser.add_argument("--card", metavar="CARD.json", required=True, type=Path, help="the model card")
    parser.add_argument("-o", "--output", metavar="BUNDLE", required=True, type=Path, help="folder of the new bundle")

    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the bundle and return the exit code."""
    from viscera.engines.export import export_bundle

    bundle = export_bundle(
        args.output,
        read_card(args.card),
        localise_weights=args.localiser,
        segment_weights=args.segmenter,
        overwrite=args.overwrite,
    )
    console.say(f"wrote {bundle.card.name} {bundle.card.version} to {bundle.folder}")
    return 0


def read_card(path: Path) -> ModelCard:
    """The card described in a JSON file; the checksums of a bundle's own card are passed over.

    Raises:
        ReadError: If the file cannot be read or is not JSON with the fields of a card.
        ConfigError: If the settings under "model" are not those of a `ModelConfig`, or the organs no organs.
    """
    from viscera.core.config import ModelConfig, from_dict, organ_table
    from viscera.core.organs import ORGANS
    from viscera.model.bundle import ModelCard

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _card_error(path, "a JSON file", str(error)) from error
    texts = {"name", "version", "description", "licence"}
    optional = {"model": dict, "organs": list, "training": dict, "metrics": dict, "limits": list}
    if not isinstance(values, dict) or not texts <= set(values) <= texts | set(optional) | _WRITTEN:
        given = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
        raise _card_error(path, f"{', '.join(sorted(texts))} and, if wanted, {', '.join(optional)}", given)
    kinds = dict.fromkeys(texts, str) | optional
    kept = {name: value for name, value in values.items() if name in kinds}
    if wrong := [name for name, value in kept.items() if not isinstance(value, kinds[name])]:
        raise _card_error(path, f"{wrong[0]} as {kinds[wrong[0]].__name__}", type(kept[wrong[0]]).__name__)
    kept["model"] = from_dict(ModelConfig, kept.get("model", {}))
    kept["organs"] = organ_table(kept["organs"]) if "organs" in kept else ORGANS
    kept["limits"] = tuple(map(str, kept.get("limits", ())))
    return ModelCard(**kept)


def _card_error(path: Path, expected: str, got: str) -> ReadError:
    return ReadError(f"reading the model card {path}", expected=expected, got=got, remedy="Correct the card")
