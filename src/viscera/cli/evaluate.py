"""`viscera evaluate`: scores of label maps against references, of one method or several."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import Console
from viscera.cli.options import positive
from viscera.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from viscera.evaluation.evaluate import CaseOutcome
    from viscera.evaluation.scores import Evaluation, ScoringConfig, Tolerance

HELP = "score label maps against references"
DESCRIPTION = """\
Scores predicted label maps against references, per organ: Dice (DSC), surface Dice (NSD), distances (HD95, ASSD),
volumes, false-positive and false-negative components, as in FLARE 2021 if nothing else is said. Two files are one case;
two folders are paired by file name. Files may store the same voxels along other axes. Other methods' folders are
compared with --versus (tests of the difference) or --method (ranking)."""
EXAMPLE = "viscera evaluate truth/ labels/ --csv scores.csv -o table.md --plots plots/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("reference", metavar="REFERENCE", type=Path, help="the true label map, or a folder of them")
    parser.add_argument(
        "prediction", metavar="PREDICTION", type=Path, nargs="?", help="the label map to score, or a folder"
    )
    parser.add_argument("--versus", metavar="OTHER", type=Path, help="another prediction, to test the difference")
    parser.add_argument(
        "--method",
        metavar="NAME=FOLDER",
        type=named_folder,
        action="append",
        default=[],
        help="the predictions of a method; two or more methods are ranked (repeatable)",
    )
    parser.add_argument(
        "--tolerance",
        metavar="MM",
        type=tolerance,
        action="append",
        help="tolerance of the NSD, or 'flare22' for that challenge's set (repeatable; default: 1 mm)",
    )
    parser.add_argument(
        "--empty",
        choices=("flare", "nan"),
        default="flare",
        help="organs absent from the reference: scored as in FLARE, or left out (default: %(default)s)",
    )
    parser.add_argument("--bundle", metavar="DIR_OR_NAME", help="the bundle whose organs the labels are")
    parser.add_argument("--workers", metavar="N", type=positive, help="processes (default: one per allowed core)")
    group = parser.add_argument_group("files")
    group.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="write the tables as .txt, .csv, .md, .tex or, with every score, .json (repeatable)",
    )
    group.add_argument("--csv", metavar="FILE", type=Path, help="write one row per case and organ")
    group.add_argument("--plots", metavar="FOLDER", type=Path, help="draw charts (PNG); needs viscera[plots]")


def run(args: argparse.Namespace, console: Console) -> int:
    """Score the cases of every method, print and write the tables, and return the exit code.

    Raises:
        ConfigError: If no prediction is given, two methods have one name, or an output has an unknown ending.
    """
    from viscera.core.files import write_text
    from viscera.core.organs import ORGANS
    from viscera.drawing.charts import require_matplotlib
    from viscera.evaluation.results import FORMS, Results
    from viscera.evaluation.scores import FLARE21, ScoringConfig
    from viscera.evaluation.tables import scores_csv
    from viscera.model.bundle import load_bundle
    from viscera.segmenter import bundle_source

    methods = _methods(args)
    for path in args.output:
        if path.suffix.lower() not in FORMS:
            raise ConfigError(
                f"writing {path}",
                expected=f"a name that ends in {', '.join(FORMS)}",
                got=path.name,
                remedy="Give the table such a name",
            )
    organs = ORGANS if args.bundle is None else load_bundle(bundle_source(args.bundle)).card.organs
    if args.plots is not None:
        require_matplotlib("drawing the charts of an evaluation")  # before hours of scoring
    config = ScoringConfig(tolerances=tuple(args.tolerance or (FLARE21,)), empty=args.empty, organs=organs)
    evaluations = {
        name: _evaluated(args, path, config, console, name=name if len(methods) > 1 else "")
        for name, path in methods.items()
    }
    results = Results.of(evaluations, versus=args.versus is not None, ranked=len(args.method) > 1)
    if any(evaluation.cases for evaluation in evaluations.values()):
        console.say(results.text().rstrip("\n"))
    if args.csv is not None:
        write_text(scores_csv(evaluations), args.csv)
    for path in args.output:
        write_text(results.rendered(path.suffix.lower()), path)
    if args.plots is not None:
        _draw(evaluations, args.plots)
    return 1 if any(evaluation.failures for evaluation in evaluations.values()) else 0


def tolerance(text: str) -> Tolerance:
    """The tolerance that `text` is: millimetres, or the name of a challenge's set; raises ArgumentTypeError."""
    from viscera.evaluation.scores import FLARE22, Tolerance

    if text.lower() == "flare22":
        return FLARE22
    try:
        mm = float(text)
    except ValueError:
        mm = math.nan
    if not (math.isfinite(mm) and mm >= 0):
        raise argparse.ArgumentTypeError(f"expected millimetres, 0 or more, or flare22, got {text!r}")
    return Tolerance(mm=mm)


def named_folder(text: str) -> tuple[str, Path]:
    """The name and the folder of NAME=FOLDER; raises ArgumentTypeError for anything else."""
    name, separator, folder = text.partition("=")
    if not (name.strip() and separator and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {text!r}")
    return name.strip(), Path(folder)


def _methods(args: argparse.Namespace) -> dict[str, Path]:
    """The predictions by the name of their method: the first, its rival, then the named ones."""
    unnamed = [path for path in (args.prediction, args.versus) if path is not None]
    names = [path.resolve().name for path in unnamed]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.resolve().name}" for path in unnamed]
    listed = [*zip(names, unnamed, strict=True), *args.method]
    methods = dict(listed)
    if not methods or (args.versus is not None and args.prediction is None) or len(methods) < len(listed):
        raise ConfigError(
            "listing what to score",
            expected="a PREDICTION, with --versus a second one, or methods of different names",
            got=", ".join(name for name, _ in listed) or "none",
            remedy="Give PREDICTION or --method NAME=FOLDER",
        )
    return methods


def _evaluated(
    args: argparse.Namespace, prediction: Path, config: ScoringConfig, console: Console, *, name: str
) -> Evaluation:
    """The scores of one method; each case is said as it is done, and what is wrong with one that cannot be scored."""
    from viscera.core.cores import allowed_cores
    from viscera.evaluation.evaluate import evaluate_cases
    from viscera.evaluation.pairing import pair_files
    from viscera.evaluation.tables import case_heading, case_line

    cases = list(pair_files(args.reference, prediction).files)
    organs = [organ.name for organ in config.organs]
    width = max([4, *map(len, cases)])
    if len(cases) > 1:
        heading = case_heading(config.tolerances[0].label, organs, width)
        console.say("\n".join([f"{name}: {heading[0]}" if name else heading[0], *heading[1:]]))
    with console.progress() as progress:
        done = 0

        def on_outcome(outcome: CaseOutcome, count: int) -> None:
            nonlocal done
            done += 1
            progress.pause()
            for note in outcome.notes:
                console.note(f"{outcome.case}: {note}")
            if outcome.error is not None:
                console.fail(outcome.error, about=outcome.case)
            elif count > 1:
                console.say(case_line(outcome.scores, organs, width))
            progress.begin(outcome.case)
            progress.reach(done, of=count)

        evaluation = evaluate_cases(
            args.reference,
            prediction,
            config=config,
            workers=args.workers or allowed_cores(),
            keep_going=True,
            on_outcome=on_outcome,
        )
    if len(cases) > 1:
        console.say("")
    return evaluation


def _draw(evaluations: Mapping[str, Evaluation], folder: Path) -> None:
    """Draw what the evaluations hold into a folder."""
    from viscera.core.files import write_bytes
    from viscera.evaluation.plots import evaluation_plots

    for name, png in evaluation_plots(evaluations).items():
        write_bytes(png, folder / name)
