"""Writes config.md, the reference of every setting of training, from the records in the code.

Run `python docs/reference/make_config.py` after a change to a setting; a test compares the file with the code.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viscera.training.config import TrainConfig

FILE = Path(__file__).with_name("config.md")

HEAD = """\
# Settings of training

`viscera train --config FILE.toml` reads any of these; what the file leaves out keeps its default, the published value
where the paper or the authors' release has one. Each heading is a table of the file:

```toml
iterations = 20000

[augment]
rotation_rad = 0.2

[model.segment]
spacing_mm = 3.0
```

An unknown name, a value of another type or out of range ends the run before it begins. A run keeps all of its settings
in `config.json`, a bundle keeps those under `model` in its card. This page is made by
[make_config.py](make_config.py) from the code.
"""


def config_text() -> str:
    """The page, in Markdown."""
    sections = [HEAD]
    for path, record in tables("", TrainConfig()):
        sections.append(section(f"`[{path}]`" if path else "The file's first lines", record))
    return "\n".join(sections)


def tables(path: str, record: Any) -> Iterator[tuple[str, Any]]:
    """The record and those within it, each with the name of its table in a TOML file."""
    yield path, record
    for name, value in values_of(record):
        if dataclasses.is_dataclass(value):
            yield from tables(f"{path}.{name}" if path else name, value)


def section(title: str, record: Any) -> str:
    """Heading, what the record is for, and a table of its fields but those that are tables themselves."""
    meanings = attributes(type(record))
    hints = typing.get_type_hints(type(record))
    rows = [
        f"| `{name}` | {kind_text(hints[name])} | {value_text(value)} | {meanings[name]} |"
        for name, value in values_of(record)
        if not dataclasses.is_dataclass(value)
    ]
    head = ["| field | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", summary(type(record)), "", *head, *rows, ""])


def values_of(record: Any) -> list[tuple[str, Any]]:
    """The fields' names and values."""
    return [(field.name, getattr(record, field.name)) for field in dataclasses.fields(record)]


def summary(kind: type) -> str:
    """What a record's docstring says before its sections."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\nAttributes:")[0].split())


def attributes(kind: type) -> dict[str, str]:
    """What a record's docstring says of each field, as one line each.

    Raises:
        ValueError: If it leaves a field out or describes one there is not.
    """
    text = inspect.cleandoc(kind.__doc__ or "")
    _, _, listed = text.partition("\nAttributes:\n")
    listed = re.split(r"\n(?=\S)", listed)[0]
    meanings: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + listed)[1:]:
        names, _, meaning = entry.partition(": ")
        words = " ".join(meaning.split()).replace("|", r"\|")
        meanings |= dict.fromkeys((name.strip() for name in names.split(",")), words)
    fields = {field.name for field in dataclasses.fields(kind)}
    if odd := fields ^ meanings.keys():
        raise ValueError(f"{kind.__name__}: fields and the docstring's Attributes differ in {', '.join(sorted(odd))}")
    return meanings


def kind_text(hint: Any) -> str:
    """A type in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{value_text(part).strip('`')}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind_text(part) for part in parts if part is not types.NoneType) + ", may be left out"
    if origin is tuple:
        one = kind_text(parts[0])
        return f"list of {one}s" if parts[-1] is Ellipsis else f"{len(parts)} {one}s"
    return {float: "number", int: "whole number", bool: "true or false", str: "text", Path: "path"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def value_text(value: Any) -> str:
    """A value as TOML has it."""
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return f"`[{', '.join(value_text(part).strip('`') for part in value)}]`"
    if isinstance(value, float):
        return f"`{value!r}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    FILE.write_text(config_text(), encoding="utf-8", newline="\n")
