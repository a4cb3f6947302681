"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscera.core.errors import ConfigError
from viscera.core.memory import parse_bytes

if TYPE_CHECKING:
    from viscera.case import CaseOptions
    from viscera.segmenter import Segmenter

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "f32", "bf16")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add what chooses model and hardware."""
    group = parser.add_argument_group("model and hardware")
    group.add_argument("--bundle", metavar="DIR_OR_NAME", help="another model bundle than the default")
    group.add_argument(
        "--device", type=device, choices=DEVICES, default="auto", help="where to compute (default: %(default)s)"
    )
    group.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="arithmetic of the networks (default: %(default)s)"
    )
    group.add_argument("--threads", metavar="N", type=positive, help="CPU threads (default: one per core)")
    group.add_argument(
        "--memory-limit",
        metavar="SIZE",
        type=memory_size,
        help="limit on memory, e.g. 800MB: of the whole process, or of the networks on a GPU",
    )
    group.add_argument("--no-cache", action="store_true", help="do not cache compiled networks for the next run")


def loaded_segmenter(args: argparse.Namespace) -> Segmenter:
    """Return the segmenter that the arguments of `add_runtime` ask for.

    Raises:
        ConfigError, BundleError, MissingExtraError: As `Segmenter.load`, or if the bundle lacks an organ asked for.
    """
    from viscera.core.roi_subset import chosen_organs
    from viscera.segmenter import Segmenter

    segmenter = Segmenter.load(
        args.bundle,
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        memory_limit=args.memory_limit,
        cache=None if args.no_cache else cache_folder(os.environ, sys.platform),
    )
    chosen_organs(segmenter.bundle.card.organs, getattr(args, "roi_subset", ()))  # refused before any case is read
    return segmenter


def add_writing(group: argparse._ArgumentGroup) -> None:
    """Add what is written of each case, and what is accepted."""
    group.add_argument(
        "-f",
        "--format",
        choices=("nifti", "dicom-seg", "rtstruct", "seg-nrrd"),
        action="append",
        help="write NAME.nii.gz, NAME.seg.nrrd (3D Slicer), or from DICOM NAME_seg.dcm, NAME_rtstruct.dcm (repeatable; "
        "default: nifti)",
    )
    group.add_argument(
        "--seg-type",
        choices=("binary", "labelmap"),
        default="binary",
        help="type of DICOM SEG: binary, which all readers know, or labelmap, smaller and new (default: %(default)s)",
    )
    group.add_argument(
        "--layout",
        choices=("flat", "bids"),
        default="flat",
        help="how OUT is laid out: NAME.nii.gz, or as BIDS derivatives (default: %(default)s)",
    )
    group.add_argument(
        "--clean",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="remove small components; what is removed is reported (default: as the bundle's card says)",
    )
    group.add_argument(
        "--roi-subset",
        metavar="ORGAN",
        nargs="+",
        default=[],
        help="write and measure only these organs, by name, e.g. liver spleen; all else is background",
    )
    group.add_argument(
        "--split-kidneys",
        action="store_true",
        help="give the left kidney a label of its own, the first free one (5); the right one keeps 2",
    )
    group.add_argument(
        "--probabilities", action="store_true", help="write NAME_probabilities.nii.gz, on the network's own grid"
    )
    group.add_argument(
        "--uncertainty", action="store_true", help="write NAME_uncertainty.nii.gz, the entropy of the probabilities"
    )
    group.add_argument("--preview", action="store_true", help="write NAME_preview.png next to each label file")
    group.add_argument("--allow-mirrored", action="store_true", help="accept a scan that is certainly a mirror image")
    group.add_argument("--allow-empty", action="store_true", help="write an empty label map where no organ is found")


def case_options(args: argparse.Namespace) -> CaseOptions:
    """Return what the arguments of `add_writing` and `--hu-offset` ask for."""
    from viscera.case import CaseOptions

    return CaseOptions(
        hu_offset=args.hu_offset,
        allow_empty=args.allow_empty,
        allow_mirrored=args.allow_mirrored,
        preview=args.preview,
        clean=args.clean,
        split_kidneys=args.split_kidneys,
        probabilities=args.probabilities,
        uncertainty=args.uncertainty,
        layout=args.layout,
        formats=tuple(dict.fromkeys(args.format or ["nifti"])),
        seg_type=args.seg_type,
        roi_subset=tuple(dict.fromkeys(args.roi_subset)),
    )


def cache_folder(environment: Mapping[str, str], platform: str) -> Path | None:
    """Return where this user's compiled networks are kept, a folder of viscera's own; None if the system has no place.

    XDG_CACHE_HOME or ~/.cache on Linux (XDG base directory specification), ~/Library/Caches on macOS, LOCALAPPDATA on
    Windows.
    """
    home = environment.get("HOME")
    if platform == "win32":
        base = environment.get("LOCALAPPDATA")
    elif platform == "darwin":
        base = home and f"{home}/Library/Caches"
    else:
        given = environment.get("XDG_CACHE_HOME", "")
        base = given if given.startswith("/") else home and f"{home}/.cache"  # the standard ignores relative ones
    return Path(base, "viscera", "compiled") if base else None


def device(text: str) -> str:
    """Return the device as viscera calls it: gpu is cuda."""
    return "cuda" if text.lower() == "gpu" else text


def memory_size(text: str) -> int:
    """Return the bytes that `text` means; raises ArgumentTypeError if it means none."""
    try:
        return parse_bytes(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"expected {error.expected}, got {error.got}") from error


def positive(text: str) -> int:
    """Return the whole number above 0 that `text` is; raises ArgumentTypeError otherwise."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return number


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a run as its report shows them: all but the inputs, paths as text.

    A series UID points to a patient, so only that one was chosen is recorded.
    """
    left_out = {"subcommand", "version", "inputs", "series", "verbose", "quiet"}
    given = {name: value for name, value in vars(args).items() if name not in left_out}
    if "series" in vars(args):
        given["series_chosen"] = args.series is not None
    return {
        name: value if isinstance(value, bool | int | float | None) else str(value) for name, value in given.items()
    }
