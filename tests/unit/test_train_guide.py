"""The guide to training shows commands and settings that exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from viscera.cli import build_parser
from viscera.training.config import read_train_config
from viscera.training.datasets import read_mapping

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE = (DOCS / "how-to" / "train.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
TABLES = [block for kind, block in BLOCKS if kind == "toml"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    _, found, arguments = command.partition("viscera ")
    assert found
    build_parser().parse_args(shlex.split(arguments))


@pytest.mark.parametrize("table", TABLES)
def test_settings_are_understood(table: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(table, encoding="utf-8")
    if "labels" in tomllib.loads(table):
        assert read_mapping(file).lesion_ids == (6,)
    else:
        assert read_train_config(file) != read_train_config(None)


def test_the_guide_has_both() -> None:
    assert len(COMMANDS) >= 10
    assert len(TABLES) >= 5


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (DOCS / "how-to" / target).is_file(), target


def test_overrides_are_understood() -> None:
    for override in re.findall(r"--set ([a-z_.]+=\S+)", GUIDE):
        assert read_train_config(None, [override]) != read_train_config(None)
