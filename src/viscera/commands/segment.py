"""`viscera segment`: organ labels for any number of CTs."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.commands.console import Console
from viscera.commands.options import add_machinery, given_options, loaded_segmenter

HELP = "label the organs of one or many CTs"
DESCRIPTION = """\
Labels liver (1), kidneys (2), spleen (3) and pancreas (4), or the organs of another bundle, on each CT's own grid and
writes them as NIfTI, DICOM SEG or RTSTRUCT.
A case that fails is named and the others are still done."""
EXAMPLE = "viscera segment patient/dicom/ more/*.nii.gz -o labels/ --preview --statistics --report run.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments to `parser`."""
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=Path,
        help="a CT (.nii, .nii.gz, .nrrd, .mha, .mhd, DICOM file), a DICOM folder, a zip of one, or a folder of CTs",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        type=Path,
        help="a .nii or .nii.gz file for one CT, else a folder for NAME.nii.gz",
    )
    add_machinery(parser)
    reading = parser.add_argument_group("reading")
    reading.add_argument(
        "--series", metavar="N_OR_UID", help="which of several DICOM series: its number or the beginning of its UID"
    )
    reading.add_argument(
        "--hu-offset", metavar="HU", type=int, default=0, help="add this to every voxel, e.g. -1024 for a shifted scale"
    )
    _add_writing(parser.add_argument_group("writing"))


def run(args: argparse.Namespace, console: Console) -> int:
    """Segments the inputs and returns the exit code."""
    from viscera.case import CaseOptions
    from viscera.commands.batch import Batch, Request
    from viscera.commands.layouts import LAYOUTS
    from viscera.commands.plan import plan_cases
    from viscera.formats import require_formats

    layout, formats = LAYOUTS[args.layout], tuple(dict.fromkeys(args.format or ["nifti"]))
    require_formats(formats)
    plan = plan_cases(args.inputs, args.output, args.report, layout, formats=formats)
    options = CaseOptions(
        series=args.series,
        hu_offset=args.hu_offset,
        allow_empty=args.allow_empty,
        allow_mirrored=args.allow_mirrored,
        preview=args.preview,
        clean=args.clean,
        side_files=layout.side_files,
        formats=formats,
        seg_type=args.seg_type,
    )
    request = Request(
        options=options,
        skip_existing=args.skip_existing,
        statistics=args.statistics,
        report=args.report,
        given=given_options(args),
    )

    return Batch(plan, request, console).run(lambda: loaded_segmenter(args))


def _add_writing(writing: argparse._ArgumentGroup) -> None:
    writing.add_argument(
        "-f",
        "--format",
        choices=("nifti", "dicom-seg", "rtstruct"),
        action="append",
        help="write NAME.nii.gz, NAME_seg.dcm or NAME_rtstruct.dcm; these two need DICOM (repeatable; default: nifti)",
    )
    writing.add_argument(
        "--seg-type",
        choices=("binary", "labelmap"),
        default="binary",
        help="type of DICOM SEG: binary, which all readers know, or labelmap, smaller and new (default: %(default)s)",
    )
    writing.add_argument(
        "--layout",
        choices=("flat", "bids"),
        default="flat",
        help="how OUT is laid out: NAME.nii.gz, or as BIDS derivatives (default: %(default)s)",
    )
    writing.add_argument(
        "--clean",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="remove small stray parts of organs; what is removed is reported (default: as the bundle's card says)",
    )
    writing.add_argument(
        "--preview", action="store_true", help="write a picture NAME_preview.png beside each label file"
    )
    writing.add_argument(
        "--statistics", action="store_true", help="write volume and mean HU of every organ as statistics.csv and .json"
    )
    writing.add_argument(
        "--report", metavar="FILE.json", type=Path, help="write what ran and what became of every case"
    )
    writing.add_argument(
        "--skip-existing", action="store_true", help="skip a CT whose label files are there in every format asked for"
    )
    writing.add_argument(
        "--allow-mirrored", action="store_true", help="label a scan that looks like a patient's mirror image"
    )
    writing.add_argument("--allow-empty", action="store_true", help="write an empty label map where no organ is found")
