"""Arguments several verbs share."""

from __future__ import annotations

import argparse
from typing import Any

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "f32", "bf16")


def add_machinery(parser: argparse.ArgumentParser) -> None:
    """Adds what chooses model and hardware."""
    group = parser.add_argument_group("model and hardware")
    group.add_argument("--bundle", metavar="DIR_OR_NAME", help="another model bundle than the default")
    group.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: %(default)s)")
    group.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="arithmetic of the networks (default: %(default)s)"
    )
    group.add_argument("--threads", metavar="N", type=positive, help="CPU threads (default: one per core)")


def positive(text: str) -> int:
    """The whole number above 0 that `text` is; raises ArgumentTypeError otherwise."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return number


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a run as its report shows them: all but the inputs, paths as text.

    A series UID points to a patient, so it is only said that one was chosen.
    """
    left_out = {"verb", "version", "inputs", "series", "verbose", "quiet"}
    given = {name: value for name, value in vars(args).items() if name not in left_out}
    if "series" in vars(args):
        given["series_chosen"] = args.series is not None
    return {
        name: value if isinstance(value, bool | int | float | None) else str(value) for name, value in given.items()
    }
