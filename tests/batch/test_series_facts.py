"""The contrast phase that a CT header names, and that none is guessed."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from viscera.batch.series_facts import contrast_phase, read_series_facts
from viscera.cli.main import main


@pytest.mark.parametrize(
    ("description", "phase"),
    [
        ("Abdomen 5.0 portal venous", "portal venous"),
        ("ABD PORTALVENOES 3.0 B30f", "portal venous"),
        ("CT Thx/Abd PV 1.5 I31f", "portal venous"),
        ("Leber art. 3.0", "arterial"),
        ("LATE ARTERIAL 2mm", "arterial"),
        ("Abdomen nativ 5.0", "non-contrast"),
        ("W/O CONTRAST", "non-contrast"),
        ("NON-CONTRAST", "non-contrast"),
        ("Nephrographic", "nephrographic"),
        ("delayed 10 min", "delayed"),
        ("ven 3.0", "venous"),
        ("ART and VEN", ""),
        ("Abdomen 5.0 B30f", ""),
        ("WITH CONTRAST", ""),
        ("Cartilage 1.0", ""),
        ("Late Smith", "delayed"),
        ("", ""),
    ],
)
def test_the_words_of_a_description(description: str, phase: str) -> None:
    header = Dataset()
    header.SeriesDescription = description
    assert contrast_phase(header) == phase


def test_the_coded_phase_counts_before_words() -> None:
    usage, header = Dataset(), Dataset()
    usage.ContrastBolusAgentPhase = "PORTAL_VENOUS"
    header.ContrastBolusUsageSequence = [usage]
    header.SeriesDescription = "arterial"
    assert contrast_phase(header) == "portal venous"


@pytest.mark.parametrize(("agent", "phase"), [("NONE", "non-contrast"), ("Ultravist 370", ""), ("", "")])
def test_that_contrast_was_given_is_no_phase(agent: str, phase: str) -> None:
    header = Dataset()
    header.ContrastBolusAgent = agent
    assert contrast_phase(header) == phase


def test_of_a_file_and_of_nothing_nothing_is_known(tiny_scan: Path, tmp_path: Path) -> None:
    assert read_series_facts(tiny_scan) == {}
    assert read_series_facts(tmp_path / "none") == {}


def test_of_a_series_its_number_and_phase(tmp_path: Path) -> None:
    import pydicom

    size = ["--shape", "14", "24", "28", "--spacing", "12", "11", "10"]
    assert main(["phantom", "-q", "-o", str(tmp_path / "ct"), "--dicom", *size]) == 0
    for path in (tmp_path / "ct").iterdir():
        image = pydicom.dcmread(path)
        image.SeriesNumber, image.SeriesDescription = 4, "Jane Doe portal 3.0"
        image.save_as(path)
    assert read_series_facts(tmp_path / "ct") == {"number": "4", "phase": "portal venous"}
