"""`viscera pseudolabel`: CTs without labels labelled by a bundle, to train the next one on."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path

from viscera.cli.console import Console
from viscera.core.errors import VisceraError
from viscera.core.interrupts import clean_end

HELP = "label CTs with a bundle for training, leaving out what is doubtful"
DESCRIPTION = """\
Labels every CT with a bundle and writes labels/ and cases.csv to DIR, which `viscera prepare DIR/cases.csv --labels
DIR/mapping.toml` stores for `viscera train --real`. Doubtful voxels (improbable ones, organs with a low expected Dice
coefficient, small components) become label 255, from which training learns nothing. Inspect every label map before you
train on it."""
EXAMPLE = "viscera pseudolabel scans/*.nii.gz -o pseudo/ --bundle fast"

_MAPPING = '[labels]\n1 = "liver"\n2 = "kidney"\n3 = "spleen"\n4 = "pancreas"\n255 = "unknown"\n'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("inputs", metavar="CT", nargs="+", type=Path, help="CTs, as for viscera segment")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, type=Path, help="folder to write to")
    parser.add_argument("--bundle", metavar="DIR_OR_NAME", default="fast", help="the teacher (default: %(default)s)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Label the CTs and return the exit code."""
    from viscera.core.files import write_text
    from viscera.engines.choice import make_engine
    from viscera.formats.inputs import find_inputs
    from viscera.formats.nifti_write import write_label_map
    from viscera.model.bundle import load_bundle
    from viscera.read import read_volume
    from viscera.segmenter import bundle_source
    from viscera.training.pseudo_labels import trusted_labels

    bundle = load_bundle(bundle_source(args.bundle))
    engine = make_engine(bundle)
    inputs = find_inputs(args.inputs)
    rows, failed = [("name", "image", "labels")], False
    with clean_end(), console.progress() as progress:
        for number, case in enumerate(inputs, start=1):
            progress.begin(case.name)
            try:
                volume = read_volume(case.path)
                found = trusted_labels(volume, engine, bundle.card)
            except VisceraError as error:
                progress.pause()
                console.complain(str(error), about=case.name)
                failed = True
            else:
                path = args.output / "labels" / f"{case.name}.nii.gz"
                write_label_map(found.label_map, path)
                rows.append((case.name, str(case.path.absolute()), str(path.absolute())))
                progress.pause()
                console.say(f"{case.name}: {_summary(found.expected_dsc, found.doubted)}")
            progress.reach(number, of=len(inputs))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    write_text(table.getvalue(), args.output / "cases.csv")
    write_text(_MAPPING, args.output / "mapping.toml")
    return 1 if failed else 0


def _summary(expected_dsc: Mapping[str, float], doubted: tuple[str, ...]) -> str:
    organs = (f"{name} {value:.2f}{' (left out)' if name in doubted else ''}" for name, value in expected_dsc.items())
    return f"expected Dice {', '.join(organs)}"
