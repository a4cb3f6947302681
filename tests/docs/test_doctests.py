"""The examples in docstrings give what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import viscera

PACKAGE = Path(viscera.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("viscera", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if re.search(r"^\s+>>> (?!.*SKIP)", path.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_hold(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed


def test_there_are_examples() -> None:
    assert {"viscera.core.geometry", "viscera.core.organs", "viscera.core.memory", "viscera.evaluation.metrics"} <= set(
        WITH_EXAMPLES
    )
