"""`viscera export`: a model bundle from trained weights, or a MONAI bundle of one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import Console
from viscera.core.errors import ReadError

if TYPE_CHECKING:
    from viscera.model.bundle import Bundle, ModelCard

HELP = "make a model bundle from trained weights, or a MONAI bundle"
DESCRIPTION = """\
Makes a model bundle (weights, graphs, model card, checksums) from trained weights, and says how it differs from another
one; needs viscera[train]. With --monai DIR a bundle is written for MONAI instead, which needs nothing else."""
EXAMPLE = "viscera export --localiser localise.safetensors --segmenter segment.safetensors --card card.json -o bundle/"

# Fields of a bundle's card that are written by the export itself.
_WRITTEN = {"format", "files"}
_FROM_WEIGHTS = {"localiser": "--localiser", "segmenter": "--segmenter", "card": "--card", "output": "-o"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    for name, network in (("localiser", "localisation"), ("segmenter", "segmentation")):
        parser.add_argument(
            f"--{name}", metavar="FILE.safetensors", type=Path, help=f"weights of the {network} network"
        )
    parser.add_argument("--card", metavar="CARD.json", type=Path, help="the model card")
    parser.add_argument("-o", "--output", metavar="BUNDLE", type=Path, help="folder of the new bundle")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is in that folder")
    parser.add_argument("--monai", metavar="DIR", type=Path, help="write --bundle as a MONAI bundle to this new folder")
    parser.add_argument(
        "--bundle",
        metavar="DIR_OR_NAME",
        help="bundle that --monai writes, or that the new one is compared with (default: the shipped one)",
    )
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the bundle and return the exit code."""
    from viscera.model.bundle import load_bundle
    from viscera.segmenter import bundle_source

    _require_usage(args)
    base = load_bundle(None if args.bundle is None else bundle_source(args.bundle))
    if args.monai is not None:
        from viscera.model.monai_bundle import write_monai_bundle

        folder = write_monai_bundle(args.monai, base)
        console.say(f"wrote {base.card.name} {base.card.version} as a MONAI bundle to {folder}")
        return 0
    from viscera.engines.export import export_bundle

    bundle = export_bundle(
        args.output,
        read_card(args.card),
        localise_weights=args.localiser,
        segment_weights=args.segmenter,
        overwrite=args.overwrite,
    )
    console.say(f"wrote {bundle.card.name} {bundle.card.version} to {bundle.folder}")
    say_differences(bundle, base, console)
    return 0


def _require_usage(args: argparse.Namespace) -> None:
    """End with a usage error unless all of the options for weights are given, or --monai without them."""
    given = [option for name, option in _FROM_WEIGHTS.items() if getattr(args, name) is not None]
    if args.monai is not None and given:
        args.usage_error(f"--monai takes no {', '.join(given)}")
    if args.monai is None and len(given) < len(_FROM_WEIGHTS):
        missing = [option for option in _FROM_WEIGHTS.values() if option not in given]
        args.usage_error(f"the following arguments are required: {', '.join(missing)} (or --monai)")


def say_differences(bundle: Bundle, base: Bundle, console: Console) -> None:
    """Print how `bundle` differs from `base`."""
    from viscera.model.bundle import bundle_differences

    console.say(f"compared with {base.card.name} {base.card.version}:")
    for line in bundle_differences(bundle, base):
        console.say(f"  {line}")


def read_card(path: Path) -> ModelCard:
    """The card described in a JSON file; the checksums of a bundle's own card are ignored.

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
