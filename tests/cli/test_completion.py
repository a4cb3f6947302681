"""Completion, as bash itself does it."""

import shutil
import subprocess
import sys

import pytest

from viscera.cli.completion import bash_script, fish_script
from viscera.cli.main import SUBCOMMANDS, build_parser

SCRIPT = bash_script(build_parser())


def completed(*words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("the program bash is not installed")
    program = f"""{SCRIPT}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_viscera
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([bash, "-c", program, "bash", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_subcommands() -> None:
    assert set(SUBCOMMANDS) <= set(completed("viscera", ""))
    assert completed("viscera", "se") == ["segment"]
    assert set(completed("viscera", "pacs", "")) >= {"segment", "listen"}


@pytest.mark.parametrize("subcommand", ["segment", "batch", "export"])
def test_the_options_of_a_subcommand(subcommand: str) -> None:
    offered = completed("viscera", subcommand, "--")
    assert "--help" in offered
    assert ("--roi-subset" in offered) == (subcommand != "export")
    assert completed("viscera", subcommand, "a.nii", "--outp") == ["--output"]


def test_options_of_a_subcommand_below_another() -> None:
    assert "--study" in completed("viscera", "pacs", "segment", "--")
    assert "--study" not in completed("viscera", "segment", "--")


def test_the_choices_of_an_option() -> None:
    assert completed("viscera", "segment", "--device", "") == ["auto", "cpu", "cuda"]
    assert completed("viscera", "segment", "-f", "dic") == ["dicom-seg"]
    assert completed("viscera", "completion", "z") == ["zsh"]


def test_elsewhere_bash_completes_files() -> None:
    assert completed("viscera", "segment", "scan") == []
    assert completed("viscera", "segment", "-o", "") == []
    assert "complete -o default -F _viscera viscera" in SCRIPT


def test_fish_is_told_subcommands_and_options() -> None:
    lines = fish_script(build_parser()).splitlines()
    assert any(line.startswith("complete -c viscera -n __fish_use_subcommand -f -a segment -d ") for line in lines)
    device = "complete -c viscera -n '__fish_seen_subcommand_from segment' -l device -xa 'auto cpu cuda' -d "
    assert any(line.startswith(device) for line in lines)


def test_the_program_prints_the_script() -> None:
    done = subprocess.run([sys.executable, "-m", "viscera", "completion", "bash"], capture_output=True, check=True)
    assert done.stdout.decode() == f"{SCRIPT}\n"
