"""One table for a cohort: a row for each case and organ, worked by hand, and what fails is in it."""

import csv
from pathlib import Path

import pytest

from viscera.batch.cohort_table import COLUMNS, cohort_rows, write_cohort_table
from viscera.batch.ledger import Entry, EntryStatus, Ledger
from viscera.viewer.run_report import Failure

LIVER = {
    "organ": "liver",
    "voxels": 1200,
    "volume_ml": 1510.25,
    "mean_hu": 101.254,
    "sd_hu": 20.0,
    "touches_border": True,
    "border_faces": ["inferior", "left"],
    "quality": "check",
    "quality_reasons": ["cut", "small"],
    "signals": {"more": 1},
}
ABSENT = {
    "organ": "spleen",
    "voxels": 0,
    "volume_ml": 0.0,
    "mean_hu": None,
    "sd_hu": None,
    "touches_border": False,
    "border_faces": [],
    "quality": "absent",
    "quality_reasons": [],
}
DONE = Entry(
    name="a",
    status=EntryStatus.DONE,
    input="a.nii",
    organs=(LIVER, ABSENT),
    series={"number": "3", "phase": "portal venous"},
)
FAILED = Entry(name="b", status=EntryStatus.FAILED, input="b", error=Failure(type="ReadError", message="an MR"))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    for entry in (DONE, FAILED):
        ledger.write(entry)
    return ledger


def test_there_is_a_row_for_each_organ_and_each_failure(ledger: Ledger, tmp_path: Path) -> None:
    paths = write_cohort_table(ledger, ["a", "not yet", "b"], tmp_path)
    text = paths[0].read_text(encoding="utf-8")
    assert text.splitlines() == [
        ",".join(COLUMNS),
        "a,done,3,portal venous,liver,1200,1510.250,101.25,20.00,yes,inferior left,check,cut small,",
        "a,done,3,portal venous,spleen,0,0.000,,,no,,absent,,",
        "b,failed,,,,,,,,,,,,an MR",
    ]
    assert len(list(csv.DictReader(text.splitlines()))) == 3


def test_with_pandas_there_is_the_same_in_parquet(ledger: Ledger, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    _, path = write_cohort_table(ledger, ["a", "b"], tmp_path)
    frame = pandas.read_parquet(path)
    assert list(frame.columns) == list(COLUMNS)
    assert frame["volume_ml"].tolist()[:2] == [1510.25, 0.0]
    assert frame["touches_border"].tolist()[:2] == [True, False]
    assert frame["mean_hu"].isna().tolist() == [False, True, True]
    assert frame["voxels"].dtype == "Int64"


def test_without_pandas_there_is_the_csv_alone(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert write_cohort_table(ledger, ["a", "b"], tmp_path) == [tmp_path / "statistics.csv"]


def test_no_case_gives_a_table_of_its_columns(ledger: Ledger, tmp_path: Path) -> None:
    assert cohort_rows([]) == []
    assert write_cohort_table(ledger, [], tmp_path)[0].read_text(encoding="utf-8") == ",".join(COLUMNS) + "\n"
