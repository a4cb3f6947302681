"""`viscera demo`: a synthetic CT made, segmented and scored."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import add_runtime, given_options, loaded_segmenter

HELP = "make a synthetic CT, segment it and score the result"
DESCRIPTION = "Makes a synthetic CT with known organs, segments it, scores the labels and draws a picture of them."
EXAMPLE = "viscera demo -o viscera-demo/"

DEFAULT_FOLDER = Path("viscera-demo")
# Far from the small numbers that trainings on synthetic CTs begin with, so that the demo's person is a new one.
DEFAULT_SEED = 2021_09_27


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help="folder (default: ./%(default)s)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=DEFAULT_SEED, help="which virtual patient (default: %(default)s)"
    )
    add_runtime(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the demo, print scores, times and where the picture is, and return the exit code."""
    from viscera.cli.segment_plan import Plan, PlannedCase
    from viscera.cli.segment_run import Batch, Request, make_folder
    from viscera.evaluation.evaluate import evaluate_cases
    from viscera.evaluation.tables import summary_text
    from viscera.formats.nifti_write import write_label_map, write_volume
    from viscera.segmenter import CaseOptions, preview_path
    from viscera.synthesis.phantom import make_phantom

    folder: Path = args.output
    scan, truth, labels = (folder / f"{name}.nii.gz" for name in ("ct", "truth", "labels"))
    console.say(f"making a synthetic CT in {folder}")
    make_folder(folder)
    phantom = make_phantom(args.seed)
    write_volume(phantom.volume, scan)
    write_label_map(phantom.label_map, truth)

    case = PlannedCase(name="ct", source=scan, output=labels)
    plan = Plan(cases=(case,), folder=folder, statistics=folder / "statistics")
    request = Request(
        options=CaseOptions(preview=True), statistics=True, report=folder / "report.json", given=given_options(args)
    )
    batch = Batch(plan, request, console)
    code = batch.run(lambda: loaded_segmenter(args))
    if code:
        return code
    console.say("\nscores against the organs it was made with:")
    console.say(summary_text(evaluate_cases(truth, labels)))
    console.say(seconds_text(batch.report.cases[0].seconds))
    console.say(f"\nthe picture: {preview_path(labels)}")
    return 0


def seconds_text(seconds: Mapping[str, float]) -> str:
    """The seconds of each stage and of all, on one line."""
    stages = ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())
    return f"seconds: {stages}; in all {sum(seconds.values()):.2f}"
