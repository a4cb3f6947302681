"""Writes api.md, the reference of the Python interface, from the docstrings in the code.

Run `python docs/reference/make_api.py` after a change to a name it shows; a test compares the file with the code.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import viscera

FILE = Path(__file__).with_name("api.md")

HEAD = """\
# The Python interface

```python
import viscera

segmenter = viscera.Segmenter.load()  # once; then any number of scans
result = segmenter("ct.nii.gz")
print(result.organs["liver"].volume_ml)
result.save("organs.nii.gz")
```

Names of `viscera` itself are the interface: a change to them stands in the list of changes. They are loaded when first
used, so that `import viscera` costs nothing. Names within modules, such as `viscera.formats.nifti_write.write_volume`,
may move.
Arrays are (z, y, x), world points (x, y, z) in mm to the patient's left, back and head. Whatever is raised on purpose
is a `VisceraError`. Records cannot be changed; `dataclasses.replace` makes changed copies. This page is made by
[make_api.py](make_api.py) from the code.
"""

# Sections of the page: a title and the names in it, of `viscera` itself or with their module.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Segmenting": ("Segmenter", "segment_file", "segment_volume", "CaseOptions", "list_bundles"),
    "Results": (
        "Segmentation",
        "OrganResult",
        "Probabilities",
        "viscera.quality.statistics.OrganStatistics",
        "viscera.quality.rules.OrganQuality",
        "viscera.quality.rules.OrganSignals",
    ),
    "Scans and labels": (
        "read_volume",
        "read_label_map",
        "write_label_map",
        "viscera.formats.nifti_write.write_volume",
        "Volume",
        "LabelMap",
        "Grid",
        "viscera.core.geometry.Box",
        "viscera.synthesis.phantom.make_phantom",
        "viscera.synthesis.phantom.PhantomConfig",
    ),
    "Scoring": (
        "evaluate_cases",
        "viscera.evaluation.evaluate.evaluate_label_maps",
        "viscera.evaluation.metrics.mask_agreement",
        "viscera.evaluation.scores.ScoringConfig",
        "viscera.evaluation.scores.CaseScore",
        "viscera.evaluation.scores.Evaluation",
        "viscera.evaluation.results.Results",
    ),
    "Models": ("viscera.model.bundle.load_bundle", "viscera.model.bundle.Bundle", "viscera.model.bundle.ModelCard"),
    "Errors": (
        "VisceraError",
        "ReadError",
        "WriteError",
        "GeometryError",
        "ConfigError",
        "BundleError",
        "NothingFoundError",
        "MemoryBudgetError",
        "MissingExtraError",
    ),
}

_TITLES = {"Args": "Takes", "Attributes": "Has", "Returns": "Returns", "Raises": "Raises", "Example": "Example"}


def api_text() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [entry(name) for name in names]
    return "\n".join(parts)


def entry(name: str) -> str:
    """The part of the page on one function or class."""
    found = resolved(name)
    full = name if "." in name else f"viscera.{name}"
    own = full.rsplit(".", 1)[1]
    lines = [f"### {own}", ""]
    if isinstance(found, type) and issubclass(found, Exception):
        lines += [f"`{full}`, exit code {found.exit_code}. {' '.join(summary(found).split())}"]  # type: ignore[attr-defined]
        return "\n".join([*lines, ""])
    lines += ["```text", signature(full, found), "```", "", described(found)]
    if isinstance(found, type):
        for method_name, method in methods(found):
            lines += ["", f"**`{own}.{method_name}`**", ""]
            if not isinstance(method, property):
                lines += ["```text", signature(f"{own}.{method_name}", method), "```", ""]
            lines += [described(method)]
    return "\n".join([*lines, ""])


def resolved(name: str) -> Any:
    """What `name` stands for."""
    if "." not in name:
        return getattr(viscera, name)
    module, own = name.rsplit(".", 1)
    return getattr(importlib.import_module(module), own)


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties a class defines itself and describes, in the order of the source."""
    for name, member in vars(kind).items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)) and plain.__doc__:
            yield name, plain


def signature(shown: str, function: Any) -> str:
    """A call with its parameters, on one line if it fits, else one line each; a record's fields are keywords."""
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name not in {"self", "cls"}]
    words: list[str] = []
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(parameter(one))
    returns = "" if isinstance(function, type) else answer(function)
    line = f"{shown}({', '.join(words)}){returns}"
    if len(line) <= 110:
        return line
    return "\n".join([f"{shown}(", *(f"    {word}," for word in words), f"){returns}"])


def parameter(one: inspect.Parameter) -> str:
    """A parameter as it stands in the code; defaults that are records are named by their class."""
    text = f"{one.name}: {annotation(one.annotation)}"
    if one.default is one.empty:
        return text
    default = one.default
    if dataclasses.is_dataclass(default):
        return f"{text} = {type(default).__name__}()"
    if not isinstance(default, str | int | float | bool | tuple | None):
        return f"{text} = ..."
    return f"{text} = {default!r}"


def answer(function: Any) -> str:
    """The arrow and the type of a function's result."""
    returned = inspect.signature(function).return_annotation
    return "" if returned is inspect.Signature.empty else f" -> {annotation(returned)}"


def annotation(hint: Any) -> str:
    """A type as the code spells it."""
    return hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))


def described(thing: Any) -> str:
    """A docstring as Markdown: its text, and what it takes, has, returns and raises as lists."""
    text = inspect.cleandoc(thing.__doc__ or "")
    parts = re.split(r"\n\n(?=(?:Args|Attributes|Returns|Raises|Example):\n)", text)
    lines = [parts[0]]
    for part in parts[1:]:
        title, _, body = part.partition(":\n")
        lines += ["", f"{_TITLES[title]}:", ""]
        if title == "Example":
            lines += ["```text", inspect.cleandoc("\n" + body), "```"]
            continue
        entries = re.split(r"\n(?=    \S)", "\n" + body)[1:]
        lines += [item(one, title) for one in entries]
    return "\n".join(lines)


def item(text: str, title: str) -> str:
    """One line of a list: the name set off, then its meaning."""
    words = " ".join(text.split())
    name, colon, meaning = words.partition(": ")
    if title == "Returns" or not colon:
        return f"- {words}"
    return f"- {', '.join(f'`{one}`' for one in name.split(', '))}: {meaning}"


def summary(kind: type) -> str:
    """A docstring's first paragraph."""
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]


if __name__ == "__main__":
    FILE.write_text(api_text(), encoding="utf-8", newline="\n")
