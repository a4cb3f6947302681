"""`viscera pacs`: segments what lies in a PACS, on request or as it comes."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.options import add_runtime, positive

HELP = "segment CTs in a PACS, on request or as they arrive"
DESCRIPTION = """\
`viscera pacs segment` fetches a study's CT over DICOMweb, segments it and stores the results in the study.
`viscera pacs listen` receives CT series over DICOM, segments each once and sends the results on.
Needs viscera[pacs]."""
EXAMPLE = "viscera pacs segment --dicomweb http://127.0.0.1:8042/dicom-web --study 1.2.840.1"

FORMATS = ("dicom-seg", "rtstruct")
_LISTEN_EXAMPLE = "viscera pacs listen --aet VISCERA --port 11112 --forward ORTHANC@127.0.0.1:4242"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two subcommands below `pacs`, each with its arguments, to `parser`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text, example, add in (
        ("segment", "segment a study and store the results in it", EXAMPLE, _add_segment),
        ("listen", "receive CT series, segment them and send the results on", _LISTEN_EXAMPLE, _add_listen),
    ):
        action = actions.add_parser(
            name,
            help=text,
            description=DESCRIPTION,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add(action)
        add_runtime(action)
        # Also before the action; what stands there must not be overridden by a default.
        for short, long, what in (("-v", "--verbose", "log what is done"), ("-q", "--quiet", "say nothing but errors")):
            action.add_argument(short, long, action="store_true", default=argparse.SUPPRESS, help=what)


def run(args: argparse.Namespace, console: Console) -> int:
    """Segment a study, or listen until a signal ends it; return the exit code."""
    if args.action == "listen":
        from viscera.cli.pacs_listen import listen

        return listen(args, console)
    from viscera.cli.pacs_segment import segment_study

    return segment_study(args, console)


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dicomweb", metavar="URL", required=True, help="root of the DICOMweb service")
    parser.add_argument("--study", metavar="UID", required=True, help="Study Instance UID")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--series", metavar="UID", action="append", help="this CT series (repeatable; default: the best one)"
    )
    which.add_argument("--all-series", action="store_true", help="every CT series of the study")
    _add_format(parser)
    access = parser.add_argument_group("access")
    access.add_argument("--token-file", metavar="FILE", type=Path, help="a bearer token, in a file of mode 600")
    access.add_argument("--netrc", metavar="FILE", type=Path, help="user and password, in a netrc file of mode 600")
    _add_tls(access)
    access.add_argument(
        "--max-gib", metavar="N", type=above_zero, default=8.0, help="largest series fetched (default: %(default)g)"
    )


def _add_listen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--aet", required=True, help="application entity title of the listener")
    parser.add_argument("--port", metavar="N", type=port, required=True, help="0 for any free one")
    parser.add_argument(
        "--forward",
        metavar="AET@HOST:PORT",
        action="append",
        required=True,
        help="where results are sent (repeatable)",
    )
    _add_format(parser)
    access = parser.add_argument_group("access")
    access.add_argument(
        "--bind", metavar="ADDRESS", default="127.0.0.1", help="address to listen at (default: %(default)s)"
    )
    access.add_argument(
        "--allow-aet",
        metavar="AET",
        action="append",
        default=[],
        help="a title that may connect (repeatable; default: any)",
    )
    _add_tls(access)
    access.add_argument("--forward-tls", action="store_true", help="also send with TLS")
    queue = parser.add_argument_group("queue")
    queue.add_argument("--spool", metavar="DIR", type=Path, default=Path("viscera-spool"), help="queue and images")
    queue.add_argument("--health", metavar="FILE.json", type=Path, help="status file (default: SPOOL/health.json)")
    for name, kind, default, what in (
        ("--quiet-seconds", above_zero, 30.0, "a series is complete when nothing came for so long"),
        ("--max-series", positive, 200, "unfinished series taken"),
        ("--max-disk-gib", above_zero, 20.0, "disk used by images and results"),
        ("--max-image-mib", above_zero, 512.0, "longest image taken"),
        ("--keep-days", above_zero, 7.0, "until a finished series is forgotten"),
    ):
        queue.add_argument(name, metavar="N", type=kind, default=default, help=f"{what} (default: %(default)g)")


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--format",
        choices=FORMATS,
        action="append",
        help="formats to write (repeatable; default: dicom-seg)",
    )


def _add_tls(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tls-cert", metavar="FILE", type=Path, help="our certificate (PEM)")
    group.add_argument("--tls-key", metavar="FILE", type=Path, help="its key (PEM, without a password)")
    group.add_argument("--tls-ca", metavar="FILE", type=Path, help="the authority that peers are checked against (PEM)")


def above_zero(text: str) -> float:
    """The finite number above 0 that `text` is; raises ArgumentTypeError otherwise."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def port(text: str) -> int:
    """The port number that `text` is; raises ArgumentTypeError otherwise."""
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)
