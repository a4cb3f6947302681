"""The guide to training shows settings that exist; that its commands do is tested with those of all pages."""

import re
import tomllib
from pathlib import Path

import pytest

from viscera.training.config import read_train_config
from viscera.training.label_mapping import read_mapping

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE = (DOCS / "how-to" / "train.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)
TABLES = [block for kind, block in BLOCKS if kind == "toml"]


@pytest.mark.parametrize("table", TABLES)
def test_settings_are_understood(table: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(table, encoding="utf-8")
    values = tomllib.loads(table)
    if "labels" in values:
        mapping = read_mapping(file)
        assert list(mapping.lesion_ids) == values.get("lesions", [])
        assert mapping.annotated == (tuple(values["annotated"]) if "annotated" in values else None)
    else:
        assert read_train_config(file) != read_train_config(None)


def test_the_guide_shows_settings() -> None:
    assert len(TABLES) >= 4


def test_overrides_are_understood() -> None:
    for override in re.findall(r"--set ([a-z_.]+=\S+)", GUIDE):
        assert read_train_config(None, [override]) != read_train_config(None)
