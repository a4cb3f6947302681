"""`viscera demo`: a real CT and a synthetic one, segmented and scored."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import add_runtime, given_options, loaded_segmenter

HELP = "segment and score the real CT that ships with viscera, and a synthetic one"
DESCRIPTION = (
    "Segments the real CT that ships with viscera and a synthetic one with known organs, draws pictures of the labels "
    "and scores them."
)
EXAMPLE = "viscera demo -o viscera-demo/"

DEFAULT_FOLDER = Path("viscera-demo")
# Far from the small seeds that trainings on synthetic CTs begin with, so that the network has not seen this phantom.
DEFAULT_SEED = 2021_09_27


@dataclass(frozen=True, kw_only=True)
class DemoCase:
    """One CT of the demo and its files.

    Attributes:
        name: As tables and the report call it.
        ct: The CT.
        reference: The labels that the result is scored against.
        labels: The result.
        compared_with: What the reference is, for the heading of the scores.
    """

    name: str
    ct: Path
    reference: Path
    labels: Path
    compared_with: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help="folder (default: ./%(default)s)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=DEFAULT_SEED, help="which synthetic patient (default: %(default)s)"
    )
    add_runtime(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Segment both CTs, print volumes, scores and the paths of the pictures, and return the exit code."""
    from viscera.case import CaseOptions, preview_path
    from viscera.cli.segment_plan import Plan, PlannedCase
    from viscera.cli.segment_run import Request, SegmentRun, make_folder
    from viscera.evaluation.evaluate import evaluate_cases
    from viscera.evaluation.tables import summary_text

    folder: Path = args.output
    make_folder(folder)
    console.say(f"writing a real CT (from TotalSegmentator, Apache-2.0) and a synthetic one to {folder}")
    cases = (write_real(folder), write_phantom(folder, args.seed))

    planned = tuple(PlannedCase(name=case.name, source=case.ct, output=case.labels) for case in cases)
    plan = Plan(cases=planned, folder=folder, statistics=folder / "statistics")
    options = CaseOptions(preview=True)
    request = Request(options=options, statistics=True, report=folder / "report.json", given=given_options(args))
    segment_run = SegmentRun(plan, request, console)
    code = segment_run.run(lambda: loaded_segmenter(args))
    if code:
        return code
    for case, entry in zip(cases, segment_run.report.cases, strict=True):
        console.say(f"\n{case.name}, compared with {case.compared_with}:")
        console.say(summary_text(evaluate_cases(case.reference, case.labels)))
        console.say(seconds_text(entry.seconds))
    console.say(f"\nlook at {' and '.join(str(preview_path(case.labels)) for case in cases)}")
    console.say(f"or at all slices: viscera view {cases[0].ct} {cases[0].labels}")
    return 0


def write_real(folder: Path) -> DemoCase:
    """Copy the CT that ships with the package, and its labels, into `folder`."""
    from viscera.core.files import write_bytes
    from viscera.demo_data import example_ct

    case = DemoCase(
        name="real CT",
        ct=folder / "ct.nii.gz",
        reference=folder / "reference.nii.gz",
        labels=folder / "labels.nii.gz",
        compared_with="the labels of another model, whose pancreas is weak",
    )
    shipped = example_ct()
    write_bytes(shipped.ct.read_bytes(), case.ct)
    write_bytes(shipped.labels.read_bytes(), case.reference)
    return case


def write_phantom(folder: Path, seed: int) -> DemoCase:
    """Make a synthetic CT from `seed` and write it, and the organs it was made with, into `folder`."""
    from viscera.formats.nifti_write import write_label_map, write_volume
    from viscera.synthesis.phantom import make_phantom

    case = DemoCase(
        name="synthetic CT",
        ct=folder / "phantom.nii.gz",
        reference=folder / "phantom_truth.nii.gz",
        labels=folder / "phantom_labels.nii.gz",
        compared_with="the organs it was made with",
    )
    phantom = make_phantom(seed)
    write_volume(phantom.volume, case.ct)
    write_label_map(phantom.label_map, case.reference)
    return case


def seconds_text(seconds: Mapping[str, float]) -> str:
    """Return the seconds of each stage and their sum on one line."""
    stages = ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())
    return f"seconds: {stages}; {sum(seconds.values()):.2f} in total"
