"""`viscera completion`: a shell completes subcommands, options and their choices."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from viscera.cli.arguments import HIDDEN, subparsers
from viscera.cli.console import Console

HELP = "print what makes a shell complete options"
DESCRIPTION = """\
Prints a script for a shell. In ~/.bashrc: eval "$(viscera completion bash)". In ~/.zshrc: eval "$(viscera completion
zsh)". For fish: viscera completion fish > ~/.config/fish/completions/viscera.fish"""
EXAMPLE = "viscera completion bash"

_BASH = """\
_viscera() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" place=viscera words="" index
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$place ${{COMP_WORDS[index]}}" in
            {places}) place="$place ${{COMP_WORDS[index]}}" ;;
        esac
    done
    case "$place $before" in
{choices}
    esac
    [[ -n "$words" ]] || case "$place" in
{words}
    esac
    COMPREPLY=()
    if [[ "$current" == -* || "$words" != -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}}
complete -o default -F _viscera viscera
"""
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A parser by the words that lead to it, with its subcommands, the values of its arguments, and its options."""

    path: tuple[str, ...]
    help: str
    below: tuple[str, ...]
    values: tuple[str, ...]
    options: tuple[argparse.Action, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the script and return the exit code."""
    script = fish_script if args.shell == "fish" else bash_script
    console.say((_ZSH if args.shell == "zsh" else "") + script(args.program))
    return 0


def bash_script(program: argparse.ArgumentParser) -> str:
    """Return the script for bash."""
    places = list(_places(program, ("viscera",)))
    choices = [
        f'        "{" ".join(place.path)} {name}") words="{" ".join(action.choices)}" ;;'
        for place in places
        for action in place.options
        if action.choices
        for name in action.option_strings
    ]
    words = [f'        "{" ".join(place.path)}") words="{" ".join(_words(place))}" ;;' for place in places]
    known = "|".join(f'"{" ".join(place.path)}"' for place in places[1:])
    return _BASH.format(places=known, choices="\n".join(choices), words="\n".join(words))


def fish_script(program: argparse.ArgumentParser) -> str:
    """Return the script for fish."""
    import shlex

    places = {place.path: place for place in _places(program, ("viscera",))}
    lines = []
    for place in places.values():
        seen = "__fish_use_subcommand" if len(place.path) == 1 else f"__fish_seen_subcommand_from {place.path[-1]}"
        start = f"complete -c viscera -n {shlex.quote(seen)}"
        lines += [f"{start} -f -a {name} -d {shlex.quote(places[*place.path, name].help)}" for name in place.below]
        lines += [f"{start} -f -a {value}" for value in place.values]
        for action in place.options:
            names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in action.option_strings]
            value = f" -xa {shlex.quote(' '.join(action.choices))}" if action.choices else " -r" * (action.nargs != 0)
            lines.append(f"{start} {' '.join(names)}{value} -d {shlex.quote(_help(action))}")
    return "\n".join(lines)


def _places(parser: argparse.ArgumentParser, path: tuple[str, ...], text: str = "") -> Iterator[_Place]:
    below = subparsers(parser)
    names = {} if below is None else dict(below.choices)
    options = tuple(action for action in parser._actions if action.option_strings and action.help != HIDDEN)
    arguments = [action for action in parser._actions if not action.option_strings and action is not below]
    values = tuple(value for action in arguments for value in action.choices or ())
    yield _Place(path=path, help=text, below=tuple(names), values=values, options=options)
    for name, child in names.items():
        yield from _places(child, (*path, name), (child.description or "").split(". ")[0].replace("\n", " "))


def _words(place: _Place) -> list[str]:
    return [*place.below, *place.values, *(name for action in place.options for name in action.option_strings)]


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
