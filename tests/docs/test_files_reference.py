"""The references of files, bundles and exit codes name exactly the fields and errors there are."""

import dataclasses
import re
from pathlib import Path

import viscera.core.errors
from viscera.batch.ledger import Entry
from viscera.core.errors import VisceraError
from viscera.model.bundle import CARD_FORMAT, FILES, ModelCard
from viscera.quality.rules import OrganSignals, QcStatus, Reason
from viscera.viewer.run_report import SCHEMA, CaseEntry, Machinery, RunReport

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return re.split(r"^## ", text.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]


def first_column(text: str) -> set[str]:
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_the_reports_fields() -> None:
    named = first_column(section("files.md", "The report"))
    whole = {name for name in named if not name.startswith((".", "cases[]"))}
    assert whole == {"schema", *fields(RunReport)} - {"cases"}
    of_cases = {name.removeprefix("cases[]") for name in named if "organs[]" not in name}
    named_of_cases = {name.removeprefix(".") for name in of_cases if name.startswith(".")}
    assert named_of_cases - {"quality_reasons", "quality_sentences"} == fields(CaseEntry)
    assert SCHEMA in section("files.md", "The report")
    assert all(f"`{name}`" in section("files.md", "The report") for name in fields(Machinery))


def test_the_verdicts_fields() -> None:
    text = section("files.md", "Quality")
    assert first_column(text) == {str(one) for one in QcStatus} - {"ok"}
    assert all(f"`{name}`" in text for name in [*Reason, *(fields(OrganSignals) - {"organ"})])


def test_the_ledgers_fields() -> None:
    assert first_column(section("files.md", "The ledger")) == fields(Entry)


def test_the_cards_fields() -> None:
    text = section("bundle.md", "The card")
    assert first_column(text) == {"format", *fields(ModelCard)}
    assert f"| `format` | {CARD_FORMAT};" in text
    page = (REFERENCE / "bundle.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in FILES)


def test_every_error_has_its_code() -> None:
    kinds = [
        one for one in vars(viscera.core.errors).values() if isinstance(one, type) and issubclass(one, VisceraError)
    ]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", section("exit-codes.md", "Errors and their codes"), re.MULTILINE))
    assert rows == {one.__name__: str(one.exit_code) for one in kinds if one is not VisceraError}
