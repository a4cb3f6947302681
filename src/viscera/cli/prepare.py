"""`viscera prepare`: a data set of labelled CTs checked and stored for training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import Console
from viscera.cli.options import positive
from viscera.cli.progress import Progress
from viscera.cli.training_options import requiring_train

if TYPE_CHECKING:
    from viscera.training.prepare import PrepareOutcome

from viscera.core.interrupts import clean_end

HELP = "check labelled CTs and store them for training"
DESCRIPTION = """\
Checks every CT and its labels (one grid, Hounsfield units, known label ids, organs present) and stores what training
reads in CACHE. Cases that fail are named at the end, and the remaining ones are kept. Run again, it makes only what is
missing, damaged or changed; needs viscera[train].
DATASET is a folder with images/ and labels/, FLARE 2021, AbdomenCT-1K, nnU-Net raw, TotalSegmentator, or a .csv with
image and labels, and if wanted `annotated`, the organs that the labels of a case cover."""
EXAMPLE = "viscera prepare FLARE2021/ -o cache/ --workers 4"

# Each process holds a whole CT several times over.
_MOST_WORKERS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="the data set's folder or .csv file")
    parser.add_argument("-o", "--output", metavar="CACHE", required=True, type=Path, help="folder of the cache")
    parser.add_argument("--labels", metavar="MAPPING.toml", type=Path, help="what the labels mean")
    parser.add_argument(
        "--config", metavar="FILE.toml", type=Path, help="settings of the training, if its sampling is not the default"
    )
    parser.add_argument(
        "--workers", metavar="N", type=positive, help="processes (default: one per allowed core, at most 4)"
    )
    parser.add_argument(
        "--allow-empty", action="store_true", help="keep scans without any organ, for training the localisation"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Prepare the data set and return the exit code."""
    with requiring_train("preparing for training", "safetensors"):
        import safetensors  # noqa: F401
    from viscera.core.cores import allowed_cores
    from viscera.training.config import read_train_config
    from viscera.training.datasets import find_dataset
    from viscera.training.label_mapping import read_mapping
    from viscera.training.prepare import PrepareConfig, prepare_dataset

    mapping = None if args.labels is None else read_mapping(args.labels)
    dataset = find_dataset(args.dataset, mapping)
    config = PrepareConfig(model=read_train_config(args.config).model, allow_empty=args.allow_empty)
    workers = args.workers or min(_MOST_WORKERS, allowed_cores())
    for note in dataset.notes:
        console.note(note)
    with clean_end(), console.progress() as progress:
        shown = _CaseProgress(progress, console, len(dataset.cases))
        manifest = prepare_dataset(dataset, args.output, config, workers=workers, on_case=shown.case)
    for refusal in manifest.refused:
        console.complain(refusal.reason, about=refusal.name)
    size = sum(stored.bytes for entry in manifest.cases for stored in entry.arrays)
    console.say(
        f"{args.output}: {len(manifest.cases)} cases ({shown.kept} kept from before), {size / 1e6:.0f} MB"
        + (f"; {len(manifest.refused)} refused" if manifest.refused else "")
    )
    return 1 if manifest.refused else 0


class _CaseProgress:
    """The progress display of the cases, and how many were kept from before."""

    def __init__(self, progress: Progress, console: Console, count: int) -> None:
        self.progress, self.console, self.count = progress, console, count
        self.done = self.kept = 0

    def case(self, outcome: PrepareOutcome) -> None:
        """Move the bar, and note what the reading said of a case."""
        self.done += 1
        self.kept += outcome.kept
        self.progress.begin(outcome.name)
        self.progress.reach(self.done, of=self.count)
        for note in outcome.entry.notes if outcome.entry is not None else ():
            self.progress.pause()
            self.console.note(f"{outcome.name}: {note}")
