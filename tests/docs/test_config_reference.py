"""The reference of the settings says what the code says."""

import dataclasses
import importlib.util
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

from viscera.core.config import from_dict
from viscera.training.config import TrainConfig, read_train_config

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "make_config.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_config", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example
    over two lines.

    More of it.

    Attributes:
        one, two: Both at once: with a colon,
            and a second line.
        three: Either a | or none.

    Raises:
        Nothing: ever.
    """

    one: float = 1e-6
    two: tuple[int, ...] = (1, 2)
    three: Literal["a", "b"] | None = None


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    written = script.FILE.read_text(encoding="utf-8")
    assert written == script.config_text(), "run python docs/reference/make_config.py"


def test_every_field_has_a_row(script: ModuleType) -> None:
    text = script.config_text()
    for _, record in script.tables("", TrainConfig()):
        for field in dataclasses.fields(record):
            nested = dataclasses.is_dataclass(getattr(record, field.name))
            assert nested or f"\n| `{field.name}` |" in text, field.name


def test_every_table_of_the_page_can_be_read(script: ModuleType) -> None:
    # The defaults, written as the page has them, are read back as the defaults.
    lines = []
    for path, record in script.tables("", TrainConfig()):
        lines += [f"[{path}]"] if path else []
        for name, value in script.values_of(record):
            if not dataclasses.is_dataclass(value) and value is not None:
                lines.append(f"{name} = {script.value_text(value).strip('`')}")
    assert from_dict(TrainConfig, tomllib.loads("\n".join(lines))) == TrainConfig()


def test_the_example_of_the_page_can_be_read(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text(script.HEAD.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    config = read_train_config(file)
    assert (config.iterations, config.augment.rotation_rad, config.model.segment.spacing_mm) == (20000, 0.2, 3.0)


def test_meanings_come_from_the_docstring(script: ModuleType) -> None:
    both = "Both at once: with a colon, and a second line."
    assert script.attributes(Example) == {"one": both, "two": both, "three": r"Either a \| or none."}
    assert script.summary(Example) == "An example over two lines. More of it."
    assert script.section("Title", Example()).splitlines()[4:] == [
        "| field | type | default | meaning |",
        "|---|---|---|---|",
        f"| `one` | number | `1e-06` | {both} |",
        f"| `two` | list of whole numbers | `[1, 2]` | {both} |",
        r'| `three` | `"a"`, `"b"`, may be left out | - | Either a \| or none. |',
    ]


def test_a_field_without_meaning_is_refused(script: ModuleType) -> None:
    @dataclass
    class Bare:
        """Nothing said.

        Attributes:
            said: Something.
        """

        said: int = 1
        unsaid: int = 2

    with pytest.raises(ValueError, match="unsaid"):
        script.attributes(Bare)
