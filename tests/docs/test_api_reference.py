"""The reference of the Python interface says what the code says."""

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import viscera

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "make_api.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_api", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    written = script.FILE.read_text(encoding="utf-8")
    assert written == script.api_text(), "run python docs/reference/make_api.py"


def test_every_public_name_is_on_it(script: ModuleType) -> None:
    shown = {name for names in script.SECTIONS.values() for name in names}
    assert set(viscera.__all__) - {"__version__"} <= shown


def test_every_field_and_parameter_shown_is_explained(script: ModuleType) -> None:
    for names in script.SECTIONS.values():
        for name in names:
            found = script.resolved(name)
            if dataclasses.is_dataclass(found):
                text = script.entry(name)
                fields = [field.name for field in dataclasses.fields(found)]
                assert all(f"`{field}`" in text for field in fields) or len(fields) == 2, f"{name}: {fields}"


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example.

    More of it.

    Attributes:
        one, two: Both: at once,
            over two lines.
    """

    one: float = 1e-6
    two: str = "x"

    def half(self, by: int, *, least: "int | None" = None) -> "float":
        """Half of it.

        Returns:
            A number.

        Raises:
            ReadError, WriteError: Never.
        """
        return self.one / by


def test_a_docstring_becomes_markdown(script: ModuleType) -> None:
    expected = "An example.\n\nMore of it.\n\nHas:\n\n- `one`, `two`: Both: at once, over two lines."
    assert script.described(Example) == expected
    expected = "Half of it.\n\nReturns:\n\n- A number.\n\nRaises:\n\n- `ReadError`, `WriteError`: Never."
    assert script.described(Example.half) == expected


def test_an_example_is_shown_as_it_stands(script: ModuleType) -> None:
    class Shown:
        """Something.

        Example:
            In words:

            >>> 1 + 1
            2
        """

    assert script.described(Shown) == "Something.\n\nExample:\n\n```text\nIn words:\n\n>>> 1 + 1\n2\n```"


def test_signatures_are_the_codes(script: ModuleType) -> None:
    assert script.signature("Example", Example) == "Example(*, one: float = 1e-06, two: str = 'x')"
    assert script.signature("half", Example.half) == "half(by: int, *, least: int | None = None) -> float"


def test_a_long_signature_has_one_line_for_each_parameter(script: ModuleType) -> None:
    lines = script.signature("x" * 100, Example.half).splitlines()
    assert lines[1:] == ["    by: int,", "    *,", "    least: int | None = None,", ") -> float"]
