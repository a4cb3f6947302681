"""argparse as viscera uses it: inputs also after -i, and errors that show the subcommand's usage and what is near."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Parses the arguments of the program or of one subcommand."""

    _words: tuple[str, ...] = ()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse `args`, and take what was given after -i to the positional inputs."""
        self._words = tuple(sys.argv[1:] if args is None else args)
        after_option = any(word.startswith(("-i", "--input")) for word in self._words)
        for action in self._actions:
            if action.dest == "inputs":
                action.nargs = "*" if after_option else "+"
        parsed, unknown = super().parse_known_args(args, namespace)
        if given := vars(parsed).pop("inputs_after_option", None):
            parsed.inputs = [*parsed.inputs, *given]
        return parsed, unknown

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse `args`; what nobody knows is an error of the subcommand it was given to."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            owner = self
            while (below := subparsers(owner)) is not None:
                owner = below.choices[getattr(parsed, below.dest)]
            owner.error(f"unrecognised arguments: {' '.join(unknown)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print this subcommand's usage, what is wrong and the options nearest to unknown ones; exit with code 2."""
        known = [option for action in self._actions for option in action.option_strings if action.help != HIDDEN]
        words = self._words[: self._words.index("--")] if "--" in self._words else self._words
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        unknown = [option for option in dict.fromkeys(options) if option not in known]
        hints = [f"; {option}: {hint}" for option in unknown if (hint := nearest(option, known))]
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}{''.join(hints)}\n")


HIDDEN = argparse.SUPPRESS


def add_inputs(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the inputs, which may be given as they are or after -i."""
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path, help=text)
    parser.add_argument(
        "-i",
        "--input",
        metavar="INPUT",
        dest="inputs_after_option",
        nargs="+",
        action="extend",
        type=Path,
        help="the same, as other programs take it",
    )


def subparsers(parser: argparse.ArgumentParser) -> Any | None:
    """Return the action that holds a parser's subcommands; None if it has none."""
    return next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a question for the known word that is nearest to `word`; empty if none is near."""
    import difflib  # only to name what is near, never on the way to an answer

    found = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {found[0]}?" if found else ""


def require_subcommand(parser: Parser, words: Sequence[str], known: Mapping[str, object]) -> None:
    """Exit with code 2 and help if no subcommand is given, and with the nearest one if it is unknown."""
    if not words:
        parser.print_help(sys.stderr)
        parser.exit(2)
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in known:
        parser.error(f"unknown subcommand {first!r}: {nearest(first, known) or '`viscera --help` lists them'}")
