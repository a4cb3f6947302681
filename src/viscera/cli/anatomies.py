"""`viscera anatomies`: virtual patients made from label maps, for training on synthetic CTs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viscera.cli.console import Console
from viscera.cli.options import positive
from viscera.cli.training_options import requiring_train
from viscera.core.errors import ReadError
from viscera.core.interrupts import clean_end

if TYPE_CHECKING:
    from numpy.typing import NDArray

HELP = "build anatomies from label maps, to train on synthetic CTs"
DESCRIPTION = """\
Makes virtual patients from label maps alone, with no CT: each host (a map of the whole trunk with the structures of
TotalSegmentator's CT task), and each host with the organs of each donor (a map with the numbering of the multi-organ
reference of Gibson et al. 2018: spleen, pancreas, left kidney, gallbladder, oesophagus, liver, stomach, duodenum).
`viscera train` and `viscera synthesise` draw CTs from them. Existing anatomies are kept; needs viscera[train]."""
_IDS = 256  # of a label map
EXAMPLE = "viscera anatomies --hosts host*.nii.gz --structures names.json --donors donor*.nii.gz -o anatomies/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("-o", "--output", metavar="DIR", required=True, type=Path, help="folder of the anatomies")
    hosts = parser.add_mutually_exclusive_group(required=True)
    hosts.add_argument("--hosts", metavar="FILE", nargs="+", type=Path, help="label maps of whole trunks")
    hosts.add_argument("--trunks", dest="hosts", nargs="+", type=Path, help=argparse.SUPPRESS)  # their earlier name
    parser.add_argument(
        "--structures",
        metavar="FILE.json",
        required=True,
        type=Path,
        help="the structure of each of their labels",
    )
    parser.add_argument("--donors", metavar="FILE", nargs="+", type=Path, default=[], help="label maps of donors")
    parser.add_argument("--workers", metavar="N", type=positive, default=1, help="processes (default: %(default)s)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Make the anatomies and return the exit code."""
    with requiring_train("making anatomies", "scipy and safetensors"):
        from viscera.synthesis.build import donor_map, trunk_map, write_anatomies
    from viscera.core.organs import ORGANS
    from viscera.formats.label_maps import read_label_file

    structures = _structures(args.structures)
    hosts: dict[str, NDArray[Any]] = {}
    for path in args.hosts:
        try:
            hosts[_name(path)] = trunk_map(read_label_file(path, ORGANS).label_map, structures)
        except KeyError as error:
            raise ReadError(
                f"reading {path}",
                expected="structures of TotalSegmentator's CT task",
                got=str(error),
                remedy=f"Correct {args.structures}",
            ) from error
    donors = {_name(path): donor_map(read_label_file(path, ORGANS).label_map) for path in args.donors}
    count = 0
    with clean_end():
        for name in write_anatomies(hosts, donors, args.output, workers=args.workers):
            count += 1
            console.note(name)
    console.say(f"{args.output}: {count} anatomies of {len(hosts)} hosts and {len(donors)} donors")
    return 0


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _structures(path: Path) -> Mapping[int, str]:
    try:
        table = {int(number): str(name) for number, name in json.loads(path.read_text(encoding="utf-8")).items()}
        if odd := [number for number in table if not 0 < number < _IDS]:
            raise ValueError(f"the id {odd[0]}")
        return table
    except (OSError, ValueError, AttributeError) as error:
        raise ReadError(
            f"reading {path}",
            expected='JSON such as {"1": "spleen", ...}',
            got=str(error),
            remedy="Give the table of the hosts' ids",
        ) from error
