"""The command line: `viscera SUBCOMMAND ...`; the subcommands are modules of `viscera.cli`.

Exit codes: 0 all done, 1 something failed (one line each on stderr), 2 wrong usage, 130 interrupted (143 when the
system ended the run). Only this package prints, sets up logging and knows exit codes.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from viscera.cli import (
    anatomies,
    batch,
    bundle,
    completion,
    crossval,
    demo,
    evaluate,
    export,
    finetune,
    info,
    labels,
    pacs,
    phantom,
    prepare,
    pseudolabel,
    report,
    segment,
    synthesise,
    train,
    view,
)
from viscera.cli.arguments import Parser, require_subcommand
from viscera.cli.console import Console, some_console
from viscera.core.errors import VisceraError
from viscera.core.interrupts import Terminated

# As the help lists them.
GROUPS: dict[str, dict[str, ModuleType]] = {
    "use": {
        "segment": segment,
        "batch": batch,
        "pacs": pacs,
        "labels": labels,
        "demo": demo,
        "info": info,
        "completion": completion,
    },
    "look and evaluate": {"view": view, "report": report, "evaluate": evaluate},
    "train": {
        "phantom": phantom,
        "anatomies": anatomies,
        "synthesise": synthesise,
        "pseudolabel": pseudolabel,
        "prepare": prepare,
        "train": train,
        "crossval": crossval,
        "finetune": finetune,
        "bundle": bundle,
        "export": export,
    },
}
SUBCOMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_DESCRIPTION = "Liver, kidneys, spleen and pancreas in an abdominal CT."
_EPILOG = """\
examples:
  viscera demo                              try it on the CT that ships with it
  viscera segment ct.nii.gz -o organs.nii.gz
  viscera segment scans/ -o labels/ --preview --statistics

exit codes: 0 all done, 1 some case failed, 2 wrong usage, 130 interrupted
`viscera SUBCOMMAND --help` explains a subcommand."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name), or the process's own, and return the exit code."""
    with some_console():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    require_subcommand(parser, sys.argv[1:] if argv is None else argv, SUBCOMMANDS)
    args = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text the terminal can show
    _set_up_logging(verbose=args.verbose)
    console = Console(verbose=args.verbose, quiet=args.quiet)
    try:
        code: int = SUBCOMMANDS[args.subcommand].run(args, console)
        console.require_printed()
    except VisceraError as error:
        console.fail(error)
        return error.exit_code
    except Terminated:
        console.stopped("terminated")
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        console.stopped("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()  # the reader of our output has gone (`viscera info | head`)
        return 1
    finally:
        if console.lost is not None:
            _give_up_stdout()
    return code


def _give_up_stdout() -> None:
    """Send nowhere what is still to be printed, so that the interpreter does not fail on it as it ends."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, AttributeError):  # a stand-in
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def build_parser() -> Parser:
    """Return the parser of all subcommands."""
    groups = (
        f"{title}:\n" + "\n".join(f"  {name:12} {module.HELP}" for name, module in group.items())
        for title, group in GROUPS.items()
    )
    parser = Parser(
        prog="viscera",
        usage="viscera [-h] [--version] SUBCOMMAND ...",
        description="\n\n".join([_DESCRIPTION, *groups]),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    below = parser.add_subparsers(
        prog="viscera", dest="subcommand", metavar="SUBCOMMAND", required=True, help=argparse.SUPPRESS
    )
    for name, module in SUBCOMMANDS.items():
        one = below.add_parser(
            name,
            description=module.DESCRIPTION,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(one)
        one.add_argument("-v", "--verbose", action="store_true", help="log what is done, show tracebacks")
        one.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    below.choices["completion"].set_defaults(program=parser)
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from viscera.core.version import version

        print(f"viscera {version()}")
        parser.exit()


def _set_up_logging(*, verbose: bool) -> None:
    # Other packages' warnings may quote a file's header, and so a patient's name: they are shown only on request. Those
    # that read and write DICOM never are: what is wrong with a file is said once, by the error that names it.
    for name in ("pydicom", "highdicom"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    logging.basicConfig(
        level=logging.WARNING if verbose else logging.ERROR, format="viscera: %(levelname)s: %(message)s"
    )
    logging.getLogger("viscera").setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.captureWarnings(True)
