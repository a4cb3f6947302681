"""The reference of the Python interface shows every public name, and every name it shows is there."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import viscera

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"
# Kept for what was written for version 0.2, and no longer shown.
OLD = {"viscera.Allowed", "viscera.SegmentedCase"}
SHOWN = re.findall(r"^::: (\S+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def resolved(name: str) -> Any:
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(module), own)


def test_every_public_name_is_shown_once() -> None:
    assert {f"viscera.{name}" for name in viscera.__all__} - {"viscera.__version__"} - OLD <= set(SHOWN)
    assert len(SHOWN) == len(set(SHOWN))


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(resolved(name))
