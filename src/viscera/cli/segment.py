"""`viscera segment`: organ labels for any number of CTs."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from viscera.cli.arguments import add_inputs
from viscera.cli.console import Console
from viscera.cli.options import add_runtime, add_writing, case_options, given_options, loaded_segmenter

HELP = "label the organs of one or many CTs"
DESCRIPTION = """\
Labels liver (1), kidneys (2), spleen (3) and pancreas (4), or the organs of another bundle, on each CT's own grid, and
writes them as NIfTI, DICOM SEG or RTSTRUCT.
A case that fails is reported, and the remaining cases are still processed."""
EXAMPLE = "viscera segment patient/dicom/ more/*.nii.gz -o labels/ --preview --statistics --report run.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    add_inputs(
        parser,
        "a CT (.nii, .nii.gz, .nrrd, .mha, .mhd, DICOM file), a DICOM folder, a zip of one, or a folder of CTs",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        type=Path,
        help="a .nii or .nii.gz file for one CT, else a folder for NAME.nii.gz",
    )
    add_runtime(parser)
    reading = parser.add_argument_group("reading")
    reading.add_argument(
        "--series", metavar="N_OR_UID", help="which of several DICOM series: its number or the beginning of its UID"
    )
    reading.add_argument(
        "--hu-offset", metavar="HU", type=int, default=0, help="add this to every voxel, e.g. -1024 for a shifted scale"
    )
    writing = parser.add_argument_group("writing")
    add_writing(writing)
    writing.add_argument(
        "--statistics", action="store_true", help="write volume and mean HU of every organ as statistics.csv and .json"
    )
    writing.add_argument("--report", metavar="FILE.json", type=Path, help="write a report of the run and of every case")
    writing.add_argument(
        "--skip-existing", action="store_true", help="skip a CT whose label files exist in every requested format"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Segment the inputs and return the exit code."""
    from viscera.cli.output_layouts import LAYOUTS
    from viscera.cli.segment_plan import plan_cases
    from viscera.cli.segment_run import Request, SegmentRun
    from viscera.write import require_formats

    options = replace(case_options(args), series=args.series)
    require_formats(options.formats)
    plan = plan_cases(args.inputs, args.output, args.report, LAYOUTS[args.layout], formats=options.formats)
    for note in plan.notes:
        console.note(note)
    request = Request(
        options=options,
        skip_existing=args.skip_existing,
        statistics=args.statistics,
        report=args.report,
        given=given_options(args),
    )

    return SegmentRun(plan, request, console).run(lambda: loaded_segmenter(args))
