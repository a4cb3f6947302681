"""`viscera report`: a CT and its organs as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.view_inputs import add_reading, read_inputs

HELP = "write a page about a CT and its organs, one HTML file"
DESCRIPTION = """\
Writes one HTML file of at most 8 MB with pictures, volumes, mean HU, QC status, notes and provenance, and with a viewer
where the browser has WebGL 2. It opens without a network and asks nothing of any. It names no input file, as such a
name may be a patient's."""
EXAMPLE = "viscera report ct.nii.gz organs.nii.gz -o report.html --run run.json"

_ENDINGS = (".html", ".htm")
_TITLE = "Organs in a CT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("ct", metavar="CT", type=Path, help="one CT, as for `viscera segment`")
    parser.add_argument("labels", metavar="LABELS", type=Path, help="its label map (NIfTI, NRRD, MetaImage)")
    parser.add_argument("-o", "--output", metavar="FILE.html", required=True, type=Path, help="the file to write")
    add_reading(parser)
    parser.add_argument("--title", metavar="TEXT", default=_TITLE, help="heading of the page (default: %(default)s)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the report and return the exit code."""
    from viscera.cli.segment_plan import refuse_overwriting
    from viscera.core.errors import ConfigError
    from viscera.core.files import write_text
    from viscera.viewer.html_report import ReportContent, report_html
    from viscera.viewer.pictures import organ_pictures
    from viscera.viewer.provenance import provenance_facts

    if not args.output.name.lower().endswith(_ENDINGS):
        raise ConfigError(
            "planning the outputs",
            expected="a file ending in .html after -o",
            got=str(args.output),
            remedy="Change the ending",
        )
    refuse_overwriting([args.output], [args.ct, args.labels, *([args.run] if args.run else [])])
    inputs = read_inputs(args)
    label_map = inputs.given_labels()
    provenance = provenance_facts(args.ct, args.labels, inputs.volume.grid)
    content = ReportContent(
        title=args.title,
        volume=inputs.volume,
        label_map=label_map,
        rows=inputs.rows,
        pictures=organ_pictures(inputs.volume, label_map, inputs.rows),
        notes=inputs.notes,
        provenance=[*provenance, *(inputs.run.provenance if inputs.run else ())],
    )
    for note in inputs.notes:
        console.note(note)
    write_text(report_html(content), args.output)
    console.say(f"wrote {args.output}")
    return 0
