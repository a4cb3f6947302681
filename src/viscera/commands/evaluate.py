"""`viscera evaluate`: scores of label maps against references."""

from __future__ import annotations

import argparse
from pathlib import Path

from viscera.commands.console import Console

HELP = "score label maps against references"
DESCRIPTION = """\
Scores predicted label maps against references: Dice (DSC) and surface Dice (NSD) per organ as in FLARE 2021.
Two files are one case; two folders are paired by file name. Files may store the same voxels along other axes."""
EXAMPLE = "viscera evaluate truth/ labels/ --csv scores.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments to `parser`."""
    parser.add_argument("reference", metavar="REFERENCE", type=Path, help="the true label map, or a folder of them")
    parser.add_argument("prediction", metavar="PREDICTION", type=Path, help="the label map to score, or a folder")
    parser.add_argument(
        "--tolerance", metavar="MM", type=float, default=1.0, help="of the NSD (default: %(default)g mm)"
    )
    parser.add_argument("--bundle", metavar="DIR_OR_NAME", help="the bundle whose organs the labels are")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write one row per case and organ")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the settings, the summary and every score")


def run(args: argparse.Namespace, console: Console) -> int:
    """Scores the cases, prints the summary and returns the exit code."""
    from viscera.bundle import load_bundle
    from viscera.case import bundle_source
    from viscera.evaluation.evaluate import ScoringConfig, evaluate_cases
    from viscera.evaluation.tables import cases_text, evaluation_json, scores_csv, summary_text
    from viscera.labels import ORGANS
    from viscera.write import write_text

    organs = ORGANS if args.bundle is None else load_bundle(bundle_source(args.bundle)).card.organs
    config = ScoringConfig(tolerance_mm=args.tolerance, organs=organs)
    with console.progress() as progress:

        def on_case(case: str, number: int, count: int) -> None:
            progress.begin(case)
            progress.reach(number, of=count)

        evaluation = evaluate_cases(args.reference, args.prediction, config=config, on_case=on_case)
    if args.csv is not None:
        write_text(scores_csv(evaluation.scores), args.csv)
    if args.json is not None:
        write_text(evaluation_json(evaluation), args.json)
    if len(evaluation.cases) > 1:
        console.say(cases_text(evaluation))
    console.say(summary_text(evaluation).rstrip("\n"))
    return 0
