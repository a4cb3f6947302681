"""The command line: `viscera VERB ...`; the verbs are the modules of `viscera.cli`.

Exit codes: 0 all done, 1 something failed (said on stderr, one line each), 2 wrong usage, 130 interrupted (143 when the
system ended the run). Only this module and the verbs print, set up logging and know exit codes.
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
from viscera.cli.console import Console, some_console
from viscera.cli.interrupt import Terminated
from viscera.core.errors import VisceraError

VERBS: dict[str, ModuleType] = {
    "segment": segment,
    "batch": batch,
    "view": view,
    "report": report,
    "labels": labels,
    "pacs": pacs,
    "demo": demo,
    "evaluate": evaluate,
    "phantom": phantom,
    "info": info,
    "anatomies": anatomies,
    "synthesise": synthesise,
    "pseudolabel": pseudolabel,
    "prepare": prepare,
    "train": train,
    "crossval": crossval,
    "finetune": finetune,
    "bundle": bundle,
    "export": export,
}

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_DESCRIPTION = "Liver, kidneys, spleen and pancreas in an abdominal CT."
_EPILOG = """\
examples:
  viscera demo                              try it on the CT that ships with it
  viscera segment ct.nii.gz -o organs.nii.gz
  viscera segment scans/ -o labels/ --preview --statistics

exit codes: 0 all done, 1 some case failed, 2 wrong usage, 130 interrupted
`viscera VERB --help` explains a verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (without the program's name), or of the process's own."""
    with some_console():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text the terminal can show
    _set_up_logging(verbose=args.verbose)
    console = Console(verbose=args.verbose, quiet=args.quiet)
    try:
        code: int = VERBS[args.verb].run(args, console)
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


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="viscera",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=f"{module.DESCRIPTION}",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(verb)
        verb.add_argument("-v", "--verbose", action="store_true", help="log what is done, show tracebacks")
        verb.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from viscera.core.version import version

        print(f"viscera {version()}")
        parser.exit()


def _set_up_logging(*, verbose: bool) -> None:
    # Other packages' warnings may quote a file's header, and so a patient's name: they are shown only on request. Those
    # that read and write DICOM are never heard: what is wrong with a file is said once, by the error that names it.
    for name in ("pydicom", "highdicom"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    logging.basicConfig(
        level=logging.WARNING if verbose else logging.ERROR, format="viscera: %(levelname)s: %(message)s"
    )
    logging.getLogger("viscera").setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.captureWarnings(True)
